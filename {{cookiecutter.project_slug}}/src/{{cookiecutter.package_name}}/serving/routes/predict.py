"""``POST /v1/predict``: one row or many, as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
from msgspec import UNSET

from ...signature import Column, row_schema
from ...telemetry.metrics import REJECTED
from ...validation import explain
from ..hot import Call, Handlers, not_json
from ..predictor import Model, State
from ..problems import LIMIT, TEXT, Answer, closed, listed, no_champion, operation, problem, reference

PATH = "/v1/predict"
INLINE = 32_768  # a larger body (about 100 rows) is worked off in a thread, so that the others do not wait
SHAPE = 'the body must be {"row": {...}} or {"rows": [{...}, ...]}'
MALFORMED = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)

encode = msgspec.json.Encoder().encode


def hot(state: State) -> Handlers:
    """Return the handler."""

    def handle(call: Call) -> Answer | Awaitable[Answer]:
        model = state.model
        if model is None:
            return no_champion()
        refusal = not_json(call)
        if refusal is not None:
            return refusal
        if model.fast and len(call.body) <= INLINE:
            return _predict(state, model, call)
        return asyncio.get_running_loop().run_in_executor(state.pool, _predict, state, model, call)

    return {("POST", PATH): handle}


def _predict(state: State, model: Model, call: Call) -> Answer:
    try:
        body = model.decode(call.body)
    except MALFORMED:
        return _explained(state, model, call.body)
    one = body.rows is UNSET
    if one == (body.row is UNSET) or (not one and len(body.rows) > state.settings.serving.max_rows):
        return _explained(state, model, call.body)
    try:
        if one:
            identity, output = state.predict_one(model, body.row, call.started)
            return Answer(200, encode({"id": identity, "model_version": model.version, **output}))
        made = state.predict_many(model, body.rows, call.started)
    except OverflowError:  # a time at the end of the calendar, for example
        REJECTED.labels("http").inc()
        return problem(422, "range", "a value is farther out than the model can compute with: look at the times")
    predictions = [{"id": identity, **output} for identity, output in made]
    return Answer(200, encode({"model_version": model.version, "predictions": predictions}))


def _explained(state: State, model: Model, body: bytes) -> Answer:
    """Say what is wrong with a body that the decoder refused."""
    try:
        value = msgspec.json.decode(body)
    except MALFORMED:
        return problem(400, "malformed", "the body is no JSON that can be read (UTF-8, finite numbers, not too deep)")
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"row", "rows"}:
        return problem(422, "shape", SHAPE)
    rows = value.get("rows", [value.get("row")])
    if not isinstance(rows, list) or not rows:
        return problem(422, "shape", "rows must be a list of at least one row")
    limit = state.settings.serving.max_rows
    if len(rows) > limit:
        return problem(413, "too-many-rows", f"send at most {limit} rows at a time")
    errors, refused = [], 0
    for place, row in enumerate(rows):
        found = explain(model.signature, row, place)
        refused += bool(found)
        errors += found
        if len(errors) >= LIMIT:
            break
    REJECTED.labels("http").inc(refused or 1)
    first = errors[0].message if errors else "a field is given twice, once with a value that does not fit"
    return problem(422, "signature", f"the input does not fit the model's signature: {first}", errors)


def describe(state: State, document: dict[str, Any]) -> None:
    """Add the route to the OpenAPI document, with the rows of the model in service."""
    signature = state.model.signature if state.model else None
    row: dict[str, Any] = row_schema(signature.inputs) if signature else {"type": "object"}
    example = signature.example_row() if signature else {}
    identity = Column("id", "string", description="Names this prediction: send feedback with it.")
    version = Column("model_version", "string")
    outputs = signature.outputs if signature else (Column("prediction", "number"),)
    document["components"]["schemas"] |= {
        "Row": row | {"examples": [example]},
        "Prediction": row_schema((identity, version, *outputs)),
        "Predictions": closed(model_version=TEXT, predictions=listed(row_schema((identity, *outputs)))),
    }
    rows = listed(reference("Row"), state.settings.serving.max_rows)
    document["paths"].setdefault(PATH, {})["post"] = operation(
        "predict",
        "Predict one row or many",
        {"oneOf": [closed(row=reference("Row")), closed(rows=rows)]},
        {"oneOf": [reference("Prediction"), reference("Predictions")]},
        examples={"one row": {"value": {"row": example}}, "many rows": {"value": {"rows": [example, example]}}},
    )
