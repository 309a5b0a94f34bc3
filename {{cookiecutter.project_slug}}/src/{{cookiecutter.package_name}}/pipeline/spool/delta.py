"""Delta tables, at the version that is newest as the run begins, or at ``?version=N``.

``delta:data/orders``, ``delta+s3://bucket/orders?version=7``
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

from ...errors import ProjectError
from ...settings import Settings
from ..remote import STORES, Away, Report, patiently, scheme
from ..sources import SPOOLED, InputError
from ._parts import ROWS, writing

SCHEMES = ("delta", *(f"delta+{name}" for name in STORES))


def fetch(url: str, folder: Path, settings: Settings, report: Report) -> dict[str, Any]:
    """Read one version of a table into one file.

    Raises:
        ProjectError: there is no such table or version, or its store is away for too long.
    """
    try:
        import deltalake
    except ImportError:
        raise ProjectError(f"{url} needs deltalake: install the extra `delta`") from None
    where, _, query = url.removeprefix("delta:").removeprefix("delta+").partition("?")
    key, _, value = query.partition("=")
    if query and (key != "version" or not value.isdigit()):
        raise ProjectError(f"{url} may only say ?version=NUMBER after the table: correct it")
    remote = scheme(where) in STORES
    where = where if remote else str(settings.path(where.removeprefix("//")))
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    options = {"AWS_ALLOW_HTTP": "true"} if remote and plain else None
    target = folder / f"{where.rstrip('/').rpartition('/')[2]}{SPOOLED}"

    def attempt() -> int:
        try:
            table = deltalake.DeltaTable(where, int(value) if value else None, storage_options=options)
            rows = pl.scan_delta(table, storage_options=options)
            rows.sink_parquet(target, compression="zstd", row_group_size=ROWS, maintain_order=True)
            return int(table.version())
        except deltalake.exceptions.TableNotFoundError:
            raise InputError(f"{where} is no Delta table: correct the path") from None
        except (deltalake.exceptions.DeltaError, pl.exceptions.PolarsError, OSError) as error:
            told = str(error).strip().partition("\n")[0][:200]
            if "No space left" in told:
                with writing(folder):
                    raise OSError(28, "No space left on device") from None
            if remote and "ersion" not in told:
                raise Away(told) from None
            raise InputError(f"{url} cannot be read ({told}): correct the URL or mend the table") from None

    version = patiently(attempt, lambda: 0, where, settings.pipeline.patience_seconds, report)
    report(f"{where} is read at version {version}")
    return {"version": version}
