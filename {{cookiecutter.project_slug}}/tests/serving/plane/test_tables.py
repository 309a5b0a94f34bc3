from __future__ import annotations

import csv
import io
from typing import Any

import httpx
import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from project.models.registry import Registry
from project.serving.plane import tables
from project.settings import Settings
from project.store import queries
from project.store.database import Store

PATH = "/v1/predict"
CSV, PARQUET, ARROW = "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"


def written(table: pl.DataFrame, kind: str) -> bytes:
    if kind == CSV:
        return table.write_csv(datetime_format="%Y-%m-%dT%H:%M:%SZ").encode()
    target = io.BytesIO()
    table.write_parquet(target) if kind == PARQUET else table.write_ipc_stream(target)
    return target.getvalue()


def read(answer: httpx.Response) -> pl.DataFrame:
    assert answer.status_code == 200, answer.text
    kind = answer.headers["content-type"].partition(";")[0]
    readers = {CSV: pl.read_csv, PARQUET: pl.read_parquet, ARROW: pl.read_ipc_stream}
    return readers[kind](answer.content)


def post(client: httpx.Client, content: Any, kind: str) -> httpx.Response:
    return client.post(PATH, content=content, headers={"Content-Type": kind})


@pytest.fixture
def table(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.drop("hires", "busy")


@pytest.fixture
def each(champion: Settings) -> Settings:
    return champion.model_copy(update={"serving": champion.serving.model_copy(update={"failures": "row"})})


@pytest.mark.parametrize("kind", [CSV, PARQUET, ARROW])
def test_a_table_is_answered_row_by_row(champion: Settings, serving: Any, table: pl.DataFrame, kind: str) -> None:
    with serving(champion) as client:
        expected = client.post(PATH, json={"rows": _json(table)}).json()["predictions"]
        found = read(post(client, written(table, kind), kind))
        assert found.columns == ["id", "prediction"]
        assert found["prediction"].to_list() == pytest.approx([one["prediction"] for one in expected], rel=1e-5)
        assert found["id"].n_unique() == table.height
    with Store(champion) as store:
        assert queries.counts(store).predictions == 2 * table.height


def _json(table: pl.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()
    return rows


def test_a_csv_larger_than_a_body_may_be_is_worked_off_in_chunks(
    champion: Settings, serving: Any, table: pl.DataFrame
) -> None:
    content = written(pl.concat([table] * 70), CSV)
    tight = champion.serving.model_copy(update={"max_body_mb": 0.1, "max_rows": 10})
    with serving(champion.model_copy(update={"serving": tight})) as client:
        pieces = (content[place : place + 50_000] for place in range(0, len(content), 50_000))
        found = read(post(client, pieces, CSV))
        assert found.height == 70 * table.height
        assert found["prediction"].to_list() == pytest.approx(found["prediction"].head(table.height).to_list() * 70)
        assert post(client, content, PARQUET).status_code == 413


def test_one_bad_row_refuses_all(client: httpx.Client, table: pl.DataFrame) -> None:
    bad = table.with_columns(staff=pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("many")).otherwise("staff"))
    answer = post(client, written(bad, CSV), CSV)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"row": 7, "field": "staff", "rule": "type", "expected": "must be an integer"}]
    assert "many" not in answer.text
    assert post(client, written(table, CSV), CSV).status_code == 200


def test_or_is_answered_with_its_reason_in_its_place(each: Settings, serving: Any, table: pl.DataFrame) -> None:
    bad = table.with_columns(staff=pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("many")).otherwise("staff"))
    with serving(each) as client:
        found = read(post(client, written(bad, CSV), CSV))
        good = read(post(client, written(table, CSV), CSV))
    assert found["error"].is_not_null().arg_true().to_list() == [7]
    assert "staff must be an integer" in found["error"][7]
    assert found["prediction"][7] is None
    kept = pl.int_range(table.height, eager=True) != 7
    assert found["prediction"].filter(kept).to_list() == pytest.approx(good["prediction"].filter(kept).to_list())


