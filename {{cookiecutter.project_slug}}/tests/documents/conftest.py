"""The documents of a project in English, whatever this project was made for; tests of French say so."""

from __future__ import annotations

import pytest

from project.settings import PREFIX


@pytest.fixture(autouse=True)
def _in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PROJECT__LANGUAGE", "en")
