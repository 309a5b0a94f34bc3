"""Why a row is predicted as it is: Shapley values of its columns, estimated by permutations.

A column's contribution is how much the output moves when the column goes from a typical row's value to this row's,
averaged over typical rows and over the orders in which the columns go. Orders are drawn at random, each together with
its reverse, and each pair with a typical row of its own (Štrumbelj and Kononenko, Knowledge and Information Systems 41,
2014; the reversed pairs: Mitchell et al., JMLR 23, 2022). Contributions and base value add up to the output exactly.

It asks the model about rows that mix two, so columns that go together in the world are taken apart: a contribution
says what the model does, not what causes what.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ..errors import ProjectError
from ..signature import PREDICTION, PROBABILITY
from ..validation import ROW, check_frame
from .scorer import Scorer

METHOD = "Shapley values by sampled permutations of whole columns, each with its reverse"
PAIRS = 64  # of an order and its reverse; twice as many calls of the model a column


@dataclass(frozen=True)
class Explanation:
    """Why one row is predicted as it is.

    Attributes:
        prediction: of the row.
        output: the output column that is explained: the prediction, or the probability of the predicted class.
        value: of that output.
        base_value: its mean over the typical rows that were used.
        contributions: of each column, largest first: its name, the contribution and its standard error.
    """

    prediction: object
    output: str
    value: float
    base_value: float
    contributions: tuple[tuple[str, float, float], ...]


class Explainer:
    """Explains predictions of one version.

    Args:
        scorer: of the version.

    Raises:
        ProjectError: its bundle keeps no typical rows, or it gives labels without probabilities.
    """

    def __init__(self, scorer: Scorer) -> None:
        signature, sample = scorer.signature, scorer.bundle.sample()
        if sample is None:
            raise ProjectError(
                "this version keeps no sample to explain with: import it with models.sample_rows above 0"
            )
        names = {column.name for column in signature.outputs}
        if signature.task == "classification" and not any(name.startswith(PROBABILITY) for name in names):
            raise ProjectError("this version gives labels without probabilities, which cannot be explained")
        self._scorer = scorer
        self._names = [column.name for column in signature.inputs]
        rows = check_frame(signature, sample).good.drop(ROW)
        self.rows = rows.sample(min(PAIRS, rows.height), seed=0)

    def explain(self, row: pl.DataFrame) -> Explanation:
        """Explain one row, typed as the signature says; the same row always gets the same explanation."""
        count, random = len(self._names), np.random.default_rng(0)
        orders = [one for order in (random.permutation(count) for _ in range(PAIRS)) for one in (order, order[::-1])]
        # ranks[k, c] is the step at which column c goes over in order k; a mixed row has all columns of earlier steps.
        ranks = np.argsort(np.array(orders), axis=1)
        changed = (np.arange(count + 1)[None, :, None] > ranks[:, None, :]).reshape(-1, count)
        typical = np.repeat(np.arange(PAIRS) % self.rows.height, 2 * (count + 1))
        mixed = self.rows[typical].with_columns(
            pl.when(pl.Series(changed[:, place]))
            .then(pl.lit(row[name][0], row.schema[name]))
            .otherwise(name)
            .alias(name)
            for place, name in enumerate(self._names)
        )
        predicted = self._scorer.frame(row)
        label = predicted[PREDICTION][0]
        output = PREDICTION if self._scorer.signature.task == "regression" else f"{PROBABILITY}{label}"
        values = self._scorer.frame(mixed)[output].to_numpy().reshape(len(orders), count + 1)
        moved = np.take_along_axis(np.diff(values, axis=1), ranks, axis=1)  # by column, not by step
        pairs = moved.reshape(PAIRS, 2, count).mean(axis=1)
        means, errors = pairs.mean(axis=0), pairs.std(axis=0, ddof=1) / np.sqrt(PAIRS)
        found = sorted(zip(self._names, means.tolist(), errors.tolist(), strict=True), key=lambda one: -abs(one[1]))
        return Explanation(label, output, float(predicted[output][0]), float(values[:, 0].mean()), tuple(found))
