"""Where rows come from: CSV and Parquet files, in chunks that are always cut at the same rows.

`plan` cuts an input into chunks, which is cheap; `load` reads one of them alone, wherever it is called.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import polars as pl

from ..errors import ProjectError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
SPOOLED = ".spooled.parquet"  # what is behind the name of a file that was made into one of these
MARK = b"PAR1"  # what a Parquet file begins with
BLOCK = 4 << 20  # bytes of CSV read at once
MOST = 64 << 20  # bytes of one row of CSV
FREE = 64 << 20  # bytes that any compressed file may unpack to
SLAB, CELLS = 262_144, 4 << 20  # rows of Parquet decoded at once (a row group as most writers make it), and cells
BLOCKS = 16  # blocks or slabs in one chunk: very wide rows make it shorter, so that it fits into memory
CHANGED = "was changed while it was read: run again when it is complete"
QUOTE, COMMA, NEWLINE, RETURN = b'",\n\r'

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]
Schema = dict[str, pl.DataType]
Span = tuple[tuple[str, ...], int, int, int, int]  # columns of a CSV, rows, first and last byte or row, bytes read


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

    @property
    def shown(self) -> str:
        """How people know it: what was spooled goes by the name that it came with."""
        return self.name if self.path.name.endswith(SPOOLED) else str(self.path)


class Chunk(NamedTuple):
    """Rows of one file, and all that it takes to read them."""

    number: int  # of the chunk in the run, from 0
    file: str  # name
    before: int  # rows of the input in earlier files
    first: int  # number in the file of the first row, from 1
    rows: int
    share: float  # of the input
    path: Path  # what to read
    start: int  # byte of a CSV, row of a Parquet
    end: int
    names: tuple[str, ...]  # columns of a CSV


class Limit:
    """What a compressed file may unpack to: ``ratio`` times its size (``pipeline.unpack_ratio``), but always `FREE`."""

    def __init__(self, path: Path, ratio: float) -> None:
        self._path, self._ratio = path, ratio
        self._most = max(FREE, path.stat().st_size * ratio)

    def check(self, total: int) -> None:
        """Refuse a file that has unpacked to more.

        Raises:
            InputError: it has.
        """
        if total > self._most:
            raise InputError(
                f"{self._path} unpacks to more than {self._ratio:g} times its size, as a decompression bomb does: "
                "if it should, raise the setting pipeline.unpack_ratio"
            )


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
        raise nothing(given, kinds)
    return fit, [one.name for one in files if one not in fit]


def nothing(given: str | Path, kinds: str) -> InputError:
    """Say why an input has no file of these kinds."""
    if not Path(given).exists() and not glob.has_magic(str(given)):
        return InputError(f"there is no file or folder {given}: correct the path")
    return InputError(f"{given} is, has or matches no {kinds} file: give a file, a folder or a pattern that does")


def identify(paths: Sequence[Path]) -> list[File]:
    """Hash the content of files; names are relative to the folder that they share."""
    base = os.path.commonpath([path.parent for path in paths])
    files = []
    for path in paths:
        with _readable(path), path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        name = Path(os.path.relpath(path, base)).as_posix().removesuffix(SPOOLED)
        files.append(File(path, name, status.st_size, status.st_mtime_ns, sha256))
    return files


def inspect(files: Sequence[File], needed: Sequence[str], ratio: float) -> Schema:
    """Return the columns of all files together; one whose type differs from file to file becomes text.

    Args:
        files: the input.
        needed: names of columns that each file must have.
        ratio: how many times its size a compressed file may unpack to.

    Raises:
        InputError: a file cannot be read, has no rows, has a column twice, lacks a needed one, or unpacks to too much.
    """
    columns: Schema = {}
    for file in files:
        schema, rows = _look(file, ratio)
        if not schema:
            raise InputError(f"{file.shown} is empty: fill it or leave it out")
        if missing := [name for name in needed if name not in schema]:
            raise InputError(f"{file.shown} lacks the column(s) {', '.join(missing)}: the model needs them")
        if not rows:
            raise InputError(f"{file.shown} has no rows: fill it or leave it out")
        for name, dtype in schema.items():
            columns[name] = dtype if columns.get(name, dtype) == dtype else pl.String()
    return columns


def plan(files: Sequence[File], size: int, spool: Path, ratio: float, done: Container[int] = ()) -> Iterator[Chunk]:
    """Cut the input into chunks, each of one file.

    Args:
        files: the input, as `inspect` accepts it.
        size: rows of a chunk; the last of a file has fewer, and so have chunks of very wide rows.
        spool: a folder for chunks that cannot be read where they are, because their file is compressed.
        ratio: how many times its size a compressed file may unpack to.
        done: numbers of chunks that nobody will read.

    Raises:
        InputError: a file is cut off, unpacks to too much, or has changed since it was identified.
    """
    number, before, size_all = 0, 0, sum(file.size for file in files)
    for file in files:
        first, earlier = 1, 0
        for packed, (names, rows, start, end, read) in _cut(file, size, ratio):
            path = file.path
            if packed:
                path = spool / f"{number:05d}.csv"
                start, end = packed.write(path if rows and number not in done else None, start, end)
            if rows:
                share, earlier = (read - earlier) / size_all, read
                yield Chunk(number, file.name, before, first, rows, share, path, start, end, names)
                number, first = number + 1, first + rows
        unchanged([file])
        before += first - 1


def unchanged(files: Sequence[File]) -> None:
    """Refuse files that are not what they were when they were identified."""
    for file in files:
        with _readable(file.path):
            status = file.path.stat()
        if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
            raise InputError(f"{file.path} {CHANGED}")


def load(chunk: Chunk) -> pl.DataFrame:
    """Read the rows of a chunk; columns of a CSV are text.

    Raises:
        InputError: a row is broken, or the file has changed since the chunk was planned.
    """
    with _readable(chunk.path):
        if chunk.names:
            frame = _table(chunk)
        else:
            frame = pl.scan_parquet(chunk.path, glob=False).slice(chunk.start, chunk.rows).collect()
    if frame.height != chunk.rows:
        raise InputError(f"{chunk.file} {CHANGED}")
    return frame


def _is(file: File, suffix: str) -> bool:
    return file.path.name.lower().endswith(suffix)


def _cut(file: File, size: int, ratio: float) -> Iterator[tuple[_Packed | None, Span]]:
    """Cut a file into spans; the first of a CSV has no rows, but tells the columns."""
    with _readable(file.path), file.path.open("rb") as raw:
        packed = _Packed(raw, Limit(file.path, ratio)) if _is(file, ".gz") else None
        for span in _rows(file, size) if _is(file, ".parquet") else _lines(file, packed or raw, size):
            yield packed, span


def _look(file: File, ratio: float) -> tuple[Schema, int]:
    """Return the columns of a file, and how many rows it has (of a CSV, whether it has any)."""
    if _is(file, ".parquet"):
        with _readable(file.path):
            if not file.size:
                return {}, 0
            with file.path.open("rb") as stream:
                if stream.read(len(MARK)) != MARK:
                    raise InputError(
                        f"{file.path} is no Parquet by its content: give it the ending that it should have"
                    )
            lazy = pl.scan_parquet(file.path, glob=False)
            return dict(lazy.collect_schema()), lazy.select(pl.len()).collect().item()
    spans = [span for _, span in islice(_cut(file, 1, ratio), 2)]
    return dict.fromkeys(spans[0][0] if spans else (), pl.String()), len(spans) - 1


def _rows(file: File, size: int) -> Iterator[Span]:
    schema, rows = _look(file, 1)
    size = min(size, BLOCKS * min(SLAB, max(1, CELLS // max(1, len(schema)))))
    for start in range(0, rows, size):
        end = min(start + size, rows)
        yield (), end - start, start, end, file.size * end // rows


def _lines(file: File, stream: BinaryIO | _Packed, size: int) -> Iterator[Span]:
    names: tuple[str, ...] = ()
    rows = blocks = start = end = offset = 0
    for text, ends, blank in _blocks(file.path, stream):
        lines, offset = ends[~blank] + offset, offset + len(text)
        if not len(lines):
            continue
        if not names:
            names, start, lines = _header(file, text[: lines[0]].lstrip(b"\r\n")), int(lines[0]), lines[1:]
            yield names, 0, 0, start, 0
        blocks += 1
        while rows + len(lines) >= size or (rows + len(lines) and blocks >= BLOCKS):
            take = min(size - rows, len(lines))
            end = int(lines[take - 1]) if take else end
            yield names, rows + take, start, end, stream.tell()
            start, lines, rows, blocks = end, lines[take:], 0, 0
        rows, end = rows + len(lines), int(lines[-1]) if len(lines) else end
    if rows:
        yield names, rows, start, end, stream.tell()


def _blocks(path: Path, stream: BinaryIO | _Packed) -> Iterator[tuple[bytes, Numbers, Flags]]:
    """Cut a CSV into blocks of whole lines: at line breaks that are not inside quotes.

    Yields:
        The text, the place behind each line in it, and whether a line is blank.
    """
    rest = b""
    while (data := stream.read(BLOCK)) or rest:
        text = rest + (data or b"\n")  # the last line may have no line break
        values = np.frombuffer(text, np.uint8)
        ends = _bare(text, values, NEWLINE) + 1
        cut = int(ends[-1]) if len(ends) else 0
        rest = text[cut:]
        if rest and not data:
            raise InputError(f"{path} ends inside a quote: it is broken or cut off")
        if len(rest) > MOST:
            raise InputError(f"{path} has a row of more than {MOST >> 20} MB: a quote is not closed")
        if cut:
            lengths = np.diff(ends, prepend=0)
            blank = (lengths == 1) | ((lengths == 2) & (values[ends - lengths] == RETURN))
            yield text[:cut], ends, blank


def _bare(text: bytes, values: Bytes, wanted: int) -> Numbers:
    """Return the places of a character outside quotes: those with an even number of quotes before them."""
    places = np.flatnonzero(values == wanted)
    if b'"' in text:
        places = places[np.searchsorted(np.flatnonzero(values == QUOTE), places) % 2 == 0]
    return places


def _table(chunk: Chunk) -> pl.DataFrame:
    """Parse the text of a chunk, block by block."""
    with chunk.path.open("rb") as stream:
        stream.seek(chunk.start)
        content = stream.read(chunk.end - chunk.start)
    first, tables = chunk.first, []
    for text, ends, blank in _blocks(chunk.path, io.BytesIO(content)):
        if not blank.all():
            tables.append(_parse(chunk, first, text, ends, blank))
            first += tables[-1].height
    return pl.concat(tables) if tables else pl.DataFrame()


def _parse(chunk: Chunk, first: int, text: bytes, ends: Numbers, blank: Flags) -> pl.DataFrame:
    values = np.frombuffer(text, np.uint8)
    fields = np.diff(np.searchsorted(_bare(text, values, COMMA), ends), prepend=0)[~blank] + 1
    if (wrong := np.flatnonzero(fields != len(chunk.names))).size:
        raise InputError(
            f"{chunk.file} row {first + wrong[0]} has {fields[wrong[0]]} fields where the header has "
            f"{len(chunk.names)}: it is broken or cut off, mend it or leave it out"
        )
    if blank.any():
        text = values[np.repeat(~blank, np.diff(ends, prepend=0))].tobytes()
    where = f"{chunk.file} between row {first} and row {first + len(fields) - 1}"
    try:
        table = pl.read_csv(text, has_header=False, schema=dict.fromkeys(chunk.names, pl.String()))
    except pl.exceptions.PolarsError as error:
        why = "is not UTF-8: save it as UTF-8" if "utf-8" in str(error) else "is no proper CSV: mend it"
        raise InputError(f"{where} {why}") from None
    if table.height != len(fields):
        raise InputError(f"{where} has a quote out of place: mend it")
    return table


def _header(file: File, line: bytes) -> tuple[str, ...]:
    try:
        names = next(csv.reader([line.decode("utf-8-sig")]))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{file.path} has no readable header: save it as CSV in UTF-8") from None
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"{file.path} has the column {twice[0]!r} twice: rename or remove one")
    return tuple(names)


class _Packed:
    """A compressed file, read once from its beginning; what was read stays until it is written as a chunk."""

    def __init__(self, raw: BinaryIO, limit: Limit) -> None:
        self._stream, self._kept, self._gone, self._limit = gzip.GzipFile(fileobj=raw), bytearray(), 0, limit
        self.tell = raw.tell

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._kept += data
        self._limit.check(self._gone + len(self._kept))
        return data

    def write(self, path: Path | None, start: int, end: int) -> tuple[int, int]:
        """Write bytes into a file of their own, or skip them; return where they are in it."""
        if path:
            path.write_bytes(memoryview(self._kept)[start - self._gone : end - self._gone])
        del self._kept[: end - self._gone]
        self._gone = end
        return 0, end - start  # one more than it has if the last line has no line break


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the many ways in which a file cannot be read into one sentence."""
    try:
        yield
    except gzip.BadGzipFile:
        raise InputError(
            f"{path} is not gzip by its content, or is broken: give it the ending that it should have"
        ) from None
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = getattr(error, "strerror", None) or "it is broken or cut off"
        raise InputError(f"{path} cannot be read: {reason}") from None
