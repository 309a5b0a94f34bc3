"""What runs a model: one file a runtime, each with ``load(bundle) -> Runtime``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from ..bundle import Bundle

Array = np.ndarray[Any, np.dtype[Any]]


class Runtime(Protocol):
    """A loaded model."""

    def predict(self, frame: pl.DataFrame) -> tuple[Array, Array | None]:
        """Score the model's columns.

        Args:
            frame: exactly the model's columns, in its order.

        Returns:
            Predictions (n), and class probabilities (n x classes) or None.
        """


def load(bundle: Bundle) -> Runtime:
    """Load the model of a bundle with the runtime that its manifest names."""
    runtime: Runtime = import_module(f".{bundle.manifest['runtime']}", __name__).load(bundle)
    return runtime
