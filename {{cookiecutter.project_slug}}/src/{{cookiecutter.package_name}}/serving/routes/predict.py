"""``POST /v1/predict``: one row or many as JSON, or a table by its content type."""

from __future__ import annotations

from collections.abc import Awaitable

from ..answers import Answer, Call, Route, Routes
from ..plane import plane, tables
from ..plane.asked import Asked, json_only
from ..state import State

PATH = "/v1/predict"


def routes(state: State) -> Routes:
    """Return the route."""
    serving, data = state.settings.serving, plane(state)
    each = serving.failures == "row"

    def handle(call: Call) -> Answer | Awaitable[Answer]:
        named = call.kind()
        if named in tables.KINDS:
            return tables.answer(state, data, call, named)
        json_only(call)
        return data.answer(call, Asked(call, serving.max_rows, each))

    return {("POST", PATH): Route(handle, "predict", uploads={tables.CSV})}
