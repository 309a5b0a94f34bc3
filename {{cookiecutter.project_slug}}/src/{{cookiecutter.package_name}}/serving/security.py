"""Who may call, and from where: the same for all routes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping

from ..errors import ProjectError
from ..settings import Settings
from .answers import Answer, problem

OPEN = "/health/"  # probes carry no keys
API = "/v1/"  # programs call this, with a key in a header; a browser asks its user for the key of all else


class Guard:
    """Holds a request's key against the hashes of the settings; without hashes everything passes."""

    def __init__(self, settings: Settings) -> None:
        """Keep the hashes."""
        self._hashes = settings.serving.key_hashes
        self._realm = f'Basic realm="{settings.project.slug}", charset="UTF-8"'.encode()

    def refuse(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Answer | None:
        """Return the refusal of a request, or None if it may pass.

        A page may also be opened with HTTP Basic: any user, the key as password. The API takes no such key, because
        a browser would add it to requests that other sites make.
        """
        if not self._hashes or path.startswith(OPEN):
            return None
        page = method in ("GET", "HEAD") and not path.startswith(API)
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if page and scheme.lower() == b"basic":
            try:
                key = base64.b64decode(key).partition(b":")[2]
            except ValueError:
                key = b""
        elif scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(key.strip()).hexdigest()
        if sum(hmac.compare_digest(digest, known) for known in self._hashes):  # no early end: constant time
            return None
        detail = "this service wants a key: send it as Authorization: Bearer KEY or as X-API-Key"
        return problem(
            401, "unauthorized", detail, headers=((b"www-authenticate", self._realm if page else b"Bearer"),)
        )


def new_key() -> tuple[str, str]:
    """Return a new random key and its hash for ``serving.key_hashes``."""
    key = secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def check_exposure(settings: Settings, host: str) -> None:
    """Raise `ProjectError` if other machines can reach ``host`` and no key is set."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not settings.serving.key_hashes:
        raise ProjectError(
            f"the service does not listen on {host or 'every address'} without keys: make one with "
            f"`{settings.project.slug} key` and put its hash into serving.key_hashes, or listen on 127.0.0.1"
        )
