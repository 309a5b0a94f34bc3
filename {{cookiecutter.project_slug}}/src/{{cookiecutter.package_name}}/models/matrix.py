"""From decoded rows to the matrix of numbers that a graph takes: one by one, or column by column if they are many."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import features
from ..signature import Signature
from .runtimes import Array, Feature

if TYPE_CHECKING:
    import polars as pl

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
        for first, column, values, placed in _runs(wanted):
            place = self._place(column)
            if placed:
                scope[f"place_{first}"] = {value: float(number) for number, value in enumerate(values)}
                parts.append(f"place_{first}.get(r.f{place} or '', {float(len(values))})")
            elif values:
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
        for first, column, values, placed in _runs(wanted):
            place = self._place(column)
            if values:
                yield (_placed if placed else _texts)(first, attrgetter(f"f{place}"), values)
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


def _runs(wanted: Sequence[Feature]) -> Iterator[tuple[int, str, Sequence[str], bool]]:
    """Give each column with its first place; of a text the values, and whether their place stands for them.

    Otherwise they stand as 0 and 1 side by side.
    """
    first = 0
    for column, run in groupby(wanted, lambda one: one[0] if isinstance(one, tuple) else None):
        alike = list(run)
        if column and all(isinstance(one[1], str) for one in alike):
            yield first, column, [str(one[1]) for one in alike], False
        else:
            for place, one in enumerate(alike, first):
                yield (place, one, (), False) if isinstance(one, str) else (place, one[0], one[1], True)
        first += len(alike)


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


def _placed(place: int, value: Callable[[Any], Any], values: Sequence[str]) -> Fill:
    known, none = {one: number for number, one in enumerate(values)}, len(values)

    def fill(matrix: Array, rows: Sequence[Any]) -> None:
        matrix[:, place] = [known.get(text or "", none) for text in map(value, rows)]

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


def matrices(
    frame: pl.DataFrame, numeric: Sequence[Feature], text: Sequence[str], dtype: str | np.dtype[Any]
) -> dict[str, Array]:
    """Return the columns of a table as ``numeric`` (column by column) and ``text``, if there are any of the kind."""
    import polars as pl

    found: dict[str, Array] = {}
    if numeric:
        kind = pl.Float32 if np.dtype(dtype) == np.float32 else pl.Float64
        texts = {one[0]: frame[one[0]].fill_null("") for one in numeric if isinstance(one, tuple)}

        def column(one: Feature) -> pl.Series:
            if isinstance(one, str):
                return frame[one].cast(kind)
            given, known = texts[one[0]], one[1]
            if isinstance(known, str):
                return (given == known).cast(kind)
            return given.replace_strict(known, range(len(known)), default=len(known), return_dtype=kind)

        table = pl.DataFrame([column(one).alias(str(place)) for place, one in enumerate(numeric)])
        found["numeric"] = table.to_numpy(order="fortran")
    if text:
        found["text"] = np.empty((frame.height, len(text)), object)
        for place, name in enumerate(text):
            found["text"][:, place] = frame[name].fill_null("").to_numpy()
    return found
