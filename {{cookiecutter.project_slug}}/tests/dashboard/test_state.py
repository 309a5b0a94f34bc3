from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import vl_convert
from typer.testing import CliRunner

from project.commands import build
from project.dashboard.charts import chart_rows, spec
from project.dashboard.state import Item, Reader, Row, Status, judge_checks, verdict
from project.models.registry import CHAMPION, Registry
from project.settings import Settings
from project.store.database import Store

from .conftest import Log


def read(settings: Settings, chosen: str = "24h") -> Status:
    reader = Reader(settings)
    try:
        return reader.status(chosen)
    finally:
        reader.close()


def item(status: Status, name: str) -> Item:
    return next(item for item in status.health if item.name == name)


def figure(status: Status, name: str) -> str:
    return next(figure.text for figure in status.figures if figure.name == name)


def with_mode(settings: Settings, mode: str) -> Settings:
    return settings.model_copy(update={"project": settings.project.model_copy(update={"mode": mode})})


def drawn(settings: Settings, mode: str = "both", chosen: str = "24h") -> dict[str, list[Row]]:
    settings = with_mode(settings, mode)
    return chart_rows(read(settings, chosen), settings.monitoring)


def test_a_busy_project_is_healthy_and_counted(busy: Settings) -> None:
    status = read(busy, "1h")
    assert (status.state, status.why) == ("healthy", "Store and model are in order, and so is all that is watched.")
    assert figure(status, "Requests") == str(12 * 41 + 4)
    assert figure(status, "Failed requests") == "0.00%"
    assert figure(status, "Latency, median") == "2 ms"
    assert figure(status, "Predictions") == "150"
    assert figure(status, "With feedback") == "1"
    assert (figure(status, "Rows published"), figure(status, "Rows quarantined")) == ("93", "7")
    assert status.champion is not None
    assert status.champion["task"] == "regression"
    assert {"mae", "rmse", "r2"} <= set(status.champion["metrics"])
    assert status.runs[0]["id"] == "r2"
    assert status.runs[0]["reasons"] == {"staff: type": 7}


@pytest.mark.parametrize(("chosen", "hours", "step"), [("1h", 1, 60), ("24h", 24, 600), ("7d", 168, 3600)])
def test_every_time_bin_is_there_and_no_request_is_lost(busy: Settings, chosen: str, hours: int, step: int) -> None:
    status = read(busy, chosen)
    assert timedelta(hours=hours) <= status.time - status.traffic[0]["time"] < timedelta(hours=hours, seconds=step + 1)
    gaps = {later["time"] - sooner["time"] for sooner, later in zip(status.traffic, status.traffic[1:], strict=False)}
    assert gaps == {timedelta(seconds=step)}
    assert sum(point["requests"] for point in status.traffic) == 12 * 41 + 4
    assert any(point["p99"] is None for point in status.traffic)


def test_only_the_api_counts_as_traffic(busy: Settings) -> None:
    log = Log(busy)
    log.traffic(3, 200, 500, route="/health/live")
    log.store.close()
    assert figure(read(busy, "1h"), "Requests") == str(12 * 41 + 4)


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
    monkeypatch.setattr("project.dashboard.state.queries.recent_runs", lambda *_: 1 / 0)
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
    assert read(busy, "7d").state == "healthy"


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
    assert not status.checks[0]["current"]
    log.check("drift", "staff", 0.9, "alert", model_version=Registry(champion).resolve(CHAMPION))
    status = read(champion)
    assert item(status, "Drift").text.startswith("Alert for staff")
    assert [check["subject"] for check in status.checks] == ["staff"]
    log.store.close()


def test_a_value_that_is_no_number_is_left_out(champion: Settings) -> None:
    log = Log(champion)
    log.check("performance", "mae", float("inf"), "surprise")
    log.store.close()
    status = read(champion)
    assert (status.checks[0]["value"], status.checks[0]["state"]) == (None, "unknown")
    assert "Infinity" not in msgspec.json.encode(status).decode()


