from __future__ import annotations

import httpx

from project.models.registry import Registry
from project.settings import Settings
from project.signature import Signature


def test_the_model_in_service(client: httpx.Client, champion: Settings) -> None:
    body = client.get("/v1/model").json()
    bundle = Registry(champion).load("champion")
    assert body["version"] == bundle.version
    assert body["alias"] == "champion"
    assert Signature.from_json(body["signature"]) == bundle.signature
    assert body["metrics"] == bundle.metrics
    assert body["runtime"]
    assert body["imported_at"]


def test_without_a_champion(empty_client: httpx.Client) -> None:
    answer = empty_client.get("/v1/model")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
