"""Performance: what came true, against what was predicted and what the hold-out promised."""

from __future__ import annotations

import json
from datetime import datetime
from math import sqrt

import numpy as np
import polars as pl
from sqlalchemy import select

from ..models.bundle import Bundle
from ..models.metrics import evaluate
from ..settings import Monitoring
from ..signature import PREDICTION, PROBABILITY
from ..store.database import Store
from ..store.tables import feedback, predictions
from . import Check, judge, too_few

MEASURES = {"regression": ("mae", "rmse"), "classification": ("accuracy", "log_loss")}
MOST = 100_000  # newest feedback that is read
Z = 1.96  # 95% interval


def check(store: Store, bundle: Bundle, since: datetime, limits: Monitoring) -> list[Check]:
    """Measure the champion on the feedback that came in since a time, whenever the predictions were made.

    One check a measure, with its 95% interval, judged by the ratio of the error to that of the hold-out.
    """
    task = bundle.signature.task
    truth, output, unusable = _joined(store, bundle, since)
    rows, needed = truth.len(), limits.minimum_rows
    if rows < needed:
        return [too_few("performance", name, rows, needed, "predictions with feedback") for name in MEASURES[task]]
    checks = [_compare(name, bundle, truth, output, limits) for name in MEASURES[task]]
    for one in checks:
        one.detail.update(measures=evaluate(task, truth, output), unusable=unusable)
    return checks


def _joined(store: Store, bundle: Bundle, since: datetime) -> tuple[pl.Series, pl.DataFrame, int]:
    """Return the truth, the outputs beside it, and how many actual values are of no use to the task."""
    query = (
        select(feedback.c.actual, predictions.c.output)
        .join(predictions, predictions.c.id == feedback.c.prediction_id)
        .where(feedback.c.time >= since, predictions.c.model_version == bundle.version)
        .order_by(feedback.c.time.desc())
        .limit(MOST)
    )
    with store.read() as connection:
        found = [(json.loads(actual), json.loads(output)) for actual, output in connection.execute(query)]
    regression = bundle.signature.task == "regression"
    kind, dtype = (float, pl.Float64) if regression else (str, pl.String)
    right = (int, float) if regression else (str, int, float)
    usable = [
        (actual, output)
        for actual, output in found
        if isinstance(actual, right) and None not in output.values()
        if not regression or (not isinstance(actual, bool) and np.isfinite(actual))
    ]
    truth = pl.Series("actual", [kind(actual) for actual, _ in usable], dtype=dtype)
    columns = {column.name: [output.get(column.name) for _, output in usable] for column in bundle.signature.outputs}
    columns[PREDICTION] = [kind(one) for one in columns[PREDICTION]]
    return truth, pl.DataFrame(columns), len(found) - len(usable)


def _losses(name: str, truth: pl.Series, output: pl.DataFrame) -> np.ndarray | None:
    """Return the loss of each row, whose mean makes the measure; None if a class is unknown to the model."""
    if name == "accuracy":
        return (truth != output[PREDICTION]).to_numpy().astype(float)
    if name == "log_loss":
        shares = output.select(pl.col(f"^{PROBABILITY}.*$").name.map(lambda name: name.removeprefix(PROBABILITY)))
        if not set(truth.unique()) <= set(shares.columns):
            return None
        of_truth = shares.to_numpy()[np.arange(truth.len()), [shares.columns.index(label) for label in truth]]
        return np.asarray(-np.log(np.clip(of_truth, np.finfo(float).eps, 1)))
    return np.asarray(np.abs(truth.to_numpy() - output[PREDICTION].to_numpy()) ** (2 if name == "rmse" else 1))


def _compare(name: str, bundle: Bundle, truth: pl.Series, output: pl.DataFrame, limits: Monitoring) -> Check:
    losses, promised, rows = _losses(name, truth, output), bundle.metrics.get(name), truth.len()
    if losses is None:
        note = "cannot be judged: the feedback has a class that the model gives no probability for"
        return Check("performance", name, None, "unknown", {"rows": rows, "note": note})
    mean, half = float(losses.mean()), Z * float(losses.std(ddof=1)) / sqrt(rows) if rows > 1 else 0.0
    errors = (mean, max(0.0, mean - half), mean + half)
    error, best, worst = map(sqrt, errors) if name == "rmse" else errors
    turned = name == "accuracy"  # its error is 1 - accuracy
    value, low, high = (1 - error, max(0.0, 1 - worst), 1 - best) if turned else (error, best, worst)
    note = f"{value:.4g} ({low:.4g} to {high:.4g}) over {rows} rows"
    detail = {"rows": rows, "low": round(low, 6), "high": round(high, 6), "reference": promised}
    if promised is None:
        note += "; the model was imported without a target, so there is nothing to compare with"
        return Check("performance", name, round(value, 6), "unknown", {**detail, "note": note})
    # A hold-out without any error promises no more than its size can show.
    floor = 1 / max(1, int(bundle.metrics.get("rows", 1))) if turned else 1e-9
    before = max(1 - promised if turned else promised, floor)
    state = judge(error / before, limits.error_warning, limits.error_alert, proven=best > before)
    detail |= {"ratio": round(error / before, 6), "note": f"{note}; {promised:.4g} on the hold-out"}
    return Check("performance", name, round(value, 6), state, detail)
