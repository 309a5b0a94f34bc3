from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import httpx
import jsonschema
import pytest

from project.models.registry import Registry
from project.serving import app
from project.settings import Settings
from project.signature import Signature
from project.store.database import Store
from project.store.tables import runs

MOMENT = datetime(2026, 1, 2, 3, tzinfo=UTC)


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


def test_unknown_addresses_make_no_new_metrics(client: httpx.Client) -> None:
    for place in range(5):
        assert client.get(f"/nowhere/{place}").status_code == 404
    assert "nowhere" not in client.get("/metrics").text


def test_batch_runs_are_told_by_who_can_be_scraped(client: httpx.Client, champion: Settings) -> None:
    assert "pipeline_" not in client.get("/metrics").text
    row = {"id": "r1", "key": "k", "status": "succeeded", "input": "i", "output": "o", "model_version": "v"}
    row |= {"rows_in": 10, "rows_published": 9, "rows_quarantined": 1, "seconds": 0.5}
    with Store(champion) as store, store.write() as connection:
        connection.execute(runs.insert(), {**row, "started": MOMENT, "finished": MOMENT})
    told = {
        'pipeline_runs{status="succeeded"}': 1,
        'pipeline_rows{outcome="quarantined"}': 1,
        "pipeline_run_duration_seconds": 0.5,
        "pipeline_last_success_timestamp_seconds": MOMENT.timestamp(),
        "pipeline_last_failed": 0,
    }
    assert told.items() <= samples(client).items()
    with Store(champion) as store, store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE runs RENAME TO gone")
    assert told.items() <= samples(client).items()  # the log cannot be asked: what it said last


def samples(client: httpx.Client) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_model_in_service(client: httpx.Client, champion: Settings, document: dict[str, Any]) -> None:
    body = client.get("/v1/model").json()
    jsonschema.validate(body, document["components"]["schemas"]["Model"])
    bundle = Registry(champion).load("champion")
    assert body["version"] == bundle.version
    assert body["alias"] == "champion"
    assert Signature.from_json(body["signature"]) == bundle.signature
    assert body["metrics"] == bundle.metrics
    assert body["runtime"]
    assert body["imported_at"]


def test_no_model_is_in_service_without_a_champion(empty_client: httpx.Client) -> None:
    answer = empty_client.get("/v1/model")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_every_operation_is_described(document: dict[str, Any], champion: Settings) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == champion.project.title
    assert {"/v1/model", "/health/live", "/health/ready", "/metrics"} <= set(document["paths"])
    ids = [operation["operationId"] for operation in operations(document)]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] for operation in operations(document))


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    for name in re.findall(r"#/components/schemas/(\w+)", str(document)):
        jsonschema.Draft202012Validator.check_schema(document["components"]["schemas"][name])


def test_the_api_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert "'unsafe-inline'" not in page.headers["content-security-policy"].partition("script-src")[2]
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(found) >= 3
    for address in found:
        assert address.startswith("/")
        answer = client.get(address)
        assert answer.status_code == 200
        assert answer.content
    assert "<script>" not in page.text
    assert client.get("/docs/static/../core.py").status_code == 404
    assert client.get("/docs/static/core.py").status_code == 404


def test_the_next_champion_is_followed_everywhere(
    champion: Settings, client: httpx.Client, other: str, until: Any
) -> None:
    Registry(champion).point("champion", other)
    until(lambda: client.get("/v1/model").json()["version"] == other)
    assert client.get("/openapi.json").json()["info"]["version"] == other
    assert 'model_info{version="' + other + '"} 1.0' in client.get("/metrics").text


def test_a_champion_that_does_not_load_leaves_the_old_one_in_service(
    champion: Settings, client: httpx.Client, other: str, until: Any
) -> None:
    registry = Registry(champion)
    first = registry.resolve("champion")
    model = registry.load(other).model_file
    whole = model.read_bytes()
    registry.point("canary", other)  # an alias that points to it, and then is taken for the champion's
    model.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    aliases = registry.folder / "aliases"
    (aliases / "canary.json").replace(aliases / "champion.json")
    until(lambda: bool(client.get("/health/ready").json()["reason"]))
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert other in ready.json()["reason"]
    assert client.get("/v1/model").json()["version"] == first
    assert "model_load_failures_total 0.0" not in client.get("/metrics").text


def test_the_first_champion_is_picked_up_by_a_running_service(champion: Settings, serving: Any, until: Any) -> None:
    registry = Registry(champion)
    version = registry.resolve("champion")
    registry.drop("champion")
    with serving(champion) as client:
        assert client.get("/health/ready").status_code == 503
        assert client.get("/v1/model").status_code == 503
        registry.point("champion", version)
        until(lambda: client.get("/health/ready").status_code == 200)
        assert client.get("/v1/model").json()["version"] == version


def test_a_project_without_a_route_file_is_whole(
    champion: Settings, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = app.pkgutil.iter_modules
    monkeypatch.setattr(
        app.pkgutil,
        "iter_modules",
        lambda path: [item for item in found(path) if item.name not in ("predict", "query", "feedback")],
    )
    with serving(champion) as client:
        assert client.post("/v1/predict", json={}).status_code == 404
        assert "/v1/predict" not in client.get("/openapi.json").json()["paths"]
        assert client.get("/health/ready").status_code == 200
