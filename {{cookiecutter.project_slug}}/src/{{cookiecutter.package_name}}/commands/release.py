"""Put a model in production by evidence, take it out again, and compare."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ProjectError
from ..settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from ..models.bundle import Bundle
    from ..models.gates import Gate
    from ..models.registry import Registry

GROUP = "model"
MOVES = ("promote", "rollback", "shadow", "canary", "withdraw")
UNITS = {"m": 60, "h": 3600, "d": 86_400}

app = typer.Typer()

Version = Annotated[str, typer.Argument(help="A version, its first characters, or an alias.")]
Data = Annotated[Path | None, typer.Option(help="Rows with truth (CSV, Parquet) in place of the version's sample.")]
Reason = Annotated[str, typer.Option(help="Why, for the record.")]


@app.command("promote")
def promote_command(
    version: Version,
    reason: Reason = "",
    override: Annotated[str | None, typer.Option(help="Promote though a gate failed, and say why.")] = None,
    data: Data = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what the gates say.")] = False,
) -> None:
    """Make a version the champion if it passes the gates of config/gates.toml; services follow within a second."""
    from .. import settings

    promote(settings.load(), version, reason=reason, override=override, data=data, dry_run=dry_run)


def promote(
    settings: Settings,
    version: str,
    *,
    reason: str = "",
    override: str | None = None,
    data: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Run the gates, show them, and make the version the champion if none failed.

    Args:
        settings: of the project.
        version: a version, its first characters, or an alias.
        reason: why, for the record.
        override: why it is promoted though a gate failed; recorded with all that the gates measured.
        data: a table with truth to compare with the champion on.
        dry_run: show the gates and change nothing.

    Raises:
        ProjectError: a gate failed and there is no override; nothing changed.
    """
    from ..models import gates
    from ..models.registry import CHAMPION, Registry
    from ..settings import user
    from ..store.database import Store
    from ..store.events import record

    if override is not None and not override.strip():
        raise ProjectError('an override needs its reason: --override "why it must be promoted all the same"')
    registry = Registry(settings)
    candidate = registry.load(version)
    before = registry.aliases().get(CHAMPION)
    if before and before.version == candidate.version:
        typer.echo(f"{candidate.version} is the {CHAMPION} already")
        return
    found = gates.run(settings, registry, candidate, _champion(registry) if before else None, data)
    _show_gates(found)
    failed = [gate.name for gate in found if gate.passed is False]
    if dry_run:
        typer.echo(f"nothing was changed; {_failed(failed)}")
        return
    if failed and override is None:
        raise ProjectError(f'{_failed(failed)}: improve the model, or promote it with --override "reason"')
    detail = {"gates": [gate.to_json() for gate in found], "override": override if failed else None}
    previous = before.version if before else None
    why = reason or (override if failed else None) or ""
    with Store(settings) as store:
        moved = {"alias": CHAMPION, "previous": previous, "reason": why, "detail": detail}
        record(store, "promote", candidate.version, user(), **moved)
    registry.point(CHAMPION, candidate.version, by=user(), reason=why)
    _end_trials(registry, candidate.version)
    typer.echo(f"{CHAMPION}: {previous or 'none'} -> {candidate.version}")


@app.command()
def rollback(reason: Reason = "") -> None:
    """Point the champion back to the version before; it works while the log is away."""
    from .. import settings
    from ..models.registry import CHAMPION, Registry
    from ..settings import user
    from ..store.database import Store
    from ..store.events import record

    loaded = settings.load()
    registry = Registry(loaded)
    gone, back = registry.rollback(CHAMPION, by=user(), reason=reason)
    _end_trials(registry, back)
    typer.echo(f"{CHAMPION}: {gone} -> {back}")
    try:
        with Store(loaded) as store:
            record(store, "rollback", back, user(), alias=CHAMPION, previous=gone, reason=reason)
    except ProjectError as error:
        typer.echo(f"warning: the rollback is done but not in the log: {error}", err=True)


