"""``doctor``: is everything here that the project needs, and what is open to whom?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from ..errors import ProjectError

if TYPE_CHECKING:
    from ..settings import Settings

LEAST_PYTHON = (3, 11)


def command() -> None:
    """Check the settings, the store, the models and the folders; end with 1 if something must be mended."""
    from .. import settings

    loaded = settings.load()
    broken = 0
    for name, check in CHECKS.items():
        try:
            for line in check(loaded):
                typer.echo(f"ok    {name}: {line}")
        except ProjectError as error:
            broken += 1
            typer.echo(f"wrong {name}: {error}")
    if broken:
        raise typer.Exit(1)


def _python(_: Settings) -> Iterator[str]:
    if sys.version_info < LEAST_PYTHON:
        raise ProjectError("Python 3.11 or newer is needed")
    yield ".".join(str(part) for part in sys.version_info[:3])


def _settings(settings: Settings) -> Iterator[str]:
    yield f"{settings.root} ({settings.project.mode})"


def _store(settings: Settings) -> Iterator[str]:
    from ..store import queries
    from ..store.database import Store

    with Store(settings) as store:
        held = queries.counts(store)
        yield f"{store.name}: {held.predictions} predictions, {held.feedback} feedback, {held.runs} runs"


def _models(settings: Settings) -> Iterator[str]:
    from ..models.registry import Registry

    registry = Registry(settings)
    versions = registry.versions()
    verified = [info for info in versions if info.aliases or "://" not in settings.models.registry]
    for info in verified:
        registry.load(info.version)
        yield f"{info.version} is whole {' '.join(info.aliases)}".rstrip()
    if more := len(versions) - len(verified):
        yield f"{more} more in {settings.models.registry}, each verified when it is loaded"
    registry.resolve("champion")


def _folders(settings: Settings) -> Iterator[str]:
    import os

    local = () if "://" in settings.models.registry else (settings.models.registry,)
    for folder in (*local, settings.models.cache, settings.documents.folder, settings.documents.output):
        path = settings.path(folder)
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        if not os.access(existing, os.W_OK):
            raise ProjectError(f"{existing} cannot be written: change its permissions")
        yield f"{folder} can be written"


def _exposure(settings: Settings) -> Iterator[str]:
    from ..serving.security import check_exposure

    check_exposure(settings, settings.serving.host)
    keys = len(settings.serving.key_hashes)
    who = f"callers with one of {keys} keys" if keys else "everyone on this machine, without a key"
    yield f"{settings.serving.host}:{settings.serving.port} is open to {who}"


CHECKS: dict[str, Callable[[Settings], Iterator[str]]] = {
    "python": _python,
    "settings": _settings,
    "store": _store,
    "models": _models,
    "folders": _folders,
    "service": _exposure,
}
