"""From a trained estimator to ONNX, for speed; whether the result is the same model is for `parity` to say.

Graphs that come as ONNX are brought to the same form by `adoption`.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ProjectError
from .adoption import Adopted, adopt, reference
from .converters import OPSET, converters, forest
from .folding import fold
from .formats import Imported, first_line, library
from .graphs import Graph, Part, group, link

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Adopted", "Graph", "NotConvertibleError", "adopt", "attempts", "reference"]

OPSETS = {"": 19, "ai.onnx.ml": 3}  # old enough for every ONNX Runtime that the project allows
BOOSTED = {"xgboost": ("XGBClassifier", "XGBRegressor"), "lightgbm": ("LGBMClassifier", "LGBMRegressor")}


class NotConvertibleError(Exception):
    """The estimator has no ONNX form here; the message says why."""


def attempts(
    imported: Imported, frame: pl.DataFrame, probabilities: bool, classes: Sequence[Any] | None
) -> Iterator[Graph]:
    """Convert a fitted estimator, the fastest form first.

    Single precision comes first. It may not be exact: a value that was scaled in single precision can fall on the
    other side of a tree's split. So the second form works in double precision, up to the trees: rounding keeps the
    order of numbers, and what is rounded like a split's threshold is compared as before.

    Args:
        imported: its estimator was fitted on the columns of ``frame``, in their order.
        frame: the model's columns, typed.
        probabilities: whether it gives a probability for each class.
        classes: its classes, or None for a regression.

    Yields:
        Candidates; each may still be unable to run, or be another model.

    Raises:
        NotConvertibleError: there is none.
    """
    if times := [name for name, dtype in frame.schema.items() if dtype.is_temporal()]:
        raise NotConvertibleError(f"the model reads the time {times[0]} itself")
    if (module := getattr(imported.estimator, "module", None)) is not None:
        yield _export(module, frame, classes)
        return
    estimator = _prepare(imported.estimator)
    yield _sklearn(estimator, frame, "float32")
    if hasattr(estimator, "steps") or not _trees(estimator):
        yield _sklearn(_single_trees(estimator), frame, "float64")


def _sklearn(estimator: Any, frame: pl.DataFrame, dtype: str) -> Graph:
    import polars as pl

    text = [name for name, kind in frame.schema.items() if kind == pl.String]
    numeric = [name for name in frame.columns if name not in text]
    failure = ""
    for single in (not text, False) if not _by_column(estimator) else (False,):
        try:
            model = _convert(estimator, numeric, text, frame.columns, single, dtype)
            if not single:
                kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
                names = {_variable(kinds, name): name for name in frame.columns}
                group(model, [Part(name, [column], kinds[name]) for name, column in names.items()], dtype)
            features, texts = fold(model, numeric, text)
            if _log_link(estimator):
                link(model, "Exp")
            return Graph(model.SerializeToString(), features, texts, dtype)
        except Exception as error:  # skl2onnx raises every kind for what it does not know
            failure = failure or first_line(error)
    raise NotConvertibleError(failure)


def _convert(
    estimator: Any, numeric: Sequence[str], text: Sequence[str], order: Sequence[str], single: bool, dtype: str
) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    number = FloatTensorType if dtype == "float32" else DoubleTensorType
    if single:
        inputs: list[tuple[str, Any]] = [("numeric", number([None, len(numeric)]))]
    else:
        kinds = {name: number([None, 1]) for name in numeric} | {name: StringTensorType([None, 1]) for name in text}
        inputs = [(name, kinds[name]) for name in order]
    final, options = _final(estimator), None
    if type(final).__name__ == "LinearSVC":  # has no such option, and any option of its own turns the default off
        options = {id(final): {"nocl": False}}
    elif hasattr(estimator, "classes_"):
        options = {id(estimator): {"zipmap": False}}
    trees = forest(final)
    own = converters() | trees
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_sklearn(
            estimator, initial_types=inputs, options=options, target_opset=OPSETS, custom_conversion_functions=own
        )
    if trees:  # skl2onnx does not know the version, whose other operators are those of the version before
        next(entry for entry in model.opset_import if entry.domain == "ai.onnx.ml").version = OPSET
    return model


def _prepare(estimator: Any) -> Any:
    """Return the estimator in a form that converters know; those of boosters are taught to skl2onnx."""
    used = {type(part).__module__.partition(".")[0] for part in _parts(estimator)}
    booster = getattr(estimator, "booster", None)  # of the adapters in formats
    for name, module in (("xgboost", "XGBoost"), ("lightgbm", "LightGBM")):
        if name in used or (booster is not None and type(booster).__module__.partition(".")[0] == name):
            try:
                library("onnxmltools", name)
            except ProjectError as error:
                raise NotConvertibleError(str(error)) from None
            _register(name, module)
    if booster is not None:
        return _unnamed(_wrap(estimator, booster))
    return _unnamed(copy.deepcopy(estimator)) if "xgboost" in used else estimator


def _register(name: str, module: str) -> None:
    """Tell skl2onnx how XGBoost's or LightGBM's models are converted."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator as shapes

    place = f"onnxmltools.convert.{name}.operator_converters.{'XGBoost' if name == 'xgboost' else 'LightGbm'}"
    convert = getattr(import_module(place), f"convert_{name}")
    classifier, regressor = (getattr(sys.modules[name], kind) for kind in BOOSTED[name])
    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    calculate = shapes.calculate_linear_classifier_output_shapes
    update_registered_converter(classifier, f"{module}Classifier", calculate, convert, options=options)
    options = {"split": [None]} if name == "lightgbm" else {}
    calculate = shapes.calculate_linear_regressor_output_shapes
    update_registered_converter(regressor, f"{module}Regressor", calculate, convert, options=options)


