"""Late truth: a table of what really happened, joined to predictions by their ids or by columns that both have.

Memory does not grow with the tables: keys, and what they match, wait in a file of SQLite.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import polars as pl

from ..errors import ProjectError
from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..signature import Column, ColumnType, Signature
from ..store import feedback as truth
from ..store.database import Store
from ..store.queries import Row, find_run, known_predictions, recent_runs
from ..validation import REASONS, ROW, check_frame
from . import manifest, sources, spool
from .remote import Report
from .sources import Chunk, File, InputError, Schema, identify, inspect, load, plan
from .steps import check, rejected

OUTCOMES = ("joined", "unknown", "ambiguous", "invalid")
IDENTITY, PREDICTIONS = "prediction_id", "predictions/"
EXAMPLES, BATCH, RUNS = 5, 5_000, 10_000  # examples of each outcome; values written at once; runs looked through


TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE given (number INTEGER PRIMARY KEY, file TEXT, row INTEGER, key TEXT, value TEXT, reason TEXT);
CREATE TABLE made (key TEXT, id TEXT, PRIMARY KEY (key, id)) WITHOUT ROWID;
"""
TELL = """
CREATE TABLE fate AS
WITH said AS (SELECT key, count(DISTINCT value) AS many FROM given WHERE reason IS NULL GROUP BY key),
     hits AS (SELECT key, count(*) AS many, min(id) AS id FROM made GROUP BY key)
SELECT number, file, row, value, hits.id AS id,
    CASE WHEN reason IS NOT NULL THEN 'invalid' WHEN hits.many IS NULL THEN 'unknown'
         WHEN hits.many > 1 OR said.many > 1 THEN 'ambiguous' ELSE 'joined' END AS outcome,
    CASE WHEN reason IS NOT NULL THEN reason WHEN hits.many IS NULL THEN 'no prediction has this key'
         WHEN hits.many > 1 THEN 'its key fits ' || hits.many || ' predictions'
         ELSE 'its key is there with ' || said.many || ' different values' END AS reason
FROM given LEFT JOIN said USING (key) LEFT JOIN hits USING (key) ORDER BY number;
CREATE UNIQUE INDEX fates ON fate (number);
"""


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of the rows.

    Attributes:
        counts: of each of `OUTCOMES`; they add up to the rows.
        examples: of each outcome but ``joined``, where some rows are and why.
        notes: what else people should know.
    """

    counts: dict[str, int]
    examples: dict[str, list[str]]
    notes: list[str]


def join(
    settings: Settings,
    source: str,
    value: str,
    key: Sequence[str] = (),
    *,
    identity: str = IDENTITY,
    run: str | None = None,
    leave: Path | None = None,
    report: Report = lambda _: None,
) -> Joined:
    """Keep what a table says really happened as feedback to the predictions it is about; twice changes nothing.

    Args:
        settings: of the project.
        source: any input that a batch run reads.
        value: its column with what happened.
        key: columns that tell the prediction, of the table and of what was published.
        identity: without ``key``, its column with the ids of predictions.
        run: with ``key``, the run that made the predictions; default: all that succeeded.
        leave: a CSV file for the rows that are not joined, with the reasons.
        report: told what is found.

    Raises:
        ProjectError: the input, the runs or the store cannot be used; nothing was kept.
    """
    with tempfile.TemporaryDirectory(prefix="feedback-") as folder, Store(settings) as store:
        chosen = find_run(store, run) if run else None
        signature = Registry(settings).load(chosen["model_version"] if chosen else CHAMPION).signature
        table = _Table(settings, source, Path(folder), report)
        if leave and leave.resolve() in [file.path.resolve() for file in table.files]:
            raise ProjectError(f"{leave} is the input itself: give another name for the rows that are not joined")
        given = table.need([*(key or [identity]), value])
        published, notes = _published(store, chosen, key) if key else ([], [])
        columns = _kinds(key, signature, given, *(one[1] for one in published))
        wanted = truth.contract(signature, identity, value)
        wanted = replace(wanted, inputs=(*(columns or wanted.inputs[:1]), wanted.inputs[-1]))
        try:
            with closing(sqlite3.connect(Path(folder) / "keys.db")) as keys:
                keys.executescript(TABLES)
                _take(keys, table, wanted, None if key else store)
                keys.execute("CREATE INDEX by_key ON given (key)")
                if key:
                    _match(keys, [path for paths, _ in published for path in paths], replace(wanted, inputs=columns))
                keys.executescript(TELL)
                if leave:
                    _leave(keys, table, leave)
                return _keep(keys, store, notes, bool(key))
        except sqlite3.OperationalError as error:
            raise ProjectError(f"{folder} cannot be written ({error}): make room or set TMPDIR") from None


class _Table:
    """The outcomes, read chunk by chunk as often as needed."""

    def __init__(self, settings: Settings, source: str, folder: Path, report: Report) -> None:
        self._rows, self._spool = settings.pipeline.chunk_rows, folder / "chunks"
        self._ratio = settings.pipeline.unpack_ratio
        self._spool.mkdir()
        if spool.accepts(source, settings):
            paths = spool.fetch(source, folder / "input", settings, report)
        else:
            paths, _ = sources.find(source)
        self.files: list[File] = identify(paths)
        self.columns = inspect(self.files, (), self._ratio)

    def need(self, names: Sequence[str]) -> Schema:
        """Return all columns; refuse files without the named ones."""
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise ProjectError(f"the column {twice[0]} is given twice: a key is one thing, what happened another")
        for file in self.files:
            if lacking := [name for name in names if name not in inspect([file], (), self._ratio)]:
                there = ", ".join(list(self.columns)[:20])
                raise InputError(f"{file.path.name} lacks the column {lacking[0]}: its columns are {there}")
        return self.columns

    def __iter__(self) -> Iterator[tuple[Chunk, pl.DataFrame]]:
        for chunk in plan(self.files, self._rows, self._spool, self._ratio):
            yield chunk, load(chunk)
            (self._spool / f"{chunk.number:05d}.csv").unlink(missing_ok=True)


def _published(
    store: Store, chosen: Row | None, key: Sequence[str]
) -> tuple[list[tuple[list[Path], Schema]], list[str]]:
    """Return the files of predictions of each run that can be joined by the key, with their columns; and notes."""
    found, notes = [], []
    for run in [chosen] if chosen else recent_runs(store, RUNS):
        if run["status"] != "succeeded":
            if chosen:
                raise ProjectError(f"the run {run['id']} has not succeeded ({run['status']}): it published nothing")
            continue
        folder = Path(run["output"]) / run["id"]
        content = manifest.intact(folder)
        listed = [folder / entry["path"] for entry in content.get("files", ()) if entry["path"].startswith(PREDICTIONS)]
        schema = dict(pl.read_parquet_schema(listed[0])) if listed else {}
        lacking = [name for name in key if name not in schema] if listed else []
        if content and not lacking:
            found.append((listed, schema))
            continue
        why = f"has no column {lacking[0]}" if lacking else f"is not whole in {run['output']}"
        if chosen:
            raise ProjectError(f"the run {run['id']} {why}: it cannot be joined")
        notes.append(f"the run {run['id']} is left out: it {why}")
    if not found:
        more = f": {notes[0]}" if notes else ": `pipeline run` makes one"
        raise ProjectError(f"no run has predictions that can be joined by {', '.join(key)}{more}")
    return found, notes


def _kinds(key: Sequence[str], signature: Signature, *tables: Schema) -> tuple[Column, ...]:
    """Return the key's columns with the types to compare them by: the model's, else the one that is more than text."""
    columns = []
    for name in key:
        kinds = {_kind(table[name]) for table in tables if name in table} - {"string"}
        kind: ColumnType = "number" if kinds == {"integer", "number"} else "string"
        kind = kinds.pop() if len(kinds) == 1 else kind
        columns.append(Column(name, signature.by_name[name].type if name in signature.by_name else kind))
    return tuple(columns)


def _kind(dtype: pl.DataType) -> ColumnType:
    if dtype in (pl.Date, pl.Datetime):
        return "datetime"
    return (
        "number"
        if dtype.is_float()
        else "integer"
        if dtype.is_integer()
        else "boolean"
        if dtype == pl.Boolean
        else "string"
    )


def _key(good: pl.DataFrame, columns: Sequence[Column]) -> list[str]:
    """Return the key of each row as one text, the same for the same typed values."""
    times = (pl.col(column.name).dt.epoch("us") for column in columns if column.type == "datetime")
    parts = good.select(column.name for column in columns).with_columns(*times)
    single = len(columns) == 1 and columns[0].type == "string"
    text = pl.col(columns[0].name) if single else pl.struct(pl.all()).struct.json_encode()
    return parts.select(text.alias("key"))["key"].to_list()


def _take(keys: sqlite3.Connection, table: _Table, wanted: Signature, store: Store | None) -> None:
    """Take in the rows of the table; with a store also the ids among them that the log holds."""
    *columns, value = wanted.inputs
    encode = msgspec.json.Encoder().encode
    for chunk, frame in table:
        checked = check(wanted, chunk, frame)
        good, bad, names = checked.good, checked.bad, _key(checked.good, columns)
        values = (encode(said).decode() for said in good[value.name].to_list())
        rows = [
            *((row, name, said, None) for row, name, said in zip(good[ROW], names, values, strict=True)),
            *((row, None, None, reason) for row, reason in zip(bad[ROW], bad[REASONS], strict=True)),
        ]
        insert = "INSERT INTO given VALUES (?, ?, ?, ?, ?, ?)"
        keys.executemany(insert, ((chunk.before + row, chunk.file, row, *rest) for row, *rest in rows))
        if store:
            known = known_predictions(store, set(names))
            keys.executemany("INSERT OR IGNORE INTO made VALUES (?1, ?1)", ((name,) for name in known))


def _match(keys: sqlite3.Connection, paths: Sequence[Path], wanted: Signature) -> None:
    """Find the published predictions that have one of the keys."""
    names = [column.name for column in wanted.inputs]
    there = "INSERT OR IGNORE INTO made SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM given WHERE key = ?1)"
    for path in paths:
        frame = pl.read_parquet(path, columns=list(dict.fromkeys([IDENTITY, *names])))
        good = check_frame(wanted, frame.select(names), first=0).good
        keys.executemany(there, zip(_key(good, wanted.inputs), frame[IDENTITY].gather(good[ROW]), strict=True))


def _leave(keys: sqlite3.Connection, table: _Table, path: Path) -> None:
    """Write the rows that are not joined, with the reasons, whole or not at all."""
    query = """SELECT row, outcome || ': ' || reason FROM fate WHERE number BETWEEN ? AND ? AND outcome != 'joined'
        ORDER BY number"""
    draft = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as stream:
            for chunk, frame in table:
                first = chunk.before + chunk.first
                rows = keys.execute(query, (first, first + chunk.rows - 1)).fetchall()
                bad = pl.DataFrame(rows, schema={ROW: pl.Int64, REASONS: pl.String}, orient="row")
                rejected(table.columns, chunk, frame, bad).write_csv(stream, include_header=not stream.tell())
        draft.replace(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ProjectError(f"{path} cannot be written: {reason}") from None
    finally:
        draft.unlink(missing_ok=True)


def _keep(keys: sqlite3.Connection, store: Store, notes: list[str], look: bool) -> Joined:
    """Write the feedback; ``look`` whether the log holds the predictions."""
    found = keys.execute("SELECT DISTINCT id, value FROM fate WHERE outcome = 'joined'")
    unlogged = 0
    while batch := {identity: msgspec.json.decode(value) for identity, value in found.fetchmany(BATCH)}:
        truth.write(store, batch)
        unlogged += len(batch) - len(known_predictions(store, batch)) if look else 0
    if unlogged:
        told = "the checks of performance do not see them (pipeline.log_rows)"
        notes = [*notes, f"{unlogged} of the predictions are published but not in the log: {told}"]
    counts = dict(keys.execute("SELECT outcome, count(*) FROM fate GROUP BY outcome").fetchall())
    some = "SELECT file, row, reason FROM fate WHERE outcome = ? ORDER BY number LIMIT ?"
    examples = {
        outcome: [f"{file} row {row}: {reason}" for file, row, reason in keys.execute(some, (outcome, EXAMPLES))]
        for outcome in OUTCOMES[1:]
    }
    return Joined({outcome: counts.get(outcome, 0) for outcome in OUTCOMES}, examples, notes)
