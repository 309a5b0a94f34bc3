"""What all routes share: the champion, how the next one takes over, and the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import structlog

from ..errors import ProjectError
from ..models.bundle import Bundle
from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store.database import Store
from ..store.events import EventLog
from ..telemetry.metrics import DROPPED, LOAD_FAILURES, MODEL

RETRY = 10.0  # seconds between attempts to load a version that failed

log = structlog.get_logger(__name__)


class Served(NamedTuple):
    """A version in service, with what `State.prepare` made for it."""

    bundle: Bundle
    predictor: Any


class State:
    """What all routes share; a request takes ``served`` once and keeps it. `ProjectError`: the store cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served: Served | None = None
        self.trouble = ""  # why the alias's version is not in service
        # Makes the predictor of a version; set by the route that predicts, which not every project has.
        self.prepare: Callable[[Bundle], Any] = lambda bundle: None
        self.store = Store(settings)
        self.events = EventLog(self.store)
        self._registry = Registry(settings)
        self._stamp: object = self  # unlike any stamp: the first look loads
        self._retry = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve the champion and follow it; at the end write the log and close."""
        await asyncio.to_thread(self._refresh)
        follower = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            follower.cancel()
            self.events.close()
            self.store.close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.settings.serving.follow_seconds)
            await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        """Put the alias's version in service; what cannot be loaded leaves the old one there."""
        DROPPED.set(self.events.dropped)
        stamp = self._registry.alias_stamp()
        if stamp == self._stamp and (not self.trouble or time.monotonic() < self._retry):
            return
        self._stamp, self._retry = stamp, time.monotonic() + RETRY
        try:
            version, previous = self._registry.resolve(CHAMPION), self.served and self.served.bundle.version
            if version != previous:
                bundle = self._registry.load(version)
                self.served = Served(bundle, self.prepare(bundle))
                MODEL.labels(version).set(1)
                if previous:
                    MODEL.labels(previous).set(0)
                log.info("model in service", version=version, previous=previous)
            self.trouble = ""
            return
        except ProjectError as error:
            reason = str(error)
        except Exception as error:  # whatever a damaged model does, the old one goes on
            log.exception("model failed to load")
            reason = f"the {CHAMPION} cannot be loaded ({type(error).__name__}): promote another version"
        LOAD_FAILURES.inc()
        if reason != self.trouble:
            log.error("no new model", reason=reason)
        self.trouble = reason
