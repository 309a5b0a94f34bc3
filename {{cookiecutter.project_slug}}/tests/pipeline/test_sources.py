"""Reading: the same rows whatever the file, in bounded pieces; one clear sentence if it cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import random

import polars as pl
import pytest

from project.errors import ProjectError
from project.pipeline import sources


def file(path):
    return sources.identify([path])[0]


def read(path, size, ratio=200):
    """Plan the chunks of a file, and read each alone; the last first, as the order must not matter."""
    spool = path.parent / "spool"
    spool.mkdir(exist_ok=True)
    chunks = list(sources.plan([file(path)], size, spool, ratio))
    frames = [sources.load(chunk) for chunk in reversed(chunks)]
    return chunks, frames[::-1]


def look_and_read(path):
    sources.inspect([file(path)], ["a"], 200)
    return read(path, 100)


@pytest.mark.parametrize("block", [1, 7, 64, 4 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_is_cut_at_the_same_rows_whatever_is_read_at_once(tmp_path, monkeypatch, block, end):
    monkeypatch.setattr(sources, "BLOCK", block)
    pick = random.Random(3)
    words = ["", "a", "two words", "comma, inside", 'quote " inside', "line\nbreak", "é€", '"']
    rows = [[pick.choice(words), str(number), pick.choice(words)] for number in range(53)]
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([["x", "n", "y z"], *rows])
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().rstrip("\r\n").encode())
    chunks, frames = read(path, 10)
    assert [chunk.rows for chunk in chunks] == [frame.height for frame in frames] == [10, 10, 10, 10, 10, 3]
    assert [chunk.first for chunk in chunks] == [1, 11, 21, 31, 41, 51]
    whole = pl.concat(frames)
    assert whole.columns == ["x", "n", "y z"]
    assert [list(row) for row in whole.fill_null("").rows()] == rows
    assert sum(chunk.share for chunk in chunks) == pytest.approx(1)


def test_blank_lines_are_no_rows(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\n\na,b\n1,2\n\n3,4\r\n\r\n\n5,6\n\n")
    assert [row for frame in read(path, 2)[1] for row in frame.rows()] == [("1", "2"), ("3", "4"), ("5", "6")]


def test_gzip_and_parquet_give_the_same_rows(tmp_path):
    table = pl.DataFrame({"a": [str(n) for n in range(25)], "b": ["x"] * 25})
    table.write_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    table.write_parquet(tmp_path / "c.parquet", row_group_size=7)
    for name in ("a.csv", "b.csv.gz", "c.parquet"):
        chunks, frames = read(tmp_path / name, 4)
        assert [frame.height for frame in frames] == [4] * 6 + [1]
        assert pl.concat(frames).equals(table)
        assert [(chunk.number, chunk.first) for chunk in chunks] == [(n, 4 * n + 1) for n in range(7)]


@pytest.mark.parametrize("bomb", [b"a,b\n" + b"1,2\n" * 300_000, b"a,b\n1,2\n" + b"\n" * 1_200_000])
def test_a_decompression_bomb_in_gzip_is_refused(tmp_path, monkeypatch, bomb):
    monkeypatch.setattr(sources, "FREE", 1 << 16)
    monkeypatch.setattr(sources, "BLOCK", 1 << 16)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(bomb))
    with pytest.raises(ProjectError, match=r"decompression bomb.*unpack_ratio"):
        read(path, 50_000)
    assert sum(one.stat().st_size for one in tmp_path.rglob("*.csv")) <= 1 << 18  # it was not unpacked to its end
    assert sum(frame.height for frame in read(path, 50_000, ratio=1e6)[1]) == bomb.count(b"1,2")


def test_a_folder_gives_its_files_in_order_and_names_the_others(tmp_path):
    for name in ("b.csv", "a.parquet", "C.CSV", "notes.txt", ".hidden.csv"):
        (tmp_path / name).write_text("x\n1\n")
    (tmp_path / "inner").mkdir()
    found, ignored = sources.find(tmp_path)
    assert [path.name for path in found] == ["C.CSV", "a.parquet", "b.csv"]
    assert ignored == [".hidden.csv", "notes.txt"]
    assert [path.name for path in sources.find(tmp_path / "*.csv")[0]] == ["b.csv"]


@pytest.mark.parametrize("given", ["", "*.parquet", "notes.txt"])
def test_nothing_to_read_is_said(tmp_path, given):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ProjectError, match=r"matches no \.csv"):
        sources.find(tmp_path / given)
    with pytest.raises(ProjectError, match=r"there is no file or folder .*nothing\.csv"):
        sources.find(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: fill it"),
        (b"\n\n", "is empty: fill it"),
        (b"a,b\n", "no rows"),
        (b"a,a\n1,2\n", "'a' twice"),
        (b"b,c\n1,2\n", "lacks the column.s. a"),
        (b"a\xff,b\n1,2\n", "UTF-8"),
        (b"a,b\n1,2\n3,\xff\n", "row 1 and row 2 is not UTF-8"),
        (b"a,b\n1,2\n3\n", "row 2 has 1 fields where the header has 2"),
        (b"a,b\n1,2\n3,4,5\n", "row 2 has 3 fields"),
        (b'a,b\n1,2\n3,"4\n', "ends inside a quote"),
    ],
)
def test_broken_csv_is_refused_in_one_sentence(tmp_path, content, said):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=said) as caught:
        look_and_read(path)
    assert "rows.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_cut_off_are_refused(tmp_path):
    table = pl.DataFrame({"a": range(2000)})
    table.write_csv(tmp_path / "a.csv")
    table.write_parquet(tmp_path / "b.parquet")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes())[:-100])
    content = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(content[: len(content) // 2])
    for name in ("b.parquet", "c.csv.gz"):
        with pytest.raises(ProjectError, match="cut off"):
            look_and_read(tmp_path / name)
    with pytest.raises(ProjectError, match=r"gone\.csv cannot be read"):
        sources.identify([tmp_path / "gone.csv"])


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n2\n")
    chunks = sources.plan([file(path)], 1, tmp_path, 200)
    next(chunks)
    with path.open("a") as stream:
        stream.write("3\n")
    with pytest.raises(ProjectError, match="changed while it was read"):
        list(chunks)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_chunk_of_a_file_that_lost_rows_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for height in (9, 7):
        table = pl.DataFrame({"a": range(height)})
        table.write_csv(path) if suffix == "csv" else table.write_parquet(path)
        if height == 9:
            chunks = list(sources.plan([file(path)], 4, tmp_path, 200))
    assert sources.load(chunks[0]).height == 4
    with pytest.raises(ProjectError, match="changed while it was read"):
        sources.load(chunks[1])


def test_an_endless_row_is_refused_before_memory_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 1 << 10)
    monkeypatch.setattr(sources, "MOST", 1 << 14)
    path = tmp_path / "a.csv"
    path.write_text('a\n1\n"' + "x" * (1 << 16) + "\n")
    with pytest.raises(ProjectError, match="quote is not closed"):
        read(path, 10)
