"""The bundle: one immutable, content-addressed model version in a folder, or packed in one file.

``bundle.json`` lists the SHA-256 of every other file, and the version is the hash of ``bundle.json``
itself, so a single flipped byte anywhere is found when the bundle is loaded. What is not listed is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ProjectError
from ..signature import Signature

if TYPE_CHECKING:
    import polars as pl

    from .profile import Profile

LAYOUT = 1  # of bundles, for projects to come
MANIFEST = "bundle.json"
VERSION_LENGTH = 16
VERSION = re.compile("[0-9a-f]" * VERSION_LENGTH)
PART = re.compile(r"""(?!\.{1,2}$)[^\x00-\x1f\\/:*?"<>|]{1,200}""")  # of a path that every system can hold
HASH = re.compile(r"[0-9a-f]{64}")
TEXTS = ("title", "task", "created", "runtime", "model")  # every manifest has them
DATE = (1980, 1, 1, 0, 0, 0)  # of every file in a packed bundle: the same bundle gives the same bytes
UNREADABLE = (
    zipfile.BadZipFile,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
)  # what zipfile raises


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
        from .profile import Profile

        return Profile.from_json(self._json("profile.json"))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Measured on the sample when a target was given; empty otherwise."""
        return self._json("metrics.json")

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The metrics by slice of the sample, and those of a simple baseline; empty without a target."""
        return self._json("evaluation.json")

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
        """The file, or the folder, that the runtime loads."""
        return self.folder / str(self.manifest["model"])

    def sample(self) -> pl.DataFrame | None:
        """Return the typed rows that came with the model, and the target if it was given; None if none were kept."""
        import polars as pl

        name = "sample.parquet"
        return pl.read_parquet(self.folder / name) if name in self.manifest["files"] else None

    def _json(self, name: str) -> dict[str, Any]:
        if name not in self.manifest["files"]:
            return {}
        content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return content


def write(parent: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes | Mapping[str, Any]]) -> Bundle:
    """Write a bundle below ``parent``; it appears whole or not at all.

    Args:
        parent: the folder of the versions.
        manifest: what to record beside the hashes.
        files: content by name, with ``/`` for sub-folders; a mapping is written as JSON.

    Returns:
        The new bundle, or the one that already holds exactly this content.
    """
    contents = {name: content if isinstance(content, bytes) else encode(content) for name, content in files.items()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}
    listing = encode({"bundle": LAYOUT, **manifest, "files": hashes})
    version = version_of(listing)
    parse(listing, version)
    if not (parent / version).is_dir():
        with appearing(parent / version) as draft:
            for name, content in {**contents, MANIFEST: listing}.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                write_durably(draft / name, content)
    return load(parent / version)


