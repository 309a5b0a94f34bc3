"""What protocols with forms of their own share: from objects to rows, and from problem documents to their refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...telemetry.metrics import REJECTED
from ...validation import typed
from ..answers import Answer, Refused
from ..body import MALFORMED
from .asked import misfits, wrong
from .predictor import Predictor


def fitting(predictor: Predictor, rows: Sequence[Any], most: int) -> Sequence[Any]:
    """Return rows, which came as objects, in the predictor's own class; raises `Refused` if they do not fit.

    Args:
        predictor: of the version that is asked.
        rows: one object of columns each.
        most: rows at most.
    """
    kind = predictor.row
    try:
        return [msgspec.convert(row, kind) for row in rows]
    except MALFORMED:
        errors = misfits(predictor.signature, rows, most)
        if not errors:
            return [typed(predictor.signature, row, kind) for row in rows]
        REJECTED.labels("http").inc(len({error.row for error in errors}))
        raise Refused(wrong(errors)) from None


def sentence(answer: Answer) -> str:
    """Return what a problem document says to people."""
    detail: str = msgspec.json.decode(answer.body)["detail"]
    return detail
