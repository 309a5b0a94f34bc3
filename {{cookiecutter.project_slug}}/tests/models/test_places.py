"""A registry in an object store works as one in a folder does, with a cache that is never trusted."""

from __future__ import annotations

import sys
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from project.errors import ProjectError
from project.models import bundle, registry
from project.models.registry import Alias, Registry
from project.settings import PREFIX, Settings, load

FACTS = {"title": "Hires", "task": "regression", "runtime": "onnx", "model": "model", "hashes": {}, "metrics": {}}


@pytest.fixture
def remote(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project whose registry is in an object store of this process."""
    pytest.importorskip("obstore", reason="the extra `objects` is not installed")
    monkeypatch.setenv(f"{PREFIX}MODELS__REGISTRY", f"memory://{token_hex(4)}")
    return load(settings.root)


def add(settings: Settings, number: int) -> str:
    manifest = {**FACTS, "created": f"2025-01-01T00:00:{number:02}+00:00"}
    return Registry(settings).add(manifest, {"model": b"trees" * 1000, "part/of": b"it"}).version


def elsewhere(settings: Settings, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Registry:
    """The registry as another machine sees it: nothing in its cache."""
    monkeypatch.setenv(f"{PREFIX}MODELS__CACHE", str(folder))
    return Registry(load(settings.root))


def test_what_one_machine_imports_another_serves(
    remote: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = add(remote, 1), add(remote, 2)
    here, there = Registry(remote), elsewhere(remote, monkeypatch, tmp_path / "other")
    here.point("champion", first, by="ann", reason="first")
    stamp = there.alias_stamp()
    assert [info.version for info in there.versions()] == [second, first]
    assert there.versions()[1].aliases == ("champion",)
    taken = there.load("champion")
    assert (taken.folder / "part" / "of").read_bytes() == b"it"
    assert taken.folder.is_relative_to(tmp_path / "other")
    here.point("champion", second)
    assert there.alias_stamp() != stamp
    assert there.aliases()["champion"].previous == (first,)
    assert there.rollback() == (second, first)
    assert here.resolve("champion") == first
    assert here.drop("champion") == first
    assert there.aliases() == {}


def test_a_damaged_cache_is_fetched_again_and_a_damaged_store_is_refused(
    remote: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = add(remote, 1)
    there = elsewhere(remote, monkeypatch, tmp_path / "other")
    file = there.load(version).folder / "model"
    file.write_bytes(b"other")
    assert there.load(version).model_file.read_bytes() == b"trees" * 1000
    there._place._store.put(f"versions/{version}/model", b"other")
    file.write_bytes(b"other")
    with pytest.raises(ProjectError, match="corrupt: model"):
        there.load(version)
    assert [path.name for path in there.versions_folder.iterdir()] == []
    with pytest.raises(ProjectError, match="corrupt: model"):
        there.point("champion", version)
    assert there.aliases() == {}


def test_an_upload_that_was_cut_off_is_no_version(remote: Settings) -> None:
    version = add(remote, 1)
    mine = Registry(remote)
    mine._place._store.put("versions/0123456789abcdef/model", b"trees")
    assert [info.version for info in mine.versions()] == [version]
    with pytest.raises(ProjectError, match="lacks files of 0123456789abcdef"):
        mine.load("0123")


def test_a_version_that_is_only_in_the_cache_is_not_promoted(remote: Settings) -> None:
    mine = Registry(remote)
    left = bundle.write(mine.versions_folder, {**FACTS, "created": "x"}, {"model": b"trees"})
    with pytest.raises(ProjectError, match="there is no model version"):
        mine.point("champion", left.version)
    mine.adopt(left.folder)
    mine.point("champion", left.version)


def test_of_two_moves_at_the_same_moment_neither_is_forgotten(
    remote: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (add(remote, number) for number in range(3))
    mine, other = Registry(remote), Registry(remote)
    mine.point("champion", first)
    real = Alias

    def slow(*given: Any) -> Alias:
        """Make a new alias, after someone else did: between this one's reading and its writing."""
        monkeypatch.setattr(registry, "Alias", real)
        other.point("champion", second)
        return real(*given)

    monkeypatch.setattr(registry, "Alias", slow)
    assert mine.point("champion", third) == second
    alias = mine.aliases()["champion"]
    assert (alias.version, alias.previous) == (third, (second, first))


def test_a_store_that_does_not_answer_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="the extra `objects` is not installed")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for name, value in {**dict.fromkeys(names, "x"), "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"{PREFIX}MODELS__REGISTRY", f"s3://{token_hex(4)}/models")
    away = Registry(load(settings.root))
    for call in (away.alias_stamp, away.aliases, away.versions, lambda: away.load("champion")):
        with pytest.raises(ProjectError, match=r"s3://\S+/models at http://127\.0\.0\.1:1 does not answer"):
            call()


def test_a_file_url_is_a_folder(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"{PREFIX}MODELS__REGISTRY", (tmp_path / "with space").as_uri())
    version = add(load(settings.root), 1)
    assert (tmp_path / "with space" / "versions" / version / "model").is_file()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://host/models", "no known scheme: a folder, or file, mlflow"),
        ("mlflow+http://", "mlflow\\+http://host:port/name is expected"),
        ("mlflow+http://host:1/a'b", "mlflow\\+http://host:port/name is expected"),
    ],
)
def test_a_wrong_url_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch, url: str, sentence: str) -> None:
    monkeypatch.setenv(f"{PREFIX}MODELS__REGISTRY", url)
    with pytest.raises(ProjectError, match=sentence):
        Registry(load(settings.root))


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [("s3://bucket/x", "obstore", "objects"), ("mlflow+http://127.0.0.1:1", "mlflow", "mlflow")],
)
def test_a_missing_extra_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, url: str, library: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setenv(f"{PREFIX}MODELS__REGISTRY", url)
    with pytest.raises(ProjectError, match=rf"pip install '[\w-]+\[{extra}\]'"):
        Registry(load(settings.root)).aliases()
