"""The model registry elsewhere: an S3 server and an MLflow server, both real, both on loopback."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from support import free_port
from test_projects import run
from test_real_models import call, service

TRAIN = """
import sys
import skops.io
from sklearn import datasets
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge

folder = sys.argv[1]
data = datasets.load_diabetes(as_frame=True)
for name, model in (("forest", RandomForestRegressor(20, random_state=0)), ("ridge", Ridge())):
    skops.io.dump(model.fit(data.data, data.target), f"{folder}/{name}.skops")
data.frame.tail(120).rename(columns={"target": "outcome"}).to_csv(f"{folder}/sample.csv", index=False)
"""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


def start(command: list[object], probe: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a server; return once it answers at `probe`."""
    with log.open("wb") as file:
        options = {"cwd": log.parent, "env": os.environ | QUIET, "stdout": file, "stderr": file}
        options["start_new_session"] = True  # a server has children
        process = subprocess.Popen([str(word) for word in command], **options)
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(probe, timeout=5).close()
            return process
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and its children, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@pytest.fixture(params=["s3", "mlflow"])
def server(request, team, tmp_path):
    """Return the registry's URL, what the environment must hold for it, and the server's process."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    if request.param == "s3":
        command = [team.parent / "moto_server", "-H", "127.0.0.1", "-p", port]
        process = start(command, address, tmp_path / "s3.log")
        urllib.request.urlopen(urllib.request.Request(f"{address}/models", method="PUT")).close()
        given = "s3://models/team/bikes", {**KEYS, "AWS_ENDPOINT_URL": address}, process
    else:
        kept = "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", tmp_path / "files"
        command = [team.parent / "mlflow", "server", *kept, "--host", "127.0.0.1", "--port", port, "--workers", 1]
        process = start(command, f"{address}/health", tmp_path / "mlflow.log")
        given = f"mlflow+{address}/bikes", QUIET, process
    yield given
    stop(process)


@pytest.mark.slow
def test_a_registry_elsewhere(server, team, default_project, tmp_path, monkeypatch):
    url, environment, process = server
    for name, value in {**environment, "BIKE_DEMAND_MODELS__REGISTRY": url}.items():
        monkeypatch.setenv(name, value)
    here, there = (Path(shutil.copytree(default_project, tmp_path / name)) for name in ("here", "there"))
    subprocess.run([team, "-c", TRAIN, str(tmp_path)], check=True)

    def tool(project: Path, *words: object, status: int = 0) -> str:
        done = run(project, team, "bike_demand", *map(str, words))
        assert done.returncode == status, f"{words}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    # One machine imports and promotes; another, with the same settings, sees it.
    versions = []
    for name in ("forest", "ridge"):
        sample = ("--sample", tmp_path / "sample.csv", "--target", "outcome")
        versions.append(tool(here, "model", "import", tmp_path / f"{name}.skops", *sample).split()[-1])
        tool(here, "model", "promote", versions[-1], "--override", "a test", "--reason", name)
    forest, ridge = versions
    listed = tool(there, "model", "list")
    assert [line for line in listed.splitlines() if ridge in line and "champion" in line], listed
    assert forest in listed
    shown = json.loads(tool(there, "model", "show", "--json"))
    assert (shown["version"], shown["aliases"]["champion"]["previous"]) == (ridge, [forest])
    assert not (here / "data/models").exists()

    # It serves from its cache, follows a rollback within a second or so, and goes on when the registry goes away.
    with (tmp_path / "sample.csv").open() as file:
        row = {key: float(value) for key, value in next(csv.DictReader(file)).items() if key != "outcome"}

    def ask(method: str, path: str, body: object = None) -> dict[str, object]:
        connection.close()  # the service has ended one that was idle
        status, content = call(connection, method, path, body)
        assert status == 200, content
        return json.loads(content)

    with service(there, team) as connection:
        assert ask("GET", "/v1/model")["version"] == ridge
        before = ask("POST", "/v1/predict", {"row": row})["prediction"]
        tool(here, "model", "rollback", "--reason", "worse")
        deadline = time.monotonic() + 20
        while ask("GET", "/v1/model")["version"] != forest:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        after = ask("POST", "/v1/predict", {"row": row})["prediction"]
        assert after != before

        # As one file, it becomes the same version in a plain folder.
        packed = tmp_path / "ridge.bundle"
        tool(there, "model", "export", ridge, packed)
        with monkeypatch.context() as patch:
            patch.delenv("BIKE_DEMAND_MODELS__REGISTRY")
            assert tool(there, "model", "import", packed).split()[-1] == ridge
            assert (there / "data/models/versions" / ridge / "bundle.json").is_file()

        stop(process)
        assert ask("POST", "/v1/predict", {"row": row})["prediction"] == after
        assert "does not answer" in tool(here, "model", "list", status=1)
        assert ask("POST", "/v1/predict", {"row": row})["prediction"] == after
