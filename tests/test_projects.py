"""A project is complete as it is rendered: lint, types, tests, pre-commit and documents pass, whatever the answers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import DEFAULTS, commit, needs
from test_tree import PAIRS

# Between them, every answer to every question.
CHOSEN = {
    "default": {},
    "batch": {
        "example": "customer-churn",
        "prediction_mode": "batch",
        "deployment_target": "kubernetes",
        "ci_provider": "azure-devops",
        "document_language": "fr",
        "license": "Proprietary",
        "project_name": "Départs d'abonnés",
    },
    "real-time": {
        "example": "customer-churn",
        "prediction_mode": "real-time",
        "deployment_target": "azure-ml",
        "ci_provider": "gitlab",
        "license": "BSD-3-Clause",
        "package_name": "churn_service",
    },
}


def run(project: Path, python: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the shared environment inside a project."""
    environment = os.environ | {"PYTHONPATH": str(project / "src")} | variables
    return subprocess.run(
        [python, "-m", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(params=CHOSEN, ids=list(CHOSEN))
def project(request, render, tmp_path):
    return Path(shutil.copytree(render(CHOSEN[request.param]), tmp_path / "project"))


def package_of(project: Path) -> str:
    return next((project / "src").iterdir()).name


def test_every_pair_of_answers_is_linted_and_formatted(render, environment, tmp_path):
    for answers in PAIRS:
        rendered = render(answers)
        for arguments in (["check"], ["format", "--check"]):
            done = run(rendered, environment, "ruff", *arguments, "--no-cache")
            assert done.returncode == 0, f"{answers}\n{done.stdout}{done.stderr}"


def test_types_hold(project, environment):
    done = run(project, environment, "mypy")
    assert done.returncode == 0, done.stdout


def test_its_own_tests_pass(project, request, environment):
    """The default project's tests run with all extras, those of the others with what `make install` gives."""
    variables = {}
    if project.joinpath("src", DEFAULTS["package_name"], "example", "bike_demand.py").is_file():
        environment = request.getfixturevalue("team")
        variables = {f"{DEFAULTS['package_name'].upper()}_TEST_EXTRAS": "1"}
    done = run(project, environment, "pytest", "-q", "-p", "no:cacheprovider", **variables)
    assert done.returncode == 0, done.stdout[-6000:]


def test_its_documents_are_in_order_as_rendered(project, environment):
    done = run(project, environment, package_of(project), "documents", "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_has_help(project, environment):
    package = package_of(project)
    groups = {"model", "example", "monitor", "documents"} | (
        {"pipeline"} if (project / f"src/{package}/pipeline").is_dir() else set()
    )
    singles = {"serve", "status", "doctor", "demo", "key"}
    top = run(project, environment, package, "--help").stdout
    for name in sorted(groups | singles):
        assert f" {name} " in top
        done = run(project, environment, package, name, "--help")
        assert done.returncode == 0, name
        assert "Usage" in done.stdout


def test_deleting_the_example_breaks_nothing(default_project, environment, tmp_path):
    project = Path(shutil.copytree(default_project, tmp_path / "project"))
    package = project / "src" / DEFAULTS["package_name"]
    shutil.rmtree(package / "example")
    shutil.rmtree(project / "tests/example")
    for name in ("example", "demo"):
        (package / f"commands/{name}.py").unlink()
    assert run(project, environment, "mypy").returncode == 0
    for words in (["--help"], ["model", "list"], ["documents", "refresh"], ["documents", "check"]):
        done = run(project, environment, package.name, *words)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pre_commit_passes_as_rendered(default_project, environment, tmp_path):
    needs("git")
    project = Path(shutil.copytree(default_project, tmp_path / "project"))
    commit(project, "born")
    done = run(project, environment, "pre_commit", "run", "--all-files")
    assert done.returncode == 0, done.stdout + done.stderr
