"""Bodies of any length: received within limits of size and time, unpacked, the large ones in a temporary file."""

from __future__ import annotations

import asyncio
import tempfile
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, BinaryIO, Protocol

from ..settings import Serving
from .answers import Answer, Refused, problem

MEMORY = 1_000_000  # bytes of an upload that are kept in memory
UPLOAD_TIMES = 10  # times as long as another body

CORRUPT = problem(
    400, "content-encoding", "the body cannot be unpacked: it is cut off or not what Content-Encoding says"
)
LATE = problem(408, "timeout", "the body did not arrive in time: send it faster, or fewer rows at a time")


class Unpack(Protocol):
    """Unpacks a body piece by piece."""

    def __call__(self, piece: bytes, most: int, last: bool) -> bytes:
        """Return what a piece holds, at most ``most`` bytes and one more; raises `Refused` if it is corrupt."""


async def received(
    receive: Callable[[], Awaitable[Any]], headers: Mapping[bytes, bytes], settings: Serving, upload: bool
) -> tuple[bytes | None, BinaryIO | None]:
    """Receive a body.

    Args:
        receive: of ASGI.
        headers: of the request.
        settings: its limits.
        upload: whether it may be larger than ``max_body_mb``.

    Returns:
        The body, or None if the caller left; and the file that has it, if it is larger.

    Raises:
        Refused: it is too large, too late, or cannot be unpacked.
    """
    small = int(settings.max_body_mb * 1e6)
    most = int(settings.max_upload_mb * 1e6) if upload else small
    unpack = _unpack(headers.get(b"content-encoding", b"identity").strip().lower())
    if int(headers.get(b"content-length", 0)) > most:
        raise Refused(_too_large(most))
    file: Any = tempfile.SpooledTemporaryFile(MEMORY)  # noqa: SIM115 - it goes when the request does
    size, more = 0, True
    try:
        async with asyncio.timeout(settings.body_seconds * (UPLOAD_TIMES if upload else 1)):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None, None
                more = message.get("more_body", False)
                piece = unpack(message.get("body", b""), most - size, not more)
                size += len(piece)
                if size > most:
                    raise Refused(_too_large(most))
                if size > MEMORY:
                    await asyncio.to_thread(file.write, piece)
                else:
                    file.write(piece)
    except TimeoutError:
        raise Refused(LATE) from None
    file.seek(0)
    return (file.read(), None) if size <= small else (b"", file)


def _too_large(most: int) -> Answer:
    detail = f"the body is larger than {most / 1e6:g} MB: send fewer rows at a time"
    return problem(413, "too-large", detail)


def _unpack(coding: bytes) -> Unpack:
    """Return what unpacks a body of a coding, never by more than asked for."""
    if coding in (b"identity", b""):
        return lambda piece, most, last: piece
    if coding in (b"gzip", b"x-gzip"):
        return _Zlib(16 + zlib.MAX_WBITS)
    if coding == b"deflate":
        return _Zlib(zlib.MAX_WBITS)
    if coding == b"zstd":
        try:
            return _Zstd()
        except ImportError:
            pass
    raise Refused(problem(415, "content-encoding", "send the body as it is, or packed by gzip, deflate or zstd"))


class _Zlib:
    def __init__(self, bits: int) -> None:
        self._unpacker = zlib.decompressobj(bits)

    def __call__(self, piece: bytes, most: int, last: bool) -> bytes:
        try:
            found = self._unpacker.decompress(piece, most + 1)
        except zlib.error:
            raise Refused(CORRUPT) from None
        if self._unpacker.unused_data or (last and not self._unpacker.eof and len(found) <= most):
            raise Refused(CORRUPT)
        return found


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()

    def __call__(self, piece: bytes, most: int, last: bool) -> bytes:
        found = []
        try:
            for start in range(0, len(piece), 1024):  # each unpacks to so much at most
                found.append(self._unpacker.decompress(piece[start : start + 1024]))
                if sum(map(len, found)) > most:
                    break
        except self._error:
            raise Refused(CORRUPT) from None
        if last and not self._unpacker.eof and sum(map(len, found)) <= most:
            raise Refused(CORRUPT)
        return b"".join(found)
