"""`status`: the state of the system in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ..dashboard.state import Status

TONES = {"ok": "green", "warning": "yellow", "alert": "red", "unknown": "dim"}
TONES |= {"healthy": "green", "degraded": "yellow", "down": "red"}

Chosen = Annotated[Literal["1h", "24h", "7d"], typer.Option("--range", help="How far back requests are counted.")]


def command(
    chosen: Chosen = "24h", as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False
) -> None:
    """Say how the system is; ends with status 1 when it is down, with 0 otherwise."""
    import msgspec

    from ..dashboard.reader import Reader
    from ..dashboard.state import RANGES
    from ..settings import load

    reader = Reader(load())
    status = reader.status(RANGES[chosen])
    reader.close()
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(status)).decode())
    else:
        _print(status)
    raise typer.Exit(1 if status.state == "down" else 0)


def _print(status: Status) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..dashboard.state import label, number

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # nothing that a script reads is broken in two
    console.print(Text.assemble((status.title, "bold"), ": ", (status.state, f"bold {TONES[status.state]}")))
    console.print(Text(status.why))
    if model := status.champion:
        measures = [f"{label(name)} {number(value)}" for name, value in model.metrics.items() if name != "rows"]
        console.print(Text(", ".join([f"Model {model.version}", model.task, *measures])))
    health, figures, bad = (Table(box=None, show_header=False, padding=(0, 2, 0, 0)) for _ in range(3))
    for item in status.health:
        health.add_row(Text(item.state, TONES[item.state]), item.name, Text(item.text))
    for figure in status.figures:
        figures.add_row(figure.name, Text(figure.value, "bold", justify="right"), Text(figure.note, "dim"))
    for one in status.checks:
        if one.current and one.state in ("alert", "warning"):
            bad.add_row(Text(one.state, TONES[one.state]), one.kind, Text(one.subject), number(one.value), one.note)
    for table in (health, figures, bad):
        if table.row_count:
            console.print("", table)
