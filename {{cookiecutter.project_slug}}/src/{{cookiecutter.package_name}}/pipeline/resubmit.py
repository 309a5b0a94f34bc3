"""Quarantined rows, taken out to be corrected and brought back, each at most once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from ..errors import ProjectError
from . import manifest
from .manifest import Json
from .sources import InputError
from .steps import FILE, NUMBER, numbers


def take_out(folder: Path, target: Path) -> int:
    """Write the quarantined rows of a published run: where each came from, its reasons, and the row as it came.

    Args:
        folder: of the run.
        target: a CSV file, or a Parquet file if it is named so.

    Returns:
        How many there are; with none, nothing is written.

    Raises:
        ProjectError: the run is damaged, or the file is there already.
    """
    entries = _entries(_published(folder), "quarantine")
    if entries:
        if target.exists():
            raise ProjectError(f"{target} is there already: correct that one, or give another name")
        rows = pl.concat([pl.scan_parquet(folder / entry["path"]) for entry in entries])
        rows.sink_parquet(target) if target.suffix == ".parquet" else rows.sink_csv(target)
    return sum(entry["rows"] for entry in entries)


def check(output: Path, run: str, paths: Sequence[Path], own: str) -> None:
    """Refuse corrected rows that are not of the run's quarantine, come twice, or were published before.

    Args:
        output: the folder below which runs are published.
        run: id of the run whose quarantine is corrected.
        paths: the corrected rows, CSV or Parquet.
        own: id of the run that they are now; what it has published before is no obstacle.

    Raises:
        ProjectError: it does.
    """
    folder = output / run
    wanted = [folder / entry["path"] for entry in _entries(_published(folder), "quarantine")]
    if not wanted:
        raise ProjectError(f"run {run} has quarantined no rows: there is nothing to resubmit")
    rows = pl.concat([_keys(path) for path in paths]).collect()
    if (twice := rows.filter(rows.is_duplicated())).height:
        raise InputError(f"{_first(twice)} comes twice in the corrected rows: leave one out")
    known = pl.concat([_keys(path) for path in wanted]).collect()
    if (strange := rows.join(known, on=[FILE, NUMBER], how="anti")).height:
        raise InputError(f"{_first(strange)} is not in the quarantine of run {run}: leave it out")
    for earlier in _resubmitted(output, run):
        if earlier["run"] != own:
            done = [output / earlier["run"] / entry["path"] for entry in _entries(earlier, "predictions")]
            for path in done:
                there = rows.join(_keys(path).collect(), on=[FILE, NUMBER], how="semi")
                if there.height:
                    raise InputError(f"{_first(there)} was resubmitted by run {earlier['run']} already: leave it out")


def _published(folder: Path) -> Json:
    content = manifest.intact(folder)
    if not content:
        raise ProjectError(f"{folder} is no whole run: give the id of one that `pipeline status` shows as succeeded")
    return content


def _entries(content: Json, kind: str) -> list[Json]:
    return [entry for entry in content["files"] if entry["path"].startswith(f"{kind}/")]


def _resubmitted(output: Path, run: str) -> Iterable[Json]:
    """Return the manifests of published runs of corrected rows of a run."""
    for path in output.glob(f"[!.]*/{manifest.NAME}"):
        try:
            content: Json = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue  # no manifest of ours
        if content.get("resubmits") == run:
            yield content


def _keys(path: Path) -> pl.LazyFrame:
    """Return where the rows of a file came from, as text."""
    table = pl.scan_parquet(path) if path.name.endswith(".parquet") else pl.scan_csv(path, infer_schema=False)
    if missing := [name for name in (FILE, NUMBER) if name not in table.collect_schema()]:
        raise InputError(f"{path.name} lacks the column {missing[0]}, which `pipeline quarantine` wrote: keep it")
    return table.select(pl.col(FILE).cast(pl.String), numbers(NUMBER))


def _first(rows: pl.DataFrame) -> str:
    file, row = rows.row(0)
    return f"row {row} of {file}"
