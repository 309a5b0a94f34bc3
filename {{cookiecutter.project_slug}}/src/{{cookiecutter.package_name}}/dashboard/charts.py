"""The charts, as Vega-Lite: one specification is interactive on the page and an SVG in a document.

What a chart looks like is made once, by Altair; the rows are put in at each reading, so that the page can
change the rows of a chart that it has drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from ..settings import Settings
from ..store.queries import Row
from .state import Status, duration, span, stamp

# Middle tones: readable on white and on near-black, told apart without seeing red from green.
BLUE, AMBER, RED, GREY = "#3b82f6", "#c77d0a", "#e5484d", "#8a93a3"
FONT = "system-ui, 'Segoe UI', 'Liberation Sans', sans-serif"
BARS = 20  # at most so many columns or runs in one chart
LINE = {"gridColor": GREY, "domainColor": GREY, "tickColor": GREY, "gridOpacity": 0.25}
TEXT = {"labelColor": GREY, "titleColor": GREY, "labelFontSize": 11, "titleFontSize": 11}
CONFIG = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {**LINE, **TEXT, "titleFontWeight": "normal"},
    "legend": {"orient": "top", "title": None, "labelColor": GREY, "labelFontSize": 11, "offset": 4},
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart; without rows, the sentence that stands in its place."""

    id: str
    title: str
    about: str
    rows: list[Row]
    shape: Callable[[], dict[str, Any]]
    empty: str

    def spec(self) -> dict[str, Any] | None:
        """Return the Vega-Lite specification, or None when there is nothing to draw."""
        if not self.rows:
            return None
        return {**self.shape(), "description": self.about, "data": {"name": "rows", "values": self.rows}}

    def svg(self, width: int = 640) -> str:
        """Draw it for a document, ``width`` pixels wide; empty when there is nothing to draw."""
        import vl_convert

        spec = self.spec()
        return (
            str(vl_convert.vegalite_to_svg(json.dumps({**spec, "width": width}), allowed_base_urls=[])) if spec else ""
        )


def charts(status: Status, settings: Settings) -> list[Chart]:
    """Return the charts that the project's mode has, filled with the state."""
    online = [traffic(status), errors(status), latency(status)] if status.online else []
    both = [predictions(status, settings), drift(status, settings)]
    return [*online, *both, *([runs(status)] if status.batch else [])]


def traffic(status: Status) -> Chart:
    """Return the requests per minute."""
    rows = []
    for point in status.traffic:
        seconds = min(status.step, max(60, (status.time - point.time).total_seconds()))  # the last bin is not full
        rows.append(_at(point.time) | {"rate": round(point.total * 60 / seconds, 2), "requests": point.total})
    about = f"Requests per minute, last {span(status.hours)}."
    shape = partial(_traffic, status.hours)
    return Chart("traffic", "Traffic", about, _if_any(rows, "requests"), shape, _quiet(status))


def errors(status: Status) -> Chart:
    """Return how many requests were refused as invalid and how many failed."""
    rows = [
        _at(point.time) | {"kind": kind, "requests": count}
        for point in status.traffic
        for kind, count in (("refused (4xx)", point.refused), ("failed (5xx)", point.failed))
    ]
    quiet = any(point.total for point in status.traffic)
    empty = f"No request was refused or failed in the last {span(status.hours)}." if quiet else _quiet(status)
    about = f"Requests refused or failed, last {span(status.hours)}."
    return Chart("errors", "Errors", about, _if_any(rows, "requests"), partial(_errors, status.hours), empty)


def latency(status: Status) -> Chart:
    """Return the median and the 99th percentile of the time to answer; beyond 10 s it is cut."""
    rows = [
        _at(point.time)
        | {"share": name, "latency": None if value is None else min(value, 1e4), "told": duration(value)}
        for point in status.traffic
        for name, value in (("median", point.p50), ("p99", point.p99))
    ]
    about = f"Time to answer, at most, last {span(status.hours)}."
    shape = partial(_latency, status.hours)
    return Chart("latency", "Latency", about, _if_any(rows, "latency"), shape, _quiet(status))


