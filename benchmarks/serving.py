"""Measure the service beside what one would use instead: the same trained model, the same machine, the same load.

Servers are started anew in each round, one after another; each has one core and the load another, but where workers
are compared. Nothing is asserted but that answers are right: it is a measurement.
"""

import argparse
import http.client
import http.server
import json
import math
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import peers
import processes
from common import ROOT, end_together, free_port, write
from peers import FOLDER, MODEL, PROJECT, STORE, Load, Peer

DEADLINE, PAUSE = 180.0, 0.02  # seconds until a server must have answered, and between two questions whether it does
WARM = 2  # seconds of load that are not counted
CHECKED = 20  # rows whose predictions are compared with the model's
TOLERANCE = 1e-3  # relative
ROWS = FOLDER / "rows.json"
CORES = sorted(os.sched_getaffinity(0))
PIN, PIN_LOAD = (["taskset", "--cpu-list", str(core)] if CORES[1:] else [] for core in (CORES[0], CORES[-1]))
WORKERS = "two workers, times one, the load on the same cores"
APART = "two workers, times one, by the processor time that a request takes of the server alone"
OWN = ("ours", "original", "one", "two", "bare", "traced")  # servers of this project

Seen = dict[str, float]
Done = dict[tuple[str, str], list[Seen]]  # server and load -> what was seen in each round


class LeftOutError(Exception):
    """A server that cannot be measured, with the reason."""


def surroundings() -> dict[str, str]:
    """Return the environment of all processes."""
    hidden = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return environment | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "True"}


def prepare(python: Path) -> tuple[dict[str, Any], Path]:
    """Make the project anew, its champion, converted and as it was trained; return rows and the champion's folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    subprocess.run([sys.executable, ROOT / "scripts/render.py", FOLDER], check=True, stdout=subprocess.DEVNULL)

    def call(*arguments: str | Path, settings: Mapping[str, str] = peers.CONVERTED) -> bytes:
        environment = surroundings() | peers.project(settings, PROJECT / "data/store.db")
        done = subprocess.run([python, *arguments], cwd=PROJECT, env=environment, stdout=subprocess.PIPE)
        if done.returncode:
            raise SystemExit(f"error: the project cannot be made ready: {' '.join(map(str, arguments))} failed")
        return done.stdout

    print("Training the model", flush=True)
    call("-m", peers.PACKAGE, "example", "train")
    example, bundles = MODEL.parent, []
    for settings in (peers.CONVERTED, peers.ORIGINAL):
        signature = ("--sample", example / "sample.csv", "--signature", example / "signature.json")
        call("-m", peers.PACKAGE, "model", "import", MODEL, "--target", "rentals", *signature, settings=settings)
        versions = PROJECT / settings["MODELS__REGISTRY"] / "versions"
        bundles.append(next(versions.glob("[!.]*")))
        call("-m", peers.PACKAGE, "model", "promote", bundles[-1].name, "--override", "measured", settings=settings)
    runtimes = [json.loads((bundle / "bundle.json").read_text())["runtime"] for bundle in bundles]
    if runtimes != ["trees", "original"]:
        raise SystemExit(f"error: the model is served as {' and '.join(runtimes)}: it should be trees and original")
    ROWS.write_bytes(call(peers.HERE / "rows.py", example))
    rows: dict[str, Any] = json.loads(ROWS.read_text())
    return rows, bundles[0]


def post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    """Ask a server once; the status is 0 while there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes traces, and forgets them."""

    def do_POST(self) -> None:
        """Answer as an OpenTelemetry collector does."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, form: str, *values: object) -> None:
        """Say nothing."""


