"""The statistics of chapter 3, each with an interval over networks.

    levels = [np.array([0.91, 0.93]), np.array([0.84, 0.86])]  # AuC of two networks at each of two shares p
    bootstrap(effect, *levels)  # value, low, high
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

DRAWS = 4000


def bootstrap(statistic: Callable, *strata: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """A statistic with its 95 % interval: each stratum's first axis is resampled by itself.

    The percentiles are expanded for small samples (Hesterberg 2015, section 5.3), without which three networks a level
    would decide on noise: by √(n/(n−1)) for the variance, and from the normal to Student's quantile. Draws on which the
    statistic is not finite are left out, as where all networks drawn are one. A stratum of a single network has no
    spread, so the interval is then all numbers.
    """
    value = float(statistic(*strata))
    sizes = np.array([len(stratum) for stratum in strata])
    if sizes.min() < 2:
        return value, -np.inf, np.inf
    wider = np.sqrt(np.mean(sizes / (sizes - 1))) * stats.t.ppf(0.975, (sizes - 1).sum())
    tail = stats.norm.cdf(-wider)
    generator, draws = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        draws.append(statistic(*(stratum[generator.integers(len(stratum), size=len(stratum))] for stratum in strata)))
    finite = np.array(draws)[np.isfinite(draws)]
    if not len(finite):
        return value, -np.inf, np.inf
    low, high = np.quantile(finite, [tail, 1 - tail])
    return value, float(low), float(high)


def proportion(successes: int, count: int) -> tuple[float, float, float]:
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""
    interval = stats.binomtest(successes, count).proportion_ci()
    return successes / count, float(interval.low), float(interval.high)


def fall(*levels: np.ndarray) -> float:
    """Mean fall from one level to the next."""
    return float(np.mean(levels[0]) - np.mean(levels[-1])) / (len(levels) - 1)


def effect(*levels: np.ndarray) -> float:
    """The fall in standard deviations between networks of a level, pooled over levels, as for Cohen's d."""
    spread = np.sqrt(np.mean([np.var(level, ddof=1) for level in levels]))
    return fall(*levels) / spread if spread > 0 else np.nan


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    """Correlation; NaN where one is constant."""
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else np.nan
