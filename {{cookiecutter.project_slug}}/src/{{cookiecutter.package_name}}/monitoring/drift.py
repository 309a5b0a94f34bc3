"""Drift: how far the rows of now are from the sample that the model was accepted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from ..models.bundle import Bundle
from ..models.profile import Distribution
from ..settings import Monitoring
from ..signature import PREDICTION
from . import Check, judge, too_few

Counts = Sequence[int] | np.ndarray

SURE = 0.999  # a shift that chance makes in one of a thousand windows is no alarm
PSEUDO = 0.5  # rows added to every bin, so that an empty one has a logarithm


def check(bundle: Bundle, frame: pl.DataFrame, limits: Monitoring) -> list[Check]:
    """Compare logged inputs and predictions, column by column, with the profile of the bundle that made them."""
    checks = []
    for name in [*(column.name for column in bundle.signature.inputs), PREDICTION]:
        known = bundle.profile.columns.get(name)
        if known is None:
            note = "not compared: a time always moves on; its parts act through the prediction"
            checks.append(Check("drift", name, None, "ok", {"rows": frame.height, "note": note}))
        elif frame.height < limits.minimum_rows:
            checks.append(too_few("drift", name, frame.height, limits.minimum_rows))
        else:
            checks.append(_compare(name, known, known.count(frame[name]), limits))
    return checks


def psi(expected: Counts, actual: Counts) -> float:
    """Return the population stability index of two histograms on the same bins.

    The sum over the bins of (a - e) ln(a / e), where e and a are the shares of rows (N. Siddiqi, Credit Risk
    Scorecards, 2006). Half a row is added to each bin that holds any, so that the result is finite.
    """
    e, a = _shares(expected, actual)
    return float(np.sum((a - e) * np.log(a / e)))


def noise(expected: Counts, actual: Counts) -> float:
    """Return the PSI that chance alone exceeds in one of a thousand windows of this size.

    Without drift PSI / (1/n + 1/m) follows a chi-squared distribution with (bins - 1) degrees of freedom
    (B. Yurdakul and J. Naranjo, Statistical properties of the population stability index, 2020).
    """
    from scipy.special import chdtri  # late: the import takes a third of a second, and without drift nobody needs it

    bins = len(_shares(expected, actual)[0])
    if bins < 2 or not np.sum(expected) or not np.sum(actual):
        return 0.0
    return float(chdtri(bins - 1, 1 - SURE) * (1 / np.sum(expected) + 1 / np.sum(actual)))


def _shares(expected: Counts, actual: Counts) -> tuple[np.ndarray, np.ndarray]:
    e, a = np.asarray(expected, float), np.asarray(actual, float)
    held = e + a > 0
    e, a = e[held] + PSEUDO, a[held] + PSEUDO
    return e / e.sum(), a / a.sum()


def _compare(name: str, known: Distribution, now: Distribution, limits: Monitoring) -> Check:
    labels = [*known.labels(), "missing"]
    expected, actual = np.array([*known.counts, known.missing]), np.array([*now.counts, now.missing])
    before, after = expected / max(1, known.rows), actual / max(1, now.rows)
    value = psi(expected, actual)
    chance = noise(expected, actual) if value > limits.psi_warning else None
    state = judge(value, limits.psi_warning, limits.psi_alert, proven=chance is not None and value > chance)
    note = f"PSI {value:.3f} over {now.rows} rows"
    if state != "ok":
        most = int(np.argmax(np.abs(after - before)))
        note += f"; {labels[most]}: {before[most]:.0%} then, {after[most]:.0%} now"
    shown = np.flatnonzero(expected + actual)
    detail = {
        "rows": now.rows,
        "reference_rows": known.rows,
        "labels": [labels[place] for place in shown],
        "expected": before[shown].round(6).tolist(),
        "actual": after[shown].round(6).tolist(),
        "note": note,
    }
    if chance is not None:
        detail["chance"] = round(chance, 6)
    if known.type == "categorical":
        detail["new"] = round(float(after[-2]), 6) if not known.counts[-1] else None
    elif sum(known.counts) and sum(now.counts):
        # On the bins of the reference: never more than the Kolmogorov-Smirnov distance of the values.
        steps = np.cumsum(known.counts) / sum(known.counts) - np.cumsum(now.counts) / sum(now.counts)
        detail["distance"] = round(float(np.max(np.abs(steps))), 6)
    return Check("drift", name, round(value, 6), state, detail)
