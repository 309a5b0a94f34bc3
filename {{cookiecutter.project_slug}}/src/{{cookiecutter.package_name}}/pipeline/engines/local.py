"""A pool of threads on this machine: the runtimes release Python's lock while they compute."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from ...models.scorer import Scorer

if TYPE_CHECKING:
    import polars as pl

    from ...models.bundle import Bundle

MOST = 8  # beyond it reading and writing, which are one thread, set the pace


def score(bundle: Bundle, frames: Iterable[pl.DataFrame], threads: int | None = None) -> Iterator[pl.DataFrame]:
    """Score frames side by side and give the results in order.

    Args:
        bundle: the model.
        frames: typed rows that fit its signature; at most ``threads`` of them are held at once.
        threads: default: one a core.

    Yields:
        The output columns of each frame; they do not depend on ``threads``.
    """
    scorer = Scorer(bundle)
    count = threads or min(os.cpu_count() or 1, MOST)
    waiting: deque[Future[pl.DataFrame]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="score") as pool:
        try:
            for frame in frames:
                waiting.append(pool.submit(scorer.frame, frame))
                if len(waiting) >= count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
