"""How good predictions are against the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..signature import PREDICTION, PROBABILITY, Task

if TYPE_CHECKING:
    import polars as pl


def evaluate(task: Task, truth: pl.Series, output: pl.DataFrame) -> dict[str, Any]:
    """Measure predictions.

    Args:
        task: regression or classification.
        truth: the actual values, without missing ones.
        output: the model's output columns, row by row beside ``truth``.

    Returns:
        ``rows`` and the measures, rounded to six digits. Regression: mae, rmse, r2, bias (mean of prediction
        minus truth). Classification: accuracy, balanced_accuracy, f1_macro, and with probabilities log_loss
        and roc_auc (one against the rest, averaged over the classes, where there are more than two). A measure that
        the data do not allow (one class only, say) is left out.
    """
    measures = _regression if task == "regression" else _classification
    values = measures(truth, output) if truth.len() else {}
    finite = {name: float(f"{value:.6g}") for name, value in values.items() if np.isfinite(value)}
    return {"rows": truth.len(), **finite}


def _regression(truth: pl.Series, output: pl.DataFrame) -> dict[str, float]:
    actual = truth.to_numpy().astype(float)
    difference = output[PREDICTION].to_numpy().astype(float) - actual
    spread = float(np.sum((actual - actual.mean()) ** 2))
    return {
        "mae": float(np.mean(np.abs(difference))),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "r2": 1 - float(np.sum(difference**2)) / spread if spread else float("nan"),
        "bias": float(np.mean(difference)),
    }


def _classification(truth: pl.Series, output: pl.DataFrame) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

    actual = [str(value) for value in truth.to_list()]
    predicted = [str(value) for value in output[PREDICTION].to_list()]
    classes = [name.removeprefix(PROBABILITY) for name in output.columns if name.startswith(PROBABILITY)]
    present = sorted(set(actual))
    values = {
        "accuracy": accuracy_score(actual, predicted),
        "balanced_accuracy": np.mean(
            [np.mean([p == label for a, p in zip(actual, predicted, strict=True) if a == label]) for label in present]
        ),
        "f1_macro": f1_score(actual, predicted, average="macro", zero_division=0),
    }
    if classes and set(present) <= set(classes):
        order = sorted(classes)  # scikit-learn wants the columns in the order of the sorted labels
        shares = output.select(f"{PROBABILITY}{label}" for label in order).to_numpy().astype(float)
        shares = np.clip(shares / shares.sum(axis=1, keepdims=True), 0, 1)
        values["log_loss"] = log_loss(actual, shares, labels=order)
        if len(present) > 1:
            values["roc_auc"] = (
                roc_auc_score([label == order[1] for label in actual], shares[:, 1])
                if len(order) == 2
                else np.mean(
                    [roc_auc_score([label == one for label in actual], shares[:, order.index(one)]) for one in present]
                )
            )
    return {name: float(value) for name, value in values.items()}
