"""The Open Inference Protocol v2 over HTTP, with Triton's binary tensor data extension.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ...validation import marks
from ..answers import API, JSON, Answer, Call, Refused, Route, Routes, problem
from ..body import MALFORMED, around, doubtful, once, parse
from ..plane import Plane, plane
from ..plane.forms import sentence
from ..plane.predictor import Made, Predictor
from ..state import State
from ..v2 import tensors

EXTENSIONS = ["binary_tensor_data"]
HEADER = b"inference-header-content-length"
BINARY = b"application/octet-stream"
MODEL, VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
SHAPE = 'the request must be {"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}, ...]}'
WRONG_TYPE = problem(
    415, "content-type", "send application/json, or application/octet-stream with tensors as bytes behind the JSON"
)


class Input(msgspec.Struct, gc=False):
    """A tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] | None = None


class Output(msgspec.Struct, omit_defaults=True, gc=False):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class Request(msgspec.Struct, gc=False):
    """What comes in; what it has beyond this is for other servers."""

    inputs: list[Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Output] | None = None


class Response(msgspec.Struct, gc=False):
    """What goes out; an id only if one came."""

    model_name: str
    model_version: str
    id: str | UnsetType
    parameters: dict[str, str]
    outputs: list[dict[str, Any]]


NOTHING = Request([])

decode = msgspec.json.Decoder(Request).decode
encode = msgspec.json.Encoder().encode


def routes(state: State) -> Routes:
    """Return the routes; those of the one model also without a named part, which is the fast way."""
    slug, most, data = state.settings.project.slug, state.settings.serving.max_rows, plane(state)

    def infer(call: Call) -> Answer | Awaitable[Answer]:
        if call.kind() not in (JSON, BINARY):
            raise Refused(WRONG_TYPE)
        champion(data, slug, call.parts)
        return data.answer(call, Asked(call, slug, most), named="version" in call.parts)

    def model(call: Call) -> Answer:
        return _json(metadata(champion(data, slug, call.parts), slug))

    def ready(call: Call) -> Answer:
        if call.parts and state.served:
            champion(data, slug, call.parts)
        is_ready = bool(state.served) and not state.draining
        return _json({"name": slug, "ready": is_ready}, 200 if is_ready else 503)

    def index(_: Call) -> Answer:
        served = [{"name": slug, "version": state.served.bundle.version, "state": "READY"}] if state.served else []
        return _json(served)

    table = {
        ("GET", "/v2"): Route(lambda _: _json(server(slug)), "read"),
        ("GET", "/v2/health/live"): Route(lambda _: _json({"live": True}), "open"),
        ("GET", "/v2/health/ready"): Route(ready, "open"),
        ("POST", "/v2/repository/index"): Route(index, "read"),
    }
    for path in (f"/v2/models/{slug}", MODEL, VERSION):
        table["GET", path] = Route(model, "read")
        table["GET", f"{path}/ready"] = Route(ready, "open")
        table["POST", f"{path}/infer"] = Route(infer, "predict")
    return {key: route._replace(form=error) for key, route in table.items()}


class Asked:
    """An inference request, and its answer in JSON or with bytes behind it.

    Args:
        call: the request.
        model: the name of the model.
        most: rows at most.
    """

    def __init__(self, call: Call, model: str, most: int) -> None:
        self._call, self._model, self._most = call, model, most
        self._request = NOTHING

    def rows(self, predictor: Predictor) -> Sequence[Any]:
        """Return the rows; raises `Refused` if they do not fit."""
        head, rest = self._parted()
        try:
            request = decode(head)
        except MALFORMED:
            if doubtful(head, parse(head)):
                once(head, "input")
            raise Refused(problem(422, "shape", SHAPE)) from None
        if marks(head) != _marks(request):
            once(head, "input")
        if request.outputs:
            tensors.check(predictor, [one.name for one in request.outputs])
        inputs, request.inputs = request.inputs, []  # a copy for the shadow must not hold them
        self._request = request
        if rest or any([one.parameters for one in inputs]):  # a list: for a few a generator costs more
            _share(inputs, rest)
        return tensors.rows(predictor, inputs, self._most)

    def spare(self, places: Sequence[int], why: str) -> bool:
        """The protocol has no place for the reasons of single rows."""
        return False

    def answer(self, predictor: Predictor, made: Made) -> Answer:
        """Return the outputs that are asked for, and the ids of the predictions as a parameter."""
        request, behind = self._request, list[bytes]()
        outputs: list[dict[str, Any]] = [
            {"name": name, "datatype": kind, "shape": [len(made)], "data": [row[name] for _, row in made]}
            for name, kind in tensors.layout(predictor).outputs.items()
        ]
        if request.outputs or request.parameters:
            outputs = _chosen(request, outputs, behind)
        ids = {"prediction_ids": ",".join([identity for identity, _ in made])}
        own = UNSET if request.id is None else request.id
        head = encode(Response(self._model, predictor.version, own, ids, outputs))
        if not behind:
            return Answer(200, head)
        return Answer(200, b"".join((head, *behind)), BINARY, (*API, (HEADER, b"%d" % len(head))))

    def _parted(self) -> tuple[bytes, bytes]:
        """Return the JSON of the body, and the bytes behind it."""
        body, length = self._call.body, self._call.headers.get(HEADER)
        if length is None:
            return body, b""
        if not length.isdigit() or len(length) > 12 or int(length) > len(body):
            detail = "Inference-Header-Content-Length must say how many bytes of the body are JSON"
            raise Refused(problem(400, "malformed", detail))
        return body[: int(length)], body[int(length) :]


