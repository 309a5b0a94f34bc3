"""Prometheus metrics: each is defined here once."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BEYOND = 1e9  # seconds: the upper bound of the bucket of everything slower

REQUESTS = Counter("http_requests_total", "Requests answered.", ("route", "status"))
DURATION = Histogram(
    "http_request_duration_seconds", "Time from the request's last byte to the response.", ("route",), buckets=BUCKETS
)
PREDICTIONS = Counter("predictions_total", "Rows scored.", ("model_version", "source"))
REJECTED = Counter("rejected_rows_total", "Rows refused or quarantined.", ("source",))
RUNS = Counter("pipeline_runs_total", "Batch runs ended.", ("status",))
PIPELINE_STEP_SECONDS = Counter(
    "pipeline_step_seconds_total", "Seconds of all workers of batch runs: ingest, validate, score, publish.", ("step",)
)
PIPELINE_ROWS = Counter("pipeline_rows_total", "Rows of batch runs: published, quarantined.", ("outcome",))
DROPPED = Gauge("events_dropped", "Events that did not reach the log; must stay 0.", multiprocess_mode="livesum")
MODEL = Gauge("model_info", "1 for the version that is served.", ("version",), multiprocess_mode="livemax")
LOAD_FAILURES = Counter("model_load_failures_total", "Attempts to load a version that failed.")
TRIALS = Counter(
    "trials_total", "Requests given to a shadow or a canary: answered, failed, dropped.", ("role", "outcome")
)
WITHDRAWN = Counter("canaries_withdrawn_total", "Canaries that the service withdrew because they were worse.")

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


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format, added up over the workers of this machine."""
    if DIRECTORY not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
