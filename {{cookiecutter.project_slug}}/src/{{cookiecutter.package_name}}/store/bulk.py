"""Insert many rows at the price of the driver: several times as fast as through the types of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table

MARKS = {"qmark": "?", "format": "%s", "pyformat": "%s"}


def insert(connection: Connection, table: Table, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows; one whose key is there already is left as it is.

    Args:
        connection: in a transaction.
        table: of the log.
        names: its columns, in the order of the values.
        rows: the values as the driver takes them; times go through `stored` first.
    """
    if rows:
        columns = ", ".join(f'"{name}"' for name in names)
        marks = ", ".join([MARKS[connection.dialect.paramstyle]] * len(names))
        statement = f"INSERT INTO {table.name} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        connection.exec_driver_sql(statement, list(rows))


def stored(connection: Connection, table: Table) -> Callable[[datetime], Any]:
    """Return the function that turns the ``time`` of a table into what its database stores."""
    kind = table.c.time.type.dialect_impl(connection.dialect)
    return kind.bind_processor(connection.dialect) or (lambda moment: moment)
