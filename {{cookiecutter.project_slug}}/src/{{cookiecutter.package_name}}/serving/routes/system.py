"""Health, metrics, the model in service, and the API page with every file served from here."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import msgspec

from ...errors import ProjectError
from ...models.registry import CHAMPION
from ...store.database import Store
from ...store.queries import batches
from ...telemetry import metrics
from ..answers import NO_CHAMPION, PAGE, Answer, Handler, Route, Routes
from ..state import State

STATIC = {"swagger-ui.css": b"text/css", "swagger-ui-bundle.js": b"text/javascript", "favicon.png": b"image/png"}
API_PAGE = (Path(__file__).parents[1] / "docs.html").read_bytes()
PATIENCE = 2.0  # seconds in which the log is asked for batch runs; Prometheus itself waits for ten
START = b'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });\n'


def routes(state: State) -> Routes:
    """Return the routes."""
    runs = _Runs(state.store)
    return {
        ("GET", "/health/live"): Route(lambda _: _json({"live": True}), "open"),
        ("GET", "/health/ready"): Route(lambda _: _ready(state), "open"),
        ("GET", "/metrics"): Route(lambda _: _metrics(state, runs), page=True),
        ("GET", "/v1/model"): Route(lambda _: _model(state)),
        ("GET", "/docs"): Route(lambda _: Answer(200, API_PAGE, b"text/html; charset=utf-8", PAGE), page=True),
        ("GET", "/docs/start.js"): Route(lambda _: Answer(200, START, b"text/javascript", PAGE), page=True),
        **{("GET", f"/docs/static/{name}"): Route(_file(name, kind), page=True) for name, kind in STATIC.items()},
    }


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(value))


async def _metrics(state: State, runs: _Runs) -> Answer:
    def own() -> bytes:
        state.events.gather()
        return metrics.exposition()

    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(runs.ask), PATIENCE)
    return Answer(200, await asyncio.to_thread(own) + runs.text, b"text/plain; version=0.0.4; charset=utf-8")


class _Runs:
    """What the log says of batch runs; while it cannot be asked, what it said last."""

    def __init__(self, store: Store) -> None:
        self._store, self._asking, self.text = store, threading.Lock(), b""

    def ask(self) -> None:
        if self._asking.acquire(blocking=False):  # whoever comes meanwhile does not wait
            try:
                self.text = metrics.batches(batches(self._store))
            except ProjectError:
                pass
            finally:
                self._asking.release()


def _ready(state: State) -> Answer:
    version, troubles = state.served.bundle.version if state.served else None, dict(state.troubles)
    if version and CHAMPION in troubles:
        troubles[CHAMPION] = f"version {version} goes on, because the new champion is not usable: {troubles[CHAMPION]}"
    reason = "the service is about to end" if state.draining else "; ".join(troubles.values())
    ready = bool(version) and not state.draining
    return _json({"ready": ready, "model_version": version, "reason": reason}, 200 if ready else 503)


def _model(state: State) -> Answer:
    if state.served is None:
        return NO_CHAMPION
    bundle, canary, shadow = state.served.bundle, state.canary, state.shadow
    made = state.served.predictor  # none in a project without predictions
    batching = {"batching": {"on": made.batches, "gain": made.gain and round(made.gain, 2)}} if made else {}
    tried: dict[str, object] = {}
    if canary:
        tried["canary"] = {"version": canary.bundle.version, "share": canary.alias.share}
    if shadow:
        tried["shadow"] = {"version": shadow.bundle.version}
    return _json(
        {
            "version": bundle.version,
            "alias": CHAMPION,
            "runtime": bundle.manifest["runtime"],
            "imported_at": bundle.provenance["imported_at"],
            "metrics": bundle.metrics,
            "signature": bundle.signature.to_json(),
            **batching,
            **tried,
        }
    )


def _file(name: str, kind: bytes) -> Handler:
    def read() -> Answer:
        content = (files("fastapi_offline") / "static" / name).read_bytes()
        return Answer(200, content, kind, (*PAGE, (b"cache-control", b"max-age=3600")))

    return lambda _: asyncio.to_thread(read)
