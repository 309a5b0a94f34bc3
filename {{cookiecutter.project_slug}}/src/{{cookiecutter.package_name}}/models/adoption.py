"""Graphs that come as ONNX, from whatever library: read what they take and give, and bring them to our form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from ..errors import ProjectError
from ..signature import Scalar, Task
from . import graphs
from .graphs import Graph, Part, Proto, Step
from .inference import scalar
from .matrix import matrices
from .runtimes import Array

PROBE = 1000  # rows that show what the outputs are
CLOSE = 1e-3  # how far from 1 the sum of a row of probabilities may be

# How outputs are read: a value; a label; probabilities, logits, or the probability of the second class without labels.
Mode = Literal["value", "label", "shares", "logits", "second"]
NOTES = {
    "logits": "its outputs do not sum to 1 and were taken for logits: a softmax makes them probabilities",
    "second": "its output was taken for the probability of the second class, since the target has two values",
}
SCORES = "its scores are no probabilities and were left out"
IDENTITY: Step = ("Identity", [None], {})


@dataclass(frozen=True)
class Adopted:
    """A graph in our form, and what it was found to be.

    Attributes:
        graph: to run.
        task: what it does.
        classes: of a classification, in the order of the probabilities.
        probabilities: whether it gives one for each class.
        mode: how its own outputs are read.
    """

    graph: Graph
    task: Task
    classes: list[Scalar] | None
    probabilities: bool
    mode: Mode

    @property
    def note(self) -> str:
        """What had to be guessed; empty if nothing."""
        return self.graph.note


def adopt(graph: bytes, frame: pl.DataFrame, target: pl.Series | None) -> Adopted:
    """Bring a graph to our form.

    Inputs that are named like columns take these, others take them in order. Outputs may be a label, with
    probabilities or without; probabilities or logits alone (rows that do not sum to 1 are taken for logits); or one
    number. The classes are those that the graph names, or else the target's values if their number is right.

    Args:
        graph: serialized, with all of its data.
        frame: the model's columns, typed.
        target: the truth, if there is one.

    Raises:
        ProjectError: the graph does not fit the columns, gives what cannot be served, or does not run.
    """
    from onnx import TensorProto, compose

    model = graphs.parse(graph)
    parts, fixed = _parts(model, frame), _fixed(model)
    _loosen(model)
    if {"numeric", "text", "prediction", "probabilities"} & _names(model):
        model = compose.add_prefix(model, "own_", rename_functions=False)
        parts = [replace(part, name=f"own_{part.name}") for part in parts]
    told = _unmap(model) or _told(model)
    exact = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.STRING)
    dtype = "float32" if all(part.kind in exact for part in parts) else "float64"
    numeric, text = graphs.group(model, parts, dtype)
    probe = frame.head(PROBE) if frame.height > 2 else frame[[0, 0, 0]]
    try:
        outputs = graphs.runner(model.SerializeToString())(matrices(probe, numeric, text, dtype))
        if any(len(np.atleast_1d(value)) != probe.height for value in outputs.values()):
            raise ProjectError("the graph does not give one answer for each row: export it with a dynamic batch axis")
    except ProjectError:
        if not fixed:
            raise
        raise ProjectError(
            f"the graph takes batches of {fixed} rows only: export it with a dynamic batch axis"
        ) from None
    mode, label, scores = _mode(outputs, target)
    classes = None if mode == "value" else _classes(told, outputs, (mode, label, scores), target)
    probabilities = mode in ("shares", "logits", "second")
    if mode == "label" and scores:
        probabilities = _shares(outputs[scores])
    note = SCORES if mode == "label" and scores and not probabilities else NOTES.get(mode, "")
    _finish(model, (mode, label, scores if probabilities or mode == "value" else None), outputs, classes)
    task: Task = "regression" if mode == "value" else "classification"
    return Adopted(Graph(model.SerializeToString(), numeric, text, dtype, note), task, classes, probabilities, mode)


def reference(graph: bytes, frame: pl.DataFrame, adopted: Adopted) -> tuple[Array, Array | None]:
    """Run a graph as it came, with its own inputs and types.

    Args:
        graph: serialized, before `adopt`.
        frame: the model's columns, typed.
        adopted: what `adopt` found.

    Returns:
        Predictions (n) and class probabilities (n x classes) or None.
    """
    model, run = graphs.parse(graph), graphs.runner(graph)
    parts, size = _parts(model, frame), _fixed(model) or frame.height
    feed = {part.name: _array(frame, part) for part in parts}
    chunks = []
    for start in range(0, frame.height, size):
        places = np.arange(start, start + size).clip(max=frame.height - 1)  # the last batch is filled up
        chunks.append(run({name: values[places] for name, values in feed.items()}))
    outputs = {
        name: np.concatenate([_plain(chunk[name], adopted.classes) for chunk in chunks])[: frame.height]
        for name in chunks[0]
    }
    _, label, scores = _mode(outputs, None)
    shares = outputs[scores].astype(np.float64) if scores else np.empty(0)
    if adopted.mode == "value":
        return shares.reshape(-1), None
    if adopted.mode == "second":
        shares = np.column_stack([1 - shares.reshape(-1), shares.reshape(-1)])
    elif adopted.mode == "logits":
        powers = np.exp(shares - shares.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
    labels = outputs[label].reshape(-1) if label else shares.argmax(axis=1)
    if not label or _by_number(labels, adopted.classes):
        labels = np.array(adopted.classes)[labels]
    return labels, shares if adopted.probabilities else None


def _parts(model: Proto, frame: pl.DataFrame) -> list[Part]:
    """Say which columns enter by which input.

    Raises:
        ProjectError: they do not fit.
    """
    from onnx import TensorProto

    if times := [name for name, dtype in frame.schema.items() if dtype.is_temporal()]:
        raise ProjectError(f"the graph reads numbers and text, and the column {times[0]!r} holds times: give its parts")
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value.type.tensor_type for value in model.graph.input if value.name not in constant}
    left, chosen = list(frame.columns), {}
    single = {name for name, type_ in inputs.items() if _width(type_) == 1}
    for name in single & set(left):
        chosen[name] = [name]
        left.remove(name)
    for name, type_ in inputs.items():
        if not type_.elem_type or len(type_.shape.dim) > 2:
            raise ProjectError(f"the graph's input {name!r} is no table: a row must be a row of numbers or text")
        if name not in chosen:
            text = type_.elem_type == TensorProto.STRING
            mixed = not single.issuperset(inputs) and len(inputs) > 1
            pool = [column for column in left if not mixed or (frame[column].dtype == pl.String) == text]
            chosen[name] = pool[: _width(type_)]
            left = [column for column in left if column not in chosen[name]]
        if len(chosen[name]) < (_width(type_) or 1):
            left.append(name)
    if left:
        wanted = sum(_width(type_) or 0 for type_ in inputs.values()) or "other"
        raise ProjectError(
            f"the graph takes {wanted} columns by {', '.join(inputs)}, and the sample has {len(frame.columns)}: give a"
            " sample with the columns that the model was trained on, and name the target with --target"
        )
    parts = [Part(name, chosen[name], type_.elem_type, len(type_.shape.dim) == 1) for name, type_ in inputs.items()]
    for part in parts:
        _check(part, frame)
    return parts


def _width(type_: Any) -> int | None:
    """Return the number of columns of an input, None if any."""
    if not type_.HasField("shape"):
        return None
    dimensions = type_.shape.dim
    return 1 if len(dimensions) == 1 else (dimensions[1].dim_value or None) if len(dimensions) == 2 else None


def _check(part: Part, frame: pl.DataFrame) -> None:
    from onnx import TensorProto

    real = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.STRING)
    for name in part.columns:
        column = frame[name]
        if (column.dtype == pl.String) != (part.kind == TensorProto.STRING):
            kinds = ("text", "numbers") if part.kind == TensorProto.STRING else ("numbers", "text")
            raise ProjectError(
                f"the graph takes {kinds[0]} in the column {name!r}, and the sample has {kinds[1]} there: correct it or"
                " say its type with --signature"
            )
        if part.kind not in real and (column.null_count() or (column.dtype.is_float() and column.is_nan().any())):
            raise ProjectError(f"the graph takes no missing values in the column {name!r}, and the sample has some")


def _fixed(model: Proto) -> int | None:
    """Return the number of rows that a graph insists on."""
    constant = {tensor.name for tensor in model.graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in constant]
    return max((shape[0].dim_value for shape in shapes if len(shape)), default=0) or None


def _loosen(model: Proto) -> None:
    """Forget what a graph says of shapes, for any number of rows, and lift it to where constants are no inputs."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape") if value.type.HasField("tensor_type") else None
    model.ir_version = max(model.ir_version, 4)
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        model.opset_import.add(domain="", version=13)


