"""What runs a model: one file a runtime, each with ``load(bundle) -> Runtime``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from ..bundle import Bundle

Array = np.ndarray[Any, np.dtype[Any]]
Outputs = tuple[list[Any], list[list[float]] | None]  # predictions, and class probabilities

# A numeric column; or 1 where a text column (missing: "") has a value, and 0 elsewhere; or the place of its value among
# known ones, and their number for all others.
Feature = str | tuple[str, str] | tuple[str, tuple[str, ...]]


class Runtime(Protocol):
    """A loaded model."""

    def predict(self, frame: pl.DataFrame) -> tuple[Array, Array | None]:
        """Score the model's columns.

        Args:
            frame: exactly the model's columns, in its order.

        Returns:
            Predictions (n), and class probabilities (n x classes) or None.
        """


@runtime_checkable
class MatrixRuntime(Runtime, Protocol):
    """A model that takes its numbers as one matrix, so that rows need not become a table first.

    Attributes:
        numeric: the features, in the order of the matrix.
        text: the text columns.
        dtype: of the matrix: float32 or float64.
        steady: whether a row's outputs are the same bits whichever rows it is scored with.
    """

    numeric: tuple[Feature, ...]
    text: tuple[str, ...]
    dtype: np.dtype[Any]
    steady: bool

    def single(self, numbers: Sequence[float]) -> Outputs | None:
        """Score one row of numbers, NaN for missing; None if that takes `run`, as it does for every row with text."""

    def run(self, numeric: Array | None, text: Array | None) -> tuple[Array, Array | None]:
        """Score matrices (n x columns): of ``dtype`` with NaN for missing, and of objects with "" for missing."""


def features(listed: Sequence[Any]) -> list[Feature]:
    """Return features as a manifest lists them."""

    def feature(one: Any) -> Feature:
        if isinstance(one, str):
            return one
        return (one[0], one[1]) if isinstance(one[1], str) else (one[0], tuple(one[1]))

    return list(map(feature, listed))


def load(bundle: Bundle) -> Runtime:
    """Load the model of a bundle with the runtime that its manifest names."""
    runtime: Runtime = import_module(f".{bundle.manifest['runtime']}", __name__).load(bundle)
    return runtime
