"""Scikit-learn itself, for models that have no exact ONNX form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..estimators import read
from . import Array

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from ..bundle import Bundle


class SklearnRuntime:
    """A fitted estimator.

    Args:
        estimator: with ``predict``, and ``predict_proba`` if ``probabilities``.
        probabilities: whether to ask for class probabilities.
    """

    def __init__(self, estimator: Any, probabilities: bool) -> None:
        """Keep the estimator, and whether it was fitted with column names."""
        self._estimator = estimator
        self._probabilities = probabilities
        self._named = hasattr(estimator, "feature_names_in_")

    def predict(self, frame: pl.DataFrame) -> tuple[Array, Array | None]:
        """Score a table of the model's columns."""
        table: Any = to_pandas(frame)
        table = table if self._named else table.to_numpy()
        shares = np.asarray(self._estimator.predict_proba(table)) if self._probabilities else None
        return np.asarray(self._estimator.predict(table)).reshape(-1), shares


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


def load(bundle: Bundle) -> SklearnRuntime:
    """Load the estimator of a bundle; what it may contain was decided when it was imported."""
    estimator = read(bundle.model_file, trusted=bundle.manifest["trusted"], trust_pickle=True)
    return SklearnRuntime(estimator, bundle.manifest["probabilities"])
