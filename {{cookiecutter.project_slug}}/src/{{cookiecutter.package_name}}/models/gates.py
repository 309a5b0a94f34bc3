"""What a version has to show before it is promoted: each gate of ``config/gates.toml`` measures and says its limit."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from ..errors import ProjectError
from ..settings import Section, Settings
from .bundle import Bundle
from .comparison import changes
from .evidence import Evidence
from .metrics import MEASURES, growth, main_measure
from .registry import CHAMPION, Registry

FILE = Path("config/gates.toml")
NAMED = 3  # slices that a failed gate names

Least = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Phrase(NamedTuple):
    """A text with places for values, so that documents can say it in their language."""

    text: str
    values: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        shown = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in self.values.items()}
        return self.text.format(**shown)


@dataclass(frozen=True)
class Gate:
    """What a gate found.

    Attributes:
        name: its table in ``config/gates.toml``.
        passed: None where it is not applicable, for the reason in ``measured``; that does not block.
        measured: what it measured.
        limit: what it holds that against.
    """

    name: str
    passed: bool | None
    measured: tuple[Phrase, ...]
    limit: tuple[Phrase, ...] = ()

    @property
    def state(self) -> str:
        """Say how it ended: passed, FAILED or not applicable."""
        return "not applicable" if self.passed is None else "passed" if self.passed else "FAILED"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, for the record."""
        measured, limit = ([[text, dict(values)] for text, values in said] for said in (self.measured, self.limit))
        return {"name": self.name, "passed": self.passed, "measured": measured, "limit": limit}


class Bound(Section):
    """How small or large a metric may be."""

    least: float | None = None
    most: float | None = None


class Champion(Section):
    """By what share the error on the same rows may be larger than the champion's."""

    worse: Least = 0.05


class Slices(Section):
    """By what share the error on a slice may be larger than the champion's, or than that of all rows without one."""

    minimum_rows: Annotated[int, Field(ge=1)] = 100
    worse: Least = 0.2
    worse_than_all: Least = 1.5


class Latency(Section):
    """Milliseconds for one row."""

    p99_ms: Positive = 100


class Memory(Section):
    """Megabytes by which a process grows."""

    growth_mb: Positive = 1000


class Age(Section):
    """How long the champion has to stay, and how old the candidate may be."""

    champion_hours_least: Least = 0
    candidate_days_most: Positive = 90


class Baseline(Section):
    """By what share the model's error has to be smaller than the baseline's."""

    better: Annotated[float, Field(ge=0, lt=1)] = 0


class Empty(Section):
    """A gate without a limit of its own."""


class Limits(Section):
    """``config/gates.toml``: a gate for each table that is there."""

    floors: dict[str, Bound] | None = None
    champion: Champion | None = None
    slices: Slices | None = None
    baseline: Baseline | None = None
    parity: Empty | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    signature: Empty | None = None
    age: Age | None = None


