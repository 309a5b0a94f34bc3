"""The served OpenAPI document holds: schemathesis sends what it allows and what it forbids, and reads the answers.

`API_EXAMPLES` says how many requests it makes up for an operation, beside those at the limits of the schemas. The long
run, with more than 10,000: ``API_EXAMPLES=1000 build/tools/bin/python -m pytest -s tests/test_api.py``.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from support import ROOT
from test_projects import run
from test_real_models import service

EXAMPLES = int(os.environ.get("API_EXAMPLES", "10"))
SEED = 1
FORM = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
# What the schema allows may be refused: it cannot say which cursor, CSV or tensors are good.
CHECKS = (*FORM, "negative_data_rejection", "unsupported_method", "allow_header_conformance", "missing_required_header")
ACCEPTANCE = ("positive_data_acceptance", "negative_data_rejection")  # what must be the answer to good and bad requests
# Parts of addresses are mostly those in service, so that what is behind them is reached; 413 is a refusal too.
CONFIG = """
hooks = "hooks.py"
[dictionaries]
model.values = ["bike-demand"]
version.values = ["VERSION"]
[parameters]
"path.model" = { dictionary = "model", probability = 0.9 }
"path.version" = { dictionary = "version", probability = 0.9 }
[cache]
enabled = false
[checks]
positive_data_acceptance.expected-statuses = ["401"]
negative_data_rejection.expected-statuses = ["REFUSALS"]
"""

# An empty text, object or list is written into an address just as a value that is missing, which may be allowed.
HOOKS = """
import schemathesis

@schemathesis.hook
def filter_query(context, query):
    return all(value not in ("", {}, []) for value in (query or {}).values())
"""


@pytest.fixture(scope="module")
def project(team, default_project, tmp_path_factory):
    """Return a project with a champion."""
    project = Path(shutil.copytree(default_project, tmp_path_factory.mktemp("api") / "project"))
    tool(team, project, "example train --rows 2000")
    source = "model import data/example/model.skops --sample data/example/sample.csv --target rentals"
    version = tool(team, project, source).split()[-1]
    tool(team, project, f"model promote {version}")
    return project


def tool(python: Path, project: Path, words: str) -> str:
    done = run(project, python, "bike_demand", *words.split())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contract(connection: http.client.HTTPConnection, **headers: str) -> dict:
    connection.request("GET", "/openapi.json", headers=headers)
    found = json.loads(connection.getresponse().read())
    connection.close()
    return found


class Caller:
    """Runs schemathesis as a person would, over a contract that a service gave."""

    def __init__(self, python: Path, folder: Path, port: int, contract: dict) -> None:
        self.folder = folder
        (folder / "openapi.json").write_text(json.dumps(contract))
        (folder / "hooks.py").write_text(HOOKS)
        self.version = contract["info"]["version"]
        self.command = [python.with_name("schemathesis"), "--config-file=schemathesis.toml", "run", "openapi.json"]
        self.command += [f"--url=http://127.0.0.1:{port}", f"--seed={SEED}", "--generation-database=none"]
        self.command += ["--request-timeout=60", "--continue-on-failure", "--no-color"]
        self.command += ["--report=json", "--report-json-path=report.json"]

    def run(self, phases: str, checks: Iterable[str], examples: int, *options: str, refusals: str = "4xx") -> dict:
        """Return its report once it has found nothing."""
        config = CONFIG.replace("VERSION", self.version).replace("REFUSALS", refusals)
        (self.folder / "schemathesis.toml").write_text(config)
        chosen = [f"--phases={phases}", f"--checks={','.join(checks)}", f"--max-examples={examples}", *options]
        done = subprocess.run([*self.command, *chosen], cwd=self.folder, capture_output=True, text=True, stdin=-3)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        found = json.loads((self.folder / "report.json").read_text())
        assert (found["complete"], found["failures"], found["errors"]) == (True, [], [])
        assert found["operations"]["tested"] == found["operations"]["selected"] > 0
        print(f"{phases}: {found['test_cases']['generated']} requests in {found['running_time']:.0f} s")
        return found


@pytest.mark.slow
def test_every_answer_is_as_documented(team, project, tmp_path):
    with service(project, team) as connection:
        caller = Caller(team, tmp_path, connection.port, contract(connection))
        found = caller.run("examples,coverage,fuzzing", CHECKS, EXAMPLES)
    assert found["operations"]["tested"] == found["operations"]["total"]
    assert {"POST /v1/predict", "POST /v2/models/{model}/infer", "POST /invocations"} <= set(found["valid_rates"])
    for operation, phases in found["valid_rates"].items():
        assert sum(phase["accepted"] for phase in phases.values()), f"{operation} refuses everything"


@pytest.mark.slow
def test_with_a_key_every_answer_is_as_documented_and_without_it_is_401(team, project, tmp_path):
    closed = Path(shutil.copytree(project, tmp_path / "project"))
    key = {"Authorization": f"Bearer {tool(team, closed, 'key create tests --scope admin').strip()}"}
    few = EXAMPLES // 5
    with service(closed, team) as connection:
        described = contract(connection, **key)
        caller = Caller(team, tmp_path, connection.port, described)
        caller.run("examples,fuzzing", (*CHECKS, "ignored_auth"), few, f"--header=Authorization:{key['Authorization']}")
        operations = [one for methods in described["paths"].values() for one in methods.values()]
        names = [one["operationId"] for one in operations if one.get("security") != []]
        assert {"predict", "explain", "infer", "invocations", "metrics"} <= set(names)
        chosen = [f"--include-operation-id={name}" for name in names]
        caller.run("examples,fuzzing", (*FORM, *ACCEPTANCE), few, *chosen, refusals="401")


@pytest.mark.slow
def test_mixed_traffic_loses_nothing_while_the_champion_changes(team, project, tmp_path):
    copy = Path(shutil.copytree(project, tmp_path / "project"))
    command = [sys.executable, ROOT / "benchmarks/soak.py", "--minutes", "0.2", "--swap", "0.05"]
    done = subprocess.run([*command, "--python", team, "--project", copy], capture_output=True, text=True, stdin=-3)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = {name: float(count) for name, count in re.findall(r"  (\D+?) (\d+)", done.stdout.splitlines()[-1])}
    assert counted["requests"] > 500
    assert counted["predictions"] > 1000
    assert counted["swaps"] >= 2
    assert (counted["failed"], counted["lost"], counted["logged without an answer"]) == (0, 0, 0)
