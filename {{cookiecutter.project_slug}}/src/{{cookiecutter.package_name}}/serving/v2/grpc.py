"""The Open Inference Protocol over gRPC, in the loop of the service. The extra ``grpc``.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md. Requests pass the
same guard and the same data plane as those over HTTP.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import msgspec
import structlog
from google.protobuf.message import DecodeError

from ...errors import ProjectError
from ...telemetry.metrics import DIRECTORY, DURATION, REQUESTS
from ..answers import FAILED, Answer, Call, Handler, Refused, Scope, problem
from ..plane import plane
from ..plane.forms import sentence
from ..plane.predictor import Made, Predictor
from ..routes import v2
from ..security import Guard
from ..security.exposure import certificate
from ..security.origins import ANY
from ..state import State
from . import tensors
from .messages import message

SERVICE = "inference.GRPCInferenceService"
GRACE = 10.0  # seconds for requests in flight at the end
PROTOBUF = b"application/grpc"
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
CONTENTS = {  # of which field an input's values are, by datatype; those of 16-bit floats can only be raw
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

log = structlog.get_logger(__name__)


class Server:
    """The gRPC server: an asynchronous context, within which it answers.

    Workers of one service listen on the same port, and the system spreads the connections among them.

    Args:
        state: of the service.
    """

    def __init__(self, state: State) -> None:
        self._state, self._serving = state, state.settings.serving
        # Names of hosts are held against browsers that are led astray, and no browser speaks gRPC.
        anywhere = state.settings.serving.model_copy(update={"trusted_hosts": (ANY,)})
        self._guard = Guard(state.settings.model_copy(update={"serving": anywhere}), state.store)
        state.followers.append(self._guard.refresh)
        self._server: Any = None

    async def __aenter__(self) -> None:
        """Listen; raises `ProjectError` if the port cannot be had."""
        host, port = self._serving.host, self._serving.grpc_port
        await asyncio.to_thread(self._guard.refresh)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", int(self._serving.max_body_mb * 1e6)),
                ("grpc.so_reuseport", int(DIRECTORY in os.environ)),  # one of many workers
            ],
            maximum_concurrent_rpcs=self._serving.max_connections,
        )
        methods = {
            name: grpc.unary_unary_rpc_method_handler(self._method(name, handle, scope))
            for name, (handle, scope) in methods_of(self._state).items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        try:
            self._listen(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError:
            detail = "is in use or not to be had: change serving.grpc_port, or stop what holds it"
            raise ProjectError(f"port {port} of {host} (gRPC) {detail}") from None
        await self._server.start()

    async def __aexit__(self, *_: object) -> None:
        """Take no more requests, and finish those in flight."""
        await self._server.stop(GRACE)

    def _listen(self, address: str) -> None:
        files = certificate(self._state.settings)
        if not files:
            self._server.add_insecure_port(address)
            return
        chain, key = (Path(files[name]).read_bytes() for name in ("ssl_certfile", "ssl_keyfile"))
        self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))

    def _method(self, name: str, handle: Handler, scope: Scope) -> Callable[[bytes, Any], Awaitable[bytes]]:
        path = f"/{SERVICE}/{name}"

        async def answering(body: bytes, context: Any) -> bytes:
            started = time.perf_counter()
            headers = {
                key.encode(): value.encode() for key, value in context.invocation_metadata() if type(value) is str
            }
            answer = await self._answer(path, handle, scope, Call("POST", body, headers, b"", started))
            REQUESTS.labels(path, str(answer.status)).inc()
            DURATION.labels(path).observe(time.perf_counter() - started)
            if answer.status != 200:
                await context.abort(CODES.get(answer.status, grpc.StatusCode.INTERNAL), sentence(answer))
            return answer.body

        return answering

    async def _answer(self, path: str, handle: Handler, scope: Scope, call: Call) -> Answer:
        """Let a request in and answer it; whatever is raised becomes an answer too."""
        sender = self._guard.admit(call.method, scope, call.headers)
        if isinstance(sender, Answer):
            return sender
        call.sender = sender
        try:
            answer = handle(call)
            return answer if isinstance(answer, Answer) else await answer
        except Refused as refusal:
            refused: Answer = refusal.args[0]
            return refused
        except DecodeError:
            return problem(400, "malformed", "the message is not of the protocol, or has a text that is not UTF-8")
        except Exception:
            log.exception("request failed", path=path)
            return FAILED


def methods_of(state: State) -> dict[str, tuple[Handler, Scope]]:
    """Return what answers each method of the protocol, and what a key must be good for."""
    slug, most, data = state.settings.project.slug, state.settings.serving.max_rows, plane(state)

    def champion(name: str, version: str) -> Predictor:
        return v2.champion(data, slug, {"model": name, "version": version} if version else {"model": name})

    def ready() -> bool:
        return bool(state.served) and not state.draining

    def model_ready(call: Call) -> Answer:
        request = message("ModelReadyRequest").FromString(call.body)
        if state.served:
            champion(request.name, request.version)
        return _answer("ModelReadyResponse", ready=ready())

    def metadata(call: Call) -> Answer:
        request = message("ModelMetadataRequest").FromString(call.body)
        found = v2.metadata(champion(request.name, request.version), slug)
        for tensor in (*found["inputs"], *found["outputs"]):
            del tensor["parameters"]  # over gRPC the protocol has no place for them
        return _answer("ModelMetadataResponse", **found)

    def infer(call: Call) -> Answer | Awaitable[Answer]:
        request = message("ModelInferRequest").FromString(call.body)
        champion(request.model_name, request.model_version)
        return data.answer(call, Asked(request, most))

    server = v2.server(slug) | {"extensions": []}
    return {
        "ServerLive": (lambda _: _answer("ServerLiveResponse", live=True), "open"),
        "ServerReady": (lambda _: _answer("ServerReadyResponse", ready=ready()), "open"),
        "ModelReady": (model_ready, "open"),
        "ServerMetadata": (lambda _: _answer("ServerMetadataResponse", **server), "read"),
        "ModelMetadata": (metadata, "read"),
        "ModelInfer": (infer, "predict"),
    }


class Asked:
    """An inference request, and its answer: raw where the request is.

    Args:
        request: the message.
        most: rows at most.
    """

    def __init__(self, request: Any, most: int) -> None:
        self._request, self._most = request, most

    def rows(self, predictor: Predictor) -> Sequence[Any]:
        """Return the rows; raises `Refused` if they do not fit."""
        inputs, raw = self._request.inputs, self._request.raw_input_contents
        if raw and (len(raw) != len(inputs) or any(one.HasField("contents") for one in inputs)):
            detail = "raw_input_contents must have one element for each input, and the inputs no contents"
            raise Refused(problem(400, "malformed", detail))
        tensors.check(predictor, [one.name for one in self._request.outputs])
        data = raw or map(_contents, inputs)
        given = (
            Given(one.name, one.datatype, list(one.shape), values) for one, values in zip(inputs, data, strict=True)
        )
        return tensors.rows(predictor, given, self._most)

    def spare(self, places: Sequence[int], why: str) -> bool:
        """The protocol has no place for the reasons of single rows."""
        return False

    def answer(self, predictor: Predictor, made: Made) -> Answer:
        """Return the outputs that are asked for, and the ids of the predictions as a parameter."""
        request, kinds = self._request, tensors.layout(predictor).outputs
        response = message("ModelInferResponse")(
            model_name=request.model_name, model_version=predictor.version, id=request.id
        )
        response.parameters["prediction_ids"].string_param = ",".join([identity for identity, _ in made])
        for name in dict.fromkeys(one.name for one in request.outputs) or kinds:
            kind, values = kinds[name], [row[name] for _, row in made]
            tensor = response.outputs.add(name=name, datatype=kind, shape=[len(made)])
            if request.raw_input_contents:
                response.raw_output_contents.append(tensors.packed(kind, values))
            else:
                texts = [str(value).encode() for value in values] if kind == tensors.BYTES else values
                getattr(tensor.contents, CONTENTS[kind]).extend(texts)
        return Answer(200, response.SerializeToString(), PROTOBUF)


class Given(msgspec.Struct):
    """An input as `tensors.rows` takes it."""

    name: str
    datatype: str
    shape: list[int]
    data: Any


def _contents(tensor: Any) -> list[Any] | None:
    """Return the values of an input that is not raw; None if it can only be raw."""
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        return None
    values = list(getattr(tensor.contents, field))
    if tensor.datatype in tensors.FLOATS:
        return tensors.finite(values)
    if tensor.datatype == tensors.BYTES:
        return tensors.texts(tensor.name, values)
    return values


def _answer(kind: str, **fields: Any) -> Answer:
    return Answer(200, message(kind)(**fields).SerializeToString(), PROTOBUF)
