"""PCA, k-means, spherical k-means and random ablation, each as A ≈ U V (thesis section 2.3).

Every function takes A (N, M) and a rank and returns a `Factorization`, so that methods can be exchanged in an
experiment; `nmfcore.nmf` returns the same U, V and approximation. A sparse A is made dense, half precision computed in
float32. None of them centres the data: the thesis factorizes activations as they are, and the origin is where a ReLU
unit is silent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import torch
from sklearn.cluster import KMeans

from ._inputs import dense, isolated
from .solver import nmf


@dataclass(frozen=True)
class Factorization:
    """A ≈ U V.

    Example:
        >>> import torch
        >>> from nmfcore.factorization import Factorization
        >>> Factorization(torch.ones(2, 1), torch.tensor([[1.0, 2, 3]])).approximation
        tensor([[1., 2., 3.],
                [1., 2., 3.]])
    """

    U: torch.Tensor  #: (N, K) "where"
    V: torch.Tensor  #: (K, M) "what"

    @property
    @isolated()
    def approximation(self) -> torch.Tensor:
        """(N, M) U V."""
        return self.U @ self.V


@isolated()
def pca(A: torch.Tensor, rank: int, *, seed: int = 0) -> Factorization:
    """Best rank-K approximation A V Vᵀ with orthonormal rows of V (eq. 2.19): an SVD without centring.

    Signs are arbitrary in PCA; each row of V is given the sign that makes its largest entry positive.

    Args:
        A: (N, M).
        rank: K.
        seed: of no effect.

    Raises:
        ValueError: for A that is not a floating matrix, empty or not finite, and for a rank that is not an integer from
            1 to the smaller of N and M.

    Example:
        >>> import torch
        >>> from nmfcore.factorization import pca
        >>> result = pca(torch.tensor([[3.0, 4.0], [6.0, 8.0]]), 1)
        >>> result.V
        tensor([[0.6000, 0.8000]])
    """
    A = _checked(A, rank, 0, 1)
    _, _, V = torch.linalg.svd(A, full_matrices=False)
    V = V[:rank]
    V = V * V.gather(1, V.abs().argmax(1, keepdim=True)).sign()
    return Factorization(A @ V.mT, V)


@isolated()
def kmeans(A: torch.Tensor, rank: int, *, seed: int = 0, n_init: int = 10) -> Factorization:
    """Each row is replaced by the nearest of K centroids: U is one-hot (eq. 2.20).

    Args:
        A: (N, M).
        rank: K.
        seed: of the starts.
        n_init: runs of Lloyd's algorithm, of which the best counts.

    Raises:
        ValueError: for A that is not a floating matrix, empty or not finite, and for a rank that is not an integer from
            1 to N.

    Example:
        >>> import torch
        >>> from nmfcore.factorization import kmeans
        >>> result = kmeans(torch.tensor([[0.0, 1.0], [0.0, 3.0], [9.0, 0.0]]), 2)
        >>> result.approximation
        tensor([[0., 2.],
                [0., 2.],
                [9., 0.]])
    """
    A = _checked(A, rank, 0)
    fit = KMeans(rank, n_init=n_init, random_state=seed).fit(A.cpu().numpy())
    labels = torch.as_tensor(fit.labels_, device=A.device).long()
    return Factorization(torch.nn.functional.one_hot(labels, rank).to(A), torch.as_tensor(fit.cluster_centers_).to(A))


@isolated()
def spherical_kmeans(A: torch.Tensor, rank: int, *, seed: int = 0, n_init: int = 10,
                     max_iter: int = 300) -> Factorization:
    """k-means on directions: centroids maximize Σ cos(A_i, V_k(i)) (eq. 2.25; Dhillon & Modha 2001).

    Rows of V have unit norm; U has one non-zero per row, the length of A_i along its centroid. Zero rows have no
    direction: they keep U = 0 and do not move a centroid.

    Args:
        A: (N, M).
        rank: K.
        seed: of the starts.
        n_init: starts, of which the best counts.
        max_iter: rounds from each of them.

    Raises:
        ValueError: for A that is not a floating matrix, empty or not finite, and for a rank that is not an integer from
            1 to the number of rows that are not zero.

    Example:
        >>> import torch
        >>> from nmfcore.factorization import spherical_kmeans
        >>> result = spherical_kmeans(torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0]]), 2)
        >>> result.U.sum(1)
        tensor([1., 5., 2.])
    """
    A = _checked(A, rank, 0)
    peak = A.abs().amax(1, keepdim=True)
    X = torch.nn.functional.normalize(A / torch.where(peak > 0, peak, 1), dim=1)  # (N, M); squares stay in range
    candidates = (peak[:, 0] > 0).nonzero()[:, 0]
    if len(candidates) < rank:
        raise ValueError(f"rank {rank} exceeds the {len(candidates)} rows of A that are not zero")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n_init):
        V = _spread(X[candidates], rank, generator)
        labels = torch.full((len(X),), -1, device=X.device)
        for _ in range(max_iter):
            cosine, new = (X @ V.mT).max(1)
            if torch.equal(new, labels):
                break
            labels = new
            total = torch.zeros_like(V).index_add_(0, labels, X)
            length = total.norm(dim=1, keepdim=True)
            V = torch.where(length > 0, total / length, V)  # an empty cluster keeps its centroid
        found.append((float(cosine.sum()), V, labels))
    _, V, labels = max(found, key=lambda start: start[0])
    U = torch.nn.functional.one_hot(labels, rank).to(A) * (A * V[labels]).sum(1, keepdim=True)
    return Factorization(U, V)


@isolated()
def random_ablation(A: torch.Tensor, rank: int, *, seed: int = 0) -> Factorization:
    """Keep K randomly chosen columns of A and set the others to zero (eq. 2.28; Morcos et al. 2018).

    Args:
        A: (N, M).
        rank: K.
        seed: of the choice.

    Raises:
        ValueError: for A that is not a floating matrix, empty or not finite, and for a rank that is not an integer from
            1 to M.

    Example:
        >>> import torch
        >>> from nmfcore.factorization import random_ablation
        >>> result = random_ablation(torch.ones(2, 5), 3)
        >>> result.approximation.sum(1)
        tensor([3., 3.])
    """
    A = _checked(A, rank, 1)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randperm(A.shape[1], generator=generator)[:rank].sort().values.to(A.device)
    return Factorization(A[:, kept], torch.eye(A.shape[1], dtype=A.dtype, device=A.device)[kept])


METHODS: dict[str, Callable] = {"nmf": nmf, "pca": pca, "kmeans": kmeans, "spherical_kmeans": spherical_kmeans,
                                "random_ablation": random_ablation}


def _checked(A, rank, *axes):
    """A without gradient, in float32 or float64; the rank may not exceed the length of any of `axes`."""
    A = dense(A, "(N, M) with at least one entry")
    if A.dim() != 2 or A.numel() == 0:
        raise ValueError(f"A must be a floating-point tensor (N, M) with at least one entry, got {A.dtype} "
                         f"{tuple(A.shape)}")
    if not torch.isfinite(A).all():
        raise ValueError(f"A{(~torch.isfinite(A)).nonzero()[0].tolist()} is not finite")
    highest = min(A.shape[axis] for axis in axes)
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 1 <= rank <= highest:
        raise ValueError(f"rank {rank!r} must be an integer in 1..{highest} for A of shape {tuple(A.shape)}")
    return A


def _spread(X, rank, generator):
    """k-means++ seeding with the cosine dissimilarity: each new start is drawn in proportion to its distance."""
    first = int(torch.randint(len(X), (1,), generator=generator))
    chosen, distance = [first], (1 - X @ X[first]).clamp_min(0)
    while len(chosen) < rank:
        weight = distance.double().cpu()
        weight[chosen] = 0
        if weight.sum() == 0:  # fewer directions than centroids: any row that is not taken will do
            weight.fill_(1)[chosen] = 0
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
        distance = torch.minimum(distance, (1 - X @ X[chosen[-1]]).clamp_min(0))
    return X[chosen]
