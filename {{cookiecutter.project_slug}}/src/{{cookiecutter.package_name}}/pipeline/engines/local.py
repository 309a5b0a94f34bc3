"""A pool of processes on this machine, one a core: this one and others.

Processes, not threads: texts become arrays under Python's lock and polars' threads fight with the others, so that two
threads are 1.7 times as fast as one, and two processes 1.9 times once they have started. This one begins meanwhile.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ...errors import ProjectError
from ..manifest import Json
from ..sources import Chunk
from ..steps import Work
from . import ALONE

if TYPE_CHECKING:
    from ...settings import Pipeline

MOST = 8  # workers by default
FEW = 5  # fewer chunks are done before a worker has started


def map(work: Work, chunks: Iterable[Chunk], settings: Pipeline) -> Generator[Json, None, None]:
    """Do chunks in ``pipeline.workers`` processes (0: one a core), of which this is one; alone if they are few."""
    count, chunks = settings.workers or min(_cores(), MOST), iter(chunks)
    first = list(islice(chunks, FEW))
    chunks = chain(first, chunks)
    return _pool(work, chunks, count) if count > 1 and len(first) == FEW else (work(chunk) for chunk in chunks)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(work: Work, chunks: Iterator[Chunk], count: int) -> Generator[Json, None, None]:
    idle, waiting = queue.SimpleQueue[Callable[[Chunk], Json]](), set[Future[Json]]()
    others = [_Worker(work) for _ in range(count - 1)]
    idle.put(work)
    for other in others:
        idle.put(other.do)

    def do(chunk: Chunk) -> Json:
        worker = idle.get()
        try:
            return worker(chunk)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(count) as threads:  # one does chunks, each other waits for a worker
        try:
            for chunk in chunks:
                waiting.add(threads.submit(do, chunk))
                if len(waiting) > count:  # one is ready for the first worker that is
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in waiting:
                future.cancel()
            for other in others:
                other.end()


class _Worker:
    """A process that does one chunk at a time, told and answering through pipes; it ends with this process."""

    def __init__(self, work: Work) -> None:
        code = f"from {__name__} import serve; serve()"
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        environment = {**os.environ, **ALONE, "PYTHONPATH": paths}
        command = [sys.executable, "-P", "-c", code]  # P: a file of the working folder shadows no library
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._give(work)

    def do(self, chunk: Chunk) -> Json:
        assert self._process.stdout
        try:
            self._give(chunk)
            answer: Json | Exception = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise ProjectError(
                "a worker process ended, most often because memory ran out: lower pipeline.workers or "
                "pipeline.chunk_rows, then `pipeline resume`"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        self._process.kill()  # what it was about to write is a draft, and stays one
        self._process.wait()

    def _give(self, thing: object) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # the missing answer is noticed
            pickle.dump(thing, self._process.stdin)
            self._process.stdin.flush()


def serve() -> None:
    """Be a worker: read the work, then chunks; answer each with its marker or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the process that started this one
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        asked = queue.SimpleQueue[Any]()
        threading.Thread(target=_listen, args=(asked,), daemon=True).start()
        work: Work = asked.get()
        while True:
            pickle.dump(work.attempt(asked.get()), answers)
            answers.flush()


def _listen(asked: queue.SimpleQueue[Any]) -> None:
    """Take in what is asked, and end the process at once when the one that asks is gone, even if it was killed."""
    with suppress(EOFError, OSError):
        while True:
            asked.put(pickle.load(sys.stdin.buffer))
    os._exit(0)
