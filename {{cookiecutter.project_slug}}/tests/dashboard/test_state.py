from __future__ import annotations

import json
from datetime import timedelta

import msgspec
import pytest
from typer.testing import CliRunner

from project.commands import build
from project.dashboard.reader import Reader
from project.dashboard.state import Item, Status, judge_checks, verdict
from project.models.registry import CHAMPION, Registry
from project.settings import Settings
from project.store.database import Store

from .conftest import Log


def read(settings: Settings, hours: int = 24) -> Status:
    reader = Reader(settings)
    try:
        return reader.status(hours)
    finally:
        reader.close()


def item(status: Status, name: str) -> Item:
    return next(item for item in status.health if item.name == name)


def figure(status: Status, name: str) -> str:
    return next(figure.value for figure in status.figures if figure.name == name)


def with_mode(settings: Settings, mode: str) -> Settings:
    return settings.model_copy(update={"project": settings.project.model_copy(update={"mode": mode})})


def test_a_busy_project_is_healthy_and_counted(busy: Settings) -> None:
    status = read(busy, 1)
    assert (status.state, status.why) == ("healthy", "Store and model are in order, and so is all that is watched.")
    assert figure(status, "Requests") == str(12 * 41 + 4)
    assert figure(status, "Failed requests") == "0.00%"
    assert figure(status, "Latency, median") == "2 ms"
    assert figure(status, "Predictions") == "150"
    assert figure(status, "With feedback") == "1"
    assert (figure(status, "Rows published"), figure(status, "Rows quarantined")) == ("93", "7")
    assert status.champion is not None
    assert status.champion.task == "regression"
    assert {"mae", "rmse", "r2"} <= set(status.champion.metrics)
    assert status.runs[0]["id"] == "r2"
    assert status.runs[0]["reasons"] == {"staff: type": 7}


@pytest.mark.parametrize(("hours", "step"), [(1, 60), (24, 600), (168, 3600)])
def test_every_time_bin_is_there_and_no_request_is_lost(busy: Settings, hours: int, step: int) -> None:
    status = read(busy, hours)
    gaps = {later.time - sooner.time for sooner, later in zip(status.traffic, status.traffic[1:], strict=False)}
    assert gaps == {timedelta(seconds=step)}
    assert sum(point.total for point in status.traffic) == 12 * 41 + 4
    assert any(point.p99 is None for point in status.traffic)


def test_only_the_api_counts_as_traffic(busy: Settings) -> None:
    log = Log(busy)
    log.traffic(3, 200, 500, route="/health/live")
    log.store.close()
    assert figure(read(busy, 1), "Requests") == str(12 * 41 + 4)


def test_an_empty_project_is_down_and_says_what_to_do(settings: Settings) -> None:
    status = read(settings)
    assert status.state == "down"
    assert "model import PATH --sample ROWS.csv" in status.why
    assert item(status, "Store").state == "ok"
    assert item(status, "Requests").state == "unknown"
    assert "monitor run" in item(status, "Drift").text
    assert status.champion is None


def test_a_fresh_model_without_any_event_is_healthy(champion: Settings) -> None:
    status = read(champion)
    assert status.state == "healthy"
    assert "nothing to judge yet" in status.why


def test_a_corrupt_bundle_is_down_and_named(busy: Settings) -> None:
    bundle = Registry(busy).load(CHAMPION)
    bundle.model_file.write_bytes(bundle.model_file.read_bytes() + b"x")
    status = read(busy)
    assert status.state == "down"
    assert bundle.model_file.name in status.why
    assert figure(status, "Predictions") == "150"  # the rest can still be read


def test_a_store_that_cannot_be_used_is_down_and_comes_back(champion: Settings) -> None:
    store = champion.path("data/store.db")
    for path in store.parent.glob("store.db*"):
        path.unlink()
    store.mkdir()
    reader = Reader(champion)
    broken = reader.status()
    assert broken.state == "down"
    assert "store" in broken.why
    assert item(broken, "Model").state == "ok"
    store.rmdir()
    assert reader.status().state == "healthy"
    reader.close()


