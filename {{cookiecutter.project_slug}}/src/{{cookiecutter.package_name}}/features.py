"""From a row to the columns of the model: one function for training, batch and serving, so they cannot skew.

A model column named ``<column>_<part>`` that the row does not have is a part of the time ``<column>``:
``timestamp_hour`` is the hour (UTC) of ``timestamp``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

Micros = np.ndarray[tuple[int], np.dtype[np.int64]]
Values = np.ndarray[tuple[int], np.dtype[np.float64]]

DAY = 86_400_000_000
PARTS = ("hour", "weekday", "day", "month", "year", "day_of_year", "epoch_days")


def source(name: str, times: Collection[str]) -> tuple[str, str] | None:
    """Split a model column into its time column and part.

    Args:
        name: the model column, for example ``timestamp_hour``.
        times: the names of the time columns of a row.

    Returns:
        ``("timestamp", "hour")``, or None if the name is no part of one of them.
    """
    for column in times:
        part = name.removeprefix(f"{column}_")
        if part != name and part in PARTS:
            return column, part
    return None


def part_of(micros: Micros, part: str) -> Values:
    """Compute one part of many times.

    Args:
        micros: microseconds since 1970-01-01 UTC; `numpy.iinfo(int64).min` stands for missing (NaT).
        part: one of `PARTS`; weekday counts from Monday = 0.

    Returns:
        The part as float64, NaN where the time is missing.
    """
    if part == "hour":
        values = micros // 3_600_000_000 % 24
    elif part == "weekday":
        values = (micros // DAY + 3) % 7  # 1970-01-01 was a Thursday
    elif part == "epoch_days":
        values = micros // DAY
    else:
        days = micros.view("datetime64[us]").astype("datetime64[D]")
        months = days.astype("datetime64[M]")
        if part == "day":
            values = (days - months).astype(np.int64) + 1
        elif part == "month":
            values = months.astype(np.int64) % 12 + 1
        elif part == "year":
            values = days.astype("datetime64[Y]").astype(np.int64) + 1970
        else:
            values = (days - days.astype("datetime64[Y]")).astype(np.int64) + 1
    result = values.astype(np.float64)
    missing = micros == np.iinfo(np.int64).min
    if missing.any():
        result[missing] = np.nan
    return result


def utc(moment: datetime | None) -> datetime | None:
    """Return a time in UTC; without a zone it is taken as UTC, and at the ends of the calendar its zone is ignored."""
    if moment is None or moment.tzinfo is UTC:
        return moment
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return moment.replace(tzinfo=UTC)


def _scalar(read: Callable[[datetime], int]) -> Callable[[datetime | None], float]:
    def part(moment: datetime | None) -> float:
        return float("nan") if (moment := utc(moment)) is None else read(moment)

    return part


# The same parts of a single time, without the price of an array; a test holds the two equal.
SCALAR: Mapping[str, Callable[[datetime | None], float]] = {
    "hour": _scalar(lambda moment: moment.hour),
    "weekday": _scalar(lambda moment: moment.weekday()),
    "day": _scalar(lambda moment: moment.day),
    "month": _scalar(lambda moment: moment.month),
    "year": _scalar(lambda moment: moment.year),
    "day_of_year": _scalar(lambda moment: moment.timetuple().tm_yday),
    "epoch_days": _scalar(lambda moment: moment.toordinal() - date(1970, 1, 1).toordinal()),
}


def derive(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return the model's columns from typed rows.

    Args:
        frame: rows with the signature's columns; times as ``Datetime``, in UTC if they have no zone.
        names: the model's columns, in its order.

    Returns:
        A frame of exactly these columns.

    Raises:
        KeyError: a name is neither a column of the frame nor a part of one of its times.
    """
    import polars as pl

    times = [name for name, dtype in frame.schema.items() if dtype.is_temporal()]
    columns = []
    for name in names:
        if name in frame.columns:
            columns.append(frame[name])
        elif found := source(name, times):
            columns.append(pl.Series(name, part_of(micros(frame[found[0]]), found[1])))
        else:
            raise KeyError(name)
    return pl.DataFrame(columns)


def micros(series: pl.Series) -> Micros:
    """Return times as microseconds since 1970-01-01 UTC, missing ones as the smallest int64."""
    import polars as pl

    times = series.cast(pl.Datetime("us", getattr(series.dtype, "time_zone", None)))
    values: Micros = times.to_physical().fill_null(np.iinfo(np.int64).min).to_numpy()
    return values
