"""The contract of a model: one input row and one output row, as a JSON Schema (2020-12)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from .errors import ProjectError

ColumnType = Literal["number", "integer", "boolean", "string", "datetime"]
Task = Literal["regression", "classification"]
Scalar = str | int | float | bool

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PREDICTION = "prediction"
PROBABILITY = "probability_"


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a row.

    Attributes:
        name: as the model and its consumers know it.
        type: JSON's types, and ``datetime`` (RFC 3339; without an offset it is taken as UTC).
        nullable: a missing value is allowed; the field may then be left out.
        minimum: hard lower limit: a smaller value is refused.
        maximum: hard upper limit: a larger value is refused.
        categories: closed list of values: any other value is refused. Empty: open.
        observed: smallest and largest value in the sample. A value outside is served, and watched.
        unit: as printed beside the value, for example ``km/h``.
        description: one sentence for people.
        examples: plausible values.
    """

    name: str
    type: ColumnType
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[Scalar, ...] = ()
    observed: tuple[float, float] | None = None
    unit: str = ""
    description: str = ""
    examples: tuple[Scalar, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers (integer or not)."""
        return self.type in ("number", "integer")

    def to_schema(self) -> dict[str, Any]:
        """Return the column as a JSON Schema."""
        kind = "string" if self.type == "datetime" else self.type
        schema: dict[str, Any] = {"type": [kind, "null"] if self.nullable else kind}
        if self.type == "datetime":
            schema["format"] = "date-time"
        optional = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "enum": [*self.categories, *([None] if self.nullable else [])] if self.categories else None,
            "x-observed": list(self.observed) if self.observed else None,
            "x-unit": self.unit or None,
            "description": self.description or None,
            "examples": list(self.examples) or None,
        }
        return schema | {key: value for key, value in optional.items() if value is not None}

    @classmethod
    def from_schema(cls, name: str, schema: Mapping[str, Any]) -> Column:
        """Read a column from its JSON Schema.

        Raises:
            ProjectError: the type is missing or is none that a column can have.
        """
        types = schema.get("type", [])
        types = [types] if isinstance(types, str) else list(types)
        nullable = "null" in types
        kinds = [kind for kind in types if kind != "null"]
        if schema.get("format") == "date-time" and kinds == ["string"]:
            kinds = ["datetime"]
        if len(kinds) != 1 or kinds[0] not in get_args(ColumnType):
            raise ProjectError(
                f"signature: column {name!r} needs one type of number, integer, boolean or string"
                " (with format date-time for a time)"
            )
        observed = schema.get("x-observed")
        return cls(
            name=name,
            type=kinds[0],
            nullable=nullable,
            minimum=schema.get("minimum"),
            maximum=schema.get("maximum"),
            categories=tuple(value for value in schema.get("enum", ()) if value is not None),
            observed=(observed[0], observed[1]) if observed else None,
            unit=schema.get("x-unit", ""),
            description=schema.get("description", ""),
            examples=tuple(schema.get("examples", ())),
        )

    def values(self) -> str:
        """Say in words which values are allowed, for tables and messages."""
        if self.categories:
            return ", ".join(str(value) for value in self.categories)
        if self.type == "boolean":
            return "true, false"
        if self.minimum is not None or self.maximum is not None:
            low = "-∞" if self.minimum is None else f"{self.minimum:g}"
            high = "∞" if self.maximum is None else f"{self.maximum:g}"
            return f"{low} to {high}"
        if self.observed:
            return f"seen {self.observed[0]:g} to {self.observed[1]:g}"
        return ", ".join(str(value) for value in self.examples[:3])


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives: the single source of every schema, form, table and check."""

    title: str
    task: Task
    target: str | None
    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    by_name: Mapping[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the inputs, and refuse a signature that could not be served."""
        names = [column.name for column in self.inputs]
        if not names:
            raise ProjectError("signature: it has no input column")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ProjectError(f"signature: the column {twice!r} appears twice")
        for name in names:
            if not name.isprintable() or set(name) & set('"\\'):
                raise ProjectError(f"signature: the name {name!r} has a quote, a backslash or a control character")
        object.__setattr__(self, "by_name", {column.name: column for column in self.inputs})

    def to_json(self) -> dict[str, Any]:
        """Return one JSON Schema (2020-12) whose properties are the input row and the output row."""
        return {
            "$schema": DIALECT,
            "title": self.title,
            "type": "object",
            "x-task": self.task,
            "x-target": self.target,
            "properties": {"input": row_schema(self.inputs), "output": row_schema(self.outputs)},
            "required": ["input", "output"],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Signature:
        """Read a signature from the form of `to_json`.

        Raises:
            ProjectError: something in it is missing or cannot be served.
        """
        try:
            rows = {side: document["properties"][side] for side in ("input", "output")}
            inputs, outputs = (
                tuple(
                    _optional(Column.from_schema(name, schema), name in rows[side].get("required", ()))
                    for name, schema in rows[side]["properties"].items()
                )
                for side in ("input", "output")
            )
            task: Task = document["x-task"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ProjectError(f"signature: it lacks {error}: see the file that `model import` writes") from None
        if task not in get_args(Task):
            raise ProjectError(f"signature: x-task must be one of {', '.join(get_args(Task))}")
        return cls(str(document.get("title", "")), task, document.get("x-target"), inputs, outputs)

    @classmethod
    def load(cls, path: Path) -> Signature:
        """Read a signature file.

        Raises:
            ProjectError: it cannot be read, or is no signature.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ProjectError(f"the signature {path} cannot be read: {error}") from None

    def save(self, path: Path) -> None:
        """Write the signature as a readable file."""
        path.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def input(self, name: str) -> Column:
        """Return the input column of this name; KeyError if there is none."""
        return self.by_name[name]

    def example_row(self) -> dict[str, Any]:
        """Return one plausible input row, for documentation and probes."""
        return {column.name: _example(column) for column in self.inputs}

    def dictionary(self) -> list[dict[str, str]]:
        """Return the data dictionary: one entry a column, inputs first, then outputs."""
        return [
            {
                "name": column.name,
                "type": column.type,
                "values": column.values(),
                "missing": "yes" if column.nullable else "no",
                "unit": column.unit,
                "description": column.description,
                "role": role,
            }
            for role, columns in (("input", self.inputs), ("output", self.outputs))
            for column in columns
        ]


def row_schema(columns: tuple[Column, ...]) -> dict[str, Any]:
    """Return the JSON Schema of a row of these columns; unknown fields are refused."""
    return {
        "type": "object",
        "properties": {column.name: column.to_schema() for column in columns},
        "required": [column.name for column in columns if not column.nullable],
        "additionalProperties": False,
    }


def _optional(column: Column, required: bool) -> Column:
    """Take a column that a row need not have as one that may be missing."""
    return column if required or column.nullable else replace(column, nullable=True)


def _example(column: Column) -> Scalar | None:
    if column.examples:
        return column.examples[0]
    if column.categories:
        return column.categories[0]
    if column.numeric:
        value = sum(column.observed) / 2 if column.observed else 0.0
        value = max(value, column.minimum) if column.minimum is not None else value
        value = min(value, column.maximum) if column.maximum is not None else value
        return round(value) if column.type == "integer" else value
    if column.type == "boolean":
        return False
    return "2026-01-01T12:00:00Z" if column.type == "datetime" else ""
