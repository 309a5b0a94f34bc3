"""From a graph that is nothing but small trees to the tables of `runtimes.trees`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .graphs import Graph, Proto, parse
from .runtimes import Array, Feature
from .runtimes.trees import Tables

LEAVES = 64  # of a tree, at most: a bit for each
FEATURES = 64  # beyond it a walk through the trees may be shorter than a look for each feature
BYTES = 1 << 24  # of all tables
LINKS = {"NONE": "identity", "LOGISTIC": "logistic", "SOFTMAX": "softmax"}
# Of each comparison with a threshold: whether numbers equal to it are above it, and whether "true" means above.
MODES = {
    "BRANCH_LEQ": (False, False),
    "BRANCH_LT": (True, False),
    "BRANCH_GT": (False, True),
    "BRANCH_GTE": (True, True),
}

Split = tuple[int, float, int, int, int]  # feature, largest number that goes low; the nodes for low, high and missing
Tree = dict[int, Split | None]  # nodes by number, the root first; None is a leaf
Values = dict[tuple[int, int], tuple[int, float]]  # by tree and leaf: the score that it counts for, and its value


def tables(graph: Graph) -> Tables | None:
    """Return the tables of a graph; None if it is more than trees, or they are too large."""
    from onnx import helper

    node, exponential = _ensemble(parse(graph.model))
    if node is None or graph.text:
        return None
    told = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    trees, values = _trees(told), _values(told)
    if trees is None or values is None or told.get("aggregate_function", b"SUM") != b"SUM":
        return None
    classes = [one.decode() if isinstance(one, bytes) else one for one in _labels(told)]
    link = LINKS.get(told.get("post_transform", b"NONE").decode(), "")
    scores = max(score for score, _ in values.values()) + 1
    if not classes:
        sound = scores == 1 and link == "identity"
        link = "exp" if exponential else link
    elif len(classes) == 2 and scores == 1:  # ONNX asks whether the values are all positive, and then for half
        sound = link == "logistic" and min(value for _, value in values.values()) < 0
    else:
        sound = link == "softmax" and scores == len(classes)
    if not sound or (classes and exponential):
        return None
    return _laid_out(graph.numeric, trees, values, told.get("base_values") or [0.0] * scores, link, classes)


def _ensemble(model: Proto) -> tuple[Proto | None, bool]:
    """Return the one node with trees, if there is nothing else, and whether an exponential follows."""
    from onnx import TensorProto

    found, exponential = None, False
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    names = {"numeric": "numeric" if kinds.get("numeric") == TensorProto.FLOAT else "double"}  # what tensors are
    for node in model.graph.node:
        known = names.get(node.input[0], "") if len(node.input) == 1 else ""
        if node.op_type in ("TreeEnsembleRegressor", "TreeEnsembleClassifier") and known == "numeric":
            found = node if found is None else None
            names |= dict(zip(node.output, ("first", "second"), strict=False))
        elif node.op_type == "Exp" and known == "first":
            exponential, names[node.output[0]] = True, "exponential"
        elif node.op_type == "Identity" and known:
            names[node.output[0]] = known
        elif node.op_type == "Cast" and known == "double" and node.attribute[0].i == TensorProto.FLOAT:
            names[node.output[0]] = "numeric"  # as the thresholds have it, see `largest`
        else:
            return None, False
    if found is None:
        return None, False
    last = (
        ["first", "second"]
        if found.op_type == "TreeEnsembleClassifier"
        else ["exponential" if exponential else "first"]
    )
    return (found if [names.get(one.name) for one in model.graph.output] == last else None), exponential


def _labels(told: Mapping[str, Any]) -> list[Any]:
    return list(told.get("classlabels_strings") or told.get("classlabels_int64s") or [])


def _trees(told: Mapping[str, Any]) -> dict[int, Tree] | None:
    """Return the trees by number, or None if a split does something else than to compare with a threshold."""
    trees: dict[int, Tree] = {}
    names = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids")
    columns = [told[f"nodes_{name}"] for name in names]
    columns.append(told.get("nodes_missing_value_tracks_true") or [0] * len(columns[0]))
    for tree, number, mode, feature, threshold, true, false, tracks in zip(*columns, strict=True):
        nodes = trees.setdefault(tree, {})
        if mode == b"LEAF":
            nodes[number] = None
        elif mode.decode() in MODES:
            above, swapped = MODES[mode.decode()]
            low, high = (false, true) if swapped else (true, false)
            nodes[number] = feature, largest(threshold, above), low, high, true if tracks else false
        else:
            return None
    return trees


def _values(told: Mapping[str, Any]) -> Values | None:
    """Return the values of the leaves, or None if a leaf has several."""
    values: Values = {}
    kind = "class" if "class_ids" in told else "target"
    columns = (told[f"{kind}_{name}"] for name in ("treeids", "nodeids", "ids", "weights"))
    for tree, leaf, score, value in zip(*columns, strict=True):
        if (tree, leaf) in values:
            return None
        values[tree, leaf] = score, value
    return values


def largest(threshold: float, above: bool = False) -> float:
    """Return the largest number in double precision that, in single precision, is not beyond a threshold.

    Args:
        threshold: in single precision, in which ONNX compares; above negative infinity if ``above``.
        above: whether numbers equal to the threshold are beyond it.
    """
    limit = np.float32(threshold)
    with np.errstate(over="ignore"):
        if above:
            limit = np.nextafter(limit, np.float32(-np.inf))
        beyond = np.nextafter(limit, np.float32(np.inf))
    if limit == np.inf:
        return math.inf
    # What lies between both is rounded to the nearer one; in the middle, to the one whose last bit is 0.
    middle = (_finite(limit) + _finite(beyond)) / 2
    return middle if not int(limit.view(np.int32)) & 1 else math.nextafter(middle, -math.inf)


def _finite(number: np.float32) -> float:
    """Return a number; in rounding, infinity stands where the next number would be."""
    return math.copysign(2.0**128, number) if np.isinf(number) else float(number)


def _laid_out(
    numeric: Sequence[Feature],
    trees: Mapping[int, Tree],
    values: Values,
    base: Sequence[float],
    link: str,
    classes: Sequence[Any],
) -> Tables | None:
    """Lay trees out, those of the first score first; None if they do not fit."""
    leaves: dict[int, list[int]] = {number: _leaves(tree, next(iter(tree))) for number, tree in trees.items()}
    scores = {
        number: {values[number, leaf][0] for leaf in found if (number, leaf) in values}
        for number, found in leaves.items()
    }
    most = max(map(len, leaves.values()))
    if most > LEAVES or any(len(found) > 1 for found in scores.values()):
        return None
    score = {number: max(found, default=0) for number, found in scores.items()}
    order = sorted(trees, key=lambda number: (score[number], number))
    kind = np.dtype(np.uint32 if most <= 32 else np.uint64)
    layout = _Layout(numeric, trees.values())
    if len(layout.features) > FEATURES or layout.lines * len(order) * kind.itemsize > BYTES:
        return None
    weights = np.zeros((len(order), kind.itemsize * 8))
    masks = np.zeros((layout.lines, len(order)), kind)
    for column, number in enumerate(order):
        bits = {leaf: 1 << place for place, leaf in enumerate(leaves[number])}
        weights[column, : len(bits)] = [values.get((number, leaf), (0, 0.0))[1] for leaf in bits]
        masks[:, column] = layout.left(trees[number], bits, kind)
    ends = np.searchsorted([score[number] for number in order], range(len(base)), side="right")
    if len({0, *ends}) <= len(base):
        return None  # a score without trees
    for first, added in zip([0, *ends[:-1]], base, strict=True):
        weights[first] += added  # a score begins with it: one of its trees gives it along
    return Tables(layout.features, layout.thresholds, masks, weights, ends, link, tuple(classes))


def _leaves(tree: Tree, place: int) -> list[int]:
    """Return the leaves below a node from left to right, where small numbers are left."""
    split = tree[place]
    return [place] if split is None else _leaves(tree, split[2]) + _leaves(tree, split[3])


class _Layout:
    """Which line of the tables belongs to which number.

    Args:
        numeric: the features of the graph: a column, or whether a text has a value.
        trees: all of them.

    Attributes:
        features: of the tables: a column, or the place of a text's value among those that are known.
        thresholds: of each feature, ascending; a line is for the numbers from one to the next, and equal to that.
        lines: of all features: one more than thresholds each, and one for missing.
    """

    def __init__(self, numeric: Sequence[Feature], trees: Iterable[Tree]) -> None:
        texts: dict[str, list[str]] = {}
        for one in numeric:
            if isinstance(one, tuple):
                texts.setdefault(one[0], []).append(str(one[1]))
        whole: list[Feature] = [one if isinstance(one, str) else (one[0], tuple(texts[one[0]])) for one in numeric]
        self.features = list(dict.fromkeys(whole))
        self._groups = [self.features.index(one) for one in whole]
        self._values = [None if isinstance(one, str) else texts[one[0]].index(str(one[1])) for one in numeric]
        limits: list[set[float]] = [set() for _ in self.features]
        for split in (split for tree in trees for split in tree.values() if split):
            limits[self._groups[split[0]]].add(split[1])
        self.thresholds = [
            np.array(sorted(found)) if isinstance(one, str) else np.arange(len(one[1])) + 0.5
            for one, found in zip(self.features, limits, strict=True)
        ]
        self._ends = np.cumsum([len(known) + 2 for known in self.thresholds]).tolist()
        self.lines = self._ends[-1]

    def left(self, tree: Tree, bits: Mapping[int, int], kind: np.dtype[Any]) -> Array:
        """Return the leaves of a tree that are left in each line: those that no split rules out."""
        every = sum(bits.values())
        found = np.full(self.lines, every, kind)

        def rule_out(place: int) -> int:
            """Rule out, below a node, what a line does not go to; return the leaves below it."""
            split = tree[place]
            if split is None:
                return bits[place]
            feature, most, low, high, missing = split
            lows, highs = rule_out(low), rule_out(high)
            group, value = self._groups[feature], self._values[feature]
            thresholds, end = self.thresholds[group], self._ends[group]
            numbers = np.arange(len(thresholds) + 2)
            # What ends a line is its threshold; of a text, the graph sees whether it has the value.
            is_low = numbers <= np.searchsorted(thresholds, most) if value is None else (numbers == value) <= most
            is_low[-1] = missing == low
            left = np.where(is_low, kind.type(every ^ highs), kind.type(every ^ lows))
            found[end - len(numbers) : end] &= left
            return lows | highs

        rule_out(next(iter(tree)))
        return found
