"""Which websites may call from a browser, and by which names the service may be called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from ...settings import Settings
from ..answers import API, Answer, Headers, problem

ANY = "*"
TLS_ONLY: Headers = ((b"strict-transport-security", b"max-age=31536000"),)
EXPOSED = (b"access-control-expose-headers", b"x-request-id, retry-after, x-model-version, x-next")
VARY = (b"vary", b"origin")
ALLOWED: Headers = (
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    # The star covers all but Authorization, and stands for itself alone in old browsers: so what is usual is named.
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id, *"),
    (b"access-control-max-age", b"600"),
)
WELCOME = Answer(204, b"", headers=(*API, *ALLOWED))
STRANGER = problem(
    403, "origin", "this website may not call from a browser: its origin must be added to serving.cors_origins"
)
WRONG_HOST = problem(
    400, "host", "the service does not answer to this host name: use its own, or add this one to serving.trusted_hosts"
)


def shared(settings: Settings) -> tuple[Mapping[bytes | None, Headers], Headers]:
    """Return the headers that any answer carries (CORS as the Fetch standard has it, RFC 6797).

    No credentials are allowed: a browser sends only the key that the website's own script puts into the request.

    Returns:
        Those of the origins that are allowed by name, and those of any other request.
    """
    always = TLS_ONLY if settings.serving.tls_certificate else ()
    origins = settings.serving.cors_origins
    if ANY in origins:
        return {}, (*always, (b"access-control-allow-origin", b"*"), EXPOSED)
    named: dict[bytes | None, Headers] = {
        origin.encode(): (*always, VARY, (b"access-control-allow-origin", origin.encode()), EXPOSED)
        for origin in origins
    }
    return named, ((*always, VARY) if origins else always)


def preflight(origins: Sequence[str], headers: Mapping[bytes, bytes]) -> Answer | None:
    """Answer a browser that asks whether a website may call; None if that is not what it asks."""
    origin = headers.get(b"origin")
    if not origins or not origin or b"access-control-request-method" not in headers:
        return None
    return WELCOME if ANY in origins or origin.decode("latin-1") in origins else STRANGER


def answers_to(names: Sequence[str]) -> Callable[[bytes], bool]:
    """Return what says whether a ``Host`` header, with any port, is one of these names; it remembers the last ones.

    Args:
        names: host names; ``*.example.com`` is all below that one. None stands for every name.
    """
    if not names:
        return lambda host: True
    parts = [re.escape(name).replace(r"\*\.", r"(?:[a-z0-9_-]+\.)+", 1) for name in names]
    pattern = re.compile(f"(?:{'|'.join(parts)})(?::[0-9]+)?".encode(), re.IGNORECASE)
    return lru_cache(lambda host: pattern.fullmatch(host) is not None)
