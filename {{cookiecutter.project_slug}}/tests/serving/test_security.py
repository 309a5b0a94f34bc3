"""Keys, scopes, websites and host names, as callers meet them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import Any

import httpx
import pytest

from project.errors import ProjectError
from project.serving import app
from project.serving.security import Guard
from project.settings import Settings
from project.store import keys
from project.store.database import Store


def change(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update={"serving": settings.serving.model_copy(update=values)})


def new_key(settings: Settings, *scopes: str, **more: Any) -> tuple[str, str]:
    """Make a key; gives its id and itself."""
    with Store(settings) as store:
        key, text = keys.create(store, "somebody", scopes or ["read"], "test", **more)
    return key.id, text


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def key(champion: Settings) -> str:
    """A key that may do all; there are others beside it."""
    new_key(champion, "predict")
    return new_key(champion, "admin")[1]


@pytest.fixture
def locked(champion: Settings, key: str, serving: Any) -> Iterator[httpx.Client]:
    with serving(champion) as client:
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


def test_hot_and_cold_routes_want_the_same_key(locked: httpx.Client, key: str) -> None:
    refused: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {key}"},
        {"Authorization": f"Bearer {key[:-1]}"},
        {"Authorization": key},
        {"X-API-Key": "wrong"},
    ]
    for method, path in ROUTES:
        for headers in refused:
            answer = locked.request(method, path, headers=headers)
            assert answer.status_code == 401
            page = method in ("GET", "HEAD") and not path.startswith("/v1/")
            assert answer.headers["www-authenticate"].startswith("Basic realm=" if page else "Bearer")
            assert method == "HEAD" or answer.json()["code"] == "unauthorized"
        for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"X-API-Key": key}):
            assert locked.request(method, path, headers=headers).status_code != 401


def basic(password: str, user: str = "anyone") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def test_a_browser_opens_pages_with_the_key_as_password(locked: httpx.Client, key: str) -> None:
    for path in ("/docs", "/openapi.json", "/metrics"):
        for user in ("anyone", "", "é"):
            assert locked.get(path, headers=basic(key, user)).status_code == 200
            assert locked.head(path, headers=basic(key, user)).status_code == 200
        for password in ("", "wrong", key[:-1]):
            assert locked.get(path, headers=basic(password)).status_code == 401
    assert locked.get("/nowhere", headers=basic(key)).status_code == 404
    for broken in (b"Basic", b"Basic a", b"Basic \xe9", b"Basic ===="):
        assert locked.get("/docs", headers={b"Authorization": broken}).status_code == 401


def test_other_sites_cannot_use_what_a_browser_remembers(locked: httpx.Client, key: str) -> None:
    for method, path in (("GET", "/v1/model"), ("POST", "/v1/model"), ("POST", "/docs"), ("DELETE", "/nowhere")):
        answer = locked.request(method, path, headers=basic(key))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_beside_the_token_of_a_gateway(locked: httpx.Client, key: str) -> None:
    gateway = {"Authorization": "Bearer of-the-gateway"}
    assert locked.get("/v1/model", headers=gateway | {"X-API-Key": key}).status_code == 200
    assert locked.get("/v1/model", headers=gateway).status_code == 401


def test_probes_need_no_key(locked: httpx.Client) -> None:
    assert locked.get("/health/live").status_code == 200
    assert locked.get("/health/ready").status_code == 200


def test_the_api_document_names_the_key(locked: httpx.Client, key: str) -> None:
    document = locked.get("/openapi.json", headers={"X-API-Key": key}).json()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert document["paths"]["/health/live"]["get"]["security"] == []


def test_a_scope_opens_what_it_says(champion: Settings, serving: Any, row: dict[str, Any]) -> None:
    asked = {
        "predict": ("POST", "/v1/predict", {"row": row}),
        "read": ("GET", "/v1/model", None),
        "none": ("GET", "/health/ready", None),
    }
    if not (Path(app.__file__).parent / "routes/predict.py").is_file():  # a project that only works in batches
        del asked["predict"]
    made = {scope: new_key(champion, scope)[1] for scope in keys.SCOPES}
    with serving(champion) as client:
        for scope, key in made.items():
            for needed, (method, path, body) in asked.items():
                answer = client.request(method, path, json=body, headers=bearer(key))
                if scope in (needed, "admin") or needed == "none":
                    assert answer.status_code == 200
                    continue
                assert answer.status_code == 403
                assert answer.json()["code"] == "forbidden"
                assert f"scope {needed}" in answer.json()["detail"]
                assert f'scope="{needed}"' in answer.headers["www-authenticate"]


def test_keys_are_followed_without_a_new_start(champion: Settings, serving: Any, until: Callable[..., None]) -> None:
    with serving(change(champion, follow_seconds=0.02)) as client, Store(champion) as store:

        def status(key: str = "") -> int:
            found: int = client.get("/v1/model", headers=bearer(key) if key else {}).status_code
            return found

        assert status() == 200
        identity, key = new_key(champion)
        until(lambda: status() == 401)
        until(lambda: status(key) == 200)
        second, text = keys.rotate(store, identity, "test")
        until(lambda: status(key) == 401)
        assert status(text) == 200
        keys.revoke(store, second.id)
        until(lambda: status(text) == 401)
        assert status() == 401  # the last key is gone, but the service does not open again


def test_a_key_that_expires_is_refused_at_that_moment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = new_key(settings, days=1)
    headers = {b"x-api-key": key.encode()}
    with Store(settings) as store:
        guard = Guard(settings, store)
        guard.refresh()
        assert status(guard, headers) == 200
        monkeypatch.setattr("project.serving.security.guard.time", lambda: time() + 86_401)
        assert status(guard, headers) == 401


def status(guard: Guard, headers: dict[bytes, bytes]) -> int:
    answer = guard.admit("GET", "read", {b"host": b"localhost", **headers})
    return 200 if isinstance(answer, str) else answer.status


def test_keys_stay_good_while_the_store_is_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = new_key(settings)

    def away(_: Store) -> None:
        raise ProjectError("away")

    with Store(settings) as store:
        early = Guard(settings, store)
        assert status(early, {}) == 401
        guard = Guard(settings, store)
        guard.refresh()
        with monkeypatch.context() as gone:
            gone.setattr(keys, "known", away)
            for each in (early, guard):
                each.refresh()
                assert status(each, {}) == 401  # nobody is let in because nothing is known
            assert status(guard, {b"x-api-key": key.encode()}) == 200
        early.refresh()
        assert status(early, {b"x-api-key": key.encode()}) == 200


def test_beyond_loopback_nobody_is_let_in_without_a_key_whatever_the_store_says(settings: Settings) -> None:
    with Store(settings) as store:
        guard = Guard(change(settings, host="0.0.0.0"), store)
        guard.refresh()
        assert status(guard, {}) == 401


def test_a_password_of_a_page_is_not_remembered_for_the_api(settings: Settings) -> None:
    _, key = new_key(settings)
    headers = {b"host": b"localhost", b"authorization": basic(key)["Authorization"].encode()}
    with Store(settings) as store:
        guard = Guard(settings, store)
        guard.refresh()
        assert guard.admit("GET", "read", headers, page=True) == "somebody"
        assert status(guard, headers) == 401
        assert guard.admit("GET", "read", {**headers, b"x-api-key": key.encode()}) == "somebody"
        assert status(guard, headers) == 401


def test_websites_that_are_named_may_call(champion: Settings, serving: Any) -> None:
    shop, _, key = "https://shop.example", *new_key(champion)
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving(change(champion, cors_origins=(shop, "http://localhost:3000"))) as client:
        for path in ("/v1/predict", "/v1/model", "/health/ready", "/nowhere"):
            welcome = client.options(path, headers={"Origin": shop, **asks})
            assert welcome.status_code == 204
            assert welcome.headers["access-control-allow-origin"] == shop
            assert "authorization" in welcome.headers["access-control-allow-headers"]
            assert "POST" in welcome.headers["access-control-allow-methods"]
            for stranger in ("https://other.example", "http://shop.example", f"{shop}.evil.example", "null", "*"):
                refused = client.options(path, headers={"Origin": stranger, **asks})
                assert refused.status_code == 403
                assert refused.json()["code"] == "origin"
                assert "access-control-allow-origin" not in refused.headers
        for path, given in (("/v1/model", bearer(key)), ("/v1/model", {}), ("/nowhere", {}), ("/health/ready", {})):
            answer = client.get(path, headers={"Origin": shop, **given})
            assert answer.headers["access-control-allow-origin"] == shop
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in answer.headers
            other = client.get(path, headers={"Origin": "https://other.example", **given})
            assert "access-control-allow-origin" not in other.headers
            assert answer.headers["vary"] == other.headers["vary"] == "origin"
        assert client.options("/v1/model", headers={"Origin": shop}).status_code == 401  # that is no preflight


def test_without_a_list_no_website_may_call(client: httpx.Client) -> None:
    asks = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    for answer in (client.options("/v1/predict", headers=asks), client.get("/v1/model", headers=asks)):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_website_may_call(champion: Settings, serving: Any) -> None:
    new_key(champion)
    with serving(change(champion, cors_origins=("*",))) as client:
        assert (
            client.get("/v1/model", headers={"Origin": "https://a.example"}).headers["access-control-allow-origin"]
            == "*"
        )


def test_only_hosts_that_are_named_are_answered(champion: Settings, serving: Any) -> None:
    names = ("127.0.0.1", "*.example.com", "[::1]")
    with serving(change(champion, trusted_hosts=names)) as client:
        for good in ("127.0.0.1", "127.0.0.1:1", "a.example.com", "a.b.example.com:443", "A.Example.COM", "[::1]:8000"):
            assert client.get("/v1/model", headers={"Host": good}).status_code == 200
        for bad in ("example.com", "evil.example", "a.example.com.evil.example", "aexample.com", "127.0.0.1.evil", ""):
            answer = client.get("/v1/model", headers={"Host": bad})
            assert answer.status_code == 400
            assert answer.json()["code"] == "host"
            assert client.get("/health/live", headers={"Host": bad}).status_code == 200


def test_what_a_proxy_says_of_the_caller_changes_nothing(champion: Settings, serving: Any) -> None:
    headers = bearer(new_key(champion, "read", rate=0.01)[1])
    said = {"Forwarded": "for={0};host=a.example.com;proto=https", "X-Forwarded-For": "{0}", "X-Real-IP": "{0}"}
    said |= {"X-Forwarded-Host": "a.example.com", "X-Forwarded-Proto": "https"}
    with serving(change(champion, trusted_hosts=("a.example.com", "b.example.com"))) as client:
        found = []
        for number, host in enumerate(("evil.example", "a.example.com", "b.example.com", "a.example.com")):
            forwarded = {name: value.format(f"192.0.2.{number}") for name, value in said.items()}
            answer = client.get("/v1/model", headers={"Host": host, **headers, **forwarded})
            assert "strict-transport-security" not in answer.headers
            found.append(answer.status_code)
    assert found == [400, 200, 429, 429]


@pytest.mark.parametrize("locked", [False, True])
def test_on_loopback_a_website_cannot_pass_itself_off_as_this_machine(
    champion: Settings, serving: Any, locked: bool
) -> None:
    headers = bearer(new_key(champion, "admin")[1]) if locked else {}
    with serving(champion) as client:
        for good in ("localhost", "LocalHost:8000", "127.0.0.1:80", "[::1]:8000"):
            assert client.get("/v1/model", headers={"Host": good, **headers}).status_code == 200
        for bad in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil", "192.0.2.1", ""):
            for method, path in (("POST", "/v1/predict"), ("GET", "/v1/model"), ("GET", "/docs"), ("GET", "/status")):
                answer = client.request(method, path, headers={"Host": bad, **headers})
                assert (answer.status_code, answer.json()["code"]) == (400, "host"), path
            assert client.get("/health/live", headers={"Host": bad}).status_code == 200


@pytest.mark.parametrize(
    ("values", "good", "bad"),
    [
        ({"host": "127.3.2.1"}, "127.3.2.1:8000", "evil.example"),
        ({"host": "::1"}, "[::1]", "evil.example"),
        ({"trusted_hosts": ("example.com",)}, "example.com", "localhost"),
        ({"trusted_hosts": ("*",)}, "evil.example", None),
        ({"host": "0.0.0.0"}, "evil.example", None),
    ],
)
def test_the_names_of_a_service(settings: Settings, values: dict[str, Any], good: str, bad: str | None) -> None:
    headers = {b"x-api-key": new_key(settings)[1].encode()}
    with Store(settings) as store:
        guard = Guard(change(settings, **values), store)
        guard.refresh()
        assert status(guard, {b"host": good.encode(), **headers}) == 200
        assert bad is None or status(guard, {b"host": bad.encode(), **headers}) == 400


def test_every_answer_protects_a_browser(client: httpx.Client) -> None:
    for method, path in [*ROUTES, ("GET", "/health/live"), ("GET", "/v1/model")]:
        headers = client.request(method, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src '" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        if path.startswith("/v1/"):
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["cache-control"] == "no-store"


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
    assert client.post("/health/live").headers["allow"] == "GET, HEAD, OPTIONS"


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