def predictions(status: Status, settings: Settings) -> Chart:
    """Return the distribution of the newest predictions beside the reference's."""
    rows = [
        {"bin": one.label, "of": name, "share": round(share, 5)}
        for one in status.predictions
        for name, share in (("reference", one.reference), ("now", one.current))
    ]
    read, least = status.predictions_read, settings.monitoring.minimum_rows
    empty = f"Not enough predictions in the last {span(status.hours)}: {read:,} of the {least:,} it takes."
    about = f"Share of rows by predicted value: the newest {read:,} and the reference sample."
    if status.champion is None:
        empty = "No model is in service whose reference could be compared with: see Health."
    if not rows:
        about = "Share of rows by predicted value, beside the reference sample."
    return Chart("predictions", "Predictions", about, rows, _predictions, empty)


def drift(status: Status, settings: Settings) -> Chart:
    """Return each column's drift with the lines at which it warns and alerts."""
    low, high = settings.monitoring.psi_warning, settings.monitoring.psi_alert
    known = [(one.value, one) for one in status.checks if one.kind == "drift" and one.current and one.value is not None]
    known.sort(key=lambda pair: -pair[0])
    rows = [
        # A bar is cut at four times the alert line; its label tells the value.
        {"column": one.subject, "psi": min(value, 4 * high), "told": f"{value:.3f}", "state": one.state}
        for value, one in known[:BARS]
    ]
    about = f"Population stability index: warning at {low:g}, alert at {high:g}."
    if len(known) > BARS:
        about += f" The {BARS} largest of {len(known)} columns."
    empty = f"Nothing compared with the reference yet: `{status.slug} monitor run`"
    return Chart("drift", "Drift", about, rows, partial(_drift, low, high, len(rows)), empty)


def runs(status: Status) -> Chart:
    """Return what became of the rows of the newest batch runs."""
    rows = [
        {"run": run["id"], "when": stamp(run["started"]), "status": run["status"], "fate": fate, "rows": count}
        for run in reversed(status.runs[:BARS])
        for fate, count in (
            ("published", run["rows_published"]),
            ("quarantined", run["rows_quarantined"]),
            ("not published", max(run["rows_in"] - run["rows_published"] - run["rows_quarantined"], 0)),
        )
    ]
    about = f"Rows that came in, by what became of them; the last {BARS} runs, newest right."
    empty = f"No run yet: `{status.slug} pipeline run --input ROWS.csv --output FOLDER`"
    return Chart("runs", "Batch runs", about, _if_any(rows, "rows"), _runs, empty)


def _if_any(rows: list[Row], name: str) -> list[Row]:
    return rows if any(row[name] for row in rows) else []


def _at(moment: Any) -> Row:
    return {"time": int(moment.timestamp() * 1000), "when": stamp(moment)}


def _quiet(status: Status) -> str:
    return f"No requests in the last {span(status.hours)}: try one from the API page."


