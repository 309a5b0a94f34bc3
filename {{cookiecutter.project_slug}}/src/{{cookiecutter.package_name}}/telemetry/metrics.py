"""Prometheus metrics: each is defined here once."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

REQUESTS = Counter("http_requests_total", "Requests answered.", ("route", "status"))
DURATION = Histogram(
    "http_request_duration_seconds",
    "Time from the request's last byte to the response.",
    ("route",),
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
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


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format, added up over the workers of this machine."""
    if DIRECTORY not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
