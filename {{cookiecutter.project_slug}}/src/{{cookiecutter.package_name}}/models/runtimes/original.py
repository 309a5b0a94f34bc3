"""The model as it was trained, for what has no exact ONNX form: scikit-learn, boosters, MLflow, a team's own code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import formats
from ..formats import lightgbm, xgboost
from . import Array

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from ..bundle import Bundle


class OriginalRuntime:
    """Anything with ``predict`` over a pandas frame.

    Args:
        estimator: with ``predict``, and ``predict_proba`` or one score a class if ``probabilities``.
        probabilities: whether to give class probabilities.
        classes: the labels of the scores, where the estimator has no ``predict_proba``.
        softmax: whether these scores are logits.
    """

    def __init__(self, estimator: Any, probabilities: bool, classes: Sequence[Any] = (), softmax: bool = False) -> None:
        """Keep the estimator, and find out what kind of table it takes."""
        self._estimator = estimator
        self._probabilities = probabilities
        self._classes, self._softmax = np.array(classes), softmax
        self._table = _table(estimator)

    def predict(self, frame: pl.DataFrame) -> tuple[Array, Array | None]:
        """Score a table of the model's columns."""
        table = self._table(to_pandas(frame))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, row by row: nobody would see them
            values = np.asarray(self._estimator.predict(table))
            if values.ndim == 2 and values.shape[1] == 1:
                values = values[:, 0]
            if not self._probabilities:
                return values, None
            if hasattr(self._estimator, "predict_proba"):
                return values, np.asarray(self._estimator.predict_proba(table))
        shares = softmax(values) if self._softmax else values
        return self._classes[shares.argmax(axis=1)], shares


def softmax(scores: Array) -> Array:
    """Return logits (n x classes) as probabilities."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def to_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """Return a table as models know it from training on files: what is missing is NaN, times are naive UTC."""
    import pandas as pd
    import polars as pl

    columns: dict[str, Any] = {}
    for series in frame:
        if series.dtype == pl.String or (series.dtype == pl.Boolean and series.null_count()):
            columns[series.name] = pd.Series([np.nan if value is None else value for value in series], dtype=object)
        elif series.dtype.is_temporal():
            columns[series.name] = series.cast(pl.Datetime("us", "UTC")).dt.replace_time_zone(None).to_numpy()
        else:
            columns[series.name] = series.to_numpy()  # integers with missing values become floats
    return pd.DataFrame(columns)


def _table(estimator: Any) -> Callable[[pd.DataFrame], Any]:
    """Return how a model wants its table: without names if it was fitted so, with categories if it needs the type."""
    if hasattr(estimator, "n_features_in_") and not hasattr(estimator, "feature_names_in_"):
        return lambda table: table.to_numpy()
    # Boosters in their scikit-learn form refuse texts where they saw categories.
    if hasattr(estimator, "booster_") and estimator.booster_.pandas_categorical:
        return lambda table: lightgbm.as_categories(estimator.booster_, table)
    if hasattr(estimator, "get_booster") and "c" in (estimator.get_booster().feature_types or ()):
        return lambda table: xgboost.as_categories(estimator.get_booster(), table)
    return lambda table: table


def load(bundle: Bundle) -> OriginalRuntime:
    """Load the model of a bundle."""
    manifest, classes = bundle.manifest, bundle.signature.outputs[0].categories
    return OriginalRuntime(formats.load(bundle), manifest["probabilities"], classes, manifest.get("softmax", False))
