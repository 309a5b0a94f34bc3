"""What a run published, file by file with hashes; and how files reach the disk whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ProjectError
from ..models.bundle import encode, write_durably
from .sources import File

FORMAT = 1
NAME = "manifest.json"
LATEST = "latest.json"

Json = dict[str, Any]


def key(files: Sequence[File], version: str, chunk_rows: int) -> str:
    """Return the identity of a run: the same input, model and chunks give the same one (SHA-256, hex)."""
    inputs = [[file.name, file.size, file.sha256] for file in files]
    content = encode({"format": FORMAT, "inputs": inputs, "model_version": version, "chunk_rows": chunk_rows})
    return hashlib.sha256(content).hexdigest()


def build(request: Mapping[str, Any], files: Sequence[File], markers: Sequence[Json]) -> Json:
    """Add up the chunks of a run.

    Raises:
        ProjectError: the rows do not add up, so that nothing may be published.
    """
    rows: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for marker in markers:
        rows.update(marker["rows"])
        reasons.update(marker["reasons"])
    listed = [entry for marker in markers for entry in marker["files"]]
    by_folder = Counter[str]()
    for entry in listed:
        by_folder[entry["path"].partition("/")[0]] += entry["rows"]
    counted = (by_folder["predictions"], by_folder["quarantine"])
    if counted != (rows["published"], rows["quarantined"]) or sum(counted) != rows["in"]:
        raise ProjectError(
            f"{rows['in']} rows came in, but {counted[0]} were scored and {counted[1]} quarantined: "
            "nothing is published; please report this"
        )
    return {
        "format": FORMAT,
        **{name: request[name] for name in ("run", "key", "model_version", "chunk_rows")},
        "inputs": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in files],
        "rows": {name: rows[name] for name in ("in", "published", "quarantined")},
        "reasons": dict(sorted(reasons.items())),
        "files": listed,
    }


def intact(folder: Path) -> Json | None:
    """Return the manifest of a published run if all its files are there, byte for byte; else None."""
    try:
        manifest: Json = json.loads((folder / NAME).read_bytes())
        return manifest if present(folder, manifest["files"]) else None
    except (OSError, ValueError, KeyError):
        return None


def present(folder: Path, entries: Sequence[Json]) -> bool:
    """Say whether every listed file is in the folder, byte for byte."""
    for entry in entries:
        try:
            with (folder / entry["path"]).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                    return False
        except OSError:
            return False
    return True


def replace(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees the old or the new one, whole, whatever happens."""
    draft = path.with_name(f".{path.name}.draft")
    write_durably(draft, encode(content))
    draft.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends.

    Raises:
        ProjectError: another process holds it.
    """
    while True:
        stream = path.open("ab")
        if not _try(stream.fileno()):
            stream.close()
            raise ProjectError(f"another process is at work on this run ({path}): wait until it ends")
        if path.exists() and path.stat().st_ino == os.fstat(stream.fileno()).st_ino:
            break
        stream.close()  # its last holder removed it between our opening and locking
    try:
        yield
    finally:
        if sys.platform != "win32":
            path.unlink(missing_ok=True)
        stream.close()


if sys.platform == "win32":
    import msvcrt

    def _try(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
