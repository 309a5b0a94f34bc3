"""Is the converted model the same model? Measured on the sample, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..settings import Models
from .runtimes import Array


def compare(
    original: tuple[Array, Array | None], converted: tuple[Array, Array | None], settings: Models
) -> dict[str, Any]:
    """Compare two models' answers for the same rows.

    Args:
        original: predictions (n) and class probabilities (n x classes) or None.
        converted: likewise.
        settings: the tolerances.

    Returns:
        ``rows``, ``passed``, ``largest`` and ``p999`` (largest and 99.9th percentile of the absolute differences, in
        ``unit``), and for a classifier ``classes_differ``, the share of rows whose class differs.
    """
    (labels, shares), (labels_2, shares_2) = original, converted
    if labels.dtype.kind == "f" and shares is None:
        finite = labels[np.isfinite(labels)]
        spread = (float(np.std(finite)) if finite.size else 0.0) or 1.0
        difference, unit, differ = _distance(labels, labels_2) / spread, "standard deviations", None
    else:
        differ = float(np.mean(labels != labels_2.astype(labels.dtype)))
        unit = "probability"
        difference = np.zeros(len(labels))
        if shares is not None and shares_2 is not None:
            difference = _distance(shares, shares_2).max(axis=1)
    sound = bool(np.isfinite(difference).all())
    largest = float(difference.max()) if sound else None
    p999 = float(np.quantile(difference, 0.999)) if sound else None
    passed = p999 is not None and p999 <= settings.parity_tolerance and (differ or 0) <= settings.parity_classes
    return {
        "rows": len(labels),
        "passed": passed,
        "unit": unit,
        "largest": largest,
        "p999": p999,
        "classes_differ": differ,
    }


def _distance(one: Array, other: Array) -> Array:
    """Return absolute differences; what is missing, or the same infinity, on both sides does not differ."""
    with np.errstate(invalid="ignore"):
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        distance: Array = np.where(same, 0.0, np.abs(one - other))
    return distance
