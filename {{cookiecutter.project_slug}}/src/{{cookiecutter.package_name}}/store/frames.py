"""Readings of the log as typed tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl
from sqlalchemy import func, select

from ..signature import Column, Signature
from .database import Store
from .tables import feedback, predictions, trials

DEPTH = 20  # times as many predictions are looked at as are wanted of one version
DTYPES = {"number": pl.Float64, "integer": pl.Int64, "boolean": pl.Boolean, "string": pl.String, "datetime": pl.String}


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
        *unpacked("inputs", signature.inputs),
        *unpacked("output", signature.outputs),
    )


def latest_predictions(store: Store, signature: Signature, version: str, since: datetime, limit: int) -> pl.DataFrame:
    """Return the outputs that a version gave last, newest first, at a cost that does not grow with the log.

    Args:
        store: the log.
        signature: of that version; its outputs become typed columns.
        version: the model version.
        since: only newer ones.
        limit: at most so many, among `DEPTH` times as many of the newest of all versions.
    """
    made = predictions.c
    newest = select(made.time, made.model_version, made.output).where(made.time >= since)
    newest = newest.order_by(made.time.desc()).limit(limit * DEPTH)
    every = newest.subquery()
    query = select(every.c.output).where(every.c.model_version == version).order_by(every.c.time.desc()).limit(limit)
    with store.read() as connection:
        found = connection.execute(query).scalars().all()
    return pl.DataFrame({"output": found}, schema={"output": pl.String}).select(unpacked("output", signature.outputs))


def trials_frame(
    store: Store, champion: tuple[str, Signature], shadow: tuple[str, Signature], since: datetime, limit: int = 100_000
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return what a shadow said beside what the champion said, newest first.

    Args:
        store: the log.
        champion: its version and signature.
        shadow: likewise.
        since: only newer ones.
        limit: at most so many.

    Returns:
        Three tables, row by row: ``id``, both latencies (``latency_ms``, ``trial_ms``) and the inputs; the champion's
        outputs; the shadow's.
    """
    columns = (predictions.c[name] for name in ("id", "latency_ms", "inputs", "output"))
    query = (
        select(*columns, trials.c.latency_ms.label("trial_ms"), trials.c.output.label("trial"))
        .join(trials, trials.c.prediction_id == predictions.c.id)
        .where(trials.c.model_version == shadow[0], trials.c.time >= since, trials.c.output.is_not(None))
        .where(predictions.c.model_version == champion[0])
        .order_by(trials.c.time.desc())
        .limit(limit)
    )
    kinds = {"latency_ms": pl.Float64, "trial_ms": pl.Float64}
    schema = {
        name: kinds.get(name, pl.String) for name in ("id", "latency_ms", "inputs", "output", "trial_ms", "trial")
    }
    with store.read() as connection:
        found = [tuple(row) for row in connection.execute(query)]
    frame = pl.DataFrame(found, schema=schema, orient="row")
    return (
        frame.select("id", "latency_ms", "trial_ms", *unpacked("inputs", champion[1].inputs)),
        frame.select(unpacked("output", champion[1].outputs)),
        frame.select(unpacked("trial", shadow[1].outputs)),
    )


def unpacked(text: str, columns: Sequence[Column]) -> list[pl.Expr]:
    """Return the expressions that read typed columns out of a column with JSON texts."""
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
