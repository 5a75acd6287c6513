"""How many parts: bi-cross-validation (Owen & Perry 2009), which holds out entries, not rows.

The error of a factorization falls with every part that is added, on new rows as well, since their U is fitted to them.
So a block of rows I and columns J is left out. What remains is factorized, A₋I₋J ≈ U V; U_I is found from the columns of I
that were seen, V_J from the rows of J that were seen, and U_I V_J predicts a block that had no part in it. Too few parts
predict badly, and so do parts that describe noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoding import encode
from .solver import _is_count, nmf


@dataclass(frozen=True)
class RankChoice:
    """The held-out error of every rank, and the rank that it speaks for."""

    rank: int
    ranks: tuple[int, ...]  # R of them, ascending
    error: Tensor  # (folds, R) mean squared error of the held-out entries ÷ mean square of A

    @property
    def mean(self) -> Tensor:
        """(R,) over the folds."""
        return self.error.mean(0)

    @property
    def spread(self) -> Tensor:
        """(R,) standard deviation over the folds."""
        return self.error.std(0)

    def __str__(self) -> str:
        place = self.ranks.index(self.rank)
        return (f"rank {self.rank} of {', '.join(map(str, self.ranks))}: held-out error {float(self.mean[place]):.3g} ± "
                f"{float(self.spread[place]):.2g}, mean and spread of {len(self.error)} folds")


def choose_rank(A: Tensor, ranks: Sequence[int], *, folds: int = 3, seed: int = 0, max_iter: int | None = None,
                tol: float = 1e-4) -> RankChoice:
    raise NotImplementedError
