"""The Open Inference Protocol over gRPC, with a client of Triton."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from project.errors import ProjectError
from project.models.registry import Registry
from project.serving.app import Service
from project.settings import PREFIX, Settings
from project.signature import Signature
from project.store import keys, queries
from project.store.database import Store

TYPES = {"number": ("FP64", float), "integer": ("INT64", np.int64), "boolean": ("BOOL", bool)}


@pytest.fixture(autouse=True)
def _grpc(needs_extra: Callable[[str], Any]) -> None:
    needs_extra("grpc")


@pytest.fixture
def triton(needs_extra: Callable[[str], Any]) -> Any:
    return needs_extra("tritonclient.grpc")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def on(settings: Settings, **values: Any) -> Settings:
    """Return settings with gRPC on a free port."""
    serving = settings.serving.model_copy(update={"grpc_port": free_port(), **values})
    return settings.model_copy(update={"serving": serving})


@pytest.fixture
def opened(champion: Settings, serving: Any, triton: Any) -> Callable[..., Any]:
    """Serve, and get a client of gRPC and one of HTTP."""

    @contextmanager
    def open_(settings: Settings = champion, **values: Any) -> Iterator[tuple[Any, httpx.Client]]:
        settings = on(settings, **values)
        with (
            serving(settings) as client,
            triton.InferenceServerClient(f"127.0.0.1:{settings.serving.grpc_port}") as caller,
        ):
            assert client.get("/health/live").status_code == 200  # HTTP waits for the start; a call of gRPC does not
            yield caller, client

    return open_


@pytest.fixture
def inputs(triton: Any) -> Callable[..., list[Any]]:
    """Make the inputs of a client out of rows."""

    def make(signature: Signature, rows: list[dict[str, Any]]) -> list[Any]:
        made = []
        for column in signature.inputs:
            kind, dtype = TYPES.get(column.type, ("BYTES", object))
            data = [np.nan if row[column.name] is None else row[column.name] for row in rows]
            made.append(triton.InferInput(column.name, [len(rows)], kind))
            made[-1].set_data_from_numpy(np.array(data, dtype))
        return made

    return make


def test_tritons_client_gets_what_the_native_protocol_says(
    opened: Any, champion: Settings, signature: Signature, inputs: Any, row: dict[str, Any]
) -> None:
    slug, version = champion.project.slug, Registry(champion).resolve("champion")
    many = [row | {"temperature": None if degrees == 5 else float(degrees)} for degrees in range(20)]
    with opened() as (caller, client):
        native = client.post("/v1/predict", json={"rows": many}).json()["predictions"]
        assert caller.is_server_live()
        assert caller.is_server_ready()
        assert caller.is_model_ready(slug)
        assert caller.get_server_metadata().name == slug
        metadata = caller.get_model_metadata(slug, version)
        assert [one.name for one in metadata.inputs] == list(signature.by_name)
        assert list(metadata.versions) == [version]
        result = caller.infer(slug, inputs(signature, many), request_id="seven")
        assert result.as_numpy("prediction").tolist() == [one["prediction"] for one in native]
        response = result.get_response()
        assert (response.id, response.model_version) == ("seven", version)
        ids = response.parameters["prediction_ids"].string_param.split(",")
        assert client.post("/v1/feedback", json={"id": ids[3], "actual": 1.0}).json()["accepted"] == 1
        metrics = client.get("/metrics").text
        assert 'http_requests_total{route="/inference.GRPCInferenceService/ModelInfer",status="200"}' in metrics
    with Store(champion) as store:
        assert queries.counts(store).predictions == 40


def test_typed_contents_are_answered_in_kind(
    opened: Any, classifier: Settings, triton: Any, row: dict[str, Any]
) -> None:
    from tritonclient.grpc import service_pb2

    signature = Registry(classifier).load("champion").signature
    fields = {"number": "fp64_contents", "integer": "int64_contents", "boolean": "bool_contents"}
    request = service_pb2.ModelInferRequest(model_name=classifier.project.slug)
    for column in signature.inputs:
        kind = TYPES.get(column.type, ("BYTES", object))[0]
        tensor = request.inputs.add(name=column.name, datatype=kind, shape=[1, 1])
        value = row[column.name].encode() if kind == "BYTES" else row[column.name]
        getattr(tensor.contents, fields.get(column.type, "bytes_contents")).append(value)
    request.outputs.add(name="probability_yes")
    request.outputs.add(name="prediction")
    with opened(classifier) as (caller, client):
        native = client.post("/v1/predict", json={"row": row}).json()
        answer = caller._client_stub.ModelInfer(request)
    assert [one.name for one in answer.outputs] == ["probability_yes", "prediction"]
    assert list(answer.outputs[0].contents.fp64_contents) == [native["probability_yes"]]
    assert list(answer.outputs[1].contents.bytes_contents) == [native["prediction"].encode()]
    assert not answer.raw_output_contents


def refused(caller: Any, request: Any) -> tuple[str, str]:
    """Return the code and the reason of a refusal."""
    import grpc

    with pytest.raises(grpc.RpcError) as caught:
        caller._client_stub.ModelInfer(request)
    return caught.value.code().name, caught.value.details()


def test_bad_input_is_an_invalid_argument(
    opened: Any, champion: Settings, signature: Signature, inputs: Any, row: dict[str, Any], triton: Any
) -> None:
    from tritonclient.grpc import service_pb2

    slug = champion.project.slug

    def request() -> Any:
        made = service_pb2.ModelInferRequest(model_name=slug)
        for one in inputs(signature, [row]):
            made.inputs.append(one._get_tensor())
            made.raw_input_contents.append(one._get_content())
        return made

    def changed(**values: Any) -> Any:
        made = request()
        for name, value in values.items():
            setattr(made.inputs[1], name, value)
        return made

    with opened(max_rows=100) as (caller, _):
        cut = request()
        cut.raw_input_contents[1] = b"\0"
        fewer = request()
        del fewer.raw_input_contents[-1]
        both = request()
        both.inputs[1].contents.fp64_contents.append(1)
        infinite = request()
        infinite.raw_input_contents[1] = np.array([np.inf]).tobytes()
        half = service_pb2.ModelInferRequest(model_name=slug)
        half.inputs.add(name="temperature", datatype="FP16", shape=[1])
        text = service_pb2.ModelInferRequest(model_name=slug)
        text.inputs.add(name="station", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"\xff")
        shape = request()
        del shape.inputs[1].shape[:]
        shape.inputs[1].shape.append(-(2**60))
        huge = request()
        huge.inputs[0].shape[0] = 2**60
        unknown = request()
        unknown.outputs.add(name="other")
        for bad, reason in [
            (changed(datatype="BYTES"), "temperature must be of datatype FP64"),
            (changed(name="strange"), "no input of a name"),
            (changed(name="at"), "at is given twice"),
            (cut, "another number of bytes"),
            (fewer, "raw_input_contents"),
            (both, "raw_input_contents"),
            (infinite, "temperature must be a number"),
            (half, "must have its data"),
            (text, "must be text in UTF-8"),
            (shape, "must have the shape"),
            (huge, "at most 100 rows"),
            (unknown, "no output of a name"),
            (service_pb2.ModelInferRequest(model_name=slug), "at least one input"),
        ]:
            code, detail = refused(caller, bad)
            assert (code, reason in detail) == ("INVALID_ARGUMENT", True), detail
        other = request()
        other.model_name = "other"
        assert refused(caller, other)[0] == "NOT_FOUND"
        other = request()
        other.model_version = "other"
        assert refused(caller, other)[0] == "NOT_FOUND"
        assert caller._client_stub.ModelInfer(request()).model_name == slug


def test_bytes_that_are_no_message_and_too_many_of_them(opened: Any, champion: Settings) -> None:
    import grpc

    settings = on(champion)
    with opened(max_body_mb=0.1, grpc_port=settings.serving.grpc_port):
        for content, packing, code in [
            (b"\xff" * 20, None, "INVALID_ARGUMENT"),
            (b"\0" * 200_000, None, "RESOURCE_EXHAUSTED"),
            (b"\0" * 50_000_000, grpc.Compression.Gzip, "RESOURCE_EXHAUSTED"),
        ]:
            with grpc.insecure_channel(f"127.0.0.1:{settings.serving.grpc_port}") as channel:
                call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                with pytest.raises(grpc.RpcError) as caught:
                    call(content, compression=packing)
                assert caught.value.code().name == code
                live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                assert live(b"") == b"\x08\x01"


def test_keys_open_it_as_they_do_http(
    opened: Any, champion: Settings, signature: Signature, inputs: Any, row: dict[str, Any], triton: Any
) -> None:
    with Store(champion) as store:
        good = keys.create(store, "caller", ["predict"], "test")[1]
        reader = keys.create(store, "reader", ["read"], "test")[1]
    slug, given = champion.project.slug, inputs(signature, [row])
    with opened(trusted_hosts=("example.com",)) as (caller, _):
        assert caller.is_server_live()
        for headers, code in [
            ({}, "UNAUTHENTICATED"),
            ({"x-api-key": "wrong"}, "UNAUTHENTICATED"),
            ({"authorization": f"Bearer {reader}"}, "PERMISSION_DENIED"),
        ]:
            with pytest.raises(triton.InferenceServerException) as caught:
                caller.infer(slug, given, headers=headers)
            assert caught.value.status() == f"StatusCode.{code}"
        for headers in ({"x-api-key": good}, {"authorization": f"Bearer {good}"}):
            assert caller.infer(slug, given, headers=headers).as_numpy("prediction").shape == (1,)


def test_with_a_certificate_it_speaks_tls_alone(
    opened: Any, champion: Settings, signature: Signature, inputs: Any, row: dict[str, Any], triton: Any, pem: Path
) -> None:
    slug, given, port = champion.project.slug, inputs(signature, [row]), free_port()
    files = {"tls_certificate": str(pem / "certificate.pem"), "tls_key": str(pem / "key.pem")}
    with (
        opened(grpc_port=port, **files) as (plain, _),
        triton.InferenceServerClient(
            f"127.0.0.1:{port}", ssl=True, root_certificates=files["tls_certificate"]
        ) as trusting,
        triton.InferenceServerClient(f"127.0.0.1:{port}", ssl=True) as doubting,
    ):
        assert trusting.infer(slug, given).as_numpy("prediction").shape == (1,)
        for other in (plain, doubting):
            with pytest.raises(triton.InferenceServerException) as caught:
                other.infer(slug, given)
            assert caught.value.status() == "StatusCode.UNAVAILABLE"


def test_without_a_model_it_is_not_ready(opened: Any, settings: Settings, triton: Any) -> None:
    with opened(settings) as (caller, _):
        assert caller.is_server_live()
        assert not caller.is_server_ready()
        assert not caller.is_model_ready(settings.project.slug)
        with pytest.raises(triton.InferenceServerException) as caught:
            caller.get_model_metadata(settings.project.slug)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"


def test_a_port_in_use_is_one_sentence(champion: Settings, start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(champion, "serve", "--port", "0", **{f"{PREFIX}SERVING__GRPC_PORT": str(port)})
        out, error = process.communicate(timeout=60)
    assert process.returncode
    assert f"port {port} of 127.0.0.1 (gRPC) is in use" in out + error
    assert "Traceback" not in out + error


def test_it_ends_with_the_service(champion: Settings, served: Any, triton: Any, tmp_path: Path) -> None:
    settings = on(champion)
    port = settings.serving.grpc_port
    with (
        served(champion, **{f"{PREFIX}SERVING__GRPC_PORT": str(port)}),
        triton.InferenceServerClient(f"127.0.0.1:{port}") as caller,
    ):
        assert caller.is_server_ready()


def test_without_the_extra_the_service_says_so(champion: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, f"{Service.__module__.rpartition('.')[0]}.v2.grpc", raising=False)
    with pytest.raises(ProjectError, match=rf"pip install '{champion.project.slug}\[grpc\]'"):
        Service(on(champion))
