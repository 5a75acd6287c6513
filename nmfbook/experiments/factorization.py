"""Five factorizations of the same data: points in the plane, whole faces, and the error that a solver leaves."""

from collections.abc import Sequence

import numpy as np
import torch

from nmfcore import nmf
from nmfcore.factorization import METHODS

ROWS = {"F2.12": "pca", "F2.14": "kmeans", "F2.15": "nmf", "F2.16": "random_ablation", "E2.25": "spherical_kmeans"}
THESIS_FACES = 49, 2429  # rank and number


def two_pixels(images: torch.Tensor, count: int, *, seed: int = 0) -> torch.Tensor:
    """Of some images (N, pixels), the brightness of the two pixels whose ratio varies most among all: (count, 2)."""
    ratios = np.cov(images.cpu().clamp_min(0.05).log().numpy().T)  # variance of log(x / y) = var + var - 2 cov
    variances = np.diag(ratios)
    pair = divmod(int((variances[:, None] + variances - 2 * ratios).argmax()), images.shape[1])
    some = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return images.cpu()[some][:, sorted(pair)].double()


def measure_points(points: torch.Tensor, *, seed: int = 0) -> tuple[dict, dict]:
    """The fit of each method at ranks one and two, and its relative error, by (method, rank)."""
    fits = {(method, K): METHODS[method](points, K, seed=seed) for method in ROWS.values() for K in (1, 2)}
    error = {key: float((points - fit.approximation).norm() / points.norm()) for key, fit in fits.items()}
    for rank in (1, 2):  # the sets of what is allowed are nested, so the errors are ordered
        assert error["pca", rank] <= error["nmf", rank] + 1e-9
        assert error["nmf", rank] <= error["spherical_kmeans", rank] + 1e-3
        assert error["pca", rank] <= error["random_ablation", rank] + 1e-9
    assert abs(error["pca", 1] - error["nmf", 1]) < 1e-3  # Perron: the best single direction is already non-negative
    assert error["pca", 2] < 1e-9 and error["random_ablation", 2] < 1e-9 and error["kmeans", 2] > 0.01
    return fits, error


def sparsity(V: torch.Tensor) -> float:
    """Hoyer's sparsity, a mean over the rows of V: zero for equal entries, one for a single entry that is not zero."""
    root = V.shape[1] ** 0.5
    return float(((root - V.abs().sum(1) / V.norm(dim=1)) / (root - 1)).mean())


def faces_report(values: dict) -> dict:
    """What to report on the thesis's faces: is NMF's basis sparser than that of PCA, and than that of k-means?

    values: `faces_rank`, `faces_count` and `faces_sparsity_` of the three methods.
    """
    rank, count = values["faces_rank"], values["faces_count"]
    sparse = {method: values[f"faces_sparsity_{method}"] for method in ("nmf", "pca", "kmeans")}
    full = (rank, count) == THESIS_FACES
    return {"answers": ["holds" if sparse["nmf"] > sparse[other] else "fails" for other in ("pca", "kmeans")],
            "protocol_met": full,
            "value": f"K = {rank}: basis sparsity NMF {sparse['nmf']:.2f}, PCA {sparse['pca']:.2f}, "
                     f"k-means {sparse['kmeans']:.2f}",
            "note": "Least squares where Lee and Seung's original figure minimized a divergence." if full else
                    f"{count} other faces at rank {rank}: whether the parts are those of the thesis's figure cannot be "
                    "told from so few."}


def measure_solvers(A: torch.Tensor, K: int, budgets: Sequence[int], starts: int, *, seed: int = 0) -> dict:
    """Relative error of both solvers after each number of iterations, from the same starts: (starts, budgets)."""
    error = {solver: torch.stack([torch.stack([
        nmf(A, K, solver=solver, seed=seed + start, max_iter=budget, tol=0).error for budget in budgets])
        for start in range(starts)]).cpu() for solver in ("hals", "mu")}
    assert (error["hals"][:, -1] < error["mu"][:, -1]).all()
    assert (error["hals"].diff(dim=1) <= 1e-7).all(), "the error of the best iterate never rises"
    return error
