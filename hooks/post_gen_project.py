"""Remove what the answers leave out, note where the project came from, say what to do next.

Cookiecutter (and cruft, which calls it) fills in the braces, then runs this file inside the new project. Copier does not
run it: there the same paths are excluded, and copier writes the answers file itself. Nothing here needs a network.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Path -> "True" when the answers leave it out (`__skip` of cookiecutter.json).
SKIP: dict[str, str] = json.loads({{ cookiecutter.__skip | tojson | tojson }})
TEMPLATE: str = {{ cookiecutter._template | default('') | tojson }}
CHECKOUT: str = {{ cookiecutter._repo_dir | default('') | tojson }}
COMMIT: str = {{ cookiecutter._commit | default('') | tojson }}
TITLE: str = {{ cookiecutter.project_name | tojson }}
ANSWERS = Path(".copier-answers.yml")
# What tools leave behind in a work tree that somebody develops the template in.
CACHES = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")


def remove_left_out(project: Path) -> None:
    """Delete each path that the answers leave out, and each folder that this empties."""
    for name, left_out in SKIP.items():
        if left_out != "True":
            continue
        target = project / name
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
        else:
            continue
        for folder in target.parents:
            if folder == project or any(folder.iterdir()):
                break
            folder.rmdir()


def remove_caches(project: Path) -> None:
    """Delete caches that were rendered with the template."""
    for name in CACHES:
        for folder in list(project.rglob(name)):
            shutil.rmtree(folder, ignore_errors=True)


def started_in() -> Path:
    """Return the folder in which the command was typed: relative paths of the template start there."""
    return Path(os.environ.get("PWD") or ".")


def template_version() -> str:
    """Return the template's version, in git's words; an empty text when it is not known.

    Cruft hands the commit over. For cookiecutter, git is asked about the copy that was rendered.
    """
    if COMMIT or not CHECKOUT:
        return COMMIT
    checkout = started_in() / CHECKOUT
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "describe", "--tags", "--always"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def note_origin(answers: Path) -> None:
    """Fill the origin in the answers file, so that `copier update` works on a project that copier did not make."""
    version = template_version()
    local = started_in() / TEMPLATE
    source = str(local.resolve()) if TEMPLATE and (local / "cookiecutter.json").is_file() else TEMPLATE
    lines = answers.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("_commit:", "_src_path:"))]
    origin = [f"_commit: {json.dumps(version)}\n"] if version else []
    origin.append(f"_src_path: {json.dumps(source, ensure_ascii=False)}\n")
    at = next(number for number, line in enumerate(kept) if not line.startswith("#"))
    answers.write_text("".join(kept[:at] + origin + kept[at:]), encoding="utf-8", newline="\n")


def main() -> int:
    """Finish the project; return the exit code."""
    project = Path.cwd()
    remove_caches(project)
    remove_left_out(project)
    note_origin(project / ANSWERS)
    print(f"Made {TITLE}. Next:\n  cd {project.name}\n  make demo")
    return 0


if __name__ == "__main__":
    sys.exit(main())
