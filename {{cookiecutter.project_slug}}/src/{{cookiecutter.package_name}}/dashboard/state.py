"""The state of the system as plain data, and how it is judged. Reading it is the business of `reader`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from ..models.profile import Profile
from ..signature import PREDICTION
from ..store.events import BEYOND
from ..store.queries import Row, latency_quantiles

Level = Literal["ok", "warning", "alert", "unknown"]
Overall = Literal["healthy", "degraded", "down"]

ORDER: tuple[Level, ...] = ("alert", "warning", "unknown", "ok")
RANGES = {"1h": 1, "24h": 24, "7d": 168}
VITAL = frozenset({"Store", "Model"})  # without these the system is down
KINDS = {"drift": "Drift", "quality": "Data quality", "performance": "Performance"}
MEASURES = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "f1_macro": "F1, macro", "roc_auc": "ROC AUC"}
FAILED_WARNING, FAILED_ALERT, FAILED_REQUESTS = 0.01, 0.05, 20  # share of 5xx; not judged below 20 requests
STALE_RUN = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is watched: how it is, and what to do when it is not well."""

    name: str
    state: Level
    text: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One key figure, written for people."""

    name: str
    value: str
    note: str = ""
    state: Level = "ok"


@dataclass(frozen=True, slots=True)
class Champion:
    """The model version in service, with what was measured when it was imported."""

    version: str
    title: str
    task: str
    runtime: str
    imported: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Check:
    """The newest result of one check. ``current`` is false when it is about an earlier model."""

    kind: str
    subject: str
    value: float | None
    state: Level
    time: datetime
    note: str
    current: bool


@dataclass(frozen=True, slots=True)
class Point:
    """The requests of one time bin; latencies in milliseconds, None without requests."""

    time: datetime
    answered: int
    refused: int
    failed: int
    p50: float | None
    p99: float | None

    @property
    def total(self) -> int:
        """All requests."""
        return self.answered + self.refused + self.failed


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of the predictions: its share of the reference, and of the newest predictions."""

    label: str
    reference: float
    current: float


@dataclass(slots=True)
class Status:
    """All of it, at one moment. ``events`` and ``runs`` are rows of the log, newest first."""

    title: str
    slug: str
    mode: str
    time: datetime
    hours: int
    step: int  # seconds of a time bin
    state: Overall = "down"
    why: str = ""
    health: list[Item] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    champion: Champion | None = None
    events: list[Row] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    traffic: list[Point] = field(default_factory=list)
    predictions: list[Bin] = field(default_factory=list)
    predictions_read: int = 0

    @property
    def online(self) -> bool:
        """Whether the project answers requests."""
        return self.mode != "batch"

    @property
    def batch(self) -> bool:
        """Whether the project runs batches."""
        return self.mode != "real-time"


def point(moment: datetime, rows: Sequence[Row]) -> Point:
    """Add up the traffic rows of one time bin."""
    family = {number: sum(row["requests"] for row in rows if row["status"] // 100 == number) for number in (4, 5)}
    total, quantiles = sum(row["requests"] for row in rows), latency_quantiles(rows)
    p50, p99 = (quantiles[0.5] * 1e3, quantiles[0.99] * 1e3) if quantiles else (None, None)
    return Point(moment, total - sum(family.values()), family[4], family[5], p50, p99)


def shares(reference: Profile, current: Profile) -> list[Bin]:
    """Compare predictions with the reference, bin by bin; nothing when either has no rows."""
    then, now = reference.columns.get(PREDICTION), current.columns.get(PREDICTION)
    if then is None or now is None or not sum(then.counts) or not sum(now.counts):
        return []
    return [
        Bin(name, before / sum(then.counts), after / sum(now.counts))
        for name, before, after in zip(then.labels(), then.counts, now.counts, strict=True)
        if before or after
    ]


def judge_requests(hour: Point) -> Item:
    """Judge the requests of the last hour by the share that the service itself failed."""
    if not hour.total:
        return Item("Requests", "unknown", "No requests in the last hour: try one from the API page.")
    share, level = hour.failed / hour.total, "ok"
    if hour.total >= FAILED_REQUESTS and share >= FAILED_WARNING:
        level = "alert" if share >= FAILED_ALERT else "warning"
    text = f"{hour.failed:,} of {hour.total:,} failed in the last hour"
    if level == "ok":
        return Item("Requests", "ok", f"{text}.")
    return Item(
        "Requests", "alert" if level == "alert" else "warning", f"{text} ({share:.1%}): look in the service's log."
    )


def judge_run(last: Row | None, slug: str, now: datetime) -> Item:
    """Judge the newest batch run."""
    name = "Batch runs"
    if last is None:
        return Item(name, "unknown", f"No run yet: `{slug} pipeline run --input ROWS.csv --output FOLDER`")
    at = stamp(last["started"])
    if last["status"] == "failed":
        return Item(name, "alert", f"The run of {at} failed: {sentence(last['error'] or 'see its log')}")
    if last["status"] == "running":
        if now - last["started"] < STALE_RUN:
            return Item(name, "ok", f"A run is going on since {at}.")
        return Item(name, "warning", f"The run of {at} has not ended: go on with `{slug} pipeline resume`")
    told = f"{last['rows_published']:,} rows published, {last['rows_quarantined']:,} quarantined"
    return Item(name, "ok", f"{told} ({at}).")


def judge_checks(name: str, found: Sequence[Check], slug: str) -> Item:
    """Judge the checks of one kind by the worst that is about the model in service."""
    current = [check for check in found if check.current]
    if not current:
        about = "Checked for an earlier model only" if found else "Not checked yet"
        return Item(name, "unknown", f"{about}: `{slug} monitor run`")
    at, worst = (stamp(max(check.time for check in current)), min((check.state for check in current), key=ORDER.index))
    if worst in ("alert", "warning"):
        bad = [check.subject for check in current if check.state == worst]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        return Item(name, worst, f"{worst.capitalize()} for {', '.join(bad[:3])}{more} ({at}).")
    if known := sum(check.state == "ok" and check.value is not None for check in current):
        return Item(name, "ok", f"{known} check{'s' * (known > 1)} in order ({at}).")
    return Item(name, "unknown", sentence(current[0].note or "not enough data yet"))


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


def span(hours: int) -> str:
    """Write a time range for people."""
    return "hour" if hours == 1 else f"{hours} h" if hours <= 24 else f"{hours // 24} days"


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
