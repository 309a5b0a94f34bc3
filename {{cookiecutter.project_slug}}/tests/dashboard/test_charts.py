from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from project.dashboard.charts import Chart, charts
from project.dashboard.reader import Reader
from project.models.registry import CHAMPION, Registry
from project.settings import Settings

from .conftest import Log


def drawn(settings: Settings, mode: str = "both", hours: int = 24) -> dict[str, Chart]:
    settings = settings.model_copy(update={"project": settings.project.model_copy(update={"mode": mode})})
    reader = Reader(settings)
    status = reader.status(hours)
    reader.close()
    return {chart.id: chart for chart in charts(status, settings)}


def rows(chart: Chart) -> list[dict[str, Any]]:
    spec = chart.spec()
    assert spec is not None
    found: list[dict[str, Any]] = spec["data"]["values"]
    return found


def test_every_chart_of_a_busy_project_is_drawn(busy: Settings) -> None:
    for chart in drawn(busy).values():
        picture = ElementTree.fromstring(chart.svg())
        assert picture.tag.endswith("svg")
        assert len(list(picture.iter("{http://www.w3.org/2000/svg}path"))) > 3, chart.id


def test_specifications_are_strict_json_and_complete(busy: Settings) -> None:
    for hours in (1, 24, 168):
        for chart in drawn(busy, hours=hours).values():
            text = json.dumps(chart.spec(), allow_nan=False)
            assert '"background": "transparent"' in text
            assert "http://" not in text


def test_nothing_to_draw_is_a_sentence_not_an_empty_axis(settings: Settings) -> None:
    found = drawn(settings)
    assert all(chart.spec() is None and chart.svg() == "" and len(chart.empty) > 20 for chart in found.values())
    assert "pipeline run" in found["runs"].empty


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("both", ["traffic", "errors", "latency", "predictions", "drift", "runs"]),
        ("real-time", ["traffic", "errors", "latency", "predictions", "drift"]),
        ("batch", ["predictions", "drift", "runs"]),
    ],
)
def test_the_mode_decides_which_charts_there_are(settings: Settings, mode: str, names: list[str]) -> None:
    assert list(drawn(settings, mode)) == names


def test_a_change_of_rows_keeps_the_shape(busy: Settings) -> None:
    def shapes() -> dict[str, dict[str, Any]]:
        specs = {name: chart.spec() or {} for name, chart in drawn(busy).items()}
        return {
            name: {key: spec[key] for key in spec if key not in ("data", "description")} for name, spec in specs.items()
        }

    before = shapes()
    log = Log(busy)
    log.traffic(1, 500, 3)
    log.run(5, hours=0.2)
    log.store.close()
    assert shapes() == before


def test_drift_is_sorted_cut_and_told(busy: Settings) -> None:
    log, version = Log(busy), Registry(busy).resolve(CHAMPION)
    log.check("drift", "staff", 7.5, "alert", model_version=version)
    log.check("drift", "at", None, "ok", model_version=version)
    log.store.close()
    found = rows(drawn(busy)["drift"])
    assert [row["column"] for row in found] == ["staff", "temperature", "station"]
    assert found[0] == {"column": "staff", "psi": 1.0, "told": "7.500", "state": "alert"}


def test_rows_of_a_failed_run_are_told_as_not_published(busy: Settings) -> None:
    log = Log(busy)
    log.run(3, "failed", hours=0.5)
    log.store.close()
    last = [(row["fate"], row["rows"]) for row in rows(drawn(busy)["runs"]) if row["run"] == "r3"]
    assert last == [("published", 0), ("quarantined", 7), ("not published", 93)]


def test_a_class_is_charted_like_a_number(classifier: Settings) -> None:
    version = Registry(classifier).resolve(CHAMPION)
    log = Log(classifier)
    log.predictions(version, 120)
    log.store.close()
    chart = drawn(classifier)["predictions"]
    labels = {row["bin"] for row in rows(chart)}
    assert {"no", "yes"} <= labels
