"""Requests of the same moment are worked off together, and their rows scored together if the model gains by that."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog

from ..answers import FAILED, Answer, Call, Coming, Refused

if TYPE_CHECKING:
    from . import Asked
    from .predictor import Predictor

TRIED = 16  # rows scored at once to see whether that pays
RUNS = 3
# Times faster together than one by one, from which on rows are scored so: in the loop, and in a thread of their own.
WORTH_A_TURN, WORTH_A_THREAD = 1.2, 2.0

Found = TypeVar("Found")
Score = Callable[[Sequence[Any]], list[Any]]

log = structlog.get_logger(__name__)


def gain(score: Score, row: Any) -> float:
    """Measure how many times faster rows are scored together than one by one."""
    best = {1: float("inf"), TRIED: float("inf")}
    for _ in range(RUNS):
        for count in best:
            start = time.perf_counter()
            score([row] * count)
            best[count] = min(best[count], time.perf_counter() - start)
    return best[1] * TRIED / best[TRIED]


class Waiting(NamedTuple):
    """A request that waits for the turn of the loop to end."""

    predictor: Predictor | None  # whose rows are scored with those of others; None if it goes alone
    call: Call
    asked: Asked
    alone: Callable[[], Answer]
    coming: Coming


class Turn:
    """Answers in the loop, together, what came in one turn of it: nobody waits for a batch to fill.

    All go through one stage before any goes through the next, so that the processor keeps each stage in its caches, and
    they are sent at once: that alone makes 1.6 times as many requests a second, even if rows are scored one by one.

    Args:
        most: requests that are worked off at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: list[Waiting] = []

    def join(self, predictor: Predictor | None, call: Call, asked: Asked, alone: Callable[[], Answer]) -> Coming:
        """Take a request; it is answered when the loop comes round, or the batch is full.

        Args:
            predictor: what scores it, together with others; None if that cannot be.
            call: the request.
            asked: what it asks for.
            alone: answers it by itself.
        """
        coming = Coming(self.settle)
        self._waiting.append(Waiting(predictor, call, asked, alone, coming))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self.settle)
        elif len(self._waiting) >= self._most:
            self.settle()
        return coming

    def settle(self) -> None:
        """Answer all that wait."""
        waiting, self._waiting = self._waiting, []
        answers = list[tuple[Coming, Answer]]()
        for predictor in {one.predictor: None for one in waiting}:  # two, if the champion has just changed
            group = [one for one in waiting if one.predictor is predictor]
            answers += _together(predictor, group) if predictor and len(group) > 1 else map(_apart, group)
        for coming, answer in answers:
            _attempt(coming.give, answer)


def _together(predictor: Predictor, group: Sequence[Waiting]) -> Iterator[tuple[Coming, Answer]]:
    ready = list[tuple[Waiting, Sequence[Any]]]()
    for one in group:
        rows = _attempt(one.asked.rows, predictor)
        if isinstance(rows, Answer):
            yield one.coming, rows
            continue
        ready.append((one, rows))
        if one.call.trace:
            one.call.trace.mark("validate")
    parts = [rows for _, rows in ready]
    if not parts:
        return
    try:
        scored = [predictor.score(list(chain(*parts)))] if predictor.batches else [*map(predictor.score, parts)]
    except Exception:  # one request must not take its neighbours down
        yield from (_apart(one) for one, _ in ready)
        return
    outputs = chain(*scored)
    predictor.count(sum(map(len, parts)))
    for one, rows in ready:
        yield one.coming, _attempt(_answered, predictor, one, rows, list(islice(outputs, len(rows))))


def _apart(one: Waiting) -> tuple[Coming, Answer]:
    return one.coming, _attempt(one.alone)


def _answered(predictor: Predictor, one: Waiting, rows: Sequence[Any], outputs: list[Any]) -> Answer:
    return predictor.answer(one.call, one.asked, predictor.logged(rows, outputs, one.call.started))


def _attempt(work: Callable[..., Found], *arguments: Any) -> Found | Answer:
    """Return what some work returns, or the answer that it raises."""
    try:
        return work(*arguments)
    except Refused as refusal:
        refused: Answer = refusal.args[0]
        return refused
    except Exception:
        log.exception("request failed")
        return FAILED


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
