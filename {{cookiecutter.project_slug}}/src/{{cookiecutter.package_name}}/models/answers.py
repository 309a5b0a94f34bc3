"""What a trained model answers, what that makes it, and whether its ONNX form answers the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ProjectError
from ..settings import Settings
from ..signature import Signature
from . import conversion, ensembles, formats, parity
from .formats import Imported
from .runtimes import Array, Runtime
from .runtimes.onnx import OnnxRuntime
from .runtimes.original import OriginalRuntime, softmax
from .runtimes.trees import Tables, TreesRuntime

if TYPE_CHECKING:
    import polars as pl

PARITY_ROWS = 20_000
CLASSES = 10  # integers of more different values are numbers, not classes, unless the model or a signature says so
TIMED_RUNS = 20

Say = Callable[[str], None]


@dataclass(frozen=True)
class Answers:
    """What a model gives for the first rows of the sample.

    Attributes:
        given: predictions (n) and class probabilities (n x classes) or None.
        classes: the labels of a classifier, or None for a regression.
        softmax: whether the model itself gives logits.
        graph: of a model that came as ONNX, in the project's form.
    """

    given: tuple[Array, Array | None]
    classes: Sequence[Any] | None
    softmax: bool = False
    graph: conversion.Graph | None = None

    @property
    def probabilities(self) -> bool:
        """Whether there are class probabilities."""
        return self.given[1] is not None


def ask(imported: Imported, table: pl.DataFrame, signature: Signature, truth: pl.Series | None) -> Answers:
    """Let the model, as it came, answer the first rows, and see from that what it predicts.

    Args:
        imported: the model.
        table: its columns.
        signature: if given by people it says whether integers are classes; its outputs are empty otherwise.
        truth: the target, if there is one.

    Raises:
        ProjectError: the model fails over these rows, or its answers cannot be served.
    """
    probe, estimator = table.head(PARITY_ROWS), imported.estimator
    try:
        if imported.graph is not None:
            adopted = conversion.adopt(imported.graph, table, truth)
            given = conversion.reference(imported.graph, probe, adopted)
            return Answers(given, adopted.classes, graph=adopted.graph)
        if hasattr(estimator, "predict_proba"):
            classes = _classes(estimator.classes_)
            return Answers(OriginalRuntime(estimator, True).predict(probe), classes)
        values = OriginalRuntime(estimator, False).predict(probe)[0]
    except ProjectError:
        raise
    except Exception as error:  # the team's own model may raise anything
        cause = formats.first_line(error)
        raise ProjectError(f"the model cannot predict the sample ({cause}): is it what it was trained on?") from None
    if not values.ndim or len(values) != probe.height:
        count = len(values) if values.ndim else 1
        raise ProjectError(f"the model gives {count} answers for {probe.height} rows: it must give one for each")
    known = [] if truth is None or truth.dtype.is_float() else _ordered(truth.unique())
    if values.ndim > 1:
        return _scores(values, known)
    if hasattr(estimator, "classes_"):
        return Answers((values, None), _classes(estimator.classes_))
    if signature.outputs and signature.task == "classification":
        return Answers((values, None), signature.outputs[0].categories)
    return _values(values, known)


def _scores(values: Array, known: Sequence[Any]) -> Answers:
    """Take several numbers a row for scores of the classes, if there are as many classes."""
    if values.ndim > 2 or values.dtype.kind not in "fiu" or values.shape[1] != len(known):
        raise ProjectError(
            "the model predicts several values a row: import one model for each, or, if they are scores of classes,"
            " name the target with --target"
        )
    logits = bool(values.min() < 0 or not np.allclose(values.sum(axis=1), 1, atol=1e-3))
    shares = softmax(values) if logits else values
    return Answers((np.array(known)[shares.argmax(axis=1)], shares), known, logits)


def _values(values: Array, known: Sequence[Any]) -> Answers:
    """Tell labels from numbers: texts and booleans are labels, integers if the target's are the same few."""
    if values.dtype.kind == "O" and not any(isinstance(value, (str, bool)) for value in values):
        values = values.astype(float)
    seen = set(values.tolist())
    if values.dtype.kind in "bOUS":
        return Answers((values, None), _ordered({*seen, *known}))
    if values.dtype.kind in "iu" and len(known) <= CLASSES and seen <= set(known):
        return Answers((values, None), known)
    if not np.isfinite(values := values.astype(float)).all():
        raise ProjectError("the model gives no finite number for some rows of the sample: see what it makes of them")
    return Answers((values, None), None)


def _ordered(classes: Iterable[Any]) -> list[Any]:
    """Order classes as scikit-learn does: numbers by value; as text only where kinds are mixed."""
    known = list(classes)
    try:
        return sorted(known)
    except TypeError:
        return sorted(known, key=str)


