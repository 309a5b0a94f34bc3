"""`pipeline`: score files in batches."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..pipeline.job import Report, Run
    from ..pipeline.remote import Report as Say
    from ..settings import Settings

app = typer.Typer(help="Score files: predictions, quarantine and a manifest come out.", no_args_is_help=True)


@app.command()
def run(
    input: Annotated[
        str | None, typer.Option(help="A file, a folder, a glob pattern or a URL; default: the setting pipeline.input.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder below which runs are published; default: pipeline.output.")
    ] = None,
    sink: Annotated[
        list[str] | None, typer.Option(help="URL to copy the run on to; default: pipeline.sinks. May be repeated.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write predictions.csv and quarantine.csv too.")] = False,
    new_only: Annotated[
        bool, typer.Option("--new-only", help="Leave out files that were scored before with this model.")
    ] = False,
) -> None:
    """Score every row with the champion; bad rows go to quarantine with their reasons."""
    from ..pipeline.run import configured
    from ..pipeline.run import run as start
    from ..settings import load

    settings = load()
    source, target = configured(settings, input or "", output or "")
    copies = [*(sink or settings.pipeline.sinks), *(["csv:"] if csv else [])]
    _watched(
        settings,
        lambda report, say: start(settings, source, target, report, say, copies=copies, new_only=new_only),
        "no new file to score",
    )


@app.command()
def resume(
    output: Annotated[Path | None, typer.Option(help="Look here; default: where the last runs went.")] = None,
) -> None:
    """Go on with the newest run that did not end; the result is the same as if nothing had happened."""
    from ..pipeline.run import resume as go_on
    from ..settings import load

    settings = load()
    _watched(
        settings, lambda report, say: go_on(settings, output, report, say), "nothing to resume: no run is unfinished"
    )


@app.command()
def quarantine(
    run: Annotated[str, typer.Argument(help="Id of the run, its beginning, or `latest`.")],
    output: Annotated[Path, typer.Option(help="CSV file to write, to be corrected.")],
) -> None:
    """Take the bad rows of a run out: where each came from, what is wrong, and the row as it came."""
    from ..pipeline.resubmit import take_out

    _, found = _find(run)
    count = take_out(Path(found["output"]) / found["id"], output)
    told = f"{count:,} rows -> {output}: correct them, then `pipeline resubmit {found['id']} --input {output}`"
    typer.echo(told if count else f"run {found['id']} has quarantined no rows")


@app.command()
def resubmit(
    run: Annotated[str, typer.Argument(help="Id of the run whose rows these are, its beginning, or `latest`.")],
    input: Annotated[str, typer.Option(help="The corrected rows, as `pipeline quarantine` wrote them.")],
) -> None:
    """Score corrected rows of a run's quarantine, published beside it; no row is taken twice."""
    from ..pipeline.run import run as start

    settings, found = _find(run)
    _watched(
        settings,
        lambda report, say: start(settings, input, found["output"], report, say, resubmits=found["id"]),
        "nothing came",
    )


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


def _find(run: str) -> "tuple[Settings, dict[str, Any]]":
    """Return the settings, and what the log has of a run."""
    from ..settings import load
    from ..store.database import Store
    from ..store.queries import find_run

    settings = load()
    with Store(settings) as store:
        return settings, find_run(store, run)


def _watched(settings: "Settings", work: "Callable[[Report, Say], Run | None]", nothing: str) -> None:
    """Show a bar on a terminal, a line for every tenth elsewhere; then say what came out."""
    from rich.console import Console
    from rich.progress import Progress

    from ..telemetry.logs import configure

    configure(settings)
    terminal, tenths = sys.stderr.isatty(), set[int]()
    with Progress(console=Console(stderr=True), transient=True, disable=not terminal) as bar:
        task = bar.add_task("reading", total=None)  # it moves, and says nothing of how far

        def show(share: float, rows: int, quarantined: int) -> None:
            told, tenth = f"{rows:,} rows, {quarantined:,} quarantined", int(share * 10)
            bar.update(task, completed=share, total=1.0, description=told)
            if not terminal and tenth not in tenths:
                tenths.add(tenth)
                typer.echo(f"{share:4.0%}  {told}", err=True)

        run = work(show, lambda told: bar.console.print(told, markup=False, highlight=False, soft_wrap=True))
    if run is None:
        typer.echo(nothing)
        return
    for name in run.ignored:
        typer.echo(f"ignored {name}: it is no CSV or Parquet file")
    speed = f", {run.seconds:.1f} s ({run.rows_in / run.seconds:,.0f} rows/s)" if run.seconds else ""
    typer.echo(
        f"{'already published: ' if run.already else ''}run {run.id}: {run.rows_in:,} rows in = "
        f"{run.rows_published:,} published + {run.rows_quarantined:,} quarantined{speed} -> {run.folder}"
    )
    if found := run.steps.get("monitor", {}).get("found"):
        told = f"{len(found)} of {run.steps['monitor']['checks']} checks found something"
        typer.echo(f"monitoring: {run.steps['monitor']['state']}, {told}: `pipeline show {run.id}`")
