from __future__ import annotations

import re
from typing import Any

import httpx
import jsonschema
import pytest

from project.settings import Settings
from project.signature import Signature


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def schema(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return part | {"components": document["components"]}


def test_every_operation_is_described(document: dict[str, Any], champion: Settings) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == champion.project.title
    assert {"/v1/predict", "/v1/feedback", "/v1/model", "/health/live", "/health/ready", "/metrics"} <= set(
        document["paths"]
    )
    ids = [operation["operationId"] for operation in operations(document)]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] for operation in operations(document))


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    for name in re.findall(r"#/components/schemas/(\w+)", str(document)):
        jsonschema.Draft202012Validator.check_schema(document["components"]["schemas"][name])


def test_requests_and_answers_are_as_documented(
    client: httpx.Client, document: dict[str, Any], signature: Signature
) -> None:
    operation = document["paths"]["/v1/predict"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator(schema(document, content["schema"]))
    answers = operation["responses"]
    ids = []
    for example in content["examples"].values():
        validator.validate(example["value"])
        answer = client.post("/v1/predict", json=example["value"])
        assert answer.status_code == 200
        jsonschema.validate(answer.json(), schema(document, answers["200"]["content"]["application/json"]["schema"]))
        ids += [answer.json()["id"]] if "id" in answer.json() else []
    for bad in ({"row": {}}, {"rows": []}, {}, {"row": signature.example_row() | {"foreign": 1}}):
        assert not validator.is_valid(bad)
        answer = client.post("/v1/predict", json=bad)
        problem = answers[str(answer.status_code)]["content"][answer.headers["content-type"]]["schema"]
        jsonschema.validate(answer.json(), schema(document, problem))
    feedback = document["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    actual = client.post("/v1/predict", json={"row": signature.example_row()}).json()["prediction"]
    jsonschema.validate({"id": ids[0], "actual": actual}, schema(document, feedback))


def test_there_is_a_document_before_there_is_a_model(empty_client: httpx.Client) -> None:
    assert "/v1/predict" in empty_client.get("/openapi.json").json()["paths"]


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
