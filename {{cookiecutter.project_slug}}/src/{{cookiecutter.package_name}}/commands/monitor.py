"""`monitor`: check drift, data quality and performance."""

import sys
from typing import Annotated

import typer

app = typer.Typer(help="Check drift, data quality and performance against feedback.", no_args_is_help=True)

STYLES = {"ok": "green", "warning": "yellow", "alert": "bold red", "unknown": "dim"}


@app.callback()
def group() -> None:
    """Keep `run` a command of its own."""


@app.command()
def run(
    strict: Annotated[bool, typer.Option("--strict", help="End with status 1 if any check is an alert.")] = False,
) -> None:
    """Check the champion's last hours (setting monitoring.window_hours) and keep the results."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..monitoring.run import run as check
    from ..settings import load
    from ..telemetry.logs import configure

    settings = load()
    configure(settings)
    summary = check(settings)
    table = Table("kind", "subject", "value", "state", "note", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for one in summary.checks:
        value = "" if one.value is None else f"{one.value:.4g}"
        table.add_row(one.kind, Text(one.subject), value, Text(one.state, STYLES[one.state]), Text(one.detail["note"]))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
    typer.echo(
        f"{summary.state}: {len(summary.checks)} checks over {summary.rows:,} predictions of model "
        f"{summary.model_version} in the last {settings.monitoring.window_hours:g} hours"
    )
    if strict and summary.state == "alert":
        raise typer.Exit(1)