def collector() -> int:
    """Take traces as long as this process runs; return the port."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def every(python: Path, bundle: Path, rows: dict[str, Any], only: str | None) -> dict[str, Peer]:
    """Return the servers to measure, installed, and with the model in the form that they take."""
    own = peers.ours(python, collector())
    if only in own:
        return {only: own[only]}
    port = free_port()
    with running("ours", own["ours"], port) as process:  # its first start compiles its modules: it is not counted
        start(process, "ours", own["ours"], rows, port)
        size = len(post(port, peers.ROW.path, body(peers.SINGLE, rows))[1])
    found = peers.others(python, bundle, size)
    for name in list(found):
        if only not in (None, name):
            del found[name]
        elif reason := peers.install(name):
            print(f"{found.pop(name).what} is left out, it cannot be installed: {reason}", flush=True)
    for name, target in (("mlflow", "mlflow"), ("mlserver", "model.joblib")):
        if name in found:
            command = [peers.BENCH / name / "bin/python", peers.HERE / "save.py", MODEL, ROWS, FOLDER / target]
            made = subprocess.run(command, env=surroundings(), cwd=FOLDER, capture_output=True, text=True)
            if made.returncode:
                print(f"{found.pop(name).what} is left out: {made.stderr.strip().rpartition(chr(10))[2]}", flush=True)
    return found if only else {"ours": own.pop("ours"), **found, **own}


@contextmanager
def running(name: str, peer: Peer, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, and end it and all its processes."""
    for path in STORE.parent.glob(f"{STORE.name}*"):
        path.unlink()
    shutil.copy(PROJECT / "data/store.db", STORE)  # each has the same log before it
    command = [*(PIN if peer.pinned else ()), *peer.command(port)]
    environment = {**surroundings(), **peer.environment}
    with (FOLDER / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=log, stderr=log, stdin=-3, start_new_session=True
        )
        try:
            yield process
        finally:
            below = processes.family(process.pid)
            process.terminate()
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            finally:
                for pid in below:  # what outlived it
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()


def body(load: Load, rows: dict[str, Any], place: int = 0) -> bytes:
    """Return a request with the rows from a place on."""
    return json.dumps(load.way.body(rows[load.way.rows][place : place + load.rows])).encode()


