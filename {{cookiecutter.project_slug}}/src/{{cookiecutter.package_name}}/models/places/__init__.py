"""Where versions and aliases are kept. Each file here is one kind of place, found by listing the folder.

A module with ``SCHEMES`` has a function ``open_place(url, settings)`` for the URLs that begin with one of them.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ...errors import ProjectError
from ...settings import Settings
from ..bundle import VERSION, Bundle, encode

KEPT = 20  # earlier versions that an alias remembers


@dataclass(frozen=True)
class Alias:
    """A pointer to a version.

    Attributes:
        version: where it points.
        share: of the requests that it answers, for a canary.
        since: when it was moved there (ISO 8601, UTC).
        by: who moved it.
        reason: why.
        previous: where it pointed before, newest first.
    """

    version: str
    share: float | None = None
    since: str = ""
    by: str = ""
    reason: str = ""
    previous: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """Return the document that is kept."""
        return encode(asdict(self))

    @classmethod
    def from_json(cls, name: str, content: bytes) -> Alias:
        """Read the document of the alias ``name``.

        Raises:
            ProjectError: it is damaged.
        """
        try:
            known: dict[str, Any] = json.loads(content)
            alias = cls(**known | {"previous": tuple(known["previous"])})
            if all(map(VERSION.fullmatch, (alias.version, *alias.previous))):
                return alias
        except (ValueError, TypeError, KeyError):
            pass
        raise ProjectError(f"the document of the alias {name} is damaged: delete it and promote a version again")


Edit = Callable[[Alias | None], Alias | None]


class Place(Protocol):
    """Where versions and aliases are kept. Every method raises `ProjectError` when the place cannot be used."""

    folder: Path  # on this machine; bundles are read from `versions` below it

    def names(self) -> Collection[str]:
        """Return the versions."""

    def manifests(self) -> Mapping[str, bytes]:
        """Return each version's ``bundle.json``, as far as it can be read."""

    def load(self, version: str) -> Bundle:
        """Open and verify a version."""

    def publish(self, bundle: Bundle) -> None:
        """Add a bundle that is in ``folder``; it appears whole or not at all."""

    def aliases(self) -> dict[str, Alias]:
        """Return the aliases by name."""

    def stamp(self) -> object:
        """Return something that changes whenever an alias moves, by one cheap call."""

    def change(self, name: str, edit: Edit) -> Alias | None:
        """Replace an alias by what ``edit`` makes of it, None being no alias, so that no other change is lost.

        Returns:
            The alias as it was.
        """


def open_place(settings: Settings) -> Place:
    """Return the place that ``models.registry`` names: a folder, or the URL of something else.

    Raises:
        ProjectError: nothing here knows this kind of URL.
    """
    url = settings.models.registry
    scheme, separator, _ = url.partition("://")
    schemes: list[str] = []
    for found in pkgutil.iter_modules(__path__):
        module = import_module(f".{found.name}", __name__)
        known = getattr(module, "SCHEMES", ())
        if (scheme if separator else "") in known:
            place: Place = module.open_place(url, settings)
            return place
        schemes += [one for one in known if one]
    raise ProjectError(f"the setting models.registry has no known scheme: a folder, or {', '.join(schemes)}")
