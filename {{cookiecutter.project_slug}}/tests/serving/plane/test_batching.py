from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from project.models.importing import import_model
from project.models.registry import CHAMPION, Registry
from project.serving.answers import FAILED, Answer, Call, Coming, Refused
from project.serving.plane.batching import Batcher, Turn
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


CALL = Call("POST", b"", {}, b"", 0.0)
REFUSAL = Answer(422, b"refused")


class Numbers:
    """Doubles numbers, cannot do 13 nor log 14, and writes down what it scored at once and counted."""

    def __init__(self, batches: bool = True) -> None:
        self.batches, self.scored, self.counted = batches, list[list[int]](), 0

    def score(self, rows: Sequence[int]) -> list[int]:
        self.scored.append(list(rows))
        if 13 in rows:
            raise ValueError("thirteen")
        return [2 * row for row in rows]

    def count(self, rows: int) -> None:
        self.counted += rows

    def logged(self, rows: Sequence[int], outputs: list[int], started: float) -> Any:
        if 14 in rows:
            raise ValueError("fourteen")
        return list(zip(map(str, rows), outputs, strict=True))

    def answer(self, call: Call, asked: Any, made: Any) -> Answer:
        answer: Answer = asked.answer(self, made)
        return answer


class Question:
    """Asks for numbers; a negative one is refused, and so much is none."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def rows(self, predictor: Any) -> Sequence[int]:
        if min(self.numbers) < 0:
            raise Refused(REFUSAL)
        return self.numbers

    def answer(self, predictor: Any, made: Any) -> Answer:
        return Answer(200, repr([output for _, output in made]).encode())


def alone(predictor: Any, call: Call, asked: Any) -> Answer:
    rows = asked.rows(predictor)
    made = predictor.logged(rows, predictor.score(rows), call.started)
    predictor.count(len(rows))
    return asked.answer(predictor, made)


def turned(questions: Sequence[tuple[Any, Question]], most: int = 64) -> list[bytes]:
    """Ask everything in one turn of a loop, and return the answers after it."""

    async def main() -> list[bytes]:
        turn = Turn(most)
        coming = [turn.join(model, CALL, asked, partial(alone, model, CALL, asked)) for model, asked in questions]
        assert not any(one.answer for one in coming[len(coming) // most * most :])
        await asyncio.sleep(0)
        return [one.answer.body for one in coming if one.answer]

    return asyncio.run(main())


def test_what_comes_in_a_turn_is_answered_together() -> None:
    model = Numbers()
    assert turned([(model, Question(1)), (model, Question(2, 3)), (model, Question(4))]) == [b"[2]", b"[4, 6]", b"[8]"]
    assert (model.scored, model.counted) == ([[1, 2, 3, 4]], 4)


def test_a_model_that_does_not_gain_scores_one_by_one() -> None:
    model = Numbers(batches=False)
    assert turned([(model, Question(1)), (model, Question(2, 3))]) == [b"[2]", b"[4, 6]"]
    assert (model.scored, model.counted) == ([[1], [2, 3]], 3)


def test_a_turn_has_its_limit() -> None:
    model = Numbers()
    assert turned([(model, Question(n)) for n in range(5)], most=2) == [b"[0]", b"[2]", b"[4]", b"[6]", b"[8]"]
    assert model.scored == [[0, 1], [2, 3], [4]]


def test_one_that_is_refused_or_fails_takes_no_neighbour_down() -> None:
    model = Numbers()
    assert turned([(model, Question(-1)), (model, Question(2)), (model, Question(3))]) == [b"refused", b"[4]", b"[6]"]
    assert model.scored == [[2, 3]]
    assert turned([(model, Question(-1)), (model, Question(-2))]) == [b"refused", b"refused"]
    found = turned([(model, Question(1)), (model, Question(13)), (model, Question(2))])
    assert found == [b"[2]", FAILED.body, b"[4]"]
    assert model.counted == 4
    assert turned([(model, Question(14)), (model, Question(5))]) == [FAILED.body, b"[10]"]


def test_each_is_answered_by_the_version_that_was_in_service_when_it_came() -> None:
    before, after = Numbers(), Numbers()
    questions = [(before, Question(1)), (before, Question(2)), (after, Question(3)), (after, Question(4))]
    assert turned(questions) == [b"[2]", b"[4]", b"[6]", b"[8]"]
    assert (before.scored, after.scored) == ([[1, 2]], [[3, 4]])


def test_one_with_others_to_try_goes_alone() -> None:
    async def main() -> list[Answer | None]:
        turn, model = Turn(64), Numbers()
        asked = [Question(1), Question(2)]
        coming = [turn.join(None, CALL, one, partial(alone, model, CALL, one)) for one in asked]
        await asyncio.sleep(0)
        assert model.scored == [[1], [2]]
        return [one.answer for one in coming]

    assert [one and one.body for one in asyncio.run(main())] == [b"[2]", b"[4]"]


def test_who_cannot_wait_for_the_turn_gets_the_answer_at_once() -> None:
    async def main() -> Answer:
        model, asked = Numbers(), Question(1)
        coming: Coming = Turn(64).join(model, CALL, asked, partial(alone, model, CALL, asked))
        return await coming

    assert asyncio.run(main()).body == b"[2]"


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
