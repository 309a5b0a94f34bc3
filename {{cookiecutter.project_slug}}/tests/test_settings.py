"""Defaults, then the file, then the environment; anything wrong is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from project.errors import ProjectError
from project.settings import FILE, PREFIX, Settings, load


def test_environment_wins_over_file_and_file_over_default(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settings.root / FILE
    path.write_text(path.read_text() + "\n[serving]\nport = 8123\nmax_rows = 5\n")
    monkeypatch.setenv(f"{PREFIX}SERVING__PORT", "8124")
    loaded = load(settings.root)
    assert (loaded.serving.port, loaded.serving.max_rows, loaded.serving.workers) == (8124, 5, 1)
    assert loaded.project == settings.project


def test_project_is_found_from_a_folder_below_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    below = settings.root / "docs" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert load().root == settings.root.resolve()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[serving]\nport = 99999\n", r"serving\.port is wrong .* config/settings.toml"),
        ("[serving]\nprt = 1\n", r"serving\.prt is wrong"),
        ("[servng]\nport = 1\n", r"unknown section \[servng\]"),
        ("[serving\n", "cannot be read"),
        ('[project]\nmode = "online"\n', r"project\.mode is wrong"),
    ],
)
def test_wrong_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ProjectError, match=sentence):
        load(tmp_path)


def test_wrong_environment_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}SERVING__CORS_ORIGINS", "not json")
    with pytest.raises(ProjectError, match="environment cannot be read"):
        load(settings.root)


def test_outside_a_project_the_sentence_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=f"set {PREFIX}HOME"):
        load(tmp_path)
