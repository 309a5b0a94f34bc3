"""Object stores: the objects of a key, a folder or a pattern, each downloaded as it was when it was listed.

``s3://bucket/folder/``, ``az://container/2026-*/rows.csv``, ``gs://bucket/rows.parquet``
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ...settings import Settings
from .. import sources
from ..remote import STORES, Report, bucket, patiently, stored
from ..sources import CHANGED, InputError
from ._packed import bare
from ._parts import writing

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = STORES
STEP = 8 << 20  # bytes written at once


def fetch(url: str, folder: Path, settings: Settings, report: Report) -> dict[str, Any]:
    """Download the objects that some kind reads; names are relative to the folder that the URL names.

    Raises:
        ProjectError: there are none, one changes meanwhile, access is refused, or the store is away for too long.
    """
    store, key = bucket(url)
    patience, name = settings.pipeline.patience_seconds, url.rstrip("/")
    found = patiently(lambda: _list(store, key, name), lambda: 0, name, patience, report)
    base = _base(key, found)
    ends = _ends()
    fit = [one for one in found if one["path"].lower().endswith(sources.SUFFIXES) or bare(one["path"]).endswith(ends)]
    if not fit:
        raise InputError(f"{name} is, has or matches no object of a kind that is read: give one that does")
    for one in fit:
        target = folder / _safe(name, one["path"].removeprefix(base))
        with writing(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        where = f"{url.partition('://')[0]}://…/{one['path']}"
        size = target.stat
        patiently(
            lambda one=one, target=target, where=where: _download(store, one, target, where),  # type: ignore[misc]
            lambda size=size: size().st_size,  # type: ignore[misc]
            name,
            patience,
            report,
        )
        report(f"{one['path']}: {one['size'] / 1e6:,.1f} MB read")
    return {"ignored": [one["path"] for one in found if one not in fit]}


def _ends() -> tuple[str, ...]:
    from . import kinds

    return tuple(end for kind in kinds() for end in getattr(kind, "SUFFIXES", ()))


def _list(store: ObjectStore, key: str, name: str) -> list[Any]:
    """Return the object itself, or those directly in a folder, or those that a pattern matches, sorted."""
    import obstore

    with stored(name):
        if set(key) & set("*?["):
            fixed = key[: re.search(r"[*?\[]", key).start()].rpartition("/")[0]  # type: ignore[union-attr]
            pattern = re.compile(_pattern(key))
            chunks = obstore.list(store, fixed or None)
            found = [one for chunk in chunks for one in chunk if pattern.fullmatch(one["path"])]
        else:
            found = list(obstore.list_with_delimiter(store, key.rstrip("/") or None)["objects"])
            if not found and key:
                found = [obstore.head(store, key)]
    return sorted(found, key=lambda one: one["path"])


def _pattern(key: str) -> str:
    """Turn a pattern into an expression: a ``*`` stays within a folder, ``**/`` crosses any number of them."""
    words = re.split(r"(\*\*/|\*|\?|\[[^]]*\])", key)
    meaning = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(meaning.get(word) or (word if word.startswith("[") else re.escape(word)) for word in words)


def _base(key: str, found: list[Any]) -> str:
    """Return what the names of all objects begin with, up to a slash."""
    folders = [one["path"].rpartition("/")[0] for one in found]
    shared = os.path.commonpath(folders) if folders else ""
    return f"{shared}/" if shared else ""


def _safe(name: str, path: str) -> Path:
    """Return an object's path below a folder; a key may say anything."""
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path:
        raise InputError(f"{name} has an object named {path!r}, which is no path: rename it or leave it out")
    return Path(PurePosixPath(path))


def _download(store: ObjectStore, one: Any, target: Path, name: str) -> None:
    """Append what is missing of an object; its tag makes sure that it is still the one that was listed."""
    import obstore
    from obstore.exceptions import PreconditionError

    have = target.stat().st_size
    options: Any = {"if_match": one["e_tag"]} if one["e_tag"] else {}
    if have == one["size"]:
        return
    if have:
        options["range"] = {"offset": have}
    try:
        with stored(name), target.open("ab") as stream:
            got = obstore.get(store, one["path"], options=options)
            same = (got.meta["size"], got.meta["e_tag"]) == (one["size"], one["e_tag"])
            for block in got.stream(min_chunk_size=STEP) if same else ():
                with writing(target.parent):
                    stream.write(block)
                    stream.flush()
    except PreconditionError:
        same = False
    if not same or target.stat().st_size != one["size"]:
        raise InputError(f"{name} {CHANGED}")
