"""Prometheus metrics: each is defined here once."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from ..store.queries import Batches

BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BEYOND = 1e9  # seconds: the upper bound of the bucket of everything slower

REQUESTS = Counter("http_requests_total", "Requests answered.", ("route", "status"))
DURATION = Histogram(
    "http_request_duration_seconds", "Time from the request's last byte to the response.", ("route",), buckets=BUCKETS
)
PREDICTIONS = Counter("predictions_total", "Rows scored for requests.", ("model_version", "source"))
REJECTED = Counter("rejected_rows_total", "Rows of requests that were refused.", ("source",))
DROPPED = Gauge("events_dropped", "Events that did not reach the log; must stay 0.", multiprocess_mode="livesum")
BATCHING = Gauge("micro_batching", "1 if requests are scored together.", ("version",), multiprocess_mode="livemax")
MODEL = Gauge("model_info", "1 for the version that is served.", ("version",), multiprocess_mode="livemax")
LOAD_FAILURES = Counter("model_load_failures_total", "Attempts to load a version that failed.")
TRIALS = Counter(
    "trials_total", "Requests given to a shadow or a canary: answered, failed, dropped.", ("role", "outcome")
)
WITHDRAWN = Counter("canaries_withdrawn_total", "Canaries that the service withdrew because they were worse.")

# Of batch runs: read from the log, for the process of a run is gone before anybody asks it.
BATCH = {
    "pipeline_runs": ("Batch runs in the log.", ("status",)),
    "pipeline_rows": ("Rows of all batch runs that succeeded.", ("outcome",)),
    "pipeline_last_end_timestamp_seconds": ("When the last batch run ended.", ()),
    "pipeline_last_failed": ("1 if the batch run that ended last failed.", ()),
    "pipeline_last_success_timestamp_seconds": ("When the last batch run that succeeded ended.", ()),
    "pipeline_run_duration_seconds": ("Of the last batch run that succeeded: how long it took.", ()),
    "pipeline_run_rows": ("Of the same run: rows in, published, quarantined.", ("outcome",)),
    "pipeline_run_memory_bytes": ("Of the same run: the most memory of one process.", ()),
    "pipeline_run_checks": ("Of the same run: checks by the step monitor that warn or alert.", ("state",)),
    "pipeline_step_duration_seconds": ("Of the same run: seconds of all workers together.", ("step",)),
    "pipeline_step_rows": ("Of the same run: rows in, out, rejected.", ("step", "outcome")),
    "pipeline_step_bytes": ("Of the same run: bytes read or written.", ("step",)),
    "pipeline_step_resident_bytes": ("Of the same run: the most memory of one process at the step's end.", ("step",)),
}

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class Counted(NamedTuple):
    """Requests of a route that were answered with a status, in at most so many seconds."""

    route: str
    status: int
    bucket: float
    requests: int


class Tally:
    """Requests, counted where they are answered by two additions, and told to the metrics many at a time.

    One thread counts, and any settles: what is counted only grows, so nothing has to be locked against it.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], list[float]] = {}  # a number for each bucket, and last all seconds
        self._told: dict[tuple[str, int], list[float]] = {}
        self._settling = threading.Lock()

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        counts = self._counts.get((route, status))
        if counts is None:
            counts = self._counts[route, status] = [0.0] * (len(BUCKETS) + 2)
        counts[bisect_left(BUCKETS, seconds)] += 1
        counts[-1] += seconds

    def settle(self) -> list[Counted]:
        """Tell the metrics what came since the last time, and return it."""
        found: list[Counted] = []
        with self._settling:
            for (route, status), counts in list(self._counts.items()):
                now, before = counts.copy(), self._told.get((route, status), [0.0] * len(counts))
                self._told[route, status] = now
                *new, seconds = (one - other for one, other in zip(now, before, strict=True))
                bounds = zip((*BUCKETS, BEYOND), new, strict=True)
                found += [Counted(route, status, bound, int(number)) for bound, number in bounds if number]
                REQUESTS.labels(route, str(status)).inc(sum(new))
                duration = DURATION.labels(route)  # it has no public way to observe many at once
                duration._sum.inc(seconds)
                for bucket, number in zip(duration._buckets, new, strict=True):
                    bucket.inc(number)
        return found


def batches(found: Batches) -> bytes:
    """Return the metrics of batch runs in Prometheus' text format; nothing of what there was not."""
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for name, labels, value in _samples(found):
        if name not in gauges:
            gauges[name] = Gauge(name, *BATCH[name], registry=registry)
        (gauges[name].labels(*labels) if labels else gauges[name]).set(value)
    return generate_latest(registry)


def _samples(found: Batches) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Yield the name, the labels and the value of each."""
    for status, count in sorted(found.runs.items()):
        yield "pipeline_runs", (status,), count
    if found.ended:
        yield "pipeline_last_end_timestamp_seconds", (), found.ended.timestamp()
        yield "pipeline_last_failed", (), found.failed
    if not (run := found.succeeded):
        return
    yield "pipeline_rows", ("published",), found.published
    yield "pipeline_rows", ("quarantined",), found.quarantined
    yield "pipeline_last_success_timestamp_seconds", (), run["finished"].timestamp()
    if run["seconds"] is not None:
        yield "pipeline_run_duration_seconds", (), run["seconds"]
    for outcome in ("in", "published", "quarantined"):
        yield "pipeline_run_rows", (outcome,), run[f"rows_{outcome}"]
    told = run["steps"]
    if "memory_mb" in told:
        yield "pipeline_run_memory_bytes", (), told["memory_mb"] * (1 << 20)
    if "monitor" in told:
        for state in ("warning", "alert"):
            yield "pipeline_run_checks", (state,), [one["state"] for one in told["monitor"]["found"]].count(state)
    for step in told.get("steps", ()):
        name = step["step"]
        yield "pipeline_step_duration_seconds", (name,), step["seconds"]
        for outcome, key in (("in", "rows_in"), ("out", "rows_out"), ("rejected", "rejected")):
            yield "pipeline_step_rows", (name, outcome), step[key]
        if step["bytes"] is not None:
            yield "pipeline_step_bytes", (name,), step["bytes"]
        if step.get("resident_mb"):
            yield "pipeline_step_resident_bytes", (name,), step["resident_mb"] * (1 << 20)


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format, added up over the workers of this machine."""
    if DIRECTORY not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
