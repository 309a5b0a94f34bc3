"""Where a published run is copied on to. Its own folder stays the truth: a sink can be filled again from it.

A kind is one module here, found by listing the folder, with ``SCHEMES`` and ``publish(run, url, settings, report)``.
It shows a run whole or not at all, and to publish one again changes nothing.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import ProjectError
from ...settings import Settings
from ...signature import Signature
from ..remote import Report, scheme, shown


@dataclass(frozen=True, slots=True)
class Published:
    """A run as it stands in its folder."""

    folder: Path
    manifest: Mapping[str, Any]
    signature: Signature

    @property
    def id(self) -> str:
        """The run's id, which the folder is named by."""
        return str(self.manifest["run"])

    def files(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the manifest's entries of ``predictions`` or ``quarantine``."""
        return [entry for entry in self.manifest["files"] if entry["path"].startswith(f"{kind}/")]


@cache
def kinds() -> list[Any]:
    """Return the modules of this folder."""
    return [import_module(f".{found.name}", __name__) for found in pkgutil.iter_modules(__path__)]


def check(url: str) -> None:
    """Refuse a URL of no known kind, before a run begins.

    Raises:
        ProjectError: it is one.
    """
    _kind(url)


def publish(
    settings: Settings, run_folder: Path, manifest: Mapping[str, Any], signature: Signature, url: str, report: Report
) -> None:
    """Copy a published run to a sink; go on where an earlier attempt ended, and do nothing if it is there.

    Raises:
        ProjectError: the sink cannot be reached or refuses; the run itself is safe.
    """
    _kind(url).publish(Published(run_folder, manifest, signature), url, settings, report)


def _kind(url: str) -> Any:
    kind = next((kind for kind in kinds() if scheme(url) in kind.SCHEMES), None)
    if kind is None:
        known = ", ".join(f"{name}:" for kind in kinds() for name in kind.SCHEMES)
        raise ProjectError(f"{shown(url)} is no place to publish to that is known: give a URL of {known}")
    return kind
