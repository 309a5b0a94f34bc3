"""Scripts that read a source or fill a sink in the environment of a team, and wait until a test lets them go on."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Start = Callable[..., subprocess.Popen[str]]

# Each asks for a line before it goes on, so that what happens in between happens in the middle.
READ = """
import sys
from pathlib import Path
from bike_demand.pipeline import spool
from bike_demand.pipeline.spool import _parts
from bike_demand.settings import load
_parts.STEP, asked = 100_000, []
def report(told):
    print(told, flush=True)
    if "rows read" in told and not asked:
        asked.append(input())
print(*spool.fetch(sys.argv[1], Path(sys.argv[2]), load(), report))
"""
PUBLISH = """
import json, sys
from pathlib import Path
from bike_demand.pipeline import sinks
from bike_demand.settings import load
from bike_demand.signature import Column, Signature
folder, chunks = Path(sys.argv[2]), []
sinks.kinds()
real = sinks.sql._Load._load
def load_chunk(self, connection, entry):
    real(self, connection, entry)
    chunks.append(entry["path"])
    print("chunk", entry["path"], flush=True)
    if len(chunks) == 2:
        input()
sinks.sql._Load._load = load_chunk
signature = Signature("Hires", "regression", "hires", (Column("staff", "integer"),), (Column("prediction", "number"),))
manifest = json.loads((folder / "manifest.json").read_text())
sinks.publish(load(), folder, manifest, signature, sys.argv[1], lambda told: print(told, flush=True))
"""
# The command line, which stops once after some rows are read (`read`) or all chunks are scored (`score`).
RUN = """
import sys
from bike_demand.commands import main
from bike_demand.pipeline.job import Job
from bike_demand.pipeline.spool._parts import Parts
where, name = {"read": (Parts, "add"), "score": (Job, "_score")}[sys.argv.pop(1)]
real, asked = getattr(where, name), []
def paused(self, *given):
    real(self, *given)
    if getattr(self, "rows", 0) and not asked:
        print("in the middle", flush=True)
        asked.append(input())
setattr(where, name, paused)
main()
"""


def until(process: subprocess.Popen[str], word: str) -> str:
    """Read what a process prints up to a line with this word; return that line."""
    seen = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if word in line:
            return line
    raise AssertionError(f"never said {word!r}: {''.join(seen)}")


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> str:
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0, out
    return out


NOTES = [None, "", 'q"uo,te', "new\nline", "\\N", "\\.", "é", "NULL", "x", " "]


def publish_folder(team: Path, folder: Path, run: str) -> None:
    """Write a published run of five chunks."""
    script = """
import json, sys, polars as pl
from pathlib import Path
folder, run, files = Path(sys.argv[1]), sys.argv[2], []
(folder / "predictions").mkdir(parents=True)
for chunk in range(5):
    number = pl.int_range(chunk * 1000, chunk * 1000 + 1000, eager=True)
    text = pl.Series(json.loads(sys.argv[3]) * 100)
    table = pl.DataFrame({"prediction_id": run + "-" + number.cast(pl.String), "model_version": "v1",
        "source_file": "a", "source_row": number, "note": text, "open": number % 2 == 0,
        "at": pl.Series([1_700_000_000_000_000] * 1000).cast(pl.Datetime("us", "UTC")),
        "Staff %": number, "prediction": number / 3})
    name = f"predictions/predictions-{chunk:05d}.parquet"
    table.write_parquet(folder / name)
    files.append({"path": name, "rows": table.height, "sha256": ""})
(folder / "manifest.json").write_text(json.dumps({"run": run, "model_version": "v1", "files": files}))
"""
    subprocess.run([team, "-c", script, folder, run, json.dumps(NOTES)], check=True)
