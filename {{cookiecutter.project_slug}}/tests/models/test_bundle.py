"""A bundle never changes: whatever was changed in it, or in the file it came in, is refused."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from project.errors import ProjectError
from project.models import bundle
from project.models.bundle import MANIFEST, Bundle, encode, load, pack, unpack, version_of, write
from project.models.registry import Registry
from project.settings import Settings

FACTS = {"title": "Hires", "task": "regression", "created": "2025-01-01T00:00:00+00:00", "runtime": "onnx"}
NUMBER = {"type": "number"}
SIDES = {"input": {"properties": {"x": NUMBER}}, "output": {"properties": {"prediction": NUMBER}}}
DOCUMENTS: dict[str, Any] = {
    "signature.json": {"x-task": "regression", "properties": SIDES},
    "profile.json": {"rows": 0, "columns": {}},
    "provenance.json": {"source": "x", "imported_at": FACTS["created"], "imported_by": "ann"},
}


def made(parent: Path, files: dict[str, bytes] | None = None, **more: Any) -> Bundle:
    """A bundle with a model in a folder, as MLflow's are."""
    content = {"model/MLmodel": b"flavors", "model/data/model.bin": bytes(range(256)), "notes.json": {}, **DOCUMENTS}
    return write(parent, {**FACTS, "model": "model", **more}, content | (files or {}))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["model/MLmodel", "model/data/model.bin", "notes.json", MANIFEST])
def test_one_flipped_byte_is_refused_in_every_folder(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path).folder
    assert load(folder).model_file.is_dir()
    flip(folder / name)
    with pytest.raises(ProjectError, match=f"corrupt: {name}"):
        load(folder)


def test_every_file_of_an_import_is_watched(champion: Settings) -> None:
    folder = Registry(champion).load("champion").folder
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        flip(path)
        with pytest.raises(ProjectError, match="corrupt"):
            load(folder)
        path.write_bytes(content)
    load(folder)


def test_what_is_not_listed_is_never_used(tmp_path: Path) -> None:
    folder = made(tmp_path).folder
    (folder / "evaluation.json").write_text('{"slices": {"forged": {}}}')
    pl.DataFrame({"x": [1]}).write_parquet(folder / "sample.parquet")
    opened = load(folder)
    assert opened.evaluation == {}
    assert opened.sample() is None
    (folder / "model" / "__pycache__").mkdir()
    (folder / "model" / "__pycache__" / "code.pyc").write_bytes(b"x")
    load(folder)
    assert not (folder / "model" / "__pycache__").exists()
    (folder / "model" / "sitecustomize.py").write_text("raise SystemExit")
    with pytest.raises(ProjectError, match=r"holds model/sitecustomize\.py"):
        load(folder)


def test_sample_and_evaluation_come_back(tmp_path: Path) -> None:
    frame = pl.DataFrame({"station": ["north", None], "hires": [1.5, 2.5]})
    frame.write_parquet(tmp_path / "sample")
    slices = {"slices": {"station": {"north": {"rows": 1, "rmse": 0.5}}}}
    opened = made(tmp_path, {"sample.parquet": (tmp_path / "sample").read_bytes(), "evaluation.json": encode(slices)})
    sample = opened.sample()
    assert sample is not None
    assert sample.equals(frame)
    assert opened.evaluation == slices


NAMES = ["../x", "/etc/x", "a/../../x", "a//b", "a\\..\\x", "c:x", "./x", "", "a/", "x\0", MANIFEST]


@pytest.mark.parametrize("name", NAMES)
def test_a_list_that_leads_out_of_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match="no proper file name"):
        made(tmp_path / "versions", {name: b"x"})
    assert not (tmp_path / "versions").exists()


@pytest.mark.parametrize(
    "listing", [b"", b"[]", b"{}", b'{"bundle": 1, "files": []}', b'{"bundle": 1, "files": {"a": 1}}', b"[" * 5000]
)
def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, listing: bytes) -> None:
    folder = tmp_path / version_of(listing)
    folder.mkdir()
    (folder / MANIFEST).write_bytes(listing)
    with pytest.raises(ProjectError, match="does not describe a bundle"):
        load(folder)


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="cannot be written"):
        made(tmp_path / "file" / "versions")
    with pytest.raises(ProjectError, match="cannot be written"):
        pack(made(tmp_path), tmp_path / "nowhere" / "x.bundle")


def test_packed_and_unpacked_it_is_the_same(tmp_path: Path) -> None:
    given = made(tmp_path / "here")
    first, second = pack(given, tmp_path / "one.bundle"), pack(given, tmp_path / "two.bundle")
    assert first.read_bytes() == second.read_bytes()
    taken = unpack(first, tmp_path / "there", trust_code=False)
    assert taken.version == given.version
    for name in (MANIFEST, *given.manifest["files"]):
        assert (taken.folder / name).read_bytes() == (given.folder / name).read_bytes()
    assert pack(taken, tmp_path / "three.bundle").read_bytes() == first.read_bytes()
    assert unpack(first, tmp_path / "there", trust_code=False).version == given.version
    assert [path.name for path in (tmp_path / "there").iterdir()] == [given.version]


SKOPS = {"runtime": "original", "format": "sklearn", "model": "model.skops"}


