"""How fast a key may call: a token bucket, exact over the workers of one machine.

Several machines each allow the rate, because they share nothing that is fast enough to be asked at every request.
"""

from __future__ import annotations

import mmap
import os
from functools import partial
from pathlib import Path
from time import monotonic
from weakref import WeakValueDictionary

from ...telemetry.metrics import DIRECTORY

BURST = 1.0  # seconds of the rate that may come at once; one request may always
ROUNDING = 1e-6  # seconds


class Bucket:
    """A token bucket in one number: the moment until which the requests so far are paid for, at the rate's pace.

    This is the generic cell rate algorithm (ITU-T I.371, annex A), which admits exactly what a token bucket does. It
    serves one thread.

    Args:
        rate: requests a second.
        cell: holds the number: seconds of the clock that all processes of a machine share.
    """

    def __init__(self, rate: float, cell: list[float] | memoryview[float]) -> None:
        self._step, self._cell = 1 / rate, cell
        self._ahead = max(0.0, BURST - self._step)

    def take(self) -> float:
        """Admit a request; returns 0, or for how many seconds it has to wait."""
        now, paid = monotonic(), self._cell[0]
        if not now < paid < now + self._ahead + self._step + ROUNDING:  # further ahead: the machine started anew
            paid = now
        wait = paid - now - self._ahead
        if wait > ROUNDING:
            return wait
        self._cell[0] = paid + self._step
        return 0.0


class Shared(Bucket):
    """A bucket whose number is in a file, in memory that all workers see; a lock of the file orders them."""

    def __init__(self, rate: float, path: Path) -> None:
        import fcntl  # there is none on Windows, nor are there workers

        self._file = path.open("a+b")
        self._file.truncate(8)
        super().__init__(rate, memoryview(mmap.mmap(self._file.fileno(), 8)).cast("d"))
        self._lock = partial(fcntl.lockf, self._file, fcntl.LOCK_EX)
        self._unlock = partial(fcntl.lockf, self._file, fcntl.LOCK_UN)

    def take(self) -> float:
        """Admit a request; returns 0, or for how many seconds it has to wait."""
        self._lock()
        try:
            return super().take()
        finally:
            self._unlock()


def bucket(rate: float, name: str) -> Bucket:
    """Return the bucket of a name: the one that is in use, if there is one.

    Several workers share it by way of the folder in which they add up their metrics.

    Args:
        rate: requests a second.
        name: of the key that it is for.
    """
    used = _used.get(name)
    if used is None:
        folder = os.environ.get(DIRECTORY)
        used = Shared(rate, Path(folder, f"{name}.rate")) if folder else Bucket(rate, [0.0])
        _used[name] = used
    return used


_used: WeakValueDictionary[str, Bucket] = WeakValueDictionary()
