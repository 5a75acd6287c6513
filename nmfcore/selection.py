"""How many parts: bi-cross-validation (Owen & Perry 2009), which holds out entries, not rows.

The error of a factorization falls with every part that is added, on new rows as well, since their U is fitted to them.
So the block of some rows I and some columns J is left out. The other rows and columns are factorized; U of the rows I
is then found from their other columns, V of the columns J from their other rows, and U_I V_J predicts a block that had
no part in it. Too few parts predict badly, and so do parts that describe noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._inputs import dense, is_sparse
from .solver import encode, nmf
from .solver.check import check_matrices, is_count, peaks


@dataclass(frozen=True)
class RankChoice:
    """The held-out error of every rank, and the rank that it speaks for.

    Example:
        >>> import torch
        >>> from nmfcore.selection import RankChoice
        >>> choice = RankChoice(2, (1, 2, 3), torch.tensor([[0.9, 0.2, 0.4], [0.7, 0.4, 0.2]]))
        >>> choice.mean
        tensor([0.8000, 0.3000, 0.3000])
        >>> print(choice)
        rank 2 of 1, 2, 3: held-out error 0.3 ± 0.14, mean and spread of 2 folds
    """

    rank: int  #: that was chosen
    ranks: tuple[int, ...]  #: R of them, ascending
    error: Tensor  #: (folds², R) mean squared error of the held-out entries ÷ mean square of A

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
        tried, mean, spread = ", ".join(map(str, self.ranks)), float(self.mean[place]), float(self.spread[place])
        return (f"rank {self.rank} of {tried}: held-out error {mean:.3g} ± {spread:.2g}, mean and spread of "
                f"{len(self.error)} folds")


def choose_rank(A: Tensor, ranks: Sequence[int], *, folds: int = 3, max_iter: int | None = None, tol: float = 1e-4,
                seed: int = 0) -> RankChoice:
    """The lowest of `ranks` whose held-out error is within one standard error of the lowest (Breiman et al. 1984).

    It finds the number of parts from which data was made where every part shows in many rows and columns and has zeros,
    and the noise is independent between entries. It finds too few where parts are rare or weaker than the noise. It
    finds too many, by one to three, where parts have no zeros and the noise is weak: rows held out then lie outside the
    cone of the others' parts, which more parts widen. It finds too many, too, where neighbouring entries share errors,
    as in maps of overlapping receptive fields: what was held out is still seen beside. Noise whose mean is not zero, as
    when it is cut off below zero, is a part. The highest rank given, if chosen, says that there may be more.

    Args:
        A: (N, M) floating tensor, non-negative; a sparse one is made dense. Rows and columns are shuffled into `folds`
            parts each; every pair of a part of the rows and a part of the columns is held out once.
        ranks: counts of parts to compare, none above what remains of N and M when a fold is left out.
        folds: from 2 on.
        max_iter, tol, seed: as in `nmf`; the folds are drawn from `seed`, too.

    Raises:
        ValueError: as `nmf` does, for A that is not one matrix or smaller than `folds`, and for ranks that are none or
            too high.

    Example:
        >>> import torch
        >>> from nmfcore import choose_rank
        >>> generator = torch.Generator().manual_seed(0)
        >>> U, V, noise = (torch.randn(*shape, generator=generator) for shape in ((90, 4), (4, 60), (90, 60)))
        >>> print(choose_rank(torch.relu(U.relu() @ V.relu() + 0.3 * noise), (2, 4, 6)))
        rank 4 of 2, 4, 6: held-out error 0... ± 0..., mean and spread of 9 folds
    """
    A = dense(A) if is_sparse(A) else A
    check_matrices("A", A)
    if A.dim() != 2:
        raise ValueError(f"A must have shape (N, M), got {tuple(A.shape)}; choose the rank of one matrix at a time")
    if not is_count(folds) or folds < 2:
        raise ValueError(f"folds {folds!r} must be an integer ≥ 2")
    for K in ranks:
        if not is_count(K):
            raise ValueError(f"rank {K!r} must be an integer ≥ 1")
    if not len(ranks):
        raise ValueError("ranks must hold at least one rank")
    ranks = tuple(sorted({int(K) for K in ranks}))
    N, M = A.shape
    highest = min(length - -(-length // folds) for length in (N, M))
    if min(N, M) < folds or ranks[-1] > highest:
        raise ValueError(f"A of shape {(N, M)} in {folds} × {folds} folds leaves {N - -(-N // folds)} × "
                         f"{M - -(-M // folds)} to fit rank {ranks[-1]} to; lower it, or take other folds")
    peaks(A, N)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(length, generator=generator).to(A.device) % folds for length in (N, M))
    A = A.detach().to(torch.float64 if A.dtype == torch.float64 else torch.float32)
    size, errors = A.double().square().mean(), []
    for i in range(folds):
        for j in range(folds):
            held, seen, above = A[rows == i], A[rows != i], columns == j
            fits = nmf(seen[:, ~above], ranks, max_iter=max_iter, tol=tol, seed=seed)
            errors.append([_held_out_error(held[:, above], held[:, ~above], seen[:, above], fit) for fit in fits])
    error = torch.tensor(errors, dtype=torch.float64) / float(size if size > 0 else 1)
    best = int(error.mean(0).argmin())
    limit = error[:, best].mean() + error[:, best].std() / len(error) ** 0.5
    return RankChoice(ranks[int((error.mean(0) <= limit).nonzero()[0])], ranks, error)


def _held_out_error(target, beside, above, factors):
    """Mean squared error of U_I V_J as a prediction of the block `target`, from what lies in its rows and columns."""
    U, V = encode(beside, factors.V), encode(above.mT, factors.U.mT).mT
    return float((target - U @ V).double().square().mean())
