"""``GET /health/live`` and ``GET /health/ready``, for probes: no key is asked."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from ..predictor import State

OPEN: dict[str, Any] = {"security": []}


def router(state: State) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/health", tags=["health"])

    @routes.get("/live", operation_id="live", summary="The process answers", openapi_extra=OPEN)
    async def live() -> dict[str, bool]:
        return {"live": True}

    unready: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready: `reason` says why and what to do"}}

    @routes.get(
        "/ready", operation_id="ready", summary="Predictions can be made", responses=unready, openapi_extra=OPEN
    )
    async def ready(response: Response) -> dict[str, bool | str | None]:
        model = state.model
        response.status_code = 200 if model else 503
        reason = state.trouble
        if model and reason:
            reason = f"version {model.version} goes on, because the new champion is not usable: {reason}"
        return {"ready": model is not None, "model_version": model.version if model else None, "reason": reason}

    return routes
