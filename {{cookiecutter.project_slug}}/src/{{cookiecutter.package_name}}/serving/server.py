"""The server: uvicorn, which answers short requests to known routes where it parses them.

A request that goes through ASGI costs a task, a scope and four messages, more than the prediction itself. So a
request whose length is announced and small is collected here and handed to the same routes, past the same guard; all
others (uploads, packed bodies, pages, what has to wait for a thread) take the general way of `app.Service`. A test
holds that both ways give the same answers.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .answers import API, BUSY, Answer, Call, Coming, Headers, Route, formed, problem
from .app import Service

SHORT = 262_144  # bytes of a body that is collected here
LONG = {b"transfer-encoding", b"content-encoding", b"upgrade"}  # with one of these a request is none
HEAD = 65_536  # bytes of the request line and the headers: the parser itself has no limit
NEVER = 86_400  # seconds
LINGER = 1.0  # seconds for a caller to read a refusal while still sending
LATE, AT_ONCE = 0.1, 500  # seconds that the loop comes round late; connections then taken in beside its own one
LOOK = 1.0  # seconds between looks for silent connections, which is how exact their limits are

LENGTHY = problem(431, "headers", "the address and the headers are too long: send less than 64 kB of them")
UNREADABLE = problem(
    400, "malformed", "this is no HTTP request that can be read: look at its first line and its headers"
)
TWO_HOSTS = problem(400, "host", "the request has several headers Host: send one")
SLOW = problem(408, "timeout", "the request did not arrive in time: send it again")
STATUS = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class Configuration(uvicorn.Config):
    """What uvicorn is told, and the socket where callers wait."""

    listener: socket.socket | None = None


def configuration(app: Any, listener: socket.socket | None = None, **more: Any) -> Configuration:
    """Return how the server runs a service (or the name of what makes one)."""
    made = Configuration(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=20,  # seconds for requests in flight
        timeout_keep_alive=NEVER,  # `_look` ends silent connections
        **more,
    )
    made.listener = listener if sys.platform != "win32" else None
    return made


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.service = cast(Service, self.config.loaded_app)
        self._limit = min(SHORT, int(self.service.settings.serving.max_body_mb * 1e6))
        self._short: tuple[str, Route] | None = None
        self._names: dict[bytes, bytes] = {}
        self._sender: str | Answer = ""
        self._coming: Coming | None = None  # the answer to the request before the one that is read
        self._body: list[bytes] = []
        self._heard = 0.0
        self._head = 0  # bytes that came while the headers were not whole
        self._headed = False  # whether they are
        self._begun: float | None = None  # when the request that is not whole yet began
        self._general = False  # whether that goes the general way
        self._watch: Any = None
        self._closing = False
        self._over = False  # whether what still comes is thrown away
        self._patience = self.service.settings.serving.wait_seconds
        self._beside = False  # whether it was taken in beside another, and takes in nobody itself
        self._surplus = False  # whether this connection is one more than the service holds

    def connection_made(self, transport: Any) -> None:
        """Start to watch the connection."""
        super().connection_made(transport)
        self._surplus = self._full()
        self._heard = self.loop.time()
        self._watch = self.loop.call_later(LOOK, self._look)
        if not self._beside and self.service.late > LATE:
            self._accept()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to watch it."""
        super().connection_lost(exc)
        self._watch.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse, up to a limit of what has to be parsed at once."""
        if self._over:
            return
        self._heard = self.loop.time()
        if not self._headed:
            self._head += len(data)
            if self._head > HEAD + len(data):
                self._end(LENGTHY)
                return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._end(UNREADABLE)

    def on_message_begin(self) -> None:
        """Begin a request, when the one before is answered."""
        if self._coming:
            self._coming.settle()
        super().on_message_begin()
        self._begun = self._heard

    def on_headers_complete(self) -> None:
        """Decide which way the request goes."""
        if self._over:
            return
        self._headed = True
        self._surplus = self._surplus and self._full()  # those that came before go on
        if self._surplus:
            self._end(BUSY)
            return
        if self._head > HEAD and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD:
            self._end(LENGTHY)  # they came whole, perhaps with a body that does not count
            return
        names = dict(self.headers)
        if len(names) < len(self.headers) and [name for name, _ in self.headers].count(b"host") > 1:
            self._end(TWO_HOSTS)
            return
        path, _, _ = self.url.partition(b"?")
        known = self.service.short.get((self.parser.get_method(), path))
        if (
            known is None
            or self.expect_100_continue
            or (self.cycle and not self.cycle.response_complete)
            or int(names.get(b"content-length", 0)) > self._limit
            or not LONG.isdisjoint(names)
        ):
            self._general = True
            super().on_headers_complete()
            return
        route = known[1]
        self._sender = self.service.guard.admit(self.parser.get_method().decode(), route.scope, names, route.page)
        self._short, self._names = known, names
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body."""
        if self._short:
            self._body.append(body)
        elif not self._over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer, if the request is a short one."""
        if self._over:
            return
        self._begun, self._head, self._headed, self._general = None, 0, False, False
        if self._short is None:
            super().on_message_complete()
            return
        (path, route), self._short = self._short, None
        started = time.perf_counter()
        if isinstance(self._sender, Answer):
            answer: Any = self._sender
        elif route.scope == "predict" and started - self.service.turned > self._patience / 2:
            answer = BUSY  # the loop has not come round since, and when it came in the round before is not known
        else:
            query = self.url.partition(b"?")[2]
            method = self.parser.get_method().decode()
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            answer = self.service.respond(
                path, route, Call(method, body, self._names, query, started, {}, None, self._sender)
            )
        if isinstance(answer, Coming):
            self._coming = answer
            answer.then(partial(self._finish, path, route, started, self._lasting()))
        elif isinstance(answer, Answer) and answer.stream is None:
            self._finish(path, route, started, self._lasting(), answer)
        else:
            self._later(path, route, answer, started)

    def _lasting(self) -> bool:
        """Say whether the caller wants to send another request after the one that has just come to its end."""
        return bool(self.parser.should_keep_alive()) and self.parser.get_http_version() == "1.1"

    def _finish(self, path: str, route: Route, started: float, lasting: bool, answer: Answer) -> None:
        """Send an answer, if there is still a caller."""
        self._coming, answer = None, formed(answer, route.form)
        if not self.transport.is_closing():
            self._write(answer, self.service.shared(self._names), lasting and not self._closing)
        self.service.count(path, answer.status, time.perf_counter() - started)

    def _later(self, path: str, route: Route, answer: Any, started: float) -> None:
        """Let ASGI send an answer that is not ready yet, or comes piece by piece."""
        app, self.app = self.app, self.service.finishing(path, route, answer, self._names, started)
        super().on_headers_complete()
        self.app = app
        super().on_message_complete()

    def _end(self, answer: Answer) -> None:
        """Answer, and close the connection; where an answer has begun or another has to come before, only that."""
        if self._over:
            return
        if self._coming:
            self._coming.settle()
        self._over = self._closing = True
        if self._unanswered():
            path = (self.url or b"").partition(b"?")[0].decode("latin-1")  # none before the first line is there
            self._write(formed(answer, self.service.form(path)), (), lasting=False)
        else:
            self.transport.close()

    def _part(self) -> None:
        """Close the connection; in the middle of a request only after a while, in which the caller reads the answer.

        What has come and is not read when a connection closes resets it, and may take the answer with it (RFC 9112,
        section 9.6).
        """
        if not self._over:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._watch.cancel()
        self._watch = self.loop.call_later(LINGER, self.transport.close)

    def _unanswered(self) -> bool:
        """Say whether the next answer to be sent is the one to the request that is being read."""
        cycle: Any = self.cycle
        if self._general:
            return cycle.more_body and not cycle.response_started and not self.pipeline
        return cycle is None or bool(cycle.response_complete)

    def _write(self, answer: Answer, shared: Headers, lasting: bool) -> None:
        common = COMMON if answer.headers is API else _lines(answer.headers)
        dated = self.server_state.default_headers  # another list each second
        if dated is not self.service.dated[0]:
            self.service.dated = dated, _lines(dated)
        named = (STATUS[answer.status], answer.kind, len(answer.body), self.service.dated[1])
        last = b"\r\n" if lasting else b"connection: close\r\n\r\n"
        parts = (b"%scontent-type: %s\r\ncontent-length: %d\r\n%s" % named, common, _lines(shared), last, answer.body)
        self.transport.write(b"".join(parts))
        self.server_state.total_requests += 1
        if not lasting:
            self._part()

    def _full(self) -> bool:
        return len(self.connections) > self.service.settings.serving.max_connections

    def _accept(self) -> None:
        """Take in others who wait: uvloop takes in one a turn, and with long turns they would wait for minutes.

        With short ones they are left to other workers, among whom they are then spread.
        """
        listener = cast(Configuration, self.config).listener
        if listener is None:
            return
        with suppress(OSError):  # nobody waits, there are too many open files, or the service ends
            for _ in range(AT_ONCE):
                task = self.loop.create_task(self._take(listener.accept()[0]))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def _take(self, accepted: socket.socket) -> None:
        def another() -> Protocol:
            made = Protocol(self.config, self.server_state, self.app_state)
            made._beside = True
            return made

        accepted.setblocking(False)
        with suppress(OSError):  # the caller has gone, or TLS cannot be agreed on
            await self.loop.connect_accepted_socket(another, accepted, ssl=self.config.ssl)

    def shutdown(self) -> None:
        """End once the request at hand is answered."""
        if self._coming:
            self._coming.settle()
        if self._short is None:
            super().shutdown()
        else:
            self._closing = True

    def pause_writing(self) -> None:
        """Read no more requests from a caller who does not read the answers."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        super().resume_writing()
        self.transport.resume_reading()

    def _look(self) -> None:
        """Close the connection if nothing happens on it, or a request does not come to its end."""
        if self.transport.is_closing() or self._over:
            return
        now, settings = self.loop.time(), self.service.settings.serving
        waits = self.cycle is None or self.cycle.response_complete
        if self._begun is not None and waits and now - self._begun > settings.body_seconds:
            self._end(SLOW)
        elif self._begun is None and waits and now - self._heard > settings.idle_seconds:
            self.transport.close()
        else:
            self._watch = self.loop.call_later(LOOK, self._look)


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%s: %s\r\n" % header for header in headers])


COMMON = _lines(API)
