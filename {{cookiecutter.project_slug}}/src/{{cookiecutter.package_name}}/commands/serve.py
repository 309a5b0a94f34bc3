"""``serve``: answer over HTTP."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ProjectError
from ..settings import PREFIX, Settings, load

if TYPE_CHECKING:
    from ..serving.app import Service

PAGES = {"dashboard": "/status", "documents": "/documents/", "clients": "/clients/"}  # rooms with pages for people
FILES = 10_000  # open at once, connections among them
SWITCH = 0.0005  # seconds that a request waits for the interpreter while a thread has it; Python's own are 0.005


def command(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
) -> None:
    """Serve predictions over HTTP until Ctrl-C. Without options the settings decide."""
    from ..serving.security import check_exposure

    settings = load()
    host = settings.serving.host if host is None else host
    check_exposure(settings, host)
    os.environ[f"{PREFIX}SERVING__HOST"] = host  # the guard of each worker has to know
    _hold_many()
    listener = _listen(host, settings.serving.port if port is None else port)
    threading.Thread(target=_announce, args=(settings, listener), daemon=True).start()
    workers = workers or settings.serving.workers
    _alone(listener) if workers == 1 else _together(settings, workers, listener)


def assemble() -> Service:
    """Make the application with all pages that this project has; each worker calls it."""
    from ..serving.app import Service
    from ..telemetry.logs import configure

    settings = load()
    configure(settings)
    sys.setswitchinterval(SWITCH)
    package = __name__.rpartition(".commands")[0]
    return Service(settings, [f"{package}.{room}.pages" for room in _rooms()])


def _rooms() -> list[str]:
    """Return the rooms with pages that this project has; an answer or a deletion may have left one out."""
    return [room for room in PAGES if (Path(__file__).parents[1] / room / "pages.py").is_file()]


def _hold_many() -> None:
    """Let the process have more files open than the usual 1,024, where the system lets it: each connection is one."""
    if sys.platform != "win32":
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
        if now != resource.RLIM_INFINITY and now < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _listen(host: str, port: int) -> socket.socket:
    """Open the port; callers wait there while the model loads."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ProjectError(
            f"port {port} of {host} {reason}: give another with --port (or --host), or stop what holds it"
        ) from None
    listener.set_inheritable(True)
    listener.setblocking(False)
    return listener


def _alone(listener: socket.socket) -> None:
    """Serve in this process."""
    import uvicorn

    from ..serving.security.exposure import certificate
    from ..serving.server import configuration

    service = assemble()
    server = uvicorn.Server(configuration(service, listener, **certificate(service.settings)))
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again once all is closed: this ends with 0
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run([listener])
    if not server.started:
        raise ProjectError("the service could not start: the log above says why")


def _together(settings: Settings, workers: int, listener: socket.socket) -> None:
    """Serve with several processes on one port, their metrics added up."""
    from uvicorn.supervisors import Multiprocess

    from ..serving.security.exposure import certificate
    from ..serving.server import configuration
    from ..store.database import Store
    from ..telemetry.logs import configure
    from ..telemetry.metrics import DIRECTORY

    configure(settings)
    Store(settings).close()  # one process migrates, and says what is wrong
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {DIRECTORY: folder, f"{PREFIX}HOME": str(settings.root)}
        more: dict[str, Any] = {"factory": True, "workers": workers, **certificate(settings)}
        config = configuration(f"{__name__}:assemble", listener, **more)
        Multiprocess(config, [listener]).run()


def _announce(settings: Settings, listener: socket.socket) -> None:
    """Say where the service is once it answers."""
    import http.client
    import json
    import ssl

    host, port = listener.getsockname()[:2]
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection, scheme = http.client.HTTPConnection(reached, port, timeout=120), "http"
    if settings.serving.tls_certificate:
        trusting = ssl._create_unverified_context()  # it calls itself, by an address that no certificate names
        connection, scheme = http.client.HTTPSConnection(reached, port, timeout=120, context=trusting), "https"
    try:
        connection.request("GET", "/health/ready")
        health = json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return
    base = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    state = f"model {health['model_version']}" if health["ready"] else f"no predictions yet: {health['reason']}"
    lines = [f"{settings.project.title} listens on {base} ({state})", f"  API page   {base}/docs"]
    lines += [f"  {room:10} {base}{PAGES[room]}" for room in _rooms()]
    typer.echo("\n".join([*lines, "Ctrl-C stops it."]))