def limits(settings: Settings) -> Limits:
    """Read ``config/gates.toml``; without the file there is no gate.

    Raises:
        ProjectError: it cannot be read, or has an unknown gate, name or value.
    """
    try:
        found = Limits(**tomllib.loads(settings.path(FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Limits()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ProjectError(f"{name} in {FILE} is wrong ({first['msg']}): correct or remove it") from None
    except (OSError, ValueError, TypeError) as error:
        raise ProjectError(f"{FILE} cannot be read: {error}") from None
    for name in found.floors or ():
        if name not in MEASURES:
            raise ProjectError(f"floors.{name} in {FILE} is no metric: it is one of {', '.join(MEASURES)}")
    return found


def run(
    settings: Settings, registry: Registry, candidate: Bundle, champion: Bundle | None, data: Path | None = None
) -> list[Gate]:
    """Measure a version by every gate of ``config/gates.toml``.

    Args:
        settings: of the project.
        registry: says how long the champion has served.
        candidate: the version to promote.
        champion: the version that serves now, if there is one.
        data: a table with truth to compare on, in place of the candidate's own sample.

    Returns:
        The gates, in the order of `Limits`; none without the file.

    Raises:
        ProjectError: the file is wrong, or the candidate cannot score at all.
    """
    wanted = limits(settings)
    names = [name for name in Limits.model_fields if getattr(wanted, name) is not None]
    since = registry.aliases()[CHAMPION].since if champion else ""
    evidence = Evidence(settings, candidate, champion, since, data)
    try:
        # Time is measured while nothing else runs here; memory in another process, beside the rest.
        found = {"latency": GATES["latency"](wanted.latency, evidence)} if wanted.latency else {}
        if wanted.memory:
            evidence.weigh()
        found |= {name: GATES[name](getattr(wanted, name), evidence) for name in names if name not in found}
    finally:
        evidence.close()
    return [found[name] for name in names]


def _floors(limit: Mapping[str, Bound], evidence: Evidence) -> Gate:
    measured, said, broken = [], [], False
    known = evidence.measured
    for name, bound in limit.items():
        for text, value in (("{metric} at least {value}", bound.least), ("{metric} at most {value}", bound.most)):
            if value is not None:
                said.append(Phrase(text, {"metric": name, "value": value}))
        if name not in known:
            measured.append(Phrase("{metric} not applicable", {"metric": name}))
            continue
        value = known[name]
        measured.append(Phrase("{metric} {value}", {"metric": name, "value": value}))
        broken |= bound.least is not None and value < bound.least
        broken |= bound.most is not None and (abs(value) if name == "bias" else value) > bound.most
    applicable = any(name in known for name in limit)
    if not known:
        measured = [Phrase("imported without a target")]
    return Gate("floors", not broken if applicable else None, tuple(measured), tuple(said))


def _champion(limit: Champion, evidence: Evidence) -> Gate:
    said = (Phrase("error at most {share}% above the champion's", {"share": _percent(limit.worse)}),)
    pair = evidence.pair
    if isinstance(pair, str):
        return Gate("champion", None, (Phrase(pair, evidence.reason),), said)
    name = main_measure(evidence.task, pair.candidate, pair.champion)
    if name is None:
        return Gate("champion", None, (Phrase("imported without a target"),), said)
    value, reference = pair.candidate[name], pair.champion[name]
    worse = growth(name, value, reference, pair.rows.height)
    values = {"metric": name, "value": value, "reference": reference, "rows": pair.rows.height}
    text = "{metric} {value}, the champion's {reference}, on {rows} rows"
    return Gate("champion", worse <= limit.worse, (Phrase(text, values), _grown(worse)), said)


def _slices(limit: Slices, evidence: Evidence) -> Gate:
    """Compare with the champion slice by slice; where that cannot be, hold each slice against all rows."""
    pair = evidence.pair
    overall, parts, others = evidence.measured, evidence.slices, None
    text = "{slice}: {metric} {value}, all rows {reference}, on {rows} rows"
    allowed, said = limit.worse_than_all, "error of a slice at most {share}% above that of all rows"
    if not isinstance(pair, str):
        overall, parts, others = pair.candidate, evidence.pair_slices[0], evidence.pair_slices[1]
        text = "{slice}: {metric} {value}, the champion's {reference}, on {rows} rows"
        allowed, said = limit.worse, "error of a slice at most {share}% above the champion's"
    bound = (Phrase(said, {"share": _percent(allowed)}),)
    name = main_measure(evidence.task, overall)
    if name is None:
        return Gate("slices", None, (Phrase("imported without a target"),), bound)
    found = []
    for column, of in parts.items():
        for value, one in of.items():
            other = overall if others is None else others[column][value]
            if one["rows"] >= limit.minimum_rows and name in one and name in other:
                worse = growth(name, one[name], other[name], one["rows"])
                shown = {"slice": f"{column} = {value}", "metric": name, "value": one[name], "rows": one["rows"]}
                found.append((worse, shown | {"reference": other[name]}))
    if not found:
        return Gate("slices", None, (Phrase("no slice has {rows} rows", {"rows": limit.minimum_rows}),), bound)
    found.sort(key=lambda one: -one[0])
    failed = [one for one in found if one[0] > allowed]
    count = Phrase("{failed} of {count} slices too bad", {"count": len(found), "failed": len(failed)})
    worst = [
        phrase for worse, values in failed[:NAMED] or found[:1] for phrase in (Phrase(text, values), _grown(worse))
    ]
    return Gate("slices", not failed, (count, *worst), bound)


def _baseline(limit: Baseline, evidence: Evidence) -> Gate:
    said = (Phrase("error at least {share}% below the baseline's", {"share": _percent(limit.better)}),)
    known, simple = evidence.measured, evidence.baseline
    name = main_measure(evidence.task, known, simple)
    if name is None:
        return Gate("baseline", None, (Phrase("imported without a target"),), said)
    worse = growth(name, known[name], simple[name], simple["rows"])
    values = {"metric": name, "value": known[name], "baseline": simple["name"], "reference": simple[name]}
    text = "{metric} {value}, {baseline} {reference}"
    return Gate("baseline", worse <= -limit.better, (Phrase(text, values), _grown(worse)), said)


def _parity(limit: Empty, evidence: Evidence) -> Gate:
    """Hold the conversion against today's tolerance: an import may have been allowed more."""
    report, allowed = evidence.candidate.parity, evidence.settings.models
    said = [Phrase("at most {value}", {"value": allowed.parity_tolerance})]
    if not report.get("converted"):
        return Gate("parity", True, (Phrase("served in its original form"),), tuple(said))
    differ, p999 = report.get("classes_differ"), report.get("p999")
    if p999 is None:
        return Gate("parity", False, (Phrase("converted, and never compared"),), tuple(said))
    measured = [Phrase("99.9th percentile {value} ({unit})", {"value": float(f"{p999:.3g}"), "unit": report["unit"]})]
    if differ is not None:
        measured.append(Phrase("classes {share}%", {"share": _percent(differ)}))
        said.append(Phrase("classes {share}%", {"share": _percent(allowed.parity_classes)}))
    passed = p999 <= allowed.parity_tolerance and (differ or 0) <= allowed.parity_classes
    return Gate("parity", passed, tuple(measured), tuple(said))


def _latency(limit: Latency, evidence: Evidence) -> Gate:
    median, p99, rows = evidence.latency()
    values = {"median": round(median, 3), "p99": round(p99, 3), "rows": rows}
    text = "one row: p99 {p99} ms, median {median} ms, {rows} rows"
    said = (Phrase("p99 at most {value} ms", {"value": limit.p99_ms}),)
    return Gate("latency", p99 <= limit.p99_ms, (Phrase(text, values),), said)


def _memory(limit: Memory, evidence: Evidence) -> Gate:
    said = (Phrase("at most {value} MB", {"value": limit.growth_mb}),)
    grown, reason = evidence.weight()
    if grown is not None:
        measured = Phrase("{value} MB to load and score", {"value": round(grown, 1)})
        return Gate("memory", grown <= limit.growth_mb, (measured,), said)
    if not reason:
        return Gate("memory", None, (Phrase("this system does not tell"),), said)
    text = "the model failed in a process of its own: {reason}"
    return Gate("memory", False, (Phrase(text, {"reason": reason}),), said)


def _signature(limit: Empty, evidence: Evidence) -> Gate:
    said = (Phrase("nothing that consumers rely on is removed or narrowed"),)
    if evidence.champion is None:
        return Gate("signature", None, (Phrase("there is no champion yet"),), said)
    found = changes(evidence.champion.signature, evidence.candidate.signature)
    breaking = [Phrase(change.text, change.values) for change in found if change.breaking]
    if not breaking:
        return Gate("signature", True, (Phrase("{count} compatible changes", {"count": len(found)}),), said)
    return Gate("signature", False, tuple(breaking), said)


def _age(limit: Age, evidence: Evidence) -> Gate:
    made, now = datetime.fromisoformat(str(evidence.candidate.manifest["created"])), datetime.now(UTC)
    days = (now - made).total_seconds() / 86_400
    measured = [Phrase("candidate imported {days} days ago", {"days": round(days, 1)})]
    said = [Phrase("at most {days} days", {"days": limit.candidate_days_most})]
    passed = days <= limit.candidate_days_most
    if evidence.champion is not None and evidence.since:
        hours = (now - datetime.fromisoformat(evidence.since)).total_seconds() / 3600
        measured.append(Phrase("champion served {hours} hours", {"hours": round(hours, 1)}))
        said.append(Phrase("at least {hours} hours", {"hours": limit.champion_hours_least}))
        passed &= hours >= limit.champion_hours_least
    return Gate("age", passed, tuple(measured), tuple(said))


GATES: Mapping[str, Callable[[Any, Evidence], Gate]] = {
    "floors": _floors,
    "champion": _champion,
    "slices": _slices,
    "baseline": _baseline,
    "parity": _parity,
    "latency": _latency,
    "memory": _memory,
    "signature": _signature,
    "age": _age,
}


def _percent(share: float) -> float:
    return float(f"{100 * share:.3g}")


def _grown(share: float) -> Phrase:
    return Phrase("error {share}% higher" if share > 0 else "error {share}% lower", {"share": _percent(abs(share))})
