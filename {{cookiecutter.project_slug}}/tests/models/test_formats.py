"""Each format predicts from its bundle what the model itself predicts, and refuses what is damaged or not trusted."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
import yaml
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge

from project.errors import ProjectError
from project.models.bundle import Bundle
from project.models.importing import Source, import_model
from project.models.registry import Registry
from project.models.scorer import Scorer
from project.settings import Settings
from project.validation import check_frame

ENTRY = """
import json
from pathlib import Path

import numpy as np
import helper


class Model:
    def __init__(self, factor):
        self.factor = factor

    def predict(self, frame):
        return np.asarray(frame["bmi"]) * self.factor + helper.OFFSET


def load(folder):
    return Model(json.loads((folder / "weights.json").read_text())["factor"])


def broken(folder):
    raise RuntimeError("no weights today")


def stop(folder):
    raise SystemExit(3)


def nothing(folder):
    return 42
"""


@pytest.fixture
def diabetes(tmp_path: Path) -> pd.DataFrame:
    """The table as a sample file ``s.csv``, target ``y``; returned without the target."""
    table = load_diabetes(as_frame=True).frame.rename(columns={"target": "y"})
    table.to_csv(tmp_path / "s.csv", index=False)
    return table.drop(columns="y")


@pytest.fixture
def wine(tmp_path: Path) -> pd.DataFrame:
    """The table as a sample file ``s.csv``, target ``y`` (three classes); returned without the target."""
    table = load_wine(as_frame=True).frame.rename(columns={"target": "y"})
    table.to_csv(tmp_path / "s.csv", index=False)
    return table.drop(columns="y")


def predicted(bundle: Bundle, table: pd.DataFrame) -> pl.DataFrame:
    """Score a table as the service does, from the bundle alone."""
    return Scorer(bundle).frame(check_frame(bundle.signature, pl.DataFrame(table.to_dict("list"))).good)


def source_of(path: Path | str, folder: Path, **options: Any) -> Source:
    return Source(str(path), folder / "s.csv", "y", **options)


# --- entry points


@pytest.fixture
def entry(diabetes: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of the team's own, a module that it imports, and its weights."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine.py").write_text(ENTRY)
    (work / "helper.py").write_text("OFFSET = 150\n")
    (work / "weights.json").write_text('{"factor": 900}')
    monkeypatch.chdir(work)
    return work


def test_entry_point_lives_on_in_its_bundle(
    settings: Settings, entry: Path, tmp_path: Path, diabetes: pd.DataFrame
) -> None:
    extra = (Path("helper.py"), Path("weights.json"))
    first = import_model(settings, source_of("mine:load", tmp_path, extra=extra))
    (entry / "helper.py").write_text("OFFSET = 0\n")
    second = import_model(settings, source_of("mine:load", tmp_path, extra=extra))
    shutil.rmtree(entry)
    assert first.manifest["code"] is True
    for bundle, offset in ((first, 150), (second, 0), (first, 150)):  # two of one name, side by side
        np.testing.assert_allclose(predicted(bundle, diabetes)["prediction"], diabetes["bmi"] * 900 + offset)
        assert Registry(settings).load(bundle.version)  # loading left nothing behind in the bundle
        assert "helper" not in sys.modules  # nor in the process


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("absent:load", "no module absent"),
        ("mine:absent", "no function absent"),
        ("mine:broken", "RuntimeError: no weights today"),
        ("mine:stop", "failed with SystemExit"),
        ("mine:nothing", "holds a int, which has no predict"),
        ("helper:load", "no function load"),
    ],
)
def test_bad_entry_points_are_refused(
    settings: Settings, entry: Path, tmp_path: Path, reference: str, sentence: str
) -> None:
    extra = () if reference.startswith(("helper", "absent")) else (Path("helper.py"),)
    with pytest.raises(ProjectError, match=sentence):
        import_model(settings, source_of(reference, tmp_path, extra=extra))
    assert Registry(settings).versions() == []


@pytest.mark.parametrize("scores", ["logits", "labels", "words"])
def test_what_a_model_without_probabilities_predicts_is_seen(
    settings: Settings, wine: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: str
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "logits": "np.stack([-x, 0 * x, x], axis=1)",
        "labels": "np.digitize(x, [-1, 1])",
        "words": "np.array(['low', 'middle', 'high'])[np.digitize(x, [-1, 1])]",
    }[scores]
    code = f"class M:\n    def predict(self, t):\n        x = np.asarray(t['alcohol']) - 13\n        return {values}\n"
    (tmp_path / "m.py").write_text(f"import numpy as np\n{code}\ndef load(folder):\n    return M()\n")
    if scores == "words":
        pl.read_csv("s.csv").with_columns(y=pl.lit("low")).write_csv("s.csv")
    bundle = import_model(settings, source_of("m:load", tmp_path))
    assert bundle.signature.task == "classification"
    output = predicted(bundle, wine)
    place = np.digitize(wine["alcohol"] - 13, [-1, 1])
    if scores == "logits":
        np.testing.assert_allclose(output.select(pl.exclude("prediction")).sum_horizontal(), 1)
        place = np.sign(wine["alcohol"] - 13).astype(int) + 1
    wanted = np.array(["low", "middle", "high"])[place] if scores == "words" else place
    assert output["prediction"].to_list() == list(wanted)


def test_more_than_ten_classes_keep_their_order(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label = "np.arange(len(t)) % 12"
    code = f"class M:\n    def predict(self, t):\n        return np.eye(12)[{label}]\n"
    (tmp_path / "m.py").write_text(f"import numpy as np\n{code}\ndef load(folder):\n    return M()\n")
    pl.read_csv("s.csv").with_columns(y=pl.int_range(pl.len()) % 12).write_csv("s.csv")
    bundle = import_model(settings, source_of("m:load", tmp_path))
    assert bundle.signature.outputs[0].categories == tuple(range(12))  # 2 before 10, as the model's columns are
    assert predicted(bundle, diabetes)["prediction"].to_list() == (np.arange(len(diabetes)) % 12).tolist()


# --- ONNX


def graph(table: pd.DataFrame, target: Any, **options: Any) -> Any:
    """Return a classifier of a team as ONNX, its own outputs and all."""
    from skl2onnx import to_onnx

    model = LogisticRegression(max_iter=200).fit(table.to_numpy(np.float32), target)
    return model, to_onnx(model, table.to_numpy(np.float32)[:1], **options)


@pytest.mark.parametrize("zipmap", [True, False])
def test_bare_onnx_predicts_the_same(settings: Settings, wine: pd.DataFrame, tmp_path: Path, zipmap: bool) -> None:
    target = np.array(["one", "two", "three"])[load_wine().target]
    pl.read_csv(tmp_path / "s.csv").with_columns(y=pl.Series(target)).write_csv(tmp_path / "s.csv")
    model, proto = graph(wine, target, options={"zipmap": zipmap})
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    bundle = import_model(settings, source_of(tmp_path / "m.onnx", tmp_path))
    output = predicted(bundle, wine)
    assert output["prediction"].to_list() == model.predict(wine.to_numpy()).tolist()
    shares = output.select(f"probability_{label}" for label in model.classes_).to_numpy()
    np.testing.assert_allclose(shares, model.predict_proba(wine.to_numpy()), atol=1e-5)
    assert bundle.manifest["code"] is False


def _external(folder: Path, table: pd.DataFrame, location: str) -> Path:
    """Write a linear graph whose weights lie in a file beside it, and let it name that file as it likes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(1, table.shape[1] + 1, dtype=np.float32).reshape(-1, 1)
    tensor = numpy_helper.from_array(weights, "w")
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["out"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(weights)])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 1])],
        [tensor],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = onnx.load(folder / "m.onnx", load_external_data=False)
    content.graph.initializer[0].external_data[0].value = location
    (folder / "m.onnx").write_bytes(content.SerializeToString())
    return folder / "m.onnx"


