from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest

from project.models.bundle import Bundle
from project.settings import Settings
from project.store import queries
from project.store.database import Store

PATH = "/v1/explain"


def test_rows_are_explained_and_not_logged(champion: Settings, serving: Any, row: dict[str, Any]) -> None:
    with serving(champion) as client:
        predicted = client.post("/v1/predict", json={"row": row}).json()["prediction"]
        body = client.post(PATH, json={"rows": [row, row | {"staff": 5}]}).json()
        first = body["explanations"][0]
        assert first["prediction"] == pytest.approx(predicted, rel=1e-5)
        total = first["base_value"] + sum(one["contribution"] for one in first["contributions"])
        assert total == pytest.approx(first["value"], rel=1e-4)
        assert {one["field"] for one in first["contributions"]} == set(row)
        assert body["explanations"][1] != first
        document = client.get("/openapi.json").json()
        schema = document["paths"][PATH]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(body, schema | {"components": document["components"]})
        assert len(client.post(PATH, json={"row": row}).json()["explanations"]) == 1
    with Store(champion) as store:
        assert queries.counts(store).predictions == 1


def test_what_does_not_fit_is_refused(client: httpx.Client, row: dict[str, Any]) -> None:
    assert client.post(PATH, json={"row": row | {"staff": "many"}}).json()["errors"][0]["field"] == "staff"
    assert client.post(PATH, json={"rows": [row] * 101}).status_code == 413
    assert client.post(PATH, content=b"x", headers={"Content-Type": "text/csv"}).status_code == 415


def test_a_version_without_a_sample(champion: Settings, serving: Any, row: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(Bundle, "sample", lambda _: None)
    with serving(champion) as client:
        answer = client.post(PATH, json={"row": row})
        assert (answer.status_code, answer.json()["code"]) == (409, "not-explainable")
