"""Bodies of any length: received within limits of size and time, unpacked, the large ones in a temporary file.

And JSON out of a body: what cannot be read is refused with the kind of fault and its place, and no name may be given
twice in an object, of which decoders let the last one count.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from math import isinf
from typing import Any, BinaryIO, Protocol

import msgspec

from ..settings import Serving
from ..validation import TWICE, Problem, marks, printable
from .answers import Answer, Refused, problem

MEMORY = 1_000_000  # bytes of an upload that are kept in memory
UPLOAD_TIMES = 10  # times as long as another body

CORRUPT = problem(
    400, "content-encoding", "the body cannot be unpacked: it is cut off or not what Content-Encoding says"
)
LATE = problem(408, "timeout", "the body did not arrive in time: send it faster, or fewer rows at a time")

MALFORMED = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)
DEEPEST = 100  # lists and objects within each other, in what is refused because of them
SCANNED = 1_000_000  # bytes in which a fault is looked for that the decoder gives no place of
TEXT = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
TOKEN = re.compile(TEXT + rb"?|[\[\]{}]|-?(?:NaN|Infinity)|-?[0-9][0-9.eE+-]*", re.DOTALL)
WHOLE = re.compile(TEXT, re.DOTALL)

encode = msgspec.json.encode


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


def parse(body: bytes) -> Any:
    """Return the value of a JSON body, or refuse what is none."""
    try:
        return msgspec.json.decode(body)
    except MALFORMED as error:
        raise Refused(unreadable(body, error)) from None


def unreadable(body: bytes, error: Exception, known: bytes = b"") -> Answer:
    """Answer why and where a body is no JSON; ``known`` is a word that may stand in it nevertheless."""
    if not body.strip():
        return problem(400, "malformed", "the body is empty: send JSON")
    place, why = _fault(body, known)
    if not why:
        place, why = _told(body, error)
    return problem(400, "malformed", f"the body is no JSON that can be read, from byte {place} on: {why}")


def _fault(body: bytes, known: bytes) -> tuple[int, str]:
    """Return the place of the first fault of a kind that can be named, and what it is; no words if there is none."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start, "it is not UTF-8"
    if body.startswith(b"\xef\xbb\xbf"):
        return 0, "it begins with a byte order mark: leave that out"
    depth = 0
    for token in TOKEN.finditer(body, 0, SCANNED):
        text, why = token[0], ""
        if text in b"[{":
            depth += 1
            why = "lists and objects are nested too deep" if depth > DEEPEST else ""
        elif text in b"]}":
            depth -= 1
        elif text.startswith(b'"'):
            why = _fault_of_text(text) if token.end() < SCANNED else ""
        elif text[-1:].isalpha():
            why = "" if text == known else "NaN and Infinity are no numbers: send null for what is missing"
        else:
            why = _fault_of_number(text)
        if why:
            return token.start(), why
    place = body.find(b"\0")
    return (place, "it has a NUL") if place >= 0 else (0, "")


def _told(body: bytes, error: Exception) -> tuple[int, str]:
    """Return the place of a fault, and what it is, as far as a decoder says so."""
    named, place = re.search(r"\(byte (\d+)\)", str(error)), len(body)
    if named:
        place = int(named[1])
    elif isinstance(error, json.JSONDecodeError):
        place = len(error.doc[: error.pos].encode())
    elif "truncated" not in str(error):  # the decoder gives no place for these
        return SCANNED, "it has a number that is too large, or lists and objects that are nested too deep"
    if place >= len(body):
        return len(body), "it ends before it is complete: send all of it"
    return place, "what stands here is no JSON: look for a quote, a comma or a bracket too many or too few"


def _fault_of_text(text: bytes) -> str:
    if re.search(rb"[\x00-\x1f]", text):
        return "a text has a control character: write NUL as \\u0000, the end of a line as \\n"
    if not WHOLE.fullmatch(text):
        return "the text that begins here has no end: send all of it"
    try:
        if b"\\" in text:
            json.loads(text).encode()
    except UnicodeEncodeError:
        return "a text has one half of a surrogate pair without the other"
    except ValueError:
        return "a text has a backslash before what cannot be escaped"
    return ""


def _fault_of_number(text: bytes) -> str:
    try:
        return "the number is larger than any that can be computed with" if isinf(float(text)) else ""
    except ValueError:
        return ""


def around(value: Any) -> int:
    """Return how many quotation marks stand around the names and texts of a value, which gives no name twice."""
    written = encode(value)
    return marks(written) - written.count(b'\\"')


def doubtful(body: bytes, value: Any) -> bool:
    """Say whether a name may be given twice in a body that was decoded to a value: it has other quotation marks."""
    return marks(body) != around(value)


def once(body: bytes, items: str = "row") -> None:
    """Refuse a body, looking closely, in which a name is given twice in an object; ``items`` is what its list has."""
    if found := repeated(body):
        place, name = found[0]
        where = "" if place is None else f"{items} {place}: "
        raise Refused(problem(422, "signature", f"{where}{printable(name)} {TWICE}", twice(found)))


def twice(found: list[tuple[int | None, str]]) -> list[Problem]:
    """Return what `repeated` found as problems."""
    return [Problem(place or 0, printable(name), "twice", TWICE) for place, name in found]


class _Repeated(dict[str, Any]):
    names: tuple[str, ...] = ()


def repeated(body: bytes) -> list[tuple[int | None, str]]:
    """Look closely for names that are given twice in an object of a body that was decoded.

    Returns:
        Each with its place in the outermost list, or None if it is in none.
    """
    names = list[str]()

    def paired(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            made = _Repeated(made)
            made.names = tuple(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            names.extend(made.names)
        return made

    try:
        value = json.loads(body.decode(), object_pairs_hook=paired)
        return list(_repeated(value, None)) if names else []
    except MALFORMED as error:  # it is deeper than this decoder goes
        raise Refused(unreadable(body, error)) from None


def _repeated(value: Any, place: int | None) -> Iterator[tuple[int | None, str]]:
    if isinstance(value, _Repeated):
        yield from ((place, name) for name in value.names)
    if isinstance(value, dict):
        for one in value.values():
            yield from _repeated(one, place)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _repeated(one, number if place is None else place)
