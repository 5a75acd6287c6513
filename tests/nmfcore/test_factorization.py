"""PCA, k-means, spherical k-means and random ablation: against closed forms, brute force and each other."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD

from nmfcore import nmf
from nmfcore.factorization import METHODS, Factorization, kmeans, pca, random_ablation, spherical_kmeans

torch.set_num_threads(1)


def random(*shape, seed=0, density=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    A = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return (A * (torch.rand(*shape, generator=generator) < density)).to(dtype)


def error(A, result):
    return float((A - result.approximation).norm() / A.norm())


def directions(N, seed=0):
    """N rows around three directions, of very different lengths."""
    centres = torch.tensor([[1.0, 0, 0, 0.1], [0, 1, 0, 0.1], [0, 0.2, 1, 0]], dtype=torch.float64)
    labels = torch.arange(N) % 3
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    length = torch.logspace(-2, 3, N, dtype=torch.float64)[order]
    return (centres[labels] + 0.05 * random(N, 4, seed=seed)) * length[:, None], labels


def same_partition(first, second):
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    return len(pairs) == len(set(first.tolist())) == len(set(second.tolist()))


# --- the common interface -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_method_is_called_alike(name, dtype):
    A = random(12, 7, dtype=dtype) + 0.1
    before = A.clone()
    first, again = METHODS[name](A, 3, seed=2), METHODS[name](A.clone().requires_grad_(), np.int64(3), seed=2)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    assert first.U.shape == (12, 3) and first.V.shape == (3, 7) and first.approximation.shape == (12, 7)
    assert first.U.dtype == first.V.dtype == kept
    assert not again.U.requires_grad and not again.V.requires_grad
    torch.testing.assert_close(first.U @ first.V, first.approximation)
    assert torch.equal(first.U, again.U) and torch.equal(first.V, again.V) and torch.equal(A, before)
    assert inspect.signature(METHODS[name]).parameters["seed"].default == 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rank", [0, -1, True, 1.0, 2.5, "2"])
def test_a_bad_rank_is_named(name, rank):
    with pytest.raises(ValueError, match=rf"rank {rank!r} must be an integer"):
        METHODS[name](random(4, 3), rank)


@pytest.mark.parametrize("name, largest", [("pca", 3), ("kmeans", 8), ("spherical_kmeans", 8), ("random_ablation", 3)])
def test_a_rank_beyond_what_the_method_has(name, largest):
    A = random(8, 3) + 0.1
    assert METHODS[name](A, largest).V.shape == (largest, 3)
    with pytest.raises(ValueError, match=rf"rank {largest + 1} must be an integer in 1\.\.{largest}"):
        METHODS[name](A, largest + 1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("A, message", [
    (torch.ones(3), r"\(3,\)"),
    (torch.ones(0, 3), r"\(0, 3\)"),
    (torch.ones(3, 3, dtype=torch.int64), "int64"),
    (np.ones((3, 3)), "ndarray"),
    (torch.tensor([[1.0, 1], [1, float("nan")]]), r"A\[1, 1\]"),
    (torch.tensor([[1.0, 1], [float("inf"), 1]]), r"A\[1, 0\]"),
])
def test_a_bad_matrix_is_named(name, A, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](A, 1)


@pytest.mark.parametrize("K", [1, 3, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_more_freedom_fits_better(K, seed):
    A = random(60, 20, density=0.5, seed=seed)
    errors = {name: error(A, METHODS[name](A, K, **({"tol": 1e-6} if name == "nmf" else {}))) for name in METHODS}
    assert errors["pca"] <= errors["nmf"] + 1e-9
    assert errors["nmf"] <= errors["spherical_kmeans"]  # one non-zero per row of U, and both factors ≥ 0
    assert errors["spherical_kmeans"] <= errors["kmeans"] + 1e-9  # that non-zero is free, not 1
    assert errors["pca"] <= errors["random_ablation"]


def test_spherical_kmeans_is_a_start_that_nmf_improves():
    A = random(60, 20, density=0.5)
    clusters = spherical_kmeans(A, 4)
    assert nmf(A, 4, init=(clusters.U, clusters.V)).error < error(A, clusters)


# --- PCA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("N, M", [(30, 12), (12, 30), (9, 9)])
@pytest.mark.parametrize("K", [1, 4, 9])
def test_pca_is_the_truncated_svd(N, M, K):
    A = random(N, M) - 0.3  # signs are allowed
    result = pca(A, K)
    assert isinstance(result, Factorization)
    left, values, right = np.linalg.svd(A.numpy(), full_matrices=False)
    best = np.sqrt((values[K:] ** 2).sum() / (values**2).sum())
    assert error(A, result) == pytest.approx(best, abs=1e-12)
    torch.testing.assert_close(result.V @ result.V.mT, torch.eye(K, dtype=A.dtype))
    np.testing.assert_allclose(result.approximation, (left[:, :K] * values[:K]) @ right[:K], atol=1e-10)
    np.testing.assert_allclose(result.U.norm(dim=0), values[:K], rtol=1e-10)


def test_pca_agrees_with_scikit_learn():
    A = random(40, 15)
    peer = TruncatedSVD(5, algorithm="arpack", random_state=0)
    scores = peer.fit_transform(A.numpy())
    np.testing.assert_allclose(pca(A, 5).approximation, scores @ peer.components_, atol=1e-8)


def test_signs_of_pca_are_fixed():
    A = random(20, 8) - 0.5
    V = pca(A, 6).V
    assert (V.gather(1, V.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(pca(A.flip(0), 6).V, V)
    torch.testing.assert_close(pca(-A, 6).V, V)


def test_pca_of_nothing_but_zeros():
    assert pca(torch.zeros(4, 3), 2).approximation.abs().sum() == 0


# --- k-means ------------------------------------------------------------------------------------------------


def test_kmeans_is_one_hot_and_its_centroids_are_means():
    A = random(50, 6)
    result = kmeans(A, 4)
    assert set(result.U.unique().tolist()) == {0, 1} and (result.U.sum(1) == 1).all()
    for k in range(4):
        torch.testing.assert_close(result.V[k], A[result.U[:, k] == 1].mean(0))
    assert torch.equal(torch.cdist(A, result.V).argmin(1), result.U.argmax(1))


def test_kmeans_finds_planted_clusters_and_follows_its_seed():
    labels = torch.arange(60) % 3
    A = torch.eye(3, 5, dtype=torch.float64)[labels] * 10 + random(60, 5)
    assert same_partition(kmeans(A, 3).U.argmax(1), labels)
    assert torch.equal(kmeans(A, 5, seed=1).U, kmeans(A, 5, seed=1).U)


def test_kmeans_with_as_many_clusters_as_rows_is_exact():
    A = random(6, 4)
    torch.testing.assert_close(kmeans(A, 6).approximation, A)


# --- spherical k-means --------------------------------------------------------------------------------------


def cohesion(X, labels, K):
    """Σ cos to the best centroids of an assignment: the length of the sum of each cluster's unit rows."""
    return sum(float(X[labels == k].sum(0).norm()) for k in range(K))


