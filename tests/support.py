"""What tests of the template share: a copy of the work tree, renders by each engine, programs that may be missing."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "{{cookiecutter.project_slug}}"
VARIABLES = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
DEFAULTS = {
    name: value[0] if isinstance(value, list) else value for name, value in VARIABLES.items() if name[0] != "_"
} | {"project_slug": "bike-demand", "package_name": "bike_demand"}
CHOICES = {name: value for name, value in VARIABLES.items() if isinstance(value, list)}


def needs(*programs: str) -> None:
    """Skip the test when a program is missing; on continuous integration (CI is set), fail."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        reason = f"needs {', '.join(missing)}: .ci/run says which package has it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def needs_module(python: Path, *modules: str) -> None:
    """Skip the test when an environment lacks a module; on continuous integration (CI is set), fail."""
    found = "import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)"
    missing = [name for name in modules if subprocess.run([python, "-c", found, name]).returncode]
    if missing:
        reason = f"needs {', '.join(missing)} in {python.parents[1]}: .ci/run says how to get it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def git(folder: Path, *arguments: str) -> str:
    """Run git in `folder`; return what it prints."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def copy_work_tree(target: Path) -> Path:
    """Copy the files of the work tree, committed or not, but nothing that git ignores; return `target`."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def commit(folder: Path, message: str, tag: str = "") -> None:
    """Commit everything in `folder`, which becomes a repository when it is not one; tag it."""
    if not (folder / ".git").is_dir():
        git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    if tag:
        git(folder, "tag", tag)


def by_cookiecutter(template: Path, answers: dict[str, str], folder: Path) -> Path:
    """Render with cookiecutter into `folder`; return the project's path."""
    from cookiecutter.main import cookiecutter

    made = cookiecutter(str(template), no_input=True, extra_context=answers, output_dir=str(folder))
    return Path(made)


def by_copier(template: Path, answers: dict[str, str], folder: Path) -> Path:
    """Render with copier, without trust, into `folder`; return the project's path."""
    from copier import run_copy

    with run_copy(str(template), folder / "project", data=answers, defaults=True, unsafe=False, quiet=True) as worker:
        slug = worker.answers.combined["project_slug"]
    return (folder / "project").rename(folder / slug)


def by_cruft(template: Path, answers: dict[str, str], folder: Path) -> Path:
    """Render with cruft into `folder`; return the project's path. The template has to be a git repository."""
    import cruft

    return Path(cruft.create(str(template), output_dir=folder, extra_context=answers, no_input=True))


ENGINES = {"cookiecutter": by_cookiecutter, "copier": by_copier, "cruft": by_cruft}


def snapshot(project: Path) -> dict[str, tuple[int, bytes]]:
    """Return path -> (mode, bytes) of a project's files and folders, without what only one engine writes.

    That is cruft's own file, and in the answers file the two lines that say where the project came from.
    """
    seen: dict[str, tuple[int, bytes]] = {}
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project).as_posix()
        if name == ".cruft.json" or name.split("/")[0] == ".git":
            continue
        content = b"" if path.is_dir() else path.read_bytes()
        if name == ".copier-answers.yml":
            lines = content.splitlines(keepends=True)
            content = b"".join(line for line in lines if not line.startswith((b"_commit:", b"_src_path:")))
        seen[name] = (path.stat().st_mode & 0o777, content)
    return seen


def run_tool(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the template's tools (`cookiecutter`, `copier`, `cruft`) as a person would."""
    tool = Path(sys.executable).with_name(name)
    environment = os.environ | {"PWD": str(cwd)}
    return subprocess.run(
        [str(tool), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
