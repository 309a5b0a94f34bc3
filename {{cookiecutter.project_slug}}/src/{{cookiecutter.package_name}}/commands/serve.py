"""``serve``: answer over HTTP."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import socket
import tempfile
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ProjectError
from ..settings import PREFIX, Settings, load

if TYPE_CHECKING:
    from fastapi import APIRouter

    from ..serving.hot import Service

PACKAGE = __name__.rpartition(".commands")[0]
PAGES = {"dashboard": "/status", "documents": "/documents/", "clients": "/clients/"}  # rooms with pages for people
GRACE = 20  # seconds for requests in flight at the end


def command(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
) -> None:
    """Serve predictions over HTTP until Ctrl-C. Without options the settings decide."""
    settings = load()
    given = {"host": host, "port": port, "workers": workers}
    serving = settings.serving.model_copy(update={key: value for key, value in given.items() if value is not None})
    from ..serving.security import check_exposure
    from ..telemetry.logs import configure

    check_exposure(settings, serving.host)
    configure(settings)
    listener = listen(serving.host, serving.port)
    threading.Thread(target=_announce, args=(settings, serving.host, listener), daemon=True).start()
    if serving.workers == 1:
        _alone(assemble(settings), listener)
    else:
        _together(settings, serving.workers, listener)


def assemble(settings: Settings | None = None) -> Service:
    """Make the application with all pages that this project has; workers call it by name.

    Raises:
        ProjectError: the settings are wrong or the store cannot be used.
    """
    from ..serving.app import create

    if settings is None:
        from ..telemetry.logs import configure

        settings = load()
        configure(settings)
    return create(settings, late=lambda: pages(settings))


def pages(settings: Settings) -> list[APIRouter]:
    """Return the routers of the pages that this project has."""
    return [importlib.import_module(f"{PACKAGE}.{room}.pages").router(settings) for room in PAGES if _present(room)]


def _present(room: str) -> bool:
    name = f"{PACKAGE}.{room}"
    return bool(importlib.util.find_spec(name) and importlib.util.find_spec(f"{name}.pages"))


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        ProjectError: it is taken or cannot be had; the sentence says what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise ProjectError(
            f"{host} is no address of this machine: listen on 127.0.0.1, or give another --host"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)  # callers wait here while the model loads
    except OSError as error:
        listener.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ProjectError(
            f"port {port} of {host} {reason}: give another with --port (or --host), or stop what holds it"
        ) from None
    listener.set_inheritable(True)
    return listener


def _options() -> dict[str, Any]:
    return {
        "log_config": None,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "loop": "uvloop",
        "http": "httptools",
        "timeout_graceful_shutdown": GRACE,
    }


def _alone(app: Service, listener: socket.socket) -> None:
    """Serve in this process."""
    import signal

    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, **_options()))

    def stop(*_: object) -> None:  # uvicorn raises the signal again once all is closed: then it finds this
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    server.run([listener])
    if not server.started:
        raise ProjectError("the service could not start: the log above says why")


def _together(settings: Settings, workers: int, listener: socket.socket) -> None:
    """Serve with several processes on one port, their metrics added up."""
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from ..store.database import Store
    from ..telemetry.metrics import DIRECTORY

    Store(settings).close()  # one process migrates, and says what is wrong
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {DIRECTORY: folder, f"{PREFIX}HOME": str(settings.root)}
        config = uvicorn.Config(f"{__name__}:assemble", factory=True, workers=workers, **_options())
        Multiprocess(config, [listener]).run()


def _announce(settings: Settings, host: str, listener: socket.socket) -> None:
    """Say where the service is once it answers."""
    import http.client
    import json

    port = listener.getsockname()[1]
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(near, port, timeout=120)
    try:
        connection.request("GET", "/health/ready")
        health = json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return
    finally:
        connection.close()
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    state = f"model {health['model_version']}" if health["ready"] else f"no predictions yet: {health['reason']}"
    lines = [f"{settings.project.title} listens on {base} ({state})", f"  API page   {base}/docs"]
    lines += [f"  {room:10} {base}{path}" for room, path in PAGES.items() if _present(room)]
    typer.echo("\n".join([*lines, "Ctrl-C stops it."]))
