"""MLflow's scoring protocol: ``POST /invocations``, and what its clients ask beside that.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#serving-data-formats: rows in one of four forms of
JSON, or as CSV. As there, columns that the model does not know are ignored, and so are ``params``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from math import isfinite
from typing import Any

import msgspec

from ...signature import PREDICTION
from ...telemetry.metrics import REJECTED
from ...validation import check_frame
from ..answers import API, JSON, LIMIT, Answer, Call, Refused, Route, Routes, problem
from ..body import MALFORMED, doubtful, once, parse, unreadable
from ..plane import plane, tables
from ..plane.asked import at_most, listed, wrong
from ..plane.forms import fitting, sentence
from ..plane.predictor import Made, Predictor
from ..state import State

CSV, TEXT = b"text/csv", b"text/plain; charset=utf-8"
PROTOCOL = b"2.0.0"  # the version of MLflow that made these forms, which its later ones kept
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    408: "DEADLINE_EXCEEDED",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}

encode = msgspec.json.Encoder().encode


def routes(state: State) -> Routes:
    """Return the routes."""
    data, most = plane(state), state.settings.serving.max_rows

    def handle(call: Call) -> Answer | Awaitable[Answer]:
        if call.kind() not in (JSON, CSV):
            raise Refused(problem(415, "content-type", "send the body as application/json or as text/csv"))
        return data.answer(call, Asked(call, most))

    def ping(_: Call) -> Answer:
        data.champion()
        return Answer(200, b"\n", TEXT)

    return {
        ("POST", "/invocations"): Route(handle, "predict", form=error),
        ("GET", "/ping"): Route(ping, "open", form=error),
        ("GET", "/health"): Route(ping, "open", form=error),
        ("GET", "/version"): Route(lambda _: Answer(200, PROTOCOL, TEXT), "open", form=error),
    }


class Asked:
    """Rows in a form of MLflow, and the predictions of all of them.

    Args:
        call: the request.
        most: rows at most.
    """

    def __init__(self, call: Call, most: int) -> None:
        self._call, self._most = call, most

    def rows(self, predictor: Predictor) -> Sequence[Any]:
        """Return the rows; raises `Refused` if they do not fit."""
        if self._call.kind() == CSV:
            return self._table(predictor)
        names = list(predictor.signature.by_name)
        whole = [column.name for column in predictor.signature.inputs if column.type == "integer"]
        found = [_row(names, whole, one) for one in _records(_json(self._call.body), names, self._most)]
        return fitting(predictor, found, self._most)

    def spare(self, places: Sequence[int], why: str) -> bool:
        """The protocol has no place for the reasons of single rows."""
        return False

    def answer(self, predictor: Predictor, made: Made) -> Answer:
        """Return what the model's ``predict`` gives, and beside it what MLflow calls metadata."""
        return Answer(
            200,
            encode(
                {
                    "predictions": [output[PREDICTION] for _, output in made],
                    "ids": [identity for identity, _ in made],
                    "model_version": predictor.version,
                }
            ),
        )

    def _table(self, predictor: Predictor) -> Sequence[Any]:
        found: list[dict[str, Any]] = []
        for first, chunk in tables.read(predictor, self._call, CSV):
            at_most(first + chunk.height, self._most)
            checked = check_frame(predictor.signature, chunk, first)
            if checked.bad.height:
                REJECTED.labels("http").inc(checked.bad.height)
                raise Refused(wrong(checked.problems(LIMIT)))
            found += checked.good.select(list(predictor.signature.by_name)).to_dicts()
        return [msgspec.convert(row, predictor.row) for row in found]


def _json(body: bytes) -> Any:
    """Return the value of a JSON body; MLflow's clients also write NaN, which no JSON has, for what is missing."""
    try:
        value = parse(body)
    except Refused:
        if b"NaN" not in body:
            raise
        try:
            value = json.loads(body, parse_constant=_constant, parse_float=_number)
            encode(value)  # refuses text that is no UTF-8
        except MALFORMED as error:
            raise Refused(unreadable(body, error, known=b"NaN")) from None
    if doubtful(body, value):
        once(body)
    return value


def _constant(word: str) -> None:
    if word != "NaN":
        raise ValueError(word)


def _number(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _records(body: Any, names: list[Any], most: int) -> list[Any]:
    """Return the rows of a body as objects, whatever their form."""
    given = [form for form in FORMS if form in body] if isinstance(body, dict) else []
    if len(given) != 1:
        raise Refused(_misshapen(f"the body must be an object with exactly one of {', '.join(FORMS)}"))
    value = body[given[0]]
    if given[0] == "dataframe_split":
        if not isinstance(value, dict) or not isinstance(value.get("columns"), list):
            raise Refused(_misshapen("dataframe_split must be an object with the lists columns and data"))
        names, value = value["columns"], value.get("data")
    elif isinstance(value, dict):
        value = _turned(value, most)
    return [_named(names, row) for row in listed(value, most)]


def _turned(columns: dict[str, Any], most: int) -> list[Any]:
    """Return the rows of columns; single values are one row."""
    lists = [value for value in columns.values() if isinstance(value, list)]
    if not lists:
        return [columns]
    if len(lists) < len(columns) or any(len(one) != len(lists[0]) for one in lists):
        raise Refused(_misshapen("the columns must be lists of the same length"))
    return [dict(zip(columns, row, strict=True)) for row in zip(*(one[: most + 1] for one in lists), strict=True)]


def _named(names: Sequence[Any], row: Any) -> Any:
    """Return a row of values by their names; one that has names is that already."""
    if not isinstance(row, list):
        return row
    if len(row) != len(names) or not all(isinstance(name, str) for name in names):
        raise Refused(_misshapen("each row must have as many values as there are columns, whose names are texts"))
    return dict(zip(names, row, strict=True))


def _row(names: Sequence[str], whole: Sequence[str], row: Any) -> Any:
    """Return what a row has for the model; an integer may come as a float, as it does beside missing ones."""
    if not isinstance(row, dict):
        return row
    found = {name: row[name] for name in names if name in row}
    for name in whole:
        value = found.get(name)
        if isinstance(value, float) and value.is_integer():
            found[name] = int(value)
    return found


def error(refusal: Answer) -> Answer:
    """Return a refusal in the form of MLflow."""
    status = 400 if refusal.status == 422 else refusal.status
    kept = [header for header in refusal.headers if header not in API]
    code = CODES.get(status, "BAD_REQUEST")
    return Answer(status, encode({"error_code": code, "message": sentence(refusal)}), headers=(*API, *kept))


def _misshapen(detail: str) -> Answer:
    return problem(422, "shape", detail)
