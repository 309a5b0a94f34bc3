"""The Open Inference Protocol v2 over gRPC, on a port of its own: ``serving.grpc_port``."""

from __future__ import annotations

from ...errors import ProjectError
from ..answers import Routes
from ..state import State


def routes(state: State) -> Routes:
    """Return no route of HTTP, but let the service run the server; raises `ProjectError` if that cannot be."""
    if state.settings.serving.grpc_port:
        try:
            from ..v2.grpc import Server  # an extra, and slow to import
        except ImportError:
            raise ProjectError(
                f"serving.grpc_port needs an extra: pip install '{state.settings.project.slug}[grpc]'"
            ) from None
        state.services.append(Server(state))
    return {}
