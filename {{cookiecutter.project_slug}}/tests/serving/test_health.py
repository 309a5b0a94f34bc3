from __future__ import annotations

from typing import Any

import httpx

from project.settings import Settings


def test_ready_with_a_champion(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"live": True}
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True
    assert answer.json()["reason"] == ""


def test_live_and_not_ready_without_a_champion(empty_client: httpx.Client, settings: Settings) -> None:
    assert empty_client.get("/health/live").status_code == 200
    answer = empty_client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert f"{settings.project.slug} model promote" in answer.json()["reason"]


def test_metrics_count_requests_and_rows(client: httpx.Client, row: dict[str, Any]) -> None:
    def value(name: str) -> float:
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    requests = 'http_requests_total{route="/v1/predict",status="200"}'
    before = value("predictions_total{"), value(requests), value("rejected_rows_total{")
    client.post("/v1/predict", json={"row": row})
    client.post("/v1/predict", json={"rows": [row, row]})
    client.post("/v1/predict", json={"rows": [row, {}]})
    after = value("predictions_total{"), value(requests), value("rejected_rows_total{")
    assert [new - old for new, old in zip(after, before, strict=True)] == [3, 2, 1]
    assert value("events_dropped") == 0


def test_unknown_addresses_make_no_new_metrics(client: httpx.Client) -> None:
    for place in range(5):
        assert client.get(f"/nowhere/{place}").status_code == 404
    assert "nowhere" not in client.get("/metrics").text
