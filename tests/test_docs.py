"""What the documentation tells people to type is typed here, in order, inside a fresh project."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from support import ROOT, needs

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WAIT = """
for i in $(seq 600); do curl --fail --silent http://127.0.0.1:8000/health/ready && break; sleep 0.1; done
"""


def script(page: Path) -> str:
    """Return all blocks of a page as one shell script; a command that serves goes to the background."""
    parts = ["set -euxo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            parts.append(f"python - <<'END'\n{text}END\n")
        elif language == "sh":
            parts.append(re.sub(r"^your-project serve$", r"your-project serve &" + WAIT, text, flags=re.MULTILINE))
    return "\n".join(parts)


@pytest.fixture
def typed(default_project, environment, tmp_path):
    """Return what types a page's commands inside a fresh project, and gives what they said."""
    project = Path(shutil.copytree(default_project, tmp_path / "project"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, command in {"your-project": "-m bike_demand", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{environment}" {command} "$@"\n')
        (programs / name).chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    variables = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "BIKE_DEMAND_SERVING__PORT": port,
    }

    def type_in(page: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script(ROOT / "docs" / page).replace("8000", port)],
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
    said = typed("bring-your-own-model.md")
    for told in ("Strength of parts", '"prediction":', "champion", "rollback", "only to show it"):
        assert told in said, f"{told!r} is not in:\n{said}"


@pytest.mark.slow
def test_data_pipeline(typed):
    needs("bash")
    said = typed("data-pipeline.md")
    for told in (
        "2,000 rows in = 1,960 published + 40 quarantined",
        "already published",
        "nothing to resume",
        "40 rows in = 40 published + 0 quarantined",
        "transform",
    ):
        assert told in said, f"{told!r} is not in:\n{said}"