def test_onnx_with_external_data_is_taken_whole(settings: Settings, diabetes: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    bundle = import_model(settings, source_of(_external(folder, diabetes, "weights.bin"), tmp_path))
    shutil.rmtree(folder)
    wanted = diabetes.to_numpy() @ np.arange(1, 11)
    np.testing.assert_allclose(predicted(bundle, diabetes)["prediction"], wanted, atol=1e-5)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname"])
def test_onnx_that_reads_outside_its_folder_is_refused(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path, location: str
) -> None:
    with pytest.raises(ProjectError, match="outside its own folder"):
        import_model(settings, source_of(_external(tmp_path, diabetes, location), tmp_path))


def test_unknown_operator_is_named(settings: Settings, diabetes: pd.DataFrame, tmp_path: Path) -> None:
    import onnx

    path = _external(tmp_path, diabetes, "weights.bin")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, path)
    with pytest.raises(ProjectError, match="Frobnicate"):
        import_model(settings, source_of(path, tmp_path))
    assert Registry(settings).versions() == []


# --- MLflow


def mlmodel(folder: Path, flavour: dict[str, Any], name: str = "sklearn", columns: list[str] | None = None) -> None:
    """Write the index of an MLflow folder as MLflow does."""
    index: dict[str, Any] = {"flavors": {name: flavour}, "mlflow_version": "3.1.0", "run_id": "a1b2"}
    if columns:
        index["signature"] = {"inputs": json.dumps([{"type": "double", "name": column} for column in columns])}
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_text(yaml.safe_dump(index))


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


# --- boosters


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


# --- damaged files


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
