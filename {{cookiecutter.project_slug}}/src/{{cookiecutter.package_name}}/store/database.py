"""Open the log, on SQLite or PostgreSQL, and bring its tables up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ..errors import ProjectError
from ..settings import Settings

MIGRATIONS = Path(__file__).with_name("migrations")
HEAD = max(path.name for path in MIGRATIONS.glob("versions/[0-9]*.py")).partition("_")[0]  # they are numbered
CHECKPOINT = "wal_autocheckpoint=4000"  # pages, 16 MB: what is written again and again is copied once


class Store:
    """A connection pool to the log. Use it as a context manager, or call `close`."""

    def __init__(self, settings: Settings) -> None:
        """Open the log of ``store.url`` and migrate it.

        Raises:
            ProjectError: the database cannot be reached or written.
        """
        try:
            url = make_url(settings.store.url)
        except ArgumentError:
            raise ProjectError("the setting store.url is no database URL, such as sqlite:///data/store.db") from None
        self.name = url.render_as_string(hide_password=True)
        arguments: dict[str, Any] = {"pool_pre_ping": True}
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            path = settings.path(url.database)
            self.name = f"sqlite:///{path}"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ProjectError(f"the store {self.name} cannot be written: {error.strerror}") from None
            url = url.set(database=str(path))
            arguments = {"connect_args": {"timeout": 30}}
        try:
            self.engine: Engine = create_engine(url, **arguments)
        except (ImportError, SQLAlchemyError) as error:
            raise ProjectError(
                f"the store {self.name} needs a driver: {error}; install the extra that has it"
            ) from None
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _sqlite_pragmas)
        self.migrate()

    def migrate(self) -> None:
        """Apply the migrations that are missing; one process at a time does it.

        Raises:
            ProjectError: the database cannot be reached or written.
        """
        try:
            with self.engine.connect() as connection:
                if _revision(connection) != HEAD:
                    self._upgrade(connection)
        except SQLAlchemyError as error:
            raise self._trouble(error) from None

    def _upgrade(self, connection: Connection) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # the other processes wait here, then find the work done
        elif connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7219)")
        command.upgrade(config, "head")
        connection.commit()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection in one transaction.

        Raises:
            ProjectError: the database cannot be reached or written; nothing was.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._trouble(error) from None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection for reading.

        Raises:
            ProjectError: the database cannot be reached.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._trouble(error) from None

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def _trouble(self, error: SQLAlchemyError) -> ProjectError:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return ProjectError(f"the store {self.name} cannot be used ({cause}): check store.url and its permissions")


def _sqlite_pragmas(connection: Any, _: object) -> None:
    """Let readers and one writer work side by side."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON", CHECKPOINT):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _revision(connection: Connection) -> str | None:
    """Return the newest migration that was applied; asked without Alembic, whose import every start would pay."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        connection.rollback()
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    connection.rollback()
    return found
