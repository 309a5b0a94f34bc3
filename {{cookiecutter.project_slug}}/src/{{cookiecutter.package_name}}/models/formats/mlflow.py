"""MLflow models: a folder with an MLmodel file, or a URI of a tracking server.

Scikit-learn, XGBoost, LightGBM and ONNX models are taken out of the folder and need MLflow no more; any other model
stays as it is and is run by MLflow (`pyfunc`).
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ProjectError
from ...signature import ColumnType
from . import Found, Imported, broken, first_line, library, lightgbm, onnx, scratch, sklearn, xgboost

if TYPE_CHECKING:
    import pandas as pd

    from ..bundle import Bundle
    from ..runtimes import Array

KIND = "an MLflow model (a folder, models:/name/version, models:/name@alias or runs:/...)"
SCHEMES = ("models:/", "runs:/")
FOLDER, INDEX = "model", "MLmodel"
NATIVE = {"sklearn": "pickled_model", "xgboost": "data", "lightgbm": "data", "onnx": "data"}  # where each has its file
KINDS: dict[str, ColumnType] = {
    **dict.fromkeys(("double", "float"), "number"),
    **dict.fromkeys(("long", "integer"), "integer"),
    "string": "string",
    "boolean": "boolean",
    "datetime": "datetime",
}
PICKLES = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"


class Pyfunc:
    """A model that MLflow runs, with the face of an estimator.

    Args:
        model: as MLflow loads it.

    Attributes:
        module: the PyTorch module inside, if it is one: `conversion` exports it.
    """

    def __init__(self, model: Any, module: Any = None) -> None:
        """Keep the model and what it says of its input."""
        self._model = model
        if module is not None:
            self.module = module
        self._schema = model.metadata.get_input_schema()
        if self._schema is not None and self._schema.is_tensor_spec() and not self._schema.has_input_names():
            shape = self._schema.inputs[0].shape
            if len(shape) == 2 and shape[1] > 0:
                self.n_features_in_ = shape[1]

    def predict(self, table: pd.DataFrame) -> Array:
        """Return the answers as an array (n or n x outputs), the input in exactly the types of MLflow's signature."""
        feed: Any = table
        if self._schema is not None and self._schema.is_tensor_spec():
            feed = np.asarray(table).astype(self._schema.input_types()[0])
        elif self._schema is not None and self._schema.has_input_names():
            wanted = {spec.name: spec.type.to_pandas() for spec in self._schema.inputs if spec.name in table}
            feed = table.astype({name: kind for name, kind in wanted.items() if not table[name].isna().any()})
        values: Array = np.asarray(self._model.predict(feed))
        return values


def accepts(reference: str) -> bool:
    """Whether this is a folder with an MLmodel file, or a URI that MLflow knows."""
    return reference.startswith(SCHEMES) or (Path(reference) / INDEX).is_file()


def gather(reference: str, extra: Any) -> tuple[Path, dict[str, Path], dict[str, Any]]:
    """Return the folder (a copy, for a URI), its files, and what the server says of the run.

    Raises:
        ProjectError: the server refuses, or the folder holds anything but regular files.
    """
    folder, origin = _fetch(reference) if reference.startswith(SCHEMES) else (Path(reference), {})
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ProjectError(
                f"{folder.name} has the link {name}, which may lead outside of it: replace it by the file"
            )
        if path.is_file() and "__pycache__" not in path.parts:
            files[name] = path
    return folder, files, origin


def read(found: Found) -> Imported:
    """Load the model by its own format if it has one, and through MLflow otherwise.

    Raises:
        ProjectError: it is damaged, names files outside its folder, or holds code that is not trusted.
    """
    index = _index(found.path / INDEX)
    flavours: Mapping[str, Any] = index["flavors"]
    for flavour in flavours.values():
        for entry in ("code", "data", "model_path", "model_data", "pickled_model", "python_model", "model_code_path"):
            _inside(found, flavour.get(entry))
        for artifact in (flavour.get("artifacts") or {}).values():
            _inside(found, artifact.get("path"))
    columns, kinds = _columns(index)
    keys = ("mlflow_version", "run_id", "model_id", "utc_time_created")
    told = {key: str(index[key]) for key in keys if index.get(key)} | {"flavors": sorted(flavours)}
    origin = {**told, **found.origin}
    native = next((name for name in NATIVE if name in flavours and not flavours[name].get("code")), None)
    if native:
        path = found.path / str(flavours[native].get(NATIVE[native]))
        if not path.is_file():
            raise ProjectError(f"{found.path.name} lacks the file of its {native} model: log it with a newer MLflow")
        module: ModuleType = {"sklearn": sklearn, "xgboost": xgboost, "lightgbm": lightgbm, "onnx": onnx}[native]
        module = sklearn if sklearn.accepts(str(path)) else module
        if module is onnx:
            onnx.gather(str(path), ())  # its external data too must lie inside
        inner: Imported = module.read(Found(module, path, {}, found.trust_pickle, found.trusted))
        return Imported(
            **{**vars(inner), "columns": columns or inner.columns, "kinds": kinds, "origin": {**inner.origin, **origin}}
        )
    return _pyfunc(found, flavours, columns, kinds, origin)


