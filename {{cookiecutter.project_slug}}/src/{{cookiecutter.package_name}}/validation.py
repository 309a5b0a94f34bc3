"""Hold rows against a signature: JSON rows of a request, and the columns of a table, by the same rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from .signature import Column, Signature

if TYPE_CHECKING:
    import polars as pl

Rule = Literal["missing", "type", "minimum", "maximum", "category", "unknown", "range", "twice", "length"]
KINDS: dict[str, Any] = {"number": float, "integer": int, "boolean": bool, "string": str, "datetime": datetime}
PHRASES = {
    "number": "a number",
    "integer": "an integer",
    "boolean": "true or false",
    "string": "text",
    "datetime": "a time such as 2026-01-31T08:00:00Z",
}
TRUE, FALSE = ("true", "1", "yes", "t", "y"), ("false", "0", "no", "f", "n")
ROW, REASONS = "@row", "@reasons"  # columns of a checked table, beside the model's
LARGEST = 2**63 - 1  # integers are 64 bits everywhere
TWICE = "is given twice: give it once"

LONG = 8_192  # bytes from which on numpy counts faster

_absent = repeat(None, 2**62)  # what stands for each field that a row leaves out
left = _absent.__length_hint__  # counts them down at no cost; another thread can only make that too many


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row is refused. The value itself is never repeated."""

    row: int
    column: str
    rule: Rule
    expected: str

    @property
    def message(self) -> str:
        """One sentence, for example ``temperature must be a number``."""
        return f"{self.column} {self.expected}"


@dataclass(frozen=True, slots=True)
class Checked:
    """A table parted in two.

    Attributes:
        good: the rows that fit, typed as the signature says, plus `ROW`, their number in the source.
        bad: the other rows as they came, plus `ROW` and `REASONS`, all that is wrong with each.
        counts: how often each reason occurs, by ``column: rule``.
        broken: for each of ``bad``, whether it breaks each of ``rules``.
    """

    good: pl.DataFrame
    bad: pl.DataFrame
    counts: Counter[str]
    broken: pl.DataFrame
    rules: Sequence[tuple[Column, Rule]]

    def problems(self, most: int) -> list[Problem]:
        """Say what is wrong with the first bad rows, in their order; at most so much."""
        found = [
            Problem(row, column.name, rule, expected(column, rule))
            for row, broken in zip(self.bad[ROW].head(most), self.broken.iter_rows(), strict=False)
            for (column, rule), hit in zip(self.rules, broken, strict=True)
            if hit
        ]
        return found[:most]


def expected(column: Column, rule: Rule) -> str:
    """Say what a rule wants of a column, as the rest of a sentence that starts with its name."""
    if rule == "missing":
        return f"is missing: give {wanted(column)}"
    if rule == "unknown":
        return "is not a column of the model: leave it out"
    if rule == "minimum":
        return f"must be at least {column.minimum:g}"
    if rule == "maximum":
        return f"must be at most {column.maximum:g}"
    if rule == "category":
        return "must be one of " + ", ".join(str(value) for value in column.categories)
    return "must be " + PHRASES[column.type]


def wanted(column: Column) -> str:
    """Say which values a column takes, for example ``a number from 0 to 200``."""
    if column.categories:
        return "one of " + ", ".join(str(value) for value in column.categories)
    low, high = (None if limit is None else f"{limit:g}" for limit in (column.minimum, column.maximum))
    if not column.numeric or (low is None and high is None):
        return PHRASES[column.type]
    limits = f"up to {high}" if low is None else f"from {low} on" if high is None else f"from {low} to {high}"
    return f"{PHRASES[column.type]} {limits}"


def row_type(signature: Signature) -> type[msgspec.Struct]:
    """Make the class that msgspec decodes and checks a JSON row into, at the speed of C.

    The attributes are ``f0``, ``f1``, ... in the order of the inputs, because a column may have any name.
    Integers beyond 64 bits are refused; a number may be written as an integer; a boolean is no number.
    """
    fields: list[Any] = []
    for place, column in enumerate(signature.inputs):
        kind = KINDS[column.type]
        if column.categories and column.type in ("string", "integer"):
            kind = Literal[column.categories]
        elif column.numeric:
            limits: dict[str, Any] = {}
            if column.type == "integer":
                limits = {"ge": -LARGEST - 1, "le": LARGEST}
            if column.minimum is not None:
                limits["ge"] = column.minimum if column.type == "number" else -int(-column.minimum // 1)
            if column.maximum is not None:
                limits["le"] = column.maximum if column.type == "number" else int(column.maximum // 1)
            kind = Annotated[kind, msgspec.Meta(**limits)] if limits else kind
        absent = msgspec.field(default_factory=_absent.__next__)
        fields.append((f"f{place}", kind | None, absent) if column.nullable else (f"f{place}", kind))
    names = {f"f{place}": column.name for place, column in enumerate(signature.inputs)}
    return msgspec.defstruct(
        "Row", fields, rename=names, kw_only=True, forbid_unknown_fields=True, gc=False, module=__name__
    )


def marks(body: bytes) -> int:
    """Count the quotation marks of a body."""
    if len(body) < LONG:
        return body.count(b'"')
    import numpy as np

    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord('"')))


