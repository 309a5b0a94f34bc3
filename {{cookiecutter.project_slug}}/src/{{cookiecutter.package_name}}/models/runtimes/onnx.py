"""ONNX: all numbers enter as one matrix, all text columns as another."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from ..matrix import matrices
from . import Array, Feature, Outputs, features

if TYPE_CHECKING:
    import polars as pl

    from ..bundle import Bundle


NUMBERS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}


class OnnxRuntime:
    """An ONNX session.

    Args:
        model: the graph, serialized or the path of its file, with inputs ``numeric`` and ``text`` (or one of them).
        numeric: the features, in the order of the matrix.
        text: its text columns.
        probabilities: whether the second output holds class probabilities.
        dtype: of the numeric matrix: float32 or float64.
    """

    steady = False  # how a matrix is multiplied depends on its rows

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
        self._single = None if self.text else _single(session, len(self.numeric), self.dtype, self._outputs)

    def single(self, numbers: Sequence[float]) -> Outputs | None:
        """Score one row of numbers, NaN for missing; None if that takes `run`."""
        return self._single(numbers) if self._single else None

    def run(self, numeric: Array | None, text: Array | None) -> tuple[Array, Array | None]:
        """Score matrices (n x columns): of ``dtype`` with NaN for missing, and of objects with "" for missing."""
        feed = {}
        if numeric is not None:
            feed["numeric"] = np.ascontiguousarray(numeric)  # faster than to make it so of a table
        if text is not None:
            feed["text"] = text
        results = self._run(self._outputs, feed)
        return results[0].reshape(-1), results[1] if len(results) > 1 else None

    def predict(self, frame: pl.DataFrame) -> tuple[Array, Array | None]:
        """Score a table of the model's columns."""
        feed = matrices(frame, self.numeric, self.text, self.dtype)
        return self.run(feed.get("numeric"), feed.get("text"))


class Single:
    """Scores one row in places that are bound to the session once; a third of the time that `OnnxRuntime.run` takes.

    Args:
        session: with the one input ``numeric``.
        features: how many numbers a row has.
        dtype: of the numbers.
        outputs: names of the outputs, labels first, with their types and their shapes for one row.

    Raises:
        Exception: whatever the session says of outputs that are not what it declares.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        features: int,
        dtype: np.dtype[Any],
        outputs: Sequence[tuple[str, type[np.generic], tuple[int, ...]]],
    ) -> None:
        self._numbers = np.zeros((1, features), dtype)
        self._made = [np.zeros(shape, kind) for _, kind, shape in outputs]
        binding = session.io_binding()
        binding.bind_input("numeric", "cpu", 0, dtype, self._numbers.shape, self._numbers.ctypes.data)
        for (name, kind, shape), made in zip(outputs, self._made, strict=True):
            binding.bind_output(name, "cpu", 0, kind, shape, made.ctypes.data)
        self._fill = partial(struct.Struct(f"{features}{dtype.char}").pack_into, self._numbers.data, 0)
        self._run, self._binding, self._lock = session.run_with_iobinding, binding, threading.Lock()
        self._run(binding)

    def __call__(self, numbers: Sequence[float]) -> Outputs | None:
        """Return labels and class probabilities; None for a number beyond the type, and while a thread is in here."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self._fill(*numbers)
            self._run(self._binding)
            return self._made[0].reshape(-1).tolist(), self._made[1].tolist() if len(self._made) > 1 else None
        except OverflowError:
            return None
        finally:
            self._lock.release()


def _single(
    session: onnxruntime.InferenceSession, features: int, dtype: np.dtype[Any], names: Sequence[str]
) -> Single | None:
    """Bind one row to a session whose outputs are numbers of known shapes; None if they are not."""
    declared = {output.name: output for output in session.get_outputs()}
    outputs = []
    for name in names:
        kind, shape = NUMBERS.get(declared[name].type), declared[name].shape
        if kind is None or not all(isinstance(size, int) for size in shape[1:]):
            return None
        outputs.append((name, kind, (1, *shape[1:])))
    try:
        return Single(session, features, dtype, outputs)
    except Exception:  # the graph does not do what it declares; `run` asks it for no shape
        return None


def load(bundle: Bundle) -> OnnxRuntime:
    """Load the model of a bundle, by its path: a session keeps the bytes that it was given."""
    manifest, path = bundle.manifest, str(bundle.model_file)
    dtype = manifest.get("dtype", "float32")
    return OnnxRuntime(path, features(manifest["numeric"]), manifest["text"], manifest["probabilities"], dtype)
