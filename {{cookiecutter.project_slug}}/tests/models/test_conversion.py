"""Estimators and graphs become one form, and answer as they did before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from project.errors import ProjectError
from project.models import conversion, parity
from project.models.formats import Imported
from project.models.runtimes.onnx import OnnxRuntime
from project.models.runtimes.original import OriginalRuntime
from project.settings import Models

ROWS = 3000
ITERATIONS = 10


def data() -> tuple[pd.DataFrame, np.ndarray]:
    """Return large numbers close to each other, some missing, with a text column; and what they amount to."""
    random = np.random.default_rng(3)
    numbers = random.normal(10_000, 1000, (ROWS, 4))
    value = 3 * numbers[:, 0] - numbers[:, 1] + random.normal(0, 300, ROWS)
    numbers[::7, 0] = np.nan
    table = pd.DataFrame(numbers, columns=["first", "second", "third (m)", "fourth"])
    return table.assign(station=random.choice(["north", "south"], ROWS)), (value - value.mean()) / value.std()


TABLE, VALUE = data()
NUMBERS = TABLE.drop(columns="station")
SIDES = np.where(VALUE > 0, "up", "down")
LEVELS = np.array(["low", "mid", "top"])[np.digitize(VALUE, [-0.5, 0.5])]


def mixed(*steps: Any) -> Any:
    """Return a transformer of all columns, as most teams write it."""
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return make_column_transformer((make_pipeline(*steps), list(NUMBERS)), (encoder, ["station"]))


GAPS = make_pipeline(
    make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False)), ["station"]),
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), list(NUMBERS)),
    ),
    LogisticRegression(),
)


def convert(estimator: Any, table: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Return the report of each attempt, up to the first that passes, with the precision of its numbers."""
    values = {name: [None if value != value else value for value in table[name].to_list()] for name in table}
    frame = pl.DataFrame(values)
    probabilities = hasattr(estimator, "predict_proba")
    original = OriginalRuntime(estimator, probabilities).predict(frame)
    reports = []
    imported = Imported(estimator, "sklearn", {}, "")
    for graph in conversion.attempts(imported, frame, probabilities, getattr(estimator, "classes_", None)):
        runtime = OnnxRuntime(graph.model, graph.numeric, graph.text, probabilities, graph.dtype)
        reports.append((graph.dtype, parity.compare(original, runtime.predict(frame), Models())))
        if reports[-1][1]["passed"]:
            break
    return reports


@pytest.mark.parametrize(
    ("estimator", "table", "target"),
    [
        (make_pipeline(mixed(SimpleImputer(), StandardScaler()), HistGradientBoostingRegressor()), TABLE, VALUE),
        (make_pipeline(StandardScaler(), HistGradientBoostingClassifier()), NUMBERS, LEVELS),
        (make_pipeline(StandardScaler(), HistGradientBoostingRegressor(loss="gamma")), NUMBERS, VALUE**2 + 0.1),
        (make_pipeline(StandardScaler(), make_pipeline(HistGradientBoostingRegressor())), NUMBERS, VALUE),
    ],
)
def test_trees_behind_a_scaler_are_exact_in_double_precision(
    estimator: Any, table: pd.DataFrame, target: np.ndarray
) -> None:
    final = estimator[-1][-1] if hasattr(estimator[-1], "steps") else estimator[-1]
    final.set_params(max_iter=ITERATIONS)
    estimator.fit(table, target)
    (single, missed), (double, report) = convert(estimator, table)
    assert (single, double) == ("float32", "float64")
    assert not missed["passed"]
    assert report["passed"]
    assert report["largest"] < 1e-5


