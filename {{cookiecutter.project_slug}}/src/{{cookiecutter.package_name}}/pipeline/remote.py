"""Databases and object stores: URLs without their secrets, connections, and patience when the other side is away."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import ProjectError
from ..settings import Settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from sqlalchemy import Connection, Engine

DATABASES, STORES = ("sqlite", "postgresql", "postgres"), ("s3", "az", "gs")
SCHEME = re.compile(r"([a-z][a-z0-9+]+):")  # two letters or more: C:\ is no scheme
PASSWORD = re.compile(r"(://[^:/@?]*:)[^@]*@|([?&]password=)[^&]*", re.IGNORECASE)
FIRST, LONGEST = 0.5, 15.0  # seconds between attempts
BUSY = (5, 6)  # SQLite: another process holds the database
REFUSED = re.compile(r"FATAL:(?!.*(starting up|shutting down|recovery|too many|terminating|reserved))", re.DOTALL)

Report = Callable[[str], None]  # gets sentences: how far it is, what it waits for
Result = TypeVar("Result")


class Away(Exception):
    """The other side cannot be reached now; it may be in a while."""


def scheme(url: str) -> str:
    """Return the scheme of a URL, "" for a path."""
    found = SCHEME.match(url)
    return found[1] if found else ""


def shown(url: str) -> str:
    """Return a URL without its password, for files, logs and messages."""
    return PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", url)


def whole(url: str, settings: Settings) -> str:
    """Return a URL as it was before `shown`: the settings have the password.

    Raises:
        ProjectError: they do not.
    """
    if shown(url) != url or "***" not in url:
        return url
    for known in (settings.pipeline.input, *settings.pipeline.sinks):
        if shown(known) == url:
            return known
    raise ProjectError(
        f"the password of {url} is never written down: keep the URL in the settings (pipeline.input, pipeline.sinks), "
        "or leave the password out of it and set PGPASSWORD"
    )


def patiently(
    attempt: Callable[[], Result], place: Callable[[], int], name: str, seconds: float, say: Report
) -> Result:
    """Call ``attempt`` until it does not raise `Away`, with longer and longer pauses.

    Args:
        attempt: what to do, from its beginning.
        place: how far the last attempt came; one that came farther than all before starts the clock anew.
        name: of the other side.
        seconds: how long it may be away.
        say: told of every wait.

    Raises:
        ProjectError: it was away for too long.
    """
    farthest, since, pause = -1, 0.0, FIRST
    while True:
        try:
            return attempt()
        except Away as error:
            now = time.monotonic()
            if place() > farthest:
                farthest, since, pause = place(), now, FIRST
            left = since + seconds - now
            if left <= 0:
                raise ProjectError(
                    f"{name} was away for {seconds:g} s ({error}): bring it back, then `pipeline resume`"
                ) from None
            say(f"{name} is away ({error}): waiting up to {left:.0f} s")
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST)


class Database(NamedTuple):
    """An engine, the name of the database for messages, and what the URL says beside where it is."""

    engine: Engine
    name: str
    asked: dict[str, str]


def database(url: str, settings: Settings, known: tuple[str, ...], readonly: bool = False) -> Database:
    """Open a database; ``known`` are the names that its URL may carry for us, such as ``table``.

    Raises:
        ProjectError: the URL is none of a database, or a driver is missing.
    """
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    name = shown(url).partition("?")[0]
    try:
        found = make_url(url)
    except (ArgumentError, ValueError):
        raise ProjectError(f"{name} is no database URL, such as postgresql://host/database?table=orders") from None
    asked = {key: value for key, value in found.query.items() if key in known and isinstance(value, str)}
    found = found.difference_update_query(known)
    arguments: dict[str, Any] = {"connect_timeout": 10, "keepalives_idle": 20, "keepalives_interval": 5}
    arguments |= {"keepalives_count": 3, "tcp_user_timeout": 30_000}
    if found.get_backend_name() == "sqlite":
        path = settings.path(found.database or "")
        if readonly and not path.is_file():
            raise ProjectError(f"there is no database {path}: correct the URL")
        found = found.set(drivername="sqlite", database=path.as_uri(), query={"uri": "true"})
        found = found.update_query_dict({"mode": "ro"} if readonly else {})
        arguments = {"timeout": 1}
    elif found.drivername in ("postgresql", "postgres"):
        found = found.set(drivername="postgresql+psycopg")
    try:
        return Database(create_engine(found, connect_args=arguments), name, asked)
    except (ImportError, SQLAlchemyError):
        raise ProjectError(f"{name} needs a driver: install the extra `postgres`") from None


@contextmanager
def connected(database: Database) -> Iterator[Connection]:
    """Give a connection that is closed for good at the end.

    Raises:
        Away: the database cannot be reached now.
        ProjectError: it refuses; trying again would not help.
    """
    from sqlalchemy.exc import SQLAlchemyError

    driver: Any = database.engine.dialect.dbapi
    try:
        with database.engine.connect() as connection:
            yield connection
    except (SQLAlchemyError, driver.Error) as error:
        cause = getattr(error, "orig", None) or error
        told = " ".join(str(cause).split())[:200]
        gone = isinstance(cause, driver.OperationalError | driver.InterfaceError)
        if database.engine.dialect.name == "sqlite":
            gone = getattr(cause, "sqlite_errorcode", 0) & 0xFF in BUSY
        if gone and not REFUSED.search(str(cause)):
            raise Away(told) from None
        raise ProjectError(f"{database.name} refused the work ({told}): mend it, then `pipeline resume`") from None
    finally:
        database.engine.dispose()


def quoted(*names: str) -> str:
    """Return names as SQL has them, one after the other with commas."""
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)


def bucket(url: str) -> tuple[ObjectStore, str]:
    """Open the bucket of a URL such as ``s3://bucket/prefix`` with the standard variables; return it and the prefix.

    Raises:
        ProjectError: the extra is missing, or a variable is wrong.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise ProjectError(f"{scheme(url)}:// needs obstore: install the extra `objects`") from None
    where, _, prefix = url.partition("://")[2].partition("/")
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    try:
        store = from_url(
            f"{scheme(url)}://{where}",
            client_options={"allow_http": plain, "connect_timeout": "10s", "timeout": "60s"},
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=5)},
        )
    except BaseError as error:
        raise ProjectError(f"{shown(url)} cannot be opened ({_first(error)}): correct the URL or variables") from None
    return store, prefix


@contextmanager
def stored(name: str) -> Iterator[None]:
    """Turn the many ways in which an object store fails into one sentence.

    Raises:
        Away: the store cannot be reached now.
        ProjectError: it refuses; trying again would not help.
    """
    from obstore.exceptions import GenericError, NotFoundError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError):
        raise ProjectError(f"{name} refuses access: correct the credentials in the environment") from None
    except (FileNotFoundError, NotFoundError):
        raise ProjectError(f"{name} is not there, or no longer: correct the URL or run again") from None
    except GenericError as error:
        raise Away(_first(error)) from None


def _first(error: Exception) -> str:
    """Return the first line of a message that may have many."""
    return str(error).strip().partition("\n")[0][:200]
