"""A real Spark cluster on loopback gives the same bytes as this machine alone, even if a worker is killed."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import free_port, needs

ROWS, CHUNK_ROWS = 20_000, 100
DEADLINE = 180.0


def until(what: Callable[[], object], told: Callable[[], str]) -> None:
    """Wait for something to be true; fail with what is told after a while."""
    end = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < end, told()
        time.sleep(0.01)


def written(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Cluster:
    """A standalone master and two workers of one core each; all end with the test."""

    def __init__(self, python: Path, folder: Path) -> None:
        found = subprocess.run(
            [python, "-c", "import pyspark; print(pyspark.__path__[0])"], capture_output=True, text=True
        )
        home = found.stdout.strip()
        assert home, f"{python} has no pyspark: {found.stderr}"
        self.script, self.folder = Path(home) / "bin/spark-class", folder
        self.environment = os.environ | {
            "SPARK_HOME": home,
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_PYTHON": str(python),
        }
        self.started: list[subprocess.Popen[bytes]] = []
        self.start("Master", "--port", "0")
        until(lambda: "Starting Spark master at" in self.log("Master-0"), lambda: self.log("Master-0"))
        self.url = re.search(r"Starting Spark master at (spark://\S+)", self.log("Master-0"))[1]
        for _ in range(2):
            self.start("Worker", "--cores", "1", "--memory", "1g", "--work-dir", str(folder / "work"), self.url)
        until(lambda: self.log("Master-0").count("Registering worker") == 2, lambda: self.log("Master-0"))

    def start(self, kind: str, *arguments: str) -> None:
        """Start a daemon of Spark; its log is named after it and its place."""
        command = [self.script, f"org.apache.spark.deploy.{kind.lower()}.{kind}", "--host", "127.0.0.1"]
        with (self.folder / f"{kind}-{len(self.started)}.log").open("wb") as log:
            self.started.append(
                subprocess.Popen(
                    [*command, "--webui-port", "0", *arguments],
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def log(self, name: str) -> str:
        """Return what a daemon has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill(self, place: int) -> None:
        """Kill a process and those that it started, its executors."""
        os.killpg(self.started[place].pid, signal.SIGKILL)
        self.started[place].wait()

    def end(self) -> None:
        """Kill what is left."""
        for place in reversed(range(len(self.started))):
            if self.started[place].poll() is None:
                self.kill(place)