def load(bundle: Bundle) -> Any:
    """Load the model of a bundle through MLflow."""
    return _load(bundle.model_file.parent, code=bool(bundle.manifest["code"]))


def _pyfunc(
    found: Found, flavours: Mapping[str, Any], columns: Any, kinds: Mapping[str, ColumnType], origin: Mapping[str, Any]
) -> Imported:
    if "python_function" not in flavours:
        raise ProjectError(f"{found.path.name} has no python_function flavour: log the model with a newer MLflow")
    # PyTorch's traced archive can be checked to hold numbers only; MLflow does so when pickles are forbidden.
    code = "pytorch" not in flavours or not any(name.endswith(".pt2") for name in found.files)
    code = code or any(flavour.get("code") for flavour in flavours.values())
    if code and not found.trust_pickle:
        raise ProjectError(
            f"{found.path.name} holds Python code or a pickle, which runs when it is loaded: pass --trust-pickle if you"
            " trust where it comes from"
        )
    try:
        estimator = _load(found.path, code)
    except ProjectError:
        raise
    except Exception as error:  # code of the team, or a damaged file: it may raise anything
        raise broken(found.path, error) from None
    files = {f"{FOLDER}/{name}": path.read_bytes() for name, path in found.files.items()}
    model = f"{FOLDER}/{INDEX}"
    return Imported(
        estimator,
        "mlflow",
        files,
        model,
        (),
        code,
        None,
        columns,
        kinds,
        origin,
        "torch" if hasattr(estimator, "module") else "mlflow-skinny",
    )


def _load(folder: Path, code: bool) -> Pyfunc:
    pyfunc = _mlflow("mlflow.pyfunc")
    before = os.environ.get(PICKLES)
    os.environ[PICKLES] = str(code).lower()
    try:
        module = None
        if "pytorch" in _index(folder / INDEX)["flavors"]:
            library("torch", "")
            module = _mlflow("mlflow.pytorch").load_model(str(folder))
        return Pyfunc(pyfunc.load_model(str(folder)), module)
    finally:
        os.environ.pop(PICKLES)
        if before is not None:
            os.environ[PICKLES] = before


def _mlflow(module: str) -> Any:
    """Import a module of MLflow, which then sends nothing home and says only what went wrong."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 take minutes when a server is away
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return library(module, "mlflow")


def _fetch(uri: str) -> tuple[Path, dict[str, Any]]:
    """Download a model from the tracking server that MLFLOW_TRACKING_URI names, with what is known of its run."""
    mlflow = _mlflow("mlflow")
    origin: dict[str, Any] = {"uri": uri}
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(scratch())))
        client = mlflow.MlflowClient()
        name, mark, last = uri.removeprefix("models:/").rpartition("@" if "@" in uri else "/")
        if uri.startswith("models:/") and name:
            entry = (
                client.get_model_version_by_alias(name, last) if mark == "@" else client.get_model_version(name, last)
            )
            origin |= {"name": entry.name, "version": str(entry.version)}
    except Exception as error:  # of MLflow, of its store, of the network
        raise ProjectError(f"{uri} cannot be fetched ({first_line(error)}): is MLFLOW_TRACKING_URI right?") from None
    if not (folder / INDEX).is_file():
        raise ProjectError(f"{uri} holds no MLflow model: give the URI of the folder with its MLmodel file")
    if run_id := _index(folder / INDEX).get("run_id"):
        try:
            data = client.get_run(run_id).data
            tags = {key: value for key, value in data.tags.items() if not key.startswith("mlflow.")}
            metrics = {name: value if math.isfinite(value) else str(value) for name, value in data.metrics.items()}
            origin |= {"params": dict(data.params), "metrics": metrics, "tags": tags}
        except Exception as error:  # the run may be gone, the model is there
            origin["run"] = f"not available: {first_line(error)}"
    return folder, origin


def _index(path: Path) -> dict[str, Any]:
    import yaml

    try:
        index = yaml.safe_load(path.read_text(encoding="utf-8"))
        if all(isinstance(flavour, dict) for flavour in index["flavors"].values()) and index["flavors"]:
            return dict(index)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        pass
    raise ProjectError(f"{path.parent.name}/{INDEX} cannot be read: it is cut off, or no MLflow model")


def _inside(found: Found, entry: object) -> None:
    """Refuse a path that leads out of the folder, or to nothing in it."""
    if entry is None or entry == "":
        return
    name = PurePosixPath(str(entry))
    if ".." in name.parts or name.is_absolute() or "\\" in str(entry) or ":" in str(entry):
        raise ProjectError(f"{INDEX} points to {entry!r} outside its folder: do not use this model")
    if not (found.path / name).exists():
        raise ProjectError(f"{found.path.name} lacks {name}, which its {INDEX} names: copy the whole folder")


def _columns(index: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, dict[str, ColumnType]]:
    """Return the names of the model's columns, and their types, from MLflow's signature."""
    try:
        specs = json.loads((index.get("signature") or {}).get("inputs") or "[]")
        named = {str(spec["name"]): spec["type"] for spec in specs if spec.get("name") and spec["type"] != "tensor"}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ProjectError(f"the signature in {INDEX} cannot be read: log the model again") from None
    if not specs or len(named) < len(specs):
        return None, {}
    return tuple(named), {name: KINDS[kind] for name, kind in named.items() if kind in KINDS}
