"""`pipeline`: score files in batches."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..pipeline.run import Report, Run

app = typer.Typer(help="Score files: predictions, quarantine and a manifest come out.", no_args_is_help=True)


@app.command()
def run(
    input: Annotated[str, typer.Option(help="A CSV or Parquet file, a folder of them, or a glob pattern.")],
    output: Annotated[Path, typer.Option(help="Folder below which runs are published.")],
) -> None:
    """Score every row with the champion; bad rows go to quarantine with their reasons."""
    from ..pipeline.run import run as start
    from ..settings import load

    settings = load()
    _watched(lambda report: start(settings, input, output, report))


@app.command()
def resume(
    output: Annotated[Path | None, typer.Option(help="Look here; default: where the last runs went.")] = None,
) -> None:
    """Go on with the newest run that did not end; the result is the same as if nothing had happened."""
    from ..pipeline.run import resume as go_on
    from ..settings import load

    settings = load()
    _watched(lambda report: go_on(settings, output, report))


@app.command()
def status(last: Annotated[int, typer.Option(min=1, help="How many runs.")] = 10) -> None:
    """Show the last runs."""
    from rich.console import Console
    from rich.table import Table

    from ..settings import load
    from ..store.database import Store
    from ..store.queries import recent_runs

    with Store(load()) as store:
        found = recent_runs(store, last)
    if not found:
        typer.echo("no batch has been run yet: `pipeline run --input FILES --output FOLDER`")
        return
    table = Table("run", "status", "started (UTC)", "model", box=None, pad_edge=False)
    for name in ("rows in", "published", "quarantined", "seconds", "rows/s"):
        table.add_column(name, justify="right")
    table.add_column("reasons", overflow="fold")
    for one in found:
        seconds, reasons = one["seconds"], sorted(one["reasons"].items(), key=lambda item: -item[1])[:3]
        table.add_row(
            one["id"],
            one["status"],
            f"{one['started']:%Y-%m-%d %H:%M:%S}",
            one["model_version"][:8],
            *(f"{one[name]:,}" for name in ("rows_in", "rows_published", "rows_quarantined")),
            *((f"{seconds:.1f}", f"{one['rows_in'] / seconds:,.0f}") if seconds else ("", "")),
            one["error"] or ", ".join(f"{name} {count}" for name, count in reasons),
        )
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)


def _watched(work: "Callable[[Report], Run | None]") -> None:
    """Show a bar on a terminal, a line for every tenth elsewhere; then say what came out."""
    from rich.console import Console
    from rich.progress import Progress

    terminal, tenths = sys.stderr.isatty(), set[int]()
    with Progress(console=Console(stderr=True), transient=True, disable=not terminal) as bar:
        task = bar.add_task("reading", total=1.0)

        def show(share: float, rows: int, quarantined: int) -> None:
            told, tenth = f"{rows:,} rows, {quarantined:,} quarantined", int(share * 10)
            bar.update(task, completed=share, description=told)
            if not terminal and tenth not in tenths:
                tenths.add(tenth)
                typer.echo(f"{share:4.0%}  {told}", err=True)

        run = work(show)
    if run is None:
        typer.echo("nothing to resume: no run is unfinished")
        return
    for name in run.ignored:
        typer.echo(f"ignored {name}: it is no CSV or Parquet file")
    speed = f", {run.seconds:.1f} s ({run.rows_in / run.seconds:,.0f} rows/s)" if run.seconds else ""
    typer.echo(
        f"{'already published: ' if run.already else ''}run {run.id}: {run.rows_in:,} rows in = "
        f"{run.rows_published:,} published + {run.rows_quarantined:,} quarantined{speed} -> {run.folder}"
    )
