"""Tokens of an OAuth2 or OpenID Connect issuer: JWT (RFC 7519), verified here with the keys that it publishes."""

from __future__ import annotations

import json
import math
from http.client import HTTPException
from threading import Thread
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import structlog

from ...errors import ProjectError
from ...settings import Serving
from ..answers import Answer, problem
from .callers import INVALID, Caller, granted, unauthorized

# Only those with a public key: with a secret one, whoever can verify tokens could make them.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
LEEWAY = 60  # seconds that the clocks of issuer and service may differ
KEPT = 300.0  # seconds until the issuer's keys are read again
SOON = 5.0  # the same if it could not be asked, or a token names a key that is not among them
FIRST = 1.0  # seconds that the start waits for the issuer
TIMEOUT = 10.0  # seconds for each of its answers
LARGEST = 1_000_000  # bytes of one
MOST = 10_000  # tokens that are remembered

UNREACHED = problem(
    503,
    "issuer",
    "tokens cannot be verified, because their issuer was not reached yet: send the request again later",
    headers=((b"retry-after", b"5"),),
)
UNVERIFIED = unauthorized("the token cannot be verified: get a new one from the issuer of this service", INVALID)
REASONS = {
    "ExpiredSignatureError": "the token has expired: get a new one",
    "ImmatureSignatureError": "the token is not valid yet: wait, or set the clock right",
    "InvalidAudienceError": "the token is for another audience: ask the issuer for one for this service",
    "InvalidIssuerError": "the token is from another issuer: get one from the issuer of this service",
    "MissingRequiredClaimError": "the token lacks exp, iss or aud: the issuer must add them",
}

log = structlog.get_logger(__name__)


class Tokens:
    """Verifies tokens, and remembers those that are good until they expire.

    The keys come from the address that OpenID Connect Discovery 1.0 gives for the issuer of the settings; nothing is
    ever read from where a token says.
    """

    def __init__(self, serving: Serving) -> None:
        """Make a verifier that knows no keys before `refresh`.

        Raises:
            ProjectError: a library or a setting is missing.
        """
        try:
            import cryptography  # noqa: F401
            import jwt
        except ImportError:
            raise ProjectError("serving.issuer needs PyJWT and cryptography: install the extra `jwt`") from None
        if not serving.audience:
            raise ProjectError("serving.issuer needs serving.audience: what its tokens for this service name as `aud`")
        self._jwt, self._serving = jwt, serving
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._published: Any = None
        self._seen: dict[bytes, Caller] = {}
        self._read_at, self._wanted, self._trouble = -math.inf, True, ""
        self._reader = Thread()

    def caller(self, token: bytes, digest: bytes) -> Caller | Answer:
        """Return who has a token, or why it is refused.

        Args:
            token: as it was sent.
            digest: its SHA-256.
        """
        seen = self._seen
        if known := seen.get(digest):
            return known
        if not self._keys:
            return UNREACHED
        try:
            key = self._keys.get(self._jwt.get_unverified_header(token).get("kid"))
            if key is None:
                self._wanted = True  # the issuer may have a new one
                return UNVERIFIED
            options: Any = {"require": ["exp", "iss", "aud"]}
            claims = self._jwt.decode(
                token,
                key,
                ALGORITHMS,
                options,
                audience=self._serving.audience,
                issuer=self._serving.issuer,
                leeway=LEEWAY,
            )
            caller = self._caller(claims)
        except (self._jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            reason = REASONS.get(type(error).__name__)
            return unauthorized(reason, INVALID) if reason else UNVERIFIED
        if len(seen) >= MOST:
            del seen[next(iter(seen))]
        seen[digest] = caller
        return caller

    def refresh(self) -> None:
        """Have the keys read again if it is time, in a thread of its own: an issuer that hangs holds nothing up."""
        if self._reader.is_alive() or monotonic() < self._read_at + (SOON if self._wanted else KEPT):
            return
        first = self._read_at == -math.inf
        self._read_at = monotonic()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        if first:
            self._reader.join(FIRST)

    def _caller(self, claims: dict[str, Any]) -> Caller:
        stated = claims.get(self._serving.scope_claim)
        words = stated.split() if isinstance(stated, str) else stated if isinstance(stated, list) else ()
        name = str(claims.get("sub") or claims.get("client_id") or "token")[:100]
        return Caller(name, granted([word for word in words if isinstance(word, str)]), claims["exp"] + LEEWAY)

    def _read(self) -> None:
        issuer = self._serving.issuer
        try:
            found = _json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if found["issuer"] != issuer:
                raise ValueError("it gives another name as its own")
            if urlsplit(found["jwks_uri"]).scheme not in ("https", urlsplit(issuer).scheme):
                raise ValueError("its keys are not behind HTTPS")
            published = _json(found["jwks_uri"])
            keys = self._jwt.PyJWKSet.from_dict(published).keys
        except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError, self._jwt.PyJWTError) as error:
            if self._trouble != repr(error):
                log.error("issuer not read", issuer=issuer, reason=repr(error))
            self._trouble, self._wanted = repr(error), True
            return
        self._trouble, self._wanted = "", False
        if published != self._published:
            log.info("keys of the issuer read", issuer=issuer)
            self._published = published
            self._keys = {key.key_id: key for key in keys if key.public_key_use != "enc"}
            self._seen = {}  # what was signed with a key that is gone has to be looked at again


def _json(address: str) -> Any:
    with urlopen(address, timeout=TIMEOUT) as answer:
        return json.loads(answer.read(LARGEST))
