"""What the soak and the overload share: a project with a champion, rows to send, and its service on loopback."""

import argparse
import csv
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common import ROOT, end_together, free_port
from peers import BENCH, PACKAGE, SLUG, Command
from processes import family
from serving import DEADLINE, PAUSE, surroundings

GRACE = 60.0  # seconds that a service may take to end
READ: dict[str, Callable[[str], object]] = {"number": float, "integer": int, "boolean": "true".__eq__}
STEPS = (
    "example train",
    "model import data/example/model.skops --sample data/example/sample.csv --target rentals",
    "model promote",
)


def choose(parser: argparse.ArgumentParser, name: str) -> tuple[argparse.Namespace, Path]:
    """Read the command line; return what it says, and the project: the one it names, or a new one.

    Args:
        parser: with the arguments of one benchmark; those of all are added.
        name: of a new project's folder.
    """
    parser.add_argument("--python", type=_path, default=ROOT / "build/env/bin/python", help="of the project")
    parser.add_argument("--project", type=_path, help="one that has a champion; otherwise a new one")
    chosen = parser.parse_args()
    end_together()
    return chosen, chosen.project or prepare(chosen.python, name)


def environment(project: Path) -> dict[str, str]:
    """Return the environment in which a project runs from its sources."""
    return surroundings() | {"PYTHONPATH": str(project / "src")}


def prepare(python: Path, name: str) -> Path:
    """Make a project anew in ``build/bench``, with a champion that its own commands trained; return its folder."""
    folder = BENCH / name
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, ROOT / "scripts/render.py", folder], check=True, stdout=subprocess.DEVNULL)
    project, version = folder / SLUG, ""
    for step in STEPS:
        words = [*step.split(), *([version] if step == STEPS[-1] else [])]
        command: Command = [python, "-m", PACKAGE, *words]
        done = subprocess.run(command, cwd=project, env=environment(project), stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"error: the project cannot be made ready: {step} failed")
        version = done.stdout.split()[-1]
    return project


def rows(project: Path) -> list[dict[str, Any]]:
    """Return the rows of the example's sample in which nothing is missing, as the service takes them."""
    folder = project / "data/example"
    signature = json.loads((folder / "signature.json").read_text(encoding="utf-8"))
    columns: Mapping[str, Any] = signature["properties"]["input"]["properties"]
    kinds = {name: column["type"] for name, column in columns.items()}
    kinds = {name: kind if isinstance(kind, str) else kind[0] for name, kind in kinds.items()}  # or null
    with (folder / "sample.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if all(line[name] for name in kinds)]
    return [{name: READ.get(kind, str)(line[name]) for name, kind in kinds.items()} for line in lines]


@contextmanager
def service(python: Path, project: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run one worker with the project's settings; give the process and its port, and leave nothing of it.

    Raises:
        SystemExit: it does not start.
    """
    port = free_port()
    command: Command = [python, "-m", PACKAGE, "serve", "--port", str(port)]
    with (project / "service.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=project, env=environment(project), stdin=-3, stdout=log, stderr=log, start_new_session=True
        )
    try:
        began = time.monotonic()
        while not _ready(port):
            if process.poll() is not None or time.monotonic() - began > DEADLINE:
                raise SystemExit(f"error: the service does not start: {log.name} says why")
            time.sleep(PAUSE)
        yield process, port
    finally:
        for pid in family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def stop(process: subprocess.Popen[bytes]) -> int:
    """End a service as an orchestrator does; return its exit code, or -9 if it does not end."""
    process.terminate()
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL


def _path(text: str) -> Path:
    return Path(text).absolute()  # a link to a Python stays one


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
