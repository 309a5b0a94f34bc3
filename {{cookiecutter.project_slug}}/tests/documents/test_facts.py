"""Facts read what is really there, and say so when nothing is."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert

from project.documents import diagrams, facts, markdown
from project.documents.living import Fact
from project.documents.words import WORDS, Words
from project.models.registry import Registry
from project.settings import Settings
from project.store.database import Store
from project.store.tables import checks, model_events, runs, traffic

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def change(settings: Settings, **values: str) -> Settings:
    """Return the settings with other answers."""
    return settings.model_copy(update={"project": settings.project.model_copy(update=values)})


def state(settings: Settings) -> dict[str, Fact]:
    """State every fact."""
    with Store(settings) as store:
        return facts.collect(facts.context(settings, Registry(settings), store))


def fill(settings: Settings) -> None:
    """Write one of everything to the log."""
    run = {"id": "r1", "key": "k", "status": "succeeded", "started": NOW, "finished": NOW, "input": "i", "output": "o"}
    run |= {"model_version": "v", "rows_in": 1200, "rows_published": 1100, "rows_quarantined": 100, "seconds": 0.25}
    event = {"time": NOW, "action": "promote", "alias": "champion", "version": "v1", "actor": "Ada | Bob"}
    check = {"time": NOW, "kind": "drift", "subject": "wind", "value": 0.31, "state": "alert", "detail": "{}"}
    minute = {"minute": NOW, "route": "/v1/predict", "bucket": 0.01}
    with Store(settings) as store, store.write() as connection:
        connection.execute(insert(runs), [run])
        connection.execute(insert(model_events), [event])
        connection.execute(insert(checks), [check, check | {"subject": "rain", "state": "ok", "value": None}])
        many = [minute | {"status": 200, "requests": 98}, minute | {"status": 500, "requests": 2}]
        connection.execute(insert(traffic), many)


def test_without_a_model_every_fact_says_so(settings: Settings) -> None:
    found = state(settings)
    for name in facts.FACTS:
        assert found[name].source.startswith("Source"), name
        if name.startswith(("model.", "data.")):
            assert "No model has been promoted yet" in found[name].markdown, name
    assert "model promote VERSION" in found["model.metrics"].markdown
    assert found["deployment.service"].markdown == "No traffic has been logged yet."
    assert found["pipeline.runs"].markdown == "No batch has been run yet."


def test_the_champion_is_described(champion: Settings) -> None:
    change_ = change(champion, language="en")
    found, bundle = state(change_), Registry(champion).load("champion")
    words = Words("en")
    assert f"`{bundle.version}`" in found["model.identity"].markdown
    assert f"| {words.number(bundle.metrics['rmse'])} |" in found["model.metrics"].markdown
    assert bundle.version[:12] in found["model.metrics"].source
    for column in bundle.signature.inputs:
        assert f"`{column.name}`" in found["model.signature"].markdown
        assert f"`{column.name}`" in found["model.features"].markdown
    assert "| Column Index | Column Name | Type of Variable |" in found["model.signature"].markdown
    assert "HistGradientBoostingRegressor" in found["model.training"].markdown
    assert state(change_) == found


def test_the_log_is_read(settings: Settings) -> None:
    fill(settings)
    found = state(change(settings, language="en"))
    assert "| 2026-03-01 12:30 UTC | succeeded | 1,200 | 1,100 | 100 | 250 ms |" in found["pipeline.runs"].markdown
    assert "| Failed (5xx) | 2 (2%) |" in found["deployment.service"].markdown
    assert "| 10 ms |" in found["deployment.service"].markdown
    assert found["monitoring.state"].markdown.index("wind") < found["monitoring.state"].markdown.index("rain")
    assert "2026-03-01 12:30 UTC" in found["document.date"].markdown


def test_values_cannot_break_a_table(settings: Settings) -> None:
    assert markdown.escape("a|b\n*c* <d> $e @f #g") == r"a\|b \*c\* &lt;d&gt; \$e \@f \#g"
    assert markdown.code("a b`") == r"a b\`"


@pytest.mark.parametrize("example", ["champion", "classifier"])
def test_french_has_no_english_left(example: str, request: pytest.FixtureRequest) -> None:
    settings = change(request.getfixturevalue(example), language="fr", description="", title="Vélos")
    fill(settings)
    text = "\n".join(fact.markdown for fact in state(settings).values())
    heads = [cell.strip() for line in text.splitlines() if line.startswith("| ") for cell in line.split("|")[1:2]]
    spoken = {key for key, value in WORDS["fr"].items() if key != value and re.fullmatch(r"[A-Z][\w ,()/%-]{3,}", key)}
    assert not spoken & set(heads) - set(WORDS["fr"].values())
    assert "Tableau: Qualité sur les lignes d’évaluation" in text
    assert "1\u202f200" in text
    assert "01/03/2026 12:30 UTC" in text


def test_both_languages_have_the_same_headings() -> None:
    for file, headings in WORDS["headings"].items():
        assert len(headings["en"]) == len(headings["fr"]) > 0, file


@pytest.mark.parametrize("mode", ["both", "real-time", "batch"])
def test_diagrams_follow_the_settings(settings: Settings, mode: str) -> None:
    words = Words("en")
    text = diagrams.context(change(settings, mode=mode), words) + diagrams.containers(
        change(settings, mode=mode), words
    )
    assert ("Applications" in text) == (mode != "batch")
    assert ("Batch pipeline" in text) == (mode != "real-time")
    assert "SQLite" in text


def test_a_hostile_title_stays_text_in_a_diagram(settings: Settings) -> None:
    text = diagrams.context(change(settings, title='A "b" <c> ]; d`'), Words("en"))
    assert "A #34;b#34; #60;c#62; #93;#59; d#96;" in text


def test_numbers_of_each_language() -> None:
    english, french = Words("en"), Words("fr")
    assert [english.number(value) for value in (0, 12, 1234567, 0.123456, 1234.5)] == [
        "0",
        "12",
        "1,234,567",
        "0.1235",
        "1,234",
    ]
    assert (french.number(1234567), french.number(0.5)) == ("1\u202f234\u202f567", "0,5")
    assert (english.share(0.0234), french.share(0.0234)) == ("2.3%", "2,3\u00a0%")
    assert english.number(float("nan")) == "nan"
