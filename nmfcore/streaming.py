"""NMF of a stream: rows arrive in chunks, such as the frames of a video, and are forgotten once they are factorized."""

from numbers import Real

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ._inputs import dense, isolated
from .gate import check_counts, described
from .solver import nmf
from .solver.plain import coefficients, sweep


class StreamingNMF:
    """A_t ≈ U_t V_t for one chunk after the other, with V ≥ 0 that is carried along.

    Of what has passed only V (K, M) and two sums are kept, Σ γ^(t−s) U_sᵀ U_s (K, K) and Σ γ^(t−s) U_sᵀ A_s (K, M). The
    new chunk's U and V then take turns, V against these sums (online dictionary learning, Mairal et al. 2010, with
    forgetting). The memory does not grow with the number of chunks.

    Args:
        rank: K.
        forget: γ in (0, 1]: the weight of a chunk falls by this factor with each later one. 1 forgets nothing.
        turns: of U and V for each chunk.
        sweeps: of HALS in each turn.
        seed: of the first chunk's factorization, by `nmf`, from which V starts.

    Attributes:
        V: (K, M), rows of unit length; None before the first chunk.

    Raises:
        ValueError: for arguments out of range, and as `nmf` for a chunk that has no such factorization.

    Example:
        >>> import torch
        >>> from nmfcore.activations import to_matrix
        >>> from nmfcore.streaming import StreamingNMF
        >>> stream = StreamingNMF(4)
        >>> for maps in torch.rand(3, 16, 5, 5, generator=torch.Generator().manual_seed(0)):  # frames of a video
        ...     U = stream.update(to_matrix(maps[None]))
        >>> U.shape, stream.V.shape
        (torch.Size([25, 4]), torch.Size([4, 16]))
    """

    rank: int
    forget: float
    turns: int
    sweeps: int
    seed: int

    def __init__(self, rank: int, *, forget: float = 0.9, turns: int = 5, sweeps: int = 10, seed: int = 0):
        check_counts(rank=rank, turns=turns, sweeps=sweeps)
        if not isinstance(forget, Real) or not 0 < forget <= 1:
            raise ValueError(f"forget={forget!r} must be above 0 and at most 1")
        self.rank, self.forget, self.turns, self.sweeps, self.seed = rank, forget, turns, sweeps, seed
        self.V: Tensor | None = None

    @isolated()
    @torch.no_grad()
    def update(self, A: Tensor) -> Tensor:
        """U (N, K) ≥ 0 of a chunk A (N, M) ≥ 0; V then takes the chunk into account. N may differ between chunks.

        Half precision is computed in float32, and a sparse chunk made dense. The first chunk decides the type of V.
        """
        A = dense(A, "(N, M)")
        if A.dim() != 2:
            raise ValueError(f"a chunk is {described(A)}, and must be a matrix (N, M)")
        A = A if self.V is None else A.to(self.V.dtype)
        if self.V is None:
            self.V = nmf(A, self.rank, seed=self.seed).V
            self._gram, self._product = A.new_zeros(self.rank, self.rank), A.new_zeros(self.rank, A.shape[1])
        if A.shape[1] != self.V.shape[1] or not torch.isfinite(A).all() or (A < 0).any():
            raise ValueError(f"a chunk of shape {tuple(A.shape)} must be (N, {self.V.shape[1]}), finite and "
                             "non-negative")
        past, wanted = self.forget * self._gram, self.forget * self._product
        for _ in range(self.turns):
            U = coefficients(A, self.V, self.sweeps)
            self._gram, self._product = past + U @ U.mT, wanted + U @ A
            V = sweep(self.V[None], self._gram[None], self._product[None], self.sweeps)[0]
            length = V.norm(dim=1, keepdim=True)
            self.V = torch.where(length > 0, normalize(V, dim=1), self.V)  # a factor that nothing shows stays
            scale = torch.where(length > 0, length, 1)  # what V loses in length, U gains, in the past too
            past, wanted = past * scale * scale.mT, wanted * scale
            self._gram, self._product = self._gram * scale * scale.mT, self._product * scale
        return coefficients(A, self.V, self.sweeps).mT
