"""A graph of ONNX predicts the same from its bundle; what reads outside its folder is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.datasets import load_wine

from project.errors import ProjectError
from project.models.importing import import_model
from project.models.registry import Registry
from project.settings import Settings
from trained import graph, predicted, source_of


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
