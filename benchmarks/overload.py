"""Overload: three times what the service can answer, and then nothing. Does it refuse in time, and come back?

Capacity is measured first, by callers who wait for their answers. Then requests leave at three times that rate,
whatever the answers do, over more connections than the service holds; a request's time counts from when it was due.
At the end single requests, each on a connection of its own, show when the service is as quick again as before. A
request has many rows, so that one process can ask for more than the service can do: few enough to be answered at once,
or so many that they wait in its queue.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import processes
from common import write
from served import choose, rows, service, stop
from soak import tell

FULL = 20.0  # seconds of a load that is written down
TIMES = 3  # the load beside capacity
LOADS = {"100 rows": 100, "1,000 rows": 1_000}
CONNECTIONS, WAITING = 3_000, 32  # of the load, and of the callers who wait
PROBES, PATIENCE, TICK = 100, 60.0, 0.001  # single requests; seconds for all that is outstanding, and between looks

Outcome = tuple[str, float]  # answered, refused or failed, and the seconds since it was due


def read(received: bytes) -> str:
    """Say what an answer is, or nothing while it is not whole; a refusal has to say when to come again."""
    head, end, body = received.partition(b"\r\n\r\n")
    head = head.lower()
    if not end or len(body) < int(head.partition(b"content-length: ")[2].partition(b"\r")[0]):
        return ""
    if head.startswith(b"http/1.1 200 "):
        return "answered"
    busy = head.startswith((b"http/1.1 429 ", b"http/1.1 503 ")) and b"\r\nretry-after: " in head
    return "refused" if busy else "failed"


class Caller(asyncio.Protocol):
    """A connection that takes one request at a time."""

    def __init__(self, load: "Load") -> None:
        self.load, self.due, self.received = load, 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.load.callers.add(self)
        self.load.ready(self)

    def send(self, due: float) -> None:
        """Send the request that was due at a moment of `time.perf_counter`."""
        self.due, self.received = due, b""
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        """Be ready again once the answer is whole, unless it is the last on this connection."""
        self.received += data
        if what := read(self.received):
            self._done(what)
            if b"\r\nconnection: close" in self.received.lower():
                self.transport.close()
            else:
                self.load.ready(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Count a request that waits for its answer as failed."""
        if self.due:
            self._done("failed")
        self.load.lost(self)

    def _done(self, what: str) -> None:
        self.load.done.append((what, time.perf_counter() - self.due))
        self.due = 0.0