@pytest.fixture
def cluster(team: Path, tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(team, tmp_path / "cluster")
    yield cluster
    cluster.end()


@pytest.fixture(scope="module")
def project(team: Path, default_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion and rows of which some are bad."""
    needs("java")
    project = Path(shutil.copytree(default_project, tmp_path_factory.mktemp("spark") / "project"))
    for arguments in (
        "example train --rows 2000",
        "model import data/example/model.skops --sample data/example/sample.csv --target rentals",
        f"example rows --rows {ROWS} --bad 0.05 --output data/new.csv",
    ):
        call(team, project, arguments)
    version = next((project / "data/models/versions").glob("[!.]*")).name
    call(team, project, f"model promote {version}")
    return project


def command(python: Path, project: Path, arguments: str, **settings: object) -> dict[str, object]:
    variables = {f"BIKE_DEMAND_PIPELINE__{name.upper()}": str(value) for name, value in settings.items()}
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "SPARK_LOCAL_IP": "127.0.0.1"} | variables
    environment["PYSPARK_PYTHON"] = str(python)
    return {"args": [python, "-m", "bike_demand", *arguments.split()], "cwd": project, "env": environment}


def call(python: Path, project: Path, arguments: str, **settings: object) -> str:
    done = subprocess.run(**command(python, project, arguments, **settings), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_publishes_the_same_bytes(team, project, cluster, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    size = {"chunk_rows": CHUNK_ROWS}
    call(team, project, f"pipeline run --input data/new.csv --output {here}", **size, workers=1)
    (project / "data/store.db").unlink()
    spark = size | {"engine": "spark", "spark_master": cluster.url}
    with (tmp_path / "run.log").open("wb") as log:
        run = command(team, project, f"pipeline run --input data/new.csv --output {there}", **spark)
        process = subprocess.Popen(**run, stdout=log, stderr=log)
        told = (tmp_path / "run.log").read_text
        until(lambda: len(list(there.glob(".*.partial/chunks/*.json"))) >= 10 or process.poll() is not None, told)
        assert process.poll() is None, told()
        cluster.kill(1)
        assert process.wait(DEADLINE) == 0, told()
    assert "Lost executor" in told()
    wanted = written(here)
    assert sum(name.endswith(".parquet") for name in wanted) >= 2 * ROWS // CHUNK_ROWS - 10
    assert written(there) == wanted
    assert "20,000 rows in" in told()
    shown = json.loads(call(team, project, "pipeline show latest --json"))
    assert [one["step"] for one in shown["steps"]] == ["ingest", "validate", "transform", "score", "publish", "monitor"]
    assert all(one["seconds"] > 0 and one["resident_mb"] > 0 for one in shown["steps"])
    assert (shown["steps"][0]["rows_in"], shown["facts"]["Engine"].partition(",")[0]) == (ROWS, "spark")


@pytest.mark.slow
def test_spark_connect_publishes_the_same_bytes(team, project, tmp_path):
    """A driver that only speaks to a server, as to Databricks or another remote cluster."""
    found = subprocess.run([team, "-c", "import pyspark; print(pyspark.__path__[0])"], capture_output=True, text=True)
    home, port = Path(found.stdout.strip()), free_port()
    server = [home / "bin/spark-submit", "--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    options = {"grpc.binding.port": port, "grpc.binding.address": "127.0.0.1"}
    options = {f"spark.connect.{name}": value for name, value in options.items()} | {"spark.ui.enabled": "false"}
    server += [
        "--master",
        "local[2]",
        *(word for name, value in options.items() for word in ("--conf", f"{name}={value}")),
    ]
    environment = os.environ | {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": str(team)}
    here, there = tmp_path / "here", tmp_path / "there"
    call(team, project, f"pipeline run --input data/new.csv --output {here}", chunk_rows=5000, workers=1)
    (project / "data/store.db").unlink()
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*server, "spark-internal"], env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    told = (tmp_path / "server.log").read_text
    try:
        until(lambda: "Spark Connect server started" in told() or process.poll() is not None, told)
        master = f"sc://127.0.0.1:{port}"
        spark = {"chunk_rows": 5000, "engine": "spark", "spark_master": master}
        call(team, project, f"pipeline run --input data/new.csv --output {there}", **spark)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert written(there) == written(here)


@pytest.mark.slow
def test_spark_on_this_machine_tells_of_a_broken_row_in_one_sentence(team, project, tmp_path):
    broken = tmp_path / "broken.csv"
    broken.write_text((project / "data/new.csv").read_text() + "2025-01-01T00:00:00Z,centre\n")
    spark = {"chunk_rows": 3000, "engine": "spark", "spark_master": "local[2]"}
    run = command(team, project, f"pipeline run --input {broken} --output {tmp_path / 'out'}", **spark)
    done = subprocess.run(**run, capture_output=True, text=True)
    assert done.returncode == 1
    assert "broken.csv row 20001 has 2 fields where the header has 10" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_a_cluster_it_works_here_by_the_same_python(team, project, tmp_path):
    other = tmp_path / "bin/python3"  # what the path finds first knows none of the libraries
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\nexec "{sys.base_prefix}/bin/python3" -S "$@"\n')
    other.chmod(0o755)
    run = command(team, project, f"pipeline run --input data/new.csv --output {tmp_path / 'out'}", engine="spark")
    del run["env"]["PYSPARK_PYTHON"]
    run["env"]["PATH"] = f"{other.parent}:{run['env']['PATH']}"
    done = subprocess.run(**run, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20,000 rows in" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said(team, project, tmp_path):
    spark = {"engine": "spark", "spark_master": "spark://127.0.0.1"}
    run = command(team, project, f"pipeline run --input data/new.csv --output {tmp_path / 'out'}", **spark)
    done = subprocess.run(**run, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Spark at spark://127.0.0.1 cannot be started or reached" in done.stderr
    assert "Traceback" not in done.stderr
