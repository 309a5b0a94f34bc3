"""LightGBM's own text files: numbers without code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ProjectError
from . import Found, Imported, library, survive

if TYPE_CHECKING:
    import pandas as pd

    from ..bundle import Bundle
    from ..runtimes import Array

KIND = "LightGBM (.txt, .model)"
SUFFIXES = (".txt", ".model", ".lgb", ".lgbm")
PARAMETERS = (  # of the hundred in its file those that people ask for
    "objective",
    "num_iterations",
    "learning_rate",
    "num_leaves",
    "max_depth",
    "min_data_in_leaf",
    "bagging_fraction",
    "feature_fraction",
    "lambda_l1",
    "lambda_l2",
)
WHOLE = re.compile(r"^tree\n.*?^end of trees$.*^end of parameters$", re.DOTALL | re.MULTILINE)


class LightGBM:
    """A booster with the face of an estimator; classes are numbered, as LightGBM has them.

    Args:
        booster: of any objective that gives one answer a row.

    Raises:
        ProjectError: it ranks.
    """

    def __init__(self, booster: Any) -> None:
        """Read what it predicts off its header."""
        self.booster = booster
        header = booster.model_to_string(num_iteration=1).partition("\nTree=")[0]
        facts = dict(line.split("=", 1) for line in header.splitlines() if "=" in line)
        self.objective = facts.get("objective", "").partition(" ")[0]
        if self.objective in ("lambdarank", "rank_xendcg"):
            raise ProjectError(f"the model ranks groups of rows ({self.objective}), which cannot be served row by row")
        names = booster.feature_name()
        self.n_features_in_ = len(names)
        if names != [f"Column_{place}" for place in range(len(names))]:
            self.feature_names_in_ = np.array(names, object)
        if self.objective == "binary" or self.objective.startswith("multiclass"):
            self.classes_ = np.arange(max(int(facts["num_class"]), 2))
            self.predict_proba = self._shares

    def predict(self, table: pd.DataFrame) -> Array:
        """Return the predicted value or class of each row."""
        if hasattr(self, "classes_"):
            classes: Array = self._shares(table).argmax(axis=1)
            return classes
        return self._answers(table)

    def _shares(self, table: pd.DataFrame) -> Array:
        """Return the probability of each class."""
        shares = self._answers(table)
        return np.column_stack([1 - shares, shares]) if shares.ndim == 1 else shares

    def _answers(self, table: pd.DataFrame) -> Array:
        values: Array = self.booster.predict(as_categories(self.booster, table), num_threads=1)
        return values


def as_categories(booster: Any, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose columns are of the types that a booster was trained on: categories or numbers."""
    if not booster.pandas_categorical:
        return table.astype(float)
    infos = re.search(r"^feature_infos=(.*)$", booster.model_to_string(num_iteration=1), re.MULTILINE)
    known = infos[1].split(" ") if infos else []
    chosen = [place for place, info in enumerate(known) if info != "none" and not info.startswith("[")]
    if len(chosen) != len(booster.pandas_categorical):  # one had a single value, and left no trace
        chosen = [place for place, name in enumerate(table.columns) if table[name].dtype == object]
    kinds = {name: "category" if place in chosen else float for place, name in enumerate(table.columns)}
    return table.astype(kinds)


def accepts(reference: str) -> bool:
    """Whether this is a model of LightGBM, by its first line."""
    path = Path(reference)
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline(10).strip() == b"tree"


def read(found: Found) -> Imported:
    """Load a booster.

    Raises:
        ProjectError: it is damaged, or predicts what cannot be served.
    """
    library("lightgbm", "lightgbm")
    content = found.path.read_bytes()
    if not WHOLE.match(content.decode("utf-8", "replace").replace("\r\n", "\n")):
        raise ProjectError(f"{found.path.name} cannot be loaded: it is cut off; save it again")
    survive(found.path, "import sys, lightgbm; lightgbm.Booster(model_file=sys.argv[1])")
    files = {"model.txt": content}
    told = dict(re.findall(r"^\[(\w+): (.+)\]$", content.decode("utf-8", "replace"), re.MULTILINE))
    origin = {**found.origin, "params": {name: told[name] for name in PARAMETERS if name in told}}
    return Imported(_load(found.path), "lightgbm", files, "model.txt", origin=origin, library="lightgbm")


def load(bundle: Bundle) -> Any:
    """Load the booster of a bundle."""
    library("lightgbm", "lightgbm")
    return _load(bundle.model_file)


def _load(path: Path) -> LightGBM:
    import lightgbm

    return LightGBM(lightgbm.Booster(model_file=str(path)))
