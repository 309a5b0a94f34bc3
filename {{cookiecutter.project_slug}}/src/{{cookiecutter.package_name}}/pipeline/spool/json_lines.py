"""JSON lines: one object a line, compressed or not. Values become text, digit by digit as they stand in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from ...settings import Settings
from ..sources import InputError
from ._packed import blocks
from ._parts import Parts

SUFFIXES = (".jsonl", ".ndjson")
BLOCK, MOST = 4 << 20, 64 << 20  # bytes read at once, bytes of one line

Row = dict[str, msgspec.Raw]
DECODER = msgspec.json.Decoder(Row)


def wants(path: Path, settings: Settings) -> bool:
    """Every file of the kind is spooled."""
    return True


def spool(path: Path, part: str, parts: Parts, settings: Settings) -> None:
    """Read a file line by line; a field that a line lacks is missing."""
    lines = 0
    for text in _blocks(path, settings):
        try:
            parts.add(_table(DECODER.decode_lines(text)))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise InputError(f"{path} {_broken(text, lines)}: write one object a line") from None
        lines += text.count(b"\n")


def _table(rows: list[Row]) -> pl.DataFrame:
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame({name: pl.Series([_text(row.get(name)) for row in rows], dtype=pl.String) for name in names})


def _text(value: Any) -> str | None:
    """Return a text as it is, null as missing, and anything else as it is written."""
    if value is None:
        return None
    text = str(value, "utf-8")
    if text[0] == '"':
        return msgspec.json.decode(text, type=str) if "\\" in text else text[1:-1]
    return None if text == "null" else text


def _broken(text: bytes, before: int) -> str:
    """Say which line of a block cannot be read."""
    lines = text.split(b"\n")
    for number, line in enumerate(lines, before + 1):
        try:
            if line.strip():
                _table([DECODER.decode(line)])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            if line is lines[-1] and line.lstrip().startswith(b"{"):  # nothing follows, not even a line break
                return f"line {number}, the last, is cut off or broken"
            array = number == 1 and line.lstrip().startswith(b"[")
            return "is a JSON array, not JSON lines" if array else f"line {number} is no JSON object"
    return "is no JSON lines"


def _blocks(path: Path, settings: Settings) -> Iterator[bytes]:
    """Cut a file into blocks of whole lines."""
    rest, first = b"", True
    for data in blocks(path, BLOCK, settings):
        text = rest + (data.removeprefix(b"\xef\xbb\xbf") if first else data)
        cut, first = text.rfind(b"\n") + 1, False
        text, rest = text[:cut], text[cut:]
        if len(rest) > MOST:
            raise InputError(f"{path} has a line of more than {MOST >> 20} MB: write one object a line")
        yield text
    yield rest
