"""The OpenAPI document: ``openapi.json``, filled in with what the signature of the model in service decides."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import msgspec

from ..signature import PREDICTION
from .answers import Answer
from .state import State

CONTRACT = Path(__file__).with_name("openapi.json")


def answer(state: State, paths: Container[str]) -> Answer:
    """Answer the document as it is now, with those of the paths that this project serves."""
    made: dict[str, Any] = msgspec.json.decode(CONTRACT.read_bytes())
    project, serving = state.settings.project, state.settings.serving
    schemas = made["components"]["schemas"]
    made["info"] = {"title": project.title, "description": project.description, "version": "no model"}
    for name in ("Rows", "FeedbackItems"):
        schemas[name]["maxItems"] = serving.max_rows
    if state.served:
        signature = state.served.bundle.signature
        made["info"]["version"] = state.served.bundle.version
        example, rows = signature.example_row(), signature.to_json()["properties"]
        schemas["Row"] = rows["input"] | {"examples": [example]}
        for name in ("Prediction", "PredictionOfMany"):
            schemas[name]["properties"] |= rows["output"]["properties"]
            schemas[name]["required"] += rows["output"]["required"]
        actual = {"description": "What really happened."}
        schemas["Feedback"]["properties"]["actual"] = rows["output"]["properties"][PREDICTION] | actual
        body = made["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
        many = {"value": {"rows": [example, example]}}
        body["examples"] = {"one row": {"value": {"row": example}}, "many rows": many}
    made["paths"] = {path: described for path, described in made["paths"].items() if path in paths}
    if serving.key_hashes:
        made["security"] = [{name: []} for name in made["components"]["securitySchemes"]]
    return Answer(200, msgspec.json.encode(made))