def _chosen(request: Request, outputs: Sequence[dict[str, Any]], behind: list[bytes]) -> list[dict[str, Any]]:
    """Return the outputs that are asked for, with those that are wanted as bytes put behind the JSON."""
    binary = (request.parameters or {}).get("binary_data_output") is True
    by_name = {one["name"]: one for one in outputs}
    wanted = dict.fromkeys(by_name, binary)
    if request.outputs:
        wanted = {one.name: (one.parameters or {}).get("binary_data", binary) is True for one in request.outputs}
    for name in [name for name in wanted if wanted[name]]:
        tensor = by_name[name]
        behind.append(tensors.packed(tensor["datatype"], tensor.pop("data")))
        tensor["parameters"] = {"binary_data_size": len(behind[-1])}
    return [by_name[name] for name in wanted]


def _marks(request: Request) -> int:
    """Return how many quotation marks a request has if it gives no name twice: two for each name and each text."""
    count = 2 + 12 * len(request.inputs)
    for one in request.inputs:
        if one.data is None:
            count -= 2
        elif one.datatype == tensors.BYTES and type(one.data) is list:
            count += 2 * list(map(type, one.data)).count(str)
        if one.parameters:
            count += 2 + around(one.parameters)
    if request.id or request.parameters or request.outputs:
        given = {"id": request.id, "parameters": request.parameters, "outputs": request.outputs}
        count += around({name: value for name, value in given.items() if value is not None})
    return count


def _share(inputs: Sequence[Input], rest: bytes) -> None:
    """Give each input its part of the bytes behind the JSON."""
    place = 0
    for one in inputs:
        size = one.parameters and one.parameters.get("binary_data_size")
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - place or one.data is not None:
            detail = "binary_data_size must say how many of the bytes behind the JSON are of an input without data"
            raise Refused(problem(400, "malformed", detail))
        one.data, place = rest[place : place + size], place + size
    if place < len(rest):
        detail = "there are bytes behind the JSON that belong to no input: give each its binary_data_size"
        raise Refused(problem(400, "malformed", detail))


def champion(data: Plane, slug: str, parts: Mapping[str, str]) -> Predictor:
    """Return the predictor in service; raises `Refused` if another model or version is asked for by name."""
    found = data.champion()
    if parts.get("model", slug) != slug or parts.get("version", found.version) != found.version:
        detail = f"there is no such model or version: GET /v2/models/{slug} names what is in service"
        raise Refused(problem(404, "not-found", detail))
    return found


def server(slug: str) -> dict[str, Any]:
    """Return the metadata of the server."""
    return {"name": slug, "version": "2", "extensions": EXTENSIONS}


def metadata(predictor: Predictor, slug: str) -> dict[str, Any]:
    """Return the metadata of the model: one tensor a column."""
    return {
        "name": slug,
        "versions": [predictor.version],
        "platform": predictor.scorer.bundle.manifest["runtime"],
        "inputs": tensors.described(predictor.signature.inputs),
        "outputs": tensors.described(predictor.signature.outputs),
    }


def error(refusal: Answer) -> Answer:
    """Return a refusal in the form of the protocol, which knows 400 for all that is wrong with tensors."""
    status = 400 if refusal.status == 422 else refusal.status
    kept = [header for header in refusal.headers if header not in API]
    return Answer(status, encode({"error": sentence(refusal)}), headers=(*API, *kept))


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, encode(value))
