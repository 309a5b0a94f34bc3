"""Import, list, show and export models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Import, compare, promote, try out and roll back models.", no_args_is_help=True)
NEWEST = 20  # versions that a list shows


@app.command("import")
def import_(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="PATH_OR_URI",
            help="The trained model: .skops, .onnx, a native XGBoost or LightGBM file, an MLflow folder or URI"
            " (models:/name/3), .joblib or .pkl with --trust-pickle, an entry point module:function, or an exported"
            " .bundle.",
        ),
    ],
    sample: Annotated[
        Path | None, typer.Option(help="CSV or Parquet rows like those to come: the signature is read off them.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The sample's column with the truth: metrics are measured.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the model is called, if not as the project.")] = "",
    signature: Annotated[Path | None, typer.Option(help="An edited signature file to use.")] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle",
            help="Load a pickle, or other code that comes with the model. It can do anything that you can do, from the"
            " moment it is loaded: trust where it comes from.",
        ),
    ] = False,
    trust_type: Annotated[
        list[str] | None, typer.Option(help="A type that a skops file may contain though nobody reviewed it.")
    ] = None,
    extra: Annotated[
        list[Path] | None, typer.Option("--with", help="A file or folder that an entry point reads.")
    ] = None,
    transform: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A Python file with transform(rows), from rows to the model's columns; the bundle keeps it. By default"
            ' models.transform of the settings; "" for none.',
        ),
    ] = None,
) -> str:
    """Make an immutable bundle of a trained model, and print its version."""
    from .. import settings
    from ..models.importing import PACKED, Source, import_model
    from ..models.registry import Registry
    from ..settings import user
    from ..store.database import Store
    from ..store.events import record

    loaded = settings.load()
    known = {info.version for info in Registry(loaded).versions()}
    trusted, files = tuple(trust_type or ()), tuple(extra or ())
    if transform is None and not reference.endswith(PACKED):
        transform = loaded.models.transform and str(loaded.path(loaded.models.transform))
    code = Path(transform) if transform else None
    source = Source(reference, sample, target, signature, name, trust_pickle, trusted, files, code)
    bundle = import_model(loaded, source, typer.echo)
    if bundle.version not in known:
        with Store(loaded) as store:
            record(store, "import", bundle.version, user(), reason=bundle.provenance["source"])
    typer.echo(bundle.version)
    return bundle.version


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help=f"Every version, not only the newest {NEWEST}.")] = False,
) -> None:
    """List the versions, newest first, with the aliases that point to them."""
    from rich.console import Console
    from rich.table import Table

    from .. import settings
    from ..models.registry import CANARY, Registry

    loaded = settings.load()
    registry = Registry(loaded)
    versions = registry.versions()
    if not versions:
        typer.echo(f"no models yet: `{loaded.project.slug} model import PATH --sample ROWS.csv`")
        return
    canary = registry.aliases().get(CANARY)
    share = f" ({canary.share:.1%})" if canary and canary.share is not None else ""
    table = Table("version", "alias", "task", "runtime", "imported", "metrics", box=None, pad_edge=False)
    for info in versions if everything else versions[:NEWEST]:
        measured = "  ".join(f"{name} {value:.4g}" for name, value in info.metrics.items() if name != "rows")
        aliases = ", ".join(name + share * (name == CANARY) for name in info.aliases)
        table.add_row(info.version, aliases, info.task, info.runtime, info.created, measured)
    Console(width=None if Console().is_terminal else 160).print(table)
    if not everything and len(versions) > NEWEST:
        typer.echo(f"and {len(versions) - NEWEST} older ones: --all lists them")


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="A version, its first characters, or an alias.")] = "champion",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what a version is, where it comes from and how good it is."""
    from .. import settings
    from ..models.registry import Registry

    registry = Registry(settings.load())
    bundle = registry.load(version)
    aliases = {name: alias for name, alias in registry.aliases().items() if alias.version == bundle.version}
    document = {
        "version": bundle.version,
        "aliases": {name: asdict(alias) for name, alias in aliases.items()},
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
    if code := origin.get("transform"):
        typer.echo(f"columns made by {code['file']} (sha256 {code['sha256'][:16]})")
    for name, alias in aliases.items():
        typer.echo(f"{name} since {alias.since}{alias.by and f' by {alias.by}'}{alias.reason and f': {alias.reason}'}")
    for name, value in bundle.metrics.items():
        typer.echo(f"  {name:20} {value:.6g}")
    for entry in bundle.signature.dictionary():
        typer.echo(f"  {entry['role']:6}  {entry['name']:28} {entry['type']:9} {entry['values']} {entry['unit']}")


@app.command()
def export(
    version: Annotated[str, typer.Argument(help="A version, its first characters, or an alias.")],
    file: Annotated[
        Path | None, typer.Argument(help="The file, or its folder; by default <project>-<version>.bundle here.")
    ] = None,
) -> None:
    """Write a version as one file; `model import FILE` takes it in elsewhere, verified, as the same version."""
    from .. import settings
    from ..models.bundle import pack
    from ..models.registry import Registry

    loaded = settings.load()
    bundle = Registry(loaded).load(version)
    target = file or Path()
    if target.is_dir():
        target /= f"{loaded.project.slug}-{bundle.version}.bundle"
    pack(bundle, target)
    typer.echo(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
