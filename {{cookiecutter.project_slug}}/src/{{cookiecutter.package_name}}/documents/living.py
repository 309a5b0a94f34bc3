"""Fact blocks in Markdown: found, refreshed in place and checked, while every other byte stays as it is.

A block stands between two marker lines of its own; the digest shows an edit by hand:

    <!-- fact: model.metrics -->
    (Markdown that the project writes, ending in its source)
    <!-- /fact 0a1b2c3d4e5f -->
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProjectError

OPEN = re.compile(r" {0,3}<!--[ \t]*fact:[ \t]*([A-Za-z0-9_.-]+)[ \t]*-->[ \t]*")
CLOSE = re.compile(r" {0,3}(<!--[ \t]*/fact(?:[ \t]+([0-9a-f]{12}))?[ \t]*-->)[ \t]*")
ALIKE = re.compile(r"<!--\s*/?\s*fact\b", re.IGNORECASE)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
UNSEEN = re.compile(r"<!--.*?-->|^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1|\Z)", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## +(.+?)[ \t#]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fact:
    """What the project knows: Markdown, and where it came from."""

    markdown: str
    source: str

    def block(self) -> str:
        """Return what stands between the markers, with LF line ends."""
        return f"\n{self.markdown.strip()}\n\n<sub>{self.source}</sub>\n\n"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a line (from 1) of a document."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        """Return it as compilers print it."""
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class Block:
    """A fact block: offsets of its content and of its closing marker in the text."""

    name: str
    line: int
    start: int
    end: int
    marker: tuple[int, int]
    digest: str | None


def parse(text: str, known: Collection[str], file: str = "document") -> tuple[list[Block], list[Problem]]:
    """Find the fact blocks of a document.

    Args:
        text: the document, line ends as they are.
        known: names of the facts that exist.
        file: name for the problems.

    Returns:
        The well-formed blocks, and a problem for each marker that is unclosed, nested, repeated, unknown or misspelt.
    """
    blocks: list[Block] = []
    problems: list[Problem] = []
    opened: tuple[str, int, int] | None = None
    fence = ""
    for line, found in enumerate(re.finditer(r"[^\n]+\n?|\n", text), 1):
        content = found[0].rstrip("\r\n")
        if opened is None and (mark := FENCE.match(content)):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        if opened is None and fence:
            continue
        if mark := OPEN.fullmatch(content):
            if opened:
                message = (
                    f"the fact {mark[1]} begins inside the fact {opened[0]} of line {opened[1]}: close that one first"
                )
                problems.append(Problem(file, line, message))
            elif mark[1] not in known:
                problems.append(
                    Problem(file, line, f"there is no fact {mark[1]}: remove the block or correct its name")
                )
            elif any(block.name == mark[1] for block in blocks):
                problems.append(
                    Problem(file, line, f"the fact {mark[1]} stands here a second time: remove one of them")
                )
            opened = (mark[1], line, found.end())
        elif mark := CLOSE.fullmatch(content):
            if opened is None:
                problems.append(Problem(file, line, "this marker closes no fact: remove it or put its beginning back"))
            else:
                span = (found.start() + mark.start(1), found.start() + mark.end(1))
                blocks.append(Block(*opened, found.start(), span, mark[2]))
                opened = None
        elif opened is None and ALIKE.search(content):
            message = "this is no marker: write <!-- fact: NAME --> or <!-- /fact --> on a line of its own"
            problems.append(Problem(file, line, message))
    if opened:
        problems.append(Problem(file, opened[1], f"the fact {opened[0]} is not closed: add <!-- /fact --> below it"))
    return blocks, problems


def refresh(text: str, facts: Mapping[str, Fact], file: str = "document") -> str:
    """Return the document with every block filled anew; nothing outside the blocks changes.

    Raises:
        ProjectError: a marker is wrong; the message begins with file and line.
    """
    blocks, problems = parse(text, facts.keys(), file)
    if problems:
        raise ProjectError("; ".join(str(problem) for problem in problems))
    for block in reversed(blocks):
        content = facts[block.name].block()
        end = "\r\n" if text[: block.start].endswith("\r\n") else "\n"
        first, last = block.marker
        text = text[:first] + f"<!-- /fact {digest(content)} -->" + text[last:]
        text = text[: block.start] + content.replace("\n", end) + text[block.end :]
    return text


def check(
    text: str, facts: Mapping[str, Fact], headings: Sequence[str] = (), file: str = "document", empty: bool = False
) -> list[Problem]:
    """Return what is wrong: markers, facts that are stale or edited by hand, missing headings.

    Args:
        text: the document.
        facts: every fact as it is now.
        headings: the level-two headings that it must have, in order.
        file: name for the problems.
        empty: whether a block may still be empty, as before the first model.
    """
    blocks, problems = parse(text, facts.keys(), file)
    for block in blocks:
        content = text[block.start : block.end].replace("\r\n", "\n")
        if not content.strip() and block.digest is None:
            if not empty:
                problems.append(Problem(file, block.line, f"the fact {block.name} is empty: run `documents refresh`"))
        elif digest(content) != block.digest:
            message = f"the fact {block.name} was edited by hand: run `documents refresh`, and write prose outside it"
            problems.append(Problem(file, block.line, message))
        elif content != facts[block.name].block():
            problems.append(Problem(file, block.line, f"the fact {block.name} is stale: run `documents refresh`"))
    problems += missing(text, headings, file)
    return sorted(problems, key=lambda problem: problem.line)


def missing(text: str, headings: Sequence[str], file: str) -> list[Problem]:
    """Return a problem for each required heading that is absent or out of order."""
    seen = UNSEEN.sub(lambda found: "\n" * found[0].count("\n"), text.replace("\r\n", "\n"))
    present = [(found[1].casefold(), seen.count("\n", 0, found.start()) + 1) for found in HEADING.finditer(seen)]
    problems, after, line = [], 0, 1
    for heading in headings:
        places = [index for index, (name, _) in enumerate(present) if name == heading.casefold()]
        later = [index for index in places if index >= after]
        if later:
            after, line = later[0] + 1, present[later[0]][1]
        elif places:
            problems.append(Problem(file, present[places[0]][1], f"the heading “{heading}” is out of order"))
        else:
            problems.append(Problem(file, line, f"the heading “## {heading}” is missing: put it back below this line"))
    return problems


def digest(content: str) -> str:
    """Return a short SHA-256 of a block's content, with LF line ends."""
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def read(path: Path) -> str:
    """Return the text of a document with its line ends as they are.

    Raises:
        ProjectError: it cannot be read as UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}") from None


def write(texts: Mapping[Path, str]) -> list[Path]:
    """Write the documents that changed: all of them, or none.

    Returns:
        The documents that changed.

    Raises:
        ProjectError: one cannot be written; all stay as they were.
    """
    old = {path.resolve(): path.read_bytes() for path in texts}
    new = {path.resolve(): text.encode() for path, text in texts.items()}
    changed = [path for path in new if new[path] != old[path]]
    drafts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in changed}
    done: list[Path] = []
    try:
        for path, draft in drafts.items():
            with draft.open("wb") as file:
                file.write(new[path])
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(path, draft)
        for path, draft in drafts.items():
            os.replace(draft, path)
            done.append(path)
    except OSError as error:
        for path in done:
            path.write_bytes(old[path])
        raise ProjectError(f"{error.filename} cannot be written: {error.strerror}; no document was changed") from None
    finally:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink(missing_ok=True)
    return changed
