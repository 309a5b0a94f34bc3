"""Hourly bike rentals at a city's stations: synthetic data for a regression.

All of it is made up by the code below; no real city was measured. The relation that makes a row:

    rentals ~ Poisson(rate x gamma noise)
    rate    = docks x popularity x growth x (commuting + leisure) x comfort x weather x event

Commuting peaks at 8 and 17 on working days, leisure in the afternoon of other days, in proportions that
belong to the district; harbour and park gain in summer. Comfort is best at 21 degrees Celsius; rain, snow
and wind keep people off, commuters less. The popularity of a station (one of 160) and the noise are in no
column: no model can know them. The weather of an hour is the same in every draw. Temperature and humidity
come from one sensor that fails now and then. The truth of an hour is known when the hour is over.

Drift: 7 degrees warmer, twice the wind, most stations in suburbs (`DRIFTED`), and half as much commuting.
"""

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from ..signature import Column
from . import spoil

TITLE, TASK = "Bike demand", "regression"
FIRST, LAST, STATIONS = 2021, 2025, 160  # calendar years
SKIES = ("clear", "cloudy", "rain", "snow")
HOLIDAYS = (101, 501, 815, 1101, 1224, 1225, 1226, 1231)  # month x 100 + day
# share of stations, the same with drift, commuting, leisure, gain in summer
DISTRICTS = {
    "centre": (0.22, 0.12, 1.2, 1.0, 0.1),
    "harbour": (0.14, 0.08, 0.6, 1.6, 0.7),
    "park": (0.12, 0.08, 0.4, 1.8, 0.5),
    "railway": (0.14, 0.08, 1.8, 0.6, 0.0),
    "suburb": (0.22, 0.55, 0.8, 0.4, 0.0),
    "university": (0.16, 0.09, 1.3, 0.7, -0.4),
}
COLUMNS = (
    Column("timestamp", "datetime", description="Start of the hour, UTC", examples=("2025-06-17T17:00:00Z",)),
    Column("district", "string", categories=tuple(DISTRICTS), description="Part of the city"),
    Column("docks", "integer", False, 1, 200, description="Size of the station", examples=(24,)),
    Column("temperature", "number", True, -60, 60, unit="°C", description="Of the air", examples=(19.5,)),
    Column("humidity", "number", True, 0, 100, unit="%", description="Relative humidity", examples=(58.0,)),
    Column("wind_speed", "number", False, 0, 80, unit="m/s", description="Mean wind", examples=(3.4,)),
    Column("rain", "number", False, 0, 300, unit="mm/h", description="Rain or melted snow", examples=(0.0,)),
    Column("sky", "string", categories=SKIES, description="The sky as observed"),
    Column("holiday", "boolean", description="A public holiday", examples=(False,)),
    Column("event", "boolean", description="A large event close by on that day", examples=(False,)),
)
TARGET = Column("rentals", "integer", minimum=0, unit="bikes/h", description="Bikes rented in the hour")
PARTS = ("timestamp_hour", "timestamp_weekday", "timestamp_month")
BASELINE = ("district", "timestamp_hour", "timestamp_weekday")
DRIFTED = ("temperature", "wind_speed", "district")


def rows(count: int, seed: int, drift: bool = False, since: int = LAST) -> pl.DataFrame:
    """Make synthetic rows (station-hours), inputs and target, in order of time.

    Args:
        count: number of rows, 0 or more.
        seed: the same seed gives the same bytes.
        drift: move the columns in `DRIFTED` and change the relation.
        since: first calendar year (2021 to 2025); the last is always 2025.
    """
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(7)  # the stations are always the same
    docks, popularity = fixed.integers(10, 41, STATIONS), fixed.lognormal(0, 0.18, STATIONS)
    names, traits = list(DISTRICTS), np.array(list(DISTRICTS.values()))
    hours = _hours().filter(pl.col("timestamp").dt.year() >= since)
    station, chance = rng.integers(0, STATIONS, count), rng.random((3, count))
    district = np.searchsorted(traits[:, int(drift)].cumsum()[:-1], chance[0])
    frame = hours[np.sort(rng.integers(0, hours.height, count))].with_columns(
        pl.col("temperature") + rng.normal(0, 0.5, count) + 7 * drift,
        pl.col("wind_speed") * rng.lognormal(0, 0.15, count) * (1 + drift),
        (pl.col("humidity") + rng.normal(0, 2, count)).clip(12, 100).round(0),
        district=pl.Series(names, dtype=pl.String).gather(district),
        docks=docks[station],
        event=chance[1] < 0.045,
    )
    frame = frame.with_columns(pl.col("temperature", "wind_speed").round(1))
    rate = _rate(frame, traits[district].T, 0.5 if drift else 1.0) * popularity[station]
    return frame.select(
        *(pl.col(name) for name in ("timestamp", "district", "docks")),
        *(pl.when(pl.Series(chance[2] > 0.025)).then(name).alias(name) for name in ("temperature", "humidity")),
        *(pl.col(name) for name in ("wind_speed", "rain", "sky", "holiday", "event")),
        rentals=rng.poisson(rate * rng.gamma(14, 1 / 14, count)),
    )


