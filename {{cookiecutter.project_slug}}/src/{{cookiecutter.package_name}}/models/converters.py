"""Converters in place of skl2onnx's own: forests and imputers.

Skl2onnx writes forests node by node in ONNX's older form, and forgets where missing values go. For 100 trees grown on
10,000 rows that takes half a minute; this takes three seconds, the graph is a third as large, loads faster, and is
given back in less than a millisecond where the other holds all of Python for 80 (it has a string for every node).
Its imputer rounds to single precision, and takes no text whose missing values are empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .runtimes import Array

OPSET = 5  # of ai.onnx.ml, where TreeEnsemble appeared
AVERAGE = 0
COLUMNS = (
    "featureids",
    "splits",
    "missing_value_tracks_true",
    "truenodeids",
    "trueleafs",
    "falsenodeids",
    "falseleafs",
)

Converter = Callable[[Any, Any, Any], None]


def converters() -> dict[type, Converter]:
    """Return the converters of steps, by type."""
    from sklearn.impute import SimpleImputer

    return {SimpleImputer: _imputer}


def forest(estimator: Any) -> dict[type, Converter]:
    """Return the converter of an estimator, if it is a forest of one value or two classes a row.

    A leaf holds one number in the newer form, so that forests of more classes stay with skl2onnx.
    """
    name = type(estimator).__name__
    if name in ("RandomForestRegressor", "ExtraTreesRegressor") and estimator.n_outputs_ == 1:
        return {type(estimator): _regressor}
    if name in ("RandomForestClassifier", "ExtraTreesClassifier") and np.shape(estimator.classes_) == (2,):
        return {type(estimator): _classifier}
    return {}


def _imputer(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType
    from skl2onnx.operator_converters.common import concatenate_variables

    imputer = operator.raw_operator
    values, missing = imputer.statistics_, imputer.missing_values
    if imputer.add_indicator or not (missing is None or missing != missing) or any(value != value for value in values):
        raise ValueError("its imputer marks what was missing, or takes other values than NaN for missing")
    kind = {StringTensorType: TensorProto.STRING, DoubleTensorType: TensorProto.DOUBLE}.get(
        type(operator.inputs[0].type), TensorProto.FLOAT
    )
    table = concatenate_variables(scope, operator.inputs, container)
    fill, gone, empty = (scope.get_unique_variable_name(name) for name in ("fill", "gone", "empty"))
    if kind == TensorProto.STRING:
        container.add_initializer(empty, kind, [1], [b""])
        container.add_node("Equal", [table, empty], [gone], op_version=19)
        values = [str(value).encode() for value in values]
    else:
        container.add_node("IsNaN", [table], [gone], op_version=13)
    container.add_initializer(fill, kind, [1, len(values)], list(values))
    container.add_node("Where", [gone, fill, table], [operator.outputs[0].full_name], op_version=16)


def _regressor(scope: Any, operator: Any, container: Any) -> None:
    trees = [tree.tree_ for tree in operator.raw_operator.estimators_]
    _add(operator.outputs[0].full_name, trees, 0, operator, container)


def _classifier(scope: Any, operator: Any, container: Any) -> None:
    forest = operator.raw_operator
    label, shares = (output.full_name for output in operator.outputs)
    names = {
        key: scope.get_unique_variable_name(key) for key in ("second", "sides", "first", "both", "place", "classes")
    }
    _add(names["second"], [tree.tree_ for tree in forest.estimators_], 1, operator, container)
    container.add_initializer(names["sides"], 1, [1, 2], [-1.0, 1.0])
    container.add_initializer(names["first"], 1, [2], [1.0, 0.0])
    container.add_node("MatMul", [names["second"], names["sides"]], [names["both"]], op_version=13)
    container.add_node("Add", [names["both"], names["first"]], [shares], op_version=14)  # 1 - p and p
    container.add_node("ArgMax", [shares], [names["place"]], op_version=13, axis=1, keepdims=0)
    texts = forest.classes_.dtype.kind in "OU"
    values = [str(value).encode() if texts else int(value) for value in forest.classes_]
    container.add_initializer(names["classes"], 8 if texts else 7, [2], values)
    container.add_node("Gather", [names["classes"], names["place"]], [label], op_version=13)


def _add(output: str, trees: Sequence[Any], place: int, operator: Any, container: Any) -> None:
    """Add the node: the average over all trees of the number at ``place`` of their leaves."""
    from onnx import numpy_helper

    splits, leaves, roots = [], [], []
    first_split = first_leaf = 0
    for tree in trees:
        leaf = tree.children_left < 0
        if leaf[0]:
            raise ValueError("one of the trees has no split")
        split = ~leaf
        # Splits and leaves are numbered apart, through all trees.
        number = np.where(leaf, np.cumsum(leaf) - 1 + first_leaf, np.cumsum(split) - 1 + first_split)
        left, right = tree.children_left[split], tree.children_right[split]
        roots.append(first_split)
        splits.append(
            (
                tree.feature[split],
                _below(tree.threshold[split]),
                tree.missing_go_to_left[split],
                number[left],
                leaf[left],
                number[right],
                leaf[right],
            )
        )
        leaves.append(tree.value[leaf, 0, place].astype(np.float32))
        first_split, first_leaf = first_split + int(split.sum()), first_leaf + int(leaf.sum())
    columns = [np.concatenate(column) for column in zip(*splits, strict=True)]
    names = (
        "featureids",
        "splits",
        "missing_value_tracks_true",
        "truenodeids",
        "trueleafs",
        "falsenodeids",
        "falseleafs",
    )
    attributes = {f"nodes_{name}": column.astype(int).tolist() for name, column in zip(names, columns, strict=True)}
    attributes |= {
        "nodes_splits": numpy_helper.from_array(columns[1]),
        "nodes_modes": numpy_helper.from_array(np.zeros(first_split, np.uint8)),  # all are <=
        "leaf_weights": numpy_helper.from_array(np.concatenate(leaves)),
        "leaf_targetids": [0] * first_leaf,
        "tree_roots": roots,
        "n_targets": 1,
        "aggregate_function": AVERAGE,
    }
    inputs = [operator.inputs[0].full_name]
    container.add_node("TreeEnsemble", inputs, [output], "ai.onnx.ml", 3, name="forest", **attributes)


def _below(thresholds: Array) -> Array:
    """Return the largest numbers of single precision not above: such numbers compare with these as with those."""
    rounded = thresholds.astype(np.float32)
    lower: Array = np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return lower
