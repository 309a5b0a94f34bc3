"""The state of the system: read, judged and told for people. What is broken is part of the state."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

import structlog

from ..errors import ProjectError
from ..models.bundle import Bundle
from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..signature import PREDICTION
from ..store import queries
from ..store.database import Store
from ..store.queries import Row
from ..store.tables import quarantine
from ..telemetry.metrics import BEYOND

Level = Literal["ok", "warning", "alert", "unknown"]
Overall = Literal["healthy", "degraded", "down"]

ORDER: tuple[Level, ...] = ("alert", "warning", "unknown", "ok")
RANGES = {"1h": (1, 60, "hour"), "24h": (24, 600, "24 h"), "7d": (168, 3600, "7 days")}  # hours, seconds of a bin
VITAL = frozenset({"Store", "Model"})  # without these the system is down
KINDS = {"drift": "Drift", "quality": "Data quality", "performance": "Performance"}
MEASURES = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "f1_macro": "F1, macro", "roc_auc": "ROC AUC"}
FAILED_WARNING, FAILED_ALERT, FAILED_REQUESTS = 0.01, 0.05, 20  # share of 5xx; not judged below 20 requests
STALE_RUN = timedelta(hours=24)
VERIFIED_SECONDS = 60.0  # a bundle's bytes are compared again after so long
SAMPLE, LISTED = 2_000, 20  # predictions read for their distribution; runs and model events

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One line for people: something that is watched, and what to do when it is not well; or a key figure."""

    name: str
    state: Level
    text: str
    note: str = ""


@dataclass(slots=True)
class Status:
    """All of it, at one moment. ``events`` and ``runs`` are rows of the log, newest first."""

    title: str
    slug: str
    mode: str
    time: datetime
    range: str
    hours: int
    step: int  # seconds of a time bin
    span: str
    state: Overall = "down"
    why: str = ""
    health: list[Item] = field(default_factory=list)
    figures: list[Item] = field(default_factory=list)
    champion: Row | None = None  # version, title, task, runtime, imported, metrics
    events: list[Row] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    checks: list[Row] = field(default_factory=list)  # kind, subject, value, state, time, note, current
    traffic: list[Row] = field(default_factory=list)  # time, requests, refused, failed, median and p99 in ms
    predictions: list[Row] = field(default_factory=list)  # share of each bin: in the reference, and now
    predictions_read: int = 0


