"""NMF as noise: a layer that pulls activations towards their own low-rank approximation while a network is trained.

The thesis proposes it as future work (section 6.2), as a relative of dropout: what a few non-negative factors explain
stays, and what they leave is shaken.
"""

from numbers import Real

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ._inputs import isolated
from .activations import to_maps, to_matrix
from .gate import Channelwise, Layout, check_counts
from .solver.plain import coefficients, sweep


class NMFPerturbation(Channelwise):
    """Ã + r (A − Ã) in training mode, where Ã ≈ A is non-negative of rank K; the identity in evaluation mode.

    Each sample of a batch has its own r, drawn uniformly from [1 − strength, 1]. The batch (n, C, H, W), (n, C, L) or
    (n, C) is one matrix A with a row for each position, and Ã = U V. V is a buffer that follows the network: each
    step starts from the last one's, so that a few sweeps suffice. It is not part of the state dict.

    Args:
        rank: K, from 1 to C.
        strength: from 0, nothing, to 1: r reaches 0, where Ã alone is passed on.
        every: of the batches seen in training mode, perturb the first and each so-manieth after it.
        gradient: "identity" treats Ã − A as noise that does not depend on A, as dropout's mask does not.
            "implicit" passes the derivative of `project`, with V as it is.
        sweeps: HALS sweeps for U, after which V gets one.
        channels: "tokens" for activations (n, T, C), "last" for (n, ..., C).

    Raises:
        ValueError: for arguments out of range, and in the forward pass for negative activations: put it after a ReLU.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nmfcore.regularization import NMFPerturbation
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), NMFPerturbation(4))
        >>> model(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    dictionary: Tensor  # (K, C), the rows of V; none before the first batch
    rank: int
    strength: float
    every: int
    gradient: str
    sweeps: int
    seen: int

    def __init__(self, rank: int, *, strength: float = 1.0, every: int = 1, gradient: str = "identity",
                 sweeps: int = 3, channels: str | None = None):
        super().__init__(channels)
        check_counts(rank=rank, every=every, sweeps=sweeps)
        if not isinstance(strength, Real) or not 0 <= strength <= 1:
            raise ValueError(f"strength={strength!r} must lie between 0 and 1")
        if gradient not in ("identity", "implicit"):
            raise ValueError(f"gradient={gradient!r} is not 'identity' or 'implicit'")
        self.rank, self.strength, self.every, self.gradient, self.sweeps = rank, strength, every, gradient, sweeps
        self.seen = 0
        self.register_buffer("dictionary", torch.empty(0, 0), persistent=False)

    def extra_repr(self) -> str:
        where = f", channels={self.channels!r}" if self.channels else ""
        return f"{self.rank}, strength={self.strength}, every={self.every}, gradient={self.gradient!r}{where}"

    @isolated()
    def forward(self, activations: Tensor) -> Tensor:
        self.dimension(activations)
        if not self.training:
            return activations
        self.seen += 1
        if (self.seen - 1) % self.every or not self.strength:
            return activations
        where = Layout(self.channels or "first")
        maps = where.channels_first(activations)
        A = to_matrix(maps.to(torch.promote_types(maps.dtype, torch.float32)))
        if self.rank > A.shape[1]:
            raise ValueError(f"rank={self.rank} exceeds the {A.shape[1]} channels of this layer")
        low, high = (float(value) for value in A.detach().aminmax())
        if not 0 <= low <= high < float("inf"):
            raise ValueError(f"activations from {low:.3g} to {high:.3g}: put NMFPerturbation after a ReLU, and look "
                             "for what is not finite")
        self._follow(A.detach())
        approximation = project(A, self.dictionary, sweeps=self.sweeps)
        if self.gradient == "identity":
            approximation = A + (approximation - A).detach()
        r = 1 - self.strength * torch.rand([len(maps)] + [1] * (maps.dim() - 1), device=A.device, dtype=A.dtype)
        mixed = to_maps(approximation, maps.shape) + r * to_maps(A - approximation, maps.shape)
        return where.restored(mixed, activations).to(activations.dtype)

    @torch.no_grad()
    def _follow(self, A):
        """One step of HALS for V, from where it was; rows that have died begin anew at rows of A."""
        fits = self.dictionary.shape == (self.rank, A.shape[1])
        V = self.dictionary.to(A) if fits else A.new_zeros(self.rank, A.shape[1])
        dead = V.norm(dim=1) == 0
        if dead.any():
            V[dead] = A[torch.randint(len(A), (int(dead.sum()),), device=A.device)]
        V = normalize(V, dim=1)
        U = coefficients(A, V, self.sweeps)
        self.dictionary = normalize(sweep(V[None], (U @ U.mT)[None], (U @ A)[None], 1)[0], dim=1)


@isolated()
def project(A: Tensor, V: Tensor, *, sweeps: int = 100) -> Tensor:
    """(N, M) U V, the points closest to the rows of A in the cone of the rows of V, by HALS.

    Differentiable in A, V is taken as constant. Where U > 0 on the same set S of factors nearby, the closest point is a
    linear projection onto the span of V_S, and its own derivative; that is what the backward pass applies.

    Args:
        A: (N, M). Half precision is computed in float32.
        V: (K, M).
        sweeps: it is exact once they are enough to find S, the gradient of a few sweeps being that of the limit they
            approach.

    Example:
        >>> import torch
        >>> from nmfcore.regularization import project
        >>> A = torch.tensor([[3.0, 1.0, 0.0]], requires_grad=True)
        >>> point = project(A, torch.tensor([[1.0, 1.0, 0.0]]))
        >>> point.tolist()
        [[2.0, 2.0, 0.0]]
        >>> torch.autograd.grad(point[0, 0], A)[0]
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    full = torch.promote_types(A.dtype, torch.float32)
    return _Project.apply(A.to(full), V.detach().to(full), sweeps).to(A.dtype)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(context, A, V, sweeps):
        U = coefficients(A, V, sweeps)
        context.save_for_backward(U > 0, V)
        return U.mT @ V

    @staticmethod
    @isolated()
    def backward(context, gradient):
        active, V = context.saved_tensors
        return _onto_span(gradient, V, active.mT.to(V.dtype)), None, None


def _onto_span(X, V, active):
    """(N, M) the rows of X (N, M), each projected onto the span of the rows of V that `active` (N, K) marks with 1."""
    G = V @ V.mT
    own = G * active[:, :, None] * active[:, None, :] + torch.diag_embed(1 - active)
    own = own + 1e-6 * G.diagonal().mean() * torch.eye(len(G), dtype=G.dtype, device=G.device)  # equal rows of V
    return (torch.linalg.solve(own, (X @ V.mT * active)[..., None])[..., 0] * active) @ V
