"""The language of what the project writes: labels, numbers and dates in English and French, as safe Markdown."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from ..signature import Column

STYLE = Path(__file__).with_name("style")
# All words and the required headings: [headings."file"], [en] (what is not its own English), [fr].
WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


class Markdown(str):
    """Text that is already Markdown: nothing in it is escaped any more."""

    __slots__ = ()


class Words:
    """Labels and values as readers of one language write them."""

    def __init__(self, language: str) -> None:
        """Choose ``en`` or ``fr``."""
        self.language = language
        self.known: Mapping[str, str] = WORDS[language]
        self.colon = "\u00a0:" if language == "fr" else ":"

    def __call__(self, text: str, **values: object) -> str:
        """Return a label in the language (itself if it has no translation), with its places filled."""
        found = self.known.get(text, text)
        return Markdown(found.format(**{name: self.show(value) for name, value in values.items()})) if values else found

    def headings(self, file: str) -> Sequence[str]:
        """Return the level-two headings that a document must have, in order."""
        headings: Sequence[str] = WORDS["headings"].get(file, {}).get(self.language, ())
        return headings

    def show(self, value: object) -> Markdown:
        """Write any value so that Markdown and HTML find no syntax in it."""
        if isinstance(value, Markdown):
            return value
        if isinstance(value, bool):
            return Markdown(self("yes" if value else "no"))
        if isinstance(value, int | float):
            return Markdown(self.number(value))
        if isinstance(value, datetime):
            return Markdown(self.time(value))
        if isinstance(value, list | tuple):
            return Markdown(", ".join(map(self.show, value)))
        text = re.sub(r"[\t-\r ]+", " ", "" if value is None else str(value)).strip(" ")
        escaped = re.sub(r"([\\`*_{}\[\]#$@~^|])", r"\\\1", text)
        return Markdown(escaped.replace("<", "&lt;").replace(">", "&gt;"))

    def code(self, text: object) -> Markdown:
        """Return a name as code, if it has nothing that would end the code."""
        name = str(text)
        if not name or re.search(r"[`\s]", name):
            return self.show(name)
        return Markdown("`" + name.replace("|", "\\|") + "`")

    def number(self, value: float) -> str:
        """Return a number with four significant digits, or all digits of its whole part."""
        if not math.isfinite(value):
            return str(value)
        text = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
        return text.translate({44: "\u202f", 46: ","}) if self.language == "fr" else text

    def share(self, value: float) -> str:
        """Return a share (0 to 1) in percent, to a tenth."""
        return self.number(round(value * 100, 1)) + ("\u00a0%" if self.language == "fr" else "%")

    def seconds(self, value: float | None) -> str:
        """Return a duration in milliseconds, or in seconds from one second on; the empty text for none."""
        if value is None:
            return ""
        return f"{self.number(value * 1000)} ms" if value < 1 else f"{self.number(value)} s"

    def time(self, value: datetime | str | None) -> str:
        """Return a moment in UTC, to the minute; the empty text for none."""
        if not value:
            return ""
        moment = (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)
        return moment.strftime("%d/%m/%Y %H:%M UTC" if self.language == "fr" else "%Y-%m-%d %H:%M UTC")

    def levels(self, column: Column) -> Markdown:
        """Return which values a column may have, and their unit."""
        text = column.values()
        if column.numeric and (found := re.fullmatch(r"(seen )?(\S+) to (\S+)", text)):
            text = self("seen {low} to {high}" if found[1] else "{low} to {high}", low=found[2], high=found[3])
        return Markdown(f"{self.show(text)} {self.show(column.unit)}".strip())

    def label(self, text: object) -> Markdown:
        """Return a label of a diagram: what Mermaid or HTML could take for syntax becomes a character code."""
        label = " ".join(self(str(text)).split())
        return Markdown(re.sub(r"[^\w\s.,:()/%'’-]", lambda found: f"#{ord(found[0])};", label))

    def source(self, *places: str) -> Markdown:
        """Return the note that says where a fact was read."""
        return Markdown(f"<sub>{self('Source')}{self.colon} {', '.join(self(place) for place in places)}</sub>")


def templates(**options: Any) -> Environment:
    """Return the templates of the style folder; their syntax is [[ value ]], [% statement %] and [# comment #]."""
    return Environment(
        loader=FileSystemLoader(STYLE),
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
