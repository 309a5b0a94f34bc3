"""``GET /v1/model``: what is in service."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Response

from ..predictor import ALIAS, State
from ..problems import documented, no_champion, response


def router(state: State) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["model"])

    @routes.get("/v1/model", operation_id="model", summary="The model in service", responses=documented(503))
    async def model() -> Response:
        served = state.model
        if served is None:
            return response(no_champion())
        document = {
            "version": served.version,
            "alias": ALIAS,
            "runtime": served.bundle.manifest["runtime"],
            "imported_at": served.bundle.provenance["imported_at"],
            "metrics": served.bundle.metrics,
            "signature": served.signature.to_json(),
        }
        return Response(msgspec.json.encode(document), media_type="application/json")

    return routes
