"""What is in service: the champion with all that is compiled for it, and how the next one takes over."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import UNSET, UnsetType
from prometheus_client import Counter

from ..errors import ProjectError
from ..models.registry import Registry
from ..models.scorer import Scorer
from ..settings import Settings
from ..store.database import Store
from ..store.events import EventLog, Prediction
from ..telemetry.metrics import CHAMPION, DROPPED, PREDICTIONS

ALIAS = "champion"
RETRY = 10.0  # seconds between attempts to load a version that failed
FAILURES = Counter("model_load_failures_total", "Attempts to load a champion that failed.")

log = structlog.get_logger(__name__)


class Model:
    """One version, with everything that is made once for it.

    Args:
        registry: where versions live.
        version: to load and verify.

    Raises:
        ProjectError: the version cannot be loaded.
    """

    def __init__(self, registry: Registry, version: str) -> None:
        """Load the version, compile its decoder, and score once."""
        self.version = version
        self.bundle = registry.load(version)
        self.signature = self.bundle.signature
        scorer = Scorer(self.bundle)
        scorer.warm()
        self.fast = scorer.fast
        self.score = scorer.rows
        self.decode = msgspec.json.Decoder(body_type(scorer.row)).decode
        self.scored = PREDICTIONS.labels(version, "http").inc


def body_type(row: type[msgspec.Struct]) -> Any:
    """Return the type of a prediction request: ``{"row": ...}`` or ``{"rows": [...]}``."""
    rows = Annotated[list[row], msgspec.Meta(min_length=1)]  # type: ignore[valid-type]
    fields = [("row", row | UnsetType, UNSET), ("rows", rows | UnsetType, UNSET)]
    return msgspec.defstruct("Body", fields, forbid_unknown_fields=True, gc=False)


class State:
    """What all routes share. ``model`` is replaced as a whole: a request takes it once and keeps it.

    Attributes:
        model: the champion in service, or None.
        trouble: why the alias's version is not in service, or empty.
        pool: where long predictions run, one at a time.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the log.

        Raises:
            ProjectError: the store cannot be used.
        """
        self.settings = settings
        self.model: Model | None = None
        self.trouble = ""
        self.store = Store(settings)
        self.events = EventLog(self.store)
        self.pool = ThreadPoolExecutor(1, "predict")
        self._registry = Registry(settings)
        self._stamp: object = self  # unlike any stamp: the first look loads
        self._retry = 0.0
        self._loading = threading.Lock()
        self._process = secrets.token_hex(6)
        self._numbers = itertools.count()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve the champion and follow it; at the end write the log and close."""
        await asyncio.to_thread(self.refresh)
        follower = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower
            self.pool.shutdown()
            self.events.close()
            self.store.close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.settings.serving.follow_seconds)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Put the alias's version in service; what cannot be loaded leaves the old one there."""
        with self._loading:
            DROPPED.set(self.events.dropped)
            try:
                stamp = self._registry.alias_stamp(ALIAS)
                if stamp == self._stamp and (not self.trouble or time.monotonic() < self._retry):
                    return
                self._stamp, self._retry = stamp, time.monotonic() + RETRY
                self._put(self._registry.resolve(ALIAS))
            except ProjectError as error:
                self._keep(str(error))
            except Exception as error:  # whatever a damaged model does, the old one goes on
                log.exception("model failed to load")
                self._keep(f"the {ALIAS} cannot be loaded ({type(error).__name__}): promote another version")

    def _put(self, version: str) -> None:
        old = self.model
        if old is None or old.version != version:
            self.model = Model(self._registry, version)
            CHAMPION.labels(version).set(1)
            if old:
                CHAMPION.labels(old.version).set(0)
            log.info("model in service", version=version, previous=old.version if old else None)
        self.trouble = ""

    def _keep(self, reason: str) -> None:
        FAILURES.inc()
        if reason != self.trouble:
            log.error("no new model", reason=reason, serving=self.model.version if self.model else None)
        self.trouble = reason

    def predict_one(self, model: Model, row: Any, started: float) -> tuple[str, dict[str, object]]:
        """Score one row and log it.

        Args:
            model: in service when the request came.
            row: decoded by the model's decoder.
            started: `time.perf_counter` at the request's last byte.

        Returns:
            The prediction's id and the output row.
        """
        output = model.score((row,))[0]
        now = time.time()
        identity = self._identity(now)
        elapsed = (time.perf_counter() - started) * 1e3
        self.events.append(Prediction(identity, now, model.version, elapsed, row, output))
        model.scored()
        return identity, output

    def predict_many(self, model: Model, rows: Sequence[Any], started: float) -> list[tuple[str, dict[str, object]]]:
        """Score rows and log them; as `predict_one`, with ids ``<request>-<place>``."""
        outputs = model.score(rows)
        now = time.time()
        request = self._identity(now)
        elapsed = (time.perf_counter() - started) * 1e3
        made = [(f"{request}-{place}", output) for place, output in enumerate(outputs)]
        self.events.extend(
            Prediction(identity, now, model.version, elapsed, row, output)
            for row, (identity, output) in zip(rows, made, strict=True)
        )
        model.scored(len(made))
        return made

    def _identity(self, now: float) -> str:
        """Return an id that sorts by time and is like no other: milliseconds, process, number."""
        return f"{int(now * 1e3):012x}{self._process}{next(self._numbers) & 0xFFFFFF:06x}"


def made_at(identity: str) -> float:
    """Return when a prediction with such an id was made, in seconds since the epoch; 0 for a foreign id."""
    try:
        return int(identity[:12], 16) / 1e3
    except ValueError:
        return 0.0
