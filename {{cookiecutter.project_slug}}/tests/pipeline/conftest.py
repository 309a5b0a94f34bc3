"""What tests of the pipeline share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from project.pipeline import spool
from project.settings import Settings


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return what mounts a disk of some size, or changes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}{options}", "tmpfs", str(folder)]
        if os.name == "nt" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a disk")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


class Fetch:
    """What reads an input.

    Attributes:
        said: what was reported of the last one.
        folder: where its files are.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._parent = settings, folder
        self.said, self.folder = list[str](), folder

    def __call__(self, url: object, **changed: object) -> dict[str, Path]:
        """Return the files of an input by name."""
        pipeline = self._settings.pipeline.model_copy(update=changed)
        self.said, self.folder = [], self._parent / f"spool-{len(list(self._parent.iterdir()))}"
        settings = self._settings.model_copy(update={"pipeline": pipeline})
        paths = spool.fetch(str(url), self.folder, settings, self.said.append)
        return {path.relative_to(self.folder / "whole" / "files").as_posix(): path for path in paths}

    def table(self, url: object, **changed: object) -> pl.DataFrame:
        """Return the one file of an input, read."""
        (path,) = self(url, **changed).values()
        return pl.read_parquet(path)


@pytest.fixture
def fetch(settings: Settings, tmp_path: Path) -> Fetch:
    return Fetch(settings, tmp_path)


@pytest.fixture
def job(champion: Settings, rows: pl.DataFrame, tmp_path: Path) -> tuple[Settings, Path, Path]:
    """Settings with small chunks, a folder with a CSV (some rows bad) and a Parquet, an output folder."""
    source = tmp_path / "in"
    source.mkdir()
    given = rows.select("at", "temperature", "station", "staff", "open").with_columns(id=pl.int_range(pl.len()) + 5000)
    texts = given.head(200).with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).cast(pl.String)
    bad = pl.Series([number % 10 == 3 for number in range(200)])
    texts.with_columns(staff=pl.when(bad).then(pl.lit("many")).otherwise("staff")).write_csv(source / "a.csv")
    given.tail(100).write_parquet(source / "b.parquet")
    (source / "notes.txt").write_text("not rows")
    small = champion.pipeline.model_copy(update={"chunk_rows": 32, "workers": 1})
    return champion.model_copy(update={"pipeline": small}), source, tmp_path / "out"
