"""The statistics of chapter 3, each with an interval over networks.

    levels = [np.array([0.91, 0.93]), np.array([0.84, 0.86])]  # AuC of two networks at each of two shares p
    bootstrap(effect, *levels)  # value, low, high

`mean`, `fall`, `effect` and `pearson` are taken along the first axis; what further axes there are stays.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

DRAWS = 2000
LARGEST = 2**22  # numbers that are drawn at once


def bootstrap(statistic: Callable, *strata: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """A statistic with its 95 % interval: each stratum's first axis is resampled by itself.

    statistic: of arrays whose first axis is that of their stratum, such as `mean`. Many draws come at once, along one
    more axis, the last: it keeps that one, and NaN stands for a draw on which it is not defined.

    With three networks a level, percentiles of the draws would decide on noise, as they never leave the range of the
    data. So the interval is the value ± Student's quantile times the draws' standard error, √(n/(n−1)) larger
    (Hesterberg 2015, section 5.3). The error is half the distance between the 16th and the 84th percentile, which draws
    of nearly equal networks, where an effect has almost no denominator, do not inflate. A stratum of one network has no
    spread, so the interval is then all numbers.
    """
    value = float(statistic(*(stratum[..., None] for stratum in strata))[0])
    sizes = np.array([len(stratum) for stratum in strata])
    if sizes.min() < 2:
        return value, -np.inf, np.inf
    generator = np.random.default_rng(seed)
    places = [generator.integers(size, size=(size, DRAWS)) for size in sizes]
    pieces = min(DRAWS, -(-DRAWS * sum(stratum.size for stratum in strata) // LARGEST))
    draws = np.concatenate([
        statistic(*(np.moveaxis(stratum[place], 1, -1) for stratum, place in zip(strata, of_piece, strict=True)))
        for of_piece in zip(*(np.array_split(place, pieces, axis=1) for place in places), strict=True)])
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return value, -np.inf, np.inf
    low, high = np.quantile(finite, stats.norm.cdf([-1, 1]))
    width = stats.t.ppf(0.975, (sizes - 1).sum()) * np.sqrt(np.mean(sizes / (sizes - 1))) * (high - low) / 2
    return value, float(value - width), float(value + width)


def mean(*strata: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean over strata of the mean along an axis of each, the first."""
    return np.mean([stratum.mean(axis) for stratum in strata], axis=0)


def proportion(successes: int, count: int) -> tuple[float, float, float]:
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""
    interval = stats.binomtest(successes, count).proportion_ci()
    return successes / count, float(interval.low), float(interval.high)


def fall(*levels: np.ndarray) -> np.ndarray:
    """Mean fall from one level to the next."""
    return (levels[0].mean(0) - levels[-1].mean(0)) / (len(levels) - 1)


def effect(*levels: np.ndarray) -> np.ndarray:
    """The fall in standard deviations between networks of a level, pooled over levels, as for Cohen's d."""
    return ratio(fall(*levels), _spread(levels))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; NaN where whole is not above zero."""
    whole = np.asarray(whole)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def separation(*levels: np.ndarray) -> tuple[float, float, float]:
    """The effect with its interval, in units of the spread as measured.

    The spread is not resampled: the sign of an effect is that of the fall, and three networks would hide it.
    """
    spread = _spread(levels)
    if not spread > 0:
        return np.nan, -np.inf, np.inf
    value, low, high = (bound / spread for bound in bootstrap(fall, *levels))
    return value, low, high


def _spread(levels):
    return np.sqrt(np.mean([level.var(0, ddof=1) for level in levels], axis=0))


def rank_correlation(*levels: ArrayLike) -> tuple[float, float, float]:
    """Spearman's correlation of values with the place of their level, and its 95 % percentile interval.

    All values are drawn anew together, each with its level; 0 where all are alike.
    """
    values = np.concatenate([np.asarray(level, dtype=float) for level in levels])
    places = np.repeat(np.arange(len(levels)), [len(np.asarray(level)) for level in levels])

    def correlation(x, y, axis=-1):
        x, y = (stats.rankdata(z, axis=axis) for z in (x, y))
        x, y = x - x.mean(axis, keepdims=True), y - y.mean(axis, keepdims=True)
        size = np.sqrt((x * x).sum(axis) * (y * y).sum(axis))
        return (x * y).sum(axis) / np.where(size > 0, size, 1)

    bounds = stats.bootstrap((places, values), correlation, paired=True, vectorized=True, method="percentile",
                             n_resamples=DRAWS, rng=np.random.default_rng(0)).confidence_interval
    return float(correlation(places, values)), float(bounds.low), float(bounds.high)


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation; NaN where one is constant."""
    varied = (np.ptp(x, axis=0) > 0) & (np.ptp(y, axis=0) > 0)  # rounding leaves a constant some variance
    x, y = x - x.mean(0), y - y.mean(0)
    return ratio((x * y).sum(0), varied * np.sqrt((x * x).sum(0) * (y * y).sum(0)))


def bootstrap_correlation(statistic: Callable, *strata: np.ndarray) -> tuple[float, float, float]:
    """As `bootstrap`, of a correlation: the interval is that of Fisher's z, so that it ends within -1 and 1."""
    def z(*drawn):
        return np.arctanh(np.clip(statistic(*drawn), -1 + 1e-9, 1 - 1e-9))
    value, low, high = (float(np.tanh(bound)) for bound in bootstrap(z, *strata))
    return value, low, high


def resampled(*strata: ArrayLike) -> np.ndarray:
    """(1 + DRAWS,) the mean over strata of each one's mean: as they are, then with the values of each drawn anew.

    Strata of the same sizes are drawn alike, so that `resampled(a) - resampled(b)` is a difference of paired values.
    Raises ValueError for a stratum of fewer than two values.
    """
    values = [np.asarray(stratum, dtype=float) for stratum in strata]
    drawn = stats.bootstrap(values, mean, n_resamples=DRAWS, method="percentile", rng=0).bootstrap_distribution
    return np.concatenate([[mean(*values)], drawn])


def interval(samples: ArrayLike) -> list[float]:
    """[estimate, lower, upper]: with the percentile interval of 95 %. Raises ValueError without resampled values."""
    samples = np.asarray(samples, dtype=float)
    if samples.ndim != 1 or len(samples) < 2:
        raise ValueError(f"samples of shape {samples.shape} must be (1 + n,): the estimate and n ≥ 1 resampled values")
    return [float(samples[0]), *np.quantile(samples[1:], [0.025, 0.975]).tolist()]


def spelled(samples: ArrayLike, form: str = ".1f") -> str:
    """The estimate and its interval, such as "59.3 (54.1 to 64.6)"."""
    value, low, high = interval(samples)
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def percent(value: float, low: float, high: float, sign: str = "") -> str:
    """A share and its interval in per cent, spelled like that of samples; with sign="+" a difference of two."""
    return f"{100 * value:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def answer(samples: ArrayLike) -> str:
    """Whether it "holds" or "fails" that a difference is positive; "undecided" where the interval contains zero."""
    return judged(*interval(samples)[1:])


def judged(low: float, high: float) -> str:
    """As `answer`, from an interval."""
    return "holds" if low > 0 else "fails" if high < 0 else "undecided"
