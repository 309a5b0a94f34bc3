"""What earlier runs have read, for runs of new files only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from . import manifest
from .sources import File


def ledger(output: Path, version: str) -> set[str]:
    """Return the SHA-256 of every file that a published run below ``output`` has read with this model."""
    seen: set[str] = set()
    for path in output.glob(f"[!.]*/{manifest.NAME}"):
        try:
            content = json.loads(path.read_bytes())
            if content["model_version"] == version:
                seen.update(entry["sha256"] for entry in content["inputs"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no manifest of ours
    return seen


def unseen(files: Sequence[File], output: Path, version: str) -> list[File]:
    """Return the files that no published run below ``output`` has read with this model."""
    seen = ledger(output, version)
    return [file for file in files if file.sha256 not in seen]
