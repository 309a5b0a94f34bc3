import polars as pl
import pytest

from project.example import bike_demand, dataset
from project.example.train import signature
from project.validation import ROW, check_frame

SIGNATURE = signature(bike_demand)


def inputs(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("rentals")


def test_a_seed_fixes_every_value():
    assert bike_demand.rows(500, 3).equals(bike_demand.rows(500, 3))
    assert not bike_demand.rows(500, 3).equals(bike_demand.rows(500, 4))


def test_rows_fit_the_signature_and_come_in_order_of_time():
    frame = bike_demand.rows(5000, 1)
    assert frame.columns == [column.name for column in bike_demand.COLUMNS] + ["rentals"]
    assert check_frame(SIGNATURE, frame).counts == {}
    assert frame["timestamp"].is_sorted()
    assert frame["timestamp"].dt.year().unique().to_list() == [2025]
    assert bike_demand.history(5000, 1)["timestamp"].dt.year().n_unique() == 5


def test_no_rows_have_the_same_types_as_many():
    assert bike_demand.rows(0, 1).schema == bike_demand.rows(10, 1).schema


def test_only_the_nullable_columns_have_gaps():
    gaps = {name for name, count in bike_demand.rows(5000, 1).null_count().row(0, named=True).items() if count}
    assert gaps == {column.name for column in bike_demand.COLUMNS if column.nullable}


def test_the_city_behaves_like_one():
    frame = bike_demand.rows(30_000, 1).with_columns(hour=pl.col("timestamp").dt.hour())

    def mean(condition: pl.Expr) -> float:
        return frame.filter(condition)["rentals"].mean()

    hour, weekday = pl.col("hour"), pl.col("timestamp").dt.weekday()
    assert mean((hour == 8) & (weekday < 6)) > 2 * mean((hour == 8) & (weekday > 5))
    assert mean((hour == 17) & (weekday < 6)) > 5 * mean(hour == 3)
    assert mean(pl.col("rain") > 1) < 0.8 * mean(pl.col("rain") == 0)
    assert mean(pl.col("timestamp").dt.month() == 7) > 1.5 * mean(pl.col("timestamp").dt.month() == 1)


def test_the_weather_of_an_hour_is_the_same_in_every_draw():
    one, two = (bike_demand.rows(3000, seed).unique("timestamp") for seed in (1, 2))
    both = one.join(two, on="timestamp")
    assert both.height > 100
    assert both["rain"].equals(both["rain_right"], check_names=False)


def test_drift_moves_the_named_columns_and_the_relation_only():
    calm, moved = (inputs(bike_demand.rows(5000, 1, drift=drift)) for drift in (False, True))
    changed = {name for name in calm.columns if not calm[name].equals(moved[name])}
    assert changed == set(bike_demand.DRIFTED)
    assert moved["temperature"].mean() > calm["temperature"].mean() + 6


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_exactly_the_share_asked_for_is_refused(share):
    frame = inputs(bike_demand.rows(400, 1))
    spoiled = bike_demand.bad(frame, share, 5)
    assert set(spoiled.dtypes) == {pl.String}
    assert spoiled.equals(bike_demand.bad(frame, share, 5))
    checked = check_frame(SIGNATURE, spoiled)
    assert checked.bad.height == round(share * 400)
    assert checked.good.drop(ROW).equals(frame[(checked.good[ROW] - 1).to_list()])


def test_bad_rows_show_every_kind_of_fault():
    checked = check_frame(SIGNATURE, bike_demand.bad(inputs(bike_demand.rows(2000, 1)), 0.5, 5))
    rules = {reason.partition(": ")[2] for reason in checked.counts}
    assert rules == {"missing", "type", "minimum", "maximum", "category"}
    assert "timestamp: type" in checked.counts


def test_the_setting_finds_the_example():
    assert dataset("bike-demand") is bike_demand
