"""Boosted trees without a walk through them: the values of a row rule leaves out, and one leaf of each tree is left.

A tree of at most 64 leaves has a bit for each. A split rules out the leaves on the side to which a row does not go, and
when all splits have done so, also those that a walk would never meet, the one leaf that is left is the row's (after
Lucchese et al., "QuickScorer", SIGIR 2015). What the splits of one feature rule out is known for every number between
two of its thresholds. So a table has, for each of these, the bits of all trees, and a row costs one line and one AND a
feature, however deep the trees are; many rows are done in a few passes over arrays.

The leaves are those that ONNX finds. Their values are added in double precision, in an order that does not depend on
how many rows go together: a request and a batch give the same bits.
"""

from __future__ import annotations

import io
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from ctypes import c_float
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..matrix import matrices
from . import Array, Feature, Outputs, features

if TYPE_CHECKING:
    import polars as pl

    from ..bundle import Bundle

BLOCK = 1 << 16  # rows times trees that are looked up at a time: as much as a processor core keeps at hand
FEW = 16  # rows up to which whole numbers of Python are faster than arrays
MERGED = 1 << 18  # bytes of a table of several features
WIDE = 256  # values that a byte tells apart

# The exponential of a large number is infinite, and a probability 0 then; to say so costs more than the row.
warnings.filterwarnings("ignore", "overflow encountered in exp", RuntimeWarning)


@dataclass(frozen=True)
class Tables:
    """What an ensemble is made into, see `models.ensembles`.

    Attributes:
        features: of a row, in the order of its matrix.
        thresholds: of each feature, ascending.
        masks: for each feature, one after the other, a line for the numbers up to each threshold, one for those beyond
            and one for missing; it has the leaf bits of every tree (a column) that the feature does not rule out.
        values: of the leaves (trees x 32 or 64).
        ends: how many trees count for the first score, for the first and the second, and so on.
        link: from scores to what is predicted: ``identity``, ``exp``, ``logistic`` or ``softmax``.
        classes: the labels, of the last two.
    """

    features: Sequence[Feature]
    thresholds: Sequence[Array]
    masks: Array
    values: Array
    ends: Array
    link: str
    classes: tuple[Any, ...]

    def file(self) -> bytes:
        """Return the arrays as a file of numpy's; the rest stands in the manifest."""
        target = io.BytesIO()
        sizes = [len(known) for known in self.thresholds]
        arrays = {name: getattr(self, name) for name in ("masks", "values", "ends")}
        np.savez(target, sizes=sizes, thresholds=np.concatenate(self.thresholds), **arrays)
        return target.getvalue()


