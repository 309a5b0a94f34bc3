"""Pages of the log of predictions, oldest first, as who reads all of it wants them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import or_, select

from .database import Store
from .tables import feedback, predictions

FIELDS = ("id", "time", "model_version", "source", "latency_ms", "inputs", "output")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which predictions: from ``since`` on and before ``until``; of a version, source (http, batch) or run.

    ``after`` is the time and the id of the last one of the page before.
    """

    since: datetime | None = None
    until: datetime | None = None
    version: str = ""
    source: str = ""
    run: str = ""
    after: tuple[datetime, str] | None = None


class Logged(NamedTuple):
    """A prediction of the log; ``inputs``, ``output`` and ``actual`` are JSON texts, the last None without feedback."""

    id: str
    time: datetime
    model_version: str
    source: str
    latency_ms: float | None
    inputs: str
    output: str
    actual: str | None


def page(store: Store, wanted: Wanted, limit: int) -> list[Logged]:
    """Return at most ``limit`` predictions in the order of time and id.

    Raises:
        ProjectError: the store cannot be read.
    """
    made = predictions.c
    query: Any = select(*(made[name] for name in FIELDS), feedback.c.actual).join(
        feedback, feedback.c.prediction_id == made.id, isouter=True
    )
    for column, value in (
        (made.model_version, wanted.version),
        (made.source, wanted.source),
        (made.run_id, wanted.run),
    ):
        query = query.where(column == value) if value else query
    if wanted.since:
        query = query.where(made.time >= wanted.since)
    if wanted.until:
        query = query.where(made.time < wanted.until)
    if wanted.after:
        time, identity = wanted.after
        query = query.where(made.time >= time, or_(made.time > time, made.id > identity))
    with store.read() as connection:
        return [Logged(*row) for row in connection.execute(query.order_by(made.time, made.id).limit(limit))]
