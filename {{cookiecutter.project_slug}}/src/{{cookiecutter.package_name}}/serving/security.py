"""Who may call, from where, and the headers that protect a browser: the same for hot and cold routes."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping, Sequence

from ..errors import ProjectError
from ..settings import Settings
from .problems import Answer, Headers, problem

OPEN = "/health/"  # probes carry no keys
SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_COMMON: Headers = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
API: Headers = (
    *_COMMON,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
PAGE: Headers = (
    *_COMMON,
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; object-src 'none'; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)


class Guard:
    """Holds a request's key against the stored hashes; without hashes everything passes.

    Args:
        hashes: SHA-256 of the keys, hex.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        """Keep the hashes."""
        self._hashes = tuple(hashes)

    def refuse(self, path: str, headers: Mapping[bytes, bytes]) -> Answer | None:
        """Return the refusal of a request, or None if it may pass."""
        if not self._hashes or path.startswith(OPEN):
            return None
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        key = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(key).hexdigest()
        if sum(hmac.compare_digest(digest, known) for known in self._hashes):  # no early end: constant time
            return None
        detail = "this service wants a key: send it as Authorization: Bearer KEY or as X-API-Key"
        return problem(401, "unauthorized", detail, headers=((b"www-authenticate", b"Bearer"),))


def request_id(headers: Mapping[bytes, bytes]) -> Headers:
    """Return the caller's X-Request-ID as a header to echo, if it is safe text."""
    value = headers.get(b"x-request-id")
    return ((b"x-request-id", value),) if value and SAFE_ID.fullmatch(value) else ()


def new_key() -> tuple[str, str]:
    """Return a new random key and its hash for ``serving.key_hashes``."""
    key = secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def check_exposure(settings: Settings, host: str) -> None:
    """Refuse to be reachable from other machines without keys.

    Raises:
        ProjectError: ``host`` is not loopback and no key is set.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not settings.serving.key_hashes:
        raise ProjectError(
            f"the service does not listen on {host or 'every address'} without keys: make one with "
            f"`{settings.project.slug} key` and put its hash into serving.key_hashes, or listen on 127.0.0.1"
        )