class TreesRuntime:
    """An ensemble of small trees.

    Args:
        tables: what it is made into.

    Attributes:
        numeric: the features, in the order of the matrix.
        text: nothing: texts are features.
        dtype: of the matrix.
    """

    steady = True

    def __init__(self, tables: Tables) -> None:
        """Prepare the tables: whole numbers for few rows, small tables put together for many."""
        self.numeric, self.text, self.dtype = tuple(tables.features), (), np.dtype(np.float64)
        self._values, self._link, ends = tables.values.ravel(), tables.link, tables.ends.tolist()
        self._scores = list(zip([0, *ends[:-1]], ends, strict=True))
        self._known, self._classes = tables.classes, np.array(tables.classes, object)
        self._kind, (_, self._trees) = tables.masks.dtype, tables.masks.shape
        self._one, self._bytes = self._kind.type(1), self._kind.itemsize * self._trees
        self._ones = int.from_bytes(np.ones(self._trees, self._kind).tobytes(), "little")
        self._places = np.arange(self._trees) * tables.values.shape[1]
        # For single rows each tree has 256 values, so that the number of its leaf is the lowest byte of their places.
        self._wide = np.pad(tables.values, ((0, 0), (0, WIDE - tables.values.shape[1]))).ravel()
        self._spare = list[tuple[Array, Array, Array]]()
        parts = np.split(tables.masks, np.cumsum([len(known) + 2 for known in tables.thresholds])[:-1])
        self._numbers = [
            (known.tolist(), [int.from_bytes(line.tobytes(), "little") for line in lines])
            for known, lines in zip(tables.thresholds, parts, strict=True)
        ]
        self._groups = list(_merged(tables.thresholds, parts))

    def single(self, numbers: Sequence[float]) -> Outputs:
        """Score one row; a missing number is NaN."""
        try:  # calls of numpy are what costs here: there are few, and arrays are used again, not by two threads at once
            taken = self._spare.pop()
        except IndexError:
            taken = self._room()
        places, leaves, values = taken
        np.bitwise_count(np.frombuffer(self._below(numbers), self._kind), leaves)
        self._wide.take(places, None, values, "clip")
        if len(self._scores) > 1 or self._link == "exp":
            labels, shares = self._outcome(self._added(values[None]))
            found = labels.tolist(), None if shares is None else shares.tolist()
        else:
            found = self._one_score(np.add.reduce(values))
        self._spare.append(taken)
        return found

    def run(self, numeric: Array | None, text: Array | None) -> tuple[Array, Array | None]:
        """Score a matrix (n x features, float64) with NaN for missing."""
        assert numeric is not None
        if len(numeric) <= FEW:
            below = bytearray().join(map(self._below, numeric.tolist()))
            return self._outcome(self._sums(np.frombuffer(below, self._kind).reshape(-1, self._trees)))
        sums = np.empty((len(numeric), len(self._scores)))
        lines = [_lines(numeric, features) for features, _ in self._groups]
        size = max(FEW, BLOCK // self._trees)
        whole, more = (np.empty((size, self._trees), self._kind) for _ in range(2))
        for first in range(0, len(numeric), size):
            rows = slice(first, first + size)
            count = min(size, len(numeric) - first)
            left, next_ = whole[:count], more[:count]
            for place, (_, masks) in enumerate(self._groups):
                # All lines are there; without "clip" numpy would copy, to leave `out` as it was if one were not.
                masks.take(lines[place][rows], axis=0, out=next_ if place else left, mode="clip")
                if place:
                    np.bitwise_and(left, next_, out=left)
            sums[rows] = self._sums(np.subtract(left, self._one, out=left))
        return self._outcome(sums)

    def predict(self, frame: pl.DataFrame) -> tuple[Array, Array | None]:
        """Score a table of the model's columns."""
        return self.run(matrices(frame, self.numeric, (), self.dtype)["numeric"], None)

    def _room(self) -> tuple[Array, Array, Array]:
        """Return room for one row: the places of its leaves' values, their lowest bytes, and the values."""
        places = np.arange(self._trees, dtype="<i8") * WIDE
        return places, places.view(np.uint8)[::8], np.empty(self._trees)

    def _one_score(self, first: float) -> Outputs:
        """Turn the one score of one row into the prediction and the probabilities, as `_outcome` does."""
        if not self._known:
            return [c_float(first).value], None
        second = 1 / (1 + np.exp(-first))
        return [self._known[int(first > 0)]], [[c_float(1 - second).value, c_float(second).value]]

    def _below(self, numbers: Sequence[float]) -> bytes:
        """Return the bits below that of the leaf of each tree, for one row.

        A whole number of Python has the bits of all trees; each has one left, so that to take one away borrows nothing
        from the next.
        """
        left = -1
        for number, (thresholds, masks) in zip(numbers, self._numbers, strict=True):
            number *= 1.0  # a large integer is rounded, as in a matrix
            left &= masks[bisect_left(thresholds, number) if number == number else -1]
        return (left - self._ones).to_bytes(self._bytes, "little")

    def _sums(self, below: Array) -> Array:
        """Return the scores (rows x scores) by the bits below the leaves: they are as many as the leaf's number."""
        return self._added(self._values.take(np.add(np.bitwise_count(below), self._places), mode="clip"))

    def _added(self, values: Array) -> Array:
        return np.stack([values[:, first:end].sum(axis=1) for first, end in self._scores], axis=1)

    def _outcome(self, sums: Array) -> tuple[Array, Array | None]:
        """Turn scores into predictions and class probabilities, in single precision as ONNX does."""
        first = sums[:, 0]
        if not self._known:
            return (np.exp(first) if self._link == "exp" else first).astype(np.float32), None
        if self._link == "logistic":
            places, second = (first > 0).astype(np.intp), 1 / (1 + np.exp(-first))
            shares = np.stack([1 - second, second], axis=1)
        else:
            places, powers = sums.argmax(axis=1), np.exp(sums - sums.max(axis=1, keepdims=True))
            shares = powers / powers.sum(axis=1, keepdims=True)
        return self._classes[places], shares.astype(np.float32)


def _lines(numeric: Array, features: Sequence[tuple[int, Array]]) -> Array:
    """Return each row's line in the table of some features."""
    found: Any = 0
    for place, thresholds in features:
        column = np.ascontiguousarray(numeric[:, place])
        line = np.searchsorted(thresholds, column)
        line += np.isnan(column)  # which is sorted behind all numbers
        found = found * (len(thresholds) + 2) + line
    lines: Array = found
    return lines


def _merged(thresholds: Sequence[Array], parts: Sequence[Array]) -> Iterator[tuple[list[tuple[int, Array]], Array]]:
    """Put small tables together: with a line for every two lines of two features, one look serves both."""
    features, whole = list[tuple[int, Array]](), parts[0][:0]
    for place in sorted(range(len(parts)), key=lambda place: len(parts[place])):
        masks = parts[place]
        if features and len(whole) * masks.nbytes <= MERGED:
            whole = (whole[:, None] & masks[None]).reshape(-1, masks.shape[1])
        else:
            if features:
                yield features, whole
            features, whole = [], masks
        features.append((place, thresholds[place]))
    yield features, whole


def load(bundle: Bundle) -> TreesRuntime:
    """Load the model of a bundle."""
    manifest = bundle.manifest
    with np.load(bundle.model_file, allow_pickle=False) as found:
        arrays = {name: found[name] for name in ("masks", "values", "ends")}
        thresholds = np.split(found["thresholds"], np.cumsum(found["sizes"])[:-1])
    numeric = features(manifest["features"])
    return TreesRuntime(
        Tables(numeric, thresholds, **arrays, link=manifest["link"], classes=tuple(manifest["classes"]))
    )
