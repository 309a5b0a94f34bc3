"""Data quality: rows refused, values missing, values outside the range that the model has seen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import sqrt

import polars as pl
from sqlalchemy import func, select

from ..models.bundle import Bundle
from ..settings import Monitoring
from ..store.database import Store
from ..store.tables import quarantine, runs, traffic
from . import Check, judge, too_few

REFUSED = (400, 413, 415, 422)  # the request did not fit; other 4xx are about who asks, or how often
SURE = 3.09  # standard errors; chance exceeds them in one of a thousand windows


def check(store: Store, bundle: Bundle, frame: pl.DataFrame, since: datetime, limits: Monitoring) -> list[Check]:
    """Judge the batches and requests since a time by what was refused, and the logged rows column by column."""
    return [*_refused(store, since, limits), *columns(bundle, frame, limits)]


def columns(bundle: Bundle, frame: pl.DataFrame, limits: Monitoring) -> list[Check]:
    """Judge typed rows column by column: values missing or out of range more often than in the sample."""
    checks = []
    for column in bundle.signature.inputs:
        known, values = bundle.profile.columns.get(column.name), frame[column.name]
        if column.nullable and known is not None:
            reference = (known.missing, known.rows)
            checks.append(_share(f"{column.name}: missing", values.null_count(), values.len(), limits, reference))
        if column.numeric and column.observed:
            low, high = column.observed
            present = values.drop_nulls()
            outside = int(((present < low) | (present > high)).sum())
            # A new value is the smallest or the largest of m + 1 with chance 2 / (m + 1).
            reference = (2, bundle.profile.rows + 1)
            checks.append(_share(f"{column.name}: out of range", outside, present.len(), limits, reference))
    return checks


def _refused(store: Store, since: datetime, limits: Monitoring) -> list[Check]:
    ended = (runs.c.finished >= since) & (runs.c.status != "running")
    totals = select(func.sum(runs.c.rows_in), func.sum(runs.c.rows_quarantined)).where(ended)
    reason, status = quarantine.c.reason, traffic.c.status
    counted = select(reason, func.sum(quarantine.c.rows)).join(runs, runs.c.id == quarantine.c.run_id).where(ended)
    asked = select(status, func.sum(traffic.c.requests)).where(
        traffic.c.minute >= since, traffic.c.route.like("%predict%"), (status < 300) | status.in_(REFUSED)
    )
    with store.read() as connection:
        rows, bad = (int(value or 0) for value in connection.execute(totals).one())
        reasons = {str(name): int(count) for name, count in connection.execute(counted.group_by(reason))}
        answers = {int(code): int(count) for code, count in connection.execute(asked.group_by(status))}
    refused = {str(code): count for code, count in answers.items() if code in REFUSED}
    service = _share("refused requests", sum(refused.values()), sum(answers.values()), limits, of="requests")
    service.detail["reasons"] = refused
    return [quarantined(bad, rows, reasons, limits), service]


def quarantined(bad: int, rows: int, reasons: Mapping[str, int], limits: Monitoring) -> Check:
    """Judge the share of rows in quarantine, with how many there are for each reason."""
    check = _share("quarantined rows", bad, rows, limits)
    check.detail["reasons"] = dict(reasons)
    return check


def _share(
    subject: str, part: int, rows: int, limits: Monitoring, reference: tuple[int, int] = (0, 0), of: str = "rows"
) -> Check:
    """Judge a share of rows by how much it has grown since the reference, also (part, rows); (0, 0): since none."""
    if rows < limits.minimum_rows:
        return too_few("quality", subject, rows, limits.minimum_rows, of)
    part_before, rows_before = reference
    share, before, proven = part / rows, 0.0, True
    note = f"{share:.1%} of {rows} {of}"
    if rows_before:
        before, pooled = part_before / rows_before, (part + part_before) / (rows + rows_before)
        proven = share - before > SURE * sqrt(pooled * (1 - pooled) * (1 / rows + 1 / rows_before))
        note += f", {before:.1%} in the sample"
    state = judge(share - before, limits.rejected_warning, limits.rejected_alert, proven)
    detail = {"rows": rows, "count": part, "reference": round(before, 6), "note": note}
    return Check("quality", subject, round(share, 6), state, detail)
