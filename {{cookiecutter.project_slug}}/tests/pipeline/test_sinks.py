"""A published run reaches every sink whole, once, however often it is tried."""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
import subprocess
from contextlib import closing, suppress
from datetime import UTC, datetime

import polars as pl
import pytest

from project.errors import ProjectError
from project.pipeline import ledger, remote, sinks, sources
from project.pipeline.sinks import csv as csv_sink
from project.pipeline.sinks import objects, sql
from project.signature import Column, Signature

SIGNATURE = Signature(
    "Hires",
    "regression",
    "hires",
    (Column("at", "datetime"), Column("station", "string", nullable=True), Column("staff", "integer")),
    (Column("prediction", "number"),),
)


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def published(tmp_path):
    """Make a run's folder: chunks of seven rows, one bad row, a column of the team's own."""

    def make(run="0123456789abcdef", chunks=3, **more):
        folder, files = tmp_path / "out" / run, []
        for kind in ("predictions", "quarantine"):
            (folder / kind).mkdir(parents=True)
        for number in range(chunks):
            rows = range(number * 7, number * 7 + 7)
            good = {
                "prediction_id": [f"{run}-{row}" for row in rows],
                "model_version": ["v1"] * 7,
                "source_file": ["a.csv"] * 7,
                "source_row": list(rows),
                "customer": [f"c{row}" for row in rows],
                "at": [datetime(2026, 1, 1 + row % 28, 12, 0, 0, 250_000, UTC) for row in rows],
                "station": [None, "", 'quote " comma , line\nend', "é", "\\N", "NULL", "x"],
                "staff": list(rows),
                **{name: [value] * 7 for name, value in more.items()},
                "prediction": [row + 0.1 for row in rows],
            }
            files.append(save(folder, "predictions", number, pl.DataFrame(good)))
        bad = {"source_file": ["a.csv"], "source_row": [99], "reasons": ["staff must be an integer"], "staff": ["many"]}
        files.append(save(folder, "quarantine", 0, pl.DataFrame(bad)))
        content = {"run": run, "model_version": "v1", "inputs": [{"name": "a.csv", "sha256": run}], "files": files}
        (folder / "manifest.json").write_text(json.dumps(content))
        return folder, content

    return make


def save(folder, kind, number, table):
    path = f"{kind}/{kind}-{number:05d}.parquet"
    table.write_parquet(folder / path)
    return {"path": path, "rows": table.height, "sha256": hashlib.sha256((folder / path).read_bytes()).hexdigest()}


@pytest.fixture
def publish(settings):
    """Publish a run; what is reported is in ``said``."""

    def once(run, url, **changed):
        changed = settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update=changed)})
        once.said = []
        sinks.publish(changed, *run, SIGNATURE, str(url), once.said.append)

    return once


def table(path, query="SELECT * FROM scores ORDER BY source_row"):
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        with suppress(sqlite3.OperationalError):
            return [dict(row) for row in connection.execute(query)]
    return []


# CSV


