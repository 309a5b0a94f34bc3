"""The reference profile: how each column was distributed when the model was accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..signature import Column, Scalar

if TYPE_CHECKING:
    import polars as pl

BINS = 10
CATEGORIES = 50


@dataclass(frozen=True)
class Distribution:
    """The histogram of one column.

    Attributes:
        type: numeric or categorical.
        edges: inner bin edges, ascending (numeric); bin i holds ``edges[i-1] <= value < edges[i]``.
        categories: the values counted one by one (categorical).
        counts: rows by bin, or by category with everything else last.
        missing: rows without a value.
    """

    type: Literal["numeric", "categorical"]
    edges: tuple[float, ...]
    categories: tuple[Scalar, ...]
    counts: tuple[int, ...]
    missing: int

    @property
    def rows(self) -> int:
        """How many rows were counted, missing ones included."""
        return sum(self.counts) + self.missing

    def labels(self) -> list[str]:
        """Name the bins for people."""
        if self.type == "categorical":
            return [*(str(value) for value in self.categories), "other"]
        if not self.edges:
            return ["all"]
        inner = [f"{low:.4g} to {high:.4g}" for low, high in zip(self.edges, self.edges[1:], strict=False)]
        return [f"below {self.edges[0]:.4g}", *inner, f"{self.edges[-1]:.4g} and more"]

    def count(self, series: pl.Series) -> Distribution:
        """Count other values of the column on the same bins."""
        present = series.drop_nulls()
        if self.type == "numeric":
            values = present.cast(_float()).drop_nans().to_numpy()
            counts = np.bincount(np.searchsorted(self.edges, values, side="right"), minlength=len(self.edges) + 1)
            return Distribution("numeric", self.edges, (), tuple(counts.tolist()), series.len() - len(values))
        seen = dict(present.value_counts().iter_rows())
        known = [int(seen.get(value, 0)) for value in self.categories]
        counts_ = (*known, present.len() - sum(known))
        return Distribution("categorical", (), self.categories, counts_, series.null_count())


@dataclass(frozen=True)
class Profile:
    """The distributions of all columns of a sample: inputs and outputs, times left out."""

    rows: int
    columns: Mapping[str, Distribution]

    @classmethod
    def build(cls, frame: pl.DataFrame, columns: Sequence[Column]) -> Profile:
        """Profile the columns of a sample on bins of their own (tenths of the sample, or single values if few)."""
        return cls(
            frame.height,
            {column.name: _distribution(column, frame[column.name]) for column in columns if column.type != "datetime"},
        )

    def count(self, frame: pl.DataFrame) -> Profile:
        """Count another table on the bins of this profile; columns that the table lacks are left out."""
        return Profile(
            frame.height,
            {name: known.count(frame[name]) for name, known in self.columns.items() if name in frame.columns},
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "rows": self.rows,
            "columns": {
                name: {
                    "type": one.type,
                    **({"edges": list(one.edges)} if one.type == "numeric" else {"categories": list(one.categories)}),
                    "counts": list(one.counts),
                    "missing": one.missing,
                }
                for name, one in self.columns.items()
            },
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Profile:
        """Read what `to_json` wrote."""
        return cls(
            document["rows"],
            {
                name: Distribution(
                    one["type"],
                    tuple(one.get("edges", ())),
                    tuple(one.get("categories", ())),
                    tuple(one["counts"]),
                    one["missing"],
                )
                for name, one in document["columns"].items()
            },
        )


def _distribution(column: Column, series: pl.Series) -> Distribution:
    present = series.drop_nulls()
    if not column.numeric or (column.categories and present.n_unique() <= CATEGORIES):
        common = present.value_counts(sort=True).head(CATEGORIES)[series.name].to_list()
        return Distribution("categorical", (), tuple(sorted(common, key=str)), (0,), 0).count(series)
    values = np.unique(present.cast(_float()).drop_nans().to_numpy())
    if len(values) <= 2 * BINS:
        edges = (values[:-1] + values[1:]) / 2
    else:
        edges = np.unique(np.quantile(present.cast(_float()).drop_nans().to_numpy(), np.arange(1, BINS) / BINS))
    return Distribution("numeric", tuple(edges.tolist()), (), (0,), 0).count(series)


def _float() -> pl.DataType:
    import polars as pl

    return pl.Float64()
