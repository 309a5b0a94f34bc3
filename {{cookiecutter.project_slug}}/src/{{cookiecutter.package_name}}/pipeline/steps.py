"""The steps of a run around scoring, each a function of one chunk: check, predicted, rejected, log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl
from sqlalchemy import Connection

from ..signature import Signature
from ..store import bulk
from ..store.tables import predictions
from ..validation import REASONS, ROW, Checked, check_frame
from .sources import Chunk, InputError, Schema

RESERVED = ("prediction_id", "model_version", "source_file", "source_row", "reasons")


def check(signature: Signature, chunk: Chunk) -> Checked:
    """Part a chunk into rows that fit the signature and rows that do not."""
    needed = chunk.frame.select(column.name for column in signature.inputs)
    try:
        return check_frame(signature, needed, first=chunk.first)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{chunk.file} has a column of a kind that no model takes ({error})") from None


def predicted(
    run: str, version: str, columns: Schema, chunk: Chunk, good: pl.DataFrame, output: pl.DataFrame
) -> pl.DataFrame:
    """Make the published table: identity, the input's columns (the model's typed), the model's output."""
    row = good[ROW]
    given = _given(columns, chunk, row).with_columns(*good.drop(ROW))
    identity = given.select(
        prediction_id=pl.lit(f"{run}-") + (row + chunk.before).cast(pl.String),
        model_version=pl.lit(version),
        source_file=pl.lit(chunk.file),
        source_row=row,
    )
    given = given.rename(lambda name: renamed(name, output.columns))
    return pl.concat([identity, given, output], how="horizontal")


def rejected(columns: Schema, chunk: Chunk, bad: pl.DataFrame) -> pl.DataFrame:
    """Make the quarantine's table: where each row came from, what is wrong, and the row as it came."""
    given = _given(columns, chunk, bad[ROW])
    origin = given.select(source_file=pl.lit(chunk.file), source_row=bad[ROW], reasons=bad[REASONS])
    return pl.concat([origin, given.rename(renamed)], how="horizontal")


def renamed(name: str, outputs: Sequence[str] = ()) -> str:
    """Return the published name of an input's column: its own, unless a column of ours is named so."""
    return f"input_{name}" if name in RESERVED or name in outputs else name


def _given(columns: Schema, chunk: Chunk, row: pl.Series) -> pl.DataFrame:
    """Return rows of a chunk in the columns that all files of the input have together."""
    found = chunk.frame[(row - chunk.first).to_numpy()]
    return found.select(
        (pl.col(name) if name in found.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in columns.items()
    )


def log(connection: Connection, signature: Signature, run: str, version: str, published: pl.DataFrame) -> None:
    """Log a published table, each prediction once however often this is called.

    Polars encodes the rows, and the driver gets them as they are.
    """
    now = bulk.stored(connection, predictions)(datetime.now(UTC))
    outputs = [column.name for column in signature.outputs]
    rows = published.select(
        id="prediction_id",
        time=pl.lit(now),
        model_version=pl.lit(version),
        source=pl.lit("batch"),
        run_id=pl.lit(run),
        row="source_row",
        inputs=_json(published, {column.name: renamed(column.name, outputs) for column in signature.inputs}),
        output=_json(published, {name: name for name in outputs}),
    )
    bulk.insert(connection, predictions, rows.columns, rows.rows())


def _json(frame: pl.DataFrame, published: Mapping[str, str]) -> pl.Expr:
    """Encode columns, given by name and published name, as one JSON object a row; times in RFC 3339."""
    columns = []
    for name, column in published.items():
        value = pl.col(column)
        time = frame.schema[column].is_temporal()
        columns.append((value.dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ") if time else value).alias(name))
    return pl.struct(columns).struct.json_encode()
