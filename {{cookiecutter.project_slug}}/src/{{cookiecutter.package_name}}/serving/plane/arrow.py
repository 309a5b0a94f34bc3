"""Look into an Arrow stream before it is read: how many rows it says it has, and that nothing in it is packed.

Messages as in https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format, whose metadata is a
FlatBuffer (tables: https://flatbuffers.dev/internals) of Message.fbs.
"""

from __future__ import annotations

import struct

from ..answers import Refused, problem

CONTINUES = 0xFFFFFFFF
DICTIONARY, BATCH = 2, 3  # MessageHeader in Message.fbs
PACKED = problem(415, "content-encoding", "send the Arrow stream without compression of its buffers")


def rows(content: bytes) -> int:
    """Return the rows of all record batches.

    Raises:
        Refused: a batch has packed buffers, which could grow beyond any limit.
        struct.error: it is no Arrow stream, or is cut off.
    """
    place, found = 0, 0
    while place < len(content):
        mark, size = struct.unpack_from("<Ii", content, place)
        if mark != CONTINUES or size < 0:
            raise struct.error("no message")
        place += 8
        if size == 0:
            return found
        message = _Table.root(content, place)
        body = message.number(3, "<q")
        if body < 0:
            raise struct.error("no body")
        header, batch = message.number(1, "<B"), message.table(2)
        if header == DICTIONARY and batch:
            batch = batch.table(1)
        if header in (DICTIONARY, BATCH) and batch:
            if batch.field(3):
                raise Refused(PACKED)
            found += batch.number(0, "<q") if header == BATCH else 0
        place += size + body
    return found


class _Table:
    """A table of a FlatBuffer."""

    def __init__(self, content: bytes, place: int) -> None:
        self._content, self._place = content, place
        self._fields = place - int(struct.unpack_from("<i", content, place)[0])
        self._size = struct.unpack_from("<H", content, self._fields)[0]

    @classmethod
    def root(cls, content: bytes, place: int) -> _Table:
        return cls(content, place + struct.unpack_from("<I", content, place)[0])

    def field(self, number: int) -> int:
        """Return where a field stands; 0 if it has its default."""
        entry = 4 + 2 * number
        offset = struct.unpack_from("<H", self._content, self._fields + entry)[0] if entry < self._size else 0
        return self._place + offset if offset else 0

    def number(self, number: int, form: str) -> int:
        place = self.field(number)
        return int(struct.unpack_from(form, self._content, place)[0]) if place else 0

    def table(self, number: int) -> _Table | None:
        place = self.field(number)
        return _Table(self._content, place + struct.unpack_from("<I", self._content, place)[0]) if place else None
