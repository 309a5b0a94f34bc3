"""Monitoring from the log: right, or "not enough data"; never NaN, never a false alarm."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from project.errors import ProjectError
from project.models.registry import CHAMPION, Registry
from project.models.scorer import Scorer
from project.monitoring.run import run
from project.store.database import Store
from project.store.frames import predictions_frame
from project.store.queries import latest_checks
from project.store.tables import feedback, predictions, quarantine, runs, traffic

INPUTS = ["at", "temperature", "station", "staff", "open"]


def fill(settings, rows, target=None, actual=None, hours=0.0, version=None):
    """Log the champion's predictions for rows, with feedback from a column or a function of the output."""
    bundle = Registry(settings).load(CHAMPION)
    inputs = rows.select(INPUTS)
    texts = inputs.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()
    outputs = Scorer(bundle).frame(inputs).to_dicts()
    now = datetime.now(UTC) - timedelta(hours=hours)
    made, back = [], []
    for place, (given, output) in enumerate(zip(texts, outputs, strict=True)):
        made.append(
            {
                "id": f"{hours}-{place}",
                "time": now,
                "model_version": version or bundle.version,
                "source": "http",
                "inputs": json.dumps(given),
                "output": json.dumps(output),
            }
        )
        truth = rows[target][place] if target else actual(output) if actual else None
        if truth is not None:
            back.append({"prediction_id": made[-1]["id"], "time": datetime.now(UTC), "actual": json.dumps(truth)})
    with Store(settings) as store, store.write() as connection:
        connection.execute(predictions.insert(), made)
        if back:
            connection.execute(feedback.insert(), back)


def checked(settings):
    """Run all checks; return them by kind and subject, after a look for NaN and at what was logged."""
    summary = run(settings)
    for check in summary.checks:
        json.dumps(check.detail, allow_nan=False)
        assert check.value is None or math.isfinite(check.value)
        assert check.detail["note"]
        if check.state == "unknown":
            assert "not" in check.detail["note"]
    with Store(settings) as store:
        logged = latest_checks(store)
    assert {(row["kind"], row["subject"], row["state"]) for row in logged} == {
        (check.kind, check.subject, check.state) for check in summary.checks
    }
    assert len({row["time"] for row in logged}) == 1
    assert {row["detail"]["model_version"] for row in logged} == {summary.model_version}
    return summary, {(check.kind, check.subject): check for check in summary.checks}


def more(rows, count, seed=1):
    return rows.sample(count, with_replacement=True, seed=seed)


def test_without_a_champion(settings):
    with pytest.raises(ProjectError, match="promote"):
        run(settings)


@pytest.mark.parametrize("count", [0, 3, 99])
def test_too_few_events_are_not_judged(champion, rows, count):
    if count:
        fill(champion, rows.head(count), "hires")
    summary, checks = checked(champion)
    assert summary.state == "unknown"
    assert {check.state for check in summary.checks if check.value is not None} == set()
    assert checks["drift", "station"].detail["note"] == f"not enough data: {count} of 100 rows"


def test_rows_like_the_sample_raise_no_alarm(champion, rows):
    fill(champion, rows, "hires")
    summary, checks = checked(champion)
    assert summary.state == "ok"
    drift = checks["drift", "temperature"]
    assert sum(drift.detail["expected"]) == pytest.approx(1, abs=1e-4)
    assert sum(drift.detail["actual"]) == pytest.approx(1, abs=1e-4)
    assert len(drift.detail["labels"]) == len(drift.detail["expected"]) == len(drift.detail["actual"])
    assert 0 <= drift.detail["distance"] <= 1
    assert "time" in checks["drift", "at"].detail["note"]
    for name in ("mae", "rmse"):
        performance = checks["performance", name]
        assert performance.detail["low"] < performance.value < performance.detail["high"]
        assert performance.detail["measures"][name] == pytest.approx(performance.value, rel=1e-4)


def test_chance_alone_is_no_drift(champion, rows):
    for seed in range(10):
        hours = 0.01 * (seed + 1)
        fill(champion, more(rows, 100, seed), hours=hours)
    for window in (0.015, 0.035, 0.105):
        limits = champion.monitoring.model_copy(update={"window_hours": window})
        summary, _ = checked(champion.model_copy(update={"monitoring": limits}))
        assert summary.state == "ok"


def test_drift_is_found_in_the_column_that_moved(champion, rows):
    fill(champion, rows.with_columns(station=pl.lit("airport"), staff=pl.col("staff") + 3))
    summary, checks = checked(champion)
    assert summary.state == "alert"
    moved = {subject for (kind, subject), check in checks.items() if kind == "drift" and check.state == "alert"}
    assert {"station", "staff"} <= moved
    assert not {"temperature", "open"} & moved
    assert checks["drift", "station"].detail["new"] == 1.0
    assert checks["quality", "staff: out of range"].state == "alert"


