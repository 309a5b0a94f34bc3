"""``POST /v1/predict``: one row or many, as JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET

from ...models.registry import CANARY
from ...signature import Signature
from ...store.events import Trial
from ...telemetry.metrics import REJECTED, TRIALS
from ...validation import Problem, explain
from ..answers import JSON, LIMIT, NO_CHAMPION, Answer, Call, Handlers, Refused, problem
from ..canary import SESSION, Judge, chosen
from ..predictor import Made, Predictor
from ..shadow import Shadow
from ..state import Served, State

PATH = "/v1/predict"
INLINE = 32_768  # a larger body (about 100 rows) is worked off in a thread, so that the others do not wait
MALFORMED = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)

encode = msgspec.json.Encoder().encode
answered, failed = (TRIALS.labels(CANARY, name).inc for name in ("answered", "failed"))


def handlers(state: State) -> Handlers:
    """Return the handler, and let a predictor be prepared for each version, and canary and shadow be watched."""
    shadow = Shadow(state)
    state.prepare = lambda bundle: Predictor(bundle, state.events)
    state.watchers += [Judge(state).watch, shadow.watch]
    most, pool = state.settings.serving.max_rows, ThreadPoolExecutor(1, "predict")

    def handle(call: Call) -> Answer | Awaitable[Answer]:
        predictor: Predictor = served(state, call).predictor
        work, fast = _predict, predictor.fast
        if state.tried:
            canary = state.canary
            if canary and not chosen(canary.alias, call.headers.get(SESSION) or call.body):
                canary = None
            fast = fast and (canary is None or canary.predictor.fast)
            work = partial(_tried, state, canary, shadow)
        if fast and len(call.body) <= INLINE:
            return work(predictor, call, most)
        return asyncio.get_running_loop().run_in_executor(pool, work, predictor, call, most)

    return {("POST", PATH): handle}


def _predict(predictor: Predictor, call: Call, most: int) -> Answer:
    try:
        made = _made(predictor, call, most)
    except OverflowError:  # a time at the end of the calendar, for example
        REJECTED.labels("http").inc()
        return problem(422, "range", "a value is farther out than the model can compute with: look at the times")
    return _explained(predictor, call.body, most) if made is None else _answer(predictor, *made)


def _made(predictor: Predictor, call: Call, most: int) -> tuple[bool, Made] | None:
    """Return whether many were asked for, and the predictions; None if the body does not fit."""
    try:
        body = predictor.decode(call.body)
    except MALFORMED:
        return None
    many = body.row is UNSET
    if many == (body.rows is UNSET) or (many and len(body.rows) > most):
        return None
    return many, predictor.predict(body.rows if many else (body.row,), call.started, many)


def _answer(predictor: Predictor, many: bool, made: Made) -> Answer:
    if many:
        predictions = [{"id": identity, **output} for identity, output in made]
        return Answer(200, encode({"model_version": predictor.version, "predictions": predictions}))
    identity, output = made[0]
    return Answer(200, encode({"id": identity, "model_version": predictor.version, **output}))


def _tried(state: State, canary: Served | None, shadow: Shadow, champion: Predictor, call: Call, most: int) -> Answer:
    """Let the canary answer, if this is its request. When it cannot, or there is none, the champion does."""
    error = ""
    if canary:
        try:
            if made := _made(canary.predictor, call, most):
                answered()
                return _answer(canary.predictor, *made)
            error = "its signature refuses the request"
        except Exception as failure:  # whatever it is, the caller must not feel it
            error = f"{type(failure).__name__}: {failure}"[:200]
    elapsed = (time.perf_counter() - call.started) * 1e3
    try:
        made = _made(champion, call, most)
    except OverflowError:
        made = None
    if made is None:  # not the canary's fault
        return _predict(champion, call, most)
    ids = [identity for identity, _ in made[1]]
    if canary:
        failed()
        state.events.append(Trial(ids[0], time.time(), canary.bundle.version, CANARY, elapsed, error=error))
    if state.shadow:
        shadow.copy(call.body, ids)
    return _answer(champion, *made)


def _explained(predictor: Predictor, body: bytes, most: int) -> Answer:
    """Say what is wrong with a body that the decoder refused."""
    value = parse(body)
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"row", "rows"}:
        return problem(422, "shape", 'the body must be {"row": {...}} or {"rows": [{...}, ...]}')
    errors = misfits(predictor.signature, value.get("rows", [value.get("row")]), most)
    REJECTED.labels("http").inc(len({error.row for error in errors}) or 1)
    first = errors[0].message if errors else "a field is given twice, once with a value that does not fit"
    return problem(422, "signature", f"the input does not fit the model's signature: {first}", errors)


def served(state: State, call: Call) -> Served:
    """Return what is in service; refuse if nothing is, and a body that is not plain JSON by its headers."""
    kind = call.headers.get(b"content-type", JSON)  # none at all is taken for JSON
    if state.served is None:
        raise Refused(NO_CHAMPION)
    if kind != JSON and kind.partition(b";")[0].strip().lower() != JSON:
        raise Refused(problem(415, "content-type", "send the body as Content-Type: application/json"))
    if call.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused(problem(415, "content-encoding", "send the body without compression"))
    return state.served


def parse(body: bytes) -> Any:
    """Return the value of a JSON body, or refuse what is none."""
    try:
        return msgspec.json.decode(body)
    except MALFORMED:
        detail = "the body is no JSON that can be read (UTF-8, finite numbers, not too deep)"
        raise Refused(problem(400, "malformed", detail)) from None


def misfits(signature: Signature, rows: object, most: int) -> list[Problem]:
    """Say what is wrong with rows, up to a limit; refuse what is no list of them, and too many."""
    if not isinstance(rows, list) or not rows:
        raise Refused(problem(422, "shape", "send a list of at least one row"))
    if len(rows) > most:
        raise Refused(problem(413, "too-many-rows", f"send at most {most} rows at a time"))
    errors: list[Problem] = []
    for place, row in enumerate(rows):
        errors += explain(signature, row, place)
        if len(errors) >= LIMIT:
            break
    return errors
