"""CSV of other kinds: another separator, encoding or compression, found in the first block. Columns become text.

What could be read in two ways is refused, and the settings say which one is right; what was found is reported.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ...errors import ProjectError
from ...settings import Settings
from ..sources import InputError
from ._packed import blocks
from ._parts import Parts

SUFFIXES = (".csv", ".tsv")
PLAIN = (".csv", ".csv.gz")  # endings of what `sources` reads
HEAD, BLOCK, MOST = 1 << 18, 4 << 20, 64 << 20  # bytes looked at, read at once, of one row
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
QUOTE, NEWLINE, RETURN = b'"\n\r'

LETTERS = "À-ÖØ-öø-ÿŒœŠšŽžŸ"
# What Western text in CP1252 does not have; another encoding read as CP1252 mostly does.
ODD = re.compile(
    f"[^\\x00-\\x7f{LETTERS}\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u2022\u20ac\u2122\xa0"
    "¡£§©ª«®°±²³µ·º»¼½¾¿×]"
    f"|[{LETTERS}][{LETTERS}][{LETTERS}]|[a-zß-öø-ÿ][À-ÖØ-ÞŒŠŽŸ]|[A-Za-z{LETTERS}][£§©®°±²³µ¼½¾¿¡×€™][A-Za-z{LETTERS}]"
    "|[\u2013-\u201d][£§©®°±²³µ¼½¾]|[£§©®°±²³µ¼½¾][\u2013-\u201d]"
)

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is written. ``skip``: its first line only names the separator."""

    encoding: str
    separator: str
    skip: bool = False

    @property
    def plain(self) -> bool:
        """Whether `sources` reads it as it is."""
        return self.encoding in ("utf-8", "utf-8-sig") and self.separator == "," and not self.skip


def wants(path: Path, settings: Settings) -> bool:
    """Say whether a file is anything else than a comma-separated one in UTF-8."""
    return not path.name.lower().endswith(PLAIN) or not sniff(path, settings).plain


def spool(path: Path, part: str, parts: Parts, settings: Settings) -> None:
    """Read a file row by row, as strictly as a plain one."""
    if part:
        raise InputError(f"{path} has no sheets: leave #{part} out")
    dialect = sniff(path, settings)
    if not dialect.plain:
        parts.report(f"{path.name} is read as {dialect.encoding.upper()} with {SEPARATORS[dialect.separator]}s")
    names, first = None, 1
    for text, lengths, fields in _records(path, _decoded(path, dialect, settings), ord(dialect.separator)):
        if names is None:
            names = _header(path, text[: lengths[0]], dialect.separator)
            parts.add(pl.DataFrame(schema=dict.fromkeys(names, pl.String)))
            text, fields = text[lengths[0] :], fields[1:]
        if (wrong := np.flatnonzero(fields != len(names))).size:
            raise InputError(
                f"{path} row {first + wrong[0]} has {fields[wrong[0]]} fields where the header has {len(names)}: "
                "it is broken or cut off, mend it or leave it out"
            )
        schema = dict.fromkeys(names, pl.String)
        try:
            table = pl.read_csv(
                text, has_header=False, schema=schema, separator=dialect.separator, raise_if_empty=False
            )
        except pl.exceptions.PolarsError:
            table = pl.DataFrame()
        if table.height != len(fields):
            raise InputError(f"{path} between row {first} and row {first + len(fields) - 1} is no proper CSV: mend it")
        parts.add(table)
        first += len(fields)


def sniff(path: Path, settings: Settings) -> Dialect:
    """Find out how a file is written, from its first block.

    Raises:
        InputError: it could be more than one way, or is no text.
    """
    head = next(blocks(path, HEAD, settings), b"")
    encoding = settings.pipeline.encoding or _encoding(path, head)
    try:
        text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    except LookupError:
        raise ProjectError(f"the setting pipeline.encoding has an unknown name {encoding!r}: correct it") from None
    named = re.match(r"\ufeff?sep=([,;\t|])\r?\n", text)
    if named:
        return Dialect(encoding, named[1], skip=True)
    whole = len(head) < HEAD
    return Dialect(encoding, settings.pipeline.delimiter or _separator(path, text, whole))


