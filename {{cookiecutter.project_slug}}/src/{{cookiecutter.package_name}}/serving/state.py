"""What all routes share: the champion, how the next one takes over, and the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import structlog

from ..errors import ProjectError
from ..models.bundle import Bundle
from ..models.registry import CANARY, CHAMPION, SHADOW, Alias, Registry
from ..settings import Settings
from ..store.database import Store
from ..store.events import EventLog
from ..telemetry.metrics import DROPPED, LOAD_FAILURES, MODEL

RETRY = 10.0  # seconds between attempts to load a version that failed
REGISTRY = "registry"  # a trouble that is of no alias

log = structlog.get_logger(__name__)


class Served(NamedTuple):
    """A version in service, with what `State.prepare` made for it, and the alias that put it there."""

    bundle: Bundle
    predictor: Any
    alias: Alias


class State:
    """What all routes share; a request takes ``served`` once and keeps it. `ProjectError`: the store cannot be used.

    Attributes:
        served: the champion.
        canary: the version that answers a share of the requests, if there is one.
        shadow: the version that is tried out on copies, if there is one.
        tried: whether there is a canary or a shadow.
        troubles: why something is not in service, by alias; and why the registry cannot be asked.
        prepare: makes the predictor of a version; set by the data plane, which not every project has.
        watchers: called in a thread every ``serving.follow_seconds``; the data plane adds them.
        plane: the data plane, if there is one (see `plane`).
        followers: called in a thread every ``serving.follow_seconds`` to follow what others decide.
        services: what else runs while the service does, and ends before the log is closed; routes add it.
        draining: whether the service is about to end, and says so to who asks whether it is ready.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served: Served | None = None
        self.canary: Served | None = None
        self.shadow: Served | None = None
        self.tried = False
        self.troubles: dict[str, str] = {}
        self.prepare: Callable[[Bundle], Any] = lambda bundle: None
        self.watchers: list[Callable[[], None]] = []
        self.plane: Any = None
        self.followers: list[Callable[[], None]] = [self._refresh]
        self.services: list[AbstractAsyncContextManager[Any]] = []
        self.draining = False
        self.store = Store(settings)
        self.events = EventLog(self.store)
        self.registry = Registry(settings)
        self._before: Served | None = None  # the champion before this one: a rollback is at hand
        self._stamp: object = self  # unlike any stamp: the first look loads
        self._retry = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve the champion and follow it; at the end write the log and close."""
        await asyncio.to_thread(self._refresh)
        followers = [asyncio.create_task(self._repeat(work)) for work in (*self.followers, *self.watchers)]
        try:
            async with AsyncExitStack() as services:
                for service in self.services:
                    await services.enter_async_context(service)
                yield
        finally:
            for follower in followers:
                follower.cancel()
            self.events.close()
            self.store.close()

    async def _repeat(self, work: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self.settings.serving.follow_seconds)
            try:
                await asyncio.to_thread(work)
            except Exception:  # the next time may go better, and requests are answered meanwhile
                log.exception("work beside the requests failed")

    def _refresh(self) -> None:
        """Put the versions of the aliases in service; a champion that cannot be loaded leaves the old one there."""
        DROPPED.set(self.events.dropped)
        try:
            stamp = self.registry.alias_stamp()
            if stamp == self._stamp and (not self.troubles or time.monotonic() < self._retry):
                return
            aliases = self.registry.aliases()
        except ProjectError as error:  # what is in service goes on; the next look asks again
            self._trouble(REGISTRY, str(error))
            return
        self._stamp, self._retry = stamp, time.monotonic() + RETRY
        self.troubles.pop(REGISTRY, None)
        self._promote(self._follow(CHAMPION, aliases.get(CHAMPION), self.served))
        if self.watchers:
            self.canary = self._follow(CANARY, aliases.get(CANARY), None)
            self.shadow = self._follow(SHADOW, aliases.get(SHADOW), None)
            self.tried = bool(self.canary or self.shadow)

    def _promote(self, new: Served | None) -> None:
        old, self.served = self.served, new
        if new and (old is None or new.bundle.version != old.bundle.version):
            MODEL.labels(new.bundle.version).set(1)
            if old:
                self._before = old
                MODEL.labels(old.bundle.version).set(0)
            log.info("model in service", version=new.bundle.version, previous=old and old.bundle.version)

    def _follow(self, name: str, alias: Alias | None, otherwise: Served | None) -> Served | None:
        """Return the version that an alias points to, loaded; or what else to serve if that cannot be."""
        try:
            if alias is None and name == CHAMPION:
                self.registry.resolve(name)  # raises, and says what to do
            found = self._load(alias) if alias else otherwise
            self.troubles.pop(name, None)
            return found
        except ProjectError as error:
            reason = str(error)
        except Exception as error:  # whatever a damaged model does, the champion goes on
            log.exception("model failed to load", alias=name)
            reason = f"the {name} cannot be loaded ({type(error).__name__}): choose another version"
        LOAD_FAILURES.inc()
        self._trouble(name, reason)
        return otherwise

    def _load(self, alias: Alias) -> Served:
        for one in (self.served, self.canary, self.shadow, self._before):
            if one and one.bundle.version == alias.version:
                return one._replace(alias=alias)
        bundle = self.registry.load(alias.version)
        return Served(bundle, self.prepare(bundle), alias)

    def _trouble(self, name: str, reason: str) -> None:
        if self.troubles.get(name) != reason:
            log.error("no new model", alias=name, reason=reason)
        self.troubles[name] = reason