@pytest.mark.parametrize("kind", [CSV, PARQUET, ARROW])
def test_a_table_is_refused_with_the_errors_of_its_rows(client: httpx.Client, table: pl.DataFrame, kind: str) -> None:
    bad = table.head(200).with_columns(
        station=pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("station"),
        staff=pl.when(pl.int_range(pl.len()) % 50 == 3).then(None).otherwise("staff"),
    )
    answer, expected = post(client, written(bad, kind), kind), client.post(PATH, json={"rows": _json(bad)})
    assert answer.status_code == expected.status_code == 422
    assert answer.json()["errors"] == expected.json()["errors"]
    assert [error["row"] for error in answer.json()["errors"]] == [3, 3, 53, 103, 153]
    lacking = post(client, written(table.drop("staff"), kind), kind).json()["errors"]
    assert lacking == client.post(PATH, json={"row": _json(table.drop("staff"))[0]}).json()["errors"]


def test_a_table_that_cannot_be_read_to_its_end_is_refused_before_it_is_answered(
    each: Settings, serving: Any, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CHUNK", 50)
    monkeypatch.setattr(tables, "SMALL", 0)
    with serving(each) as client:
        answer = post(client, written(table, CSV) + b"1,2\n", CSV)
        assert (answer.status_code, answer.json()["code"]) == (422, "shape")
    with Store(each) as store:
        assert queries.counts(store).predictions == 0


def test_csv_of_many_kinds(client: httpx.Client, table: pl.DataFrame) -> None:
    plain = written(table.head(3), CSV).decode()
    expected = read(post(client, plain, CSV))["prediction"].to_list()
    kinds = {
        "semicolons": plain.replace(",", ";"),
        "byte order mark": "\ufeff" + plain,
        "Windows": plain.replace("\n", "\r\n"),
        "quotes": "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in plain.splitlines()),
        "empty line at the end": plain + "\n",
    }
    for name, text in kinds.items():
        assert read(post(client, text.encode(), "text/csv; charset=utf-8"))["prediction"].to_list() == expected, name


TEXTS = {
    "number": ["-0", "-0.0", "007", "+1", ".5", "5.", "1e3", "1E-05", "1e400", "1_0", "1,5", "inf", "nan", "0x1", "١"],
    "integer": ["0", "-0", "3", "007", "+1", "1.0", "1e0", "9223372036854775808", "-9223372036854775808", "1_0", "١"],
    "boolean": ["true", "True", "TRUE", "False", "false", "yes", "0", "tRuE", "maybe"],
    "string": ["north", "North", " north", "null", "true", "1", 'a "b", c', "a\nb", "é", "\x00"],
    "datetime": [
        *("2026-01-31T08:00:00Z", "2024-02-29T23:59:59Z", "2026-02-30T08:00:00Z", "2026-01-31T24:00:00Z"),
        *("2026-01-31T08:00:60Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
        *("2026-01-31 08:00:00", "2026-01-31T08:00:00.5Z", "2026-01-31T08:00:00+02:00", "2026-01-31", "20260131"),
    ],
}
DIGITS = st.from_regex(r"-?[0-9]{1,17}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)


@pytest.mark.parametrize(("model", "failures"), [("champion", "request"), ("classifier", "row")])
def test_a_small_csv_is_answered_as_if_it_were_large(
    request: pytest.FixtureRequest, serving: Any, monkeypatch: pytest.MonkeyPatch, model: str, failures: str
) -> None:
    project: Settings = request.getfixturevalue(model)
    changed = project.serving.model_copy(update={"failures": failures})
    signature = Registry(project).load("champion").signature
    example = {name: str(value) for name, value in signature.example_row().items()}

    def answered(rows: list[dict[str, str]], most: int) -> Any:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        monkeypatch.setattr(tables, "SMALL", most)
        answer = post(client, text.getvalue().encode(), CSV)
        lines = [line.partition(",")[2] for line in answer.text.splitlines()]  # without the ids
        return answer.status_code, lines if answer.status_code == 200 else answer.json()

    def agree(*rows: dict[str, str]) -> None:
        assert answered(list(rows), 16_000) == answered(list(rows), 0), rows

    @hypothesis(deadline=None, max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from([column.name for column in signature.inputs if column.numeric]), DIGITS)
    def agree_on_numbers(name: str, text: str) -> None:
        agree(example, example | {name: text})

    with serving(project.model_copy(update={"serving": changed})) as client:
        agree(example | {"foreign": "7"})
        for column in signature.inputs:
            agree({name: text for name, text in example.items() if name != column.name})
            for text in ("", " ", " 1 ", "x", *TEXTS[column.type]):
                agree(example | {column.name: text})
        agree_on_numbers()


def test_a_small_csv_needs_no_table(client: httpx.Client, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(post(client, written(table.head(20), CSV), CSV)).drop("id")
    monkeypatch.setattr(tables, "check_frame", None)
    assert read(post(client, written(table.head(20), CSV), CSV)).drop("id").equals(expected)


def test_empty_lines_are_no_end(client: httpx.Client, table: pl.DataFrame) -> None:
    head, *lines = written(table.head(40), CSV).splitlines(keepends=True)
    content = head + lines[0] + b"\n" * 40_000 + b"".join(lines[1:])
    assert read(post(client, content, CSV)).height == 40


def test_tables_that_are_none(client: httpx.Client, table: pl.DataFrame) -> None:
    good = written(table, CSV)
    wrong: dict[str, tuple[bytes, str, int, str]] = {
        "empty": (b"", CSV, 422, "shape"),
        "no rows": (good.splitlines()[0], CSV, 422, "shape"),
        "a column less": (written(table.drop("staff"), CSV), CSV, 422, "signature"),
        "a field more": (good + b"1,2,3,4,5,6\n", CSV, 422, "shape"),
        "a column twice": (good.replace(b"staff", b"open", 1), CSV, 422, "shape"),
        "Latin-1": (good + "ü".encode("latin-1"), CSV, 400, "malformed"),
        "an open quote": (good + b'"', CSV, 400, "malformed"),
        "NUL": (b"\x00" * 100, CSV, 422, "shape"),
        "a line without end": (good + b"a" * 2_000_000, CSV, 422, "shape"),
        "a first line without end": (b" " * 2_000_000, CSV, 422, "shape"),
        "no Parquet": (good, PARQUET, 400, "malformed"),
        "cut Parquet": (written(table, PARQUET)[:-9], PARQUET, 400, "malformed"),
        "no Arrow": (good, ARROW, 400, "malformed"),
        "cut Arrow": (written(table, ARROW)[:-300], ARROW, 400, "malformed"),
        "no Arrow rows": (written(table.clear(), ARROW), ARROW, 422, "shape"),
    }
    for name, (content, kind, status, code) in wrong.items():
        answer = post(client, content, kind)
        assert (answer.status_code, answer.json().get("code")) == (status, code), (name, answer.text)
    assert post(client, good, CSV).status_code == 200


def test_packed_columns_cannot_grow_without_limit(client: httpx.Client, table: pl.DataFrame) -> None:
    target = io.BytesIO()
    table.write_ipc_stream(target, compression="zstd")
    assert post(client, target.getvalue(), ARROW).status_code == 415
    many = pl.concat([table] * 3_334)
    answer = post(client, written(many, PARQUET), PARQUET)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-many-rows")


def test_any_bytes_get_an_answer(client: httpx.Client, table: pl.DataFrame) -> None:
    whole = written(table.head(5), ARROW)
    for place in range(0, len(whole), 37):
        spoilt = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        assert post(client, spoilt, ARROW).status_code in (200, 400, 413, 415, 422), place
    assert post(client, whole, ARROW).status_code == 200
