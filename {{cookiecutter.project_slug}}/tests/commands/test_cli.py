"""The command line as people type it: help everywhere, results on standard output, one sentence for what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from project.commands import build, main
from project.models.importing import Source
from project.models.registry import Registry
from project.settings import Settings

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command inside a project, and give what it prints; ``status`` is what it has to end with."""

    def call(settings: Settings, *words: object, status: int = 0) -> str:
        monkeypatch.chdir(settings.root)
        result = CliRunner().invoke(build(), [str(word) for word in words])
        assert result.exit_code == status, result.output + repr(result.exception)
        return result.output

    return call


def test_import_promote_list_show(run: Run, settings: Settings, trained: dict[str, Source]) -> None:
    source = trained["hires"]
    assert "no models yet" in run(settings, "model", "list")
    printed = run(settings, "model", "import", source.reference, "--sample", source.sample, "--target", "hires")
    version = printed.split()[-1]
    assert "converted to ONNX" in printed
    assert f"none -> {version}" in run(settings, "model", "promote", version[:8])
    assert "already" in run(settings, "model", "promote", version)
    listed = run(settings, "model", "list")
    assert version in listed
    assert "champion" in listed
    assert "station" in run(settings, "model", "show")
    shown = json.loads(run(settings, "model", "show", version, "--json"))
    assert shown["provenance"]["source"] == "hires.skops"
    assert shown["parity"]["converted"]


def test_doctor_says_what_is_well_and_what_is_wrong(run: Run, champion: Settings) -> None:
    assert "wrong" not in run(champion, "doctor")
    registry = Registry(champion)
    model = registry.versions_folder / registry.resolve("champion") / "model.onnx"
    model.write_bytes(model.read_bytes() + b"x")
    assert "wrong models" in run(champion, "doctor", status=1)


def test_doctor_without_a_model_says_what_to_do(run: Run, settings: Settings) -> None:
    assert "model promote VERSION" in run(settings, "doctor", status=1)


def test_what_is_wrong_is_one_sentence_and_a_status(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(settings.root)
    monkeypatch.setattr(sys, "argv", ["tool", "model", "show"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: no model has been promoted yet")
    assert len(said.err.splitlines()) == 1


def test_every_group_and_command_has_help(run: Run, settings: Settings) -> None:
    listed = run(settings, "--help")
    for name in ("model", "monitor", "documents", "serve", "status", "doctor"):
        assert f" {name} " in listed
        assert "Usage" in run(settings, name, "--help")