@pytest.mark.parametrize("N, K", [(5, 2), (7, 2), (6, 3)])
def test_spherical_kmeans_reaches_the_optimum_of_brute_force(N, K):
    hits = 0
    for seed in range(10):
        A = random(N, 4, density=0.8, seed=seed) + 1e-3
        X = A / A.norm(dim=1, keepdim=True)
        best = max(cohesion(X, torch.tensor(labels), K) for labels in itertools.product(range(K), repeat=N))
        result = spherical_kmeans(A, K, seed=seed)
        found = cohesion(X, result.U.argmax(1), K)
        assert found <= best + 1e-9
        assert found == pytest.approx(float((X * result.V[result.U.argmax(1)]).sum()))  # V are the best centroids
        hits += found >= best - 1e-9
    assert hits >= 8


def test_spherical_kmeans_clusters_directions_whatever_the_lengths():
    A, labels = directions(60)
    result = spherical_kmeans(A, 3)
    assert same_partition(result.U.argmax(1), labels)
    assert not same_partition(kmeans(A, 3).U.argmax(1), labels)  # which plain k-means does not
    torch.testing.assert_close(result.V.norm(dim=1), torch.ones(3, dtype=A.dtype))
    assert ((result.U != 0).sum(1) == 1).all()
    k = result.U.argmax(1)
    torch.testing.assert_close(result.U.amax(1), (A * result.V[k]).sum(1))  # the length along the centroid
    residual = A - result.approximation
    assert (residual * result.V[k]).sum(1).abs().max() < 1e-9 * A.norm()  # a projection: orthogonal residual


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_spherical_kmeans_of_huge_and_tiny_rows(scale):
    A = directions(30)[0].float()
    one, scaled = spherical_kmeans(A, 3), spherical_kmeans(A * scale, 3)
    assert torch.equal(one.U.argmax(1), scaled.U.argmax(1))
    torch.testing.assert_close(scaled.V, one.V)


