"""One batch run, told for people: by its page and in the terminal. It asks the log, and the files if they are here."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..settings import Settings
from ..store.database import Store
from ..store.queries import Row, find_run
from .state import STALE_RUN, Item, Level, number, sentence, stamp

LEVELS: dict[str, Level] = {"succeeded": "ok", "failed": "alert", "running": "unknown"}
MOST = 50  # files that are listed
FOUND = 3  # checks that are told


@dataclass(slots=True)
class RunView:
    """All of it, at one moment.

    Attributes:
        run: its row of the log.
        why: how it is and what to do next, with commands between backticks.
        facts: what it is, by name.
        figures: of its rows and time; ``sum`` whether the rows that came in are those published and quarantined.
        steps: as recorded (see `pipeline.records.told`), each also with ``rate``, rows a second, and ``share`` of all
            seconds.
        reasons: why rows are in quarantine, the most frequent first.
        files: path, rows, bytes and whether each is there; at most `MOST` of ``files_all``.
        folder: of what was published.
    """

    title: str
    slug: str
    time: datetime
    run: Row
    level: Level
    why: str
    folder: Path
    facts: dict[str, str] = field(default_factory=dict)
    figures: list[Item] = field(default_factory=list)
    sum: bool = False
    steps: list[Row] = field(default_factory=list)
    no_steps: str = ""
    reasons: list[tuple[str, int]] = field(default_factory=list)
    files: list[Row] = field(default_factory=list)
    files_all: int = 0
    bytes_all: int = 0
    no_files: str = ""


class RunReader:
    """Reads runs again and again, keeping the store open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Store | None = None
        self._lock = threading.Lock()

    def read(self, reference: str) -> RunView:
        """Return a run, as `read` does."""
        with self._lock:
            self._store = self._store or Store(self._settings)
        return read(self._store, self._settings, reference)


def read(store: Store, settings: Settings, reference: str) -> RunView:
    """Return the run of an id, of its first characters, or the ``latest``.

    Raises:
        NoRun: there is none, or several begin so.
        ProjectError: the store cannot be read.
    """
    run, project, now = find_run(store, reference), settings.project, datetime.now(UTC)
    folder = Path(run["output"]) / run["id"]
    manifest = _manifest(folder)
    run["reasons"] = dict(sorted(run["reasons"].items(), key=lambda item: -item[1]))
    view = RunView(project.title, project.slug, now, run, LEVELS.get(run["status"], "unknown"), "", folder)
    view.reasons = list(run["reasons"].items())
    view.why = _why(view, bool(manifest))
    told = run["steps"]
    view.facts = _facts(run, told, manifest)
    view.figures = _figures(run)
    view.sum = run["rows_in"] == run["rows_published"] + run["rows_quarantined"] > 0
    view.steps = _steps(told.get("steps", ()))
    if not view.steps:
        ended = "It ran before steps were recorded." if run["status"] == "succeeded" else ""
        view.no_steps = ended or "What its steps did is recorded when it has succeeded."
    listed = manifest.get("files", [])
    view.files = [{**entry, "there": (folder / entry["path"]).is_file()} for entry in listed[:MOST]]
    view.files_all, view.bytes_all = len(listed), sum(entry["bytes"] for entry in listed)
    view.no_files = _no_files(run, folder)
    return view


