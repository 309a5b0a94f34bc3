"""How fast a key may call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import project
from project.serving.security import rates
from project.settings import Settings
from project.store import keys
from project.store.database import Store
from project.telemetry.metrics import DIRECTORY


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["alone", "together"])
def clock(request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """Once for the bucket of one worker, once for that of several."""
    clock = Clock()
    monkeypatch.setattr(rates, "monotonic", clock)
    monkeypatch.delenv(DIRECTORY, raising=False)
    if request.param == "together":
        monkeypatch.setenv(DIRECTORY, str(tmp_path))
    return clock


def admitted(bucket: rates.Bucket, clock: Clock, seconds: float, step: float) -> int:
    end, count = clock.now + seconds, 0
    while clock.now < end:
        count += bucket.take() == 0
        clock.now += step
    return count


@pytest.mark.parametrize(("rate", "burst"), [(10, 10), (1, 1), (0.5, 1), (2.5, 2), (1000, 1000)])
def test_a_burst_of_a_second_and_then_the_rate(clock: Clock, rate: float, burst: int) -> None:
    bucket = rates.bucket(rate, "key")
    assert sum(bucket.take() == 0 for _ in range(burst + 50)) == burst
    clock.now += 100
    assert sum(bucket.take() == 0 for _ in range(burst + 50)) == burst  # what is not used is not saved
    count = admitted(bucket, clock, 100, 1 / rate / 7)
    assert count == pytest.approx(100 * rate, abs=1 + burst / 50)


def test_who_waits_as_told_is_admitted(clock: Clock) -> None:
    bucket = rates.bucket(4, "key")
    for _ in range(4):
        assert bucket.take() == 0
    wait = bucket.take()
    assert wait == pytest.approx(0.25)
    clock.now += wait / 2
    assert bucket.take() == pytest.approx(wait / 2)
    clock.now += wait / 2
    assert bucket.take() == 0


def test_a_bucket_survives_that_the_machine_starts_anew(clock: Clock) -> None:
    bucket = rates.bucket(2, "key")
    clock.now = 1e9
    bucket.take()
    clock.now = 5.0
    assert bucket.take() <= 0.5
    clock.now += 0.5
    assert bucket.take() == 0


def test_all_that_ask_for_a_name_get_one_bucket(clock: Clock) -> None:
    first, second = rates.bucket(1, "key"), rates.bucket(1, "key")
    assert first.take() == 0
    assert second.take() > 0
    assert rates.bucket(1, "another").take() == 0


def test_processes_admit_no_more_than_one_would(tmp_path: Path) -> None:
    program = f"""
from {project.__name__}.serving.security import rates
rates.monotonic = lambda: 1000.0
bucket = rates.bucket(5000, "key")
print("ready", flush=True)
input()
print(sum(bucket.take() == 0 for _ in range(5000)))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={DIRECTORY: str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(counts) == 5000


def test_a_key_that_is_too_fast_is_told_when_to_come_again(champion: Settings, serving: Any) -> None:
    with Store(champion) as store:
        slow = keys.create(store, "slow", ["read"], "test", rate=0.01)[1]
        free = keys.create(store, "free", ["read"], "test")[1]
    with serving(champion) as client:

        def get(key: str) -> httpx.Response:
            found: httpx.Response = client.get("/v1/model", headers={"X-API-Key": key})
            return found

        assert get(slow).status_code == 200
        refused = get(slow)
        assert refused.status_code == 429
        assert refused.json()["code"] == "rate"
        assert 1 <= int(refused.headers["retry-after"]) <= 100
        assert [get(free).status_code for _ in range(20)] == [200] * 20
