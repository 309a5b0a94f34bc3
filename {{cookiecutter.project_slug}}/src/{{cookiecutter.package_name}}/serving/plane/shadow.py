"""The shadow: a version that is tried out on copies of requests, beside them and never in their way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ...models.comparison import compare
from ...models.registry import CHAMPION, SHADOW, Alias, Registry
from ...store import queries
from ...store.database import Store
from ...store.events import Trial
from ...telemetry.metrics import TRIALS
from ..answers import Refused
from ..state import Served, State

if TYPE_CHECKING:
    from . import Asked

MOST, BYTES = 5_000, 16_000_000  # copies that wait, and about their size

answered, failed, dropped = (TRIALS.labels(SHADOW, name).inc for name in ("answered", "failed", "dropped"))


class Shadow:
    """Copies of requests, and what tries the shadow out on them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._copies: deque[tuple[Asked, list[str]]] = deque()

    def copy(self, asked: Asked, size: int, ids: list[str]) -> None:
        """Keep a request that the champion answered, or drop it when too much waits already.

        Args:
            asked: the request.
            size: of its body, in bytes.
            ids: of the predictions.
        """
        waiting = len(self._copies)
        if waiting < MOST and size * (waiting + 1) <= BYTES:
            self._copies.append((asked, ids))
        else:
            dropped()

    def watch(self) -> None:
        """Try out what waits."""
        while self._copies:
            asked, ids = self._copies.popleft()
            if self._state.shadow:
                self._try(self._state.shadow, asked, ids)

    def _try(self, shadow: Served, asked: Asked, ids: Sequence[str]) -> None:
        started, error = time.perf_counter(), None
        outputs: Sequence[Any] = [None] * len(ids)
        try:
            outputs = shadow.predictor.score(asked.rows(shadow.predictor))
        except Refused:
            error = "its signature refuses the request"
        except Exception as problem:  # whatever it is, the champion has answered
            error = f"{type(problem).__name__}: {problem}"[:200]
        elapsed, now = (time.perf_counter() - started) * 1e3, time.time()
        for identity, output in zip(ids, outputs, strict=True):
            self._state.events.append(Trial(identity, now, shadow.bundle.version, SHADOW, elapsed, output, error))
        failed() if error else answered()


def report(store: Store, registry: Registry, shadow: Alias) -> list[str]:
    """Say in lines of text how the shadow's answers differ from the champion's, since it began.

    Raises:
        ProjectError: there is no champion, or the log cannot be read.
    """
    champion, other = registry.load(CHAMPION), registry.load(shadow.version)
    since = datetime.fromisoformat(shadow.since)
    contracts = [(one.version, one.signature) for one in (champion, other)]
    from ...store.frames import trials_frame  # late: the service reports nothing

    rows, first, second = trials_frame(store, contracts[0], contracts[1], since)
    errors = queries.failed_trials(store, shadow.version, SHADOW, since, datetime.now(since.tzinfo))
    said = [f"shadow {shadow.version} beside champion {champion.version} since {shadow.since}"]
    said.append(f"{rows.height} rows answered by both, {errors} rows failed on by the shadow")
    if not rows.height:
        return [*said, "nothing to compare yet: copies of the requests from now on are tried out"]
    medians = rows["latency_ms"].median(), rows["trial_ms"].median()
    said.append("median latency: champion {:.3g} ms, shadow {:.3g} ms (beside the requests)".format(*medians))
    return said + compare(champion.signature, rows.drop("latency_ms", "trial_ms"), first, second).lines()
