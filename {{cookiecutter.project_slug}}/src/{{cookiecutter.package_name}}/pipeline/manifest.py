"""How the files of a run reach the disk, whole or not at all, and how they are found whole again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import ProjectError
from ..models.bundle import encode, write_durably

NAME = "manifest.json"

Json = dict[str, Any]


def save(folder: Path, drafts: Path, kind: str, number: int, frame: pl.DataFrame) -> Json:
    """Write a table as a Parquet file, always the same bytes for the same rows; return its entry in the manifest.

    It appears whole, however often and by how many processes at once it is written.
    """
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer, compression="zstd", compression_level=1)
    content = buffer.getvalue()
    path = f"{kind}/{kind}-{number:05d}.parquet"
    appear(folder / path, content, drafts)
    return {"path": path, "rows": frame.height, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def intact(folder: Path) -> Json:
    """Return the manifest of a published run if all its files are there, byte for byte; else an empty one."""
    try:
        manifest: Json = json.loads((folder / NAME).read_bytes())
        return manifest if present(folder, manifest["files"]) else {}
    except (OSError, ValueError, KeyError):
        return {}


def present(folder: Path, entries: Sequence[Json]) -> bool:
    """Say whether every listed file is in the folder, byte for byte."""
    try:
        for entry in entries:
            with (folder / entry["path"]).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                    return False
    except OSError:
        return False
    return True


def replace(path: Path, content: Mapping[str, Any], drafts: Path | None = None) -> None:
    """Write a JSON file so that a reader sees the old or the new one, whole, whatever happens."""
    appear(path, encode(content), drafts or path.parent)


def appear(path: Path, content: bytes, drafts: Path) -> None:
    """Write a file so that a reader sees the old or the new one, whole; drafts are in a folder of the same disk."""
    draft = drafts / f".{path.name}.{secrets.token_hex(4)}.draft"
    try:
        write_durably(draft, content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends: SQLite's, as it works on every system.

    Raises:
        ProjectError: another process holds it.
    """
    path.touch()  # where that is impossible the system says why, and SQLite does not
    with closing(sqlite3.connect(path, timeout=0)) as holder:
        try:
            holder.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise OSError(str(error)) from None
            raise ProjectError(f"another process is at work on this run ({path}): wait until it ends") from None
        yield
