"""Keys of callers. The store has their SHA-256 and never a key itself.

A slow hash is for passwords, which can be guessed. A key is 256 random bits: whoever has its hash finds it no faster
with one SHA-256 a guess, and the service can afford to hash every request's.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, RowMapping, select

from ..errors import ProjectError
from .database import Store
from .tables import api_keys

SCOPES = ("predict", "read", "admin")
MARK = "mskey"  # a key is MARK_id_secret: one that leaked can be recognised, and its id be read


class Key(NamedTuple):
    """What the store knows of a key.

    Attributes:
        id: names the key; no secret.
        name: says who has it.
        scopes: what it is good for.
        rate: requests a second, or None.
        created: when.
        created_by: by whom.
        expires: when it ends by itself, or None.
        revoked: when it was ended, or None.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    rate: float | None
    created: datetime
    created_by: str
    expires: datetime | None
    revoked: datetime | None

    def state(self, now: datetime) -> str:
        """Return ``active``, ``expired`` or ``revoked``."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and self.expires <= now else "active"


def create(
    store: Store, name: str, scopes: Collection[str], by: str, rate: float | None = None, days: float | None = None
) -> tuple[Key, str]:
    """Make a key.

    Args:
        store: where its hash is kept.
        name: says who will have it.
        scopes: of `SCOPES`.
        by: who makes it.
        rate: requests a second at most.
        days: until it expires.

    Returns:
        What is known of it, and the key itself, which nothing can show again.

    Raises:
        ProjectError: an argument is of no use, or the store cannot be written.
    """
    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise ProjectError("a key needs a name of 1 to 100 printable characters that says who has it")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise ProjectError(f"a key needs a scope, one or several of {', '.join(SCOPES)}: give --scope for each")
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ProjectError("the rate of a key is a number of requests a second above 0: leave it out for none")
    lifetime = None if days is None else timedelta(days=days)
    with store.write() as connection:
        return _insert(connection, name, tuple(one for one in SCOPES if one in scopes), rate, by, lifetime)


def known(store: Store) -> dict[str, Key]:
    """Return every key that was ever made, by its hash (hex), the oldest first.

    Raises:
        ProjectError: the store cannot be read.
    """
    with store.read() as connection:
        found = connection.execute(select(api_keys).order_by(api_keys.c.created)).mappings().all()
    return {row["hash"]: _key(row) for row in found}


def revoke(store: Store, identity: str) -> Key:
    """End a key; one that has ended stays as it is.

    Returns:
        What it was.

    Raises:
        ProjectError: there is no such key, or the store cannot be written.
    """
    with store.write() as connection:
        key = _find(connection, identity)
        if not key.revoked:
            _set(connection, identity, revoked=datetime.now(UTC))
        return key


def rotate(store: Store, identity: str, by: str, hours: float = 0) -> tuple[Key, str]:
    """Put a new key in the place of one, with the same name, scopes, rate and lifetime.

    Args:
        store: where the hashes are kept.
        identity: of the old key.
        by: who does it.
        hours: for which the old key goes on; 0 ends it at once.

    Returns:
        What is known of the new key, and the key itself.

    Raises:
        ProjectError: there is no such key, it has ended, or the store cannot be written.
    """
    now = datetime.now(UTC)
    with store.write() as connection:
        old = _find(connection, identity)
        if (state := old.state(now)) != "active":
            raise ProjectError(f"the key {old.id} is {state}: make a new one with `key create`")
        if hours > 0:
            end = now + timedelta(hours=hours)
            _set(connection, identity, expires=min(end, old.expires or end))
        else:
            _set(connection, identity, revoked=now)
        lifetime = old.expires - old.created if old.expires else None
        return _insert(connection, old.name, old.scopes, old.rate, by, lifetime)


def _insert(
    connection: Connection, name: str, scopes: tuple[str, ...], rate: float | None, by: str, lifetime: timedelta | None
) -> tuple[Key, str]:
    now = datetime.now(UTC)
    key = Key(secrets.token_hex(4), name, scopes, rate, now, by, now + lifetime if lifetime else None, None)
    text = f"{MARK}_{key.id}_{secrets.token_hex(32)}"
    values = key._asdict() | {"scopes": " ".join(scopes), "hash": hashlib.sha256(text.encode()).hexdigest()}
    connection.execute(api_keys.insert().values(values))
    return key, text


def _find(connection: Connection, identity: str) -> Key:
    row = connection.execute(select(api_keys).where(api_keys.c.id == identity)).mappings().first()
    if row is None:
        raise ProjectError("there is no key of that id: `key list` shows all")
    return _key(row)


def _set(connection: Connection, identity: str, **values: datetime) -> None:
    connection.execute(api_keys.update().where(api_keys.c.id == identity).values(values))


def _key(row: RowMapping) -> Key:
    return Key(**{name: row[name] for name in Key._fields} | {"scopes": tuple(row["scopes"].split())})
