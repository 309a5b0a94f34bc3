"""Markdown to PDF, DOCX and self-contained HTML: pandoc, typst and Mermaid from Python packages, no network."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ..errors import ProjectError
from ..settings import Settings
from .figures import draw
from .living import UNSEEN, documents
from .words import STYLE, Words, templates

# GitHub's Markdown, so that the page there and the exports agree: `@name` is no citation and `$` no formula.
READER = "gfm-tex_math_dollars-tex_math_gfm-alerts+fenced_divs+raw_attribute+implicit_figures"
COMMON = [f"--from={READER}", "--shift-heading-level-by=-1", f"--lua-filter={STYLE / 'filter.lua'}", "--wrap=none"]
FORMATS = {
    "html": ["--to=html5", "--toc", "--toc-depth=2", "--embed-resources", f"--template={STYLE / 'report.html'}"],
    "pdf": ["--to=typst", f"--template={STYLE / 'report.typ'}"],
    "docx": ["--to=docx+native_numbering", "--toc", "--toc-depth=2"],
}
MERMAID = re.compile(r"^```mermaid[ \t]*\n(.*?)^```[ \t]*\n(?:\n*Figure\s?: ([^\n]+)\n)?", re.DOTALL | re.MULTILINE)
NOTE = re.compile(r"^<sub>(.*)</sub>$", re.MULTILINE)
IMAGE = re.compile(r"!\[[^\]\n]*\]\(\s*<?([^)>\s]+)")
CONTENTS = '```{=typst}\n#contents()\n```\n\n```{=openxml}\n<w:p><w:r><w:br w:type="page"/></w:r></w:p>\n```\n\n## '


class Source(NamedTuple):
    """A document that is ready for pandoc."""

    path: Path
    title: str
    text: str


def export(settings: Settings, formats: Sequence[str], output: Path, tell: Callable[[str], None]) -> list[Path]:
    """Write every document in every format; a file appears whole or stays as it was.

    Args:
        settings: of the project.
        formats: of `FORMATS`.
        output: folder to write to.
        tell: called with the name of each file.

    Returns:
        The files.

    Raises:
        ProjectError: a document cannot be read or converted; nothing was written.
    """
    figures = settings.path(settings.documents.output) / "figures"
    try:
        sources = [prepare(path, text, figures) for path, text in documents(settings).items()]
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=output) as temporary, ThreadPoolExecutor(2) as pool:
            scratch = Path(temporary)
            if "docx" in formats:
                reference(scratch / "reference.docx", settings)

            def make(source: Source, kind: str) -> Path:
                made = convert(source, kind, settings, scratch)
                tell(made.name)
                return made

            tasks = [(source, kind) for source in sources for kind in FORMATS if kind in formats]
            made = list(pool.map(make, *zip(*tasks, strict=True)))
            if "html" in formats:
                made.append(scratch / "index.html")
                listed = {path.name for path in (*made, *output.glob("*.*"))}
                made[-1].write_text(index(settings, sources, listed), encoding="utf-8")
            return [path.replace(output / path.name) for path in made]
    except OSError as error:
        raise ProjectError(f"{error.filename or output} cannot be written: {error.strerror}") from None


def prepare(path: Path, text: str, figures: Path) -> Source:
    """Put pictures in the place of a document's diagrams, and contents before its first section.

    Raises:
        ProjectError: a diagram or an image is wrong; the message begins with file and line.
    """
    text = text.lstrip("\ufeff").replace("\r\n", "\n") + "\n"
    seen = UNSEEN.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)

    def place(found: re.Match[str]) -> str:
        return f"{path}:{found.string.count(chr(10), 0, found.start()) + 1}"

    def picture(found: re.Match[str]) -> str:
        try:
            drawn = draw(found[1], figures)
        except ProjectError as error:
            raise ProjectError(f"{place(found)}: {error}") from None
        caption = re.sub(r"([\[\]\\])", r"\\\1", found[2] or "")
        return f"![{caption}](<{drawn.as_posix()}>)\n"

    for found in IMAGE.finditer(seen):
        if not (path.parent / found[1]).is_file():
            raise ProjectError(f"{place(found)}: there is no image {found[1]}: put the file beside the document")
    title = re.search(r"^# +(.+?)[ \t#]*$", seen, re.MULTILINE)
    text = NOTE.sub(r'::: {.source custom-style="Source Note"}\n\1\n:::', MERMAID.sub(picture, text))
    text = re.sub(r"^## ", lambda _: CONTENTS, text, count=1, flags=re.MULTILINE)
    return Source(path, title[1] if title else path.stem, text)


def convert(source: Source, kind: str, settings: Settings, scratch: Path) -> Path:
    """Convert one document to one format.

    Returns:
        The file, in the scratch folder.

    Raises:
        ProjectError: pandoc or typst refuses it; the first line of its reason is in the message.
    """
    import mermaidx
    import pypandoc
    import typst

    target, words = scratch / f"{source.path.stem}.{kind}", Words(settings.project.language)
    made = target.with_suffix(".typ") if kind == "pdf" else target
    facts = {"lang": words.language, "toc-title": words("Contents")}
    facts |= {"project": settings.project.title, "organization": settings.project.organization}
    command = [pypandoc.get_pandoc_path(), *COMMON, *FORMATS[kind], f"--resource-path={source.path.parent}"]
    command += [f"--reference-doc={scratch / 'reference.docx'}"] if kind == "docx" else []
    command += [f"--metadata={name}={value}" for name, value in facts.items()]
    command += [f"--variable={name}={value}" for name, value in {**style(), "tableword": words("Table")}.items()]
    command += [f"--output={made}"]
    try:
        subprocess.run(command, input=source.text, capture_output=True, encoding="utf-8", timeout=300, check=True)
        if kind == "pdf":  # with the fonts that come with the packages
            fonts = [str(Path(mermaidx.__file__).parent / "assets" / "fonts")]
            typst.compile(str(made), output=str(target), root="/", font_paths=fonts, ignore_system_fonts=True)
    except (subprocess.SubprocessError, RuntimeError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise ProjectError(f"{source.path} cannot be converted to {kind}: {reason}") from None
    return target


def style() -> dict[str, str]:
    """Return the colours and fonts of the documents by name."""
    values: dict[str, str] = json.loads((STYLE / "style.json").read_text(encoding="utf-8"))
    return values


def reference(path: Path, settings: Settings) -> None:
    """Write the DOCX whose styles, header and footer the exports take over; what it lacks is pandoc's own."""
    template = templates(autoescape=True).get_template("docx.xml")
    parts = re.split(r"<!-- part (\S+) -->\n", template.render(header=settings.project.title, **style()))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in zip(parts[1::2], parts[2::2], strict=True):
            archive.writestr(name, part)


def index(settings: Settings, sources: Sequence[Source] = (), files: Collection[str] = ()) -> str:
    """Return the page that lists the documents and the formats that exist, or says how to make them."""
    words = Words(settings.project.language)
    template = templates(autoescape=True).get_template("index.html")
    return template.render(project=settings.project, sources=sources, formats=FORMATS, files=files, _=words, **style())
