"""Overload: three times what the service can answer, and then nothing. Does it refuse in time, and come back?

Capacity is measured first, with callers who wait for their answers. Then requests leave at three times that rate,
whatever the answers do, over more connections than the service holds; a request's time counts from when it was due.
At the end single requests show when the service is as quick again as before.
"""

import argparse
import asyncio
import gc
import json
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

from common import ROOT, write
from served import prepare, rows, service, stop
from serving import memory

FULL = 20.0  # seconds of a load that is written down
TIMES, CONNECTIONS, WAITING = 3, 1_500, 32  # the load beside capacity, its connections, and those that wait
LOADS = {"single rows": 1, "100 rows": 100, "1,000 rows": 1_000}
PROBES, PAUSE, PATIENCE = 200, 0.005, 60.0  # single requests, seconds between them, and seconds for any answer

Outcome = tuple[str, float]  # answered, refused or failed, and the seconds since it was due


class Caller(asyncio.Protocol):
    """A connection that takes one request at a time, and is opened anew when it breaks."""

    def __init__(self, load: "Load") -> None:
        self.load, self.due, self.received = load, 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self.transport = transport
        self.load.idle.append(self)

    def send(self, due: float) -> None:
        """Send the request that was due at a moment of `time.perf_counter`."""
        self.due, self.received = due, b""
        self.transport.write(self.load.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Be ready again once the answer is whole."""
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
            self._done(outcome(head.lower()))
            if b"\r\nconnection: close" in head.lower():
                self.transport.close()
            else:
                self.load.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Count a request that waits for its answer as failed, and connect again."""
        if self.due:
            self._done("failed")
        if self in self.load.idle:
            self.load.idle.remove(self)
        self.load.lost()

    def _done(self, what: str) -> None:
        self.load.done.append((what, time.perf_counter() - self.due))
        self.due = 0.0


def outcome(head: bytes) -> str:
    """Say what an answer is; a refusal says when to come again."""
    if head.startswith(b"http/1.1 200 "):
        return "answered"
    busy = head.startswith((b"http/1.1 429 ", b"http/1.1 503 ")) and b"\r\nretry-after: " in head
    return "refused" if busy else "failed"
