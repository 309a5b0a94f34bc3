"""Cookiecutter, copier and cruft give the same project, and each brings it up to date with the edits kept."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support import DEFAULTS, ENGINES, TEMPLATE, by_cookiecutter, by_copier, by_cruft, commit, git, run_tool, snapshot

ANSWERS = {
    "default": {},
    "hostile": {
        "project_name": 'Été à l\'"Œuvre": 100 % <b>&amp; `x` #1 $HOME',
        "description": "'Quotes', \"double\", colons: # no comment; - [x] *y* & <tag> $PATH ``` ✓",
        "organization": 'O\'Neil & "Sons": Ünï, S.A.',
        "author": 'Zoë "Z" D\'Árc',
        "email": "zoe.darc+team@sub-domain.example.co",
        "example": "customer-churn",
        "prediction_mode": "batch",
        "deployment_target": "kubernetes",
        "ci_provider": "gitlab",
        "document_language": "fr",
        "license": "BSD-3-Clause",
    },
    "digits": {
        "project_name": "2024",
        "description": "true",
        "author": "null",
        "organization": "1e3",
        "prediction_mode": "real-time",
        "deployment_target": "azure-ml",
        "ci_provider": "azure-devops",
        "license": "Proprietary",
    },
    "keyword": {"project_name": "Class", "ci_provider": "none", "license": "Apache-2.0"},
    "reserved": {"project_name": "con", "description": "- no: list", "organization": "? question"},
    "long": {"project_name": "A very long name " * 5 + "indeed"},
    "no ascii": {"project_name": "需求预测"},
}


@pytest.mark.parametrize("engine", ["copier", "cruft"])
@pytest.mark.parametrize("name", ANSWERS)
def test_every_engine_gives_the_same_bytes_and_modes(render, name, engine):
    expected, got = snapshot(render(ANSWERS[name])), snapshot(render(ANSWERS[name], engine))
    assert got.keys() == expected.keys()
    assert [path for path in expected if got[path] != expected[path]] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_two_renders_are_the_same(render, template, repository, tmp_path, engine):
    again = ENGINES[engine](repository if engine == "cruft" else template, ANSWERS["hostile"], tmp_path)
    assert snapshot(again) == snapshot(render(ANSWERS["hostile"], engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_answers_are_noted(render, engine):
    noted = yaml.safe_load((render(ANSWERS["hostile"], engine) / ".copier-answers.yml").read_text())
    derived = {"project_slug": "ete-a-l-oeuvre-100-b-amp-x-1-home", "package_name": "ete_a_l_oeuvre_100_b_amp_x_1_home"}
    answers = {key: value for key, value in noted.items() if key[0] != "_"}
    assert answers == DEFAULTS | ANSWERS["hostile"] | derived


def test_copier_needs_no_trust(repository, tmp_path):
    done = run_tool("copier", "copy", "--defaults", "--quiet", str(repository), "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load((repository / "copier.yml").read_text())
    assert not {"_tasks", "_migrations", "_jinja_extensions"} & settings.keys()


def test_cookiecutter_says_what_to_do_next(repository, tmp_path):
    done = run_tool("cookiecutter", str(repository), "--no-input", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cd bike-demand\n  make demo" in done.stdout


def test_a_relative_template_is_noted_with_its_whole_path(repository, tmp_path):
    shutil.copytree(repository, tmp_path / "template")
    done = run_tool("cookiecutter", "template", "--no-input", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    noted = yaml.safe_load((tmp_path / "bike-demand/.copier-answers.yml").read_text())
    assert noted["_src_path"] == str(tmp_path / "template")
    assert noted["_commit"] == "v0.1.0"


@pytest.fixture
def moving_template(repository, tmp_path) -> Path:
    """A template of our own with one release."""
    return Path(shutil.copytree(repository, tmp_path / "template"))


def release(template: Path) -> None:
    """Change the template: a line more, a new file, a removed file, a new path to leave out; tag it."""
    project = template / TEMPLATE
    readme = project / "README.md"
    readme.write_text(readme.read_text().replace("## Two commands", "Changed by the template.\n\n## Two commands"))
    (project / "docs/new.md").write_text("New in {{ cookiecutter.project_name }}.\n")
    (project / "docs/unwanted.md").write_text("Only for GitLab.\n")
    (project / ".editorconfig").unlink()
    variables = json.loads((template / "cookiecutter.json").read_text())
    variables["__skip"]["docs/unwanted.md"] = "{{ cookiecutter.ci_provider != 'gitlab' }}"
    (template / "cookiecutter.json").write_text(json.dumps(variables, indent=2, ensure_ascii=False) + "\n")
    done = run_tool("python", str(template / "scripts/sync_copier.py"), cwd=template)
    assert done.returncode == 0, done.stderr
    commit(template, "second", tag="v0.2.0")


def edit(project: Path) -> None:
    """Do what teams do: change the README, change a setting, add a file, delete the example's tests."""
    readme = project / "README.md"
    readme.write_text(readme.read_text() + "\n## Our own part\nKeep me.\n")
    settings = project / "config/settings.toml"
    settings.write_text(settings.read_text() + "\n[serving]\nport = 8123\n")
    (project / "notes.md").write_text("Ours.\n")
    (project / "observability/prometheus/rules_test.yml").unlink()
    commit(project, "our edits")


def expect_updated(project: Path) -> None:
    """Expect what the template changed, and what the team changed."""
    readme = (project / "README.md").read_text()
    assert "Changed by the template." in readme
    assert readme.endswith("## Our own part\nKeep me.\n")
    assert "<<<<<<<" not in readme
    assert "port = 8123" in (project / "config/settings.toml").read_text()
    assert (project / "notes.md").read_text() == "Ours.\n"
    assert (project / "docs/new.md").read_text() == "New in Bike Demand.\n"
    assert not (project / "docs/unwanted.md").exists()
    assert not (project / ".editorconfig").exists()
    assert not (project / "observability/prometheus/rules_test.yml").exists()
    assert not list(project.rglob("*.rej"))


@pytest.mark.parametrize("born_by", [by_copier, by_cookiecutter, by_cruft])
def test_copier_update_keeps_the_edits(moving_template, tmp_path, born_by):
    project = born_by(moving_template, {}, tmp_path / "made")
    commit(project, "as rendered")
    edit(project)
    release(moving_template)
    done = run_tool("copier", "update", "--defaults", "--quiet", cwd=project)
    assert done.returncode == 0, done.stderr
    expect_updated(project)
    noted = yaml.safe_load((project / ".copier-answers.yml").read_text())
    assert noted["_commit"] == "v0.2.0"


def test_cruft_update_keeps_the_edits(moving_template, tmp_path):
    project = by_cruft(moving_template, {}, tmp_path / "made")
    commit(project, "as rendered")
    edit(project)
    release(moving_template)
    done = run_tool("cruft", "update", "--skip-apply-ask", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    expect_updated(project)
    state = json.loads((project / ".cruft.json").read_text())
    assert state["commit"] == git(moving_template, "rev-parse", "HEAD")


def test_an_answer_can_be_changed_by_an_update(moving_template, tmp_path):
    project = by_copier(moving_template, {}, tmp_path / "made")
    commit(project, "as rendered")
    release(moving_template)
    done = run_tool("copier", "update", "--defaults", "--quiet", "--data", "deployment_target=kubernetes", cwd=project)
    assert done.returncode == 0, done.stderr
    assert (project / "deploy/kubernetes/base/kustomization.yaml").is_file()
    assert not (project / "deploy/docker-compose").exists()
