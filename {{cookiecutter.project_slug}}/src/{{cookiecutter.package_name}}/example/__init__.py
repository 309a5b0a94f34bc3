"""The bundled examples: synthetic data and training. Delete this folder once your own model is in."""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl

from ..errors import ProjectError
from ..signature import Column

NONSENSE: dict[str, tuple[str, ...]] = {
    "number": ("not measured", "error 17"),
    "integer": ("not known", "three"),
    "boolean": ("maybe", "??"),
    "datetime": ("2025-02-31T25:00:00Z", "yesterday"),
}


def dataset(name: str) -> ModuleType:
    """Return the example's module, such as `bike_demand` for "bike-demand" (the setting `project.example`).

    Raises:
        ProjectError: there is no such example in this project.
    """
    module = name.replace("-", "_")
    if not (module.isidentifier() and Path(__file__).with_name(f"{module}.py").is_file()):
        raise ProjectError(
            f"there is no example {name!r} in this project: set project.example in config/settings.toml "
            "to bike-demand or customer-churn, or use your own data"
        )
    return importlib.import_module(f".{module}", __name__)


def spoil(frame: pl.DataFrame, columns: Sequence[Column], share: float, seed: int) -> pl.DataFrame:
    """Return `frame` as text with a share of its rows (0 to 1), drawn by `seed`, broken in one value each.

    Each broken row violates a rule of `columns`: a required value missing, text in a number, a number out of
    range, an unknown category, an impossible time.
    """
    rng = np.random.default_rng(seed)
    texts = {name: series.to_list() for name, series in as_text(frame).to_dict().items()}
    faults = [(column.name, value) for column in columns for value in _faults(column)]
    for row in rng.choice(frame.height, round(share * frame.height), replace=False).tolist():
        name, value = faults[int(rng.integers(len(faults)))]
        texts[name][row] = value
    return pl.DataFrame(texts, schema=dict.fromkeys(texts, pl.String))


def _faults(column: Column) -> list[str | None]:
    """Values that break the rules of this column."""
    faults: list[str | None] = [*NONSENSE.get(column.type, ()), *(f"{item}?" for item in column.categories[:2])]
    if not column.nullable:
        faults.append(None)
    if column.minimum is not None:
        faults.append(f"{column.minimum - 7:g}")
    if column.maximum is not None:
        faults.append(f"{column.maximum + 480:g}")
    return faults


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with every column as the text that a CSV file would hold (null stays null)."""
    times = [name for name, kind in frame.schema.items() if kind == pl.Datetime]
    return frame.with_columns(pl.col(times).dt.strftime("%Y-%m-%dT%H:%M:%SZ")).cast(pl.String)


def publish(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write to a temporary name beside `path`, then put the file in place in one step.

    Raises:
        ProjectError: the file cannot be written; nothing is left behind.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        try:
            save(draft)
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ProjectError(f"cannot write {path} ({reason}): choose another place for it") from None
