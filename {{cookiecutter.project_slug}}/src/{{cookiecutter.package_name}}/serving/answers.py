"""What a route is asked and what it answers; every refusal is a problem document (RFC 9457)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

import msgspec

from .. import validation

JSON = b"application/json"
PROBLEM = b"application/problem+json"
LIMIT = 100  # problems listed at most

Headers = tuple[tuple[bytes, bytes], ...]
SAFE: Headers = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
NOTHING = b"default-src 'none'; frame-ancestors 'none'"
OWN = (
    b"default-src 'self'; img-src 'self' data:; script-src 'self'; object-src 'none'; base-uri 'none'; "
    b"form-action 'self'; frame-ancestors 'none'"
)
API: Headers = (*SAFE, (b"content-security-policy", NOTHING), (b"cache-control", b"no-store"))
PAGE: Headers = (*SAFE, (b"content-security-policy", OWN))


class Call(msgspec.Struct, gc=False):
    """A request. ``started`` is `time.perf_counter` at its last byte."""

    body: bytes
    headers: Mapping[bytes, bytes]
    query: bytes
    started: float


class Answer(msgspec.Struct, gc=False):
    """A complete response."""

    status: int
    body: bytes
    kind: bytes = JSON
    headers: Headers = API


class Refused(Exception):
    """Raised by a handler with the answer to give, which is its only argument."""


Handler = Callable[[Call], Answer | Awaitable[Answer]]
Handlers = dict[tuple[str, str], Handler]  # by method and path


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


def wrong_method(method: str, allowed: str) -> Answer:
    """Answer which methods an address knows."""
    allow = ((b"allow", allowed.encode()),)
    if method == "OPTIONS":
        return Answer(204, b"", headers=(*API, *allow))
    return problem(405, "method", "this address does not know that method: see Allow", headers=allow)


NO_CHAMPION = problem(503, "no-champion", "no model is being served: GET /health/ready says why and what to do")
FAILED = problem(500, "internal", "the service failed on this request: its log says why")