@pytest.mark.parametrize(
    ("estimator", "table", "target"),
    [
        (HistGradientBoostingRegressor(loss="poisson", max_iter=ITERATIONS), NUMBERS, np.abs(VALUE)),
        (make_pipeline(SimpleImputer(), StandardScaler(), LinearSVC()), NUMBERS, SIDES),
        (make_pipeline(mixed(SimpleImputer(), StandardScaler()), LinearSVC()), TABLE, LEVELS),
        (make_pipeline(mixed(SimpleImputer(), StandardScaler()), LogisticRegression()), TABLE, LEVELS),
        (GAPS, TABLE.assign(station=TABLE["station"].where(np.arange(ROWS) % 5 > 0)), LEVELS),
        (RandomForestRegressor(10, random_state=0), NUMBERS, VALUE),  # with missing values
        (RandomForestClassifier(10, random_state=0), NUMBERS, SIDES),
        (RandomForestClassifier(10, random_state=0, max_depth=6), NUMBERS.fillna(0), LEVELS),
        (make_pipeline(mixed(SimpleImputer()), ExtraTreesClassifier(10, random_state=0)), TABLE, VALUE > 0),
    ],
)
def test_a_model_answers_as_before(estimator: Any, table: pd.DataFrame, target: np.ndarray) -> None:
    ((dtype, report),) = convert(estimator.fit(table, target), table)
    assert dtype == "float32"
    assert report["p999"] < 1e-5
    assert not report["classes_differ"]


def test_what_needs_double_precision_gets_it() -> None:
    estimator = make_pipeline(StandardScaler(), GaussianProcessRegressor(alpha=1e-6, optimizer=None))
    table = NUMBERS.fillna(0).head(300)
    dtype, report = convert(estimator.fit(table, VALUE[:300]), table)[-1]
    assert dtype == "float64"
    assert report["largest"] < 1e-6


def test_silently_wrong_categories_do_not_pass() -> None:
    kind = np.random.default_rng(1).integers(0, 8, ROWS)
    estimator = HistGradientBoostingRegressor(categorical_features=["kind"], max_iter=ITERATIONS)
    table = NUMBERS.assign(kind=kind.astype(float))
    reports = convert(estimator.fit(table, VALUE + kind % 3 * 4), table)
    assert not any(report["passed"] for _, report in reports)


def test_a_forest_gives_halves_to_the_first_class_like_the_original() -> None:
    estimator = ExtraTreesClassifier(2, random_state=0, bootstrap=True).fit(NUMBERS.fillna(0), SIDES)
    table = NUMBERS.fillna(0)
    assert (estimator.predict_proba(table)[:, 0] == 0.5).any()
    ((_, report),) = convert(estimator, table)
    assert report["classes_differ"] == 0


@pytest.mark.parametrize("behind", [False, True], ids=["bare", "pipeline"])
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosters_are_exact(needs_extra: Callable[[str], Any], library: str, behind: bool) -> None:
    module = needs_extra(library)
    needs_extra("onnxmltools")
    quiet = {"n_jobs": 1, **({"verbosity": 0} if library == "xgboost" else {"verbose": -1})}
    kinds = ("XGBClassifier", "XGBRegressor") if library == "xgboost" else ("LGBMClassifier", "LGBMRegressor")
    names = LEVELS if library == "lightgbm" else np.digitize(VALUE, [-0.5, 0.5])  # XGBoost wants numbers
    for kind, target in ((kinds[0], names), (kinds[0], VALUE > 0), (kinds[1], VALUE)):
        final = getattr(module, kind)(n_estimators=ITERATIONS, **quiet)
        estimator = make_pipeline(mixed(SimpleImputer(), StandardScaler()), final) if behind else final
        table = TABLE if behind else NUMBERS  # the bare one sees missing values, and columns with names
        report = convert(estimator.fit(table, target), table)[-1][1]
        assert report["p999"] < 1e-5
        assert not report["classes_differ"]


