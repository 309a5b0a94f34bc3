"""Put the service together: routes found in their folder, pages given by the caller."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..settings import Settings
from . import routes
from .hot import Handlers, Service, failed
from .predictor import Model, State
from .problems import SCHEMA, problem, response

log = structlog.get_logger(__name__)


def create(
    settings: Settings, pages: Sequence[APIRouter] = (), late: Callable[[], Sequence[APIRouter]] = tuple
) -> Service:
    """Make the ASGI application.

    Each module in `routes` may offer ``router(state)``, ``hot(state)`` (handlers by method and path,
    dispatched before FastAPI) and ``describe(state, document)`` (adds hot routes to the OpenAPI document).

    Args:
        settings: of the project.
        pages: routers for people; they do not appear in OpenAPI.
        late: gives more pages; it is called once predictions can be made, because their imports are slow.

    Returns:
        The application; its start loads the champion, its end flushes the log.

    Raises:
        ProjectError: the store cannot be used.
    """
    state = State(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with state.running():
            service.late = asyncio.create_task(add_late())
            yield
            await service.late

    app = FastAPI(
        title=settings.project.title,
        description=settings.project.description,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers={HTTPException: _refused, RequestValidationError: _unfit, Exception: _failed},
    )

    def add(more: Callable[[], Sequence[APIRouter]]) -> None:
        for page in more():
            app.include_router(page, include_in_schema=False)

    async def add_late() -> None:
        try:
            await asyncio.to_thread(add, late)
        except Exception:  # the predictions go on
            log.exception("a page cannot be served")

    add(lambda: pages)
    found = [
        importlib.import_module(f"{routes.__name__}.{item.name}") for item in pkgutil.iter_modules(routes.__path__)
    ]
    handlers: Handlers = {}
    for module in found:
        if hasattr(module, "router"):
            app.include_router(module.router(state))
        if hasattr(module, "hot"):
            handlers |= module.hot(state)
    app.openapi = _openapi(app, state, found)  # type: ignore[method-assign]
    service = Service(app, handlers, settings, state.events)
    return service


def _openapi(app: FastAPI, state: State, modules: Sequence[ModuleType]) -> Callable[[], dict[str, Any]]:
    """Return the function that gives the OpenAPI document, made anew when the champion changes."""
    made: list[tuple[Model | None, dict[str, Any]]] = []

    def openapi() -> dict[str, Any]:
        model = state.model
        if not made or made[0][0] is not model:
            version = model.version if model else "no model"
            document = get_openapi(title=app.title, version=version, description=app.description, routes=app.routes)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = SCHEMA
            for module in modules:
                if hasattr(module, "describe"):
                    module.describe(state, document)
            if state.settings.serving.key_hashes:
                document["components"]["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                }
                document["security"] = [{"bearer": []}, {"header": []}]
            made[:] = [(model, document)]
        return made[0][1]

    return openapi


async def _refused(request: Request, error: Any) -> Response:
    allowed: dict[str, str] = error.headers or {}
    if error.status_code == 405 and request.method == "OPTIONS":
        return Response(status_code=204, headers=allowed)
    codes = {404: ("not-found", "there is nothing at this address: GET /openapi.json lists what there is")}
    codes[405] = ("method", "this address does not know that method: see Allow")
    code, detail = codes.get(error.status_code, ("refused", str(error.detail)))
    headers = tuple((name.lower().encode(), value.encode()) for name, value in allowed.items())
    return response(problem(error.status_code, code, detail, headers=headers))


async def _unfit(_: Request, error: Any) -> Response:
    places = ", ".join(".".join(str(part) for part in item["loc"][:2]) for item in error.errors()[:10])
    return response(problem(422, "invalid", f"these parameters do not fit: {places}"))


async def _failed(_: Request, __: Exception) -> Response:
    return response(failed())
