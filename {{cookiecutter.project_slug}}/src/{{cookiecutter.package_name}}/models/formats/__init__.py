"""Formats of trained models: one file a format, found by listing this folder.

Each module has ``KIND`` (for people), ``accepts(reference)``, ``read(found)`` and ``load(bundle)``; one whose models
are no single file also has ``gather(reference, extra)``.
"""

from __future__ import annotations

import atexit
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...errors import ProjectError
from ...settings import PACKAGE

if TYPE_CHECKING:
    from ...signature import ColumnType
    from ..bundle import Bundle


@dataclass(frozen=True)
class Found:
    """A trained model before anything of it is loaded.

    Attributes:
        module: of its format.
        path: its file or folder on this machine.
        files: all that it is made of, by the name below its folder.
        trust_pickle: whether code that comes with it may run.
        trusted: types that a skops file may contain beside the reviewed ones.
        origin: what its source says of it, for the provenance.
    """

    module: ModuleType
    path: Path
    files: Mapping[str, Path]
    trust_pickle: bool = False
    trusted: Sequence[str] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> Imported:
        """Load the model.

        Raises:
            ProjectError: it is damaged, may not be loaded without trust, or cannot predict.
        """
        imported: Imported = self.module.read(self)
        if imported.graph is None and not callable(getattr(imported.estimator, "predict", None)):
            kind = type(imported.estimator).__name__
            raise ProjectError(
                f"{self.path.name} holds a {kind}, which has no predict: import the trained model itself"
            )
        return imported


@dataclass(frozen=True)
class Imported:
    """A trained model, loaded.

    Attributes:
        estimator: has ``predict`` over a pandas frame, and may have what scikit-learn's have: ``predict_proba``,
            ``classes_``, ``feature_names_in_``, ``n_features_in_``. None if there is only a ``graph``.
        format: the module of this package that loads it again.
        files: what a bundle must keep to load it again, by name.
        model: which of these the runtime loads.
        trusted: types that its skops file contains and skops does not know.
        code: loading it runs code that came with it.
        graph: an ONNX graph as it came.
        columns: the names of its columns by the format's own account.
        kinds: the types of these columns likewise, where it says so.
        origin: for the provenance: run, parameters, metrics, versions.
        library: the package whose version matters.
    """

    estimator: Any
    format: str
    files: Mapping[str, bytes]
    model: str
    trusted: tuple[str, ...] = ()
    code: bool = False
    graph: bytes | None = None
    columns: tuple[str, ...] | None = None
    kinds: Mapping[str, ColumnType] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    library: str = ""


def find(
    reference: str, *, trust_pickle: bool = False, trusted: Sequence[str] = (), extra: Sequence[Path] = ()
) -> Found:
    """Find a model and its format, without loading it.

    Args:
        reference: a file, a folder, an MLflow URI (``models:/name/3``) or an entry point (``module:function``).
        trust_pickle: whether code that comes with the model may run.
        trusted: types that a skops file may contain beside the reviewed ones.
        extra: files that go along with an entry point.

    Raises:
        ProjectError: there is no such thing, or no format takes it.
    """
    modules = [import_module(f".{found.name}", __name__) for found in pkgutil.iter_modules(__path__)]
    for module in modules:
        if module.accepts(reference):
            break
    else:
        if not Path(reference).exists():
            raise ProjectError(f"there is no file {reference}")
        kinds = "; ".join(module.KIND for module in modules)
        raise ProjectError(f"{Path(reference).name} is none of the formats that can be imported: {kinds}")
    if hasattr(module, "gather"):
        path, files, origin = module.gather(reference, extra)
    else:
        path, origin = Path(reference), {}
        files = {path.name: path}
    for file in files.values():
        if not file.is_file():
            raise ProjectError(f"there is no file {file}")
    if extra and module.__name__.rpartition(".")[2] != "python":
        raise ProjectError("--with is for entry points: other models bring all that they need")
    return Found(module, path, files, trust_pickle, trusted, origin)


def load(bundle: Bundle) -> Any:
    """Load the original model of a bundle; what it may contain was decided when it was imported.

    Raises:
        ProjectError: the extra that it needs is not installed.
    """
    return import_module(f".{bundle.manifest['format']}", __name__).load(bundle)


def library(module: str, extra: str) -> Any:
    """Import a library that only some models need.

    Raises:
        ProjectError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        install = f"pip install '{PACKAGE.replace('_', '-')}[{extra}]'" if extra else f"pip install {module}"
        name = module.partition(".")[0]
        raise ProjectError(f"this model needs {name}, which is not installed: {install}") from None


def survive(path: Path, code: str) -> None:
    """Read a file in a process of its own first: native libraries abort the whole process on a damaged one.

    Args:
        path: the file.
        code: reads the file ``sys.argv[1]``.

    Raises:
        ProjectError: that process did not end well.
    """
    done = subprocess.run([sys.executable, "-P", "-c", code, str(path)], capture_output=True, check=False)
    if done.returncode:
        raise ProjectError(f"{path.name} cannot be loaded: it is damaged or cut off; save it again")


def scratch() -> Path:
    """Return a new folder that lives as long as this process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def broken(path: Path, error: Exception) -> ProjectError:
    """Return the sentence for a file that its library cannot load."""
    return ProjectError(f"{path.name} cannot be loaded ({first_line(error)}): save it again")


def first_line(error: BaseException) -> str:
    """Return what an error says, short enough for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
