"""Keys: made, ended and replaced; the store never has one that opens anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from project.errors import ProjectError
from project.settings import Settings
from project.store import keys
from project.store.database import Store


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with Store(settings) as store:
        yield store


def states(store: Store, later: timedelta = timedelta()) -> dict[str, str]:
    return {key.id: key.state(datetime.now(UTC) + later) for key in keys.known(store).values()}


def test_a_key_is_known_by_its_hash_alone(settings: Settings, store: Store) -> None:
    key, text = keys.create(store, "shop", ["read", "predict"], "me", rate=2.5, days=30)
    assert text.split("_")[:2] == [keys.MARK, key.id]
    assert keys.known(store) == {hashlib.sha256(text.encode()).hexdigest(): key}
    assert key.scopes == ("predict", "read")
    assert key.expires
    assert key.expires - key.created == timedelta(days=30)
    secret = text.rpartition("_")[2]
    files = [path.read_bytes() for path in settings.path("data").glob("store.db*")]
    assert any(key.id.encode() in content for content in files)
    assert not any(secret.encode() in content for content in files)


def test_keys_differ(store: Store) -> None:
    made = [keys.create(store, "same", ["read"], "me") for _ in range(20)]
    assert len({key.id for key, _ in made}) == len({text.rpartition("_")[2] for _, text in made}) == 20
    assert [key.id for key in keys.known(store).values()] == [key.id for key, _ in made]


def test_a_key_ends_by_itself_or_by_hand(store: Store) -> None:
    short, _ = keys.create(store, "short", ["read"], "me", days=1)
    long, _ = keys.create(store, "long", ["read"], "me")
    assert states(store) == {short.id: "active", long.id: "active"}
    assert states(store, timedelta(days=1, seconds=1)) == {short.id: "expired", long.id: "active"}
    keys.revoke(store, long.id)
    ended = next(key.revoked for key in keys.known(store).values() if key.id == long.id)
    keys.revoke(store, long.id)
    assert states(store)[long.id] == "revoked"
    assert next(key.revoked for key in keys.known(store).values() if key.id == long.id) == ended


@pytest.mark.parametrize("hours", [0, 2])
def test_another_key_takes_the_place_of_one(store: Store, hours: float) -> None:
    old, before = keys.create(store, "shop", ["predict"], "me", rate=3, days=30)
    new, text = keys.rotate(store, old.id, "you", hours)
    assert text != before
    assert new.id != old.id
    assert (new.name, new.scopes, new.rate, new.created_by) == ("shop", ("predict",), 3, "you")
    assert new.expires
    assert new.expires - new.created == timedelta(days=30)
    assert states(store) == {old.id: "active" if hours else "revoked", new.id: "active"}
    assert states(store, timedelta(hours=2, seconds=1))[old.id] == ("expired" if hours else "revoked")


def test_grace_makes_no_key_last_longer(store: Store) -> None:
    old, _ = keys.create(store, "shop", ["predict"], "me", days=1)
    keys.rotate(store, old.id, "me", hours=1000)
    assert next(iter(keys.known(store).values())).expires == old.expires


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("", ["read"]), "needs a name"),
        (("x" * 101, ["read"]), "needs a name"),
        (("a\nb", ["read"]), "needs a name"),
        (("a", []), "needs a scope"),
        (("a", ["read", "write"]), "needs a scope"),
        (("a", ["read"], 0.0), "the rate"),
        (("a", ["read"], -1.0), "the rate"),
        (("a", ["read"], float("nan")), "the rate"),
        (("a", ["read"], float("inf")), "the rate"),
    ],
)
def test_what_cannot_be_made_is_said(store: Store, arguments: tuple[object, ...], sentence: str) -> None:
    name, scopes, *rate = arguments
    with pytest.raises(ProjectError, match=sentence):
        keys.create(store, name, scopes, "me", *rate)  # type: ignore[arg-type]
    assert not keys.known(store)


def test_what_is_not_there_cannot_end(store: Store) -> None:
    key, _ = keys.create(store, "a", ["read"], "me")
    for change in (keys.revoke, lambda store, identity: keys.rotate(store, identity, "me")):
        with pytest.raises(ProjectError, match="key list"):
            change(store, "no such")
    keys.revoke(store, key.id)
    with pytest.raises(ProjectError, match="is revoked: make a new one"):
        keys.rotate(store, key.id, "me")
    assert len(keys.known(store)) == 1
