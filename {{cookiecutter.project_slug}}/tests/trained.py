"""Models as their own libraries save them, and what their bundles predict, for tests of formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import yaml
from sklearn.linear_model import LogisticRegression

from project.models.bundle import Bundle
from project.models.importing import Source
from project.models.scorer import Scorer
from project.validation import check_frame


def predicted(bundle: Bundle, table: pd.DataFrame) -> pl.DataFrame:
    """Score a table as the service does, from the bundle alone."""
    return Scorer(bundle).frame(check_frame(bundle.signature, pl.DataFrame(table.to_dict("list"))).good)


def source_of(path: Path | str, folder: Path, **options: Any) -> Source:
    return Source(str(path), folder / "s.csv", "y", **options)


def graph(table: pd.DataFrame, target: Any, **options: Any) -> Any:
    """Return a classifier of a team as ONNX, its own outputs and all."""
    from skl2onnx import to_onnx

    model = LogisticRegression(max_iter=200).fit(table.to_numpy(np.float32), target)
    return model, to_onnx(model, table.to_numpy(np.float32)[:1], **options)


def mlmodel(folder: Path, flavour: dict[str, Any], name: str = "sklearn", columns: list[str] | None = None) -> None:
    """Write the index of an MLflow folder as MLflow does."""
    index: dict[str, Any] = {"flavors": {name: flavour}, "mlflow_version": "3.1.0", "run_id": "a1b2"}
    if columns:
        index["signature"] = {"inputs": json.dumps([{"type": "double", "name": column} for column in columns])}
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_text(yaml.safe_dump(index))


def _xgboost(table: pd.DataFrame, target: Any, path: Path, objective: str, library: Any) -> Any:
    options = {"objective": objective, "max_depth": 3} | ({"num_class": 3} if objective.startswith("multi") else {})
    data = library.DMatrix(table, target, enable_categorical=True)
    booster = library.train(options, data, 8)
    booster.save_model(path)
    return booster.predict(data, output_margin=objective == "binary:logitraw")


def _lightgbm(table: pd.DataFrame, target: Any, path: Path, objective: str, library: Any) -> Any:
    options = {"objective": objective, "verbose": -1} | ({"num_class": 3} if objective.startswith("multi") else {})
    booster = library.train(options, library.Dataset(table, target), 8)
    booster.save_model(path)
    return booster.predict(table)


SAVE = {"xgboost": _xgboost, "lightgbm": _lightgbm}
