"""What the documentation tells people to type is typed here, in order, inside a fresh project."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from support import ROOT, free_port, needs

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = re.compile(r"^([\w-]+ serve)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]*)(#[^)]+)?\)")
WAIT = """
for i in $(seq 600); do curl --fail --silent http://127.0.0.1:8000/health/ready && break; sleep 0.1; done
"""
CHAMPION = """
bike-demand example train
version=$(bike-demand model import data/example/model.skops --sample data/example/sample.csv --target rentals \\
    --signature data/example/signature.json | tail -1)
bike-demand model promote $version
"""


def script(page: Path, before: str) -> str:
    """Return all blocks of a page as one shell script; a command that serves goes to the background."""
    parts = ["set -euxo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT", before]
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            parts.append(f"python - <<'END'\n{text}END\n")
        elif language == "sh":
            parts.append(SERVE.sub(r"\1 &" + WAIT, text))
    return "\n".join(parts)


@pytest.fixture
def typed(default_project, environment, tmp_path):
    """Return what types a page's commands inside a fresh project, and gives what they said."""
    project = Path(shutil.copytree(default_project, tmp_path / "project"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, command in {"your-project": "-m bike_demand", "bike-demand": "-m bike_demand", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{environment}" {command} "$@"\n')
        (programs / name).chmod(0o755)
    port = str(free_port())
    variables = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "BIKE_DEMAND_SERVING__PORT": port,
    }

    def type_in(page: Path, before: str = "") -> str:
        done = subprocess.run(
            ["bash", "-c", script(page, before).replace("8000", port)],
            cwd=project,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return type_in


@pytest.mark.slow
def test_bring_your_own_model(typed):
    needs("bash", "curl")
    said = typed(ROOT / "docs/bring-your-own-model.md")
    for told in ("Strength of parts", '"prediction":', "champion", "rollback", "only to show it"):
        assert told in said, f"{told!r} is not in:\n{said}"


@pytest.mark.slow
def test_data_pipeline(typed):
    needs("bash")
    said = typed(ROOT / "docs/data-pipeline.md")
    for told in (
        "2,000 rows in = 1,960 published + 40 quarantined",
        "already published",
        "nothing to resume",
        "40 rows in = 40 published + 0 quarantined",
        "transform",
    ):
        assert told in said, f"{told!r} is not in:\n{said}"


@pytest.mark.slow
def test_api(typed, default_project):
    needs("bash", "curl", "gzip")
    said = typed(default_project / "docs/api.md", CHAMPION)
    assert re.findall(r'"code":"([\w-]+)"', said) == ["signature"]
    for told in (
        '"prediction":',
        "id,prediction",
        '"contributions":',
        '"accepted":2,"unknown":[]',
        '"next":"',
        '"model_name":"bike-demand"',
        '"ids":[',
        "http_requests_total{",
        "website",
        "is revoked",
    ):
        assert told in said, f"{told!r} is not in:\n{said}"


def test_the_api_page_names_settings_as_they_are(default_project, environment):
    page = (default_project / "docs/api.md").read_text(encoding="utf-8")
    ask = "from bike_demand.settings import Serving as S; import sys; print(S.model_validate_json(sys.argv[1]).json())"

    def serving(values: dict) -> dict:
        variables = os.environ | {"PYTHONPATH": str(default_project / "src")}
        done = subprocess.run(
            [environment, "-W", "ignore", "-c", ask, json.dumps(values)], env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    defaults = serving({})
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE))
    assert len(told) > 5
    assert {name: float(value) for name, value in told.items()} == {name: defaults.get(name) for name in told}
    assert set(re.findall(r"`serving\.(\w+)", page)) <= defaults.keys()
    for language, text in BLOCK.findall(page):
        if language == "toml":
            serving(tomllib.loads(text)["serving"])


def test_the_api_page_lists_every_code(default_project):
    """A tensor's is left out: protocols with an error form of their own have no place for a code."""
    page = (default_project / "docs/api.md").read_text(encoding="utf-8")
    told = {
        (status, code)
        for statuses, codes in re.findall(r"^\| (\d{3}(?:, \d{3})*) \| (`.*?) \|", page, re.MULTILINE)
        for status in statuses.split(", ")
        for code in re.findall(r"`([\w-]+)`", codes)
    }
    made = {
        found
        for path in (default_project / "src/bike_demand/serving").rglob("*.py")
        for found in re.findall(r'problem\(\s*(\d{3}),\s*"([\w-]+)"', path.read_text(encoding="utf-8"))
    }
    assert told == made - {("422", "tensor")}


@pytest.mark.parametrize("mode", ["both", "real-time", "batch"])
def test_pages_link_to_what_is_there(render, mode):
    project = render({"prediction_mode": mode})
    for page in project.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for file, place in LINK.findall(text):
            target = page.parent / file if file else page
            assert target.exists(), f"{page.relative_to(project)} links to {file}"
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if place else []
            anchors = {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert not place or place in anchors, f"{page.relative_to(project)} links to {place}"
