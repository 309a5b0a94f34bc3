"""A row is judged the same by the fast decoder, by the explanation, and in a table."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from project.signature import Column, Signature
from project.validation import REASONS, ROW, check_frame, explain, row_type

SIGNATURE = Signature(
    "t",
    "regression",
    None,
    (
        Column("speed", "number", minimum=0, maximum=200),
        Column("doors", "integer", nullable=True, minimum=1, maximum=5),
        Column("colour", "string", categories=("red", "blue")),
        Column("note", "string", nullable=True),
        Column("sold", "boolean"),
        Column("at", "datetime"),
    ),
    (Column("prediction", "number"),),
)
GOOD: dict[str, Any] = {"speed": 1.5, "doors": 3, "colour": "red", "sold": True, "at": "2026-01-31T08:00:00Z"}
DECODER = msgspec.json.Decoder(row_type(SIGNATURE))

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(("red", "", "2026-01-31T08:00:00Z", "2026-01-31 08:00:00+02:00", "3", "true", "2026-01-31")),
    st.lists(st.integers(), max_size=2),
)
rows = st.dictionaries(st.sampled_from([*GOOD, "note", "strange"]), values).map(lambda change: GOOD | change)


def accepted(row: dict[str, Any]) -> bool:
    try:
        DECODER.decode(json.dumps(row).encode())
    except msgspec.ValidationError:
        return False
    return True


@given(rows)
def test_decoder_and_explanation_agree(row: dict[str, Any]) -> None:
    assert accepted(row) == (explain(SIGNATURE, json.loads(json.dumps(row))) == [])


@given(
    st.lists(
        rows.filter(lambda row: "strange" not in row and not isinstance(row.get("note"), list)), min_size=1, max_size=5
    )
)
def test_a_table_of_text_agrees_where_the_texts_say_the_same(found: list[dict[str, Any]]) -> None:
    """A CSV has no types, so only the rules about missing values, limits and categories can be compared."""
    plain = [row for row in found if accepted(row)]
    frame = pl.DataFrame(
        {name: [_text(row.get(name)) for row in plain] for name in [*GOOD, "note"]},
        schema=dict.fromkeys([*GOOD, "note"], pl.String),
    )
    checked = check_frame(SIGNATURE, frame)
    assert checked.good.height == len(plain), checked.counts


def _text(value: object) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": False}, "speed must be a number"),
        ({"speed": "1"}, "speed must be a number"),
        ({"speed": -1}, "speed must be at least 0"),
        ({"doors": 2.5}, "doors must be an integer"),
        ({"doors": 2**64}, "doors must be an integer"),
        ({"colour": "green"}, "colour must be one of red, blue"),
        ({"colour": None}, "colour is missing: give one of red, blue"),
        ({"at": "tomorrow"}, "at must be a time such as 2026-01-31T08:00:00Z"),
        ({"strange\n": 1}, "strange? is not a column of the model: leave it out"),
    ],
)
def test_explanation_says_what_is_expected(change: dict[str, Any], message: str) -> None:
    assert [problem.message for problem in explain(SIGNATURE, GOOD | change)] == [message]


def test_table_is_parted_with_every_reason_and_the_source_rows() -> None:
    frame = pl.DataFrame(
        {
            "speed": ["1", "fast", "-1", "inf"],
            "doors": ["", "2.5", "9", "3"],
            "colour": ["red", "green", "", "blue"],
            "sold": ["yes", "0", "maybe", "TRUE"],
            "at": ["2026-01-31", "2026-01-31T08:00:00", "2026-02-31", "2026-01-31 08:00:00Z"],
            "extra": ["x", "y", "z", "u"],
        }
    )
    checked = check_frame(SIGNATURE, frame, first=10)
    assert checked.good[ROW].to_list() == [10]
    assert checked.good.schema["at"] == pl.Datetime("us", "UTC")
    assert checked.bad[ROW].to_list() == [11, 12, 13]
    assert checked.bad["extra"].to_list() == ["y", "z", "u"]
    assert checked.bad[REASONS].to_list() == [
        "speed must be a number; doors must be an integer; colour must be one of red, blue",
        "speed must be at least 0; doors must be at most 5; colour is missing: give one of red, blue;"
        " sold must be true or false; at must be a time such as 2026-01-31T08:00:00Z",
        "speed must be a number",
    ]
    assert checked.counts["doors: maximum"] == 1
    assert sum(checked.counts.values()) == 9


def test_the_problems_of_a_table_are_those_of_its_rows() -> None:
    wrong = [{"speed": -1, "colour": "green"}, {}, {"doors": 9, "colour": None}]
    texts = [{name: _text(value) for name, value in (GOOD | one).items()} for one in wrong]
    checked = check_frame(SIGNATURE, pl.DataFrame(texts, schema=dict.fromkeys(GOOD, pl.String)), first=0)
    expected = [found for place, one in enumerate(wrong) for found in explain(SIGNATURE, GOOD | one, place)]
    assert checked.problems(100) == expected
    assert checked.problems(2) == expected[:2]
    assert check_frame(SIGNATURE, pl.DataFrame([GOOD])).problems(100) == []


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (Column("a", "number"), "a number"),
        (Column("a", "number", minimum=0, maximum=200), "a number from 0 to 200"),
        (Column("a", "integer", minimum=-1), "an integer from -1 on"),
        (Column("a", "integer", maximum=5), "an integer up to 5"),
        (Column("a", "integer", categories=(1, 2)), "one of 1, 2"),
        (Column("a", "datetime"), "a time such as 2026-01-31T08:00:00Z"),
    ],
)
def test_what_is_missing_is_described(column: Column, words: str) -> None:
    signature = Signature("t", "regression", None, (column,), SIGNATURE.outputs)
    assert [one.message for one in explain(signature, {})] == [f"a is missing: give {words}"]


def test_typed_table_needs_no_reading_of_text() -> None:
    frame = pl.DataFrame(
        {"speed": [1, 2], "doors": [3.0, 2.5], "colour": ["red", "red"], "sold": [True, None], "at": [None, None]},
        schema_overrides={"at": pl.Datetime("ns")},
    )
    assert check_frame(SIGNATURE, frame).counts == {"doors: type": 1, "sold: missing": 1, "at: missing": 2}


def test_empty_table_gives_empty_tables() -> None:
    checked = check_frame(SIGNATURE, pl.DataFrame(schema=dict.fromkeys(GOOD, pl.String)))
    assert (checked.good.height, checked.bad.height, checked.counts) == (0, 0, {})


def test_a_model_may_have_columns_of_any_name() -> None:
    names = ("row", "reasons", "prediction_id")
    signature = Signature("t", "regression", None, tuple(Column(name, "integer") for name in names), SIGNATURE.outputs)
    checked = check_frame(signature, pl.DataFrame({"row": [7, 8], "reasons": [1, None], "prediction_id": [2, 3]}))
    assert checked.good.row(0, named=True) == {ROW: 1, "row": 7, "reasons": 1, "prediction_id": 2}
    assert checked.bad[REASONS].to_list() == ["reasons is missing: give an integer"]
