"""The bundle: one immutable, content-addressed model version in a folder.

``bundle.json`` lists the SHA-256 of every other file, and the version is the hash of ``bundle.json``
itself, so a single flipped byte anywhere is found when the bundle is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ProjectError
from ..signature import Signature
from .profile import Profile

FORMAT = 1
MANIFEST = "bundle.json"
VERSION_LENGTH = 16


@dataclass(frozen=True)
class Bundle:
    """A verified model version.

    Attributes:
        version: the first 16 hex digits of the hash of ``bundle.json``.
        folder: where its files are.
        manifest: ``bundle.json``: title, task, runtime, columns, created, and the hashes of the files.
    """

    version: str
    folder: Path
    manifest: Mapping[str, Any]

    @cached_property
    def signature(self) -> Signature:
        """The contract of the model."""
        return Signature.from_json(self._json("signature.json"))

    @cached_property
    def profile(self) -> Profile:
        """The distributions of the reference sample."""
        return Profile.from_json(self._json("profile.json"))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Measured on the sample when a target was given; empty otherwise."""
        return self._json("metrics.json")

    @cached_property
    def parity(self) -> dict[str, Any]:
        """How far the converted model is from the original on the sample."""
        return self._json("parity.json")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the model came from: source, hashes, libraries, who, when."""
        return self._json("provenance.json")

    @property
    def model_file(self) -> Path:
        """The file that the runtime loads."""
        return self.folder / str(self.manifest["model"])

    def _json(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return content


def write(parent: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes | Mapping[str, Any]]) -> Bundle:
    """Write a bundle below ``parent``; it appears whole or not at all.

    Args:
        parent: the folder of the versions.
        manifest: what to record beside the hashes.
        files: content by name; a mapping is written as JSON.

    Returns:
        The new bundle, or the one that already holds exactly this content.
    """
    contents = {name: content if isinstance(content, bytes) else encode(content) for name, content in files.items()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}
    listing = encode({"format": FORMAT, **manifest, "files": hashes})
    version = hashlib.sha256(listing).hexdigest()[:VERSION_LENGTH]
    target = parent / version
    if not target.is_dir():
        draft = parent / f".{version}.{secrets.token_hex(4)}.partial"
        try:
            draft.mkdir(parents=True)
            for name, content in {**contents, MANIFEST: listing}.items():
                write_durably(draft / name, content)
            draft.rename(target)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if not target.is_dir():  # another process may have written the same content first
                raise ProjectError(f"the bundle cannot be written to {parent}: {error.strerror}") from None
    return load(target)


def load(folder: Path) -> Bundle:
    """Open a bundle and verify every byte of it.

    Raises:
        ProjectError: a file is missing or differs from what was recorded.
    """
    version = folder.name
    try:
        listing = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(listing).hexdigest()[:VERSION_LENGTH] != version:
            raise ProjectError(_corrupt(version, MANIFEST))
        manifest = json.loads(listing)
        for name, recorded in manifest["files"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != recorded:
                    raise ProjectError(_corrupt(version, name))
    except OSError as error:
        raise ProjectError(_corrupt(version, Path(str(error.filename)).name)) from None
    if manifest["format"] != FORMAT:
        raise ProjectError(f"the bundle {version} has format {manifest['format']}, newer than this project reads")
    return Bundle(version, folder, manifest)


def _corrupt(version: str, name: str) -> str:
    return f"the bundle {version} is corrupt: {name} is missing or was changed; restore it or import the model again"


def encode(content: Mapping[str, Any]) -> bytes:
    """Return JSON that people can read, in the order of the content: columns stay as they are."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
