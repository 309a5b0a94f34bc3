"""Who calls, and how those are refused who may not."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from ...store.keys import SCOPES
from ..answers import Answer, problem
from .rates import Bucket


class Caller(NamedTuple):
    """Somebody whose key or token is good.

    Attributes:
        name: of the key, or the subject of the token.
        scopes: all that is open to it.
        until: Unix time in seconds, when it ends.
        bucket: how fast it may call, if that is limited.
    """

    name: str
    scopes: frozenset[str]
    until: float = math.inf
    bucket: Bucket | None = None


def granted(scopes: Collection[str]) -> frozenset[str]:
    """Return all scopes that some scopes stand for: ``admin`` is all, and what is none counts nothing."""
    return frozenset(SCOPES) if "admin" in scopes else frozenset(scopes).intersection(SCOPES)


def unauthorized(detail: str, challenge: bytes) -> Answer:
    """Answer that nobody is known by what a request brings (RFC 9110, 15.5.2)."""
    return problem(401, "unauthorized", detail, headers=((b"www-authenticate", challenge),))


def too_fast(wait: float) -> Answer:
    """Answer that the caller has to wait for some seconds."""
    after = b"%d" % math.ceil(wait)
    detail = "this key sends more requests a second than it may: wait as Retry-After says, in seconds"
    return problem(429, "rate", detail, headers=((b"retry-after", after),))


INVALID = b'Bearer error="invalid_token"'  # RFC 6750, section 3
MISSING = "this service wants a key: send it as Authorization: Bearer KEY or as X-API-Key"
WRONG = "the key is unknown, or it has ended: use another, sent as Authorization: Bearer KEY or as X-API-Key"
FORBIDDEN = {
    scope: problem(
        403,
        "forbidden",
        f"the key is not good for this: it needs the scope {scope}",
        headers=((b"www-authenticate", b'Bearer error="insufficient_scope", scope="%s"' % scope.encode()),),
    )
    for scope in SCOPES
}
