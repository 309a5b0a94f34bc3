"""How good predictions are against the truth: overall, on parts of the rows, and beside a simple baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..signature import PREDICTION, PROBABILITY, Signature, Task

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray[Any, np.dtype[Any]]

# What decides between two models: the first of these that both have. Area under the ROC curve and balanced accuracy
# do not reward a model of unbalanced classes for always giving the common one; accuracy would.
MAIN: Mapping[Task, tuple[str, ...]] = {"regression": ("rmse",), "classification": ("roc_auc", "balanced_accuracy")}
MEASURES = ("rows", "mae", "rmse", "r2", "bias", "accuracy", "balanced_accuracy", "f1_macro", "log_loss", "roc_auc")
LOWER = frozenset({"mae", "rmse", "bias", "log_loss"})  # less is better; of all others more is
EPSILON = float(np.finfo(float).eps)
SLICE_ROWS, SLICE_VALUES = 30, 20
MISSING, OTHER = "(missing)", "(other)"
FOLDS, BASELINE_ROWS, LEAST_ROWS, BASELINE_CATEGORIES = 5, 20_000, 50, 30


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


def main_measure(task: Task, *measured: Mapping[str, Any]) -> str | None:
    """Return the name of the measure that decides, the first of `MAIN` that all have; None if there is none."""
    return next((name for name in MAIN[task] if all(name in one for one in measured)), None)


def growth(name: str, value: float, reference: float, rows: int) -> float:
    """Return by what share the error grows from ``reference`` to ``value``: 0.1 is a tenth worse, -0.1 a tenth better.

    The error of a score, of which more is better, is its distance from 1, so limits mean the same for every measure.
    ``rows`` bounds what a perfect reference can promise: one error in as many rows.
    """
    if name in LOWER:
        return abs(value) / max(abs(reference), 1e-9) - 1
    return max(1 - value, 1 / max(rows, 1)) / max(1 - reference, 1 / max(rows, 1)) - 1


def groups(signature: Signature, rows: pl.DataFrame) -> Iterator[tuple[str, str, Array]]:
    """Part the rows by each column of few different values: booleans, texts and closed lists with 2 to 20 of them.

    Values with fewer than 30 rows are put together as `OTHER`, and left out if they still are fewer.

    Yields:
        Column, value as text, and which rows have it (booleans).
    """
    import polars as pl

    for column in signature.inputs:
        if column.name not in rows.columns or not (column.type in ("boolean", "string") or column.categories):
            continue
        if not 2 <= rows[column.name].n_unique() <= 10 * SLICE_VALUES:
            continue
        texts = rows[column.name].cast(pl.String).fill_null(MISSING)
        counted = _counted(texts)
        kept = [value for value, count in counted.items() if count >= SLICE_ROWS]
        if not 1 <= len(kept) <= SLICE_VALUES or len(counted) < 2:
            continue
        if sum(counted.values()) - sum(counted[value] for value in kept) >= SLICE_ROWS:
            folded = pl.when(pl.first().is_in(kept)).then(pl.first()).otherwise(pl.lit(OTHER))
            texts, kept = texts.to_frame().select(folded).to_series(), [*kept, OTHER]
        for value in kept:
            yield column.name, value, (texts == value).to_numpy()


def slices(signature: Signature, rows: pl.DataFrame, truth: pl.Series, output: pl.DataFrame) -> dict[str, Any]:
    """Measure predictions on parts of the rows (see `groups`).

    Args:
        signature: of the model.
        rows: its input columns, typed.
        truth: the actual values, row by row beside ``rows``, without missing ones.
        output: the model's output columns likewise.

    Returns:
        ``{column: {value: {"rows": n, measures of evaluate}}}``.
    """
    found: dict[str, Any] = {}
    for column, value, chosen in groups(signature, rows):
        measured = evaluate(signature.task, truth.filter(chosen), output.filter(chosen))
        found.setdefault(column, {})[value] = measured
    return found


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
    """Measure classes and probabilities; in NumPy alone, because gates measure every slice."""
    actual = np.array([str(value) for value in truth.to_list()])
    predicted = np.array([str(value) for value in output[PREDICTION].to_list()])
    classes = sorted(name.removeprefix(PROBABILITY) for name in output.columns if name.startswith(PROBABILITY))
    right, present = actual == predicted, np.unique(actual).tolist()
    found = {label: (actual == label, predicted == label) for label in {*present, *np.unique(predicted).tolist()}}
    values = {
        "accuracy": np.mean(right),
        "balanced_accuracy": np.mean([np.mean(right[found[label][0]]) for label in present]),
        # Twice the hits by all that are of the class or called so: precision and recall in one.
        "f1_macro": np.mean([2 * np.sum(is_ & called) / (is_.sum() + called.sum()) for is_, called in found.values()]),
    }
    if len(classes) > 1 and set(present) <= set(classes):
        shares = output.select(f"{PROBABILITY}{label}" for label in classes).to_numpy().astype(float)
        whole = np.clip(shares / shares.sum(axis=1, keepdims=True), EPSILON, 1 - EPSILON)
        places = np.searchsorted(classes, actual)
        values["log_loss"] = -np.mean(np.log(whole[np.arange(len(places)), places]))
        if len(present) > 1 and np.isfinite(shares).all():
            positive = classes[1:] if len(classes) == 2 else present
            values["roc_auc"] = np.mean([_auc(actual == one, shares[:, classes.index(one)]) for one in positive])
    return {name: float(value) for name, value in values.items()}


def _auc(positive: Array, scores: Array) -> float:
    """Return the chance that a positive scores above a negative, ties half: the Mann-Whitney U statistic as a share."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positives, negatives = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def baseline(signature: Signature, rows: pl.DataFrame, truth: pl.Series) -> dict[str, Any]:
    """Measure what one has without the model: a constant, or a linear model of the same columns if that is better.

    The linear model (ridge or logistic regression over one-hot texts and scaled numbers, missing ones imputed) is
    measured on rows that it did not see, by cross-validation with a fixed seed on at most 20,000 rows.

    Args:
        signature: of the model.
        rows: its input columns, typed.
        truth: the actual values beside them, without missing ones.

    Returns:
        ``name`` (mean, majority class, ridge regression or logistic regression), ``rows``, and the measures of
        `evaluate`; empty without rows.
    """
    if not truth.len():
        return {}
    if rows.height > BASELINE_ROWS:
        chosen = np.sort(np.random.default_rng(0).permutation(rows.height)[:BASELINE_ROWS])
        rows, truth = rows[chosen], truth[chosen]
    regression = signature.task == "regression"
    simple = {"name": "mean" if regression else "majority class"}
    best = simple | evaluate(signature.task, truth, _constant(truth, regression))
    output = _linear(rows, truth, regression)
    if output is None:
        return best
    name = "ridge regression" if regression else "logistic regression"
    fitted = {"name": name} | evaluate(signature.task, truth, output)
    main = main_measure(signature.task, best, fitted)
    return fitted if main and growth(main, fitted[main], best[main], truth.len()) < 0 else best


