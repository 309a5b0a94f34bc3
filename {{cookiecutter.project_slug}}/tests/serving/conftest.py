from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from project.models.registry import Registry
from project.serving.app import create
from project.settings import Settings
from project.signature import Column, Signature
from project.telemetry.logs import configure


@contextmanager
def serve(settings: Settings) -> Iterator[httpx.Client]:
    configure(settings)
    server = uvicorn.Server(uvicorn.Config(create(settings), log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
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
