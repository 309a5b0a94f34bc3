from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from project.models.registry import Registry
from project.settings import PREFIX, Settings
from project.store import keys
from project.store.database import Store


@pytest.fixture
def refused(start: Any) -> Callable[..., str]:
    """Run a command that must fail, and return its one sentence."""

    def run(settings: Settings, *arguments: str, **environment: str) -> str:
        process = start(settings, *arguments, **environment)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 1
        assert not out
        assert "Traceback" not in error
        lines: list[str] = error.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


def test_it_says_where_it_is_and_answers_there(champion: Settings, served: Any) -> None:
    with served(champion) as (address, _, said):
        assert Registry(champion).resolve("champion") in said
        assert f"{address}/docs" in said
        for path in re.findall(rf"{address}(/\S+)", said):
            assert httpx.get(f"{address}{path}", follow_redirects=True, trust_env=False).status_code in (200, 404)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_it_may_have_more_files_open_than_is_usual(champion: Settings, served: Any) -> None:
    import resource

    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, most))  # what is started has it, too
    try:
        with served(champion) as (address, process, _):
            given = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0]
            assert httpx.get(f"{address}/health/live", trust_env=False).status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    assert 512 < given <= 10_000


def test_without_a_champion_it_starts_and_says_what_is_missing(settings: Settings, served: Any) -> None:
    with served(settings) as (address, _, said):
        assert "model promote" in said
        assert httpx.get(f"{address}/health/ready", trust_env=False).status_code == 503


def test_a_port_in_use(settings: Settings, refused: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is in use" in refused(settings, "serve", "--port", port)


def test_beyond_loopback_it_wants_keys(settings: Settings, refused: Any) -> None:
    assert f"`{settings.project.slug} key create" in refused(settings, "serve", "--host", "0.0.0.0", "--port", "0")


def test_a_store_that_cannot_be_written(settings: Settings, refused: Any) -> None:
    url = "sqlite:////proc/nowhere/store.db"
    message = refused(settings, "serve", "--port", "0", **{f"{PREFIX}STORE__URL": url})
    assert "/proc/nowhere/store.db" in message


def test_a_host_that_is_not_here(settings: Settings, refused: Any) -> None:
    with Store(settings) as store:
        keys.create(store, "somebody", ["predict"], "test")
    assert "--host" in refused(settings, "serve", "--host", "192.0.2.1", "--port", "0")


def test_a_new_key_opens_the_service_beyond_loopback(champion: Settings, served: Any, start: Any) -> None:
    out, _ = start(champion, "key", "create", "shop", "--scope", "read").communicate(timeout=60)
    with served(champion, "--host", "0.0.0.0") as (address, _, _):
        asked = f"{address.replace('0.0.0.0', '127.0.0.1')}/v1/model"
        assert httpx.get(asked, trust_env=False).status_code == 401
        assert httpx.get(asked, headers={"X-API-Key": out.strip()}, trust_env=False).status_code == 200


def test_workers_allow_a_key_its_rate_together(champion: Settings, served: Any) -> None:
    with Store(champion) as store:
        _, key = keys.create(store, "slow", ["read"], "test", rate=0.0001)
    with served(champion, "--workers", "2") as (address, _, _):
        statuses = [
            httpx.get(f"{address}/v1/model", headers={"X-API-Key": key}, trust_env=False).status_code for _ in range(30)
        ]
    assert sorted(statuses) == [200] + [429] * 29
