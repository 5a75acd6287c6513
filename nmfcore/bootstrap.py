"""What a page says of bootstrap samples. Of (1 + n,) values the first is the estimate, the others are resampled."""

import numpy as np
from numpy.typing import ArrayLike


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


def answer(samples: ArrayLike) -> str:
    """Whether it "holds" or "fails" that a difference is positive; "undecided" where the interval contains zero."""
    _, low, high = interval(samples)
    return "holds" if low > 0 else "fails" if high < 0 else "undecided"