@app.command()
def compare(first: Version, second: Version, data: Data = None) -> None:
    """Compare two versions on the same rows: metrics, answers, contracts, origins, sizes and times."""
    from .. import settings
    from ..models import comparison
    from ..models.evidence import Evidence
    from ..models.registry import Registry

    loaded = settings.load()
    registry = Registry(loaded)
    old, new = registry.load(first), registry.load(second)
    names = old.version[:12], new.version[:12]
    evidence = Evidence(loaded, new, old, data=data)
    pair = evidence.pair
    measured: tuple[Mapping[str, Any], Mapping[str, Any]] = old.metrics, new.metrics
    if isinstance(pair, str):
        typer.echo(f"not compared on the same rows: {pair.format(**evidence.reason)}; metrics as measured at import")
    elif pair.truth is None:
        typer.echo("no truth in the sample; metrics as measured at import")
    else:
        measured = pair.champion, pair.candidate
    _print(("metric", *names), [(key, *(_short(one.get(key, "")) for one in measured)) for key in _keys(*measured)])
    _print_slices(evidence.task, names, *reversed(evidence.pair_slices))
    if not isinstance(pair, str):
        found = comparison.compare(new.signature, pair.rows, *reversed(pair.outputs))
        typer.echo("\n" + "\n".join(found.lines()))
    changed = comparison.changes(old.signature, new.signature)
    typer.echo("\nsignature: " + ("the same" if not changed else ""))
    for change in changed:
        typer.echo(f"  {'breaking: ' if change.breaking else ''}{change}")
    facts = [_facts(Evidence(loaded, bundle, None)) for bundle in (old, new)]
    different = [key for key in _keys(*facts) if facts[0].get(key) != facts[1].get(key)]
    typer.echo("\norigin, size and time, where they differ:")
    _print(("", *names), [(key, *(_short(one.get(key, "")) for one in facts)) for key in different])


@app.command()
def replay(
    version: Version,
    since: Annotated[str, typer.Option(help="30m, 24h, 7d, or a date such as 2026-11-01 (UTC).")],
    limit: Annotated[int, typer.Option(min=1, help="Rows at most, evenly over the time.")] = 100_000,
    output: Annotated[Path | None, typer.Option(help="A .csv or .parquet file for every row.")] = None,
) -> None:
    """Score logged inputs on another version, and report what would have been different."""
    from .. import settings
    from ..models.registry import Registry
    from ..monitoring.replay import replay as run
    from ..store.database import Store

    if output and output.suffix not in (".csv", ".parquet"):
        raise ProjectError(f"{output.name} is neither .csv nor .parquet")
    loaded, start = settings.load(), _moment(since)
    registry = Registry(loaded)
    chosen = registry.load(version)
    with Store(loaded) as store:
        result = run(store, registry, chosen, start, limit)
    typer.echo("answered by " + ", ".join(f"{name} ({count} rows)" for name, count in result.answered.items()))
    for reason, count in result.refused.items():
        typer.echo(f"left out: {count} rows, {reason}")
    typer.echo("\n".join(result.comparison.lines()))
    if result.measured:
        typer.echo(f"\nagainst the truth of {result.measured[0]['rows']} rows:")
        rows = [(key, *(_short(one.get(key, "")) for one in result.measured)) for key in _keys(*result.measured)]
        _print(("metric", "logged", chosen.version[:12]), rows)
    if output:
        _write(result.comparison.table, output)
        typer.echo(f"wrote {result.comparison.rows} rows to {output}")


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, help="Events at most.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show who imported and moved which version, when and why, and what the gates said."""
    from .. import settings
    from ..store import queries
    from ..store.database import Store

    with Store(settings.load()) as store:
        events = queries.recent_events(store, limit)
    if as_json:
        typer.echo(json.dumps(events, indent=2, ensure_ascii=False, default=str))
        return
    if not events:
        typer.echo("nothing has happened to a model yet")
        return
    rows = [
        (
            f"{event['time']:%Y-%m-%d %H:%M}",
            event["action"],
            event["alias"] or "",
            f"{event['previous'][:12]} -> {event['version'][:12]}" if event["previous"] else event["version"][:12],
            event["actor"],
            event["reason"],
            _summary(event["detail"]),
        )
        for event in events
    ]
    _print(("time (UTC)", "action", "alias", "version", "by", "reason", "gates"), rows)


