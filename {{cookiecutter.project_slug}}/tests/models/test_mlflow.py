"""MLflow's folders are read with and without MLflow; code in them runs only with leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from project.errors import ProjectError
from project.models.importing import import_model
from project.settings import Settings
from trained import mlmodel, predicted, source_of


def test_mlflow_folder_of_scikit_learn_needs_no_mlflow(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path
) -> None:
    model = Ridge(0.1).fit(diabetes.to_numpy()[:, ::-1], load_diabetes().target)
    mlmodel(tmp_path / "m", {"pickled_model": "model.skops"}, columns=list(diabetes.columns)[::-1])
    skops.io.dump(model, tmp_path / "m" / "model.skops")
    rounded = diabetes.round()  # integers in the sample, numbers by MLflow's own account
    rounded.assign(y=0.0).to_csv(tmp_path / "s.csv", index=False, float_format="%.0f")
    bundle = import_model(settings, source_of(tmp_path / "m", tmp_path))
    assert {column.type for column in bundle.signature.inputs} == {"number"}
    assert bundle.provenance["origin"]["run_id"] == "a1b2"
    wanted = model.predict(diabetes.to_numpy()[:, ::-1])
    np.testing.assert_allclose(predicted(bundle, diabetes)["prediction"], wanted, rtol=1e-4)


@pytest.mark.parametrize("place", ["../outside.skops", "/etc/passwd", "absent.skops"])
def test_mlmodel_that_points_elsewhere_is_refused(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path, place: str
) -> None:
    skops.io.dump(Ridge().fit(diabetes, load_diabetes().target), tmp_path / "outside.skops")
    mlmodel(tmp_path / "m", {"pickled_model": place})
    with pytest.raises(ProjectError, match=r"outside its folder|lacks absent\.skops"):
        import_model(settings, source_of(tmp_path / "m", tmp_path))


def test_link_in_an_mlflow_folder_is_refused(settings: Settings, diabetes: pd.DataFrame, tmp_path: Path) -> None:
    skops.io.dump(Ridge().fit(diabetes, load_diabetes().target), tmp_path / "outside.skops")
    mlmodel(tmp_path / "m", {"pickled_model": "model.skops"})
    (tmp_path / "m" / "model.skops").symlink_to(tmp_path / "outside.skops")
    with pytest.raises(ProjectError, match=r"link model\.skops"):
        import_model(settings, source_of(tmp_path / "m", tmp_path))


@pytest.mark.parametrize("flavour", ["pickle", "disguise", "python_function"])
def test_code_in_an_mlflow_folder_is_not_run_without_leave(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path, flavour: str
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    name, entry = (flavour, "python_model") if flavour == "python_function" else ("sklearn", "pickled_model")
    file = "model.bin" if flavour == "disguise" else "model.pkl"
    mlmodel(tmp_path / "m", {entry: file, "loader_module": "mlflow.pyfunc.model"}, name)
    joblib.dump(Trap(), tmp_path / "m" / file)
    with pytest.raises(ProjectError, match="--trust-pickle"):
        import_model(settings, source_of(tmp_path / "m", tmp_path))
    assert not (tmp_path / "ran").exists()


def test_pyfunc_with_code_of_its_own(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path, needs_extra: Callable[[str], Any], monkeypatch: Any
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    needs_extra("mlflow")
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    class Mine(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
            return model_input["bmi"] * 900 + 150

    Mine.__module__ = "__main__"  # cloudpickle then keeps the class by value, as of a notebook
    answers = infer_signature(diabetes, diabetes["bmi"])
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=Mine(), signature=answers, pip_requirements=["pandas"])
    with pytest.raises(ProjectError, match="--trust-pickle"):
        import_model(settings, source_of(tmp_path / "m", tmp_path))
    bundle = import_model(settings, source_of(tmp_path / "m", tmp_path, trust_pickle=True))
    shutil.rmtree(tmp_path / "m")
    assert bundle.manifest["code"] is True
    np.testing.assert_allclose(predicted(bundle, diabetes)["prediction"], diabetes["bmi"] * 900 + 150)
