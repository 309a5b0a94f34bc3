"""A run: every row of the input is published or quarantined, once, however often it is begun or killed.

In the output folder a run lives in ``.<run>.partial/`` until it is whole; then ``result/`` of it becomes
``<run>/`` by one rename, and ``latest.json`` points there. A reader who follows a manifest never sees half.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import structlog
from sqlalchemy import delete, select

from ..errors import ProjectError
from ..models.bundle import encode, write_durably
from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store.database import Store
from ..store.events import upsert
from ..store.queries import recent_runs
from ..store.tables import quarantine, runs
from ..telemetry import metrics
from ..validation import ROW, Checked
from . import manifest, steps
from .engines import local
from .manifest import Json
from .sources import Chunk, InputError, Schema, find, identify, inspect, read

log = structlog.get_logger(__name__)

REQUEST, LATEST = "request.json", "latest.json"

Report = Callable[[float, int, int], None]  # the share of the input that is done, rows read, rows quarantined


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended. ``already``: it had been published before. ``ignored``: names of files not read."""

    id: str
    folder: Path
    model_version: str
    reasons: dict[str, int]
    seconds: float
    already: bool
    ignored: list[str]
    rows_in: int
    rows_published: int
    rows_quarantined: int


def run(settings: Settings, source: str | Path, output: str | Path, report: Report | None = None) -> Run:
    """Score files with the champion, or go on with the run of the same input and model that was begun before.

    Args:
        settings: of the project.
        source: a CSV or Parquet file, a folder of such files, or a glob pattern.
        output: the folder below which runs are published.
        report: called after each chunk.

    Raises:
        ProjectError: nothing is published, and why.
    """
    version, chunk_rows = Registry(settings).resolve(CHAMPION), settings.pipeline.chunk_rows
    asked = {"input": os.path.abspath(source), "model_version": version, "chunk_rows": chunk_rows}
    return _run(settings, asked, Path(output).absolute(), report)


def resume(settings: Settings, output: str | Path | None = None, report: Report | None = None) -> Run | None:
    """Go on with the newest unfinished run, with the model that it began with; None if there is none.

    It is looked for in ``output``, by default in the output folders of the runs in the log.

    Raises:
        ProjectError: nothing is published, and why.
    """
    if output:
        folders = {Path(output).absolute()}
    else:
        with Store(settings) as store:
            folders = {Path(one["output"]) for one in recent_runs(store, 1000)}
    found = [path for folder in folders for path in folder.glob(f".*.partial/{REQUEST}")]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    try:
        asked = json.loads(newest.read_bytes())
    except (OSError, ValueError):
        raise ProjectError(f"{newest} cannot be read: remove its folder and run again") from None
    return _run(settings, asked, newest.parent.parent, report)


def _run(settings: Settings, asked: Json, output: Path, report: Report | None) -> Run:
    job = _Job(settings, asked, output, report)
    try:
        with Store(settings) as job.store:
            job.work.mkdir(parents=True, exist_ok=True)
            with manifest.lock(job.work / "lock"):
                return job.execute()
    except OSError as error:
        reason = error.strerror or error
        raise ProjectError(f"{output} cannot be written ({reason}): mend it, then `pipeline resume`") from None
    finally:
        with suppress(OSError):
            output.rmdir()  # only if it is empty


