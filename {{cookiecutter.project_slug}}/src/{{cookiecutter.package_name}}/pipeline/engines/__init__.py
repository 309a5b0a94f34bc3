"""What scores the chunks of a run: one file an engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import polars as pl

    from ...models.bundle import Bundle


class Engine(Protocol):
    """A module of this folder."""

    def score(self, bundle: Bundle, frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Give the model's output for each frame, in order, of the same height; read ahead only a little."""


def load(name: str = "local") -> Engine:
    """Return an engine by the name of its file."""
    return cast(Engine, import_module(f".{name}", __name__))
