from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from project.serving.plane import predictor
from project.serving.routes import feedback as route
from project.settings import Settings
from project.signature import Signature
from project.store.database import Store
from project.store.events import EventLog, Prediction
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
    foreign = ["nobody", "", "x" * 64, "a\u0000b", "'; drop table feedback; --"]
    items = [{"id": name, "actual": actual} for name in [*foreign, *ids]]
    answer = client.post(PATH, json={"items": items})
    assert answer.json() == {"accepted": 20, "unknown": [0, 1, 2, 3, 4]}
    assert set(stored(champion)) == set(ids)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens each time that the service waits for other workers; once more, and the request fails."""
    happening: list[Callable[[], None]] = []
    monkeypatch.setattr(route, "time", SimpleNamespace(sleep=lambda _: happening.pop(0)()))
    return happening


def following(identity: str) -> str:
    """Return an id that the same process could have given."""
    return identity[:-1] + ("0" if identity[-1] != "0" else "1")


def test_feedback_to_what_another_worker_writes_in_a_moment(
    client: httpx.Client, champion: Settings, made: dict[str, Any], slept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = following(made["id"])
    monkeypatch.setattr(predictor, "PROCESS", "0" * 12)  # from now on the id is that of another process

    def write() -> None:
        with Store(champion) as store:
            log = EventLog(store)
            log.append(Prediction(coming, 0.0, made["model_version"], 1.0, b"{}", b"{}"))
            log.close()

    slept += [lambda: None, write]
    items = [{"id": name, "actual": made["prediction"]} for name in ("nobody", made["id"], coming)]
    assert client.post(PATH, json={"items": items}).json() == {"accepted": 2, "unknown": [0]}
    assert not slept
    assert set(stored(champion)) == {made["id"], coming}


def test_nobody_waits_for_what_cannot_come(
    client: httpx.Client, made: dict[str, Any], slept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = ["nobody", following(made["id"])]  # this process has written all of its own
    items = [{"id": name, "actual": made["prediction"]} for name in unknown]
    assert client.post(PATH, json={"items": items}).json() == {"accepted": 0, "unknown": [0, 1]}
    monkeypatch.setattr(predictor, "PROCESS", "0" * 12)
    old = f"{'0' * 12}{made['id'][12:]}"
    assert client.post(PATH, json={"id": old, "actual": made["prediction"]}).json()["unknown"] == [0]


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


@pytest.mark.parametrize("many", [False, True])
def test_an_id_longer_than_any_is_refused_and_not_repeated(
    client: httpx.Client, champion: Settings, made: dict[str, Any], many: bool
) -> None:
    long = {"id": "x" * 65, "actual": made["prediction"]}
    good = {"id": made["id"], "actual": made["prediction"]}
    answer = client.post(PATH, json={"items": [good, long]} if many else long)
    assert answer.status_code == 422
    error = answer.json()["errors"][0]
    assert (error["row"], error["field"], error["rule"]) == (int(many), "id", "length")
    assert "xxx" not in answer.text
    assert not stored(champion)


def test_a_field_given_twice_is_named_and_nothing_is_kept(
    client: httpx.Client, champion: Settings, made: dict[str, Any]
) -> None:
    good = json.dumps({"id": made["id"], "actual": made["prediction"]})
    for text, row in (
        ('{"actual": 1, ' + good[1:], 0),
        ('{"items": [' + good + ', {"\\u0061ctual": 1, ' + good[1:] + "]}", 1),
    ):
        answer = client.post(PATH, content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, text
        errors = [(one["row"], one["field"], one["rule"]) for one in answer.json()["errors"]]
        assert errors == [(row, "actual", "twice")]
    assert not stored(champion)


def test_without_a_champion(empty_client: httpx.Client) -> None:
    assert empty_client.post(PATH, json={"id": "a", "actual": 1}).status_code == 503