def _names(model: Proto) -> set[str]:
    given = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    return given | {name for node in model.graph.node for name in node.output}


def _unmap(model: Proto) -> list[Scalar]:
    """Take the dictionaries off a graph's end, and return their keys: the classes."""
    from onnx import TensorProto, helper

    keys: list[Scalar] = []
    for node in [node for node in model.graph.node if node.op_type == "ZipMap"]:
        keys = list(_labels(node))
        place = [value.name for value in model.graph.output].index(node.output[0])
        model.graph.output[place].CopyFrom(helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None))
        model.graph.node.remove(node)
    return keys


def _labels(node: Proto) -> Iterator[Scalar]:
    for attribute in node.attribute:
        if attribute.name.startswith("classlabels_"):
            yield from (value.decode() for value in attribute.strings)
            yield from (int(value) for value in attribute.ints)


def _told(model: Proto) -> list[Scalar]:
    """Return the classes that a graph names, in its metadata or in its last classifier."""
    for entry in model.metadata_props:
        if entry.key == "classes":
            try:
                return [scalar(value) for value in json.loads(entry.value)]
            except (ValueError, TypeError):
                return [value.strip() for value in entry.value.split(",")]
    return next((labels for node in reversed(model.graph.node) if (labels := list(_labels(node)))), [])


