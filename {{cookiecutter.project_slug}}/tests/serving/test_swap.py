from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import httpx
import pytest

from project.models import bundle
from project.models.registry import Registry
from project.settings import Settings


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    pause, deadline = threading.Event(), monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not happen in time"
        pause.wait(0.02)


@pytest.fixture
def other(champion: Settings) -> str:
    """A second version: the same model, imported at another time."""
    registry = Registry(champion)
    first = registry.load("champion")
    content = {name: (first.folder / name).read_bytes() for name in first.manifest["files"]}
    rest = {key: value for key, value in first.manifest.items() if key not in ("files", "format")}
    return bundle.write(registry.versions_folder, {**rest, "created": "2020-01-01T00:00:00Z"}, content).version


def test_a_new_champion_takes_over_while_every_request_is_answered(
    champion: Settings, client: httpx.Client, row: dict[str, Any], other: str
) -> None:
    registry = Registry(champion)
    first = registry.resolve("champion")
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(client.post("/v1/predict", json={"row": row}))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        until(lambda: len(answers) > 5)
        registry.point("champion", other)
        until(lambda: answers[-1].json()["model_version"] == other)
    finally:
        stop.set()
        asking.join()
    assert {answer.status_code for answer in answers} == {200}
    versions = [answer.json()["model_version"] for answer in answers]
    assert versions == sorted(versions, key=[first, other].index)
    assert client.get("/v1/model").json()["version"] == other
    assert client.get("/openapi.json").json()["info"]["version"] == other


def test_a_champion_that_does_not_load_leaves_the_old_one_in_service(
    champion: Settings, client: httpx.Client, row: dict[str, Any], other: str
) -> None:
    registry = Registry(champion)
    first = registry.resolve("champion")
    registry.point("champion", other)
    until(lambda: client.get("/v1/model").json()["version"] == other)
    shutil.rmtree(registry.versions_folder / first)
    alias = registry.folder / "aliases" / "champion"
    alias.write_text(f"{first}\n", encoding="ascii")
    until(lambda: bool(client.get("/health/ready").json()["reason"]))
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert first in ready.json()["reason"]
    assert client.post("/v1/predict", json={"row": row}).json()["model_version"] == other
    assert "model_load_failures_total 0.0" not in client.get("/metrics").text


def test_the_first_champion_is_picked_up_by_a_running_service(
    champion: Settings, row: dict[str, Any], serving: Any
) -> None:
    registry = Registry(champion)
    version = registry.resolve("champion")
    (registry.folder / "aliases" / "champion").unlink()
    with serving(champion) as client:
        assert client.get("/health/ready").status_code == 503
        assert client.post("/v1/predict", json={"row": row}).status_code == 503
        registry.point("champion", version)
        until(lambda: client.get("/health/ready").status_code == 200)
        assert client.post("/v1/predict", json={"row": row}).status_code == 200


def test_a_project_without_a_route_file_is_whole(
    champion: Settings, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from project.serving import app

    found = app.pkgutil.iter_modules
    monkeypatch.setattr(
        app.pkgutil,
        "iter_modules",
        lambda path: [item for item in found(path) if item.name not in ("predict", "feedback")],
    )
    with serving(champion) as client:
        assert client.post("/v1/predict", json={}).status_code == 404
        assert client.get("/openapi.json").status_code == 200
        assert client.get("/health/ready").status_code == 200
