"""From scikit-learn to ONNX, for speed; whether the result is the same model is for `parity` to say."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


class NotConvertibleError(Exception):
    """The estimator has no ONNX form here; the message says why."""


def to_onnx(estimator: Any, frame: pl.DataFrame) -> tuple[bytes, list[str], list[str]]:
    """Convert a fitted estimator.

    Args:
        estimator: fitted on the columns of ``frame``, in their order.
        frame: the model's columns, typed.

    Returns:
        The graph, with one float32 matrix ``numeric`` and one text matrix ``text`` as inputs (or one of the
        two), and the names of the columns of each matrix.

    Raises:
        NotConvertibleError: a step or a column has no ONNX form.
    """
    import polars as pl

    if times := [name for name, dtype in frame.schema.items() if dtype.is_temporal()]:
        raise NotConvertibleError(f"the model reads the time {times[0]} itself")
    text = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    numeric = [name for name in frame.columns if name not in text]
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    failure = ""
    for single in (not text, False) if not _by_column(estimator) else (False,):
        try:
            model = _convert(estimator, numeric, text, frame.columns, single)
            return (model if single else _group(model, numeric, text)).SerializeToString(), numeric, text
        except Exception as error:  # skl2onnx raises every kind for what it does not know
            failure = failure or (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise NotConvertibleError(failure[:200])


def _by_column(estimator: Any) -> bool:
    """Whether the first step picks its columns by name."""
    steps = getattr(estimator, "steps", None)
    first = steps[0][1] if steps else estimator
    return type(first).__name__ == "ColumnTransformer" or (steps is not None and _by_column(first))


def _convert(estimator: Any, numeric: Sequence[str], text: Sequence[str], order: Sequence[str], single: bool) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    if single:
        inputs: list[tuple[str, Any]] = [("numeric", FloatTensorType([None, len(numeric)]))]
    else:
        kinds = {name: FloatTensorType([None, 1]) for name in numeric}
        kinds |= {name: StringTensorType([None, 1]) for name in text}
        inputs = [(name, kinds[name]) for name in order]
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_sklearn(estimator, initial_types=inputs, options=options)


def _group(model: Any, numeric: Sequence[str], text: Sequence[str]) -> Any:
    """Replace the inputs, one a column, by one matrix for each kind: a call then costs two inputs and not twelve."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    names = {value.name: value for value in graph.input}
    del graph.input[:]
    nodes = []
    for group, columns, kind in (("numeric", numeric, TensorProto.FLOAT), ("text", text, TensorProto.STRING)):
        if not columns:
            continue
        import numpy as np

        graph.input.append(helper.make_tensor_value_info(group, kind, [None, len(columns)]))
        for place, column in enumerate(columns):
            index = f"{group}_{place}_index"
            graph.initializer.append(numpy_helper.from_array(np.array([place], np.int64), index))
            nodes.append(helper.make_node("Gather", [group, index], [_variable(names, column)], axis=1))
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return model


def _variable(names: dict[str, Any], column: str) -> str:
    """Return the name that skl2onnx gave to a column: characters that are no part of a word become underscores."""
    import re

    if column in names:
        return column
    return re.sub(r"[^\w.]", "_", column)
