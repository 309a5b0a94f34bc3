"""What gates judge by, measured when it is first asked for: answers of candidate and champion, time and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ..errors import ProjectError
from ..settings import PACKAGE, Settings
from ..validation import ROW, check_frame
from . import bundle as bundles
from . import metrics
from .bundle import Bundle
from .scorer import Scorer

if TYPE_CHECKING:
    import polars as pl

TIMED_ROWS, TIMED_SECONDS = 300, 2.0
WEIGHED_ROWS = 1_000
LEAST_ROWS = 30  # to compare two models on
STATUS = Path("/proc/self/status")


class Pair(NamedTuple):
    """Candidate and champion on the same rows: what they measured (nothing without truth), and what they answered."""

    rows: pl.DataFrame
    truth: pl.Series | None
    candidate: dict[str, Any]
    champion: dict[str, Any]
    outputs: tuple[pl.DataFrame, pl.DataFrame]


@dataclass
class Evidence:
    """Everything about one promotion.

    Attributes:
        settings: of the project.
        candidate: the version to promote.
        champion: the version that serves now, or None.
        since: when the champion became it (ISO, UTC), or nothing.
        data: a table with truth in place of the candidate's sample.
    """

    settings: Settings
    candidate: Bundle
    champion: Bundle | None
    since: str = ""
    data: Path | None = None

    def __post_init__(self) -> None:
        self.task = self.candidate.signature.task
        self.reason: dict[str, Any] = {}
        self._child: subprocess.Popen[str] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @cached_property
    def scorer(self) -> Scorer:
        """The candidate, loaded."""
        return Scorer(self.candidate)

    @cached_property
    def table(self) -> tuple[pl.DataFrame, pl.Series | None] | None:
        """Typed rows and, if there is one, their truth: of ``data``, else of the bundle; None if it keeps none."""
        if self.data is not None:
            return labelled(self.candidate, self.data)
        sample = self.candidate.sample()
        if sample is None:
            return None
        target, names = self.candidate.signature.target, list(self.candidate.signature.by_name)
        return sample.select(names), sample[target] if target in sample.columns else None

    @cached_property
    def output(self) -> pl.DataFrame:
        """The candidate's answers for `table`."""
        if self.table is None:
            raise ProjectError(f"the version {self.candidate.version} keeps no sample: give a table with --data")
        return score(self.scorer, self.table[0])

    @cached_property
    def measured(self) -> dict[str, Any]:
        """The candidate's metrics, on ``data`` or as measured at its import; empty without truth."""
        if self.data is None or self.table is None or self.table[1] is None:
            return self.candidate.metrics
        return metrics.evaluate(self.task, self.table[1], self.output)

    @cached_property
    def slices(self) -> dict[str, Any]:
        """The candidate's metrics by slice, likewise."""
        if self.data is None and "slices" in self.candidate.evaluation:
            found: dict[str, Any] = self.candidate.evaluation["slices"]
            return found
        rows, truth = self.table or (None, None)
        if rows is None or truth is None:
            return {}
        return metrics.slices(self.candidate.signature, rows, truth, self.output)

    @cached_property
    def baseline(self) -> dict[str, Any]:
        """What a simple model measures on the same rows, likewise."""
        if self.data is None and "baseline" in self.candidate.evaluation:
            found: dict[str, Any] = self.candidate.evaluation["baseline"]
            return found
        rows, truth = self.table or (None, None)
        return {} if rows is None or truth is None else metrics.baseline(self.candidate.signature, rows, truth)

    @cached_property
    def pair(self) -> Pair | str:
        """Both models on the rows that both can take, or why they cannot be compared (with `reason`)."""
        if self.champion is None:
            return "there is no champion yet"
        if self.champion.signature.task != self.task:
            return "the champion has another task"
        if self.table is None:
            return "the bundle keeps no sample: give a table with --data"
        rows, truth = self.table
        checked = check_frame(self.champion.signature, rows)
        if checked.good.height < min(LEAST_ROWS, rows.height):
            self.reason = {"reason": checked.counts.most_common(1)[0][0] if checked.counts else "no rows"}
            return "the champion cannot take the rows ({reason})"
        kept = checked.good[ROW].to_numpy() - 1
        try:
            theirs = score(Scorer(self.champion), checked.good.drop(ROW))
        except ProjectError as error:
            self.reason = {"reason": str(error)}
            return "the champion cannot score the rows ({reason})"
        ours = self.output[kept]
        if truth is None:
            return Pair(rows[kept], None, {}, {}, (ours, theirs))
        first, second = (metrics.evaluate(self.task, truth[kept], one) for one in (ours, theirs))
        return Pair(rows[kept], truth[kept], first, second, (ours, theirs))

    @cached_property
    def pair_slices(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The slices of `pair`, the candidate's and the champion's."""
        pair = self.pair
        if isinstance(pair, str) or pair.truth is None:
            return {}, {}
        first, second = (
            metrics.slices(self.candidate.signature, pair.rows, pair.truth, output) for output in pair.outputs
        )
        return first, second

    def latency(self) -> tuple[float, float, int]:
        """Score rows one by one, as requests do, for at most two seconds.

        Returns:
            Median and 99th percentile in milliseconds, and the number of rows.
        """
        scorer, taken = self.scorer, []
        rows = [msgspec.convert(row, scorer.row) for row in self._some(TIMED_ROWS).to_dicts()]
        with _running(scorer):
            scorer.warm()
            stop = time.perf_counter() + TIMED_SECONDS
            for row in rows:
                start = time.perf_counter()
                scorer.rows([row])
                end = time.perf_counter()
                taken.append(1000 * (end - start))
                if end > stop:
                    break
        median, p99 = (float(np.quantile(taken, share)) for share in (0.5, 0.99))
        return median, p99, len(taken)

    def weigh(self) -> None:
        """Start a fresh process that loads the candidate and scores: memory of this one tells nothing any more."""
        self._scratch = tempfile.TemporaryDirectory()
        rows = Path(self._scratch.name) / "rows.parquet"
        self._some(WEIGHED_ROWS).write_parquet(rows)
        code = f"import sys; sys.path[:] = sys.argv[3:]; from {PACKAGE}.models import evidence; evidence.grow()"
        command = [sys.executable, "-c", code, str(self.candidate.folder), str(rows), *sys.path]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def weight(self) -> tuple[float | None, str]:
        """Return by how many megabytes that process grew, or None and why (nothing where systems do not tell)."""
        assert self._child is not None
        out, err = self._child.communicate()
        if self._child.returncode:
            return None, (err.strip().splitlines() or [f"it ended with status {self._child.returncode}"])[-1][:200]
        found = out.strip().splitlines()[-1]
        return (float(found), "") if found != "unknown" else (None, "")

    def close(self) -> None:
        """End what still runs."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _some(self, most: int) -> pl.DataFrame:
        """Return rows of the sample, or the signature's example row again and again."""
        if self.table is not None:
            return self.table[0].head(most)
        example = msgspec.convert(self.candidate.signature.example_row(), self.scorer.row)
        return self.scorer.table([example] * most)


def labelled(bundle: Bundle, path: Path) -> tuple[pl.DataFrame, pl.Series]:
    """Read a table with truth, typed by the signature of a version.

    Raises:
        ProjectError: it cannot be read, lacks the target, or has a row that does not fit.
    """
    from .inference import read_sample

    frame, target = read_sample(path), bundle.signature.target
    if target is None:
        raise ProjectError(f"the version {bundle.version} was imported without --target: import it again with one")
    if target not in frame.columns:
        raise ProjectError(f"{path.name} has no column {target!r}, the target of {bundle.version}")
    frame = frame.filter(frame[target].is_not_null())
    checked = check_frame(bundle.signature, frame)
    if checked.bad.height or not frame.height:
        reason = checked.counts.most_common(1)[0][0] if checked.counts else "no truth in it"
        raise ProjectError(f"{checked.bad.height} rows of {path.name} do not fit {bundle.version} ({reason})")
    return checked.good.drop(ROW), frame[target]


def score(scorer: Scorer, rows: pl.DataFrame) -> pl.DataFrame:
    """Score typed rows.

    Raises:
        ProjectError: the model fails on them.
    """
    with _running(scorer):
        return scorer.frame(rows)


@contextmanager
def _running(scorer: Scorer) -> Iterator[None]:
    """Say in one sentence what a model raises; a team's own may raise anything."""
    try:
        yield
    except ProjectError:
        raise
    except Exception as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ProjectError(f"the version {scorer.version} fails on these rows: {cause}") from None


def grow() -> None:
    """Load a version and score rows, in a process for this alone, and print by how many megabytes it grew."""
    import polars as pl

    folder, rows = Path(sys.argv[1]), pl.read_parquet(sys.argv[2])
    bundle = bundles.load(folder)
    before, peak = _resident()
    Scorer(bundle).frame(rows)
    after, highest = _resident()
    print("unknown" if not before else max(after, highest if highest > peak else 0) - before)


def _resident() -> tuple[float, float]:
    """Return this process's resident memory and its peak in megabytes; zeros where the system does not tell.

    `resource` would tell the peak too, but on Linux a child inherits that of its parent.
    """
    try:
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    except OSError:
        return 0.0, 0.0
    now, peak = (int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak
