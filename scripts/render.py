"""Render the template into a folder, and again over what is already there.

The first time the folder is simply made. Later only files whose bytes differ are written, and files that the template
no longer has are removed, so that the project keeps its environment, its data and its running service. `make demo` and
`make try` call this; people who make a project call cookiecutter, copier or cruft themselves.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cookiecutter.exceptions import CookiecutterException
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parents[1]


def clean_copy(target: Path) -> Path:
    """Copy the work tree's files, committed or not, without what git ignores (caches, say); return `target`."""
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


def fresh_render(answers: dict[str, str], folder: Path) -> Path:
    """Render the work tree with `answers` into the empty `folder`; return the project's path there."""
    settings = folder / "cookiecutter.yaml"
    settings.write_text(
        f"cookiecutters_dir: {json.dumps(str(folder / 'cache'))}\nreplay_dir: {json.dumps(str(folder / 'replay'))}\n"
    )
    template = clean_copy(folder / "template")
    out = str(folder / "out")
    made = Path(
        cookiecutter(str(template), no_input=True, extra_context=answers, output_dir=out, config_file=str(settings))
    )
    noted = made / ".copier-answers.yml"
    noted.write_text(noted.read_text(encoding="utf-8").replace(str(template.resolve()), str(ROOT)), encoding="utf-8")
    return made


def relative_files(folder: Path) -> set[str]:
    """Return the paths of all files below `folder`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def lay_over(source: Path, target: Path, record: Path) -> int:
    """Make the rendered files of `target` equal to those of `source`; return how many changed.

    Args:
        source: a fresh render.
        target: the project; made when it is not there.
        record: a file that remembers what the template put into `target`: that tells removed files from a team's own.
    """
    files = relative_files(source)
    before = set(json.loads(record.read_text())) if record.is_file() and target.is_dir() else set()
    changed = 0
    for name in sorted(before - files):
        (target / name).unlink(missing_ok=True)
        changed += 1
    for name in sorted(files):
        new, old = source / name, target / name
        if old.is_file() and old.read_bytes() == new.read_bytes() and old.stat().st_mode == new.stat().st_mode:
            continue
        old.parent.mkdir(parents=True, exist_ok=True)
        part = old.with_name(f"{old.name}.part")
        shutil.copy(new, part)
        os.replace(part, old)
        changed += 1
    record.write_text(json.dumps(sorted(files), indent=0))
    return changed


def main() -> int:
    """Render; return the exit code."""
    parser = argparse.ArgumentParser(description="Render the template, or bring a rendered project up to date.")
    parser.add_argument("folder", type=Path, help="where the project's folder is, or is to be")
    parser.add_argument("answers", nargs="*", help="answers that differ from the default, as name=value")
    given = parser.parse_args()
    answers = dict(answer.partition("=")[::2] for answer in given.answers)
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            made = fresh_render(answers, Path(temporary))
        except (CookiecutterException, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        changed = lay_over(made, given.folder / made.name, given.folder / f".{made.name}.rendered.json")
    print(f"{given.folder / made.name}: {changed} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
