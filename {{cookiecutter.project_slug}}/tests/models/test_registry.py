"""Versions never change, and aliases move at once, forward and back."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from project.errors import ProjectError
from project.models import bundle
from project.models.importing import import_model
from project.models.places import KEPT
from project.models.registry import Registry
from project.settings import Settings

FACTS = {"title": "Hires", "task": "regression", "runtime": "onnx", "model": "model", "hashes": {}, "metrics": {}}


def add(registry: Registry, number: int) -> str:
    """Add a small version; a higher number is newer."""
    created = f"2025-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}+00:00"
    return registry.add({**FACTS, "created": created}, {"model": b"trees", "part/of": b"it"}).version


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings)


def test_list_resolve_and_promote(champion: Settings, trained: dict[str, object]) -> None:
    registry = Registry(champion)
    first = registry.resolve("champion")
    second = import_model(champion, trained["busy"]).version  # type: ignore[arg-type]
    assert {info.version for info in registry.versions()} == {first, second}
    assert registry.resolve(second[:8]) == second
    stamp = registry.alias_stamp()
    assert registry.point("champion", second) == first
    assert registry.alias_stamp() != stamp
    assert registry.resolve("champion") == second
    assert [info.aliases for info in registry.versions() if info.version == second] == [("champion",)]


def test_a_missing_file_is_refused(champion: Settings) -> None:
    registry = Registry(champion)
    (registry.versions_folder / registry.resolve("champion") / "profile.json").unlink()
    with pytest.raises(ProjectError, match=r"corrupt: profile.json"):
        registry.load("champion")


def test_without_champion_the_sentence_says_what_to_do(registry: Registry) -> None:
    with pytest.raises(ProjectError, match="model promote VERSION"):
        registry.load("champion")
    with pytest.raises(ProjectError, match="there is no model version abc"):
        registry.resolve("abc")


def test_an_alias_with_a_path_in_it_is_refused(registry: Registry) -> None:
    with pytest.raises(ProjectError, match="lower-case word"):
        registry.point("../x", add(registry, 1))
    with pytest.raises(ProjectError, match="lower-case word"):
        registry.drop("../x")


def test_an_alias_says_who_moved_it_when_and_why(registry: Registry) -> None:
    first, second = add(registry, 1), add(registry, 2)
    assert registry.point("canary", first, by="ann", reason="new data", share=0.1) is None
    alias = registry.aliases()["canary"]
    assert (alias.version, alias.by, alias.reason, alias.share) == (first, "ann", "new data", 0.1)
    assert alias.since.endswith("+00:00")
    assert registry.point("canary", first, share=0.2) == first
    assert registry.aliases()["canary"].previous == ()
    registry.point("canary", second)
    assert registry.aliases()["canary"].previous == (first,)
    assert registry.drop("canary") == second
    assert registry.drop("canary") is None
    assert registry.aliases() == {}


def test_rollback_goes_back_a_version_each_time(registry: Registry) -> None:
    versions = [add(registry, number) for number in range(4)]
    for version in versions:
        registry.point("champion", version)
    assert registry.rollback(by="ann", reason="errors") == (versions[3], versions[2])
    assert registry.aliases()["champion"].reason == "errors"
    assert registry.rollback() == (versions[2], versions[1])
    assert registry.rollback() == (versions[1], versions[0])
    with pytest.raises(ProjectError, match="did not point to another version before"):
        registry.rollback()


def test_rollback_to_a_version_that_is_gone_changes_nothing(registry: Registry) -> None:
    first, second = add(registry, 1), add(registry, 2)
    registry.point("champion", first)
    registry.point("champion", second)
    (registry.versions_folder / first / "model").write_bytes(b"other")
    with pytest.raises(ProjectError, match="corrupt: model"):
        registry.rollback()
    with pytest.raises(ProjectError, match="corrupt: model"):
        registry.point("champion", first)
    assert registry.resolve("champion") == second


def test_an_alias_forgets_what_is_long_ago(registry: Registry) -> None:
    versions = [add(registry, number) for number in range(KEPT + 5)]
    for version in versions:
        registry.point("champion", version)
    assert list(registry.aliases()["champion"].previous) == versions[-2 : -KEPT - 2 : -1]


def test_a_damaged_alias_is_named(registry: Registry) -> None:
    registry.point("champion", add(registry, 1))
    document = registry.folder / "aliases" / "champion.json"
    for content in ("", "[]", '{"version": "../../etc", "previous": []}', '{"version": 1, "previous": 2}'):
        document.write_text(content)
        with pytest.raises(ProjectError, match="the alias champion is damaged"):
            registry.resolve("champion")


def test_readers_see_the_old_or_the_new_version_while_it_flips(registry: Registry, settings: Settings) -> None:
    versions = [add(registry, 1), add(registry, 2)]
    registry.point("champion", versions[0])
    seen: set[str] = set()
    wrong: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        mine = Registry(settings)
        try:
            while not done.is_set():
                stamp, seen_now = mine.alias_stamp(), mine.aliases()["champion"].version
                seen.add(seen_now)
                if stamp == mine.alias_stamp():
                    assert mine.resolve("champion") == seen_now or stamp != mine.alias_stamp()
        except BaseException as error:
            wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    stamps = []
    for number in range(100):
        registry.point("champion", versions[number % 2])
        stamps.append(str(registry.alias_stamp()))
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert seen == set(versions)
    assert len(set(stamps)) == 100


def test_of_two_writers_at_once_neither_is_forgotten(registry: Registry, settings: Settings) -> None:
    versions = [add(registry, number) for number in range(16)]

    def move(some: list[str]) -> None:
        for version in some:
            Registry(settings).point("champion", version)

    writers = [threading.Thread(target=move, args=(versions[start::4],)) for start in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    alias = registry.aliases()["champion"]
    assert {alias.version, *alias.previous} == set(versions)
    assert len(alias.previous) == 15
    assert [path.name for path in (registry.folder / "aliases").glob(".champion*")] == []


def test_a_bundle_from_elsewhere_is_adopted(registry: Registry, tmp_path: Path) -> None:
    given = bundle.write(tmp_path, {**FACTS, "created": "x"}, {"model": b"trees", "part/of": b"it"})
    (given.folder / "stranger").write_text("not listed")
    adopted = registry.adopt(given.folder)
    assert adopted.version == given.version == registry.versions()[0].version
    assert not (adopted.folder / "stranger").exists()
    assert registry.adopt(adopted.folder).version == given.version


def test_a_thousand_versions_are_listed_newest_first(registry: Registry) -> None:
    template = registry.load(add(registry, 0))
    expected = [template.version]
    hashes = {name: hashlib.sha256((template.folder / name).read_bytes()).hexdigest() for name in ("model", "part/of")}
    for number in range(1, 1000):
        created = f"2025-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}+00:00"
        listing = bundle.encode({"bundle": 1, **FACTS, "created": created, "files": hashes})
        folder = registry.versions_folder / bundle.version_of(listing)
        (folder / "part").mkdir(parents=True)
        for name in hashes:
            os.link(template.folder / name, folder / name)
        (folder / bundle.MANIFEST).write_bytes(listing)
        expected.append(folder.name)
    (registry.versions_folder / ".draft.partial").mkdir()
    (registry.versions_folder / "broken").mkdir()
    assert [info.version for info in registry.versions()] == expected[::-1]
    registry.point("champion", expected[500])
    assert registry.load("champion").version == expected[500]
