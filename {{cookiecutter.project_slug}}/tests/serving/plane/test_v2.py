"""The Open Inference Protocol over HTTP: with a client of Triton, and with what is wrong in many ways."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from project.models.registry import Registry
from project.settings import Settings
from project.signature import Signature
from project.store import queries
from project.store.database import Store

KINDS = {"number": "FP64", "integer": "INT64", "boolean": "BOOL"}
Body = dict[str, Any]


def tensors(signature: Signature, rows: list[dict[str, Any]]) -> list[Body]:
    """Return the columns of rows as a client would write them."""
    return [
        {
            "name": column.name,
            "datatype": KINDS.get(column.type, "BYTES"),
            "shape": [len(rows)],
            "data": [row[column.name] for row in rows],
        }
        for column in signature.inputs
    ]


@pytest.fixture
def address(champion: Settings) -> str:
    return f"/v2/models/{champion.project.slug}"


@pytest.fixture
def body(signature: Signature, row: dict[str, Any]) -> Body:
    return {"inputs": tensors(signature, [row])}


@pytest.fixture
def expected(client: httpx.Client, row: dict[str, Any]) -> float:
    """What the native protocol says of the row."""
    return float(client.post("/v1/predict", json={"row": row}).json()["prediction"])


def test_health_and_metadata(client: httpx.Client, champion: Settings, address: str, signature: Signature) -> None:
    slug, version = champion.project.slug, Registry(champion).resolve("champion")
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json()["ready"] is True
    assert client.get("/v2").json()["name"] == slug
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
    model = client.get(address).json()
    assert model["name"] == slug
    assert model["versions"] == [version]
    assert [(one["name"], one["shape"]) for one in model["inputs"]] == [(name, [-1]) for name in signature.by_name]
    assert {one["name"]: one["datatype"] for one in model["inputs"]} == {
        column.name: KINDS.get(column.type, "BYTES") for column in signature.inputs
    }
    assert [one["name"] for one in model["outputs"]] == [column.name for column in signature.outputs]
    assert client.get(f"{address}/versions/{version}").json() == model
    assert client.get(f"{address}/ready").json() == {"name": slug, "ready": True}
    assert client.get(f"{address}/versions/{version}/ready").status_code == 200


def test_another_model_or_version_is_not_found(client: httpx.Client, address: str, body: Body) -> None:
    for path in ("/v2/models/other", f"{address}/versions/other"):
        for answer in (client.get(path), client.get(f"{path}/ready"), client.post(f"{path}/infer", json=body)):
            assert answer.status_code == 404
            assert list(answer.json()) == ["error"]


def test_without_a_model_it_is_not_ready(
    empty_client: httpx.Client, settings: Settings, body: Body, address: str
) -> None:
    for path in ("/v2/health/ready", f"/v2/models/{settings.project.slug}/ready"):
        assert empty_client.get(path).status_code == 503
    answer = empty_client.post(f"{address}/infer", json=body)
    assert answer.status_code == 503
    assert "model" in answer.json()["error"]


def test_a_row_is_predicted_as_by_the_native_protocol_and_logged(
    client: httpx.Client, champion: Settings, address: str, body: Body, expected: float
) -> None:
    version = Registry(champion).resolve("champion")
    answer = client.post(f"{address}/infer", json=body | {"id": "seven"}).json()
    assert answer["id"] == "seven"
    assert (answer["model_name"], answer["model_version"]) == (champion.project.slug, version)
    assert answer["outputs"] == [{"name": "prediction", "datatype": "FP64", "shape": [1], "data": [expected]}]
    again = client.post(f"{address}/versions/{version}/infer", json=body).json()
    assert "id" not in again
    assert again["outputs"] == answer["outputs"]
    feedback = {"id": answer["parameters"]["prediction_ids"], "actual": 12.5}
    assert client.post("/v1/feedback", json=feedback).json() == {"accepted": 1, "unknown": []}
    with Store(champion) as store:
        assert queries.counts(store).predictions == 3


def test_rows_keep_their_order_and_may_be_nested(
    client: httpx.Client, address: str, signature: Signature, row: dict[str, Any], rows: Any
) -> None:
    many = [row | {"temperature": float(degrees)} for degrees in range(-10, 30)]
    flat = tensors(signature, many)
    nested = [one | {"shape": [len(many), 1], "data": [[value] for value in one["data"]]} for one in flat]
    native = client.post("/v1/predict", json={"rows": many}).json()["predictions"]
    for inputs in (flat, nested, [one | {"shape": [len(many), 1]} for one in flat]):
        answer = client.post(f"{address}/infer", json={"inputs": inputs}).json()
        assert answer["outputs"][0]["data"] == [one["prediction"] for one in native]
        assert len(answer["parameters"]["prediction_ids"].split(",")) == len(many)


def test_numbers_may_be_of_any_width(client: httpx.Client, address: str, body: Body, expected: float) -> None:
    kinds = {"temperature": ("FP16", "FP32", "INT8", "UINT64"), "staff": ("INT8", "UINT32", "FP32")}
    for name, some in kinds.items():
        for kind in some:
            inputs = [one | {"datatype": kind} if one["name"] == name else one for one in body["inputs"]]
            assert client.post(f"{address}/infer", json={"inputs": inputs}).status_code == 200, kind


def test_what_is_missing_can_be_null_or_left_out(
    client: httpx.Client, address: str, body: Body, row: dict[str, Any]
) -> None:
    native = client.post("/v1/predict", json={"row": row | {"temperature": None}}).json()["prediction"]
    null = [one | {"data": [None]} if one["name"] == "temperature" else one for one in body["inputs"]]
    for inputs in (null, [one for one in body["inputs"] if one["name"] != "temperature"]):
        answer = client.post(f"{address}/infer", json={"inputs": inputs}).json()
        assert answer["outputs"][0]["data"] == [native]


def test_classes_and_probabilities_are_outputs_to_choose_from(classifier: Settings, serving: Any) -> None:
    signature = Registry(classifier).load("champion").signature
    body = {"inputs": tensors(signature, [signature.example_row()])}
    with serving(classifier) as client:
        path = f"/v2/models/{classifier.project.slug}/infer"
        native = client.post("/v1/predict", json={"row": signature.example_row()}).json()
        outputs = client.post(path, json=body).json()["outputs"]
        assert {one["name"]: one["data"][0] for one in outputs}.items() <= native.items()
        assert [one["datatype"] for one in outputs] == ["BYTES", "FP64", "FP64"]
        wanted = [{"name": "probability_yes"}]
        outputs = client.post(path, json=body | {"outputs": wanted}).json()["outputs"]
        assert [(one["name"], one["data"]) for one in outputs] == [("probability_yes", [native["probability_yes"]])]
        answer = client.post(path, json=body | {"outputs": [{"name": "other"}]})
        assert answer.status_code == 400
        assert "other" not in answer.json()["error"]


def change(body: Body, name: str, values: Body) -> Body:
    return body | {"inputs": [one | values if one["name"] == name else one for one in body["inputs"]]}


WRONG = [
    ("temperature", {"datatype": "BYTES"}, "temperature must be of datatype FP64"),
    ("temperature", {"datatype": "BF16"}, "temperature must be of datatype FP64"),
    ("temperature", {"data": ["warm"]}, "temperature must be a number"),
    ("temperature", {"data": [True]}, "temperature must be a number"),
    ("temperature", {"data": [[1.0]]}, "temperature must be a number"),
    ("temperature", {"data": []}, "another number of elements"),
    ("temperature", {"data": [1.0, 2.0]}, "another number of elements"),
    ("temperature", {"data": None}, "must have its data"),
    ("temperature", {"data": "1.0"}, "must have its data"),
    ("temperature", {"data": {"0": 1.0}}, "must have its data"),
    ("temperature", {"data": 1.0}, "must have its data"),
    ("temperature", {"shape": [2]}, "another number of rows"),
    ("at", {"shape": [-1]}, "at must have the shape"),
    ("at", {"shape": [0]}, "at must have the shape"),
    ("at", {"shape": []}, "at must have the shape"),
    ("at", {"shape": [1, 2]}, "at must have the shape"),
    ("at", {"shape": [1, 1, 1]}, "at must have the shape"),
    ("at", {"shape": [2**40]}, "at most"),
    ("at", {"shape": [2**80]}, "at most"),
    ("at", {"shape": ["1"]}, "the request must be"),
    ("at", {"data": [1]}, "at must be a time"),
    ("staff", {"data": [1.5], "datatype": "FP64"}, "staff must be an integer"),
    ("staff", {"data": [2**63]}, "staff must be an integer"),
    ("staff", {"data": [None]}, "staff is missing"),
    ("station", {"data": [None]}, "station is missing"),
    ("open", {"data": [1]}, "open must be true or false"),
    ("open", {"datatype": "INT8"}, "open must be of datatype BOOL"),
    ("open", {"name": "strange"}, "no input of a name"),
    ("open", {"name": "staff"}, "staff is given twice"),
    ("open", {"shape": None}, "the request must be"),
    ("open", {"parameters": {"binary_data_size": 1}}, "binary_data_size"),
    ("open", {"data": None, "parameters": {"binary_data_size": -1}}, "binary_data_size"),
    ("open", {"data": None, "parameters": {"binary_data_size": 2**70}}, "binary_data_size"),
    ("open", {"data": None, "parameters": {"binary_data_size": True}}, "binary_data_size"),
    ("open", {"data": None, "parameters": {"shared_memory_region": "a"}}, "must have its data"),
]


@pytest.mark.parametrize(("name", "values", "reason"), WRONG)
def test_what_is_wrong_is_said(
    client: httpx.Client, address: str, body: Body, name: str, values: Body, reason: str
) -> None:
    answer = client.post(f"{address}/infer", json=change(body, name, values))
    assert answer.status_code in (400, 413)
    assert list(answer.json()) == ["error"]
    assert reason in answer.json()["error"]
    assert client.post(f"{address}/infer", json=body).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"inputs": []}',
        b'{"inputs": {}}',
        b'{"inputs": [null]}',
        b'{"inputs": [], "outputs": 1}',
        b'{"inputs": [], "id": 1}',
        b'{"inputs": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"\xff\xfe",
        b'{"inputs": [{"name": "temperature", "datatype": "FP64", "shape": [1], "data": [NaN]}]}',
        b'{"inputs": [{"name": "temperature", "datatype": "FP64", "shape": [1], "data": [1e999]}]}',
        b'{"inputs": [{"name": "\\ud800", "datatype": "FP64", "shape": [1], "data": [1]}]}',
    ],
)
def test_what_is_no_request_is_refused(client: httpx.Client, address: str, content: bytes) -> None:
    answer = client.post(f"{address}/infer", content=content)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


def test_limits(champion: Settings, serving: Any, address: str, signature: Signature, row: dict[str, Any]) -> None:
    few = champion.model_copy(update={"serving": champion.serving.model_copy(update={"max_rows": 3})})
    with serving(few) as client:
        assert client.post(f"{address}/infer", json={"inputs": tensors(signature, [row] * 3)}).status_code == 200
        answer = client.post(f"{address}/infer", json={"inputs": tensors(signature, [row] * 4)})
        assert answer.status_code == 413
        assert answer.json() == {"error": "send at most 3 rows at a time"}


def packed(kind: str, values: list[Any]) -> bytes:
    if kind == "BYTES":
        return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)
    return struct.pack(f"<{len(values)}" + {"FP64": "d", "INT64": "q", "BOOL": "?"}[kind], *values)


def binary(body: Body, **changed: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a body with bytes in place of data, and its headers."""
    head, behind = [], b""
    for one in body["inputs"]:
        data = changed[one["name"]] if one["name"] in changed else packed(one["datatype"], one["data"])
        rest = {key: value for key, value in one.items() if key != "data"}
        head.append(rest | {"parameters": {"binary_data_size": len(data)}})
        behind += data
    start = json.dumps(body | {"inputs": head}).encode()
    return start + behind, {"Inference-Header-Content-Length": str(len(start))}


