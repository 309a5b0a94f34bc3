"""Where rows come from: CSV and Parquet files, read in chunks that are always cut at the same rows."""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import polars as pl

from ..errors import ProjectError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
BLOCK = 4 << 20  # bytes read at once
MOST = 256 << 20  # bytes of one chunk, and of one row
SLAB = 262_144  # rows of Parquet decoded at once: a row group as most writers make it
QUOTE, COMMA, NEWLINE = b'",\n'

Positions = np.ndarray[tuple[int], np.dtype[np.int64]]


class InputError(ProjectError):
    """The input itself is wrong: the same run cannot succeed later."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of the input: where it is, its name within the input, and its content as the run began."""

    path: Path
    name: str
    size: int
    modified: int
    sha256: str


class Piece(NamedTuple):
    """Rows of a file: the number of the first (from 1), the rows, and how much of the file was read."""

    first: int
    frame: pl.DataFrame
    share: float


def find(given: str | Path) -> tuple[list[Path], list[str]]:
    """List the files of an input, in the order of their names.

    Args:
        given: a file, a folder (its own files, not those of folders in it) or a glob pattern.

    Returns:
        The files to read, and the names of those in a folder that are no CSV or Parquet.

    Raises:
        InputError: there is nothing to read.
    """
    path = Path(given)
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise InputError(f"{path} is not a {', '.join(SUFFIXES)} file: convert it or name it as what it is")
        return [path.absolute()], []
    found = sorted(path.iterdir() if path.is_dir() else map(Path, glob.glob(str(given), recursive=True)))
    files = [one.absolute() for one in found if one.is_file()]
    fit = [one for one in files if one.name.lower().endswith(SUFFIXES) and not one.name.startswith(".")]
    if not fit:
        what = "has no" if path.is_dir() else "does not exist or matches no"
        raise InputError(f"{given} {what} {', '.join(SUFFIXES)} file: give a file, a folder or a pattern that does")
    return fit, [one.name for one in files if one not in fit]


def identify(paths: list[Path]) -> list[File]:
    """Hash the content of files; names are relative to the folder that they share."""
    base = os.path.commonpath([path.parent for path in paths])
    files = []
    for path in paths:
        with _readable(path), path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        name = Path(os.path.relpath(path, base)).as_posix()
        files.append(File(path, name, status.st_size, status.st_mtime_ns, sha256))
    return files


def inspect(file: File, needed: Collection[str]) -> dict[str, pl.DataType]:
    """Return the columns of a file with their types, text for all of a CSV.

    Raises:
        InputError: it cannot be read, has no rows, has a column twice, or lacks a needed one.
    """
    with _readable(file.path):
        if _is_parquet(file.path):
            lazy = pl.scan_parquet(file.path, glob=False)
            schema, rows = lazy.collect_schema(), _height(lazy)
            names, types = schema.names(), schema.dtypes()
        else:
            with _records(file) as (records, names):
                types, rows = [pl.String()] * len(names), 0 if records.take(1) is None else 1
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"{file.path} has the column {twice[0]!r} twice: rename or remove one")
    if missing := [name for name in needed if name not in names]:
        raise InputError(f"{file.path} lacks the column(s) {', '.join(missing)}: the model needs them")
    if not rows:
        raise InputError(f"{file.path} has no rows: fill it or leave it out")
    return dict(zip(names, types, strict=True))


def agree(schemas: Sequence[Mapping[str, pl.DataType]]) -> dict[str, pl.DataType]:
    """Return the columns of all files together; one that differs in type from file to file becomes text."""
    agreed: dict[str, pl.DataType] = {}
    for schema in schemas:
        for name, dtype in schema.items():
            agreed[name] = dtype if agreed.get(name, dtype) == dtype else pl.String()
    return agreed


def read(file: File, size: int, skip: int = 0) -> Iterator[Piece]:
    """Read a file in pieces of ``size`` rows; memory does not grow with the file.

    Args:
        file: a file that `inspect` accepted.
        size: rows of a piece; the last may have fewer.
        skip: pieces to leave out at the beginning.

    Yields:
        The pieces in order, CSV columns as text.

    Raises:
        InputError: it is cut off, has a broken row, or has changed since it was identified.
    """
    with _readable(file.path):
        yield from (_read_parquet if _is_parquet(file.path) else _read_csv)(file, size, skip)
        status = file.path.stat()
    if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        raise InputError(f"{file.path} was changed while it was read: run again when it is complete")


