"""Every way in gives the same predictions, and every way out is filled exactly once."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import polars as pl
import pytest

from project.errors import ProjectError
from project.pipeline import spool
from project.pipeline.run import resume, run
from project.store.database import Store
from project.store.queries import recent_runs

INPUTS = ["at", "temperature", "station", "staff", "open"]


def with_settings(settings, **pipeline):
    return settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update=pipeline)})


@pytest.fixture
def ways(rows, tmp_path):
    """The same rows as plain CSV, as semicolons in UTF-16, as JSON lines and as a table."""
    texts = rows.select(*INPUTS).with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    for name in ("plain", "other", "lines", "base"):
        (tmp_path / name).mkdir()
    texts.write_csv(tmp_path / "plain" / "rows.csv")
    (tmp_path / "other" / "rows.csv").write_bytes(texts.write_csv(separator=";").encode("utf-16"))
    texts.write_ndjson(tmp_path / "lines" / "rows.jsonl")
    with closing(sqlite3.connect(tmp_path / "base" / "shop.db")) as connection, connection:
        connection.execute("CREATE TABLE hires (id INTEGER PRIMARY KEY, at, temperature REAL, station, staff, open)")
        connection.executemany("INSERT INTO hires VALUES (NULL, ?, ?, ?, ?, ?)", texts.rows())
    return {
        "plain": tmp_path / "plain",
        "other": tmp_path / "other",
        "lines": tmp_path / "lines",
        "base": f"sqlite:///{tmp_path}/base/shop.db?table=hires",
    }


def published(result) -> pl.DataFrame:
    listed = json.loads((result.folder / "manifest.json").read_bytes())["files"]
    return pl.concat(
        pl.read_parquet(result.folder / one["path"]) for one in listed if one["path"].startswith("predictions")
    )


def test_every_way_in_gives_the_same_predictions(champion, ways, tmp_path):
    given = {name: published(run(champion, source, tmp_path / "out")) for name, source in ways.items()}
    found = [one.select(*INPUTS, "prediction") for one in given.values()]
    assert found[0].height == 300
    assert all(one.equals(found[0]) for one in found)
    names = {name: one["source_file"].unique().to_list() for name, one in given.items()}
    assert names == {"plain": ["rows.csv"], "other": ["rows.csv"], "lines": ["rows.jsonl"], "base": ["hires"]}
    assert sorted(path.name for path in (tmp_path / "out").glob(".*")) == []


def test_a_spooled_run_is_done_once(champion, ways, tmp_path):
    first = run(champion, ways["base"], tmp_path / "out")
    second = run(champion, ways["base"], tmp_path / "out")
    assert (first.already, second.already, second.id) == (False, True, first.id)
    with closing(sqlite3.connect(tmp_path / "base" / "shop.db")) as connection, connection:
        connection.execute("UPDATE hires SET staff = 'many' WHERE id < 9")
    third = run(champion, ways["base"], tmp_path / "out")
    assert (third.already, third.rows_published, third.rows_quarantined) == (False, 292, 8)


@pytest.mark.parametrize("moment", ["spool", "score"])
def test_a_spooled_run_goes_on_with_what_it_has_read(champion, ways, tmp_path, monkeypatch, moment):
    output = tmp_path / "out"
    small = with_settings(champion, chunk_rows=32)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "spool":
            patch.setattr(spool._parts.Parts, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            run(small, ways["base"], output, stop)
    (tmp_path / "base" / "shop.db").rename(tmp_path / "away") if moment == "score" else None
    result = resume(champion)
    assert result.rows_published == 300
    assert sorted(path.name for path in output.iterdir()) == sorted([result.id, "latest.json"])
    assert resume(champion) is None
    assert not list((champion.root / "data" / "runs").iterdir())


def test_a_broken_source_leaves_nothing(champion, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{')
    with pytest.raises(ProjectError, match="line 2"):
        run(champion, tmp_path / "rows.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_new_files_only(champion, rows, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    rows.head(100).select(INPUTS).write_parquet(source / "a.parquet")
    assert run(champion, source, output, new_only=True).rows_in == 100
    assert run(champion, source, output, new_only=True) is None
    rows.tail(50).select(INPUTS).write_parquet(source / "b.parquet")
    rows.head(100).select(INPUTS).write_parquet(source / "same.parquet")

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(champion, source, output, stop, new_only=True)
    rows.head(7).select(INPUTS).write_parquet(source / "c.parquet")
    assert resume(champion, output).rows_in == 50
    assert run(champion, source, output, new_only=True).rows_in == 7
    assert run(champion, source, output).rows_in == 257


def test_a_sink_that_fails_is_filled_by_resume(champion, ways, tmp_path):
    target = tmp_path / "scores"
    target.write_text("in the way")
    url = f"sqlite:///{target}?table=scores"
    with pytest.raises(ProjectError, match="scores refused"):
        run(champion, ways["plain"], tmp_path / "out", copies=["csv:", url])
    with Store(champion) as store:
        (row,) = recent_runs(store)
    assert row["status"] == "failed"
    target.unlink()
    result = resume(champion, tmp_path / "out")
    assert result.rows_published == 300
    assert len((result.folder / "predictions.csv").read_text().splitlines()) == 301
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT prediction_id) FROM scores").fetchall() == [
            (300, 300)
        ]
    assert resume(champion, tmp_path / "out") is None
    other = tmp_path / "other.db"
    assert run(champion, ways["plain"], tmp_path / "out", copies=[f"sqlite:///{other}?table=scores"]).already
    with closing(sqlite3.connect(other)) as connection:
        assert connection.execute("SELECT count(*) FROM scores").fetchone() == (300,)


def test_a_sink_of_no_kind_is_said_before_the_run(champion, ways, tmp_path):
    with pytest.raises(ProjectError, match="no place to publish to"):
        run(champion, ways["plain"], tmp_path / "out", copies=["ftp://host"])
    assert not (tmp_path / "out").exists()


def test_no_password_is_written_down(champion, tmp_path):
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    url = "postgresql://ada:s3cret@127.0.0.1:1/shop?table=a"
    with pytest.raises(ProjectError, match="was away") as caught:
        run(with_settings(champion, patience_seconds=0), url, tmp_path / "out")
    assert "s3cret" not in str(caught.value)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path
    with pytest.raises(ProjectError, match="password"):
        resume(champion, tmp_path / "out")
    with pytest.raises(ProjectError, match="was away"):
        resume(with_settings(champion, input=url, patience_seconds=0), tmp_path / "out")


def test_the_command_reads_the_settings(champion, ways, tmp_path):
    import project

    config = champion.root / "config" / "settings.toml"
    values = {"input": str(ways["lines"]), "output": "data/out", "sinks": ["csv:"]}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    config.write_text(f"{config.read_text()}\n[pipeline]\n{text}")

    def call(*arguments):
        code = f"import sys; sys.path[:0] = {sys.path!r}; sys.argv = {['x', 'pipeline', 'run', *arguments]!r}; " + (
            f"from {project.__name__}.commands import main; main()"
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=champion.root)

    done = call("--new-only")
    assert done.returncode == 0, done.stderr
    assert "300 published" in done.stdout
    assert len(list((champion.root / "data" / "out").glob("*/predictions.csv"))) == 1
    assert "no new file to score" in call("--new-only").stdout
