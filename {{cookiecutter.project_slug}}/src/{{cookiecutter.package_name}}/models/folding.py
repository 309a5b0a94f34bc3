"""Take the first steps of a graph out of it: columns are put in order, and categories become 0 and 1, before it runs.

A converter wants each column as an input of its own, parts the texts from the numbers, and encodes and joins them all
again: more than half of a single row's time. Which features the graph then works with is known beforehand, so they are
made where the row is read, and what is left of the graph, often its trees alone, gets them as one matrix.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graphs import Proto, Step, chain, replace
from .runtimes import Feature

MOST = 256  # features; beyond it encoding in the graph is cheaper


@dataclass(frozen=True)
class Known:
    """What is known of a tensor: its features, column by column, its element type, and whether it has a third axis."""

    features: tuple[Feature, ...]
    kind: int
    deep: bool = False


def fold(model: Proto, numeric: Sequence[str], text: Sequence[str]) -> tuple[list[Feature], list[str]]:
    """Fold a graph, in place.

    Args:
        model: with its inputs grouped into ``numeric`` and ``text`` (see `graphs.group`).
        numeric: the columns of the first.
        text: the columns of the second.

    Returns:
        The features of its new ``numeric``, and the columns of its ``text``.
    """
    from onnx import TensorProto, helper, numpy_helper

    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    known = {
        name: Known(tuple(columns), kinds[name]) for name, columns in (("numeric", numeric), ("text", text)) if columns
    }
    kept = []
    for node in model.graph.node:
        if found := _known(node, known, constants):
            known[node.output[0]] = found
        elif node.output[0] not in constants:
            kept.append(copy.deepcopy(node))
    used = list(dict.fromkeys(name for node in kept for name in node.input if name in known))
    numbers = [name for name in used if known[name].kind != TensorProto.STRING]
    layout = list(dict.fromkeys(feature for name in numbers for feature in known[name].features))
    results = {output.name for output in model.graph.output}
    if len(layout) > MOST or any(known[name].deep for name in used) or results & set(known):
        return list(numeric), list(text)
    nodes, names = [node for node in model.graph.node if node.output[0] in constants], {}
    for name in used:
        source = "numeric" if name in numbers else "text"
        whole: list[Feature] = [*layout] if name in numbers else [*text]
        places = np.array([whole.index(feature) for feature in known[name].features])
        steps: list[Step] = []
        if not np.array_equal(places, np.arange(len(whole))):
            steps.append(("Gather", [None, places], {"axis": 1}))
        if known[name].kind != kinds.get(source, known[name].kind):
            steps.append(("Cast", [None], {"to": known[name].kind}))
        names[name] = f"{name}_folded" if steps else source
        nodes += chain(source, steps, names[name]) if steps else []
    for node in kept:
        node.input[:] = [names.get(name, name) for name in node.input]
    needed = {name for node in (*nodes, *kept) for name in node.input} | results
    replace(model, [node for node in (*nodes, *kept) if node.op_type != "Constant" or needed & set(node.output)])
    texts = list(text) if len(numbers) < len(used) else []
    del model.graph.input[:]
    for name, columns in (("numeric", layout), ("text", texts)):
        if columns:
            kind = kinds.get(name, TensorProto.FLOAT)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, ["N", len(columns)]))
    return layout, texts


def _known(node: Proto, known: Mapping[str, Known], constants: Mapping[str, Any]) -> Known | None:
    """Return what is known of a node's output, if it only moves or encodes what is known."""
    from onnx import TensorProto, helper

    given = [known[name] for name in node.input if name in known]
    if not given:
        return None
    first, attributes = given[0], {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "Identity":
        return first
    if node.op_type == "Gather" and attributes.get("axis") == 1 and not first.deep and node.input[1] in constants:
        places = constants[node.input[1]]
        if places.ndim == 1:
            return Known(tuple(first.features[place] for place in places), first.kind)
    text = first.kind == TensorProto.STRING
    single = len(first.features) == 1 and not first.deep
    if node.op_type == "OneHotEncoder" and text and single and attributes.get("zeros", 1) == 1:
        values = [value.decode() for value in attributes["cats_strings"]]
        return Known(tuple((str(first.features[0]), value) for value in values), TensorProto.FLOAT, deep=True)
    alike = len(given) == len(node.input) and len({(one.kind, one.deep) for one in given}) == 1
    if node.op_type == "Concat" and alike and not text and attributes["axis"] in (-1, 2 if first.deep else 1):
        return Known(tuple(feature for one in given for feature in one.features), first.kind, first.deep)
    if node.op_type == "Reshape" and node.input[1] in constants:
        shape = constants[node.input[1]].tolist()
        if shape in ([-1, len(first.features)], [0, len(first.features)]):
            return Known(first.features, first.kind)
    exact = all(isinstance(feature, tuple) for feature in first.features)
    if node.op_type == "Cast" and exact and attributes["to"] in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return Known(first.features, attributes["to"], first.deep)
    return None
