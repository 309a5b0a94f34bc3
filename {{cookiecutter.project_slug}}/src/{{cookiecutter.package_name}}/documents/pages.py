"""The exported documents, served under ``/documents/``."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from ..settings import Settings
from . import export

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
# An exported document is one file that holds its own style and pictures; it has no script.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
}


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
        return HTMLResponse(export.index(settings), headers=HEADERS)

    @routes.get("/{name}")
    def document(name: str) -> Response:
        # Only names that the folder lists: a name with a path in it is none of them.
        known = {path.name: path for path in folder.glob("*.*") if path.is_file() and path.suffix in TYPES}
        if name not in known:
            raise HTTPException(404, "There is no such document: see /documents/.")
        return FileResponse(known[name], media_type=TYPES[known[name].suffix], headers=HEADERS)

    return routes