def _mode(outputs: Mapping[str, Array], target: pl.Series | None) -> tuple[Mode, str | None, str | None]:
    """Say how outputs are read, and which is the label and which the scores.

    Raises:
        ProjectError: they cannot be.
    """
    labels = [name for name, value in outputs.items() if value.dtype.kind in "iubOU" and value.size == len(value)]
    scores = [name for name, value in outputs.items() if value.dtype.kind == "f" and value.ndim <= 2]
    if len(labels) <= 1 and len(scores) <= 1 and len(labels) + len(scores) == len(outputs):
        label, score = next(iter(labels), None), next(iter(scores), None)
        several = score is not None and outputs[score].ndim == 2 and outputs[score].shape[1] > 1
        if label:
            return "label", label, score if several else None
        if score and several:
            return ("shares" if _shares(outputs[score]) else "logits"), None, score
        if score:
            halves = target is not None and target.drop_nulls().n_unique() == 2
            share = bool(((outputs[score] >= 0) & (outputs[score] <= 1)).all())
            return ("second" if halves and share else "value"), None, score
    raise ProjectError(
        f"the graph gives {', '.join(outputs)}, of which no prediction can be read: export it with one output, or with"
        " a label and the probabilities"
    )


def _shares(scores: Array) -> bool:
    """Whether scores are probabilities, by the rows that have any."""
    scores = scores[np.isfinite(scores).all(axis=1)]
    return bool((scores >= 0).all() and (np.abs(scores.sum(axis=1, dtype=np.float64) - 1) < CLOSE).all())


