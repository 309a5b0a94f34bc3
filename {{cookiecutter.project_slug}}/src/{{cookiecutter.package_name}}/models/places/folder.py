"""A folder: ``versions/<version>/`` and ``aliases/<name>.json``."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import ProjectError
from ...settings import Settings
from .. import bundle as bundles
from ..bundle import MANIFEST, Bundle
from . import Alias, Edit

try:
    import fcntl
except ImportError:  # Windows: replacing is atomic there too; of two moves at the same moment one may be forgotten
    fcntl = None  # type: ignore[assignment]

SCHEMES = ("", "file")
ATTEMPTS = 100  # to read the aliases while others move them


def open_place(url: str, settings: Settings) -> Folder:
    """Return the folder at a path, or at a ``file://`` URL."""
    path = unquote(urlsplit(url).path) if url.startswith("file://") else url
    return Folder(settings.path(path))


class Folder:
    """The registry of one machine, or of a shared file system."""

    def __init__(self, folder: Path) -> None:
        """Point to the folder; it is made when the first model is imported."""
        self.folder = folder
        self._versions, self._aliases = folder / "versions", folder / "aliases"

    def names(self) -> list[str]:
        """Return the versions; what begins with a dot is a draft."""
        try:
            return [entry.name for entry in os.scandir(self._versions) if entry.name[0] != "." and entry.is_dir()]
        except OSError:
            return []

    def manifests(self) -> dict[str, bytes]:
        """Return each version's list of files, as far as it can be read."""
        found = {}
        for name in self.names():
            with suppress(OSError), open(f"{self._versions}/{name}/{MANIFEST}", "rb") as file:
                found[name] = file.read()
        return found

    def load(self, version: str) -> Bundle:
        """Open and verify a version."""
        return bundles.load(self._versions / version)

    def publish(self, bundle: Bundle) -> None:
        """Do nothing: the bundle is where it belongs."""

    def aliases(self) -> dict[str, Alias]:
        """Read the documents of the aliases, all as of one moment."""
        found: dict[str, Alias | None] = {}
        for _ in range(ATTEMPTS):
            stamp = self.stamp()
            found = {path.stem: self._read(path.stem) for path in sorted(self._aliases.glob("[!.]*.json"))}
            if stamp == self.stamp():  # a listing may miss a file that is being replaced
                break
        return {name: alias for name, alias in found.items() if alias}

    def stamp(self) -> object:
        """Return which files the documents are and when they were written: no document is ever written twice."""
        try:
            with os.scandir(self._aliases) as entries:
                found = [(entry.name, entry.stat()) for entry in entries if entry.name[0] != "."]
            return sorted((name, status.st_ino, status.st_mtime_ns) for name, status in found)
        except FileNotFoundError:
            return self.stamp() if self._aliases.is_dir() else []  # one was replaced between the two calls
        except OSError as error:
            raise ProjectError(f"the aliases in {self._aliases} cannot be read: {error.strerror}") from None

    def change(self, name: str, edit: Edit) -> Alias | None:
        """Write the new document beside the old one and rename it: a reader sees one or the other, never neither."""
        path = self._aliases / f"{name}.json"
        draft = path.with_name(f".{name}.{secrets.token_hex(4)}")
        try:
            self._aliases.mkdir(parents=True, exist_ok=True)
            with self._alone():
                before = self._read(name)
                if after := edit(before):
                    bundles.write_durably(draft, after.to_json())
                    os.utime(draft, ns=(now := time.time_ns(), now))  # finer than a file system's own clock
                    draft.replace(path)
                else:
                    path.unlink(missing_ok=True)
                self._sync()
            return before
        except OSError as error:
            raise ProjectError(f"the alias {name} cannot be moved: {error.strerror}") from None
        finally:
            draft.unlink(missing_ok=True)

    def _read(self, name: str) -> Alias | None:
        try:
            return Alias.from_json(name, (self._aliases / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProjectError(f"the alias {name} cannot be read: {error.strerror}") from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no one else moves an alias; the lock ends with the process, however it ends."""
        with (self._aliases / ".lock").open("wb") as file:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sync(self) -> None:
        """Have the rename on the disk, where a folder can be synced."""
        with suppress(OSError):
            handle = os.open(self._aliases, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
