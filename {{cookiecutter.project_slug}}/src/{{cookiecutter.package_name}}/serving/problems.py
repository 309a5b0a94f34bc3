"""What a route answers, and the one form of every refusal: problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from .. import validation

JSON = b"application/json"
PROBLEM = b"application/problem+json"
LIMIT = 100  # problems listed at most

Headers = tuple[tuple[bytes, bytes], ...]


class Answer(msgspec.Struct, gc=False):
    """A complete response, of any route."""

    status: int
    body: bytes
    kind: bytes = JSON
    headers: Headers = ()


def problem(
    status: int, code: str, detail: str, errors: Sequence[validation.Problem] = (), headers: Headers = ()
) -> Answer:
    """Make a problem document.

    Args:
        status: of HTTP.
        code: stable name of the problem, for programs.
        detail: one sentence for people: what is wrong, what to do. It must not repeat input.
        errors: what is wrong with which field of which row.
        headers: to add to the answer.

    Returns:
        The answer.
    """
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": [
            {"row": error.row, "field": error.column, "rule": error.rule, "expected": error.expected}
            for error in errors[:LIMIT]
        ],
    }
    return Answer(status, msgspec.json.encode(document), PROBLEM, headers)


def response(answer: Answer) -> Response:
    """Turn an answer into a response of the cold routes."""
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, answer.kind.decode())


def no_champion() -> Answer:
    """Answer that there is no model to predict with."""
    return problem(503, "no-champion", "no model is being served: GET /health/ready says why and what to do")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of these statuses; 401 and 500 are added, because every route has them."""
    content = {PROBLEM.decode(): {"schema": reference("Problem")}}
    every = sorted({401, 500, *statuses})
    return {str(status): {"description": HTTPStatus(status).phrase, "content": content} for status in every}


def operation(name: str, summary: str, request: dict[str, Any], answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the OpenAPI operation of a hot route.

    Args:
        name: the operation's id.
        summary: one line.
        request: schema of the JSON body.
        answer: schema of the JSON answer.
        more: for the body, such as ``examples``.

    Returns:
        The operation, with all the ways in which it can refuse.
    """
    done = {"description": "Done", "content": {"application/json": {"schema": answer}}}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["predictions"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request, **more}}},
        "responses": {"200": done, **documented(400, 408, 413, 415, 422, 503)},
    }


def closed(**properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly these properties."""
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def listed(items: dict[str, Any], most: int | None = None) -> dict[str, Any]:
    """Return the schema of a list; with ``most`` it holds one item at least and so many at most."""
    return {"type": "array", "items": items} | ({"minItems": 1, "maxItems": most} if most else {})


def reference(name: str) -> dict[str, Any]:
    """Return the reference to a schema of the OpenAPI document."""
    return {"$ref": f"#/components/schemas/{name}"}


TEXT = {"type": "string"}
SCHEMA = closed(
    type=TEXT,
    title=TEXT,
    status={"type": "integer"},
    detail=TEXT | {"description": "What is wrong and what to do."},
    code=TEXT | {"description": "A stable name of the problem, for programs."},
    errors=listed(
        closed(
            row={"type": "integer", "description": "The row in the request, from 0."},
            field=TEXT,
            rule=TEXT,
            expected=TEXT,
        )
    ),
) | {"description": "Why a request is refused (RFC 9457)."}
