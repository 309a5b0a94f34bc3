"""A signature is a JSON Schema that can be edited as a file, and says what it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from project.errors import ProjectError
from project.signature import Column, Signature
from project.validation import row_type

names = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable() and not set(text) & set('"\\'))
columns = st.one_of(
    st.builds(
        Column,
        name=names,
        type=st.sampled_from(("number", "integer")),
        nullable=st.booleans(),
        minimum=st.none() | st.integers(-100, 0),
        maximum=st.none() | st.integers(0, 100),
        observed=st.none() | st.just((1.0, 2.0)),
        unit=st.sampled_from(("", "km/h")),
    ),
    st.builds(
        Column,
        name=names,
        type=st.just("string"),
        nullable=st.booleans(),
        categories=st.lists(st.sampled_from(("a", "b", "é")), unique=True).map(tuple),
    ),
    st.builds(Column, name=names, type=st.sampled_from(("boolean", "datetime")), nullable=st.booleans()),
)
signatures = st.builds(
    Signature,
    title=st.text(max_size=20),
    task=st.just("regression"),
    target=st.none() | names,
    inputs=st.lists(columns, min_size=1, max_size=8, unique_by=lambda column: column.name).map(tuple),
    outputs=st.just((Column("prediction", "number"),)),
)


@given(signatures)
def test_json_and_back_is_the_same(signature: Signature) -> None:
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


@given(signatures)
def test_it_is_a_json_schema_that_accepts_its_own_example(signature: Signature) -> None:
    schema = signature.to_json()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema["properties"]["input"]).validate(signature.example_row())


@given(signatures)
def test_its_example_is_a_row_that_the_service_takes(signature: Signature) -> None:
    msgspec.json.decode(msgspec.json.encode(signature.example_row()), type=row_type(signature))


def _schema(**change: Any) -> dict[str, Any]:
    document = Signature("t", "regression", None, (Column("a", "number"),), (Column("prediction", "number"),)).to_json()
    return document | change


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "it lacks 'properties'"),
        (
            _schema(properties={"input": {"properties": {'a"': {"type": "number"}}}, "output": {"properties": {}}}),
            "has a quote",
        ),
        (_schema(**{"x-task": "ranking"}), "x-task must be one of"),
        (_schema(properties={"input": {"properties": {}}, "output": {"properties": {}}}), "no input column"),
        (
            _schema(properties={"input": {"properties": {"a": {"type": "array"}}}, "output": {"properties": {}}}),
            "column 'a' needs one type",
        ),
    ],
)
def test_what_is_no_signature_is_refused(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ProjectError, match=sentence):
        Signature.from_json(document)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(ProjectError, match=r"s\.json cannot be read"):
        Signature.load(tmp_path / "s.json")


def test_dictionary_has_a_line_for_every_column() -> None:
    column = Column("speed", "number", minimum=0, unit="km/h", description="How fast")
    signature = Signature("t", "regression", None, (column,), (Column("prediction", "number"),))
    first, last = signature.dictionary()
    assert first == {
        "name": "speed",
        "type": "number",
        "values": "0 to ∞",
        "missing": "no",
        "unit": "km/h",
        "description": "How fast",
        "role": "input",
    }
    assert last["role"] == "output"