def _encoding(path: Path, head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise InputError(f"{path} is UTF-32: save it as UTF-8")
    if mark := next((mark for mark in MARKS if head.startswith(mark)), None):
        return MARKS[mark]
    if b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        if max(even, odd) * 4 > len(head) and min(even, odd) * 20 < max(even, odd):
            return "utf-16-le" if odd > even else "utf-16-be"
        raise InputError(f"{path} is no text: give it the ending that it should have, or save it as CSV in UTF-8")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        _western(path, head)
        return "cp1252"
    return "utf-8"


def _western(path: Path, data: bytes) -> str:
    """Decode CP1252, of which Latin-1 is a part as far as texts go; refuse what does not look like it."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        text = "\x81"
    if ODD.search(text):
        raise InputError(
            f"{path} is not UTF-8, and its encoding is not clear: save it as UTF-8, or name it in the setting "
            "pipeline.encoding, such as cp1250"
        )
    return text


def _separator(path: Path, text: str, whole: bool) -> str:
    """Return the separator that parts every row into as many fields as the header; comma if there is none."""
    bare = re.sub(r'"[^"]*"', '""', text)
    if not whole and bare.count('"') % 2:
        bare = bare[: bare.rindex('"')]
    lines = [line for line in bare.split("\n") if line.strip("\r")]
    lines = lines if whole else lines[:-1] or lines
    if not lines:
        return ","
    heads = [separator for separator in SEPARATORS if separator in lines[0]]
    even = [one for one in heads if all(line.count(one) == lines[0].count(one) for line in lines)]
    fit = even or heads
    if len(fit) > 1:
        names = " or ".join(SEPARATORS[one] for one in fit)
        raise InputError(f"{path} could be separated by {names}: say which in the setting pipeline.delimiter")
    return fit[0] if fit else ","


def _decoded(path: Path, dialect: Dialect, settings: Settings) -> Iterator[bytes]:
    """Give a file as UTF-8, block by block."""
    decoder = codecs.getincrementaldecoder(dialect.encoding)()
    found, skip = dialect.encoding == "cp1252" and not settings.pipeline.encoding, dialect.skip
    try:
        for data in blocks(path, BLOCK, settings):
            text = _western(path, data) if found else decoder.decode(data)
            if skip:
                text, skip = text.partition("\n")[2], False
            yield text.encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:
        name = dialect.encoding.upper().removesuffix("-SIG")
        raise InputError(f"{path} is not {name} throughout: save it as UTF-8 or set pipeline.encoding") from None


def _header(path: Path, line: bytes, separator: str) -> list[str]:
    try:
        names = next(csv.reader([line.decode("utf-8-sig")], delimiter=separator))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path} has no readable header: save it as CSV in UTF-8") from None
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"{path} has the column {twice[0]!r} twice: rename or remove one")
    return names


def _records(path: Path, data: Iterator[bytes], separator: int) -> Iterator[tuple[bytes, Numbers, Numbers]]:
    """Cut text into blocks of whole rows; yield each with the length and the number of fields of its rows."""
    rest, ended = b"", False
    while not ended:
        block = next(data, None)
        ended = block is None
        text = rest + (b"\n" if block is None else block)  # the last line may have no line break
        if not text:
            continue
        values = np.frombuffer(text, np.uint8)
        bare = ~np.logical_xor.accumulate(values == QUOTE) if b'"' in text else np.ones(len(text), bool)
        ends = np.flatnonzero((values == NEWLINE) & bare) + 1
        cut = int(ends[-1]) if len(ends) else 0
        text, rest = text[:cut], text[cut:]
        if rest and ended:
            raise InputError(f"{path} ends inside a quote: it is broken or cut off")
        if len(rest) > MOST:
            raise InputError(f"{path} has a row of more than {MOST >> 20} MB: a quote is not closed")
        lengths = np.diff(ends, prepend=0)
        fields = np.diff(np.searchsorted(np.flatnonzero((values == separator) & bare), ends), prepend=0) + 1
        blank = (lengths == 1) | ((lengths == 2) & (values[ends - lengths] == RETURN))
        if blank.any():
            text = values[:cut][np.repeat(~blank, lengths)].tobytes()
            lengths, fields = lengths[~blank], fields[~blank]
        if text:
            yield text, lengths, fields
