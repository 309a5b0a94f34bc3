from __future__ import annotations

import gzip
import json
import re
import zlib
from typing import Any

import httpx
import jsonschema
import polars as pl
import pytest

from project.models.scorer import Scorer
from project.serving.plane import tables
from project.settings import Settings
from project.signature import Signature
from project.store import queries
from project.store.database import Store
from project.store.events import EventLog

PATH = "/v1/predict"


@pytest.fixture
def each(champion: Settings) -> Settings:
    return champion.model_copy(update={"serving": champion.serving.model_copy(update={"failures": "row"})})


@pytest.fixture
def touchy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot compute rows with five of staff, though its signature lets them in."""
    rows, frame = Scorer.rows, Scorer.frame

    def failing(self: Scorer, given: Any) -> Any:
        if any(msg.f3 == 5 for msg in given):
            raise ArithmeticError("five")
        return rows(self, given)

    def refusing(self: Scorer, given: pl.DataFrame) -> Any:
        if 5 in given["staff"]:
            raise ArithmeticError("five")
        return frame(self, given)

    monkeypatch.setattr(Scorer, "rows", failing)
    monkeypatch.setattr(Scorer, "frame", refusing)


def test_a_row_that_does_not_fit_leaves_the_others_alone(each: Settings, serving: Any, row: dict[str, Any]) -> None:
    bad = row | {"staff": "many"}
    with serving(each) as client:
        good = client.post(PATH, json={"row": row}).json()["prediction"]
        answer = client.post(PATH, json={"rows": [bad, row, {}, row, 7]})
        assert answer.status_code == 200
        found = answer.json()["predictions"]
        assert [entry.get("prediction") for entry in found] == [None, good, None, good, None]
        assert found[0]["errors"] == [{"field": "staff", "rule": "type", "expected": "must be an integer"}]
        assert "many" not in answer.text
        document = client.get("/openapi.json").json()
        schema = document["paths"][PATH]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | {"components": document["components"]})
        assert client.post(PATH, json={"rows": [bad, {}]}).status_code == 422
        assert client.post(PATH, json={"row": bad}).status_code == 422
    with Store(each) as store:
        assert queries.counts(store).predictions == 3


def test_a_row_that_the_model_cannot_compute_is_named(touchy: None, client: httpx.Client, row: dict[str, Any]) -> None:
    answer = client.post(PATH, json={"rows": [row | {"staff": 1}, row | {"staff": 5}]})
    assert answer.status_code == 422
    assert [error["row"] for error in answer.json()["errors"]] == [1]
    assert "five" not in answer.text
    assert client.post(PATH, json={"row": row | {"staff": 5}}).json()["code"] == "range"
    assert client.post(PATH, json={"row": row | {"staff": 1}}).status_code == 200


def test_or_leaves_its_neighbours_alone(touchy: None, each: Settings, serving: Any, row: dict[str, Any]) -> None:
    rows = [row | {"staff": staff} for staff in (5, 1, "x", 5, 2)]
    with serving(each) as client:
        found = client.post(PATH, json={"rows": rows}).json()["predictions"]
    assert ["prediction" in entry for entry in found] == [False, True, False, False, True]
    assert found[0]["errors"][0]["rule"] == found[3]["errors"][0]["rule"] == "range"


def test_a_model_that_fails_on_everything_is_our_fault(
    client: httpx.Client, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    for one in (Scorer,):
        monkeypatch.setattr(one, "rows", broken)
    monkeypatch.setattr("project.serving.plane.predictor.Predictor.predict", broken)
    answer = client.post(PATH, json={"row": row})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "hunter2" not in answer.text


def table(row: dict[str, Any], staff: list[int]) -> dict[str, Any]:
    """Return a CSV as a request, long enough to be read as a table."""
    text = pl.DataFrame([row | {"staff": one} for one in staff for _ in range(200)]).write_csv()
    return {"content": text, "headers": {"Content-Type": "text/csv"}}


def test_a_table_with_rows_that_cannot_be_computed_is_refused(
    touchy: None, client: httpx.Client, row: dict[str, Any]
) -> None:
    answer = client.post(PATH, **table(row, [1, 5]))
    assert (answer.status_code, answer.json()["code"]) == (422, "range")
    assert [error["row"] for error in answer.json()["errors"]] == list(range(200, 300))
    assert client.post(PATH, **table(row, [1])).status_code == 200


@pytest.mark.parametrize("chunk", [16_384, 150])
@pytest.mark.parametrize("staff", [[5, 1], [1, 5], [5]])
def test_a_table_goes_on_without_rows_that_cannot_be_computed(
    touchy: None,
    each: Settings,
    serving: Any,
    row: dict[str, Any],
    staff: list[int],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "CHUNK", chunk)
    with serving(each) as client:
        answer = client.post(PATH, **table(row, staff))
    found = pl.read_csv(answer.content)
    failing = [one == 5 for one in staff for _ in range(200)]
    assert found["prediction"].is_null().to_list() == failing
    assert found["error"].is_not_null().to_list() == failing


def test_or_its_answer_breaks_off(
    touchy: None, client: httpx.Client, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CHUNK", 150)
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        client.post(PATH, **table(row, [1, 5]))
    assert client.post(PATH, **table(row, [1])).status_code == 200


def test_predictions_are_made_no_faster_than_they_are_logged(
    client: httpx.Client, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[bool]()
    monkeypatch.setattr(EventLog, "wait", lambda log, seconds: waited.append(0 < seconds <= 1) or len(waited) == 1)
    assert client.post(PATH, json={"row": row}).status_code == 200
    assert not waited
    monkeypatch.setattr(EventLog, "behind", True)
    assert client.post(PATH, json={"row": row}).status_code == 200
    late = client.post(PATH, json={"row": row})
    assert (late.status_code, late.json()["code"]) == (503, "busy")
    assert waited == [True, True]


MARK = b'"MARK"'


@pytest.fixture
def bodies(champion: Settings, signature: Signature, row: dict[str, Any]) -> dict[str, bytes]:
    """A body for each route that reads JSON, with a mark for the value of one number."""
    marked = row | {"temperature": "MARK"}
    kinds = {"number": "FP64", "integer": "INT64", "boolean": "BOOL"}
    tensors = [
        {"name": one.name, "shape": [1], "datatype": kinds.get(one.type, "BYTES"), "data": [marked[one.name]]}
        for one in signature.inputs
    ]
    found: dict[str, Any] = {
        PATH: {"row": marked},
        "/v1/explain": {"rows": [marked]},
        "/v1/feedback": {"items": [{"id": "nobody", "actual": "MARK"}]},
        "/invocations": {"dataframe_split": {"columns": list(marked), "data": [list(marked.values())]}},
        f"/v2/models/{champion.project.slug}/infer": {"inputs": tensors},
    }
    return {path: json.dumps(body).encode() for path, body in found.items()}


def said(answer: httpx.Response) -> str:
    """Return the sentence of a refusal, whatever the form of its protocol."""
    told = answer.json()
    return str(next(told[name] for name in ("detail", "message", "error") if name in told))


UNREADABLE = {
    "Infinity": (b"Infinity", 0, "NaN and Infinity are no numbers"),
    "-Infinity": (b"-Infinity", 0, "NaN and Infinity are no numbers"),
    "1e999": (b"1e999", 0, "larger than any"),
    "huge integer": (b"9" * 5_000, 0, "larger than any"),
    "first half of a pair": (b'"\\ud800"', 0, "surrogate"),
    "second half of a pair": (b'"a\\udc00b"', 0, "surrogate"),
    "NUL": (b'"a\x00"', 0, "control character"),
    "bare NUL": (b"\x00", 0, "NUL"),
    "no escape": (b'"\\x"', 0, "backslash"),
    "not UTF-8": (b'"ab\xff"', 3, "UTF-8"),
    "a surrogate as bytes": (b'"\xed\xa0\x80"', 1, "UTF-8"),
    "nonsense": (b"what", 0, "no JSON"),
}


def test_what_cannot_be_read_is_named_with_its_place_on_every_route(
    client: httpx.Client, bodies: dict[str, bytes]
) -> None:
    for path, body in bodies.items():
        good = body.replace(MARK, b"15.0")
        assert client.post(path, content=good).status_code == 200, path
        start = body.index(MARK)
        faults = {name: (body.replace(MARK, one), start + place, why) for name, (one, place, why) in UNREADABLE.items()}
        faults["deep"] = body.replace(MARK, b"[" * 20_000 + b"]" * 20_000), start, "nested too deep"
        faults["cut off"] = good[:-1], len(good) - 1, "ends before it is complete"
        faults["cut off in a text"] = body[: start + 3], start, "no end"
        faults["cut off after a quote"] = body[: start + 3] + b'\\"', start, "no end"
        far = body.replace(MARK, b" " * 1_000_000 + b"[" * 20_000)
        faults["deep and far away"] = far, 1_000_000, "nested too deep"
        faults["byte order mark"] = b"\xef\xbb\xbf" + good, 0, "byte order mark"
        if path != "/invocations":  # where it is a missing value
            faults["NaN"] = body.replace(MARK, b"NaN"), start, "NaN and Infinity are no numbers"
        for name, (content, place, why) in faults.items():
            answer = client.post(path, content=content)
            assert answer.status_code == 400, (path, name, answer.text)
            assert why in said(answer), (path, name, said(answer))
            found = int(re.search(r"from byte (\d+) on", said(answer))[1])
            assert found == place or (name in ("deep", "nonsense") and place < found < place + 100), (path, name)
            assert client.post(path, content=good).status_code == 200, (path, name)
        assert "is empty" in said(client.post(path, content=b""))


def test_what_does_not_fit_is_named_on_every_route(client: httpx.Client, bodies: dict[str, bytes]) -> None:
    for path, body in bodies.items():
        name = "actual" if path == "/v1/feedback" else "temperature"
        for value in (b"false", b'"15"', b"[15]", b"{}"):
            answer = client.post(path, content=body.replace(MARK, value))
            assert answer.status_code in (400, 422), (path, value)
            assert f"{name} must be a number" in said(answer), (path, value)
            assert path == PATH or "row 0: " in said(answer), path
        assert client.post(path, content=body.replace(MARK, b"15.0")).status_code == 200, path


def test_a_tensor_that_does_not_fit_is_named_with_its_row(client: httpx.Client, bodies: dict[str, bytes]) -> None:
    path = next(path for path in bodies if path.startswith("/v2"))
    for values, status in (([3, 2, 1.5], 400), ([3, 2, 1.0], 200)):  # in JSON 1.0 is an integer too
        inputs = json.loads(bodies[path].replace(MARK, b"15.0"))["inputs"]
        for one in inputs:
            one |= {"shape": [3], "data": values if one["name"] == "staff" else one["data"] * 3}
        answer = client.post(path, json={"inputs": inputs})
        assert answer.status_code == status, answer.text
        assert status == 200 or "row 2: staff must be an integer" in said(answer)


def test_a_name_given_twice_is_named_on_every_route(client: httpx.Client, bodies: dict[str, bytes]) -> None:
    for path, body in bodies.items():
        good = body.replace(MARK, b"15.0")
        outer = next(iter(json.loads(good)))
        inner = "columns" if path == "/invocations" else "name" if path.startswith("/v2") else "temperature"
        inner = "actual" if path == "/v1/feedback" else inner
        key = f'"{inner}": '.encode()
        for name, content in (
            (outer, good[:-1] + b", " + good[1:]),
            (inner, good.replace(key, key + b'"x", ' + key)),
            (inner, good.replace(key, key + b"7, " + key)),
            (inner, good.replace(key, key + b'"x", ' + b'"\\u%04x' % ord(inner[0]) + key[2:])),
        ):
            answer = client.post(path, content=content)
            assert answer.status_code in (400, 422), (path, name)
            assert f"{name} is given twice" in said(answer), (path, name, said(answer))
        assert client.post(path, content=good).status_code == 200, path


def test_what_is_packed_or_typed_wrongly_is_refused_on_every_route(
    client: httpx.Client, bodies: dict[str, bytes]
) -> None:
    for path, body in bodies.items():
        good = body.replace(MARK, b"15.0")
        wrong: list[tuple[bytes, dict[str, str]]] = [
            (good, {"Content-Type": "text/plain"}),
            (good, {"Content-Type": "application/x-www-form-urlencoded"}),
            (good, {"Content-Encoding": "gzip"}),
            (good, {"Content-Encoding": "br"}),
            (gzip.compress(good)[:-5], {"Content-Encoding": "gzip"}),
            (zlib.compress(good)[:-5], {"Content-Encoding": "deflate"}),
            (gzip.compress(b" " * 100_000_000), {"Content-Encoding": "gzip"}),
            (b" " * 17_000_000, {}),
        ]
        for content, headers in wrong:
            answer = client.post(path, content=content, headers=headers)
            assert answer.status_code in (400, 413, 415), (path, headers)
            assert said(answer)
        assert client.post(path, content=gzip.compress(good), headers={"Content-Encoding": "gzip"}).status_code == 200


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2/models/a/b/c/d", "/v2/models/none/infer"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_every_refusal_below_v2_has_the_form_of_the_protocol(client: httpx.Client, path: str, method: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code in (404, 405)
    assert list(answer.json()) == ["error"]
    assert answer.headers["content-type"] == "application/json"
