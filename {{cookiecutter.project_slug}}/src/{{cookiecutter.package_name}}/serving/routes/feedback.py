"""``POST /v1/feedback``: what really happened, joined to predictions by their ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from ...errors import ProjectError
from ...signature import PREDICTION, Column, Signature
from ...store.events import upsert
from ...store.queries import known_predictions
from ...store.tables import feedback
from ..answers import Answer, Call, Handlers, problem
from ..state import State
from .predict import misfits, parse, served

PATH = "/v1/feedback"
SETTLE = 0.3  # seconds in which another worker has surely written a prediction that it just made

log = structlog.get_logger(__name__)


def handlers(state: State) -> Handlers:
    """Return the handler."""

    def handle(call: Call) -> Awaitable[Answer]:
        return asyncio.to_thread(_feedback, state, _contract(served(state, call).bundle.signature), call.body)

    return {("POST", PATH): handle}


def _contract(signature: Signature) -> Signature:
    """Return the contract of one piece of feedback: an id, and an actual value like the prediction."""
    prediction = next(column for column in signature.outputs if column.name == PREDICTION)
    actual = replace(prediction, name="actual", nullable=False, description="What really happened.")
    return replace(signature, inputs=(Column("id", "string", description="Of the prediction."), actual), outputs=())


def _feedback(state: State, contract: Signature, body: bytes) -> Answer:
    value = parse(body)
    items = value["items"] if isinstance(value, dict) and value.keys() == {"items"} else [value]
    if errors := misfits(contract, items, state.settings.serving.max_rows):
        return problem(422, "signature", f"the feedback does not fit: {errors[0].message}", errors)
    actuals = {one["id"]: one["actual"] for one in items}
    try:
        known = _known(state, actuals)
        if known:
            _write(state, {identity: actuals[identity] for identity in sorted(known)})
    except ProjectError as error:
        log.error("feedback not stored", reason=str(error))
        detail = "the store cannot be used now, nothing was kept: send the feedback again later"
        return problem(503, "store", detail, headers=((b"retry-after", b"5"),))
    unknown = [identity for identity in actuals if identity not in known]
    return Answer(200, msgspec.json.encode({"accepted": len(known), "unknown": unknown}))


def _known(state: State, ids: Collection[str]) -> set[str]:
    """Return the ids that the log holds, with those made a moment ago, here or by another worker."""
    state.events.flush()
    asked = [identity for identity in ids if len(identity) <= 64 and identity.isprintable()]
    known = known_predictions(state.store, asked)
    if len(known) < len(asked):
        time.sleep(SETTLE)
        known |= known_predictions(state.store, asked)
    return known


def _write(state: State, actuals: dict[str, Any]) -> None:
    now, encode = datetime.now(UTC), msgspec.json.encode
    rows = [{"prediction_id": key, "time": now, "actual": encode(value).decode()} for key, value in actuals.items()]
    with state.store.write() as connection:
        statement = upsert(connection, feedback)
        new = {"time": statement.excluded.time, "actual": statement.excluded.actual}
        connection.execute(statement.on_conflict_do_update(index_elements=["prediction_id"], set_=new), rows)
