"""The application: every request passes here; routes are answered here, the pages for people by FastAPI."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import structlog

from ..settings import Settings
from ..store.events import Request
from ..telemetry.metrics import DURATION, REQUESTS
from . import openapi, routes
from .answers import FAILED, PAGE, Answer, Call, Handler, Headers, Refused, problem, wrong_method
from .security import Guard
from .state import State

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEAD_START = 0.3  # seconds for the first predictions, before the imports of the pages slow them down
LOGGED = "/v1/"  # the log keeps the traffic of the API; the metrics keep all
SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

log = structlog.get_logger(__name__)


class Service:
    """The ASGI application. Its start loads the champion, its end flushes the log.

    Args:
        settings: of the project; `ProjectError` says that the store cannot be used.
        pages: names of modules with pages; imported once predictions can be made, because that is slow.
    """

    def __init__(self, settings: Settings, pages: Sequence[str] = ()) -> None:
        self._state, self._modules = State(settings), pages
        self._routes: dict[str, dict[str, Handler]] = {}
        self._routes["/openapi.json"] = {"GET": lambda _: openapi.answer(self._state, self._routes)}
        for item in pkgutil.iter_modules(routes.__path__):
            module = importlib.import_module(f"{routes.__name__}.{item.name}")
            for (method, path), handler in module.handlers(self._state).items():
                self._routes.setdefault(path, {})[method] = handler
        self._guard = Guard(settings)
        self._limit = int(settings.serving.max_body_mb * 1e6)
        self._meters: dict[tuple[str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection as ASGI says."""
        if scope["type"] != "http":
            await self._live(receive, send)
            return
        path, headers, started = scope["path"], dict(scope["headers"]), time.perf_counter()
        methods = self._routes.get(path)
        answer = self._guard.refuse(scope["method"], path, headers)
        if answer is None:
            if methods is None:
                await self._page(scope, receive, send, _echoed(headers))
                return
            body = await self._body(receive, headers)
            if body is None:
                return  # the caller is gone
            started = time.perf_counter()
            answer = body if isinstance(body, Answer) else await _answer(methods, scope, headers, body)
        kind, size = (b"content-type", answer.kind), (b"content-length", b"%d" % len(answer.body))
        sent = [kind, size, *answer.headers, *_echoed(headers)]
        await send({"type": "http.response.start", "status": answer.status, "headers": sent})
        await send({"type": "http.response.body", "body": answer.body})  # the server leaves it out of a HEAD
        self._count(path if methods else "refused", answer.status, time.perf_counter() - started)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start with the server and end with it."""
        await receive()
        async with self._state.running():
            self._pages = asyncio.create_task(self._late())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self._pages.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _late(self) -> App:
        await asyncio.sleep(HEAD_START)
        pages = await asyncio.to_thread(importlib.import_module, ".pages", __package__)
        app: App = await asyncio.to_thread(pages.application, self._state.settings, self._modules)
        return app

    async def _body(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes | Answer | None:
        """Read the body within the limit; None if the caller left."""
        announced, size, more = int(headers.get(b"content-length", 0)), 0, True
        pieces: list[bytes] = []
        while more and max(size, announced) <= self._limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            size, more = size + len(pieces[-1]), message.get("more_body", False)
        if max(size, announced) > self._limit:
            detail = f"the body is larger than {self._limit / 1e6:g} MB: send fewer rows at a time"
            return problem(413, "too-large", detail)
        return b"".join(pieces)

    async def _page(self, scope: Message, receive: Receive, send: Send, echoed: Headers) -> None:
        """Let FastAPI answer; a HEAD is a GET whose body the server leaves out."""
        started, status = time.perf_counter(), 500
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                added = [header for header in PAGE if header[0] not in present]
                message["headers"] = [*message["headers"], *added, *echoed]
            await send(message)

        try:
            pages = await asyncio.shield(self._pages)
            await pages(inner, receive, sending)
        except Exception:  # FastAPI has answered 500 by now
            log.exception("request failed", path=scope["path"])
        self._count(getattr(inner.get("route"), "path", "unknown"), status, time.perf_counter() - started)

    def _count(self, route: str, status: int, seconds: float) -> None:
        """Count the request, with labels that are bound once."""
        meter = self._meters.get((route, status))
        if meter is None:
            meter = REQUESTS.labels(route, str(status)).inc, DURATION.labels(route).observe
            self._meters[route, status] = meter
        meter[0]()
        meter[1](seconds)
        if route.startswith(LOGGED):
            self._state.events.append(Request(time.time(), route, status, seconds))


async def _answer(
    methods: Mapping[str, Handler], scope: Message, headers: Mapping[bytes, bytes], body: bytes
) -> Answer:
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    if method not in methods:
        return wrong_method(method, ", ".join(sorted(methods)))
    try:
        answer = methods[method](Call(body, headers, scope["query_string"], time.perf_counter()))
        return answer if isinstance(answer, Answer) else await answer
    except Refused as refusal:
        refused: Answer = refusal.args[0]
        return refused
    except Exception:
        log.exception("request failed", path=scope["path"])
        return FAILED


def _echoed(headers: Mapping[bytes, bytes]) -> Headers:
    """Return the caller's X-Request-ID as a header to echo, if it is safe text."""
    value = headers.get(b"x-request-id")
    return ((b"x-request-id", value),) if value and SAFE_ID.fullmatch(value) else ()
