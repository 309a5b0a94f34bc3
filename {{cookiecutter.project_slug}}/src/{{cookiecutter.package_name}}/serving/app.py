"""The application: every request passes here; routes are answered here, the pages for people by FastAPI."""

from __future__ import annotations

import asyncio
import gc
import importlib
import pkgutil
import re
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog

from ..errors import ProjectError
from ..settings import Settings
from ..store.events import Traffic
from ..telemetry.metrics import Tally
from ..telemetry.traces import Tracer
from . import body, openapi, routes
from .answers import (
    FAILED,
    NOWHERE,
    PAGE,
    Answer,
    Call,
    Coming,
    Form,
    Headers,
    Refused,
    Route,
    Scope,
    formed,
    wrong_method,
)
from .security import Guard
from .state import State

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

API_PATH = "/v1/"
TURN = 0.05  # seconds between looks at how far the loop is behind
REFUSED = "refused"  # the route of what is no route: an address is anybody's text
SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")

log = structlog.get_logger(__name__)


class Found(NamedTuple):
    """What an address leads to."""

    path: str  # as the route writes it
    methods: Mapping[str, Route]
    parts: Mapping[str, str]


class Service:
    """The ASGI application. Its start loads the champion, its end flushes the log.

    Args:
        settings: of the project; `ProjectError` says that the store cannot be used.
        pages: names of modules with pages; imported when the first is opened: most services open none.

    Attributes:
        short: the routes without named parts, by method and path: `server` answers short requests to them itself.
        turned: `time.perf_counter` when the loop last came round to what is not a request.
        late: seconds by which that was later than it should have been.
        dated: the server's own headers, as it has them and as they are sent.
        count: takes route, status and seconds of a request that is answered.
    """

    def __init__(self, settings: Settings, pages: Sequence[str] = ()) -> None:
        self.settings, self._modules = settings, pages
        self.state = State(settings)
        self._exact: dict[str, Found] = {}
        self._named: list[tuple[re.Pattern[str], Found]] = []
        self._add("GET", "/openapi.json", Route(self._contract, page=True))
        for item in pkgutil.iter_modules(routes.__path__):
            module = importlib.import_module(f"{routes.__name__}.{item.name}")
            for (method, path), route in module.routes(self.state).items():
                self._add(method, path, route)
        self.short = {
            (method.encode(), path.encode()): (path, route)
            for path, found in self._exact.items()
            for method, route in found.methods.items()
        }
        # The log keeps the traffic of the API and of what predicts in other protocols; the metrics keep all.
        everything = (*self._exact.values(), *(found for _, found in self._named))
        predicts = {found.path for found in everything for one in found.methods.values() if one.scope == "predict"}
        self._logged = predicts | {found.path for found in everything if found.path.startswith(API_PATH)}
        self._forms = _forms(everything)
        self.guard = Guard(settings, self.state.store)
        self._tracer = Tracer(settings)
        self._pages: asyncio.Task[App] | None = None
        self.turned, self.late = time.perf_counter(), 0.0
        self.dated: tuple[object, bytes] = None, b""
        self._tally = Tally()
        self.count = self._tally.count  # route, status, seconds
        self.state.events.sources.append(self._traffic)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request as ASGI says, or the life of the server."""
        if scope["type"] != "http":
            await self._live(receive, send)
            return
        headers, started = dict(scope["headers"]), time.perf_counter()
        found, method = self._find(scope["path"]), scope["method"]
        route = found and found.methods.get("GET" if method == "HEAD" else method)
        form = self.form(scope["path"])
        if not found and form is None:
            refusal = self.guard.admit(method, "read", headers, page=method in ("GET", "HEAD"))
            if isinstance(refusal, str):
                await self._page(scope, receive, send, self.shared(headers))
                return
            answer: Answer | None = refusal
        else:
            declared = route or (found and next(iter(found.methods.values())))
            needed = declared.scope if declared else "read"
            answer = await self._general(scope, receive, found, route, needed, headers)
        if answer is None:
            return  # the caller is gone
        answer = formed(answer, form)
        await _send(send, answer, (*answer.headers, *self.shared(headers)))
        self.count(found.path if found else REFUSED, answer.status, time.perf_counter() - started)

    async def _general(
        self,
        scope: Message,
        receive: Receive,
        found: Found | None,
        route: Route | None,
        needed: Scope,
        headers: Mapping[bytes, bytes],
    ) -> Answer | None:
        """Answer a request of any length to any route; None if the caller left."""
        method = scope["method"]
        sender = self.guard.admit(method, needed, headers, page=bool(route and route.page))
        if isinstance(sender, Answer):
            return sender
        if found is None:
            return NOWHERE
        if route is None:
            return wrong_method(method, found.methods)
        try:
            large = headers.get(b"content-type", b"").partition(b";")[0].strip().lower() in route.uploads
            content, upload = await body.received(receive, headers, self.settings.serving, large)
        except Refused as refusal:
            refused: Answer = refusal.args[0]
            return refused
        if content is None:
            return None
        query, started = scope["query_string"], time.perf_counter()
        answer = self.respond(
            found.path, route, Call(method, content, headers, query, started, found.parts, upload, sender)
        )
        return answer if isinstance(answer, Answer) else await answer

    def respond(self, path: str, route: Route, call: Call) -> Answer | Awaitable[Answer]:
        """Answer a request that was let in; whatever the handler raises becomes an answer too."""
        if self._tracer.on:
            call.trace = self._tracer.begin(call.headers)
        try:
            answer = route.handle(call)
        except Refused as refusal:
            answer = refusal.args[0]
        except Exception:
            log.exception("request failed", path=path)
            answer = FAILED
        if isinstance(answer, Coming):
            if call.trace:
                answer.then(partial(_traced, path, call))
            return answer
        if not isinstance(answer, Answer):
            return _awaited(path, call, answer)
        if call.trace:
            _traced(path, call, answer)
        return answer

    def finishing(
        self,
        path: str,
        route: Route,
        answer: Answer | Awaitable[Answer],
        headers: Mapping[bytes, bytes],
        started: float,
    ) -> App:
        """Return the ASGI application that sends an answer which is not ready yet, or comes piece by piece."""

        async def finish(scope: Message, receive: Receive, send: Send) -> None:
            ready = formed(answer if isinstance(answer, Answer) else await answer, route.form)
            await _send(send, ready, (*ready.headers, *self.shared(headers)))
            self.count(path, ready.status, time.perf_counter() - started)

        return finish

    def shared(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Return the headers of any answer to a request: what the guard adds, and the caller's X-Request-ID."""
        value = headers.get(b"x-request-id")
        echoed = ((b"x-request-id", value),) if value and SAFE_ID.fullmatch(value) else ()
        return (*self.guard.shared(headers), *echoed)

    def form(self, path: str) -> Form | None:
        """Return in which form a request to an address is refused; None for problem documents."""
        found = self._find(path)
        return next(iter(found.methods.values())).form if found else self._forms.get(_root(path))

    def _traffic(self) -> list[Traffic]:
        """Return the requests since the last time that the log keeps."""
        minute = time.time() // 60 * 60
        return [Traffic(minute, *counted) for counted in self._tally.settle() if counted.route in self._logged]

    def _add(self, method: str, path: str, route: Route) -> None:
        known = [found for _, found in self._named] if "{" in path else self._exact.values()
        found = next((one for one in known if one.path == path), None)
        if found:
            found.methods[method] = route  # type: ignore[index]
            return
        found = Found(path, {method: route}, {})
        if "{" in path:
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
            self._named.append((re.compile(pattern), found))
        else:
            self._exact[path] = found

    def _find(self, path: str) -> Found | None:
        if found := self._exact.get(path):
            return found
        for pattern, found in self._named:
            if match := pattern.fullmatch(path):
                return found._replace(parts=match.groupdict())
        return None

    def _contract(self, call: Call) -> Answer:
        found = (*self._exact.values(), *(found for _, found in self._named))
        known = {(method, one.path): route for one in found for method, route in one.methods.items()}
        return openapi.answer(self.state, known, self.guard.closed)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start with the server and end with it."""
        await receive()
        await asyncio.to_thread(self.guard.refresh)
        self.state.followers.append(self.guard.refresh)
        try:
            async with self.state.running():
                self._drain_first()
                self._turn(asyncio.get_running_loop())
                gc.freeze()  # what is loaded by now stays: no collection needs to look at it again
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except ProjectError as error:  # what runs beside the routes cannot: its port is in use
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await asyncio.to_thread(self._tracer.close)
        await send({"type": "lifespan.shutdown.complete"})

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.perf_counter()
        self.turned, self.late = now, now - self.turned - TURN
        loop.call_later(TURN, self._turn, loop)

    def _drain_first(self) -> None:
        """Say for a while that the service is not ready, before SIGTERM ends it: a load balancer looks elsewhere."""
        if threading.current_thread() is not threading.main_thread():
            return
        ending, loop = signal.getsignal(signal.SIGTERM), asyncio.get_running_loop()

        def drain(number: int, frame: Any) -> None:
            pause = 0.0 if self.state.draining else self.settings.serving.drain_seconds
            self.state.draining = True
            loop.call_soon_threadsafe(loop.call_later, pause, lambda: callable(ending) and ending(number, frame))

        if callable(ending):
            signal.signal(signal.SIGTERM, drain)

    async def _site(self) -> App:
        pages = await asyncio.to_thread(importlib.import_module, ".pages", __package__)
        app: App = await asyncio.to_thread(pages.application, self.settings, self._modules)
        return app

    async def _page(self, scope: Message, receive: Receive, send: Send, shared: Headers) -> None:
        """Let FastAPI answer; a HEAD is a GET whose body the server leaves out."""
        started, status = time.perf_counter(), 500
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                added = [header for header in PAGE if header[0] not in present]
                message["headers"] = [*message["headers"], *added, *shared]
            await send(message)

        try:
            self._pages = self._pages or asyncio.create_task(self._site())
            pages = await asyncio.shield(self._pages)
            await pages(inner, receive, sending)
        except Exception:  # FastAPI has answered 500 by now
            log.exception("request failed", path=scope["path"])
        self.count(getattr(inner.get("route"), "path", "unknown"), status, time.perf_counter() - started)


def _root(path: str) -> str:
    return path[1:].partition("/")[0]


def _forms(everything: Iterable[Found]) -> dict[str, Form | None]:
    """Return in which form an address that leads nowhere is refused: that of all routes with the same first part."""
    used: dict[str, set[Form | None]] = {}
    for found in everything:
        used.setdefault(_root(found.path), set()).update(route.form for route in found.methods.values())
    return {root: forms.pop() for root, forms in used.items() if len(forms) == 1}


async def _awaited(path: str, call: Call, coming: Awaitable[Answer]) -> Answer:
    try:
        answer = await coming
    except Refused as refusal:
        answer = refusal.args[0]
    except Exception:
        log.exception("request failed", path=path)
        answer = FAILED
    if call.trace:
        _traced(path, call, answer)
    return answer


def _traced(path: str, call: Call, answer: Answer) -> None:
    """End the trace of a request, with names from OpenTelemetry's semantic conventions for HTTP."""
    if call.trace:
        told = call.trace.attributes
        told["http.request.method"], told["http.route"] = call.method, path
        told["http.response.status_code"] = answer.status
        call.trace.end(f"{call.method} {path}", failed=answer.status >= 500)


async def _send(send: Send, answer: Answer, headers: Headers) -> None:
    """Send an answer; a stream is read in a thread, a piece at a time."""
    length = () if answer.stream else ((b"content-length", b"%d" % len(answer.body)),)
    sent = [(b"content-type", answer.kind), *length, *headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": sent})
    body: bytes | None = answer.body  # the server leaves it out of a HEAD
    while answer.stream and body is not None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        body = await asyncio.to_thread(next, answer.stream, None)
    await send({"type": "http.response.body", "body": body or b""})