def test_csv_files(publish, published, tmp_path):
    run = published()
    publish(run, "csv:")
    publish(run, f"csv:{tmp_path}/people")
    folder = tmp_path / "people" / run[0].name
    assert (folder / "predictions.csv").read_bytes() == (run[0] / "predictions.csv").read_bytes()
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["source_row"] for row in rows] == [str(row) for row in range(21)]
    assert rows[2]["station"] == 'quote " comma , line\nend'
    assert rows[0]["at"] == "2026-01-01T12:00:00.250Z"
    assert rows[20]["prediction"] == "20.1"
    with (folder / "quarantine.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["reasons"] for row in csv.DictReader(stream)] == ["staff must be an integer"]
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.csv", "quarantine.csv"]


def test_a_csv_is_whole_or_not_there(publish, published, monkeypatch):
    run, real, calls = published(), csv_sink._append, []

    def stop(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        real(*arguments, **more)

    monkeypatch.setattr(csv_sink, "_append", stop)
    with pytest.raises(Killed):
        publish(run, "csv:")
    assert not list(run[0].glob("*.csv"))
    publish(run, "csv:")
    assert len((run[0] / "predictions.csv").read_text().splitlines()) == 21 + 3 + 1  # three values have a line break


# databases


def test_a_table_that_consumers_read(publish, published, tmp_path):
    run, path = published(), tmp_path / "scores.db"
    publish(run, f"sqlite:///{path}?table=scores")
    rows = table(path)
    assert [row["prediction_id"] for row in rows] == [f"{run[0].name}-{row}" for row in range(21)]
    assert list(rows[0]) == [
        *("prediction_id", "model_version", "source_file", "source_row", "customer"),
        *("at", "station", "staff", "prediction"),
    ]
    assert [row["station"] for row in rows[:7]] == [None, "", 'quote " comma , line\nend', "é", "\\N", "NULL", "x"]
    assert (rows[20]["prediction"], rows[20]["staff"], rows[20]["customer"]) == (20.1, 20, "c20")
    assert rows[0]["at"].startswith("2026-01-01 12:00:00.25")
    (mark,) = table(path, "SELECT * FROM scores_runs")
    assert (mark["run"], mark["file"], mark["rows"], mark["model_version"]) == (run[0].name, "", 21, "v1")
    publish(run, f"sqlite:///{path}?table=scores")
    assert publish.said == []
    assert table(path) == rows
    assert {row["name"] for row in table(path, "SELECT name FROM sqlite_master WHERE type = 'table'")} == {
        "scores",
        "scores_runs",
    }


@pytest.mark.parametrize("moment", range(5))
def test_a_load_that_is_cut_off_shows_nothing_and_goes_on(publish, published, tmp_path, monkeypatch, moment):
    run, path = published(), tmp_path / "scores.db"
    url = f"sqlite:///{path}?table=scores"
    real, left = sql._Load._mark, [moment]

    def stop(self, connection, file, rows):
        assert table(path) == [] or moment == 4
        real(self, connection, file, rows)
        left[0] -= 1
        if left[0] == -1:
            raise Killed

    monkeypatch.setattr(sql._Load, "_mark", stop)
    with suppress(Killed):
        publish(run, url)
    assert len(table(path)) == (21 if moment == 4 else 0)
    publish(run, url)
    rows = table(path)
    assert [row["source_row"] for row in rows] == list(range(21))
    assert left[0] == (moment - 5 if moment < 4 else 0)  # five marks, one of which was undone; or all four at once


def test_a_newer_run_with_more_columns_joins_the_table(publish, published, tmp_path):
    path = tmp_path / "scores.db"
    publish(published(), f"sqlite:///{path}?table=scores")
    publish(published("f" * 16, region="north"), f"sqlite:///{path}?table=scores")
    rows = table(path, "SELECT * FROM scores")
    assert len(rows) == 42
    assert {row["region"] for row in rows} == {None, "north"}


def test_a_row_that_is_there_is_replaced(publish, published, tmp_path):
    path, run = tmp_path / "scores.db", published()
    url = f"sqlite:///{path}?table=scores"
    publish(run, url)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE scores SET prediction = 0 WHERE source_row = 3")
        connection.execute("DELETE FROM scores WHERE source_row = 4")
        connection.execute("DELETE FROM scores_runs")
    publish(run, url)
    assert [row["prediction"] for row in table(path)] == [row + 0.1 for row in range(21)]


def test_a_run_without_a_good_row(publish, published, tmp_path):
    path = tmp_path / "scores.db"
    publish(published(chunks=0), f"sqlite:///{path}?table=scores")
    assert table(path) == []
    assert [row["rows"] for row in table(path, "SELECT * FROM scores_runs")] == [0]


def test_other_processes_are_waited_for(publish, published, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST", 0.01)
    run, path = published(), tmp_path / "scores.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ProjectError, match=r"was away.*locked"):
        publish(run, f"sqlite:///{path}?table=scores", patience_seconds=0.1)
    holder.close()
    publish(run, f"sqlite:///{path}?table=scores")
    assert len(table(path)) == 21


@pytest.mark.parametrize("name", ["", "?table=a;b", "?table=Scores", "?table=" + "a" * 41])
def test_a_table_needs_a_plain_name(publish, published, tmp_path, name):
    with pytest.raises(ProjectError, match=r"needs .table=NAME"):
        publish(published(), f"sqlite:///{tmp_path}/scores.db{name}")


def test_a_table_of_another_kind_is_left_alone(publish, published, tmp_path):
    path = tmp_path / "scores.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE scores (team TEXT)")
    with pytest.raises(ProjectError, match="of another kind"):
        publish(published(), f"sqlite:///{path}?table=scores")


def test_too_many_columns_are_said(publish, published, tmp_path):
    wide = {f"c{number}": 1 for number in range(2_000)}
    with pytest.raises(ProjectError, match="a table takes 1600"):
        publish(published(chunks=1, **wide), f"sqlite:///{tmp_path}/scores.db?table=scores")
    with pytest.raises(ProjectError, match="name too long"):
        publish(published("f" * 16, chunks=1, **{"é" * 40: 1}), f"sqlite:///{tmp_path}/scores.db?table=scores")


def test_a_database_that_cannot_be_written_is_said(publish, published, tmp_path):
    with pytest.raises(ProjectError, match=r"scores\.db") as caught:
        publish(published(), f"sqlite:///{tmp_path}/no/folder/scores.db?table=scores", patience_seconds=0)
    assert "\n" not in str(caught.value)


# object stores


@pytest.fixture
def store(monkeypatch):
    """An object store in memory; ``puts`` are the keys in the order in which they were written."""
    obstore = pytest.importorskip("obstore", reason="needs the extra `objects`")
    opened, real = obstore.store.MemoryStore(), obstore.put
    opened_puts = []

    def put(store, path, file):
        opened_puts.append(path)
        return real(store, path, file)

    monkeypatch.setattr(obstore, "put", put)
    monkeypatch.setattr(objects, "bucket", lambda url: (opened, url.partition("://")[2].partition("/")[2]))
    return opened, opened_puts


def test_a_reader_who_follows_manifests_never_sees_half(publish, published, store):
    import obstore

    run, (opened, puts) = published(), store
    publish(run, "s3://bucket/scores/")
    assert puts[-2:] == [f"scores/{run[0].name}/manifest.json", "scores/latest.json"]
    latest = json.loads(bytes(obstore.get(opened, "scores/latest.json").bytes()))
    content = json.loads(bytes(obstore.get(opened, f"scores/{latest['manifest']}").bytes()))
    for entry in content["files"]:
        got = bytes(obstore.get(opened, f"scores/{run[0].name}/{entry['path']}").bytes())
        assert hashlib.sha256(got).hexdigest() == entry["sha256"]
    puts.clear()
    publish(run, "s3://bucket/scores")
    assert puts == ["scores/latest.json"]
    assert publish.said == []


def test_an_upload_goes_on_where_it_ended(publish, published, store, monkeypatch):
    import obstore

    monkeypatch.setattr(remote, "FIRST", 0.01)
    run, (_, puts) = published(), store
    put, failures = obstore.put, [1, 2, 4]

    def away(opened, path, file):
        if len(puts) in failures:
            failures.remove(len(puts))
            raise obstore.exceptions.GenericError("connection refused\nmore")
        return put(opened, path, file)

    monkeypatch.setattr(obstore, "put", away)
    publish(run, "s3://bucket")
    assert len(puts) == len(set(puts)) == 6
    assert "is away (connection refused)" in publish.said[0]


def test_a_store_that_stays_away_is_said(publish, published, store, monkeypatch):
    import obstore

    def away(*_):
        raise obstore.exceptions.GenericError("connection refused")

    monkeypatch.setattr(obstore, "put", away)
    with pytest.raises(ProjectError, match=r"s3://bucket was away for 0 s .connection refused.*pipeline resume"):
        publish(published(), "s3://bucket", patience_seconds=0)


# all kinds


@pytest.mark.parametrize("url", ["ftp://host/scores", "scores", "mysql://host/db?table=a"])
def test_an_unknown_sink_is_refused_before_a_run(url):
    with pytest.raises(ProjectError, match="no place to publish to"):
        sinks.check(url)


@pytest.fixture
def tiny(disk):
    """A disk of 200 kB."""
    return disk("size=200k")


def test_a_full_or_read_only_disk(publish, published, tiny):
    wide = {f"c{number}": "x" * 200 for number in range(300)}
    run = published(**wide)
    with pytest.raises(ProjectError, match=r"No space left.*pipeline resume"):
        publish(run, f"csv:{tiny}")
    assert not [path for path in tiny.rglob("*") if path.is_file()]
    with pytest.raises(ProjectError, match="disk is full") as caught:
        publish(run, f"sqlite:///{tiny}/scores.db?table=scores", patience_seconds=0)
    assert "\n" not in str(caught.value)
    subprocess.run(["mount", "-o", "remount,size=20m", str(tiny)], check=True)
    publish(run, f"sqlite:///{tiny}/scores.db?table=scores")
    assert len(table(tiny / "scores.db")) == 21
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    with pytest.raises(ProjectError, match="Read-only"):
        publish(run, f"csv:{tiny}")
    with pytest.raises(ProjectError, match="readonly"):
        publish(published("f" * 16), f"sqlite:///{tiny}/scores.db?table=scores")


def test_the_ledger_knows_what_was_read_with_a_model(published, tmp_path):
    published()
    published("f" * 16)
    (tmp_path / "out" / ".unfinished.partial").mkdir()
    (tmp_path / "out" / ".unfinished.partial" / "manifest.json").write_text('{"model_version": "v1"}')
    (tmp_path / "out" / "other").mkdir()
    (tmp_path / "out" / "other" / "manifest.json").write_text("[]")
    seen = ledger.ledger(tmp_path / "out", "v1")
    assert seen == {"0123456789abcdef", "f" * 16}
    assert ledger.ledger(tmp_path / "out", "v2") == set()
    old = sources.File(tmp_path / "a", "a", 1, 1, "f" * 16)
    new = sources.File(tmp_path / "b", "b", 1, 1, "0" * 16)
    assert ledger.unseen([old, new], tmp_path / "out", "v1") == [new]