@pytest.mark.parametrize(("mode", "gone"), [("batch", "Requests"), ("real-time", "Batch runs")])
def test_the_mode_decides_what_is_watched(busy: Settings, mode: str, gone: str) -> None:
    status = read(with_mode(busy, mode))
    assert gone not in {item.name for item in status.health}
    assert not (status.runs if mode == "real-time" else status.traffic)


def test_predictions_are_compared_with_the_reference(busy: Settings) -> None:
    status = read(busy)
    assert sum(one["reference"] for one in status.predictions) == pytest.approx(1, abs=1e-3)
    assert sum(one["now"] for one in status.predictions) == pytest.approx(1, abs=1e-3)


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


def test_every_chart_of_a_busy_project_is_drawn(busy: Settings) -> None:
    for name, rows in drawn(busy).items():
        text = msgspec.json.encode({**(spec(name, rows) or {}), "width": 640}).decode()
        picture = ElementTree.fromstring(vl_convert.vegalite_to_svg(text, allowed_base_urls=[]))
        assert picture.tag.endswith("svg")
        assert len(list(picture.iter("{http://www.w3.org/2000/svg}path"))) > 3, name


def test_specifications_are_strict_json_and_complete(busy: Settings) -> None:
    for chosen in ("1h", "24h", "7d"):
        for name, rows in drawn(busy, chosen=chosen).items():
            text = json.dumps(spec(name, rows), allow_nan=False)
            assert '"background": "transparent"' in text
            assert "http://" not in text


def test_nothing_to_draw_is_no_chart(settings: Settings) -> None:
    assert all(spec(name, rows) is None for name, rows in drawn(settings).items())


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("both", ["traffic", "errors", "latency", "predictions", "drift", "runs"]),
        ("real-time", ["traffic", "errors", "latency", "predictions", "drift"]),
        ("batch", ["predictions", "drift", "runs"]),
    ],
)
def test_the_mode_decides_which_charts_there_are(settings: Settings, mode: str, names: list[str]) -> None:
    assert list(drawn(settings, mode)) == names


def test_a_change_of_rows_keeps_the_shape(busy: Settings) -> None:
    def shapes() -> dict[str, dict[str, Any]]:
        specs = {name: spec(name, rows) or {} for name, rows in drawn(busy).items()}
        return {name: {key: one[key] for key in one if key != "data"} for name, one in specs.items()}

    before = shapes()
    log = Log(busy)
    log.traffic(1, 500, 3)
    log.run(5, hours=0.2)
    log.store.close()
    assert shapes() == before


def test_drift_is_sorted_cut_and_told(busy: Settings) -> None:
    log, version = Log(busy), Registry(busy).resolve(CHAMPION)
    log.check("drift", "staff", 7.5, "alert", model_version=version)
    log.check("drift", "at", None, "ok", model_version=version)
    log.store.close()
    found = drawn(busy)["drift"]
    assert [row["column"] for row in found] == ["staff", "temperature", "station"]
    assert found[0] == {"column": "staff", "psi": 1.0, "told": "7.500", "state": "alert", "low": 0.1, "high": 0.25}


def test_rows_of_a_failed_run_are_told_as_not_published(busy: Settings) -> None:
    log = Log(busy)
    log.run(3, "failed", hours=0.5)
    log.store.close()
    last = next(row for row in drawn(busy)["runs"] if row["run"] == "r3")
    assert [last[fate] for fate in ("published", "quarantined", "not published")] == [0, 7, 93]


def test_a_class_is_charted_like_a_number(classifier: Settings) -> None:
    version = Registry(classifier).resolve(CHAMPION)
    log = Log(classifier)
    log.predictions(version, 120)
    log.store.close()
    labels = {row["predicted"] for row in drawn(classifier)["predictions"]}
    assert {"no", "yes"} <= labels
