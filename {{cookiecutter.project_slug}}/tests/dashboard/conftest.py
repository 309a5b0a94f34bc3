"""A log with plausible content: traffic of the last hours, predictions, runs, checks."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from project.models.registry import CHAMPION, Registry
from project.settings import PREFIX, Settings
from project.store.database import Store
from project.store.events import add_traffic
from project.store.tables import checks, feedback, model_events, predictions, quarantine, runs

Requests = Counter[tuple[float, str, int, float]]


@pytest.fixture(autouse=True)
def _every_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show all sections, whatever this project was made for; tests of the other modes set theirs."""
    monkeypatch.setenv(f"{PREFIX}PROJECT__MODE", "both")


class Log:
    """Writes into the log of a project."""

    def __init__(self, settings: Settings) -> None:
        self.now = datetime.now(UTC)
        self.store = Store(settings)

    def traffic(
        self, minutes: int, status: int, requests: int, bucket: float = 0.002, route: str = "/v1/predict"
    ) -> None:
        """So many requests in one minute, some minutes ago."""
        minute = (self.now - timedelta(minutes=minutes)).timestamp() // 60 * 60
        with self.store.write() as connection:
            add_traffic(connection, Requests({(minute, route, status, bucket): requests}))

    def predictions(self, version: str, count: int, value: float = 50.0) -> None:
        """So many predictions of the last minutes, the first with feedback."""
        row = {"at": "2025-01-01T00:00:00Z", "temperature": 1.5, "station": "north", "staff": 1, "open": True}
        made = [
            {
                "id": f"p{number}",
                "time": self.now - timedelta(seconds=number),
                "model_version": version,
                "source": "http",
                "inputs": json.dumps(row),
                "output": json.dumps({"prediction": value + number % 7}),
            }
            for number in range(count)
        ]
        with self.store.write() as connection:
            connection.execute(predictions.insert(), made)
            connection.execute(feedback.insert(), [{"prediction_id": "p0", "time": self.now, "actual": "51"}])

    def run(self, number: int, status: str = "succeeded", hours: float = 1, **more: Any) -> None:
        """A batch run that started some hours ago: 100 rows, 7 in quarantine; ``more`` of its columns."""
        published = 93 if status == "succeeded" else 0
        row = {"id": f"r{number}", "key": f"k{number}", "status": status, "input": "/in/new.csv", "output": "out"}
        row |= {"started": self.now - timedelta(hours=hours), "model_version": "v1", "seconds": 0.5}
        row |= {"rows_in": 100, "rows_published": published, "rows_quarantined": 7} | more
        with self.store.write() as connection:
            connection.execute(runs.insert(), row)
            connection.execute(quarantine.insert(), {"run_id": f"r{number}", "reason": "staff: type", "rows": 7})

    def check(self, kind: str, subject: str, value: float | None, state: str, **detail: Any) -> None:
        """The result of a check, just now."""
        row = {"time": self.now, "kind": kind, "subject": subject, "value": value, "state": state}
        with self.store.write() as connection:
            connection.execute(checks.insert(), {**row, "detail": json.dumps(detail)})

    def promotion(self, version: str, hours: float) -> None:
        """A promotion some hours ago."""
        row = {"time": self.now - timedelta(hours=hours), "action": "promote", "alias": CHAMPION, "version": version}
        with self.store.write() as connection:
            connection.execute(model_events.insert(), {**row, "actor": "ada", "reason": "<b>better</b>"})


@pytest.fixture
def busy(champion: Settings) -> Settings:
    """A project that has worked well for some hours."""
    log, version = Log(champion), Registry(champion).resolve(CHAMPION)
    log.promotion(version, 30)
    for minutes in range(2, 50, 4):
        log.traffic(minutes, 200, 40)
        log.traffic(minutes, 422, 1)
    log.traffic(9, 200, 4, bucket=0.1)
    log.predictions(version, 150)
    log.run(1, hours=2)
    log.run(2, hours=1)
    for column, value in (("temperature", 0.02), ("station", 0.01)):
        log.check("drift", column, value, "ok", model_version=version, note="PSI")
    log.check("quality", "rejected rows", 0.01, "ok", model_version=version)
    log.check("performance", "mae", 3.1, "ok", model_version=version)
    log.store.close()
    return champion
