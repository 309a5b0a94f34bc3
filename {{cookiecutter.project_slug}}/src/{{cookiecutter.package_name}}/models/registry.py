"""The registry: bundles that never change, and aliases that point to them, in the place that the settings name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ProjectError
from ..settings import Settings
from . import bundle
from .bundle import Bundle
from .places import KEPT, Alias, open_place

CHAMPION, CANARY, SHADOW, CHALLENGER = "champion", "canary", "shadow", "challenger"
LISTED = ("title", "task", "runtime", "created", "hashes", "metrics")  # what a line shows of the manifest
NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")

__all__ = ["CANARY", "CHALLENGER", "CHAMPION", "SHADOW", "Alias", "Registry", "VersionInfo"]


@dataclass(frozen=True)
class VersionInfo:
    """A line of the list of versions, read without loading the model."""

    version: str
    title: str
    task: str
    runtime: str
    created: str
    hashes: Mapping[str, str]
    metrics: Mapping[str, Any]
    aliases: tuple[str, ...]


class Registry:
    """The versions and aliases in ``models.registry``: a folder, an object store or an MLflow server.

    Every method raises `ProjectError` when a place elsewhere does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        """Point to the place; nothing is read yet."""
        self._place = open_place(settings)
        self.slug = settings.project.slug

    @property
    def folder(self) -> Path:
        """The registry's folder, or the cache of one elsewhere."""
        return self._place.folder

    @property
    def versions_folder(self) -> Path:
        """Where bundles are on this machine, one folder a version."""
        return self.folder / "versions"

    def versions(self) -> list[VersionInfo]:
        """List the versions, newest first. A bundle whose list of files cannot be read is left to `load` to report."""
        aliases, found = self.aliases(), []
        for version, listing in self._place.manifests().items():
            try:
                manifest = json.loads(listing)
                listed = {name: manifest[name] for name in LISTED}
            except (ValueError, TypeError, KeyError):
                continue
            pointing = tuple(name for name, alias in aliases.items() if alias.version == version)
            found.append(VersionInfo(version=version, aliases=pointing, **listed))
        return sorted(found, key=lambda info: (info.created, info.version), reverse=True)

    def load(self, reference: str) -> Bundle:
        """Open and verify a version, given by alias, version, or the beginning of a version.

        Raises:
            ProjectError: there is none, or it is corrupt.
        """
        if bundle.VERSION.fullmatch(reference) and (self.versions_folder / reference).is_dir():
            return self._place.load(reference)
        return self._place.load(self.resolve(reference))

    def add(self, manifest: Mapping[str, Any], files: Mapping[str, bytes | Mapping[str, Any]]) -> Bundle:
        """Write a bundle and register it; see `bundle.write`."""
        added = bundle.write(self.versions_folder, manifest, files)
        self._place.publish(added)
        return added

    def adopt(self, folder: Path) -> Bundle:
        """Register a bundle that is in a folder, such as `bundle.unpack` leaves.

        Raises:
            ProjectError: it is corrupt, or cannot be written.
        """
        given = bundle.load(folder)
        target = self.versions_folder / given.version
        if not target.is_dir():
            with bundle.appearing(target) as draft:
                for name in (bundle.MANIFEST, *given.manifest["files"]):
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / name, draft / name)
        adopted = bundle.load(target)
        self._place.publish(adopted)
        return adopted

    def resolve(self, reference: str) -> str:
        """Return the version that an alias, a version, or the beginning of a version means.

        Raises:
            ProjectError: none does, or more than one.
        """
        if target := self.aliases().get(reference):
            return target.version
        if reference == CHAMPION:
            raise ProjectError(f"no model has been promoted yet: run `{self.slug} model promote VERSION`")
        matches = [version for version in self._place.names() if reference and version.startswith(reference)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ProjectError(f"{reference} is the beginning of {len(matches)} versions: give more of it")
        raise ProjectError(f"there is no model version {reference}: `{self.slug} model list` shows them")

    def aliases(self) -> dict[str, Alias]:
        """Return the aliases by name."""
        return self._place.aliases()

    def alias_stamp(self) -> object:
        """Return something that changes whenever any alias moves, by one cheap call."""
        return self._place.stamp()

    def point(
        self, alias: str, version: str, *, by: str = "", reason: str = "", share: float | None = None
    ) -> str | None:
        """Let an alias point to a version, atomically: a reader sees the old or the new one, never neither.

        Args:
            alias: its name; it is made when there is none.
            version: verified before the alias moves.
            by: who moves it.
            reason: why.
            share: of the requests that the version answers, for a canary.

        Returns:
            The version it pointed to before.

        Raises:
            ProjectError: the alias has no proper name, the version is unknown or corrupt, or the disk refuses.
        """
        _check(alias)
        target = self._place.load(self.resolve(version)).version

        def edit(now: Alias | None) -> Alias:
            previous = now.previous if now else ()
            if now and now.version != target:
                previous = (now.version, *previous)[:KEPT]
            return Alias(target, share, _now(), by, reason, previous)

        before = self._place.change(alias, edit)
        return before.version if before else None

    def drop(self, alias: str) -> str | None:
        """Remove an alias; return the version it pointed to, or None if there was none."""
        _check(alias)
        before = self._place.change(alias, lambda _: None)
        return before.version if before else None

    def rollback(self, alias: str = CHAMPION, *, by: str = "", reason: str = "") -> tuple[str, str]:
        """Let an alias point where it pointed before; again goes one further back.

        Returns:
            The version it pointed to, and the one it points to now.

        Raises:
            ProjectError: there is no version before, it is corrupt, or someone else moved the alias meanwhile.
        """
        current = self.aliases().get(alias)
        if current is None or not current.previous:
            raise ProjectError(f"the alias {alias} did not point to another version before: promote one by name")
        target, *rest = current.previous
        self._place.load(target)

        def edit(now: Alias | None) -> Alias:
            if now != current:
                raise ProjectError(f"someone else moved the alias {alias} at this moment: look where it points now")
            return Alias(target, current.share, _now(), by, reason, tuple(rest))

        self._place.change(alias, edit)
        return current.version, target


def _check(alias: str) -> None:
    if not NAME.fullmatch(alias):
        raise ProjectError(f"an alias is a lower-case word such as {CHAMPION}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