@pytest.mark.parametrize(
    "facts",
    [
        {"code": True},
        {"runtime": "original", "format": "python", "code": False},
        {"runtime": "original", "format": "mlflow", "code": False},
        {"runtime": "..formats.python", "format": "xgboost"},
        {**SKOPS, "model": "model.pkl", "code": False},
        {**SKOPS, "model": ".skops", "code": False},
        {**SKOPS, "trusted": ["os.system"], "code": False},
        {**SKOPS, "trusted": "x"},
        {**SKOPS, "trusted": [["os.system"]]},
    ],
)
def test_a_bundle_that_may_bring_code_needs_trust_whatever_it_says_itself(tmp_path: Path, facts: Any) -> None:
    model = {str(facts["model"]): b"x"} if "model" in facts else {}
    packed = pack(made(tmp_path / "here", model, **facts), tmp_path / "x.bundle")
    with pytest.raises(ProjectError, match="may run code of its own"):
        unpack(packed, tmp_path / "there", trust_code=False)
    assert not (tmp_path / "there").exists()
    assert unpack(packed, tmp_path / "there", trust_code=True).manifest["runtime"]


@pytest.mark.parametrize("facts", [{**SKOPS, "trusted": ["sklearn.tree._tree.Tree"]}, {**SKOPS, "format": "xgboost"}])
def test_a_bundle_of_numbers_needs_no_trust(tmp_path: Path, facts: Any) -> None:
    packed = pack(made(tmp_path / "here", {"model.skops": b"x"}, **facts), tmp_path / "x.bundle")
    assert unpack(packed, tmp_path / "there", trust_code=False).version


def test_a_bundle_without_its_documents_is_refused(tmp_path: Path) -> None:
    for name in DOCUMENTS:
        packed = pack(made(tmp_path / name, {name: b'{"no": "such"}'}), tmp_path / "x.bundle")
        with pytest.raises(ProjectError, match=r"signature: it lacks|lacks the documents"):
            unpack(packed, tmp_path / "there", trust_code=False)
        assert not any((tmp_path / "there").rglob("*"))


def rewrite(packed: Path, change: Callable[[dict[str, bytes]], Any], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write the archive anew, as someone with bad intentions would."""
    with zipfile.ZipFile(packed) as source:
        content = {name: source.read(name) for name in source.namelist()}
    change(content)
    with zipfile.ZipFile(packed, "w", compression) as target:
        for name, data in content.items():
            target.writestr(name, data)
    return packed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda files: files.update({"../evil": b"x"}), "no bundle can hold"),
        (lambda files: files.update({"/etc/evil": b"x"}), "no bundle can hold"),
        (lambda files: files.update({"more.json": b"{}"}), "does not hold the files"),
        (lambda files: files.pop("notes.json"), "does not hold the files"),
        (lambda files: files.pop(MANIFEST), "is no bundle"),
        (lambda files: files.update({"model/MLmodel": b"other"}), "corrupt: model/MLmodel"),
        (lambda files: files.update({MANIFEST: b"{}"}), "does not describe a bundle"),
    ],
)
def test_a_hostile_file_is_refused_and_leaves_nothing(tmp_path: Path, change: Any, sentence: str) -> None:
    packed = rewrite(pack(made(tmp_path / "here"), tmp_path / "x.bundle"), change)
    with pytest.raises(ProjectError, match=sentence):
        unpack(packed, tmp_path / "there", trust_code=True)
    assert not any((tmp_path / "there").rglob("*"))
    assert not (tmp_path / "evil").exists()


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    def bomb(files: dict[str, bytes]) -> None:
        files["notes.json"] = bytes(50_000_000)

    packed = rewrite(pack(made(tmp_path / "here"), tmp_path / "x.bundle"), bomb, zipfile.ZIP_DEFLATED)
    with pytest.raises(ProjectError, match="is compressed"):
        unpack(packed, tmp_path / "there", trust_code=True)


def test_files_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The other kind of bomb: many entries of the directory that all point to the same large content."""
    packed = pack(made(tmp_path / "here", {"big": bytes(100_000)}), tmp_path / "x.bundle")
    content = packed.read_bytes()
    size = struct.pack("<I", 100_000)
    packed.write_bytes(content.replace(size * 2, struct.pack("<I", 100_000_000) * 2))
    assert packed.read_bytes() != content
    with pytest.raises(ProjectError, match="is compressed"):
        unpack(packed, tmp_path / "there", trust_code=True)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return pack(made(folder / "here"), folder / "x.bundle")


@given(data=st.data())
@examples(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_found_or_harmless(packed: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(packed.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    (tmp_path / "x.bundle").write_bytes(bytes(content))
    try:
        taken = unpack(tmp_path / "x.bundle", tmp_path / "there", trust_code=False)
    except ProjectError:
        assert not any((tmp_path / "there").rglob("*"))
        return
    with zipfile.ZipFile(packed) as whole:  # only what no one reads was hit, such as a file's date
        assert taken.version == version_of(whole.read(MANIFEST))
        for name in whole.namelist():
            assert (taken.folder / name).read_bytes() == whole.read(name)
    shutil.rmtree(tmp_path / "there")


@given(name=st.text(max_size=30))
@examples(deadline=None)
def test_no_name_leads_out_of_a_folder(name: str) -> None:
    listing = encode({"bundle": 1, **FACTS, "model": "m", "files": {"m": "0" * 64, name: "0" * 64}})
    try:
        bundle.parse(listing, version_of(listing))
    except ProjectError:
        return
    inside = Path("/versions/v")
    assert (inside / name).resolve().is_relative_to(inside)
    assert json.loads(listing)["files"].keys() == {"m", name}
