from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from project.models.conversion import attempts
from project.models.formats import Imported
from project.models.graphs import Graph
from project.models.runtimes.onnx import OnnxRuntime
from project.models.runtimes.original import OriginalRuntime, to_pandas

TEXT, NUMBERS = ["kind", "place"], ["a", "b", "c"]


@pytest.fixture
def table() -> pl.DataFrame:
    random = np.random.default_rng(3)
    numbers = {name: random.normal(size=400).round(3) for name in NUMBERS}
    texts = {"kind": random.choice(["x", "y", ""], 400), "place": random.choice(["north", "south", "ü"], 400)}
    return pl.DataFrame({**numbers, **texts}).select("a", "kind", "b", "place", "c")


def converted(table: pl.DataFrame, final: Any, *steps: Any, rest: Any = "passthrough") -> tuple[Any, Graph, list[str]]:
    """Fit a pipeline, convert it, and return it with its graph and the operators that are left."""
    target = table["a"] * 3 + table["b"] * (table["kind"] == "x") - (table["place"] == "ü")
    prepare = make_column_transformer(*steps, remainder=rest)
    estimator = make_pipeline(prepare, final).fit(to_pandas(table), target.to_numpy())
    graph = next(iter(attempts(Imported(estimator, "sklearn", {}, "m"), table, False, None)))
    model = onnx.load_model_from_string(graph.model)
    onnx.checker.check_model(model)
    return estimator, graph, [node.op_type for node in model.graph.node if node.op_type != "Constant"]


def same(estimator: Any, graph: Graph, table: pl.DataFrame) -> None:
    runtime = OnnxRuntime(graph.model, graph.numeric, graph.text, False, graph.dtype)
    expected = OriginalRuntime(estimator, False).predict(table)[0]
    assert runtime.predict(table)[0] == pytest.approx(expected, rel=1e-4, abs=1e-4)


ENCODER = (OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXT)
TREES = HistGradientBoostingRegressor(max_iter=10)


def test_only_the_trees_are_left(table: pl.DataFrame) -> None:
    estimator, graph, operators = converted(table, TREES, ENCODER)
    assert operators == ["TreeEnsembleRegressor"]
    assert graph.text == []
    assert set(graph.numeric) == {*NUMBERS, *(("kind", one) for one in ("", "x", "y"))} | {
        ("place", one) for one in ("north", "south", "ü")
    }
    same(estimator, graph, table)
    strange = table.with_columns(kind=pl.lit("never seen"), place=pl.lit(None, pl.String))
    runtime = OnnxRuntime(graph.model, graph.numeric, graph.text, False, graph.dtype)
    known = table.with_columns(kind=pl.lit("z"), place=pl.lit("z"))
    assert runtime.predict(strange)[0].tolist() == runtime.predict(known)[0].tolist()


def test_what_follows_on_some_columns_stays(table: pl.DataFrame) -> None:
    estimator, graph, operators = converted(table, Ridge(), ENCODER, (StandardScaler(), ["c", "a"]))
    assert "OneHotEncoder" not in operators
    assert "Scaler" in operators
    same(estimator, graph, table)


def test_other_encoders_stay_in_the_graph(table: pl.DataFrame) -> None:
    estimator, graph, _ = converted(table, TREES, (OrdinalEncoder(), ["kind"]), (ENCODER[0], ["place"]))
    assert graph.text == ["kind", "place"]
    assert ("place", "ü") in graph.numeric
    same(estimator, graph, table)


def test_too_many_categories_stay_in_the_graph(table: pl.DataFrame) -> None:
    many = table.with_columns(kind=pl.int_range(pl.len()).cast(pl.String))
    estimator, graph, operators = converted(many, Ridge(), ENCODER)
    assert "OneHotEncoder" in operators
    assert graph.text == TEXT
    same(estimator, graph, many)
