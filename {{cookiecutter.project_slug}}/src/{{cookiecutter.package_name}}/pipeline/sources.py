"""Where rows come from: CSV and Parquet files, read in chunks that are always cut at the same rows.

A kind of file is one generator of tables of any height (`_csv`, `_parquet`); `read` does the rest.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from ..errors import ProjectError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
BLOCK = 4 << 20  # bytes of CSV read at once
MOST = 64 << 20  # bytes of one row of CSV
SLAB, CELLS = 262_144, 4 << 20  # rows of Parquet decoded at once (a row group as most writers make it), and cells
BLOCKS = 16  # blocks or slabs in one chunk: very wide rows make it shorter, so that it fits into memory
QUOTE, COMMA, NEWLINE, RETURN = b'",\n\r'

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
Schema = dict[str, pl.DataType]
Tables = Iterator[tuple[pl.DataFrame, float]]  # with the share of the file that was read


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


class Chunk(NamedTuple):
    """Rows of one file."""

    number: int  # of the chunk in the run, from 0
    file: str  # name
    before: int  # rows of the input in earlier files
    first: int  # number in the file of the first row, from 1
    frame: pl.DataFrame  # columns of a CSV are text
    share: float  # of the input that was read up to here


def find(given: str | Path) -> tuple[list[Path], list[str]]:
    """List the files of an input (a file, a folder without the folders in it, a glob pattern) by their names.

    Returns:
        The files to read, and the names of those in a folder that are no CSV or Parquet.

    Raises:
        InputError: there is nothing to read.
    """
    path, kinds = Path(given), ", ".join(SUFFIXES)
    found = [path] if path.is_file() else path.iterdir() if path.is_dir() else glob.glob(str(given), recursive=True)
    files = [one.absolute() for one in sorted(map(Path, found)) if one.is_file()]
    fit = [one for one in files if one.name.lower().endswith(SUFFIXES) and not one.name.startswith(".")]
    if not fit:
        raise InputError(f"{given} is, has or matches no {kinds} file: give a file, a folder or a pattern that does")
    return fit, [one.name for one in files if one not in fit]


def identify(paths: Sequence[Path]) -> list[File]:
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


def inspect(files: Sequence[File], needed: Sequence[str]) -> Schema:
    """Return the columns of all files together; one whose type differs from file to file becomes text.

    Raises:
        InputError: a file cannot be read, has no rows, has a column twice, or lacks a needed one.
    """
    columns: Schema = {}
    for file in files:
        with _readable(file.path):
            table, _ = next(_tables(file), (pl.DataFrame(), 0.0))
        if missing := [name for name in needed if name not in table.columns]:
            raise InputError(f"{file.path} lacks the column(s) {', '.join(missing)}: the model needs them")
        if not table.height:
            raise InputError(f"{file.path} has no rows: fill it or leave it out")
        for name, dtype in table.schema.items():
            columns[name] = dtype if columns.get(name, dtype) == dtype else pl.String()
    return columns


def read(files: Sequence[File], size: int, done: Sequence[tuple[str, int]] = ()) -> Iterator[Chunk]:
    """Read the input in chunks, each of one file; memory does not grow with the input.

    Args:
        files: the input, as `inspect` accepts it.
        size: rows of a chunk; the last of a file has fewer, and so have chunks of very wide rows.
        done: file name and rows of the chunks to leave out, from the first without a gap.

    Raises:
        InputError: a file is cut off, has a broken row, or has changed since it was identified.
    """
    number, before, size_before, size_all = len(done), 0, 0, sum(file.size for file in files)
    for file in files:
        skip = [rows for name, rows in done if name == file.name]
        rows = sum(skip)
        if not skip or file.name == done[-1][0]:
            with _readable(file.path):
                for frame, share in islice(_cut(_tables(file), size), len(skip), None):
                    share = (size_before + share * file.size) / size_all
                    yield Chunk(number, file.name, before, rows + 1, frame, share)
                    number, rows = number + 1, rows + frame.height
                status = file.path.stat()
            if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
                raise InputError(f"{file.path} was changed while it was read: run again when it is complete")
        before, size_before = before + rows, size_before + file.size


def _cut(tables: Tables, size: int) -> Tables:
    blocks, share = 0, 1.0
    rest: pl.DataFrame | None = None
    for table, share in tables:
        rest = table if rest is None else pl.concat([rest, table])
        blocks += 1
        while rest.height >= size or (rest.height and blocks >= BLOCKS):
            yield rest.head(size), share
            rest, blocks = rest.slice(size), 0
    if rest is not None and rest.height:
        yield rest, share


def _tables(file: File) -> Tables:
    return _parquet(file) if file.path.name.lower().endswith(".parquet") else _csv(file)


def _parquet(file: File) -> Tables:
    lazy = pl.scan_parquet(file.path, glob=False)
    rows, columns = max(1, lazy.select(pl.len()).collect().item()), len(lazy.collect_schema())
    slab = min(SLAB, max(1, CELLS // max(1, columns)))
    for start in range(0, rows, slab):
        yield lazy.slice(start, slab).collect(), min(1.0, (start + slab) / rows)


def _csv(file: File) -> Tables:
    """Parse block by block; the first may be empty, but tells the names of the columns."""
    names, first = None, 1
    for text, lengths, fields, share in _records(file):
        if names is None:
            names = _header(file, text[: lengths[0]])
            text, fields = text[lengths[0] :], fields[1:]
        if (wrong := np.flatnonzero(fields != len(names))).size:
            raise InputError(
                f"{file.path} row {first + wrong[0]} has {fields[wrong[0]]} fields where the header has {len(names)}: "
                "it is broken or cut off, mend it or leave it out"
            )
        where = f"{file.path} between row {first} and row {first + len(fields) - 1}"
        try:
            table = pl.read_csv(text, has_header=False, schema=dict.fromkeys(names, pl.String), raise_if_empty=False)
        except pl.exceptions.PolarsError as error:
            why = "is not UTF-8: save it as UTF-8" if "utf-8" in str(error) else "is no proper CSV: mend it"
            raise InputError(f"{where} {why}") from None
        if table.height != len(fields):
            raise InputError(f"{where} has a quote out of place: mend it")
        yield table, share
        first += len(fields)


def _header(file: File, line: bytes) -> list[str]:
    try:
        names = next(csv.reader([line.decode("utf-8-sig")]))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{file.path} has no readable header: save it as CSV in UTF-8") from None
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"{file.path} has the column {twice[0]!r} twice: rename or remove one")
    return names


def _records(file: File) -> Iterator[tuple[bytes, Numbers, Numbers, float]]:
    """Cut a CSV into blocks of whole rows: at line breaks that are not inside quotes, blank lines left out.

    Yields:
        The text, the length and the number of fields of each row in it, the share of the file that was read.
    """
    with file.path.open("rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if file.path.name.lower().endswith(".gz") else raw
        rest = b""
        while (data := stream.read(BLOCK)) or rest:
            text = rest + (data or b"\n")  # the last line may have no line break
            values = np.frombuffer(text, np.uint8)
            bare = ~np.logical_xor.accumulate(values == QUOTE) if b'"' in text else np.ones(len(text), bool)
            ends = np.flatnonzero((values == NEWLINE) & bare) + 1
            cut = int(ends[-1]) if len(ends) else 0
            text, rest = text[:cut], text[cut:]
            if rest and not data:
                raise InputError(f"{file.path} ends inside a quote: it is broken or cut off")
            if len(rest) > MOST:
                raise InputError(f"{file.path} has a row of more than {MOST >> 20} MB: a quote is not closed")
            lengths = np.diff(ends, prepend=0)
            fields = np.diff(np.searchsorted(np.flatnonzero((values == COMMA) & bare), ends), prepend=0) + 1
            blank = (lengths == 1) | ((lengths == 2) & (values[ends - lengths] == RETURN))
            if blank.any():
                text = values[:cut][np.repeat(~blank, lengths)].tobytes()
                lengths, fields = lengths[~blank], fields[~blank]
            if text:
                yield text, lengths, fields, raw.tell() / file.size


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the many ways in which a file cannot be read into one sentence."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = getattr(error, "strerror", None) or "it is broken or cut off"
        raise InputError(f"{path} cannot be read: {reason}") from None