def _classes(
    told: list[Scalar], outputs: Mapping[str, Array], read: tuple[Mode, str | None, str | None], target: Any
) -> list[Scalar]:
    mode, label, scores = read
    count = 2 if mode == "second" else outputs[scores].shape[1] if scores else None
    seen = sorted({scalar(value) for value in outputs[label].reshape(-1).tolist()}) if label else []
    values = [] if target is None else [scalar(value) for value in target.drop_nulls().unique().sort().to_list()]
    told = values if values == told else told  # booleans, which a graph has as 0 and 1
    counted = list(range(count)) if count else []
    for classes in (told, values, counted, seen):
        fits = set(seen) <= set(classes) or _by_number(np.array(seen), classes)
        if classes and count in (None, len(classes)) and fits:
            return list(classes)
    raise ProjectError(
        f"the graph has {count} classes and does not name them: give a sample with all of them and its --target"
    )


def _by_number(labels: Array, classes: Sequence[Scalar] | None) -> bool:
    """Whether labels are the numbers of classes that have names."""
    names = bool(classes) and all(isinstance(name, str) for name in classes or ())
    return names and labels.dtype.kind in "iu" and set(labels.tolist()) <= set(range(len(classes or ())))


def _finish(
    model: Proto, read: tuple[Mode, str | None, str | None], outputs: Mapping[str, Array], classes: Any
) -> None:
    """Make the label or value a graph's first output and the probabilities its second."""
    from onnx import TensorProto, helper

    mode, label, scores = read
    results: list[tuple[str, str, list[Step], int]] = []
    if scores:
        half = outputs[scores].dtype == np.float16
        kind = TensorProto.DOUBLE if outputs[scores].dtype == np.float64 else TensorProto.FLOAT
        steps: list[Step] = [("Cast", [None], {"to": kind})] if half else []
        if mode == "second":
            number = np.float64 if kind == TensorProto.DOUBLE else np.float32
            steps += [
                ("Reshape", [None, np.array([-1, 1])], {}),
                ("MatMul", [None, np.array([[-1, 1]], number)], {}),
                ("Add", [None, np.array([1, 0], number)], {}),  # 1 - p and p
            ]
        elif mode == "logits":
            steps.append(("Softmax", [None], {"axis": 1}))
        results.append((scores, "prediction" if mode == "value" else "probabilities", steps or [IDENTITY], kind))
    if mode != "value":
        named = isinstance(classes[0], str)
        gather: Step = ("Gather", [np.array(classes, object if named else np.int64), None], {})
        if label:
            steps = [gather] if _by_number(outputs[label], classes) else [IDENTITY]
            named = named or outputs[label].dtype.kind in "OU"
            kind = TensorProto.STRING if named else helper.np_dtype_to_tensor_dtype(outputs[label].dtype)
        else:
            steps = [
                ("ArgMax", [None], {"axis": 1, "keepdims": 0}),
                *([] if classes == [*range(len(classes))] else [gather]),
            ]
            kind = TensorProto.STRING if named else TensorProto.INT64
        results.insert(0, (label or "probabilities", "prediction", steps, kind))
    nodes = list(model.graph.node)
    for source, name, steps, _ in reversed(results):
        nodes += graphs.chain(source, steps, name)
    graphs.replace(model, nodes)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for _, name, _, kind in results)


def _array(frame: pl.DataFrame, part: Part) -> Array:
    """Return the columns of an input in its own type."""
    from onnx import TensorProto, helper

    if part.kind == TensorProto.STRING:
        values = matrices(frame, [], part.columns, "float32")["text"]
    else:
        dtype = helper.tensor_dtype_to_np_dtype(part.kind)
        exact = pl.Int64 if dtype.kind == "i" else pl.Float64
        values = pl.DataFrame([frame[name].cast(exact) for name in part.columns]).to_numpy().astype(dtype)
    return values.reshape(-1) if part.flat else values


def _plain(value: Any, classes: Sequence[Scalar] | None) -> Array:
    """Return an output as an array: dictionaries in the order of the classes."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([[row[name] for name in classes or ()] for row in value], np.float32)
    return np.asarray(value)
