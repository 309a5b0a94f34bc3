"""Train a model on the bundled example: what a team does with its own data before `model import`."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from .. import features
from ..errors import ProjectError
from ..models.metrics import evaluate
from ..models.runtimes.original import to_pandas
from ..settings import Settings
from ..signature import PREDICTION, PROBABILITY, Column, ColumnType, Signature
from . import as_text, dataset, publish

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

PARAMETERS = {
    "regression": {"max_iter": 200, "learning_rate": 0.08, "max_leaf_nodes": 31, "min_samples_leaf": 15},
    "classification": {"max_iter": 150, "learning_rate": 0.05, "max_leaf_nodes": 8, "min_samples_leaf": 40},
}
LIBRARIES = ("scikit-learn", "skops", "numpy", "polars", "pandas")
LEAST_ROWS = 500


@dataclass(frozen=True)
class Training:
    """What a training gave: its files, the metrics on rows held out, and those of a naive forecast."""

    folder: Path
    metrics: dict[str, Any]
    baseline: dict[str, Any]
    details: dict[str, Any]
    seconds: float


def train(settings: Settings, folder: Path | None = None, rows: int = 20_000, seed: int = 1) -> Training:
    """Train on synthetic history, evaluate on a fifth held out, and write the files that an import needs.

    The saved model has not seen `sample.csv`, the rows held out, which therefore measure it honestly.

    Args:
        settings: names the example.
        folder: where model.skops, sample.csv, signature.json and training.json go (default data/example).
        rows: rows of history, training and hold-out together.
        seed: of the history and of the split.

    Raises:
        ProjectError: no such example, too few rows, or a file that cannot be written.
    """
    import skops.io
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if rows < LEAST_ROWS:
        raise ProjectError(f"{rows} rows are too few to train on: give --rows {LEAST_ROWS} or more")
    started, data = time.perf_counter(), dataset(settings.project.example)
    folder, target = settings.path(folder or "data/example"), data.TARGET.name
    known, held = _split(data, data.history(rows, seed), seed)
    with threadpool_limits(1):  # on a busy machine threads that wait for each other are far slower than one
        model = pipeline(data).fit(inputs(data, known), known[target].to_numpy())
        metrics = evaluate(data.TASK, held[target], _predict(data, model, held))
    baseline = evaluate(data.TASK, held[target], _naive(data, known, held))
    details = {
        "data": f"synthetic rows of the example {settings.project.example}, seed {seed}",
        "algorithm": type(model[-1]).__name__,
        "parameters": PARAMETERS[data.TASK],
        "rows": {"training": known.height, "holdout": held.height},
        "split": "a random fifth, stratified" if data.TARGET.categories else "the last fifth in time",
        "metrics": metrics,
        "baseline": {"name": "mean by " + ", ".join(data.BASELINE) if data.BASELINE else "majority"} | baseline,
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }
    text = json.dumps(details, indent=2) + "\n"
    publish(folder / "model.skops", lambda path: skops.io.dump(model, path))
    publish(folder / "sample.csv", as_text(held).write_csv)
    publish(folder / "signature.json", signature(data).save)
    publish(folder / "training.json", lambda path: path.write_text(text, encoding="utf-8"))
    return Training(folder, metrics, baseline, details, time.perf_counter() - started)


def signature(data: ModuleType) -> Signature:
    """Return the signature of a model of this example: limits, units and descriptions from its columns."""
    target: Column = data.TARGET
    kind: ColumnType = "string" if target.categories else "number"
    output = replace(target, name=PREDICTION, type=kind, minimum=None, description=f"Predicted {target.name}")
    shares = (
        Column(f"{PROBABILITY}{item}", "number", False, 0, 1, description=f"Probability of {item}")
        for item in target.categories
    )
    return Signature(data.TITLE, data.TASK, target.name, data.COLUMNS, (output, *shares))


def pipeline(data: ModuleType) -> Pipeline:
    """Return the untrained pipeline: one-hot text, numbers as they are, gradient boosting.

    These parts convert exactly to ONNX; boosting's own categories, a scaler or a Poisson loss would not.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    boosting = HistGradientBoostingClassifier if data.TARGET.categories else HistGradientBoostingRegressor
    text, number = _names(data)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    prepare = ColumnTransformer([("text", encoder, text), ("number", "passthrough", number)])
    model = boosting(**PARAMETERS[data.TASK], early_stopping=False, random_state=0)
    return Pipeline([("prepare", prepare), ("model", model)])


def inputs(data: ModuleType, frame: pl.DataFrame) -> pd.DataFrame:
    """Return the pipeline's columns by name, made by the functions that serve the model later."""
    text, number = _names(data)
    return to_pandas(features.derive(frame, [*text, *number]).with_columns(pl.col(number).cast(pl.Float64)))


def _names(data: ModuleType) -> tuple[list[str], list[str]]:
    """The pipeline's text columns and number columns; booleans and parts of times are numbers."""
    text = [column.name for column in data.COLUMNS if column.type == "string"]
    return text, [c.name for c in data.COLUMNS if c.numeric or c.type == "boolean"] + list(data.PARTS)


def _split(data: ModuleType, frame: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows to learn from, and a fifth to judge by: the latest, or (classes) at random with equal shares."""
    if data.TARGET.categories:
        frame = frame[np.random.default_rng(seed).permutation(frame.height)]
        held = pl.select(pl.lit(frame[data.TARGET.name]).rank("ordinal") % 5 == 0).to_series()
    else:
        held = pl.Series(np.arange(frame.height) >= frame.height - frame.height // 5)  # rows are in order of time
    return frame.filter(~held), frame.filter(held)


def _predict(data: ModuleType, model: Pipeline, frame: pl.DataFrame) -> pl.DataFrame:
    rows = inputs(data, frame)
    output = {PREDICTION: model.predict(rows)}
    if data.TARGET.categories:
        shares = model.predict_proba(rows).T
        output |= {f"{PROBABILITY}{item}": share for item, share in zip(model.classes_, shares, strict=True)}
    return pl.DataFrame(output)


def _naive(data: ModuleType, known: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """What one would say without a model: the mean of like hours, or always the most common class."""
    truth, keys = known[data.TARGET.name], list(data.BASELINE)
    if data.TARGET.categories:
        shares = {item: (truth == item).mean() for item in data.TARGET.categories}
        output = {PREDICTION: max(shares, key=shares.__getitem__)}
        output |= {f"{PROBABILITY}{item}": share for item, share in shares.items()}
        return pl.DataFrame([output] * held.height)
    means = features.derive(known, keys).with_columns(truth).group_by(keys).agg(pl.mean(truth.name))
    joined = features.derive(held, keys).join(means, on=keys, how="left", maintain_order="left")
    return joined.select(pl.col(truth.name).fill_null(truth.mean()).alias(PREDICTION))
