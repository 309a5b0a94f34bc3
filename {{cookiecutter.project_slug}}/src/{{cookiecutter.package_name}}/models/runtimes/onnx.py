"""ONNX: all numbers enter as one matrix, all text columns as another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from . import Array

if TYPE_CHECKING:
    import polars as pl

    from ..bundle import Bundle


# A numeric column; or 1 where a text column (missing: "") has a value, and 0 elsewhere.
Feature = str | tuple[str, str]


class OnnxRuntime:
    """An ONNX session.

    Args:
        model: the graph, serialized or the path of its file, with inputs ``numeric`` and ``text`` (or one of them).
        numeric: the features, in the order of the matrix.
        text: its text columns.
        probabilities: whether the second output holds class probabilities.
        dtype: of the numeric matrix: float32 or float64.
    """

    def __init__(
        self,
        model: bytes | str,
        numeric: Sequence[Feature],
        text: Sequence[str],
        probabilities: bool,
        dtype: str = "float32",
    ) -> None:
        """Build the session; it runs on the thread that calls it, so threads and workers do not fight for cores."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.numeric, self.text = tuple(numeric), tuple(text)
        self.dtype = np.dtype(dtype)
        names = [output.name for output in session.get_outputs()]
        self._outputs = names[: 2 if probabilities else 1]
        self._run = session.run

    def run(self, numeric: Array | None, text: Array | None) -> tuple[Array, Array | None]:
        """Score matrices (n x columns): of ``dtype`` with NaN for missing, and of objects with "" for missing."""
        feed = {}
        if numeric is not None:
            feed["numeric"] = numeric
        if text is not None:
            feed["text"] = text
        results = self._run(self._outputs, feed)
        return results[0].reshape(-1), results[1] if len(results) > 1 else None

    def predict(self, frame: pl.DataFrame) -> tuple[Array, Array | None]:
        """Score a table of the model's columns."""
        feed = matrices(frame, self.numeric, self.text, self.dtype)
        return self.run(feed.get("numeric"), feed.get("text"))


def matrices(
    frame: pl.DataFrame, numeric: Sequence[Feature], text: Sequence[str], dtype: str | np.dtype[Any]
) -> dict[str, Array]:
    """Return the columns of a table as ``numeric`` and ``text``; a matrix without columns is left out."""
    import polars as pl

    found: dict[str, Array] = {}
    if numeric:
        kind = pl.Float32 if np.dtype(dtype) == np.float32 else pl.Float64
        texts = {one[0]: frame[one[0]].fill_null("") for one in numeric if isinstance(one, tuple)}
        columns = (frame[one] if isinstance(one, str) else texts[one[0]] == one[1] for one in numeric)
        table = pl.DataFrame([column.cast(kind).alias(str(place)) for place, column in enumerate(columns)])
        found["numeric"] = np.ascontiguousarray(table.to_numpy(order="fortran"))  # twice as fast as order="c"
    if text:
        found["text"] = np.empty((frame.height, len(text)), object)
        for place, name in enumerate(text):
            found["text"][:, place] = frame[name].fill_null("").to_numpy()
    return found


def load(bundle: Bundle) -> OnnxRuntime:
    """Load the model of a bundle, by its path: a session keeps the bytes that it was given."""
    manifest, path = bundle.manifest, str(bundle.model_file)
    dtype = manifest.get("dtype", "float32")
    numeric = [one if isinstance(one, str) else tuple(one) for one in manifest["numeric"]]
    return OnnxRuntime(path, numeric, manifest["text"], manifest["probabilities"], dtype)
