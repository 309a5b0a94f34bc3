"""What a run tells: its row in the log, why rows were refused, every prediction once, its checks, trace and metrics."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import Connection, delete, select, update

from ..models.bundle import Bundle
from ..monitoring import drift, quality, worst
from ..settings import Monitoring
from ..signature import Signature
from ..store import bulk
from ..store.database import Store
from ..store.events import upsert
from ..store.queries import batches
from ..store.tables import predictions, quarantine, runs
from ..telemetry import metrics
from ..telemetry.traces import Attributes, Tracer
from . import manifest
from .manifest import Json
from .steps import MONITOR, STEPS, Watch, renamed

CHECKED, FILES = 100_000, 16  # rows that are looked at after a run, and so many of its files even if they have more


def known(store: Store, run: str) -> tuple[float, str, Json] | None:
    """Return the seconds, the output folder and the steps of a run, if the log knows that it succeeded."""
    ended = (runs.c.status == "succeeded") & runs.c.seconds.is_not(None)
    with store.read() as connection:
        row = connection.execute(select(runs).where(runs.c.id == run, ended)).one_or_none()
    return (row.seconds, row.output, json.loads(row.steps or "{}")) if row else None


def asked(store: Store, run: str) -> None:
    """Note that a run is asked for now, if the log knows it already: it is the latest then."""
    with store.write() as connection:
        connection.execute(update(runs).where(runs.c.id == run).values(asked=datetime.now(UTC)))


def record(store: Store, identity: Json, content: Json, status: str, **more: Any) -> None:
    """Write a run's row, and its quarantine counts once they are known.

    Args:
        store: of the log.
        identity: what the run is: its id (``run``), key and model version.
        content: its manifest, empty until all rows are counted.
        status: running, succeeded or failed.
        more: other columns of the row.
    """
    now = datetime.now(UTC)
    rows, reasons = Counter[str](content.get("rows")), Counter[str]()
    row: dict[str, Any] = {
        "key": identity["key"],
        "status": status,
        "finished": None if status == "running" else now,
        "model_version": identity["model_version"],
        "rows_in": rows["in"],
        "rows_published": rows["published"] if status == "succeeded" else 0,
        "rows_quarantined": rows["quarantined"],
        "seconds": None,
        "error": None,
        "steps": None,
        **more,
    }
    for reason, count in content.get("reasons", {}).items():
        reasons[reason[:255]] += count
    counts = [{"run_id": identity["run"], "reason": reason, "rows": count} for reason, count in reasons.items()]
    with store.write() as connection:
        statement = upsert(connection, runs).values(id=identity["run"], started=now, **row)
        connection.execute(statement.on_conflict_do_update(index_elements=[runs.c.id], set_=row))
        connection.execute(delete(quarantine).where(quarantine.c.run_id == identity["run"]))
        if counts:
            connection.execute(quarantine.insert(), counts)


def told(markers: Iterable[Json], engine: str, size: int | None = None) -> Json:
    """Add up what the chunks of a run tell of their steps.

    Args:
        markers: of the chunks.
        engine: its name.
        size: bytes of the input, if known.

    Returns:
        ``steps``, a list in the order of `STEPS` (empty without markers), each with ``step``, ``rows_in``,
        ``rows_out``, ``rejected``, ``seconds`` (of all workers together), ``bytes`` (read or written; None where a
        step does neither) and ``resident_mb`` (the most that one process had in memory when it ended the step; None
        where the system does not tell); the most ``memory_mb`` of one process at any moment; the ``engine``; and how
        many ``workers`` were at work at once.
    """
    memory, seconds, turns = 0.0, Counter[str](), list[tuple[float, int]]()
    resident: dict[str, float] = {}
    total = {step: [0, 0, 0, 0] for step in STEPS}
    for marker in markers:
        memory = max(memory, marker["memory_mb"])
        seconds.update(marker["seconds"])
        turns += [(marker["began"], 1), (marker["ended"], -1)]
        for step, megabytes in marker.get("resident_mb", {}).items():
            resident[step] = max(resident.get(step, 0.0), megabytes or 0.0)
        for step, one in counts(marker).items():
            total[step] = [before + more for before, more in zip(total[step], one, strict=True)]
    done: dict[str, int | None] = {"ingest": size, "publish": total["publish"][3]}
    steps = [
        {"step": step, "rows_in": given, "rows_out": taken, "rejected": refused}
        | {"seconds": round(seconds[step], 3), "bytes": done.get(step), "resident_mb": resident.get(step) or None}
        for step, (given, taken, refused, _) in total.items()
    ]
    workers = max(accumulate(turn for _, turn in sorted(turns)), default=0)
    return {"steps": steps if turns else [], "memory_mb": memory, "engine": engine, "workers": workers}


def counts(marker: Json) -> dict[str, tuple[int, int, int, int]]:
    """Return what each step did in a chunk: rows in, out and rejected, and the bytes that it wrote."""
    outcomes = Counter[str]()
    for entry in marker["files"]:
        outcomes[entry["path"].partition("/")[0]] += entry["rows"]
    rows, good, bad = marker["rows"], outcomes["predictions"], outcomes["quarantine"]
    after, written = (good, good, 0, 0), sum(entry["bytes"] for entry in marker["files"])
    every = ((rows, rows, 0, 0), (rows, good, bad, 0), after, after, (good, good, 0, written))
    return dict(zip(STEPS, every, strict=True))


def monitor(limits: Monitoring, bundle: Bundle, folder: Path, content: Json) -> tuple[Json, Json]:
    """Check the drift and the data quality of what a run published, against the model's reference profile.

    At most `CHECKED` rows, spread over the run, are looked at: the price does not grow with the input.

    Args:
        limits: of the checks.
        bundle: of the model.
        folder: of what was published.
        content: its manifest.

    Returns:
        The step, as in `told`; and when it ``began``, the ``state`` of the worst check, how many ``checks`` there were
        over how many ``rows``, and those that ``found`` something, with one sentence each.
    """
    watch = Watch()
    frame, size = _sample(bundle.signature, folder, content)
    rows = content["rows"]
    checks = drift.check(bundle, frame, limits)
    checks.append(quality.quarantined(rows["quarantined"], rows["in"], content["reasons"], limits))
    checks += quality.columns(bundle, frame, limits)
    bad = [check for check in checks if check.state in ("warning", "alert")]
    found = [{**asdict(check), "detail": check.detail["note"]} for check in bad]
    watch.lap(MONITOR)
    step = {"step": MONITOR, "rows_in": frame.height, "rows_out": frame.height, "rejected": 0}
    step |= {"seconds": round(watch.seconds[MONITOR], 3), "bytes": size, "resident_mb": watch.resident[MONITOR]}
    told = {"began": watch.began, "state": worst(checks), "checks": len(checks), "rows": frame.height, "found": found}
    return step, told


def _sample(signature: Signature, folder: Path, content: Json) -> tuple[pl.DataFrame, int]:
    """Return published rows, spread over the run, with the signature's columns; and the bytes of their files."""
    listed = [entry for entry in content["files"] if entry["path"].startswith("predictions/")]
    published = content["rows"]["published"]
    most = max(FILES, CHECKED * len(listed) // max(1, published))
    taken = [listed[place * len(listed) // most] for place in range(most)] if len(listed) > most else listed
    every = -(-sum(entry["rows"] for entry in taken) // CHECKED) or 1
    outputs = [column.name for column in signature.outputs]
    columns = [pl.col(renamed(column.name, outputs)).alias(column.name) for column in signature.inputs]
    columns += [pl.col(name) for name in outputs]
    empty = pl.DataFrame(schema=[*signature.by_name, *outputs])
    tables = [pl.scan_parquet(folder / entry["path"]).select(columns).gather_every(every) for entry in taken]
    return pl.concat(pl.collect_all(tables)) if tables else empty, sum(entry["bytes"] for entry in taken)


def trace(
    tracer: Tracer, run: str, began: float, attributes: Attributes, markers: Iterable[Json], steps: Json, failed: bool
) -> None:
    """Have the trace of a run sent: a span for each step of each chunk that was done in it, below one for the run.

    Args:
        tracer: that sends it, if it is on.
        run: its id.
        began: when this process took the run up, in seconds since 1970.
        attributes: of the run.
        markers: of the chunks; those of an earlier attempt were in its own trace.
        steps: what is `told` of them, with ``monitor`` if the run was checked.
        failed: whether the run stopped.
    """
    if not tracer.on:
        return
    stages = []
    for marker in markers:
        at = marker["began"]
        for step, (given, taken, refused, written) in counts(marker).items() if at >= began else ():
            ended = at + marker["seconds"].get(step, 0.0)
            more = {"pipeline.chunk": marker["number"], "pipeline.rows_in": given, "pipeline.rows_out": taken}
            more |= {"pipeline.rejected": refused, **({"pipeline.bytes": written} if written else {})}
            more["pipeline.resident_mb"] = marker.get("resident_mb", {}).get(step) or 0.0
            stages.append((step, int(at * 1e9), int(ended * 1e9), more))
            at = ended
    at = steps.get(MONITOR, {}).get("began", 0.0)
    for one in steps["steps"][len(STEPS) :] if at >= began else ():
        names = ("rows_in", "rows_out", "rejected", "bytes", "resident_mb")
        more = {f"pipeline.{name}": one[name] or 0 for name in names}
        stages.append((one["step"], int(at * 1e9), int((at + one["seconds"]) * 1e9), more))
    told = {"pipeline.run": run, **attributes}
    tracer.record("pipeline run", int(began * 1e9), time.time_ns(), told, stages, failed)
    tracer.close()


def expose(store: Store, path: Path) -> None:
    """Write the metrics of all batch runs into a file that node_exporter's textfile collector reads, whole at any time.

    Raises:
        ProjectError: the store cannot be read.
        OSError: the file cannot be written.
    """
    manifest.appear(path, metrics.batches(batches(store)), path.parent)


def publish(connection: Connection, signature: Signature, run: str, version: str, published: pl.DataFrame) -> None:
    """Log a published table, each prediction once however often this is called.

    Polars encodes the rows, and the driver gets them as they are.
    """
    now = bulk.stored(connection, predictions)(datetime.now(UTC))
    outputs = [column.name for column in signature.outputs]
    rows = published.select(
        id="prediction_id",
        time=pl.lit(now),
        model_version=pl.lit(version),
        source=pl.lit("batch"),
        run_id=pl.lit(run),
        row="source_row",
        inputs=_json(published, {column.name: renamed(column.name, outputs) for column in signature.inputs}),
        output=_json(published, {name: name for name in outputs}),
    )
    bulk.insert(connection, predictions, rows.columns, rows.rows())


def _json(frame: pl.DataFrame, published: Mapping[str, str]) -> pl.Expr:
    """Encode columns, given by name and published name, as one JSON object a row; times in RFC 3339."""
    columns = []
    for name, column in published.items():
        value = pl.col(column)
        time = frame.schema[column].is_temporal()
        columns.append((value.dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ") if time else value).alias(name))
    return pl.struct(columns).struct.json_encode()
