"""Runs: every row comes out once, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import select

from project.errors import ProjectError
from project.models.registry import CHAMPION, Registry
from project.models.scorer import Scorer
from project.pipeline import manifest, records
from project.pipeline.run import resume, run
from project.settings import Settings
from project.store.database import Store
from project.store.frames import predictions_frame
from project.store.queries import find_run, recent_runs
from project.store.tables import predictions

INPUTS = ["at", "temperature", "station", "staff", "open"]


def with_settings(settings, **pipeline):
    return settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update=pipeline)})


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(folder: Path, kind: str) -> pl.DataFrame:
    listed = json.loads((folder / "manifest.json").read_bytes())["files"]
    return pl.concat(pl.read_parquet(folder / one["path"]) for one in listed if one["path"].startswith(kind))


def logged(settings) -> list[tuple]:
    columns = [predictions.c[name] for name in ("id", "source", "run_id", "row", "inputs", "output")]
    with Store(settings) as store, store.read() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(predictions.c.id))]


def test_every_row_is_published_or_quarantined(job, rows):
    settings, source, output = job
    result = run(settings, source, output)
    assert (result.rows_in, result.rows_published, result.rows_quarantined) == (300, 280, 20)
    assert result.reasons == {"staff: type": 20}
    assert result.ignored == ["notes.txt"]
    good, bad = read(result.folder, "predictions"), read(result.folder, "quarantine")
    assert good["prediction_id"].n_unique() == 280
    assert bad["source_row"].to_list() == list(range(4, 201, 10))
    assert bad["source_file"].unique().to_list() == ["a.csv"]
    assert bad["staff"].unique().to_list() == ["many"]
    assert bad["reasons"].unique().to_list() == ["staff must be an integer"]
    assert sorted([*good["id"].cast(pl.Int64), *bad["id"].cast(pl.Int64)]) == list(range(5000, 5300))
    kept = [number for number in range(300) if number >= 200 or number % 10 != 3]
    alone = Scorer(Registry(settings).load(CHAMPION)).frame(rows.select(INPUTS)[kept])
    assert good["prediction"].to_list() == pytest.approx(alone["prediction"].to_list())
    assert json.loads((output / "latest.json").read_bytes())["run"] == result.id
    assert sorted(path.name for path in output.iterdir()) == sorted([result.id, "latest.json"])


def test_the_log_holds_the_run_and_each_prediction(job):
    settings, source, output = job
    result = run(settings, source, output)
    bundle = Registry(settings).load(CHAMPION)
    with Store(settings) as store:
        (row,) = recent_runs(store)
        frame = predictions_frame(store, bundle.signature, bundle.version)
    assert (row["id"], row["status"], row["rows_in"]) == (result.id, "succeeded", 300)
    assert (row["rows_published"], row["rows_quarantined"]) == (280, 20)
    assert row["reasons"] == {"staff: type": 20}
    published = read(result.folder, "predictions")
    both = frame.join(published, left_on="id", right_on="prediction_id", suffix="_published")
    assert both.height == frame.height == 280
    for name in (*INPUTS, "prediction"):
        assert both[name].equals(both[f"{name}_published"]), name
    assert set(frame["source"]) == {"batch"}


def test_a_second_run_changes_nothing(job):
    settings, source, output = job
    first = run(settings, source, output)
    before, log = hashes(output), logged(settings)
    second = run(settings, source, output)
    assert (second.already, second.id, second.rows_in) == (True, first.id, 300)
    assert hashes(output) == before
    assert logged(settings) == log
    assert resume(settings, output) is None


def test_the_latest_run_is_the_one_that_was_asked_for_last(job):
    settings, source, output = job
    first = run(settings, source / "a.csv", output)
    second = run(settings, source / "b.parquet", output)
    with Store(settings) as store:
        assert find_run(store, "latest")["id"] == second.id
        assert run(settings, source / "a.csv", output).already
        assert find_run(store, "latest")["id"] == first.id


def test_a_damaged_output_is_made_again(job):
    settings, source, output = job
    result = run(settings, source, output)
    before = hashes(output)
    next((result.folder / "predictions").iterdir()).write_bytes(b"x")
    assert not run(settings, source, output).already
    assert hashes(output) == before
    assert len(logged(settings)) == 280


def test_another_model_or_input_is_another_run(job):
    settings, source, output = job
    first = run(settings, source, output)
    (source / "b.parquet").unlink()
    second = run(settings, source, output)
    assert first.id != second.id
    assert second.rows_in == 200
    assert manifest.intact(first.folder)


def test_too_many_bad_rows_publish_nothing(job):
    settings, source, output = job
    strict = with_settings(settings, quarantine_limit=0.05)
    with pytest.raises(ProjectError, match=r"20 of 300 rows are bad.*staff: type \(20\)"):
        run(strict, source, output)
    assert not [path for path in output.iterdir() if not path.name.startswith(".")]
    assert logged(settings) == []
    with Store(settings) as store:
        (row,) = recent_runs(store)
    assert (row["status"], row["rows_published"], row["rows_quarantined"]) == ("failed", 0, 20)
    assert resume(settings).rows_published == 280  # the limit is the old one again


def test_chunks_that_are_all_good_or_all_bad(job):
    settings, source, output = job
    lines = (source / "a.csv").read_text().splitlines()
    broken = [
        line.replace(line.split(",")[3], "?", 1) if 60 < place <= 130 else line for place, line in enumerate(lines)
    ]
    (source / "a.csv").write_text("\n".join(broken))
    result = run(settings, source, output)
    assert result.rows_in == result.rows_published + result.rows_quarantined == 300
    assert result.rows_quarantined > 64
    with pytest.raises(ProjectError, match="nothing is published"):
        run(with_settings(settings, quarantine_limit=0.1, chunk_rows=7), source, output)


def test_own_columns_win_over_those_of_the_input(champion, rows, tmp_path):
    given = rows.select(*INPUTS, prediction_id=pl.lit("mine"), prediction=pl.lit(1), row=pl.lit(9), reasons=pl.lit("r"))
    given.write_parquet(tmp_path / "a.parquet")
    good = read(run(champion, tmp_path / "a.parquet", tmp_path / "out").folder, "predictions")
    assert good["input_prediction_id"].unique().to_list() == ["mine"]
    assert good["input_prediction"].unique().to_list() == [1]
    assert good["row"].unique().to_list() == [9]
    assert good["prediction"].n_unique() > 10


def test_two_runs_at_once(job):
    settings, source, output = job
    said = []

    def meanwhile(*_):
        if not said:
            with pytest.raises(ProjectError, match="another process is at work") as caught:
                run(settings, source, output)
            said.append(str(caught.value))

    assert run(settings, source, output, meanwhile).rows_published == 280
    assert said


def test_log_rows_off(job):
    settings, source, output = job
    run(with_settings(settings, log_rows=False), source, output)
    assert logged(settings) == []


def test_a_resumed_run_keeps_its_model_and_refuses_another_input(job):
    settings, source, output = job

    def stop(share, rows, quarantined):
        if rows >= 96:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, source, output, stop)
    registry = Registry(settings)
    version = registry.resolve(CHAMPION)
    alias = registry.folder / "aliases" / f"{CHAMPION}.json"
    alias.write_text(alias.read_text().replace(version, "0" * 16))
    content = (source / "a.csv").read_bytes()
    (source / "a.csv").write_bytes(content.replace(b"many", b"1", 1))
    with pytest.raises(ProjectError, match="has changed since the run began"):
        resume(settings, output)
    (source / "a.csv").write_bytes(content)
    result = resume(with_settings(settings, chunk_rows=1000))
    assert (result.model_version, result.rows_published) == (version.strip(), 280)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_run_is_traced_with_the_steps_of_its_chunks(
    collector: Any, champion: Settings, rows: pl.DataFrame, tmp_path: Path
) -> None:
    bad = pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("many"))
    rows.with_columns(staff=bad.otherwise(pl.col("staff").cast(pl.String))).write_csv(tmp_path / "in.csv")
    done = run(with_settings(champion, chunk_rows=100), tmp_path / "in.csv", tmp_path / "out")
    assert done
    (root,) = [span for span in collector.spans if span.name == "pipeline run"]
    told = attributes(root)
    assert (told["pipeline.run"], told["model.version"]) == (done.id, done.model_version)
    assert (told["pipeline.rows_in"], told["pipeline.rows_published"]) == (rows.height, done.rows_published)
    steps = [span for span in collector.spans if span.parent_span_id == root.span_id]
    assert [span.name for span in steps].count("score") == 3
    names = [span.name for span in sorted(steps, key=lambda span: span.start_time_unix_nano)]
    assert names == ["ingest", "validate", "transform", "score", "publish"] * 3 + ["monitor"]
    told = {span.name: attributes(span) for span in steps if attributes(span).get("pipeline.chunk") in (0, None)}
    assert (told["validate"]["pipeline.rows_in"], told["validate"]["pipeline.rejected"]) == (100, 1)
    assert {told[name]["pipeline.rows_out"] for name in ("validate", "transform", "score", "publish")} == {99}
    assert told["publish"]["pipeline.bytes"] > 0
    assert told["monitor"]["pipeline.rows_in"] == done.rows_published
    assert all(one["pipeline.resident_mb"] > 0 for one in told.values()) or sys.platform != "linux"
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano for span in steps)
    assert all(span.end_time_unix_nano <= root.end_time_unix_nano for span in steps)


def test_a_run_that_stops_is_traced_as_failed(collector: Any, champion: Settings, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n")
    with pytest.raises(ProjectError):
        run(champion, tmp_path / "in.csv", tmp_path / "out")
    (root,) = collector.spans
    assert root.status.code == 2  # STATUS_CODE_ERROR


def test_what_was_published_is_checked_against_the_reference(job, rows):
    settings, source, output = job
    like = run(settings, source, output)
    assert like.steps["monitor"]["state"] == "warning"  # 20 of 300 rows are in quarantine
    (found,) = like.steps["monitor"]["found"]
    assert (found["kind"], found["subject"], found["detail"]) == ("quality", "quarantined rows", "6.7% of 300 rows")
    (source / "a.csv").unlink()
    pl.concat([rows.select(*INPUTS)] * 2).with_columns(temperature=pl.lit(39.5)).write_parquet(source / "b.parquet")
    other = run(settings, source, output)
    assert other.steps["monitor"]["state"] == "alert"
    drifted = {one["subject"] for one in other.steps["monitor"]["found"] if one["kind"] == "drift"}
    assert "temperature" in drifted
    assert "station" not in drifted
    assert other.rows_published == 600
    with Store(settings) as store:
        assert find_run(store, other.id)["steps"]["monitor"] == other.steps["monitor"]


def test_checks_look_at_a_bounded_part_that_is_spread_over_the_run(job, monkeypatch):
    settings, source, output = job
    done = run(with_settings(settings, chunk_rows=10), source, output)
    bundle, content = Registry(settings).load(CHAMPION), manifest.intact(done.folder)
    monkeypatch.setattr(records, "CHECKED", 40)
    monkeypatch.setattr(records, "FILES", 10)
    step, _ = records.monitor(settings.monitoring, bundle, done.folder, content)
    assert 20 <= step["rows_in"] <= 50
    listed = [entry for entry in content["files"] if entry["path"].startswith("predictions")]
    assert step["bytes"] < sum(entry["bytes"] for entry in listed) / 2
    every = len(listed)
    for entry in listed[: every // 2]:  # files of both halves are read
        (done.folder / entry["path"]).write_bytes(b"x")
    with pytest.raises(pl.exceptions.PolarsError):
        records.monitor(settings.monitoring, bundle, done.folder, content)


def test_checks_that_fail_leave_the_run_published(job, monkeypatch):
    settings, source, output = job

    def fail(*_):
        raise ValueError("no profile\nat all")

    monkeypatch.setattr(records, "_sample", fail)
    done = run(settings, source, output)
    assert done.rows_published == 280
    assert done.steps["monitor"]["state"] == "unknown"
    assert done.steps["monitor"]["error"] == "ValueError: no profile"
    with Store(settings) as store:
        assert find_run(store, done.id)["status"] == "succeeded"


def test_checks_can_be_switched_off(job):
    settings, source, output = job
    done = run(with_settings(settings, monitor=False), source, output)
    assert [step["step"] for step in done.steps["steps"]][-1] == "publish"
    assert "monitor" not in done.steps


def test_nothing_but_bad_rows_is_published_and_checked(job):
    settings, source, output = job
    (source / "b.parquet").unlink()
    lines = (source / "a.csv").read_text().splitlines()
    (source / "a.csv").write_text("\n".join([lines[0], *(line for line in lines if "many" in line)]))
    done = run(with_settings(settings, quarantine_limit=1.0), source, output)
    assert (done.rows_published, done.rows_quarantined) == (0, 20)
    assert done.steps["monitor"]["state"] == "unknown"
    assert done.steps["steps"][-1]["rows_in"] == 0


def test_a_run_published_elsewhere_too_keeps_what_its_steps_told(job):
    settings, source, output = job
    first = run(settings, source, output)
    second = run(settings, source, output.with_name("other"))  # the same run, done again
    assert second.steps["steps"][0]["rows_in"] == 300
    back = run(settings, source, output)  # there already; the log knows it by the other folder
    assert back.already
    with Store(settings) as store:
        told = find_run(store, first.id)
    assert told["output"] == str(output)
    assert told["steps"] == second.steps
    assert told["seconds"] == back.seconds == second.seconds


def samples(path: Path) -> dict[str, float]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_of_runs_are_left_for_a_collector(job):
    settings, source, output = job
    telemetry = settings.telemetry.model_copy(update={"metrics_file": "data/batch.prom"})
    settings = settings.model_copy(update={"telemetry": telemetry})
    done, path = run(settings, source, output), settings.path("data/batch.prom")
    told = samples(path)
    assert told['pipeline_runs{status="succeeded"}'] == 1
    assert told['pipeline_rows{outcome="published"}'] == told['pipeline_run_rows{outcome="published"}'] == 280
    assert told['pipeline_run_rows{outcome="quarantined"}'] == 20
    assert told['pipeline_step_rows{outcome="rejected",step="validate"}'] == 20
    assert told['pipeline_run_checks{state="warning"}'] == 1
    assert told["pipeline_run_duration_seconds"] == done.seconds
    assert told["pipeline_last_failed"] == 0
    steps = re.findall(r'^pipeline_step_duration_seconds\{step="(\w+)"\}', path.read_text(), re.MULTILINE)
    assert steps == ["ingest", "validate", "transform", "score", "publish", "monitor"]
    with Store(settings) as store:
        ended = find_run(store, done.id)["finished"]
    assert told["pipeline_last_success_timestamp_seconds"] == ended.timestamp()
    if shutil.which("promtool"):
        text = path.read_bytes()
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")

    (source / "z.csv").write_text("a\n1\n")
    with pytest.raises(ProjectError):
        run(settings, source, output)
    after = samples(path)
    assert (after["pipeline_last_failed"], after['pipeline_runs{status="failed"}']) == (1, 1)
    for name in ("pipeline_last_success_timestamp_seconds", "pipeline_run_duration_seconds"):
        assert after[name] == told[name]
    assert [one.name for one in path.parent.iterdir() if "batch" in one.name] == ["batch.prom"]  # no draft is left


def test_metrics_that_cannot_be_written_fail_no_run(job):
    settings, source, output = job
    telemetry = settings.telemetry.model_copy(update={"metrics_file": "nowhere/batch.prom"})
    done = run(settings.model_copy(update={"telemetry": telemetry}), source, output)
    assert done.rows_published == 280