def _wrap(adapter: Any, booster: Any) -> Any:
    """Return a bare booster as the estimator of its library."""
    name = type(booster).__module__.partition(".")[0]
    classes = getattr(adapter, "classes_", None)
    model = getattr(sys.modules[name], BOOSTED[name][classes is None])()
    if name == "xgboost":
        model._Booster = booster.copy()
        model.objective = adapter.objective.replace("multi:softmax", "multi:softprob")  # ours gives probabilities
        model.n_classes_ = 0 if classes is None else len(classes)
    else:
        model._Booster, model._objective, model.fitted_ = booster, adapter.objective, True
        model._n_features, model._classes = booster.num_feature(), classes
        model._n_classes = 0 if classes is None else len(classes)
    return model


def _unnamed(estimator: Any) -> Any:
    """Take the columns' names off XGBoost's model, whose converter wants numbers."""
    final = _final(estimator)
    if hasattr(final, "get_booster"):
        final.get_booster().feature_names = None
    return estimator


def _export(module: Any, frame: pl.DataFrame, classes: Sequence[Any] | None) -> Graph:
    """Export a PyTorch module that takes one matrix."""
    import io

    import polars as pl
    import torch

    rows = frame.head(2)
    try:
        matrix = torch.from_numpy(rows.cast(pl.Float32).to_numpy(order="c", writable=True))
        names = {"input_names": ["rows"], "output_names": ["answers"]}
        target = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = copy.deepcopy(module).cpu().eval()
            torch.onnx.export(
                module, (matrix,), target, dynamo=False, opset_version=18, dynamic_axes={"rows": {0: "N"}}, **names
            )
        adopted = adopt(target.getvalue(), frame, None if classes is None else pl.Series(classes))
    except Exception as error:  # torch raises every kind
        raise NotConvertibleError(first_line(error)) from None
    return adopted.graph


def _final(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return _final(steps[-1][1]) if steps else estimator


def _by_column(estimator: Any) -> bool:
    """Whether the first step picks its columns by name."""
    steps = getattr(estimator, "steps", None)
    first = steps[0][1] if steps else estimator
    return type(first).__name__ == "ColumnTransformer" or (steps is not None and _by_column(first))


def _parts(estimator: Any) -> list[Any]:
    return [estimator, *(estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ())]


def _trees(estimator: Any) -> bool:
    return any(re.search("Tree|Forest|Boost|XGB|LGBM", type(part).__name__) for part in _parts(estimator))


def _single_trees(estimator: Any) -> Any:
    """Return a pipeline with a cast to single precision before its last step, if that has trees."""
    from skl2onnx.sklapi import CastTransformer
    from sklearn.pipeline import Pipeline

    if not hasattr(estimator, "steps") or not _trees(_final(estimator)):
        return estimator
    *steps, (name, last) = estimator.steps
    if hasattr(last, "steps"):
        return Pipeline([*steps, (name, _single_trees(last))])
    return Pipeline([*steps, ("single precision", CastTransformer(dtype=np.float32)), (name, last)])


def _log_link(estimator: Any) -> bool:
    """Whether the model is a gradient boosting on a logarithmic scale, whose exponential skl2onnx forgets."""
    final = _final(estimator)
    loss = getattr(final, "_loss", None)
    log = type(getattr(loss, "link", None)).__name__ == "LogLink"
    return log and type(final).__name__ == "HistGradientBoostingRegressor"


def _variable(names: Collection[str], column: str) -> str:
    """Return the name that skl2onnx gave to a column: characters that are no part of a word become underscores."""
    return column if column in names else re.sub(r"[^\w.]", "_", column)
