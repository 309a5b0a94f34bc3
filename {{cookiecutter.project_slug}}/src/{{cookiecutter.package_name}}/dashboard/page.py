"""The status page as HTML: whole for the first view, in parts for the live refresh."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from .charts import charts
from .reader import Reader
from .state import KINDS, RANGES, label, number, stamp

FOLDER = Path(__file__).parent
PARTS = ("head", "figures", "health", "tables")


class View:
    """One reading of the state for a time range of ``RANGES``, with its charts."""

    def __init__(self, reader: Reader, chosen: str) -> None:
        self.status = reader.status(RANGES[chosen])
        self.charts = charts(self.status, reader.settings)
        self._context = {
            "status": self.status,
            "charts": self.charts,
            "chosen": chosen,
            "ranges": RANGES,
            "kinds": KINDS,
        }

    def html(self, description: str, versions: dict[str, str]) -> str:
        """Return the whole page; ``versions`` are put into the addresses of the static files."""
        template = _templates().get_template("status.html")
        return template.render(self._context, description=description, versions=versions)

    def data(self) -> dict[str, Any]:
        """Return the state, the charts, and the parts of the page that change."""
        parts = {name: _templates().get_template(f"{name}.html").render(self._context) for name in PARTS}
        drawn = [{"id": one.id, "about": one.about, "empty": one.empty, "spec": one.spec()} for one in self.charts]
        return {"status": self.status, "charts": drawn, "parts": parts}


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    environment.filters |= {"utc": _utc, "code": _code, "number": number, "label": label, "tail": _tail}
    return environment


def _utc(moment: datetime | str | None) -> Markup | str:
    try:
        moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    except ValueError:
        return str(moment)
    if moment is None:
        return "-"
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(timespec="seconds"), stamp(moment))


def _code(text: str) -> Markup:
    """Mark up the commands that a message has between backticks."""
    pieces = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(one) if n % 2 else escape(one) for n, one in enumerate(pieces)
    )


def _tail(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or path
