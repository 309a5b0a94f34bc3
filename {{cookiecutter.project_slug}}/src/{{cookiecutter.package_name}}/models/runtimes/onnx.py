"""ONNX: all numeric columns enter as one float32 matrix, all text columns as another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from . import Array

if TYPE_CHECKING:
    import polars as pl

    from ..bundle import Bundle


class OnnxRuntime:
    """An ONNX session.

    Args:
        model: the serialized graph, with inputs ``numeric`` and ``text`` (or one of them).
        numeric: the model's numeric columns, in the order of the matrix.
        text: its text columns.
        probabilities: whether the second output holds class probabilities.
    """

    def __init__(self, model: bytes, numeric: Sequence[str], text: Sequence[str], probabilities: bool) -> None:
        """Build the session; it runs on the thread that calls it, so threads and workers do not fight for cores."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.numeric, self.text = tuple(numeric), tuple(text)
        names = [output.name for output in session.get_outputs()]
        self._outputs = names[: 2 if probabilities else 1]
        self._run = session.run

    def run(self, numeric: Array | None, text: Array | None) -> tuple[Array, Array | None]:
        """Score matrices: float32 (n x columns, NaN for missing) and object (n x columns, "" for missing)."""
        feed = {}
        if numeric is not None:
            feed["numeric"] = numeric
        if text is not None:
            feed["text"] = text
        results = self._run(self._outputs, feed)
        return results[0].reshape(-1), results[1] if len(results) > 1 else None

    def predict(self, frame: pl.DataFrame) -> tuple[Array, Array | None]:
        """Score a table of the model's columns."""
        import polars as pl

        numeric = text = None
        if self.numeric:
            numeric = np.empty((frame.height, len(self.numeric)), np.float32)
            for place, name in enumerate(self.numeric):
                numeric[:, place] = frame[name].cast(pl.Float32).to_numpy()
        if self.text:
            text = np.empty((frame.height, len(self.text)), object)
            for place, name in enumerate(self.text):
                text[:, place] = frame[name].fill_null("").to_numpy()
        return self.run(numeric, text)


def load(bundle: Bundle) -> OnnxRuntime:
    """Load the model of a bundle."""
    manifest = bundle.manifest
    return OnnxRuntime(bundle.model_file.read_bytes(), manifest["numeric"], manifest["text"], manifest["probabilities"])
