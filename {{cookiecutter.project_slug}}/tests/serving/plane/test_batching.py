from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from project.models.importing import import_model
from project.models.registry import CHAMPION, Registry
from project.serving.plane.batching import Batcher
from project.settings import Settings
from project.store import queries
from project.store.database import Store


class Model:
    """Doubles numbers, refuses negative ones, and writes down what it was given at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go, self.begun = threading.Event(), threading.Event()

    def score(self, rows: Sequence[int]) -> list[int]:
        self.begun.set()
        self.go.wait(30)
        self.batches.append(list(rows))
        if min(rows) < 0:
            raise ValueError("negative")
        return [2 * row for row in rows]


def gathered(model: Model, batcher: Batcher, requests: list[list[int]], until: Any) -> list[Any]:
    """Ask for each at once, while the model is held up by a first one."""
    with ThreadPoolExecutor(len(requests) + 1) as pool:
        first = pool.submit(batcher.score, [1])
        model.begun.wait(30)
        asked = []
        for place, request in enumerate(requests):
            asked.append(pool.submit(batcher.score, request))
            until(lambda place=place: len(batcher._waiting) == place + 1)
        model.go.set()
        assert first.result() == [2]
        return [one.exception() or one.result() for one in asked]


def test_what_comes_meanwhile_is_scored_together(until: Any) -> None:
    model = Model()
    assert gathered(model, Batcher(model.score, 8), [[2], [3, 4], [5]], until) == [[4], [6, 8], [10]]
    assert model.batches == [[1], [2, 3, 4, 5]]


def test_a_batch_has_its_limit(until: Any) -> None:
    model = Model()
    assert gathered(model, Batcher(model.score, 3), [[2, 3], [4], [5], [6] * 9], until)[3] == [12] * 9
    assert model.batches == [[1], [2, 3, 4], [5], [6] * 9]


def test_one_that_fails_takes_no_neighbour_down(until: Any) -> None:
    model = Model()
    found = gathered(model, Batcher(model.score, 8), [[2], [-3], [4]], until)
    assert found[0] == [4]
    assert isinstance(found[1], ValueError)
    assert found[2] == [8]


@pytest.fixture
def original(champion: Settings, trained: Any) -> Settings:
    """A project whose champion is served as it was trained, which takes milliseconds a row."""
    strict = champion.model_copy(update={"models": champion.models.model_copy(update={"parity_tolerance": 1e-15})})
    Registry(champion).point(CHAMPION, import_model(strict, trained["hires"]).version)
    return champion


def test_a_slow_model_is_batched_and_each_caller_gets_its_own(
    original: Settings, serving: Any, row: dict[str, Any]
) -> None:
    rows = [row | {"staff": place % 6} for place in range(40)]
    with serving(original) as client:
        told = client.get("/v1/model").json()
        assert told["runtime"] == "original"
        assert told["batching"]["on"]
        assert told["batching"]["gain"] > 2
        assert 'micro_batching{version="' + told["version"] + '"} 1.0' in client.get("/metrics").text
        alone = [client.post("/v1/predict", json={"row": one}).json()["prediction"] for one in rows[:6]]
        with ThreadPoolExecutor(20) as pool:
            asked = list(pool.map(lambda one: client.post("/v1/predict", json={"row": one}).json(), rows))
        assert [one["prediction"] for one in asked] == pytest.approx([alone[place % 6] for place in range(40)])
        assert len({one["id"] for one in asked}) == 40
    with Store(original) as store:
        assert queries.counts(store).predictions == 46
