"""From decoded rows to the matrix of numbers that a graph takes: one by one, or column by column if they are many."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from .. import features
from ..signature import Signature
from .runtimes import Array
from .runtimes.onnx import Feature

MANY = 64  # rows from which on columns are faster
MISSING = int(np.iinfo(np.int64).min)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A number beyond float32 becomes infinite, as it does in a table; to say so for each row costs more than the row.
warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)

Fill = Callable[[Array, Sequence[Any]], None]


class Matrix:
    """Makes matrices (n x features) of instances of `validation.row_type`.

    Args:
        signature: of the rows.
        wanted: the features.
        dtype: float32 or float64.

    Attributes:
        row: the numbers of one row; missing ones are NaN.
    """

    def __init__(self, signature: Signature, wanted: Sequence[Feature], dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype = len(wanted), dtype
        self._places = {column.name: place for place, column in enumerate(signature.inputs)}
        self._times = [column.name for column in signature.inputs if column.type == "datetime"]
        self._missing = {column.name for column in signature.inputs if column.nullable}
        self.row = self._compiled(wanted)
        self._fills = list(self._columns(wanted))

    def __call__(self, rows: Sequence[Any]) -> Array:
        """Return the matrix; what is missing is NaN, and what is beyond the type infinite, as in a table."""
        if len(rows) < MANY:
            return np.array([self.row(row) for row in rows], self._dtype)
        matrix = np.zeros((len(rows), self._shape), self._dtype)
        for fill in self._fills:
            fill(matrix, rows)
        return matrix

    def _compiled(self, wanted: Sequence[Feature]) -> Callable[[Any], tuple[Any, ...]]:
        """Compile the function that takes the features out of one row.

        It is built as source because a plain expression over attributes is several times as fast as a loop over
        names; it holds no text but attribute numbers and the fixed names of parts.
        """
        scope: dict[str, Any] = {f"part_{part}": function for part, function in features.SCALAR.items()}
        scope["nan"] = float("nan")
        parts = []
        for first, column, values in _runs(wanted):
            place = self._place(column)
            if values:
                scope[f"is_{first}"] = {value: tuple(float(value == one) for one in values) for value in values}
                scope[f"none_{first}"] = (0.0,) * len(values)
                parts.append(f"*is_{first}.get(r.f{place} or '', none_{first})")
            elif column in self._missing:
                parts.append(f"(nan if r.f{place} is None else r.f{place})")
            elif column in self._places:
                parts.append(f"r.f{place}")
            else:
                parts.append(f"part_{self._part(column)}(r.f{place})")
        getter: Callable[[Any], tuple[Any, ...]] = eval(f"lambda r: ({', '.join(parts)},)", scope)
        return getter

    def _columns(self, wanted: Sequence[Feature]) -> Iterator[Fill]:
        """Give the functions that fill a matrix, each its columns."""
        parts: dict[int, list[tuple[int, str]]] = {}
        for first, column, values in _runs(wanted):
            place = self._place(column)
            if values:
                yield _texts(first, attrgetter(f"f{place}"), values)
            elif column in self._places:
                yield _numbers(first, attrgetter(f"f{place}"))
            else:
                parts.setdefault(place, []).append((first, self._part(column)))
        for place, asked in parts.items():
            yield _parts(asked, attrgetter(f"f{place}"))

    def _place(self, column: str) -> int:
        if column not in self._places:
            column = features.source(column, self._times)[0]  # type: ignore[index]
        return self._places[column]

    def _part(self, column: str) -> str:
        return features.source(column, self._times)[1]  # type: ignore[index]


def _runs(wanted: Sequence[Feature]) -> Iterator[tuple[int, str, list[str]]]:
    """Give each column with its first place, and the values of a text that stand as 0 and 1 side by side."""
    first = 0
    for column, run in groupby(wanted, lambda one: one[0] if isinstance(one, tuple) else None):
        for names in [list(run)] if column else [[one] for one in run]:
            yield first, column or str(names[0]), [one[1] for one in names] if column else []
            first += len(names)


def _numbers(place: int, value: Callable[[Any], Any]) -> Fill:
    def fill(matrix: Array, rows: Sequence[Any]) -> None:
        matrix[:, place] = np.array(list(map(value, rows)), np.float64)  # None becomes NaN

    return fill


def _texts(first: int, value: Callable[[Any], Any], values: Sequence[str]) -> Fill:
    known, none = {one: first + place for place, one in enumerate(values)}, -1

    def fill(matrix: Array, rows: Sequence[Any]) -> None:
        places = np.array([known.get(text or "", none) for text in map(value, rows)])
        found = np.flatnonzero(places >= 0)
        matrix[found, places[found]] = 1

    return fill


def _parts(asked: Sequence[tuple[int, str]], value: Callable[[Any], Any]) -> Fill:
    def fill(matrix: Array, rows: Sequence[Any]) -> None:
        micros = np.array([_micros(features.utc(value(row))) for row in rows], np.int64)
        for place, part in asked:
            matrix[:, place] = features.part_of(micros, part)

    return fill


def _micros(moment: datetime | None) -> int:
    if moment is None:
        return MISSING
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds  # twice as fast as a division
