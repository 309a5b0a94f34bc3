from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from project.settings import Settings
from project.signature import Signature
from project.store.database import Store
from project.store.tables import feedback

PATH = "/v1/feedback"


@pytest.fixture
def made(client: httpx.Client, row: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/v1/predict", json={"row": row}).json()
    return answer


def stored(settings: Settings) -> dict[str, Any]:
    with Store(settings) as store, store.read() as connection:
        return {row.prediction_id: json.loads(row.actual) for row in connection.execute(select(feedback))}


def test_feedback_to_a_prediction_made_just_now(client: httpx.Client, champion: Settings, made: dict[str, Any]) -> None:
    answer = client.post(PATH, json={"id": made["id"], "actual": made["prediction"]})
    assert answer.status_code == 200
    assert answer.json() == {"accepted": 1, "unknown": []}
    assert stored(champion) == {made["id"]: made["prediction"]}


def test_many_with_unknown_ones_among_them(client: httpx.Client, champion: Settings, row: dict[str, Any]) -> None:
    predictions = client.post("/v1/predict", json={"rows": [row] * 20}).json()["predictions"]
    actual = predictions[0]["prediction"]
    ids = [entry["id"] for entry in predictions]
    foreign = ["nobody", "", "x" * 500, "a\u0000b", "'; drop table feedback; --"]
    items = [{"id": name, "actual": actual} for name in [*foreign, *ids]]
    answer = client.post(PATH, json={"items": items})
    assert answer.json() == {"accepted": 20, "unknown": foreign}
    assert set(stored(champion)) == set(ids)


def test_the_last_word_counts(
    client: httpx.Client, champion: Settings, signature: Signature, made: dict[str, Any]
) -> None:
    prediction = next(column for column in signature.outputs if column.name == "prediction")
    first, second = (prediction.categories[:2]) if prediction.categories else (1.0, 2.0)
    for actual in (first, second):
        assert client.post(PATH, json={"id": made["id"], "actual": actual}).json()["accepted"] == 1
    assert stored(champion) == {made["id"]: second}
    twice = [{"id": made["id"], "actual": second}, {"id": made["id"], "actual": first}]
    assert client.post(PATH, json={"items": twice}).json()["accepted"] == 1
    assert stored(champion) == {made["id"]: first}


BODIES = [
    (b"", 400),
    (b'{"id": "a", "actual": NaN}', 400),
    (b'{"id": "a", "actual": 1e999}', 400),
    (b"[" * 20_000, 400),
    (b"[]", 422),
    (b"{}", 422),
    (b'{"items": []}', 422),
    (b'{"items": 1}', 422),
    (b'{"items": [1, null]}', 422),
    (b'{"id": "a"}', 422),
    (b'{"id": 3, "actual": 1}', 422),
    (b'{"id": "a", "actual": {"b": 1}}', 422),
    (b'{"id": "a", "actual": null}', 422),
    (b'{"id": "a", "actual": 1, "more": 2}', 422),
]


def test_bad_bodies(client: httpx.Client, champion: Settings) -> None:
    for body, status in BODIES:
        answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, body[:40]
        assert answer.headers["content-type"] == "application/problem+json"
    assert not stored(champion)


def test_one_bad_item_is_named_and_nothing_is_kept(
    client: httpx.Client, champion: Settings, made: dict[str, Any]
) -> None:
    items = [{"id": made["id"], "actual": made["prediction"]}, {"id": made["id"], "actual": {"no": 1}}]
    answer = client.post(PATH, json={"items": items})
    assert answer.status_code == 422
    assert [(error["row"], error["field"]) for error in answer.json()["errors"]] == [(1, "actual")]
    assert not stored(champion)


def test_without_a_champion(empty_client: httpx.Client) -> None:
    assert empty_client.post(PATH, json={"id": "a", "actual": 1}).status_code == 503
