"""Anything else: a function of the team's own that returns an object with ``predict``."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ProjectError
from . import Found, Imported, first_line, scratch

if TYPE_CHECKING:
    from ..bundle import Bundle

KIND = "a Python entry point (module:function)"
ENTRY = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
NAME, FOLDER = "entry.txt", "model"
importing = threading.Lock()


def accepts(reference: str) -> bool:
    """Whether this is ``module:function``."""
    return ENTRY.fullmatch(reference) is not None


def gather(reference: str, extra: Sequence[Path]) -> tuple[Path, dict[str, Path], dict[str, Any]]:
    """Return the source of the module, its whole package if it is in one, and the files that go along.

    Raises:
        ProjectError: the working folder has no such module, or two files have one name.
    """
    module = reference.partition(":")[0]
    top = Path(module.partition(".")[0])
    file = Path(*module.split("."))
    if not any(path.is_file() for path in (file.with_suffix(".py"), file / "__init__.py")):
        raise ProjectError(f"there is no module {module} in {Path.cwd()}: run this where {file}.py is")
    files: dict[str, Path] = {}
    for path in (top if top.is_dir() else top.with_suffix(".py"), *extra):
        for name, member in _members(path).items():
            if name in files:
                raise ProjectError(f"two files are called {name}: rename one of those given with --with")
            files[name] = member
    return file.with_suffix(".py"), files, {"entry_point": reference}


def _members(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        return {path.name: path}
    found = [one for one in sorted(path.rglob("*")) if one.is_file() and not {"__pycache__", ".git"} & {*one.parts}]
    return {one.relative_to(path.parent).as_posix(): one for one in found}


def read(found: Found) -> Imported:
    """Copy the files and call the function of the copy: the working folder plays no part any more.

    Raises:
        ProjectError: the module cannot be imported, or the function is not there or fails.
    """
    entry = found.origin["entry_point"]
    files = {f"{FOLDER}/{name}": path.read_bytes() for name, path in found.files.items()} | {NAME: entry.encode()}
    folder = scratch()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return Imported(_call(folder / FOLDER, entry), "python", files, NAME, code=True, origin=found.origin)


def load(bundle: Bundle) -> Any:
    """Call the function of a bundle."""
    return _call(bundle.folder / FOLDER, bundle.model_file.read_text(encoding="utf-8"))


def _call(folder: Path, entry: str) -> Any:
    """Import a module from a folder and call its function with that folder.

    The modules of the folder are forgotten afterwards, so that another version can bring others of the same name.
    """
    name, _, function = entry.partition(":")
    with importing:
        own = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
        kept = {key: sys.modules.pop(key) for key in list(sys.modules) if key.partition(".")[0] in own}
        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        sys.path.insert(0, str(folder))
        try:
            make = getattr(import_module(name), function, None)
            if make is None:
                raise ProjectError(f"the module {name} has no function {function}")
            return make(folder)
        except ProjectError:
            raise
        except (Exception, SystemExit) as error:  # code of the team: it may raise anything
            raise ProjectError(f"{entry} failed with {type(error).__name__}: {first_line(error)}") from None
        finally:
            sys.path.remove(str(folder))
            sys.dont_write_bytecode = bytecode
            for key in [key for key in sys.modules if key.partition(".")[0] in own]:
                del sys.modules[key]
            sys.modules.update(kept)
