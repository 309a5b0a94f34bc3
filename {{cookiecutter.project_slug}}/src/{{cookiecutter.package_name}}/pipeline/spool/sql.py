"""Rows of a database: a table or a query, read by one statement in one snapshot, in the order that it gives.

``sqlite:///shop.db?table=orders``, ``postgresql://user@host/shop?query=SELECT ...``
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import Connection, inspect

from ...errors import ProjectError
from ...settings import Settings
from ..remote import DATABASES, Database, Report, connected, database, patiently, quoted
from ..sources import SPOOLED, InputError
from ._parts import CELLS, ROWS, Parts

SCHEMES = DATABASES
KNOWN = ("table", "query")
BLOCK = 8 << 20  # bytes of text that become a table at once
NUMERIC, MOMENT = 1700, "%Y-%m-%d %H:%M:%S%.f"
# Types of PostgreSQL by number, and how their text becomes them; any other stays text, digit by digit.
TYPES: dict[int, Callable[[pl.Series], pl.Series]] = {
    16: lambda text: text == "t",
    20: lambda text: text.cast(pl.Int64),
    21: lambda text: text.cast(pl.Int16),
    23: lambda text: text.cast(pl.Int32),
    700: lambda text: text.cast(pl.Float32),
    701: lambda text: text.cast(pl.Float64),
    1082: lambda text: text.str.to_date("%Y-%m-%d"),
    1083: lambda text: text.str.to_time("%H:%M:%S%.f"),
    1114: lambda text: text.str.to_datetime(MOMENT, time_unit="us"),
    1184: lambda text: text.str.strip_suffix("+00").str.to_datetime(MOMENT, time_unit="us", time_zone="UTC"),
}


def fetch(url: str, folder: Path, settings: Settings, report: Report) -> dict[str, Any]:
    """Read a table or a query into one file; a database that goes away is read from its beginning again.

    Raises:
        ProjectError: the URL is wrong, the database refuses, or is away for too long.
    """
    opened = database(url, settings, KNOWN, readonly=True)
    if len(opened.asked) != 1 or not all(opened.asked.values()):
        raise ProjectError(f"{opened.name} needs either ?table=NAME or ?query=SELECT ... at its end: add one")
    name = opened.asked.get("table", "query").replace("/", "_")
    with Parts(folder / f"{name}{SPOOLED}", report) as parts:

        def attempt() -> None:
            parts.restart()
            with connected(opened) as connection:
                _read(connection, opened, parts)

        patiently(attempt, lambda: parts.rows, opened.name, settings.pipeline.patience_seconds, report)
    return {}


def _read(connection: Connection, opened: Database, parts: Parts) -> None:
    statement = opened.asked.get("query") or _table(connection, opened)
    connection.rollback()
    if connection.dialect.name == "postgresql":
        _copy(connection, opened, statement.rstrip("; \n"), parts)
    else:
        result = connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        names = _names(opened, [column[0] for column in result.cursor.description or ()] if result.cursor else [])
        parts.add(pl.DataFrame(schema=dict.fromkeys(names, pl.Null)))
        while rows := result.fetchmany(max(1, min(ROWS, CELLS // len(names)))):
            columns = zip(*rows, strict=True)
            parts.add(pl.DataFrame([_series(*one) for one in zip(names, columns, strict=True)]))


def _names(opened: Database, names: list[str]) -> list[str]:
    if not names:
        raise InputError(f"{opened.name}: the query gives no columns: give a SELECT")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"{opened.name} gives the column {twice[0]!r} twice: name one of them otherwise")
    return names


def _copy(connection: Connection, opened: Database, statement: str, parts: Parts) -> None:
    """Let the server stream the rows as text, many times as fast as value by value."""
    connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    for setting in ("TIME ZONE 'UTC'", "datestyle = ISO", "extra_float_digits = 1", "synchronize_seqscans = off"):
        connection.exec_driver_sql(f"SET LOCAL {setting}")
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT * FROM ({statement}\n) AS asked LIMIT 0")
        described = cursor.description
        names = _names(opened, [column.name for column in described])
        parts.add(pl.DataFrame(schema=dict.fromkeys(names, pl.Null)))
        with cursor.copy(f"COPY ({statement}\n) TO STDOUT (FORMAT csv)") as copy:
            rows: list[bytes] = []
            size = 0
            for row in copy:
                rows.append(bytes(row))
                size += len(row)
                if size >= BLOCK:
                    parts.add(_typed(described, rows))
                    rows, size = [], 0
            if rows:
                parts.add(_typed(described, rows))


def _typed(described: Any, rows: list[bytes]) -> pl.DataFrame:
    """Parse rows of text; a column with a value that its type here does not have stays text."""
    texts = dict.fromkeys((column.name for column in described), pl.String)
    table = pl.read_csv(b"".join(rows), has_header=False, schema=texts)
    if table.height != len(rows):
        raise ProjectError(f"the database sent {len(rows)} rows, of which {table.height} can be read: report this")
    typed = []
    for column in described:
        text = table[column.name]
        try:
            if column.type_code == NUMERIC and 0 < (column.precision or 0) <= 38:
                text = text.cast(pl.Decimal(column.precision, column.scale))
            elif column.type_code in TYPES:
                text = TYPES[column.type_code](text)
        except pl.exceptions.PolarsError:
            pass
        typed.append(text)
    return pl.DataFrame(typed)


def _table(connection: Connection, opened: Database) -> str:
    """Return the SELECT of a table, in the order of its key if it has one: equal tables give equal files."""
    schema, _, name = opened.asked["table"].rpartition(".")
    looker = inspect(connection)
    if not (looker.has_table(name, schema or None) or name in looker.get_view_names(schema or None)):
        raise InputError(f"{opened.name} has no table {opened.asked['table']}: correct the URL")
    key = looker.get_pk_constraint(name, schema or None)["constrained_columns"]
    order = f" ORDER BY {quoted(*key)}" if key else ""
    return f"SELECT * FROM {f'{quoted(schema)}.' if schema else ''}{quoted(name)}{order}"


def _series(name: str, values: tuple[Any, ...]) -> pl.Series:
    """Make a column; SQLite's values say the type themselves, and those of several types become text."""
    found = {type(value) for value in values} - {type(None)}
    if not found:
        return pl.Series(name, values, dtype=pl.Null)
    dtype = {int: pl.Int64, float: pl.Float64}.get(found.pop()) if len(found) == 1 else None
    if dtype:
        return pl.Series(name, values, dtype=dtype)
    return pl.Series(name, [value.hex() if isinstance(value, bytes) else _text(value) for value in values], pl.String)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)
