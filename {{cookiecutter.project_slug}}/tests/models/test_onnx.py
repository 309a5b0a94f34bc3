"""A graph of ONNX is read for what it is, and predicts the same from its bundle, or is refused in a sentence."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

from project.errors import ProjectError
from project.models import conversion, parity
from project.models.importing import import_model
from project.models.registry import CHAMPION, Registry
from project.models.runtimes import features
from project.models.runtimes.onnx import OnnxRuntime
from project.models.scorer import Scorer
from project.settings import Models, Settings
from trained import graph as exported
from trained import predicted, source_of

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


@hypothesis(max_examples=40, deadline=None)
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


# From a file to a bundle.


@pytest.mark.parametrize("zipmap", [True, False])
def test_bare_onnx_predicts_the_same(settings: Settings, wine: pd.DataFrame, tmp_path: Path, zipmap: bool) -> None:
    target = np.array(["one", "two", "three"])[load_wine().target]
    pl.read_csv(tmp_path / "s.csv").with_columns(y=pl.Series(target)).write_csv(tmp_path / "s.csv")
    model, proto = exported(wine, target, options={"zipmap": zipmap})
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    bundle = import_model(settings, source_of(tmp_path / "m.onnx", tmp_path))
    output = predicted(bundle, wine)
    assert output["prediction"].to_list() == model.predict(wine.to_numpy()).tolist()
    shares = output.select(f"probability_{label}" for label in model.classes_).to_numpy()
    np.testing.assert_allclose(shares, model.predict_proba(wine.to_numpy()), atol=1e-5)
    assert bundle.manifest["code"] is False


def _external(folder: Path, table: pd.DataFrame, location: str) -> Path:
    """Write a linear graph whose weights lie in a file beside it, and let it name that file as it likes."""
    weights = np.arange(1, table.shape[1] + 1, dtype=np.float32).reshape(-1, 1)
    tensor = numpy_helper.from_array(weights, "w")
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["out"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(weights)])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 1])],
        [tensor],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = onnx.load(folder / "m.onnx", load_external_data=False)
    content.graph.initializer[0].external_data[0].value = location
    (folder / "m.onnx").write_bytes(content.SerializeToString())
    return folder / "m.onnx"


def test_onnx_with_external_data_is_taken_whole(settings: Settings, diabetes: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    bundle = import_model(settings, source_of(_external(folder, diabetes, "weights.bin"), tmp_path))
    shutil.rmtree(folder)
    wanted = diabetes.to_numpy() @ np.arange(1, 11)
    np.testing.assert_allclose(predicted(bundle, diabetes)["prediction"], wanted, atol=1e-5)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname"])
def test_onnx_that_reads_outside_its_folder_is_refused(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path, location: str
) -> None:
    with pytest.raises(ProjectError, match="outside its own folder"):
        import_model(settings, source_of(_external(tmp_path, diabetes, location), tmp_path))


def test_unknown_operator_is_named(settings: Settings, diabetes: pd.DataFrame, tmp_path: Path) -> None:
    path = _external(tmp_path, diabetes, "weights.bin")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, path)
    with pytest.raises(ProjectError, match="Frobnicate"):
        import_model(settings, source_of(path, tmp_path))
    assert Registry(settings).versions() == []


@pytest.mark.parametrize("task", ["champion", "classifier"])
def test_one_row_alone_is_scored_as_among_others(task: str, request: pytest.FixtureRequest) -> None:
    settings: Settings = request.getfixturevalue(task)
    scorer = Scorer(Registry(settings).load(CHAMPION))
    example = scorer.signature.example_row()
    numbers = [column for column in scorer.signature.inputs if column.type == "number"]
    odd = [example | {column.name: value} for column in numbers for value in (1e300, -1e39, 1e-320, 0.1)]
    lacking = [example | {column.name: None} for column in scorer.signature.inputs if column.nullable]
    rows = msgspec.convert([example, *odd, *lacking], list[scorer.row])  # type: ignore[name-defined]
    assert [scorer.rows([row])[0] for row in rows] == scorer.rows(rows)


def test_one_row_waits_for_no_other_thread(champion: Settings) -> None:
    bundle = Registry(champion).load(CHAMPION)
    told = bundle.manifest
    runtime = OnnxRuntime(str(bundle.folder / "model.onnx"), features(told["numeric"]), [], False, told["dtype"])
    numbers = [0.5] * len(runtime.numeric)
    assert runtime.single(numbers) == ([runtime.run(np.array([numbers], runtime.dtype), None)[0].item()], None)
    assert runtime._single
    with runtime._single._lock:  # as if another thread were in there
        assert runtime.single(numbers) is None
