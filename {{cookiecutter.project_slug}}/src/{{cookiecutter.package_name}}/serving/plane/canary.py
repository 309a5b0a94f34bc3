"""The canary: a version that answers a share of the requests, and is withdrawn when it is worse than the champion.

Who gets the canary is decided by a hash of the session (header ``X-Session-ID``) or else of the body, seeded with the
canary's version: the same session or input always gets the same version, and each canary another part of the callers.

It is judged every ``canary.seconds`` by what the log holds since it began, so over all workers alike. Three tests, each
one-sided, of "the canary is worse than the champion by more than the margin":

* errors: the exact binomial test of the requests that the canary failed on (the champion answered those), against the
  champion's rate of status 500 plus ``canary.errors``. The champion's rate is taken at the upper end of its
  Clopper-Pearson interval, because it is an estimate too; half of the level is spent on each of the two.
* latency: the Mann-Whitney U test (normal approximation with the correction for ties and continuity) of the canary's
  latencies against the champion's times ``1 + canary.latency``; a request counts once, however many rows it has.
* feedback: for a regression Mann-Whitney as above, of the absolute errors, with ``canary.feedback``; for a
  classification binomial as above, of wrong answers, against the champion's rate times ``1 + canary.feedback``.

Looking often is paid for: look k spends ``significance / (3 k (k + 1))`` on each test, which adds up to
``significance`` over all looks and tests (union bound). k is counted from the canary's beginning and the data end with
the look, so all workers see the same. The tests take requests for independent of each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import structlog

from ...models.registry import CANARY, Alias, Registry
from ...models.runtimes import Array
from ...settings import Canary as Limits
from ...settings import Settings
from ...signature import PREDICTION
from ...store import queries
from ...store.database import Store
from ...store.events import record
from ...telemetry.metrics import WITHDRAWN
from ..state import State

ROUTE = "/v1/predict"
SESSION = b"x-session-id"
NEWEST = 5_000  # requests of each version that a look takes in
SETTLE = timedelta(seconds=1)  # until the log of every worker is written
REST = 20  # times as long as a look took, until the next: the requests come first

Measure = Literal["errors", "latency", "feedback"]

log = structlog.get_logger(__name__)


def chosen(canary: Alias, key: bytes) -> bool:
    """Say whether a session or a body gets the canary."""
    digest = blake2b(key, digest_size=8, key=canary.version.encode()).digest()
    return int.from_bytes(digest) < (canary.share or 0) * 2**64


class Seen(NamedTuple):
    """What the log knows of one version: what it failed on, and of what it answered the latencies and the misses.

    ``misses`` are absolute errors (regression), or 1 for each wrong answer and 0 for the others.
    """

    failed: int
    latencies: Array
    misses: Array


@dataclass(frozen=True)
class Evidence:
    """One test: what was measured of both, the highest value allowed, and how likely the canary's would be by chance.

    Without enough of both versions there is no ``p``. ``level`` is what ``p`` must reach.
    """

    measure: Measure
    rows: tuple[int, int]  # of canary and champion
    canary: float | None = None
    champion: float | None = None
    limit: float | None = None
    p: float | None = None
    level: float = 0.0

    @property
    def worse(self) -> bool:
        """Whether the canary is worse than allowed, by enough evidence."""
        return self.p is not None and self.p <= self.level

    def __str__(self) -> str:
        """Say it in one sentence."""
        if self.p is None:
            return f"{self.measure}: not enough yet ({self.rows[0]} of the canary, {self.rows[1]} of the champion)"
        shown = [f"{one:.4g}" for one in (self.canary, self.champion, self.limit)]
        return (
            f"{self.measure}: canary {shown[0]} ({self.rows[0]}), champion {shown[1]} ({self.rows[1]}), "
            f"allowed {shown[2]}, p = {self.p:.2g} ({'worse' if self.worse else 'not worse'} at {self.level:.2g})"
        )


def looks(canary: Alias, seconds: float, now: datetime) -> int:
    """Return how many looks were due by now."""
    return max(0, int((now - SETTLE - datetime.fromisoformat(canary.since)).total_seconds() / seconds))


def weigh(limits: Limits, task: str, canary: Seen, champion: Seen, look: int) -> list[Evidence]:
    """Test whether the canary is worse.

    Args:
        limits: margins, significance, and the least number of rows of each version.
        task: ``regression`` or ``classification``, which decides how feedback is tested.
        canary: what the log knows of it.
        champion: likewise.
        look: which look this is, from 1.

    Returns:
        The three tests, in the order of `Measure`.
    """
    level = limits.significance / (3 * look * (look + 1))
    failures = [(one.failed, one.failed + len(one.latencies)) for one in (canary, champion)]
    errors = _rates("errors", failures, lambda rate: rate + limits.errors, limits.minimum, level)
    latencies = canary.latencies, champion.latencies
    latency = _ranks("latency", *latencies, 1 + limits.latency, limits.minimum, level)
    worst = 1 + limits.feedback
    if task == "regression":
        return [errors, latency, _ranks("feedback", canary.misses, champion.misses, worst, limits.minimum, level)]
    wrong = [(int(one.misses.sum()), len(one.misses)) for one in (canary, champion)]
    return [errors, latency, _rates("feedback", wrong, lambda rate: rate * worst, limits.minimum, level)]


def _rates(
    measure: Measure, counted: list[tuple[int, int]], allowed: Callable[[float], float], minimum: int, level: float
) -> Evidence:
    """Test two counts, each of so many, by the binomial test of the module's description."""
    (count, total), (count_2, total_2) = counted
    if min(total, total_2) < minimum:
        return Evidence(measure, (total, total_2))
    from scipy.special import bdtrc, betainccinv  # late: the import takes a third of a second

    upper = 1.0 if count_2 == total_2 else float(betainccinv(count_2 + 1, total_2 - count_2, level / 2))
    limit = min(1.0, allowed(upper))
    p = float(bdtrc(count - 1, total, limit)) if count else 1.0
    return Evidence(measure, (total, total_2), count / total, count_2 / total_2, limit, p, level / 2)


