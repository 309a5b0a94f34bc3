"""Measure what a new user waits for: rendering, the demo, and a service's first prediction. Writes RESULTS.md.

Every figure is of whole processes, as a person would start them. Nothing is asserted: it is a measurement.
"""

import argparse
import http.client
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
TOOLS = Path(sys.executable).parent
PERSON = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"]
DEADLINE = 120.0

Figure = dict[str, object]


def copy_of_template(target: Path) -> Path:
    """Copy the work tree, without what git ignores, into a repository with one tag."""
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "x"], ["tag", "v0.1.0"]):
        subprocess.run(["git", "-C", str(target), *PERSON, *command], check=True)
    return target


def rounds(name: str, goal: float, count: int, measure: Callable[[int], float]) -> Figure:
    """Measure some rounds in seconds; print and return their median and spread beside the goal."""
    seconds = [measure(number) for number in range(count)]
    figure: Figure = {"what": name, "goal": goal, "median": round(statistics.median(seconds), 2), "rounds": count}
    figure |= {"fastest": round(min(seconds), 2), "slowest": round(max(seconds), 2)}
    print(f"{name:<48} median {figure['median']} s   {figure['fastest']} to {figure['slowest']} s   goal {goal} s")
    return figure


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
    shown = json.loads(subprocess.run([tool, "model", "show", "--json"], cwd=project, capture_output=True).stdout)
    columns = shown["signature"]["properties"]["input"]["properties"]
    row = {name: (column.get("examples") or column.get("enum") or [False])[0] for name, column in columns.items()}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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


def machine() -> str:
    """Describe where this was measured."""
    model = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    cores = f"{os.cpu_count()} cores" + (f" of {model[1]}" if model else "")
    return f"{cores}, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def write(figures: list[Figure]) -> None:
    """Write the figures for people and for programs."""
    where, day = machine(), time.strftime("%Y-%m-%d")
    document = {"machine": where, "date": day, "figures": figures}
    (HERE / "results.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    lines = ["# Measured", "", f"{day}, {where}. Made by `make bench`; seconds of whole processes.", ""]
    lines += ["| what | median | fastest to slowest | rounds | goal |", "|---|---|---|---|---|"]
    for one in figures:
        spread = f"{one['fastest']} to {one['slowest']}"
        lines.append(f"| {one['what']} | {one['median']} | {spread} | {one['rounds']} | {one['goal']} |")
    (HERE / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


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
    write(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
