from __future__ import annotations

import ipaddress
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
import uvicorn

import project
from project.models import bundle
from project.models.registry import Registry
from project.serving.app import Service
from project.serving.security.exposure import certificate
from project.serving.server import configuration
from project.settings import Settings
from project.signature import Column, Signature
from project.telemetry.logs import configure


@contextmanager
def serve(settings: Settings) -> Iterator[httpx.Client]:
    configure(settings)
    files = certificate(settings)
    scheme, trusted = ("https", ssl.create_default_context(cafile=files["ssl_certfile"])) if files else ("http", True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(configuration(Service(settings), listener, **files))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=60, trust_env=False, verify=trusted) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def serving() -> Callable[[Settings], AbstractContextManager[httpx.Client]]:
    """Serve settings on a free port of loopback, and get a client."""
    return serve


@pytest.fixture
def client(champion: Settings) -> Iterator[httpx.Client]:
    """A client of a service with a champion."""
    with serve(champion) as client:
        yield client


@pytest.fixture
def empty_client(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a service that has no model yet."""
    with serve(settings) as client:
        yield client


@pytest.fixture
def signature(champion: Settings) -> Signature:
    return Registry(champion).load("champion").signature


@pytest.fixture
def row(signature: Signature) -> dict[str, Any]:
    return signature.example_row()


@pytest.fixture
def number(signature: Signature) -> Column:
    """A column that wants a number."""
    return next(column for column in signature.inputs if column.numeric)


@pytest.fixture
def first(champion: Settings) -> str:
    """The version of the champion."""
    return Registry(champion).resolve("champion")


@pytest.fixture
def other(champion: Settings) -> str:
    """A second version: the same model, imported at another time."""
    registry = Registry(champion)
    first = registry.load("champion")
    content = {name: (first.folder / name).read_bytes() for name in first.manifest["files"]}
    rest = {key: value for key, value in first.manifest.items() if key not in ("files", "format")}
    return bundle.write(registry.versions_folder, {**rest, "created": "2020-01-01T00:00:00Z"}, content).version


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Run the command line in a process of its own."""

    def run(settings: Settings, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", project.__name__, *arguments],
            cwd=settings.root,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def served(start: Any) -> Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[str], str]]]:
    """Start the service, give its address once it says that it listens, and see that it ends well."""

    @contextmanager
    def serving(
        settings: Settings, *arguments: str, **environment: str
    ) -> Iterator[tuple[str, subprocess.Popen[str], str]]:
        process = start(settings, "serve", "--port", "0", *arguments, **environment)
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if "Ctrl-C" in line:
                    break
            address = re.search(r"https?://\S+:\d+", "".join(said))
            assert address, process.communicate(timeout=60)
            yield address[0], process, "".join(said)
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=60)
            assert process.returncode == 0, error
            assert "Traceback" not in error
        finally:
            process.kill()
            process.wait()

    return serving


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for something that happens soon."""

    def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
        pause, deadline = threading.Event(), monotonic() + seconds
        while not condition():
            assert monotonic() < deadline, "it did not happen in time"
            pause.wait(0.02)

    return wait


@pytest.fixture
def pem(needs_extra: Callable[[str], Any], tmp_path: Path) -> Path:
    """A certificate that signs itself, for loopback, and its key; and the key of another."""
    needs_extra("jwt")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now, day = datetime.now(UTC), timedelta(days=1)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    for file, private, lock in (
        ("key.pem", key, serialization.NoEncryption()),
        ("other.pem", other, serialization.NoEncryption()),
        ("secret.pem", key, serialization.BestAvailableEncryption(b"hunter2")),
    ):
        (tmp_path / file).write_bytes(private.private_bytes(*form, lock))
    return tmp_path
