"""Readings of the log: what the dashboard, the monitoring and the documents ask."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, cast, extract, func, or_, select

from ..errors import ProjectError
from .database import Store
from .tables import ID_LENGTH, checks, feedback, model_events, predictions, quarantine, runs, traffic, trials

LATEST = "latest"

Row = dict[str, Any]


class NoRun(ProjectError):
    """No batch run, or not only one, is what was asked for."""


class Counts(NamedTuple):
    """How much the log holds."""

    predictions: int
    feedback: int
    runs: int
    last_prediction: datetime | None


def counts(store: Store) -> Counts:
    """Count what the log holds."""
    with store.read() as connection:
        made = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
        last = connection.execute(select(func.max(predictions.c.time))).scalar_one()  # alone, it asks the index
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


class Batches(NamedTuple):
    """All batch runs of the log.

    Attributes:
        runs: how many there are, by status.
        published: rows of those that succeeded.
        quarantined: likewise.
        ended: when the last one ended, whatever came of it.
        failed: whether that one failed.
        succeeded: the last one that succeeded, with ``steps`` decoded.
    """

    runs: dict[str, int]
    published: int
    quarantined: int
    ended: datetime | None
    failed: bool
    succeeded: Row | None


def batches(store: Store) -> Batches:
    """Return what the log has of batch runs, all together."""
    total = (func.coalesce(func.sum(runs.c[f"rows_{name}"]), 0) for name in ("published", "quarantined"))
    done = runs.c.status == "succeeded"
    last = select(runs.c.finished, runs.c.status).where(runs.c.finished.is_not(None)).order_by(runs.c.finished.desc())
    newest = _rows(store, select(runs).where(done).order_by(runs.c.finished.desc()).limit(1))
    by_status = select(runs.c.status, func.count()).group_by(runs.c.status)
    with store.read() as connection:
        states = {status: count for status, count in connection.execute(by_status)}
        published, quarantined = connection.execute(select(*total).where(done)).one()
        ended, status = connection.execute(last.limit(1)).one_or_none() or (None, "")
    succeeded = {**newest[0], "steps": json.loads(newest[0]["steps"] or "{}")} if newest else None
    return Batches(states, int(published), int(quarantined), ended, status == "failed", succeeded)


def recent_runs(store: Store, limit: int = 20) -> list[Row]:
    """Return the newest batch runs, newest first, each with its quarantine counts under ``reasons``.

    What their steps did is left to `find_run`.
    """
    columns = [column for column in runs.c if column is not runs.c.steps]
    found = _rows(store, select(*columns).order_by(runs.c.started.desc()).limit(limit))
    return _with_reasons(store, found)


def find_run(store: Store, reference: str) -> Row:
    """Return the batch run of an id, of its first characters, or the ``latest`` that was asked for, with ``reasons``.

    ``steps`` is what its steps did (see `pipeline.records.told`), empty if it did not end or ran before they were
    recorded.

    Raises:
        NoRun: there is none, or several begin so.
    """
    query = select(runs).order_by(func.coalesce(runs.c.asked, runs.c.started).desc())
    if reference != LATEST:
        query = query.where(runs.c.id.startswith(reference, autoescape=True))
    found = _rows(store, query.limit(1 if reference == LATEST else 2))
    if not found or not reference:
        raise NoRun(f"the log has no batch run {reference}: `pipeline status` lists those it has")
    if len(found) > 1:
        raise NoRun(f"several batch runs begin with {reference}: give more of the id")
    (run,) = _with_reasons(store, found)
    return run | {"steps": json.loads(run["steps"] or "{}")}


def _with_reasons(store: Store, found: list[Row]) -> list[Row]:
    reasons = _rows(store, select(quarantine).where(quarantine.c.run_id.in_([run["id"] for run in found])))
    for run in found:
        run["reasons"] = {row["reason"]: row["rows"] for row in reasons if row["run_id"] == run["id"]}
    return found


def recent_events(store: Store, limit: int = 20, actions: Sequence[str] = ()) -> list[Row]:
    """Return what happened to the models (or only these actions), newest first, with ``detail`` decoded."""
    query = select(model_events).order_by(model_events.c.id.desc()).limit(limit)
    found = _rows(store, query.where(model_events.c.action.in_(actions)) if actions else query)
    return [row | {"detail": json.loads(row["detail"] or "{}")} for row in found]


def answering_versions(store: Store, since: datetime) -> dict[str, int]:
    """Return the model versions that answered since then, each with its predictions, the most active first."""
    number = func.count()
    query = select(predictions.c.model_version, number).where(predictions.c.time >= since)
    with store.read() as connection:
        found = connection.execute(query.group_by(predictions.c.model_version).order_by(number.desc())).all()
    return {version: count for version, count in found}


def latest_checks(store: Store, kind: str | None = None) -> list[Row]:
    """Return the newest result of each check (of one kind, or of all), with ``detail`` decoded."""
    newest = select(func.max(checks.c.id)).group_by(checks.c.kind, checks.c.subject)
    query = select(checks).where(checks.c.id.in_(newest)).order_by(checks.c.kind, checks.c.id)
    if kind:
        query = query.where(checks.c.kind == kind)
    return [row | {"detail": json.loads(row["detail"])} for row in _rows(store, query)]


def request_latencies(
    store: Store, version: str, since: datetime, until: datetime, limit: int
) -> tuple[list[float], datetime]:
    """Return the latencies (ms) of the requests that a version answered over HTTP, newest first.

    Args:
        store: the log.
        version: the model version.
        since: not before.
        until: before.
        limit: at most so many of the newest.

    Returns:
        One latency a request, whatever its number of rows; and since when they are complete.
    """
    first = or_(predictions.c.id.not_like("%-%"), predictions.c.id.like("%-0"))  # see `Predictor.predict`
    query = (
        select(predictions.c.latency_ms, predictions.c.time)
        .where(_answered(version, since, until), first)
        .order_by(predictions.c.time.desc())
        .limit(limit)
    )
    with store.read() as connection:
        found = connection.execute(query).all()
    return [row[0] for row in found], found[-1][1] if len(found) == limit else since


def failed_trials(store: Store, version: str, role: str, since: datetime, until: datetime) -> int:
    """Count the requests that a shadow or a canary failed on."""
    query = select(func.count()).where(
        trials.c.model_version == version,
        trials.c.time >= since,
        trials.c.time < until,
        trials.c.role == role,
        trials.c.error.is_not(None),
    )
    with store.read() as connection:
        return connection.execute(query).scalar_one()


def failed_requests(store: Store, route: str, since: datetime, until: datetime) -> int:
    """Count the requests that ended with status 500 on a route, by whole minutes."""
    query = select(func.coalesce(func.sum(traffic.c.requests), 0)).where(
        traffic.c.minute >= since.replace(second=0, microsecond=0),
        traffic.c.minute < until,
        traffic.c.route == route,
        traffic.c.status == 500,
    )
    with store.read() as connection:
        return int(connection.execute(query).scalar_one())


def outcomes(
    store: Store, version: str, since: datetime, until: datetime, limit: int, depth: int = 100_000
) -> list[tuple[str, str]]:
    """Return what a version predicted over HTTP and what really happened, newest first, both as JSON text.

    Args:
        store: the log.
        version: the model version.
        since: no prediction before.
        until: no prediction and no feedback from then on.
        limit: at most so many.
        depth: among so many of the newest predictions.
    """
    newest = (
        select(predictions.c.id, predictions.c.time, predictions.c.output)
        .where(_answered(version, since, until))
        .order_by(predictions.c.time.desc())
        .limit(depth)
        .subquery()
    )
    query = (
        select(newest.c.output, feedback.c.actual)
        .join(feedback, feedback.c.prediction_id == newest.c.id)
        .where(feedback.c.time < until)
        .order_by(newest.c.time.desc())
        .limit(limit)
    )
    with store.read() as connection:
        return [(output, actual) for output, actual in connection.execute(query)]


def _answered(version: str, since: datetime, until: datetime) -> ColumnElement[bool]:
    made = predictions.c
    return (made.model_version == version) & (made.source == "http") & (made.time >= since) & (made.time < until)


def known_predictions(store: Store, ids: Iterable[str]) -> set[str]:
    """Return those of the ids that the log holds; an id may be any text that somebody sent."""
    found: set[str] = set()
    ids = [identity for identity in ids if len(identity) <= ID_LENGTH and identity.isprintable()]
    with store.read() as connection:
        for start in range(0, len(ids), 500):
            query = select(predictions.c.id).where(predictions.c.id.in_(ids[start : start + 500]))
            found.update(connection.execute(query).scalars())
    return found


def _rows(store: Store, query: Select[Any]) -> list[Row]:
    with store.read() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
