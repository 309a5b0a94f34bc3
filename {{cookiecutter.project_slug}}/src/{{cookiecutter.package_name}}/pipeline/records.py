"""What the log keeps of a run: its row, why rows were refused, and every prediction, each once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import Connection, delete, select

from ..signature import Signature
from ..store import bulk
from ..store.database import Store
from ..store.events import upsert
from ..store.tables import predictions, quarantine, runs
from ..telemetry.traces import Attributes, Tracer
from .manifest import Json
from .steps import STEPS, renamed


def seconds(store: Store, run: str, output: Path) -> float | None:
    """Return the seconds that a run took, if the log knows that it succeeded with this output."""
    with store.read() as connection:
        row = connection.execute(select(runs).where(runs.c.id == run)).one_or_none()
    return row.seconds if row and (row.status, row.output) == ("succeeded", str(output)) else None


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
        ``rows_out``, ``rejected``, ``seconds`` (of all workers together) and ``bytes`` (read or written; None where a
        step does neither); the most ``memory_mb`` of one process; the ``engine``; and how many ``workers`` were at
        work at once.
    """
    rows, written, memory = 0, 0, 0.0
    seconds, outcomes, turns = Counter[str](), Counter[str](), list[tuple[float, int]]()
    for marker in markers:
        rows, memory = rows + marker["rows"], max(memory, marker["memory_mb"])
        seconds.update(marker["seconds"])
        turns += [(marker["began"], 1), (marker["ended"], -1)]
        for entry in marker["files"]:
            outcomes[entry["path"].partition("/")[0]] += entry["rows"]
            written += entry["bytes"]
    good, bad = outcomes["predictions"], outcomes["quarantine"]
    counts = ((rows, rows, 0, size), (rows, good, bad, None), (good, good, 0, None), (good, good, 0, written))
    steps = [
        {"step": step, "rows_in": given, "rows_out": taken, "rejected": refused}
        | {"seconds": round(seconds[step], 3), "bytes": content}
        for step, (given, taken, refused, content) in zip(STEPS, counts, strict=True)
    ]
    workers = max(accumulate(turn for _, turn in sorted(turns)), default=0)
    return {"steps": steps if turns else [], "memory_mb": memory, "engine": engine, "workers": workers}


def trace(
    tracer: Tracer, run: str, began: float, attributes: Attributes, markers: Iterable[Json], failed: bool
) -> None:
    """Have the trace of a run sent: a span for each step of each chunk that was done in it, below one for the run.

    Args:
        tracer: that sends it, if it is on.
        run: its id.
        began: when this process took the run up, in seconds since 1970.
        attributes: of the run.
        markers: of the chunks; those of an earlier attempt were in its own trace.
        failed: whether the run stopped.
    """
    if not tracer.on:
        return
    stages = []
    for marker in markers:
        at = marker["began"]
        for step in STEPS if at >= began else ():
            ended = at + marker["seconds"].get(step, 0.0)
            more = {"pipeline.chunk": marker["number"], "pipeline.rows": marker["rows"]}
            stages.append((step, int(at * 1e9), int(ended * 1e9), more))
            at = ended
    told = {"pipeline.run": run, **attributes}
    tracer.record("pipeline run", int(began * 1e9), time.time_ns(), told, stages, failed)
    tracer.close()


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
