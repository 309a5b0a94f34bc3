"""Measure a batch: the same model over the same rows by pandas, by ONNX Runtime alone, by us, by us on Spark.

Each measurement is a process of its own, in rounds in which they take turns. Memory is that of all its processes
together; it is looked at in one more round, whose time does not count, because the looks take a tenth of a core from
those that need both. Nothing is asserted: it is a measurement.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
from common import write

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, PART, CHUNK = "bike_demand", 1_000_000, 65_536
ONE = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SIZES = [1_000_000, 20_000_000]
ONE_WORKER = "this project, one worker"
PEERS = {
    "pandas + scikit-learn, one thread": ("pandas", ONE),
    "ONNX Runtime alone, arrays ready": ("onnx", ONE),
    ONE_WORKER: ("local", ONE | {f"{PACKAGE.upper()}_PIPELINE__WORKERS": "1"}),
    "this project, two workers": ("local", {f"{PACKAGE.upper()}_PIPELINE__WORKERS": "2"}),
    "this project on Spark, local[2]": ("spark", {}),
    "validation alone, with reasons, one thread": ("validate", ONE),
}

Result = dict[str, Any]


def by_pandas(data: Path, out: Path) -> float:
    """What most people write: read all, derive the parts of the time, predict, write."""
    import pandas as pd
    import skops.io

    path = data.parent / "example/model.skops"
    model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    start = time.perf_counter()
    frame = pd.read_parquet(data)
    times = frame["timestamp"].dt
    parts = {"timestamp_hour": times.hour, "timestamp_weekday": times.weekday, "timestamp_month": times.month}
    columns = frame.assign(**{name: part.astype(float) for name, part in parts.items()})
    frame["prediction"] = model.predict(columns[list(model.feature_names_in_)])
    out.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out / "predictions.parquet")
    return time.perf_counter() - start


def by_onnx(data: Path, out: Path) -> float:
    """The least that any way around an ONNX session can take: its runs alone, over arrays made before."""
    import numpy as np
    from bike_demand.models.matrix import matrices
    from bike_demand.models.runtimes import features
    from bike_demand.models.runtimes.onnx import OnnxRuntime

    bundle, seconds = _scorer().bundle, 0.0
    told, path = bundle.manifest, str(bundle.folder / "model.onnx")
    runtime = OnnxRuntime(path, features(told["numeric"]), told["text"], False, told["dtype"])
    for frame in _frames(data):
        ready = np.ascontiguousarray(matrices(frame, runtime.numeric, (), runtime.dtype)["numeric"])
        start = time.perf_counter()
        runtime.run(ready, None)
        seconds += time.perf_counter() - start
    return seconds


def by_validate(data: Path, out: Path) -> float:
    """Part good rows from bad, every twentieth row bad."""
    import polars as pl
    from bike_demand.validation import check_frame

    signature, seconds = _scorer().signature, 0.0
    for frame in _frames(data, derived=False):
        spoilt = frame.with_columns(docks=pl.when(pl.int_range(pl.len()) % 20 == 0).then(500).otherwise("docks"))
        start = time.perf_counter()
        check_frame(signature, spoilt)
        seconds += time.perf_counter() - start
    return seconds


def by_local(data: Path, out: Path) -> float:
    """Run the pipeline, all of it: hash the input, validate, score, write, publish."""
    from bike_demand.pipeline.run import run
    from bike_demand.settings import load

    start = time.perf_counter()
    result = run(load(), data, out)
    seconds = time.perf_counter() - start
    seconds_of = {f"{step['step']}_seconds": step["seconds"] for step in result.steps["steps"]}
    print(json.dumps(seconds_of), file=sys.stderr)
    return seconds


def by_spark(data: Path, out: Path) -> float:
    """Run the pipeline on Spark that has started: a cluster is there before a run is."""
    from bike_demand.pipeline.engines import spark

    start = time.perf_counter()
    with spark._session("local[2]") as session:
        session.range(2).mapInArrow(lambda batches: batches, "id long").collect()
        print(json.dumps({"spark_start_seconds": round(time.perf_counter() - start, 2)}), file=sys.stderr)
        os.environ[f"{PACKAGE.upper()}_PIPELINE__ENGINE"] = "spark"
        return by_local(data, out)


def _scorer() -> Any:
    from bike_demand.models.registry import Registry
    from bike_demand.models.scorer import Scorer
    from bike_demand.settings import load

    return Scorer(Registry(load()).load("champion"))


def _frames(data: Path, derived: bool = True) -> Any:
    import polars as pl
    from bike_demand import features

    names = _scorer().bundle.manifest["columns"]
    for path in sorted(data.iterdir()):
        whole = pl.read_parquet(path)
        for start in range(0, whole.height, CHUNK):
            frame = whole.slice(start, CHUNK)
            yield features.derive(frame, names) if derived else frame


def prepare(python: Path, project: Path, rows: int) -> dict[str, str]:
    """Make the project, its champion and the rows, in files of a million; return the environment to run it in."""
    subprocess.run([sys.executable, ROOT / "scripts/render.py", project.parent], check=True)
    hidden = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHONPATH": f"{project / 'src'}{os.pathsep}{Path(__file__).parent}"}
    environment |= {f"{PACKAGE.upper()}_PIPELINE__LOG_ROWS": "false", "PYTHONWARNINGS": "ignore"}

    def call(*arguments: str) -> None:
        command: list[str | Path] = [python, "-m", PACKAGE, *arguments]
        subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)

    if not (project / "data/models/aliases/champion").exists():
        call("example", "train")
        example = project / "data/example"
        signature = ("--sample", str(example / "sample.csv"), "--signature", str(example / "signature.json"))
        call("model", "import", str(example / "model.skops"), "--target", "rentals", *signature)
        call("model", "promote", next((project / "data/models/versions").glob("[!.]*")).name)
    size, parts = min(rows, PART), project / "data/parts"
    parts.mkdir(exist_ok=True)
    for number in range(rows // size):
        path = parts / f"{number:03d}-{size}.parquet"
        if not path.exists():
            call("example", "rows", "--rows", str(size), "--seed", str(number), "--output", str(path))
            widen = "import sys, polars as pl; p = sys.argv[1]; n = pl.int_range(pl.len());"
            widen += "pl.read_parquet(p).with_columns(id=n, station='s-' + (n % 160).cast(str)).write_parquet(p)"
            subprocess.run([python, "-c", widen, path], env=environment, check=True)
    return environment


def data_of(project: Path, rows: int) -> Path:
    """Return a folder of so many of the rows, as links."""
    folder = project / f"data/rows-{rows}"
    if not folder.is_dir():
        folder.mkdir()
        size = min(rows, PART)
        for path in sorted((project / "data/parts").glob(f"*-{size}.parquet"))[: rows // size]:
            os.link(path, folder / path.name)
    return folder


def processor() -> float:
    """Return the processor seconds of all processes that ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(python: Path, project: Path, environment: dict[str, str], peer: str, rows: int, look: bool) -> Result:
    """Run a peer in a process of its own; return its seconds, its most memory if that is to be looked at, and more."""
    way, more = PEERS[peer]
    out = project / "data/out"
    shutil.rmtree(out, ignore_errors=True)
    command: list[str | Path] = [python, __file__, "--peer", way, str(data_of(project, rows)), str(out)]
    process = subprocess.Popen(
        command, cwd=project, env=environment | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    most, before = 0.0, processor()
    while look and process.poll() is None:
        most = max(most, processes.together(process.pid))
        time.sleep(0.1)
    said, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"error: {peer} failed:\n{errors}")
    told: Result = {}
    for line in errors.splitlines():
        if line.startswith("{"):
            told |= json.loads(line)
    return {"seconds": float(said.splitlines()[-1]), "memory": most, "processor": processor() - before, **told}


