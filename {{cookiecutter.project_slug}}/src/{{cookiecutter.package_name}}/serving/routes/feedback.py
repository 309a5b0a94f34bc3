"""``POST /v1/feedback``: what really happened, joined to predictions by their ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...errors import ProjectError
from ...signature import PREDICTION, Column, Signature, row_schema
from ...validation import explain
from ..hot import Call, Handlers, log, not_json
from ..predictor import State, made_at
from ..problems import LIMIT, TEXT, Answer, closed, listed, no_champion, operation, problem, reference
from .predict import MALFORMED

PATH = "/v1/feedback"
SETTLE = 0.3  # seconds in which another worker has surely written a prediction that it just made
RECENT = 5.0


def hot(state: State) -> Handlers:
    """Return the handler."""

    def handle(call: Call) -> Answer | Awaitable[Answer]:
        if state.model is None:
            return no_champion()
        refusal = not_json(call)
        return refusal if refusal is not None else asyncio.to_thread(_feedback, state, state.model.signature, call.body)

    return {("POST", PATH): handle}


def item(signature: Signature) -> Signature:
    """Return the contract of one piece of feedback: an id, and an actual value like the prediction."""
    prediction = next(column for column in signature.outputs if column.name == PREDICTION)
    actual = replace(prediction, name="actual", nullable=False, description="What really happened.")
    return replace(signature, inputs=(Column("id", "string", description="Of the prediction."), actual), outputs=())


def _feedback(state: State, signature: Signature, body: bytes) -> Answer:
    try:
        value = msgspec.json.decode(body)
    except MALFORMED:
        return problem(400, "malformed", "the body is no JSON that can be read (UTF-8, finite numbers, not too deep)")
    items = value["items"] if isinstance(value, dict) and value.keys() == {"items"} else [value]
    limit = state.settings.serving.max_rows
    if not isinstance(items, list) or not items:
        return problem(422, "shape", 'the body must be {"id", "actual"} or {"items": [{"id", "actual"}, ...]}')
    if len(items) > limit:
        return problem(413, "too-many-rows", f"send at most {limit} items at a time")
    contract, errors = item(signature), []
    for place, one in enumerate(items):
        errors += explain(contract, one, place)
        if len(errors) >= LIMIT:
            break
    if errors:
        return problem(422, "signature", f"the feedback does not fit: {errors[0].message}", errors)
    actuals = {one["id"]: one["actual"] for one in items}
    try:
        known = _known(state, list(actuals))
        _write(state, {identity: actual for identity, actual in actuals.items() if identity in known})
    except ProjectError as error:
        log.error("feedback not stored", reason=str(error))
        detail = "the store cannot be used now, nothing was kept: send the feedback again later"
        return problem(503, "store", detail, headers=((b"retry-after", b"5"),))
    unknown = [identity for identity in actuals if identity not in known]
    return Answer(200, msgspec.json.encode({"accepted": len(known), "unknown": unknown}))


def _known(state: State, ids: list[str]) -> set[str]:
    """Return the ids that the log holds, with those made a moment ago, here or by another worker."""
    from ...store.queries import known_predictions

    state.events.flush()
    asked = [identity for identity in ids if len(identity) <= 64 and identity.isprintable()]
    known = known_predictions(state.store, asked)
    fresh = time.time() - RECENT
    missing = [identity for identity in asked if identity not in known and made_at(identity) > fresh]
    if missing:
        time.sleep(SETTLE)
        known |= known_predictions(state.store, missing)
    return known


def _write(state: State, actuals: dict[str, Any]) -> None:
    from ...store.events import upsert
    from ...store.tables import feedback

    if not actuals:
        return
    now = datetime.now(UTC)
    rows = [
        {"prediction_id": identity, "time": now, "actual": msgspec.json.encode(actual).decode()}
        for identity, actual in sorted(actuals.items())
    ]
    with state.store.write() as connection:
        statement = upsert(connection, feedback)
        new = {"time": statement.excluded.time, "actual": statement.excluded.actual}
        connection.execute(statement.on_conflict_do_update(index_elements=["prediction_id"], set_=new), rows)


def describe(state: State, document: dict[str, Any]) -> None:
    """Add the route to the OpenAPI document."""
    count = {"type": "integer", "description": "How many predictions have feedback by this request."}
    unknown = listed(TEXT) | {"description": "Ids of no prediction."}
    document["components"]["schemas"] |= {
        "Feedback": row_schema(item(state.model.signature).inputs) if state.model else {"type": "object"},
        "Accepted": closed(accepted=count, unknown=unknown),
    }
    items = listed(reference("Feedback"), state.settings.serving.max_rows)
    document["paths"].setdefault(PATH, {})["post"] = operation(
        "feedback",
        "Tell what really happened; sent twice, the last word counts",
        {"oneOf": [reference("Feedback"), closed(items=items)]},
        reference("Accepted"),
    )