def _classes(classes: Any) -> list[Any]:
    if len(classes) and hasattr(classes[0], "__len__") and not isinstance(classes[0], str):
        raise ProjectError("the model predicts several targets a row: import one model for each")
    return list(classes)


def convert(
    settings: Settings, imported: Imported, table: pl.DataFrame, answers: Answers, say: Say
) -> tuple[dict[str, Any], Mapping[str, bytes], dict[str, Any]]:
    """Convert if the converted model is the same model, and faster; keep the original otherwise.

    Returns:
        What the manifest says of the runtime, the model's files, and the parity report.

    Raises:
        ProjectError: a model that came as ONNX answers otherwise in the form that is served.
    """
    chosen, tables, report = _converted(settings, imported, table, answers)
    if report["reason"]:
        say(f"kept as it is: {report['reason']}")
        manifest = {"runtime": "original", "model": imported.model, "code": imported.code}
        manifest |= {"probabilities": answers.probabilities} | ({"softmax": True} if answers.softmax else {})
        return manifest, imported.files, report
    largest, unit = report["largest"], report["unit"]
    say(f"converted to ONNX: at most {largest:.2g} {unit} off over {report['rows']} rows, p99.9 {report['p999']:.2g}")
    if chosen.note:
        say(f"note: {chosen.note}")
    manifest = {"runtime": "onnx", "model": "model.onnx", "code": False, "probabilities": answers.probabilities}
    manifest |= {name: getattr(chosen, name) for name in ("numeric", "text", "dtype")}
    files = {"model.onnx": chosen.model}
    if tables is not None:  # the graph stays, for whoever else wants to run it
        say("its trees are small: laid out in tables, which are faster still")
        manifest |= {"runtime": "trees", "model": "trees.npz"}
        manifest |= {name: getattr(tables, name) for name in ("features", "link", "classes")}
        files["trees.npz"] = tables.file()
    return manifest, files, report


def _converted(
    settings: Settings, imported: Imported, table: pl.DataFrame, answers: Answers
) -> tuple[Any, Tables | None, dict[str, Any]]:
    """Return the first graph that passes, its tables if it has any, and the report: its ``reason`` is why none did."""
    probe, compared, reason = table.head(PARITY_ROWS), dict[str, Any](), ""
    try:
        for graph in _candidates(imported, table, answers):
            try:
                tables = ensembles.tables(graph)
                runtime = _loaded(graph, tables, answers)
                compared = parity.compare(answers.given, runtime.predict(probe), settings.models)
            except Exception as error:  # onnxruntime refuses graphs with errors of its own
                reason = reason or f"the ONNX form does not run: {formats.first_line(error)}"
                continue
            if compared["passed"]:
                timed = {} if answers.graph else _timed(runtime, imported, answers, probe)
                slower = timed.get("seconds_onnx", 0) > timed.get("seconds_original", 0)
                reason = "the ONNX form is not faster" if slower else ""
                return graph, tables, {"converted": not reason, "reason": reason, **compared, **timed}
            reason = f"the ONNX form differs by {compared['p999']} {compared['unit']}"
    except conversion.NotConvertibleError as error:
        reason = reason or f"no ONNX form: {error}"
    if answers.graph:
        raise ProjectError(f"the graph cannot be brought into a form that can be served: {reason}")
    return None, None, {"converted": False, "reason": reason, **compared}


def _loaded(graph: conversion.Graph, tables: Tables | None, answers: Answers) -> Runtime:
    if tables is not None:
        return TreesRuntime(tables)
    return OnnxRuntime(graph.model, graph.numeric, graph.text, answers.probabilities, dtype=graph.dtype)


def _candidates(imported: Imported, table: pl.DataFrame, answers: Answers) -> Iterator[conversion.Graph]:
    if answers.graph:
        yield answers.graph
    elif not any(hasattr(imported.estimator, name) for name in ("get_params", "booster", "module")):
        raise conversion.NotConvertibleError("it is code of its own")
    else:
        yield from conversion.attempts(imported, table, answers.probabilities, answers.classes)


def _timed(converted: Runtime, imported: Imported, answers: Answers, probe: pl.DataFrame) -> dict[str, float]:
    """Return the shortest of some times for one row, in seconds, in either form; in turns, as a machine has moods."""
    original = OriginalRuntime(imported.estimator, answers.probabilities, answers.classes or (), answers.softmax)
    forms: dict[str, Runtime] = {"seconds_onnx": converted, "seconds_original": original}
    best, row = dict.fromkeys(forms, float("inf")), probe.head(1)
    for _ in range(TIMED_RUNS):
        for name, form in forms.items():
            start = time.perf_counter()
            form.predict(row)
            best[name] = min(best[name], time.perf_counter() - start)
    return best
