"""Tokens of an issuer: a real one on loopback, which publishes its keys and signs with them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from typing import Any

import pytest

from project.errors import ProjectError
from project.serving.answers import Answer
from project.serving.security import Guard, check_exposure, tokens
from project.settings import Settings
from project.store import keys
from project.store.database import Store

AUDIENCE = "api://predictions"


class Issuer:
    """Publishes keys and makes tokens; ``stop`` and ``begin`` take it away and bring it back."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa

        self.private = {name: rsa.generate_private_key(65537, 2048) for name in ("first", "second", "foreign")}
        self.published = ["first"]
        self.more: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.claimed = ""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                known = {"/.well-known/openid-configuration": issuer.described, "/keys": issuer.keys}
                body = json.dumps(known[self.path]()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._handler = Handler
        self.begin(0)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def begin(self, port: int) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> int:
        self.server.shutdown()
        self.server.server_close()
        return self.server.server_port

    def described(self) -> dict[str, str]:
        return {"issuer": self.claimed or self.url, "jwks_uri": f"{self.url}/keys"}

    def keys(self) -> dict[str, Any]:
        from jwt.algorithms import RSAAlgorithm

        made = [
            {**RSAAlgorithm.to_jwk(self.private[name].public_key(), as_dict=True), "kid": name, "use": "sig"}
            for name in self.published
        ]
        return {"keys": [*made, *self.more]}

    def pem(self, name: str) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self.private[name].public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def token(self, name: str = "first", kid: str | None = None, **claims: Any) -> bytes:
        import jwt

        stated = {"iss": self.url, "aud": AUDIENCE, "exp": time() + 300, "sub": "robot", "scope": "openid read"}
        stated = {key: value for key, value in {**stated, **claims}.items() if value is not None}
        return jwt.encode(stated, self.private[name], "RS256", {"kid": kid or name}).encode()


@pytest.fixture
def issuer(needs_extra: Callable[[str], Any]) -> Iterator[Issuer]:
    needs_extra("jwt")
    issuer = Issuer()
    yield issuer
    issuer.stop()


def trusting(settings: Settings, issuer: str, **more: Any) -> Settings:
    changed = {"issuer": issuer, "audience": AUDIENCE, "follow_seconds": 0.02, **more}
    return settings.model_copy(update={"serving": settings.serving.model_copy(update=changed)})


@pytest.fixture
def guard(settings: Settings, issuer: Issuer) -> Iterator[Guard]:
    """One that has read the issuer's keys."""
    with Store(settings) as store:
        guard = Guard(trusting(settings, issuer.url), store)
        guard.refresh()
        yield guard


def status(guard: Guard, token: bytes, scope: Any = "read") -> int:
    answer = guard.admit("GET", scope, {b"host": b"localhost", b"authorization": b"Bearer " + token})
    return answer.status if isinstance(answer, Answer) else 200


def detail(guard: Guard, token: bytes) -> str:
    answer = guard.admit("GET", "read", {b"host": b"localhost", b"authorization": b"Bearer " + token})
    assert isinstance(answer, Answer)
    assert answer.status == 401
    assert (b"www-authenticate", b'Bearer error="invalid_token"') in answer.headers
    found: str = json.loads(answer.body)["detail"]
    return found


def test_a_token_opens_what_its_scopes_say(guard: Guard, issuer: Issuer) -> None:
    assert guard.admit("GET", "read", {b"host": b"localhost", b"authorization": b"Bearer " + issuer.token()}) == "robot"
    assert status(guard, issuer.token(), "predict") == 403
    assert status(guard, issuer.token(scope="predict read"), "predict") == 200
    assert status(guard, issuer.token(scope=["predict"]), "predict") == 200
    assert status(guard, issuer.token(scope="admin"), "predict") == 200
    for nothing in (None, "", "reader", 5, {"read": True}, [["read"]]):
        assert status(guard, issuer.token(scope=nothing)) == 403
    assert status(guard, issuer.token(aud=["other", AUDIENCE])) == 200
    assert status(guard, b"") == 401


def test_clocks_may_differ_by_a_minute(guard: Guard, issuer: Issuer) -> None:
    assert status(guard, issuer.token(exp=time() - 30)) == 200
    assert status(guard, issuer.token(nbf=time() + 30)) == 200
    assert "has expired" in detail(guard, issuer.token(exp=time() - 90))
    assert "not valid yet" in detail(guard, issuer.token(nbf=time() + 90))


def test_tokens_that_are_not_for_this_service(guard: Guard, issuer: Issuer) -> None:
    assert "another audience" in detail(guard, issuer.token(aud="other"))
    assert "another issuer" in detail(guard, issuer.token(iss="https://evil.example"))
    for claim in ("exp", "iss", "aud"):
        assert claim in detail(guard, issuer.token(**{claim: None}))


def test_tokens_that_the_issuer_did_not_sign(guard: Guard, issuer: Issuer) -> None:
    import jwt

    good = issuer.token()
    head, body, signature = good.split(b".")
    claims = {"iss": issuer.url, "aud": AUDIENCE, "exp": time() + 300, "scope": "admin"}
    forged = [
        issuer.token("foreign", kid="first"),
        jwt.encode(claims, None, "none", {"kid": "first"}).encode(),
        _hmac(claims, issuer.pem("first")),
        b".".join((head, jwt.utils.base64url_encode(json.dumps(claims).encode()), signature)),
        b".".join((head, body, signature[:-8] + b"AAAAAAAA")),
        b".".join((head, body, b"")),
        b".".join((head, body)),
        b"a.b.c",
        b"\xff.\xfe.\xfd",
        b"." * 1000,
        jwt.utils.base64url_encode(b"[" * 30_000) + b".e30.e30",
        jwt.utils.base64url_encode(b'{"alg":"RS256","kid":["first"]}') + b".e30.e30",
    ]
    for token in forged:
        assert "cannot be verified" in detail(guard, token)
    assert status(guard, good) == 200


def _hmac(claims: dict[str, Any], secret: bytes) -> bytes:
    """Sign with what everybody knows, as an attacker does; the library itself refuses to."""
    import hashlib
    import hmac

    from jwt.utils import base64url_encode

    parts = [{"alg": "HS256", "typ": "JWT", "kid": "first"}, claims]
    text = b".".join(base64url_encode(json.dumps(part).encode()) for part in parts)
    return text + b"." + base64url_encode(hmac.new(secret, text, hashlib.sha256).digest())


def test_a_key_that_is_no_public_one_is_not_used(settings: Settings, issuer: Issuer) -> None:
    from jwt.utils import base64url_encode

    secret = b"0" * 32
    issuer.more = [{"kty": "oct", "kid": "first", "alg": "HS256", "k": base64url_encode(secret).decode()}]
    issuer.published = ["second"]
    with Store(settings) as store:
        guard = Guard(trusting(settings, issuer.url), store)
        guard.refresh()
        claims = {"iss": issuer.url, "aud": AUDIENCE, "exp": time() + 300, "scope": "admin"}
        assert "cannot be verified" in detail(guard, _hmac(claims, secret))
        assert status(guard, issuer.token("second")) == 200


def test_nothing_is_fetched_from_where_a_token_says(guard: Guard, issuer: Issuer) -> None:
    import jwt

    before = list(issuer.asked)
    away = {"kid": "new", "jku": f"{issuer.url}/evil", "x5u": f"{issuer.url}/evil"}
    claims = {"iss": f"{issuer.url}/evil", "aud": AUDIENCE, "exp": time() + 300}
    assert "cannot be verified" in detail(guard, jwt.encode(claims, issuer.private["foreign"], "RS256", away).encode())
    assert issuer.asked == before


def test_a_new_key_of_the_issuer_is_found_and_an_old_one_forgotten(
    settings: Settings, issuer: Issuer, serving: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "SOON", 0.05)
    with serving(trusting(settings, issuer.url)) as client:

        def answered(token: bytes) -> int:
            found: int = client.get("/docs", headers={b"Authorization": b"Bearer " + token}).status_code
            return found

        old, new = issuer.token(), issuer.token("second")
        assert answered(old) == 200
        issuer.published = ["second"]
        until(lambda: answered(new) == 200)
        until(lambda: answered(old) == 401)


def test_unknown_keys_do_not_make_it_ask_all_the_time(guard: Guard, issuer: Issuer) -> None:
    before = len(issuer.asked)
    for number in range(50):
        assert status(guard, issuer.token("foreign", kid=f"unknown-{number}")) == 401
        guard.refresh()
    assert len(issuer.asked) == before


def test_without_the_issuer_it_starts_and_goes_on_once_it_is_back(
    champion: Settings, issuer: Issuer, serving: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "SOON", 0.05)
    port = issuer.stop()
    with Store(champion) as store:
        _, key = keys.create(store, "shop", ["read"], "test")
    headers = {b"Authorization": b"Bearer " + issuer.token()}
    with serving(trusting(champion, issuer.url)) as client:
        assert client.get("/health/ready").status_code == 200
        refused = client.get("/v1/model", headers=headers)
        assert refused.status_code == 503
        assert refused.json()["code"] == "issuer"
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/v1/model").status_code == 401
        assert client.get("/v1/model", headers={"X-API-Key": key}).status_code == 200
        issuer.begin(port)
        until(lambda: client.get("/v1/model", headers=headers).status_code == 200)
        issuer.stop()
        assert (
            client.get("/v1/model", headers={b"Authorization": b"Bearer " + issuer.token(jti="2")}).status_code == 200
        )
        issuer.begin(port)


def test_an_issuer_that_calls_itself_otherwise_is_not_believed(settings: Settings, issuer: Issuer) -> None:
    issuer.claimed = "https://other.example"
    with Store(settings) as store:
        guard = Guard(trusting(settings, issuer.url), store)
        guard.refresh()
        assert status(guard, issuer.token()) == 503


def test_what_an_issuer_needs(settings: Settings, monkeypatch: pytest.MonkeyPatch, needs_extra: Any) -> None:
    needs_extra("jwt")
    for host in ("127.0.0.1", "0.0.0.0"):
        check_exposure(trusting(settings, "https://issuer.example"), host)
        with pytest.raises(ProjectError, match=r"serving\.audience"):
            check_exposure(trusting(settings, "https://issuer.example", audience=""), host)
    monkeypatch.setitem(__import__("sys").modules, "jwt", None)
    with pytest.raises(ProjectError, match="extra `jwt`"):
        check_exposure(trusting(settings, "https://issuer.example"), "127.0.0.1")