def _ranks(measure: Measure, values: Array, others: Array, factor: float, minimum: int, level: float) -> Evidence:
    """Test whether values tend to be larger than others times a factor (Mann and Whitney, 1947); medians are shown."""
    size, size_2 = len(values), len(others)
    if min(size, size_2) < minimum:
        return Evidence(measure, (size, size_2))
    from scipy.special import ndtr

    _, place, ties = np.unique(np.concatenate([values, others * factor]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    total, excess = size + size_2, ranks[:size].sum() - size * (size + 1) / 2 - size * size_2 / 2
    variance = size * size_2 / 12 * (total + 1 - (ties.astype(float) ** 3 - ties).sum() / (total * (total - 1)))
    p = float(ndtr(-(excess - 0.5) / variance**0.5)) if variance else 1.0
    middle, middle_2 = float(np.median(values)), float(np.median(others))
    return Evidence(measure, (size, size_2), middle, middle_2, middle_2 * factor, p, level)


def gather(settings: Settings, store: Store, task: str, canary: Alias, champion: Alias, look: int) -> list[Evidence]:
    """Weigh what the log holds of both versions, up to a look, since both are what they are.

    Raises:
        ProjectError: the log cannot be read.
    """
    began = datetime.fromisoformat(canary.since)
    until = began + timedelta(seconds=look * settings.canary.seconds)
    since = max(began, datetime.fromisoformat(champion.since))
    seen = []
    for alias in (canary, champion):
        latencies, complete = queries.request_latencies(store, alias.version, since, until, NEWEST)
        if alias is canary:
            failed = queries.failed_trials(store, alias.version, CANARY, complete, until)
        else:
            failed = queries.failed_requests(store, ROUTE, complete, until)
        pairs = queries.outcomes(store, alias.version, since, until, NEWEST)
        read = [(msgspec.json.decode(output)[PREDICTION], msgspec.json.decode(actual)) for output, actual in pairs]
        misses = [abs(guess - truth) if task == "regression" else guess != truth for guess, truth in read]
        seen.append(Seen(failed, np.array(latencies, float), np.array(misses, float)))
    return weigh(settings.canary, task, seen[0], seen[1], look)


def withdraw(registry: Registry, store: Store, canary: Alias, found: Sequence[Evidence]) -> bool:
    """Withdraw a canary because of the evidence, unless that was done already; every worker follows.

    Raises:
        ProjectError: the registry or the log cannot be written.
    """
    if registry.aliases().get(CANARY) != canary or registry.drop(CANARY) is None:
        return False
    reason = "worse than the champion: " + "; ".join(str(one) for one in found if one.worse)
    log.error("canary withdrawn", version=canary.version, reason=reason)
    WITHDRAWN.inc()
    detail = {"evidence": [asdict(one) for one in found]}
    # Recorded last: a log that is away must not keep a bad canary.
    record(store, "withdraw", canary.version, "service", alias=CANARY, reason=reason, detail=detail)
    return True


class Judge:
    """Looks at the canary of a running service, and withdraws it when it is worse."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._last: tuple[Alias, int] | None = None
        self._rest = 0.0

    def watch(self) -> None:
        """Take the look that is due, if any."""
        state, canary, champion = self._state, self._state.canary, self._state.served
        if canary is None or champion is None or time.monotonic() < self._rest:
            return
        look = looks(canary.alias, state.settings.canary.seconds, datetime.now(UTC))
        if look < 1 or (canary.alias, look) == self._last:
            return
        started, self._last = time.monotonic(), (canary.alias, look)
        task = champion.bundle.signature.task
        found = gather(state.settings, state.store, task, canary.alias, champion.alias, look)
        if any(one.worse for one in found):
            withdraw(state.registry, state.store, canary.alias, found)
        self._rest = time.monotonic() + REST * (time.monotonic() - started)
