"""How the statistics of F3.5 and F3.10 move with the number of training images and the width. Ours; lines are shared.

Jobs are those of `memorizing_networks` and `early_stopping`, at sizes that these do not have.
"""

from itertools import product
from pathlib import Path

from . import early_stopping, memorizing_networks

TRAINING = 10 * memorizing_networks.TRAINING + early_stopping.TRAINING
MEASUREMENT = 10 * memorizing_networks.MEASUREMENT + early_stopping.MEASUREMENT
LEVELS, SEEDS = (0.0, 0.4, 0.8), 5
SIZES = ((1 / 4, 200), (1 / 4, 1000), (1 / 8, 200), (1 / 8, 1000), (1 / 8, None), (1 / 2, 1000))  # width, per class


def jobs() -> list:
    """Both kinds of job, seeds slowest. A quarter of the width on all images is `memorizing_networks`' own."""
    found: list = []
    for seed in range(SEEDS):
        found += [memorizing_networks.Job("cifar10_jpeg", width, p, seed, per_class, lr=3e-4)
                  for (width, per_class), p in product(SIZES, LEVELS)]
        found += [early_stopping.Job("cifar10_jpeg", 1 / 8, *rate, seed, images=images)
                  for images in (4500, 10_000) for rate in early_stopping.RATES.values()]
    return found


def _of(job):
    return early_stopping if isinstance(job, early_stopping.Job) else memorizing_networks


def needs(job, device: str) -> str | None:
    """What is missing for a job, or None."""
    return _of(job).needs(job, device)


def train(job, folder: Path, *, device: str = "cpu"):
    """As its own experiment does."""
    return _of(job).train(job, folder, device=device)


def measure(job, trained, *, device: str = "cpu") -> dict:
    """As its own experiment does."""
    return _of(job).measure(job, trained, device=device)


def claims() -> list:
    """None: the thesis says nothing of scale."""
    return []