class Load:
    """Connections to a service, and what became of the requests on them.

    Args:
        port: of the service.
        request: what is sent.
        waiting: whether each connection sends the next request as soon as it has the answer to the last.
    """

    def __init__(self, port: int, request: bytes, waiting: bool) -> None:
        self.request, self.done = request, list[Outcome]()
        self.callers, self._idle = set[Caller](), deque[Caller]()
        self._port, self._waiting, self._ended = port, waiting, False
        self._opening = set[asyncio.Task[None]]()

    @asynccontextmanager
    async def connections(self, count: int) -> AsyncIterator[None]:
        """Hold so many connections; a broken one is replaced. At the end wait for the answers that are due."""
        await asyncio.gather(*(self._open() for _ in range(count)))
        yield
        self._ended = True
        for caller in self._idle:
            caller.transport.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self.callers or self._opening:
                    await asyncio.sleep(TICK)

    async def offer(self, rate: float, seconds: float) -> int:
        """Send at a rate; return how many requests found no free connection in that time."""
        start, sent = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds:
            while self._idle and sent < passed * rate:
                caller = self._idle.popleft()
                if not caller.transport.is_closing():
                    caller.send(start + sent / rate)
                    sent += 1
            await asyncio.sleep(TICK)
        return max(0, int(rate * seconds) - sent)

    def ready(self, caller: Caller) -> None:
        """Take a connection that has nothing to do."""
        if self._ended:
            caller.transport.close()
        elif self._waiting:
            caller.send(time.perf_counter())
        else:
            self._idle.append(caller)

    def lost(self, caller: Caller) -> None:
        """Replace a connection."""
        self.callers.discard(caller)
        if not self._ended:
            task = asyncio.ensure_future(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        while not self._ended:
            try:
                await asyncio.get_running_loop().create_connection(lambda: Caller(self), "127.0.0.1", self._port)
                return
            except OSError:
                await asyncio.sleep(0.05)


async def capacity(port: int, request: bytes, seconds: float) -> float:
    """Return how many requests a second are answered to callers who wait for the answer to the last."""
    load = Load(port, request, waiting=True)
    async with load.connections(WAITING):
        await asyncio.sleep(seconds / 4)  # until everything is warm
        load.done.clear()
        start = time.perf_counter()
        await asyncio.sleep(seconds)
        return sum(what == "answered" for what, _ in load.done) / (time.perf_counter() - start)


async def single(port: int, request: bytes) -> Outcome:
    """Send one request on a connection of its own."""
    began, received, what = time.perf_counter(), b"", ""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                while not (what := read(received)) and (piece := await reader.read(65_536)):
                    received += piece
            finally:
                writer.close()
    return what or "failed", time.perf_counter() - began


async def recovery(port: int, request: bytes, normal: float) -> float:
    """Return the seconds until a single request is answered within its normal time; infinite if none ever is."""
    began = time.perf_counter()
    while time.perf_counter() - began < PATIENCE:
        what, seconds = await single(port, request)
        if what == "answered" and seconds <= normal:
            return time.perf_counter() - began
        await asyncio.sleep(TICK)
    return float("inf")


async def largest(size: Callable[[], float], found: list[float]) -> None:
    """Note the memory now and then."""
    while True:
        found.append(size())
        await asyncio.sleep(0.1)


def tail(outcomes: Sequence[Outcome], what: str) -> object:
    """Return the 99th percentile in milliseconds of those requests that came to the same."""
    times = sorted(seconds * 1e3 for one, seconds in outcomes if one == what)
    return round(times[int(len(times) * 0.99)], 1) if times else ""


async def overload(
    name: str, port: int, request: bytes, size: Callable[[], float], seconds: float
) -> dict[str, object]:
    """Overload a service for some seconds; return what became of it."""
    quiet = sorted([await single(port, request) for _ in range(PROBES)], key=lambda one: one[1])
    normal, before = quiet[int(PROBES * 0.99)][1], size()
    able, sizes = await capacity(port, request, seconds / 2), list[float]()
    load = Load(port, request, waiting=False)
    watch = asyncio.create_task(largest(size, sizes))
    async with load.connections(CONNECTIONS):
        unsent = await load.offer(able * TIMES, seconds)
        probe = asyncio.create_task(recovery(port, request, normal))
    again = await probe
    watch.cancel()
    counts = {what: sum(one == what for one, _ in load.done) for what in ("answered", "refused", "failed")}
    return {
        "what": name,
        "capacity/s": round(able),
        "offered/s": round(able * TIMES),
        "seconds": seconds,
        **counts,
        "never sent": unsent,
        "p99 ms answered": tail(load.done, "answered"),
        "p99 ms refused": tail(load.done, "refused"),
        "MB before": round(before),
        "MB at most": round(max(sizes)),
        "one request alone, p50 ms": round(statistics.median(one for _, one in quiet) * 1e3, 2),
        "p99 ms": round(normal * 1e3, 2),
        "as quick again after s": round(again, 2),
    }


def main() -> int:
    """Overload the service in several ways; return the exit code."""
    parser = argparse.ArgumentParser(description="Ask the service for three times what it can do.")
    parser.add_argument("--seconds", type=float, default=FULL, help="of each load")
    chosen, project = choose(parser, "overload")
    known, found = rows(project), list[dict[str, object]]()
    gc.disable()  # its own pauses would look like the service's
    for name, count in LOADS.items():
        body = json.dumps({"rows": [known[place % len(known)] for place in range(count)]})
        request = f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        with service(chosen.python, project) as (process, port):
            found.append(
                asyncio.run(overload(name, port, request, partial(processes.largest, process.pid), chosen.seconds))
            )
            found[-1]["exit code"] = stop(process)
        tell(found[-1])
    if chosen.seconds >= FULL and not chosen.project:
        about = f"`make bench-overload`: {CONNECTIONS} connections, one worker; time from when due"
        write("overload", "Overload", about, found)
    return any(one["failed"] or one["exit code"] for one in found)


if __name__ == "__main__":
    sys.exit(main())
