"""Fixtures: an own home, the template as a copy of the work tree, rendered projects, the shared environment."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ENGINES, ROOT, TEMPLATE, commit, copy_work_tree, needs
from transfers import Start

__all__ = ["needs"]

Render = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the engines and git an empty home: no test depends on, or changes, a person's settings."""
    folder = tmp_path_factory.mktemp("home")
    settings = folder / "gitconfig"
    settings.write_text(
        "[user]\n\tname = Tester\n\temail = tester@example.com\n[init]\n\tdefaultBranch = main\n"
        "[commit]\n\tgpgSign = false\n[core]\n\tautocrlf = false\n"
    )
    values = {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "GIT_CONFIG_GLOBAL": str(settings),
        "GIT_CONFIG_NOSYSTEM": "1",
        "COPIER_SETTINGS_PATH": str(folder / "copier.yml"),
    }
    (folder / "copier.yml").write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        for name in ("COOKIECUTTER_CONFIG", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "MAKEFLAGS", "MFLAGS"):
            patch.delenv(name, raising=False)
        patch.setattr("cookiecutter.config.USER_CONFIG_PATH", str(folder / ".cookiecutterrc"))
        patch.setattr(
            "cookiecutter.config.DEFAULT_CONFIG",
            {
                "cookiecutters_dir": str(folder / "cookiecutters"),
                "replay_dir": str(folder / "replay"),
                "default_context": {},
                "abbreviations": {},
            },
        )
        yield folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """Return a copy of the work tree as a plain folder: what is not committed counts."""
    return copy_work_tree(tmp_path_factory.mktemp("plain") / "template")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """Return a copy of the work tree as a git repository with one tag. Do not change it: copy it."""
    folder = copy_work_tree(tmp_path_factory.mktemp("git") / "template")
    commit(folder, "first", tag="v0.1.0")
    return folder


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory, template: Path, repository: Path) -> Render:
    """Return a function `render(answers, engine="cookiecutter")` that gives a project's path.

    The same answers give the same folder for the whole session: copy it before you change it.
    """
    made: dict[str, Path] = {}

    def once(answers: dict[str, str] | None = None, engine: str = "cookiecutter") -> Path:
        key = json.dumps([engine, answers or {}], sort_keys=True)
        if key not in made:
            source = repository if engine == "cruft" else template
            made[key] = ENGINES[engine](source, dict(answers or {}), tmp_path_factory.mktemp(engine))
        return made[key]

    return once


@pytest.fixture(scope="session")
def default_project(render: Render) -> Path:
    """Return the project that the default answers give. Do not change it: copy it."""
    return render({})


@pytest.fixture(scope="session")
def environment() -> Path:
    """Return the python of the one environment that holds the generated project's libraries.

    All rendered projects use it: run them with PYTHONPATH=<project>/src. `make environment` makes it.
    """
    python = ROOT / "build/env/bin/python"
    lock = ROOT / "build/env/requirements.lock"
    if not python.is_file() or lock.read_bytes() != (ROOT / TEMPLATE / "requirements.lock").read_bytes():
        pytest.fail("build/env is missing or out of date: run `make environment`", pytrace=False)
    return Path(os.path.abspath(python))


@pytest.fixture(scope="session")
def team() -> Path:
    """Return the python of an environment with what teams train with and all extras of the project.

    It also has MLflow's server and an S3 server. `make team` makes it.
    """
    python = ROOT / "build/team/bin/python"
    lock = ROOT / "build/team/requirements.lock"
    if not python.is_file() or lock.read_bytes() != (ROOT / "tests/team.lock").read_bytes():
        pytest.fail("build/team is missing or out of date: run `make team`", pytrace=False)
    return Path(os.path.abspath(python))


@pytest.fixture
def start(team: Path, default_project: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a script in the team's environment, in a copy of the project."""
    folder, begun = tmp_path / "project", list[subprocess.Popen[str]]()
    shutil.copytree(default_project, folder)

    def once(script: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(folder / "src"), **variables}
        begun.append(
            subprocess.Popen(
                [team, "-c", script, *map(str, arguments)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return begun[-1]

    yield once
    for one in begun:
        if one.poll() is None:
            one.kill()
        one.communicate()