class Marks:
    """Knows how many quotation marks rows have in JSON if they give no field twice: two for each name and each text.

    The decoder of `row_type` lets the last value of a name count. That costs at least two marks more, and nothing costs
    fewer: not even a quotation mark in a text, which is written with a backslash or by its number.
    """

    def __init__(self, signature: Signature) -> None:
        texts = [
            (f"f{place}", column.nullable)
            for place, column in enumerate(signature.inputs)
            if column.type in ("string", "datetime")
        ]
        self._row = 2 * (len(signature.inputs) + len(texts))
        self._open = [attrgetter(name) for name, nullable in texts if nullable]

    def fit(self, body: bytes, rows: Sequence[Any], absent: int) -> bool:
        """Say whether no field is given twice, for sure.

        Args:
            body: rows in JSON, as the value of one name.
            rows: what they were decoded to.
            absent: how many fields they left out, by what `left` said before and says now.
        """
        expected = 2 + len(rows) * self._row - 2 * absent
        for text in self._open:
            expected -= 2 * list(map(text, rows)).count(None)
        return marks(body) == expected


def explain(signature: Signature, value: object, row: int = 0) -> list[Problem]:
    """Say everything that is wrong with one decoded JSON row. Slower than `row_type`, and used once that refused.

    Args:
        signature: of the model.
        value: the row as decoded JSON.
        row: its place in the request, from 0.

    Returns:
        The problems, in the order of the columns; empty if the row is good.
    """
    if not isinstance(value, Mapping):
        return [Problem(row, "", "type", "the row must be an object of columns")]
    found: list[Problem] = []
    for column in signature.inputs:
        rule = _broken(column, value.get(column.name))
        if rule:
            found.append(Problem(row, column.name, rule, expected(column, rule)))
    for name in value:
        if name not in signature.by_name:
            found.append(Problem(row, printable(name), "unknown", "is not a column of the model: leave it out"))
    return found


def typed(signature: Signature, row: Mapping[str, Any], kind: type[msgspec.Struct]) -> Any:
    """Return a decoded JSON row that `explain` finds good as an instance of ``kind`` (see `row_type`).

    An integer may be written as 24.0, which the decoder of `row_type` refuses.
    """
    return msgspec.convert({name: _whole(signature.by_name[name], value) for name, value in row.items()}, kind)


def _whole(column: Column, value: object) -> object:
    """Return 24.0 as 24 where an integer is due: in JSON they are the same number, and some writers know no other."""
    return int(value) if column.type == "integer" and isinstance(value, float) and value.is_integer() else value


def _broken(column: Column, value: object) -> Rule | None:
    if value is None:
        return None if column.nullable else "missing"
    value = _whole(column, value)
    try:
        typed = msgspec.convert(value, KINDS[column.type], strict=True)
    except (msgspec.ValidationError, OverflowError):
        return "type"
    if column.type == "integer" and not -LARGEST - 1 <= typed <= LARGEST:
        return "type"
    if column.categories and column.type in ("string", "integer"):
        return None if typed in column.categories else "category"
    if column.minimum is not None and typed < column.minimum:
        return "minimum"
    if column.maximum is not None and typed > column.maximum:
        return "maximum"
    return None


def printable(name: object) -> str:
    """Shorten a name that a stranger sent, and take its control characters out."""
    text = str(name)
    return "".join(char if char.isprintable() else "?" for char in text[:60]) + ("…" if len(text) > 60 else "")


def check_frame(signature: Signature, frame: pl.DataFrame, first: int = 1) -> Checked:
    """Part a table into rows that fit the signature and rows that do not, by the rules of a request.

    Args:
        signature: of the model.
        frame: columns of any type; texts (from CSV) are read as the column's type, an empty text is missing.
            Columns that the model does not know are ignored, columns that it needs must be there.
        first: the source's row number of the first row.

    Returns:
        The rows that fit, the others with their reasons, and the reasons counted.
    """
    import polars as pl

    numbered = frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64).alias(ROW))
    raw, typed, rules = [], [], []
    for place, column in enumerate(signature.inputs):
        dtype = frame.schema.get(column.name, pl.Null())
        given = pl.col(column.name) if column.name in frame.columns else pl.lit(None)
        raw.append((given.replace("", None) if dtype == pl.String else given).alias(f"@{place}"))
        typed.append(_typed(column, pl.col(f"@{place}"), dtype).alias(column.name))
        rules += [(column, *rule) for rule in _rules(column, pl.col(f"@{place}"), pl.col(column.name))]
    held = numbered.select(ROW, *raw).with_columns(*typed)  # in steps, or every rule would read its column again
    broken = held.select(mask.fill_null(False).alias(f"{place}") for place, (_, _, mask) in enumerate(rules))
    misfit = broken.select(pl.any_horizontal(pl.all())).to_series()
    good, bad = held.select(ROW, *signature.by_name).filter(~misfit), numbered.filter(misfit)
    counts = {f"{column.name}: {rule}": broken.to_series(place).sum() for place, (column, rule, _) in enumerate(rules)}
    words = [
        pl.when(f"{place}").then(pl.lit(f"{column.name} {expected(column, rule)}"))
        for place, (column, rule, _) in enumerate(rules)
        if counts[f"{column.name}: {rule}"]
    ]
    broken = broken.filter(misfit)
    reasons = broken.select(pl.concat_str(words, separator="; ", ignore_nulls=True)) if words else None
    texts = pl.Series(REASONS, reasons.to_series() if reasons is not None else [], dtype=pl.String)
    counted = Counter({name: count for name, count in counts.items() if count})
    return Checked(good, bad.with_columns(texts), counted, broken, [(column, rule) for column, rule, _ in rules])


