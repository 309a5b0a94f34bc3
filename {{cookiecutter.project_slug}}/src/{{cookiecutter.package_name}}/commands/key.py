"""``key``: make a key for the service."""

from __future__ import annotations

import typer

from ..settings import PREFIX


def command() -> None:
    """Make a random key for callers of the service, and the hash that the service keeps of it."""
    from ..serving.security import new_key

    key, digest = new_key()
    typer.echo(f"key:  {key}   (give it to the caller; it is shown once)")
    typer.echo(f"hash: {digest}")
    typer.echo("Add the hash to config/settings.toml and start the service again:")
    typer.echo(f'  [serving]\n  key_hashes = ["{digest}"]')
    typer.echo(f"or set {PREFIX}SERVING__KEY_HASHES='[\"{digest}\"]' in its environment.")
