"""Soak: mixed traffic at a bounded rate for an hour against one worker as it comes. Is memory flat, is nothing lost?

Each answered prediction has to be in the log once the service has ended, and no answer may be another than the request
deserves. The exit code is 1 if that is not so. Callers are few and wait for their answers; a request's time counts
from when it was due.
"""

import argparse
import csv
import http.client
import io
import json
import math
import random
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from common import write
from peers import SLUG, as_v2
from processes import largest
from served import choose, environment, rows, service, stop
from serving import DEADLINE
from swap import PREPARE, served_version

FULL = 60.0  # minutes of a run that is written down
CALLERS, MANY, TABLE = 8, 10, 20  # connections, and rows of a request that has many, and of a table
JSON, CSV = "application/json", "text/csv"
PATH = "/v1/predict"
SEED = 1

Rows = Sequence[dict[str, Any]]
Read = Callable[[bytes], list[str]]  # the ids of the predictions in an answer


class Request(NamedTuple):
    """What is sent, the status that is due (4 is any of the caller's faults), and how to read the answer."""

    method: str
    path: str
    body: bytes | None
    kind: str
    due: int
    read: Read


class Answered(NamedTuple):
    """What came back: the status, 0 for none; whether it is the right one; the seconds since it was due."""

    status: int
    good: bool
    seconds: float


def one(answer: bytes) -> list[str]:
    """Read an answer with one prediction."""
    return [json.loads(answer)["id"]]


def many(answer: bytes) -> list[str]:
    """Read an answer with many."""
    return [prediction["id"] for prediction in json.loads(answer)["predictions"]]


def table(answer: bytes) -> list[str]:
    """Read a table."""
    return [line["id"] for line in csv.DictReader(io.StringIO(answer.decode()))]


def tensors(answer: bytes) -> list[str]:
    """Read an answer of protocol v2."""
    ids: str = json.loads(answer)["parameters"]["prediction_ids"]
    return ids.split(",")


def kept(answer: bytes) -> list[str]:
    """Read the answer to feedback."""
    if json.loads(answer)["accepted"] != 1:
        raise ValueError("the prediction is not known")
    return []


def nothing(answer: bytes) -> list[str]:
    """Read an answer without predictions."""
    return []


def post(path: str, body: object, read: Read, due: int = 200, kind: str = JSON) -> Request:
    """Return a request with a body, bytes as they are and everything else as JSON."""
    return Request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), kind, due, read)


