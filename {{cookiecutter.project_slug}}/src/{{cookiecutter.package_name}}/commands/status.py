"""`status`: the state of the system in the terminal."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

TONES = {"ok": "green", "warning": "yellow", "alert": "red", "unknown": "dim"}
TONES |= {"healthy": "green", "degraded": "yellow", "down": "red"}
Range = Annotated[Literal["1h", "24h", "7d"], typer.Option("--range", help="How far back requests are counted.")]
Json = Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")]


def command(chosen: Range = "24h", as_json: Json = False) -> None:
    """Say how the system is; ends with status 1 when it is down, with 0 otherwise."""
    import msgspec
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from ..dashboard.state import Reader, label, number
    from ..settings import load

    reader = Reader(load())
    status = reader.status(chosen)
    reader.close()
    ending = typer.Exit(1 if status.state == "down" else 0)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(status)).decode())
        raise ending
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # nothing that a script reads is broken in two
    console.print(Text.assemble((status.title, "bold"), ": ", (status.state, f"bold {TONES[status.state]}")))
    console.print(status.why)
    if model := status.champion:
        measures = [f"{label(name)} {number(value)}" for name, value in model["metrics"].items() if name != "rows"]
        console.print(", ".join([f"Model {model['version']}", model["task"], *measures]))
    bad = [check for check in status.checks if check["current"] and check["state"] in ("alert", "warning")]
    figures = (Column(), Column(style="bold", justify="right"), Column(style="dim"))
    for columns, rows in (
        ((), [(item.state, item.name, item.text) for item in status.health]),
        (figures, [(item.name, item.text, item.note) for item in status.figures]),
        ((), [(one["state"], one["kind"], one["subject"], number(one["value"]), one["note"]) for one in bad]),
    ):
        table = Table(*columns, box=None, show_header=False, padding=(0, 2, 0, 0))
        for first, *rest in rows:
            table.add_row(Text(first, TONES.get(first, "")), *rest)
        if rows:
            console.print("", table)
    raise ending
