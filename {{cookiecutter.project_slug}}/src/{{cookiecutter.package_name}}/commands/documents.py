"""`documents`: the living documents, refreshed, checked and exported."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..documents.living import Fact
    from ..settings import Settings

app = typer.Typer(help="The living documents: fill in the facts, check them, export them.", no_args_is_help=True)


class Format(StrEnum):
    """What a document can be exported to."""

    pdf = "pdf"
    docx = "docx"
    html = "html"


@app.command()
def refresh() -> None:
    """Fill every fact block anew; nothing outside the blocks changes."""
    from ..documents import living
    from ..documents.export import documents
    from ..settings import load

    settings = load()
    texts = {path: living.read(path) for path in documents(settings)}
    facts, _ = _facts(settings)
    new = {path: living.refresh(text, facts, _shown(path)) for path, text in texts.items()}
    changed = living.write(new)
    for path in texts:
        typer.echo(f"{'refreshed' if path.resolve() in changed else 'unchanged'} {_shown(path)}")


@app.command()
def check() -> None:
    """Report facts that are stale or edited by hand, wrong markers and missing headings; end with 1 if any."""
    from ..documents import living
    from ..documents.export import documents
    from ..documents.words import WORDS, Words
    from ..settings import load

    settings = load()
    words, folder = Words(settings.project.language), settings.path(settings.documents.folder)
    facts, promoted = _facts(settings)
    problems = [
        living.Problem(_shown(folder / name), 1, "this document is missing: restore it")
        for name in WORDS["headings"]
        if not (folder / name).is_file()
    ]
    for path in documents(settings):
        headings = words.headings(path.name)
        problems += living.check(living.read(path), facts, headings, _shown(path), empty=not promoted)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo(
        "the documents are up to date" if promoted else "the documents are well formed; no model is promoted yet"
    )


@app.command()
def export(
    formats: Annotated[list[Format] | None, typer.Option("--format", help="May be repeated; all by default.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Write the documents as PDF, DOCX and self-contained HTML."""
    from ..documents import export as exporting
    from ..settings import load

    settings = load()
    folder = output or settings.path(settings.documents.output)
    made = exporting.export(
        settings, formats or exporting.FORMATS, folder, lambda name: typer.echo(f"converted {name}")
    )
    typer.echo(f"wrote {len(made)} files to {_shown(folder)}")


def _facts(settings: "Settings") -> "tuple[dict[str, Fact], bool]":
    """Return every fact, and whether there is a champion."""
    from ..documents import facts
    from ..models.registry import Registry
    from ..store.database import Store

    with Store(settings) as store:
        context = facts.context(settings, Registry(settings), store)
        return facts.collect(context), context.champion is not None


def _shown(path: Path) -> str:
    """Return a path as people read it: from the working folder, if it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
