"""Native files of XGBoost and LightGBM predict what their libraries predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.datasets import load_diabetes, load_wine

from project.errors import ProjectError
from project.models.importing import import_model
from project.settings import Settings
from trained import SAVE, predicted, source_of

REGRESSIONS = [
    ("xgboost", "reg:squarederror", "m.json"),
    ("xgboost", "count:poisson", "m.ubj"),
    ("xgboost", "reg:tweedie", "m.ubj"),
    ("lightgbm", "regression", "m.txt"),
    ("lightgbm", "poisson", "m.model"),
]
CLASSIFICATIONS = [
    ("xgboost", "binary:logistic", "m.json"),
    ("xgboost", "multi:softprob", "m.ubj"),
    ("xgboost", "multi:softmax", "m.json"),
    ("lightgbm", "binary", "m.txt"),
    ("lightgbm", "multiclass", "m.txt"),
]


@pytest.mark.parametrize(("extra", "objective", "name"), REGRESSIONS)
def test_native_regressions(
    settings: Settings,
    diabetes: pd.DataFrame,
    tmp_path: Path,
    needs_extra: Callable[[str], Any],
    extra: str,
    objective: str,
    name: str,
) -> None:
    wanted = SAVE[extra](diabetes, load_diabetes().target, tmp_path / name, objective, needs_extra(extra))
    bundle = import_model(settings, source_of(tmp_path / name, tmp_path))
    assert bundle.manifest["format"] == extra
    assert objective in bundle.provenance["training"]["parameters"]["objective"]
    np.testing.assert_allclose(predicted(bundle, diabetes)["prediction"], wanted, rtol=1e-3)


@pytest.mark.parametrize(("extra", "objective", "name"), CLASSIFICATIONS)
def test_native_classifications(
    settings: Settings,
    wine: pd.DataFrame,
    tmp_path: Path,
    needs_extra: Callable[[str], Any],
    extra: str,
    objective: str,
    name: str,
) -> None:
    target = load_wine().target
    target = (target > 0).astype(int) if "binary" in objective else target
    pl.read_csv(tmp_path / "s.csv").with_columns(y=pl.Series(target)).write_csv(tmp_path / "s.csv")
    wanted = SAVE[extra](wine, target, tmp_path / name, objective, needs_extra(extra))
    output = predicted(import_model(settings, source_of(tmp_path / name, tmp_path)), wine)
    shares = output.select(pl.exclude("prediction")).to_numpy()
    if objective == "multi:softmax":
        assert output["prediction"].to_list() == wanted.astype(int).tolist()
    else:
        np.testing.assert_allclose(shares if wanted.ndim == 2 else shares[:, 1], wanted, atol=1e-4)
    assert output["prediction"].to_list() == shares.argmax(axis=1).tolist()


@pytest.mark.parametrize("extra", ["xgboost", "lightgbm"])
def test_native_categories_mean_what_they_meant_in_training(
    settings: Settings, tmp_path: Path, needs_extra: Callable[[str], Any], extra: str
) -> None:
    random = np.random.default_rng(5)
    kinds = random.choice(["x", "y", "z", None], 800)
    table = pd.DataFrame({"a": random.random(800), "kind": pd.Series(kinds).astype("category")})
    truth = table["a"] + pd.Series(kinds).map({"x": 0, "y": 5, "z": 10}).fillna(20)
    name = "m.json" if extra == "xgboost" else "m.txt"
    objective = "reg:squarederror" if extra == "xgboost" else "regression"
    wanted = SAVE[extra](table, truth, tmp_path / name, objective, needs_extra(extra))
    table.assign(y=truth).to_csv(tmp_path / "s.csv", index=False)
    bundle = import_model(settings, source_of(tmp_path / name, tmp_path))
    rows = table.astype({"kind": object}).where(table.notna(), None)
    few = [int(np.flatnonzero(kinds == kind)[0]) for kind in ("z", "y")]  # not all that were seen in training
    few.append(int(np.flatnonzero([kind is None for kind in kinds])[0]))
    for chosen in (few, few[:1], few[2:]):
        np.testing.assert_allclose(predicted(bundle, rows.iloc[chosen])["prediction"], wanted[chosen], rtol=1e-4)


@pytest.mark.parametrize(("extra", "objective"), [("xgboost", "rank:pairwise"), ("lightgbm", "lambdarank")])
def test_ranking_is_refused(
    settings: Settings,
    diabetes: pd.DataFrame,
    tmp_path: Path,
    needs_extra: Callable[[str], Any],
    extra: str,
    objective: str,
) -> None:
    library, target = needs_extra(extra), np.arange(len(diabetes)) % 3
    group = [len(diabetes)]
    if extra == "xgboost":
        data = library.DMatrix(diabetes, target)
        data.set_group(group)
        library.train({"objective": objective}, data, 2).save_model(tmp_path / "m.json")
    else:
        options = {"objective": objective, "verbose": -1}
        library.train(options, library.Dataset(diabetes, target, group=group), 2).save_model(tmp_path / "m.json")
        (tmp_path / "m.json").rename(tmp_path / "m.txt")
    path = next(path for path in (tmp_path / "m.json", tmp_path / "m.txt") if path.exists())
    with pytest.raises(ProjectError, match="ranks groups of rows"):
        import_model(settings, source_of(path, tmp_path))
