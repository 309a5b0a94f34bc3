"""A pool of threads on this machine: the runtimes release Python's lock while they compute."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import polars as pl

from ...models.bundle import Bundle
from ...models.scorer import Scorer

MOST = 8  # beyond it reading and writing, which are one thread, set the pace


def score(bundle: Bundle, frames: Iterable[pl.DataFrame], threads: int | None = None) -> Iterator[pl.DataFrame]:
    """Score frames side by side, at most ``threads`` at once (default: one a core), and give the results in order."""
    scorer = Scorer(bundle)
    count = threads or min(os.cpu_count() or 1, MOST)
    waiting: deque[Future[pl.DataFrame]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="score") as pool:
        for frame in frames:
            waiting.append(pool.submit(scorer.frame if frame.height else pl.DataFrame, frame))
            if len(waiting) >= count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
