"""Engines: whatever does the chunks, and however often it is killed, the same bytes come out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from sqlalchemy import select

import project
from project.errors import ProjectError
from project.models.registry import CHAMPION, Registry
from project.pipeline import sources
from project.pipeline.engines import local
from project.pipeline.run import resume, run
from project.pipeline.steps import Work
from project.store.database import Store
from project.store.queries import find_run
from project.store.tables import predictions

INPUTS = ["at", "temperature", "station", "staff", "open"]
KILLS = int(os.environ.get("KILLS", "10"))


def with_settings(settings, **pipeline):
    return settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update=pipeline)})


def written(folder: Path) -> dict[str, str]:
    """Return the hash of every file in a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def logged(settings) -> list[tuple]:
    columns = [predictions.c[name] for name in ("id", "source", "run_id", "row", "inputs", "output")]
    with Store(settings) as store, store.read() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(predictions.c.id))]


@pytest.fixture
def job(champion, rows, tmp_path):
    """Settings with small chunks; a folder with a CSV (some rows bad), the same packed, and a Parquet."""
    source = tmp_path / "in"
    source.mkdir()
    given = rows.select(*INPUTS)
    texts = given.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).cast(pl.String)
    texts = texts.with_columns(staff=pl.when(pl.int_range(pl.len()) % 10 == 3).then(pl.lit("x")).otherwise("staff"))
    texts.head(100).write_csv(source / "a.csv")
    texts.slice(100, 100).write_csv(source / "b.csv.gz", compression="gzip")
    given.tail(100).write_parquet(source / "c.parquet")
    return with_settings(champion, chunk_rows=7, workers=1), source, tmp_path / "out"


@pytest.fixture
def work(job, tmp_path):
    """The work of a run and its chunks, without the run."""
    settings, source, _ = job
    bundle = Registry(settings).load(CHAMPION)
    files = sources.identify(sources.find(source)[0])
    work = Work("r", bundle.folder, sources.inspect(files, INPUTS, 200), tmp_path / "work")
    work.prepare()
    return work, sources.plan(files, 7, work.spool, 200)


def test_the_number_of_workers_does_not_show(job):
    settings, source, output = job
    done = [
        (run(with_settings(settings, workers=count), source, output / str(count)), written(output / str(count)))
        for count in (1, 2, 3)
    ]
    assert len({result.id for result, _ in done}) == 1
    assert done[0][1] == done[1][1] == done[2][1]
    assert {result.rows_published for result, _ in done} == {280}


def test_chunks_are_not_piled_up(work):
    do, chunks = work
    asked = 0

    def counted():
        nonlocal asked
        for asked, chunk in enumerate(chunks, 1):  # noqa: B007
            yield chunk

    settings = project.settings.Pipeline(workers=2)
    for given, _ in enumerate(local.map(do, counted(), settings), 1):
        assert asked <= given + 4
    assert asked == given == 45


def test_a_chunk_done_twice_changes_nothing(work):
    do, chunks = work
    chunk = next(chunks)
    first = do(chunk)
    before = written(do.result)
    assert do(chunk)["files"] == first["files"]
    assert written(do.result) == before
    assert not list((do.folder / "drafts").iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_tells_what_each_step_did(job, workers):
    settings, source, output = job
    done = run(with_settings(settings, workers=workers), source, output)
    steps = {step.pop("step"): step for step in done.steps["steps"]}
    assert list(steps) == ["ingest", "validate", "transform", "score", "publish", "monitor"]
    assert all(step["seconds"] > 0 for step in steps.values())
    assert all(0 < step["resident_mb"] < 10_000 for step in steps.values()) or sys.platform != "linux"
    for name in ("transform", "score", "publish", "monitor"):
        assert steps[name]["rows_in"] == steps[name]["rows_out"] == done.rows_published
    assert steps["ingest"]["rows_in"] == done.rows_in
    assert steps["ingest"]["bytes"] == sum(path.stat().st_size for path in source.iterdir() if path.suffix != ".txt")
    assert steps["validate"]["rejected"] == done.rows_quarantined
    assert steps["publish"]["bytes"] == sum(path.stat().st_size for path in output.rglob("*.parquet"))
    assert max(step["resident_mb"] or 0 for name, step in steps.items() if name != "monitor") <= done.steps["memory_mb"]
    assert 0 < done.steps["memory_mb"] < 10_000
    with Store(settings) as store:
        told = find_run(store, done.id)["steps"]
    assert [step["step"] for step in told["steps"]] == list(steps)
    assert told["workers"] == workers


def test_a_worker_that_is_killed_is_said_and_the_run_goes_on(job, monkeypatch):
    settings, source, output = job
    started, real = [], subprocess.Popen

    def popen(*arguments, **options):
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(local.subprocess, "Popen", popen)

    def kill(*_):
        started[0].kill()

    two = with_settings(settings, workers=2)
    with pytest.raises(ProjectError, match=r"worker process ended.*pipeline\.workers"):
        run(two, source, output, kill)
    assert all(process.poll() is not None for process in started)
    assert not [path for path in output.iterdir() if not path.name.startswith(".")]
    assert resume(two, output).rows_published == 280


def test_an_unknown_engine_is_refused(job):
    settings, source, output = job
    with pytest.raises(ProjectError, match=r"no engine ray: set pipeline\.engine to one of local, spark"):
        run(with_settings(settings, engine="ray"), source, output)


def test_an_engine_that_forgets_a_chunk_publishes_nothing(job, monkeypatch):
    settings, source, output = job
    real = local.map

    def forgetful(work, chunks, settings):
        yield from (marker for marker in real(work, chunks, settings) if marker["number"] != 11)

    monkeypatch.setattr(local, "map", forgetful)
    with pytest.raises(ProjectError, match=r"the input has 300 rows, but 293 came in.*nothing is published"):
        run(settings, source, output)
    assert not [path for path in output.iterdir() if not path.name.startswith(".")]


def test_a_broken_row_in_a_late_chunk_leaves_nothing(job):
    settings, source, output = job
    with (source / "a.csv").open("a") as stream:
        stream.write("2025-01-01,1,north\n")
    with pytest.raises(ProjectError, match=r"a\.csv row 101 has 3 fields where the header has 5"):
        run(with_settings(settings, workers=2), source, output)
    assert not output.exists()


RUN = """
import sys
sys.path[:0] = {path!r}
from {package}.settings import load
from {package}.pipeline import run as runs
settings = load(__import__("pathlib").Path({root!r}))
settings = settings.model_copy(update=dict(pipeline=settings.pipeline.model_copy(update={update!r})))
{call}
"""


def child(settings, workers: int, call: str, **more) -> subprocess.Popen:
    update = {"chunk_rows": 7, "workers": workers, **more}
    code = RUN.format(path=sys.path, package=project.__name__, root=str(settings.root), update=update, call=call)
    return subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-3, text=True)


