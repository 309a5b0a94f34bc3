"""``GET /v1/predictions``: the log of predictions, page by page, for dashboards, analyses and audits."""

from __future__ import annotations

import asyncio
import io
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import structlog

from ...errors import ProjectError
from ...features import utc
from ...store.history import Logged, Wanted, page
from ..answers import API, JSON, Answer, Call, Refused, Route, Routes, problem
from ..state import State

PATH = "/v1/predictions"
LIMIT, MOST = 1_000, 100_000
KINDS = {
    "json": JSON,
    "csv": b"text/csv; charset=utf-8",
    "parquet": b"application/vnd.apache.parquet",
    "arrow": b"application/vnd.apache.arrow.stream",
}
OWN = ("id", "time", "model_version", "source", "latency_ms", "actual")  # a table's columns beside the model's
STORE = problem(503, "store", "the log cannot be read now: ask again later", headers=((b"retry-after", b"5"),))

log = structlog.get_logger(__name__)


def routes(state: State) -> Routes:
    """Return the route."""

    def handle(call: Call) -> Awaitable[Answer]:
        asked = _asked(call.query)
        return asyncio.to_thread(_answer, state, *asked)

    return {("GET", PATH): Route(handle)}


def _asked(query: bytes) -> tuple[Wanted, int, str]:
    """Read the parameters; refuse those that are none."""
    try:
        given = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise Refused(problem(400, "malformed", "the address cannot be read: write it percent-encoded")) from None
    values, limit, kind = dict[str, Any](), LIMIT, "json"
    for name, text in given:
        if name in ("since", "until"):
            values[name] = _time(name, text)
        elif name == "after":
            values[name] = _cursor(text)
        elif name in ("version", "run"):
            values[name] = _plain(name, text)
        elif name == "source":
            values[name] = _one_of(name, text, ("http", "batch"))
        elif name == "format":
            kind = _one_of(name, text, KINDS)
        elif name == "limit":
            if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MOST):
                raise _wrong(name, f"a number from 1 to {MOST}")
            limit = int(text)
        else:
            known = "since, until, version, source, run, after, limit, format"
            raise Refused(problem(422, "parameter", f"a parameter is not known: there are {known}"))
    return Wanted(**values), limit, kind


def _answer(state: State, wanted: Wanted, limit: int, kind: str) -> Answer:
    try:
        if not state.events.flush_soon():
            log.warning("the log is behind: what was just predicted may be missing")
        found = page(state.store, wanted, limit + 1)
    except ProjectError as error:
        log.error("log not read", reason=str(error))
        return STORE
    more, found = len(found) > limit, found[:limit]
    after = urlsafe_b64encode(f"{found[-1].time.isoformat()} {found[-1].id}".encode()).decode() if more else None
    if kind == "json":
        return Answer(200, msgspec.json.encode({"predictions": [_shown(one) for one in found], "next": after}))
    headers = (*API, (b"x-next", after.encode())) if after else API
    return Answer(200, _table(state, found, kind), KINDS[kind], headers)


def _shown(one: Logged) -> dict[str, Any]:
    texts = {name: msgspec.Raw(getattr(one, name) or "null") for name in ("inputs", "output", "actual")}
    return one._asdict() | texts


def _table(state: State, found: Sequence[Logged], kind: str) -> bytes:
    """Return a table with the columns of the model in service: those that another version lacks are empty."""
    import polars as pl

    from ...store.frames import unpacked

    texts = {name: pl.String for name in ("id", "model_version", "source", "inputs", "output", "actual")}
    schema = {name: texts.get(name, pl.Float64) for name in Logged._fields} | {"time": pl.Datetime("us", "UTC")}
    frame = pl.DataFrame([tuple(one) for one in found], schema=schema, orient="row")
    columns: list[pl.Expr] = [
        pl.col(name) for name in ("id", "time", "model_version", "source", "latency_ms", "actual")
    ]
    if state.served:
        signature = state.served.bundle.signature
        taken = {"id", "time", "model_version", "source", "latency_ms", "actual"}
        taken |= {column.name for column in signature.outputs}
        for expression, column in zip(unpacked("inputs", signature.inputs), signature.inputs, strict=True):
            columns.append(expression.alias(f"{column.name}_input" if column.name in taken else column.name))
        columns += unpacked("output", signature.outputs)
    table, target = frame.select(columns), io.BytesIO()
    if kind == "csv":
        return table.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.fZ").encode()
    table.write_parquet(target) if kind == "parquet" else table.write_ipc_stream(target)
    return target.getvalue()


def _time(name: str, text: str) -> datetime:
    try:
        return utc(msgspec.convert(text.replace(" ", "+"), datetime)) or datetime.now(UTC)
    except msgspec.ValidationError:
        raise _wrong(name, "a time such as 2026-01-31T08:00:00Z") from None


def _cursor(text: str) -> tuple[datetime, str]:
    try:
        time, _, identity = urlsafe_b64decode(text.encode()).decode().partition(" ")
        return datetime.fromisoformat(time).astimezone(UTC), _plain("after", identity)
    except ValueError:
        raise _wrong("after", "the text that the page before gave as next") from None


def _plain(name: str, text: str) -> str:
    if not (text.isascii() and text.isprintable() and 0 < len(text) <= 64):
        raise _wrong(name, "an id")
    return text


def _one_of(name: str, text: str, known: Any) -> str:
    if text not in known:
        raise _wrong(name, f"one of {', '.join(known)}")
    return text


def _wrong(name: str, wanted: str) -> Refused:
    return Refused(problem(422, "parameter", f"{name} must be {wanted}"))
