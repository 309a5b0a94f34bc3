from __future__ import annotations

from typing import Any

import httpx
import pytest

from project.settings import Settings
from project.signature import Column
from project.store import queries
from project.store.database import Store

PATH = "/v1/predict"


def asked(row: dict[str, Any], **more: str) -> dict[str, str]:
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in row.items()}
    return texts | more


def test_the_address_gives_what_a_body_gives(client: httpx.Client, row: dict[str, Any]) -> None:
    expected = client.post(PATH, json={"row": row}).json()
    answer = client.get(PATH, params=asked(row))
    assert answer.status_code == 200
    assert answer.json() | {"id": ""} == expected | {"id": ""}
    text = client.get(PATH, params=asked(row, format="text"))
    assert text.headers["content-type"].startswith("text/plain")
    assert float(text.text) == pytest.approx(expected["prediction"])
    lines = client.get(PATH, params=asked(row, format="csv")).text.splitlines()
    assert lines[0] == ",".join(["id", *list(expected)[2:]])
    assert float(lines[1].split(",")[1]) == pytest.approx(expected["prediction"])


def test_labels_as_text(classifier: Settings, serving: Any) -> None:
    with serving(classifier) as client:
        signature = client.get("/v1/model").json()["signature"]["properties"]["input"]["properties"]
        row = {name: (column.get("examples") or column.get("enum") or [True])[0] for name, column in signature.items()}
        assert client.get(PATH, params=asked(row, format="text")).text in ("yes", "no")


def test_what_does_not_fit_is_explained(client: httpx.Client, row: dict[str, Any], number: Column) -> None:
    for wrong in ("abc", "nan", "1e999", "inf", "1_0"):
        answer = client.get(PATH, params=asked(row | {number.name: wrong}))
        assert answer.status_code == 422, wrong
        assert answer.json()["errors"][0]["field"] == number.name
        assert wrong not in answer.text.replace(number.name, "").replace("inference", "")
    assert client.get(PATH, params=asked(row, surplus="1")).json()["errors"][0]["rule"] == "unknown"
    assert client.get(PATH, params=asked(row, format="xml")).json()["code"] == "format"
    twice = httpx.QueryParams(asked(row)).add(number.name, "1")
    assert client.get(PATH, params=twice).json()["errors"][0] | {"expected": ""} == {
        "row": 0,
        "field": number.name,
        "rule": "twice",
        "expected": "",
    }
    assert client.get(PATH, params=[*asked(row).items(), ("format", "csv"), ("format", "text")]).status_code == 422
    assert client.get(f"{PATH}?a=%ff").status_code == 400
    assert client.get(PATH).status_code == 422


def test_looking_is_not_asking(champion: Settings, serving: Any, row: dict[str, Any]) -> None:
    with serving(champion) as client:
        for answer in (client.head(PATH, params=asked(row)), client.options(PATH, params=asked(row))):
            assert answer.status_code in (200, 204)
            assert not answer.content
            assert "content-length" not in answer.headers or answer.status_code == 204  # nobody knows it yet
        assert set(client.options(PATH).headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
        assert client.get(PATH, params=asked(row)).status_code == 200
    with Store(champion) as store:
        assert queries.counts(store).predictions == 1
