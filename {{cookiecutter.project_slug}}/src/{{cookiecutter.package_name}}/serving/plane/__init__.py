"""The data plane: every protocol that predicts goes through here, with its own way to decode and to encode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from ...models.registry import CANARY
from ...store.events import Trial
from ...telemetry.metrics import REJECTED, TRIALS
from ...validation import Problem
from ..answers import BUSY, NO_CHAMPION, Answer, Call, Coming, Refused, problem
from ..state import Served, State
from .batching import Turn
from .canary import SESSION, Judge, chosen
from .predictor import Made, Predictor
from .shadow import Shadow

SINGLE = 4_096  # bytes of a body that has a row or a few: more would hold up those that came in the same turn
INLINE = 32_768  # a larger body (about 100 rows) is worked off in a thread, so that the others do not wait
OVERFLOW = "is farther out than the model can compute with"


class Asked(Protocol):
    """A request in the terms of its protocol."""

    def rows(self, predictor: Predictor) -> Sequence[Any]:
        """Return rows of the predictor's own class; raises `Refused` if they do not fit.

        It may be called again, for another version.
        """

    def spare(self, places: Sequence[int], why: str) -> bool:
        """Leave out rows that the model cannot compute, if the others may go on without them; else return False."""

    def answer(self, predictor: Predictor, made: Made) -> Answer:
        """Return the answer with the predictions."""


answered, failed = (TRIALS.labels(CANARY, name).inc for name in ("answered", "failed"))


class Plane:
    """From decoded rows to predictions: by the champion or the canary, here or in a thread, alone or in a batch."""

    def __init__(self, state: State) -> None:
        settings = state.settings.serving
        self._state, self._shadow = state, Shadow(state)
        self._queue, self._waiting, self._patience = settings.queue, 0, settings.wait_seconds
        self._one = ThreadPoolExecutor(1, "predict")  # what holds the interpreter: two would only take turns
        self._many = ThreadPoolExecutor(settings.batch_rows, "batch")  # what waits for a batch
        self._turn = Turn(settings.batch_rows)
        state.prepare = lambda bundle: Predictor(bundle, state.events, settings)
        state.watchers += [Judge(state).watch, self._shadow.watch]

    def answer(self, call: Call, asked: Asked, named: bool = False) -> Answer | Awaitable[Answer]:
        """Answer a request, here if that is quick, or else in a thread; by the champion if that is ``named``."""
        champion = self.champion()
        if self._state.tried and not named:
            return self._with_others(champion, call, asked)
        if champion.fast and len(call.body) <= INLINE and not self._state.events.behind:
            return self._here(champion, call, asked, partial(_predict, champion, call, asked))
        return self.apart(self._pool(champion), _predict, champion, call, asked)

    def _with_others(self, champion: Predictor, call: Call, asked: Asked) -> Answer | Awaitable[Answer]:
        canary = self._state.canary
        if canary and not chosen(canary.alias, call.headers.get(SESSION) or call.body or call.query):
            canary = None
        used = [champion, canary.predictor] if canary else [champion]
        if all(one.fast for one in used) and len(call.body) <= INLINE and not self._state.events.behind:
            return self._here(None, call, asked, partial(self._tried, champion, call, asked, canary))
        return self.apart(self._pool(*used), self._tried, champion, call, asked, canary)

    def _here(
        self, predictor: Predictor | None, call: Call, asked: Asked, alone: Callable[[], Answer]
    ) -> Answer | Coming:
        """Answer in the loop: with what else comes in this turn of it, if it is small."""
        if len(call.body) > SINGLE:
            return alone()
        return self._turn.join(predictor, call, asked, alone)

    def _pool(self, *used: Predictor) -> ThreadPoolExecutor:
        return self._many if any(one.batches and not one.fast for one in used) else self._one

    def champion(self) -> Predictor:
        """Return the predictor of the version in service; raises `Refused` if there is none."""
        if self._state.served is None:
            raise Refused(NO_CHAMPION)
        predictor: Predictor = self._state.served.predictor
        return predictor

    async def apart(self, pool: ThreadPoolExecutor | None, work: Callable[..., Answer], *arguments: Any) -> Answer:
        """Work in a thread (None: the one for what is large), unless too many wait for that, or it comes too late."""
        if self._waiting >= self._queue:
            return BUSY
        self._waiting += 1
        until = time.perf_counter() + self._patience

        def begin() -> Answer:
            # Predictions are made no faster than they are logged, and what cannot be within the time is refused.
            left = until - time.perf_counter()
            return work(*arguments) if left > 0 and self._state.events.wait(left) else BUSY

        try:
            return await asyncio.get_running_loop().run_in_executor(pool or self._one, begin)
        finally:
            self._waiting -= 1

    def _tried(self, champion: Predictor, call: Call, asked: Asked, canary: Served | None) -> Answer:
        """Let the canary answer, if this is its request. When it cannot, or there is none, the champion does."""
        error = ""
        if canary:
            try:
                predictor: Predictor = canary.predictor
                made = predictor.predict(asked.rows(predictor), call.started)
                answered()
                return predictor.answer(call, asked, made)
            except Refused:
                error = "its signature refuses the request"
            except Exception as failure:  # whatever it is, the caller must not feel it
                error = f"{type(failure).__name__}: {failure}"[:200]
        elapsed = (time.perf_counter() - call.started) * 1e3
        made = _made(champion, call, asked)
        ids = [identity for identity, _ in made]
        if canary:
            failed()
            version = canary.bundle.version
            self._state.events.append(Trial(ids[0], time.time(), version, CANARY, elapsed, error=error))
        if self._state.shadow:
            self._shadow.copy(asked, len(call.body), ids)
        return champion.answer(call, asked, made)


def plane(state: State) -> Plane:
    """Return the one data plane of a service."""
    if state.plane is None:
        state.plane = Plane(state)
    found: Plane = state.plane
    return found


def out_of_range(errors: Sequence[Problem]) -> Answer:
    """Answer that rows fit the signature, and yet cannot be computed."""
    detail = f"row {errors[0].row} {OVERFLOW}, though it fits the signature: look at times and large numbers"
    return problem(422, "range", detail, errors)


def _predict(predictor: Predictor, call: Call, asked: Asked) -> Answer:
    return predictor.answer(call, asked, _made(predictor, call, asked))


def _made(predictor: Predictor, call: Call, asked: Asked) -> Made:
    rows = asked.rows(predictor)
    if call.trace:
        call.trace.mark("validate")
    try:
        return predictor.predict(rows, call.started)
    except Exception:
        failing = predictor.failing(rows)
        if not failing or not predictor.works():
            raise  # the model's fault, not that of the rows
        REJECTED.labels("http").inc(len(failing))
        if len(failing) == len(rows) or not asked.spare(failing, OVERFLOW):
            errors = [Problem(place, "", "range", OVERFLOW) for place in failing]
            raise Refused(out_of_range(errors)) from None
        return predictor.predict([row for place, row in enumerate(rows) if place not in set(failing)], call.started)
