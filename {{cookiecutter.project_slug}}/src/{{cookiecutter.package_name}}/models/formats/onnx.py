"""ONNX graphs, with external data beside them or without."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ProjectError
from . import Found, Imported, broken

if TYPE_CHECKING:
    from ...signature import ColumnType
    from ..bundle import Bundle

KIND = "ONNX (.onnx)"


def accepts(reference: str) -> bool:
    """Whether this is an ONNX file, by its name."""
    return Path(reference).suffix == ".onnx"


def gather(reference: str, extra: Any) -> tuple[Path, dict[str, Path], dict[str, Any]]:
    """Return the graph, and the files of external data that it names.

    Raises:
        ProjectError: it cannot be read, or names a file that does not lie beside it.
    """
    path = Path(reference)
    files = {path.name: path}
    if not path.is_file():
        return path, files, {}
    for tensor in _tensors(_parse(path).graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                files[entry.value] = _beside(path, entry.value)
    return path, files, {}


def read(found: Found) -> Imported:
    """Read a graph whole, and see that every operator of it is known.

    Raises:
        ProjectError: it is damaged, too large, or has an operator that ONNX Runtime does not know.
    """
    import onnxruntime
    from onnx.external_data_helper import load_external_data_for_model

    model = _parse(found.path)
    try:
        load_external_data_for_model(model, str(found.path.parent))
        graph: bytes = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each library has errors of its own
        if unknown := re.search(r"([\w.:]+)\(-?\d+\) is not a registered function/op", str(error)):
            raise ProjectError(
                f"{found.path.name} uses the operator {unknown[1]}, which ONNX Runtime does not know: export the model"
                " with standard operators only"
            ) from None
        raise broken(found.path, error) from None
    inputs = [value for value in session.get_inputs() if len(value.shape) < 2 or value.shape[1] == 1]
    by_column = len(inputs) > 1 and len(inputs) == len(session.get_inputs())
    producer = f"{model.producer_name} {model.producer_version}".strip()
    origin = {"producer": producer, "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}}
    return Imported(
        None,
        "onnx",
        {"model.onnx": graph},
        "model.onnx",
        graph=graph,
        columns=tuple(value.name for value in inputs) if by_column else None,
        kinds={value.name: _kind(value.type) for value in inputs} if by_column else {},
        origin={**found.origin, **origin},
        library="onnxruntime",
    )


def load(bundle: Bundle) -> Any:
    """Refuse: a graph is run by ONNX Runtime, in its own form."""
    raise ProjectError(f"the bundle {bundle.version} holds a graph that cannot be served: import the model again")


def _parse(path: Path) -> Any:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise broken(path, error) from None
    if not model.graph.node or not model.graph.output:
        raise ProjectError(f"{path.name} holds no ONNX graph, or is cut off: save it again")
    return model


def _tensors(graph: Any) -> Any:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _beside(path: Path, location: str) -> Path:
    file = path.parent / location
    inside = file.resolve().is_relative_to(path.parent.resolve()) and ".." not in Path(location).parts
    if not inside or file.is_symlink() or Path(location).is_absolute():
        raise ProjectError(f"{path.name} names the file {location!r} outside its own folder: do not use it")
    return file


def _kind(type_: str) -> ColumnType:
    if "string" in type_:
        return "string"
    return "boolean" if "bool" in type_ else "integer" if "int" in type_ else "number"
