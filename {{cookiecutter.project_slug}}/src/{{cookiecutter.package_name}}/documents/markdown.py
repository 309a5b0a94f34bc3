"""Values as Markdown in one language: tables, code and text in which nothing is taken for syntax."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from .words import Words

Row = Sequence[object]


class Code(str):
    """Text that is already Markdown."""

    __slots__ = ()


def code(text: str) -> Code:
    """Return a name as code, if it has nothing that would end the code."""
    return Code(f"`{text.replace('|', chr(92) + '|')}`" if text and not re.search(r"[`\s]", text) else escape(text))


def escape(value: object) -> str:
    """Write a value so that Markdown and HTML find no syntax in it."""
    text = re.sub(r"[\t-\r ]+", " ", str("" if value is None else value)).strip(" ")
    return re.sub(r"([\\`*_{}\[\]#$@~^|])", r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")


def table(words: Words, caption: str, heads: str, rows: Iterable[Row]) -> str:
    """Return a pipe table under its caption; caption and headings are translated, cells escaped.

    Args:
        words: the language.
        caption: of the table; empty for none.
        heads: the headings, with semicolons between; one that begins with > stands over numbers.
        rows: the cells; `Code` is taken as it is.
    """
    names = [name.strip() for name in heads.split(";")]
    rule = ["--:" if name.startswith(">") else ":--" for name in names]
    body = [[str(cell) if isinstance(cell, Code) else escape(cell) for cell in row] for row in rows]
    lines = [[words(name.lstrip(">")) for name in names], rule, *body]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{words('Table')}: {words(caption)}\n\n{text}" if caption else text


def pairs(words: Words, caption: str, rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of labels, which are translated, and values; what is empty is left out."""
    shown = []
    for label, item in rows:
        head, colon, rest = label.partition(": ")
        if str(item):
            shown.append((f"{words(head)}{colon}{rest}", item))
    return table(words, caption, "Item; Value", shown)


def flat(values: object, prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested values as dotted names, without what is empty."""
    if not isinstance(values, dict):
        return [] if values in (None, "", [], {}) else [(prefix, values)]
    return [item for name, inner in values.items() for item in flat(inner, f"{prefix}.{name}" if prefix else str(name))]


def value(words: Words, item: object) -> str:
    """Return a value as readers of the language write it."""
    if isinstance(item, bool):
        return words("yes" if item else "no")
    if isinstance(item, int | float):
        return words.number(item)
    if isinstance(item, list | tuple):
        return ", ".join(value(words, part) for part in item)
    return words.time(item) if isinstance(item, datetime) else str("" if item is None else item)


def seconds(words: Words, item: float | None) -> str:
    """Return a duration in milliseconds, or in seconds from one second on."""
    if item is None:
        return ""
    return f"{words.number(item * 1000)} ms" if item < 1 else f"{words.number(item)} s"


def levels(words: Words, text: str) -> str:
    """Translate the small words of a range."""
    if found := re.fullmatch(r"(seen )?(\S+) to (\S+)", text):
        return words("seen {low} to {high}" if found[1] else "{low} to {high}", low=found[2], high=found[3])
    return text
