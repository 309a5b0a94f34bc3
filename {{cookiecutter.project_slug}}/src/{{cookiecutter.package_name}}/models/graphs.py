"""Surgery on ONNX graphs: inputs grouped into one matrix of numbers and one of text, steps appended."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ProjectError
from .formats import first_line
from .runtimes import Feature

Proto = Any  # of onnx, which comes without types

# An operator; its inputs (a tensor's name, an array for a constant, None for what the step before gives); attributes.
Step = tuple[str, Sequence[Any], Mapping[str, Any]]
UNKNOWN = r"([\w.:]+)\(-?\d+\) is not a registered|No Op registered for (\w+)|implementation for ([\w.:]+)\("


@dataclass(frozen=True)
class Graph:
    """A graph in the form that `runtimes.onnx` runs.

    Attributes:
        model: the serialized graph: inputs ``numeric`` and ``text`` (or one of them), the label or value as its first
            output, the classes' probabilities as its second.
        numeric: the features of ``numeric``, in order.
        text: the columns of ``text``.
        dtype: of ``numeric``: float32 or float64.
        note: what was done to it.
    """

    model: bytes
    numeric: Sequence[Feature]
    text: list[str]
    dtype: str = "float32"
    note: str = ""


@dataclass(frozen=True)
class Part:
    """An input of a graph, and the columns that it takes.

    Attributes:
        name: of the input.
        columns: of the table, in order.
        kind: its element type, a value of ``onnx.TensorProto.DataType``.
        flat: whether it is a vector and not a matrix.
    """

    name: str
    columns: Sequence[str]
    kind: int
    flat: bool = False


def parse(graph: bytes) -> Proto:
    """Read a graph.

    Raises:
        ProjectError: it is none, or is cut off.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(graph)
    except Exception:  # protobuf's own
        model = None
    if model is None or not model.graph.node or not model.graph.output:
        raise ProjectError("the file holds no ONNX graph, or is cut off: save it again")
    return model


def runner(graph: bytes) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return the function that runs a graph: from arrays by input to results by output.

    Raises:
        ProjectError: ONNX Runtime cannot run it; likewise from the function.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, all its own
        raise _unable(error) from None
    names = [output.name for output in session.get_outputs()]

    def run(feed: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(zip(names, session.run(names, feed), strict=True))
        except Exception as error:  # as above
            raise _unable(error) from None

    return run


def _unable(error: Exception) -> ProjectError:
    told = str(error)
    if unknown := re.search(UNKNOWN, told):
        return ProjectError(
            f"the graph uses the operator {unknown[unknown.lastindex or 0]}, which ONNX Runtime does not have: export"
            " the model with standard operators only"
        )
    if newer := re.search(r"Opset (\d+) is under dev|IR version: (\d+), max", told):
        return ProjectError(
            f"the graph is in version {newer[newer.lastindex or 0]} of ONNX, which is newer than ONNX Runtime: export"
            " it with a lower opset_version"
        )
    return ProjectError(f"ONNX Runtime cannot run the graph ({first_line(error)}): export it again")


def group(model: Proto, parts: Sequence[Part], dtype: str) -> tuple[list[str], list[str]]:
    """Replace a graph's inputs by one matrix of numbers and one of text: a call then costs two inputs and not twelve.

    Args:
        model: changed in place.
        parts: its inputs.
        dtype: of the numbers, float32 or float64.

    Returns:
        The columns of each matrix.
    """
    from onnx import TensorProto, helper

    double = TensorProto.DOUBLE if dtype == "float64" else TensorProto.FLOAT
    del model.graph.input[:]
    nodes, columns = [], []
    for name, kind in (("numeric", double), ("text", TensorProto.STRING)):
        mine = [part for part in parts if (part.kind == TensorProto.STRING) == (name == "text")]
        columns.append([column for part in mine for column in part.columns])
        if not mine:
            continue
        model.graph.input.append(helper.make_tensor_value_info(name, kind, ["N", len(columns[-1])]))
        first = 0
        for part in mine:
            steps: list[Step] = []
            if len(mine) > 1:
                places = np.arange(first, first + len(part.columns))
                steps.append(("Gather", [None, places], {"axis": 1}))
                first += len(part.columns)
            if part.kind != kind:
                steps.append(("Cast", [None], {"to": part.kind}))
            if part.flat:
                steps.append(("Reshape", [None, np.array([-1])], {}))
            nodes += chain(name, steps or [("Identity", [None], {})], part.name)
    replace(model, [*nodes, *model.graph.node])
    return columns[0], columns[1]


def link(model: Proto, operator: str) -> None:
    """Append an operator to the first output of a graph, in place."""
    output = model.graph.output[0]
    nodes = [*model.graph.node, *chain(output.name, [(operator, [None], {})], "prediction")]
    output.name = "prediction"
    replace(model, nodes)


def chain(source: str, steps: Sequence[Step], target: str) -> list[Proto]:
    """Return nodes that follow on each other.

    Args:
        source: the tensor that enters the first.
        steps: an operator each.
        target: what comes out of the last.
    """
    from onnx import helper, numpy_helper

    nodes = []
    for number, (operator, inputs, attributes) in enumerate(steps):
        names = []
        for place, value in enumerate(inputs):
            if isinstance(value, np.ndarray):
                constant = numpy_helper.from_array(value)
                names.append(f"{target}_{number}_{place}")
                nodes.append(helper.make_node("Constant", [], [names[-1]], value=constant))
            else:
                names.append(source if value is None else value)
        source = target if number == len(steps) - 1 else f"{target}_{number}"
        nodes.append(helper.make_node(operator, names, [source], **attributes))
    return nodes


def replace(model: Proto, nodes: Sequence[Proto]) -> None:
    """Give a graph other nodes, in the order in which they run."""
    kept = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
