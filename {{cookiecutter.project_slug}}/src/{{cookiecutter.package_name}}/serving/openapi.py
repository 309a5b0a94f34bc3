"""The OpenAPI document: the parts in ``contract/``, filled in with what the signature of the model in service decides.

A part is named like the file of its route and has its ``paths`` and ``schemas``. An operation lists under ``problems``
the statuses with which it refuses, besides those of every operation.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from ..signature import PREDICTION, Signature
from .answers import Answer, Route
from .state import State

CONTRACT = Path(__file__).with_name("contract")
REFUSAL = {"$ref": "#/components/responses/Problem"}
KEYS, ANY = (401, 403, 429), (400, 500, 503)  # statuses of what needs a key, and of everything


def answer(state: State, known: Mapping[tuple[str, str], Route], keys: bool) -> Answer:
    """Answer the document as it is now.

    Args:
        state: with the model in service.
        known: what this project serves, by method and path; the rest of the parts is left out.
        keys: whether callers need a key.
    """
    made: dict[str, Any] = msgspec.json.decode((CONTRACT / "_common.json").read_bytes())
    schemas, project = made["components"]["schemas"], state.settings.project
    for file in sorted(CONTRACT.glob("[a-z]*.json")):
        part = msgspec.json.decode(file.read_bytes())
        operations = {
            (path, method): operation
            for path, methods in part["paths"].items()
            for method, operation in methods.items()
            if (method.upper(), path) in known
        }
        if operations:
            schemas |= part["schemas"]
        for (path, method), operation in operations.items():
            _refusals(operation, known[method.upper(), path], keys)
            made["paths"].setdefault(path, {})[method] = operation
    made["info"] = {"title": project.title, "description": project.description, "version": "no model"}
    for name in ("Rows", "FeedbackItems"):
        if name in schemas:
            schemas[name]["maxItems"] = state.settings.serving.max_rows
    if state.settings.serving.failures == "row" and "RowErrors" in schemas:
        either = [{"$ref": f"#/components/schemas/{name}"} for name in ("PredictionOfMany", "RowErrors")]
        schemas["Predictions"]["properties"]["predictions"]["items"] = {"anyOf": either}
    if state.served:
        made["info"]["version"] = state.served.bundle.version
        _fill(made, state.served.bundle.signature)
        named = {"model": project.slug, "version": state.served.bundle.version}
        _examples(made["paths"], state.served.bundle.signature, named)
    if keys:
        made["security"] = [{name: []} for name in made["components"]["securitySchemes"]]
    return Answer(200, msgspec.json.encode(made))


def _refusals(operation: dict[str, Any], route: Route, keys: bool) -> None:
    """Write down every status with which an operation may refuse."""
    closed = keys and route.scope != "open"
    for status in sorted({*operation.pop("problems", ()), *ANY, *(KEYS if closed else ())}):
        operation["responses"].setdefault(str(status), REFUSAL)
    if route.scope == "open":
        operation["security"] = []


def _fill(made: dict[str, Any], signature: Signature) -> None:
    """Put what the signature decides in its places."""
    schemas, paths = made["components"]["schemas"], made["paths"].get("/v1/predict", {})
    example, rows = signature.example_row(), signature.to_json()["properties"]
    if "Row" in schemas:
        schemas["Row"] = rows["input"] | {"examples": [example]}
    for name in ("Prediction", "PredictionOfMany"):
        if name in schemas:
            schemas[name]["properties"] |= rows["output"]["properties"]
            schemas[name]["required"] += rows["output"]["required"]
    if "Feedback" in schemas:
        actual = {"description": "What really happened."}
        schemas["Feedback"]["properties"]["actual"] = rows["output"]["properties"][PREDICTION] | actual
    if "post" in paths:
        body = paths["post"]["requestBody"]["content"]["application/json"]
        many = {"value": {"rows": [example, example]}}
        body["examples"] = {"one row": {"value": {"row": example}}, "many rows": many}
    if "get" in paths:
        for name, schema in rows["input"]["properties"].items():
            named = [one for one in paths["get"]["parameters"] if one["name"] == name]
            parameter = {"name": name, "in": "query", "required": name in rows["input"]["required"], "schema": schema}
            if name in example and example[name] is not None:
                parameter["example"] = example[name]
            for one in named:  # a column that is called format
                paths["get"]["parameters"].remove(one)
            paths["get"]["parameters"].append(parameter)


def _examples(paths: dict[str, Any], signature: Signature, named: Mapping[str, str]) -> None:
    """Give parts of addresses, and bodies whose form is not the model's own, an example that is answered."""
    example, tensors = signature.example_row(), "/v2/models/{model}/infer"
    columns, values = list(example), list(example.values())
    table = io.StringIO(newline="")
    csv.writer(table).writerows((columns, values))
    bodies: dict[str, Any] = {"/invocations": {"dataframe_split": {"columns": columns, "data": [values]}}}
    if tensors in paths:
        datatype = import_module(".v2.tensors", __package__).datatype  # a project may leave the protocol out
        inputs = [
            {"name": one.name, "shape": [1], "datatype": datatype(one), "data": [example[one.name]]}
            for one in signature.inputs
        ]
        bodies |= {path: {"inputs": inputs} for path in (tensors, "/v2/models/{model}/versions/{version}/infer")}
    for path, methods in paths.items():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["example"] = named[parameter["name"]]
            content = operation.get("requestBody", {}).get("content", {})
            if "text/csv" in content:
                content["text/csv"]["example"] = table.getvalue()
            if path in bodies:
                content["application/json"]["example"] = bodies[path]
