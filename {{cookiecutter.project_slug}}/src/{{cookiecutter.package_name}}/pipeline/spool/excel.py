"""Workbooks, `.xlsx` and `.ods`: one sheet, its first row the names. Cells become text, as in a CSV."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import polars as pl

from ...errors import ProjectError
from ...settings import Settings
from ..sources import FREE, InputError
from ._parts import Parts

SUFFIXES = (".xlsx", ".xlsm", ".ods")
MOST = 4 << 30  # bytes of a whole workbook, unpacked: a sheet is read into memory
LEGACY = b"\xd0\xcf\x11\xe0"


def wants(path: Path, settings: Settings) -> bool:
    """Every file of the kind is spooled."""
    return True


def spool(path: Path, part: str, parts: Parts, settings: Settings) -> None:
    """Read the sheet named ``part``, or the only one that has rows; rows without a value are left out."""
    try:
        import fastexcel
    except ImportError:
        raise ProjectError(f"{path} needs fastexcel: install the extra `files`") from None
    _refuse(path, settings)
    try:
        book = fastexcel.read_excel(path)
        names = [part] if part else book.sheet_names
        if missing := [name for name in names if name not in book.sheet_names]:
            known = ", ".join(book.sheet_names)
            raise InputError(f"{path} has no sheet {missing[0]!r}: give one of {known}")
        sheets = {name: book.load_sheet(name, header_row=None, dtypes="string") for name in names}
        filled = {name: sheet for name, sheet in sheets.items() if sheet.total_height > 0}
        if len(filled) > 1:
            known = ", ".join(filled)
            raise InputError(
                f"{path} has several sheets with rows ({known}): say which one, as in {path.name}#{next(iter(filled))}"
            )
        table = next((sheet.to_polars() for sheet in filled.values()), pl.DataFrame())
    except fastexcel.FastExcelError:
        raise InputError(f"{path} is no workbook that can be read, or is broken: save it again") from None
    parts.add(_named(path, table))


def _named(path: Path, table: pl.DataFrame) -> pl.DataFrame:
    """Take the names from the first row that has a value; drop rows and columns without one."""
    if not table.height:
        return table
    table = table.filter(~pl.all_horizontal(pl.all().fill_null("").str.strip_chars() == ""))
    head: list[Any] = [(name or "").strip() for name in table.head(1).row(0)] if table.height else []
    table = table.slice(1)
    kept = [(old, new) for old, new in zip(table.columns, head, strict=False) if new]
    for place, (old, new) in enumerate(zip(table.columns, head, strict=False), 1):
        if not new and table[old].null_count() < table.height:
            raise InputError(f"{path} has values in column {place}, which has no name in the first row: name it")
    names = [new for _, new in kept]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"{path} has the column {twice[0]!r} twice: rename or remove one")
    return table.select(pl.col(old).alias(new) for old, new in kept)


def _refuse(path: Path, settings: Settings) -> None:
    """Refuse what is protected, no workbook, or unpacks to far more than a workbook does.

    Every entry is unpacked once and counted, because what the archive says of itself may be a lie.
    """
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: fill it or leave it out")
    with path.open("rb") as raw:
        if raw.read(4) == LEGACY:
            raise InputError(f"{path} is protected by a password or in the old format: save it as plain .xlsx")
    limit, total = max(FREE, path.stat().st_size * settings.pipeline.unpack_ratio), 0
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as stream:
                    while data := stream.read(1 << 20):
                        total += len(data)
                        if entry.filename == "META-INF/manifest.xml" and b"encryption-data" in data:
                            raise InputError(f"{path} is protected by a password: save it without")
                        if total > min(limit, MOST):
                            raise InputError(
                                f"{path} unpacks to more than {min(limit, MOST) / path.stat().st_size:.0f} times its "
                                "size, as a decompression bomb does: save it as CSV or raise pipeline.unpack_ratio"
                            )
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
        raise InputError(f"{path} is no workbook, or is broken or cut off: save it again") from None
