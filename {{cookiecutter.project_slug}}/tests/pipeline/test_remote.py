"""What lies in a database, an object store or a Delta table is read once, whole or not at all."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import polars as pl
import pytest

from project.errors import ProjectError
from project.pipeline import remote, spool

spool.kinds()  # what a folder holds is imported when it is needed

TEXT = "name,price,note\nZoë,1.5,a\nÉmile,2.5,\n"


# databases


@pytest.fixture
def shop(tmp_path):
    """A SQLite database with a table whose order is not that of its key, and with mixed types."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER, name TEXT, price REAL, any, PRIMARY KEY (id DESC))")
        rows = [(number, f"n{number}", number / 4, ["x", 1, None, b"\x01"][number % 4]) for number in range(100)]
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
    return path


def test_a_table_in_the_order_of_its_key(fetch, shop):
    table = fetch.table(f"sqlite:///{shop}?table=orders")
    assert table["id"].to_list() == list(range(100))
    assert table.dtypes == [pl.Int64, pl.String, pl.Float64, pl.String]
    assert table["any"].to_list()[:4] == ["x", "1", None, "01"]


def test_a_query_in_its_own_order(fetch, shop, monkeypatch):
    monkeypatch.setattr(spool.sql, "ROWS", 7)
    table = fetch.table(f"sqlite:///{shop}?query=SELECT name, id FROM orders WHERE name LIKE 'n1%25' ORDER BY id DESC")
    assert table.columns == ["name", "id"]
    assert table["id"].to_list() == [*range(19, 9, -1), 1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("?table=nothing", "no table nothing"),
        ("", "needs either"),
        ("?query=SELECT missing FROM orders", "refused the work .no such column"),
        ("?query=DELETE FROM orders RETURNING id", "readonly"),
        ("?query=SELECT 1 AS a, 2 AS a", "'a' twice"),
        ("?query=SELECT id FROM orders WHERE false", "no rows"),
    ],
)
def test_a_wrong_question_is_said(fetch, shop, url, said):
    with pytest.raises(ProjectError, match=said) as caught:
        fetch(f"sqlite:///{shop}{url}")
    assert "\n" not in str(caught.value)


def test_a_database_that_is_not_there_is_not_made(fetch, tmp_path):
    with pytest.raises(ProjectError, match="no database"):
        fetch(f"sqlite:///{tmp_path}/gone.db?table=a")
    assert not (tmp_path / "gone.db").exists()


def test_a_database_that_is_away_is_waited_for(fetch, shop, monkeypatch):
    monkeypatch.setattr(remote, "FIRST", 0.01)
    holder = sqlite3.connect(shop, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    real = remote.database
    monkeypatch.setattr(spool.sql, "database", lambda *a, **k: _impatient(real(*a, **k)))
    with pytest.raises(ProjectError, match=r"was away for 0.1 s"):
        fetch(f"sqlite:///{shop}?table=orders", patience_seconds=0.1)
    released = threading.Timer(0.3, holder.rollback)
    released.start()
    assert fetch.table(f"sqlite:///{shop}?table=orders").height == 100
    assert "is away" in fetch.said[0]
    released.join()
    holder.close()


def _impatient(opened):
    from sqlalchemy import event

    event.listen(opened.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 0"))
    return opened


def test_rows_are_neither_lost_nor_doubled_when_a_read_is_cut_off(fetch, shop, monkeypatch):
    monkeypatch.setattr(remote, "FIRST", 0.01)
    monkeypatch.setattr(spool.sql, "ROWS", 9)
    left, real = [3], spool.sql._read

    def cut(*arguments):
        parts = arguments[-1]
        add = parts.add

        def once(frame):
            add(frame)
            if parts.rows > 30 and left[0]:
                left[0] -= 1
                raise remote.Away("cut off")

        monkeypatch.setattr(parts, "add", once)
        real(*arguments)

    monkeypatch.setattr(spool.sql, "_read", cut)
    assert fetch.table(f"sqlite:///{shop}?table=orders")["id"].to_list() == list(range(100))
    assert left == [0]


def test_passwords_are_shown_nowhere(settings):
    url = "postgresql://ada:s3cret@host/shop?table=orders"
    assert remote.shown(url) == "postgresql://ada:***@host/shop?table=orders"
    assert "s3cret" not in remote.shown("postgresql://host/shop?user=ada&password=s3cret&table=a")
    with pytest.raises(ProjectError, match="never written down"):
        remote.whole(remote.shown(url), settings)
    assert (
        remote.whole(
            remote.shown(url),
            settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update={"input": url})}),
        )
        == url
    )


