"""``GET /metrics``: for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from ...telemetry.metrics import exposition
from ..predictor import State
from ..problems import documented


def router(state: State) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["health"])

    @routes.get(
        "/metrics",
        operation_id="metrics",
        summary="Metrics of all workers",
        response_class=PlainTextResponse,
        responses=documented(),
    )
    def metrics() -> Response:
        return Response(exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
