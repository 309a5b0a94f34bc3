"""Predict with one version: everything that can be made before the first request is made once."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from ...models.bundle import Bundle
from ...models.scorer import Scorer
from ...settings import Serving
from ...store.events import EventLog, Prediction
from ...telemetry.metrics import BATCHING, PREDICTIONS
from ...validation import Marks
from .batching import WORTH_A_THREAD, WORTH_A_TURN, Batcher, gain

if TYPE_CHECKING:
    import polars as pl

    from ..answers import Answer, Call
    from . import Asked

encode = msgspec.json.Encoder().encode
PROCESS = secrets.token_hex(6)
NUMBERS = itertools.count()

SHAPE = re.compile(r"([0-9a-f]{12})([0-9a-f]{12})[0-9a-f]{6}(?:-[0-9]+)?")  # of an id: milliseconds, process, number
JUST_NOW = 60.0  # seconds; far longer than it takes to write the log, because clocks of machines differ

log = structlog.get_logger(__name__)

Made = list[tuple[str, dict[str, Any]]]  # predictions, each after its id


class Predictor:
    """A version, loaded and warm.

    Attributes:
        version: of the bundle.
        signature: of the model.
        row: the class of a decoded row (see `validation.row_type`).
        decode: reads a JSON body, ``{"row": ...}`` or ``{"rows": [...]}``: what is absent is ``UNSET``.
        marks: the quotation marks of such a body's rows, if it gives no field twice.
        fast: whether a row takes so little time that other requests can wait for it.
        batches: whether rows of different requests are scored together: in the loop if it is fast, else in a thread.
        gain: how many times faster rows are together than one by one; None if nobody had to measure that.
        score: from rows to outputs, without a trace.
        count: takes how many rows were scored, for the metrics.
        scorer: for whole tables.
    """

    def __init__(self, bundle: Bundle, events: EventLog, settings: Serving) -> None:
        self.scorer = scorer = Scorer(bundle)
        scorer.warm()
        self.version, self.signature, self.fast, self.row = bundle.version, bundle.signature, scorer.fast, scorer.row
        rows = Annotated[list[scorer.row], msgspec.Meta(min_length=1)]  # type: ignore[name-defined]
        fields = [("row", scorer.row | UnsetType, UNSET), ("rows", rows | UnsetType, UNSET)]
        body: Any = msgspec.defstruct("Body", fields, forbid_unknown_fields=True, gc=False)
        self.decode, self.marks = msgspec.json.Decoder(body).decode, Marks(bundle.signature)
        self.score, self._log, self._log_many = scorer.rows, events.append, events.extend
        self.example = msgspec.convert(bundle.signature.example_row(), scorer.row)
        measured = settings.batching == "auto" and (scorer.steady or not self.fast)
        self.gain = gain(scorer.rows, self.example) if measured else None
        worth = WORTH_A_TURN if self.fast else WORTH_A_THREAD
        self.batches = settings.batching == "on" or (self.gain or 0.0) > worth
        if self.batches and not self.fast:
            self.score = Batcher(scorer.rows, settings.batch_rows).score
        BATCHING.labels(bundle.version).set(self.batches)
        told = {"setting": settings.batching, "gain": self.gain and round(self.gain, 2)}
        log.info("micro-batching", version=bundle.version, on=self.batches, fast=scorer.fast, **told)
        self.count = PREDICTIONS.labels(bundle.version, "http").inc

    def predict(self, rows: Sequence[Any], started: float) -> Made:
        """Score decoded rows and log them.

        Returns:
            Each row's id and output. An id sorts by time and is like no other: milliseconds, process, number, and the
            row's place if there are many.
        """
        made = self.logged(rows, self.score(rows), started)
        self.count(len(made))
        return made

    def table(self, frame: pl.DataFrame, started: float) -> pl.DataFrame:
        """Score a table whose columns have the signature's types, and log it.

        Returns:
            The column ``id``, and those of the model's output.
        """
        import polars as pl

        outputs = self.scorer.frame(frame)
        rows = frame.select(list(self.signature.by_name)).to_dicts()
        made = self.logged(rows, outputs.to_dicts(), started) if rows else []
        self.count(len(made))
        return outputs.insert_column(0, pl.Series("id", [identity for identity, _ in made], dtype=pl.String))

    def logged(self, rows: Sequence[Any], outputs: list[dict[str, Any]], started: float) -> Made:
        """Log predictions, and give them their ids (see `predict`); who calls this counts them."""
        now = time.time()
        request = f"{int(now * 1e3):012x}{PROCESS}{next(NUMBERS) & 0xFFFFFF:06x}"
        elapsed = (time.perf_counter() - started) * 1e3
        if len(rows) == 1:
            self._log(Prediction(request, now, self.version, elapsed, encode(rows[0]), encode(outputs[0])))
            return [(request, outputs[0])]
        ids = [f"{request}-{place}" for place in range(len(rows))]
        alike = (itertools.repeat(one) for one in (now, self.version, elapsed))
        self._log_many(list(map(Prediction, ids, *alike, map(encode, rows), map(encode, outputs))))
        return list(zip(ids, outputs, strict=True))

    def answer(self, call: Call, asked: Asked, made: Made) -> Answer:
        """Return the answer with predictions; a trace is told how long it took to make both."""
        trace = call.trace
        if trace is None:
            return asked.answer(self, made)
        trace.mark("score")
        answer = asked.answer(self, made)
        trace.mark("encode")
        trace.attributes |= {"model.version": self.version, "prediction.rows": len(made), "prediction.id": made[0][0]}
        return answer

    def failing(self, rows: Sequence[Any]) -> list[int]:
        """Return the places of the rows that the model cannot compute, each tried alone."""
        return [place for place, row in enumerate(rows) if not self.works(row)]

    def works(self, row: Any = None) -> bool:
        """Say whether the model computes a row; without one, the example of its signature."""
        try:
            self.scorer.rows([self.example if row is None else row])
        except Exception:
            return False
        return True


def made_elsewhere(identity: str) -> bool:
    """Say whether an id is that of a prediction which another process may have made just now, and not written yet."""
    parts = SHAPE.fullmatch(identity)
    if parts is None or parts[2] == PROCESS:
        return False
    return abs(time.time() - int(parts[1], 16) / 1e3) < JUST_NOW
