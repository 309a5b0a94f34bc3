"""The steps of a chunk, from its file to its files. The same on every engine."""

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

STEPS = ("ingest", "validate", "transform", "score", "publish")  # as logs, metrics and pages name them
MONITOR = "monitor"  # the step after them, of the run as a whole
FILE, NUMBER = "source_file", "source_row"  # where a row came from
RESERVED = ("prediction_id", "model_version", FILE, NUMBER, "reasons")
PREFIX = "input_"


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine does with each chunk. It can be pickled, and done again: the same files come out.

    Attributes:
        run: identity of the run.
        model: folder of the bundle.
        columns: of all files of the input together.
        folder: of the unfinished run; it has the folders that `prepare` makes.
        corrected: the input is a quarantine's rows, which tell themselves where they came from.
    """

    run: str
    model: Path
    columns: Schema
    folder: Path
    corrected: bool = False

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
        scorer, watch = _scorer(self.model), Watch()
        frame = load(chunk)
        watch.lap("ingest")
        checked = check(scorer.signature, chunk, frame)
        watch.lap("validate")
        try:
            with _alone(scorer):
                features = scorer.features(checked.good.drop(ROW))
                watch.lap("transform")
                output = scorer.predict(features) if features.height else pl.DataFrame()
        except ProjectError as error:
            last = chunk.first + chunk.rows - 1
            raise ProjectError(f"the good rows of {chunk.file} from {chunk.first} to {last}: {error}") from error
        watch.lap("score")
        files = self._write(chunk, frame, checked, output, scorer.version)
        watch.lap("publish")
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
            "predictions": self._predicted(version, chunk, frame, checked.good, output),
            "quarantine": rejected(self.columns, chunk, frame, checked.bad, self.corrected),
        }
        drafts = self.folder / "drafts"
        return [
            manifest.save(self.result, drafts, kind, chunk.number, table)
            for kind, table in tables.items()
            if table.height
        ]

    def _predicted(
        self, version: str, chunk: Chunk, frame: pl.DataFrame, good: pl.DataFrame, output: pl.DataFrame
    ) -> pl.DataFrame:
        """Make the published table: identity, the input's columns (the model's typed), the model's output."""
        row = good[ROW]
        given = _given(self.columns, chunk, frame, row).with_columns(*good.drop(ROW))
        identity = given.select(
            prediction_id=pl.lit(f"{self.run}-") + (row + chunk.before).cast(pl.String),
            model_version=pl.lit(version),
            **_origin(chunk, frame, row, self.corrected),
        )
        given = given.rename(lambda name: renamed(name, output.columns))
        return pl.concat([identity, given, output], how="horizontal")


def check(signature: Signature, chunk: Chunk, frame: pl.DataFrame) -> Checked:
    """Part a chunk into rows that fit the signature and rows that do not."""
    needed = frame.select(column.name for column in signature.inputs)
    try:
        return check_frame(signature, needed, first=chunk.first)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{chunk.file} has a column of a kind that no model takes ({error})") from None


def rejected(
    columns: Schema, chunk: Chunk, frame: pl.DataFrame, bad: pl.DataFrame, corrected: bool = False
) -> pl.DataFrame:
    """Make the quarantine's table: where each row came from, what is wrong, and the row as it came."""
    given = _given(columns, chunk, frame, bad[ROW])
    origin = given.select(**_origin(chunk, frame, bad[ROW], corrected), reasons=bad[REASONS])
    return pl.concat([origin, given.rename(renamed)], how="horizontal")


def _origin(chunk: Chunk, frame: pl.DataFrame, row: pl.Series, corrected: bool) -> dict[str, Any]:
    """Return the file and the row in it that each of these rows came from; corrected rows tell it themselves."""
    if not corrected:
        return {FILE: pl.lit(chunk.file), NUMBER: row}
    told = frame[(row - chunk.first).to_numpy()].select(FILE, numbers(NUMBER).cast(row.dtype))
    return {FILE: told[FILE].cast(pl.String), NUMBER: told[NUMBER]}


def numbers(name: str) -> pl.Expr:
    """Return a column of row numbers as text; a workbook knows no integers."""
    return pl.col(name).cast(pl.String).str.replace(r"\.0$", "")


def renamed(name: str, outputs: Sequence[str] = ()) -> str:
    """Return the published name of an input's column: its own, unless a column of ours is named so.

    ``input_`` before such a name gets one more, so that no two columns get the same name.
    """
    bare = name
    while bare.startswith(PREFIX):
        bare = bare.removeprefix(PREFIX)
    return f"{PREFIX}{name}" if bare in RESERVED or bare in outputs else name


def _given(columns: Schema, chunk: Chunk, frame: pl.DataFrame, row: pl.Series) -> pl.DataFrame:
    """Return rows of a chunk in the columns that all files of the input have together."""
    found = frame if len(row) == frame.height else frame[(row - chunk.first).to_numpy()]
    there = set(found.columns)
    return found.select(
        (pl.col(name) if name in there else pl.lit(None)).cast(dtype).alias(name) for name, dtype in columns.items()
    )


@lru_cache(1)
def _scorer(folder: Path) -> Scorer:
    return Scorer(bundle.load(folder))


def _alone(scorer: Scorer) -> AbstractContextManager[Any]:
    """Keep scikit-learn's libraries to one thread: sums over many would differ with the machine's cores."""
    if scorer.bundle.manifest["runtime"] != "original":
        return nullcontext()
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


class Watch:
    """Seconds of each step and the memory that its process has at its end, and the most that it ever had."""

    def __init__(self) -> None:
        """Begin the first step."""
        self.began, self._last = time.time(), time.perf_counter()
        self.seconds, self.resident = dict[str, float](), dict[str, float | None]()
        self._peak = 0.0

    def lap(self, step: str) -> None:
        """End a step, and begin the next."""
        now = time.perf_counter()
        self.seconds[step] = round(now - self._last, 6)
        self._peak, self.resident[step] = _memory_mb()
        self._last = time.perf_counter()

    def told(self) -> Json:
        """Return what a marker says of them."""
        told = {"began": self.began, "ended": time.time(), "seconds": self.seconds}
        return told | {"resident_mb": self.resident, "memory_mb": self._peak}


def _memory_mb() -> tuple[float, float | None]:
    """Return the most memory that this process ever had, and what it has now, if the system tells."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as status:  # rusage counts what forked it too
        told = {line[:5]: int(line.split()[1]) for line in status if line.startswith(("VmHWM", "VmRSS"))}
        return round(told["VmHWM"] / 1024, 1), round(told["VmRSS"] / 1024, 1)
    with suppress(ImportError):  # Windows
        from resource import RUSAGE_SELF, getrusage

        return round(getrusage(RUSAGE_SELF).ru_maxrss / (1 << 20), 1), None
    return 0.0, None
