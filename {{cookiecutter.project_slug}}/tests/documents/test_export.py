"""Exports hold the text of the documents, in every format, and say which line is wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from project.commands.documents import app
from project.documents import pages
from project.documents.export import FORMATS, export
from project.errors import ProjectError
from project.settings import PREFIX, Settings, find_root

REPORT = """# The Report of A & B

| Item | Content |
| :-- | :-- |
| Owner | someone@example.com |

<!-- guidance: not for readers -->

## First

Costs $5 and $6, written by @ada, with `code` and # signs, snake_case and <b>bold</b>.

Table: Very wide things

| One | Two | Three | Four | Five | Six | Seven |
| :-- | :-- | :-- | :-- | :-- | :-- | :-- |
| WORDWORDWORD | a_very_long_name_without_any_space_at_all_in_it_0123456789 | %s | שלום | 5 | 6 | LAST |

<sub>Source: somewhere</sub>

## Second

```mermaid
flowchart LR
    a["Left box"] -->|"an arrow"| b["Right box"]
```

Figure: How it flows
""" % ("x" * 150)


@pytest.fixture
def project(settings: Settings) -> Settings:
    """A project with one document."""
    folder = settings.path(settings.documents.folder)
    folder.mkdir(parents=True)
    (folder / "report.md").write_text(REPORT, encoding="utf-8")
    return settings


@pytest.fixture
def exported(project: Settings) -> Path:
    """Its exports."""
    output = project.path(project.documents.output)
    told: list[str] = []
    made = export(project, FORMATS, output, told.append)
    assert sorted(path.name for path in made) == ["index.html", "report.docx", "report.html", "report.pdf"]
    assert sorted(told) == ["report.docx", "report.html", "report.pdf"]
    return output


def words_of(path: Path) -> str:
    """Return the text of a PDF; without the program for it the test is skipped, and fails where CI is set."""
    if shutil.which("pdftotext") is None:
        missing = "needs pdftotext (Debian package poppler-utils)"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True).stdout


def test_every_format_holds_the_document(exported: Path) -> None:
    page = (exported / "report.html").read_text(encoding="utf-8")
    with zipfile.ZipFile(exported / "report.docx") as archive:
        document = archive.read("word/document.xml").decode()
        assert {"word/header1.xml", "word/footer1.xml"} <= set(archive.namelist())
    for text in (page, re.sub(r"</w:t></w:r><w:r>(<w:rPr>.*?</w:rPr>)?<w:t[^>]*>", "", document)):
        assert "Costs $5 and $6, written by @ada" in re.sub(r"\s+", " ", text)
        assert "LAST" in text
        assert "not for readers" not in text
    assert 'w:val="Heading1"' in document
    assert 'w:val="TableCaption"' in document
    assert "<w:drawing>" in document
    assert "Left box" in page
    assert "foreignObject" not in page
    assert "<title>The Report of A &amp; B" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "<script" not in page
    assert 'href="report.pdf"' in (exported / "index.html").read_text(encoding="utf-8")
    assert (exported / "report.pdf").read_bytes().startswith(b"%PDF-")


def test_the_pdf_has_contents_and_the_text_of_its_figures(exported: Path) -> None:
    text = words_of(exported / "report.pdf")
    for expected in ("Contents", "First", "Left box", "Right box", "an arrow", "LAST", "@ada", "How it flows"):
        assert expected in text
    assert re.search(r"\b2\s*/\s*3\b", text)


def test_a_second_export_gives_the_same_bytes(exported: Path, project: Settings) -> None:
    before = {path.name: path.read_bytes() for path in exported.glob("report.[ph]*")}
    export(project, ("html", "pdf"), exported, lambda _: None)
    assert {path.name: path.read_bytes() for path in exported.glob("report.[ph]*")} == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# T\n\n![picture](gone.png)\n", r"report\.md:3: there is no image gone\.png"),
        ("# T\n\n## S\n\n```mermaid\nflowchart sideways\n((\n```\n", r"report\.md:5: the diagram cannot be drawn"),
    ],
)
def test_what_cannot_be_exported_is_named_and_nothing_is_written(project: Settings, text: str, words: str) -> None:
    (project.path(project.documents.folder) / "report.md").write_text(text, encoding="utf-8")
    with pytest.raises(ProjectError, match=words):
        export(project, ("html",), project.path("out"), lambda _: None)
    assert not project.path("out").exists()


def test_no_document_at_all(settings: Settings) -> None:
    with pytest.raises(ProjectError, match="no Markdown document"):
        export(settings, ("html",), settings.path("out"), lambda _: None)


def test_pages_serve_the_exports_and_nothing_else(project: Settings) -> None:
    application = FastAPI()
    application.include_router(pages.router(project))
    client, output = TestClient(application), project.path(project.documents.output)
    assert "documents export" in client.get("/documents/").text
    assert client.get("/documents/report.html").status_code == 404
    output.mkdir(parents=True)
    (output / "index.html").write_text(
        "<style>p { margin: 0 }</style><p style='color: &quot;red&quot;'>the list</p><hr style>", encoding="utf-8"
    )
    (output / "report.pdf").write_bytes(b"%PDF-")
    (output / "notes.txt").write_text("not a document")
    assert client.get("/documents").url.path == "/documents/"
    answer = client.get("/documents/")
    assert "the list" in answer.text
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    sheet, nothing, red = (
        f"'sha256-{b64encode(sha256(style).digest()).decode()}'" for style in (b"p { margin: 0 }", b"", b'color: "red"')
    )
    assert policy["style-src-elem"] == sheet
    assert policy["style-src-attr"] == f"'unsafe-hashes' {nothing} {red}"
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert client.get("/documents/report.pdf").headers["content-type"] == "application/pdf"
    for path in ("notes.txt", "..%2Fconfig%2Fsettings.toml", "%2e%2e/settings.toml", ".hidden", "figures"):
        assert client.get(f"/documents/{path}").status_code == 404


def test_the_commands_refresh_and_check(champion: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_root(Path(__file__)) / champion.documents.folder
    monkeypatch.delenv(f"{PREFIX}PROJECT__LANGUAGE")  # these are the project's own documents, in its own language
    folder = champion.path(champion.documents.folder)
    folder.mkdir(parents=True)
    for path in source.glob("*.md"):
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(champion.root)
    runner = CliRunner()
    assert runner.invoke(app, ["refresh"]).exit_code == 0
    again = runner.invoke(app, ["refresh"])
    assert "refreshed" not in again.output
    assert runner.invoke(app, ["check"]).exit_code == 0
    report = folder / "final-model-report.md"
    report.write_text(
        report.read_text(encoding="utf-8").replace("| RMSE |", "| rmse |").replace("| REQM |", "| reqm |"),
        encoding="utf-8",
    )
    wrong = runner.invoke(app, ["check"])
    assert wrong.exit_code == 1
    assert re.search(r"final-model-report\.md:\d+: the fact model\.metrics was edited by hand", wrong.output)
