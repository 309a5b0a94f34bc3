"""The pages for people, by FastAPI."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..settings import Settings
from .answers import FAILED, NOWHERE, Answer, problem, wrong_method

log = structlog.get_logger(__name__)


def application(settings: Settings, modules: Sequence[str]) -> FastAPI:
    """Make the application of modules that each have a ``router(settings)``; one that fails is left out."""
    handlers: Any = {HTTPException: _refused, Exception: lambda *_: _response(FAILED)}
    nothing: dict[str, Any] = dict.fromkeys(("docs_url", "redoc_url", "openapi_url"))
    app = FastAPI(**nothing, exception_handlers=handlers, redirect_slashes=False)  # it would name host and scheme
    for name in modules:
        try:
            app.include_router(importlib.import_module(name).router(settings))
        except Exception:  # predictions and the other pages go on
            log.exception("a page cannot be served", page=name)
    gc.collect()
    gc.freeze()  # what is loaded by now stays; collections that look at it again cost up to 0.1 s a time
    return app


async def _refused(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        return _response(wrong_method(request.method, (error.headers or {}).get("Allow", "GET").split(", ")))
    if error.status_code == 404:
        return _response(NOWHERE)
    return _response(problem(error.status_code, "refused", str(error.detail)))


def _response(answer: Answer) -> Response:
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, answer.kind.decode())
