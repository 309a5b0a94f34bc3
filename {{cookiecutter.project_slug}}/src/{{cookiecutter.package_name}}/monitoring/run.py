"""Run every check on the champion and keep the results in the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store.database import Store
from ..store.queries import predictions_frame
from ..store.tables import checks as table
from . import Check, State, drift, performance, quality

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """All checks of one moment.

    Attributes:
        time: of the checks.
        model_version: the champion.
        rows: its predictions in the window that were looked at.
        state: the worst of the checks; unknown if not one could be judged.
        checks: the results.
    """

    time: datetime
    model_version: str
    rows: int
    state: State
    checks: tuple[Check, ...]


def run(settings: Settings) -> Summary:
    """Check the champion's last ``monitoring.window_hours``, and log the results.

    Raises:
        ProjectError: there is no champion, or the log cannot be used.
    """
    bundle = Registry(settings).load(CHAMPION)
    limits, now = settings.monitoring, datetime.now(UTC)
    since = now - timedelta(hours=limits.window_hours)
    with Store(settings) as store:
        frame = predictions_frame(store, bundle.signature, bundle.version, since)
        found = (
            *drift.check(bundle, frame, limits),
            *quality.check(store, bundle, frame, since, limits),
            *performance.check(store, bundle, since, limits),
        )
        rows = [
            {
                "time": now,
                "kind": check.kind,
                "subject": check.subject[:255],
                "value": check.value,
                "state": check.state,
                "detail": json.dumps({**check.detail, "model_version": bundle.version}, allow_nan=False),
            }
            for check in found
        ]
        with store.write() as connection:
            connection.execute(table.insert(), rows)
    summary = Summary(now, bundle.version, frame.height, worst(found), found)
    log.info("checked", model_version=bundle.version, rows=frame.height, checks=len(found), state=summary.state)
    return summary


def worst(checks: Sequence[Check]) -> State:
    """Return the state that the checks have together."""
    states = {check.state for check in checks if check.value is not None or check.state == "unknown"}
    for state in ("alert", "warning", "ok"):
        if state in states:
            return state
    return "unknown"
