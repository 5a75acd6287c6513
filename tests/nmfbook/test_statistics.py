"""Intervals of bootstrap samples, against scipy's, and what is said of them."""

import numpy as np
import pytest
import scipy.stats

from nmfbook.statistics import (
    DRAWS,
    answer,
    bootstrap_correlation,
    interval,
    judged,
    pearson,
    percent,
    rank_correlation,
    resampled,
    spelled,
)


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


def test_the_mean_of_drawn_values_is_that_of_numpy():
    values = np.random.default_rng(1).random(37)
    drawn = values[np.random.default_rng(0).integers(37, size=(DRAWS, 37))].mean(1)
    assert np.array_equal(resampled(values.tolist()), [values.mean(), *drawn])


def test_strata_are_drawn_one_by_one_and_count_alike():
    few, many = np.array([0.0, 1.0]), np.linspace(10, 20, 101)
    samples = resampled(few, many)
    assert samples.shape == (1 + DRAWS,) and samples[0] == pytest.approx((few.mean() + many.mean()) / 2)
    assert samples[1:].var() == pytest.approx((few.var() / 2 + many.var() / 101) / 4, rel=0.1)


def test_differences_of_two_are_paired():
    values = np.random.default_rng(1).random(20)
    assert resampled(values + 1) - resampled(values) == pytest.approx(np.ones(1 + DRAWS))


def test_one_value_cannot_be_drawn_anew():
    with pytest.raises(ValueError, match="two or more"):
        resampled([0.5])


def test_an_interval_in_words():
    assert percent(0.5934, 0.541, 0.646) == "59.3 (54.1 to 64.6)" and percent(0.01, -0.005, 0.02, "+") == (
        "+1.0 (-0.5 to +2.0)")
    assert [judged(*bounds) for bounds in ((0.1, 1), (-1, -0.1), (-1, 1), (0, 1))] == [
        "holds", "fails", "undecided", "undecided"]


@pytest.mark.parametrize("samples", [[], [1.0], [[1.0, 2.0]]])
def test_bad_samples(samples):
    with pytest.raises(ValueError, match="must be"):
        interval(samples)


def test_the_interval_of_a_correlation_is_like_that_of_theory_and_ends_within_one():
    def of_pairs(rows):
        return pearson(rows[:, 0], rows[:, 1])

    generator = np.random.default_rng(0)
    x = generator.normal(size=400)
    pairs = np.stack([x, 0.6 * x + 0.8 * generator.normal(size=400)], 1)
    value, low, high = bootstrap_correlation(of_pairs, pairs)
    theory = scipy.stats.pearsonr(*pairs.T)
    assert value == pytest.approx(theory.statistic)
    assert [low, high] == pytest.approx([*theory.confidence_interval()], abs=0.02)
    few = np.array([[0, 0], [1, 1.1], [2, 1.9], [3, 3.2], [4, 4.0]])
    value, low, high = bootstrap_correlation(of_pairs, few)
    assert 0.5 < low < value < high <= 1
    assert np.isnan(bootstrap_correlation(of_pairs, np.array([[1, 2], [1, 3.0]]))[0])


def test_the_rank_correlation_is_that_of_scipy():
    levels = np.random.default_rng(0).random((6, 10)) - 0.1 * np.arange(6)[:, None]
    p = np.repeat([0, 0.2, 0.4, 0.6, 0.8, 1], 10)
    value, low, high = rank_correlation(*levels)
    assert value == pytest.approx(scipy.stats.spearmanr(p, levels.ravel()).statistic)
    assert low < value < high and 0.1 < high - low < 0.8
    assert rank_correlation(*levels[::-1])[0] == pytest.approx(-value)
    assert rank_correlation(*(3 * levels + 7)) == (value, low, high)


@pytest.mark.parametrize("levels, value", [([[0.5, 0.5], [0.5, 0.5]], 0.0), ([[0.75, 0.75], [0.5, 0.5]], -1.0),
                                           ([[0.5, 0.75], [0.75, 0.5]], 0.0)])
def test_the_rank_correlation_of_equal_values(levels, value):
    found, low, high = rank_correlation(*levels)
    assert found == pytest.approx(value) and -1 <= low <= high <= 1
