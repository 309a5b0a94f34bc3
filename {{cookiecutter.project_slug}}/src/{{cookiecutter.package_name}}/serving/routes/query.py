"""``GET /v1/predict``: one row in the address, for links and for spreadsheets that can only open one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from ...signature import PREDICTION
from ...telemetry.metrics import REJECTED
from ...validation import KINDS, TWICE, Problem, explain, printable, typed
from ..answers import JSON, Answer, Call, Refused, Route, Routes, problem
from ..body import MALFORMED
from ..plane import plane
from ..plane.asked import wrong
from ..plane.predictor import Made, Predictor
from ..state import State

PATH = "/v1/predict"
FORMAT = "format"
KINDS_OF_ANSWER = {"json": JSON, "text": b"text/plain; charset=utf-8", "csv": b"text/csv; charset=utf-8"}
DANGEROUS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run as a formula


def routes(state: State) -> Routes:
    """Return the route."""
    data = plane(state)

    def handle(call: Call) -> Answer | Awaitable[Answer]:
        asked = Asked(call)
        if call.method == "HEAD":  # a spreadsheet looks before it asks: that is no prediction
            asked.rows(data.champion())
            return Answer(200, b"", asked.kind(), stream=iter(()))  # its length is known when it is predicted
        return data.answer(call, asked)

    return {("GET", PATH): Route(handle, "predict")}


class Asked:
    """A row in the address; ``format`` says how to answer, unless the model has a column of that name."""

    def __init__(self, call: Call) -> None:
        try:
            text = call.query.decode("ascii")
            self._given = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=10_000)
        except ValueError:
            detail = "the address cannot be read: write each value in UTF-8, percent-encoded"
            raise Refused(problem(400, "malformed", detail)) from None
        self._format = "json"

    def kind(self) -> bytes:
        """Return the type of the answer."""
        return KINDS_OF_ANSWER[self._format]

    def rows(self, predictor: Predictor) -> Sequence[Any]:
        """Return the row, its texts read as the types of the columns; an empty one is missing."""
        columns, row = predictor.signature.by_name, dict[str, Any]()
        if again := [name for name, count in Counter(name for name, _ in self._given).items() if count > 1]:
            raise Refused(wrong([Problem(0, printable(name), "twice", TWICE) for name in again], many=False))
        for name, text in self._given:
            if name == FORMAT and FORMAT not in columns:
                if text not in KINDS_OF_ANSWER:
                    raise Refused(problem(422, "format", f"format must be one of {', '.join(KINDS_OF_ANSWER)}"))
                self._format = text
                continue
            row[name] = text
            if name in columns and columns[name].type != "string":
                row[name] = _typed(columns[name].type, text.strip())
            elif text == "":
                row[name] = None
        if errors := explain(predictor.signature, row):
            REJECTED.labels("http").inc()
            raise Refused(wrong(errors, many=False))
        return [typed(predictor.signature, row, predictor.row)]

    def spare(self, places: Sequence[int], why: str) -> bool:
        """There are no others."""
        return False

    def answer(self, predictor: Predictor, made: Made) -> Answer:
        """Return the prediction, in text without anything around it."""
        identity, output = made[0]
        if self._format == "json":
            return Answer(200, msgspec.json.encode({"id": identity, "model_version": predictor.version, **output}))
        if self._format == "text":
            return Answer(200, str(output[PREDICTION]).encode(), self.kind())
        values = {"id": identity, **output}
        lines = [",".join(map(_field, values)), ",".join(_field(value) for value in values.values())]
        return Answer(200, ("\r\n".join(lines) + "\r\n").encode(), self.kind())


def _typed(kind: str, text: str) -> Any:
    """Return a text as a value of a type; as it is if it is none, for the signature to refuse."""
    if text == "":
        return None
    try:
        value = msgspec.convert(text, float if kind == "integer" and "." in text else KINDS[kind], strict=False)
    except MALFORMED:
        return text
    return text if kind == "datetime" or value in (float("inf"), float("-inf")) or value != value else value


def _field(value: Any) -> str:
    text = str(value)
    if isinstance(value, str) and text.startswith(DANGEROUS):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text
