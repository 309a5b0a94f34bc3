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
from ..models.bundle import write_durably
from ..settings import Settings

FENCE = r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)"
OPEN = r"^ {0,3}<!--[ \t]*fact:[ \t]*(?P<name>[A-Za-z0-9_.-]+)[ \t]*-->[ \t]*(?:\r?\n|\Z)"
CLOSE = r"^ {0,3}(?P<close><!--[ \t]*/fact(?:[ \t]+(?P<digest>[0-9a-f]{12}))?[ \t]*-->)[ \t]*\r?$"
MISSPELT = r"<!--\s*/?\s*(?i:fact)\b"
FLAGS = re.DOTALL | re.MULTILINE
OUTSIDE = re.compile(f"{FENCE}|{OPEN}|{CLOSE}|{MISSPELT}", FLAGS)
INSIDE = re.compile(f"{OPEN}|{CLOSE}", FLAGS)
UNSEEN = re.compile(f"<!--.*?-->|{FENCE}", FLAGS)
HEADING = re.compile(r"^## +(.+?)[ \t#]*$", re.MULTILINE)


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
    opened: tuple[str, int, int] | None = None  # name, line, start of the content
    position = 0
    while found := (INSIDE if opened else OUTSIDE).search(text, position):
        position, line, message = found.end(), text.count("\n", 0, found.start()) + 1, ""
        groups = found.groupdict()
        if name := groups["name"]:
            if opened:
                message = (
                    f"the fact {name} begins inside the fact {opened[0]} of line {opened[1]}: close that one first"
                )
            elif name not in known:
                message = f"there is no fact {name}: remove the block or correct its name"
            elif name in [block.name for block in blocks]:
                message = f"the fact {name} stands here a second time: remove one of them"
            opened = (name, line, found.end())
        elif groups["close"] and opened:
            blocks.append(Block(*opened, found.start(), found.span("close"), groups["digest"]))
            opened = None
        elif groups["close"]:
            message = "this marker closes no fact: remove it or put its beginning back"
        elif not groups["fence"]:
            message = "this is no marker: write <!-- fact: NAME --> or <!-- /fact --> on a line of its own"
        if message:
            problems.append(Problem(file, line, message))
    if opened:
        problems.append(Problem(file, opened[1], f"the fact {opened[0]} is not closed: add <!-- /fact --> below it"))
    return blocks, problems


def refresh(text: str, facts: Mapping[str, str], file: str = "document") -> str:
    """Return the document with every block filled anew; nothing outside the blocks changes.

    Raises:
        ProjectError: a marker is wrong; the message begins with file and line.
    """
    blocks, problems = parse(text, facts.keys(), file)
    if problems:
        raise ProjectError("; ".join(str(problem) for problem in problems))
    for block in reversed(blocks):
        content, (first, last) = _content(facts[block.name]), block.marker
        end = "\r\n" if text[: block.start].endswith("\r\n") else "\n"
        text = text[:first] + f"<!-- /fact {_digest(content)} -->" + text[last:]
        text = text[: block.start] + content.replace("\n", end) + text[block.end :]
    return text


def check(
    text: str, facts: Mapping[str, str], headings: Sequence[str] = (), file: str = "document", empty: bool = False
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
        content, message = text[block.start : block.end].replace("\r\n", "\n"), ""
        if not content.strip() and block.digest is None:
            message = "" if empty else "is empty: run `documents refresh`"
        elif _digest(content) != block.digest:
            message = "was edited by hand: run `documents refresh`, and write prose outside it"
        elif content != _content(facts[block.name]):
            message = "is stale: run `documents refresh`"
        if message:
            problems.append(Problem(file, block.line, f"the fact {block.name} {message}"))
    seen = UNSEEN.sub(lambda found: "\n" * found[0].count("\n"), text.replace("\r\n", "\n"))
    present = [(found[1].casefold(), seen.count("\n", 0, found.start()) + 1) for found in HEADING.finditer(seen)]
    after, line = 0, 1
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


def _content(fact: str) -> str:
    return f"\n{fact}\n\n"


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def documents(settings: Settings) -> dict[Path, str]:
    """Return the Markdown documents of the project by path, with their line ends as they are.

    Raises:
        ProjectError: there is none, or one cannot be read as UTF-8.
    """
    folder = settings.path(settings.documents.folder)
    if found := sorted(folder.glob("[!.]*.md")):
        return {path: read(path) for path in found}
    raise ProjectError(f"{folder} holds no Markdown document: correct the setting documents.folder")


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
    old = {path: path.read_bytes() for path in texts}
    changed = [path for path in texts if texts[path].encode() != old[path]]
    drafts = {path: path.resolve().with_name(f".{path.name}.{os.getpid()}.part") for path in changed}
    try:
        for path, draft in drafts.items():
            write_durably(draft, texts[path].encode())
            shutil.copymode(path, draft)
        for path, draft in drafts.items():
            os.replace(draft, path.resolve())
    except OSError as error:
        for path in changed:
            if path.read_bytes() != old[path]:
                path.write_bytes(old[path])
        raise ProjectError(f"{error.filename} cannot be written: {error.strerror}; no document was changed") from None
    finally:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink(missing_ok=True)
    return changed
