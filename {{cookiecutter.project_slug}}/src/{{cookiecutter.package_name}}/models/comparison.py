"""What changes between two versions: their answers for the same rows, and their contracts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..signature import PREDICTION, PROBABILITY, Column, Signature
from .metrics import groups

if TYPE_CHECKING:
    import polars as pl

MINIMUM = "the minimum of {field} changed from {old} to {new}"
MAXIMUM = "the maximum of {field} changed from {old} to {new}"
SHOWN_ROWS, SHOWN_SLICES = 5, 8
FIRST, SECOND, DIFFERENCE = "@first", "@second", "@difference"  # no column of a model has such a name


@dataclass(frozen=True)
class Comparison:
    """How far the answers of two models are from each other.

    Attributes:
        rows: how many were compared.
        unit: of the differences: the prediction's, ``probability``, or ``class`` (0 or 1) without probabilities.
        mean: of the absolute differences, like ``p50``, ``p99`` (quantiles) and ``largest``.
        classes_differ: share of rows with another class; None for a regression.
        slices: ``{column: {value: {"rows", "mean", "classes_differ"}}}``.
        table: row by row `FIRST`, `SECOND` and `DIFFERENCE`, beside the rows' own columns; the most different
            rows first.
    """

    rows: int
    unit: str
    mean: float
    p50: float
    p99: float
    largest: float
    classes_differ: float | None
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]]
    table: pl.DataFrame

    def lines(self) -> list[str]:
        """Say it in a few lines of text: overall, the most different parts, the most different rows."""
        if not self.rows:
            return ["no rows to compare"]
        said = [
            f"{self.rows} rows compared, absolute difference ({self.unit}): mean {self.mean:.4g},"
            f" median {self.p50:.4g}, 99th percentile {self.p99:.4g}, largest {self.largest:.4g}"
            + _classes(self.classes_differ)
        ]
        parts = [(f"{column} = {value}", one) for column, of in self.slices.items() for value, one in of.items()]
        parts = sorted(parts, key=lambda part: -float(part[1]["mean"]))[:SHOWN_SLICES]
        width = max((len(name) for name, _ in parts), default=0)
        said += ["most different parts of the rows:"] if parts else []
        for name, one in parts:
            said.append(
                f"  {name:{width}}  {one['rows']:6} rows, mean {one['mean']:.4g}" + _classes(one["classes_differ"])
            )
        most = self.table.filter(self.table[DIFFERENCE] > 0).head(SHOWN_ROWS)
        said += ["most different rows:"] if most.height else []
        for row in most.to_dicts():
            name = f"{row['id']}: " if "id" in row else ""
            said.append(f"  {name}{_answer(row[FIRST])} -> {_answer(row[SECOND])} ({row[DIFFERENCE]:.4g})")
        return said


def compare(signature: Signature, rows: pl.DataFrame, first: pl.DataFrame, second: pl.DataFrame) -> Comparison:
    """Compare two models' answers for the same rows.

    Args:
        signature: names the task, the unit, and the columns that part the rows.
        rows: its input columns, typed, and any others (an ``id`` is shown).
        first: output columns of the one model, row by row beside ``rows``.
        second: of the other, likewise.

    Returns:
        The differences from ``first`` to ``second``.
    """
    import polars as pl

    shared = [name for name in first.columns if name.startswith(PROBABILITY) and name in second.columns]
    changed = None
    if signature.task == "regression":
        before, after = (one[PREDICTION].cast(pl.Float64).to_numpy() for one in (first, second))
        difference, unit = np.abs(after - before), signature.outputs[0].unit or "in the unit of the target"
    else:
        changed = (first[PREDICTION].cast(pl.String) != second[PREDICTION].cast(pl.String)).to_numpy()
        difference, unit = changed.astype(float), "class"
        if shared and rows.height:
            difference = np.abs(second.select(shared).to_numpy() - first.select(shared).to_numpy()).max(axis=1)
            unit = "probability"
    found: dict[str, dict[str, Any]] = {}
    for column, value, chosen in groups(signature, rows):
        one = {"rows": int(chosen.sum()), "mean": float(difference[chosen].mean()), "classes_differ": None}
        if changed is not None:
            one["classes_differ"] = float(changed[chosen].mean())
        found.setdefault(column, {})[value] = one
    columns = {FIRST: first[PREDICTION], SECOND: second[PREDICTION], DIFFERENCE: pl.Series(difference)}
    table = rows.with_columns(**columns).sort(DIFFERENCE, descending=True, maintain_order=True)
    mean, p50, p99, largest = (0.0,) * 4
    if rows.height:
        mean, p50, p99 = float(difference.mean()), *(float(np.quantile(difference, q)) for q in (0.5, 0.99))
        largest = float(difference.max())
    share = None if changed is None else float(changed.mean()) if rows.height else 0.0
    return Comparison(rows.height, unit, mean, p50, p99, largest, share, found, table)


class Change(NamedTuple):
    """A difference between two signatures; a breaking one makes a consumer of the first fail or misread.

    ``text`` has places for ``values``, so that it can be said in any language.
    """

    breaking: bool
    text: str
    values: dict[str, Any]

    def __str__(self) -> str:
        return self.text.format(**self.values)


def changes(old: Signature, new: Signature) -> list[Change]:
    """Return what a consumer of ``old`` finds changed in ``new``, breaking changes first.

    A row that was taken must still be taken, and an answer that was understood must still be: of the inputs, more
    may be allowed; of the outputs, fields may be added. Ranges that were only observed bind nobody.
    """
    found = []
    if old.task != new.task:
        found.append(Change(True, "the task changed from {old} to {new}", {"old": old.task, "new": new.task}))
    for name in dict.fromkeys([*old.by_name, *new.by_name]):
        found += _input(name, old.by_name.get(name), new.by_name.get(name))
    before, after = ({column.name: column for column in one.outputs} for one in (old, new))
    for name in dict.fromkeys([*before, *after]):
        found += _output(name, before.get(name), after.get(name))
    return sorted(found, key=lambda change: not change.breaking)


def _input(name: str, old: Column | None, new: Column | None) -> list[Change]:
    """Compare one input field; consumers send it."""
    if old is None:
        needed = new is not None and not new.nullable
        text = "the new field {field} is required" if needed else "the new field {field} is optional"
        return [Change(needed, text, {"field": name})]
    if new is None:
        return [Change(True, "the field {field} was removed", {"field": name})]
    found = _meaning(name, old, new)
    if old.type != new.type:
        wider = (old.type, new.type) == ("integer", "number")
        found.append(_changed(not wider, "the type of {field} changed from {old} to {new}", name, old.type, new.type))
    if old.nullable != new.nullable:
        text = "{field} may be missing now" if new.nullable else "{field} may no longer be missing"
        found.append(Change(old.nullable, text, {"field": name}))
    for rule, sign, text in (("minimum", 1, MINIMUM), ("maximum", -1, MAXIMUM)):
        before, after = getattr(old, rule), getattr(new, rule)
        if before != after:
            narrower = after is not None and (before is None or sign * after > sign * before)
            found.append(_changed(narrower, text, name, *("-" if one is None else one for one in (before, after))))
    if set(old.categories) != set(new.categories):
        gone = [value for value in old.categories if value not in new.categories] if new.categories else []
        if new.categories and not old.categories:
            found.append(Change(True, "{field} takes only listed values now", {"field": name}))
        elif gone:
            values = ", ".join(str(value) for value in gone)
            found.append(Change(True, "{field} no longer takes {values}", {"field": name, "values": values}))
        else:
            found.append(Change(False, "{field} takes more values", {"field": name}))
    return found


def _output(name: str, old: Column | None, new: Column | None) -> list[Change]:
    """Compare one output field; consumers read it."""
    if old is None or new is None:
        text = "the new output {field}" if old is None else "the output {field} was removed"
        return [Change(new is None, text, {"field": name})]
    found = _meaning(name, old, new)
    if old.type != new.type:
        found.append(_changed(True, "the type of {field} changed from {old} to {new}", name, old.type, new.type))
    if set(old.categories) != set(new.categories):
        before, after = (", ".join(str(value) for value in one.categories) or "-" for one in (old, new))
        found.append(_changed(True, "the classes of {field} changed from {old} to {new}", name, before, after))
    if new.nullable and not old.nullable:
        found.append(Change(True, "{field} may be missing now", {"field": name}))
    return found


def _meaning(name: str, old: Column, new: Column) -> list[Change]:
    if old.unit == new.unit:
        return []
    breaking = bool(old.unit and new.unit)  # to name a unit that was not named changes no number
    text = "the unit of {field} changed from {old} to {new}"
    return [_changed(breaking, text, name, old.unit or "-", new.unit or "-")]


def _changed(breaking: bool, text: str, name: str, old: object, new: object) -> Change:
    return Change(breaking, text, {"field": name, "old": old, "new": new})


def _classes(share: float | None) -> str:
    return "" if share is None else f"; another class in {share:.2%}"


def _answer(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
