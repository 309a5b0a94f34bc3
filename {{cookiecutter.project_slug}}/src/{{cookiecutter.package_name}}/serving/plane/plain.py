"""Rows out of the texts of a small CSV, without a table library, which costs milliseconds however few rows there are.

This takes only what is written as most programs write it, so that nobody can tell that it is not read like any other
table. What is written otherwise, or does not fit, is left to `validation.check_frame`, which decides and says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from .predictor import Predictor

FORMS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "number": (re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?"), float),
    "integer": (re.compile("0|-?[1-9][0-9]{0,17}"), int),
    "boolean": (re.compile("[Tt]rue|[Ff]alse"), lambda text: text[0] in "Tt"),
    "string": (re.compile(".+", re.DOTALL), str),
    "datetime": (re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"), str),  # read by msgspec
}


def rows(predictor: Predictor, names: Sequence[str], lines: Iterable[Sequence[str]]) -> list[Any] | None:
    """Return rows of the predictor's own class, if all are written plainly and fit the signature.

    Args:
        predictor: of the version that is asked.
        names: of the columns, each once.
        lines: the fields of each row, as many as there are names; an empty one is missing.
    """
    known = predictor.signature.by_name
    columns = [(place, name, *FORMS[known[name].type]) for place, name in enumerate(names) if name in known]
    found = []
    for line in lines:
        row = {}
        for place, name, form, read in columns:
            if text := line[place]:
                if not form.fullmatch(text):
                    return None
                row[name] = read(text)
        found.append(row)
    try:
        return msgspec.convert(found, list[predictor.row])  # type: ignore[name-defined]
    except msgspec.ValidationError:
        return None
