"""One run at work: from its files to its folder, whatever stopped it before."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import structlog

from ..errors import ProjectError
from ..models.bundle import encode, write_durably
from ..models.registry import Registry
from ..settings import Settings
from ..store.database import Store
from ..telemetry.traces import Tracer
from . import engines, manifest, records
from .manifest import Json
from .sources import Chunk, File, InputError, inspect, plan, unchanged
from .steps import FILE, NUMBER, Work

log = structlog.get_logger(__name__)

REQUEST, LATEST = "request.json", "latest.json"
ORIGIN = (FILE, NUMBER, "reasons")  # what a quarantine says beside the row
ASKED = ("input", "sinks", "new_only", "resubmits")  # what is known of a run beside its identity

Report = Callable[[float, int, int], None]  # the share of the input that is done, rows read, rows quarantined


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended.

    Attributes:
        already: it had been published before.
        ignored: names of files not read.
        steps: what its steps tell (see `records.told`); empty if there was nothing to do.
    """

    id: str
    folder: Path
    model_version: str
    reasons: dict[str, int]
    seconds: float
    already: bool
    steps: Json
    rows_in: int
    rows_published: int
    rows_quarantined: int
    ignored: list[str] = field(default_factory=list)


class Job:
    """One run at work.

    Args:
        settings: of the project.
        asked: what was asked for: ``input``, ``sinks``, ``new_only``, ``resubmits``, ``model_version``, ``chunk_rows``;
            of a run that was begun before also its ``key``.
        output: the folder below which runs are published.
        files: of the input.
        copy_on: called with the published run, as often as needed, to fill the sinks.
        report: called after each chunk.

    Attributes:
        rows: of the whole input, once all chunks are planned.
        content: the manifest, empty until all rows are accounted for.
    """

    store: Store
    rows: int | None = None

    def __init__(
        self,
        settings: Settings,
        asked: Json,
        output: Path,
        files: list[File],
        copy_on: Callable[[Job], None],
        report: Report | None,
    ) -> None:
        """Work out what the run is: the same files, model and chunks are the same run."""
        self.settings, self.output, self.report, self.source = settings.pipeline, output, report, asked["input"]
        self._limits, self._metrics = settings.monitoring, settings.metrics_file
        self._tracer = Tracer(settings)
        self.files, self._fill = files, copy_on
        self.asked = {name: asked[name] for name in ASKED}
        self.bundle = Registry(settings).load(asked["model_version"])
        inputs = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in self.files]
        same = {"format": 1, "model_version": self.bundle.version, "chunk_rows": asked["chunk_rows"], "inputs": inputs}
        same |= {"resubmits": asked["resubmits"]} if asked["resubmits"] else {}
        key = hashlib.sha256(encode(same)).hexdigest()
        if asked.get("key", key) != key:
            raise ProjectError(f"{self.source} has changed since the run began: start a new `pipeline run`")
        self.id = key[:16]
        self.identity = {"run": self.id, "key": key, **same}
        self.content: Json = {}
        self.final, folder = output / self.id, output / f".{self.id}.partial"
        self.work = Work(self.id, folder / "model" / self.bundle.version, {}, folder)

    def execute(self) -> Run:
        """Bring the run to its end from wherever it is, under the lock."""
        began, folder, markers, failed = time.time(), self.work.folder, dict[int, Json](), True
        steps: Json = {}
        try:
            self.content = manifest.intact(self.final)
            already = bool(self.content)
            known = records.known(self.store, self.id)
            records.asked(self.store, self.id)
            if already and known and known[1] == str(self.output) and not (folder / REQUEST).exists():
                seconds = known[0]
                self._copy_on()
            else:
                self.work.prepare()
                markers |= self._markers(self.final if already else self.work.result)
                earlier = _span(markers.values())
                if not already:
                    self._score(markers)
                    self._total(markers)
                    self._publish()
                self._point()
                self._log()
                self._copy_on()
                if markers or not known:
                    steps = self._steps(markers.values())
                    seconds = earlier + time.time() - began
                else:  # the log knows it by another output: its steps were done then
                    seconds, _, steps = known
                self._tell(steps, seconds)
            (folder / REQUEST).unlink(missing_ok=True)
            counts = {f"rows_{name}": count for name, count in self.content["rows"].items()}
            reasons, version, failed = self.content["reasons"], self.bundle.version, False
            return Run(self.id, self.final, version, reasons, seconds, already, steps, **counts)
        except BaseException as error:
            self._failed(error)
            if isinstance(error, Exception) and not isinstance(error, ProjectError | OSError):
                told = str(error).partition("\n")[0]
                raise ProjectError(f"the run stopped ({type(error).__name__}: {told})") from error
            raise
        finally:
            if not (folder / REQUEST).exists():  # nothing to resume
                shutil.rmtree(folder, ignore_errors=True)
            rows = {f"pipeline.rows_{name}": count for name, count in _count(markers.values()).items()}
            about: dict[str, Any] = {"model.version": self.bundle.version, **rows}
            records.trace(self._tracer, self.id, began, about, markers.values(), steps, failed)

    def _copy_on(self) -> None:
        """Fill the sinks; until all are filled the run can be resumed."""
        if self.asked["sinks"]:
            self.work.folder.mkdir(exist_ok=True)
            manifest.replace(self.work.folder / REQUEST, {**self.asked, **self.identity}, self.work.folder)
            self._fill(self)

    def _steps(self, markers: Collection[Json]) -> Json:
        """Return what the steps tell, after the last one of them."""
        size = sum(file.size for file in self.files)
        told = records.told(markers, self.settings.engine, size)
        told = self._monitor(told) if markers and self.settings.monitor else told
        for step in told["steps"]:
            log.info("step done", run=self.id, **step)
        return told

    def _monitor(self, told: Json) -> Json:
        """Do the last step and add what it tells; what was published stays, whatever comes of it."""
        try:
            step, found = records.monitor(self._limits, self.bundle, self.final, self.content)
        except (Exception, pl.exceptions.PanicException) as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            log.warning("run not checked", run=self.id, reason=reason)
            return told | {"monitor": {"state": "unknown", "checks": 0, "rows": 0, "found": [], "error": reason}}
        return told | {"steps": [*told["steps"], step], "monitor": found}

    def _tell(self, steps: Json, seconds: float) -> None:
        self._record("succeeded", seconds=seconds, steps=json.dumps(steps))
        told = {name: value for name, value in steps.items() if name in ("engine", "workers", "memory_mb")}
        told |= {"monitor": steps["monitor"]["state"]} if "monitor" in steps else {}
        told |= {"model_version": self.bundle.version, "seconds": round(seconds, 3)}
        log.info("run published", run=self.id, **self.content["rows"], **told)
        self._expose()

    def _expose(self) -> None:
        if self._metrics:
            try:
                records.expose(self.store, self._metrics)
            except (OSError, ProjectError) as error:
                log.warning("metrics not written", file=str(self._metrics), reason=str(error))

    def _score(self, markers: dict[int, Json]) -> None:
        """Do the chunks that are missing."""
        manifest.replace(self.work.folder / REQUEST, {**self.asked, **self.identity})
        self._record("running")
        shutil.rmtree(self.work.model, ignore_errors=True)
        _copy(self.bundle.folder, self.work.model)  # where all workers see it
        needed = [column.name for column in self.bundle.signature.inputs]
        columns, corrected = inspect(self.files, needed, self.settings.unpack_ratio), bool(self.asked["resubmits"])
        if corrected:
            columns = {name: dtype for name, dtype in columns.items() if name not in ORIGIN}
        work, share = replace(self.work, columns=columns, corrected=corrected), 0.0

        def missing() -> Iterator[Chunk]:
            nonlocal share
            rows = 0
            size, ratio = self.identity["chunk_rows"], self.settings.unpack_ratio
            for chunk in plan(self.files, size, work.spool, ratio, markers):
                rows += chunk.rows
                if chunk.number in markers:
                    share += chunk.share
                else:
                    yield chunk
            self.rows = rows  # of the whole input: the engine must account for all

        try:
            with closing(engines.find(self.settings.engine).map(work, missing(), self.settings)) as done:
                for marker in done:
                    number = marker["number"]
                    markers[number], share = marker, share + marker["share"]
                    (work.spool / f"{number:05d}.csv").unlink(missing_ok=True)
                    if self.report:
                        rows = _count(markers.values())
                        self.report(min(1.0, share), rows["in"], rows["quarantined"])
        except InputError:
            unchanged(self.files)  # the better reason
            raise
        unchanged(self.files)

    def _markers(self, result: Path) -> dict[int, Json]:
        """Return the finished chunks whose files are whole."""
        markers = {}
        for number in self.work.finished():
            marker = self.work.told(number)
            if manifest.present(result, marker["files"]):
                markers[number] = marker
            else:
                self.work.marker(number).unlink()
        return markers

    def _total(self, found: dict[int, Json]) -> None:
        """Make the manifest, and refuse to publish it if rows are lost or too many are bad."""
        markers = [found[number] for number in sorted(found)]
        rows, reasons = _count(markers), Counter[str]()
        for marker in markers:
            reasons.update(marker["reasons"])
        files = [entry for marker in markers for entry in marker["files"]]
        self.content = {**self.identity, "rows": rows, "reasons": dict(sorted(reasons.items())), "files": files}
        everything, good, bad = rows.values()
        if not everything == good + bad == self.rows:
            raise ProjectError(
                f"the input has {self.rows} rows, but {everything} came in, {good} were scored and {bad} quarantined: "
                "nothing is published; please report this"
            )
        if bad > self.settings.quarantine_limit * everything:
            raise ProjectError(
                f"{bad} of {everything} rows are bad, more than the {self.settings.quarantine_limit:.0%} that "
                "pipeline.quarantine_limit allows: nothing is published; most often "
                + ", ".join(f"{name} ({count})" for name, count in reasons.most_common(3))
            )

    def _publish(self) -> None:
        write_durably(self.work.result / manifest.NAME, encode(self.content))
        manifest.sync(self.work.result)
        if self.final.exists():  # damaged: it would have been left alone otherwise
            shutil.rmtree(self.work.folder / "damaged", ignore_errors=True)
            self.final.rename(self.work.folder / "damaged")
        self.work.result.rename(self.final)
        manifest.sync(self.output)

    def _point(self) -> None:
        latest = {"run": self.id, "manifest": f"{self.id}/{manifest.NAME}"}
        manifest.replace(self.output / LATEST, latest, self.work.folder)

    def _log(self) -> None:
        """Log every prediction, each once."""
        paths = [entry["path"] for entry in self.content["files"] if entry["path"].startswith("predictions/")]
        for path in paths if self.settings.log_rows else ():
            frame = pl.read_parquet(self.final / path)
            with self.store.write() as connection:
                records.publish(connection, self.bundle.signature, self.id, self.bundle.version, frame)

    def _record(self, status: str, **more: Any) -> None:
        where = {"input": self.source, "output": str(self.output)}
        records.record(self.store, self.identity, self.content, status, **where, **more)

    def _failed(self, error: BaseException) -> None:
        """Note why the run stopped; what it has done stays for `resume`, unless its input is wrong."""
        reason = str(error) if isinstance(error, Exception) else "interrupted: `pipeline resume` goes on"
        with suppress(ProjectError):
            self._record("failed", error=reason)
            self._expose()
        if isinstance(error, InputError):
            (self.work.folder / REQUEST).unlink(missing_ok=True)
        log.error("run stopped", run=self.id, reason=reason)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder; the first error stops it, where `shutil.copytree` would go on and raise a list of them."""
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):  # a folder comes before what is in it
        to = target / path.relative_to(source)
        if path.is_dir():
            to.mkdir()
        else:
            shutil.copyfile(path, to)


def _count(markers: Iterable[Json]) -> dict[str, int]:
    """Count the rows of chunks: those that were read, and those in the files that were written."""
    everything, written = 0, Counter[str]()
    for marker in markers:
        everything += marker["rows"]
        for entry in marker["files"]:
            written[entry["path"].partition("/")[0]] += entry["rows"]
    return {"in": everything, "published": written["predictions"], "quarantined": written["quarantine"]}


def _span(markers: Iterable[Json]) -> float:
    """Return the seconds in which at least one chunk was at work."""
    total = until = 0.0
    for began, ended in sorted((marker["began"], marker["ended"]) for marker in markers):
        total, until = total + max(0.0, ended - max(began, until)), max(until, ended)
    return total
