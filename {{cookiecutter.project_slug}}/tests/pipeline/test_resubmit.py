"""Quarantined rows are corrected and come back, each once."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from project.errors import ProjectError
from project.pipeline.resubmit import take_out
from project.pipeline.run import run

INPUTS = ["at", "temperature", "station", "staff", "open"]


@pytest.fixture
def first(champion, rows, tmp_path):
    """Settings, and a published run of 100 rows of which 10 are in quarantine."""
    texts = rows.head(100).select(*INPUTS).with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).cast(pl.String)
    bad = pl.int_range(pl.len()) % 10 == 3
    texts.with_columns(staff=pl.when(bad).then(pl.lit("many")).otherwise("staff")).write_csv(tmp_path / "rows.csv")
    return champion, run(champion, tmp_path / "rows.csv", tmp_path / "out")


def corrected(folder: Path, path: Path, staff: str = "2") -> Path:
    take_out(folder, path)
    pl.read_csv(path, infer_schema=False).with_columns(staff=pl.lit(staff)).write_csv(path)
    return path


def published(folder: Path) -> pl.DataFrame:
    listed = json.loads((folder / "manifest.json").read_bytes())["files"]
    return pl.concat(pl.read_parquet(folder / one["path"]) for one in listed if one["path"].startswith("predictions"))


def test_corrected_rows_are_published_with_their_origin(first, tmp_path):
    settings, done = first
    path = corrected(done.folder, tmp_path / "bad.csv")
    taken = pl.read_csv(path, infer_schema=False)
    assert taken["source_row"].to_list() == [str(number) for number in range(4, 101, 10)]
    assert "staff" in taken["reasons"][0]
    again = run(settings, path, tmp_path / "out", resubmits=done.id)
    assert (again.rows_in, again.rows_published, again.rows_quarantined) == (10, 10, 0)
    table = published(again.folder)
    assert table["source_row"].cast(pl.String).to_list() == taken["source_row"].to_list()
    assert set(table["source_file"]) == {"rows.csv"}
    before = published(done.folder)
    assert table.schema == before.schema  # who reads all runs together sees one table
    assert set(table["prediction_id"]).isdisjoint(before["prediction_id"])


def test_the_same_correction_twice_changes_nothing(first, tmp_path):
    settings, done = first
    path = corrected(done.folder, tmp_path / "bad.csv")
    again = run(settings, path, tmp_path / "out", resubmits=done.id)
    assert not again.already
    assert run(settings, path, tmp_path / "out", resubmits=done.id).already


def test_what_is_still_bad_can_be_corrected_again(first, tmp_path):
    settings, done = first
    still = pl.when(pl.int_range(pl.len()) < 2).then(pl.lit("lots")).otherwise(pl.lit("2")).alias("staff")
    path = corrected(done.folder, tmp_path / "bad.csv")
    pl.read_csv(path, infer_schema=False).with_columns(still).write_csv(path)
    second = run(settings, path, tmp_path / "out", resubmits=done.id)
    assert second.rows_quarantined == 2
    third = run(settings, corrected(second.folder, tmp_path / "worse.csv"), tmp_path / "out", resubmits=second.id)
    assert third.rows_published == 2
    assert published(third.folder)["source_row"].to_list() == [4, 14]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda table: pl.concat([table, table.head(1)]), r"row 4 of rows\.csv comes twice"),
        (lambda table: table.with_columns(source_row=pl.lit("5")).head(1), r"row 5 of rows\.csv is not in the quaran"),
        (lambda table: table.drop("source_row"), "lacks the column source_row"),
    ],
)
def test_rows_of_elsewhere_are_refused(first, tmp_path, spoil, sentence):
    settings, done = first
    path = corrected(done.folder, tmp_path / "bad.csv")
    spoil(pl.read_csv(path, infer_schema=False)).write_csv(path)
    with pytest.raises(ProjectError, match=sentence):
        run(settings, path, tmp_path / "out", resubmits=done.id)
    assert [one.name for one in (tmp_path / "out").iterdir() if one.is_dir()] == [done.id]


def test_a_row_is_not_published_by_two_corrections(first, tmp_path):
    settings, done = first
    run(settings, corrected(done.folder, tmp_path / "bad.csv"), tmp_path / "out", resubmits=done.id)
    other = corrected(done.folder, tmp_path / "other.csv", staff="3")
    with pytest.raises(ProjectError, match=r"row 4 of rows\.csv was resubmitted by run \w{16} already"):
        run(settings, other, tmp_path / "out", resubmits=done.id)


def test_a_clean_run_has_nothing_to_resubmit(champion, rows, tmp_path):
    rows.head(20).select(*INPUTS).write_parquet(tmp_path / "rows.parquet")
    done = run(champion, tmp_path / "rows.parquet", tmp_path / "out")
    assert take_out(done.folder, tmp_path / "bad.csv") == 0
    assert not (tmp_path / "bad.csv").exists()
    with pytest.raises(ProjectError, match="has quarantined no rows"):
        run(champion, tmp_path / "rows.parquet", tmp_path / "out", resubmits=done.id)
