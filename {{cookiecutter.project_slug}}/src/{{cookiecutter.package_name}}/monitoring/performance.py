"""Performance: what came true, against what was predicted and what the hold-out promised."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from math import isfinite, sqrt
from typing import Any

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

Losses = np.ndarray[tuple[int], np.dtype[np.float64]]

MEASURES = {"regression": ("mae", "rmse"), "classification": ("accuracy", "log_loss")}
MOST = 100_000  # newest feedback that is read
Z = 1.96  # 95% interval


def check(store: Store, bundle: Bundle, since: datetime, limits: Monitoring) -> list[Check]:
    """Measure the champion on the feedback that came in since a time, whenever the predictions were made.

    Args:
        store: the log.
        bundle: the champion, with its hold-out measures.
        since: the beginning of the window.
        limits: the settings; the error may be so many times that of the hold-out.

    Returns:
        One check a measure, with its 95% interval.
    """
    task = bundle.signature.task
    truth, output, unusable = joined(store, bundle, since)
    if truth.len() < limits.minimum_rows:
        return [
            too_few("performance", name, truth.len(), limits.minimum_rows, "predictions with feedback")
            for name in MEASURES[task]
        ]
    found = [_compare(name, bundle, truth, output, limits) for name in MEASURES[task]]
    more = {"measures": evaluate(task, truth, output), "unusable": unusable}
    return [replace(check, detail={**check.detail, **more}) for check in found]


def joined(store: Store, bundle: Bundle, since: datetime) -> tuple[pl.Series, pl.DataFrame, int]:
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
    usable = [(actual, output) for actual, output in found if _usable(actual, output, regression)]
    kind = pl.Float64 if regression else pl.String
    truth = pl.Series("actual", [float(one) if regression else str(one) for one, _ in usable], dtype=kind)
    names = [column.name for column in bundle.signature.outputs]
    columns = {name: [output.get(name) for _, output in usable] for name in names}
    columns[PREDICTION] = [one if regression else str(one) for one in columns[PREDICTION]]
    return truth, pl.DataFrame(columns), len(found) - len(usable)


def _usable(actual: Any, output: dict[str, Any], regression: bool) -> bool:
    if any(value is None for value in (actual, *output.values())):
        return False
    number = isinstance(actual, int | float) and not isinstance(actual, bool)
    return number and isfinite(actual) if regression else isinstance(actual, str | int | float)


def _losses(name: str, truth: pl.Series, output: pl.DataFrame) -> Losses | None:
    """Return the loss of each row, whose mean makes the measure; None if a class is unknown to the model."""
    predicted = output[PREDICTION]
    if name == "accuracy":
        return (truth != predicted).to_numpy().astype(float)
    if name == "log_loss":
        names = [column for column in output.columns if column.startswith(PROBABILITY)]
        places = {column.removeprefix(PROBABILITY): place for place, column in enumerate(names)}
        if not set(truth.unique()) <= set(places):
            return None
        shares = output.select(names).to_numpy()[np.arange(truth.len()), [places[one] for one in truth]]
        return np.asarray(-np.log(np.clip(shares, np.finfo(float).eps, 1)))
    return np.asarray(np.abs(truth.to_numpy() - predicted.to_numpy()) ** (2 if name == "rmse" else 1))


def _compare(name: str, bundle: Bundle, truth: pl.Series, output: pl.DataFrame, limits: Monitoring) -> Check:
    """Judge a measure by the ratio of its error to that of the hold-out; of accuracy that is 1 - accuracy."""
    losses, promised, rows = _losses(name, truth, output), bundle.metrics.get(name), truth.len()
    if losses is None:
        note = "cannot be judged: the feedback has a class that the model gives no probability for"
        return Check("performance", name, None, "unknown", {"rows": rows, "note": note})
    mean, half = float(losses.mean()), Z * float(losses.std(ddof=1)) / sqrt(rows) if rows > 1 else 0.0
    errors = (mean, max(0.0, mean - half), mean + half)
    error, best, worst = map(sqrt, errors) if name == "rmse" else errors
    turned = name == "accuracy"
    value, low, high = (1 - error, max(0.0, 1 - worst), 1 - best) if turned else (error, best, worst)
    told = f"{value:.4g} ({low:.4g} to {high:.4g}) over {rows} rows"
    detail = {"rows": rows, "low": round(low, 6), "high": round(high, 6), "reference": promised}
    if promised is None:
        note = f"{told}; the model was imported without a target, so there is nothing to compare with"
        return Check("performance", name, round(value, 6), "unknown", {**detail, "note": note})
    # A hold-out without any error promises no more than its size can show.
    floor = 1 / max(1, int(bundle.metrics.get("rows", 1))) if turned else 1e-9
    before = max(1 - promised if turned else promised, floor)
    state = judge(error / before, limits.error_warning, limits.error_alert, proven=best > before)
    detail |= {"ratio": round(error / before, 6), "note": f"{told}; {promised:.4g} on the hold-out"}
    return Check("performance", name, round(value, 6), state, detail)
