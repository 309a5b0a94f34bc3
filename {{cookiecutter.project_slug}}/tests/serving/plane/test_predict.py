from __future__ import annotations

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema
import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from project.models.registry import Registry
from project.models.scorer import Scorer
from project.settings import Settings
from project.signature import Column, Signature
from project.store import frames, queries
from project.store.database import Store
from project.validation import check_frame, explain, row_type

PATH = "/v1/predict"
JSON = {"Content-Type": "application/json"}


def post(client: httpx.Client, body: bytes, **headers: str) -> Any:
    return client.post(PATH, content=body, headers=JSON | headers)


def test_one_row(client: httpx.Client, champion: Settings, row: dict[str, Any]) -> None:
    answer = client.post(PATH, json={"row": row})
    assert answer.status_code == 200
    body = answer.json()
    bundle = Registry(champion).load("champion")
    assert list(body) == ["id", "model_version", *(column.name for column in bundle.signature.outputs)]
    assert body["model_version"] == bundle.version
    frame = check_frame(bundle.signature, pl.DataFrame([row])).good
    assert body["prediction"] == pytest.approx(Scorer(bundle).frame(frame)["prediction"][0], rel=1e-5)


def test_many_rows_keep_their_order_whatever_their_number(
    client: httpx.Client, row: dict[str, Any], number: Column
) -> None:
    low, high = number.observed or (number.minimum or 0, number.maximum or 1)
    convert = round if number.type == "integer" else float
    rows = [row | {number.name: convert(low + (high - low) * place / 300)} for place in range(300)]
    single = [client.post(PATH, json={"row": rows[place]}).json()["prediction"] for place in (0, 150, 299)]
    for size in (2, 300):
        body = client.post(PATH, json={"rows": rows[:size]}).json()
        assert len({entry["id"] for entry in body["predictions"]}) == size
        assert [entry["id"].rpartition("-")[2] for entry in body["predictions"]] == [str(i) for i in range(size)]
    assert [body["predictions"][place]["prediction"] for place in (0, 150, 299)] == pytest.approx(single, rel=1e-5)


def test_ids_are_unique_and_sort_by_time(client: httpx.Client, row: dict[str, Any]) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: client.post(PATH, json={"row": row}).json()["id"], range(100))
    assert len(set(answers)) == 100
    ids = [client.post(PATH, json={"row": row}).json()["id"] for _ in range(20)]
    assert ids == sorted(ids)


def test_every_prediction_and_request_is_in_the_log_when_the_service_ends(
    champion: Settings, serving: Any, row: dict[str, Any]
) -> None:
    with serving(champion) as client:
        made = client.post(PATH, json={"row": row}).json()
        many = client.post(PATH, json={"rows": [row, row]}).json()
        client.post(PATH, json={"row": {}})
    signature = Registry(champion).load("champion").signature
    with Store(champion) as store:
        logged = frames.predictions_frame(store, signature, made["model_version"])
        traffic = queries.traffic_series(store, *_around_now())
    assert set(logged["id"]) == {made["id"], *(entry["id"] for entry in many["predictions"])}
    assert logged.filter(pl.col("id") == made["id"])["prediction"][0] == pytest.approx(made["prediction"])
    assert set(logged["source"]) == {"http"}
    assert logged["latency_ms"].min() > 0  # type: ignore[operator]
    statuses: dict[int, int] = {}
    for entry in traffic:
        statuses[entry["status"]] = statuses.get(entry["status"], 0) + entry["requests"]
    assert statuses == {200: 2, 422: 1}


def _around_now() -> tuple[datetime, datetime]:
    return datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC) + timedelta(minutes=5)


def test_a_row_that_does_not_fit_is_explained_without_its_values(
    client: httpx.Client, row: dict[str, Any], number: Column
) -> None:
    bad = row | {number.name: "secret-7", "surplus": 1}
    answer = client.post(PATH, json={"rows": [row, bad]})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert {(error["row"], error["field"], error["rule"]) for error in body["errors"]} == {
        (1, number.name, "type"),
        (1, "surplus", "unknown"),
    }
    assert body["code"] == "signature"
    assert body["status"] == 422
    assert "secret-7" not in answer.text


