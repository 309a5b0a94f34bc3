"""Tables as requests: CSV of any length, by chunks in bounded memory; Parquet and Arrow within the body's limit."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any

from ...telemetry.metrics import REJECTED
from ...validation import REASONS, ROW, Problem, check_frame
from ..answers import API, LIMIT, Answer, Call, Refused, problem
from ..state import State
from . import Plane, arrow
from .predictor import Predictor

if TYPE_CHECKING:
    import polars as pl

CSV, PARQUET, ARROW = b"text/csv", b"application/vnd.apache.parquet", b"application/vnd.apache.arrow.stream"
KINDS = {CSV: CSV, PARQUET: PARQUET, b"application/x-parquet": PARQUET, ARROW: ARROW}
SENT = {CSV: b"text/csv; charset=utf-8"}
CHUNK = 16_384  # rows that are worked off together
MOST = 1_000_000  # rows of a Parquet or Arrow body: a packed column can stand for any number
DELIMITERS = ",;\t|"


def answer(state: State, plane: Plane, call: Call, kind: bytes) -> Awaitable[Answer]:
    """Answer a table with a table of the same kind: a row for each of its rows, in their order.

    Columns: ``id``, those of the model's output, and ``error`` where ``serving.failures`` is ``row``: then rows that do
    not fit have a reason in place of a prediction. Otherwise one such row refuses them all.
    """
    return plane.apart(None, _answer, state, plane.champion(), call, KINDS[kind])


def _answer(state: State, predictor: Predictor, call: Call, kind: bytes) -> Answer:
    each = state.settings.serving.failures == "row"
    if not each:
        errors = list(itertools.islice(_errors(predictor, call, kind), LIMIT))
        if errors:
            REJECTED.labels("http").inc(len({error.row for error in errors}))
            first = f"row {errors[0].row}: {errors[0].message}"
            raise Refused(problem(422, "signature", f"the table does not fit the model's signature: {first}", errors))
    made = _made(state, predictor, call, kind, each)
    headers = (*API, (b"x-model-version", predictor.version.encode()))
    if kind == CSV:
        first_chunk = _csv(next(made), header=True)
        return Answer(200, first_chunk, SENT[CSV], headers, (_csv(frame, header=False) for frame in made))
    import polars as pl

    table, target = pl.concat(made), io.BytesIO()
    table.write_parquet(target) if kind == PARQUET else table.write_ipc_stream(target)
    return Answer(200, target.getvalue(), kind, headers)


def _errors(predictor: Predictor, call: Call, kind: bytes) -> Iterator[Problem]:
    for first, chunk in _chunks(predictor, call, kind):
        bad = check_frame(predictor.signature, chunk, first).bad
        for place, reasons in zip(bad[ROW], bad[REASONS], strict=True):
            yield Problem(place, "", "type", reasons)


def _made(state: State, predictor: Predictor, call: Call, kind: bytes, each: bool) -> Iterator[pl.DataFrame]:
    """Score the chunks, log the predictions, and give the columns of the answer."""
    import polars as pl

    for first, chunk in _chunks(predictor, call, kind):
        checked = check_frame(predictor.signature, chunk, first)
        made = predictor.table(checked.good, call.started).with_columns(checked.good[ROW])
        if each:
            bad = checked.bad.select(ROW, pl.col(REASONS).alias("error"))
            REJECTED.labels("http").inc(bad.height)
            made = pl.concat([made, bad], how="diagonal").sort(ROW)
        state.events.wait()
        yield made.drop(ROW)


def _csv(frame: pl.DataFrame, header: bool) -> bytes:
    return frame.write_csv(include_header=header).encode()


def _chunks(predictor: Predictor, call: Call, kind: bytes) -> Iterator[tuple[int, pl.DataFrame]]:
    """Read the table; give the number of the first row of each chunk, from 0, and the chunk."""
    source: Any = call.upload or io.BytesIO(call.body)
    source.seek(0)
    chunks = _csv_chunks(source, call) if kind == CSV else _whole(source, kind)
    first = 0
    for chunk in chunks:
        if first == 0:
            _columns(predictor, chunk)
        yield first, chunk
        first += chunk.height
    if first == 0:
        raise Refused(problem(422, "shape", "the table has no rows: send at least one"))


def _columns(predictor: Predictor, chunk: pl.DataFrame) -> None:
    lacking = [one for one in predictor.signature.inputs if one.name not in chunk.columns and not one.nullable]
    if lacking:
        errors = [Problem(0, column.name, "missing", "is missing") for column in lacking]
        detail = f"the table lacks the column {lacking[0].name}: its columns must be those of the model"
        raise Refused(problem(422, "signature", detail, errors))


def _csv_chunks(source: Any, call: Call) -> Iterator[pl.DataFrame]:
    import polars as pl

    text = io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
    row = 0
    try:
        start = text.readline(65_536)
        delimiter = max(DELIMITERS, key=start.count)
        names = next(csv.reader([start], delimiter=delimiter), [])
        if len(set(names)) < len(names) or not names:
            raise Refused(problem(422, "shape", "the first line must name the columns, each once"))
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while lines := [line for line in itertools.islice(reader, CHUNK) if line]:
            for line in lines:
                if len(line) != len(names):
                    detail = f"row {row} of the table has {len(line)} fields, and the first line {len(names)}"
                    raise Refused(problem(422, "shape", detail))
                row += 1
            yield pl.DataFrame(lines, dict.fromkeys(names, pl.String), orient="row")
    except UnicodeDecodeError:
        raise Refused(problem(400, "malformed", "the table is not UTF-8: save it as CSV UTF-8")) from None
    except csv.Error:
        detail = f"the table is no CSV that can be read from row {row} on: look at its quotes"
        raise Refused(problem(400, "malformed", detail)) from None
    finally:
        text.detach()  # the file is read once more


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
