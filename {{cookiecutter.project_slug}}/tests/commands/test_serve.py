from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

import project
from project.models.registry import Registry
from project.settings import PREFIX, Settings
from project.store import queries
from project.store.database import Store


def start(settings: Settings, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", project.__name__, *arguments],
        cwd=settings.root,
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(settings: Settings, *arguments: str, **environment: str) -> str:
    """Run a command that must fail, and return its one sentence."""
    process = start(settings, *arguments, **environment)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert not out
    assert "Traceback" not in error
    lines = error.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@contextmanager
def served(settings: Settings, *arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str], str]]:
    """Start the service, give its address once it says that it listens, and see that it ends well."""
    process = start(settings, "serve", "--port", "0", *arguments, **environment)
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        address = re.search(r"http://\S+:\d+", "".join(said))
        assert address, process.communicate(timeout=60)
        yield address[0], process, "".join(said)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert "Traceback" not in error
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def row(champion: Settings) -> dict[str, Any]:
    return Registry(champion).load("champion").signature.example_row()


def test_it_says_where_it_is_answers_and_keeps_every_prediction(champion: Settings, row: dict[str, Any]) -> None:
    with served(champion) as (address, _, said):
        version = Registry(champion).resolve("champion")
        assert version in said
        assert f"{address}/docs" in said
        with httpx.Client(base_url=address, trust_env=False) as client:
            for path in re.findall(rf"{address}(/\S+)", said):
                assert client.get(path, follow_redirects=True).status_code in (200, 404)
            made = client.post("/v1/predict", json={"rows": [row] * 1_000}).json()["predictions"]
    with Store(champion) as store:
        assert queries.counts(store).predictions == len(made) == 1_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered_before_it_ends(
    champion: Settings, row: dict[str, Any], number: signal.Signals
) -> None:
    body = json.dumps({"row": row}).encode()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    with served(champion) as (address, process, _):
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head.encode() + body[:10])
            httpx.get(f"{address}/health/live", trust_env=False)  # by now the service has seen the first half
            process.send_signal(number)
            closed = False
            while not closed:
                try:
                    socket.create_connection((host, int(port)), timeout=60).close()
                except ConnectionRefusedError:
                    closed = True
            connection.sendall(body[10:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    with Store(champion) as store:
        assert queries.counts(store).predictions == 1


@pytest.mark.slow
def test_workers_share_the_port_and_add_up_their_metrics(champion: Settings, row: dict[str, Any]) -> None:
    with served(champion, "--workers", "2") as (address, _, _):
        ids = set()
        for _ in range(30):  # each on a connection of its own, so that both workers get some
            ids.add(httpx.post(f"{address}/v1/predict", json={"row": row}, trust_env=False).json()["id"])
        metrics = httpx.get(f"{address}/metrics", trust_env=False).text
        assert len(ids) == 30
        assert re.search(r'predictions_total\{.*source="http"\} 30\.0', metrics)
    with Store(champion) as store:
        assert queries.counts(store).predictions == 30


def test_without_a_champion_it_starts_and_says_what_is_missing(settings: Settings) -> None:
    with served(settings) as (address, _, said):
        assert "model promote" in said
        assert httpx.get(f"{address}/health/ready", trust_env=False).status_code == 503


def test_a_port_in_use(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is in use" in refused(settings, "serve", "--port", port)


def test_beyond_loopback_it_wants_keys(settings: Settings) -> None:
    assert f"`{settings.project.slug} key`" in refused(settings, "serve", "--host", "0.0.0.0", "--port", "0")


def test_a_store_that_cannot_be_written(settings: Settings) -> None:
    url = "sqlite:////proc/nowhere/store.db"
    message = refused(settings, "serve", "--port", "0", **{f"{PREFIX}STORE__URL": url})
    assert "/proc/nowhere/store.db" in message


def test_a_host_that_is_not_here(settings: Settings) -> None:
    digest = hashlib.sha256(b"key").hexdigest()
    keys = {f"{PREFIX}SERVING__KEY_HASHES": json.dumps([digest])}
    assert "--host" in refused(settings, "serve", "--host", "192.0.2.1", "--port", "0", **keys)


def test_a_new_key_opens_the_service(champion: Settings) -> None:
    process = start(champion, "key")
    out, _ = process.communicate(timeout=60)
    key, digest = re.search(r"key: +(\S+)", out), re.search(r"hash: +(\S+)", out)
    assert key
    assert digest
    setting = {f"{PREFIX}SERVING__KEY_HASHES": json.dumps([digest[1]])}
    with served(champion, **setting) as (address, _, _):
        assert httpx.get(f"{address}/v1/model", trust_env=False).status_code == 401
        assert httpx.get(f"{address}/v1/model", headers={"X-API-Key": key[1]}, trust_env=False).status_code == 200
