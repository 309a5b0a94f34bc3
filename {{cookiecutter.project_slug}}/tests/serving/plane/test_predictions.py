from __future__ import annotations

import io
from typing import Any

import httpx
import jsonschema
import polars as pl
import pytest

from project.settings import Settings

PATH = "/v1/predictions"


@pytest.fixture
def made(client: httpx.Client, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Twenty-five predictions; the third has feedback."""
    found = [client.post("/v1/predict", json={"row": row | {"staff": place % 5}}).json() for place in range(25)]
    client.post("/v1/feedback", json={"id": found[2]["id"], "actual": 12.5})
    return found


def test_pages_give_every_prediction_once_in_order(client: httpx.Client, made: list[dict[str, Any]]) -> None:
    found, after, pages = [], "", 0
    while after is not None:
        page = client.get(PATH, params={"limit": "10"} | ({"after": after} if after else {})).json()
        found, after, pages = found + page["predictions"], page["next"], pages + 1
    assert pages == 3
    assert [one["id"] for one in found] == [one["id"] for one in made]
    assert found[4]["inputs"]["staff"] == 4
    assert found[4]["output"]["prediction"] == pytest.approx(made[4]["prediction"])
    assert [one["actual"] for one in found[:4]] == [None, None, 12.5, None]
    document = client.get("/openapi.json").json()
    schema = document["paths"][PATH]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(page, schema | {"components": document["components"]})


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_as_a_table(client: httpx.Client, made: list[dict[str, Any]], kind: str) -> None:
    readers = {"csv": pl.read_csv, "parquet": pl.read_parquet, "arrow": pl.read_ipc_stream}
    answer = client.get(PATH, params={"format": kind, "limit": "20"})
    table = readers[kind](io.BytesIO(answer.content))
    assert table["id"].to_list() == [one["id"] for one in made[:20]]
    assert table["prediction"].to_list() == pytest.approx([one["prediction"] for one in made[:20]])
    assert table["staff"].to_list()[:6] == [0, 1, 2, 3, 4, 0]
    rest = client.get(PATH, params={"format": kind, "after": answer.headers["x-next"]})
    assert readers[kind](io.BytesIO(rest.content)).height == 5
    assert "x-next" not in rest.headers


def test_what_is_wanted(client: httpx.Client, made: list[dict[str, Any]]) -> None:
    times = [one["time"] for one in client.get(PATH).json()["predictions"]]

    def count(**parameters: str) -> int:
        return len(client.get(PATH, params=parameters).json()["predictions"])

    assert count(since=times[10]) == 25 - times.index(times[10])
    assert count(until=times[10]) == times.index(times[10])
    assert count(version=made[0]["model_version"]) == 25
    assert count(version="another") == 0
    assert (count(source="http"), count(source="batch"), count(run="x")) == (25, 0, 0)


def test_an_empty_log(client: httpx.Client, empty_client: httpx.Client) -> None:
    for one in (client, empty_client):
        assert one.get(PATH).json() == {"predictions": [], "next": None}
        assert one.get(PATH, params={"format": "csv"}).text.startswith("id,time,model_version")


def test_parameters_that_are_none(client: httpx.Client) -> None:
    wrong = {
        "since": ("yesterday", "", "2026-13-01T00:00:00Z"),
        "limit": ("0", "-1", "100001", "x", "٣"),
        "format": ("xml",),
        "source": ("mail",),
        "after": ("x", "eA==", "\x00", "ü"),
        "version": ("", "\x00", "x" * 65),
        "order": ("id",),
    }
    for name, values in wrong.items():
        for value in values:
            answer = client.get(PATH, params={name: value})
            assert (answer.status_code, answer.json()["code"]) == (422, "parameter"), (name, value)
    assert client.get(f"{PATH}?since=%ff").status_code == 400


def test_the_store_away(champion: Settings, serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from project.errors import ProjectError

    def away(*_: object) -> None:
        raise ProjectError("gone")

    with serving(champion) as client:
        monkeypatch.setattr("project.serving.routes.predictions.page", away)
        answer = client.get(PATH)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
