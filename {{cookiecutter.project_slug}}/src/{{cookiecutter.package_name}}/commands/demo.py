"""``demo``: the whole deployment stage on this machine, with the bundled example."""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ProjectError
from ..settings import PACKAGE, Settings, load

if TYPE_CHECKING:
    import polars as pl

BATCH_ROWS, BAD_SHARE = 20_000, 0.02
REQUESTS, MANY = 300, 500  # requests of one row, and the rows of one request
WAIT = 60.0  # seconds for the service to be ready
EXAMPLE, INCOMING, OUTPUT = "data/example", "data/incoming", "data/predictions"


def command(
    detach: Annotated[bool, typer.Option("--detach", help="Check everything, stop the service and end.")] = False,
) -> None:
    """Train, import, promote, score a batch, serve, watch and document the example; then leave it running."""
    start = time.perf_counter()
    settings = load()
    version = _model(settings)
    if _has("pipeline.run"):
        _batch(settings)
    with _service(settings) as port:
        seconds = time.perf_counter() - start
        _say(f"the service answers after {seconds:.1f} s")
        if _has("serving.routes.predict"):
            _consume(settings, port)
        _run("monitor", "run")
        for action in ("refresh", "check", "export"):
            _run("documents", action)
        _check(settings, port, version)
        _run("status")
        _addresses(settings, port)
        if not detach:
            typer.echo("\nCtrl-C stops it.")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                typer.echo("\nstopping")
    if detach:
        typer.echo(f"all checked in {time.perf_counter() - start:.0f} s; the service is stopped")


def _model(settings: Settings) -> str:
    """Train if there is no trained example yet, import it, and make it the champion."""
    from ..example import dataset
    from ..models.registry import CHAMPION, Registry

    if not settings.path(EXAMPLE).joinpath("model.skops").is_file():
        _run("example", "train")
    files = {name: f"{EXAMPLE}/{name}" for name in ("model.skops", "sample.csv", "signature.json")}
    target = dataset(settings.project.example).TARGET.name
    options = ["--sample", files["sample.csv"], "--target", target, "--signature", files["signature.json"]]
    version = str(_run("model", "import", files["model.skops"], *options))
    champion = Registry(settings).aliases().get(CHAMPION)
    if champion and champion.version != version:
        raise ProjectError(f"the champion {champion.version} is not the example's model: the demo leaves it alone")
    if champion is None:
        _run("model", "promote", version, "--reason", "demo")
    return version


def _batch(settings: Settings) -> None:
    rows = f"{INCOMING}/rows.csv"
    if not settings.path(rows).is_file():
        settings.path(INCOMING).mkdir(parents=True, exist_ok=True)
        _run("example", "rows", "--rows", str(BATCH_ROWS), "--bad", str(BAD_SHARE), "--output", rows)
    _run("pipeline", "run", "--input", INCOMING, "--output", OUTPUT)


@contextmanager
def _service(settings: Settings) -> Iterator[int]:
    """Run the service on the configured port, or on a free one; give the port once it is ready."""
    port = settings.serving.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.bind(("127.0.0.1", 0))
            _say(f"port {port} is in use: taking another")
        port = probe.getsockname()[1]
    log = settings.path("data/service.log")
    typer.echo(f"\n$ {settings.project.slug} serve --port {port}")
    arguments = [sys.executable, "-m", PACKAGE, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(arguments, cwd=settings.root, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + WAIT
        while _get(port, "/health/ready")[0] != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ProjectError(f"the service did not become ready: {log} says why")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=WAIT)


def _consume(settings: Settings, port: int) -> None:
    """Send real requests, one of them wrong, and the truth that comes later."""
    from ..example import dataset

    data = dataset(settings.project.example)
    frame = data.rows(REQUESTS + MANY, seed=3)
    bodies, truth = _bodies(frame.drop(data.TARGET.name)), frame[data.TARGET.name].to_list()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    start = time.perf_counter()
    ids = [_post(connection, "/v1/predict", {"row": body})[1]["id"] for body in bodies[:REQUESTS]]
    rate = REQUESTS / (time.perf_counter() - start)
    ids += [one["id"] for one in _post(connection, "/v1/predict", {"rows": bodies[REQUESTS:]})[1]["predictions"]]
    status, problem = _post(connection, "/v1/predict", {"row": bodies[0] | {next(iter(bodies[0])): "?"}})
    _say(f"{REQUESTS} requests of one row, one after the other: {rate:.0f} a second; one of {MANY} rows")
    _say(f"a wrong row is refused with {status}: {problem['detail']}")
    if status != 422:
        raise ProjectError(f"a wrong row was answered with {status}")
    items = [{"id": one, "actual": actual} for one, actual in zip(ids, truth, strict=True)]
    accepted = _post(connection, "/v1/feedback", {"items": items})[1]["accepted"]
    connection.close()
    _say(f"the truth came back for {accepted} predictions")
    if accepted != len(items):
        raise ProjectError(f"feedback was accepted for {accepted} of {len(items)} predictions")


def _bodies(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON has them."""
    import polars as pl

    times = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
    return frame.with_columns(pl.col(times).dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()


def _check(settings: Settings, port: int, version: str) -> None:
    """Hold what the demo made against what it did."""
    from ..models.registry import Registry

    for path in ("/status", "/docs", "/openapi.json", "/documents/", "/metrics", "/v1/model"):
        status, body = _get(port, path)
        if status != 200 or not body:
            raise ProjectError(f"{path} answered {status}")
    metrics = Registry(settings).load(version).metrics
    folder = settings.path(settings.documents.output)
    for name in ("final-model-report", "solution-architecture"):
        for suffix in ("pdf", "docx", "html"):
            if not (folder / f"{name}.{suffix}").stat().st_size:
                raise ProjectError(f"{name}.{suffix} is empty")
    report = settings.path(settings.documents.folder).joinpath("final-model-report.md").read_text(encoding="utf-8")
    if str(metrics["rows"])[:1] not in report or version not in report:
        raise ProjectError("the final model report does not name the champion")


def _addresses(settings: Settings, port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    example = f"curl -s {base}/v1/model"
    if _has("serving.routes.predict"):
        from ..models.registry import CHAMPION, Registry

        row = json.dumps({"row": Registry(settings).load(CHAMPION).signature.example_row()})
        example = f"curl -s {base}/v1/predict -H 'Content-Type: application/json' -d '{row}'"
    typer.echo(f"\n  status page  {base}/status")
    typer.echo(f"  API page     {base}/docs")
    typer.echo(f"  documents    {base}/documents/")
    typer.echo(f"  try          {example}")


def _run(*words: str) -> Any:
    """Show a command as one would type it, and run it."""
    from . import build

    slug = PACKAGE.replace("_", "-")
    typer.echo(f"\n$ {slug} {' '.join(words)}")
    result = build()(list(words), standalone_mode=False)
    if isinstance(result, int) and result:
        raise ProjectError(f"`{slug} {' '.join(words[:2])}` ended with status {result}")
    return result


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _post(connection: http.client.HTTPConnection, path: str, body: object) -> tuple[int, Any]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def _has(module: str) -> bool:
    """Whether this project has a module; an answer or a deletion may have left it out."""
    name = f"{PACKAGE}.{module}"
    parent = name.rpartition(".")[0]
    return bool(importlib.util.find_spec(parent) and importlib.util.find_spec(name))


def _say(text: str) -> None:
    typer.echo(f"  {text}")