def _spec(chart: Any, height: int = 180) -> dict[str, Any]:
    """Give a chart the size and the looks of all."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    return {**spec, "config": CONFIG}


def _base() -> Any:
    import altair as alt

    return alt.Chart(alt.NamedData(name="rows"))


def _time(hours: int) -> Any:
    import altair as alt

    axis = alt.Axis(title="UTC", grid=False, tickCount=6, format="%H:%M" if hours <= 24 else "%d %b")
    return alt.X("time:T", scale=alt.Scale(type="utc"), axis=axis)


def _colour(field: str, names: Sequence[str], tones: Sequence[str], **options: Any) -> Any:
    import altair as alt

    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(names), range=list(tones)), **options)


@cache
def _traffic(hours: int) -> dict[str, Any]:
    import altair as alt

    line = {"color": BLUE, "strokeWidth": 1.5}
    mark = _base().mark_area(interpolate="step-after", color=BLUE, opacity=0.25, line=line)
    tooltip = [alt.Tooltip("when:N", title="from"), "requests:Q"]
    return _spec(mark.encode(_time(hours), alt.Y("rate:Q", title="requests / min"), tooltip=tooltip))


@cache
def _errors(hours: int) -> dict[str, Any]:
    import altair as alt

    colour = _colour("kind", ("refused (4xx)", "failed (5xx)"), (AMBER, RED))
    count = alt.Y("requests:Q", axis=alt.Axis(title="requests", tickMinStep=1, format="~s"))
    mark = _base().mark_bar(width={"expr": "max(2, width / 200)"})
    return _spec(mark.encode(_time(hours), count, colour, tooltip=["when:N", "kind:N", "requests:Q"]))


@cache
def _latency(hours: int) -> dict[str, Any]:
    import altair as alt

    axis = alt.Axis(title="ms", tickCount=4, format="~g")
    value = alt.Y("latency:Q", scale=alt.Scale(type="log"), axis=axis)
    tooltip = [alt.Tooltip("when:N", title="from"), "share:N", alt.Tooltip("told:N", title="at most")]
    mark = _base().mark_line(interpolate="step-after", strokeWidth=1.5, point=alt.OverlayMarkDef(size=12))
    return _spec(mark.encode(_time(hours), value, _colour("share", ("median", "p99"), (BLUE, AMBER)), tooltip=tooltip))


@cache
def _predictions() -> dict[str, Any]:
    import altair as alt

    share = alt.Y("share:Q", axis=alt.Axis(title="share of rows", format=".0%", tickCount=5))
    place = alt.X("bin:N", sort=None, axis=alt.Axis(title=None, labelAngle=-35, labelLimit=110))
    tooltip = [alt.Tooltip("bin:N", title="predicted"), "of:N", alt.Tooltip("share:Q", format=".1%")]
    colour, beside = _colour("of", ("reference", "now"), (GREY, BLUE)), alt.XOffset("of:N", sort=None)
    return _spec(_base().mark_bar().encode(place, share, colour, beside, tooltip=tooltip))


@cache
def _drift(low: float, high: float, columns: int) -> dict[str, Any]:
    import altair as alt

    axis = alt.Axis(title=None, labelLimit=150, ticks=False, domain=False)
    column = alt.Y("column:N", sort=None, axis=axis)
    value = alt.X("psi:Q", scale=alt.Scale(domainMin=0), axis=alt.Axis(title="PSI", tickCount=5))
    colour = _colour("state", ("ok", "warning", "alert", "unknown"), (BLUE, AMBER, RED, GREY), legend=None)
    tooltip = ["column:N", alt.Tooltip("told:N", title="PSI"), "state:N"]
    bars = _base().mark_bar(height={"band": 0.65}).encode(value, column, colour, tooltip=tooltip)
    text = _base().mark_text(align="left", dx=4, fontSize=11, color=GREY).encode(value, column, alt.Text("told:N"))
    one = alt.Chart(alt.InlineData(values=[{"line": 1}]))
    lines = [
        one.mark_rule(color=tone, strokeDash=[4, 3]).encode(x=alt.datum(limit))
        for limit, tone in ((low, AMBER), (high, RED))
    ]
    return _spec(alt.layer(bars, text, *lines), 20 * columns + 10)


@cache
def _runs() -> dict[str, Any]:
    import altair as alt

    colour = _colour("fate", ("published", "quarantined", "not published"), (BLUE, AMBER, GREY))
    place = alt.X("run:N", sort=None, axis=alt.Axis(title=None, labels=False, ticks=False))
    count = alt.Y("rows:Q", axis=alt.Axis(title="rows", format="~s", tickCount=5))
    tooltip = [alt.Tooltip("when:N", title="started"), "status:N", "fate:N", alt.Tooltip("rows:Q", format=",")]
    return _spec(_base().mark_bar(width={"band": 0.7}).encode(place, count, colour, tooltip=tooltip))