@pytest.mark.parametrize("objective", ["multi:softmax", "binary:logistic", "reg:squarederror", "count:poisson"])
def test_native_xgboost_is_exact(needs_extra: Callable[[str], Any], objective: str) -> None:
    xgboost = needs_extra("xgboost")
    needs_extra("onnxmltools")
    from project.models.formats.xgboost import XGBoost

    label = {"multi": np.digitize(VALUE, [-0.5, 0.5]), "binary": VALUE > 0}.get(objective.partition(":")[0], VALUE**2)
    options = {"objective": objective, "nthread": 1, **({"num_class": 3} if "multi" in objective else {})}
    booster = xgboost.train(options, xgboost.DMatrix(NUMBERS, label), ITERATIONS)
    report = convert(XGBoost(booster), NUMBERS)[-1][1]
    assert report["p999"] < 1e-5
    assert booster.feature_names == list(NUMBERS)


@pytest.mark.parametrize("objective", ["multiclass", "binary", "regression", "poisson"])
def test_native_lightgbm_is_exact(needs_extra: Callable[[str], Any], objective: str) -> None:
    lightgbm = needs_extra("lightgbm")
    needs_extra("onnxmltools")
    from project.models.formats.lightgbm import LightGBM

    label = {"multiclass": np.digitize(VALUE, [-0.5, 0.5]), "binary": VALUE > 0}.get(objective, VALUE**2)
    options = {
        "objective": objective,
        "verbose": -1,
        "num_threads": 1,
        **({"num_class": 3} if objective == "multiclass" else {}),
    }
    table = NUMBERS.rename(columns={"third (m)": "third"})
    booster = lightgbm.train(options, lightgbm.Dataset(table, label), ITERATIONS)
    assert convert(LightGBM(booster), table)[-1][1]["p999"] < 1e-5


def test_without_its_extra_a_booster_is_kept_and_the_extra_named(
    needs_extra: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    xgboost = needs_extra("xgboost")
    estimator = xgboost.XGBRegressor(n_estimators=2).fit(NUMBERS, VALUE)
    monkeypatch.setitem(sys.modules, "onnxmltools", None)
    with pytest.raises(conversion.NotConvertibleError, match=r"\[xgboost\]"):
        convert(estimator, NUMBERS)


def test_a_torch_module_is_exported() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    class Adapter:
        pass

    adapter: Any = Adapter()
    adapter.module = module
    frame, labels = numbers(), ["a", "b", "c"]
    (graph,) = conversion.attempts(Imported(adapter, "mlflow", {}, ""), frame, True, labels)
    given, shares = OnnxRuntime(graph.model, graph.numeric, graph.text, True, graph.dtype).predict(frame)
    with torch.no_grad():
        wanted = torch.softmax(module(torch.tensor(frame.to_numpy(), dtype=torch.float32)), 1).numpy()
    assert shares == pytest.approx(wanted, abs=1e-6)
    assert given.tolist() == [labels[place] for place in wanted.argmax(axis=1)]


# Graphs from elsewhere.

WEIGHTS = np.random.default_rng(5).normal(size=(3, 3))
FLOAT, DOUBLE, INT64, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING
Wire = tuple[str, int, Sequence[Any]]


def numbers(rows: int = 40) -> pl.DataFrame:
    return pl.DataFrame(np.random.default_rng(6).normal(size=(rows, 3)), schema=["a", "b", "c"])


def graph(
    nodes: Sequence[Any],
    inputs: Sequence[Wire],
    outputs: Sequence[Wire],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    classes: str = "",
) -> bytes:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*wire) for wire in inputs],
        [helper.make_tensor_value_info(*wire) for wire in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    versions = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(made, opset_imports=versions, ir_version=8)
    if classes:
        helper.set_model_props(model, {"classes": classes})
    content: bytes = model.SerializeToString()
    return content


def linear(*after: Any, outputs: int = 3, rows: Any = "N", name: str = "x", **options: Any) -> bytes:
    """Return a graph of one matrix product and what comes after it."""
    kind = options.pop("kind", FLOAT)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    given = options.pop("given", None) or [(after[-1].output[0] if after else "y", kind, None)]
    constants = {"w": WEIGHTS[:, :outputs].astype(dtype), **options.pop("constants", {})}
    nodes = [helper.make_node("MatMul", [name, "w"], ["y"]), *after]
    return graph(nodes, [(name, kind, [rows, 3])], given, constants, **options)


SOFTMAX = helper.make_node("Softmax", ["y"], ["p"], axis=1)
SIGMOID = helper.make_node("Sigmoid", ["y"], ["p"])
LABEL = helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0)
NAMES = pl.Series(["low", "mid", "top"] * 13 + ["low"])


