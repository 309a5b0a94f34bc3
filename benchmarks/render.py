"""Measure how long each engine takes to render the default project, in a fresh process, as a person would.

Prints the median and the slowest of some runs, and the number of files. Nothing is asserted: it is a measurement.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = {"cookiecutter": 1.5, "copier": 4.0}


def copy_of_template(target: Path) -> Path:
    """Copy the work tree, without what git ignores, into a repository with one tag."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in listing.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    person = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "x"], ["tag", "v0.1.0"]):
        subprocess.run(["git", "-C", str(target), *person, *command], check=True)
    return target


def main() -> int:
    """Render, measure, print; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure how long a render takes.")
    parser.add_argument("--runs", type=int, default=5)
    runs: int = parser.parse_args().runs
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        template = copy_of_template(folder / "template")
        environment = os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        for engine, budget in BUDGET.items():
            seconds = []
            for run in range(runs):
                out = folder / f"{engine}-{run}"
                command = {
                    "cookiecutter": ["cookiecutter", str(template), "--no-input", "--output-dir", str(out)],
                    "copier": ["copier", "copy", "--defaults", "--quiet", str(template), str(out / "bike-demand")],
                }[engine]
                start = time.perf_counter()
                subprocess.run([tools / command[0], *command[1:]], env=environment, capture_output=True, check=True)
                seconds.append(time.perf_counter() - start)
            files = sum(path.is_file() for path in (out / "bike-demand").rglob("*"))
            print(
                f"{engine:<13} median {statistics.median(seconds):5.2f} s   slowest {max(seconds):5.2f} s   "
                f"budget {budget} s   {files} files"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
