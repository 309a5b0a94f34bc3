"""Traces by OpenTelemetry, made by hand and only of what is sampled: an automatic one costs three times a prediction.

The standard variables decide: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``..._TRACES_ENDPOINT``) turns traces on,
``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG`` say how many, ``OTEL_SERVICE_NAME`` and
``OTEL_RESOURCE_ATTRIBUTES`` what they are called. A caller's ``traceparent`` (https://www.w3.org/TR/trace-context/)
is gone on with, and decides whether to sample unless the sampler is one that asks no parent.
"""

from __future__ import annotations

import atexit
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from ..errors import ProjectError
from ..settings import Settings

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
SHARES = {"always_on": 1.0, "always_off": 0.0}
MOST = 512  # spans that are sent at once

Attributes = Mapping[str, str | int | float | bool]


class Trace:
    """What is known of one request or run while it goes on: a mark at the end of each stage."""

    __slots__ = ("_marks", "_parent", "_started", "_tracer", "attributes")

    def __init__(self, tracer: Tracer, parent: tuple[int, int] | None) -> None:
        self._tracer, self._parent = tracer, parent
        self._started = time.time_ns()
        self._marks: list[tuple[str, int]] = []
        self.attributes: dict[str, str | int | float | bool] = {}

    def mark(self, stage: str) -> None:
        """Say that a stage ends now; it began when the one before ended."""
        self._marks.append((stage, time.time_ns()))

    def end(self, name: str, failed: bool = False) -> None:
        """Hand the trace over to be sent, off the path of the request."""
        begun, stages = self._started, list[tuple[str, int, int, Attributes]]()
        for stage, ended in self._marks:
            stages.append((stage, begun, ended, {}))
            begun = ended
        now = time.time_ns()
        self._tracer.record(name, self._started, now, self.attributes, stages, failed, self._parent, server=True)


class Ended(NamedTuple):
    """A request or run that is over: what its spans are made of when they are sent."""

    context: Any  # of the span of all
    parent: Any
    name: str
    started: int
    ended: int
    attributes: Attributes
    stages: Sequence[tuple[str, int, int, Attributes]]
    failed: bool
    server: bool


class Tracer:
    """Makes traces, if the environment asks for them.

    Raises:
        ProjectError: it does, and the extra that sends them is not installed, or a variable is not understood.
    """

    def __init__(self, settings: Settings) -> None:
        self.on = any(os.environ.get(name) for name in ENDPOINTS) and not (
            os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
            or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none"
        )
        if not self.on:
            return
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import ReadableSpan
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        except ImportError:
            raise ProjectError(
                "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, which the extra traces sends: install it"
            ) from None
        self._share, self._asks_parent = _sampling()
        self._api = trace
        own = {"service.name": settings.project.slug} if "OTEL_SERVICE_NAME" not in os.environ else {}
        # Spans are made when they are sent, many at a time: each where it begins and ends costs several times as much.
        alike: dict[str, Any] = {"resource": Resource.create(own)}
        alike["instrumentation_scope"] = InstrumentationScope(__name__)
        self._span: Callable[..., Any] = partial(ReadableSpan, **alike)
        self._ids, self._flags = RandomIdGenerator(), trace.TraceFlags(trace.TraceFlags.SAMPLED)
        self._exporter: Any = OTLPSpanExporter()
        self._sender = cast(Any, BatchSpanProcessor(cast(Any, self)))  # it asks an item for its context alone
        atexit.register(self._sender.shutdown)

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace | None:
        """Begin the trace of a request, if it is one that is sampled."""
        parent = None
        sent = headers.get(b"traceparent")
        if sent and (found := PARENT.fullmatch(sent)):
            parent = int(found[1], 16), int(found[2], 16)
            if self._asks_parent:
                return Trace(self, parent) if int(found[3], 16) & 1 else None
        return Trace(self, parent) if random.random() < self._share else None

    def record(
        self,
        name: str,
        started: int,
        ended: int,
        attributes: Attributes,
        stages: Sequence[tuple[str, int, int, Attributes]],
        failed: bool,
        parent: tuple[int, int] | None = None,
        server: bool = False,
    ) -> None:
        """Have a span sent, and one below it for each stage, of times in nanoseconds since 1970."""
        context, flags = self._api.SpanContext, self._flags
        above = context(*parent, is_remote=True, trace_flags=flags) if parent else None
        trace = parent[0] if parent else self._ids.generate_trace_id()
        own = context(trace, self._ids.generate_span_id(), False, flags)
        self._sender.on_end(Ended(own, above, name, started, ended, attributes, stages, failed, server))

    def export(self, batch: Sequence[Ended]) -> None:
        """Send what is over; the thread of OpenTelemetry's processor calls this."""
        spans = [span for one in batch for span in self._spans(one)]
        for first in range(0, len(spans), MOST):
            self._exporter.export(spans[first : first + MOST])

    def shutdown(self) -> None:
        """Send no more; the processor calls this when all is sent."""
        self._exporter.shutdown()

    def _spans(self, one: Ended) -> Iterator[Any]:
        api = self._api
        for stage, begun, over, attributes in one.stages:
            own = api.SpanContext(one.context.trace_id, self._ids.generate_span_id(), False, self._flags)
            yield self._span(stage, own, one.context, attributes=attributes, start_time=begun, end_time=over)
        yield self._span(
            one.name,
            one.context,
            one.parent,
            attributes=one.attributes,
            start_time=one.started,
            end_time=one.ended,
            kind=api.SpanKind.SERVER if one.server else api.SpanKind.INTERNAL,
            status=api.Status(api.StatusCode.ERROR if one.failed else api.StatusCode.UNSET),
        )

    def close(self) -> None:
        """Send what is left."""
        if self.on:
            atexit.unregister(self._sender.shutdown)
            self._sender.shutdown()


def _sampling() -> tuple[float, bool]:
    """Return the share of requests to sample, and whether a parent decides instead."""
    name = os.environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    asks, sampler = name.startswith("parentbased_"), name.removeprefix("parentbased_")
    if sampler in SHARES:
        return SHARES[sampler], asks
    given = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1")
    try:
        share = float(given)
    except ValueError:
        share = -1.0
    if sampler != "traceidratio" or not 0 <= share <= 1:
        raise ProjectError(
            "OTEL_TRACES_SAMPLER must be always_on, always_off or traceidratio, each also with parentbased_ before it;"
            " OTEL_TRACES_SAMPLER_ARG is the share, from 0 to 1"
        )
    return share, asks
