import polars as pl
import pytest

from project.errors import ProjectError
from project.example import customer_churn, dataset
from project.example.train import signature
from project.validation import ROW, check_frame

SIGNATURE = signature(customer_churn)


def inputs(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("churned")


def test_a_seed_fixes_every_value():
    assert customer_churn.rows(500, 3).equals(customer_churn.rows(500, 3))
    assert not customer_churn.rows(500, 3).equals(customer_churn.rows(500, 4))


def test_rows_fit_the_signature():
    frame = customer_churn.rows(5000, 1)
    assert frame.columns == [column.name for column in customer_churn.COLUMNS] + ["churned"]
    assert check_frame(SIGNATURE, frame).counts == {}
    assert set(frame["churned"]) == {"no", "yes"}
    assert customer_churn.rows(0, 1).schema == frame.schema


def test_only_the_nullable_columns_have_gaps():
    gaps = {name for name, count in customer_churn.rows(5000, 1).null_count().row(0, named=True).items() if count}
    assert gaps == {column.name for column in customer_churn.COLUMNS if column.nullable}


def test_tenure_is_the_time_since_signing_up():
    frame = customer_churn.rows(2000, 1)
    months = (pl.datetime(2026, 1, 1, time_zone="UTC") - pl.col("signed_up_at")).dt.total_minutes() // 43_830
    assert frame.select(months == pl.col("tenure")).to_series().all()


def test_customers_behave_like_customers():
    frame = customer_churn.rows(30_000, 1).with_columns(left=(pl.col("churned") == "yes").cast(float))

    def share(condition: pl.Expr) -> float:
        return frame.filter(condition)["left"].mean()

    monthly = pl.col("contract") == "monthly"
    assert 0.1 < frame["left"].mean() < 0.3
    assert share(monthly) > 3 * share(~monthly)
    assert share(monthly & (pl.col("tenure") < 6)) > 1.5 * share(monthly & (pl.col("tenure") > 24))
    assert share(pl.col("support_calls") > 3) > 2 * share(pl.col("support_calls") == 0)
    assert share(pl.col("satisfaction") == 1) > 2 * share(pl.col("satisfaction") == 5)


def test_drift_moves_the_named_columns_and_the_relation_only():
    calm, moved = (inputs(customer_churn.rows(5000, 1, drift=drift)) for drift in (False, True))
    changed = {name for name in calm.columns if not calm[name].equals(moved[name])}
    assert changed == set(customer_churn.DRIFTED)
    assert moved["support_calls"].mean() > 1.8 * calm["support_calls"].mean()


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_exactly_the_share_asked_for_is_refused(share):
    frame = inputs(customer_churn.rows(400, 1))
    checked = check_frame(SIGNATURE, customer_churn.bad(frame, share, 5))
    assert checked.bad.height == round(share * 400)
    assert checked.good.drop(ROW).equals(frame[(checked.good[ROW] - 1).to_list()])


def test_the_setting_finds_the_example():
    assert dataset("customer-churn") is customer_churn


@pytest.mark.parametrize("name", ["", "wine", "../settings", "a.b"])
def test_an_unknown_example_is_one_sentence(name):
    with pytest.raises(ProjectError, match=r"set project\.example"):
        dataset(name)
