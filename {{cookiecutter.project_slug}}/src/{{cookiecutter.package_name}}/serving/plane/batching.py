"""Micro-batching: rows of requests that come at the same time are scored together, for models that gain by it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

TRIED = 16  # rows scored at once to see whether that pays
RUNS = 3
WORTH = 2.0  # times faster together than one by one, from which on batches are made

Score = Callable[[Sequence[Any]], list[Any]]


def gain(score: Score, row: Any) -> float:
    """Measure how many times faster rows are scored together than one by one."""
    best = {1: float("inf"), TRIED: float("inf")}
    for _ in range(RUNS):
        for count in best:
            start = time.perf_counter()
            score([row] * count)
            best[count] = min(best[count], time.perf_counter() - start)
    return best[1] * TRIED / best[TRIED]


class Batcher:
    """Scores in one thread what gathered while it scored before: nobody waits for a batch to fill.

    Args:
        score: of the model.
        most: rows in a batch; a request with more is a batch of its own.
    """

    def __init__(self, score: Score, most: int) -> None:
        self._score, self._most = score, most
        self._waiting: deque[tuple[Sequence[Any], Future[list[Any]]]] = deque()
        self._thread = ThreadPoolExecutor(1, "batcher")  # it ends when nobody holds the batcher any more

    def score(self, rows: Sequence[Any]) -> list[Any]:
        """Wait for a batch with these rows, and return their outputs; raises what the model raises over them alone."""
        future: Future[list[Any]] = Future()
        self._waiting.append((rows, future))
        self._thread.submit(self._work)
        return future.result()

    def _work(self) -> None:
        batch: list[tuple[Sequence[Any], Future[list[Any]]]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0][0]) <= self._most):
            batch.append(self._waiting.popleft())
            size += len(batch[-1][0])
        if not batch:
            return  # an earlier batch took it along
        try:
            outputs = self._score([row for rows, _ in batch for row in rows])
        except Exception:  # one request must not take its neighbours down
            for rows, future in batch:
                self._alone(rows, future)
            return
        first = 0
        for rows, future in batch:
            future.set_result(outputs[first : first + len(rows)])
            first += len(rows)

    def _alone(self, rows: Sequence[Any], future: Future[list[Any]]) -> None:
        try:
            future.set_result(self._score(rows))
        except Exception as error:
            future.set_exception(error)