def as_csv(chosen: Rows) -> bytes:
    """Return rows as a table."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, chosen[0])
    writer.writeheader()
    writer.writerows(chosen)
    return text.getvalue().encode()


def traffic(known: Rows, recent: Sequence[str], seed: int) -> Iterator[Request]:
    """Give requests without end, the same for the same seed but for the ids of feedback."""
    chance, row = random.Random(seed), known[0]
    bad = (
        post(PATH, b'{"row": ', nothing, 4),
        post(PATH, b'{"row": \xff\x00}', nothing, 4),
        post(PATH, b"[" * 20_000, nothing, 4),
        post(PATH, b'{"row": ' + json.dumps(dict.fromkeys(row, math.nan)).encode() + b"}", nothing, 4),
        post(PATH, {"row": row | {"foreign": 1}}, nothing, 4),
        post(PATH, {"row": dict.fromkeys(row, "text")}, nothing, 4),
        post(PATH, {"rows": [row, {}]}, nothing, 4),
        post(PATH, {"row": row}, nothing, 4, "text/plain"),
        post("/v1/feedback", {"id": 1}, nothing, 4),
        post("/nowhere", b"", nothing, 4),
    )
    makers: dict[Callable[[], Request], float] = {
        lambda: post(PATH, {"row": chance.choice(known)}, one): 60,
        lambda: post(PATH, {"rows": chance.sample(known, MANY)}, many): 10,
        lambda: post(PATH, as_csv(chance.sample(known, TABLE)), table, kind=CSV): 5,
        lambda: Request("GET", f"{PATH}?{_query(chance.choice(known))}", None, JSON, 200, one): 8,
        lambda: post(f"/v2/models/{SLUG}/infer", as_v2([chance.choice(known)]), tensors): 5,
        lambda: chance.choice(bad): 5,
        lambda: post("/v1/feedback", {"id": chance.choice(recent), "actual": 1.0}, kept) if recent else bad[0]: 5,
        lambda: Request("GET", chance.choice(("/v1/model", "/health/ready", "/metrics")), None, JSON, 200, nothing): 2,
    }
    while True:
        yield chance.choices(list(makers), list(makers.values()))[0]()


def _query(row: dict[str, Any]) -> str:
    return urlencode({name: str(value).lower() if isinstance(value, bool) else value for name, value in row.items()})


class Callers:
    """Threads that send at a rate, each over its own connection, until told to stop."""

    def __init__(self, port: int, known: Rows, rate: float) -> None:
        self.done, self.ids = deque[Answered](), deque[str]()
        self.stopped = threading.Event()
        self._port, self._rate, self._known = port, rate, known
        self._recent = deque[str](maxlen=200)
        self._start = time.perf_counter()
        self._threads = [threading.Thread(target=self._call, args=(place,)) for place in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more, and wait for the answers."""
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _call(self, place: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE)
        for number, request in enumerate(traffic(self._known, self._recent, SEED + place)):
            due = self._start + (number * CALLERS + place) / self._rate
            if self.stopped.wait(max(0, due - time.perf_counter())):
                connection.close()
                return
            self._ask(connection, request, due)

    def _ask(self, connection: http.client.HTTPConnection, request: Request, due: float) -> None:
        status, good = 0, False
        try:
            connection.request(request.method, request.path, request.body, {"content-type": request.kind})
            answer = connection.getresponse()
            content, status = answer.read(), answer.status
            good = request.due in (status, status // 100)
            ids = request.read(content) if good else []
            self.ids.extend(ids)
            self._recent.extend(ids[:1])
        except (OSError, http.client.HTTPException):  # the next request opens a new connection
            connection.close()
        except (ValueError, KeyError):
            good = False
        self.done.append(Answered(status, good, time.perf_counter() - due))


class Log:
    """The predictions in the store beside those that were answered: each id has to be on both sides.

    Attributes:
        answered: how many were answered.
        logged: how many came into the store.
        lost: answered, and not in the store.
        unheard: in the store, and not answered.
    """

    def __init__(self, project: Path) -> None:
        self._path, self._place = project / "data/store.db", 0
        self._look()  # what was there before
        self.answered = self.logged = 0
        self.lost, self.unheard = set[str](), set[str]()

    def read(self, ids: deque[str]) -> None:
        """Take what was answered, and what came into the store; what is on both sides is done with."""
        given, found = {ids.popleft() for _ in range(len(ids))}, self._look()
        self.answered += len(given)
        self.logged += len(found)
        self.lost, self.unheard = (self.lost | given) - self.unheard - found, (self.unheard | found) - self.lost - given

    def _look(self) -> set[str]:
        with closing(sqlite3.connect(self._path, timeout=DEADLINE)) as store:
            query = "select rowid, id from predictions where rowid > ? order by rowid"
            found = store.execute(query, (self._place,)).fetchall()
        self._place = found[-1][0] if found else self._place
        return {identity for _, identity in found}


@contextmanager
def swaps(python: Path, project: Path, port: int, minutes: float) -> Iterator[Callable[[], int]]:
    """Let another version take over every few minutes, if there are any; give what counts how often."""
    if not minutes:
        yield lambda: 0
        return
    first, times, ended = served_version(port), deque[float](), threading.Event()
    registry = subprocess.Popen(
        [python, "-c", PREPARE, "1"],
        cwd=project,
        env=environment(project),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert registry.stdin is not None
    assert registry.stdout is not None
    orders, said = registry.stdin, registry.stdout
    versions = [json.loads(said.readline())[0], first]

    def move() -> None:
        while not ended.wait(minutes * 60):
            print(versions[len(times) % 2], file=orders, flush=True)
            said.readline()
            times.append(time.time())

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield lambda: len(times)
    finally:
        ended.set()
        thread.join()
        orders.close()
        registry.wait()


def summary(done: Sequence[Answered]) -> dict[str, object]:
    """Return what callers saw."""
    times = sorted(one.seconds * 1e3 for one in done) or [0.0]
    return {
        "requests": len(done),
        "failed": sum(not one.good for one in done),
        "5xx or no answer": sum(one.status == 0 or one.status >= 500 for one in done),
        "p50 ms": round(times[len(times) // 2], 2),
        "p99 ms": round(times[int(len(times) * 0.99)], 2),
    }


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return by how many MB an hour memory grows: the least squares line through (seconds, MB)."""
    times, sizes = zip(*samples, strict=True)
    return statistics.linear_regression(times, sizes).slope * 3600 if len(samples) > 1 else 0.0


def soak(python: Path, project: Path, minutes: float, rate: float, swap: float) -> dict[str, object]:
    """Let callers send for some minutes; print what happens, and return it summed up."""
    length, known, log = minutes * 60, rows(project), Log(project)
    every, look, warm = min(60.0, length / 3), max(0.5, min(10.0, length / 60)), min(600.0, length / 4)
    done: list[Answered] = []
    samples: list[tuple[float, float]] = []
    with service(python, project) as (process, port), swaps(python, project, port, swap) as swapped:
        callers, began, told = Callers(port, known, rate), time.monotonic(), 0
        try:
            while (passed := time.monotonic() - began) < length and process.poll() is None:
                time.sleep(min(look, length - passed))
                samples.append((time.monotonic() - began, largest(process.pid)))
                if samples[-1][0] >= (told + 1) * every:
                    log.read(callers.ids)
                    lately = [callers.done.popleft() for _ in range(len(callers.done))]
                    done, told = done + lately, told + 1
                    behind = {"predictions": log.answered, "in the log": log.logged, "MB": round(samples[-1][1], 1)}
                    tell({"minute": round(told * every / 60, 2)} | summary(lately) | behind)
        finally:
            callers.stop()
        code = stop(process)
        count = swapped()
    log.read(callers.ids)
    steady = [sample for sample in samples if sample[0] >= warm] or samples
    return {
        "minutes": minutes,
        **summary([*done, *callers.done]),
        "predictions": log.answered,
        "lost": len(log.lost),
        "logged without an answer": len(log.unheard),
        "swaps": count,
        "MB after warm-up": round(steady[0][1], 1),
        "MB at the end": round(steady[-1][1], 1),
        "MB an hour": round(slope(steady), 2),
        "exit code": code,
    }


def tell(figures: Mapping[str, object]) -> None:
    """Print figures in a line."""
    print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


def main() -> int:
    """Soak; return the exit code."""
    parser = argparse.ArgumentParser(description="Send mixed traffic to the service for long.")
    parser.add_argument("--minutes", type=float, default=FULL)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--swap", type=float, default=5, help="minutes between swaps of the champion; 0: none")
    chosen, project = choose(parser, "soak")
    found = soak(chosen.python, project, chosen.minutes, chosen.rate, chosen.swap)
    tell(found)
    if chosen.minutes >= FULL and not chosen.project:
        about = f"`make bench-soak`: {chosen.rate:g} mixed requests a second, one worker, SQLite"
        write("soak", "Soak", f"{about}; the memory's slope by least squares after warm-up", [found])
    return any(found[name] for name in ("failed", "lost", "exit code"))


if __name__ == "__main__":
    sys.exit(main())