def check(content: bytes, frame: pl.DataFrame, target: pl.Series | None = None) -> conversion.Adopted:
    """Adopt a graph, and hold it against itself as it came."""
    adopted = conversion.adopt(content, frame, target)
    graph = adopted.graph
    runtime = OnnxRuntime(graph.model, graph.numeric, graph.text, adopted.probabilities, graph.dtype)
    report = parity.compare(conversion.reference(content, frame, adopted), runtime.predict(frame), Models())
    assert report["passed"]
    assert report["largest"] < 1e-5
    return adopted


@pytest.mark.parametrize(
    ("content", "target", "classes", "probabilities", "note"),
    [
        (linear(), NAMES, ["low", "mid", "top"], True, "logits"),
        (linear(), None, [0, 1, 2], True, "logits"),
        (linear(name="numeric"), None, [0, 1, 2], True, "logits"),
        (linear(SOFTMAX), NAMES, ["low", "mid", "top"], True, ""),
        (linear(SOFTMAX, kind=DOUBLE), NAMES, ["low", "mid", "top"], True, ""),
        (linear(SOFTMAX, classes='["x", "y", "z"]'), NAMES, ["x", "y", "z"], True, ""),
        (linear(SOFTMAX, outputs=2), pl.Series([True, False] * 20), [False, True], True, ""),
        (linear(SIGMOID, outputs=1), pl.Series(["no", "yes"] * 20), ["no", "yes"], True, "second class"),
        (linear(LABEL, given=[("label", INT64, ["N"])]), None, [0, 1, 2], False, ""),
        (linear(LABEL, given=[("label", INT64, ["N"])]), NAMES, ["low", "mid", "top"], False, ""),
        (
            linear(SOFTMAX, LABEL, given=[("p", FLOAT, ["N", 3]), ("label", INT64, ["N"])]),
            NAMES,
            ["low", "mid", "top"],
            True,
            "",
        ),
        (linear(LABEL, given=[("label", INT64, ["N"]), ("y", FLOAT, ["N", 3])]), None, [0, 1, 2], False, "left out"),
        (linear(outputs=1), None, None, False, ""),
        (linear(outputs=1, rows=1), None, None, False, ""),  # written for one row, and able to take more
        (linear(SOFTMAX, rows=8), None, [0, 1, 2], True, ""),
    ],
)
def test_outputs_are_read_for_what_they_are(
    content: bytes, target: pl.Series | None, classes: list[Any] | None, probabilities: bool, note: str
) -> None:
    adopted = check(content, numbers(), target)
    assert adopted.classes == classes
    assert adopted.task == ("regression" if classes is None else "classification")
    assert adopted.probabilities is probabilities
    assert note in adopted.note
    assert bool(note) == bool(adopted.note)


@pytest.mark.parametrize("labels", [["u", "v", "w"], [5, 7, 9], [False, True]])
@pytest.mark.parametrize("zipmap", [True, False])
def test_dictionaries_and_labels_of_scikit_learn(labels: list[Any], zipmap: bool) -> None:
    from skl2onnx import to_onnx

    frame = numbers()
    target = pl.Series([labels[place % len(labels)] for place in range(frame.height)])
    estimator = LogisticRegression().fit(frame.to_numpy(), target.to_list())
    model = to_onnx(estimator, frame.to_numpy().astype(np.float32), options={"zipmap": zipmap})
    adopted = check(model.SerializeToString(), frame, target)
    assert repr(adopted.classes) == repr(labels)  # true is not 1
    assert adopted.probabilities


