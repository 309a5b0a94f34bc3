"""Compressed files, unpacked block by block, and the limit that a decompression bomb meets."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import IO, Any

from ...errors import ProjectError
from ...settings import Settings
from ..sources import CHANGED, InputError, Limit

ENDS = (".gz", ".bz2", ".xz", ".zst")
STEP = 512  # bytes of zstd or xz unpacked at once: of a bomb they make 16 MB
MEMORY = 128 << 20  # bytes that unpacking may take: the limit of zstd; files of `xz -9` take half
MAGIC = {
    b"PK\x03\x04": "a workbook or a zip",
    b"PAR1": "Parquet",
    b"\xd0\xcf\x11\xe0": "an old or protected workbook",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"SQLite format 3": "a SQLite database",
    b"%PDF": "a PDF",
}


def bare(name: str) -> str:
    """Return a file's name in small letters without the ending of its compression."""
    name = name.lower()
    return next((name.removesuffix(end) for end in ENDS if name.endswith(end)), name)


def blocks(path: Path, size: int, settings: Settings) -> Iterator[bytes]:
    """Read a file, unpacked as its name says, at most ``size`` bytes at once.

    Raises:
        InputError: it is broken, unpacks to suspiciously much, or is something else than its name says.
    """
    before = path.stat().st_size
    limit, total = Limit(path, settings.pipeline.unpack_ratio), 0
    with path.open("rb") as raw, closing(_unpacked(path, raw)) as stream:
        while data := _read(path, stream, size):
            if not total and (found := next((MAGIC[start] for start in MAGIC if data.startswith(start)), None)):
                raise InputError(f"{path} is {found} by its content: give it the ending that it should have")
            total += len(data)
            if raw.tell() > before:
                raise InputError(f"{path} {CHANGED}")
            if stream is not raw:
                limit.check(total)
            yield data


def _read(path: Path, stream: Any, size: int) -> bytes:
    try:
        return bytes(stream.read(size))
    except (EOFError, zlib.error):
        raise InputError(f"{path} cannot be read: it is broken or cut off") from None
    except MemoryError:
        most = f"{MEMORY >> 20} MB"
        raise InputError(f"{path} takes more than {most} to unpack: pack it with a smaller dictionary") from None
    except OSError as error:
        if error.errno:
            raise
        kind = path.suffix.removeprefix(".").lower()
        raise InputError(
            f"{path} is not {kind} by its content, or is broken: give it the ending that it should have"
        ) from None


def _unpacked(path: Path, raw: IO[bytes]) -> Any:
    end = path.suffix.lower()
    if end == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if end == ".bz2":
        return bz2.BZ2File(raw)
    if end == ".xz":
        return _Frames(raw, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, MEMORY), lzma.LZMAError)
    if end == ".zst":
        try:
            import zstandard
        except ImportError:
            raise ProjectError(f"{path} needs zstandard: install the extra `files`") from None
        return _Frames(raw, lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)
    return raw


class _Frames:
    """Unpack frame by frame, with bounded memory; the readers of the libraries take what is cut off for a whole file.

    Args:
        raw: the packed file.
        begin: makes what unpacks one frame.
        broken: what it raises.
    """

    def __init__(self, raw: IO[bytes], begin: Callable[[], Any], broken: type[Exception]) -> None:
        self._raw, self._begin, self._broken = raw, begin, broken
        self._frame: Any = None
        self._rest = b""
        self._padded = False  # whether a frame has ended: zeros behind it are padding

    def read(self, size: int) -> bytes:
        """Return about ``size`` bytes; little is unpacked at once, because little may be much."""
        made = bytearray()
        while len(made) < size and (data := self._rest or self._raw.read(STEP)):
            if self._padded and self._frame is None and not (data := data.lstrip(b"\0")):
                self._rest = b""
                continue
            self._frame = self._frame or self._begin()
            try:
                made += self._frame.decompress(data)
            except self._broken as error:
                raise (MemoryError if "memory" in str(error).lower() else EOFError) from error
            self._padded, self._rest = self._frame.eof, b""
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        if not made and self._frame:
            raise EOFError
        return bytes(made)

    def close(self) -> None:
        """Nothing to close: the file is its opener's."""
