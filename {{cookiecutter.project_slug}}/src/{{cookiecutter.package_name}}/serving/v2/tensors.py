"""Tensors of the Open Inference Protocol: one a column, to rows of a model and from its outputs.

Datatypes as in https://github.com/kserve/open-inference-protocol, bytes as in Triton's binary tensor data extension:
little-endian, row by row, and an element of BYTES after its length in four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from math import isfinite, nan
from typing import Any, NamedTuple, Protocol

from ...signature import Column, Signature
from ..answers import Answer, Refused, problem
from ..plane.forms import fitting
from ..plane.predictor import Predictor

BOOL, BYTES = "BOOL", "BYTES"
FLOATS = {"FP16": "e", "FP32": "f", "FP64": "d"}
INTEGERS = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
}
FORMS = {**FLOATS, **INTEGERS, BOOL: "?"}  # of the module struct
GIVEN = {"number": "FP64", "integer": "INT64", "boolean": BOOL}
KEPT = 16  # versions
LENGTH = struct.Struct("<I")
NO_NUMBER = "infinite"  # a text, which the signature refuses where it wants a number


class Tensor(Protocol):
    """A column of a request: ``data`` are values, in lists as the shape nests them, or bytes."""

    name: str
    datatype: str
    shape: list[int]
    data: Any


class Input(NamedTuple):
    """A column of a model."""

    column: Column
    taken: Collection[str]  # datatypes
    plain: Collection[str]  # those whose values are good as JSON gives them


class Layout:
    """What a model takes and gives.

    Attributes:
        inputs: the input columns by their names.
        outputs: the datatypes of the output columns by their names.
    """

    def __init__(self, signature: Signature) -> None:
        self.inputs = {column.name: _input(column) for column in signature.inputs}
        self.outputs = {column.name: datatype(column) for column in signature.outputs}


_layouts: dict[str, Layout] = {}


def layout(predictor: Predictor) -> Layout:
    """Return what a model takes and gives; made once a version, because that never changes."""
    found = _layouts.get(predictor.version)
    if found is None:
        if len(_layouts) >= KEPT:
            _layouts.clear()
        found = _layouts[predictor.version] = Layout(predictor.signature)
    return found


def _input(column: Column) -> Input:
    if column.numeric:
        return Input(column, {*FLOATS, *INTEGERS}, {*INTEGERS} if column.type == "integer" else {*FLOATS, *INTEGERS})
    if column.type == "boolean":
        return Input(column, {BOOL}, {BOOL})
    return Input(column, {BYTES}, set() if column.nullable else {BYTES})


def datatype(column: Column) -> str:
    """Return the datatype that says most exactly what a column holds."""
    return GIVEN.get(column.type, BYTES)


def described(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """Return the metadata of columns; the parameters say what a datatype cannot: the type, and how to leave out."""
    missing = {"FP64": "null or NaN", "INT64": "null, or NaN in a tensor of floats", BOOL: "null"}
    return [
        {
            "name": column.name,
            "datatype": (kind := datatype(column)),
            "shape": [-1],
            "parameters": {
                "type": column.type,
                "missing": missing.get(kind, "null or an empty element") if column.nullable else "refused",
            },
        }
        for column in columns
    ]


def rows(predictor: Predictor, tensors: Iterable[Tensor], most: int) -> Sequence[Any]:
    """Make rows of the predictor's own class out of tensors.

    Numbers may be of any width. Missing is what `described` says; a column that may be missing can be left out.

    Args:
        predictor: of the version that is asked.
        tensors: one a column, each of the shape ``[rows]`` or ``[rows, 1]``.
        most: rows at most.

    Raises:
        Refused: the tensors are none, or do not fit the signature.
    """
    inputs = layout(predictor).inputs
    columns: dict[str, list[Any]] = {}
    count, usual = 0, None
    for tensor in tensors:
        name, shape, data = tensor.name, tensor.shape, tensor.data
        known = inputs.get(name)
        if known is None:
            raise Refused(_wrong("the model has no input of a name that was given: its metadata lists them"))
        if name in columns:
            raise Refused(_wrong(f"{name} is given twice: give each input once"))
        if shape != usual:
            size, usual = _size(tensor, most), shape
            if columns and size != count:
                raise Refused(_wrong(f"{name} has another number of rows than the inputs before it"))
            count = size
        plain = type(data) is list and len(data) == count and type(data[0]) is not list
        if not plain or tensor.datatype not in known.plain:
            data = _values(known, tensor, count)
        columns[name] = data
    if not columns:
        raise Refused(_wrong("send at least one input"))
    found = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return fitting(predictor, found, most)


def check(predictor: Predictor, names: Iterable[str]) -> None:
    """Raise `Refused` if an output is asked for that the model does not have."""
    if not layout(predictor).outputs.keys() >= set(names):
        raise Refused(_wrong("the model has no output of a name that was asked for: its metadata lists them"))


def packed(kind: str, values: Sequence[Any]) -> bytes:
    """Return values of a datatype as bytes."""
    if kind == BYTES:
        texts = [str(value).encode() for value in values]
        return b"".join(part for text in texts for part in (LENGTH.pack(len(text)), text))
    if kind in FLOATS:
        values = [nan if value is None else value for value in values]
    return _form(kind, len(values)).pack(*values)


def _wrong(detail: str) -> Answer:
    return problem(422, "tensor", detail)


def _size(tensor: Tensor, most: int) -> int:
    """Return how many rows a tensor has by its shape."""
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] < 1:
        raise Refused(_wrong(f"{tensor.name} must have the shape [rows] or [rows, 1], with at least one row"))
    if shape[0] > most:
        raise Refused(problem(413, "too-many-rows", f"send at most {most} rows at a time"))
    return shape[0]


def _values(known: Input, tensor: Tensor, size: int) -> list[Any]:
    """Return the values of a column; what is missing is None."""
    kind, data = tensor.datatype, tensor.data
    if kind not in known.taken:
        raise Refused(_wrong(f"{tensor.name} must be of datatype {datatype(known.column)}"))
    if not isinstance(data, (list, bytes)):
        raise Refused(_wrong(f"{tensor.name} must have its data in the request itself, as a list or as bytes"))
    values = _unpacked(tensor, data, size) if isinstance(data, bytes) else _flat(tensor, data)
    if len(values) != size:
        raise Refused(_wrong(f"{tensor.name} has another number of elements than its shape says"))
    if kind in FLOATS and known.column.type == "integer":
        return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    if kind == BYTES and known.column.nullable:
        return [None if value == "" else value for value in values]
    return values


def _flat(tensor: Tensor, data: list[Any]) -> list[Any]:
    """Take the elements out of the lists that a shape of two dimensions may nest them in."""
    if len(tensor.shape) == 2 and data and isinstance(data[0], list):
        if not all(isinstance(one, list) for one in data):
            raise Refused(_wrong(f"{tensor.name} must nest all of its elements or none"))
        return list(chain.from_iterable(data))
    return data


def _unpacked(tensor: Tensor, content: bytes, size: int) -> list[Any]:
    if tensor.datatype == BYTES:
        return texts(tensor.name, _elements(tensor, content))
    form = _form(tensor.datatype, size)
    if len(content) != form.size:
        raise Refused(_wrong(f"{tensor.name} has another number of bytes than its shape and datatype say"))
    values = list(form.unpack(content))
    return finite(values) if tensor.datatype in FLOATS else values


@lru_cache(256)
def _form(kind: str, size: int) -> struct.Struct:
    return struct.Struct(f"<{size}{FORMS[kind]}")


def finite(values: list[Any]) -> list[Any]:
    """Return floats with None for NaN, and with what the signature refuses for the infinite."""
    if all(map(isfinite, values)):
        return values
    return [value if isfinite(value) else None if value != value else NO_NUMBER for value in values]


def texts(name: str, values: Iterable[bytes]) -> list[Any]:
    """Return elements of the datatype BYTES as texts; raises `Refused` if one is none."""
    found: list[Any] = []
    try:
        found.extend(value.decode() for value in values)
    except UnicodeDecodeError:
        raise Refused(_wrong(f"row {len(found)}: {name} must be text in UTF-8")) from None
    return found


def _elements(tensor: Tensor, content: bytes) -> list[bytes]:
    elements, place, end = [], 0, len(content)
    while place < end:
        start = place + LENGTH.size
        place = start + (LENGTH.unpack_from(content, place)[0] if start <= end else 0)
        if place > end:
            raise Refused(_wrong(f"{tensor.name} is cut off within an element"))
        elements.append(content[start:place])
    return elements