CODES = {"north": 1.0, "south": 5.0}
KINDS = {"float": FLOAT, "double": DOUBLE, "int64": INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*KINDS, "string"]), st.booleans()), min_size=1, max_size=6),
    st.booleans(),
    st.integers(0, 5),
)
def test_columns_enter_by_name_or_in_order(columns: list[tuple[str, bool]], named: bool, turn: int) -> None:
    """The sum of all columns, each times its own number, whatever their types, shapes and order."""
    random, rows = np.random.default_rng(0), 5
    values: dict[str, Any] = {}
    nodes, inputs, terms, wanted = [], [], [], np.zeros(rows)
    for place, (kind, flat) in enumerate(columns):
        name = f"col {place}"
        whole = random.integers(2**24, 2**26, rows)
        series = {
            "string": random.choice(list(CODES), rows),
            "bool": whole % 2 == 0,
            "float": whole.astype(np.float32).astype(float) / 7,
            "double": whole / 7,
        }.get(kind, whole)
        values[name] = series.tolist()
        inputs.append((name, KINDS.get(kind, STRING), ["N"] if flat else ["N", 1]))
        if kind == "string":
            keys, codes = list(CODES), list(CODES.values())
            options = {"domain": "ai.onnx.ml", "keys_strings": keys, "values_floats": codes}
            nodes.append(helper.make_node("LabelEncoder", [name], [f"code{place}"], **options))
            numeric: Any = np.array([CODES[text] for text in series])
        else:
            numeric = np.array(series, np.float32 if kind == "float" else np.float64)
        source = f"code{place}" if kind == "string" else name
        nodes.append(helper.make_node("Cast", [source], [f"n{place}"], to=DOUBLE))
        nodes.append(helper.make_node("Mul", [f"n{place}", f"times{place}"], [f"t{place}"]))
        nodes.append(helper.make_node("Reshape", [f"t{place}", "column"], [f"r{place}"]))
        terms.append(f"r{place}")
        wanted += numeric.astype(np.float64) * (place + 1)
    nodes.append(helper.make_node("Sum", terms, ["y"]))
    constants = {f"times{place}": np.array(place + 1.0) for place in range(len(columns))} | {
        "column": np.array([-1, 1])
    }
    frame = pl.DataFrame(values)
    if named:
        inputs = inputs[turn % len(inputs) :] + inputs[: turn % len(inputs)]
    else:
        frame = frame.rename({name: name.upper() for name in frame.columns})
    content = graph(nodes, inputs, [("y", DOUBLE, ["N", 1])], constants)
    adopted = conversion.adopt(content, frame, None)
    runtime = OnnxRuntime(adopted.graph.model, adopted.graph.numeric, adopted.graph.text, False, adopted.graph.dtype)
    assert runtime.predict(frame)[0] == pytest.approx(wanted, rel=1e-12)
    assert conversion.reference(content, frame, adopted)[0] == pytest.approx(wanted, rel=1e-12)


