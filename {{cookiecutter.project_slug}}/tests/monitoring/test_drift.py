"""The population stability index: right, finite, and quiet about chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from project.monitoring.drift import noise, psi

Counts = some.lists(some.integers(0, 10**6), min_size=1, max_size=12)


def test_a_value_worked_out_by_hand():
    expected = (0.75 - 0.5) * math.log(0.75 / 0.5) + (0.25 - 0.5) * math.log(0.25 / 0.5)
    assert psi([500_000, 500_000], [750_000, 250_000]) == pytest.approx(expected, rel=1e-4)


@settings(deadline=None)
@given(Counts, some.randoms(use_true_random=False))
def test_it_is_finite_and_never_negative(counts, random):
    other = random.sample(counts, len(counts))
    for value in (psi(counts, other), psi(counts, [0] * len(counts)), noise(counts, other)):
        assert math.isfinite(value)
        assert value >= -1e-12
    assert psi(counts, counts) == 0


@pytest.mark.parametrize("rows", [100, 1000])
def test_chance_stays_below_the_noise(rows):
    random = np.random.default_rng(4)
    shares = [0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]
    draws = [(random.multinomial(2000, shares), random.multinomial(rows, shares)) for _ in range(2000)]
    above = sum(psi(e.tolist(), a.tolist()) > noise(e.tolist(), a.tolist()) for e, a in draws)
    assert above <= 10
