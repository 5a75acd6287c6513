"""Activations that are not non-negative, such as those of GELU networks and transformers, made fit for NMF."""

import torch
from torch import Tensor

from ._inputs import dense, isolated
from .factorization import Factorization
from .gate import Channelwise, check_counts, described, listed
from .solver import nmf
from .solver.plain import sweep


class Split(Channelwise):
    """Positive and negative parts side by side, (n, C, ...) -> (n, 2C, ...) ≥ 0: concatenated ReLU (Shang et al. 2016).

    Followed by `Join` it changes nothing, so a pair of them makes any layer one whose activations can be factorized:

        model.block3 = nn.Sequential(model.block3, Split(), Join())
        accuracy_curve(model, "block3.1", inputs, labels)

    Args:
        channels: of both, "last" for (n, ..., C), "tokens" for (n, T, C); the default is dimension 1. Functions that
            take a model then know where the channels are.

    Raises:
        ValueError: for another name, and for a tensor that does not fit.

    Example:
        >>> import torch
        >>> from nmfcore.signed import Split
        >>> Split()(torch.tensor([[1.0, -2.0]])).tolist()
        [[1.0, 0.0, 0.0, 2.0]]
    """

    widens = 2

    def forward(self, x: Tensor) -> Tensor:
        along = self.dimension(x)
        return torch.cat([x.relu(), (-x).relu()], along)


class Join(Channelwise):
    """The inverse of `Split`: (n, 2C, ...) -> (n, C, ...).

    Args:
        channels: as for `Split`.

    Raises:
        ValueError: for an odd number of channels.

    Example:
        >>> import torch
        >>> from nmfcore.signed import Join
        >>> Join()(torch.tensor([[1.0, 0.0, 0.0, 2.0]])).tolist()
        [[1.0, -2.0]]
    """

    def forward(self, parts: Tensor) -> Tensor:
        along = self.dimension(parts)
        if parts.shape[along] % 2:
            raise ValueError(f"{parts.shape[along]} channels are not positive and negative parts: put Join behind "
                             "Split, with the same channels=")
        positive, negative = parts.chunk(2, along)
        return positive - negative


@isolated()
def semi_nmf(A: Tensor, rank: int, *, max_iter: int = 200, tol: float = 1e-4, seed: int = 0) -> Factorization:
    """A ≈ U V with U ≥ 0 and V of any sign (Ding, Li and Jordan 2010).

    It starts from an NMF of the positive and negative parts side by side, which is such a factorization already, and
    lowers its error: V by least squares, U by HALS, in turn. Rows of V have unit length.

    Args:
        A: (N, M) of any sign; a sparse one is made dense.
        rank: K.
        max_iter: turns of U and V at most.
        tol: it stops when the error falls by less than `tol` of itself in a turn.
        seed: of the NMF.

    Raises:
        ValueError: as `nmf` does, and for max_iter below 1.

    Example:
        >>> import torch
        >>> from nmfcore.signed import semi_nmf
        >>> A = torch.outer(torch.tensor([1.0, 2, 3]), torch.tensor([0.6, -0.8]))
        >>> result = semi_nmf(A, 1)
        >>> torch.allclose(result.approximation, A, atol=1e-5), bool((result.U >= 0).all())
        (True, True)
    """
    check_counts(max_iter=max_iter)
    A, ((rank,), _) = dense(A, "(N, M)"), listed([rank])
    if A.dim() != 2:
        raise ValueError(f"A is {described(A)}; expected a matrix (N, M)")
    start = nmf(Split()(A), rank, seed=seed)
    U, V = start.U, Join()(start.V)
    error = torch.linalg.norm(A - U @ V)
    for _ in range(max_iter):
        V = (torch.linalg.pinv(U.double()) @ A.double()).to(U)  # of least norm, where columns of U are dependent
        U = sweep(U.mT[None], (V @ V.mT)[None], (V @ A.mT)[None], 10)[0].mT
        before, error = error, torch.linalg.norm(A - U @ V)
        if not before - error > tol * before:
            break
    length = V.norm(dim=1)
    return Factorization(U * length, V / torch.where(length > 0, length, 1)[:, None])
