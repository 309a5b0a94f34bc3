"""Gathers the state from the log and the registry. It never fails: what is broken is part of the state."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import structlog

from ..errors import ProjectError
from ..models.bundle import Bundle
from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store import queries
from ..store.database import Store
from ..store.tables import quarantine
from .state import (
    KINDS,
    ORDER,
    Champion,
    Check,
    Figure,
    Item,
    Level,
    Status,
    duration,
    judge_checks,
    judge_requests,
    judge_run,
    point,
    sentence,
    shares,
    span,
    stamp,
    verdict,
)

T = TypeVar("T")

STEPS = (60, 300, 600, 3600)  # widths of a time bin, in seconds
VERIFIED_SECONDS = 60.0  # a bundle's bytes are compared again after so long
NEWEST = 2_000  # predictions read for their distribution
LISTED = 20  # runs and model events

log = structlog.get_logger(__name__)


class Reader:
    """Reads the state again and again, keeping store and bundle open. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._store: Store | None = None
        self._bundle: tuple[float, Bundle] | None = None

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
        self._store = None

    def status(self, hours: int = 24) -> Status:
        """Return the state; figures and charts of requests cover the last ``hours``. Never raises."""
        project, now = self.settings.project, datetime.now(UTC)
        step = next((step for step in STEPS if step >= hours * 24), STEPS[-1])  # some 150 bins
        status = Status(project.title, project.slug, project.mode, now, hours, step)
        store = _guard(status, "Store", lambda: self._open(status))
        bundle = _guard(status, "Model", lambda: self._champion(status))
        if store is not None:
            _guard(status, "Requests", lambda: _requests(status, store))
            _guard(status, "Batch runs", lambda: _runs(status, store))
            _guard(status, "Checks", lambda: _checks(status, store))
            if bundle is not None:
                least = self.settings.monitoring.minimum_rows
                _guard(status, "Predictions", lambda: _predictions(status, store, bundle, least))
        status.state, status.why = verdict(status.health)
        return status

    def _open(self, status: Status) -> Store:
        """Return the store after a write that changes nothing."""
        try:
            self._store = self._store or Store(self.settings)
            with self._store.write() as connection:
                connection.execute(quarantine.delete().where(quarantine.c.run_id == ""))
        except ProjectError:
            self.close()  # the next reading tries anew
            raise
        status.health.append(Item("Store", "ok", f"The log ({self._store.engine.dialect.name}) can be written."))
        return self._store

    def _champion(self, status: Status) -> Bundle:
        """Return the bundle in service; its bytes are compared again once a minute."""
        registry = Registry(self.settings)
        held = len(registry.versions())
        if CHAMPION not in registry.aliases():
            todo = "promote VERSION" if held else "import PATH --sample ROWS.csv"
            raise ProjectError(f"no model is in service ({held} in the registry): `{status.slug} model {todo}`")
        version, known = registry.resolve(CHAMPION), self._bundle
        if known is None or known[1].version != version or time.monotonic() - known[0] > VERIFIED_SECONDS:
            self._bundle = None  # stays so when loading fails
            self._bundle = known = (time.monotonic(), registry.load(version))
        bundle = known[1]
        measures = {name: value for name, raw in bundle.metrics.items() if (value := _finite(raw)) is not None}
        runtime, imported = bundle.manifest.get("runtime", ""), bundle.provenance.get("imported_at", "")
        title, task = bundle.signature.title, bundle.signature.task
        status.champion = Champion(version, title, task, str(runtime), str(imported), measures)
        text = f"Version {version} is in service, every byte as imported; {held} in the registry."
        status.health.append(Item("Model", "ok", text))
        return bundle


def _requests(status: Status, store: Store) -> None:
    now, hours = status.time, timedelta(hours=status.hours)
    if status.online:
        first = int((now - hours).timestamp()) // status.step * status.step
        rows = queries.traffic_bins(store, datetime.fromtimestamp(first, UTC), now, status.step)
        bins: dict[int, list[queries.Row]] = defaultdict(list)
        for row in rows:
            bins[row["start"]].append(row)
        starts = range(first, int(now.timestamp()) + 1, status.step)
        status.traffic = [point(datetime.fromtimestamp(start, UTC), bins[start]) for start in starts]
        hour = point(now, queries.traffic_bins(store, now - timedelta(hours=1), now, 60))
        status.health.append(item := judge_requests(hour))
        whole, last = point(now, rows), f"last {span(status.hours)}"
        failed = f"{whole.failed / whole.total:.2%}" if whole.total else "-"
        status.figures += [
            Figure("Requests", f"{whole.total:,}", last),
            Figure("Failed requests", failed, f"and {whole.refused:,} refused as invalid", item.state),
            Figure("Latency, median", duration(whole.p50), f"at most, {last}"),
            Figure("Latency, p99", duration(whole.p99), f"at most, {last}"),
        ]
    made, returned, _, newest = queries.counts(store)
    share = f"{returned / made:.1%} of predictions" if made else "none yet"
    status.figures += [
        Figure("Predictions", f"{made:,}", f"last {stamp(newest)}" if newest else "none yet"),
        Figure("With feedback", f"{returned:,}", share),
    ]


def _runs(status: Status, store: Store) -> None:
    if not status.batch:
        return
    status.runs = queries.recent_runs(store, LISTED)
    last = status.runs[0] if status.runs else None
    status.health.append(item := judge_run(last, status.slug, status.time))
    out, held = (f"{last[name]:,}" if last else "-" for name in ("rows_published", "rows_quarantined"))
    told = f"last run, {last['status']}" if last else "no run yet"
    status.figures += [
        Figure("Rows published", out, told, item.state),
        Figure("Rows quarantined", held, f"of {last['rows_in']:,} rows, last run" if last else "no run yet"),
    ]


def _checks(status: Status, store: Store) -> None:
    status.events = queries.recent_events(store, LISTED)
    since = next((event["time"] for event in status.events if event["alias"] == CHAMPION), None)
    version = status.champion.version if status.champion else None
    for row in queries.latest_checks(store):
        about, note = row["detail"].get("model_version"), str(row["detail"].get("note", ""))
        current = about == version if about and version else since is None or row["time"] >= since
        state: Level = row["state"] if row["state"] in ORDER else "unknown"
        value = _finite(row["value"])
        status.checks.append(Check(row["kind"], row["subject"], value, state, row["time"], note, current))
    judged = {check.kind for check in status.checks if check.current}
    status.checks = [check for check in status.checks if check.current or check.kind not in judged]
    status.checks.sort(key=lambda check: (not check.current, ORDER.index(check.state), check.kind, check.subject))
    for kind, name in KINDS.items():
        found = [check for check in status.checks if check.kind == kind]
        status.health.append(judge_checks(name, found, status.slug))


def _predictions(status: Status, store: Store, bundle: Bundle, least: int) -> None:
    since = status.time - timedelta(hours=status.hours)
    frame = queries.predictions_frame(store, bundle.signature, bundle.version, since, NEWEST)
    status.predictions_read = frame.height
    if frame.height >= least:
        status.predictions = shares(bundle.profile, bundle.profile.count(frame))


def _guard(status: Status, name: str, read: Callable[[], T]) -> T | None:
    """Read something; what goes wrong becomes a health item."""
    try:
        return read()
    except ProjectError as error:
        text = sentence(str(error))
    except Exception as error:  # the page must open whatever is broken
        log.exception("status: reading failed", what=name)
        text = f"{name} cannot be read ({type(error).__name__}): the service's log has the details."
    status.health.append(Item(name, "alert", text))
    return None


def _finite(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None  # type: ignore[return-value]