def _read_parquet(file: File, size: int, skip: int) -> Iterator[Piece]:
    lazy = pl.scan_parquet(file.path, glob=False)
    total, slab = _height(lazy), max(1, SLAB // size) * size
    for start in range(skip * size, total, slab):
        frame = lazy.slice(start, slab).collect()
        for offset in range(0, frame.height, size):
            part = frame.slice(offset, size)
            yield Piece(start + offset + 1, part, (start + offset + part.height) / total)


def _read_csv(file: File, size: int, skip: int) -> Iterator[Piece]:
    first, number = 1, 0
    with _records(file) as (records, names):
        while rows := records.take(size):
            if number >= skip:
                rows.check(file.path, len(names), first)
                yield Piece(first, _parse(file.path, names, rows, first), records.share())
            first, number = first + len(rows.ends), number + 1


def _parse(path: Path, names: list[str], rows: _Rows, first: int) -> pl.DataFrame:
    last = first + len(rows.ends) - 1
    try:
        frame = pl.read_csv(rows.text, has_header=False, schema=dict.fromkeys(names, pl.String))
    except pl.exceptions.PolarsError as error:
        why = "is not UTF-8: save it as UTF-8" if "utf-8" in str(error) else "is no proper CSV: mend it"
        raise InputError(f"{path} between row {first} and row {last} {why}") from None
    if frame.height != len(rows.ends):
        raise InputError(f"{path} has a quote out of place between row {first} and row {last}: mend it")
    return frame


class _Rows(NamedTuple):
    """Whole lines of CSV, and where each ends in the text."""

    text: bytes
    ends: Positions

    def check(self, path: Path, fields: int, first: int) -> None:
        """Refuse a row that has more or fewer fields than the header; it is broken or cut off."""
        data = np.frombuffer(self.text, np.uint8)
        commas = np.flatnonzero(data == COMMA)
        if b'"' in self.text:
            commas = commas[np.searchsorted(np.flatnonzero(data == QUOTE), commas) % 2 == 0]
        counts = np.diff(np.searchsorted(commas, self.ends), prepend=0) + 1
        if (wrong := np.flatnonzero(counts != fields)).size:
            row = int(wrong[0])
            raise InputError(
                f"{path} row {first + row} has {counts[row]} fields where the header has {fields}: "
                "it is broken or cut off, mend it or leave it out"
            )


class _Records:
    """Cuts a stream of CSV into rows, also where quoted fields hold line breaks. Blank lines are no rows."""

    def __init__(self, path: Path, stream: BinaryIO, raw: BinaryIO) -> None:
        self._path, self._stream, self._raw = path, stream, raw
        self._size = max(1, os.fstat(raw.fileno()).st_size)
        self._buffer = b""
        self._ends: Positions = np.empty(0, np.int64)
        self._quoted = self._done = False

    def share(self) -> float:
        """Return how much of the file was read, 0 to 1."""
        return 1.0 if self._done and not self._buffer else self._raw.tell() / self._size

    def take(self, count: int) -> _Rows | None:
        """Return the next rows, at most ``count``; None at the end."""
        while True:
            while not self._done and len(self._ends) < count and len(self._buffer) < MOST:
                self._more()
            if not len(self._ends):
                if self._done:
                    return None
                raise InputError(f"{self._path} has a row of more than {MOST >> 20} MB: a quote is not closed")
            ends, cut = self._ends[:count], int(self._ends[:count][-1])
            text, self._buffer = self._buffer[:cut], self._buffer[cut:]
            self._ends = self._ends[count:] - cut
            lengths = np.diff(ends, prepend=0)
            starts = ends - lengths
            short = np.flatnonzero(lengths <= 2).tolist()
            if blank := [i for i in short if text[starts[i] : ends[i]] in (b"\n", b"\r\n")]:
                keep = np.delete(np.arange(len(ends)), blank)
                text = b"".join(text[starts[i] : ends[i]] for i in keep)
                ends = np.cumsum(lengths[keep])
            if len(ends):
                return _Rows(text, ends)

    def _more(self) -> None:
        """Read a block and find the line breaks that are not inside quotes."""
        data = self._stream.read(BLOCK)
        if not data:
            self._done = True
            if self._quoted:
                raise InputError(f"{self._path} ends inside a quote: it is broken or cut off")
            if not self._buffer or (len(self._ends) and self._ends[-1] == len(self._buffer)):
                return
            data = b"\n"  # the last line has no line break
        values = np.frombuffer(data, np.uint8)
        breaks = np.flatnonzero(values == NEWLINE)
        quotes = np.flatnonzero(values == QUOTE) if b'"' in data else np.empty(0, np.int64)
        breaks = breaks[(np.searchsorted(quotes, breaks) + self._quoted) % 2 == 0]
        self._quoted = bool((len(quotes) + self._quoted) % 2)
        self._ends = np.concatenate((self._ends, breaks + len(self._buffer) + 1))
        self._buffer += data


@contextmanager
def _records(file: File) -> Iterator[tuple[_Records, list[str]]]:
    """Open a CSV behind its header, and give the names in that."""
    with ExitStack() as stack:
        raw = stack.enter_context(file.path.open("rb"))
        packed = file.path.name.lower().endswith(".gz")
        stream: BinaryIO = stack.enter_context(gzip.open(raw)) if packed else raw  # type: ignore[assignment]
        records = _Records(file.path, stream, raw)
        head = records.take(1)
        try:
            names = next(csv.reader([head.text.decode("utf-8-sig")] if head else []), [])
        except (UnicodeDecodeError, csv.Error):
            raise InputError(f"{file.path} has no readable header: save it as CSV in UTF-8") from None
        yield records, names


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the many ways in which a file cannot be read into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or "it is broken or cut off"
    except (EOFError, zlib.error, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        reason = "it is broken or cut off"
    else:
        return
    raise InputError(f"{path} cannot be read: {reason}")


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _height(lazy: pl.LazyFrame) -> int:
    return int(lazy.select(pl.len()).collect().item())
