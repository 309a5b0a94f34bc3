"""A table that consumers read: ``postgresql://host/database?table=scores``, ``sqlite:///scores.db?table=scores``.

A run is loaded chunk by chunk beside the table, each chunk in one transaction with its mark in ``<table>_runs``; then
one transaction moves all into the table, by prediction id. So a reader sees a run whole or not at all, and a load
that is cut off goes on after its last chunk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Double,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
)
from sqlalchemy.types import TypeEngine

from ...errors import ProjectError
from ...settings import Settings
from ...store.bulk import MARKS
from ...validation import polars_type
from ..remote import DATABASES, Database, Report, connected, database, patiently, quoted
from ..steps import renamed
from . import Published

SCHEMES = DATABASES
KEY, COMPLETE = "prediction_id", ""
IDENTITY = {KEY: pl.String(), "model_version": pl.String(), "source_file": pl.String(), "source_row": pl.Int64()}
NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}(\.[a-z_][a-z0-9_]{0,39})?")
LONGEST, MOST = 63, 1_600  # PostgreSQL's limits: bytes of a name, columns of a table


def publish(run: Published, url: str, settings: Settings, report: Report) -> None:
    """Load a run's predictions, once.

    Raises:
        ProjectError: the database refuses, or is away for too long; what was loaded stays for `pipeline resume`.
    """
    opened = database(url, settings, ("table",))
    name = opened.asked.get("table", "")
    if not NAME.fullmatch(name):
        raise ProjectError(f"{opened.name} needs ?table=NAME at its end, small letters, digits and _: correct it")
    load = _Load(opened, run, name)
    patiently(load.go_on, lambda: load.done, opened.name, settings.pipeline.patience_seconds, report)
    if load.done:
        report(f"{opened.name} has the run in the table {name}")


class _Load:
    """One run on its way into one table; ``done`` counts the transactions."""

    def __init__(self, opened: Database, run: Published, name: str) -> None:
        schema, _, table = name.rpartition(".")
        self.opened, self.run, self.done, metadata = opened, run, 0, MetaData(schema or None)
        self.columns = _columns(run)
        self.scores = _table(metadata, table, self.columns)
        self.loading = _table(metadata, f"{table}_{run.id}", self.columns, key=False)
        self.marks = Table(
            f"{table}_runs",
            metadata,
            Column("run", String(32), primary_key=True),
            Column("file", String(255), primary_key=True),  # of a chunk; empty: the run is in the table
            Column("model_version", String(32), nullable=False),
            Column("rows", BigInteger, nullable=False),
            Column("time", DateTime(timezone=True), nullable=False),
        )

    def go_on(self) -> None:
        """Load what is missing."""
        with connected(self.opened) as connection:
            with connection.begin():
                have = self._prepare(connection)
            if COMPLETE in have:
                return
            for entry in self.run.files("predictions"):
                if entry["path"] not in have:
                    with connection.begin():
                        self._load(connection, entry)
                    self.done += 1
            with connection.begin():
                self._show(connection)
            self.done += 1

    def _prepare(self, connection: Connection) -> set[str]:
        """Make the tables that are missing; return the marks of the run."""
        _alone(connection)
        self.marks.create(connection, checkfirst=True)
        have = set(connection.execute(select(self.marks.c.file).where(self.marks.c.run == self.run.id)).scalars())
        if COMPLETE not in have:
            self.scores.create(connection, checkfirst=True)
            self._widen(connection)
            self.loading.create(connection, checkfirst=True)
        return have

    def _widen(self, connection: Connection) -> None:
        """Add the columns that a model or an input has now and the table had not."""
        there = {column["name"] for column in inspect(connection).get_columns(self.scores.name, self.scores.schema)}
        if KEY not in there:
            raise ProjectError(f"{self.opened.name} has a table {self.scores.name} of another kind: name another")
        for column in self.scores.columns:
            if column.name not in there:
                kind = column.type.compile(connection.dialect)
                statement = f"ALTER TABLE {_full(self.scores)} ADD COLUMN {quoted(column.name)} {kind}"
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def _load(self, connection: Connection, entry: Mapping[str, Any]) -> None:
        frame = _plain(pl.read_parquet(self.run.folder / entry["path"]).select(*self.columns), self.columns)
        self._mark(connection, entry["path"], frame.height)  # first: another process at work on the run fails here
        _insert(connection, self.loading, frame)

    def _show(self, connection: Connection) -> None:
        """Move the run into the table, and forget its chunks."""
        _alone(connection)
        self._mark(connection, COMPLETE, sum(entry["rows"] for entry in self.run.files("predictions")))
        update = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in self.columns if name != KEY)
        names = quoted(*self.columns)
        connection.exec_driver_sql(
            f"INSERT INTO {_full(self.scores)} ({names}) SELECT {names} FROM {_full(self.loading)} WHERE true "
            f"ON CONFLICT ({KEY}) DO UPDATE SET {update}",
            execution_options={"no_parameters": True},
        )
        chunks = (self.marks.c.run == self.run.id) & (self.marks.c.file != COMPLETE)
        connection.execute(self.marks.delete().where(chunks))
        self.loading.drop(connection)

    def _mark(self, connection: Connection, file: str, rows: int) -> None:
        mark = {"run": self.run.id, "file": file, "rows": rows, "time": datetime.now(UTC)}
        version = self.run.manifest["model_version"]
        connection.execute(self.marks.insert(), mark | {"model_version": version})


def _columns(run: Published) -> dict[str, pl.DataType]:
    """Return the table's columns: identity, the input's, the model's; as the published files have them."""
    signature, outputs = run.signature, [column.name for column in run.signature.outputs]
    columns: dict[str, pl.DataType] = dict(IDENTITY)
    if files := run.files("predictions"):
        columns |= pl.read_parquet_schema(run.folder / files[0]["path"])
    else:
        columns |= {renamed(column.name, outputs): polars_type(column) for column in signature.inputs}
        columns |= {column.name: polars_type(column) for column in signature.outputs}
    if wide := next((name for name in columns if len(name.encode()) > LONGEST), None):
        raise ProjectError(f"the column {wide!r} has a name too long for a table: give the input a shorter one")
    if len(columns) > MOST:
        raise ProjectError(f"the run has {len(columns)} columns, and a table takes {MOST}: leave some out of the input")
    return columns


