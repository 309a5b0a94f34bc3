"""PySpark: the chunks of a run on a cluster that is there already, or on this machine.

``pipeline.spark_master`` is ``spark://host:7077``, ``yarn``, ``k8s://...``, ``sc://host:15002`` (Spark Connect) or
``local[2]``; empty, it is what ``spark-submit``, Databricks, Synapse or Fabric have set, and a session that is open is
used. Input and output must be on storage that every worker sees under the same path. The workers need Python with this
project's requirements: ``PYSPARK_PYTHON`` says which, and without it workers on this machine run by this Python. The
project's own code is sent to them.

A task is a chunk, or several that follow on each other: to begin one costs as much as half a chunk. Spark does the
tasks of a lost worker again; chunks that are done are left as they are, and whoever does a chunk writes the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
import tempfile
import zipfile
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ProjectError
from ..manifest import Json
from ..sources import Chunk
from ..steps import Work
from . import ALONE

if TYPE_CHECKING:
    from ...settings import Pipeline

POLL = 0.2  # seconds between looks for finished chunks
TURNS = 6  # tasks of a core
PACKAGE = Path(__file__).parents[2]
SCHEMA = "number long, answer binary"
DATE = (1980, 1, 1, 0, 0, 0)


def map(work: Work, chunks: Iterable[Chunk], settings: Pipeline) -> Generator[Json, None, None]:
    """Do chunks as tasks of Spark."""
    if listed := list(chunks):
        with _session(settings.spark_master) as session, tempfile.TemporaryDirectory() as folder:
            _send(session, Path(folder))
            parts = len(listed)
            if not _remote(session):  # where it cannot be asked how many cores there are, every chunk is a task
                parts = min(parts, TURNS * session.sparkContext.defaultParallelism)
            tasks = session.range(0, len(listed), 1, parts).mapInArrow(_task(work, listed), SCHEMA)
            yield from _watch(session, tasks, work, {chunk.number for chunk in listed})


def _task(work: Work, chunks: list[Chunk]) -> Any:
    """Return what a worker does with places in the list of chunks; it goes there as code, with nothing to import."""
    limits, packed = ALONE, pickle.dumps((work, chunks))

    def task(batches: Any) -> Any:
        import os
        import pickle

        import pyarrow

        os.environ.update(limits)
        work, chunks = pickle.loads(packed)
        for batch in batches:
            for place in batch.column(0).to_pylist():
                number = chunks[place].number
                done = work.marker(number).exists()
                answer = pickle.dumps(work.told(number) if done else work.attempt(chunks[place]))
                yield pyarrow.RecordBatch.from_pydict({"number": [number], "answer": [answer]})

    return task


def _watch(session: Any, tasks: Any, work: Work, waiting: set[int]) -> Iterator[Json]:
    """Give markers as they appear on the shared storage; what Spark itself collects comes only at the end."""
    group = f"{work.run}-{os.getpid()}"
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(_collect, session, tasks, group)
        try:
            while not job.done():
                wait([job], POLL)
                for number in waiting & set(work.finished()):
                    waiting.remove(number)
                    yield work.told(number)
            for row in _result(job):
                answer = pickle.loads(row.answer)
                if isinstance(answer, Exception):
                    raise answer
                if row.number in waiting:
                    yield answer
        finally:
            if not job.done():
                session.interruptTag(group) if _remote(session) else session.sparkContext.cancelJobGroup(group)


def _collect(session: Any, tasks: Any, group: str) -> Any:
    session.addTag(group) if _remote(session) else session.sparkContext.setJobGroup(group, group, True)
    return tasks.collect()


def _result(job: Future[Any]) -> Any:
    try:
        return job.result()
    except Exception as error:
        raise ProjectError(f"Spark gave the run up: see its log ({_line(error)}), then `pipeline resume`") from error


@contextmanager
def _session(master: str) -> Iterator[Any]:
    """Give the session that is open, or a new one that ends with the run."""
    try:
        import pyarrow  # noqa: F401
        from pyspark.sql import SparkSession
    except ImportError:
        raise ProjectError("pipeline.engine spark needs PySpark: install the project with its extra `spark`") from None
    if session := SparkSession.getActiveSession():
        yield session
        return
    builder: Any = SparkSession.builder
    options = {f"spark.executorEnv.{name}": value for name, value in ALONE.items()}
    options["spark.ui.showConsoleProgress"] = "false"
    if master.startswith("local"):
        options |= {f"spark.driver.{name}": "127.0.0.1" for name in ("host", "bindAddress")}
        options["spark.ui.enabled"] = "false"
    if master.startswith("sc://"):
        builder = builder.remote(master)
    else:
        builder = builder.appName(PACKAGE.name).config(map=options)
        builder = builder.master(master) if master else builder
    try:
        session = builder.getOrCreate()
    except Exception as error:
        where = f"at {master}" if master else "as it is configured"
        raise ProjectError(f"Spark {where} cannot be started or reached: {_line(error)}") from error
    context = getattr(session, "sparkContext", None)  # Spark Connect shows none
    if context and context.master.startswith("local") and "PYSPARK_PYTHON" not in os.environ:
        context.pythonExec = sys.executable  # not the first python3 that the path has
    try:
        yield session
    finally:
        session.stop()


def _send(session: Any, folder: Path) -> None:
    """Give the package to the workers; its name tells its content, as Spark never replaces what it has."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(PACKAGE.rglob("*.py")):
            name = (PACKAGE.name / path.relative_to(PACKAGE)).as_posix()
            archive.writestr(zipfile.ZipInfo(name, DATE), path.read_bytes())
    path = folder / f"{PACKAGE.name}-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.zip"
    path.write_bytes(content.getvalue())
    session.addArtifacts(str(path), pyfile=True) if _remote(session) else session.sparkContext.addPyFile(str(path))


def _remote(session: Any) -> bool:
    return ".connect." in type(session).__module__


def _line(error: Exception) -> str:
    """Return the line of an error of Java or Python that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("Caused by:")), lines[0] if lines else "?")
