"""Tables as requests: CSV of any length, by chunks in bounded memory; Parquet and Arrow within the body's limit."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ...telemetry.metrics import REJECTED
from ...validation import REASONS, ROW, Checked, Problem, check_frame, expected, polars_type
from ..answers import API, LIMIT, Answer, Call, Refused, problem
from ..state import State
from . import OVERFLOW, Plane, arrow, out_of_range, plain
from .predictor import Predictor

if TYPE_CHECKING:
    import polars as pl

CSV, PARQUET, ARROW = b"text/csv", b"application/vnd.apache.parquet", b"application/vnd.apache.arrow.stream"
KINDS = {CSV: CSV, PARQUET: PARQUET, b"application/x-parquet": PARQUET, ARROW: ARROW}
SENT = {CSV: b"text/csv; charset=utf-8"}
CHUNK = 16_384  # rows that are worked off together
MOST = 1_000_000  # rows of a Parquet or Arrow body: a packed column can stand for any number
SMALL = 16_000  # bytes of a CSV that needs no table; fewer than the rows of a chunk, so it is one
LONGEST = 1_000_000  # characters of a line of CSV
DELIMITERS = ",;\t|"


def answer(state: State, plane: Plane, call: Call, kind: bytes) -> Awaitable[Answer]:
    """Answer a table with a table of the same kind: a row for each of its rows, in their order.

    Columns: ``id``, those of the model's output, and ``error`` where ``serving.failures`` is ``row``: then rows that do
    not fit have a reason in place of a prediction. Otherwise one such row refuses them all.
    """
    return plane.apart(None, _answer, state, plane.champion(), call, KINDS[kind])


def _answer(state: State, predictor: Predictor, call: Call, kind: bytes) -> Answer:
    each = state.settings.serving.failures == "row"
    headers = (*API, (b"x-model-version", predictor.version.encode()))
    if kind == CSV and call.upload is None and len(call.body) <= SMALL and (small := _small(predictor, call, each)):
        return Answer(200, small, SENT[CSV], headers)
    if each and kind == CSV:  # what cannot be read to its end is refused before the first of it is answered
        for _ in _csv_lines(_source(call)):
            pass
    chunks = _checked(predictor, call, kind) if each else _good(predictor, call, kind)
    made = _made(state, predictor, chunks, call, each)
    if kind == CSV:
        first_chunk = _csv(next(made), header=True)
        return Answer(200, first_chunk, SENT[CSV], headers, (_csv(frame, header=False) for frame in made))
    import polars as pl

    table, target = pl.concat(made), io.BytesIO()
    table.write_parquet(target) if kind == PARQUET else table.write_ipc_stream(target)
    return Answer(200, target.getvalue(), kind, headers)


def _small(predictor: Predictor, call: Call, each: bool) -> bytes:
    """Return the answer to a small CSV whose rows are plain and good; nothing if they are not."""
    import polars as pl

    names, lines = next(_csv_lines(io.BytesIO(call.body)), ((), []))
    rows = plain.rows(predictor, names, lines)
    if not rows:
        return b""
    try:
        found = predictor.predict(rows, call.started)
    except Exception:  # as a table they are looked at one by one
        return b""
    made = [(identity, *output.values()) for identity, output in found]
    kinds = {"id": pl.String(), **{column.name: polars_type(column) for column in predictor.signature.outputs}}
    table = pl.DataFrame(made, kinds, orient="row", strict=False)
    return _csv(table.with_columns(error=pl.lit(None, pl.String)) if each else table, header=True)


def _checked(predictor: Predictor, call: Call, kind: bytes) -> Iterator[Checked]:
    for first, chunk in read(predictor, call, kind):
        yield check_frame(predictor.signature, chunk, first)


def _good(predictor: Predictor, call: Call, kind: bytes) -> Iterable[Checked]:
    """Refuse the table if a row does not fit; else give its chunks, read once more unless there is only one."""
    errors: list[Problem] = []
    number = 0
    for checked in _checked(predictor, call, kind):
        number += 1
        errors += checked.problems(LIMIT - len(errors))
        if len(errors) == LIMIT:
            break
    if errors:
        REJECTED.labels("http").inc(len({error.row for error in errors}))
        first = f"row {errors[0].row}: {errors[0].message}"
        raise Refused(problem(422, "signature", f"the table does not fit the model's signature: {first}", errors))
    return [checked] if number == 1 else _checked(predictor, call, kind)


def _made(
    state: State, predictor: Predictor, chunks: Iterable[Checked], call: Call, each: bool
) -> Iterator[pl.DataFrame]:
    """Score the chunks, log the predictions, and give the columns of the answer."""
    import polars as pl

    for checked in chunks:
        good, bad = checked.good, checked.bad.select(ROW, pl.col(REASONS).alias("error"))
        try:
            made = predictor.table(good, call.started)
        except Exception:
            failing = _failing(predictor, good, each)
            if failing is None:
                raise  # the model's fault, not that of the rows
            bad = bad.vstack(good.filter(failing).select(ROW, pl.lit(OVERFLOW).alias("error")))
            good = good.filter(~failing)
            made = predictor.table(good, call.started)
        made = made.with_columns(good[ROW])
        if each:
            REJECTED.labels("http").inc(bad.height)
            made = pl.concat([made, bad], how="diagonal").sort(ROW)
        state.events.wait(state.settings.serving.body_seconds)
        yield made.drop(ROW)


def _failing(predictor: Predictor, good: pl.DataFrame, each: bool) -> pl.Series | None:
    """Say which rows the model cannot compute, or nothing if it is not their fault.

    All rows are refused unless each is answered for itself.
    """
    import polars as pl

    dicts = good.select(list(predictor.signature.by_name)).to_dicts()
    places = predictor.failing(msgspec.convert(dicts, list[predictor.row]))  # type: ignore[name-defined]
    if not places or not predictor.works():
        return None
    if not each:
        errors = [Problem(good[ROW][place], "", "range", OVERFLOW) for place in places[:LIMIT]]
        REJECTED.labels("http").inc(len(places))
        raise Refused(out_of_range(errors)) from None
    return pl.Series([place in set(places) for place in range(good.height)])


def _csv(frame: pl.DataFrame, header: bool) -> bytes:
    return frame.write_csv(include_header=header).encode()


def read(predictor: Predictor, call: Call, kind: bytes) -> Iterator[tuple[int, pl.DataFrame]]:
    """Read the table; give the number of the first row of each chunk, from 0, and the chunk."""
    source, first = _source(call), 0
    for chunk in _csv_chunks(source) if kind == CSV else _whole(source, kind):
        if first == 0:
            _columns(predictor, chunk)
        yield first, chunk
        first += chunk.height
    if first == 0:
        raise Refused(problem(422, "shape", "the table has no rows: send at least one"))


def _source(call: Call) -> Any:
    source: Any = call.upload or io.BytesIO(call.body)
    source.seek(0)
    return source


def _columns(predictor: Predictor, chunk: pl.DataFrame) -> None:
    lacking = [one for one in predictor.signature.inputs if one.name not in chunk.columns and not one.nullable]
    if lacking:
        errors = [Problem(0, column.name, "missing", expected(column, "missing")) for column in lacking]
        detail = f"the table lacks the column {lacking[0].name}: its columns must be those of the model"
        raise Refused(problem(422, "signature", detail, errors))


def _csv_chunks(source: Any) -> Iterator[pl.DataFrame]:
    import polars as pl

    for names, lines in _csv_lines(source):
        yield pl.DataFrame(lines, dict.fromkeys(names, pl.String), orient="row")


def _csv_lines(source: Any) -> Iterator[tuple[Sequence[str], list[list[str]]]]:
    """Read a CSV; give the names of its columns, and with them the fields of each line, by chunks."""
    text = io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
    row = 0
    try:
        start = next(_lines(text), "")
        delimiter = max(DELIMITERS, key=start.count)
        names = next(csv.reader([start], delimiter=delimiter), [])
        if len(set(names)) < len(names) or not names:
            raise Refused(problem(422, "shape", "the first line must name the columns, each once"))
        reader = filter(None, csv.reader(_lines(text), delimiter=delimiter, strict=True))  # without empty lines
        while lines := list(itertools.islice(reader, CHUNK)):
            for line in lines:
                if len(line) != len(names):
                    detail = f"row {row} of the table has {len(line)} fields, and the first line {len(names)}"
                    raise Refused(problem(422, "shape", detail))
                row += 1
            yield names, lines
    except UnicodeDecodeError:
        raise Refused(problem(400, "malformed", "the table is not UTF-8: save it as CSV UTF-8")) from None
    except csv.Error:
        detail = f"the table is no CSV that can be read from row {row} on: look at its quotes"
        raise Refused(problem(400, "malformed", detail)) from None
    finally:
        text.detach()  # the file is read once more


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Read lines of bounded length: memory must not grow with what somebody sends."""
    while line := text.readline(LONGEST):
        if len(line) == LONGEST:
            raise Refused(problem(422, "shape", f"a line of the table is longer than {LONGEST:,} characters"))
        yield line


def _whole(source: Any, kind: bytes) -> Iterator[pl.DataFrame]:
    import polars as pl

    try:
        if kind == PARQUET:
            _check_rows(pl.scan_parquet(source).select(pl.len()).collect().item())
            source.seek(0)
            table = pl.read_parquet(source)
        else:
            content = source.read()
            _check_rows(arrow.rows(content))
            table = pl.read_ipc_stream(content)
    except Refused:
        raise
    except Exception:  # polars raises every kind over bytes that are something else
        raise Refused(problem(400, "malformed", "the body is not what its Content-Type says, or is cut off")) from None
    yield from table.iter_slices(CHUNK)


def _check_rows(rows: int) -> None:
    if rows > MOST:
        raise Refused(problem(413, "too-many-rows", f"send at most {MOST} rows at a time"))