def test_at_most_a_hundred_problems_are_listed(client: httpx.Client) -> None:
    answer = client.post(PATH, json={"rows": [{}] * 500})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 100


DEEP = b"[" * 20_000 + b"]" * 20_000
BODIES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "no JSON": (b"row=1", 400),
    "cut off": (b'{"row": {', 400),
    "NaN": (b'{"row": {"a": NaN}}', 400),
    "Infinity": (b'{"row": {"a": -Infinity}}', 400),
    "1e999": (b'{"row": {"a": 1e999}}', 400),
    "lone surrogate": (b'{"row": {"a": "\\ud800"}}', 400),
    "huge integer": (b'{"row": {"a": ' + b"9" * 5_000 + b"}}", 400),
    "deep": (b'{"row": ' + DEEP + b"}", 400),
    "deep alone": (DEEP, 400),
    "deep objects": (b'{"row":' * 20_000 + b"1" + b"}" * 20_000, 400),
    "invalid UTF-8": (b'{"row": {"a": "\xff\xfe"}}', 400),
    "NUL": (b'{"row": {"\\u0000": "\\u0000"}}', 422),
    "list": (b"[]", 422),
    "null": (b"null", 422),
    "both": (b'{"row": {}, "rows": []}', 422),
    "neither": (b"{}", 422),
    "no rows": (b'{"rows": []}', 422),
    "rows is no list": (b'{"rows": 3}', 422),
    "null row": (b'{"row": null}', 422),
    "rows of nothing": (b'{"rows": [null, 1, "x", []]}', 422),
    "surplus": (b'{"row": {}, "more": 1}', 422),
}


def test_a_bad_body_is_refused_and_the_next_is_served(client: httpx.Client, row: dict[str, Any]) -> None:
    for name, (body, status) in BODIES.items():
        answer = post(client, body)
        assert answer.status_code == status, name
        assert answer.json()["title"]
        assert answer.json()["detail"]
        assert client.post(PATH, json={"row": row}).status_code == 200, name


BAD = (b"NaN", b"1e999", b"-Infinity", b'"\\ud800"', b"9" * 5_000, b'"\xff"', b"[" * 20_000, b'"\\u0000"', b"{}")


def test_a_bad_value_in_any_field_is_refused(client: httpx.Client, signature: Signature, row: dict[str, Any]) -> None:
    for column in signature.inputs:
        marked = json.dumps({"row": row | {column.name: "MARK"}}).encode()
        for value in BAD:
            answer = post(client, marked.replace(b'"MARK"', value))
            text = column.type == "string" and not column.categories and value == b'"\\u0000"'
            assert answer.status_code in ((200,) if text else (400, 422)), (column.name, value[:9])
    assert client.post(PATH, json={"row": row}).status_code == 200


def test_the_extreme_values_that_fit_are_served(
    client: httpx.Client, signature: Signature, row: dict[str, Any]
) -> None:
    extremes: dict[str, list[Any]] = {
        "number": [1.7e308, -1.7e308, 5e-324, 2**62],
        "integer": [2**63 - 1, -(2**63)],
        "datetime": ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00"],
        "string": ["", "x" * 100_000, "🚲\u0000"],
        "boolean": [True],
    }
    for column in signature.inputs:
        for value in extremes[column.type]:
            one = row | {column.name: value}
            fits = not explain(signature, one)
            answer = client.post(PATH, json={"row": one})
            served = fits and answer.json().get("code") != "range"
            assert answer.status_code == (200 if served else 422), (column.name, value)
            if served:
                prediction = answer.json()["prediction"]
                assert not isinstance(prediction, float) or math.isfinite(prediction)


def test_a_field_given_twice_is_named(client: httpx.Client, row: dict[str, Any], number: Column) -> None:
    text = json.dumps({"row": row})
    for first in ("3", '"x"', "null", "15"):
        doubled = text.replace('{"row": {', '{"row": {' + f"{json.dumps(number.name)}: {first}, ")
        answer = post(client, doubled.encode())
        assert answer.status_code == 422
        assert [(one["field"], one["rule"]) for one in answer.json()["errors"]] == [(number.name, "twice")]
    assert post(client, text.replace('{"row"', '{"row": {}, "row"').encode()).json()["errors"][0]["field"] == "row"


