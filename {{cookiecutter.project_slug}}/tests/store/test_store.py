"""The log: its tables are what the migrations make, and what goes in comes out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import select

from project.errors import ProjectError
from project.settings import Settings
from project.signature import Column, Signature
from project.store import events, frames, queries
from project.store.database import Store
from project.store.feedback import write
from project.store.tables import feedback, metadata, model_events, runs
from project.telemetry.metrics import BEYOND

SIGNATURE = Signature(
    "t",
    "regression",
    None,
    (Column("a", "number"), Column("b", "string", nullable=True), Column("at", "datetime")),
    (Column("prediction", "number"),),
)
MINUTE = 1_699_999_980.0
ROW = b'{"a":1.5,"b":null,"at":"2026-01-01T00:00:00Z"}'


def test_migrations_make_the_tables_of_the_code(settings: Settings) -> None:
    with Store(settings) as store, store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_events_come_out_as_typed_columns(settings: Settings) -> None:
    with Store(settings) as store:
        log = events.EventLog(store)
        for i in range(3):
            said = b'{"prediction":%.1f}' % (2.0 + i)
            log.append(events.Prediction(f"p{i}", 1_700_000_000.0 + i, "v1", 1.2, ROW, said))
        log.append(events.Traffic(MINUTE, "/v1/predict", 200, 0.005, 1))
        log.append(events.Traffic(MINUTE, "/v1/predict", 422, BEYOND, 1))
        log.close()
        frame = frames.predictions_frame(store, SIGNATURE, "v1")
        assert frame["prediction"].to_list() == [4.0, 3.0, 2.0]
        since = datetime(2023, 1, 1, tzinfo=UTC)
        assert frames.latest_predictions(store, SIGNATURE, "v1", since, 2)["prediction"].to_list() == [4.0, 3.0]
        assert frames.latest_predictions(store, SIGNATURE, "v2", since, 2).is_empty()
        assert frame["at"][0] == datetime(2026, 1, 1, tzinfo=UTC)
        assert queries.counts(store).predictions == 3
        series = queries.traffic_series(store, datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))
        assert {(row["status"], row["bucket"], row["requests"]) for row in series} == {
            (200, 0.005, 1),
            (422, BEYOND, 1),
        }
        assert queries.latency_quantiles(series[:1]) == {0.5: series[0]["bucket"], 0.99: series[0]["bucket"]}


def test_requests_of_one_minute_add_up_over_flushes(settings: Settings) -> None:
    with Store(settings) as store:
        log = events.EventLog(store, interval=3600)
        for _ in range(2):
            log.append(events.Traffic(MINUTE, "/v1/predict", 200, 0.001, 1))
            log.flush()
        log.close()
        series = queries.traffic_series(store, datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))
        assert [row["requests"] for row in series] == [2]


def test_nothing_is_lost_while_the_store_is_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(settings) as store:
        log = events.EventLog(store, interval=3600)
        write, away = log._write, [True]

        def gone(batch: list[events.Prediction | events.Request]) -> None:
            if away:
                raise ProjectError("away")
            write(batch)

        monkeypatch.setattr(log, "_write", gone)
        for i in range(10):
            log.append(events.Prediction(f"p{i}", 1_700_000_000.0, "v1", 1.0, ROW, b'{"prediction":1.0}'))
        with pytest.raises(ProjectError):
            log.flush()
        away.clear()
        log.close()
        assert queries.counts(store).predictions == 10
        assert log.dropped == 0


def test_who_makes_more_than_is_written_waits_but_not_for_a_store_that_is_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(settings) as store:
        log = events.EventLog(store, interval=0.001, capacity=100)
        monkeypatch.setattr(log._closing, "wait", lambda _: True)  # the writer ends
        log._thread.join()
        made = [events.Prediction(f"p{i}", 1_700_000_000.0, "v1", 1.0, ROW, b'{"prediction":1.0}') for i in range(11)]
        log.extend(made[:10])
        assert not log.behind
        assert log.wait(9)
        assert queries.counts(store).predictions == 0
        log.extend(made[10:])
        assert log.behind
        assert not log.wait(0)  # no time to write
        with log._writing:
            assert not log.wait(0.001)  # another thread writes for longer than that
        assert queries.counts(store).predictions == 0
        assert log.wait(9)
        assert queries.counts(store).predictions == 11
        assert not log.behind
        write = log._write
        monkeypatch.setattr(log, "_write", lambda batch: (_ for _ in ()).throw(ProjectError("away")))
        log.extend([msgspec.structs.replace(one, id=f"q{one.id}") for one in made])
        assert log.behind
        assert log.wait(9)
        assert not log.behind
        monkeypatch.setattr(log, "_write", write)
        log.close()
        assert queries.counts(store).predictions == 22


def test_a_full_queue_drops_and_counts(settings: Settings) -> None:
    with Store(settings) as store:
        log = events.EventLog(store, interval=3600, capacity=2)
        for i in range(5):
            log.append(events.Prediction(f"p{i}", 1_700_000_000.0, "v1", 1.0, ROW, b'{"prediction":1.0}'))
        assert log.dropped == 3
        log.close()


def test_times_come_back_in_utc(settings: Settings) -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    with Store(settings) as store:
        with store.write() as connection:
            connection.execute(
                model_events.insert().values(time=moment, action="import", version="v", actor="a", reason="")
            )
        assert queries.recent_events(store)[0]["time"] == datetime(2026, 1, 1, 10, tzinfo=UTC)


def test_store_that_cannot_be_written_is_said_in_a_sentence(settings: Settings) -> None:
    (settings.root / "data").write_text("a file where the folder should be")
    with pytest.raises(ProjectError, match="cannot be written"):
        Store(settings)


@pytest.mark.parametrize(("url", "sentence"), [("nonsense", "no database URL"), ("oracle+x://h/d", "needs a driver")])
def test_wrong_url_is_said_in_a_sentence(settings: Settings, url: str, sentence: str) -> None:
    changed = settings.model_copy(update={"store": settings.store.model_copy(update={"url": url})})
    with pytest.raises(ProjectError, match=sentence):
        Store(changed)


def test_damaged_file_is_said_in_a_sentence(settings: Settings, tmp_path: Path) -> None:
    path = settings.path("data/store.db")
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ProjectError, match="cannot be used"):
        Store(settings)


def test_a_trial_comes_out_beside_its_prediction(settings: Settings) -> None:
    second, began = 1_700_000_000.0, datetime(2023, 1, 1, tzinfo=UTC)
    until = datetime(2024, 1, 1, tzinfo=UTC)
    with Store(settings) as store:
        log = events.EventLog(store)
        for place in range(2):
            log.append(events.Prediction(f"p{place}", second, "v1", 1.5, ROW, b'{"prediction":2.0}'))
        log.append(events.Trial("p0", second, "v2", "shadow", 2.5, {"prediction": 3.0}))
        log.append(events.Trial("p1", second, "v2", "shadow", 0.5, error="ValueError"))
        log.close()
        rows, first, other = frames.trials_frame(store, ("v1", SIGNATURE), ("v2", SIGNATURE), began)
        assert rows.select("id", "latency_ms", "trial_ms", "a").row(0) == ("p0", 1.5, 2.5, 1.5)
        assert (first["prediction"].to_list(), other["prediction"].to_list()) == ([2.0], [3.0])
        assert queries.failed_trials(store, "v2", "shadow", began, until) == 1
        assert queries.failed_trials(store, "v2", "canary", began, until) == 0


def test_requests_are_counted_once_whatever_their_rows(settings: Settings) -> None:
    second, began, until = 1_700_000_000.0, datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
    with Store(settings) as store:
        log = events.EventLog(store)
        for identity, ms in (("aa", 1.0), ("bb-0", 2.0), ("bb-1", 2.0), ("bb-10", 2.0)):
            log.append(events.Prediction(identity, second + ms, "v1", ms, ROW, b'{"prediction":2.0}'))
        for status in (200, 500, 500, 422):
            log.append(events.Traffic(second // 60 * 60, "/v1/predict", status, 0.001, 1))
        log.close()
        assert queries.request_latencies(store, "v1", began, until, 10) == ([2.0, 1.0], began)
        newest, complete = queries.request_latencies(store, "v1", began, until, 1)
        assert (newest, complete.timestamp()) == ([2.0], second + 2)
        assert queries.failed_requests(store, "/v1/predict", began, until) == 2
        assert queries.failed_requests(store, "/v1/feedback", began, until) == 0


def test_feedback_said_twice_changes_nothing(settings: Settings) -> None:
    def stored(store: Store) -> list[tuple[str, str, datetime]]:
        with store.read() as connection:
            return [
                tuple(row)
                for row in connection.execute(
                    select(*(feedback.c[name] for name in ("prediction_id", "actual", "time")))
                )
            ]

    with Store(settings) as store:
        write(store, {"a": 1.5, "b": "yes"})
        before = stored(store)
        write(store, {"b": "yes", "a": 1.5})
        assert stored(store) == before
        write(store, {"a": 2})
        assert [row[:2] for row in stored(store)] == [("a", "2"), ("b", '"yes"')]
        write(store, {})


def test_a_run_is_found_by_the_beginning_of_its_id(settings: Settings) -> None:
    with Store(settings) as store:
        with store.write() as connection:
            for place, name in enumerate(("abc1", "abd2")):
                row = {"key": name, "status": "succeeded", "input": "i", "output": "o", "model_version": "v"}
                row |= {
                    "started": datetime(2026, 1, 1 + place, tzinfo=UTC),
                    "steps": '{"steps": []}' if place else None,
                }
                connection.execute(runs.insert(), {"id": name, **row})
        assert queries.find_run(store, "abc")["steps"] == {}
        assert queries.find_run(store, "latest")["id"] == "abd2"
        assert queries.find_run(store, "abd2")["steps"] == {"steps": []}
        assert "steps" not in queries.recent_runs(store)[0]
        for reference, sentence in (("ab", "several"), ("x", "no batch run x"), ("%", "no batch run %")):
            with pytest.raises(queries.NoRun, match=sentence):
                queries.find_run(store, reference)
