"""Let requests in or refuse them. This is on the path of every request: it looks things up and asks nobody."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from time import time

import structlog

from ...errors import ProjectError
from ...settings import Settings
from ...store import keys
from ...store.database import Store
from ..answers import Answer, Headers, Scope
from . import origins
from .callers import FORBIDDEN, INVALID, MISSING, WRONG, Caller, granted, too_fast, unauthorized
from .exposure import host_names, loopback
from .rates import Bucket, bucket
from .tokens import Tokens

Sent = tuple[bytes | None, bytes | None]  # the headers Authorization and X-API-Key

MOST = 10_000  # headers that are remembered between two refreshes

log = structlog.get_logger(__name__)


class Guard:
    """Knows who may call.

    The keys in force are in memory by their SHA-256. To look one up takes a time that depends on the hash of what was
    sent, which nobody can steer towards a known one: unlike a comparison with the key itself it tells nothing. Headers
    that were good are remembered until the next `refresh`, which saves that hash; Python finds them by a hash of its
    own that has a random secret in each process, and compares only what has all 64 bits of it in common.

    While no key was ever made and there is no issuer, everybody on this machine may call. Beyond loopback, and before
    the store was read, nobody may; and once a key was there, one is needed until the end of the process.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        """Make a guard that lets nobody in before `refresh`.

        Raises:
            ProjectError: ``serving.issuer`` is set, and what it needs is not there.
        """
        serving = settings.serving
        self._store, self._origins = store, serving.cors_origins
        self._named, self._other = origins.shared(settings)
        self._answers_to = origins.answers_to(host_names(serving))
        self._tokens = Tokens(serving) if serving.issuer else None
        self._callers: Mapping[bytes, Caller] = {}
        self._recent: dict[Sent, Caller] = {}
        self._buckets: dict[str, Bucket] = {}
        self._always = bool(self._tokens) or not loopback(serving.host)
        self._trouble = ""
        self._free = False  # whether there is nothing to check but the host
        self.closed = True  # whether callers need a key
        basic = f'Basic realm="{settings.project.slug}", charset="UTF-8"'.encode()
        self._missing = unauthorized(MISSING, b"Bearer"), unauthorized(MISSING, basic)
        self._wrong = unauthorized(WRONG, INVALID), unauthorized(WRONG, basic)

    def admit(self, method: str, scope: Scope, headers: Mapping[bytes, bytes], page: bool = False) -> str | Answer:
        """Let a request in, or refuse it.

        A page may also be opened with HTTP Basic: any user, the key as password. The API takes no such key, because
        a browser would add it to requests that other sites make.

        Args:
            method: of HTTP.
            scope: what the key must be good for.
            headers: of the request.
            page: whether a page for people is asked for.

        Returns:
            Who sends it, by the name of the key (empty if nobody has to say), or the refusal.
        """
        named = self._answers_to(headers.get(b"host", b""))
        if self._free and named:
            return ""
        if method == "OPTIONS" and (answer := origins.preflight(self._origins, headers)):
            return answer
        if scope == "open":
            return ""
        if not named:
            return origins.WRONG_HOST
        if not self.closed:
            return ""
        recent, sent = self._recent, (headers.get(b"authorization"), headers.get(b"x-api-key"))
        caller = recent.get(sent)
        if caller is None:
            found = self._look_up(sent, page)
            if isinstance(found, Answer):
                return found
            caller = found
            if not page and len(recent) < MOST:  # what is good for a page alone must not open the API
                recent[sent] = caller
        if caller.until <= time():
            return self._wrong[page]
        if scope not in caller.scopes:
            return FORBIDDEN[scope]
        if caller.bucket and (wait := caller.bucket.take()):
            return too_fast(wait)
        return caller.name

    def shared(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Return the headers that any answer to a request carries."""
        return self._named.get(headers.get(b"origin"), self._other)

    def refresh(self) -> None:
        """Read the keys anew; called in a thread, at the start and then every ``serving.follow_seconds``.

        While the store is away the keys stay as they are.
        """
        if self._tokens:
            self._tokens.refresh()
        try:
            known = keys.known(self._store)
        except ProjectError as error:
            if self._trouble != str(error):
                log.error("keys not read", reason=str(error))
            self._trouble, self._recent = str(error), {}
            return
        self._trouble = ""
        now = datetime.now(UTC)
        good = {digest: key for digest, key in known.items() if key.state(now) == "active"}
        self._buckets = {key.id: bucket(key.rate, key.id) for key in good.values() if key.rate}
        self._callers = {bytes.fromhex(digest): self._caller(key) for digest, key in good.items()}
        self._recent = {}  # after the callers: a request that is being looked up writes into the old one
        self._always = self._always or bool(known)
        self.closed = self._always
        self._free = not (self.closed or self._origins)

    def _caller(self, key: keys.Key) -> Caller:
        until = key.expires.timestamp() if key.expires else float("inf")
        return Caller(key.name, granted(key.scopes), until, self._buckets.get(key.id))

    def _look_up(self, sent: Sent, page: bool) -> Caller | Answer:
        key = _key(sent, page)
        if not key:
            return self._missing[page]
        digest = sha256(key).digest()
        if known := self._callers.get(digest):
            return known
        return self._tokens.caller(key, digest) if self._tokens else self._wrong[page]


def _key(sent: Sent, page: bool) -> bytes:
    """Return the key or token that a request brings."""
    authorization, header = sent
    kind, _, key = (authorization or b"").partition(b" ")
    kind = kind.lower()
    if page and kind == b"basic":
        try:
            return base64.b64decode(key).partition(b":")[2]
        except ValueError:
            return b""
    return (header or (key if kind == b"bearer" else b"")).strip()  # a gateway may need Authorization for itself
