"""Data quality: rows refused, values missing, values outside the range that the model has seen."""

from __future__ import annotations

from datetime import datetime
from math import sqrt
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ..models.bundle import Bundle
from ..settings import Monitoring
from ..store.database import Store
from ..store.tables import quarantine, runs, traffic
from . import Check, judge, too_few

if TYPE_CHECKING:
    import polars as pl

REFUSED = (400, 413, 415, 422)  # the request did not fit; other 4xx are about who asks, or how often
SURE = 3.09  # standard errors; chance exceeds them in one of a thousand windows


def check(store: Store, bundle: Bundle, frame: pl.DataFrame, since: datetime, limits: Monitoring) -> list[Check]:
    """Check the rows that came in since a time.

    Args:
        store: the log.
        bundle: of the champion; its profile says what was missing in the sample.
        frame: its logged rows.
        since: the beginning of the window.
        limits: the settings.

    Returns:
        The shares of quarantined rows and refused requests, then of values missing or out of range by column.
    """
    return [*_refused(store, since, limits), *_columns(bundle, frame, limits)]


def _refused(store: Store, since: datetime, limits: Monitoring) -> list[Check]:
    """Judge batches by their rows and the service by its requests."""
    ended = (runs.c.finished >= since) & (runs.c.status != "running")
    with store.read() as connection:
        totals = connection.execute(select(func.sum(runs.c.rows_in), func.sum(runs.c.rows_quarantined)).where(ended))
        rows, bad = (int(value or 0) for value in totals.one())
        counted = (
            select(quarantine.c.reason, func.sum(quarantine.c.rows))
            .join(runs, runs.c.id == quarantine.c.run_id)
            .where(ended)
            .group_by(quarantine.c.reason)
        )
        reasons = {reason: int(count) for reason, count in connection.execute(counted)}
        asked = (
            select(traffic.c.status, func.sum(traffic.c.requests))
            .where(traffic.c.minute >= since, traffic.c.route.like("%predict%"))
            .group_by(traffic.c.status)
        )
        answers = {status: int(count) for status, count in connection.execute(asked)}
    judged = {status: count for status, count in answers.items() if status < 300 or status in REFUSED}
    refused = {str(status): count for status, count in judged.items() if status in REFUSED}
    return [
        _share("quarantined rows", bad, rows, 0, 0, limits, {"reasons": reasons}, "rows"),
        _share(
            "refused requests",
            sum(refused.values()),
            sum(judged.values()),
            0,
            0,
            limits,
            {"reasons": refused},
            "requests",
        ),
    ]


def _columns(bundle: Bundle, frame: pl.DataFrame, limits: Monitoring) -> list[Check]:
    checks = []
    for column in bundle.signature.inputs:
        known, values = bundle.profile.columns.get(column.name), frame[column.name]
        if column.nullable and known is not None:
            checks.append(
                _share(f"{column.name}: missing", values.null_count(), values.len(), known.missing, known.rows, limits)
            )
        if column.numeric and column.observed:
            low, high = column.observed
            present = values.drop_nulls()
            outside = int(((present < low) | (present > high)).sum())
            # A new value is the smallest or the largest of m + 1 with chance 2 / (m + 1).
            seen = bundle.profile.rows
            checks.append(_share(f"{column.name}: out of range", outside, present.len(), 2, seen + 1, limits))
    return checks


def _share(
    subject: str,
    part: int,
    rows: int,
    part_before: int,
    rows_before: int,
    limits: Monitoring,
    more: dict[str, Any] | None = None,
    of: str = "rows",
) -> Check:
    """Judge a share of rows by how much it has grown since the reference (0 of 0: since none at all)."""
    if rows < limits.minimum_rows:
        return too_few("quality", subject, rows, limits.minimum_rows, of)
    share, before = part / rows, part_before / rows_before if rows_before else 0.0
    pooled = (part + part_before) / (rows + rows_before)
    error = sqrt(pooled * (1 - pooled) * (1 / rows + (1 / rows_before if rows_before else 0)))
    growth = share - before
    state = judge(
        growth, limits.rejected_warning, limits.rejected_alert, proven=not rows_before or growth > SURE * error
    )
    note = f"{share:.1%} of {rows} {of}" + (f", {before:.1%} in the sample" if rows_before else "")
    detail = {"rows": rows, "count": part, "reference": round(before, 6), "note": note, **(more or {})}
    return Check("quality", subject, round(share, 6), state, detail)
