"""Trees laid out in tables find the leaves that ONNX Runtime finds, whatever is put in."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from project.models.conversion import attempts
from project.models.ensembles import largest, tables
from project.models.formats import Imported
from project.models.graphs import Graph
from project.models.matrix import matrices
from project.models.runtimes.onnx import OnnxRuntime
from project.models.runtimes.original import to_pandas
from project.models.runtimes.trees import TreesRuntime

COLUMNS = ["a", "kind", "b"]
MODELS: dict[str, tuple[Any, int]] = {
    "value": (HistGradientBoostingRegressor(max_iter=30, random_state=0), 0),
    "exp": (HistGradientBoostingRegressor(loss="poisson", max_iter=15, random_state=0), 0),
    "wide": (HistGradientBoostingRegressor(max_iter=8, max_leaf_nodes=64, min_samples_leaf=3, random_state=0), 0),
    "one tree": (HistGradientBoostingRegressor(max_iter=1, random_state=0), 0),
    "older": (GradientBoostingRegressor(n_estimators=12, random_state=0), 0),
    "two classes": (HistGradientBoostingClassifier(max_iter=30, random_state=0), 2),
    "three classes": (HistGradientBoostingClassifier(max_iter=9, random_state=0), 3),
    "older, three classes": (GradientBoostingClassifier(n_estimators=6, random_state=0), 3),
}


def sample() -> pl.DataFrame:
    random = np.random.default_rng(5)
    numbers = {name: random.normal(size=1500).round(1) for name in ("a", "b")}
    return pl.DataFrame({**numbers, "kind": random.choice(["x", "y", ""], 1500)}).select(COLUMNS)


@lru_cache
def converted(name: str) -> Graph:
    model, classes = MODELS[name]
    return graph(model, classes)


def graph(model: Any, classes: int = 0, encoder: Any = None, *more: Any) -> Graph:
    table = sample()
    score = (table["a"] * 3 + table["b"] * (table["kind"] == "x")).to_numpy()
    target = np.digitize(score, [-2, 2][: classes - 1]) if classes else np.abs(score)
    encoder = encoder or OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    estimator = make_pipeline(make_column_transformer((encoder, ["kind"]), remainder="passthrough"), *more, model)
    estimator.fit(to_pandas(table), target)
    labels = list(range(classes)) or None
    return next(iter(attempts(Imported(estimator, "sklearn", {}, "m"), table, bool(classes), labels)))


def both(found: Graph, rows: pl.DataFrame) -> tuple[tuple[Any, Any], tuple[Any, Any], TreesRuntime]:
    made = tables(found)
    assert made is not None
    runtime = TreesRuntime(made)
    known = OnnxRuntime(found.model, found.numeric, found.text, bool(made.classes), found.dtype)
    return runtime.predict(rows), known.predict(rows), runtime


def close(one: Any, other: Any) -> None:
    (labels, shares), (known, known_shares) = one, other
    if shares is None:
        assert labels == pytest.approx(known, rel=1e-5, abs=1e-5)
    else:
        assert shares == pytest.approx(known_shares, abs=1e-6)
        clear = np.sort(known_shares)[:, -1] - np.sort(known_shares)[:, -2] > 1e-5
        assert labels[clear].tolist() == known[clear].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_leaves_as_onnx(name: str) -> None:
    table = sample()
    strange = table.head(50).with_columns(kind=pl.lit("never seen"), a=pl.lit(None, pl.Float64))
    close(*both(converted(name), pl.concat([table, strange]))[:2])


NUMBER = st.one_of(
    st.none(), st.floats(-4, 4, width=32), st.floats(allow_nan=False), st.integers(-40, 40).map(lambda n: n / 10)
)
ROW = st.fixed_dictionaries({"a": NUMBER, "kind": st.sampled_from([None, "", "x", "y", "z"]), "b": NUMBER})


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=30)
@given(st.lists(ROW, min_size=1, max_size=40))
def test_any_rows_and_one_row_as_many(name: str, rows: list[dict[str, Any]]) -> None:
    table = pl.DataFrame(rows, schema={"a": pl.Float64, "kind": pl.String, "b": pl.Float64}).select(COLUMNS)
    made, known, runtime = both(converted(name), table)
    close(made, known)
    matrix = matrices(table, runtime.numeric, (), runtime.dtype)["numeric"]
    for place, numbers in enumerate(matrix.tolist()):
        labels, shares = runtime.single(numbers)
        assert labels == [made[0][place].item() if made[1] is None else made[0][place]]
        assert made[1] is None or shares == [made[1][place].tolist()]
    again, _ = runtime.run(np.tile(matrix, (300 // len(matrix) + 1, 1)), None)
    assert np.array_equal(again[: len(matrix)], made[0])


def test_what_is_more_than_small_trees_stays_a_graph() -> None:
    assert tables(graph(RandomForestRegressor(5, random_state=0))) is None
    assert tables(graph(HistGradientBoostingRegressor(max_iter=3, max_leaf_nodes=65, min_samples_leaf=2))) is None
    assert tables(graph(HistGradientBoostingRegressor(max_iter=3), 0, None, StandardScaler())) is None
    assert tables(graph(HistGradientBoostingRegressor(max_iter=3), 0, OrdinalEncoder())) is None


SINGLE = st.floats(width=32, allow_nan=False)


@settings(max_examples=300)
@given(SINGLE, st.booleans(), st.floats(allow_nan=False), st.integers(-3, 3))
def test_a_threshold_in_double_precision_decides_as_one_in_single(
    threshold: float, above: bool, number: float, steps: int
) -> None:
    assume(not above or threshold > -math.inf)
    limit = largest(threshold, above)
    near = limit
    for _ in range(abs(steps)):
        near = math.nextafter(near, math.copysign(math.inf, steps))
    with np.errstate(over="ignore"):
        for one in (number, near):
            rounded = np.float32(one)
            assert (one <= limit) == bool(rounded < threshold if above else rounded <= threshold)
