"""The exported documents, served under ``/documents/``."""

from __future__ import annotations

import html

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from ..settings import Settings

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
    folder, routes = (settings.path(settings.documents.output), APIRouter(prefix="/documents", include_in_schema=False))

    @routes.get("")
    def slash() -> Response:
        return RedirectResponse("/documents/")

    @routes.get("/")
    def index() -> Response:
        if (folder / "index.html").is_file():
            return FileResponse(folder / "index.html", media_type=TYPES[".html"], headers=HEADERS)
        title, slug = html.escape(settings.project.title), html.escape(settings.project.slug)
        return HTMLResponse(
            '<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">'
            f"<title>{title}: documents</title>"
            "<style>body{font:1rem/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}</style>"
            f"<h1>{title}: documents</h1><p>The documents have not been exported yet. Run</p>"
            f"<pre><code>{slug} documents refresh\n{slug} documents export</code></pre>"
            "<p>in the project's folder, then load this page again.</p></html>",
            headers=HEADERS,
        )

    @routes.get("/{name}")
    def document(name: str) -> Response:
        # Only names that the folder lists: a name with a path in it is none of them.
        known = {path.name: path for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
        path = known.get(name)
        if path is None or path.suffix not in TYPES:
            raise HTTPException(404, "There is no such document: see /documents/.")
        return FileResponse(path, media_type=TYPES[path.suffix], headers=HEADERS)

    return routes
