"""Late truth: every row of a table of outcomes is told what became of it, and the log holds those that are joined."""

from __future__ import annotations

import json
from datetime import timedelta

import polars as pl
import pytest
from sqlalchemy import select

from project.errors import ProjectError
from project.pipeline.feedback import join
from project.pipeline.run import run
from project.store.database import Store
from project.store.tables import feedback

INPUTS = ["at", "temperature", "station", "staff", "open"]


def with_settings(settings, **pipeline):
    return settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update=pipeline)})


@pytest.fixture
def inputs(rows, tmp_path):
    """Rows whose station and time tell them apart, as a file: a column of the model's and one of the team's."""
    given = rows.select(*INPUTS).with_columns(
        at=pl.col("at").first() + pl.duration(hours=pl.int_range(pl.len())), order=pl.int_range(pl.len()) + 100
    )
    given.write_parquet(tmp_path / "in.parquet")
    return given


@pytest.fixture
def done(champion, inputs, tmp_path):
    """Settings with small chunks, a run of all rows, and what it published."""
    settings = with_settings(champion, chunk_rows=64, workers=1)
    ended = run(settings, str(tmp_path / "in.parquet"), tmp_path / "out")
    return settings, ended, pl.read_parquet(ended.folder / "predictions" / "*.parquet")


def stored(settings):
    with Store(settings) as store, store.read() as connection:
        query = select(feedback.c.prediction_id, feedback.c.actual, feedback.c.time)
        return {row[0]: (json.loads(row[1]), row[2]) for row in connection.execute(query)}


def actuals(settings):
    return {key: value for key, (value, _) in stored(settings).items()}


def test_by_id_every_row_is_accounted_for(done, tmp_path):
    settings, _, made = done
    ids = made["prediction_id"].to_list()
    table = {ids[0]: "50", ids[1]: "60.5", ids[2]: "", ids[3]: "many", "nobody": "5"}
    lines = [*(f"{key},{value}" for key, value in table.items()), f"{ids[4]},1", f"{ids[4]},2", f"{ids[0]},50", ",5"]
    (tmp_path / "true.csv").write_text("\n".join(["prediction_id,hires", *lines]))
    found = join(settings, str(tmp_path / "true.csv"), "hires", leave=tmp_path / "left.csv")
    assert found.counts == {"joined": 3, "unknown": 1, "ambiguous": 2, "invalid": 3}
    assert actuals(settings) == {ids[0]: 50.0, ids[1]: 60.5}
    assert found.examples["invalid"][0] == "true.csv row 3: hires is missing: give a number"
    left = pl.read_csv(tmp_path / "left.csv", infer_schema=False)
    assert left["source_row"].to_list() == ["3", "4", "5", "6", "7", "9"]
    assert left["hires"].to_list() == [None, "many", "5", "1", "2", "5"]
    assert [reason.partition(":")[0] for reason in left["reasons"]] == [
        *("invalid", "invalid", "unknown", "ambiguous", "ambiguous", "invalid")
    ]


def test_twice_changes_nothing_and_the_last_word_counts(done, tmp_path):
    settings, _, made = done
    table = made.select("prediction_id", true=pl.col("prediction").round(1))
    table.write_parquet(tmp_path / "true.parquet")
    assert join(settings, str(tmp_path / "true.parquet"), "true").counts["joined"] == 300
    before = stored(settings)
    assert len(before) == 300
    join(settings, str(tmp_path / "true.parquet"), "true")
    assert stored(settings) == before
    table.head(1).with_columns(true=pl.lit(1.0)).write_parquet(tmp_path / "true.parquet")
    join(settings, str(tmp_path / "true.parquet"), "true")
    assert {key for key, value in stored(settings).items() if before[key] != value} == {table["prediction_id"][0]}


@pytest.mark.parametrize("key", [["station", "at"], ["order"]])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_by_columns_of_any_type(done, inputs, tmp_path, key, form):
    settings, ended, made = done
    table = inputs.select(*key, true=pl.int_range(pl.len()).cast(pl.Float64)).sample(fraction=1, shuffle=True, seed=1)
    source = tmp_path / f"true.{form}"
    if form == "csv":
        if "at" in key:
            table = table.with_columns(pl.col("at").dt.strftime("%Y-%m-%d %H:%M:%S"))
        table.write_csv(source)
    else:
        table.write_parquet(source)
    assert join(settings, str(source), "true", key, run=ended.id[:6]).counts["joined"] == 300
    wanted = dict(zip(made["prediction_id"], map(float, range(300)), strict=True))
    assert actuals(settings) == wanted