def polars_type(column: Column) -> pl.DataType:
    """Return the type that a column has in a table."""
    import polars as pl

    return {
        "number": pl.Float64(),
        "integer": pl.Int64(),
        "boolean": pl.Boolean(),
        "string": pl.String(),
        "datetime": pl.Datetime("us", "UTC"),
    }[column.type]


def _typed(column: Column, raw: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return the expression that reads a column as its type; null where it cannot."""
    import polars as pl

    text = dtype == pl.String
    if column.type == "number":
        value = raw.str.strip_chars().cast(pl.Float64, strict=False) if text else _number(raw, dtype, pl.Float64())
        return pl.when(value.is_finite()).then(value)
    if column.type == "integer":
        if text:
            return raw.str.strip_chars().cast(pl.Int64, strict=False)
        value = _number(raw, dtype, pl.Int64())
        return pl.when(raw.cast(pl.Float64, strict=False) == value).then(value) if dtype.is_float() else value
    if column.type == "boolean":
        if dtype == pl.Boolean:
            return raw
        word = raw.cast(pl.String).str.strip_chars().str.to_lowercase()
        return pl.when(word.is_in(TRUE)).then(True).when(word.is_in(FALSE)).then(False)
    if column.type == "datetime":
        if text:
            return raw.str.strip_chars().map_batches(_times, return_dtype=pl.Datetime("us", "UTC"))
        if dtype.is_temporal() and dtype != pl.Time and not isinstance(dtype, pl.Duration):
            zoned = isinstance(dtype, pl.Datetime) and dtype.time_zone
            moment = raw.cast(pl.Datetime("us", zoned or None))
            moment = moment.dt.convert_time_zone("UTC") if zoned else moment.dt.replace_time_zone("UTC")
            return pl.when(moment.dt.year().is_between(1, 9999)).then(moment)  # as far as a time in JSON goes
        return pl.lit(None, dtype=pl.Datetime("us", "UTC"))
    return raw.cast(pl.String, strict=False)


def _number(raw: pl.Expr, dtype: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    import polars as pl

    return raw.cast(wanted, strict=False) if dtype.is_numeric() else pl.lit(None, dtype=wanted)


def _times(texts: pl.Series) -> pl.Series:
    """Read RFC 3339, with a blank for the T allowed; without an offset the time is UTC."""
    import polars as pl

    text = pl.col(texts.name)
    usual = text.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", strict=False, cache=False)
    usual = pl.when(text.str.len_bytes() == 20).then(usual.dt.replace_time_zone("UTC"))
    times = texts.to_frame().select(usual).to_series()
    if (others := (times.is_null() & texts.is_not_null()).arg_true()).is_empty():
        return times
    shaped = text.str.replace(r"^(\d{4}-\d\d-\d\d)[ tT]", "${1}T").str.replace(r"[zZ]$", "+00:00")
    zoned = shaped.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
    plain = shaped.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False).dt.replace_time_zone("UTC")
    date = shaped.str.to_datetime("%Y-%m-%d", time_unit="us", strict=False).dt.replace_time_zone("UTC")
    read = texts.gather(others).to_frame().select(zoned.fill_null(plain).fill_null(date)).to_series()
    return times.scatter(others, read)


def _rules(column: Column, raw: pl.Expr, value: pl.Expr) -> list[tuple[Rule, pl.Expr]]:
    """Return what can be wrong with a column, each with the expression that is true where it is."""
    rules: list[tuple[Rule, pl.Expr]] = [("type", raw.is_not_null() & value.is_null())]
    if not column.nullable:
        rules.append(("missing", raw.is_null()))
    if column.categories and column.type in ("string", "integer"):
        rules.append(("category", ~value.is_in(list(column.categories))))
    elif column.numeric:
        if column.minimum is not None:
            rules.append(("minimum", value < column.minimum))
        if column.maximum is not None:
            rules.append(("maximum", value > column.maximum))
    return rules