def load(folder: Path, version: str = "") -> Bundle:
    """Open a bundle and verify every byte of it.

    Args:
        folder: where it is.
        version: what it must be, if not what its folder is called.

    Raises:
        ProjectError: a file is missing or differs from what was recorded, or a sub-folder (which a runtime may
            load as a whole) holds a file that was not.
    """
    version = version or folder.name
    try:
        manifest = parse((folder / MANIFEST).read_bytes(), version)
        for name, recorded in manifest["files"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != recorded:
                    raise ProjectError(_corrupt(version, name))
    except OSError as error:
        raise ProjectError(_corrupt(version, Path(str(error.filename)).name)) from None
    for top in {name.partition("/")[0] for name in manifest["files"] if "/" in name}:
        for path in (folder / top).rglob("__pycache__"):  # left by Python when a model brings code; never trusted
            shutil.rmtree(path, ignore_errors=True)
        found = [path for path in (folder / top).rglob("*") if path.is_symlink() or not path.is_dir()]
        if more := sorted({path.relative_to(folder).as_posix() for path in found} - manifest["files"].keys()):
            raise ProjectError(f"the bundle {version} holds {more[0]}, which is not one of its files: remove it")
    return Bundle(version, folder, manifest)


def parse(listing: bytes, version: str) -> dict[str, Any]:
    """Return the content of a ``bundle.json``, if it is that of ``version`` and names no file outside the bundle.

    Raises:
        ProjectError: it was changed, or it is no list of a bundle.
    """
    if version_of(listing) != version:
        raise ProjectError(_corrupt(version, MANIFEST))
    try:
        manifest = json.loads(listing)
        if manifest["bundle"] != LAYOUT:
            raise ProjectError(f"the bundle {version} was made by a newer project than this one: update this one")
        files = manifest["files"]
        bad = [name for name in files if name == MANIFEST or not all(map(PART.fullmatch, name.split("/")))]
        if bad:
            raise ProjectError(f"the bundle {version} lists {bad[0]!r}, which is no proper file name: it is not used")
        whole = all(isinstance(manifest[name], str) for name in TEXTS) and all(map(HASH.fullmatch, files.values()))
        if whole and any(name == manifest["model"] or name.startswith(f"{manifest['model']}/") for name in files):
            return dict(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise ProjectError(f"the {MANIFEST} of {version} does not describe a bundle: import the model again")


def pack(bundle: Bundle, target: Path) -> Path:
    """Write a bundle as one file: a zip of its files as they are; the same bundle gives the same bytes.

    Raises:
        ProjectError: the file cannot be written; nothing is left behind.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with draft.open("xb") as out:
            with zipfile.ZipFile(out, "w") as archive:
                for name in (MANIFEST, *sorted(bundle.manifest["files"])):
                    entry = zipfile.ZipInfo(name, DATE)
                    entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as if made on Unix, on any system
                    entry.file_size = (bundle.folder / name).stat().st_size
                    with (bundle.folder / name).open("rb") as source, archive.open(entry, "w") as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(target)
    except OSError as error:
        raise ProjectError(f"{target} cannot be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return target


def unpack(archive: Path, parent: Path, trust_code: bool) -> Bundle:
    """Take a bundle out of its one file; it appears below ``parent`` whole and verified, or not at all.

    Args:
        archive: what `pack` wrote.
        parent: the folder of the versions.
        trust_code: whether a bundle is taken whose model brings code that runs when it is loaded.

    Raises:
        ProjectError: the file is damaged or is no bundle, or its code is not trusted.
    """
    name = archive.name
    try:
        with zipfile.ZipFile(archive) as source:
            listing = _listing(source, archive)
            version = version_of(listing)
            manifest = parse(listing, version)
            if {*manifest["files"], MANIFEST} != set(source.namelist()):
                raise ProjectError(f"{name} does not hold the files that its {MANIFEST} lists: export it again")
            if not trust_code and _runs_code(manifest):
                raise ProjectError(
                    f"{name} holds a model that may run code of its own when it is loaded: pass --trust-pickle if you"
                    " trust where it comes from"
                )
            with appearing(parent / version) as draft:
                for entry in source.namelist():
                    (draft / entry).parent.mkdir(parents=True, exist_ok=True)
                    with source.open(entry) as content, (draft / entry).open("wb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
                        file.flush()
                        os.fsync(file.fileno())
                _check_documents(load(draft, version), name)
    except FileNotFoundError:
        raise ProjectError(f"there is no file {archive}") from None
    except (*UNREADABLE, OSError) as error:
        raise ProjectError(f"{name} is no bundle, or it is damaged ({type(error).__name__}): export it again") from None
    return load(parent / version)


def _runs_code(manifest: Mapping[str, Any]) -> bool:
    """Whether loading a model may run code that came with it, whatever the one who packed it says of it."""
    from .formats.sklearn import REVIEWED

    kind, trusted = manifest.get("format"), manifest.get("trusted", [])
    reviewed = isinstance(trusted, list) and all(isinstance(name, str) and name in REVIEWED for name in trusted)
    skops = kind == "sklearn" and Path(manifest["model"]).suffix == ".skops" and reviewed
    original = manifest["runtime"] == "original" and (skops or kind in ("lightgbm", "xgboost"))
    return bool(manifest.get("code")) or not (original or manifest["runtime"] in ("onnx", "trees"))


def _check_documents(bundle: Bundle, name: str) -> None:
    """Read what every room reads of a bundle: it may come from anyone."""
    try:
        for document in ("signature", "profile", "metrics", "evaluation", "parity"):
            getattr(bundle, document)
        datetime.fromisoformat(bundle.provenance["imported_at"])
        "".join((bundle.provenance["source"], bundle.provenance["imported_by"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ProjectError(f"{name} lacks the documents of a bundle, or they are damaged: export it again") from None


def _listing(source: zipfile.ZipFile, archive: Path) -> bytes:
    """Return the ``bundle.json`` of a packed bundle, if what lies beside it is harmless to take out."""
    entries, names = source.infolist(), source.namelist()
    if bad := [name for name in names if not all(map(PART.fullmatch, name.split("/")))]:
        raise ProjectError(f"{archive.name} holds a file called {bad[0]!r}, which no bundle can hold: do not use it")
    packed = sum(entry.file_size for entry in entries) > archive.stat().st_size
    if packed or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ProjectError(f"{archive.name} is compressed, which a bundle never is: do not use it")
    if names.count(MANIFEST) != 1 or len(set(names)) != len(names):
        raise ProjectError(f"{archive.name} is no bundle: it has no {MANIFEST}, or a file twice")
    return source.read(MANIFEST)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give the draft of a folder, which becomes ``target`` if all goes well, and is removed otherwise.

    A ``target`` that is there by then is left alone: its name says what it holds.

    Raises:
        ProjectError: the disk refuses.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        draft.mkdir(parents=True)
        yield draft
        if not target.is_dir():
            draft.rename(target)
    except OSError as error:
        if not target.is_dir():
            raise ProjectError(f"the bundle cannot be written to {target.parent}: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def version_of(listing: bytes) -> str:
    """Return the version whose ``bundle.json`` this is."""
    return hashlib.sha256(listing).hexdigest()[:VERSION_LENGTH]


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