def _table(metadata: MetaData, name: str, columns: Mapping[str, pl.DataType], key: bool = True) -> Table:
    return Table(
        name,
        metadata,
        *(
            Column(one, _sql_type(dtype), primary_key=key and one == KEY, autoincrement=False)
            for one, dtype in columns.items()
        ),
    )


def _sql_type(dtype: pl.DataType) -> TypeEngine[Any]:
    if dtype.is_integer():
        return BigInteger()
    if dtype.is_float():
        return Double()
    if dtype == pl.Boolean:
        return Boolean()
    if dtype == pl.Date:
        return Date()
    if isinstance(dtype, pl.Datetime):
        return DateTime(timezone=bool(dtype.time_zone))
    return Text()


def _plain(frame: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Write as text what has no type of its own in a table."""
    changed = []
    for name in columns:
        dtype = frame.schema[name]
        if dtype.is_nested():
            changed.append(pl.struct(name).struct.json_encode().alias(name))
        elif dtype == pl.Binary:
            changed.append(pl.col(name).bin.encode("hex"))
        elif isinstance(_sql_type(dtype), Text):
            changed.append(pl.col(name).cast(pl.String))
    return frame.with_columns(changed)


def _insert(connection: Connection, table: Table, frame: pl.DataFrame) -> None:
    """Insert rows the fastest way that the database has."""
    target = f"{_full(table)} ({quoted(*frame.columns)})"
    if connection.dialect.name == "postgresql":
        text = frame.write_csv(include_header=False, datetime_format="%Y-%m-%d %H:%M:%S%.f").encode()
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN (FORMAT csv)") as copy:
            copy.write(text)
        return
    times = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
    rows = frame.with_columns(pl.col(name).cast(pl.String) for name in times).rows()
    marks = ", ".join([MARKS[connection.dialect.paramstyle]] * frame.width)
    connection.exec_driver_sql(f"INSERT INTO {target} VALUES ({marks})", rows)


def _full(table: Table) -> str:
    return ".".join(quoted(name) for name in (table.schema, table.name) if name)


def _alone(connection: Connection) -> None:
    """Let the other processes that make or fill tables wait until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7220)")
