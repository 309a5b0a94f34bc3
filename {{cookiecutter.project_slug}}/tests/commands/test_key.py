"""`key` as people type it, and what `doctor` says of the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from project.commands import build
from project.errors import ProjectError
from project.settings import PREFIX, Settings

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command inside a fresh project."""
    monkeypatch.chdir(settings.root)

    def call(*words: str, **changed: str) -> Result:
        for name, value in changed.items():
            monkeypatch.setenv(f"{PREFIX}SERVING__{name.upper()}", value)
        return CliRunner().invoke(build(), words)

    return call


def test_a_key_alone_stands_on_standard_output(run: Run) -> None:
    made = run("key", "create", "the shop", "--scope", "predict", "--scope", "read", "--rate", "5", "--expires", "90")
    assert made.exit_code == 0
    mark, identity, secret = made.stdout.strip().split("_")
    assert mark == "mskey"
    assert "the shop: predict read, until" in made.stderr
    assert secret not in made.stderr
    listed = run("key", "list").stdout
    assert secret not in listed
    for shown in (identity, "the shop", "predict read", "5/s", "active"):
        assert shown in listed


def test_revoke_and_rotate(run: Run) -> None:
    first = run("key", "create", "shop", "--scope", "read").stdout.strip()
    second = run("key", "rotate", first.split("_")[1], "--grace", "24").stdout.strip()
    third = run("key", "rotate", second.split("_")[1]).stdout.strip()
    assert len({first, second, third}) == 3
    assert "is revoked" in run("key", "revoke", third.split("_")[1]).stdout
    lines = run("key", "list").stdout.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == ["active", "revoked", "revoked"]
    assert ["never" in line for line in lines] == [False, True, True]


def test_what_is_wrong_is_one_sentence(run: Run) -> None:
    assert "no keys yet" in run("key", "list").stdout
    for words, sentence in (
        (("create", "a", "--scope", "write"), "predict, read, admin"),
        (("revoke", "nothing"), "key list"),
        (("rotate", "nothing"), "key list"),
    ):
        error = run("key", *words).exception
        assert isinstance(error, ProjectError)
        assert sentence in str(error)
    assert run("key", "create", "a").exit_code == 2


def doctor(result: Any) -> str:
    return "\n".join(line for line in result.stdout.splitlines() if " service: " in line)


def test_doctor_says_what_is_open_to_whom(run: Run) -> None:
    said = doctor(run("doctor"))
    assert "http://127.0.0.1:8000 is open to callers from this machine, with no key at all" in said
    assert "answers to localhost, 127.0.0.1, [::1]" in said
    assert "16 MB" in said
    assert "warn" not in said
    run("key", "create", "a", "--scope", "predict", "--rate", "5")
    identity = run("key", "create", "b", "--scope", "read").stdout.split("_")[1]
    run("key", "revoke", identity)
    said = doctor(run("doctor", trusted_hosts='["*.example.com"]', cors_origins='["https://example.org"]'))
    assert "with 1 keys" in said
    assert "keys: 1 predict, 0 read, 0 admin; 1 with a rate, 1 ended" in said
    assert "*.example.com" in said
    assert "https://example.org" in said
    assert "warn" not in said


def test_doctor_warns_of_a_proxy_that_opens_the_service_to_all(run: Run) -> None:
    for names, warned in (('["localhost"]', False), ('["api.example.com"]', True), ('["*"]', True)):
        assert ("whoever reaches a proxy" in doctor(run("doctor", trusted_hosts=names))) is warned
    run("key", "create", "a", "--scope", "predict")
    assert "warn" not in doctor(run("doctor"))


def test_doctor_warns_of_what_is_seldom_meant(run: Run) -> None:
    key = run("key", "create", "boss", "--scope", "admin").stdout.split("_")[1]
    soon = run("key", "create", "soon", "--scope", "read", "--expires", "7").stdout.split("_")[1]
    said = doctor(run("doctor", host="0.0.0.0", cors_origins='["*"]'))
    assert "answers to any host name" in said
    warned = [line for line in said.splitlines() if line.startswith("warn ")]
    assert len(warned) == 4
    for line, words in zip(warned, ("in the clear", "any website", f"admin key {key}", f"rotate {soon}"), strict=True):
        assert words in line


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"host": "0.0.0.0"}, "key create NAME"),
        ({"cors_origins": '["*"]'}, "every website"),
        ({"tls_key": "key.pem"}, "tls_certificate and"),
        ({"tls_key": "key.pem", "tls_certificate": "certificate.pem"}, "certificate.pem"),
    ],
)
def test_doctor_says_why_the_service_would_not_start(run: Run, changed: dict[str, str], sentence: str) -> None:
    said = doctor(run("doctor", **changed))
    assert said.startswith("wrong service: ")
    assert sentence in said
