"""Checks of what the log holds: drift, data quality, and performance against feedback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["drift", "quality", "performance"]
State = Literal["unknown", "ok", "warning", "alert"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check of a column or a measure (``subject``).

    ``value`` is None and ``state`` unknown if there was not enough data; ``detail`` has the numbers behind it, and
    ``note``, one sentence for people.
    """

    kind: Kind
    subject: str
    value: float | None
    state: State
    detail: dict[str, Any]


def judge(value: float, warning: float, alert: float, proven: bool = True) -> State:
    """Compare a value with its limits; without proof that it is more than chance it is never an alarm."""
    if not proven or value <= warning:
        return "ok"
    return "alert" if value > alert else "warning"


def worst(checks: Sequence[Check]) -> State:
    """Return the worst state of the checks that had enough data."""
    judged = [check.state for check in checks if check.value is not None]
    return max(judged, key=get_args(State).index, default="unknown")


def too_few(kind: Kind, subject: str, rows: int, needed: int, of: str = "rows") -> Check:
    """Return the check that says that there is not enough data."""
    return Check(kind, subject, None, "unknown", {"rows": rows, "note": f"not enough data: {rows} of {needed} {of}"})
