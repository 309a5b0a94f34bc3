from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import polars as pl
import pytest

from project.models.scorer import Scorer
from project.settings import Settings
from project.store import queries
from project.store.database import Store

PATH = "/v1/predict"


@pytest.fixture
def each(champion: Settings) -> Settings:
    return champion.model_copy(update={"serving": champion.serving.model_copy(update={"failures": "row"})})


@pytest.fixture
def touchy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot compute rows with five of staff, though its signature lets them in."""
    rows, frame = Scorer.rows, Scorer.frame

    def failing(self: Scorer, given: Any) -> Any:
        if any(msg.f3 == 5 for msg in given):
            raise ArithmeticError("five")
        return rows(self, given)

    def refusing(self: Scorer, given: pl.DataFrame) -> Any:
        if 5 in given["staff"]:
            raise ArithmeticError("five")
        return frame(self, given)

    monkeypatch.setattr(Scorer, "rows", failing)
    monkeypatch.setattr(Scorer, "frame", refusing)


def test_a_row_that_does_not_fit_leaves_the_others_alone(each: Settings, serving: Any, row: dict[str, Any]) -> None:
    bad = row | {"staff": "many"}
    with serving(each) as client:
        good = client.post(PATH, json={"row": row}).json()["prediction"]
        answer = client.post(PATH, json={"rows": [bad, row, {}, row, 7]})
        assert answer.status_code == 200
        found = answer.json()["predictions"]
        assert [entry.get("prediction") for entry in found] == [None, good, None, good, None]
        assert found[0]["errors"] == [{"field": "staff", "rule": "type", "expected": "must be an integer"}]
        assert "many" not in answer.text
        document = client.get("/openapi.json").json()
        schema = document["paths"][PATH]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | {"components": document["components"]})
        assert client.post(PATH, json={"rows": [bad, {}]}).status_code == 422
        assert client.post(PATH, json={"row": bad}).status_code == 422
    with Store(each) as store:
        assert queries.counts(store).predictions == 3


def test_a_row_that_the_model_cannot_compute_is_named(touchy: None, client: httpx.Client, row: dict[str, Any]) -> None:
    answer = client.post(PATH, json={"rows": [row | {"staff": 1}, row | {"staff": 5}]})
    assert answer.status_code == 422
    assert [error["row"] for error in answer.json()["errors"]] == [1]
    assert "five" not in answer.text
    assert client.post(PATH, json={"row": row | {"staff": 5}}).json()["code"] == "range"
    assert client.post(PATH, json={"row": row | {"staff": 1}}).status_code == 200


def test_or_leaves_its_neighbours_alone(touchy: None, each: Settings, serving: Any, row: dict[str, Any]) -> None:
    rows = [row | {"staff": staff} for staff in (5, 1, "x", 5, 2)]
    with serving(each) as client:
        found = client.post(PATH, json={"rows": rows}).json()["predictions"]
    assert ["prediction" in entry for entry in found] == [False, True, False, False, True]
    assert found[0]["errors"][0]["rule"] == found[3]["errors"][0]["rule"] == "range"


def test_a_model_that_fails_on_everything_is_our_fault(
    client: httpx.Client, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    for one in (Scorer,):
        monkeypatch.setattr(one, "rows", broken)
    monkeypatch.setattr("project.serving.plane.predictor.Predictor.predict", broken)
    answer = client.post(PATH, json={"row": row})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "hunter2" not in answer.text


def table(row: dict[str, Any], staff: list[int]) -> dict[str, Any]:
    """Return a CSV as a request, long enough to be read as a table."""
    text = pl.DataFrame([row | {"staff": one} for one in staff for _ in range(200)]).write_csv()
    return {"content": text, "headers": {"Content-Type": "text/csv"}}


def test_a_table_with_rows_that_cannot_be_computed_is_refused(
    touchy: None, client: httpx.Client, row: dict[str, Any]
) -> None:
    answer = client.post(PATH, **table(row, [1, 5]))
    assert (answer.status_code, answer.json()["code"]) == (422, "range")
    assert [error["row"] for error in answer.json()["errors"]] == list(range(200, 300))
    assert client.post(PATH, **table(row, [1])).status_code == 200


def test_a_table_goes_on_without_rows_that_cannot_be_computed(
    touchy: None, each: Settings, serving: Any, row: dict[str, Any]
) -> None:
    with serving(each) as client:
        answer = client.post(PATH, **table(row, [5, 1]))
        found = pl.read_csv(answer.content)
        assert found["prediction"].is_null().to_list() == [True] * 200 + [False] * 200
        assert found["error"].is_null().to_list() == [False] * 200 + [True] * 200
        assert client.post(PATH, **table(row, [5])).status_code == 422
