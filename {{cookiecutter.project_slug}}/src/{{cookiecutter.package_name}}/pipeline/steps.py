"""The steps of a chunk, from its file to its files: read, validate, score, write. The same on every engine."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import ProjectError
from ..models import bundle
from ..models.scorer import Scorer
from ..signature import Signature
from ..validation import REASONS, ROW, Checked, check_frame
from . import manifest
from .manifest import Json
from .sources import Chunk, InputError, Schema, load

RESERVED = ("prediction_id", "model_version", "source_file", "source_row", "reasons")


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine does with each chunk. It can be pickled, and done again: the same files come out.

    Attributes:
        run: identity of the run.
        model: folder of the bundle.
        columns: of all files of the input together.
        folder: of the unfinished run; it has the folders that `prepare` makes.
    """

    run: str
    model: Path
    columns: Schema
    folder: Path

    @property
    def result(self) -> Path:
        """What will be published."""
        return self.folder / "result"

    @property
    def spool(self) -> Path:
        """Where the input waits that cannot be read where it is."""
        return self.folder / "spool"

    def prepare(self) -> None:
        """Make the folders; drafts are apart, so that a killed one is never published."""
        for name in ("result/predictions", "result/quarantine", "chunks", "spool", "drafts"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def marker(self, number: int) -> Path:
        """Return the file that says that a chunk is done."""
        return self.folder / "chunks" / f"{number:05d}.json"

    def told(self, number: int) -> Json:
        """Return the marker of a finished chunk."""
        marker: Json = json.loads(self.marker(number).read_bytes())
        return marker

    def finished(self) -> list[int]:
        """Return the numbers of the finished chunks."""
        return sorted(int(path.stem) for path in (self.folder / "chunks").glob("*.json"))

    def attempt(self, chunk: Chunk) -> Json | Exception:
        """Do a chunk; return its marker or what went wrong, which can be sent."""
        try:
            return self(chunk)
        except (ProjectError, OSError) as error:
            return error
        except Exception as error:
            told = f"{type(error).__name__}: {error}".partition("\n")[0]
            return ProjectError(f"the run stopped at the rows of {chunk.file} from {chunk.first} ({told})")

    def __call__(self, chunk: Chunk) -> Json:
        """Do a chunk: its files, then its marker, which is returned."""
        scorer, watch = _scorer(self.model), _Watch()
        frame = load(chunk)
        watch.lap("read")
        checked = check(scorer.signature, chunk, frame)
        watch.lap("validate")
        with _alone(scorer):
            output = scorer.frame(checked.good.drop(ROW)) if checked.good.height else pl.DataFrame()
        watch.lap("score")
        files = self._write(chunk, frame, checked, output, scorer.version)
        watch.lap("write")
        marker = {"number": chunk.number, "file": chunk.file, "rows": chunk.rows, "share": chunk.share}
        marker |= {"reasons": dict(checked.counts), "files": files} | watch.told()
        manifest.replace(self.marker(chunk.number), marker, self.folder / "drafts")
        return marker

    def _write(
        self, chunk: Chunk, frame: pl.DataFrame, checked: Checked, output: pl.DataFrame, version: str
    ) -> list[Json]:
        """Write the files of a chunk, none for no rows."""
        if output.height != checked.good.height:
            raise ProjectError(f"the model gave {output.height} rows for {checked.good.height}: import it again")
        tables = {
            "predictions": predicted(self.run, version, self.columns, chunk, frame, checked.good, output),
            "quarantine": rejected(self.columns, chunk, frame, checked.bad),
        }
        drafts = self.folder / "drafts"
        return [
            manifest.save(self.result, drafts, kind, chunk.number, table)
            for kind, table in tables.items()
            if table.height
        ]


def check(signature: Signature, chunk: Chunk, frame: pl.DataFrame) -> Checked:
    """Part a chunk into rows that fit the signature and rows that do not."""
    needed = frame.select(column.name for column in signature.inputs)
    try:
        return check_frame(signature, needed, first=chunk.first)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{chunk.file} has a column of a kind that no model takes ({error})") from None


def predicted(
    run: str, version: str, columns: Schema, chunk: Chunk, frame: pl.DataFrame, good: pl.DataFrame, output: pl.DataFrame
) -> pl.DataFrame:
    """Make the published table: identity, the input's columns (the model's typed), the model's output."""
    row = good[ROW]
    given = _given(columns, chunk, frame, row).with_columns(*good.drop(ROW))
    identity = given.select(
        prediction_id=pl.lit(f"{run}-") + (row + chunk.before).cast(pl.String),
        model_version=pl.lit(version),
        source_file=pl.lit(chunk.file),
        source_row=row,
    )
    given = given.rename(lambda name: renamed(name, output.columns))
    return pl.concat([identity, given, output], how="horizontal")


def rejected(columns: Schema, chunk: Chunk, frame: pl.DataFrame, bad: pl.DataFrame) -> pl.DataFrame:
    """Make the quarantine's table: where each row came from, what is wrong, and the row as it came."""
    given = _given(columns, chunk, frame, bad[ROW])
    origin = given.select(source_file=pl.lit(chunk.file), source_row=bad[ROW], reasons=bad[REASONS])
    return pl.concat([origin, given.rename(renamed)], how="horizontal")


def renamed(name: str, outputs: Sequence[str] = ()) -> str:
    """Return the published name of an input's column: its own, unless a column of ours is named so."""
    return f"input_{name}" if name in RESERVED or name in outputs else name


def _given(columns: Schema, chunk: Chunk, frame: pl.DataFrame, row: pl.Series) -> pl.DataFrame:
    """Return rows of a chunk in the columns that all files of the input have together."""
    found = frame if len(row) == frame.height else frame[(row - chunk.first).to_numpy()]
    return found.select(
        (pl.col(name) if name in found.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in columns.items()
    )


@lru_cache(1)
def _scorer(folder: Path) -> Scorer:
    return Scorer(bundle.load(folder))


def _alone(scorer: Scorer) -> AbstractContextManager[Any]:
    """Keep scikit-learn's libraries to one thread: sums over many would differ with the machine's cores."""
    if scorer.bundle.manifest["runtime"] == "onnx":
        return nullcontext()
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


class _Watch:
    """Seconds of each step, when the chunk began and ended, and the most memory that its process ever had."""

    def __init__(self) -> None:
        self.began, self._last = time.time(), time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step], self._last = round(now - self._last, 6), now

    def told(self) -> Json:
        return {"began": self.began, "ended": time.time(), "seconds": self.seconds, "memory_mb": _peak_mb()}


def _peak_mb() -> float:
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as status:  # rusage counts what forked it too
        return round(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024, 1)
    with suppress(ImportError):  # Windows
        from resource import RUSAGE_SELF, getrusage

        return round(getrusage(RUSAGE_SELF).ru_maxrss / (1 << 20), 1)
    return 0.0
