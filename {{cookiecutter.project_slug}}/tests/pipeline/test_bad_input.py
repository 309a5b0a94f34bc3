"""What is wrong with the input or the disk: one clear sentence, nothing half-written, and a run that can be resumed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from project.errors import ProjectError
from project.pipeline.run import resume, run
from project.store.database import Store
from project.store.queries import recent_runs

INPUTS = ["at", "temperature", "station", "staff", "open"]


def as_csv(rows: pl.DataFrame) -> bytes:
    return rows.select(INPUTS).with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv().encode()


def as_parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.select(INPUTS).write_parquet(buffer)
    return buffer.getvalue()


BAD: dict[str, tuple[str, Callable[[pl.DataFrame], bytes], str]] = {
    "a Parquet named CSV": ("rows.csv", as_parquet, r"rows\.csv"),
    "a CSV named Parquet": ("rows.parquet", as_csv, r"rows\.parquet is no Parquet by its content"),
    "a CSV named gzip": ("rows.csv.gz", as_csv, r"rows\.csv\.gz is not gz by its content"),
    "cut off": ("rows.parquet", lambda rows: as_parquet(rows)[:-9], r"rows\.parquet cannot be read"),
    "no bytes": ("rows.csv", lambda rows: b"", r"rows\.csv is empty"),
    "no bytes, named Parquet": ("rows.parquet", lambda rows: b"", r"rows\.parquet is empty"),
    "no bytes, named as a workbook": ("rows.xlsx", lambda rows: b"", r"rows\.xlsx is empty"),
    "a header alone": ("rows.csv", lambda rows: as_csv(rows[:0]), "has no rows"),
    "other columns": ("rows.csv", lambda rows: b"a,b\n1,2\n", r"lacks the column\(s\) at, "),
    "a column twice": ("rows.csv", lambda rows: as_csv(rows).replace(b"staff", b"open", 1), "the column 'open' twice"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(
    champion: Any, rows: pl.DataFrame, tmp_path: Path, kind: str
) -> None:
    name, make, sentence = BAD[kind]
    (tmp_path / name).write_bytes(make(rows.head(50)))
    with pytest.raises(ProjectError, match=sentence) as caught:
        run(champion, tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["at,temperature\n1,2\n", "at,temperature,station,staff,open\n"])
def test_wrong_input_leaves_nothing(job: Any, content: str) -> None:
    settings, source, output = job
    (source / "z.csv").write_text(content)
    with pytest.raises(ProjectError, match=r"z\.csv"):
        run(settings, source, output)
    assert not output.exists()
    with Store(settings) as store:
        assert [(row["status"], bool(row["error"])) for row in recent_runs(store)] == [("failed", True)]


def test_a_file_broken_in_its_middle_leaves_nothing(job: Any) -> None:
    settings, source, output = job
    text = (source / "a.csv").read_text().splitlines()
    (source / "a.csv").write_text("\n".join([*text[:150], text[150][:12]]))
    with pytest.raises(ProjectError, match=r"a\.csv row 150 has 1 fields"):
        run(settings, source, output)
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_said(job: Any, tmp_path: Path) -> None:
    settings, source, _ = job
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="cannot be written"):
        run(settings, source, tmp_path / "file")


def test_a_file_that_vanishes_is_said(champion: Any, rows: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(as_csv(rows))
    small = champion.model_copy(update={"pipeline": champion.pipeline.model_copy(update={"chunk_rows": 32})})

    def vanish(share: float, read: int, bad: int) -> None:
        path.unlink(missing_ok=True)

    with pytest.raises(ProjectError, match=r"rows\.csv cannot be read: No such file"):
        run(small, path, tmp_path / "out", vanish)
    assert not (tmp_path / "out").exists()


def test_mixed_types_and_rows_that_come_twice_are_judged_row_by_row(
    champion: Any, rows: pl.DataFrame, tmp_path: Path
) -> None:
    given = as_csv(rows.head(20)).decode().splitlines()
    given[3] = given[3].replace(",", ",x", 1)  # a text among the temperatures
    (tmp_path / "rows.csv").write_text("\n".join([*given, given[1], given[1]]) + "\n")
    done = run(champion, tmp_path / "rows.csv", tmp_path / "out")
    assert done is not None
    assert (done.rows_in, done.rows_published, done.rows_quarantined) == (22, 21, 1)
    (table,) = [pl.read_parquet(path) for path in (done.folder / "predictions").iterdir()]
    assert table["prediction_id"].n_unique() == 21  # each row is a prediction of its own


def test_ten_thousand_columns_come_through(champion: Any, rows: pl.DataFrame, tmp_path: Path) -> None:
    wide = rows.head(40).select(INPUTS).with_columns(pl.lit(number).alias(f"c{number}") for number in range(10_000))
    wide.write_parquet(tmp_path / "rows.parquet")
    done = run(champion, tmp_path / "rows.parquet", tmp_path / "out")
    assert done is not None
    assert done.rows_published == 40


def test_a_full_disk_stops_the_run_and_resume_is_exact(
    champion: Any, rows: pl.DataFrame, tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    (tmp_path / "rows.csv").write_bytes(as_csv(rows))
    small = champion.model_copy(update={"pipeline": champion.pipeline.model_copy(update={"chunk_rows": 32})})
    whole = run(small, tmp_path / "rows.csv", tmp_path / "undisturbed")
    for size in (8, 12, 16, 24, 32, 64):  # full as the request, the model, a chunk is written
        output = disk(f"size={size}k")
        with pytest.raises(ProjectError, match=r"^\S+ cannot be written \(No space left on device\): .*resume`$"):
            run(small, tmp_path / "rows.csv", output)
        assert not list(output.glob("[!.]*"))  # nothing for a reader
    disk("size=8m")
    done = resume(small, output)
    assert done is not None
    assert whole is not None
    assert hashes(done.folder) == hashes(whole.folder)


def test_a_read_only_disk_is_said(
    champion: Any, rows: pl.DataFrame, tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    (tmp_path / "rows.csv").write_bytes(as_csv(rows))
    output = disk("size=8m,ro")
    with pytest.raises(ProjectError, match=r"cannot be written \(Read-only"):
        run(champion, tmp_path / "rows.csv", output / "out")
    with pytest.raises(ProjectError, match=r"cannot be written \(Read-only"):
        run(champion, tmp_path / "rows.csv", output, new_only=True)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
