"""Predict with one version: everything that can be made before the first request is made once."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from ..models.bundle import Bundle
from ..models.scorer import Scorer
from ..store.events import EventLog, Prediction
from ..telemetry.metrics import PREDICTIONS

PROCESS = secrets.token_hex(6)
NUMBERS = itertools.count()

Made = list[tuple[str, dict[str, Any]]]  # predictions, each after its id


class Predictor:
    """A version, loaded and warm.

    ``decode`` reads a body, ``{"row": ...}`` or ``{"rows": [...]}``: what is absent is ``UNSET``. ``fast`` says whether
    a row takes so little time that other requests can wait for it. ``score`` is `predict` without a trace.
    """

    def __init__(self, bundle: Bundle, events: EventLog) -> None:
        scorer = Scorer(bundle)
        scorer.warm()
        self.version, self.signature, self.fast = bundle.version, bundle.signature, scorer.fast
        rows = Annotated[list[scorer.row], msgspec.Meta(min_length=1)]  # type: ignore[name-defined]
        fields = [("row", scorer.row | UnsetType, UNSET), ("rows", rows | UnsetType, UNSET)]
        body: Any = msgspec.defstruct("Body", fields, forbid_unknown_fields=True, gc=False)
        self.decode = msgspec.json.Decoder(body).decode
        self.score, self._log = scorer.rows, events.append
        self._count = PREDICTIONS.labels(bundle.version, "http").inc

    def predict(self, rows: Sequence[Any], started: float, many: bool) -> Made:
        """Score decoded rows and log them.

        Returns:
            Each row's id and output. An id sorts by time and is like no other: milliseconds, process, number, and the
            row's place if there may be many.
        """
        outputs = self.score(rows)
        now = time.time()
        request = f"{int(now * 1e3):012x}{PROCESS}{next(NUMBERS) & 0xFFFFFF:06x}"
        elapsed = (time.perf_counter() - started) * 1e3
        ids = [f"{request}-{place}" for place in range(len(rows))] if many else [request]
        made = list(zip(ids, outputs, strict=True))
        for row, (identity, output) in zip(rows, made, strict=True):
            self._log(Prediction(identity, now, self.version, elapsed, row, output))
        self._count(len(made))
        return made
