"""Import, promote, list and show models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..settings import Settings

app = typer.Typer(help="Import, promote, list and show models.", no_args_is_help=True)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="The trained model: .skops, or .joblib/.pkl with --trust-pickle.")],
    sample: Annotated[
        Path, typer.Option(help="CSV or Parquet rows like those to come: the signature is read off them.")
    ],
    target: Annotated[
        str | None, typer.Option(help="The sample's column with the truth: metrics are measured.")
    ] = None,
    signature: Annotated[Path | None, typer.Option(help="An edited signature file to use.")] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load a pickle. It runs any code that its author put in it.")
    ] = False,
) -> str:
    """Make an immutable bundle of a trained model, and print its version."""
    from .. import settings
    from ..models.importing import Source, import_model
    from ..models.registry import Registry

    loaded = settings.load()
    known = {info.version for info in Registry(loaded).versions()}
    bundle = import_model(loaded, Source(path, sample, target, signature, trust_pickle), typer.echo)
    if bundle.version not in known:
        record(loaded, "import", bundle.version, reason=path.name)
    typer.echo(bundle.version)
    return bundle.version


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="The version, or its first characters.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Make a version the champion: running services follow within a second."""
    from .. import settings
    from ..models.registry import CHAMPION, Registry

    loaded = settings.load()
    registry = Registry(loaded)
    chosen = registry.load(version)
    previous = registry.aliases().get(CHAMPION)
    if previous == chosen.version:
        typer.echo(f"{chosen.version} is the {CHAMPION} already")
        return
    record(loaded, "promote", chosen.version, alias=CHAMPION, previous=previous, reason=reason)
    registry.point(CHAMPION, chosen.version)
    typer.echo(f"{CHAMPION}: {previous or 'none'} -> {chosen.version}")


@app.command("list")
def list_() -> None:
    """List the versions, newest first."""
    from rich.console import Console
    from rich.table import Table

    from .. import settings
    from ..models.registry import Registry

    loaded = settings.load()
    versions = Registry(loaded).versions()
    if not versions:
        typer.echo(f"no models yet: `{loaded.project.slug} model import PATH --sample ROWS.csv`")
        return
    table = Table("version", "alias", "task", "runtime", "imported", "metrics", box=None, pad_edge=False)
    for info in versions:
        measured = "  ".join(f"{name} {value:.4g}" for name, value in info.metrics.items() if name != "rows")
        table.add_row(info.version, ", ".join(info.aliases), info.task, info.runtime, info.created, measured)
    Console(width=None if Console().is_terminal else 160).print(table)


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="A version, its first characters, or an alias.")] = "champion",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what a version is, where it comes from and how good it is."""
    from .. import settings
    from ..models.registry import Registry

    bundle = Registry(settings.load()).load(version)
    document = {
        "version": bundle.version,
        **{key: value for key, value in bundle.manifest.items() if key != "files"},
        "parity": bundle.parity,
        "provenance": bundle.provenance,
        "signature": bundle.signature.to_json(),
    }
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    typer.echo(
        f"{bundle.signature.title} {bundle.version}: {bundle.signature.task}, runtime {bundle.manifest['runtime']}"
    )
    origin = bundle.provenance
    typer.echo(f"imported {origin['imported_at']} by {origin['imported_by']} from {origin['source']}")
    for name, value in bundle.metrics.items():
        typer.echo(f"  {name:20} {value:.6g}")
    for entry in bundle.signature.dictionary():
        typer.echo(f"  {entry['role']:6}  {entry['name']:28} {entry['type']:9} {entry['values']} {entry['unit']}")


def record(
    settings: Settings,
    action: str,
    version: str,
    alias: str | None = None,
    previous: str | None = None,
    reason: str = "",
) -> None:
    """Write to the log what happens to a model, before it does."""
    from datetime import UTC, datetime

    from ..models.importing import user
    from ..store.database import Store
    from ..store.tables import model_events

    event = {"action": action, "version": version, "alias": alias, "previous": previous, "reason": reason}
    with Store(settings) as store, store.write() as connection:
        connection.execute(model_events.insert().values(time=datetime.now(UTC), actor=user(), **event))
