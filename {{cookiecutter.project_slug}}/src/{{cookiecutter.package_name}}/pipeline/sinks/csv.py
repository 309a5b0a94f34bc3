"""CSV files for people: ``csv:`` writes them into the run's folder, ``csv:FOLDER`` into one of the same name there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import polars as pl

from ...errors import ProjectError
from ...settings import Settings
from ..manifest import sync
from ..remote import Report
from . import Published

SCHEMES = ("csv",)


def publish(run: Published, url: str, settings: Settings, report: Report) -> None:
    """Write ``predictions.csv`` and ``quarantine.csv``, each whole or not at all."""
    place = url.removeprefix("csv:").removeprefix("//")
    folder = settings.path(place) / run.id if place else run.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("predictions", "quarantine"):
            if (entries := run.files(kind)) and not (folder / f"{kind}.csv").exists():
                _write(run, entries, folder / f"{kind}.csv")
                report(f"{folder / kind}.csv is written")
    except OSError as error:
        raise ProjectError(f"{folder} cannot be written ({error.strerror}): mend it, then `pipeline resume`") from None


def _write(run: Published, entries: list[Mapping[str, Any]], target: Path) -> None:
    draft = target.with_name(f".{target.name}.draft")
    try:
        with draft.open("wb") as stream:
            for place, entry in enumerate(entries):
                _append(pl.read_parquet(run.folder / entry["path"]), stream, header=place == 0)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    sync(target.parent)


def _append(table: pl.DataFrame, stream: IO[bytes], header: bool) -> None:
    nested = [name for name, dtype in table.schema.items() if dtype.is_nested()]
    table = table.with_columns(pl.struct(name).struct.json_encode().alias(name) for name in nested)
    stream.write(table.write_csv(include_header=header, datetime_format="%Y-%m-%dT%H:%M:%S%.fZ").encode())
