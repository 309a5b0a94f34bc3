"""The tables of the log. Change them together with a migration: a test holds the two equal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Dialect, Float, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.types import TypeDecorator

metadata = MetaData()
ID_LENGTH = 64  # characters of a prediction's id at most


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC on every database; SQLite alone would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn any aware time into UTC before it is stored."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give back an aware time."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


predictions = Table(
    "predictions",
    metadata,
    Column("id", String(ID_LENGTH), primary_key=True),
    Column("time", UtcTime, nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("source", String(8), nullable=False),  # http or batch
    Column("run_id", String(32)),
    Column("row", BigInteger),  # the row of the source file, from 1
    Column("latency_ms", Float),
    Column("inputs", Text, nullable=False),  # JSON, as the signature says
    Column("output", Text, nullable=False),  # JSON
    Index("predictions_by_time", "time"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("prediction_id", String(ID_LENGTH), primary_key=True),
    Column("time", UtcTime, nullable=False),
    Column("actual", Text, nullable=False),  # JSON
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("key", String(64), nullable=False),  # hash of input and model version
    Column("status", String(16), nullable=False),  # running, succeeded, failed
    Column("started", UtcTime, nullable=False),
    Column("finished", UtcTime),
    Column("input", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("rows_in", BigInteger, nullable=False, default=0),
    Column("rows_published", BigInteger, nullable=False, default=0),
    Column("rows_quarantined", BigInteger, nullable=False, default=0),
    Column("seconds", Float),
    Column("error", Text),
    Column("steps", Text),  # JSON: what each step did, see pipeline/records.py
    Column("asked", UtcTime),  # when it was asked for last, if that was not when it started
    Index("runs_by_start", "started"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("run_id", String(32), primary_key=True),
    Column("reason", String(255), primary_key=True),
    Column("rows", BigInteger, nullable=False),
)

model_events = Table(
    "model_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", UtcTime, nullable=False),
    Column("action", String(16), nullable=False),  # import, promote, ...
    Column("alias", String(32)),
    Column("version", String(32), nullable=False),
    Column("previous", String(32)),
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("detail", Text),  # JSON: what the gates measured, or the evidence of a rollback
)

# What another version said, or failed to say, to a request that the champion answered.
trials = Table(
    "trials",
    metadata,
    Column("prediction_id", String(ID_LENGTH), primary_key=True),
    Column("model_version", String(32), primary_key=True),
    Column("role", String(8), nullable=False),  # shadow or canary
    Column("time", UtcTime, nullable=False),
    Column("latency_ms", Float),
    Column("output", Text),  # JSON; none if it failed
    Column("error", Text),
    Index("trials_by_version", "model_version", "time"),
)

# Requests by minute, route, status and latency bucket: all that charts need, whatever the traffic.
traffic = Table(
    "traffic",
    metadata,
    Column("minute", UtcTime, primary_key=True),
    Column("route", String(64), primary_key=True),
    Column("status", Integer, primary_key=True),
    Column("bucket", Float, primary_key=True),  # upper bound of the latency, in seconds
    Column("requests", BigInteger, nullable=False),
)

checks = Table(
    "checks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", UtcTime, nullable=False),
    Column("kind", String(16), nullable=False),  # drift, quality, performance
    Column("subject", String(255), nullable=False),  # a column or a metric
    Column("value", Float),
    Column("state", String(16), nullable=False),  # ok, warning, alert, unknown
    Column("detail", Text, nullable=False),  # JSON
    Index("checks_by_kind", "kind", "time"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(8), primary_key=True),  # stands in the key itself, and is no secret
    Column("name", String(100), nullable=False),
    Column("hash", String(64), nullable=False),  # SHA-256 of the whole key, hex
    Column("scopes", String(64), nullable=False),  # with spaces between them
    Column("rate", Float),  # requests a second; none if it is not limited
    Column("created", UtcTime, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("expires", UtcTime),
    Column("revoked", UtcTime),
)
