"""What a factorization gives back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .._inputs import dense, isolated

REASONS = ("max_iter", "tolerance", "exact")  # why a problem stopped, indexed by Factors.status


@dataclass(frozen=True)
class Factors:
    """A ≈ U V for one matrix or a batch; rows of V have unit ℓ2 norm, U carries the scale.

    Example:
        >>> import torch
        >>> from nmfcore import nmf
        >>> A = torch.eye(4)
        >>> factors = nmf(A, 4, seed=1)
        >>> factors.reason, bool(factors.converged), bool(factors.kkt(A) < 1e-3)
        ('exact', True, True)
        >>> torch.allclose(factors.approximation, A, atol=1e-5)
        True
    """

    U: Tensor  #: (…, N, K) ≥ 0, "where"
    V: Tensor  #: (…, K, M) ≥ 0, "what"
    error: Tensor  #: (…) ‖A − U V‖_F / ‖A‖_F
    iterations: Tensor  #: (…) integer, over all rows of A
    status: Tensor  #: (…) index into REASONS
    seconds: Tensor  #: (…) that this rank took; problems that are solved together share theirs equally
    start: str = "random"  #: or "given", or "rank K" for a start from the result of a lower rank

    @property
    def converged(self) -> Tensor:
        """(…) bool, stopped by its own convergence test, not by `max_iter`."""
        return self.status > 0

    @property
    def reason(self) -> str | list:
        """Why each problem stopped, as a string or a nested list of strings shaped like the batch."""
        def name(status):
            return [name(item) for item in status] if isinstance(status, list) else REASONS[status]
        return name(self.status.tolist())

    @property
    @isolated()
    def approximation(self) -> Tensor:
        """(…, N, M) U V."""
        return self.U @ self.V

    @isolated()
    def kkt(self, A: Tensor) -> Tensor:
        """(…) How far from stationary, 0 at a point that satisfies the Karush-Kuhn-Tucker conditions.

        It is the norm, relative to ‖A‖_F, of the changes that an exact step in every single component, taken alone,
        would make to the approximation: ‖(U − [U − ∇_U / ‖V_k‖²]₊) ‖V_k‖‖ and the same for V.

        Args:
            A: (…, N, M) what was factorized; where it is sparse, it is made dense.
        """
        A = dense(A).to(self.U)
        peak = A.amax((-2, -1), keepdim=True)
        peak = torch.where(peak > 0, peak, 1)
        A, U = A / peak, self.U / peak
        size = torch.linalg.vector_norm(A, dim=(-2, -1))
        moved = torch.zeros_like(size)
        for X, Y, target in ((U.mT, self.V, A.mT), (self.V, U.mT, A)):
            gram = Y @ Y.mT
            diagonal = gram.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # (…, K, 1)
            descent = Y @ target - gram @ X
            step = torch.maximum(descent / torch.where(diagonal > 0, diagonal, 1), -X) * (diagonal > 0)
            moved = moved + (step.square() * diagonal).sum((-2, -1))
        return moved.sqrt() / torch.where(size > 0, size, 1)
