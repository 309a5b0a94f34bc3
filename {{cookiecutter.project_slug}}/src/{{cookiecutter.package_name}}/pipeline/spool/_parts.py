"""Write one Parquet file from tables that come one by one, whose columns may differ, in bounded memory."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from ...errors import ProjectError
from ..remote import Report
from ..sources import SPOOLED, InputError, Schema

ROWS, BYTES, CELLS = 65_536, 64 << 20, 4 << 20  # of one part; cells of one row group
STEP = 1_000_000  # rows between two reports


class Parts:
    """A file in the making. As a context manager it is finished at the end, or nothing is left.

    A column whose type differs from part to part becomes text.
    """

    def __init__(self, target: Path, report: Report) -> None:
        self.target, self.report, self.rows = target, report, 0
        self._name = target.name.removesuffix(SPOOLED)
        self._folder = target.with_name(f".{target.name}.parts")
        self._schema: Schema = {}
        self._written: list[Path] = []
        self._waiting: list[pl.DataFrame] = []
        self._told = 0

    def __enter__(self) -> Self:
        """Make a folder for the parts."""
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Join the parts."""
        try:
            if kind is None:
                with writing(self.target.parent):
                    self._finish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self) -> None:
        """Forget all rows: a source is read from its beginning again."""
        with writing(self.target.parent):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        self.rows, self._told, self._schema, self._written, self._waiting = 0, 0, {}, [], []

    def add(self, frame: pl.DataFrame) -> None:
        """Add rows; a table of none still tells its columns."""
        _extend(self._schema, frame)
        if not frame.height:
            return
        self.rows += frame.height
        self._waiting.append(frame)
        heights, sizes = zip(*((one.height, one.estimated_size()) for one in self._waiting), strict=True)
        if sum(heights) >= ROWS or sum(sizes) >= BYTES:
            self._flush()
        if self.rows - self._told >= STEP:
            self._told = self.rows
            self.report(f"{self._name}: {self.rows:,} rows read")

    def _flush(self) -> None:
        with writing(self.target.parent):
            self._written.append(self._folder / f"{len(self._written):06d}.parquet")
            with self._written[-1].open("wb") as stream:
                _joined(self._waiting).write_parquet(stream, compression="lz4", statistics=False)
        self._waiting = []

    def _finish(self) -> None:
        if not self.rows:
            raise InputError(f"{self._name} has no rows: fill it or leave it out")
        schema = {name: pl.String() if dtype == pl.Null else dtype for name, dtype in self._schema.items()}
        group = max(1, min(ROWS, CELLS // max(1, len(schema))))
        draft = self._folder / "draft"
        if self._written:
            _lazy(self._tables, schema).sink_parquet(draft, compression="zstd", row_group_size=group)
        else:
            with draft.open("wb") as stream:
                next(self._shaped(schema)).write_parquet(stream, compression="zstd", row_group_size=group)
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
        draft.rename(self.target)

    def _tables(self) -> Iterator[pl.DataFrame]:
        yield from map(pl.read_parquet, self._written)
        if self._waiting:
            yield _joined(self._waiting)

    def _shaped(self, schema: Schema) -> Iterator[pl.DataFrame]:
        for table in self._tables():
            yield shaped(table, schema)


def _lazy(tables: Any, schema: Schema) -> pl.LazyFrame:
    """Return tables that are made while they are written."""
    from polars.io.plugins import register_io_source

    def source(columns: Any, predicate: Any, rows: Any, size: Any) -> Iterator[pl.DataFrame]:
        return (shaped(table, schema) for table in tables())

    return register_io_source(source, schema=schema)


def shaped(table: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return a table in these columns and types; what it lacks is missing."""
    there = table.schema
    if there == schema and list(there) == list(schema):
        return table
    return table.select(
        (pl.col(name) if name in there else pl.lit(None)).cast(dtype).alias(name) for name, dtype in schema.items()
    )


def _joined(tables: list[pl.DataFrame]) -> pl.DataFrame:
    schema: Schema = {}
    for table in tables:
        _extend(schema, table)
    return pl.concat([shaped(table, schema) for table in tables], rechunk=True)


def _extend(schema: Schema, table: pl.DataFrame) -> None:
    """Add the columns of a table; one of another type than before becomes text."""
    for name, dtype in table.schema.items():
        known = schema.get(name, pl.Null())
        schema[name] = dtype if known in (pl.Null(), dtype) else known if dtype == pl.Null else pl.String()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one sentence that a folder cannot be written; polars wraps what the system said."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        full = f"os error {errno.ENOSPC}" in str(error) or getattr(error, "errno", 0) == errno.ENOSPC
        reason = os.strerror(errno.ENOSPC) if full else reason
        raise ProjectError(f"{folder} cannot be written ({reason}): mend it, then `pipeline resume`") from None
