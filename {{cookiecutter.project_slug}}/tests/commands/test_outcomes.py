"""`pipeline show` and `pipeline feedback` as people type them."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
from typer.testing import CliRunner

from project.commands import build
from project.errors import ProjectError
from project.pipeline.run import run as start
from project.store.database import Store
from project.store.tables import runs


@pytest.fixture
def call(champion, monkeypatch):
    """Run a command of the group inside the project; give what it prints."""
    monkeypatch.chdir(champion.root)

    def run(*words, error=None):
        result = CliRunner().invoke(build(), ["pipeline", *map(str, words)])
        if error:
            assert isinstance(result.exception, ProjectError), result.output
            assert error in str(result.exception)
        else:
            assert result.exit_code == 0, result.output + repr(result.exception)
        return result.stdout

    return run


@pytest.fixture
def done(champion, rows, tmp_path):
    """A run of 300 rows, 5 of them bad."""
    staff = pl.when(pl.int_range(pl.len()) < 5).then(pl.lit("many")).otherwise(pl.col("staff").cast(pl.String))
    rows.drop("hires", "busy").with_columns(staff=staff).write_parquet(tmp_path / "in.parquet")
    return start(champion, str(tmp_path / "in.parquet"), tmp_path / "out")


def test_show_tells_all_of_a_run(call, done):
    for reference in (done.id, done.id[:5], "latest"):
        assert call("show", reference).startswith(f"run {done.id}: succeeded")
    lines = call("show").splitlines()
    steps = {line.split()[0]: line.split()[1:4] for line in lines if line.split() and line.split()[0] in STEPS}
    assert steps == {
        "ingest": ["300", "300", "0"],
        "validate": ["300", "295", "5"],
        "transform": ["295", "295", "0"],
        "score": ["295", "295", "0"],
        "publish": ["295", "295", "0"],
        "monitor": ["295", "295", "0"],
    }
    assert any(line.startswith("Monitoring") and "checks over 295 rows" in line for line in lines)
    assert any(line.startswith("step") and line.endswith("resident MB") for line in lines)
    text = "\n".join(lines)
    assert f"pipeline resubmit {done.id} --input bad.csv" in text
    assert any(line.split() == ["staff:", "type", "5"] for line in lines)
    assert "predictions/predictions-00000.parquet" in text
    assert "as published, every byte" in text


STEPS = ("ingest", "validate", "transform", "score", "publish", "monitor")


def test_show_as_json(call, done):
    told = json.loads(call("show", "--json"))
    assert told["run"]["id"] == done.id
    assert [one["step"] for one in told["steps"]] == list(STEPS)
    assert told["steps"][4]["bytes"] == sum(one["bytes"] for one in told["files"])
    assert told["intact"] is True


def test_show_notices_files_that_are_damaged_or_gone(call, done):
    next((done.folder / "predictions").iterdir()).write_bytes(b"x")
    assert "damaged or gone" in call("show")
    shutil.rmtree(done.folder.parent)
    text = call("show")
    assert "its files are not in" in text
    assert "There is no manifest" in text


def test_show_says_what_to_do_with_a_run_that_failed(call, champion, done):
    with Store(champion) as store, store.write() as connection:
        connection.execute(runs.update().values(status="failed", error="the disk is full", steps=None))
    assert "The disk is full. Mend it, then start it again: " in call("show")
    partial = done.folder.with_name(f".{done.id}.partial")
    partial.mkdir()
    (partial / "request.json").write_text("{}")
    assert "pipeline resume goes on" in call("show").replace("`", "")


def test_show_what_is_not_there(call, done):
    call("show", "zzz", error="the log has no batch run zzz")
    call("show", "%", error="the log has no batch run %")


def test_feedback_prints_counts_that_add_up(call, done, tmp_path):
    made = pl.read_parquet(done.folder / "predictions" / "*.parquet")
    ids = [*made["prediction_id"].head(20), *(f"unknown-{number}" for number in range(8))]
    pl.DataFrame({"prediction_id": ids, "outcome": [50.5] * 28}).write_csv(tmp_path / "true.csv")
    words = ("feedback", "--input", tmp_path / "true.csv", "--value", "outcome")
    lines = call(*words, "--rejected", tmp_path / "left.csv").splitlines()
    assert lines[0] == "28 rows = 20 joined + 8 unknown + 0 ambiguous + 0 invalid"
    assert sum(line.startswith("unknown: true.csv row") for line in lines) == 5
    assert "unknown: and 3 more" in lines
    assert pl.read_csv(tmp_path / "left.csv").height == 8
    assert call(*words).splitlines()[0] == lines[0]


def test_feedback_that_joins_nothing_ends_with_a_sentence(call, done, tmp_path):
    (tmp_path / "true.csv").write_text("prediction_id,outcome\nnobody,1\n")
    printed = call(
        "feedback", "--input", tmp_path / "true.csv", "--value", "outcome", error="not one row was joined: look at"
    )
    assert "1 rows = 0 joined + 1 unknown" in printed


def test_feedback_refuses_options_that_do_not_go_together(call, tmp_path):
    words = ("feedback", "--input", "true.csv", "--value", "outcome")
    call(*words, "--id", "a", "--on", "b", error="only one of them")
    call(*words, "--run", "b", error="--run goes with --on")
    call(*words, "--rejected", "left.parquet", error="is no .csv")
