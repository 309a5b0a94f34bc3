"""Markdown to PDF, DOCX and self-contained HTML: pandoc, typst and Mermaid from Python packages, no network."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProjectError
from ..settings import Settings
from . import diagrams
from .living import UNSEEN, read
from .words import Words

STYLE = Path(__file__).with_name("style")
FORMATS = ("html", "pdf", "docx")
# GitHub's Markdown, so that the page there and the exports agree: `@name` is no citation and `$` no formula.
READER = "gfm-tex_math_dollars-tex_math_gfm-alerts+fenced_divs+raw_attribute+implicit_figures"
MERMAID = re.compile(r"^```mermaid[ \t]*\n(.*?)^```[ \t]*\n(?:\n*Figure\s?: ([^\n]+)\n)?", re.DOTALL | re.MULTILINE)
NOTE = re.compile(r"^<sub>(.*)</sub>$", re.MULTILINE)
IMAGE = re.compile(r"!\[[^\]\n]*\]\(\s*<?([^)>\s]+)")
CONTENTS = '```{=typst}\n#contents()\n```\n\n```{=openxml}\n<w:p><w:r><w:br w:type="page"/></w:r></w:p>\n```\n\n## '


@dataclass(frozen=True, slots=True)
class Source:
    """A document that is ready for pandoc."""

    name: str
    title: str
    text: str
    folder: Path


def export(settings: Settings, formats: Sequence[str], output: Path, tell: Callable[[str], None]) -> list[Path]:
    """Write every document in every format; a file appears whole or stays as it was.

    Args:
        settings: of the project.
        formats: of `FORMATS`.
        output: folder to write to.
        tell: called with a line for each file.

    Returns:
        The files.

    Raises:
        ProjectError: a document cannot be read or converted; nothing was written.
    """
    names, folder = documents(settings), settings.path(settings.documents.folder)
    words, style = (Words(settings.project.language), json.loads((STYLE / "style.json").read_text(encoding="utf-8")))
    figures = settings.path(settings.documents.output) / "figures"
    with ThreadPoolExecutor(2) as pool, tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        if "docx" in formats:
            reference(scratch / "reference.docx", style, settings.project.title)
        sources = [prepare(path, figures, folder) for path in names]
        tasks = [(source, kind) for source in sources for kind in FORMATS if kind in formats]

        def make(task: tuple[Source, str]) -> Path:
            path = convert(*task, settings, words, style, scratch)
            tell(f"{task[0].name}.{task[1]}")
            return path

        made = list(pool.map(make, tasks))
        if "html" in formats:
            listed = {path.name for path in (*made, *output.glob("*.*"))}
            page = index(sources, settings, words, style, listed)
            (scratch / "index.html").write_text(page, encoding="utf-8")
            made.append(scratch / "index.html")
        return [_publish(path, output) for path in made]


def documents(settings: Settings) -> list[Path]:
    """Return the Markdown documents of the project, by name.

    Raises:
        ProjectError: there is none.
    """
    folder = settings.path(settings.documents.folder)
    if found := sorted(folder.glob("[!.]*.md")):
        return found
    raise ProjectError(f"{folder} holds no Markdown document: correct the setting documents.folder")


def prepare(path: Path, figures: Path, folder: Path) -> Source:
    """Read a document and put pictures in the place of diagrams, and contents before its first section.

    Raises:
        ProjectError: a diagram or an image is wrong; the message begins with file and line.
    """
    text = read(path).lstrip("\ufeff").replace("\r\n", "\n") + "\n"
    seen = UNSEEN.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for found in IMAGE.finditer(seen):
        if not (folder / found[1]).is_file():
            line = text.count("\n", 0, found.start()) + 1
            raise ProjectError(f"{path}:{line}: there is no image {found[1]}: put the file beside the document")

    def picture(found: re.Match[str]) -> str:
        line = text.count("\n", 0, found.start()) + 1
        try:
            drawn = diagrams.draw(found[1], figures)
        except ProjectError as error:
            raise ProjectError(f"{path}:{line}: {error}") from None
        caption = re.sub(r"([\[\]\\])", r"\\\1", found[2] or "")
        return f"![{caption}](<{drawn.as_posix()}>)\n"

    title = re.search(r"^# +(.+?)[ \t#]*$", seen, re.MULTILINE)
    text = NOTE.sub(r'::: {.source custom-style="Source Note"}\n\1\n:::', MERMAID.sub(picture, text))
    text = re.sub(r"^## ", lambda _: CONTENTS, text, count=1, flags=re.MULTILINE)
    return Source(path.stem, title[1] if title else path.stem, text, folder)


def convert(source: Source, kind: str, settings: Settings, words: Words, style: dict[str, str], scratch: Path) -> Path:
    """Convert one document to one format.

    Returns:
        The file, in the scratch folder.

    Raises:
        ProjectError: pandoc or typst refuses it.
    """
    target = scratch / f"{source.name}.{kind}"
    escape = _typst if kind == "pdf" else html.escape
    variables = {"project": settings.project.title, "organization": settings.project.organization}
    variables |= {"pagetitle": f"{source.title} · {settings.project.title}", "contents": words("Contents")}
    variables = {name: escape(value) for name, value in variables.items()} | {"tableword": words("Table")} | style
    arguments = ["--from", READER, "--shift-heading-level-by=-1", f"--lua-filter={STYLE / 'filter.lua'}", "--wrap=none"]
    arguments += [f"--resource-path={source.folder}", f"--metadata=lang:{words.language}"]
    arguments += [f"--metadata=toc-title:{words('Contents')}"]
    for name, value in variables.items():
        arguments += ["--variable-json", f"{name}={json.dumps(value)}"]
    text = source.text
    if kind == "docx":
        text = re.sub(r"(\]\(<[^>\n]+/figures/\w+)\.svg>", r"\1.png>", text)
        arguments += [
            "--to=docx+native_numbering",
            "--toc",
            "--toc-depth=2",
            f"--reference-doc={scratch / 'reference.docx'}",
        ]
        pandoc(text, [*arguments, f"--output={target}"], source.name)
    elif kind == "html":
        arguments += ["--to=html5", "--standalone", "--toc", "--toc-depth=2", "--embed-resources"]
        pandoc(text, [*arguments, f"--template={STYLE / 'report.html'}", f"--output={target}"], source.name)
    else:
        made = target.with_suffix(".typ")
        pandoc(text, [*arguments, "--to=typst", f"--template={STYLE / 'report.typ'}", f"--output={made}"], source.name)
        print_pdf(made, target)
    return target


def _typst(text: str) -> str:
    return re.sub(r"([\\#$*_`<>@\[\]~=\"'/+-])", r"\\\1", text)


def pandoc(text: str, arguments: Sequence[str], name: str) -> None:
    """Run pandoc on Markdown.

    Raises:
        ProjectError: it fails; its first line is in the message.
    """
    import pypandoc

    command = [pypandoc.get_pandoc_path(), *arguments]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise ProjectError(f"{name}.md cannot be converted: {reason}")


def print_pdf(source: Path, target: Path) -> None:
    """Print a typst document as PDF, with the fonts that come with the packages.

    Raises:
        ProjectError: typst refuses it.
    """
    import mermaidx
    import typst

    fonts = Path(mermaidx.__file__).parent / "assets" / "fonts"
    try:
        typst.compile(str(source), output=str(target), root="/", font_paths=[str(fonts)], ignore_system_fonts=True)
    except (typst.TypstError, RuntimeError) as error:
        raise ProjectError(f"{source.stem}.md cannot be printed: {str(error).splitlines()[0]}") from None


def reference(path: Path, style: dict[str, str], header: str) -> None:
    """Write the DOCX whose styles, header and footer the exports take over: pandoc's own, in the project's style."""
    import pypandoc

    command = [pypandoc.get_pandoc_path(), "--print-default-data-file=reference.docx"]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    extra = (STYLE / "docx.xml").read_text(encoding="utf-8")
    for name, value in {**style, "header": html.escape(header)}.items():
        extra = extra.replace(f"@{name}@", value)
    for name, body in re.findall(r"<!-- part (\S+) -->\n(.*?)<!-- end -->", extra, re.DOTALL):
        if name == "styles":
            for identity in re.findall(r'w:styleId="(\w+)"', body):
                pattern = rf'<w:style [^>]*w:styleId="{identity}".*?</w:style>'
                parts["word/styles.xml"] = re.sub(pattern, "", parts["word/styles.xml"], flags=re.DOTALL)
            parts["word/styles.xml"] = parts["word/styles.xml"].replace("</w:styles>", body + "</w:styles>")
        elif name == "section":
            parts["word/document.xml"] = re.sub(
                r"<w:sectPr ?/>|<w:sectPr.*?</w:sectPr>", "", parts["word/document.xml"], flags=re.DOTALL
            )
            parts["word/document.xml"] = parts["word/document.xml"].replace("</w:body>", body + "</w:body>")
        else:
            parts[f"word/{name}.xml"] = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n' + body
            kind = name.rstrip("0123456789")
            office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
            relation = f'<Relationship Id="{name}" Type="{office}/{kind}" Target="{name}.xml"/></Relationships>'
            parts["word/_rels/document.xml.rels"] = parts["word/_rels/document.xml.rels"].replace(
                "</Relationships>", relation
            )
            content = f"application/vnd.openxmlformats-officedocument.wordprocessingml.{kind}+xml"
            override = f'<Override PartName="/word/{name}.xml" ContentType="{content}"/></Types>'
            parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace("</Types>", override)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def index(sources: Sequence[Source], settings: Settings, words: Words, style: dict[str, str], files: set[str]) -> str:
    """Return the page that lists the documents and the formats that exist."""
    items = []
    for source in sources:
        others = [
            f'<a href="{source.name}.{kind}">{kind.upper()}</a>' for kind in FORMATS if f"{source.name}.{kind}" in files
        ]
        items.append(
            f'<li><a class="title" href="{source.name}.html">{html.escape(source.title)}</a> {" ".join(others)}</li>'
        )
    page = (STYLE / "index.html").read_text(encoding="utf-8")
    values = {"language": words.language, "title": words("Documents"), "project": settings.project.title, **style}
    values |= {"organization": settings.project.organization, "description": settings.project.description}
    for name, value in values.items():
        page = page.replace(f"[[ {name} ]]", html.escape(value))
    return page.replace("[[ items ]]", "\n".join(items))


def _publish(path: Path, output: Path) -> Path:
    target = output / path.name
    draft = output / f".{path.name}.{os.getpid()}.part"
    try:
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, draft)
        os.replace(draft, target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ProjectError(f"{target} cannot be written: {error.strerror}") from None
    return target