class _Job:
    """One run at work; ``content`` is its manifest, empty until all rows are counted."""

    store: Store

    def __init__(self, settings: Settings, asked: Json, output: Path, report: Report | None) -> None:
        self.settings, self.output, self.report, self.source = settings.pipeline, output, report, asked["input"]
        paths, self.ignored = find(self.source)
        self.files = identify(paths)
        self.bundle = Registry(settings).load(asked["model_version"])
        inputs = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in self.files]
        same = {"format": 1, "model_version": self.bundle.version, "chunk_rows": asked["chunk_rows"], "inputs": inputs}
        key = hashlib.sha256(encode(same)).hexdigest()
        if asked.get("key", key) != key:
            raise ProjectError(f"{self.source} has changed since the run began: start a new `pipeline run`")
        self.id = key[:16]
        self.identity = {"run": self.id, "key": key, **same}
        self.content: Json = {}
        self.final, self.work = output / self.id, output / f".{self.id}.partial"
        self.result, self.chunks = self.work / "result", self.work / "chunks"

    def execute(self) -> Run:
        """Bring the run to its end from wherever it is, under the lock."""
        began = time.monotonic()
        try:
            self.content = manifest.intact(self.final)
            already = bool(self.content)
            seconds = None if (self.work / REQUEST).exists() else self._logged()
            if not already or seconds is None:
                markers = self._markers(self.final if already else self.result)
                earlier = sum(marker["seconds"] for marker in markers)
                if not already:
                    self._score(markers)
                    self._publish()
                manifest.replace(self.output / LATEST, {"run": self.id, "manifest": f"{self.id}/{manifest.NAME}"})
                self._log()
                seconds = earlier + time.monotonic() - began
                self._record("succeeded", seconds)
                metrics.RUNS.labels("succeeded").inc()
                metrics.PREDICTIONS.labels(self.bundle.version, "batch").inc(self.content["rows"]["published"])
                metrics.REJECTED.labels("batch").inc(self.content["rows"]["quarantined"])
                log.info("run published", run=self.id, model_version=self.bundle.version, **self.content["rows"])
            (self.work / REQUEST).unlink(missing_ok=True)
            counts = {f"rows_{name}": count for name, count in self.content["rows"].items()}
            reasons, version = self.content["reasons"], self.bundle.version
            return Run(self.id, self.final, version, reasons, seconds, already, self.ignored, **counts)
        except BaseException as error:
            self._failed(error)
            if isinstance(error, Exception) and not isinstance(error, ProjectError | OSError):
                told = str(error).partition("\n")[0]
                raise ProjectError(f"the run stopped ({type(error).__name__}: {told})") from error
            raise
        finally:
            if not (self.work / REQUEST).exists():  # nothing to resume
                shutil.rmtree(self.work, ignore_errors=True)

    def _score(self, markers: list[Json]) -> None:
        """Write the chunks that are missing, then add all up."""
        signature = self.bundle.signature
        columns = inspect(self.files, [column.name for column in signature.inputs])
        for folder in (self.chunks, self.result / "predictions", self.result / "quarantine"):
            folder.mkdir(parents=True, exist_ok=True)
        manifest.replace(self.work / REQUEST, {"input": self.source, **self.identity})
        self._record("running")
        done = [(marker["file"], marker["rows"]) for marker in markers]
        waiting: deque[tuple[Chunk, Checked]] = deque()

        def good() -> Iterator[pl.DataFrame]:
            for chunk in read(self.files, self.identity["chunk_rows"], done):
                waiting.append((chunk, checked := steps.check(signature, chunk)))
                yield checked.good.drop(ROW)

        before = time.monotonic()
        for output in local.score(self.bundle, good()):
            chunk, checked = waiting.popleft()
            files = self._write(columns, chunk, checked, output)
            before, seconds = time.monotonic(), time.monotonic() - before
            marker = {"file": chunk.file, "rows": chunk.frame.height, "reasons": dict(checked.counts)}
            markers.append(marker | {"files": files, "seconds": seconds})
            manifest.replace(self.chunks / f"{chunk.number:05d}.json", markers[-1])
            if self.report:
                rows = _count(markers)
                self.report(chunk.share, rows["in"], rows["quarantined"])
        self._total(markers)

    def _write(self, columns: Schema, chunk: Chunk, checked: Checked, output: pl.DataFrame) -> list[Json]:
        """Write the files of a chunk, none for no rows."""
        if output.height != checked.good.height:
            raise ProjectError(f"the model gave {output.height} rows for {checked.good.height}: import it again")
        tables = {
            "predictions": steps.predicted(self.id, self.bundle.version, columns, chunk, checked.good, output),
            "quarantine": steps.rejected(columns, chunk, checked.bad),
        }
        return [manifest.save(self.result, kind, chunk.number, table) for kind, table in tables.items() if table.height]

    def _markers(self, result: Path) -> list[Json]:
        """Return the finished chunks, up to the first whose marker or files are missing or damaged."""
        markers: list[Json] = []
        while (path := self.chunks / f"{len(markers):05d}.json").is_file():
            marker = json.loads(path.read_bytes())
            if not manifest.present(result, marker["files"]):
                break
            markers.append(marker)
        return markers

    def _total(self, markers: list[Json]) -> None:
        """Make the manifest, and refuse to publish it if rows are lost or too many are bad."""
        rows, reasons = _count(markers), Counter[str]()
        for marker in markers:
            reasons.update(marker["reasons"])
        files = [entry for marker in markers for entry in marker["files"]]
        self.content = {**self.identity, "rows": rows, "reasons": dict(sorted(reasons.items())), "files": files}
        everything, good, bad = rows.values()
        if everything != good + bad:
            raise ProjectError(
                f"{everything} rows came in, but {good} were scored and {bad} quarantined: "
                "nothing is published; please report this"
            )
        if bad > self.settings.quarantine_limit * everything:
            raise ProjectError(
                f"{bad} of {everything} rows are bad, more than the {self.settings.quarantine_limit:.0%} that "
                "pipeline.quarantine_limit allows: nothing is published; most often "
                + ", ".join(f"{name} ({count})" for name, count in reasons.most_common(3))
            )

    def _publish(self) -> None:
        write_durably(self.result / manifest.NAME, encode(self.content))
        manifest.sync(self.result)
        if self.final.exists():  # damaged: it would have been left alone otherwise
            shutil.rmtree(self.work / "damaged", ignore_errors=True)
            self.final.rename(self.work / "damaged")
        self.result.rename(self.final)
        manifest.sync(self.output)

    def _log(self) -> None:
        """Log every prediction, each once."""
        paths = [entry["path"] for entry in self.content["files"] if entry["path"].startswith("predictions/")]
        for path in paths if self.settings.log_rows else ():
            frame = pl.read_parquet(self.final / path)
            with self.store.write() as connection:
                steps.log(connection, self.bundle.signature, self.id, self.bundle.version, frame)

    def _logged(self) -> float | None:
        """Return the seconds that the run took, if the log knows that it succeeded with this output."""
        with self.store.read() as connection:
            row = connection.execute(select(runs).where(runs.c.id == self.id)).one_or_none()
        return row.seconds if row and (row.status, row.output) == ("succeeded", str(self.output)) else None

    def _record(self, status: str, seconds: float | None = None, error: str | None = None) -> None:
        """Write the run's row, and its quarantine counts once they are known."""
        now = datetime.now(UTC)
        rows, reasons = Counter[str](self.content.get("rows")), Counter[str]()
        row: dict[str, Any] = {
            "key": self.identity["key"],
            "status": status,
            "finished": None if status == "running" else now,
            "input": self.source,
            "output": str(self.output),
            "model_version": self.bundle.version,
            "rows_in": rows["in"],
            "rows_published": rows["published"] if status == "succeeded" else 0,
            "rows_quarantined": rows["quarantined"],
            "seconds": seconds,
            "error": error,
        }
        for reason, count in self.content.get("reasons", {}).items():
            reasons[reason[:255]] += count
        counts = [{"run_id": self.id, "reason": reason, "rows": count} for reason, count in reasons.items()]
        with self.store.write() as connection:
            statement = upsert(connection, runs).values(id=self.id, started=now, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=[runs.c.id], set_=row))
            connection.execute(delete(quarantine).where(quarantine.c.run_id == self.id))
            if counts:
                connection.execute(quarantine.insert(), counts)

    def _failed(self, error: BaseException) -> None:
        """Note why the run stopped; what it has done stays for `resume`, unless its input is wrong."""
        reason = str(error) if isinstance(error, Exception) else "interrupted: `pipeline resume` goes on"
        with suppress(ProjectError):
            self._record("failed", error=reason)
        if isinstance(error, InputError):
            (self.work / REQUEST).unlink(missing_ok=True)
        metrics.RUNS.labels("failed").inc()
        log.error("run stopped", run=self.id, reason=reason)


def _count(markers: Sequence[Json]) -> dict[str, int]:
    """Count the rows of chunks: those that were read, and those in the files that were written."""
    written = Counter[str]()
    for entry in (entry for marker in markers for entry in marker["files"]):
        written[entry["path"].partition("/")[0]] += entry["rows"]
    everything = sum(marker["rows"] for marker in markers)
    return {"in": everything, "published": written["predictions"], "quarantined": written["quarantine"]}