def test_bytes_in_and_out(client: httpx.Client, address: str, body: Body, expected: float) -> None:
    content, headers = binary(body | {"parameters": {"binary_data_output": True}})
    answer = client.post(f"{address}/infer", content=content, headers=headers)
    assert answer.status_code == 200
    length = int(answer.headers["inference-header-content-length"])
    head, behind = json.loads(answer.content[:length]), answer.content[length:]
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert "data" not in head["outputs"][0]
    assert struct.unpack("<d", behind) == (expected,)
    content, headers = binary(body)
    answer = client.post(f"{address}/infer", content=content, headers=headers)
    assert answer.json()["outputs"][0]["data"] == [expected]


def test_the_header_of_bytes_is_documented(client: httpx.Client, body: Body) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    operations = [methods["post"] for path, methods in paths.items() if path.startswith("/v2") and "infer" in path]
    assert len(operations) == 2
    for operation in operations:
        sent = [one for one in operation["parameters"] if one["in"] == "header"]
        answered = operation["responses"]["200"]
        assert [one["name"] for one in sent] == list(answered["headers"]) == list(binary(body)[1])
        assert not sent[0]["required"]
        assert "application/octet-stream" in operation["requestBody"]["content"]
        assert "application/octet-stream" in answered["content"]


def test_nan_is_missing_and_infinity_is_no_number(
    client: httpx.Client, address: str, body: Body, row: dict[str, Any]
) -> None:
    native = client.post("/v1/predict", json={"row": row | {"temperature": None}}).json()["prediction"]
    content, headers = binary(body, temperature=struct.pack("<d", float("nan")))
    answer = client.post(f"{address}/infer", content=content, headers=headers)
    assert answer.json()["outputs"][0]["data"] == [native]
    content, headers = binary(body, temperature=struct.pack("<d", float("inf")))
    answer = client.post(f"{address}/infer", content=content, headers=headers)
    assert answer.status_code == 400
    assert "temperature must be a number" in answer.json()["error"]
    wrong = change(body, "staff", {"datatype": "FP32"})
    content, headers = binary(wrong, staff=struct.pack("<f", float("nan")))
    answer = client.post(f"{address}/infer", content=content, headers=headers)
    assert answer.status_code == 400
    assert "staff is missing" in answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("temperature", b"\0" * 7, "another number of bytes"),
        ("temperature", b"\0" * 16, "another number of bytes"),
        ("temperature", b"", "another number of bytes"),
        ("station", b"\0\0", "cut off"),
        ("station", struct.pack("<I", 2**32 - 1), "cut off"),
        ("station", struct.pack("<I", 4) + b"nor", "cut off"),
        ("station", b"", "another number of elements"),
        ("station", packed("BYTES", ["north", "south"]), "another number of elements"),
        ("station", struct.pack("<I", 2) + b"\xff\xfe", "must be text in UTF-8"),
    ],
)
def test_bytes_that_do_not_fit(
    client: httpx.Client, address: str, body: Body, name: str, content: bytes, reason: str
) -> None:
    whole, headers = binary(body, **{name: content})
    answer = client.post(f"{address}/infer", content=whole, headers=headers)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "1.5", "", "x", "99999999", "9" * 5_000, "²"])
