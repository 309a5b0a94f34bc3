"""What a route is asked and what it answers; every refusal is a problem document (RFC 9457)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Generator, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import BinaryIO, Literal, NamedTuple

import msgspec

from .. import validation
from ..telemetry.traces import Trace

JSON = b"application/json"
PROBLEM = b"application/problem+json"
LIMIT = 100  # problems listed at most

Scope = Literal["open", "predict", "read", "admin"]
Headers = tuple[tuple[bytes, bytes], ...]
SAFE: Headers = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
CLOSED = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
OWN = (
    b"default-src 'self'; img-src 'self' data:; script-src 'self'; object-src 'none'; base-uri 'none'; "
    b"form-action 'self'; frame-ancestors 'none'"
)
API: Headers = (
    *SAFE,
    (b"content-security-policy", CLOSED),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),  # no other site's page can load it as an image or a script
)
PAGE: Headers = (*SAFE, (b"content-security-policy", OWN))


class Call(msgspec.Struct, gc=False):
    """A request.

    Attributes:
        method: as HTTP names it; a HEAD comes here as it is, to the handler of GET.
        body: whole and without compression, or empty if ``upload`` has it.
        headers: by lower-case name; of several with one name the last.
        query: what stands behind the question mark.
        started: `time.perf_counter` at its last byte.
        parts: the named parts of the address, where the route has such.
        upload: a body that is too large for memory, as an open file that ends with the request.
        sender: who sends it, by the name of the key; empty if nobody has to say.
        trace: its trace, if it is sampled.
    """

    method: str
    body: bytes
    headers: Mapping[bytes, bytes]
    query: bytes
    started: float
    parts: Mapping[str, str] = {}
    upload: BinaryIO | None = None
    sender: str = ""
    trace: Trace | None = None

    def kind(self) -> bytes:
        """Return the type of the body, without parameters; none at all is taken for JSON."""
        named = self.headers.get(b"content-type", JSON)
        return named if named == JSON else named.partition(b";")[0].strip().lower()


class Answer(msgspec.Struct, gc=False):
    """A complete response, or the start of one whose ``stream`` follows ``body``; a thread reads that."""

    status: int
    body: bytes
    kind: bytes = JSON
    headers: Headers = API
    stream: Iterator[bytes] | None = None


class Coming:
    """An answer that is made together with those to other requests, before the loop waits for more of them.

    Args:
        settle: makes them.
    """

    __slots__ = ("_work", "answer", "settle")

    def __init__(self, settle: Callable[[], None]) -> None:
        self.settle = settle
        self.answer: Answer | None = None
        self._work: Callable[[Answer], object] | None = None

    def give(self, answer: Answer) -> None:
        """Be answered."""
        self.answer = answer
        if self._work:
            self._work(answer)

    def then(self, work: Callable[[Answer], object]) -> None:
        """Have something done with the answer as soon as it is there, after what was asked for before."""
        if self.answer:
            work(self.answer)
        elif first := self._work:
            self._work = lambda answer: (first(answer), work(answer))
        else:
            self._work = work

    def __await__(self) -> Generator[None, None, Answer]:
        """Return the answer; who waits here does not wait for others."""
        return self._ready().__await__()

    async def _ready(self) -> Answer:
        if self.answer is None:
            self.settle()
        assert self.answer
        return self.answer


class Refused(Exception):
    """Raised by a handler with the answer to give, which is its only argument."""


Handler = Callable[[Call], Answer | Awaitable[Answer]]
Form = Callable[[Answer], Answer]  # from a problem document to the refusal of a protocol


class Route(NamedTuple):
    """What answers a method at an address, and what a key must be good for to be let in.

    ``uploads`` are the types of bodies that may be larger than ``serving.max_body_mb``: such a one comes as a file.
    ``page`` says that people open it in a browser, which can send a key only as a password.
    ``form`` turns a problem document into the refusal of a protocol that has its own.
    """

    handle: Handler
    scope: Scope = "read"
    uploads: Collection[bytes] = ()
    page: bool = False
    form: Form | None = None


Routes = dict[tuple[str, str], Route]  # by method and path, which may have named parts: /v2/models/{model}


def problem(
    status: int, code: str, detail: str, errors: Sequence[validation.Problem] = (), headers: Headers = ()
) -> Answer:
    """Make a problem document.

    ``code`` is a stable name for programs. ``detail`` is one sentence for people: what is wrong, what to do; it repeats
    no input. ``errors`` say which field of which row is wrong.
    """
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": [
            {"row": error.row, "field": error.column, "rule": error.rule, "expected": error.expected}
            for error in errors[:LIMIT]
        ],
    }
    return Answer(status, msgspec.json.encode(document), PROBLEM, (*API, *headers))


def formed(answer: Answer, form: Form | None) -> Answer:
    """Return an answer in the form of a route's protocol."""
    return form(answer) if form and answer.kind is PROBLEM else answer


def wrong_method(method: str, known: Collection[str]) -> Answer:
    """Answer which methods an address knows: HEAD wherever GET is, and OPTIONS everywhere."""
    allowed = {*known, "OPTIONS"} | ({"HEAD"} if "GET" in known else set())
    allow = ((b"allow", ", ".join(sorted(allowed)).encode()),)
    if method == "OPTIONS":
        return Answer(204, b"", headers=(*API, *allow))
    return problem(405, "method", "this address does not know that method: see Allow", headers=allow)


AGAIN = ((b"retry-after", b"1"),)
BUSY = problem(503, "busy", "the service has more work than it can hold: send the request again later", headers=AGAIN)
NOWHERE = problem(404, "not-found", "there is nothing at this address: GET /openapi.json lists what there is")
NO_CHAMPION = problem(503, "no-champion", "no model is being served: GET /health/ready says why and what to do")
FAILED = problem(500, "internal", "the service failed on this request: its log says why")
