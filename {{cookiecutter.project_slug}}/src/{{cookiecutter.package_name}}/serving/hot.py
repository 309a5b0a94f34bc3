"""The front door: every request passes here; hot routes are answered here, the others go on to FastAPI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, cast

import msgspec
import structlog

from ..settings import Settings
from ..store.events import EventLog, Request
from ..telemetry.metrics import DURATION, REQUESTS
from .problems import JSON, Answer, problem
from .security import API, PAGE, Guard, request_id

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

BODY_SECONDS = 30.0  # a body must be here by then
SYSTEM = ("/health/", "/metrics", "/v1/")  # these never wait for pages
LOGGED = "/v1/"  # the log keeps the traffic of the API; the metrics keep all

log = structlog.get_logger(__name__)


class Call(msgspec.Struct, gc=False):
    """A request of a hot route. ``started`` is `time.perf_counter` at its last byte."""

    body: bytes
    headers: Mapping[bytes, bytes]
    query: bytes
    started: float


Handler = Callable[[Call], Answer | Awaitable[Answer]]
Handlers = dict[tuple[str, str], Handler]


class Service:
    """The ASGI application.

    Args:
        cold: answers what is not hot.
        handlers: the hot routes, by method and path.
        settings: limits and keys.
        events: where traffic is logged.
    """

    def __init__(self, cold: App, handlers: Handlers, settings: Settings, events: EventLog) -> None:
        """Prepare what all requests share."""
        self._cold = cold
        self._handlers = handlers
        self._methods: dict[str, list[str]] = {}
        for method, path in handlers:
            self._methods.setdefault(path, []).append(method)
        self._guard = Guard(settings.serving.key_hashes)
        self._limit = int(settings.serving.max_body_mb * 1e6)
        self._events = events
        self.late: asyncio.Future[None] | None = None  # pages still on their way
        self._meters: dict[tuple[str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection as ASGI says."""
        if scope["type"] != "http":
            await self._cold(scope, receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        answer = self._guard.refuse(path, headers)
        if answer is None and path not in self._methods:
            await self._pass_on(scope, receive, send, headers)
            return
        started = time.perf_counter()
        if answer is None:
            handler = self._handlers.get((scope["method"], path))
            if handler is None:
                answer = self._wrong_method(scope["method"], path)
            else:
                body = await self._body(receive, headers)
                if body is None:
                    return  # the caller is gone
                started = time.perf_counter()
                answer = body if isinstance(body, Answer) else await self._hot(handler, body, headers, scope)
        echoed = request_id(headers)
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", answer.kind),
                    (b"content-length", b"%d" % len(answer.body)),
                    *API,
                    *answer.headers,
                    *echoed,
                ],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
        self._count(path if path in self._methods else "refused", answer.status, time.perf_counter() - started)

    async def _hot(self, handler: Handler, body: bytes, headers: Mapping[bytes, bytes], scope: Message) -> Answer:
        try:
            answer = handler(Call(body, headers, scope["query_string"], time.perf_counter()))
            return answer if isinstance(answer, Answer) else await answer
        except Exception:
            log.exception("request failed", path=scope["path"])
            return failed()

    async def _body(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes | Answer | None:
        """Read the body within the limits; None if the caller left."""
        if int(headers.get(b"content-length", 0)) > self._limit:
            return self._too_large()
        task, begun = cast("asyncio.Task[None]", asyncio.current_task()), time.perf_counter()
        timer = asyncio.get_running_loop().call_later(BODY_SECONDS, task.cancel)  # a tenth of asyncio.timeout's price
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            if message.get("more_body"):
                whole = bytearray(body)
                while message.get("more_body") and len(whole) <= self._limit:
                    message = await receive()
                    whole += message.get("body", b"")
                body = bytes(whole)
        except asyncio.CancelledError:
            if time.perf_counter() - begun < BODY_SECONDS:
                raise
            task.uncancel()
            return problem(408, "timeout", f"the body did not arrive within {BODY_SECONDS:g} seconds: send it again")
        finally:
            timer.cancel()
        if message["type"] == "http.disconnect":
            return None
        return body if len(body) <= self._limit else self._too_large()

    def _too_large(self) -> Answer:
        detail = f"the body is larger than {self._limit / 1e6:g} MB: send fewer rows at a time"
        return problem(413, "too-large", detail)

    def _wrong_method(self, method: str, path: str) -> Answer:
        allow = ((b"allow", ", ".join(sorted(self._methods[path])).encode()),)
        if method == "OPTIONS":
            return Answer(204, b"", headers=allow)
        return problem(405, "method", "this address does not know that method: see Allow", headers=allow)

    async def _pass_on(self, scope: Message, receive: Receive, send: Send, headers: Mapping[bytes, bytes]) -> None:
        """Let FastAPI answer; a HEAD is a GET without its body."""
        started, status, head = time.perf_counter(), 500, scope["method"] == "HEAD"
        scope = {**scope, "method": "GET"} if head else scope

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                added = [header for header in PAGE if header[0] not in present]
                message["headers"] = [*message["headers"], *added, *request_id(headers)]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            if self.late and not self.late.done() and not scope["path"].startswith(SYSTEM):
                await asyncio.shield(self.late)
            await self._cold(scope, receive, sending)
        except Exception:  # FastAPI has answered 500 by now
            log.exception("request failed", path=scope["path"])
        route = scope.get("route")
        self._count(getattr(route, "path", "unknown"), status, time.perf_counter() - started)

    def _count(self, route: str, status: int, seconds: float) -> None:
        """Count the request, with labels that are bound once."""
        meter = self._meters.get((route, status))
        if meter is None:
            meter = REQUESTS.labels(route, str(status)).inc, DURATION.labels(route).observe
            self._meters[route, status] = meter
        meter[0]()
        meter[1](seconds)
        if route.startswith(LOGGED):
            self._events.append(Request(time.time(), route, status, seconds))


def failed() -> Answer:
    """Answer that the fault is ours, and nothing else."""
    return problem(500, "internal", "the service failed on this request: its log says why")


def not_json(call: Call) -> Answer | None:
    """Refuse a body that is not plain JSON by its headers; no content type at all is taken for JSON."""
    kind = call.headers.get(b"content-type", JSON)
    if kind != JSON and kind.partition(b";")[0].strip().lower() != JSON:
        return problem(415, "content-type", "send the body as Content-Type: application/json")
    if call.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return problem(415, "content-encoding", "send the body without compression")
    return None
