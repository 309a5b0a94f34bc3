"""What places elsewhere share: whatever was read is kept in ``models.cache``; versions never change."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from ...errors import ProjectError
from ...settings import Settings
from .. import bundle as bundles
from ..bundle import MANIFEST, Bundle

PARALLEL = 16
T = TypeVar("T")


class Remote(ABC):
    """A place elsewhere, with a cache on this machine. What comes out of the cache is verified like all the rest."""

    def __init__(self, settings: Settings) -> None:
        """Point to the cache."""
        self.folder = settings.path(settings.models.cache)

    @abstractmethod
    def names(self) -> Collection[str]:
        """Return the versions."""

    @abstractmethod
    def download(self, version: str, name: str, target: Path) -> None:
        """Copy a file of a version to this machine; `FileNotFoundError` if it has no such file."""

    def manifests(self) -> dict[str, bytes]:
        """Return each version's list of files; those not in the cache are fetched side by side."""
        names = list(self.names())
        found = dict(zip(names, in_parallel(self._manifest, names), strict=True))
        return {version: content for version, content in found.items() if content}

    def load(self, version: str) -> Bundle:
        """Open and verify a version; fetch it if it is not in the cache, or is damaged there."""
        target = self.folder / "versions" / version
        if target.is_dir():
            with suppress(ProjectError):
                return bundles.load(target)
            shutil.rmtree(target, ignore_errors=True)
        with bundles.appearing(target) as draft:
            try:
                self.download(version, MANIFEST, draft / MANIFEST)
                names = bundles.parse((draft / MANIFEST).read_bytes(), version)["files"]
                for name in names:
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                in_parallel(lambda name: self.download(version, name, draft / name), names)
            except FileNotFoundError:
                raise ProjectError(f"the registry lacks files of {version}: import the model again") from None
            bundles.load(draft, version)
        return bundles.load(target)

    def _manifest(self, version: str) -> bytes | None:
        path = self.folder / "manifests" / f"{version}.json"
        with suppress(OSError):
            if bundles.version_of(content := path.read_bytes()) == version:
                return content
        draft = path.with_name(f".{version}.{token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.download(version, MANIFEST, draft)
            content = draft.read_bytes()
            if bundles.version_of(content) != version:
                return None
            draft.replace(path)
            return content
        except FileNotFoundError:  # it is being uploaded, or was never finished
            return None
        except OSError as error:
            raise ProjectError(f"the cache {self.folder} cannot be written: {error.strerror}") from None
        finally:
            draft.unlink(missing_ok=True)


def in_parallel(do: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """Return what ``do`` gives for each name; calls wait for the network side by side."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(do, names))