def test_a_key_that_fits_several_predictions(done, inputs, tmp_path):
    settings, _, _ = done
    table = pl.DataFrame({"station": ["north", "moon"], "true": [1, 2]})
    table.write_csv(tmp_path / "true.csv")
    found = join(settings, str(tmp_path / "true.csv"), "true", ["station"])
    assert found.counts == {"joined": 0, "unknown": 1, "ambiguous": 1, "invalid": 0}
    assert "fits" in found.examples["ambiguous"][0]
    assert not stored(settings)


def test_all_runs_are_searched_and_one_without_its_files_is_left_out(done, inputs, tmp_path):
    settings, _, _ = done
    later = inputs.with_columns(pl.col("order") + 1000, pl.col("at") + timedelta(days=50))
    later.write_parquet(tmp_path / "later.parquet")
    second = run(settings, str(tmp_path / "later.parquet"), tmp_path / "out")
    pl.concat([inputs, later]).select("order", true=pl.lit(1)).write_csv(tmp_path / "true.csv")
    assert join(settings, str(tmp_path / "true.csv"), "true", ["order"]).counts["joined"] == 600
    next((second.folder / "predictions").iterdir()).unlink()
    found = join(settings, str(tmp_path / "true.csv"), "true", ["order"])
    assert (found.counts["joined"], found.counts["unknown"]) == (300, 300)
    assert second.id in found.notes[0]
    with pytest.raises(ProjectError, match="not whole"):
        join(settings, str(tmp_path / "true.csv"), "true", ["order"], run=second.id)


def test_predictions_that_are_not_in_the_log_are_told(champion, inputs, tmp_path):
    settings = with_settings(champion, log_rows=False)
    run(settings, str(tmp_path / "in.parquet"), tmp_path / "out")
    inputs.select("order", true=pl.lit(1)).write_csv(tmp_path / "true.csv")
    found = join(settings, str(tmp_path / "true.csv"), "true", ["order"])
    assert found.counts["joined"] == 300
    assert "300 of the predictions are published but not in the log" in found.notes[0]


def test_a_class_that_the_model_does_not_know_is_invalid(classifier, inputs, tmp_path):
    ended = run(classifier, str(tmp_path / "in.parquet"), tmp_path / "out")
    made = pl.read_parquet(ended.folder / "predictions" / "*.parquet")
    truth = ["yes", "maybe", *["no"] * 298]
    made.select("prediction_id", true=pl.Series(truth)).write_csv(tmp_path / "true.csv")
    found = join(classifier, str(tmp_path / "true.csv"), "true")
    assert found.counts == {"joined": 299, "unknown": 0, "ambiguous": 0, "invalid": 1}
    assert actuals(classifier)[made["prediction_id"][0]] == "yes"


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ("prediction_id,hires\n", {}, "has no rows"),
        ("id,hires\na,1\n", {}, r"true\.csv lacks the column prediction_id: its columns are id, hires"),
        ("station,hires\na,1\n", {"key": ["hires"]}, "the column hires is given twice"),
        ("planet,hires\na,1\n", {"key": ["planet"]}, "no run has predictions that can be joined by planet"),
        ("station,hires\na,1\n", {"key": ["station"], "run": "zzz"}, "the log has no batch run zzz"),
        ("prediction_id,hires\na,1\nb,1,2\n", {}, r"true\.csv row 2 has 3 fields"),
    ],
)
def test_what_cannot_be_joined_is_one_sentence(done, tmp_path, content, options, sentence):
    settings, _, _ = done
    (tmp_path / "true.csv").write_text(content)
    with pytest.raises(ProjectError, match=sentence) as caught:
        join(settings, str(tmp_path / "true.csv"), "hires", leave=tmp_path / "left.csv", **options)
    assert "\n" not in str(caught.value)
    assert not stored(settings)
    assert not (tmp_path / "left.csv").exists()


def test_the_input_is_never_written_over(done, tmp_path):
    settings, _, made = done
    made.select("prediction_id", true=pl.lit(1)).write_csv(tmp_path / "true.csv")
    with pytest.raises(ProjectError, match="is the input itself"):
        join(settings, str(tmp_path / "true.csv"), "true", leave=tmp_path / "true.csv")
