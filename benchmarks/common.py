"""What benchmarks share: a copy of the template to measure, the figures, and the files they are written to."""

import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
RESULTS = HERE / "results.json"
TOOLS = Path(sys.executable).parent
PERSON = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"]

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


def first_row(project: Path) -> dict[str, object]:
    """Return a row that the default project's champion takes."""
    tool = project / ".venv/bin/bike-demand"
    shown = json.loads(subprocess.run([tool, "model", "show", "--json"], cwd=project, capture_output=True).stdout)
    columns = shown["signature"]["properties"]["input"]["properties"]
    return {name: (column.get("examples") or column.get("enum") or [False])[0] for name, column in columns.items()}


def free_port() -> int:
    """Return a port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def end_together() -> None:
    """See that a signal to end is an exception, so that what this process started ends with it."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(1))


def machine() -> str:
    """Describe where this was measured."""
    model = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    cores = f"{os.cpu_count()} cores" + (f" of {model[1]}" if model else "")
    return f"{cores}, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def write(section: str, title: str, made_by: str, figures: Sequence[Mapping[str, object]]) -> None:
    """Keep the figures of one benchmark beside those of the others, for people and for programs.

    Args:
        section: names the benchmark in ``results.json``.
        title: its heading in ``RESULTS.md``.
        made_by: the command, and what the figures are.
        figures: one a line; all with the same keys.
    """
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    about = {"title": title, "made_by": made_by, "machine": machine(), "date": time.strftime("%Y-%m-%d")}
    kept[section] = about | {"figures": list(figures)}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    lines = ["# Measured"]
    for one in kept.values():
        names = list(one["figures"][0])
        lines += ["", f"## {one['title']}", "", f"{one['date']}, {one['machine']}. Made by {one['made_by']}.", ""]
        lines += [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
        lines += [f"| {' | '.join(str(figure[name]) for name in names)} |" for figure in one["figures"]]
    (HERE / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
