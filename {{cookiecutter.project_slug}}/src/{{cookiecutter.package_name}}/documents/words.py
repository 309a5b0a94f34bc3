"""The language of what the project writes: labels, numbers and dates in English and French."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

# All words and the required headings: [headings."file"], [en] (what is not its own English), [fr].
WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


class Words:
    """Labels, numbers and dates of one language."""

    def __init__(self, language: str) -> None:
        """Choose ``en`` or ``fr``."""
        self.language = language
        self._words: dict[str, str] = WORDS[language]
        self.colon = "\u00a0:" if language == "fr" else ":"

    def __call__(self, text: str, **values: str) -> str:
        """Return a label in the language (itself if it has no translation), with its places filled."""
        found = self._words.get(text, text)
        return found.format(**values) if values else found

    def meaning(self, metric: str) -> str:
        """Return what a metric says, or nothing for one that is not known."""
        return self._words.get(f"{metric}: meaning", "")

    def number(self, value: float) -> str:
        """Return a number with four significant digits, or all digits of its whole part."""
        if not math.isfinite(value):
            return str(value)
        text = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
        return text.translate({44: "\u202f", 46: ","}) if self.language == "fr" else text

    def share(self, value: float) -> str:
        """Return a share (0 to 1) in percent, to a tenth."""
        return f"{self.number(round(value * 100, 1))}" + ("\u00a0%" if self.language == "fr" else "%")

    def span(self, values: tuple[float, float]) -> str:
        """Return a range of numbers."""
        return self("{low} to {high}", low=self.number(values[0]), high=self.number(values[1]))

    def time(self, value: datetime | str | None) -> str:
        """Return a moment in UTC, to the minute; the empty text for none."""
        if not value:
            return ""
        moment = (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)
        return moment.strftime("%d/%m/%Y %H:%M UTC" if self.language == "fr" else "%Y-%m-%d %H:%M UTC")

    def headings(self, file: str) -> Sequence[str]:
        """Return the level-two headings that a document must have, in order."""
        headings: Sequence[str] = WORDS["headings"].get(file, {}).get(self.language, ())
        return headings
