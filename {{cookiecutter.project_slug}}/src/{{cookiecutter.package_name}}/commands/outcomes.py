"""What came of a run, and what came true of its predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ProjectError

if TYPE_CHECKING:
    from rich.table import Table

    from ..dashboard.runs import RunView

GROUP = "pipeline"

app = typer.Typer()


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="The id of a run, its first characters, or latest.")] = "latest",
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show one run: its rows, steps, reasons and files, whether they are as published, and what to do next."""
    import msgspec

    from ..dashboard.runs import read
    from ..pipeline.manifest import intact
    from ..settings import load
    from ..store.database import Store

    settings = load()
    with Store(settings) as store:
        view = read(store, settings, run)
    whole = bool(intact(view.folder)) if view.files else None
    if as_json:
        told = msgspec.to_builtins(view, enc_hook=str) | {"intact": whole}
        typer.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    _show(view, whole)


def _show(view: RunView, whole: bool | None) -> None:
    from rich.console import Console

    from ..dashboard.runs import megabytes, seconds
    from ..dashboard.state import number

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # nothing that a script reads is broken in two
    console.print(f"run {view.run['id']}: {view.run['status']}", style="bold")
    console.print(view.why)
    console.print(_table((), [(name, value) for name, value in view.facts.items()]))
    if view.steps:
        header = ("step", "rows in", "rows out", "rejected", "seconds", "rows/s", "MB", "resident MB")
        rows = [
            (
                one["step"],
                *(number(one[name]) for name in ("rows_in", "rows_out", "rejected")),
                *(seconds(one["seconds"]), number(one["rate"]), megabytes(one["bytes"]), number(one["resident_mb"])),
            )
            for one in view.steps
        ]
        console.print("", _table(header, rows))
    else:
        console.print("", view.no_steps)
    if view.reasons:
        console.print(
            "", _table(("quarantined because", "rows"), [(name, number(rows)) for name, rows in view.reasons])
        )
    if view.files:
        rows = [(one["path"], number(one["rows"]), megabytes(one["bytes"])) for one in view.files]
        console.print("", _table(("file", "rows", "MB"), rows))
        state = "as published, every byte" if whole else "damaged or gone: the same `pipeline run` makes them again"
        console.print(f"{view.files_all} files, {megabytes(view.bytes_all)} MB in {view.folder}, {state}")
    else:
        console.print("", view.no_files)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    from rich.table import Column, Table

    columns = [Column(name, justify="right" if place else "left") for place, name in enumerate(header)]
    table = Table(*columns, box=None, show_header=bool(header), pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    return table


@app.command()
def feedback(
    input: Annotated[str, typer.Option(help="The table of what happened: whatever a run can read.")],
    value: Annotated[str, typer.Option(help="Its column with what happened.")],
    identity: Annotated[str | None, typer.Option("--id", help="Its column of prediction ids.")] = None,
    on: Annotated[
        str | None, typer.Option(help="In place of ids: columns, with commas, that published rows have.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="With --on: the run that predicted; default: all.")] = None,
    rejected: Annotated[Path | None, typer.Option(help="A .csv file for the rows that are not joined.")] = None,
) -> None:
    """Join what really happened to predictions; monitoring measures the model with it. Twice changes nothing."""
    from ..pipeline.feedback import IDENTITY, join
    from ..settings import load

    key = [name.strip() for name in on.split(",")] if on else []
    if key and identity:
        raise ProjectError("rows are joined by --id or by --on: give only one of them")
    if run and not key:
        raise ProjectError("--run goes with --on: an id tells the prediction alone")
    if rejected and rejected.suffix != ".csv":
        raise ProjectError(f"{rejected.name} is no .csv: give another name for the rows that are not joined")
    found = join(
        load(),
        input,
        value,
        key,
        identity=identity or IDENTITY,
        run=run,
        leave=rejected,
        report=lambda told: typer.echo(told, err=True),
    )
    rows = sum(found.counts.values())
    typer.echo(f"{rows:,} rows = " + " + ".join(f"{count:,} {name}" for name, count in found.counts.items()))
    for name, examples in found.examples.items():
        for example in examples:
            typer.echo(f"{name}: {example}")
        if (more := found.counts[name] - len(examples)) > 0:
            typer.echo(f"{name}: and {more:,} more")
    for note in found.notes:
        typer.echo(f"note: {note}")
    if rejected:
        typer.echo(f"the {rows - found.counts['joined']:,} rows that are not joined are in {rejected}")
    if not found.counts["joined"]:
        sys.stdout.flush()
        raise ProjectError(
            "not one row was joined: look at the reasons, then choose the columns with --id, --on and --value"
        )
