"""Run every check on the champion and keep the results in the log."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import structlog

from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store.database import Store
from ..store.frames import predictions_frame
from ..store.tables import checks as table
from . import Check, State, drift, performance, quality, worst

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """All checks of the champion: how many of its predictions were looked at, the worst state, the results."""

    model_version: str
    rows: int
    state: State
    checks: list[Check]


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
        checks = drift.check(bundle, frame, limits)
        checks += quality.check(store, bundle, frame, since, limits)
        checks += performance.check(store, bundle, since, limits)
        same = {"model_version": bundle.version}
        rows = [
            {
                **asdict(check),
                "time": now,
                "subject": check.subject[:255],
                "detail": json.dumps(check.detail | same, allow_nan=False),
            }
            for check in checks
        ]
        with store.write() as connection:
            connection.execute(table.insert(), rows)
    state = worst(checks)
    log.info("checked", model_version=bundle.version, rows=frame.height, checks=len(checks), state=state)
    return Summary(bundle.version, frame.height, state, checks)
