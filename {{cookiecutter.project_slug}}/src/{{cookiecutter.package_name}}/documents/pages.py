"""The exported documents, served under ``/documents/``."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from html import unescape

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from ..settings import Settings
from . import export

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
# An exported document is one file that holds its own style and pictures; it has no script. Its style sheets, and the
# attributes by which pandoc aligns and Mermaid colours, are let in by their hashes.
POLICY = (
    "default-src 'none'; style-src-elem {}; style-src-attr {}; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SHEET = re.compile(r"<style[^>]*>(.*?)</style>", re.DOTALL)
ATTRIBUTE = re.compile(r"""\sstyle(?:="([^"]*)"|='([^']*)')?(?=[\s/>])""")


def router(settings: Settings) -> APIRouter:
    """Return the routes of the documents; what is exported while the service runs is served at once."""
    folder, routes = settings.path(settings.documents.output), APIRouter(prefix="/documents", include_in_schema=False)

    @routes.get("")
    def slash() -> Response:
        return RedirectResponse("/documents/")

    @routes.get("/")
    def index() -> Response:
        if (folder / "index.html").is_file():
            return document("index.html")
        html = export.index(settings)
        return HTMLResponse(html, headers=headers(html.encode()))

    @routes.get("/{name}")
    def document(name: str) -> Response:
        # Only names that the folder lists: a name with a path in it is none of them.
        known = {path.name: path for path in folder.glob("*.*") if path.is_file() and path.suffix in TYPES}
        if name not in known:
            raise HTTPException(404, "There is no such document: see /documents/.")
        file = known[name]
        if file.suffix == ".html":
            html = file.read_bytes()
            return Response(html, media_type=TYPES[file.suffix], headers=headers(html))
        return FileResponse(file, media_type=TYPES[file.suffix], headers=headers())

    return routes


def headers(html: bytes = b"") -> dict[str, str]:
    """Return the headers of a document, by which a browser takes its own style sheets and nothing else."""
    text = html.decode()
    attributes = {unescape(one[1] or one[2] or "") for one in ATTRIBUTE.finditer(text)}
    given = _hashes(attributes)
    policy = POLICY.format(_hashes(SHEET.findall(text)) or "'none'", f"'unsafe-hashes' {given}" if given else "'none'")
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def _hashes(styles: Iterable[str]) -> str:
    return " ".join(f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'" for style in sorted(set(styles)))
