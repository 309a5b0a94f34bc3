"""The routes and the document that describes them say the same of any body."""

from __future__ import annotations

import json
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
