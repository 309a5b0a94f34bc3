"""Find the signature of a model from a sample of its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .. import features
from ..errors import ProjectError
from ..signature import PREDICTION, PROBABILITY, Column, ColumnType, Scalar
from .formats import Imported

CATEGORIES = 50  # a text column with more different values is open
EXAMPLES = 3


def read_sample(path: Path) -> pl.DataFrame:
    """Read the sample, a CSV or Parquet file.

    Raises:
        ProjectError: it cannot be read, is empty, or names a column twice.
    """
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            header = pl.read_csv(path, has_header=False, n_rows=1, infer_schema=False, encoding="utf8").row(0)
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise ProjectError(f"the sample {path.name} has the column {twice!r} twice")
            frame = pl.read_csv(path, infer_schema_length=None, try_parse_dates=True)
    except FileNotFoundError:
        raise ProjectError(f"there is no file {path}") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ProjectError(f"the sample {path.name} cannot be read: {str(error).splitlines()[0]}") from None
    if not frame.height:
        raise ProjectError(f"the sample {path.name} has no rows")
    return frame


def model_columns(imported: Imported, frame: pl.DataFrame, target: str | None) -> list[str]:
    """Return the columns that the model wants, by its own account or else all of the sample but the target.

    Raises:
        ProjectError: the sample lacks one, or has another number of them.
    """
    named = imported.columns
    if named is None:
        named = getattr(imported.estimator, "feature_names_in_", None)
    if named is None:
        names = [name for name in frame.columns if name != target]
        wanted = getattr(imported.estimator, "n_features_in_", len(names))
        if len(names) != wanted:
            raise ProjectError(
                f"the model takes {wanted} columns and the sample has {len(names)}: give a sample with"
                " the columns that the model was trained on, and name the target with --target"
            )
        return names
    plain = {} if imported.graph is None else {re.sub(r"\W", "_", name): name for name in frame.columns}
    names = [name if name in frame.columns else plain.get(name, name) for name in map(str, named)]
    times = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
    for name in names:
        if name not in frame.columns and not features.source(name, times):
            raise ProjectError(f"the model needs the column {name!r}, which the sample lacks")
    if target in names:
        raise ProjectError(f"the model reads the column {target!r}, so it cannot be the target")
    return names


def inputs(frame: pl.DataFrame, names: Sequence[str], kinds: Mapping[str, ColumnType]) -> tuple[Column, ...]:
    """Infer the columns of a row.

    Args:
        frame: the sample.
        names: the model's columns; parts of times are taken back to their column.
        kinds: the types that the model's format names: a number may look like an integer in the sample.

    Returns:
        The columns, in the order of the sample; the ranges are those seen, which a row may leave.
    """
    times = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
    needed = {name if name in frame.columns else features.source(name, times)[0]: None for name in names}  # type: ignore[index]
    found = (_column(frame[name]) for name in frame.columns if name in needed)
    return tuple(
        replace(column, type="number") if column.type == "integer" and kinds.get(column.name) == "number" else column
        for column in found
    )


def outputs(classes: Sequence[Any] | None, probabilities: bool) -> tuple[Column, ...]:
    """Return the columns that a model gives: the prediction, and a probability for each class."""
    if classes is None:
        return (Column(PREDICTION, "number", description="Predicted value"),)
    labels = tuple(scalar(label) for label in classes)
    kind: ColumnType = (
        "boolean" if isinstance(labels[0], bool) else "integer" if isinstance(labels[0], int) else "string"
    )
    prediction = Column(PREDICTION, kind, categories=labels, description="Predicted class")
    shares = [
        Column(f"{PROBABILITY}{label}", "number", minimum=0, maximum=1, description=f"Probability of {label}")
        for label in labels
    ]
    return (prediction, *(shares if probabilities else ()))


def scalar(label: Any) -> Scalar:
    """Return a class label as JSON has it."""
    value = label.item() if isinstance(label, np.generic) else label
    return (
        int(value)
        if isinstance(value, float) and value.is_integer()
        else value
        if isinstance(value, (bool, int))
        else str(value)
    )


def _column(series: pl.Series) -> Column:
    dtype, present = series.dtype, series.drop_nulls()
    nullable = series.null_count() > 0 or (dtype.is_float() and bool(series.is_nan().any()))
    if dtype.is_numeric():
        values = present.drop_nans() if dtype.is_float() else present
        kind: ColumnType = "number" if dtype.is_float() or dtype.is_decimal() else "integer"
        observed = (float(values.min()), float(values.max())) if values.len() else None  # type: ignore[arg-type]
        shown = values.head(EXAMPLES).to_list()
        return Column(series.name, kind, nullable, observed=observed, examples=tuple(shown))
    if dtype == pl.Boolean:
        return Column(series.name, "boolean", nullable)
    if dtype.is_temporal():
        first = present.head(1).cast(pl.Datetime("us", getattr(dtype, "time_zone", None)))
        moments = tuple(f"{moment:%Y-%m-%dT%H:%M:%S}Z" for moment in first)
        return Column(series.name, "datetime", nullable, examples=moments)
    common = present.cast(pl.String).value_counts(sort=True)[series.name].to_list()
    closed = len(common) <= CATEGORIES and present.len() >= 10 * len(common)
    column = Column(series.name, "string", nullable, examples=tuple(sorted(common[:EXAMPLES])))
    return replace(column, categories=tuple(sorted(common)), examples=()) if closed else column
