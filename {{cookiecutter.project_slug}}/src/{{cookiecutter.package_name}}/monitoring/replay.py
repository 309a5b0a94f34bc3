"""Replay: score logged inputs on another version, to see what it would have answered."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from math import isfinite
from typing import Any, NamedTuple

import polars as pl

from ..errors import ProjectError
from ..models import metrics
from ..models.bundle import Bundle
from ..models.comparison import Comparison, compare
from ..models.evidence import score
from ..models.registry import Registry
from ..models.scorer import Scorer
from ..signature import PREDICTION, Task
from ..store import queries
from ..store.database import Store
from ..store.frames import predictions_frame
from ..validation import ROW, check_frame

LABELS = ("id", "time", "source")


class Replay(NamedTuple):
    """What a replay found.

    Attributes:
        comparison: from the logged answers to those of the version, with ``id``, ``time``, ``source`` and
            ``@answered_by`` of each row.
        answered: rows by the version that answered them.
        refused: rows that were left out, by reason.
        measured: metrics of the logged answers and of the version's, where the truth is known; else empty.
    """

    comparison: Comparison
    answered: dict[str, int]
    refused: dict[str, int]
    measured: tuple[dict[str, Any], ...]


def replay(store: Store, registry: Registry, bundle: Bundle, since: datetime, limit: int) -> Replay:
    """Score what was logged since a time on a version.

    Args:
        store: the log.
        registry: has the versions that answered.
        bundle: the version to score on.
        since: only newer predictions.
        limit: rows at most; of more, every k-th.

    Raises:
        ProjectError: nothing was logged, or no logged row can be scored.
    """
    counts = queries.answering_versions(store, since)
    if not counts:
        raise ProjectError(f"the log has no prediction since {since:%Y-%m-%d %H:%M} UTC: give an earlier --since")
    scorer, refused = Scorer(bundle), Counter[str]()
    most = max(1, limit // len(counts))
    parts = [part for version in counts for part in _logged(store, registry, bundle, (version, since, most), refused)]
    if not parts:
        reason, count = refused.most_common(1)[0]
        raise ProjectError(f"no logged row can be scored on {bundle.version}: {count} rows, {reason}")
    rows, first = (pl.concat(tables, how="diagonal_relaxed") for tables in zip(*parts, strict=True))
    second = score(scorer, rows.select(list(bundle.signature.by_name)))
    measured: tuple[dict[str, Any], ...] = ()
    truth, known = _truth(bundle.signature.task, rows["@actual"])
    if truth.len():
        measured = tuple(metrics.evaluate(bundle.signature.task, truth, one.filter(known)) for one in (first, second))
    comparison = compare(bundle.signature, rows, first, second)
    answered = dict(rows["@answered_by"].value_counts(sort=True).iter_rows())
    return Replay(comparison, answered, dict(refused.most_common()), measured)


def _logged(
    store: Store, registry: Registry, bundle: Bundle, of: tuple[str, datetime, int], refused: Counter[str]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield the logged rows of one version that fit the bundle, typed, and the answers to them."""
    version, since, limit = of
    try:
        signature = registry.load(version).signature
    except ProjectError as error:
        refused[f"answered by {version}: {error}"] += queries.answering_versions(store, since)[version]
        return
    frame = predictions_frame(store, signature, version, since, limit)
    if signature.task != bundle.signature.task:
        refused[f"answered by {version}, which has another task"] += frame.height
        return
    columns = [name for name in frame.columns if name in bundle.signature.by_name and name in signature.by_name]
    checked = check_frame(bundle.signature, frame.select(columns))
    refused.update(checked.counts)
    if checked.good.height:
        kept = frame[checked.good[ROW].to_numpy() - 1]
        labels = {f"@{name}" if name != "id" else name: kept[name] for name in (*LABELS, "actual")}
        outputs = [column.name for column in signature.outputs if column.name == PREDICTION or column.numeric]
        answered = pl.lit(version).alias("@answered_by")
        yield checked.good.drop(ROW).with_columns(answered, **labels), kept.select(outputs)


def _truth(task: Task, actual: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Decode the feedback: the usable values, and which rows have one."""
    values: list[Any] = [None if text is None else json.loads(text) for text in actual]
    if task == "regression":
        numbers = [value if type(value) in (int, float) and isfinite(value) else None for value in values]
        found = pl.Series("actual", numbers, dtype=pl.Float64)
    else:
        texts = [None if value is None else str(value) for value in values]
        found = pl.Series("actual", texts, dtype=pl.String)
    return found.drop_nulls(), found.is_not_null()
