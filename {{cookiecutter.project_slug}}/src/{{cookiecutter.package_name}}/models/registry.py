"""The registry: bundles that never change, and aliases that point to them, in a folder."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ProjectError
from ..settings import Settings
from . import bundle
from .bundle import Bundle

CHAMPION = "champion"
LISTED = ("title", "task", "runtime", "created", "hashes", "metrics")  # what a line shows of the manifest
ALIAS = re.compile(r"[a-z][a-z0-9-]{0,31}")


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
    """The versions and aliases below ``models.folder``."""

    def __init__(self, settings: Settings) -> None:
        """Point to the folder; it is made when the first model is imported."""
        self.folder = settings.path(settings.models.folder)
        self.slug = settings.project.slug

    @property
    def versions_folder(self) -> Path:
        """Where bundles are, one folder a version."""
        return self.folder / "versions"

    def versions(self) -> list[VersionInfo]:
        """List the versions, newest first. A bundle whose list of files cannot be read is left to `load` to report."""
        aliases = self.aliases()
        found = []
        for path in self.versions_folder.glob(f"[!.]*/{bundle.MANIFEST}"):
            try:
                manifest = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue
            version = path.parent.name
            pointing = tuple(alias for alias, target in aliases.items() if target == version)
            listed = {name: manifest[name] for name in LISTED}
            found.append(VersionInfo(version=version, aliases=pointing, **listed))
        return sorted(found, key=lambda info: (info.created, info.version), reverse=True)

    def load(self, reference: str) -> Bundle:
        """Open and verify a version, given by alias, version, or the beginning of a version.

        Raises:
            ProjectError: there is none, or it is corrupt.
        """
        return bundle.load(self.versions_folder / self.resolve(reference))

    def resolve(self, reference: str) -> str:
        """Return the version that an alias, a version, or the beginning of a version means.

        Raises:
            ProjectError: none does, or more than one.
        """
        if target := self.aliases().get(reference):
            return target
        if reference == CHAMPION:
            raise ProjectError(f"no model has been promoted yet: run `{self.slug} model promote VERSION`")
        known = [path.name for path in self.versions_folder.glob("[!.]*") if path.is_dir()]
        matches = [version for version in known if reference and version.startswith(reference)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ProjectError(f"{reference} is the beginning of {len(matches)} versions: give more of it")
        raise ProjectError(f"there is no model version {reference}: `{self.slug} model list` shows them")

    def aliases(self) -> dict[str, str]:
        """Return the version that each alias points to."""
        found = {}
        for path in sorted((self.folder / "aliases").glob("[!.]*")):
            found[path.name] = path.read_text(encoding="ascii").strip()
        return found

    def alias_stamp(self, alias: str = CHAMPION) -> tuple[int, int] | None:
        """Return something that changes whenever the alias moves, at the price of one ``stat``; None if unset."""
        try:
            status = os.stat(self.folder / "aliases" / alias)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def point(self, alias: str, version: str) -> str | None:
        """Let an alias point to a version, atomically: a reader sees the old or the new one, never neither.

        Returns:
            The version it pointed to before.

        Raises:
            ProjectError: the alias has no proper name, the version is unknown or corrupt, or the disk refuses.
        """
        if not ALIAS.fullmatch(alias):
            raise ProjectError(f"an alias is a lower-case word such as {CHAMPION}")
        target = self.load(version).version
        previous = self.aliases().get(alias)
        path = self.folder / "aliases" / alias
        draft = path.with_name(f".{alias}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            bundle.write_durably(draft, f"{target}\n".encode())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise ProjectError(f"the alias {alias} cannot be moved: {error.strerror}") from None
        return previous
