"""``key``: who may call the service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..store.keys import Key

app = typer.Typer(help="Make, show and end the keys that callers of the service need.")

Identity = Annotated[str, typer.Argument(metavar="ID", help="Of the key, as `key list` shows it.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Says who will have it.")],
    scope: Annotated[list[str], typer.Option(help="What it is good for: predict, read or admin (all). Repeatable.")],
    rate: Annotated[float | None, typer.Option(help="Requests a second at most.")] = None,
    expires: Annotated[int | None, typer.Option(min=1, max=36_500, help="Days until it ends by itself.")] = None,
) -> None:
    """Make a key and print it; a running service takes it at once. From the first key on every request needs one."""
    from .. import settings
    from ..store import keys
    from ..store.database import Store

    with Store(settings.load()) as store:
        _show(*keys.create(store, name, scope, settings.user(), rate, expires))


@app.command("list")
def list_() -> None:
    """Show all keys; what they open with is not known here."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .. import settings
    from ..store import keys
    from ..store.database import Store

    with Store(settings.load()) as store:
        found = keys.known(store).values()
    if not found:
        typer.echo("no keys yet: make one with `key create NAME --scope predict`")
        return
    table = Table("id", "name", "scopes", "rate", "created (UTC)", "by", "expires", "state", box=None, pad_edge=False)
    for key in found:
        rate = "" if key.rate is None else f"{key.rate:g}/s"
        expires = f"{key.expires:%Y-%m-%d %H:%M}" if key.expires else "never"
        created, state = f"{key.created:%Y-%m-%d %H:%M}", key.state(datetime.now(UTC))
        cells = (key.id, key.name, " ".join(key.scopes), rate, created, key.created_by, expires, state)
        table.add_row(*map(Text, cells))
    Console(width=None if Console().is_terminal else 160).print(table)


@app.command()
def revoke(identity: Identity) -> None:
    """End a key for good; every service refuses it within a second."""
    from .. import settings
    from ..store import keys
    from ..store.database import Store

    with Store(settings.load()) as store:
        key = keys.revoke(store, identity)
    typer.echo(f"the key {key.id} ({key.name}) is revoked")


@app.command()
def rotate(
    identity: Identity,
    grace: Annotated[float, typer.Option(min=0, max=8760, help="Hours for which the old key goes on.")] = 0,
) -> None:
    """Put a new key in the place of one: the same name, scopes, rate and lifetime."""
    from .. import settings
    from ..store import keys
    from ..store.database import Store

    with Store(settings.load()) as store:
        _show(*keys.rotate(store, identity, settings.user(), grace))


def _show(key: Key, text: str) -> None:
    """Print the key alone on standard output, for scripts, and what it is beside it."""
    until = f"until {key.expires:%Y-%m-%d %H:%M} UTC" if key.expires else "until it is revoked"
    typer.echo(f"key {key.id} for {key.name}: {' '.join(key.scopes)}, {until}; it is shown only now", err=True)
    typer.echo(text)
