"""MLflow's scoring protocol: its forms, its own client, and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import numpy as np
import polars as pl
import pytest

from project.models.registry import Registry
from project.models.runtimes.original import to_pandas
from project.settings import Settings
from project.signature import Signature
from project.store import queries
from project.store.database import Store

PATH = "/invocations"
Rows = list[dict[str, Any]]


@pytest.fixture
def many(row: dict[str, Any]) -> Rows:
    return [row | {"temperature": None if degrees == 3 else float(degrees)} for degrees in range(8)]


def split(rows: Rows, **more: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": list(rows[0]), "data": [list(row.values()) for row in rows], **more}}


FORMS: dict[str, Callable[[Rows], dict[str, Any]]] = {
    "split": split,
    "split with an index": lambda rows: split(rows, index=list(range(len(rows)))),
    "records": lambda rows: {"dataframe_records": rows},
    "instances": lambda rows: {"instances": rows},
    "inputs": lambda rows: {"inputs": rows},
    "columns": lambda rows: {"inputs": {name: [row[name] for row in rows] for name in rows[0]}},
    "without names": lambda rows: {"inputs": [list(row.values()) for row in rows]},
    "with params": lambda rows: {"instances": rows, "params": {"temperature": 1}},
    "with a foreign column": lambda rows: {"dataframe_records": [row | {"foreign": 1} for row in rows]},
    "whole numbers as floats": lambda rows: {"instances": [row | {"staff": float(row["staff"])} for row in rows]},
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gets_what_the_native_protocol_says(
    client: httpx.Client, champion: Settings, many: Rows, form: str
) -> None:
    native = client.post("/v1/predict", json={"rows": many}).json()["predictions"]
    answer = client.post(PATH, json=FORMS[form](many))
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == [one["prediction"] for one in native]
    assert answer.json()["model_version"] == Registry(champion).resolve("champion")
    feedback = {"id": answer.json()["ids"][0], "actual": 1.0}
    assert client.post("/v1/feedback", json=feedback).json()["accepted"] == 1


def test_single_values_are_one_row(client: httpx.Client, row: dict[str, Any]) -> None:
    assert len(client.post(PATH, json={"inputs": row}).json()["predictions"]) == 1


def test_a_classification_gives_labels(classifier: Settings, serving: Any, row: dict[str, Any]) -> None:
    with serving(classifier) as client:
        native = client.post("/v1/predict", json={"row": row}).json()["prediction"]
        assert client.post(PATH, json={"instances": [row]}).json()["predictions"] == [native]


def test_csv_and_what_pandas_writes_into_it(client: httpx.Client, rows: Any) -> None:
    table = rows.head(10).drop("hires", "busy")
    native = client.post("/v1/predict", json={"rows": json.loads(table.write_json())}).json()["predictions"]
    for text in (table.write_csv(), to_pandas(table).to_csv()):
        answer = client.post(PATH, content=text, headers={"Content-Type": "text/csv; charset=utf-8"})
        assert answer.json()["predictions"] == [one["prediction"] for one in native]


def test_nan_in_json_is_missing(client: httpx.Client, many: Rows) -> None:
    native = client.post("/v1/predict", json={"rows": many}).json()["predictions"]
    text = json.dumps(
        split([one | {"temperature": float("nan")} if one["temperature"] is None else one for one in many])
    )
    assert "NaN" in text
    answer = client.post(PATH, content=text, headers={"Content-Type": "application/json"})
    assert answer.json()["predictions"] == [one["prediction"] for one in native]


def test_mlflows_own_client(
    client: httpx.Client, many: Rows, needs_extra: Any, monkeypatch: pytest.MonkeyPatch, champion: Settings
) -> None:
    import pandas as pd

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    scoring = needs_extra("mlflow.pyfunc.scoring_server.client")
    caller = scoring.ScoringServerClient(client.base_url.host, client.base_url.port)
    caller.ping()
    caller.wait_server_ready(timeout=5)
    assert caller.get_version()[0].isdigit()
    native = client.post("/v1/predict", json={"rows": many}).json()["predictions"]
    expected = [one["prediction"] for one in native]
    frame = pd.DataFrame(many)
    assert frame["temperature"].isna().any()
    assert caller.invoke(frame).get_predictions("ndarray").tolist() == expected
    assert caller.invoke(frame.assign(at=pd.to_datetime(frame["at"]))).get_predictions("ndarray").tolist() == expected
    assert caller.invoke(np.array(frame.values.tolist(), dtype=object)).get_predictions().shape == (len(many), 1)
    assert caller.invoke(many, params={}).get_predictions("ndarray").tolist() == expected
    with pytest.raises(Exception, match=r"error code 400.*staff is missing"):
        caller.invoke(frame.drop(columns="staff"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "exactly one of"),
        ({}, "exactly one of"),
        ({"rows": []}, "exactly one of"),
        ({"instances": [{}], "inputs": [{}]}, "exactly one of"),
        ({"instances": []}, "at least one row"),
        ({"instances": None}, "at least one row"),
        ({"instances": "text"}, "at least one row"),
        ({"instances": [[1, 2]]}, "as many values"),
        ({"instances": [1]}, "an object of columns"),
        ({"inputs": {}}, "is missing"),
        ({"inputs": {"temperature": []}}, "at least one row"),
        ({"inputs": {"temperature": [1.0], "staff": 1}}, "of the same length"),
        ({"inputs": {"temperature": [1.0], "staff": [1, 2]}}, "of the same length"),
        ({"dataframe_split": []}, "columns and data"),
        ({"dataframe_split": {"columns": 1, "data": [[1]]}}, "columns and data"),
        ({"dataframe_split": {"columns": ["staff"]}}, "at least one row"),
        ({"dataframe_split": {"columns": ["staff"], "data": [[1, 2]]}}, "as many values"),
        ({"dataframe_split": {"columns": [["staff"]], "data": [[1]]}}, "as many values"),
        ({"dataframe_split": {"columns": ["staff"], "data": [[1]]}}, "is missing"),
        ({"dataframe_records": [{"staff": "many"}]}, "is missing"),
    ],
)
def test_what_does_not_fit(client: httpx.Client, body: Any, reason: str) -> None:
    answer = client.post(PATH, json=body)
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert reason in answer.json()["message"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b'{"instances": [NaN', "application/json"),
        (b'{"instances": [Infinity, NaN]}', "application/json"),
        (b'{"instances": [1e999, NaN]}', "application/json"),
        (b'{"instances": [' + b"9" * 5_000 + b", NaN]}", "application/json"),
        (b'{"instances": ["\\ud800", NaN]}', "application/json"),
        (b'{"instances": ' + b"[" * 20_000 + b"NaN", "application/json"),
        (b"\xff NaN", "application/json"),
        (b"", "text/csv"),
        (b"\xff\xfe\n\x00", "text/csv"),
        (b'a,b\n"1', "text/csv"),
        (b"staff\n", "text/csv"),
        (b"staff\n1\n", "text/csv"),
        (b"\x00", "application/vnd.apache.parquet"),
        (b"{}", "text/plain"),
    ],
)
def test_bad_bodies_are_refused_in_mlflows_form(client: httpx.Client, content: bytes, kind: str) -> None:
    answer = client.post(PATH, content=content, headers={"Content-Type": kind})
    assert answer.status_code == (415 if kind.endswith(("parquet", "plain")) else 400)
    assert set(answer.json()) == {"error_code", "message"}
    assert client.get("/ping").status_code == 200


def test_the_row_that_does_not_fit_is_named(client: httpx.Client, many: Rows) -> None:
    wrong = [*many[:5], many[5] | {"staff": None}, many[6] | {"temperature": False}, many[7]]
    answers = [client.post(PATH, json=FORMS[form](wrong)) for form in ("split", "records", "inputs", "columns")]
    text = pl.DataFrame(wrong, strict=False, schema_overrides={"temperature": pl.String}).write_csv()
    answers.append(client.post(PATH, content=text, headers={"Content-Type": "text/csv"}))
    for answer in answers:
        assert answer.status_code == 400
        assert "row 5: staff is missing: give an integer" in answer.json()["message"]
    twice = json.dumps(FORMS["records"](many))[:-2] + ', {"staff": 1, "staff": 1}]}'
    assert "row 8: staff is given twice" in client.post(PATH, content=twice).json()["message"]


def test_a_column_of_a_csv_given_twice_is_refused(client: httpx.Client, many: Rows) -> None:
    text = pl.DataFrame(many).write_csv().replace("station,staff", "station,station", 1)
    answer = client.post(PATH, content=text, headers={"Content-Type": "text/csv"})
    assert (answer.status_code, answer.json()["message"]) == (400, "the first line must name the columns, each once")


@pytest.mark.parametrize("path", [PATH, f"{PATH}/nothing", "/ping", "/version", "/version/nothing"])
def test_what_is_asked_wrongly_is_refused_in_mlflows_form(client: httpx.Client, path: str) -> None:
    answer = client.delete(path)
    assert answer.status_code == (404 if "nothing" in path else 405)
    assert set(answer.json()) == {"error_code", "message"}


def test_too_many_rows(champion: Settings, serving: Any, many: Rows) -> None:
    few = champion.model_copy(update={"serving": champion.serving.model_copy(update={"max_rows": 3})})
    with serving(few) as client:
        for form in ("split", "records", "columns"):
            answer = client.post(PATH, json=FORMS[form](many))
            assert (answer.status_code, answer.json()["message"]) == (413, "send at most 3 rows at a time")
        lines = pl.DataFrame(many).write_csv()
        assert client.post(PATH, content=lines, headers={"Content-Type": "text/csv"}).status_code == 413
    with Store(champion) as store:
        assert queries.counts(store).predictions == 0


def test_health_says_whether_there_is_a_model(client: httpx.Client, empty_client: httpx.Client) -> None:
    for path in ("/ping", "/health"):
        assert client.get(path).status_code == 200
        answer = empty_client.get(path)
        assert answer.status_code == 503
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert empty_client.post(PATH, json={"instances": [{}]}).status_code == 503


def test_the_contract_describes_what_is_sent(client: httpx.Client, many: Rows, signature: Signature) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]
    operation = document["paths"][PATH]["post"]
    request = operation["requestBody"]["content"]["application/json"]["schema"] | {"components": schemas}
    for form in FORMS.values():
        jsonschema.validate(form(many), request)
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"] | {"components": schemas}
    jsonschema.validate(client.post(PATH, json={"instances": many}).json(), answer)
    refusal = operation["responses"]["400"]["content"]["application/json"]["schema"] | {"components": schemas}
    jsonschema.validate(client.post(PATH, json={}).json(), refusal)
