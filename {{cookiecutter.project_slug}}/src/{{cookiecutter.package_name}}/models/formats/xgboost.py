"""XGBoost's own files (JSON or UBJSON): numbers without code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ProjectError
from . import Found, Imported, broken, library, survive

if TYPE_CHECKING:
    import pandas as pd

    from ..bundle import Bundle
    from ..runtimes import Array

KIND = "XGBoost (.json, .ubj, .model)"
HEAD = 200  # bytes that tell a model from other JSON


class XGBoost:
    """A booster with the face of an estimator; classes are numbered, as XGBoost has them.

    Args:
        booster: of any objective that gives one answer a row.

    Raises:
        ProjectError: it ranks, or gives several values a row.
    """

    def __init__(self, booster: Any) -> None:
        """Read what it predicts off its configuration."""
        learner = json.loads(booster.save_config())["learner"]
        shape, self.objective = learner["learner_model_param"], learner["objective"]["name"]
        if self.objective.startswith("rank:"):
            raise ProjectError("the model ranks groups of rows (rank:...), which cannot be served row by row")
        if int(shape.get("num_target", 1)) > 1:
            raise ProjectError("the model predicts several targets a row: import one model for each")
        stop, wrapped = booster.attr("best_iteration"), booster.attr("scikit_learn")
        # Stopped early, XGBClassifier and XGBRegressor predict with the trees up to the best.
        self.booster = booster[: int(stop) + 1] if stop and wrapped else booster
        self.n_features_in_ = booster.num_features()
        if booster.feature_names:
            self.feature_names_in_ = np.array(booster.feature_names, object)
        if self.objective.startswith(("binary:", "multi:")):
            self.classes_ = np.arange(max(int(shape["num_class"]), 2))
            self.predict_proba = self._shares

    def predict(self, table: pd.DataFrame) -> Array:
        """Return the predicted value or class of each row."""
        if hasattr(self, "classes_"):
            shares = self._shares(table)
            # Half is the lower class, as in XGBClassifier; a tie of several the first.
            return (shares[:, 1] > 0.5).astype(np.int64) if shares.shape[1] == 2 else shares.argmax(axis=1)
        values: Array = self.booster.predict(self._matrix(table))
        return values

    def _shares(self, table: pd.DataFrame) -> Array:
        """Return the probability of each class, whatever the objective prints."""
        matrix = self._matrix(table)
        if self.objective == "multi:softprob":
            shares: Array = self.booster.predict(matrix)
            return shares
        if self.objective == "binary:logistic":
            positive = self.booster.predict(matrix)
        else:
            margin = self.booster.predict(matrix, output_margin=True)
            if self.objective == "multi:softmax":
                powers = np.exp(margin - margin.max(axis=1, keepdims=True))
                shares = powers / powers.sum(axis=1, keepdims=True)
                return shares
            positive = (margin > 0).astype(float) if self.objective == "binary:hinge" else 1 / (1 + np.exp(-margin))
        return np.column_stack([1 - positive, positive])

    def _matrix(self, table: pd.DataFrame) -> Any:
        import xgboost

        table = as_categories(self.booster, table)
        table = table.set_axis(self.booster.feature_names or list(table.columns), axis=1)
        return xgboost.DMatrix(table, enable_categorical=True)


def as_categories(booster: Any, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose columns are of the types that a booster was trained on: categories or numbers.

    Raises:
        ProjectError: the booster does not know the values of its categories.
    """
    places = [place for place, kind in enumerate(booster.feature_types or ()) if kind == "c"]
    if places and b'"cats":{"enc":[{' not in booster.save_raw("json"):
        raise ProjectError(
            f"the model reads {booster.feature_names[places[0]]} as a category, and its file does not hold the values:"
            " save it with XGBoost 3.1 or later"
        )
    table = table.astype({name: "category" if place in places else float for place, name in enumerate(table.columns)})
    for place in places:
        name = table.columns[place]
        if not len(table[name].cat.categories):  # XGBoost fails over a column that is missing in all rows
            table[name] = table[name].cat.set_categories([""])
    return table


def accepts(reference: str) -> bool:
    """Whether this is a model of XGBoost, by its first bytes."""
    path = Path(reference)
    if path.suffix == ".ubj":
        return True
    if path.suffix not in (".json", ".model", ".xgb") or not path.is_file():
        return False
    with path.open("rb") as file:
        return b"learner" in file.read(HEAD)


def read(found: Found) -> Imported:
    """Load a booster.

    Raises:
        ProjectError: it is damaged, or predicts what cannot be served.
    """
    library("xgboost", "xgboost")
    survive(found.path, "import sys, xgboost; xgboost.Booster(model_file=sys.argv[1])")
    suffix = found.path.suffix if found.path.suffix in (".json", ".ubj") else _suffix(found.path)
    name, content = f"model{suffix}", found.path.read_bytes()
    model = _load(content, found.path)
    params = {"objective": model.objective, "rounds": model.booster.num_boosted_rounds()}  # its file holds no others
    origin = {**found.origin, "params": params}
    return Imported(model, "xgboost", {name: content}, name, origin=origin, library="xgboost")


def load(bundle: Bundle) -> Any:
    """Load the booster of a bundle."""
    library("xgboost", "xgboost")
    return _load(bundle.model_file.read_bytes(), bundle.model_file)


def _load(content: bytes, path: Path) -> XGBoost:
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        raise broken(path, error) from None
    booster.set_param({"nthread": 1})  # as in the other runtimes: threads and workers do not fight for cores
    return XGBoost(booster)


def _suffix(path: Path) -> str:
    with path.open("rb") as file:
        return ".json" if file.read(2).strip() in (b'{"', b"{") else ".ubj"