def test_an_integer_may_be_written_with_a_point(client: httpx.Client, row: dict[str, Any]) -> None:
    expected = client.post(PATH, json={"row": row | {"staff": 3}}).json()["prediction"]
    assert client.post(PATH, json={"row": row | {"staff": 3.0}}).json()["prediction"] == expected
    found = client.post(PATH, json={"rows": [row | {"staff": 3.0}, row | {"staff": 3}]}).json()["predictions"]
    assert [one["prediction"] for one in found] == [expected, expected]
    assert client.post(PATH, json={"row": row | {"staff": 3.5}}).status_code == 422


def test_content_types(client: httpx.Client, row: dict[str, Any]) -> None:
    body = json.dumps({"row": row}).encode()
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        assert client.post(PATH, content=body, headers={"Content-Type": kind}).status_code == 200
    assert client.post(PATH, content=body).status_code == 200
    for kind in ("text/plain", "application/xml", "application/x-www-form-urlencoded"):
        assert client.post(PATH, content=body, headers={"Content-Type": kind}).status_code == 415


def test_a_large_body_is_refused_whether_or_not_it_says_so(champion: Settings, serving: Any) -> None:
    small = champion.model_copy(
        update={"serving": champion.serving.model_copy(update={"max_body_mb": 0.001, "max_rows": 3})}
    )
    with serving(small) as client:
        assert post(client, b" " * 1_001).status_code == 413
        pieces = (b" " * 100 for _ in range(11))
        assert client.post(PATH, content=pieces, headers=JSON).status_code == 413
        assert client.post(PATH, json={"rows": [{}] * 4}).status_code == 413
        assert client.get("/health/live").status_code == 200


def test_without_a_champion(empty_client: httpx.Client) -> None:
    answer = empty_client.post(PATH, json={"row": {}})
    assert answer.status_code == 503
    assert answer.json()["code"] == "no-champion"


def test_other_methods(client: httpx.Client) -> None:
    assert client.put(PATH).status_code == 405
    assert client.put(PATH).headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert client.options(PATH).status_code == 204
    assert client.options(PATH).headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_metrics_count_requests_and_rows(client: httpx.Client, row: dict[str, Any]) -> None:
    def value(name: str) -> float:
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    requests = 'http_requests_total{route="/v1/predict",status="200"}'
    before = value("predictions_total{"), value(requests), value("rejected_rows_total{")
    client.post("/v1/predict", json={"row": row})
    client.post("/v1/predict", json={"rows": [row, row]})
    client.post("/v1/predict", json={"rows": [row, {}]})
    after = value("predictions_total{"), value(requests), value("rejected_rows_total{")
    assert [new - old for new, old in zip(after, before, strict=True)] == [3, 2, 1]
    assert value("events_dropped") == 0


def test_metrics_have_every_request_in_a_bucket(client: httpx.Client, row: dict[str, Any]) -> None:
    base = "http_request_duration_seconds"

    def lines(name: str) -> list[float]:
        found = client.get("/metrics").text.splitlines()
        return [
            float(one.rpartition(" ")[2])
            for one in found
            if one.startswith(f"{base}_{name}") and '"/v1/predict"' in one
        ]

    client.post(PATH, json={"row": row})
    buckets, number, seconds = lines("bucket"), lines("count"), lines("sum")
    for _ in range(20):
        client.post(PATH, json={"row": row})
    new = [after - before for after, before in zip(lines("bucket"), buckets, strict=True)]
    assert new == sorted(new)  # each holds those of the buckets below it
    assert new[-1] == lines("count")[0] - number[0] == 20
    assert 0 < lines("sum")[0] - seconds[0] < 20 * 10


