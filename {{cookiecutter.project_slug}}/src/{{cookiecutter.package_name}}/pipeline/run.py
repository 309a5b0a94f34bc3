"""A run: every row of the input is published or quarantined, once, however often it is begun or killed.

In the output folder a run lives in ``.<run>.partial/`` until it is whole; then ``result/`` of it becomes
``<run>/`` by one rename, and ``latest.json`` points there. A reader who follows a manifest never sees half.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import structlog
from sqlalchemy import delete, select

from ..errors import ProjectError
from ..models.bundle import Bundle, encode, write_durably
from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store.database import Store
from ..store.events import upsert
from ..store.queries import recent_runs
from ..store.tables import quarantine, runs
from ..telemetry import metrics
from ..validation import Checked
from . import engines, manifest, steps
from .manifest import Json
from .sources import File, InputError, agree, find, identify, inspect

log = structlog.get_logger(__name__)

REQUEST = "request.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the share of the input (0 to 1), rows read and quarantined so far."""

    share: float
    rows: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended. ``already``: it had been published before. ``ignored``: names of files not read."""

    id: str
    folder: Path
    model_version: str
    rows_in: int
    rows_published: int
    rows_quarantined: int
    reasons: dict[str, int]
    seconds: float
    already: bool
    ignored: tuple[str, ...]


Report = Callable[[Progress], None]


def run(settings: Settings, source: str | Path, output: str | Path, progress: Report | None = None) -> Run:
    """Score files with the champion, or go on with the run of the same input and model that was begun before.

    Args:
        settings: of the project.
        source: a CSV or Parquet file, a folder of such files, or a glob pattern.
        output: the folder below which runs are published.
        progress: called after each chunk.

    Returns:
        What was published.

    Raises:
        ProjectError: nothing is published, and why.
    """
    request = {
        "input": os.path.abspath(source),
        "model_version": Registry(settings).resolve(CHAMPION),
        "chunk_rows": settings.pipeline.chunk_rows,
    }
    return _run(settings, request, Path(output).absolute(), progress)


def resume(settings: Settings, output: str | Path | None = None, progress: Report | None = None) -> Run | None:
    """Go on with the newest unfinished run, with the model that it began with.

    Args:
        settings: of the project.
        output: where to look; default: the output folders of the runs in the log.
        progress: called after each chunk.

    Returns:
        What was published, or None if no run is unfinished.

    Raises:
        ProjectError: nothing is published, and why.
    """
    folders = {Path(output).absolute()} if output else set()
    if output is None:
        with Store(settings) as store:
            folders = {Path(one["output"]) for one in recent_runs(store, 1000)}
    found = [path for folder in folders for path in folder.glob(f".*.partial/{REQUEST}")]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    try:
        request = json.loads(newest.read_bytes())
    except (OSError, ValueError):
        raise ProjectError(f"{newest} cannot be read: remove its folder and run again") from None
    return _run(settings, request, newest.parent.parent, progress)


def _run(settings: Settings, request: Json, output: Path, progress: Report | None) -> Run:
    paths, ignored = find(request["input"])
    files = identify(paths)
    bundle = Registry(settings).load(request["model_version"])
    key = manifest.key(files, bundle.version, request["chunk_rows"])
    if request.get("key", key) != key:
        raise ProjectError(f"{request['input']} has changed since the run began: start a new `pipeline run`")
    request = {**request, "key": key, "run": key[:16]}
    try:
        with Store(settings) as store:
            job = _Job(settings, store, bundle, files, request, output, progress)
            output.mkdir(parents=True, exist_ok=True)
            with manifest.lock(output / f".{job.id}.lock"):
                content, seconds, already = job.execute()
    except (OSError, ProjectError) as error:
        with suppress(OSError):
            output.rmdir()  # only if it is empty
        if isinstance(error, ProjectError):
            raise
        reason = error.strerror or error
        raise ProjectError(f"{output} cannot be written ({reason}): mend it, then `pipeline resume`") from None
    rows = content["rows"]
    return Run(
        id=job.id,
        folder=job.final,
        model_version=bundle.version,
        rows_in=rows["in"],
        rows_published=rows["published"],
        rows_quarantined=rows["quarantined"],
        reasons=content["reasons"],
        seconds=seconds,
        already=already,
        ignored=tuple(ignored),
    )


class _Job:
    """One run at work."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        bundle: Bundle,
        files: list[File],
        request: Json,
        output: Path,
        report: Report | None,
    ) -> None:
        self.settings, self.store, self.bundle, self.files = settings.pipeline, store, bundle, files
        self.request, self.report, self.output = request, report, output
        self.id: str = request["run"]
        self.final = output / self.id
        self.work = output / f".{self.id}.partial"
        self.result, self.chunks = self.work / "result", self.work / "chunks"

    def execute(self) -> tuple[Json, float, bool]:
        """Bring the run to its end from wherever it is; the lock is held.

        Returns:
            The manifest, the seconds of work, and whether it had been published before.
        """
        published = manifest.intact(self.final)
        if published and not self.work.exists() and (known := self._succeeded()) is not None:
            return published, known, True
        began = time.monotonic()
        try:
            content = published or self._score()
            earlier = sum(marker["seconds"] for marker in self._markers(verify=False))
            if not published:
                self._publish(content)
            pointer = {"run": self.id, "manifest": f"{self.id}/{manifest.NAME}"}
            manifest.replace(self.output / manifest.LATEST, pointer)
            self._log(content)
            seconds = max(earlier, time.monotonic() - began)
            self._record("succeeded", content, seconds)
        except BaseException as error:
            self._failed(error)
            if isinstance(error, Exception) and not isinstance(error, ProjectError | OSError):
                told = str(error).partition("\n")[0]
                raise ProjectError(f"the run stopped ({type(error).__name__}: {told})") from error
            raise
        shutil.rmtree(self.work, ignore_errors=True)
        metrics.PREDICTIONS.labels(self.bundle.version, "batch").inc(content["rows"]["published"])
        metrics.REJECTED.labels("batch").inc(content["rows"]["quarantined"])
        metrics.RUNS.labels("succeeded").inc()
        log.info("run published", run=self.id, model_version=self.bundle.version, **content["rows"])
        return content, seconds, published is not None

    def _score(self) -> Json:
        """Write the chunks that are missing, and add all up."""
        signature = self.bundle.signature
        needed = [column.name for column in signature.inputs]
        columns = agree([inspect(file, needed) for file in self.files])
        common = steps.Run(self.id, self.bundle.version, columns)
        for folder in (self.chunks, self.result / "predictions", self.result / "quarantine"):
            folder.mkdir(parents=True, exist_ok=True)
        manifest.replace(self.work / REQUEST, self.request)
        self._record("running")
        markers = self._markers()
        pending: deque[tuple[steps.Chunk, Checked]] = deque()

        def good() -> Iterator[pl.DataFrame]:
            for chunk in steps.ingest(self.files, self.request["chunk_rows"], tuple(markers)):
                checked = steps.check(signature, chunk)
                pending.append((chunk, checked))
                if checked.good.height:
                    yield checked.good.drop("row")

        clock = time.monotonic()
        for output in chain(engines.load().score(self.bundle, good()), [None]):
            scored = output
            # Chunks without a good row were never scored; they are written in their turn.
            while pending and (scored is not None or not pending[0][1].good.height):
                chunk, checked = pending.popleft()
                used, scored = (scored, None) if checked.good.height else (None, scored)
                now = time.monotonic()
                markers.append(self._write(common, chunk, checked, used, now - clock))
                clock = now
                self._progress(chunk, markers)
        content = manifest.build(self.request, self.files, markers)
        self._limit(content)
        return content

    def _write(
        self, common: steps.Run, chunk: steps.Chunk, checked: Checked, output: pl.DataFrame | None, seconds: float
    ) -> Json:
        """Write the files of a chunk, then the marker that says that they are whole."""
        files: list[Json] = []
        good, bad = checked.good, checked.bad
        if output is not None:
            if output.height != good.height:
                raise ProjectError(f"the model gave {output.height} rows for {good.height}: import it again")
            table = steps.predicted(common, chunk, good, output)
            files += steps.save(self.result, "predictions", chunk.number, table)
        files += steps.save(self.result, "quarantine", chunk.number, steps.rejected(common, chunk, bad))
        for entry in files:
            manifest.sync((self.result / entry["path"]).parent)
        marker = {
            "place": chunk.place,
            "rows": {"in": chunk.frame.height, "published": good.height, "quarantined": bad.height},
            "reasons": dict(checked.counts),
            "files": files,
            "seconds": seconds,
        }
        manifest.replace(self.chunks / f"{chunk.number:05d}.json", marker)
        return marker

    def _markers(self, verify: bool = True) -> list[Json]:
        """Return the finished chunks, up to the first that is missing or damaged."""
        markers: list[Json] = []
        while (path := self.chunks / f"{len(markers):05d}.json").is_file():
            marker = json.loads(path.read_bytes())
            if verify and not manifest.present(self.result, marker["files"]):
                break
            markers.append(marker)
        return markers

    def _progress(self, chunk: steps.Chunk, markers: list[Json]) -> None:
        if self.report:
            sizes = [file.size for file in self.files]
            read = sum(sizes[: chunk.place]) + chunk.share * sizes[chunk.place]
            rows, bad = (sum(marker["rows"][name] for marker in markers) for name in ("in", "quarantined"))
            self.report(Progress(read / sum(sizes), rows, bad))

    def _limit(self, content: Json) -> None:
        """Refuse to publish when too many rows are bad."""
        rows, limit = content["rows"], self.settings.quarantine_limit
        if rows["quarantined"] > limit * rows["in"]:
            most = Counter[str](content["reasons"]).most_common(3)
            raise _TooManyError(
                f"{rows['quarantined']} of {rows['in']} rows are bad, more than the {limit:.0%} that "
                "pipeline.quarantine_limit allows: nothing is published; most often "
                + ", ".join(f"{name} ({count})" for name, count in most),
                content,
            )

    def _publish(self, content: Json) -> None:
        write_durably(self.result / manifest.NAME, encode(content))
        manifest.sync(self.result)
        if self.final.exists():  # damaged: it would have been left alone otherwise
            shutil.rmtree(self.work / "damaged", ignore_errors=True)
            self.final.rename(self.work / "damaged")
        self.result.rename(self.final)
        manifest.sync(self.output)

    def _log(self, content: Json) -> None:
        """Log every prediction, each once."""
        paths = [entry["path"] for entry in content["files"] if entry["path"].startswith("predictions/")]
        for path in paths if self.settings.log_rows else ():
            frame = pl.read_parquet(self.final / path)
            with self.store.write() as connection:
                steps.log_predictions(connection, self.bundle.signature, self.id, self.bundle.version, frame)

    def _record(
        self, status: str, content: Json | None = None, seconds: float | None = None, error: str | None = None
    ) -> None:
        """Write the run's row, and its quarantine counts once they are known."""
        now = datetime.now(UTC)
        rows, counts = (content["rows"], content["reasons"]) if content else (Counter[str](), {})
        row: dict[str, Any] = {
            "key": self.request["key"],
            "status": status,
            "finished": None if status == "running" else now,
            "input": self.request["input"],
            "output": str(self.output),
            "model_version": self.bundle.version,
            "rows_in": rows["in"],
            "rows_published": rows["published"] if status == "succeeded" else 0,
            "rows_quarantined": rows["quarantined"],
            "seconds": seconds,
            "error": error,
        }
        reasons = Counter[str]()
        for reason, count in counts.items():
            reasons[reason[:255]] += count
        with self.store.write() as connection:
            statement = upsert(connection, runs).values(id=self.id, started=now, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=[runs.c.id], set_=row))
            connection.execute(delete(quarantine).where(quarantine.c.run_id == self.id))
            for reason, count in reasons.items():
                connection.execute(quarantine.insert().values(run_id=self.id, reason=reason, rows=count))

    def _failed(self, error: BaseException) -> None:
        """Note why the run stopped; what it has done stays for `resume`, unless its input is wrong."""
        reason = str(error) if isinstance(error, Exception) else "interrupted: `pipeline resume` goes on"
        with suppress(ProjectError):
            self._record("failed", error.content if isinstance(error, _TooManyError) else None, error=reason)
        if isinstance(error, InputError):
            shutil.rmtree(self.work, ignore_errors=True)
        metrics.RUNS.labels("failed").inc()
        log.error("run stopped", run=self.id, reason=reason)

    def _succeeded(self) -> float | None:
        """Return the seconds that the run took, if the log knows that it succeeded with this output."""
        query = select(runs.c.status, runs.c.output, runs.c.seconds).where(runs.c.id == self.id)
        with self.store.read() as connection:
            row = connection.execute(query).one_or_none()
        done = row and (row.status, row.output) == ("succeeded", str(self.output))
        return float(row.seconds or 0) if row and done else None


class _TooManyError(ProjectError):
    """Too many rows are bad; ``content`` counts them."""

    def __init__(self, message: str, content: Json) -> None:
        super().__init__(message)
        self.content = content