def test_all_values_missing(champion, rows):
    fill(champion, rows.with_columns(temperature=pl.lit(None, dtype=pl.Float64)))
    _, checks = checked(champion)
    assert checks["drift", "temperature"].state == "alert"
    assert checks["quality", "temperature: missing"].value == 1.0
    assert checks["quality", "temperature: missing"].state == "alert"
    assert checks["quality", "temperature: out of range"].state == "unknown"


def test_constant_columns(champion, rows):
    fill(champion, pl.concat([rows.head(1)] * 150), actual=lambda output: 50.0)
    _, checks = checked(champion)
    assert checks["drift", "station"].state == "alert"
    assert checks["performance", "mae"].value is not None


def test_only_the_window_and_the_champion_count(champion, rows):
    fill(champion, rows.with_columns(station=pl.lit("airport")), hours=30)
    fill(champion, rows.with_columns(station=pl.lit("airport")), hours=1, version="another")
    summary, _ = checked(champion)
    assert (summary.rows, summary.state) == (0, "unknown")


def test_late_truth_counts_when_it_comes(champion, rows):
    fill(champion, rows, "hires", hours=100)
    _, checks = checked(champion)
    assert checks["performance", "mae"].state == "ok"


def test_a_model_that_got_worse(champion, rows):
    noise = np.random.default_rng(2).normal(0, 30, rows.height)
    fill(champion, rows.with_columns(hires=pl.col("hires") + noise), "hires")
    _, checks = checked(champion)
    assert checks["performance", "mae"].state == "alert"
    assert checks["performance", "mae"].detail["ratio"] > 1.5


def test_feedback_of_no_use_is_left_out(champion, rows):
    fill(champion, rows, actual=lambda output: "many" if output["prediction"] > 75 else output["prediction"])
    _, checks = checked(champion)
    detail = checks["performance", "rmse"].detail
    assert detail["unusable"] == rows.height - detail["rows"] > 0
    assert checks["performance", "rmse"].state == "ok"


def test_classes(classifier, rows):
    fill(classifier, rows, "busy")
    summary, checks = checked(classifier)
    assert summary.state == "ok"
    assert checks["performance", "accuracy"].value > 0.8
    assert checks["performance", "accuracy"].detail["measures"]["accuracy"] == pytest.approx(
        checks["performance", "accuracy"].value, rel=1e-4
    )
    assert checks["performance", "log_loss"].detail["measures"]["log_loss"] == pytest.approx(
        checks["performance", "log_loss"].value, rel=1e-3
    )


def test_one_class_only_and_a_class_never_seen(classifier, rows):
    fill(classifier, rows, actual=lambda output: output["prediction"] if output["prediction"] == "no" else None)
    _, checks = checked(classifier)
    assert (checks["performance", "accuracy"].value, checks["performance", "accuracy"].state) == (1.0, "ok")
    fill(classifier, rows, actual=lambda output: "perhaps", hours=0.5)
    _, checks = checked(classifier)
    assert checks["performance", "accuracy"].state == "alert"
    assert checks["performance", "log_loss"].state == "unknown"


def test_refused_requests_and_quarantined_rows(champion):
    now = datetime.now(UTC)
    run_row = {"key": "k", "started": now, "finished": now, "input": "", "output": "", "model_version": "v"}
    ended = {"id": "a", "status": "succeeded", "rows_in": 1000, "rows_published": 900, "rows_quarantined": 100}
    asked = [(200, 700), (422, 200), (400, 100), (401, 5000), (503, 50)]
    with Store(champion) as store, store.write() as connection:
        connection.execute(runs.insert(), [{**run_row, **ended}])
        connection.execute(quarantine.insert(), [{"run_id": "a", "reason": "staff: type", "rows": 100}])
        connection.execute(
            traffic.insert(),
            [
                {"minute": now, "route": "/v1/predict", "status": status, "bucket": 0.1, "requests": count}
                for status, count in asked
            ],
        )
    _, checks = checked(champion)
    batch, service = checks["quality", "quarantined rows"], checks["quality", "refused requests"]
    assert (batch.value, batch.state, batch.detail["reasons"]) == (0.1, "warning", {"staff: type": 100})
    assert (service.value, service.state) == (0.3, "alert")


def test_a_large_window_is_sampled_evenly(champion, rows):
    fill(champion, rows.sort("temperature"))
    bundle = Registry(champion).load(CHAMPION)
    with Store(champion) as store:
        whole, part, again = (
            predictions_frame(store, bundle.signature, bundle.version, limit=n) for n in (300, 70, 70)
        )
    assert (whole.height, part.height) == (300, 60)
    assert part.equals(again)
    assert part["id"].to_list() == whole["id"].to_list()[4::5]
