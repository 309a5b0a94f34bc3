"""Fact blocks are found, refreshed in place and checked; facts read what is there, and say so when nothing is."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from project.documents import living
from project.documents.facts import collect
from project.documents.words import WORDS, Words
from project.errors import ProjectError
from project.models import gates
from project.models.registry import Registry
from project.settings import Settings
from project.store.database import Store
from project.store.tables import checks, model_events, runs, traffic

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
FACTS = {"a.b": "| x |\n| :-- |\n| 1 |\n\n<sub>Source: there</sub>", "c": "Nothing yet.\n\n<sub>Source: here</sub>"}
TEXT = "# Title\n\nProse  \n\n<!-- fact: a.b -->\n<!-- /fact -->\n\n## One\n\n<!-- fact: c -->\n<!-- /fact -->  \nEnd"


def test_refresh_fills_blocks_and_twice_is_once() -> None:
    once = living.refresh(TEXT, FACTS)
    assert "| 1 |" in once
    assert "<sub>Source: there</sub>" in once
    assert living.refresh(once, FACTS) == once
    assert living.check(once, FACTS, ["One"]) == []


@given(st.lists(st.text(st.characters(exclude_characters="<`~", exclude_categories=["Cs"])), min_size=3, max_size=3))
def test_prose_is_never_touched(prose: list[str]) -> None:
    first, second = "<!-- fact: a.b -->\n<!-- /fact -->", " <!-- fact: c -->\t\n<!-- /fact -->  "
    text = f"{prose[0]}\n{first}\n{prose[1]}\n{second}\n{prose[2]}"
    blocks, problems = living.parse(living.refresh(text, FACTS), FACTS)
    assert problems == []
    new = living.refresh(text, FACTS)
    outside = [new[: blocks[0].start], new[blocks[0].marker[1] : blocks[1].start], new[blocks[1].marker[1] :]]
    assert outside == [f"{prose[0]}\n<!-- fact: a.b -->\n", f"\n{prose[1]}\n <!-- fact: c -->\t\n", f"  \n{prose[2]}"]


def test_windows_line_ends_stay() -> None:
    text = TEXT.replace("\n", "\r\n")
    new = living.refresh(text, FACTS)
    assert "\n" not in new.replace("\r\n", "")
    assert living.refresh(new, FACTS) == new
    assert living.check(new, FACTS) == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("\n<!-- fact: c -->\n", 2, "not closed"),
        ("<!-- fact: c -->\n<!-- fact: a.b -->\n<!-- /fact -->\n", 2, "inside the fact c"),
        ("<!-- fact: c -->\n<!-- /fact -->\n<!-- fact: c -->\n<!-- /fact -->\n", 3, "second time"),
        ("<!-- fact: gone -->\n<!-- /fact -->\n", 1, "no fact gone"),
        ("\n\n<!-- /fact -->\n", 3, "closes no fact"),
        ("text <!-- fact: c -->\n", 1, "no marker"),
        ("<!-- fact c -->\n", 1, "no marker"),
    ],
)
def test_wrong_markers_name_file_and_line(text: str, line: int, words: str) -> None:
    found = living.check(text, FACTS, file="report.md", empty=True)
    assert any(problem.line == line and words in problem.message for problem in found)
    with pytest.raises(ProjectError, match=rf"report\.md:{line}: .*{words}"):
        living.refresh(text, FACTS, "report.md")


def test_markers_in_code_are_text() -> None:
    text = "```\n<!-- fact: gone -->\n```\n"
    assert living.refresh(text, FACTS) == text


def test_stale_forged_and_empty_are_told_apart() -> None:
    new = living.refresh(TEXT, FACTS)
    stale = living.check(new, FACTS | {"c": "Something.\n\n<sub>Source: here</sub>"})
    forged = living.check(new.replace("| 1 |", "| 2 |"), FACTS)
    assert [(problem.line, "stale: run `documents refresh`" in problem.message) for problem in stale] == [(17, True)]
    assert [(problem.line, "by hand" in problem.message) for problem in forged] == [(5, True)]
    assert len(living.check(TEXT, FACTS)) == 2
    assert living.check(TEXT, FACTS, empty=True) == []


def test_missing_and_misplaced_headings() -> None:
    text = "## Two\n\n<!-- ## One -->\n\n```\n## One\n```\n\n## Three\n"
    found = living.check(text, {}, ["One", "Two", "Three"], "f.md")
    assert [str(problem) for problem in found] == [
        "f.md:1: the heading “## One” is missing: put it back below this line"
    ]
    swapped = living.check("## B\n\n## A\n", {}, ["A", "B"], "f.md")
    assert [(problem.line, "out of order" in problem.message) for problem in swapped] == [(1, True)]


def test_write_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.md", tmp_path / "b.md"
    first.write_text("1")
    second.write_text("2")
    replace = living.os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target) == second:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(living.os, "replace", fail)
    with pytest.raises(ProjectError, match="no document was changed"):
        living.write({first: "new", second: "new"})
    assert (first.read_text(), second.read_text()) == ("1", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.md", "b.md"]
    monkeypatch.undo()
    assert living.write({first: "new", second: "2"}) == [first]


def test_a_document_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xff\xfe")
    with pytest.raises(ProjectError, match="not UTF-8"):
        living.read(tmp_path / "a.md")


def change(settings: Settings, **values: str) -> Settings:
    """Return the settings with other answers."""
    return settings.model_copy(update={"project": settings.project.model_copy(update=values)})


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
    found = collect(settings)
    assert len(found) == 19
    for name, fact in found.items():
        assert fact.splitlines()[-1].startswith("<sub>Source"), name
        if name.startswith(("model.", "data.")):
            assert "No model has been promoted yet" in fact, name
    assert "model promote VERSION" in found["model.metrics"]
    assert found["deployment.service"].startswith("No traffic has been logged yet.")
    assert found["pipeline.runs"].startswith("No batch has been run yet.")


def test_the_champion_is_described(champion: Settings) -> None:
    change_ = change(champion, language="en")
    found, bundle = collect(change_), Registry(champion).load("champion")
    words = Words("en")
    assert f"`{bundle.version}`" in found["model.identity"]
    assert f"| {words.number(bundle.metrics['rmse'])} |" in found["model.metrics"]
    assert bundle.version[:12] in found["model.metrics"]
    for column in bundle.signature.inputs:
        assert f"`{column.name}`" in found["model.signature"]
        assert f"`{column.name}`" in found["model.features"]
    assert "| Column Index | Column Name | Type of Variable |" in found["model.signature"]
    assert "HistGradientBoostingRegressor" in found["model.training"]
    assert "| `station` | harbour |" in found["model.slices"]
    assert "Baseline: ridge regression" in found["model.slices"]
    assert "promoted without any gate" in found["model.gates"]
    assert "No gate was ever overridden." in found["model.overrides"]
    assert collect(change_) == found


def test_the_log_is_read(settings: Settings) -> None:
    fill(settings)
    found = collect(change(settings, language="en"))
    assert "| 2026-03-01 12:30 UTC | succeeded | 1,200 | 1,100 | 100 | 250 ms |" in found["pipeline.runs"]
    assert "| Failed (5xx) | 2 (2%) |" in found["deployment.service"]
    assert "| 10 ms |" in found["deployment.service"]
    assert found["monitoring.state"].index("wind") < found["monitoring.state"].index("rain")
    assert "2026-03-01 12:30 UTC" in found["document.date"]


def test_values_cannot_break_a_table(champion: Settings) -> None:
    words = Words("en")
    assert words.show("a|b\n*c* <d> $e @f #g") == r"a\|b \*c\* &lt;d&gt; \$e \@f \#g"
    assert words.code("a b`") == r"a b\`"
    fill(champion)
    assert r"| Ada \| Bob |" in collect(champion)["deployment.versions"]


@pytest.mark.parametrize("example", ["champion", "classifier"])
def test_french_has_no_english_left(example: str, request: pytest.FixtureRequest) -> None:
    settings = change(request.getfixturevalue(example), language="fr", description="", title="Vélos")
    fill(settings)
    text = "\n".join(collect(settings).values())
    heads = [cell.strip() for line in text.splitlines() if line.startswith("| ") for cell in line.split("|")[1:2]]
    spoken = {key for key, value in WORDS["fr"].items() if key != value and re.fullmatch(r"[A-Z][\w ,()/%-]{3,}", key)}
    assert not spoken & set(heads) - set(WORDS["fr"].values())
    assert "Tableau: Qualité sur les lignes d’évaluation" in text
    assert "1\u202f200" in text
    assert "01/03/2026 12:30 UTC" in text


def test_every_phrase_of_a_gate_is_known_in_french() -> None:
    folder = Path(gates.__file__).parent
    code = "".join((folder / name).read_text(encoding="utf-8") for name in ("gates.py", "evidence.py", "comparison.py"))
    pattern = r'(?<![f\w])"([^"\n]*\{(?:metric|value|share|field|rows|days|hours|count|reason)\}[^"\n]*)"'
    phrases = set(re.findall(pattern, code))
    assert len(phrases) > 20
    assert not phrases - set(WORDS["fr"])


def test_both_languages_have_the_same_headings() -> None:
    for file, headings in WORDS["headings"].items():
        assert len(headings["en"]) == len(headings["fr"]) > 0, file


@pytest.mark.parametrize("mode", ["both", "real-time", "batch"])
def test_diagrams_follow_the_settings(settings: Settings, mode: str) -> None:
    found = collect(change(settings, mode=mode, language="en"))
    text = found["architecture.context"] + found["architecture.containers"]
    assert ("Applications" in text) == (mode != "batch")
    assert ("Batch pipeline" in text) == (mode != "real-time")
    assert "SQLite" in text


def test_a_hostile_title_stays_text_in_a_diagram(settings: Settings) -> None:
    text = collect(change(settings, title='A "b" <c> ]; d`'))["architecture.context"]
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
