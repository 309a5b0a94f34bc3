from __future__ import annotations

import gzip
import json
import random
import zlib
from collections import Counter
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from project.serving.answers import Call, Refused
from project.serving.plane import asked
from project.settings import Settings
from project.signature import Column, Signature
from project.validation import Marks, explain, row_type, typed

PATH = "/v1/predict"


def test_packed_bodies(client: httpx.Client, row: dict[str, Any], needs_extra: Any) -> None:
    body = json.dumps({"row": row}).encode()
    packed = {"gzip": gzip.compress(body), "deflate": zlib.compress(body)}
    packed["zstd"] = needs_extra("zstandard").ZstdCompressor().compress(body)
    for coding, content in packed.items():
        for sent in (content, (content[place : place + 5] for place in range(0, len(content), 5))):
            answer = client.post(PATH, content=sent, headers={"Content-Encoding": coding})
            assert answer.status_code == 200, (coding, answer.text)


def test_an_unknown_packing(client: httpx.Client) -> None:
    answer = client.post(PATH, content=b"x", headers={"Content-Encoding": "br"})
    assert (answer.status_code, answer.json()["code"]) == (415, "content-encoding")
    assert "gzip" in answer.json()["detail"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_what_is_not_packed_as_it_says(
    client: httpx.Client, row: dict[str, Any], coding: str, needs_extra: Any
) -> None:
    body = json.dumps({"row": row}).encode()
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding)
    whole = pack(body) if pack else needs_extra("zstandard").ZstdCompressor().compress(body)
    for content in (body, whole[:-6], b"", whole[:20] + b"\xff\xff" + whole[22:]):
        answer = client.post(PATH, content=content, headers={"Content-Encoding": coding})
        assert (answer.status_code, answer.json()["code"]) in ((400, "content-encoding"), (400, "malformed")), content
    assert client.post(PATH, json={"row": row}).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_bomb_is_refused_before_it_goes_off(champion: Settings, serving: Any, coding: str, needs_extra: Any) -> None:
    body = b" " * 300_000_000
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding)
    bomb = pack(body) if pack else needs_extra("zstandard").ZstdCompressor().compress(body)
    small = champion.serving.model_copy(update={"max_body_mb": 1})
    with serving(champion.model_copy(update={"serving": small})) as client:
        answer = client.post(PATH, content=bomb, headers={"Content-Encoding": coding})
        assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


Pairs = list[tuple[str, Any]]
SIGNATURE = Signature(
    "t",
    "regression",
    None,
    (
        Column("number", "number"),
        Column("flag", "boolean"),
        Column("colour", "string", categories=("red", "blue")),
        Column("at", "datetime"),
        Column("level", "integer", nullable=True),
        Column("note", "string", nullable=True),
    ),
    (Column("prediction", "number"),),
)
GOOD: dict[str, Any] = {"number": 1.5, "flag": True, "colour": "red", "at": "2026-01-31T08:00:00Z"}
TEXTS = st.one_of(st.text(st.sampled_from('":,\\{}[]anote null'), max_size=12), st.text(max_size=4), st.none())
MORE = st.one_of(
    st.tuples(st.just("note"), TEXTS),
    st.tuples(st.just("level"), st.one_of(st.none(), st.integers(0, 3), st.just(2.0), st.just("x"))),
    st.sampled_from([*GOOD.items(), ("number", None), ("foreign", 'x"')]),
)
ORDERS = st.randoms(use_true_random=False)
ROWS = st.builds(
    lambda more, gone, order: sorted(
        [one for one in [*GOOD.items(), *more] if one != gone], key=lambda _: order.random()
    ),
    st.lists(MORE, max_size=4),
    st.sampled_from([None, None, None, *GOOD.items()]),
    ORDERS,
)


def escaped(text: str, share: int, numbers: random.Random) -> str:
    """Return a text in JSON, some of its characters by their numbers, as any of them may be."""
    by_number = [ord(one) < 0x10000 and numbers.randrange(10) < share for one in text]
    parts = (f"\\u{ord(one):04x}" if odd else json.dumps(one)[1:-1] for one, odd in zip(text, by_number, strict=True))
    return '"' + "".join(parts) + '"'