def check(peer: Peer, load: Load, rows: dict[str, Any], port: int) -> None:
    """Compare predictions with the model's own."""
    for place in range(CHECKED if load.rows == 1 else 1):
        status, answer = post(port, load.way.path, body(load, rows, place))
        if status != 200:
            raise LeftOutError(f"it answers {status}")
        given = load.way.read(json.loads(answer))
        expected = rows["predictions"][place : place + load.rows]
        for one, right in zip(given, expected, strict=True) if given else ():
            if not math.isclose(one, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                raise SystemExit(f"error: {peer.what}, {load.name}: predicts {one} where the model predicts {right}")


def start(process: subprocess.Popen[bytes], name: str, peer: Peer, rows: dict[str, Any], port: int) -> float:
    """Wait for the first prediction of a server that was just started; return the seconds."""
    began, request = time.perf_counter(), body(peer.loads[0], rows)
    while post(port, peer.loads[0].way.path, request)[0] != 200:
        if process.poll() is not None or time.perf_counter() - began > DEADLINE:
            said = (FOLDER / f"{name}.log").read_text(errors="replace").strip().splitlines()
            raise LeftOutError(f"it does not answer: {said[-1] if said else 'and says nothing'}")
        time.sleep(PAUSE)
    return time.perf_counter() - began


def wrk(peer: Peer, load: Load, rows: dict[str, Any], port: int, seconds: int) -> Seen:
    """Load a server; return requests a second, milliseconds, and how many requests failed."""
    request = FOLDER / "request.json"
    request.write_bytes(body(load, rows))
    command: list[str | Path] = [*(PIN_LOAD if peer.pinned else ()), "wrk", "--threads", "1", "--timeout", "60s"]
    command += [
        "--connections",
        str(load.connections),
        "--duration",
        f"{seconds}s",
        "--script",
        peers.HERE / "post.lua",
    ]
    command += [f"http://127.0.0.1:{port}{load.way.path}", "--", request, str(load.pause)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seen: Seen = json.loads(said.splitlines()[-1])
    return {"rps": seen["requests"] / seen["seconds"], "failed": seen["refused"] + seen["broken"], **seen}


def counted(port: int) -> float:
    """Return how many predictions the metrics of the service count."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("predictions_total{"))


def logged() -> int:
    """Return how many predictions are in the log."""
    with sqlite3.connect(STORE) as store:
        count: int = store.execute("select count(*) from predictions").fetchone()[0]
    store.close()
    return count


def settle(port: int, before: int) -> float:
    """Wait until the log has what the metrics count; return the seconds."""
    began, made = time.perf_counter(), counted(port)
    while logged() - before < made and time.perf_counter() - began < DEADLINE:
        time.sleep(PAUSE)
    return time.perf_counter() - began


def measure(name: str, peer: Peer, rows: dict[str, Any], seconds: int, done: Done) -> None:
    """Start a server and put all its loads on it, one after another."""
    port = free_port()
    with running(name, peer, port) as process:
        before = logged()
        server: Seen = {"start": start(process, name, peer, rows, port)}
        for load in peer.loads:
            try:
                check(peer, load, rows, port)
            except LeftOutError as reason:
                if not load.optional:
                    raise
                print(f"{peer.what}, {load.name}, is left out: {reason}", flush=True)
                continue
            wrk(peer, load, rows, port, WARM)
            begun = processes.used(process.pid)
            seen = wrk(peer, load, rows, port, seconds)
            seen["processor"] = (processes.used(process.pid) - begun) / max(1, seen["requests"]) * 1e6
            if load == peer.loads[0]:
                server["memory"] = processes.largest(process.pid)
            if name == "ours":
                seen["behind"] = settle(port, before)
                server |= {"lost": counted(port) + before - logged(), "most": processes.largest(process.pid)}
            done[name, load.name].append(seen)
            figures = f"{seen['rps']:,.0f} requests/s, p50 {seen['p50']:.2f} ms, p99 {seen['p99']:.2f} ms"
            figures += f", {seen['processor']:,.0f} µs of processor each, {seen['failed']:g} failed"
            print(f"{peer.what}, {load.name}: {figures}", flush=True)
    done[name, "server"].append(server)


def series(done: Done, server: str, load: str, name: str) -> list[float]:
    """Return one figure of all rounds; empty if it was not measured."""
    return [seen[name] for seen in done.get((server, load), [])]


def middle(values: Sequence[float], form: str = "{:.2f}") -> dict[str, str]:
    """Return the median and the spread."""
    found = {"figure": statistics.median(values), "from": min(values), "to": max(values)}
    return {name: form.format(value) for name, value in found.items()}


def beside(done: Done, servers: dict[str, Peer]) -> list[dict[str, object]]:
    """Return a line for each server that was measured with the same load."""
    found: list[dict[str, object]] = []
    own = series(done, "ours", "single row", "rps")
    for name, peer in servers.items():
        rates = series(done, name, "single row", "rps")
        if not rates or not peer.libraries:
            continue
        figures = middle(rates, "{:,.0f}")
        failed = sum(sum(series(done, name, load.name, "failed")) for load in peer.loads)
        line: dict[str, object] = {"what": peer.what, "requests/s": figures["figure"]}
        line |= {"from": figures["from"], "to": figures["to"]}
        times = f"{statistics.median(own) / statistics.median(rates):.2f}" if own else ""
        line |= {"processor µs a request": middle(series(done, name, "single row", "processor"), "{:,.0f}")["figure"]}
        line |= {"this project, times it": times, "goal": f"at least {peer.goal}" if peer.goal else ""}
        line |= {"first prediction s": middle(series(done, name, "server", "start"))["figure"]}
        line |= {"memory MB": middle(series(done, name, "server", "memory"), "{:.0f}")["figure"]}
        line |= {"failed": f"{failed:g}", "rounds": len(rates), "versions": peer.versions()}
        found.append(line)
    return found


def alone(done: Done) -> list[dict[str, object]]:
    """Return a line for each other figure of the service that has a goal."""
    found: list[dict[str, object]] = []

    def line(what: str, goal: object, values: Sequence[float]) -> None:
        if values:
            found.append({"what": what, "goal": goal, **middle(values), "rounds": len(values)})

    def ratio(what: str, goal: object, above: tuple[str, str], below: tuple[str, str]) -> None:
        pairs = zip(series(done, *above, "rps"), series(done, *below, "rps"), strict=False)
        line(what, goal, [a / b for a, b in pairs])

    single, many = ("ours", "single row"), "single row, 64 connections"
    for load, goal in (("one connection", 3), ("1,000 rows, with pauses", 12), ("1,000 rows, without", 12)):
        for share, limit in (("p50", ""), ("p99", f"at most {goal}")):
            line(f"{load}, {share} ms", limit, series(done, "ours", load, share))
    ratio("protocol v2, times native", "at least 0.6", ("ours", "protocol v2"), single)
    ratio("MLflow's protocol, times native", "", ("ours", "MLflow's protocol"), single)
    line(f"scikit-learn fallback, {many}, requests/s", "", series(done, "original", many, "rps"))
    ratio("the same, times naive FastAPI", "at least 10", ("original", many), ("fastapi-sklearn", many))
    ratio("log, metrics and traces, times without", "at least 0.9", ("traced", "single row"), ("bare", "single row"))
    line("first prediction after start, both cores, s", "at most 2", series(done, "one", "server", "start"))
    line("memory of a worker after single rows, MB", "at most 120", series(done, "ours", "server", "memory"))
    line("memory of it after all loads, MB", "", series(done, "ours", "server", "most"))
    line("predictions that are not in the log", "0", series(done, "ours", "server", "lost"))
    line("until the log has caught up with the load, s", "", series(done, *single, "behind"))
    ratio(WORKERS, "at least 1.8", ("two", "single row"), ("one", "single row"))
    pairs = zip(*(series(done, name, "single row", "processor") for name in ("one", "two")), strict=False)
    line(APART, "at least 1.8", [2 * one / two for one, two in pairs])
    loads = [rounds for (server, load), rounds in done.items() if server in OWN and load != "server"]
    line("requests that failed, of one load", "0", [seen["failed"] for rounds in loads for seen in rounds])
    return found


def main() -> int:
    """Measure all; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure the service beside others.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    known = {**peers.ours(ROOT), **peers.others(ROOT, ROOT, 0)}
    parser.add_argument("--only", choices=known, help="measure one server, and write nothing")
    parser.add_argument("--python", type=Path, default=ROOT / "build/env/bin/python", help="of the project")
    chosen = parser.parse_args()
    if missing := [tool for tool in ("wrk", "taskset") if not shutil.which(tool)]:
        raise SystemExit(f"error: {missing[0]} makes the load: install it (Debian has the packages wrk and util-linux)")
    end_together()
    rows, bundle = prepare(chosen.python)
    servers = every(chosen.python, bundle, rows, chosen.only)
    done: Done = defaultdict(list)
    for number in range(chosen.rounds):
        for name, peer in list(servers.items()):
            try:
                measure(name, peer, rows, chosen.seconds, done)
            except LeftOutError as reason:
                print(f"{peer.what} is left out: {reason}", flush=True)
                del servers[name]
        print(f"round {number + 1} of {chosen.rounds} is done", flush=True)
    if not servers:
        return 1
    sections = beside(done, servers), alone(done)
    for line in (*sections[0], *sections[1]):
        print("  ".join(f"{name} {value}" for name, value in line.items()))
    if not chosen.only:
        each = f"one core for one worker, one for `wrk`, {chosen.seconds} s in each of the rounds, in turns; medians"
        made_by = f"`make bench-serving`: one row a request, {peers.CONNECTIONS} connections, {each}"
        times = "peers get the model's columns, with the times taken apart"
        write("serving-peers", "Service beside others, same model", f"{made_by}; {times}", sections[0])
        write("serving", "Service", f"`make bench-serving`: {each}; log and metrics on", sections[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
