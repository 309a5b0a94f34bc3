"""Insert many rows at the price of the driver: several times as fast as through the types of SQLAlchemy.

Many rows go into one statement: SQLite then works for all of them without the interpreter, which answers requests
meanwhile. The numbers of rows are few, so that the database knows the statements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Table

SIZES = (256, 32, 4, 1)  # rows of a statement
MARKS = {"qmark": "?", "format": "%s", "pyformat": "%s"}


def insert(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    otherwise: str = "",
    adds: str = "",
) -> None:
    """Insert rows; one whose key is there already is left as it is.

    Args:
        connection: in a transaction.
        table: of the log.
        names: its columns, in the order of the values.
        rows: the values as the driver takes them; times go through `stored` first.
        otherwise: a column that decides: where it differs from what is there, the new row replaces the old.
        adds: a column whose number is added to what is there.
    """
    if not rows:
        return
    columns = ", ".join(f'"{name}"' for name in names)
    mark = f"({', '.join([MARKS[connection.dialect.paramstyle]] * len(names))})"
    conflict = "ON CONFLICT DO NOTHING"
    key = ", ".join(column.name for column in table.primary_key)
    if adds:
        conflict = f'ON CONFLICT ({key}) DO UPDATE SET "{adds}" = {table.name}."{adds}" + excluded."{adds}"'
    if otherwise:
        new = ", ".join(f'"{name}" = excluded."{name}"' for name in names)
        conflict = f'ON CONFLICT ({key}) DO UPDATE SET {new} WHERE {table.name}."{otherwise}" <> excluded."{otherwise}"'
    first = 0
    for size in SIZES:
        whole = first + (len(rows) - first) // size * size
        values = [tuple(chain.from_iterable(rows[place : place + size])) for place in range(first, whole, size)]
        if values:  # one call: the driver is told the statement once, and gives way before each time it runs
            marks = ", ".join([mark] * size)
            connection.exec_driver_sql(f"INSERT INTO {table.name} ({columns}) VALUES {marks} {conflict}", values)
        first = whole


def stored(connection: Connection, table: Table) -> Callable[[datetime], Any]:
    """Return the function that turns the ``time`` of a table into what its database stores."""
    kind = table.c.time.type.dialect_impl(connection.dialect)
    return kind.bind_processor(connection.dialect) or (lambda moment: moment)