def test_a_new_champion_takes_over_while_every_request_is_answered(
    champion: Settings, client: httpx.Client, row: dict[str, Any], other: str, until: Any
) -> None:
    registry = Registry(champion)
    first = registry.resolve("champion")
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(client.post("/v1/predict", json={"row": row}))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        until(lambda: len(answers) > 5)
        registry.point("champion", other)
        until(lambda: answers[-1].json()["model_version"] == other)
    finally:
        stop.set()
        asking.join()
    assert {answer.status_code for answer in answers} == {200}
    versions = [answer.json()["model_version"] for answer in answers]
    assert versions == sorted(versions, key=[first, other].index)
    assert client.get("/v1/model").json()["version"] == other
    assert client.get("/openapi.json").json()["info"]["version"] == other


def schema(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return part | {"components": document["components"]}


def test_requests_and_answers_are_as_documented(client: httpx.Client, signature: Signature) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/predict"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator(schema(document, content["schema"]))
    answers = operation["responses"]
    ids = []
    for example in content["examples"].values():
        validator.validate(example["value"])
        answer = client.post("/v1/predict", json=example["value"])
        assert answer.status_code == 200
        jsonschema.validate(answer.json(), schema(document, answers["200"]["content"]["application/json"]["schema"]))
        ids += [answer.json()["id"]] if "id" in answer.json() else []
    for bad in ({"row": {}}, {"rows": []}, {}, {"row": signature.example_row() | {"foreign": 1}}):
        assert not validator.is_valid(bad)
        answer = client.post("/v1/predict", json=bad)
        assert answers[str(answer.status_code)] == {"$ref": "#/components/responses/Problem"}
        problem = document["components"]["responses"]["Problem"]["content"][answer.headers["content-type"]]["schema"]
        jsonschema.validate(answer.json(), schema(document, problem))
    feedback = document["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    actual = client.post("/v1/predict", json={"row": signature.example_row()}).json()["prediction"]
    jsonschema.validate({"id": ids[0], "actual": actual}, schema(document, feedback))


def test_there_is_a_document_before_there_is_a_model(empty_client: httpx.Client) -> None:
    assert {"/v1/predict", "/v1/feedback"} <= set(empty_client.get("/openapi.json").json()["paths"])


def test_a_fault_of_ours_tells_nothing(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("project.serving.plane.predictor.Predictor.predict", broken)
    answer = client.post(PATH, json={"row": row})
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "hunter2" not in answer.text
    assert "x-content-type-options" in answer.headers
    assert client.get("/health/live").status_code == 200


ALL_KINDS = Signature(
    title="all",
    task="regression",
    target=None,
    inputs=(
        Column("number", "number", minimum=-10, maximum=10.5),
        Column("open number", "number", nullable=True),
        Column("integer", "integer", minimum=-3, maximum=7),
        Column("open integer", "integer", nullable=True),
        Column("level", "integer", categories=(1, 2, 3)),
        Column("flag", "boolean"),
        Column("maybe", "boolean", nullable=True),
        Column("colour", "string", categories=("red", "green")),
        Column("text", "string", nullable=True),
        Column("time", "datetime"),
    ),
    outputs=(Column("prediction", "number"),),
)
DECODER = msgspec.json.Decoder(row_type(ALL_KINDS))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-12, 12),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: not value.is_integer()),
    st.sampled_from(
        ["red", "green", "blue", "", "1", "true", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-13-01"]
    ),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
)
GOOD = {"number": 1.5, "integer": 2, "level": 3, "flag": True, "colour": "red", "time": "2026-01-01T00:00:00Z"}


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    st.dictionaries(st.sampled_from([*(column.name for column in ALL_KINDS.inputs), "foreign"]), VALUES, max_size=4),
    st.sets(st.sampled_from(sorted(GOOD)), max_size=1),
)
def test_the_decoder_and_the_explanation_agree(changes: dict[str, Any], removed: set[str]) -> None:
    row = {name: value for name, value in (GOOD | changes).items() if name not in removed}
    try:
        DECODER.decode(json.dumps(row))
        accepted = True
    except msgspec.ValidationError:
        accepted = False
    assert accepted == (not explain(ALL_KINDS, msgspec.json.decode(json.dumps(row).encode())))
