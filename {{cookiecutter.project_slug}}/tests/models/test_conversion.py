"""Estimators become one form, and answer as they did before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
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
    frame = pl.DataFrame(np.random.default_rng(6).normal(size=(40, 3)), schema=["a", "b", "c"])
    labels = ["a", "b", "c"]
    (graph,) = conversion.attempts(Imported(adapter, "mlflow", {}, ""), frame, True, labels)
    given, shares = OnnxRuntime(graph.model, graph.numeric, graph.text, True, graph.dtype).predict(frame)
    with torch.no_grad():
        wanted = torch.softmax(module(torch.tensor(frame.to_numpy(), dtype=torch.float32)), 1).numpy()
    assert shares == pytest.approx(wanted, abs=1e-6)
    assert given.tolist() == [labels[place] for place in wanted.argmax(axis=1)]


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
