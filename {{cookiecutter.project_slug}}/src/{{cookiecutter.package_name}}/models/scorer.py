"""Score rows with a bundle: one row of a request or a chunk of a batch, by the same features and the same model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from .. import features
from ..signature import PREDICTION
from ..validation import row_type
from .bundle import Bundle
from .matrix import Matrix
from .runtimes import MatrixRuntime, Outputs, load

if TYPE_CHECKING:
    import polars as pl

    from .transform import Transform

WARM_RUNS = 5
FAST_SECONDS = 0.001  # a single row below this runs on the event loop


class Scorer:
    """Everything of a model version that can be prepared before the first row comes.

    Args:
        bundle: a verified bundle.

    Attributes:
        version: the bundle's version.
        signature: the bundle's signature.
        row: the class of a decoded row (see `validation.row_type`).
        fast: whether one row takes less than a millisecond; known after `warm`.
        steady: whether a row's outputs are the same bits whichever rows it is scored with.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Load the model and compile the way from a row to its matrices."""
        self.bundle = bundle
        self.version = bundle.version
        self.signature = bundle.signature
        self.row = row_type(self.signature)
        self.fast = False
        self._columns: list[str] = list(bundle.manifest["columns"])
        self._names = [column.name for column in self.signature.outputs]
        self._classes = self.signature.outputs[0].categories
        self._boolean = self.signature.outputs[0].type == "boolean"
        self._transform = _transform(bundle)
        self._runtime = load(bundle)
        self._direct = self._runtime if isinstance(self._runtime, MatrixRuntime) and not self._transform else None
        self.steady = self._direct is not None and self._direct.steady
        if self._direct:
            places = {column.name: n for n, column in enumerate(self.signature.inputs)}
            self._matrix = Matrix(self.signature, self._direct.numeric, self._direct.dtype)
            self._text = [attrgetter(f"f{places[name]}") for name in self._direct.text]

    def rows(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Score decoded rows, instances of ``row``.

        Returns:
            One output row each, in order, ready for JSON.
        """
        runtime = self._direct
        if runtime is None:
            return self.frame(self.table(rows)).to_dicts()
        found = runtime.single(self._matrix.row(rows[0])) if len(rows) == 1 and not self._text else None
        labels, shares = found or self._run(runtime, rows)
        names = self._names
        if shares is None:
            return [{PREDICTION: label} for label in self._labels(labels)]
        return [
            dict(zip(names, (label, *row), strict=True))
            for label, row in zip(self._labels(labels), shares, strict=True)
        ]

    def _run(self, runtime: MatrixRuntime, rows: Sequence[Any]) -> Outputs:
        numeric = self._matrix(rows) if runtime.numeric else None
        text = np.array([[get(row) or "" for get in self._text] for row in rows], object) if self._text else None
        labels, shares = runtime.run(numeric, text)
        return labels.tolist(), None if shares is None else shares.tolist()

    def frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Score a table whose columns have the signature's types (see `validation.check_frame`).

        Returns:
            The output columns, row by row beside the input.
        """
        return self.predict(self.features(frame))

    def predict(self, features: pl.DataFrame) -> pl.DataFrame:
        """Score the model's columns, as `features` gives them; returns the output columns."""
        import polars as pl

        labels, shares = self._runtime.predict(features)
        columns = {PREDICTION: pl.Series(PREDICTION, self._labels(labels.tolist()), strict=False)}
        if self.signature.task == "regression":
            columns[PREDICTION] = columns[PREDICTION].cast(pl.Float64)
        if shares is not None:
            for place, name in enumerate(self._names[1:]):
                columns[name] = pl.Series(name, shares[:, place].astype(np.float64))
        return pl.DataFrame(columns)

    def features(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the model's columns of such a table, by the team's transform if the bundle has one."""
        return features.derive(self._transform(frame) if self._transform else frame, self._columns)

    def table(self, rows: Sequence[Any]) -> pl.DataFrame:
        """Return decoded rows as a typed table."""
        import polars as pl

        from ..validation import polars_type

        return pl.DataFrame(
            {
                column.name: pl.Series(
                    column.name,
                    [features.utc(value) if column.type == "datetime" else value for value in _values(rows, place)],
                    dtype=polars_type(column),
                )
                for place, column in enumerate(self.signature.inputs)
            }
        )

    def warm(self) -> None:
        """Score the signature's example row a few times, and find out whether one row is fast."""
        row, best = msgspec.convert(self.signature.example_row(), self.row), float("inf")
        for _ in range(WARM_RUNS):
            start = time.perf_counter()
            self.rows([row])
            best = min(best, time.perf_counter() - start)
        self.fast = best < FAST_SECONDS

    def _labels(self, values: list[Any]) -> list[Any]:
        if self._boolean:
            return [bool(value) for value in values]
        if self._classes and isinstance(self._classes[0], int):
            return [int(value) for value in values]
        return values


def _transform(bundle: Bundle) -> Transform | None:
    if "transform" not in bundle.manifest:
        return None
    from .transform import load  # late: most bundles have none

    return load(bundle)


def _values(rows: Sequence[Any], place: int) -> list[Any]:
    name = f"f{place}"
    return [getattr(row, name) for row in rows]
