"""What a JSON request asks for, and every reason why it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from ...signature import Signature
from ...telemetry.metrics import REJECTED
from ...validation import Problem, explain, left, typed
from ..answers import JSON, LIMIT, Answer, Call, Refused, problem
from ..body import MALFORMED, doubtful, parse, repeated, twice
from .predictor import Made, Predictor

encode = msgspec.json.Encoder().encode


def json_only(call: Call) -> None:
    """Refuse a body that is not JSON by its headers."""
    if call.kind() != JSON:
        raise Refused(problem(415, "content-type", "send the body as Content-Type: application/json"))


def listed(rows: object, most: int) -> list[Any]:
    """Return rows, or refuse what is no list of them, and too many."""
    if not isinstance(rows, list) or not rows:
        raise Refused(problem(422, "shape", "send a list of at least one row"))
    at_most(len(rows), most)
    return rows


def at_most(rows: int, most: int) -> None:
    """Refuse too many rows."""
    if rows > most:
        raise Refused(problem(413, "too-many-rows", f"send at most {most} rows at a time"))


def misfits(signature: Signature, rows: object, most: int) -> list[Problem]:
    """Say what is wrong with rows, up to a limit; refuse what is no list of them, and too many."""
    errors: list[Problem] = []
    for place, row in enumerate(listed(rows, most)):
        errors += explain(signature, row, place)
        if len(errors) >= LIMIT:
            break
    return errors


def wrong(errors: Sequence[Problem], many: bool = True) -> Answer:
    """Answer that rows, or the only one there is, do not fit the signature."""
    first = f"row {errors[0].row}: {errors[0].message}" if many else errors[0].message
    return problem(422, "signature", f"the input does not fit the model's signature: {first}", errors)


class Asked:
    """Rows in JSON, and what becomes of them.

    Args:
        call: the request.
        most: rows at most.
        each: whether a row that does not fit leaves the others alone.
    """

    def __init__(self, call: Call, most: int, each: bool) -> None:
        self._call, self._most, self._each = call, most, each
        self._many = False
        self._errors: dict[int, list[Problem]] = {}

    def rows(self, predictor: Predictor) -> Sequence[Any]:
        """Return the rows; raises `Refused` if they do not fit."""
        content, before = self._call.body, left()
        try:
            body = predictor.decode(content)
        except MALFORMED:
            return self._explained(predictor)
        found: Sequence[Any] = (body.row,) if body.rows is UNSET else body.rows
        if (body.row is UNSET) == (body.rows is UNSET) or len(found) > self._most:
            return self._explained(predictor)
        if not predictor.marks.fit(content, found, before - left()) and repeated(content):
            return self._explained(predictor)
        self._many = body.row is UNSET
        return found

    def spare(self, places: Sequence[int], why: str) -> bool:
        """Leave rows out, by their places among those that fit, if the others may go on without them."""
        if self._each and self._many:
            count = len(self._errors) + len(places)
            good = [place for place in range(max(places) + count + 1) if place not in self._errors]
            for place in places:
                self._errors[good[place]] = [Problem(good[place], "", "range", why)]
        return self._each and self._many

    def answer(self, predictor: Predictor, made: Made) -> Answer:
        """Return the predictions, with the reasons of rows that did not fit in their places."""
        if not self._many:
            identity, output = made[0]
            return Answer(200, encode({"id": identity, "model_version": predictor.version, **output}))
        predictions: list[dict[str, Any]] = [{"id": identity, **output} for identity, output in made]
        for place in sorted(self._errors):
            reasons = [{"field": one.column, "rule": one.rule, "expected": one.expected} for one in self._errors[place]]
            predictions.insert(place, {"errors": reasons})
        return Answer(200, encode({"model_version": predictor.version, "predictions": predictions}))

    def _explained(self, predictor: Predictor) -> Sequence[Any]:
        """Say what is wrong with a body that the decoder refused, or part the good rows from the bad."""
        value = parse(self._call.body)
        if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"row", "rows"}:
            raise Refused(problem(422, "shape", 'the body must be {"row": {...}} or {"rows": [{...}, ...]}'))
        many = "rows" in value
        found = repeated(self._call.body) if doubtful(self._call.body, value) else []
        errors = twice(found)
        if self._each and many and all(place is not None for place, _ in found):
            return self._parted(predictor, listed(value["rows"], self._most), errors)
        rows = value["rows"] if many else [value["row"]]
        errors = sorted([*errors, *misfits(predictor.signature, rows, self._most)], key=lambda one: one.row)
        if not errors:  # an integer is written with a point, which the decoder does not take for one
            self._many = many
            return [typed(predictor.signature, row, predictor.row) for row in rows]
        REJECTED.labels("http").inc(len({error.row for error in errors}))
        raise Refused(wrong(errors, many))

    def _parted(self, predictor: Predictor, rows: Sequence[Any], errors: Sequence[Problem]) -> Sequence[Any]:
        """Return the good rows, and keep the reasons of the others; ``errors`` are known by now."""
        self._many, self._errors = True, {}
        for error in errors:
            self._errors.setdefault(error.row, []).append(error)
        good = []
        for place, row in enumerate(rows):
            if more := explain(predictor.signature, row, place):
                self._errors.setdefault(place, []).extend(more)
            elif place not in self._errors:
                good.append(typed(predictor.signature, row, predictor.row))
        REJECTED.labels("http").inc(len(self._errors))
        if not good:
            raise Refused(wrong([error for place in sorted(self._errors) for error in self._errors[place]]))
        return good