def test_spherical_kmeans_leaves_zero_rows_out():
    A, labels = directions(30)
    with_zeros = torch.cat([torch.zeros(5, 4, dtype=A.dtype), A])
    result = spherical_kmeans(with_zeros, 3)
    assert (result.U[:5] == 0).all() and same_partition(result.U[5:].argmax(1), labels)
    alone = spherical_kmeans(A, 3)
    torch.testing.assert_close(result.V[result.V[:, 0].sort().indices], alone.V[alone.V[:, 0].sort().indices])


def test_spherical_kmeans_with_too_few_rows_or_directions():
    A = torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    with pytest.raises(ValueError, match=r"rank 3 exceeds the 2 rows of A that are not zero"):
        spherical_kmeans(A, 3)
    torch.testing.assert_close(spherical_kmeans(A, 2).approximation, A)
    duplicates = torch.tensor([[1.0, 2, 0]]) * torch.arange(1, 6)[:, None]  # one direction, five rows
    result = spherical_kmeans(duplicates, 3)
    assert torch.isfinite(result.U).all() and torch.isfinite(result.V).all()
    torch.testing.assert_close(result.approximation, duplicates)
    torch.testing.assert_close(result.V.norm(dim=1), torch.ones(3))


def test_spherical_kmeans_follows_its_seed_alone():
    A = random(40, 6)
    torch.manual_seed(5)
    first = spherical_kmeans(A, 6, seed=1, n_init=1)
    torch.manual_seed(6)
    assert torch.equal(first.V, spherical_kmeans(A, 6, seed=1, n_init=1).V)
    assert any(not torch.equal(first.V, spherical_kmeans(A, 6, seed=seed, n_init=1).V) for seed in (2, 3))


def test_spherical_kmeans_stopped_early_is_still_a_factorization():
    A = random(200, 6)
    stopped = spherical_kmeans(A, 8, max_iter=1)
    assert ((stopped.U != 0).sum(1) == 1).all()
    assert error(A, spherical_kmeans(A, 8)) <= error(A, stopped)


# --- random ablation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 4, 9])
def test_random_ablation_keeps_exactly_k_columns(K):
    A = random(6, 9) + 0.1
    approximation = random_ablation(A, K, seed=K).approximation
    kept = (approximation != 0).any(0)
    assert int(kept.sum()) == K
    assert torch.equal(approximation[:, kept], A[:, kept]) and (approximation[:, ~kept] == 0).all()


def test_random_ablation_chooses_by_seed_and_evenly():
    A = torch.ones(1, 10)
    kept = torch.stack([random_ablation(A, 3, seed=seed).approximation[0] for seed in range(300)])
    assert torch.equal(kept[7], random_ablation(A, 3, seed=7).approximation[0])
    assert len({tuple(row.tolist()) for row in kept}) > 50
    assert (kept.mean(0) - 0.3).abs().max() < 0.1


# --- k-means: how many starts -------------------------------------------------------------------------------


def test_kmeans_keeps_the_best_of_its_starts():
    A = random(80, 6)
    errors = {(n, seed): error(A, kmeans(A, 9, seed=seed, n_init=n)) for n in (1, 10) for seed in range(5)}
    assert error(A, kmeans(A, 9, seed=3)) == errors[10, 3]  # ten unless asked for
    assert len({errors[1, seed] for seed in range(5)}) > 1
    assert sum(errors[10, seed] for seed in range(5)) < sum(errors[1, seed] for seed in range(5))
    expected = KMeans(9, n_init=1, random_state=2).fit(A.numpy())
    np.testing.assert_allclose(kmeans(A, 9, seed=2, n_init=1).V, expected.cluster_centers_)
