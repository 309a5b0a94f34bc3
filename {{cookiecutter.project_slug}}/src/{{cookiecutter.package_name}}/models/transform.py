"""The team's own way from rows to the model's columns: a function in one file, kept in every bundle made with it.

``def transform(rows: pl.DataFrame) -> pl.DataFrame`` gets rows as the signature types them, and gives one row for each,
in their order. Training imports the file, and `model import` puts its source into the bundle, where everything that
scores finds it. What it makes of a row must come of that row alone: a service sees one at a time, a batch thousands.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ProjectError
from .bundle import Bundle
from .formats import first_line
from .formats.python import importing

if TYPE_CHECKING:
    import polars as pl

FILE, FUNCTION = "transform.py", "transform"  # of a bundle
MODULE = "@transform"  # a name that no import asks for
MOST = 1 << 20  # bytes
PROBED = 200  # rows that are transformed alone
ROUNDING = 1e-9  # relative: a library may approximate in another way where there are more rows
INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
FLOATS = ("Float32", "Float64")
KINDS = (*INTEGERS, *FLOATS, "Boolean", "String", "Date", "Datetime")
ALONE = "a transform must look at one row at a time"


@dataclass(frozen=True)
class Transform:
    """A loaded transform.

    Args:
        source: its file.
        function: of the team.
        schema: the columns that it gives and their types, as the sample showed them: one row alone cannot show the
            type of a value that is missing.
    """

    source: str
    function: Callable[[pl.DataFrame], Any]
    schema: Mapping[str, str]

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Transform typed rows.

        Raises:
            ProjectError: the function fails, or gives something else than at the import.
        """
        import polars as pl

        if not rows.height:
            return pl.DataFrame(schema={name: _dtype(kind) for name, kind in self.schema.items()})
        made = self.make(rows)
        return pl.DataFrame([_as(made, name, kind) for name, kind in self.schema.items()])

    def make(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Transform typed rows into columns of any type."""
        import polars as pl

        made = self.attempt(rows.clone())
        if isinstance(made, BaseException):
            cause = f"{type(made).__name__}: {first_line(made)}"
            raise ProjectError(f"{FILE} fails{self._where(rows)} ({cause})") from made
        if not isinstance(made, pl.DataFrame):
            raise ProjectError(f"{FILE} gives a {type(made).__name__}: it must give a polars DataFrame")
        if made.height != rows.height:
            raise ProjectError(f"{FILE} gives {made.height} rows for {rows.height}: it must give one for each")
        return made

    def attempt(self, rows: pl.DataFrame) -> Any:
        """Return what the function gives, or raises."""
        import polars as pl

        try:
            made = self.function(rows)
            return made.collect() if isinstance(made, pl.LazyFrame) else made
        # Code of the team may raise anything.
        except (Exception, SystemExit, pl.exceptions.PanicException) as error:
            return error

    def _where(self, rows: pl.DataFrame) -> str:
        """Say at which of many rows the function fails, if it fails at one alone."""
        first, count = 0, rows.height
        while count > 1:
            half = count // 2
            if isinstance(self.attempt(rows[first : first + half]), BaseException):
                count = half
            elif isinstance(self.attempt(rows[first + half : first + count]), BaseException):
                first, count = first + half, count - half
            else:
                return f" at {rows.height} rows together"
        return f" at row {first + 1} of {rows.height}" if rows.height > 1 else ""


def read(path: Path) -> str:
    """Return the source of a transform; nothing of it runs.

    Raises:
        ProjectError: it is no Python file, or needs files beside it.
    """
    try:
        if path.stat().st_size > MOST:
            raise ProjectError(f"{path.name} has more than {MOST >> 20} MB: a transform is one file of code")
        text = path.read_text(encoding="utf-8-sig")
        tree = ast.parse(text, path.name)
    except OSError as error:
        raise ProjectError(f"the transform {path} cannot be read: {error.strerror}") from None
    except SyntaxError as error:
        raise ProjectError(f"{path.name} is no Python: line {error.lineno}, {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ProjectError(f"{path.name} is no Python in UTF-8") from None
    for name in _imports(tree):
        if not name or (path.parent / name).is_dir() or (path.parent / f"{name}.py").is_file():
            what = f"imports {name}, which lies beside it" if name else "has a relative import"
            raise ProjectError(f"{path.name} {what}: a transform is one file, for the bundle keeps no other")
    return text


def prove(text: str, rows: pl.DataFrame, example: pl.DataFrame) -> Transform:
    """Load a transform, and see on the sample that what it makes of a row depends on that row alone.

    Args:
        text: its source.
        rows: of the sample, typed.
        example: the signature's example row, with which a service begins.

    Returns:
        The transform with its schema.

    Raises:
        ProjectError: it fails, depends on other rows, on the time or on chance, or changes what it is given.
    """
    import polars as pl

    draft = _load(text, {})
    transform = replace(draft, schema={series.name: _known(series) for series in draft.make(rows)})
    places = _places(rows)
    whole, probe, taken = transform(rows)[places], rows[places], rows[places]
    _same(whole, transform(rows)[places], places, "each time", "it must not use chance, the time or what it saw before")
    transform.attempt(taken)
    if not taken.equals(probe):
        raise ProjectError(f"{FILE} changes the rows that it is given: make new columns with select or with_columns")
    single = [(f"row {place + 1} of the sample", rows[place : place + 1]) for place in places]
    alone = []
    for name, row in [*single, ("the signature's example row", example)]:
        try:
            alone.append(transform(row))
        except ProjectError as error:
            raise ProjectError(f"{name} cannot be transformed alone: {error}") from None
    _same(whole, pl.concat(alone[: len(places)]), places, "alone than among others", ALONE)
    _same(whole, transform(probe.reverse()).reverse(), places, "among others in another order", ALONE)
    return transform


def load(bundle: Bundle) -> Transform:
    """Load the transform of a bundle that has one.

    Raises:
        ProjectError: it cannot be loaded, or the bundle hides that it brings code.
    """
    if not bundle.manifest.get("code") or FILE not in bundle.manifest["files"]:
        raise ProjectError(f"the bundle {bundle.version} brings code and does not say so: import the model again")
    return _load((bundle.folder / FILE).read_text(encoding="utf-8"), bundle.manifest[FUNCTION])


def _load(text: str, schema: Mapping[str, str]) -> Transform:
    """Run the source as a module of its own, which can be found meanwhile, as dataclasses need it.

    Raises:
        ProjectError: it fails or has no such function.
    """
    module = ModuleType(MODULE)
    with importing:
        sys.modules[MODULE] = module
        try:
            exec(compile(text, FILE, "exec", dont_inherit=True), vars(module))
        except (Exception, SystemExit) as error:  # code of the team: it may raise anything
            raise ProjectError(f"{FILE} cannot be loaded ({type(error).__name__}: {first_line(error)})") from None
        finally:
            sys.modules.pop(MODULE, None)
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        raise ProjectError(f"{FILE} has no function {FUNCTION}(rows)")
    return Transform(text, function, schema)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the top-level names of what is imported, nothing for a relative import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "" if node.level else str(node.module).partition(".")[0]


def _places(rows: pl.DataFrame) -> list[int]:
    """Return places all over the sample, and for each column one where its value is missing."""
    spread = np.linspace(0, rows.height - 1, min(PROBED, rows.height)).astype(int)
    missing = (series.is_null().arg_max() or 0 for series in rows if series.null_count())
    return sorted({*spread.tolist(), *missing})


def _same(first: pl.DataFrame, second: pl.DataFrame, places: Sequence[int], when: str, rule: str) -> None:
    for one in first:
        other = second[one.name]
        same = one.eq_missing(other)
        if one.dtype.is_float():
            gap = (one - other).abs()
            same |= (gap.is_finite() & (gap <= ROUNDING * one.abs().clip(1e-3))).fill_null(False)
        if not same.all():
            row = places[(~same).arg_true()[0]] + 1
            raise ProjectError(f'row {row} of the sample has another "{one.name}" {when}: {rule}')


def _kind(series: pl.Series) -> str:
    return series.dtype.base_type().__name__


def _known(series: pl.Series) -> str:
    """Return the type of a column that the sample showed."""
    kind = _kind(series)
    if kind in KINDS:
        return kind
    what = "is empty in all rows of the sample" if kind == "Null" else f"is of type {kind}"
    raise ProjectError(f'{FILE} gives a column "{series.name}" that {what}: cast it to a number, text, boolean or time')


def _dtype(kind: str) -> pl.DataType:
    import polars as pl

    dtype: pl.DataType = pl.Datetime("us", "UTC") if kind == "Datetime" else getattr(pl, kind)()
    return dtype


def _as(made: pl.DataFrame, name: str, kind: str) -> pl.Series:
    """Return a column with the type that it had in the sample, if no value is lost by that."""
    import polars as pl

    if name not in made.columns:
        raise ProjectError(f'{FILE} gives no column "{name}" for these rows: it must give the same for any rows')
    found = _kind(made[name])
    number = (found in INTEGERS and kind in (*INTEGERS, *FLOATS)) or (found in FLOATS and kind in FLOATS)
    if found in (kind, "Null") or number:
        try:
            return made[name].cast(_dtype(kind))
        except pl.exceptions.InvalidOperationError:  # an integer that does not fit
            pass
    raise ProjectError(f'{FILE} gives "{name}" as {found} for these rows and as {kind} for the sample: cast it there')