def test_a_matrix_of_numbers_beside_one_of_text() -> None:
    codes = {"keys_strings": ["n", "s"], "values_floats": [1.0, 2.0]}
    nodes = [
        helper.make_node("LabelEncoder", ["words"], ["code"], domain="ai.onnx.ml", **codes),
        helper.make_node("Concat", ["values", "code"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["y"]),
    ]
    inputs = [("words", STRING, ["N", 1]), ("values", FLOAT, ["N", 2])]
    content = graph(nodes, inputs, [("y", FLOAT, ["N", 1])], {"w": np.array([[1], [10], [100]], np.float32)})
    frame = pl.DataFrame({"p": [1.0, 2.0, 3.0], "kind": ["n", "s", "n"], "q": [4.0, 5.0, 6.0]})
    adopted = check(content, frame)
    assert (adopted.graph.numeric, adopted.graph.text) == (["p", "q"], ["kind"])


WIDE = graph([helper.make_node("ReduceSum", ["x"], ["y"])], [("x", FLOAT, ["N", 4])], [("y", FLOAT, None)], opset=13)
RESHAPE = helper.make_node("Reshape", ["y", "one"], ["z"])
TWO = helper.make_node("Neg", ["y"], ["z"])


@pytest.mark.parametrize(
    ("content", "columns", "words"),
    [
        (WIDE, "abc", "takes 4 columns by x, and the sample has 3"),
        (linear(), ["a", "b", "text"], "takes numbers in the column 'text', and the sample has text"),
        (linear(), ["a", "b", "at"], "the column 'at' holds times"),
        (linear(helper.make_node("Wobble", ["y"], ["p"])), "abc", "uses the operator Wobble"),
        (linear(helper.make_node("Wobble", ["y"], ["p"], domain="ai.onnx.ml")), "abc", "the operator .*Wobble"),
        (linear(opset=99), "abc", "version 99 of ONNX, which is newer"),
        (linear()[:-30], "abc", "no ONNX graph, or is cut off"),
        (b"", "abc", "no ONNX graph, or is cut off"),
        (linear(TWO, given=[("y", FLOAT, None), ("z", FLOAT, None)]), "abc", "gives y, z, of which no prediction"),
        (linear(RESHAPE, outputs=1, rows=1, constants={"one": np.array([1, 1])}), "abc", "batches of 1 rows only"),
        (linear(RESHAPE, outputs=1, rows=1, constants={"one": np.array([1, -1])}), "abc", "batches of 1 rows only"),
        (linear(kind=INT64, outputs=1), ["a", "b", "hole"], "no missing values in the column 'hole'"),
        (graph([TWO], [("y", FLOAT, ["N", 3, 1])], [("z", FLOAT, None)]), "abc", "input 'y' is no table"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(content: bytes, columns: Sequence[str], words: str) -> None:
    frame = numbers().with_columns(
        text=pl.lit("x"), at=pl.lit("2025-01-01").str.to_date(), hole=pl.when(pl.col("a") > 0).then("a")
    )
    with pytest.raises(ProjectError, match=words) as failure:
        conversion.adopt(content, frame.select(list(columns)), None)
    assert "\n" not in str(failure.value)


def test_our_own_form_is_adopted_again_unchanged() -> None:
    once = check(linear(SOFTMAX), numbers(), NAMES)
    twice = check(once.graph.model, numbers(), NAMES)
    assert (twice.classes, twice.graph.numeric) == (once.classes, once.graph.numeric)
    assert [value.name for value in onnx.load_model_from_string(twice.graph.model).graph.input] == ["numeric"]


# Parity.


def test_what_is_missing_on_both_sides_does_not_differ() -> None:
    values = np.array([1.0, 2.0, np.nan, np.inf, 5.0])
    report = parity.compare((values, None), (values.copy(), None), Models())
    assert (report["passed"], report["largest"]) == (True, 0.0)
    for wrong in (0.0, -np.inf, np.nan):
        other = np.where(np.isinf(values), wrong, values)
        assert not parity.compare((values, None), (other, None), Models())["passed"]


def test_parity_reports_the_share_of_other_classes() -> None:
    labels, shares = np.array(["a", "b"] * 50), np.full((100, 2), 0.5)
    other = labels.copy()
    other[:3] = "c"
    report = parity.compare((labels, shares), (other, shares + 1e-6), Models())
    assert report["classes_differ"] == pytest.approx(0.03)
    assert report["largest"] == pytest.approx(1e-6)
    assert not report["passed"]
