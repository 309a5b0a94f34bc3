"""Write events to the log off the path of a request: queued in memory, written in batches by one thread."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import structlog
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from ..errors import ProjectError
from . import bulk
from .database import Store
from .tables import model_events, predictions, traffic, trials

LOGGED = ("id", "time", "model_version", "source", "latency_ms", "inputs", "output")
TRIED = ("prediction_id", "model_version", "role", "time", "latency_ms", "output", "error")
SHORT, REST = 32, 0.0003  # predictions after which the writer rests, and seconds: who answers gets the core meanwhile
HURRY = 1_000  # predictions from which on it does not rest
BATCH = 5_000  # events of a transaction
GLANCE = 0.01  # seconds between looks at whether another thread has written enough
YIELDS = 5  # how much nicer the writer is than what answers requests: it gets a quarter of a core that is full

log = structlog.get_logger(__name__)


class Prediction(msgspec.Struct, gc=False, frozen=True):
    """One prediction made over HTTP; row and output as JSON: a tenth of the memory, which the writer finds cold."""

    id: str
    time: float
    version: str
    latency_ms: float
    row: bytes
    output: bytes


class Traffic(NamedTuple):
    """Requests of a route that were answered in a minute, in at most ``bucket`` seconds."""

    minute: float  # its start, in seconds since 1970
    route: str
    status: int
    bucket: float
    requests: int


class Trial(NamedTuple):
    """What another version said to a request that the champion answered: its output, or why there is none."""

    id: str  # of the champion's prediction
    time: float
    version: str
    role: str  # shadow or canary
    latency_ms: float
    output: Any = None
    error: str | None = None


Event = Prediction | Traffic | Trial


class EventLog:
    """The queue and its writer.

    Args:
        store: where events go.
        interval: seconds between writes; a crash loses at most this much.
        capacity: events held while the store is away; beyond it events are dropped, counted in `dropped`, and logged.

    Attributes:
        dropped: events that found no place.
        sources: asked before each write for what they counted meanwhile.
    """

    def __init__(self, store: Store, interval: float = 0.1, capacity: int = 500_000) -> None:
        """Start the writer."""
        self.dropped = 0
        self.sources: list[Callable[[], Sequence[Event]]] = []
        self._store = store
        self._interval = interval
        self._capacity = capacity
        self._queue: deque[Event] = deque()
        self._writing, self._away = threading.Lock(), False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)
        self._thread.start()

    def append(self, event: Event) -> None:
        """Queue an event; costs well under a microsecond."""
        if len(self._queue) < self._capacity:
            self._queue.append(event)
        else:
            self.dropped += 1

    def extend(self, events: Sequence[Event]) -> None:
        """Queue the events of a request with many rows; all, or none if there is no room for them."""
        if len(self._queue) + len(events) <= self._capacity:
            self._queue.extend(events)
        else:
            self.dropped += len(events)

    @property
    def behind(self) -> bool:
        """Whether events come faster than they are written; while the store is away nobody has to wait for it."""
        return len(self._queue) > self._capacity // 10 and not self._away

    def wait(self, seconds: float) -> bool:
        """Write, a batch at a time, until no more than usual is queued: for threads that make many events.

        Returns:
            Whether that was so within ``seconds``, or the store is away: the queue then takes what it can.
        """
        until = time.monotonic() + seconds
        while self.behind:
            left = until - time.monotonic()
            if left <= 0:
                return False
            if self._writing.acquire(timeout=min(left, GLANCE)):
                try:
                    self._some()
                except ProjectError:  # they stay queued, and `dropped` counts those that find no place
                    return True
                finally:
                    self._writing.release()
        return True

    def gather(self) -> None:
        """Queue what the sources have counted."""
        for source in self.sources:
            self.extend(source())

    def flush_soon(self) -> bool:
        """Write what is queued, for who reads the log next; False if the store cannot be written."""
        try:
            self.flush()
        except ProjectError:
            return False
        return True

    def flush(self) -> None:
        """Write everything that is queued now.

        Raises:
            ProjectError: the store cannot be written; the events stay queued.
        """
        self.gather()
        left = True
        while left:
            with self._writing:  # even if nothing is queued: another thread may be writing the last of it
                left = self._some()

    def _some(self) -> bool:
        """Write a batch, and say whether more is left of what was queued; who calls it holds the lock."""
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
        if not batch:
            return False
        try:
            self._write(batch)
            self._away = False
        except ProjectError:
            self._away = True
            self._queue.extendleft(reversed(batch))
            raise
        return len(batch) == BATCH  # what came meanwhile is for the next time

    def close(self) -> None:
        """Stop the writer and write what is left."""
        self._closing.set()
        self._thread.join()
        try:
            self.flush()
        except ProjectError as error:
            log.error("events lost", events=len(self._queue), reason=str(error))

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), YIELDS)
        pause, said = self._interval, 0
        while not self._closing.wait(pause):
            try:
                self.flush()
                pause = self._interval
            except ProjectError as error:
                pause = min(pause * 2, 5.0)
                log.warning("event log waits for the store", queued=len(self._queue), reason=str(error))
            if self.dropped > said:
                said = self.dropped
                log.error("events dropped: the queue is full", dropped=said)

    def _write(self, batch: list[Event]) -> None:
        counts: Counter[tuple[float, str, int, float]] = Counter()
        for event in batch:
            if type(event) is Traffic:
                counts[event[:4]] += event.requests
        encode = msgspec.json.encode
        with self._store.write() as connection:
            stored = _moments(bulk.stored(connection, predictions))
            made = [event for event in batch if type(event) is Prediction]
            some = SHORT if len(made) < HURRY else BATCH
            for place in range(0, len(made), some):
                if place:
                    time.sleep(REST)
                bulk.insert(connection, predictions, LOGGED, _rows(made[place : place + some], stored))
            tried = [
                (
                    event.id,
                    event.version,
                    event.role,
                    stored(event.time),
                    event.latency_ms,
                    None if event.output is None else encode(event.output).decode(),
                    event.error,
                )
                for event in batch
                if type(event) is Trial
            ]
            bulk.insert(connection, trials, TRIED, tried)
            if counts:
                add_traffic(connection, counts)


def _rows(made: Sequence[Prediction], stored: Callable[[float], Any]) -> list[tuple[Any, ...]]:
    return [
        (
            event.id,
            stored(event.time),
            event.version,
            "http",
            event.latency_ms,
            event.row.decode(),
            event.output.decode(),
        )
        for event in made
    ]


def _moments(stored: Callable[[datetime], Any]) -> Callable[[float], Any]:
    """Return what turns seconds since 1970 into what a database stores, in milliseconds: those are soon known."""
    known: dict[int, Any] = {}

    def moment(time: float) -> Any:
        thousandths = int(time * 1e3 + 0.5)
        found = known.get(thousandths)
        if found is None:
            found = known[thousandths] = stored(datetime.fromtimestamp(thousandths / 1e3, UTC))
        return found

    return moment


def add_traffic(connection: Connection, counts: Counter[tuple[float, str, int, float]]) -> None:
    """Add request counts, keyed by (minute as epoch seconds, route, status, bucket), to those stored."""
    stored = _moments(bulk.stored(connection, predictions))
    rows = [
        (stored(minute), *rest, number) for (minute, *rest), number in sorted(counts.items())
    ]  # sorted: no deadlock
    bulk.insert(connection, traffic, ("minute", "route", "status", "bucket", "requests"), rows, adds="requests")


def record(store: Store, action: str, version: str, actor: str, **more: Any) -> None:
    """Write down what happens to a model, before it does.

    Args:
        store: the log.
        action: import, promote, rollback, shadow, canary, withdraw.
        version: the model version.
        actor: who did it: a person, or the service itself.
        more: ``alias``, ``previous`` (the version before), ``reason``, and ``detail`` (plain JSON).
    """
    detail = more.pop("detail", None)
    text = None if detail is None else msgspec.json.encode(detail).decode()
    with store.write() as connection:
        values = {"time": datetime.now(UTC), "action": action, "version": version, "actor": actor, "detail": text}
        connection.execute(model_events.insert().values(values | more))


def upsert(connection: Connection, table: Table) -> Any:
    """Return an INSERT for ``table`` that can say what to do on conflict, in the database's own dialect."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
