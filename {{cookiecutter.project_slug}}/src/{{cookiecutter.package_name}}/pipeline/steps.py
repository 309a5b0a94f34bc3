"""The steps of a run, each a function of one chunk: ingest, check, (score), publish, log."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from sqlalchemy import Connection

from ..models.bundle import write_durably
from ..signature import Signature
from ..store.tables import predictions
from ..validation import Checked, check_frame
from .sources import File, InputError, read

Marker = dict[str, Any]

RESERVED = ("prediction_id", "model_version", "source_file", "source_row", "reasons")
LOGGED = ("id", "time", "model_version", "source", "run_id", "row", "inputs", "output")
MARKS = {"qmark": "?", "format": "%s", "pyformat": "%s"}


class Run(NamedTuple):
    """What the tables of a run have in common: its id, the model version, the columns of all files."""

    id: str
    version: str
    columns: dict[str, pl.DataType]


class Chunk(NamedTuple):
    """Rows of one file.

    Attributes:
        number: of the chunk in the run, from 0.
        file: where the rows come from.
        place: the file's place in the input, from 0.
        before: rows of the input in earlier files.
        first: number in the file of the first row, from 1.
        frame: the rows as read.
        share: of the file that was read with it.
    """

    number: int
    file: File
    place: int
    before: int
    first: int
    frame: pl.DataFrame
    share: float


def ingest(files: Sequence[File], size: int, done: Sequence[Marker]) -> Iterator[Chunk]:
    """Read the input from where the finished chunks end.

    Args:
        files: the input.
        size: rows of a chunk; no chunk spans two files.
        done: the markers of the chunks that are finished, from the first without a gap.

    Yields:
        The chunks that are left.
    """
    number = len(done)
    start = done[-1]["place"] if done else 0
    before = sum(marker["rows"]["in"] for marker in done if marker["place"] < start)
    for place, file in enumerate(files[start:], start):
        rows = sum(marker["rows"]["in"] for marker in done if marker["place"] == place)
        skip = sum(marker["place"] == place for marker in done)
        for piece in read(file, size, skip):
            yield Chunk(number, file, place, before, piece.first, piece.frame, piece.share)
            rows += piece.frame.height
            number += 1
        before += rows


def check(signature: Signature, chunk: Chunk) -> Checked:
    """Part a chunk into rows that fit the signature and rows that do not."""
    needed = chunk.frame.select(column.name for column in signature.inputs)
    try:
        return check_frame(signature, needed, first=chunk.first)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{chunk.file.path} has a column of a kind that no model takes ({error})") from None


def predicted(run: Run, chunk: Chunk, good: pl.DataFrame, output: pl.DataFrame) -> pl.DataFrame:
    """Make the published table: identity, the input's columns (the model's typed), the model's output."""
    given = _rows(run, chunk, good["row"]).with_columns(good.drop("row").get_columns())
    identity = [
        (f"{run.id}-" + (good["row"] + chunk.before).cast(pl.String)).alias("prediction_id"),
        pl.repeat(run.version, good.height, eager=True, dtype=pl.String).alias("model_version"),
        *_origin(chunk, good["row"]),
    ]
    kept = given.rename(lambda name: renamed(name, output.columns)).get_columns()
    return pl.DataFrame([*identity, *kept, *output.get_columns()])


def rejected(run: Run, chunk: Chunk, bad: pl.DataFrame) -> pl.DataFrame:
    """Make the quarantine's table: where each row came from, what is wrong, and the row as it came."""
    kept = _rows(run, chunk, bad["row"]).rename(renamed).get_columns()
    return pl.DataFrame([*_origin(chunk, bad["row"]), bad["reasons"], *kept])


def renamed(name: str, outputs: Sequence[str] = ()) -> str:
    """Return the published name of an input's column: its own, unless a column of ours is named so."""
    return f"input_{name}" if name in RESERVED or name in outputs else name


def _origin(chunk: Chunk, rows: pl.Series) -> list[pl.Series]:
    file = pl.repeat(chunk.file.name, rows.len(), eager=True, dtype=pl.String)
    return [file.alias("source_file"), rows.alias("source_row")]


def _rows(run: Run, chunk: Chunk, rows: pl.Series) -> pl.DataFrame:
    """Return rows of a chunk in the columns that all files of the input have together."""
    found = chunk.frame[(rows - chunk.first).to_numpy()] if rows.len() else chunk.frame.clear()
    return found.select(
        (pl.col(name) if name in found.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in run.columns.items()
    )


def save(folder: Path, kind: str, number: int, frame: pl.DataFrame) -> list[Marker]:
    """Write a table as a Parquet file, always the same bytes for the same rows; no file for no rows.

    Returns:
        What the manifest says about the file.
    """
    if not frame.height:
        return []
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer, compression="zstd")
    content = buffer.getvalue()
    path = f"{kind}/{kind}-{number:05d}.parquet"
    write_durably(folder / path, content)
    return [{"path": path, "rows": frame.height, "sha256": hashlib.sha256(content).hexdigest()}]


def log_predictions(connection: Connection, signature: Signature, run: str, version: str, frame: pl.DataFrame) -> None:
    """Log a published table, each prediction once however often this is called.

    The rows are encoded by polars and given to the driver as they are: several times as fast as through
    the table's types.
    """
    dialect, now = connection.dialect, datetime.now(UTC)
    convert = predictions.c.time.type.dialect_impl(dialect).bind_processor(dialect)
    outputs = [column.name for column in signature.outputs]
    inputs = {column.name: renamed(column.name, outputs) for column in signature.inputs}
    rows = frame.select(
        "prediction_id",
        pl.lit(convert(now) if convert else now).alias("time"),
        pl.lit(version).alias("version"),
        pl.lit("batch").alias("source"),
        pl.lit(run).alias("run"),
        "source_row",
        _json({name: frame.schema[published] for name, published in inputs.items()}, inputs).alias("inputs"),
        _json({name: frame.schema[name] for name in outputs}, dict(zip(outputs, outputs, strict=True))).alias("output"),
    ).rows()
    names = ", ".join(f'"{name}"' for name in LOGGED)
    marks = ", ".join([MARKS[dialect.paramstyle]] * len(LOGGED))
    statement = f"INSERT INTO {predictions.name} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"
    if rows:
        connection.exec_driver_sql(statement, rows)


def _json(schema: dict[str, pl.DataType], published: dict[str, str]) -> pl.Expr:
    """Encode columns as one JSON object a row; times in RFC 3339."""
    columns = [
        (
            pl.col(published[name]).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
            if dtype.is_temporal()
            else pl.col(published[name])
        ).alias(name)
        for name, dtype in schema.items()
    ]
    return pl.struct(columns).struct.json_encode()