def history(count: int, seed: int) -> pl.DataFrame:
    """Make the rows that a team would have collected for training: 2021 to 2025."""
    return rows(count, seed, since=FIRST)


def bad(frame: pl.DataFrame, share: float, seed: int) -> pl.DataFrame:
    """Return the inputs as text with a share of the rows broken in realistic ways."""
    return spoil(frame, COLUMNS, share, seed)


def _hours() -> pl.DataFrame:
    """Calendar and weather of every hour: slow waves of noise upon season and time of day."""
    start, end = datetime(FIRST, 1, 1), datetime(LAST, 12, 31, 23)
    time = pl.datetime_range(start, end, "1h", time_zone="UTC", eager=True)
    rng, at = np.random.default_rng(42), pl.col("timestamp").dt
    noise = {"timestamp": time, "spell": rng.normal(size=len(time))}
    for name, memory in {"cloud": 0.95, "warmth": 0.98, "gust": 0.93}.items():  # share kept after an hour
        kernel = memory ** np.arange(200) * np.sqrt(1 - memory**2)
        noise[name] = np.convolve(rng.normal(size=len(time) + 199), kernel, "valid")
    cloud, wet, afternoon = pl.col("cloud"), pl.col("cloud") > 1.1, ((at.hour() - 15) * 2 * np.pi / 24).cos()
    season = -((at.ordinal_day() - 20) * 2 * np.pi / 365.25).cos()
    warmth = 11.5 + 9 * season + 3.2 * pl.col("warmth") + (3.5 - cloud.clip(-1, 2)) * afternoon
    rain = (1.6 * (cloud - 1.6) + 0.5 * pl.col("spell")).exp().round(1)
    return pl.DataFrame(noise).with_columns(
        holiday=(at.month().cast(int) * 100 + at.day()).is_in(HOLIDAYS),
        temperature=warmth,
        humidity=66 + 11 * cloud - 0.55 * (warmth - 11.5),
        wind_speed=(4 + 2 * pl.col("gust") + 0.6 * cloud).abs(),
        rain=pl.when(wet).then(rain).otherwise(0.0),
        sky=pl.when(wet & (warmth < 0.5)).then(pl.lit("snow")).when(wet).then(pl.lit("rain"))
        .when(cloud > 0).then(pl.lit("cloudy")).otherwise(pl.lit("clear")),
        season=season,
    )  # fmt: skip


def _rate(frame: pl.DataFrame, traits: np.ndarray[Any, Any], commuters: float) -> np.ndarray[Any, Any]:
    """Expected rentals of each row, before what no column tells."""
    at, season = frame["timestamp"].dt, frame["season"].to_numpy()
    hour, years = at.hour().to_numpy(), at.year().to_numpy() - FIRST

    def peak(time: float, width: float) -> np.ndarray[Any, Any]:
        return np.asarray(np.exp(-(((hour - time) / width) ** 2)))

    working = (at.weekday().to_numpy() < 6) & ~frame["holiday"].to_numpy()
    to_work = working * commuters * traits[2] * (peak(8, 1.3) + 1.1 * peak(17.3, 1.9) + 0.3 * peak(12.5, 1.8))
    for_fun = np.where(working, 0.35, 0.9) * traits[3] * (peak(14.8, 3.8) + 0.25 * peak(21.5, 2.2) + 0.15)
    comfort = np.exp(-(((frame["temperature"].to_numpy() - 21) / 16) ** 2))
    damp, snow = np.sqrt(frame["rain"].to_numpy()), frame["sky"].to_numpy() == "snow"
    demand = to_work * comfort**0.6 * np.exp(-0.35 * damp)
    demand = demand + for_fun * comfort * np.exp(-0.9 * damp) * (1 + traits[4] * season)
    calm = np.exp(-0.05 * (frame["wind_speed"].to_numpy() - 4).clip(0)) * np.where(snow, 0.4, 1.0)
    evening = 1 + 0.9 * frame["event"].to_numpy() * (hour >= 17)
    return np.asarray(0.8 + 1.5 * frame["docks"].to_numpy() * demand * calm * evening * 1.005**years)
