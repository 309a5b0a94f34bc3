"""A new champion takes over while requests are answered: none fails, and none waits for the load."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from project.errors import ProjectError
from project.models.registry import Registry
from project.settings import Settings

PATH = "/v1/predict"


def version(client: httpx.Client, row: dict[str, Any]) -> str:
    answer = client.post(PATH, json={"row": row})
    assert answer.status_code == 200
    found: str = answer.json()["model_version"]
    return found


def test_no_request_fails_while_the_champion_changes(
    champion: Settings, client: httpx.Client, row: dict[str, Any], first: str, other: str, until: Any
) -> None:
    registry, done = Registry(champion), threading.Event()
    answers: list[tuple[int, str]] = []

    def load() -> None:
        with httpx.Client(base_url=client.base_url, trust_env=False) as caller:
            while not done.is_set():
                answer = caller.post(PATH, json={"row": row})
                answers.append((answer.status_code, answer.json().get("model_version")))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for target in (other, first) * 3:
            registry.point("champion", target)
            until(lambda target=target: answers[-1:] == [(200, target)])
    finally:
        done.set()
        thread.join()
    assert set(answers) == {(200, first), (200, other)}


def test_every_worker_follows(champion: Settings, served: Any, row: dict[str, Any], other: str, until: Any) -> None:
    alone = {"Connection": "close"}  # a connection each: they go to either worker
    with (
        served(champion, "--workers", "2") as (address, _, _),
        httpx.Client(base_url=address, headers=alone, trust_env=False) as client,
    ):

        def followed() -> bool:
            return {version(client, row) for _ in range(20)} == {other}

        assert not followed()
        Registry(champion).point("champion", other)
        until(followed)


def test_a_rollback_loads_nothing(
    champion: Settings,
    client: httpx.Client,
    row: dict[str, Any],
    first: str,
    other: str,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry(champion)
    registry.point("champion", other)
    until(lambda: version(client, row) == other)
    monkeypatch.delattr(Registry, "load")
    registry.rollback()
    until(lambda: version(client, row) == first)


def test_a_registry_that_is_away_stops_nothing(
    champion: Settings,
    client: httpx.Client,
    row: dict[str, Any],
    first: str,
    other: str,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def away(self: Registry) -> object:
        raise ProjectError("the registry is away")

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "alias_stamp", away)
        until(lambda: "the registry is away" in client.get("/health/ready").json()["reason"])
        assert client.get("/health/ready").status_code == 200
        assert version(client, row) == first
        Registry(champion).point("champion", other)
    until(lambda: version(client, row) == other)
    assert client.get("/health/ready").json()["reason"] == ""
    assert capsys.readouterr().err.count("the registry is away") <= 1


@pytest.mark.parametrize("alias", ["canary", "shadow"])
def test_a_version_on_trial_that_does_not_load_is_reported_and_the_champion_answers(
    champion: Settings, serving: Any, row: dict[str, Any], first: str, other: str, alias: str
) -> None:
    registry = Registry(champion)
    registry.point(alias, other, share=1.0)
    (registry.versions_folder / other / "signature.json").write_bytes(b"{}")
    with serving(champion) as client:
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert other in ready.json()["reason"]
        assert version(client, row) == first
        assert alias not in client.get("/v1/model").json()