def test_an_unknown_kind_of_url_is_said(fetch):
    with pytest.raises(ProjectError, match="no kind that is known"):
        fetch("ftp://host/rows.csv")


# object stores


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder that stands for a bucket."""
    stores = pytest.importorskip("obstore.store", reason="needs the extra `objects`")
    folder = tmp_path / "bucket"
    for name in ("2025/a.csv", "2026/a.csv", "2026/b.jsonl", "2026/deep/c.csv", "2026/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"name": "x"}\n' if name.endswith("jsonl") else TEXT)
    opened = stores.LocalStore(folder)
    monkeypatch.setattr(spool.objects, "bucket", lambda url: (opened, url.partition("://")[2].partition("/")[2]))
    return folder


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("2026/", ["a.csv", "b.jsonl.spooled.parquet"]),
        ("2026/a.csv", ["a.csv"]),
        ("*/a.csv", ["2025/a.csv", "2026/a.csv"]),
        ("2026/**/*.csv", ["a.csv", "deep/c.csv"]),
    ],
)
def test_objects_of_a_folder_a_key_or_a_pattern(fetch, store, key, names):
    files = fetch(f"s3://bucket/{key}")
    assert list(files) == names
    assert all("Zoë" in path.read_text() for name, path in files.items() if name.endswith("csv"))


@pytest.mark.parametrize("key", ["nothing/", "2026/notes.txt", "*.parquet"])
def test_no_object_is_said(fetch, store, key):
    with pytest.raises(ProjectError, match="bucket"):
        fetch(f"s3://bucket/{key}")


def test_an_object_that_changes_meanwhile_is_refused(fetch, store, monkeypatch):
    real = spool.objects._list

    def change(*arguments):
        found = real(*arguments)
        (store / "2026" / "a.csv").write_text(TEXT * 2)
        return found

    monkeypatch.setattr(spool.objects, "_list", change)
    with pytest.raises(ProjectError, match="changed while it was read"):
        fetch("s3://bucket/2026/a.csv")


def test_a_download_that_is_cut_off_goes_on(fetch, store, monkeypatch):
    monkeypatch.setattr(remote, "FIRST", 0.01)
    real, cuts = spool.objects._download, []

    def cut(store_, one, target, name):
        if len(cuts) < 2:
            cuts.append(target.write_bytes((store / one["path"]).read_bytes()[: 10 + len(cuts)]))
            raise remote.Away("cut off")
        real(store_, one, target, name)

    monkeypatch.setattr(spool.objects, "_download", cut)
    assert fetch("s3://bucket/2026/a.csv")["a.csv"].read_text() == TEXT
    assert len(cuts) == 2


# Delta


def test_a_version_of_a_delta_table(fetch, tmp_path):
    deltalake = pytest.importorskip("deltalake", reason="needs the extra `delta`")
    deltalake.write_deltalake(tmp_path / "table", pl.DataFrame({"p": ["x", "y"], "a": [1, 2]}), partition_by=["p"])
    deltalake.write_deltalake(tmp_path / "table", pl.DataFrame({"p": ["x"], "a": [3]}), mode="append")
    deltalake.DeltaTable(tmp_path / "table").delete("a = 1")
    table = fetch.table(f"delta:{tmp_path}/table")
    assert sorted(table.rows()) == [("x", 3), ("y", 2)]
    assert spool.told(fetch.folder)["facts"] == {"version": 2}
    assert sorted(fetch.table(f"delta:{tmp_path}/table?version=0")["a"]) == [1, 2]
    with pytest.raises(ProjectError, match="cannot be read"):
        fetch(f"delta:{tmp_path}/table?version=9")
    with pytest.raises(ProjectError, match="no Delta table"):
        fetch(f"delta:{tmp_path}/nothing")
