"""The charts, as Vega-Lite: Altair makes what they look like once, and each reading puts its rows in."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..settings import Monitoring
from ..store.queries import Row
from .state import Status, duration, stamp

# Middle tones: readable on white and on near-black, told apart without seeing red from green.
BLUE, AMBER, RED, GREY = "#3b82f6", "#c77d0a", "#e5484d", "#8a93a3"
TONES = {"refused": AMBER, "failed": RED, "median": BLUE, "p99": AMBER, "reference": GREY, "now": BLUE}
TONES |= {"published": BLUE, "quarantined": AMBER, "not published": GREY}
LEVELS = {"ok": BLUE, "warning": AMBER, "alert": RED, "unknown": GREY}
AXIS = {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "tickCount": 5}
CONFIG = {  # the page's style sheet gives axes and text their colours
    "background": "transparent",
    "font": "system-ui, 'Segoe UI', 'Liberation Sans', sans-serif",
    "view": {"stroke": None},
    "axis": AXIS,
    "legend": {"orient": "top", "title": None, "offset": 4},
}
BARS = 20  # at most so many columns or runs in one chart


def chart_rows(status: Status, limits: Monitoring) -> dict[str, list[Row]]:
    """Return what each chart of the project's mode draws; no rows when there is nothing to draw."""
    result = {}
    if status.mode != "batch":
        rows = _traffic(status) if any(point["requests"] for point in status.traffic) else []
        bad = any(point["refused"] or point["failed"] for point in rows)
        result = {"traffic": rows, "errors": rows if bad else [], "latency": rows}
    result |= {"predictions": status.predictions, "drift": _drift(status, limits)}
    if status.mode != "real-time":
        rows = [_run(run) for run in reversed(status.runs[:BARS])]
        result["runs"] = rows if any(row["rows in"] for row in rows) else []
    return result


def spec(name: str, rows: list[Row]) -> dict[str, Any] | None:
    """Return the Vega-Lite specification of a chart, or None when there is nothing to draw."""
    height = 20 * len(rows) + 10 if name == "drift" else 180
    return {**_looks()[name], "height": height, "data": {"name": "rows", "values": rows}} if rows else None


def _traffic(status: Status) -> list[Row]:
    rows = []
    for point in status.traffic:
        seconds = min(status.step, max(60, (status.time - point["time"]).total_seconds()))  # the last bin is not full
        row = point | {"time": int(point["time"].timestamp() * 1000), "from": stamp(point["time"])}
        row["rate"] = round(point["requests"] * 60 / seconds, 2)
        for name in ("median", "p99"):  # what took longer than 10 s is drawn there
            row |= {name: point[name] and min(point[name], 1e4), f"{name} at most": duration(point[name])}
        rows.append(row)
    return rows


def _drift(status: Status, limits: Monitoring) -> list[Row]:
    low, high = limits.psi_warning, limits.psi_alert
    drifts = [one for one in status.checks if one["kind"] == "drift" and one["current"] and one["value"] is not None]
    return [  # a bar is cut at four times the alert line; its label tells the value
        {"column": one["subject"], "psi": min(one["value"], 4 * high), "told": f"{one['value']:.3f}"}
        | {"state": one["state"], "low": low, "high": high}
        for one in sorted(drifts, key=lambda one: -one["value"])[:BARS]
    ]


def _run(run: Row) -> Row:
    out, held, taken = run["rows_published"], run["rows_quarantined"], run["rows_in"]
    row = {"run": run["id"], "started": stamp(run["started"]), "status": run["status"], "rows in": taken}
    return row | {"published": out, "quarantined": held, "not published": max(taken - out - held, 0)}


@cache
def _looks() -> dict[str, dict[str, Any]]:
    """Return what each chart looks like, without its rows."""
    import altair as alt

    base = alt.Chart(alt.NamedData(name="rows"))

    def several(*names: str) -> Any:
        """Draw several fields of each row, each in its colour."""
        colour = alt.Color("of:N").scale(domain=list(names), range=[TONES[name] for name in names])
        return base.transform_fold(list(names), as_=["of", "value"]).encode(colour)

    step: dict[str, Any] = {"interpolate": "step-after", "strokeWidth": 1.5}
    clock = dict.fromkeys(("year", "month", "week", "date", "day"), "%d %b") | {"hours": "%H:%M", "minutes": "%H:%M"}
    time = alt.X("time:T").scale(type="utc")
    time = time.axis(title="UTC", grid=False, tickCount=6, labelSeparation=8, format=clock)

    traffic = base.mark_area(**step, line={**step, "color": BLUE}, color=BLUE, opacity=0.25)
    traffic = traffic.encode(time, alt.Y("rate:Q").title("requests / min"), tooltip=["from:N", "requests:Q"])
    errors = several("refused", "failed").mark_bar(width={"expr": "max(2, width / 200)"})
    count = alt.Y("value:Q").axis(title="requests", tickMinStep=1, format="~s")
    errors = errors.encode(time, count, tooltip=["from:N", "refused:Q", "failed:Q"])
    latency = several("median", "p99").mark_line(**step, point={"size": 12})
    milliseconds = alt.Y("value:Q").scale(type="log").axis(title="ms", tickCount=4, format="~g")
    latency = latency.encode(time, milliseconds, tooltip=["from:N", "median at most:N", "p99 at most:N"])

    value = alt.X("predicted:N", sort=None).axis(title=None, labelAngle=-35, labelLimit=110)
    share = alt.Y("value:Q").axis(title="share of rows", format=".0%")
    shares = [alt.Tooltip(f"{name}:Q", format=".1%") for name in ("reference", "now")]
    predictions = several("reference", "now").mark_bar()
    predictions = predictions.encode(value, share, alt.XOffset("of:N", sort=None), tooltip=["predicted:N", *shares])

    column = alt.Y("column:N", sort=None).axis(title=None, labelLimit=150, ticks=False, domain=False)
    psi, told = alt.X("psi:Q").scale(domainMin=0).title("PSI"), alt.Tooltip("told:N", title="PSI")
    drifts = base.encode(psi, column, tooltip=["column:N", told, "state:N"])
    level = alt.Color("state:N").scale(domain=list(LEVELS), range=list(LEVELS.values())).legend(None)
    bars = drifts.mark_bar(height={"band": 0.65}).encode(level)
    text = drifts.mark_text(align="left", dx=4, fontSize=11).encode(text="told:N")
    low = base.mark_rule(strokeDash=[4, 3], color=AMBER).encode(x="min(low):Q")
    high = base.mark_rule(strokeDash=[4, 3], color=RED).encode(x="min(high):Q")
    drift = alt.layer(bars, text, low, high)

    fates = ["published", "quarantined", "not published"]
    run = alt.X("run:N", sort=None).axis(title=None, labels=False, ticks=False)
    rows = [alt.Tooltip(f"{name}:Q", format=",") for name in ("rows in", *fates)]
    runs = several(*fates).mark_bar(width={"band": 0.7})
    runs = runs.encode(run, alt.Y("value:Q").axis(title="rows", format="~s"), tooltip=["started:N", "status:N", *rows])

    looks = {"traffic": traffic, "errors": errors, "latency": latency}
    looks |= {"predictions": predictions, "drift": drift, "runs": runs}
    return {name: look.to_dict() | {"width": "container", "config": CONFIG} for name, look in looks.items()}
