"""Intervals of bootstrap samples, against scipy's, and what is said of them."""

import numpy as np
import pytest
import scipy.stats

from nmfbook.statistics import answer, interval, spelled


def test_the_interval_is_that_of_scipy():
    generator = np.random.default_rng(0)
    data = generator.normal(3, 1, 40)
    drawn = data[generator.integers(40, size=(4000, 40))].mean(1)
    value, low, high = interval([data.mean(), *drawn])
    peer = scipy.stats.bootstrap([data], np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert value == data.mean()
    assert (low, high) == pytest.approx((peer.low, peer.high), abs=0.03)


def test_the_estimate_is_not_among_the_resampled_values():
    assert interval([100, *np.linspace(0, 1, 41)]) == pytest.approx([100, 0.025, 0.975])
    assert spelled([0.5, *np.linspace(0, 1, 41)], "+.3f") == "+0.500 (+0.025 to +0.975)"


@pytest.mark.parametrize(("shift", "said"), [(1, "holds"), (-2, "fails"), (-0.5, "undecided")])
def test_answers(shift, said):
    assert answer(np.linspace(0, 1, 41) + shift) == said


@pytest.mark.parametrize("samples", [[], [1.0], [[1.0, 2.0]]])
def test_bad_samples(samples):
    with pytest.raises(ValueError, match="must be"):
        interval(samples)
