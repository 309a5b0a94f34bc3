"""What processes take, as Linux tells it."""

import os
from contextlib import suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """Return a process and those below it."""
    found = [pid]
    with suppress(OSError):  # it has just ended
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [one for child in path.read_text().split() for one in family(int(child))]
    return found


def largest(pid: int) -> float:
    """Return the resident memory of the largest process of a family, in MB."""
    return max(_memory(one, "status", "VmRSS:") for one in family(pid))


def together(pid: int) -> float:
    """Return the memory of a family in MB, what its processes share counted once."""
    return sum(_memory(one, "smaps_rollup", "Pss:") for one in family(pid))


def used(pid: int) -> float:
    """Return the processor seconds of a family so far."""
    total = 0.0
    for one in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _memory(pid: int, file: str, name: str) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0
