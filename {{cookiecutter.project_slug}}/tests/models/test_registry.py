"""Versions never change, aliases move at once, and a flipped byte is refused."""

from __future__ import annotations

import pytest

from project.errors import ProjectError
from project.models.importing import Source, import_model
from project.models.registry import Registry
from project.settings import Settings


def test_list_resolve_and_promote(champion: Settings, trained: dict[str, Source]) -> None:
    registry = Registry(champion)
    first = registry.resolve("champion")
    second = import_model(champion, Source(trained["busy"].path, trained["busy"].sample, "busy")).version
    assert {info.version for info in registry.versions()} == {first, second}
    assert registry.resolve(second[:8]) == second
    stamp = registry.alias_stamp()
    assert registry.point("champion", second) == first
    assert registry.alias_stamp() != stamp
    assert registry.resolve("champion") == second
    assert [info.aliases for info in registry.versions() if info.version == second] == [("champion",)]


@pytest.mark.parametrize("name", ["model.onnx", "signature.json", "provenance.json", "bundle.json"])
def test_one_flipped_byte_is_refused(champion: Settings, name: str) -> None:
    registry = Registry(champion)
    path = registry.versions_folder / registry.resolve("champion") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ProjectError, match=f"corrupt: {name}"):
        registry.load("champion")


def test_missing_file_is_refused(champion: Settings) -> None:
    registry = Registry(champion)
    (registry.versions_folder / registry.resolve("champion") / "profile.json").unlink()
    with pytest.raises(ProjectError, match=r"corrupt: profile.json"):
        registry.load("champion")


def test_without_champion_the_sentence_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(ProjectError, match="model promote VERSION"):
        Registry(settings).load("champion")
    with pytest.raises(ProjectError, match="there is no model version abc"):
        Registry(settings).resolve("abc")


def test_alias_with_a_path_in_it_is_refused(champion: Settings) -> None:
    with pytest.raises(ProjectError, match="lower-case word"):
        Registry(champion).point("../x", Registry(champion).resolve("champion"))
