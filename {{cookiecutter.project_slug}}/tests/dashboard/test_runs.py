"""The page of a batch run: what it did, what to do next, and nothing that is not so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from project.settings import Settings

from .conftest import Log
from .test_pages import Page, client

STEPS: dict[str, Any] = {
    "steps": [
        {"step": step, "rows_in": 100, "rows_out": out, "rejected": 100 - out, "seconds": seconds, "bytes": size}
        for step, out, seconds, size in (
            *(("ingest", 100, 0.1, 2_500_000), ("validate", 93, 0.2, None)),
            *(("score", 93, 0.5, None), ("publish", 93, 0.2, 1_500_000)),
        )
    ],
    "monitor": {
        "state": "alert",
        "checks": 13,
        "rows": 93,
        "found": [
            {"kind": "drift", "subject": name, "detail": "PSI 0.3", "value": 0.3, "state": "alert"} for name in "abcd"
        ],
    },
    "memory_mb": 210.4,
    "engine": "local",
    "workers": 2,
}


STEPS["steps"][0]["resident_mb"] = 199.5


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings)


def page(settings: Settings, path: str, status: int = 200) -> tuple[str, str]:
    """Return a page, and its words alone."""
    with client(settings) as http:
        answer = http.get(path)
    assert answer.status_code == status
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    seen = Page(answer.text)
    assert seen.inline == []  # the policy would refuse it
    assert not [address for address in seen.addresses if "//" in address]
    return answer.text, " ".join(re.sub(r"<[^>]+>", " ", answer.text).split())


def published(folder: Path, files: int = 2) -> None:
    """Write the files of a run, and its manifest."""
    entries: list[dict[str, Any]] = []
    (folder / "predictions").mkdir(parents=True)
    for number in range(files):
        entries.append({"path": f"predictions/predictions-{number:05d}.parquet", "rows": 50, "bytes": 1_000_000})
        (folder / entries[-1]["path"]).write_text("x")
    (folder / "manifest.json").write_text(json.dumps({"files": entries}))


def test_a_run_that_succeeded(log: Log, settings: Settings, tmp_path: Path) -> None:
    log.run(1, steps=json.dumps(STEPS), output=str(tmp_path))
    published(tmp_path / "r1")
    text, words = page(settings, "/status/runs/r1")
    assert "Rows in 100 published + quarantined Published 93 with a prediction Quarantined 7 7.0%" in words
    assert "validate 100 93 7 - - 500 0.20" in words  # it ran before memory was recorded
    assert "ingest 100 100 0 2.5 199.5 1,000 0.10" in words
    assert "alert: 13 checks over 93 rows, 4 found something: drift of a (PSI 0.3);" in words
    assert "drift of c (PSI 0.3); and 1 more" in words
    assert re.findall(r'<rect width="([\d.]+)" height="10"/></svg>', text) == ["10.0", "20.0", "50.0", "20.0"]
    assert "local, 2 workers" in words
    assert "staff: type 7" in words
    assert "2 files, 2.0 MB" in words
    assert "gone" not in words
    assert "pipeline resubmit r1 --input bad.csv</code>" in text


def test_files_that_are_gone_are_said(log: Log, settings: Settings, tmp_path: Path) -> None:
    log.run(1, steps=json.dumps(STEPS), output=str(tmp_path))
    published(tmp_path / "r1", files=60)
    (tmp_path / "r1/predictions/predictions-00004.parquet").unlink()
    _, words = page(settings, "/status/runs/r1")
    assert "60 files, 60.0 MB" in words
    assert "the first 50" in words
    assert re.findall(r"(\S+)\.parquet gone", words) == ["predictions/predictions-00004"]
    (tmp_path / "r1/manifest.json").unlink()
    _, words = page(settings, "/status/runs/r1")
    assert "the files are gone, or on another machine" in words


def test_a_run_from_before_steps_were_recorded(log: Log, settings: Settings) -> None:
    log.run(1)
    assert "It ran before steps were recorded." in page(settings, "/status/runs/r1")[1]


def test_a_run_that_failed_says_what_to_do(log: Log, settings: Settings, tmp_path: Path) -> None:
    log.run(1, "failed", error="the disk is <b>full</b>", output=str(tmp_path))
    text, words = page(settings, "/status/runs/r1")
    assert "The disk is &lt;b&gt;full&lt;/b&gt;. Mend it, then start it again:" in text
    assert "93 not published" in words
    assert 'class="figures sum"' not in text
    (tmp_path / ".r1.partial").mkdir()
    (tmp_path / ".r1.partial/request.json").write_text("{}")
    assert "pipeline resume</code> goes on" in page(settings, "/status/runs/r1")[0]


def test_a_run_at_work_is_followed(log: Log, settings: Settings) -> None:
    log.run(1, "running", rows_in=0, rows_quarantined=0, seconds=None)
    text, words = page(settings, "/status/runs/r1")
    assert "It is at work." in words
    assert "None" not in words
    source = re.findall(r'data-source="([^"]+)"', text)
    assert source == ["r1/data.json"]
    log.run(2, "running", hours=30)
    assert "It has not ended for 24 hours." in page(settings, "/status/runs/r2")[1]
    with client(settings) as http:
        told = http.get("/status/runs/r1/data.json").json()
        assert {f'id="{name}"' in text for name in told["parts"]} == {True}
        assert told["status"]["run"]["id"] == "r1"
        assert http.get("/status/runs/zz/data.json").status_code == 404


def test_a_run_that_is_not_known(log: Log, settings: Settings) -> None:
    text, words = page(settings, "/status/runs/%3Cb%3E", status=404)
    assert "No such batch run" in words
    assert "&lt;b&gt;" in text


def test_the_store_is_away(settings: Settings) -> None:
    settings.path("data/store.db").mkdir(parents=True)
    assert "cannot be used" in page(settings, "/status/runs/r1", status=503)[1]


def test_the_status_page_leads_to_it(log: Log, settings: Settings) -> None:
    log.run(1)
    with client(settings) as http:
        seen = Page(http.get("/status").text)
        (address,) = [address for address in seen.addresses if "runs/" in address]
        answer = http.get(f"/{address}")
        assert answer.status_code == 200
        for address in Page(answer.text).addresses:
            if "static" in address:
                assert http.get(str(answer.url.join(address))).status_code == 200
