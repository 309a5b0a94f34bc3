"""``POST /v1/feedback``: what really happened, joined to predictions by their ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection
from typing import Any

import msgspec
import structlog

from ...errors import ProjectError
from ...signature import Signature
from ...store.feedback import contract, write
from ...store.queries import known_predictions
from ...store.tables import ID_LENGTH
from ...validation import Problem
from ..answers import NO_CHAMPION, Answer, Call, Refused, Route, Routes, problem
from ..body import doubtful, parse, repeated, twice
from ..plane.asked import json_only, misfits
from ..plane.predictor import made_elsewhere
from ..state import State

PATH = "/v1/feedback"
SETTLE = 0.3  # seconds in which another worker has surely written a prediction that it just made
LOOKS = 6  # at the log in that time

log = structlog.get_logger(__name__)


def routes(state: State) -> Routes:
    """Return the route."""

    def handle(call: Call) -> Awaitable[Answer]:
        json_only(call)
        if state.served is None:
            raise Refused(NO_CHAMPION)
        return asyncio.to_thread(_feedback, state, contract(state.served.bundle.signature), call.body)

    return {("POST", PATH): Route(handle, "predict")}


def _feedback(state: State, wanted: Signature, body: bytes) -> Answer:
    value = parse(body)
    many = isinstance(value, dict) and value.keys() == {"items"}
    items = value["items"] if many else [value]
    if errors := _wrong(wanted, body, value, items, state.settings.serving.max_rows):
        where = f"row {errors[0].row}: " if many else ""
        return problem(422, "signature", f"the feedback does not fit: {where}{errors[0].message}", errors)
    actuals = {one["id"]: one["actual"] for one in items}
    try:
        known = _known(state, actuals)
        write(state.store, {identity: actuals[identity] for identity in known})
    except ProjectError as error:
        log.error("feedback not stored", reason=str(error))
        detail = "the store cannot be used now, nothing was kept: send the feedback again later"
        return problem(503, "store", detail, headers=((b"retry-after", b"5"),))
    unknown = [place for place, one in enumerate(items) if one["id"] not in known]
    return Answer(200, msgspec.json.encode({"accepted": len(known), "unknown": unknown}))


def _wrong(wanted: Signature, body: bytes, value: Any, items: Any, most: int) -> list[Problem]:
    errors = misfits(wanted, items, most)
    if doubtful(body, value):
        errors = sorted([*twice(repeated(body)), *errors], key=lambda one: one.row)
    if errors:
        return errors
    longest = f"must be an id as a prediction has it, of at most {ID_LENGTH} characters"
    places = (place for place, one in enumerate(items) if len(one["id"]) > ID_LENGTH)
    return [Problem(place, "id", "length", longest) for place in places]


def _known(state: State, ids: Collection[str]) -> set[str]:
    """Return the ids that the log holds, with those made a moment ago, here or by another worker."""
    state.events.flush()
    known = known_predictions(state.store, ids)
    for _ in range(LOOKS):
        coming = [identity for identity in ids if identity not in known and made_elsewhere(identity)]
        if not coming:
            break
        time.sleep(SETTLE / LOOKS)
        known |= known_predictions(state.store, coming)
    return known