def test_killed_as_it_reads_its_input_a_run_is_found_again(job, tmp_path):
    settings, source, output = job
    pl.read_csv(source / "a.csv", infer_schema=False).write_csv(tmp_path / "rows.csv", separator=";")
    die = "import os; runs.spool._parts.Parts.add = lambda *_: os.kill(os.getpid(), 9)"
    with child(settings, 1, f"{die}; runs.run(settings, {str(tmp_path / 'rows.csv')!r}, {str(output)!r})") as process:
        process.communicate()
    assert process.returncode == -9
    result = resume(settings)  # nobody says where
    assert (result.folder.parent, result.rows_in) == (output, 100)
    assert resume(settings) is None


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(job, rows, tmp_path):
    settings, _, output = job
    most = {}
    for times in (100, 1000):
        path = tmp_path / f"{times}.parquet"
        pl.concat([rows.select(INPUTS)] * times).write_parquet(path)
        call = f"run(settings, {str(path)!r}, {str(output)!r}).steps['memory_mb'])"
        with child(settings, 1, f"print(runs.{call}", chunk_rows=5000, log_rows=False) as process:
            most[times] = float(process.communicate()[0].splitlines()[-1])
    assert most[1000] < 1.15 * most[100]


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_gives_the_same_bytes(job, tmp_path):
    """Kill the run, and sometimes its resumption, when some chunks are done or some time later (KILLS=100: longer)."""
    settings, source, output = job
    whole = tmp_path / "undisturbed"
    run(settings, source, whole)
    wanted, log, pick = written(whole), logged(settings), random.Random(5)
    killed = 0
    while killed < KILLS:
        with Store(settings) as store, store.write() as connection:
            connection.execute(predictions.delete())
        call = f"runs.run(settings, {str(source)!r}, {str(output)!r})"
        for _ in range(pick.randint(1, 3)):
            process = child(settings, pick.randint(1, 3), call)
            killed += _killed(process, output, pick)
            call = f"runs.resume(settings, {str(output)!r})"
        result = resume(settings, output) or run(settings, source, output)
        assert result.rows_published == 280
        assert written(output) == wanted
        assert logged(settings) == log
        for path in sorted(output.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def _killed(process: subprocess.Popen, output: Path, pick: random.Random) -> bool:
    """Kill a run after so many chunks, or as it publishes, plus a moment; say whether it was still there."""
    chunks, moment = pick.randint(0, 50), pick.random() * 0.05
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        done = len(list(output.glob(".*.partial/chunks/[!.]*.json")))
        if done >= chunks or list(output.glob("*/manifest.json")):
            until = time.perf_counter() + moment
            while time.perf_counter() < until:
                pass
            break
    process.kill()
    process.communicate()
    return process.returncode == -9


def test_the_marker_of_a_chunk_is_what_its_engine_gives(work):
    do, chunks = work
    given = {marker["number"]: marker for marker in local.map(do, chunks, project.settings.Pipeline(workers=2))}
    assert sorted(given) == list(range(45))
    assert all(json.loads(do.marker(number).read_bytes()) == marker for number, marker in given.items())
