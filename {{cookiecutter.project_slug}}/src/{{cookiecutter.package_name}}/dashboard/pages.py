"""The routes of the status page: the page, its data, its static files. Nothing comes from another host."""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import threading
import time
import zlib
from importlib.metadata import version
from typing import Annotated

import msgspec
import structlog
from fastapi import APIRouter, Header, HTTPException, Query, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from ..settings import Settings
from .page import FOLDER, View
from .reader import Reader
from .state import RANGES

POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; frame-ancestors 'none'"
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
PAGE = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", **SAFE}
STATIC = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding", **SAFE}
TYPES = {".css": "text/css", ".js": "text/javascript"}
DEFAULT = "24h"
FRESH = 2.0  # seconds that viewers share one reading

Range = Annotated[str, Query(alias="range")]

log = structlog.get_logger(__name__)


def router(settings: Settings) -> APIRouter:
    """Return the routes of the status page."""
    routes, views, vega = APIRouter(include_in_schema=False), Views(settings), Vega(settings)
    files = {path.name: path.read_bytes() for path in (FOLDER / "static").iterdir() if path.suffix in TYPES}
    versions = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in files.items()}
    versions["vega.js"] = vega.version

    @routes.get("/")
    def root() -> Response:
        return RedirectResponse("status")

    @routes.get("/status")
    def page(chosen: Range = DEFAULT) -> Response:
        return HTMLResponse(views.get(chosen).html(settings.project.description, versions), headers=PAGE)

    @routes.get("/status/data.json")
    def data(chosen: Range = DEFAULT) -> Response:
        content = msgspec.json.encode(views.get(chosen).data())  # NaN, which no chart can draw, becomes null
        return Response(content, media_type="application/json", headers=PAGE)

    @routes.get("/static/{name}")
    def static(name: str, accept_encoding: Annotated[str, Header()] = "") -> Response:
        if name not in versions:
            raise HTTPException(404)
        headers, zipped = STATIC, name not in files
        content = vega.zipped() if zipped else files[name]
        if zipped and "gzip" in accept_encoding:
            headers = {**STATIC, "Content-Encoding": "gzip"}
        elif zipped:
            content = gzip.decompress(content)
        return Response(content, media_type=TYPES[name[name.rindex(".") :]], headers=headers)

    return routes


class Views:
    """The newest reading by time range, shared by all who look at the same moment."""

    def __init__(self, settings: Settings) -> None:
        self._reader, self._lock = Reader(settings), threading.Lock()
        self._known: dict[str, tuple[float, View]] = {}

    def get(self, chosen: str) -> View:
        """Return a fresh reading; an unknown range is taken as the default."""
        chosen = chosen if chosen in RANGES else DEFAULT
        with self._lock:
            made, view = self._known.get(chosen, (0.0, None))
            if view is None or time.monotonic() - made > FRESH:
                view = View(self._reader, chosen)
                self._known[chosen] = (time.monotonic(), view)
            return view


class Vega:
    """The chart library as one script, made from an installed package once for each version of it."""

    def __init__(self, settings: Settings) -> None:
        self.version = version("vl-convert-python")
        self._file = settings.path(f"data/cache/vega-{self.version}.js.gz")
        self._content: bytes | None = None
        self._lock = threading.Lock()

    def zipped(self) -> bytes:
        """Return the script, compressed; the first call ever takes some seconds."""
        with self._lock:
            if self._content is None:
                try:
                    self._content = self._file.read_bytes()
                    gzip.decompress(self._content)
                except (OSError, EOFError, zlib.error):
                    self._content = self._make()
            return self._content

    def _make(self) -> bytes:
        import vl_convert

        script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed; window.vega = vega;")
        content = gzip.compress(script.encode(), mtime=0)
        draft = self._file.with_suffix(f".{secrets.token_hex(4)}")
        try:
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            os.replace(draft, self._file)
        except OSError as error:  # a read-only disk: the next process makes it again
            log.warning("the chart library cannot be cached", reason=error.strerror)
        return content