def figure(peer: str, rows: int, done: list[Result], looked: Result) -> dict[str, object]:
    """Sum up rounds, and the one in which memory was looked at; print and return them."""
    seconds = [one["seconds"] for one in done]
    middle = statistics.median(seconds)
    found: dict[str, object] = {
        "what": peer,
        "rows": f"{rows:,}",
        "rows/s": f"{rows / middle:,.0f}",
        "median s": round(middle, 2),
        "fastest to slowest s": f"{min(seconds):.2f} to {max(seconds):.2f}",
        "processor s, with start": round(statistics.median(one["processor"] for one in done), 2),
        "most memory MB": round(looked["memory"]),
        "rounds": len(done),
    }
    starts = [one["spark_start_seconds"] for one in done if "spark_start_seconds" in one]
    steps = [f"{name.removesuffix('_seconds')} {done[-1][name]:.1f}" for name in done[-1] if name.endswith("_seconds")]
    found["seconds by step, all workers"] = ", ".join(step for step in steps if not step.startswith("spark_start")) + (
        f"; Spark's start, not counted: {statistics.median(starts):.1f}" if starts else ""
    )
    print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def main() -> int:
    """Measure all; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure batches.")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="for the memory of one worker")
    parser.add_argument("--python", type=Path, default=ROOT / "build/team/bin/python", help="with all extras")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peer:
        way, data, out = chosen.peer
        by: Callable[[Path, Path], float] = globals()[f"by_{way}"]
        print(by(Path(data), Path(out)))
        return 0
    project = ROOT / "build/bench/bike-demand"
    environment = prepare(chosen.python, project, max(chosen.rows, *chosen.sizes, 0))
    done: dict[str, list[Result]] = {peer: [] for peer in PEERS}

    def run(peer: str, rows: int, look: bool = False) -> Result:
        return measure(chosen.python, project, environment, peer, rows, look)

    for number in range(chosen.rounds):
        for peer, results in done.items():
            results.append(run(peer, chosen.rows))
            print(f"{peer}: {results[-1]['seconds']:.2f} s", flush=True)
        print(f"round {number + 1} of {chosen.rounds} is done", flush=True)
    figures = [figure(peer, chosen.rows, results, run(peer, chosen.rows, look=True)) for peer, results in done.items()]
    for rows in chosen.sizes:
        looked = run(ONE_WORKER, rows, look=True)
        figures.append(figure(ONE_WORKER, rows, [looked], looked))
    made_by = (
        "`make bench-batch`: Parquet files in, Parquet files out, predictions not logged; gradient boosting, 12 columns"
    )
    write("batch", "Batch", made_by, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