class Reader:
    """Reads the state again and again, keeping store and bundle open. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Store | None = None
        self._load = lru_cache(1)(lambda version, _: Registry(settings).load(version))

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
        self._store = None

    def status(self, chosen: str = "24h") -> Status:
        """Return the state; figures and charts of requests cover a time range of ``RANGES``. Never raises."""
        project, store, bundle = self._settings.project, None, None
        status = Status(project.title, project.slug, project.mode, datetime.now(UTC), chosen, *RANGES[chosen])
        with _guard(status, "Store"):
            store = self._open(status)
        with _guard(status, "Model"):
            bundle = self._champion(status)
        if store is not None:
            for name, read in (("Requests", _requests), ("Batch runs", _runs), ("Checks", _checks)):
                with _guard(status, name):
                    read(status, store)
            if bundle is not None:
                with _guard(status, "Predictions"):
                    _predictions(status, store, bundle, self._settings.monitoring.minimum_rows)
        status.state, status.why = verdict(status.health)
        return status

    def _open(self, status: Status) -> Store:
        """Return the store after a write that changes nothing."""
        try:
            self._store = self._store or Store(self._settings)
            with self._store.write() as connection:
                connection.execute(quarantine.delete().where(quarantine.c.run_id == ""))
        except ProjectError:
            self.close()  # the next reading tries anew
            raise
        status.health.append(Item("Store", "ok", f"The log ({self._store.engine.dialect.name}) can be written."))
        return self._store

    def _champion(self, status: Status) -> Bundle:
        """Return the bundle in service; its bytes are compared again once a minute."""
        registry = Registry(self._settings)
        held = len(registry.versions())
        if CHAMPION not in registry.aliases():
            todo = "promote VERSION" if held else "import PATH --sample ROWS.csv"
            raise ProjectError(f"no model is in service ({held} in the registry): `{status.slug} model {todo}`")
        version = registry.resolve(CHAMPION)
        bundle: Bundle = self._load(version, time.monotonic() // VERIFIED_SECONDS)
        signature, imported = bundle.signature, datetime.fromisoformat(bundle.provenance["imported_at"])
        status.champion = {"version": version, "title": signature.title, "task": signature.task, "imported": imported}
        status.champion |= {"runtime": bundle.manifest["runtime"], "metrics": bundle.metrics}
        text = f"Version {version} is in service, every byte as imported; {held} in the registry."
        status.health.append(Item("Model", "ok", text))
        return bundle


@contextmanager
def _guard(status: Status, name: str) -> Iterator[None]:
    """Make a health item of what goes wrong."""
    try:
        yield
    except ProjectError as error:
        status.health.append(Item(name, "alert", sentence(str(error))))
    except Exception as error:  # the page must open whatever is broken
        log.exception("status: reading failed", what=name)
        text = f"{name} cannot be read ({type(error).__name__}): the service's log has the details."
        status.health.append(Item(name, "alert", text))


def _requests(status: Status, store: Store) -> None:
    """Read the traffic of a service, judge its last hour, and count the predictions."""
    if status.mode != "batch":
        now, step, last = status.time, status.step, f"last {status.span}"
        first = (int(now.timestamp()) - status.hours * 3600) // step * step
        rows = queries.traffic_bins(store, datetime.fromtimestamp(first, UTC), now, step)
        bins: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            bins[row["start"]].append(row)
        status.traffic = [_point(start, bins[start]) for start in range(first, int(now.timestamp()) + 1, step)]
        whole, hour = _point(0, rows), _point(0, queries.traffic_bins(store, now - timedelta(hours=1), now, 60))
        status.health.append(item := judge_requests(hour["requests"], hour["failed"]))
        failed = f"{whole['failed'] / whole['requests']:.2%}" if whole["requests"] else "-"
        status.figures += [
            Item("Requests", "ok", f"{whole['requests']:,}", last),
            Item("Failed requests", item.state, failed, f"and {whole['refused']:,} refused as invalid"),
            Item("Latency, median", "ok", duration(whole["median"]), f"at most, {last}"),
            Item("Latency, p99", "ok", duration(whole["p99"]), f"at most, {last}"),
        ]
    held = queries.counts(store)
    newest = f"last {stamp(held.last_prediction)}" if held.last_prediction else "none yet"
    share = f"{held.feedback / held.predictions:.1%} of predictions" if held.predictions else "none yet"
    status.figures.append(Item("Predictions", "ok", f"{held.predictions:,}", newest))
    status.figures.append(Item("With feedback", "ok", f"{held.feedback:,}", share))


def _point(start: int, rows: Sequence[Row]) -> Row:
    """Add up the traffic of one time bin."""
    total, quantiles = sum(row["requests"] for row in rows), queries.latency_quantiles(rows)
    refused, failed = (sum(row["requests"] for row in rows if row["status"] // 100 == family) for family in (4, 5))
    median, p99 = (quantiles[0.5] * 1e3, quantiles[0.99] * 1e3) if quantiles else (None, None)
    point = {"time": datetime.fromtimestamp(start, UTC), "requests": total, "refused": refused, "failed": failed}
    return {**point, "median": median, "p99": p99}


def _runs(status: Status, store: Store) -> None:
    """Read the batch runs, and judge the newest."""
    if status.mode == "real-time":
        return
    status.runs = queries.recent_runs(store, LISTED)
    level: Level = "unknown"
    text = f"No run yet: `{status.slug} pipeline run --input ROWS.csv --output FOLDER`"
    out, held, told, share = "-", "-", "no run yet", "no run yet"
    if status.runs:
        last, at = status.runs[0], stamp(status.runs[0]["started"])
        out, held = f"{last['rows_published']:,}", f"{last['rows_quarantined']:,}"
        told, share = f"last run, {last['status']}", f"of {last['rows_in']:,} rows, last run"
        level, text = "ok", f"{out} rows published, {held} quarantined ({at})."
        if last["status"] == "failed":
            level, text = "alert", f"The run of {at} failed: {sentence(last['error'] or 'see its log')}"
        elif last["status"] == "running" and status.time - last["started"] >= STALE_RUN:
            level, text = "warning", f"The run of {at} has not ended: go on with `{status.slug} pipeline resume`"
        elif last["status"] == "running":
            text = f"A run is going on since {at}."
    status.health.append(Item("Batch runs", level, text))
    status.figures.append(Item("Rows published", level, out, told))
    status.figures.append(Item("Rows quarantined", "ok", held, share))


def _checks(status: Status, store: Store) -> None:
    """Read the checks; those of an earlier model only where there are none of the one in service."""
    status.events = queries.recent_events(store, LISTED)
    since = next((event["time"] for event in status.events if event["alias"] == CHAMPION), None)
    version, found = status.champion and status.champion["version"], queries.latest_checks(store)
    for row in found:
        detail, value = row.pop("detail"), row["value"]
        about, level = detail.get("model_version"), row["state"] if row["state"] in ORDER else "unknown"
        current = about == version if about and version else since is None or row["time"] >= since
        row |= {"state": level, "note": str(detail.get("note", "")), "current": current}
        row["value"] = value if value is None or math.isfinite(value) else None
    judged = {row["kind"] for row in found if row["current"]}
    status.checks = [row for row in found if row["current"] or row["kind"] not in judged]
    status.checks.sort(key=lambda row: (not row["current"], ORDER.index(row["state"]), row["kind"], row["subject"]))
    for kind, name in KINDS.items():
        known = [row for row in status.checks if row["kind"] == kind]
        status.health.append(judge_checks(name, known, status.slug))


def _predictions(status: Status, store: Store, bundle: Bundle, least: int) -> None:
    """Compare predictions with the reference, bin by bin, if there are enough."""
    since = status.time - timedelta(hours=status.hours)
    from ..store.frames import latest_predictions  # late: a table is not always shown

    frame = latest_predictions(store, bundle.signature, bundle.version, since, SAMPLE)
    status.predictions_read = frame.height
    reference = bundle.profile.columns[PREDICTION]
    current = reference.count(frame[PREDICTION])
    then, now = sum(reference.counts), sum(current.counts)
    if frame.height >= least and then and now:
        status.predictions = [
            {"predicted": label, "reference": round(before / then, 5), "now": round(after / now, 5)}
            for label, before, after in zip(reference.labels(), reference.counts, current.counts, strict=True)
            if before or after
        ]


def judge_requests(total: int, failed: int) -> Item:
    """Judge the requests of the last hour by the share that the service itself failed."""
    text = f"{failed:,} of {total:,} failed in the last hour"
    if not total:
        return Item("Requests", "unknown", "No requests in the last hour: try one from the API page.")
    if total < FAILED_REQUESTS or failed / total < FAILED_WARNING:
        return Item("Requests", "ok", f"{text}.")
    level: Level = "alert" if failed / total >= FAILED_ALERT else "warning"
    return Item("Requests", level, f"{text} ({failed / total:.1%}): look in the service's log.")


def judge_checks(name: str, found: Sequence[Row], slug: str) -> Item:
    """Judge the checks of one kind by the worst that is about the model in service."""
    current = [check for check in found if check["current"]]
    if not current:
        about = "Checked for an earlier model only" if found else "Not checked yet"
        return Item(name, "unknown", f"{about}: `{slug} monitor run`")
    at = stamp(max(check["time"] for check in current))
    worst: Level = min((check["state"] for check in current), key=ORDER.index)
    if worst in ("alert", "warning"):
        bad = [check["subject"] for check in current if check["state"] == worst]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        return Item(name, worst, f"{worst.capitalize()} for {', '.join(bad[:3])}{more} ({at}).")
    if known := sum(check["state"] == "ok" and check["value"] is not None for check in current):
        return Item(name, "ok", f"{known} check{'s' * (known > 1)} in order ({at}).")
    return Item(name, "unknown", sentence(current[0]["note"] or "not enough data yet"))


def verdict(health: Sequence[Item]) -> tuple[Overall, str]:
    """Say in one word and one sentence how the system is."""
    alerts = [item for item in health if item.state == "alert"]
    if vital := [item for item in alerts if item.name in VITAL]:
        return "down", vital[0].text
    if alerts:
        more = f" And {len(alerts) - 1} more: see Health." if len(alerts) > 1 else ""
        return "degraded", f"{alerts[0].name}: {alerts[0].text}{more}"
    if warnings := [item.name.lower() for item in health if item.state == "warning"]:
        return "healthy", f"Working, with a warning to look at: {', '.join(warnings)}."
    unknown = [item.name.lower() for item in health if item.state == "unknown"]
    rest = f"; nothing to judge yet: {', '.join(unknown)}." if unknown else ", and so is all that is watched."
    return "healthy", f"Store and model are in order{rest}"


def sentence(text: str) -> str:
    """Give a message the form of a sentence."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "`")) else ".")


def stamp(moment: datetime) -> str:
    """Write a moment for people, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def duration(milliseconds: float | None) -> str:
    """Write a latency for people."""
    if milliseconds is None:
        return "-"
    if milliseconds >= BEYOND:
        return "over 10 s"
    return f"{milliseconds / 1e3:g} s" if milliseconds >= 1e3 else f"{milliseconds:g} ms"


def label(measure: str) -> str:
    """Write the name of a measure for people."""
    return MEASURES.get(measure, measure.replace("_", " ").capitalize())


def number(value: float | None) -> str:
    """Write a count or a measure for people."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
