"""Canary and shadow: who gets which version, and what becomes of one that is worse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from project.commands import build
from project.models.importing import Source, import_model
from project.models.registry import Alias, Registry
from project.serving.plane import shadow as shadowing
from project.serving.plane.canary import Seen, chosen, gather, weigh, withdraw
from project.serving.plane.predictor import Predictor
from project.settings import Canary, Settings
from project.store import events, frames, queries
from project.store.database import Store

PATH = "/v1/predict"
SEEN = Seen(0, np.array([]), np.array([]))
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def quick(champion: Settings) -> Settings:
    """The project with a judge that looks often and wants little evidence."""
    limits = Canary(minimum=20, seconds=0.2)
    return champion.model_copy(
        update={"canary": limits, "serving": champion.serving.model_copy(update={"follow_seconds": 0.05})}
    )


@pytest.fixture
def service(quick: Settings, serving: Any) -> Iterator[httpx.Client]:
    with serving(quick) as client:
        yield client


def begin(settings: Settings, client: httpx.Client, until: Any, name: str, version: str, **more: Any) -> None:
    """Start a canary or a shadow, and wait until the service has it."""
    Registry(settings).point(name, version, **more)
    until(lambda: name in client.get("/v1/model").json())


def ask(client: httpx.Client, row: dict[str, Any], session: str = "") -> str:
    answer = client.post(PATH, json={"row": row}, headers={"X-Session-ID": session} if session else {})
    assert answer.status_code == 200
    version: str = answer.json()["model_version"]
    return version


def test_the_share_is_what_was_asked_for_and_fair_between_canaries() -> None:
    random = np.random.default_rng(5)
    keys = [random.bytes(40) for _ in range(20_000)]
    for share in (0.01, 0.1, 0.5):
        hit = sum(chosen(Alias("a", share), key) for key in keys)
        assert stats.binomtest(hit, len(keys), share).pvalue > 1e-4
    assert not any(chosen(Alias("a", 0.0), key) for key in keys)
    assert all(chosen(Alias("a", 1.0), key) for key in keys)
    assert all(chosen(Alias("a", 0.5), key) for key in keys if chosen(Alias("a", 0.1), key)), "a larger share adds"
    both = sum(chosen(Alias("a", 0.1), key) and chosen(Alias("b", 0.1), key) for key in keys)
    assert stats.binomtest(both, len(keys), 0.01).pvalue > 1e-4, "the next canary meets other callers"


def test_a_session_or_an_input_always_gets_the_same_version(
    champion: Settings, service: httpx.Client, row: dict[str, Any], other: str, first: str, until: Any
) -> None:
    begin(champion, service, until, "canary", other, share=0.5)
    assert service.get("/v1/model").json()["canary"] == {"version": other, "share": 0.5}
    sessions = [f"session-{place}" for place in range(60)]
    got = {session: ask(service, row, session) for session in sessions}
    assert set(got.values()) == {first, other}
    for session in sessions[:20]:
        assert ask(service, row | {"staff": 1}, session) == got[session]
    rows = [row | {"temperature": place / 10} for place in range(40)]
    versions = [ask(service, one) for one in rows]
    assert set(versions) == {first, other}
    assert [ask(service, one) for one in rows] == versions
    assert f'model_version="{other}",source="http"' in service.get("/metrics").text


def test_a_failing_canary_fails_no_caller_and_is_withdrawn(
    champion: Settings,
    service: httpx.Client,
    row: dict[str, Any],
    other: str,
    first: str,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict = Predictor.predict

    def failing(self: Predictor, *arguments: Any) -> Any:
        if self.version == other:
            raise ZeroDivisionError("by design")
        return predict(self, *arguments)

    monkeypatch.setattr(Predictor, "predict", failing)
    begin(champion, service, until, "canary", other, share=0.5)
    for place in range(100):
        assert ask(service, row, f"session-{place}") == first
    until(lambda: "canary" not in service.get("/v1/model").json())
    assert "canary" not in Registry(champion).aliases()
    with Store(champion) as store:
        event = queries.recent_events(store, 1)[0]
        assert queries.failed_trials(store, other, "canary", BEGAN, datetime.now(UTC)) >= 20
    assert (event["action"], event["alias"], event["version"], event["actor"]) == (
        "withdraw",
        "canary",
        other,
        "service",
    )
    assert event["reason"].startswith("worse than the champion: errors: canary 1 (")
    assert "p = " in event["reason"]
    assert [one["measure"] for one in event["detail"]["evidence"]] == ["errors", "latency", "feedback"]
    metrics = service.get("/metrics").text
    assert 'trials_total{outcome="failed",role="canary"}' in metrics
    assert "canaries_withdrawn_total 0.0" not in metrics


def test_what_only_the_canary_refuses_the_champion_answers(
    champion: Settings, service: httpx.Client, row: dict[str, Any], first: str, until: Any
) -> None:
    registry = Registry(champion)
    bundle = registry.load("champion")
    content = {name: (bundle.folder / name).read_bytes() for name in bundle.manifest["files"]}
    narrow = tuple(
        replace(column, minimum=row["temperature"]) if column.name == "temperature" else column
        for column in bundle.signature.inputs
    )
    content["signature.json"] = json.dumps(replace(bundle.signature, inputs=narrow).to_json()).encode()
    rest = {key: value for key, value in bundle.manifest.items() if key not in ("files", "format", "layout")}
    other = registry.add({**rest, "format": "onnx"}, content).version
    begin(champion, service, until, "canary", other, share=1.0)
    assert ask(service, row) == other
    assert ask(service, row | {"temperature": -40.0}) == first
    refused = service.post(PATH, json={"row": row | {"temperature": "warm"}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["expected"] == "must be a number"
    counted = []

    def failures() -> bool:
        with Store(champion) as store:
            counted[:] = [queries.failed_trials(store, other, "canary", BEGAN, datetime.now(UTC))]
        return bool(counted[0])

    until(failures)
    assert counted == [1], "what both refuse is the caller's mistake"


def history(
    settings: Settings, latencies: dict[str, Any], misses: dict[str, Any] | None = None, truth: Any = 100.0
) -> None:
    """Write what versions answered, a second after a canary began, and what really happened."""
    second = BEGAN.timestamp() + 1
    with Store(settings) as store:
        log = events.EventLog(store)
        for version, times in latencies.items():
            given = (misses or {}).get(version, [truth] * len(times))
            for place, (latency, output) in enumerate(zip(times, given, strict=True)):
                said = msgspec.json.encode({"prediction": output})
                log.append(events.Prediction(f"{version}{place}", second, version, float(latency), b"{}", said))
        log.close()
        if misses:
            from project.store.tables import feedback

            actual, moment = json.dumps(truth), BEGAN + timedelta(seconds=1.5)
            ids = [f"{version}{place}" for version, given in misses.items() for place in range(len(given))]
            with store.write() as connection:
                values = [{"prediction_id": one, "time": moment, "actual": actual} for one in ids]
                connection.execute(feedback.insert(), values)


def evidence(settings: Settings, task: str = "regression") -> dict[str, Any]:
    """Weigh canary ``new`` against champion ``old`` at the first look."""
    began = BEGAN.isoformat()
    with Store(settings) as store:
        found = gather(settings, store, task, Alias("new", 0.5, began), Alias("old", None, began), 1)
    return {one.measure: one for one in found}


def test_a_slow_canary_is_withdrawn(settings: Settings, champion: Settings, other: str) -> None:
    random = np.random.default_rng(1)
    old, new = random.exponential(2.0, 900), random.exponential(2.0 * 2, 300)
    history(champion, {"old": old, "new": new})
    found = evidence(champion)
    assert found["latency"].worse
    assert not found["errors"].worse
    assert found["feedback"].p is None
    assert found["latency"].canary == pytest.approx(np.median(new))
    registry = Registry(champion)
    registry.point("canary", other, share=0.1)
    alias = registry.aliases()["canary"]
    with Store(champion) as store:
        assert withdraw(registry, store, alias, list(found.values()))
        assert not withdraw(registry, store, alias, list(found.values())), "another worker did it"
        recorded = queries.recent_events(store)
    assert [event["action"] for event in recorded] == ["withdraw"]
    assert "latency: canary" in recorded[0]["reason"]
    assert "errors" not in recorded[0]["reason"]


def test_a_newer_canary_is_not_withdrawn_for_the_one_before(champion: Settings, other: str) -> None:
    registry = Registry(champion)
    registry.point("canary", other, share=0.1)
    judged = registry.aliases()["canary"]
    registry.point("canary", other, share=0.2)
    with Store(champion) as store:
        assert not withdraw(registry, store, judged, [])
    assert registry.aliases()["canary"].share == 0.2


def test_larger_errors_against_feedback_are_found(champion: Settings) -> None:
    random = np.random.default_rng(2)
    times = {"old": np.ones(400), "new": np.ones(400)}
    outputs = {name: (100 + random.normal(0, 5 * worse, 400)).tolist() for name, worse in (("old", 1), ("new", 2))}
    history(champion, times, outputs)
    found = evidence(champion)
    assert found["feedback"].worse
    assert not found["latency"].worse, "equal times"


def test_more_wrong_classes_are_found(champion: Settings) -> None:
    times = {"old": np.ones(400), "new": np.ones(400)}
    outputs = {"old": ["yes"] * 360 + ["no"] * 40, "new": ["yes"] * 240 + ["no"] * 160}
    history(champion, times, outputs, "yes")
    found = evidence(champion, "classification")
    assert (found["feedback"].canary, found["feedback"].champion) == (0.4, 0.1)
    assert found["feedback"].worse


def test_only_requests_since_both_began_count_and_each_once(champion: Settings) -> None:
    moments = [BEGAN - timedelta(hours=1), BEGAN + timedelta(seconds=1), BEGAN + timedelta(hours=1)]
    with Store(champion) as store:
        log = events.EventLog(store)
        for place, moment in enumerate(moments):
            for row in range(12):
                said = b'{"prediction":1.0}'
                log.append(events.Prediction(f"{place:x}-{row}", moment.timestamp(), "new", 1.0, b"{}", said))
        log.close()
    assert evidence(champion)["latency"].rows == (1, 0)


def test_a_good_canary_is_kept_however_often_it_is_looked_at() -> None:
    random = np.random.default_rng(3)
    limits = Canary(errors=0.0, latency=1e-9, feedback=1e-9, minimum=50)
    for task in ("regression", "classification"):
        old, new = (
            (random.exponential(2, 10_000), random.random(10_000), random.random(10_000) < 0.05) for _ in range(2)
        )
        for look in range(1, 201):
            sides = []
            for share, (latencies, misses, failures) in ((10, new), (40, old)):
                many = look * share
                wrong = misses[:many] if task == "regression" else misses[:many] < 0.2
                sides.append(Seen(int(failures[:many].sum()), latencies[:many], wrong.astype(float)))
            for one in weigh(limits, task, sides[0], sides[1], look):
                assert not one.worse, f"look {look}: {one}"


def test_the_level_of_all_looks_is_the_significance() -> None:
    enough = Seen(5, np.ones(200), np.ones(200))
    limits = Canary(significance=0.05)
    spent = sum(one.level for look in range(1, 2000) for one in weigh(limits, "regression", enough, enough, look))
    assert 0.025 < spent <= 0.05


def test_the_tests_are_those_of_the_textbook() -> None:
    random = np.random.default_rng(4)
    new, old = np.round(random.exponential(2.3, 300), 1), np.round(random.exponential(2, 500), 1)
    limits = Canary(latency=0.1, errors=0.02, significance=0.06)
    errors, latency, _ = weigh(limits, "regression", Seen(20, new, new), Seen(3, old, old), 1)
    assert latency.p == pytest.approx(stats.mannwhitneyu(new, old * 1.1, alternative="greater").pvalue)
    upper = stats.binomtest(3, 503).proportion_ci(1 - 2 * errors.level).high
    assert errors.limit == pytest.approx(upper + 0.02)
    assert errors.p == pytest.approx(stats.binomtest(20, 320, errors.limit, alternative="greater").pvalue)


def test_without_enough_rows_nothing_is_said() -> None:
    few = Seen(3, np.ones(10), np.ones(10))
    found = weigh(Canary(), "regression", few, SEEN, 1)
    assert [one.p for one in found] == [None] * 3
    assert "not enough yet (13 of the canary, 0 of the champion)" in str(found[0])


@pytest.fixture
def planted(champion: Settings, biased: Source) -> str:
    """A version that says 50 more in the harbour."""
    return import_model(champion, biased).version


def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str, status: int = 0) -> str:
    monkeypatch.chdir(settings.root)
    result = CliRunner().invoke(build(), ["model", *words])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result.output + (str(result.exception) if status else "")


def test_the_shadow_answers_nobody_and_its_report_shows_the_difference(
    champion: Settings,
    service: httpx.Client,
    row: dict[str, Any],
    planted: str,
    first: str,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "there is no shadow" in run(champion, monkeypatch, "shadow")
    assert f"none -> {planted}" in run(champion, monkeypatch, "shadow", planted)
    until(lambda: service.get("/v1/model").json().get("shadow") == {"version": planted})
    assert "nothing to compare yet" in run(champion, monkeypatch, "shadow")
    for place in range(40):
        assert ask(service, row | {"station": "harbour", "staff": place % 6}) == first
    many = service.post(PATH, json={"rows": [row | {"station": "south"}] * 60})
    assert many.json()["model_version"] == first
    until(lambda: "100 rows answered by both, 0 rows failed" in run(champion, monkeypatch, "shadow"))
    report = run(champion, monkeypatch, "shadow")
    assert "station = harbour" in report
    with Store(champion) as store:
        contract = Registry(champion).load("champion").signature
        rows, said, other = frames.trials_frame(store, (first, contract), (planted, contract), BEGAN)
    distance = (other["prediction"] - said["prediction"]).to_numpy()
    harbour = (rows["station"] == "harbour").to_numpy()
    assert distance[harbour] == pytest.approx(50, abs=15)
    assert np.abs(distance[~harbour]).max() < 10
    assert f"{planted} -> none" in run(champion, monkeypatch, "shadow", "--stop")
    until(lambda: "shadow" not in service.get("/v1/model").json())
    with Store(champion) as store:
        assert [event["action"] for event in queries.recent_events(store, 2)] == ["withdraw", "shadow"]


def test_a_failing_shadow_is_counted_and_copies_beyond_the_bound_are_dropped(
    champion: Settings,
    service: httpx.Client,
    row: dict[str, Any],
    other: str,
    first: str,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def value(outcome: str) -> float:
        name = 'trials_total{outcome="' + outcome + '",role="shadow"} '
        return float(service.get("/metrics").text.partition(name)[2].partition("\n")[0] or 0)

    def prepared(self: Predictor, *arguments: Any) -> None:
        prepare(self, *arguments)
        if self.version == other:
            self.score = failing

    def failing(rows: object) -> Any:
        raise ZeroDivisionError("by design")

    prepare = Predictor.__init__
    monkeypatch.setattr(Predictor, "__init__", prepared)
    failed, dropped = value("failed"), value("dropped")
    begin(champion, service, until, "shadow", other)
    assert ask(service, row) == first
    until(lambda: value("failed") == failed + 1)
    monkeypatch.setattr(shadowing, "MOST", 0)
    assert ask(service, row) == first
    assert value("dropped") == dropped + 1
    monkeypatch.undo()
    until(lambda: "0 rows answered by both, 1 rows failed" in run(champion, monkeypatch, "shadow"))


def test_the_canary_by_command(champion: Settings, other: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no canary" in run(champion, monkeypatch, "canary")
    assert "there is no canary" in run(champion, monkeypatch, "canary", "--stop")
    for wrong in ("0", "1", "2", "101%", "many", "nan"):
        assert "10% or 0.1" in run(champion, monkeypatch, "canary", other, "--share", wrong, status=1)
    assert "is the champion" in run(champion, monkeypatch, "canary", first, status=1)
    assert Registry(champion).aliases().keys() == {"champion"}
    assert f"none -> {other}, 0.25 of" in run(champion, monkeypatch, "canary", other[:8], "--share", "25%")
    assert Registry(champion).aliases()["canary"].share == 0.25
    shown = run(champion, monkeypatch, "canary")
    assert "answers 0.25 of the requests" in shown
    assert shown.count("not enough yet") == 3
    assert f"{other} -> none" in run(champion, monkeypatch, "canary", "--stop", "--reason", "seen enough")
    with Store(champion) as store:
        event = queries.recent_events(store, 1)[0]
    assert (event["action"], event["alias"], event["reason"]) == ("withdraw", "canary", "seen enough")
