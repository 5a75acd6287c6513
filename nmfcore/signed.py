"""Activations that are not non-negative, such as those of GELU networks and transformers, made fit for NMF."""

import torch
from torch import Tensor, nn

from .factorization import Factorization
from .solver import _sweep, nmf


class Split(nn.Module):
    """Positive and negative parts side by side, (n, C, ...) -> (n, 2C, ...) ≥ 0: concatenated ReLU (Shang et al. 2016).

    Followed by `Join` it changes nothing, so a pair of them makes any layer one whose activations can be factorized:

        model.block3 = nn.Sequential(model.block3, Split(), Join())
        accuracy_curve(model, "block3.1", inputs, labels)
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.relu(), (-x).relu()], 1)


class Join(nn.Module):
    """The inverse of `Split`: (n, 2C, ...) -> (n, C, ...). Raises ValueError for an odd number of channels."""

    def forward(self, parts: Tensor) -> Tensor:
        if parts.shape[1] % 2:
            raise ValueError(f"{parts.shape[1]} channels are not positive and negative parts: put Join behind Split")
        positive, negative = parts.chunk(2, 1)
        return positive - negative


def semi_nmf(A: Tensor, rank: int, *, max_iter: int = 200, tol: float = 1e-4, seed: int = 0) -> Factorization:
    """A ≈ U V with U ≥ 0 and V of any sign (Ding, Li and Jordan 2010), A (N, M) of any sign.

    It starts from an NMF of the positive and negative parts side by side, which is such a factorization already, and
    lowers its error: V by least squares, U by HALS, in turn, until the error falls by less than `tol` of itself.
    Rows of V have unit length.

    Raises ValueError as `nmf` does, and for max_iter below 1.
    """
    if max_iter < 1:
        raise ValueError(f"max_iter={max_iter} must be at least 1")
    start = nmf(Split()(A.detach()), rank, seed=seed)
    A, U, V = A.detach().to(start.U.dtype), start.U, Join()(start.V)
    error = torch.linalg.norm(A - U @ V)
    for _ in range(max_iter):
        V = (torch.linalg.pinv(U.double()) @ A.double()).to(U)  # of least norm, where columns of U are dependent
        U = _sweep(U.mT[None], (V @ V.mT)[None], (V @ A.mT)[None], 10)[0].mT
        before, error = error, torch.linalg.norm(A - U @ V)
        if not before - error > tol * before:
            break
    length = V.norm(dim=1)
    return Factorization(U * length, V / torch.where(length > 0, length, 1)[:, None])
