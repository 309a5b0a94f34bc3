"""What the template's files have to be before they are rendered, and what every set of answers has to give."""

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from allpairspy import AllPairs
from support import CHOICES, ROOT, TEMPLATE, VARIABLES, needs, run_tool, snapshot

PAIRS = [dict(zip(CHOICES, values, strict=True)) for values in AllPairs(list(CHOICES.values()))]
# A feature is a file that can be deleted, so every room that is furnished adds some; this stops anything but features.
MOST_FILES = 300
# The two .py in which an answer stands.
BRACES = {"src/{{cookiecutter.package_name}}/__init__.py", "tests/conftest.py"}


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_copier_yml_is_in_step():
    done = run_tool("python", "scripts/sync_copier.py", "--check", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_python_file_parses_before_it_is_rendered(template):
    for path in [*files_of(template / TEMPLATE), *files_of(template / "hooks")]:
        if path.suffix == ".py":
            ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_no_python_file_has_a_control_tag(template):
    project = template / TEMPLATE
    for path in files_of(project):
        if path.suffix != ".py":
            continue
        text, name = path.read_text(encoding="utf-8"), path.relative_to(project).as_posix()
        assert not re.search(r"\{[%#]", text), f"{name} has a control tag"
        if name not in BRACES:
            assert not re.search(r"\{\{", text), f"{name} has a pair of braces, which the engines would render"


def test_prompts_are_complete():
    prompts = VARIABLES["__prompts__"]
    assert prompts.keys() == {name for name in VARIABLES if name[0] != "_"}
    for name, choices in CHOICES.items():
        assert prompts[name].keys() == {"__prompt__", *choices}


def test_the_default_project_is_small_enough(default_project):
    assert len(files_of(default_project)) <= MOST_FILES


def test_left_out_paths_exist_for_the_other_answer(template):
    """A path of `__skip` that is nowhere in the template is a spelling mistake."""
    project = template / TEMPLATE
    stands_for = {"docs/_en": "docs/{{cookiecutter.__english}}", "docs/_fr": "docs/{{cookiecutter.__french}}"}
    for path in VARIABLES["__skip"]:
        name = stands_for.get(path, path).replace("{{ cookiecutter.package_name }}", "{{cookiecutter.package_name}}")
        assert (project / name).exists(), f"{path} of __skip is not in the template"


@pytest.mark.parametrize("lock", ["requirements.lock", f"{TEMPLATE}/requirements.lock"])
def test_locks_are_hashed_and_name_no_registry(template, lock):
    text = (template / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[\w.-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def expect_clean(project: Path, answers: dict[str, str]) -> None:
    """Expect a project whose files can be read, and that shows nothing of the template."""
    files = files_of(project)
    for path in files:
        name = path.relative_to(project).as_posix()
        text = path.read_text(encoding="utf-8")
        assert "cookiecutter" not in text.replace(str(project.parent), ""), f"{name} speaks of the template"
        assert "{%" not in text, f"{name} has a control tag left"
        assert "{{" not in text.replace("${{", ""), f"{name} has braces left"
        assert "\r" not in text, f"{name} has carriage returns"
        assert not text.endswith("\n\n"), f"{name} ends with an empty line"
        if path.suffix == ".py":
            compile(text, name, "exec")
        elif path.suffix in (".yml", ".yaml"):
            assert list(yaml.safe_load_all(text)), name
        elif path.suffix == ".toml":
            tomllib.loads(text)
        elif path.suffix == ".json":
            json.loads(text)
    empty = [path for path in project.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert empty == []
    names = {path.relative_to(project).as_posix() for path in files}
    tops = {name.split("/")[0] for name in names}
    timer = {"systemd"} if answers["prediction_mode"] != "real-time" else set()
    deployed = {name.split("/")[1] for name in names if name.startswith("deploy/")}
    assert deployed == {answers["deployment_target"]} | timer
    assert (".github" in tops) == (answers["ci_provider"] == "github")
    assert ("azure-pipelines.yml" in tops) == (answers["ci_provider"] == "azure-devops")
    assert (".gitlab-ci.yml" in tops) == (answers["ci_provider"] == "gitlab")
    assert not any(name.startswith(("docs/_en", "docs/_fr")) for name in names)
    readme = (project / "README.md").read_text()
    if answers["prediction_mode"] == "real-time":
        assert "batch" not in readme.lower()
    if answers["prediction_mode"] == "batch":
        assert "/v1/predict" not in readme


@pytest.mark.slow
@pytest.mark.parametrize("answers", PAIRS, ids=lambda answers: "+".join(answers.values()))
def test_every_pair_of_answers_renders_alike_and_clean(render, answers):
    project = render(answers)
    expect_clean(project, answers)
    assert snapshot(render(answers, "copier")) == snapshot(project)


def test_manifests_name_files_that_exist(render):
    project = render({"deployment_target": "kubernetes"})
    for path in (project / "deploy/kubernetes").rglob("kustomization.yaml"):
        for resource in yaml.safe_load(path.read_text())["resources"]:
            assert (path.parent / resource).exists(), f"{path} names {resource}"


def test_alerts_fire_when_they_should(default_project):
    needs("promtool")
    folder = default_project / "observability/prometheus"
    done = subprocess.run(["promtool", "test", "rules", "rules_test.yml"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_help_names_every_target(default_project):
    needs("make")
    shown = subprocess.run(["make", "help"], cwd=default_project, capture_output=True, text=True, check=True).stdout
    for target in ("install", "demo", "test", "check", "serve", "lock", "help"):
        assert f"make {target} " in shown


def test_the_long_run_makes_longer_what_can_be(template, tmp_path):
    needs("make")
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$@"\nenv\n')
    program.chmod(0o755)
    command = ["make", "--silent", "--old-file=environment", "--old-file=team", f"BIN={tmp_path}", "test-all"]
    told = subprocess.run(command, cwd=template, capture_output=True, text=True, check=True).stdout
    assert "-m pytest" in told
    found = set()
    for folder in (template / "tests", template / TEMPLATE / "tests"):
        for path in folder.rglob("*.py"):
            for name, few in re.findall(r'environ\.get\("([A-Z_]+)", "(\d+)"\)', path.read_text(encoding="utf-8")):
                found.add(name)
                assert int(re.search(rf"^{name}=(\d+)$", told, re.MULTILINE)[1]) >= 10 * int(few), name
    assert found == {"KILLS", "API_EXAMPLES"}


def test_pins_of_hooks_follow_the_locks(template):
    for folder in (template, template / TEMPLATE):
        hooks, lock = (folder / ".pre-commit-config.yaml").read_text(), (folder / "requirements.lock").read_text()
        for library, version in re.findall(r"\[(ruff|pyyaml)==([\w.]+)\]", hooks):
            assert f"{library}=={version} " in lock, f"{folder.name}: the hook's {library} is not the lock's"


def test_a_second_render_over_a_project_writes_only_what_changed(tmp_path):
    first = run_tool("python", "scripts/render.py", str(tmp_path), cwd=ROOT)
    assert first.returncode == 0, first.stderr
    project = tmp_path / "bike-demand"
    (project / "data").mkdir()
    (project / "data/kept").write_text("kept")
    (project / "README.md").write_text("changed")
    again = run_tool("python", "scripts/render.py", str(tmp_path), cwd=ROOT)
    assert "1 files written" in again.stdout
    assert (project / "data/kept").read_text() == "kept"
    assert (project / "README.md").read_text() != "changed"
