"""Fact blocks: found, refreshed in place, checked, and everything else left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from project.documents import living
from project.documents.living import Fact
from project.errors import ProjectError

FACTS = {"a.b": Fact("| x |\n| :-- |\n| 1 |", "Source: there"), "c": Fact("Nothing yet.", "Source: here")}
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
    stale = living.check(new, FACTS | {"c": Fact("Something.", "Source: here")})
    forged = living.check(new.replace("| 1 |", "| 2 |"), FACTS)
    assert [(problem.line, "stale" in problem.message) for problem in stale] == [(17, True)]
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
