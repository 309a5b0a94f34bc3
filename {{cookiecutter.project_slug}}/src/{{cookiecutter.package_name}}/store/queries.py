"""Readings of the log: what the dashboard, the monitoring and the documents ask."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl
from sqlalchemy import BigInteger, Select, cast, extract, func, select

from ..signature import Column, Signature
from .database import Store
from .tables import checks, feedback, model_events, predictions, quarantine, runs, traffic

DTYPES = {"number": pl.Float64, "integer": pl.Int64, "boolean": pl.Boolean, "string": pl.String, "datetime": pl.String}

Row = dict[str, Any]


class Counts(NamedTuple):
    """How much the log holds."""

    predictions: int
    feedback: int
    runs: int
    last_prediction: datetime | None


def counts(store: Store) -> Counts:
    """Count what the log holds."""
    with store.read() as connection:
        made, last = connection.execute(select(func.count(), func.max(predictions.c.time))).one()
        returned = connection.execute(select(func.count()).select_from(feedback)).scalar_one()
        ran = connection.execute(select(func.count()).select_from(runs)).scalar_one()
    return Counts(made, returned, ran, last)


def traffic_series(store: Store, since: datetime, until: datetime) -> list[Row]:
    """Return requests by minute, route, status and latency bucket, oldest first."""
    query = select(traffic).where(traffic.c.minute >= since, traffic.c.minute < until).order_by(traffic.c.minute)
    return _rows(store, query)


def traffic_bins(store: Store, since: datetime, until: datetime, seconds: int) -> list[Row]:
    """Return the API's requests added up by time bin, status and latency bucket, oldest first.

    Args:
        store: the log.
        since: of the first minute.
        until: after the last minute.
        seconds: width of a bin; ``start`` of each row is its first second since the epoch.
    """
    epoch = cast(extract("epoch", traffic.c.minute), BigInteger)
    requests = cast(func.sum(traffic.c.requests), BigInteger).label("requests")
    query = (
        select((epoch - epoch % seconds).label("start"), traffic.c.status, traffic.c.bucket, requests)
        .where(traffic.c.minute >= since, traffic.c.minute < until, traffic.c.route.like("/v1/%"))
        .group_by("start", traffic.c.status, traffic.c.bucket)
        .order_by("start")
    )
    return _rows(store, query)


def latency_quantiles(series: Sequence[Row], shares: Sequence[float] = (0.5, 0.99)) -> dict[float, float] | None:
    """Estimate latency quantiles in seconds: the upper bound of the bucket that holds each; None without requests."""
    histogram: Counter[float] = Counter()
    for row in series:
        histogram[row["bucket"]] += row["requests"]
    total = histogram.total()
    if not total:
        return None
    result = {}
    for share in shares:
        seen = 0
        for bound in sorted(histogram):
            seen += histogram[bound]
            if seen >= share * total:
                result[share] = bound
                break
    return result


def recent_runs(store: Store, limit: int = 20) -> list[Row]:
    """Return the newest batch runs, newest first, each with its quarantine counts under ``reasons``."""
    found = _rows(store, select(runs).order_by(runs.c.started.desc()).limit(limit))
    reasons = _rows(store, select(quarantine).where(quarantine.c.run_id.in_([run["id"] for run in found])))
    for run in found:
        run["reasons"] = {row["reason"]: row["rows"] for row in reasons if row["run_id"] == run["id"]}
    return found


def recent_events(store: Store, limit: int = 20) -> list[Row]:
    """Return what happened to the models, newest first."""
    return _rows(store, select(model_events).order_by(model_events.c.id.desc()).limit(limit))


def latest_checks(store: Store, kind: str | None = None) -> list[Row]:
    """Return the newest result of each check (of one kind, or of all), with ``detail`` decoded."""
    newest = select(func.max(checks.c.id)).group_by(checks.c.kind, checks.c.subject)
    query = select(checks).where(checks.c.id.in_(newest)).order_by(checks.c.kind, checks.c.id)
    if kind:
        query = query.where(checks.c.kind == kind)
    return [row | {"detail": json.loads(row["detail"])} for row in _rows(store, query)]


def predictions_frame(
    store: Store, signature: Signature, version: str, since: datetime | None = None, limit: int = 100_000
) -> pl.DataFrame:
    """Return predictions of one model version as a table, newest first.

    Args:
        store: the log.
        signature: of that version; its inputs and outputs become typed columns.
        version: the model version.
        since: only newer ones.
        limit: at most so many; of more every k-th by time and source row, so that all of the time is seen alike.

    Returns:
        Columns ``id``, ``time``, ``source``, ``latency_ms``, ``actual`` (JSON text or null), then inputs and outputs.
    """
    wanted = predictions.c.model_version == version
    if since is not None:
        wanted &= predictions.c.time >= since
    order = (predictions.c.time.desc(), predictions.c.row, predictions.c.id)
    columns = (predictions.c[name] for name in ("id", "time", "source", "latency_ms", "inputs", "output"))
    query = (
        select(*columns, feedback.c.actual)
        .join(feedback, feedback.c.prediction_id == predictions.c.id, isouter=True)
        .order_by(*order)
        .limit(limit)
    )
    with store.read() as connection:
        every = -(-connection.execute(select(func.count()).where(wanted)).scalar_one() // limit)
    if every > 1:
        place = func.row_number().over(order_by=order).label("place")
        numbered = select(predictions.c.id, place).where(wanted).subquery()
        query = query.join(numbered, numbered.c.id == predictions.c.id).where(numbered.c.place % every == 0)
    else:
        query = query.where(wanted)
    with store.read() as connection:
        found = connection.execute(query).all()
    frame = pl.DataFrame(
        [tuple(row) for row in found],
        schema={
            "id": pl.String,
            "time": pl.Datetime("us", "UTC"),
            "source": pl.String,
            "latency_ms": pl.Float64,
            "inputs": pl.String,
            "output": pl.String,
            "actual": pl.String,
        },
        orient="row",
    )
    return frame.select(
        "id",
        "time",
        "source",
        "latency_ms",
        "actual",
        *_unpack("inputs", signature.inputs),
        *_unpack("output", signature.outputs),
    )


def known_predictions(store: Store, ids: Sequence[str]) -> set[str]:
    """Return those of the ids that the log holds."""
    found: set[str] = set()
    with store.read() as connection:
        for start in range(0, len(ids), 500):
            query = select(predictions.c.id).where(predictions.c.id.in_(ids[start : start + 500]))
            found.update(connection.execute(query).scalars())
    return found


def _unpack(text: str, columns: Sequence[Column]) -> list[pl.Expr]:
    struct = pl.Struct({column.name: DTYPES[column.type] for column in columns})
    decoded = pl.col(text).str.json_decode(struct)
    return [
        decoded.struct.field(column.name)
        .str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
        .alias(column.name)
        if column.type == "datetime"
        else decoded.struct.field(column.name)
        for column in columns
    ]


def _rows(store: Store, query: Select[Any]) -> list[Row]:
    with store.read() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
