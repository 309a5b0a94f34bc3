"""A file that is damaged, or of a library that is missing, is refused in one sentence."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pytest
import skops.io
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from project.errors import ProjectError
from project.models.importing import import_model
from project.models.registry import Registry
from project.settings import Settings
from trained import SAVE, graph, mlmodel, source_of


def _saved(kind: str, folder: Path, table: pd.DataFrame, needs_extra: Callable[[str], Any]) -> Path:
    target, path = load_diabetes().target, folder / f"m.{kind}"
    if kind in ("skops", "joblib"):
        (skops.io.dump if kind == "skops" else joblib.dump)(Ridge().fit(table, target), path)
    elif kind == "onnx":
        path.write_bytes(graph(table, target > 100)[1].SerializeToString())
    elif kind == "MLmodel":
        mlmodel(folder / "m", {"pickled_model": "model.skops"}, columns=list(table.columns))
        skops.io.dump(Ridge().fit(table, target), folder / "m" / "model.skops")
        return folder / "m" / "MLmodel"
    else:
        extra = "lightgbm" if kind == "txt" else "xgboost"
        objective = "regression" if kind == "txt" else "reg:squarederror"
        SAVE[extra](table, target, path, objective, needs_extra(extra))
    return path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["skops", "joblib", "onnx", "MLmodel", "json", "ubj", "txt"])
def test_a_file_that_is_cut_off_is_refused(
    settings: Settings,
    diabetes: pd.DataFrame,
    tmp_path: Path,
    needs_extra: Callable[[str], Any],
    kind: str,
    share: float,
) -> None:
    path = _saved(kind, tmp_path, diabetes, needs_extra)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    reference = path.parent if kind == "MLmodel" else path
    with pytest.raises(ProjectError, match=r"cannot be loaded|cut off|cannot be read|none of the formats"):
        import_model(settings, source_of(reference, tmp_path, trust_pickle=True))
    assert Registry(settings).versions() == []


def test_skops_file_with_a_name_outside_itself_is_refused(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path
) -> None:
    path = _saved("skops", tmp_path, diabetes, lambda extra: None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil", "x")
    with pytest.raises(ProjectError, match=r"\.\./evil"):
        import_model(settings, source_of(path, tmp_path))


def test_missing_extra_is_named(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    (tmp_path / "m.json").write_text('{"learner": {}}')
    source = source_of(tmp_path / "m.json", tmp_path)
    with pytest.raises(ProjectError, match=r"pip install '.*\[xgboost\]'"):
        import_model(settings, source)
    with pytest.raises(ProjectError, match="none of the formats"):
        import_model(settings, replace(source, reference=str(tmp_path / "s.csv")))
