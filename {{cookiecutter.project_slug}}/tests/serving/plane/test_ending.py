"""The process as its supervisor sees it: it ends without losing anything, and several are one service."""

from __future__ import annotations

import json
import re
import signal
import socket
from typing import Any

import httpx
import pytest

from project.settings import Settings
from project.store import queries
from project.store.database import Store


def test_sigterm_says_not_ready_before_it_ends(champion: Settings, served: Any, until: Any) -> None:
    file = champion.root / "config/settings.toml"
    file.write_text(file.read_text() + "\n[serving]\ndrain_seconds = 3\n")
    with served(champion) as (address, process, _):
        assert httpx.get(f"{address}/health/ready", trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{address}/health/ready", trust_env=False).status_code == 503)
        ready = httpx.get(f"{address}/health/ready", trust_env=False)
        assert "about to end" in ready.json()["reason"]
        assert httpx.get(f"{address}/v1/model", trust_env=False).status_code == 200
        process.wait(timeout=60)


def test_every_prediction_is_kept_when_the_process_ends(champion: Settings, row: dict[str, Any], served: Any) -> None:
    with served(champion) as (address, _, _), httpx.Client(base_url=address, trust_env=False) as client:
        made = client.post("/v1/predict", json={"rows": [row] * 1_000}).json()["predictions"]
    with Store(champion) as store:
        assert queries.counts(store).predictions == len(made) == 1_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered_before_it_ends(
    champion: Settings, row: dict[str, Any], served: Any, number: signal.Signals
) -> None:
    body = json.dumps({"row": row}).encode()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
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
                except ConnectionError:
                    closed = True
            connection.sendall(body[10:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    with Store(champion) as store:
        assert queries.counts(store).predictions == 1


@pytest.mark.slow
def test_workers_share_the_port_and_add_up_their_metrics(champion: Settings, row: dict[str, Any], served: Any) -> None:
    with served(champion, "--workers", "2") as (address, _, _):
        ids = set()
        for _ in range(30):  # each on a connection of its own, so that both workers get some
            ids.add(httpx.post(f"{address}/v1/predict", json={"row": row}, trust_env=False).json()["id"])
        metrics = httpx.get(f"{address}/metrics", trust_env=False).text
        assert len(ids) == 30
        assert re.search(r'predictions_total\{.*source="http"\} 30\.0', metrics)
    with Store(champion) as store:
        assert queries.counts(store).predictions == 30
