"""What is no plain file becomes one: read once, in bounded memory, into local Parquet files; the run reads those.

A kind is one module here, found by listing the folder. It has either

* ``SCHEMES`` and ``fetch(url, folder, settings, report)``, which fills the folder with files and returns facts, or
* ``SUFFIXES``, ``wants(path, settings)`` and ``spool(path, part, parts, settings)``, which reads one file;
  ``part`` is what follows a ``#``, such as the sheet of a workbook.
"""

from __future__ import annotations

import glob
import json
import os
import pkgutil
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import ProjectError
from ...models.bundle import encode, write_durably
from ...settings import Settings
from .. import sources
from ..manifest import sync
from ..remote import Report, scheme, shown
from ..sources import CHANGED, InputError
from ._packed import bare
from ._parts import Parts, writing

WHOLE, PARTIAL, TOLD = "whole", "partial", "spool.json"


@cache
def kinds() -> list[Any]:
    """Return the modules of this folder, those whose name starts with an underscore left out."""
    names = [found.name for found in pkgutil.iter_modules(__path__)]
    return [import_module(f".{name}", __name__) for name in names if not name.startswith("_")]


def accepts(url: str, settings: Settings) -> bool:
    """Say whether an input has to be spooled: a URL, or files of which one is no plain CSV or Parquet."""
    if scheme(url):
        return True
    paths, _, part = find(url)
    return bool(part) or any(_kind(path, settings) for path in paths)


def fetch(url: str, folder: Path, settings: Settings, report: Report) -> list[Path]:
    """Bring an input into local files that `sources` reads; what ``folder`` has whole is not read again.

    Args:
        url: a URL; or a file, a folder of files or a glob pattern.
        folder: of this input alone.
        settings: of the project.
        report: told what was found, how far it is and what it waits for.

    Returns:
        The files, sorted; the names of those in folders are kept.

    Raises:
        ProjectError: the input cannot be read, or the folder cannot be written; nothing is left there then.
    """
    if not (folder / WHOLE).is_dir():
        partial = folder / PARTIAL
        try:
            with writing(folder):
                shutil.rmtree(partial, ignore_errors=True)
                (partial / "files").mkdir(parents=True)
            told = _fill(url, partial, settings, report)
            with writing(folder):
                shutil.rmtree(partial / "fetched", ignore_errors=True)
                write_durably(partial / TOLD, encode({"input": shown(url), **told}))
                sync(partial)
                partial.rename(folder / WHOLE)
                sync(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return sorted(path for path in (folder / WHOLE / "files").rglob("*") if path.is_file())


def told(folder: Path) -> dict[str, Any]:
    """Return what is known of a spooled input: ``input``, ``ignored`` names, facts such as the ``version`` read."""
    found: dict[str, Any] = json.loads((folder / WHOLE / TOLD).read_bytes())
    return found


def find(given: str) -> tuple[list[Path], list[str], str]:
    """List the files of an input that some kind reads, the names of the others, and what follows a ``#``.

    Raises:
        InputError: there is nothing to read.
    """
    path, part = Path(given), ""
    if not path.exists() and "#" in given:
        given, _, part = given.rpartition("#")
        path = Path(given)
    found = [path] if path.is_file() else path.iterdir() if path.is_dir() else glob.glob(given, recursive=True)
    files = [one.absolute() for one in sorted(map(Path, found)) if one.is_file()]
    ends = tuple(end for kind in kinds() for end in getattr(kind, "SUFFIXES", ()))
    fit = [
        one
        for one in files
        if not one.name.startswith(".")
        and (one.name.lower().endswith(sources.SUFFIXES) or bare(one.name).endswith(ends))
    ]
    if not fit:
        known = ", ".join(dict.fromkeys((*sources.SUFFIXES, *ends)))
        raise sources.nothing(given, known)
    return fit, [one.name for one in files if one not in fit], part


def _kind(path: Path, settings: Settings) -> Any:
    """Return the module that reads a file, None for one that needs no spooling."""
    for kind in kinds():
        if bare(path.name).endswith(getattr(kind, "SUFFIXES", ())) and kind.wants(path, settings):
            return kind
    return None


def _fill(url: str, partial: Path, settings: Settings, report: Report) -> dict[str, Any]:
    """Fill ``files``; return what is known of the input."""
    facts: dict[str, Any] = {}
    ignored: list[str] = []
    if scheme(url):
        kind = next((kind for kind in kinds() if scheme(url) in getattr(kind, "SCHEMES", ())), None)
        if kind is None:
            known = ", ".join(f"{name}:" for kind in kinds() for name in getattr(kind, "SCHEMES", ()))
            raise InputError(f"{shown(url)} is of no kind that is known: give a path, or a URL of {known}")
        base = partial / "fetched"
        base.mkdir()
        facts = kind.fetch(url, base, settings, report)
        paths, part = sorted(path for path in base.rglob("*") if path.is_file()), ""
    else:
        paths, ignored, part = find(url)
        base = Path(os.path.commonpath([path.parent for path in paths]))
    for path in paths:
        kind, target = _kind(path, settings), partial / "files" / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind:
            with _steady(path), Parts(target.with_name(f"{target.name}{sources.SPOOLED}"), report) as parts:
                kind.spool(path, part, parts, settings)
        elif part:
            raise InputError(f"{path} has no sheets: leave #{part} out")
        else:
            _link(path, target, base.is_relative_to(partial))
    return {"ignored": [*ignored, *facts.pop("ignored", [])], "facts": facts}


def _link(path: Path, target: Path, own: bool) -> None:
    """Let a plain file stand beside the spooled ones: moved if it is ours, else linked."""
    if own:
        path.rename(target)
        return
    try:
        target.symlink_to(path)
    except OSError:  # Windows without the right to link
        with writing(target.parent):
            shutil.copy2(path, target)


@contextmanager
def _steady(path: Path) -> Iterator[None]:
    """Refuse a file that is changed while it is read, and say in one sentence why one cannot be read."""
    try:
        before = path.stat()
        yield
        after = path.stat()
    except ProjectError:
        raise
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is broken or cut off"
        raise InputError(f"{path} cannot be read: {reason}") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{path} {CHANGED}")