def _manifest(folder: Path) -> Row:
    try:
        found: Row = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _why(view: RunView, there: bool) -> str:
    """Say in a few sentences how a run is, and what to do next."""
    run, command = view.run, f"{view.slug} pipeline"
    if run["status"] == "failed":
        request = view.folder.with_name(f".{run['id']}.partial") / "request.json"
        if request.is_file():
            return f"{sentence(run['error'] or 'It stopped')} What it has done is kept: `{command} resume` goes on."
        return f"{sentence(run['error'] or 'It stopped')} Mend it, then start it again: `{command} run`."
    if run["status"] == "running":
        stale = view.time - run["started"] >= STALE_RUN
        why = f"It has not ended for {STALE_RUN // timedelta(hours=1)} hours. " if stale else "It is at work. "
        return f"{why}If it was killed, `{command} resume` goes on where it was."
    if not there:
        why = (
            f"It published {run['rows_published']:,} rows, but its files are not in `{run['output']}` on this machine. "
        )
        return f"{why}If they are gone, the same `{command} run` makes them again."
    if run["rows_quarantined"]:
        why = f"{run['rows_quarantined']:,} rows are in quarantine. Take them out with "
        why += f"`{command} quarantine {run['id']} --output bad.csv`, correct them, then "
        return f"{why}`{command} resubmit {run['id']} --input bad.csv`."
    return "Every row was published."


def _facts(run: Row, told: Row, manifest: Row) -> dict[str, str]:
    facts = {"Model": run["model_version"], "Input": run["input"], "Output": run["output"]}
    if corrected := manifest.get("resubmits"):
        facts["Corrects"] = str(corrected)
    facts["Started"] = stamp(run["started"])
    facts["Ended"] = stamp(run["finished"]) if run["finished"] else "not yet"
    if told.get("steps"):
        workers = told.get("workers")
        facts["Engine"] = told["engine"] + (f", {workers} worker{'s' * (workers > 1)}" if workers else "")
        facts["Memory"] = f"{told['memory_mb']:,.0f} MB in one process at most"
    if checked := told.get("monitor"):
        facts["Monitoring"] = _monitoring(checked)
    return facts


def _monitoring(checked: Row) -> str:
    """Say what the step monitor found."""
    if "error" in checked:
        return f"not checked ({checked['error']})"
    found = [f"{one['kind']} of {one['subject']} ({one['detail']})" for one in checked["found"]]
    more = f"; and {len(found) - FOUND} more" if len(found) > FOUND else ""
    told = f"{checked['state']}: {checked['checks']} checks over {checked['rows']:,} rows"
    return f"{told}, {len(found)} found something: {'; '.join(found[:FOUND])}{more}" if found else told


def _figures(run: Row) -> list[Item]:
    """Return the figures of a run; the second and the third are parts of the first."""
    given, out, held, took = (run[name] for name in ("rows_in", "rows_published", "rows_quarantined", "seconds"))
    lost = given - out - held
    if run["status"] == "running":
        return [Item("Rows", "unknown", "-", "counted when it ends")]
    whole = "published + quarantined" if not lost else f"{lost:,} not published"
    share, made = f"{held / given:.1%} of the rows" if given else "no rows", "with a prediction" if out else "nothing"
    speed = f"{given / took:,.0f} rows a second" if took else "not measured"
    return [
        Item("Rows in", "ok", number(given), whole),
        Item("Published", "ok" if out or not given else "alert", number(out), made),
        Item("Quarantined", "warning" if held else "ok", number(held), share),
        Item("Time", "ok", f"{seconds(took)} s" if took is not None else "-", speed),
    ]


def _steps(told: Sequence[Row]) -> list[Row]:
    total = sum(one["seconds"] for one in told)
    return [
        {
            "resident_mb": None,
            **one,
            "rate": round(one["rows_in"] / one["seconds"]) if one["seconds"] else None,
            "share": one["seconds"] / total if total else 0.0,
        }
        for one in told
    ]


def _no_files(run: Row, folder: Path) -> str:
    if run["status"] == "succeeded":
        return f"There is no manifest in {folder}: the files are gone, or on another machine."
    return "Nothing is published before all rows are accounted for."


def seconds(value: float | None) -> str:
    """Write seconds for people: with the more digits the fewer they are."""
    return "-" if value is None else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def megabytes(size: int | None) -> str:
    """Write a number of bytes as megabytes."""
    return "-" if size is None else f"{size / 1e6:,.1f}" if size >= 1e6 else f"{size / 1e6:.3f}"
