"""`documents`: the living documents, refreshed, checked and exported."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

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
    from ..documents.facts import collect
    from ..settings import load

    settings = load()
    texts, facts = living.documents(settings), collect(settings)
    changed = living.write({path: living.refresh(text, facts, _shown(path)) for path, text in texts.items()})
    for path in texts:
        typer.echo(f"{'refreshed' if path in changed else 'unchanged'} {_shown(path)}")


@app.command()
def check() -> None:
    """Report facts that are stale or edited by hand, wrong markers and missing headings; end with 1 if any."""
    from ..documents import living
    from ..documents.facts import collect
    from ..documents.words import WORDS, Words
    from ..models.registry import CHAMPION, Registry
    from ..settings import load

    settings = load()
    words, texts, facts = Words(settings.project.language), living.documents(settings), collect(settings)
    empty = CHAMPION not in Registry(settings).aliases()
    expected = [settings.path(settings.documents.folder) / name for name in WORDS["headings"]]
    message = "this document is missing: restore it"
    problems = [living.Problem(_shown(path), 1, message) for path in expected if path not in texts]
    for path, text in texts.items():
        problems += living.check(text, facts, words.headings(path.name), _shown(path), empty)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo("the documents are well formed; no model is promoted yet" if empty else "the documents are up to date")


@app.command()
def export(
    formats: Annotated[list[Format] | None, typer.Option("--format", help="May be repeated; all by default.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Write the documents as PDF, DOCX and self-contained HTML."""
    from ..documents.export import export as write
    from ..settings import load

    settings = load()
    folder = output or settings.path(settings.documents.output)
    made = write(settings, formats or list(Format), folder, lambda name: typer.echo(f"converted {name}"))
    typer.echo(f"wrote {len(made)} files to {_shown(folder)}")


def _shown(path: Path) -> str:
    """Return a path as people read it: from the working folder, if it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
