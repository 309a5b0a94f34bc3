from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from project.errors import ProjectError
from project.serving.security import check_exposure, new_key
from project.settings import Settings

KEY, DIGEST = new_key()


def with_keys(settings: Settings, *digests: str) -> Settings:
    return settings.model_copy(update={"serving": settings.serving.model_copy(update={"key_hashes": digests})})


@pytest.fixture
def locked(champion: Settings, serving: Any) -> Iterator[httpx.Client]:
    with serving(with_keys(champion, new_key()[1], DIGEST)) as client:
        yield client


ROUTES = [
    ("GET", "/v1/model"),
    ("POST", "/v1/model"),
    ("POST", "/status"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("HEAD", "/docs"),
    ("OPTIONS", "/v1/model"),
    ("GET", "/nowhere"),
]


def test_hot_and_cold_routes_want_the_same_key(locked: httpx.Client) -> None:
    refused: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {DIGEST}"},
        {"X-API-Key": "wrong"},
    ]
    for method, path in ROUTES:
        for headers in refused:
            answer = locked.request(method, path, headers=headers)
            assert answer.status_code == 401
            page = method in ("GET", "HEAD") and not path.startswith("/v1/")
            assert answer.headers["www-authenticate"].startswith("Basic realm=" if page else "Bearer")
            assert method == "HEAD" or answer.json()["code"] == "unauthorized"
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}):
            assert locked.request(method, path, headers=headers).status_code != 401


def basic(password: str, user: str = "anyone") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def test_a_browser_opens_pages_with_the_key_as_password(locked: httpx.Client) -> None:
    for path in ("/docs", "/openapi.json", "/metrics"):
        for user in ("anyone", "", "é"):
            assert locked.get(path, headers=basic(KEY, user)).status_code == 200
            assert locked.head(path, headers=basic(KEY, user)).status_code == 200
        for password in ("", "wrong", DIGEST):
            assert locked.get(path, headers=basic(password)).status_code == 401
    assert locked.get("/nowhere", headers=basic(KEY)).status_code == 404
    for broken in (b"Basic", b"Basic a", b"Basic \xe9", b"Basic ===="):
        assert locked.get("/docs", headers={b"Authorization": broken}).status_code == 401


def test_other_sites_cannot_use_what_a_browser_remembers(locked: httpx.Client) -> None:
    for method, path in (("GET", "/v1/model"), ("POST", "/v1/model"), ("POST", "/docs"), ("DELETE", "/nowhere")):
        answer = locked.request(method, path, headers=basic(KEY))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


def test_probes_need_no_key(locked: httpx.Client) -> None:
    assert locked.get("/health/live").status_code == 200
    assert locked.get("/health/ready").status_code == 200


def test_the_api_document_names_the_key(locked: httpx.Client) -> None:
    document = locked.get("/openapi.json", headers={"X-API-Key": KEY}).json()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert document["paths"]["/health/live"]["get"]["security"] == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.com", "127.0.0.1.example.com"])
def test_other_machines_are_let_in_only_with_keys(settings: Settings, host: str) -> None:
    with pytest.raises(ProjectError, match=f"{settings.project.slug} key"):
        check_exposure(settings, host)
    check_exposure(with_keys(settings, DIGEST), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_loopback_needs_no_key(settings: Settings, host: str) -> None:
    check_exposure(settings, host)


def test_every_answer_protects_a_browser(client: httpx.Client) -> None:
    for method, path in [*ROUTES, ("GET", "/health/live"), ("GET", "/v1/model")]:
        headers = client.request(method, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_request_id_is_echoed_if_it_is_safe(client: httpx.Client) -> None:
    for path in ("/v1/model", "/health/live", "/nowhere"):
        assert client.post(path, headers={"X-Request-ID": "a-1.b:c"}).headers["x-request-id"] == "a-1.b:c"
        for unsafe in ("", "x" * 65, "a b", "<script>", "a\tb"):
            assert "x-request-id" not in client.post(path, headers={"X-Request-ID": unsafe}).headers


def test_refusals_of_cold_routes_are_problem_documents(client: httpx.Client) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("POST", "/health/live", 405), ("DELETE", "/docs", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
    assert client.post("/health/live").headers["allow"] == "GET"


def test_head_and_options_of_cold_routes(client: httpx.Client) -> None:
    head = client.head("/health/live")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == "13"
    assert client.options("/health/live").status_code == 204


def test_a_fault_of_ours_tells_nothing(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("project.serving.app.openapi.answer", broken)
    answer = client.get("/openapi.json")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "hunter2" not in answer.text
    assert "x-content-type-options" in answer.headers
    assert client.get("/health/live").status_code == 200
