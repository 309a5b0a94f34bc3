"""The parts of a time are the same for one row and for many, and right."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from project import features

moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.sampled_from([None, UTC]))


@given(st.lists(moments, min_size=1, max_size=5), st.sampled_from(features.PARTS))
def test_one_row_and_many_rows_agree(times: list[datetime], part: str) -> None:
    micros = np.array(
        [round((features.utc(t) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6) for t in times]
    )
    single = [features.SCALAR[part](moment) for moment in times]
    assert features.part_of(micros, part).tolist() == single


def test_parts_of_a_known_moment() -> None:
    frame = pl.DataFrame({"at": [datetime(2024, 2, 29, 13, 5), None]})
    parts = features.derive(frame, [f"at_{part}" for part in features.PARTS]).row(0, named=True)
    assert parts == {
        "at_hour": 13,
        "at_weekday": 3,
        "at_day": 29,
        "at_month": 2,
        "at_year": 2024,
        "at_day_of_year": 60,
        "at_epoch_days": 19782,
    }
    assert math.isnan(features.derive(frame, ["at_hour"])["at_hour"][1])
    assert math.isnan(features.SCALAR["hour"](None))


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(KeyError):
        features.derive(pl.DataFrame({"at": [1]}), ["at_hour"])
