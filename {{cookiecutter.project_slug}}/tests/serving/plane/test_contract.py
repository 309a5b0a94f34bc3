"""The routes and the document that describes them say the same of any body."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from project.signature import Signature

PATH = "/v1/predict"
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([2.0, -1.0, 2.5, 1e300]),
    st.sampled_from(["north", "", "1", "true", "2026-01-01T00:00:00Z"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.just([]),
    st.just({}),
)
BODIES = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2), st.just({}))


def test_any_body_is_taken_or_refused_as_documented(client: httpx.Client, signature: Signature) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator(content["schema"] | {"components": document["components"]})
    example = signature.example_row()
    times = [column.name for column in signature.inputs if column.type == "datetime"]  # jsonschema knows no times
    names = [*(name for name in example if name not in times), "foreign"]
    rows = st.builds(
        lambda changes, gone: {name: value for name, value in (example | changes).items() if name not in gone},
        st.dictionaries(st.sampled_from(names), ODD, max_size=2),
        st.sets(st.sampled_from(names), max_size=1),
    )
    bodies = st.one_of(
        rows.map(lambda row: {"row": row}),
        st.lists(st.one_of(rows, BODIES), max_size=3).map(lambda many: {"rows": many}),
        st.dictionaries(st.sampled_from(["row", "rows", "other"]), st.one_of(rows, BODIES), max_size=2),
        BODIES,
    )

    @settings(deadline=None, max_examples=200, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(bodies)
    def agree(body: Any) -> None:
        answer = client.post(PATH, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 422)
        range_of_model = answer.status_code == 422 and answer.json()["code"] == "range"
        assert validator.is_valid(body) == (answer.status_code == 200 or range_of_model), answer.text

    agree()


def test_every_refusal_has_the_documented_form(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    problem = document["components"]["responses"]["Problem"]["content"]["application/problem+json"]["schema"]
    operation = document["paths"][PATH]["post"]
    sent: list[tuple[bytes, dict[str, str]]] = [
        (b"{", {}),
        (b"{}", {}),
        (b"{}", {"Content-Type": "text/plain"}),
        (b"{}", {"Content-Encoding": "br"}),
        (b"{}", {"Content-Encoding": "gzip"}),
        (b'{"rows": [' + b"{}," * 20_000 + b"{}]}", {}),
    ]
    for body, headers in sent:
        answer = client.post(PATH, content=body, headers=headers)
        assert answer.headers["content-type"] == "application/problem+json"
        assert str(answer.status_code) in operation["responses"]
        jsonschema.validate(answer.json(), problem | {"components": document["components"]})
        assert answer.json()["status"] == answer.status_code


def examples(operation: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the types and values of all examples of an operation's body; one without body has one."""
    if "requestBody" not in operation:
        yield "", None
        return
    for kind, content in operation["requestBody"]["content"].items():
        values = [one["value"] for one in content.get("examples", {}).values()]
        for value in [*values, *([content["example"]] if "example" in content else [])]:
            yield kind, value if isinstance(value, str) else json.dumps(value)


def test_every_example_is_answered(client: httpx.Client) -> None:
    answered = set()
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            given = [one for one in operation.get("parameters", []) if "example" in one]
            address = path.format_map({one["name"]: one["example"] for one in given})
            query = {one["name"]: one["example"] for one in given if one["in"] == "query"}
            for kind, body in examples(operation):
                headers = {"Content-Type": kind} if kind else {}
                answer = client.request(method, address, params=query, content=body, headers=headers)
                assert answer.status_code == 200, (method, address, answer.text)
                answered.add((method, path, kind))
    v2 = "/v2/models/{model}/versions/{version}/infer"
    tried = {("post", path, "application/json") for path in (PATH, "/invocations", v2)}
    assert tried | {("get", PATH, ""), ("post", PATH, "text/csv"), ("post", "/invocations", "text/csv")} <= answered
