"""Customers of a telephone company and who leaves: synthetic data for a classification.

All of it is made up by the code below; no real customer is in it. The relation that makes a row:

    churned ~ Bernoulli(1 / (1 + exp(-score)))
    score   = contract + its youth + winter campaign + price above the plan's usual + support calls (more
              so when satisfaction is low) + late payments + invoice + basic plan - age - family + noise

A monthly contract is easy to leave, most of all in the first year, and more so for customers won by the
winter campaign (November and December). Satisfaction is known only for the two thirds who answered; the
noise is in no column. Rows are a snapshot at 1 January 2026; the truth is known 90 days later.

Drift: prices up by a quarter, twice the support calls, more monthly contracts (`DRIFTED`), and price weighs
double.
"""

import numpy as np
import polars as pl

from ..signature import Column
from . import spoil

TITLE, TASK = "Customer churn", "classification"
PLANS = {"basic": 19.0, "standard": 34.0, "premium": 58.0}  # usual price in EUR
CONTRACTS = {"monthly": -2.3, "one year": -3.7, "two years": -4.7}  # score
PAYMENTS = ("bank transfer", "card", "direct debit", "invoice")
SIGNED_UP = "2023-11-04T10:20:00Z"
COLUMNS = (
    Column("signed_up_at", "datetime", description="First contract signed, UTC", examples=(SIGNED_UP,)),
    Column("tenure", "integer", False, 0, 600, unit="months", description="Time since then", examples=(26,)),
    Column("age", "integer", True, 16, 120, unit="years", description="Of the customer", examples=(41,)),
    Column("plan", "string", categories=tuple(PLANS), description="Plan that is paid for"),
    Column("contract", "string", categories=tuple(CONTRACTS), description="How long it binds"),
    Column("payment", "string", categories=PAYMENTS, description="How bills are paid"),
    Column("monthly_charge", "number", False, 0, 1000, unit="EUR", description="Mean bill", examples=(42.5,)),
    Column("support_calls", "integer", False, 0, 200, description="Calls in 12 months", examples=(1,)),
    Column("late_payments", "integer", False, 0, 12, description="Late bills in 12 months", examples=(0,)),
    Column("satisfaction", "integer", True, 1, 5, description="Last survey, 1 bad to 5 good", examples=(4,)),
    Column("paperless", "boolean", description="Bills by e-mail only", examples=(True,)),
    Column("family", "boolean", description="More than one line on the account", examples=(False,)),
)
TARGET = Column("churned", "string", categories=("no", "yes"), description="Left within 90 days")
PARTS = ("signed_up_at_month",)
BASELINE = ()
DRIFTED = ("monthly_charge", "support_calls", "contract")


def rows(count: int, seed: int, drift: bool = False) -> pl.DataFrame:
    """Make synthetic customers, inputs and target.

    Args:
        count: number of rows, 0 or more.
        seed: the same seed gives the same bytes.
        drift: move the columns in `DRIFTED` and change the relation.
    """
    rng = np.random.default_rng(seed)
    chance, normal = rng.random((9, count)), rng.normal(size=(4, count))
    minutes = (rng.gamma(1.3, 28, count).clip(0.1, 180) * 43_830).astype(int)
    trouble = rng.gamma(1.2, 0.9, count)
    signed, tenure = np.datetime64("2026-01-01T00:00", "m") - minutes, minutes // 43_830
    month = signed.astype("datetime64[M]").astype(int) % 12 + 1
    age = (44 + 15 * normal[0]).clip(18, 95).astype(int)
    plan = np.searchsorted((0.35, 0.75), chance[0] - 0.003 * (age - 44))
    contract = np.searchsorted((0.55, 0.85), chance[1] + 0.0025 * tenure.clip(0, 60) - 0.22 * drift)
    payment = np.searchsorted((0.2, 0.5, 0.85), chance[2])
    family = chance[3] < 0.15 + 0.25 * ((age > 30) & (age < 60))
    discount = np.where(family, 1.5, 1.0) * np.array([1.0, 0.93, 0.87])[contract]
    dearness = 0.16 * normal[1] + np.log(1.25) * drift
    satisfaction = (4.4 - 0.75 * trouble + 0.8 * normal[2]).round().clip(1, 5).astype(int)
    late = rng.binomial(12, 0.02 + 0.10 * chance[4] ** 3 + 0.0008 * (60 - age).clip(0))
    calls = rng.poisson(trouble * (1 + drift))  # last: how many numbers it draws depends on drift
    score = np.array(list(CONTRACTS.values()))[contract] - 0.015 * (age - 44) + 0.35 * late + 0.4 * normal[3]
    score += (contract == 0) * (2.2 * np.exp(-tenure / 8) + 0.9 * (month >= 11)) + 0.22 * (plan == 0)
    score += 3.5 * (1 + drift) * dearness + 0.4 * (payment == 3) - 0.5 * family
    score += calls.clip(0, 8) * (0.25 + 0.22 * (4 - satisfaction).clip(0))
    known = chance[5:7] > np.array([[0.03], [0.35]])
    charge = np.array(list(PLANS.values()))[plan] * discount * np.exp(dearness)
    return pl.DataFrame(
        {
            "signed_up_at": pl.Series(signed.astype("datetime64[us]")).dt.replace_time_zone("UTC"),
            "tenure": tenure,
            "age": pl.Series(age).set(pl.Series(~known[0]), None),
            "plan": pl.Series(tuple(PLANS)).gather(plan),
            "contract": pl.Series(tuple(CONTRACTS)).gather(contract),
            "payment": pl.Series(PAYMENTS).gather(payment),
            "monthly_charge": charge.round(2),
            "support_calls": calls,
            "late_payments": late,
            "satisfaction": pl.Series(satisfaction).set(pl.Series(~known[1]), None),
            "paperless": chance[7] < 0.75 - 0.006 * (age - 44),
            "family": family,
            "churned": pl.Series(TARGET.categories).gather((rng.random(count) < 1 / (1 + np.exp(-score))) * 1),
        }
    )


history = rows  # a snapshot of today's customers is all that there is to train on


def bad(frame: pl.DataFrame, share: float, seed: int) -> pl.DataFrame:
    """Return the inputs as text with a share of the rows broken in realistic ways."""
    return spoil(frame, COLUMNS, share, seed)
