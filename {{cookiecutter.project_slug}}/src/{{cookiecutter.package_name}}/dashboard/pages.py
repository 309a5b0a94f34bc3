"""The routes of the status page: the page, its data, its static files. Nothing comes from another host."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, HTTPException, Query, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from ..errors import ProjectError
from ..settings import Settings
from ..store.queries import NoRun
from .charts import chart_rows, spec
from .runs import RunReader, megabytes, seconds
from .state import KINDS, RANGES, Reader, label, number, sentence, stamp

FOLDER = Path(__file__).parent
ABOVE = "../../"  # from the page of a run to the root
PARTS = ("head", "figures", "health", "charts", "tables")  # blocks of the page that a refresh puts in anew
RUN_PARTS = ("run_head", "run_parts")  # likewise of a run's
POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
PAGE = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", **SAFE}
STATIC = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding", **SAFE}
ZIPPED = {"Content-Encoding": "gzip"}
TYPES = {".css": "text/css", ".js": "text/javascript"}
VEGA = version("vl-convert-python")
DEFAULT = "24h"
FRESH = 2.0  # seconds that viewers share one reading

Range = Annotated[str, Query(alias="range")]


def router(settings: Settings) -> APIRouter:
    """Return the routes of the status page."""
    routes, view, templates = APIRouter(include_in_schema=False), viewer(settings), _templates()
    files = {path.name: gzip.compress(path.read_bytes(), mtime=0) for path in FOLDER.glob("static/*")}
    versions = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in files.items()} | {"vega.js": VEGA}

    @routes.get("/")
    def root() -> Response:
        return RedirectResponse("status")

    @routes.get("/status")
    def page(chosen: Range = DEFAULT) -> Response:
        about = settings.project.description
        found = view(chosen)
        html = templates.get_template("status.html").render(found, root="", description=about, versions=versions)
        return HTMLResponse(html, headers=PAGE)

    @routes.get("/status/data.json")
    def data(chosen: Range = DEFAULT) -> Response:
        found = view(chosen)
        parts = _blocks(templates.get_template("status.html"), PARTS, found)
        drawn = {name: spec(name, rows) for name, rows in found["charts"].items()}
        content = msgspec.json.encode({"status": found["status"], "charts": drawn, "parts": parts})
        return Response(content, media_type="application/json", headers=PAGE)

    _runs(routes, settings, templates, versions)

    @routes.get("/static/{name}")
    def static(name: str, accept_encoding: Annotated[str, Header()] = "") -> Response:
        if name not in versions:
            raise HTTPException(404)
        if name not in files:
            files[name] = vega(settings)
        if "gzip" not in accept_encoding:
            return Response(gzip.decompress(files[name]), media_type=TYPES[Path(name).suffix], headers=STATIC)
        return Response(files[name], media_type=TYPES[Path(name).suffix], headers=STATIC | ZIPPED)

    return routes


def _runs(routes: APIRouter, settings: Settings, templates: Environment, versions: dict[str, str]) -> None:
    """Add the routes of the page of a batch run."""
    reader = RunReader(settings)

    @routes.get("/status/runs/{identity}")
    def page(identity: str) -> Response:
        known = {"root": ABOVE, "versions": versions}
        try:
            html = templates.get_template("run.html").render(known, run=reader.read(identity))
        except ProjectError as error:
            gone = isinstance(error, NoRun)
            known |= {"name": settings.project.title, "why": sentence(str(error))}
            title = "No such batch run" if gone else "The log cannot be read"
            html = templates.get_template("missing.html").render(known, title=title)
            return HTMLResponse(html, 404 if gone else 503, headers=PAGE)
        return HTMLResponse(html, headers=PAGE)

    @routes.get("/status/runs/{identity}/data.json")
    def data(identity: str) -> Response:
        try:
            found = reader.read(identity)
        except ProjectError as error:
            raise HTTPException(404 if isinstance(error, NoRun) else 503, str(error)) from None
        parts = _blocks(templates.get_template("run.html"), RUN_PARTS, {"run": found})
        content = msgspec.json.encode({"status": found, "charts": {}, "parts": parts}, enc_hook=str)
        return Response(content, media_type="application/json", headers=PAGE)


def viewer(settings: Settings) -> Callable[[str], dict[str, Any]]:
    """Return what reads, by time range, all that the templates show; viewers of the same moment share a reading."""
    reader, lock = Reader(settings), threading.Lock()
    known: dict[str, tuple[float, dict[str, Any]]] = {}

    def view(chosen: str) -> dict[str, Any]:
        chosen = chosen if chosen in RANGES else DEFAULT
        with lock:
            made, found = known.get(chosen, (0.0, {}))
            if not found or time.monotonic() - made > FRESH:
                status, limits = reader.status(chosen), settings.monitoring
                found = {"status": status, "charts": chart_rows(status, limits), "limits": limits}
                known[chosen] = (time.monotonic(), found)
            return found

    return view


def vega(settings: Settings) -> bytes:
    """Return the chart library as one compressed script; each version of it is made once, which takes seconds."""
    file = settings.path(f"data/cache/vega-{VEGA}.js.gz")
    with suppress(OSError, EOFError, zlib.error):  # none yet, or one that was cut short
        content = file.read_bytes()
        gzip.decompress(content)
        return content
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    content = gzip.compress(script.encode(), mtime=0)
    with suppress(OSError):  # a read-only disk: the next process makes it again
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return content


def _blocks(page: Template, names: Sequence[str], values: dict[str, Any]) -> dict[str, str]:
    """Render blocks of a page alone, by the ids of the elements that hold them."""
    return {name.replace("_", "-"): "".join(page.blocks[name](page.new_context(values))) for name in names}


def _templates() -> Environment:
    marks = ("[%", "%]", "[[", "]]", "[#", "#]")
    folder = FileSystemLoader(FOLDER / "templates")
    environment = Environment(*marks, loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals |= {"ranges": RANGES, "kinds": KINDS}
    environment.filters |= {"stamp": stamp, "code": _code, "number": number, "label": label}
    environment.filters |= {"seconds": seconds, "megabytes": megabytes}
    return environment


def _code(text: str) -> Markup:
    """Mark up the commands that a message has between backticks."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