def _constant(truth: pl.Series, regression: bool) -> pl.DataFrame:
    """Return the forecast that knows no columns: the mean, or the shares of the classes."""
    import polars as pl

    if regression:
        return pl.DataFrame({PREDICTION: np.full(truth.len(), float(truth.to_numpy().astype(float).mean()))})
    counted = _counted(truth)
    columns: dict[str, Any] = {PREDICTION: [next(iter(counted))] * truth.len()}
    for label, count in counted.items():
        columns[f"{PROBABILITY}{label}"] = np.full(truth.len(), count / truth.len())
    return pl.DataFrame(columns)


def _linear(rows: pl.DataFrame, truth: pl.Series, regression: bool) -> pl.DataFrame | None:
    """Return the cross-validated forecast of a linear model; None where too little is there to fit one."""
    import warnings

    import polars as pl
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict

    smallest = min(truth.value_counts()["count"].to_list(), default=0)
    if truth.len() < LEAST_ROWS or truth.n_unique() < 2 or not (regression or smallest >= FOLDS):
        return None
    kind = KFold if regression else StratifiedKFold
    folds = kind(FOLDS, shuffle=True, random_state=0)
    model = Ridge() if regression else LogisticRegression(max_iter=100, tol=1e-3)
    values = _matrix(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a baseline need not converge to the last digit
        if regression:
            return pl.DataFrame(
                {PREDICTION: cross_val_predict(model, values, truth.to_numpy().astype(float), cv=folds)}
            )
        labels = np.array([str(value) for value in truth.to_list()])
        shares = cross_val_predict(model, values, labels, cv=folds, method="predict_proba")
    order = np.unique(labels)
    columns = {f"{PROBABILITY}{label}": shares[:, place] for place, label in enumerate(order)}
    return pl.DataFrame({PREDICTION: order[shares.argmax(axis=1)], **columns})


def _matrix(rows: pl.DataFrame) -> Array:
    """Return columns as numbers: scaled, the mean where missing, texts and parts of times one-hot.

    No target is in it, so making it once for all folds tells a fold nothing of what it is judged by.
    """
    import polars as pl

    from .. import features

    parts: list[Array] = []
    for series in rows:
        if series.dtype.is_temporal():
            moments = features.micros(series)
            one_hot = [pl.Series(features.part_of(moments, part)) for part in ("hour", "weekday", "month")]
            numbers = [features.part_of(moments, "epoch_days")]
        elif series.dtype == pl.String:
            one_hot, numbers = [series], []
        else:
            one_hot, numbers = [], [series.cast(pl.Float64).to_numpy()]
        for one in one_hot:
            common = list(_counted(one.drop_nulls()))[:BASELINE_CATEGORIES]
            parts += [(one == value).fill_null(False).to_numpy().astype(float) for value in common]
        for number in numbers:
            known = np.isfinite(number)
            mean, spread = (number[known].mean(), number[known].std()) if known.any() else (0.0, 0.0)
            parts.append(np.where(known, number - mean, 0.0) / (spread or 1.0))
    return np.column_stack(parts)


def _counted(series: pl.Series) -> dict[Any, int]:
    """Count the values, the most common first, equally common ones by name: a bundle must come out the same twice."""
    return dict(sorted(series.value_counts().iter_rows(), key=lambda item: (-item[1], str(item[0]))))
