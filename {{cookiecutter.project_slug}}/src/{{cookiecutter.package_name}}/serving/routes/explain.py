"""``POST /v1/explain``: why rows are predicted as they are. The explanation is no prediction and is not logged."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable
from typing import TYPE_CHECKING

import msgspec

from ...errors import ProjectError
from ..answers import Answer, Call, Refused, Route, Routes, problem
from ..plane import plane
from ..plane.asked import Asked, json_only
from ..plane.predictor import Predictor
from ..state import State

if TYPE_CHECKING:
    import polars as pl

    from ...models.explain import Explainer

PATH = "/v1/explain"
MOST = 100  # rows at a time: each costs as much as a thousand predictions


def routes(state: State) -> Routes:
    """Return the route."""
    data, explainers = plane(state), weakref.WeakKeyDictionary[Predictor, "Explainer"]()

    def handle(call: Call) -> Awaitable[Answer]:
        json_only(call)
        return data.apart(None, explain, data.champion(), call)

    def explain(predictor: Predictor, call: Call) -> Answer:
        rows = Asked(call, min(MOST, state.settings.serving.max_rows), each=False).rows(predictor)
        if predictor not in explainers:
            from ...models.explain import Explainer  # late, as most services explain nothing

            try:
                explainers[predictor] = Explainer(predictor.scorer)
            except ProjectError as error:
                raise Refused(problem(409, "not-explainable", str(error))) from None
        explainer, table = explainers[predictor], predictor.scorer.table(rows)
        return _answer(predictor, explainer, [table[place] for place in range(table.height)])

    return {("POST", PATH): Route(handle, "predict")}


def _answer(predictor: Predictor, explainer: Explainer, rows: list[pl.DataFrame]) -> Answer:
    from ...models.explain import METHOD

    found = []
    for row in rows:
        one = explainer.explain(row)
        parts = [
            {"field": name, "contribution": value, "standard_error": error} for name, value, error in one.contributions
        ]
        told = {"prediction": one.prediction, "output": one.output, "value": one.value, "base_value": one.base_value}
        found.append(told | {"contributions": parts})
    content = {"model_version": predictor.version, "method": METHOD, "typical_rows": explainer.rows.height}
    return Answer(200, msgspec.json.encode(content | {"explanations": found}))
