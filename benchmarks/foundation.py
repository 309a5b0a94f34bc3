"""Measure what a new user waits for: rendering, the demo, and a service's first prediction. Writes RESULTS.md.

Every figure is of whole processes, as a person would start them. Nothing is asserted: it is a measurement.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import TOOLS, copy_of_template, first_row, free_port, rounds, write

DEADLINE = 120.0


def render(engine: str, template: Path, folder: Path) -> Callable[[int], float]:
    """Return the measure of one render of the default project."""

    def measure(number: int) -> float:
        out = folder / f"{engine}-{number}"
        command = {
            "cookiecutter": ["cookiecutter", str(template), "--no-input", "--output-dir", str(out)],
            "copier": ["copier", "copy", "--defaults", "--quiet", str(template), str(out / "bike-demand")],
        }[engine]
        environment = os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        start = time.perf_counter()
        subprocess.run([TOOLS / command[0], *command[1:]], env=environment, capture_output=True, check=True)
        return time.perf_counter() - start

    return measure


def demo(template: Path) -> tuple[float, float]:
    """Run ``make demo DETACH=1``; return the seconds until the first prediction could be asked, and in all."""
    hidden = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    start = time.perf_counter()
    process = subprocess.Popen(
        ["make", "demo", "DETACH=1"], cwd=template, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    answered = 0.0
    for line in process.stdout:
        if "the service answers" in line:
            answered = time.perf_counter() - start
    if process.wait():
        raise SystemExit("error: the demo failed: run `make demo DETACH=1` to see why")
    return answered, time.perf_counter() - start


def first_prediction(project: Path) -> float:
    """Start the service; return the seconds until a prediction is answered."""
    tool = project / ".venv/bin/bike-demand"
    row, port = first_row(project), free_port()
    start = time.perf_counter()
    service = subprocess.Popen([tool, "serve", "--port", str(port)], cwd=project, stdout=-3, stderr=-3)
    try:
        while time.perf_counter() - start < DEADLINE:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
            try:
                connection.request("POST", "/v1/predict", json.dumps({"row": row}))
                if connection.getresponse().status == 200:
                    return time.perf_counter() - start
            except OSError:
                time.sleep(0.005)
            finally:
                connection.close()
        raise SystemExit("error: the service did not predict")
    finally:
        service.terminate()
        service.wait()


def main() -> int:
    """Measure everything; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure what a new user waits for.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; the demo twice")
    count: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        template = copy_of_template(folder / "template")
        figures = [
            rounds(f"render by {engine}", goal, count, render(engine, template, folder))
            for engine, goal in (("cookiecutter", 1.5), ("copier", 4.0))
        ]
        first, whole = demo(template)
        figures.append(rounds("make demo on a fresh clone, until it answers", 60, 1, lambda _: first))
        figures.append(rounds("make demo on a fresh clone, everything checked", 90, 1, lambda _: whole))
        again = demo(template)[1]
        figures.append(rounds("make demo again, everything checked", 15, 1, lambda _: again))
        project = template / "build/demo/bike-demand"
        figures.append(rounds("first prediction after `serve`", 2, count, lambda _: first_prediction(project)))
    write("foundation", "What a new user waits for", "`make bench`; seconds of whole processes", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
