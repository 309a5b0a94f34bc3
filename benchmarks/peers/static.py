# It runs where the template's tools are not.
# mypy: ignore-errors
"""The most that this server can answer: the same bytes for every request."""

import os
from typing import Any

BODY = os.environb[b"BODY"]
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: object, receive: Any, send: Any) -> None:
    """Read the request, answer."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