def _champion(registry: Registry) -> Bundle | None:
    """Open the champion; one that is broken must not keep its successor out."""
    from ..models.registry import CHAMPION

    try:
        return registry.load(CHAMPION)
    except ProjectError as error:
        typer.echo(f"warning: not compared with the champion: {error}", err=True)
        return None


def _end_trials(registry: Registry, version: str) -> None:
    """Drop the aliases of trials that point to what is the champion now."""
    from ..models.registry import CANARY, SHADOW

    for alias, pointed in registry.aliases().items():
        if alias in (CANARY, SHADOW) and pointed.version == version:
            registry.drop(alias)
            typer.echo(f"{alias}: ended, {version} is the champion")


def _show_gates(found: Sequence[Gate]) -> None:
    from ..models.gates import FILE

    if not found:
        typer.echo(f"warning: no gate was run, because {FILE} is missing or empty: restore it from git", err=True)
        return
    styles = {None: "dim", True: "green", False: "bold red"}
    rows = []
    for gate in found:
        measured, limit = ("; ".join(map(str, phrases)) for phrases in (gate.measured, gate.limit))
        rows.append((gate.name, _styled(gate.state, styles[gate.passed]), measured, limit))
    _print(("gate", "result", "measured", "limit"), rows)


def _failed(names: Sequence[str]) -> str:
    gates = "gates" if len(names) > 1 else "gate"
    return f"the version fails the {gates} {', '.join(names)}" if names else "no gate failed"


def _summary(detail: Mapping[str, Any]) -> str:
    """Say in a few words what gates found: 7 passed, FAILED: floors, overridden."""
    gates = detail.get("gates")
    if not gates:
        return "none" if gates is not None else ""
    failed = [gate["name"] for gate in gates if gate["passed"] is False]
    said = f"{sum(gate['passed'] is True for gate in gates)} passed"
    return said + (f", FAILED and overridden: {', '.join(failed)}" if failed else "")


def _print_slices(task: Any, names: Sequence[str], first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    from ..models.metrics import main_measure

    rows = []
    for column, of in first.items():
        for value, one in of.items():
            other = second[column][value]
            if name := main_measure(task, one, other):
                rows.append((f"{column} = {value}", one["rows"], name, _short(one[name]), _short(other[name])))
    if rows:
        typer.echo()
        _print(("slice", "rows", "metric", *names), rows)


def _facts(evidence: Any) -> dict[str, Any]:
    """Return what may differ between two versions beside their answers."""
    bundle = evidence.candidate
    training, origin = bundle.provenance.get("training", {}), bundle.provenance
    median, p99, _ = evidence.latency()
    size = sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file())
    return {
        **{name: origin.get(name) for name in ("source", "imported_at", "imported_by", "git_commit", "sample")},
        "algorithm": training.get("algorithm"),
        **training.get("parameters", {}),
        **{f"library {name}": value for name, value in origin.get("libraries", {}).items()},
        "format": bundle.manifest.get("format"),
        "runtime": bundle.manifest["runtime"],
        "bundle": f"{size / 1e6:.2f} MB",
        "one row": f"median {median:.3g} ms, p99 {p99:.3g} ms",
    }


def _moment(text: str) -> datetime:
    """Read a time span back from now, or a date in UTC."""
    if found := re.fullmatch(r"(\d{1,6})([mhd])", text):
        return datetime.now(UTC) - timedelta(seconds=int(found[1]) * UNITS[found[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ProjectError(f"{text!r} is no time: give 30m, 24h, 7d, or a date such as 2026-11-01") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _write(table: pl.DataFrame, path: Path) -> None:
    """Write a table whole or not at all."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (table.write_parquet if path.suffix == ".parquet" else table.write_csv)(draft)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ProjectError(f"{path} cannot be written: {error.strerror or error}") from None


def _keys(*tables: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(key for table in tables for key in table))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _styled(text: str, style: str) -> Any:
    from rich.text import Text

    return Text(text, style)


def _print(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; what is not a terminal gets it wide and plain."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    Console(width=None if Console().is_terminal else 160).print(table)