def written(rows: list[Pairs], single: bool, share: int, numbers: random.Random) -> bytes:
    def value(one: Any) -> str:
        return escaped(one, share, numbers) if isinstance(one, str) else json.dumps(one)

    fields = [[f"{escaped(key, share, numbers)}: {value(one)}" for key, one in row] for row in rows]
    objects = ["{" + ", ".join(row) + "}" for row in fields]
    named = '"row": ' + objects[0] if single else '"rows": [' + ", ".join(objects) + "]"
    return ("{" + named + "}").encode()


def decoded(content: bytes, each: bool = False) -> tuple[list[Any], list[tuple[int, str, str]]]:
    """Return the rows that a body is read as, and what is wrong with it: row, field, rule."""
    row = row_type(SIGNATURE)
    rows: Any = list[row]  # type: ignore[valid-type]
    fields = [("row", row | msgspec.UnsetType, msgspec.UNSET), ("rows", rows | msgspec.UnsetType, msgspec.UNSET)]
    body: Any = msgspec.defstruct("Body", fields, forbid_unknown_fields=True)
    decode = msgspec.json.Decoder(body).decode
    model: Any = SimpleNamespace(signature=SIGNATURE, row=row, decode=decode, marks=Marks(SIGNATURE))
    try:
        return list(asked.Asked(Call("POST", content, {}, b"", 0.0), 100, each).rows(model)), []
    except Refused as refusal:
        errors = json.loads(refusal.args[0].body)["errors"]
        return [], [(one["row"], one["field"], one["rule"]) for one in errors]


@hypothesis(deadline=None, max_examples=600, derandomize=True)
@given(st.lists(ROWS, min_size=1, max_size=3), st.booleans(), st.sampled_from([0, 0, 3]), ORDERS)
def test_a_name_given_twice_is_found_however_it_is_written(
    rows: list[Pairs], single: bool, share: int, numbers: random.Random
) -> None:
    rows = rows[:1] if single else rows
    content = written(rows, single, share, numbers)
    expected = []
    for place, row in enumerate(rows):
        expected += [(place, name, "twice") for name, count in Counter(name for name, _ in row).items() if count > 1]
        expected += [(one.row, one.column, one.rule) for one in explain(SIGNATURE, dict(row), place)]
    found, errors = decoded(content)
    assert sorted(errors) == sorted(expected)
    kind = row_type(SIGNATURE)
    quick = [] if expected else [typed(SIGNATURE, dict(row), kind) for row in rows]
    assert [msgspec.json.encode(one) for one in found] == [msgspec.json.encode(one) for one in quick]


def test_rows_as_most_programs_write_them_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The close look at names costs many times as much as the decoder."""
    monkeypatch.setattr(asked, "repeated", None)
    rows = [GOOD, GOOD | {"note": None}, GOOD | {"note": "a: b", "level": 3}, GOOD | {"level": None, "note": ""}] * 300
    for body in ({"row": GOOD}, {"rows": rows}, {"row": rows[2]}):
        assert not decoded(json.dumps(body).encode())[1]
    with pytest.raises(TypeError):
        decoded(json.dumps({"row": GOOD}).replace('"flag"', '"number": 1, "flag"').encode())


def test_a_row_with_a_name_twice_leaves_the_others_alone() -> None:
    content = written([list(GOOD.items()), [*GOOD.items(), ("flag", True)]], False, 0, random.Random(1))
    assert len(decoded(content, each=True)[0]) == 1
    assert decoded(content.replace(b'{"rows"', b'{"rows": [], "rows"'), each=True)[1] == [
        (0, "rows", "twice"),
        (1, "flag", "twice"),
    ]


def test_tensors_as_most_programs_write_them_are_looked_at_once() -> None:
    v2 = pytest.importorskip("project.serving.routes.v2")
    texts = {"name": "a", "shape": [2], "datatype": "BYTES", "data": ["b: c", ""]}
    numbers = {"name": "b", "shape": [2], "datatype": "FP64", "data": [1.5, None]}
    packed = {"name": "c", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": 16}}
    more = {"id": "7", "parameters": {"binary_data_output": True}, "outputs": [{"name": "prediction"}]}
    for inputs, rest in (([texts, numbers], {}), ([numbers, packed, texts], more), ([texts], {"id": "x"})):
        body = {"inputs": inputs, **rest}
        content = json.dumps(body).encode()
        assert v2._marks(v2.decode(content)) == content.count(b'"')