def test_a_read_only_store_is_down(champion: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(champion).close()
    monkeypatch.setattr(
        "project.store.database._sqlite_pragmas", lambda connection, _: connection.execute("PRAGMA query_only=1")
    )
    status = read(champion)
    assert status.state == "down"
    assert "cannot be used" in status.why


def test_what_nobody_foresaw_is_told_not_raised(busy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("project.dashboard.reader.queries.recent_runs", lambda *_: 1 / 0)
    status = read(busy)
    assert status.state == "degraded"
    assert "ZeroDivisionError" in item(status, "Batch runs").text
    assert item(status, "Drift").state == "ok"


def test_failing_requests_degrade_after_enough_of_them(champion: Settings) -> None:
    log = Log(champion)
    log.traffic(2, 500, 5)
    assert item(read(champion), "Requests").state == "ok"  # five requests are no evidence
    log.traffic(2, 200, 60)
    status = read(champion)
    assert status.state == "degraded"
    assert status.why.startswith("Requests: 5 of 65 failed")
    log.store.close()


def test_an_old_incident_does_not_degrade_the_present(busy: Settings) -> None:
    log = Log(busy)
    log.traffic(300, 500, 900)
    log.store.close()
    assert read(busy, 168).state == "healthy"


def test_the_newest_run_decides(busy: Settings) -> None:
    log = Log(busy)
    log.run(3, "failed", hours=0.5, error="too many bad rows")
    status = read(busy)
    assert status.state == "degraded"
    assert "Too many bad rows." in status.why
    log.run(4, "running", hours=0.1)
    assert item(read(busy), "Batch runs").state == "ok"
    log.store.close()


def test_a_run_that_never_ended_is_a_warning(champion: Settings) -> None:
    log = Log(champion)
    log.run(1, "running", hours=30)
    log.store.close()
    found = item(read(champion), "Batch runs")
    assert found.state == "warning"
    assert "pipeline resume" in found.text


def test_checks_of_an_earlier_model_raise_no_alarm(champion: Settings) -> None:
    log = Log(champion)
    log.check("drift", "temperature", 0.9, "alert", model_version="another")
    status = read(champion)
    assert item(status, "Drift").state == "unknown"
    assert not status.checks[0].current
    log.check("drift", "staff", 0.9, "alert", model_version=Registry(champion).resolve(CHAMPION))
    status = read(champion)
    assert item(status, "Drift").text.startswith("Alert for staff")
    assert [check.subject for check in status.checks] == ["staff"]
    log.store.close()


def test_a_value_that_is_no_number_is_left_out(champion: Settings) -> None:
    log = Log(champion)
    log.check("performance", "mae", float("inf"), "surprise")
    log.store.close()
    status = read(champion)
    assert (status.checks[0].value, status.checks[0].state) == (None, "unknown")
    assert "Infinity" not in msgspec.json.encode(status).decode()


@pytest.mark.parametrize(("mode", "gone"), [("batch", "Requests"), ("real-time", "Batch runs")])
def test_the_mode_decides_what_is_watched(busy: Settings, mode: str, gone: str) -> None:
    status = read(with_mode(busy, mode))
    assert gone not in {item.name for item in status.health}
    assert not (status.runs if mode == "real-time" else status.traffic)


def test_predictions_are_compared_with_the_reference(busy: Settings) -> None:
    status = read(busy)
    assert sum(one.reference for one in status.predictions) == pytest.approx(1)
    assert sum(one.current for one in status.predictions) == pytest.approx(1)


def test_few_predictions_are_not_compared(champion: Settings) -> None:
    log = Log(champion)
    log.predictions(Registry(champion).resolve(CHAMPION), 3)
    log.store.close()
    status = read(champion)
    assert (status.predictions, status.predictions_read) == ([], 3)


def test_verdict_names_the_first_problem_and_counts_the_rest() -> None:
    alerts = [Item("Drift", "alert", "Alert for a."), Item("Performance", "alert", "Alert for mae.")]
    assert verdict(alerts) == ("degraded", "Drift: Alert for a. And 1 more: see Health.")
    assert verdict([Item("Drift", "warning", "x")])[0] == "healthy"
    assert judge_checks("Drift", [], "tool").state == "unknown"


def test_the_command_prints_the_same_and_ends_with_its_state(
    busy: Settings, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(busy.root)
    told = CliRunner().invoke(build(), ["status"])
    assert told.exit_code == 0
    assert "healthy" in told.output
    assert "93" in told.output
    document = json.loads(CliRunner().invoke(build(), ["status", "--json", "--range", "1h"]).output)
    assert document["state"] == "healthy"
    assert document["time"].endswith("Z")
    monkeypatch.chdir(settings.root)
    down = CliRunner().invoke(build(), ["status"])
    assert down.exit_code == 1
    assert "model import" in down.output
