"""What does the chunks of a run, one module an engine: add a file and name it in ``pipeline.engine``.

Each has ``map(work, chunks, settings)``, which does ``work`` for every chunk, anywhere and in any order, and gives the
markers as they come. It takes few chunks ahead of those that are done, if it can, and does a chunk again when what did
it is lost: the work allows that.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Generator, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import ProjectError
from ..manifest import Json
from ..sources import Chunk
from ..steps import Work

if TYPE_CHECKING:
    from ...settings import Pipeline

# Every worker has one core: no library may start a thread a core in each. Set before a worker imports anything.
ALONE = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Engine(Protocol):
    """A module of this folder."""

    def map(self, work: Work, chunks: Iterable[Chunk], settings: Pipeline) -> Generator[Json, None, None]:
        """Do all chunks; give their markers in any order."""


def find(name: str) -> Engine:
    """Return the engine of this name.

    Raises:
        ProjectError: there is none.
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in names:
        raise ProjectError(f"there is no engine {name}: set pipeline.engine to one of {', '.join(names)}")
    engine: Any = import_module(f".{name}", __name__)
    return engine  # type: ignore[no-any-return]
