"""Measure what a swap of models costs the callers: 100 swaps at 500 requests a second. Writes RESULTS.md.

The load is open: requests leave at a fixed rate whatever the answers do, and a request's time counts from when it was
due, so that a stall of the service shows in every request that it held up.
"""

import argparse
import asyncio
import gc
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from common import copy_of_template, first_row, free_port, write

RATE, CONNECTIONS = 500, 64
WARM = 5.0  # seconds, until the pages are loaded too
DEADLINE = 120.0
PREPARE = """
import json, sys
from bike_demand.models.registry import Registry
from bike_demand.settings import load
registry = Registry(load())
first = registry.load("champion")
files = {name: (first.folder / name).read_bytes() for name in first.manifest["files"]}
rest = {key: value for key, value in first.manifest.items() if key not in ("files", "format")}
made = [registry.add({**rest, "created": f"2020-01-01T00:00:{n:06.3f}Z"}, files).version
        for n in range(int(sys.argv[1]))]
print(json.dumps(made), flush=True)
for line in sys.stdin:
    registry.point("champion", line.strip())
    print("moved", flush=True)
"""

Answered = tuple[float, bool]  # seconds until the answer, whether it was good


class Caller(asyncio.Protocol):
    """One connection, kept open; it takes one request at a time."""

    def __init__(self, idle: deque["Caller"], done: list[Answered], request: bytes) -> None:
        self.idle, self.done, self.request, self.due, self.received = idle, done, request, 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self.transport = transport
        self.idle.append(self)

    def send(self, due: float) -> None:
        """Send the request that was due at a moment of `time.perf_counter`."""
        self.due, self.received = due, b""
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Be ready again once the answer is whole."""
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
            self.done.append((time.perf_counter() - self.due, head.startswith(b"HTTP/1.1 200 ")))
            self.due = 0.0
            self.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Count a request that waits for its answer as failed."""
        if self.due:
            self.done.append((time.perf_counter() - self.due, False))
        if self in self.idle:
            self.idle.remove(self)


async def fire(port: int, request: bytes, stop: Connection) -> list[Answered]:
    """Send at the fixed rate until told to stop."""
    loop, idle, done = asyncio.get_running_loop(), deque[Caller](), list[Answered]()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Caller(idle, done, request), "127.0.0.1", port)
    start, sent = time.perf_counter(), 0
    while not stop.poll():
        due = start + sent / RATE
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        while not idle:  # the service holds all connections: the request waits and its time runs
            await asyncio.sleep(0.0005)
        idle.popleft().send(due)
        sent += 1
    deadline = time.perf_counter() + DEADLINE
    while len(done) < sent and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    return done + [(DEADLINE, False)] * (sent - len(done))


def generate(port: int, request: bytes, pipe: Connection) -> None:
    """Be the process that makes the load; send what came back through the pipe."""
    gc.disable()  # its own pauses would look like the service's
    pipe.send(asyncio.run(fire(port, request, pipe)))


class Load:
    """Load from a process of its own."""

    def __init__(self, port: int, request: bytes) -> None:
        self.pipe, other = Pipe()
        self.process = Process(target=generate, args=(port, request, other))
        self.process.start()

    def wait(self, seconds: float) -> list[Answered]:
        """Let it go on for some seconds and end it; return what it saw."""
        time.sleep(seconds)
        self.pipe.send("stop")
        done: list[Answered] = self.pipe.recv()
        self.process.join()
        return done


def served_version(port: int) -> str:
    """Ask which version answers; empty while none does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", "/v1/model")
        version: str = json.loads(connection.getresponse().read()).get("version", "")
        return version
    except OSError:
        return ""
    finally:
        connection.close()


def swap(orders: IO[str], done: IO[str], port: int, versions: list[str]) -> list[float]:
    """Move the champion to each version in turn; return the seconds until the service followed."""
    seconds = []
    for version in versions:
        print(version, file=orders, flush=True)
        done.readline()
        start = time.perf_counter()
        while served_version(port) != version:
            if time.perf_counter() - start > DEADLINE:
                raise SystemExit(f"error: the service did not follow to {version}")
            time.sleep(0.05)
        seconds.append(time.perf_counter() - start)
    return seconds


def figure(what: str, rounds: list[list[Answered]], followed: list[float]) -> dict[str, object]:
    """Sum up what callers saw in some rounds, as medians over the rounds; print and return it."""
    times = [sorted(seconds * 1e3 for seconds, _ in done) for done in rounds]
    tails = [one[int(len(one) * 0.99)] for one in times]
    found: dict[str, object] = {
        "what": what,
        "rounds": len(rounds),
        "requests": sum(map(len, rounds)),
        "failed": sum(not good for done in rounds for _, good in done),
        "p50 ms": round(statistics.median(one[len(one) // 2] for one in times), 2),
        "p99 ms": round(statistics.median(tails), 2),
        "p99 from": round(min(tails), 2),
        "p99 to": round(max(tails), 2),
        "longest ms": round(max(one[-1] for one in times), 2),
        "swaps": len(followed),
        "slowest swap s": round(max(followed), 2) if followed else "",
    }
    print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def measure(project: Path, swaps: int, rounds: int) -> list[dict[str, object]]:
    """Measure a project's service in alternating rounds: in peace, swapping to new versions, and back and forth."""
    port, body = free_port(), json.dumps({"row": first_row(project)})
    request = f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
    command = [str(project / ".venv/bin/python"), "-c", PREPARE, str(swaps)]
    registry = subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert registry.stdin is not None
    assert registry.stdout is not None
    versions = json.loads(registry.stdout.readline())
    os.sync()  # the machine would write the demo and the versions to its disk while callers are timed
    command = [str(project / ".venv/bin/bike-demand"), "serve", "--port", str(port)]
    service = subprocess.Popen(command, cwd=project, stdout=-3, stderr=-3)
    peace: list[list[Answered]] = []
    new: list[list[Answered]] = []
    back: list[list[Answered]] = []
    to_new: list[float] = []
    to_old: list[float] = []
    try:
        while not served_version(port):
            time.sleep(0.1)
        Load(port, request).wait(WARM)
        for number in range(rounds):
            chosen = versions[number::rounds]
            start = time.perf_counter()
            for seen, followed, moves in ((new, to_new, chosen), (back, to_old, chosen[-2:] * (len(chosen) // 2))):
                load = Load(port, request)
                followed += swap(registry.stdin, registry.stdout, port, moves)
                seen.append(load.wait(0))
            peace.append(Load(port, request).wait((time.perf_counter() - start) / 2))
    finally:
        service.terminate()
        service.wait()
        registry.stdin.close()
        registry.wait()
    return [
        figure("no swap", peace, []),
        figure("each swap to a version never loaded", new, to_new),
        figure("each swap back to the version before", back, to_old),
    ]


def main() -> int:
    """Measure it on the project of the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="Measure what a swap of models costs the callers.")
    parser.add_argument("--swaps", type=int, default=100, help="to versions never loaded; and as many back and forth")
    parser.add_argument("--rounds", type=int, default=5, help="of load without swaps and with both kinds")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        template = copy_of_template(Path(temporary) / "template")
        hidden = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV")
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        subprocess.run(["make", "demo", "DETACH=1"], cwd=template, env=environment, stdout=-3, check=True)
        figures = measure(template / "build/demo/bike-demand", chosen.swaps, chosen.rounds)
    made_by = f"`make bench-swap`: {RATE} requests a second, one worker; time from when due; medians of rounds"
    write("swap", "Swap under load", made_by, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
