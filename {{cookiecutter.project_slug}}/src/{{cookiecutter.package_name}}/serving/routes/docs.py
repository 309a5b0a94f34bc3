"""``GET /openapi.json`` and ``GET /docs``: the API page, with every file served from here."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from ..predictor import State

STATIC = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "favicon.png": "image/png"}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API</title>
<link rel="stylesheet" href="/docs/static/swagger-ui.css">
<link rel="icon" href="/docs/static/favicon.png">
</head>
<body>
<div id="api"></div>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
"""


def router(state: State) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/openapi.json")
    async def openapi(request: Request) -> dict[str, Any]:
        return request.app.openapi()  # type: ignore[no-any-return]

    @routes.get("/docs")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    @routes.get("/docs/start.js")
    async def start() -> Response:
        return Response(START, media_type="text/javascript")

    @routes.get("/docs/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404)
        content = (files("fastapi_offline") / "static" / name).read_bytes()
        return Response(content, media_type=STATIC[name], headers={"Cache-Control": "max-age=3600"})

    return routes