def test_a_length_of_the_json_that_is_none(client: httpx.Client, address: str, body: Body, length: str) -> None:
    content, _ = binary(body)
    headers = {b"inference-header-content-length": length.encode()}
    answer = client.post(f"{address}/infer", content=content, headers=headers)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


def test_bytes_that_belong_to_nothing(client: httpx.Client, address: str, body: Body) -> None:
    content, headers = binary(body)
    answer = client.post(f"{address}/infer", content=content + b"\0", headers=headers)
    assert answer.status_code == 400
    assert "belong to no input" in answer.json()["error"]


def test_tritons_own_client(
    client: httpx.Client, champion: Settings, signature: Signature, needs_extra: Any, rows: Any
) -> None:
    triton = needs_extra("tritonclient.http")
    table = rows.head(20).drop("hires", "busy")
    native = client.post("/v1/predict", json={"rows": json.loads(table.write_json())}).json()["predictions"]
    slug = champion.project.slug
    with triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as caller:
        assert caller.is_server_live()
        assert caller.is_server_ready()
        assert caller.is_model_ready(slug)
        metadata = caller.get_model_metadata(slug)
        assert caller.get_model_repository_index()[0]["name"] == slug
        assert caller.get_server_metadata()["name"] == slug
        for as_bytes in (True, False):
            inputs = []
            for one in metadata["inputs"]:
                values = json.loads(table.select(one["name"]).write_json())
                data = [value[one["name"]] for value in values]
                if one["datatype"] == "FP64":
                    data = [float("nan") if value is None and as_bytes else value for value in data]
                kinds = {"FP64": float, "INT64": np.int64, "BOOL": bool, "BYTES": object}
                if one["datatype"] == "FP64" and not as_bytes:
                    data = [value or 0.0 for value in data]  # this client cannot write null
                inputs.append(triton.InferInput(one["name"], [len(data)], one["datatype"]))
                inputs[-1].set_data_from_numpy(np.array(data, kinds[one["datatype"]]), binary_data=as_bytes)
            output = [triton.InferRequestedOutput("prediction", binary_data=as_bytes)]
            for asked in (None, output):
                result = caller.infer(slug, inputs, outputs=asked, request_id="seven")
                assert result.get_response()["id"] == "seven"
                if as_bytes:
                    assert result.as_numpy("prediction").tolist() == [one["prediction"] for one in native]
                assert result.as_numpy("prediction").shape == (20,)
        inputs[0].set_shape([21])
        with pytest.raises(triton.InferenceServerException, match="another number of elements"):
            caller.infer(slug, inputs)


def test_the_contract_describes_what_is_sent(client: httpx.Client, address: str, body: Body) -> None:
    document = client.get("/openapi.json").json()

    def valid(name: str, value: Any) -> None:
        schema = document["components"]["schemas"][name] | {"components": document["components"]}
        jsonschema.validate(value, schema)

    valid("InferenceRequest", body)
    valid("InferenceModel", client.get(address).json())
    valid("InferenceResponse", client.post(f"{address}/infer", json=body).json())
    valid("InferenceError", client.post(f"{address}/infer", json={}).json())
    assert {path for path in document["paths"] if path.startswith("/v2")} >= {"/v2", "/v2/models/{model}/infer"}


def test_other_types_of_bodies_are_refused(client: httpx.Client, address: str, body: Body) -> None:
    content = json.dumps(body)
    for kind, status in (("text/plain", 415), ("application/json; charset=utf-8", 200), (None, 200)):
        answer = client.post(f"{address}/infer", content=content, headers={"Content-Type": kind} if kind else {})
        assert answer.status_code == status, kind
