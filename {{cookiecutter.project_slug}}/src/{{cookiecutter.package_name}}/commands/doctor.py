"""``doctor``: is everything here that the project needs, and what is open to whom?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from ..errors import ProjectError

if TYPE_CHECKING:
    from ..settings import Settings
    from ..store.keys import Key

LEAST_PYTHON = (3, 11)
SOON = timedelta(days=14)


class Risk(str):
    """A line that warns: nothing is broken, but somebody should look at it."""


def command() -> None:
    """Check all that the project needs, and say what is open to whom; end with 1 if something must be mended."""
    from .. import settings

    loaded = settings.load()
    broken = 0
    for name, check in CHECKS.items():
        try:
            for line in check(loaded):
                typer.echo(f"{'warn ' if isinstance(line, Risk) else 'ok   '} {name}: {line}")
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


def _service(settings: Settings) -> Iterator[str]:
    from ..serving.security import check_exposure
    from ..serving.security.exposure import host_names, loopback
    from ..store import keys
    from ..store.database import Store

    serving = settings.serving
    with Store(settings) as store:
        known = keys.known(store).values()
    now = datetime.now(UTC)
    active = [key for key in known if key.state(now) == "active"]
    check_exposure(settings, serving.host)
    who = [f"{len(active)} keys"] if known else []
    who += [f"tokens of {serving.issuer} for {serving.audience}"] if serving.issuer else []
    machine, by = "this machine" if loopback(serving.host) else "the network", " or ".join(who) or "no key at all"
    address = f"{'https' if serving.tls_certificate else 'http'}://{serving.host}:{serving.port}"
    yield f"{address} is open to callers from {machine}, with {by}"
    scopes = ", ".join(f"{sum(scope in key.scopes for key in active)} {scope}" for scope in keys.SCOPES)
    yield f"keys: {scopes}; {sum(key.rate is not None for key in active)} with a rate, {len(known) - len(active)} ended"
    yield f"answers to {', '.join(host_names(serving)) or 'any host name'}"
    yield f"websites that may call from a browser: {', '.join(serving.cors_origins) or 'none'}"
    yield (
        f"a request has at most {serving.max_body_mb:g} MB (CSV {serving.max_upload_mb:g} MB), "
        f"{serving.max_rows:,} rows and {serving.body_seconds:g} s; {serving.max_connections:,} connections a worker"
    )
    yield from _risks(settings, active, now)


def _risks(settings: Settings, active: Sequence[Key], now: datetime) -> Iterator[Risk]:
    """Say what the service allows, though it is seldom meant."""
    from ..serving.security.exposure import LOCAL, loopback
    from ..serving.security.origins import ANY

    serving = settings.serving
    if loopback(serving.host) and not (active or serving.issuer or set(serving.trusted_hosts) <= set(LOCAL)):
        yield Risk("whoever reaches a proxy on this machine needs no key: make one with `key create NAME --scope ...`")
    if not serving.tls_certificate and not loopback(serving.host):
        yield Risk("keys and rows cross the network in the clear: set serving.tls_certificate, or a proxy with TLS")
    if serving.issuer.startswith("http://") and not loopback(urlsplit(serving.issuer).hostname or ""):
        yield Risk("the issuer's keys come without TLS, so others on the way can make tokens: give its https address")
    if ANY in serving.cors_origins:
        yield Risk("any website may call with a key that it knows: name the origins in serving.cors_origins")
    for key in active:
        if "admin" in key.scopes and not key.expires:
            yield Risk(f"the admin key {key.id} ({key.name}) never expires: make another with --expires, revoke this")
        if key.expires and key.expires - now < SOON:
            yield Risk(f"the key {key.id} ({key.name}) expires on {key.expires:%Y-%m-%d}: `key rotate {key.id}`")


CHECKS: dict[str, Callable[[Settings], Iterator[str]]] = {
    "python": _python,
    "settings": _settings,
    "store": _store,
    "models": _models,
    "folders": _folders,
    "service": _service,
}
