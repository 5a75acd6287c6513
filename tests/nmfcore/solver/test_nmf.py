"""The solver: against scikit-learn, against closed forms, and the algebra that any factorization must obey."""

import itertools
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import NMF as SklearnNMF

from nmfcore import Factors, nmf
from nmfcore.solver import REASONS, backends

torch.set_num_threads(1)
SOLVERS = ["hals", "plain", "mu"]  # "plain": "hals" where nothing is compiled
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


@contextmanager
def implementation(name):
    """The solver's name, while `nmf` runs it as it should."""
    compiled = backends.cpu
    if name == "plain":
        backends.cpu = None
    try:
        yield "hals" if name == "plain" else name
    finally:
        backends.cpu = compiled


@pytest.fixture(params=SOLVERS)
def solver(request):
    with implementation(request.param) as name:
        yield name


@pytest.fixture(params=["hals", "plain"])
def path(request):
    with implementation(request.param):
        yield request.param


def random(*shape, seed=0, density=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    A = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return (A * (torch.rand(*shape, generator=generator) < density)).to(dtype)


def start(N, M, K, seed=0):
    return random(N, K, seed=seed + 1) + 0.01, random(K, M, seed=seed + 2) + 0.01


def relative(A, B):
    """‖A − B‖ / ‖A‖, in float64."""
    return float((A.double() - B.double()).norm() / A.double().norm())


def check(result, A):
    """What holds for every factorization of one non-negative matrix."""
    assert isinstance(result, Factors)
    for factor in (result.U, result.V):
        assert torch.isfinite(factor).all() and (factor >= 0).all()
        assert factor.dtype == (torch.float64 if A.dtype == torch.float64 else torch.float32)
    norms = result.V.norm(dim=-1)
    assert (((norms - 1).abs() < 1e-5) | (norms == 0)).all()
    if A.double().norm() > 0:
        finest = torch.finfo(result.U.dtype).smallest_normal * torch.finfo(result.U.dtype).eps  # what U rounds to
        rounding = 2e-6 + float(finest * result.U.shape[-1] * A.numel() ** 0.5 / A.double().norm())
        assert relative(A, result.approximation) == pytest.approx(float(result.error), rel=1e-3, abs=rounding)
    assert result.reason in REASONS
    assert bool(result.converged) == (result.reason != "max_iter")


MATRICES = {
    "dense": random(60, 40),
    "sparse": random(80, 50, density=0.3, seed=1),
    "low rank and noise": random(70, 5, seed=2) @ random(5, 60, seed=3) + 0.3 * random(70, 60, seed=4),
    "heavy tails": random(100, 30, seed=5).log().square(),
    "wide": random(12, 200, density=0.5, seed=6),
}

# --- against scikit-learn -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("K", [1, 3, 8])
def test_hals_is_as_good_as_coordinate_descent(name, K, path):
    A = MATRICES[name]
    U, V = start(*A.shape, K)
    U *= (A * (U @ V)).sum() / (U @ V).square().sum()  # the scale that `nmf` gives to a start
    peer = SklearnNMF(K, init="custom", solver="cd", tol=1e-5, max_iter=2000)
    W = peer.fit_transform(A.numpy(), W=U.numpy().copy(), H=V.numpy().copy())
    result = nmf(A, K, init=(U, V), tol=1e-6)
    check(result, A)
    assert float(result.error) <= 1.005 * relative(A, torch.from_numpy(W @ peer.components_))


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("K", [1, 4, 9])
def test_mu_is_step_by_step_that_of_scikit_learn(K, steps):
    A = random(30, 20, density=0.6)
    U, V = start(30, 20, K)
    peer = SklearnNMF(K, init="custom", solver="mu", tol=0, max_iter=steps)
    W = peer.fit_transform(A.numpy(), W=U.numpy().copy(), H=V.numpy().copy())
    length = np.linalg.norm(peer.components_, axis=1)
    result = nmf(A, K, init=(U, V), solver="mu", tol=0, max_iter=steps)
    assert int(result.iterations) == peer.n_iter_ == steps
    np.testing.assert_allclose(result.V, peer.components_ / length[:, None], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(result.U, W * length, rtol=1e-6, atol=1e-12)


def test_hals_beats_multiplicative_updates():
    A = MATRICES["sparse"]
    assert nmf(A, 8, tol=1e-6).error < nmf(A, 8, solver="mu", max_iter=1000, tol=0).error


# --- closed forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATRICES)
def test_rank_1_is_the_leading_singular_pair(name, solver):
    A = MATRICES[name]  # non-negative: Perron-Frobenius makes the pair non-negative
    left, values, right = torch.linalg.svd(A, full_matrices=False)
    result = nmf(A, 1, solver=solver, tol=1e-9, max_iter=2000)
    torch.testing.assert_close(result.V[0], right[0].abs(), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.U[:, 0] / values[0], left[:, 0].abs(), atol=1e-5, rtol=0)
    best = (values[1:].square().sum() / values.square().sum()).sqrt()
    assert float(result.error) == pytest.approx(float(best), rel=1e-6)


def test_a_separable_matrix_is_recovered_exactly(path):
    U = torch.cat([torch.eye(3), random(20, 3, seed=1).float()])  # the first three rows of A are the rows of V
    V = random(3, 12, density=0.6, seed=2).float()
    A = U @ V
    results = [nmf(A, 3, seed=seed, tol=0, max_iter=3000) for seed in range(4)]
    assert any(result.reason == "exact" for result in results)
    best = min(results, key=lambda result: result.error)
    check(best, A)
    assert best.error <= 1e-6 and best.converged


@pytest.mark.parametrize("K", [1, 2, 4])
def test_low_rank_is_fitted_to_many_digits_in_float64(K, path):
    A = random(15, K, density=0.7, seed=K) @ random(K, 11, density=0.7, seed=9)
    for seed in range(1 if K < 3 else 4):
        result = nmf(A, K, seed=seed, tol=0, max_iter=1500)
        check(result, A)
        if result.error < 1e-7:
            break
    assert relative(A, result.approximation) < 1e-7
    if K < 3:
        assert result.reason == "exact" and result.error <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("K", [3, 8, 20])
def test_a_low_rank_is_recovered_from_some_start_and_the_result_says_when_not(K, dtype):
    A = (random(90, K, density=0.5, seed=K) @ random(K, 70, density=0.5, seed=K + 1)).to(dtype)
    for seed in range(4):
        result = nmf(A, K, seed=seed, tol=0, max_iter=2500)
        distance = relative(A, result.approximation)
        assert float(result.error) == pytest.approx(distance, rel=0.05, abs=3e-7)
        if dtype == torch.float32:
            assert (result.reason == "exact") == (result.error <= 1e-6)
        if distance <= 1.05e-6:
            return
        assert result.reason != "exact"
    pytest.fail("not recovered from any start")


def test_disjoint_blocks_become_the_factors(path):
    A = torch.block_diag(*(torch.ones(n, m) * scale for n, m, scale in [(4, 3, 1.0), (5, 2, 2.0), (3, 6, 0.5)]))
    results = [nmf(A, 3, seed=seed, tol=0) for seed in range(5)]
    best = min(results, key=lambda result: result.error)
    assert best.reason == "exact"
    supports = {tuple((row > 1e-4).nonzero().flatten().tolist()) for row in best.V}
    assert supports == {(0, 1, 2), (3, 4), (5, 6, 7, 8, 9, 10)}


def test_a_start_at_the_solution_stays_there(path):
    U, V = start(10, 8, 3)
    result = nmf(U @ V, 3, init=(U, V))
    assert result.reason == "exact" and int(result.iterations) == 1
    length = V.norm(dim=1)
    torch.testing.assert_close(result.U, U * length, rtol=1e-6, atol=0)
    torch.testing.assert_close(result.V, V / length[:, None], rtol=1e-6, atol=0)


@pytest.mark.parametrize("K", [3, 70])  # the number of inner sweeps and of blocks depends on K
def test_a_converged_result_meets_the_optimality_conditions(K, path):
    A = random(90, 80, density=0.5)
    result = nmf(A, K, tol=1e-9, max_iter=20_000 if K == 3 else 60)
    assert result.converged or K == 70
    U, V, tolerance = result.U, result.V, 1e-4 if K == 3 else 3e-2
    for X, gradient in ((U, (U @ V - A) @ V.mT), (V, U.mT @ (U @ V - A))):
        size = (A.norm() * (V if X is U else U).norm())
        assert (gradient * X).norm() <= tolerance * size * X.norm()  # complementary slackness
        assert gradient.clamp_max(0).norm() <= tolerance * size  # no entry wants to grow


# --- iterations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sparse", "low rank and noise"])
def test_the_error_never_rises(name, solver):
    errors = [float(nmf(MATRICES[name], 6, solver=solver, tol=0, max_iter=n).error) for n in (*range(1, 21), 30, 40)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


def test_a_stop_at_max_iter_says_so(solver):
    A = random(20, 15)
    result = nmf(A, 4, solver=solver, max_iter=3)
    assert result.reason == "max_iter" and not result.converged and int(result.iterations) == 3
    result = nmf(A, 4, solver=solver, max_iter=1000)
    assert result.reason == "tolerance" and result.converged and int(result.iterations) % 10 == 0


def test_convergence_in_the_very_last_iteration_counts(path):
    needed = int(nmf(random(20, 15), 4).iterations)
    assert nmf(random(20, 15), 4, max_iter=needed).reason == "tolerance"
    assert nmf(random(20, 15), 4, max_iter=needed - 1).reason == "max_iter"


def test_a_tighter_tolerance_fits_better():
    errors = [float(nmf(MATRICES["dense"], 8, tol=tol).error) for tol in (1e-2, 1e-3, 1e-4, 1e-6)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


def test_same_seed_same_bits_other_seed_other_start(path):
    A = random(20, 15, dtype=torch.float32)
    torch.manual_seed(1)
    first = nmf(A, 4, seed=3)
    torch.manual_seed(2)  # the global generator plays no part
    state = torch.get_rng_state()
    second, other = nmf(A, 4, seed=3), nmf(A, 4, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.U, second.U) and torch.equal(first.V, second.V)
    assert not torch.equal(first.V, other.V)


# --- algebra ------------------------------------------------------------------------------------------------


@quick
@given(seeds, st.floats(1e-6, 1e6), st.sampled_from(SOLVERS))
def test_scaling_the_input_scales_the_result(seed, factor, solver):
    A = random(9, 7, density=0.7, seed=seed)
    with implementation(solver) as solver:
        one, scaled = (nmf(X, 3, seed=seed, solver=solver, tol=0, max_iter=15) for X in (A, A * factor))
    torch.testing.assert_close(scaled.approximation, one.approximation * factor, rtol=1e-6, atol=1e-9 * factor)
    torch.testing.assert_close(scaled.V, one.V, rtol=1e-6, atol=1e-9)


@quick
@given(seeds, st.sampled_from(SOLVERS))
def test_permuting_rows_and_columns_permutes_the_result(seed, solver):
    A = random(9, 7, density=0.7, seed=seed)
    U, V = start(9, 7, 3, seed)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(9, generator=generator), torch.randperm(7, generator=generator)
    with implementation(solver) as solver:
        options = dict(solver=solver, tol=0, max_iter=15)
        plain = nmf(A, 3, init=(U, V), **options)
        permuted = nmf(A[rows][:, columns], 3, init=(U[rows], V[:, columns]), **options)
    torch.testing.assert_close(permuted.U, plain.U[rows], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(permuted.V, plain.V[:, columns], rtol=1e-6, atol=1e-9)


@quick
@given(seeds)
def test_permuting_the_start_permutes_the_factors_of_mu(seed):  # HALS visits the factors one after the other
    A = random(9, 7, seed=seed)
    U, V = start(9, 7, 3, seed)
    order = torch.tensor([2, 0, 1])
    one, other = (nmf(A, 3, init=init, solver="mu", tol=0, max_iter=10) for init in ((U, V), (U[:, order], V[order])))
    torch.testing.assert_close(other.V, one.V[order], rtol=1e-6, atol=1e-9)


@quick
@given(seeds, st.sampled_from(SOLVERS))
def test_transposing_the_problem_transposes_rank_1(seed, solver):
    A = random(9, 7, seed=seed) + 0.1
    with implementation(solver) as solver:
        one, other = (nmf(X, 1, solver=solver, tol=1e-9) for X in (A, A.mT))
    torch.testing.assert_close(other.approximation, one.approximation.mT, rtol=1e-5, atol=1e-7)


@quick
@given(seeds, st.sampled_from(SOLVERS), st.integers(1, 12), st.sampled_from([torch.float32, torch.float64]))
def test_zero_rows_and_columns_stay_zero(seed, solver, K, dtype):
    A = random(9, 7, density=0.6, seed=seed, dtype=dtype)
    A[[0, 4]] = 0
    A[:, [1, 6]] = 0
    with implementation(solver) as solver:
        result = nmf(A, K, solver=solver, seed=seed, max_iter=60)
    check(result, A)
    assert (result.U[[0, 4]] == 0).all() and (result.V[:, [1, 6]] == 0).all()


@quick
@given(seeds, st.integers(1, 8), st.integers(1, 8), st.integers(1, 10), st.sampled_from(SOLVERS),
       st.integers(0, 30))
def test_every_shape_rank_and_spread_gives_a_valid_result(seed, N, M, K, solver, decades):
    spread = 10 ** (-decades * random(N, 1, seed=seed + 1)) * 10 ** (-decades * random(1, M, seed=seed + 2))
    A = (random(N, M, density=0.7, seed=seed) * spread).float()
    with implementation(solver) as solver:
        check(nmf(A, K, solver=solver, seed=seed, max_iter=50, tol=1e-6), A)


# --- precision and range ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, solver):
    A = (random(40, 30, density=0.5) * (6e4 if dtype == torch.float16 else 1e37)).to(dtype)
    result = nmf(A, 5, solver=solver)
    check(result, A)
    same = nmf(A.float(), 5, solver=solver)
    assert result.U.dtype == torch.float32 and torch.equal(result.U, same.U)


@pytest.mark.parametrize("scale", [1e30, 1e37, 1e-30, 1e-37])
def test_huge_and_tiny_entries(scale, solver):
    A = random(12, 9, density=0.8, dtype=torch.float32)
    one, scaled = nmf(A, 3, solver=solver), nmf(A * scale, 3, solver=solver)
    check(scaled, A * scale)
    assert float(scaled.error) == pytest.approx(float(one.error), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_and_the_smallest_number_there_is(dtype, path):
    largest, smallest = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    for value in (largest, smallest):
        result = nmf(torch.tensor([[value, 0], [0, 0]], dtype=dtype), 1)
        assert result.reason == "exact" and result.U[0, 0] == pytest.approx(value, rel=1e-6)
    spread = torch.tensor([[largest / 4, largest / 8], [0, largest / 4]], dtype=dtype)
    assert 0.1 < nmf(spread, 1).error < 0.9


@pytest.mark.parametrize("scale", [1e30, 1, 1e-30])
@pytest.mark.parametrize("left, right", [(1, 1), (1e30, 1), (1, 1e-30), (1e20, 1e20), (1e-20, 1e-20), (1e-15, 1e15)])
def test_the_scale_of_a_start_does_not_matter(scale, left, right, path):
    A = random(6, 5, dtype=torch.float32)
    U, V = (X.float() for X in start(6, 5, 2))
    expected = nmf(A, 2, init=(U, V), max_iter=10)
    result = nmf(A * scale, 2, init=(U * left, V * right), max_iter=10)
    check(result, A * scale)
    assert relative(expected.approximation, result.approximation.double() / scale) < 1e-4


@pytest.mark.parametrize("N, M, K", [(1, 1, 1), (1, 1, 4), (1, 6, 1), (1, 6, 3), (6, 1, 1), (6, 1, 3), (4, 5, 9)])
def test_degenerate_shapes(N, M, K, solver):
    A = random(N, M, dtype=torch.float32) + 0.1
    result = nmf(A, K, solver=solver, max_iter=2000, tol=1e-7)
    check(result, A)
    assert result.U.shape == (N, K) and result.V.shape == (K, M)
    assert result.error < (1e-3 if min(N, M) == 1 or solver == "hals" else 0.05)


def test_an_all_zero_matrix(solver):
    result = nmf(torch.zeros(4, 3), 2, solver=solver)
    assert result.reason == "exact" and result.error == 0
    assert result.U.sum() == 0 and result.V.sum() == 0


def test_layout_and_gradient_of_the_input_do_not_matter(solver):
    A = random(12, 9, dtype=torch.float32)
    expected = nmf(A, 3, solver=solver)
    wide = torch.zeros(24, 18)
    wide[::2, ::2] = A
    for same in (A.mT.contiguous().mT, wide[::2, ::2], A.clone().requires_grad_(), A.expand(1, 12, 9)[0]):
        before = same.detach().clone()
        result = nmf(same, 3, solver=solver)
        assert torch.equal(same, before)  # the input is left alone
        assert not result.U.requires_grad and not result.error.requires_grad
        torch.testing.assert_close(result.approximation, expected.approximation, rtol=1e-4, atol=1e-5)


def test_a_start_is_left_alone_and_needs_no_gradient(path):
    U, V = (X.requires_grad_() for X in start(6, 5, 2))
    before = U.detach().clone(), V.detach().clone()
    result = nmf(random(6, 5), 2, init=(U, V))
    assert not result.U.requires_grad and not result.V.requires_grad
    assert torch.equal(U, before[0]) and torch.equal(V, before[1])


# --- batches, masks, several ranks --------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(5,), (2, 3)])
def test_a_batch_equals_its_problems_one_by_one(batch, solver):
    A = random(*batch, 14, 10, density=0.6)
    index = list(np.ndindex(batch))
    A[index[1]] = random(14, 2) @ random(2, 10, seed=1)  # rank 2: needs more iterations, or ends exactly
    A[index[2]] = 0
    A[index[3]] *= 1e9
    result = nmf(A, 2, solver=solver, seed=7)
    assert result.U.shape == (*batch, 14, 2) and result.V.shape == (*batch, 2, 10)
    assert result.error.shape == result.iterations.shape == result.converged.shape == batch
    for i in index:
        alone = nmf(A[i], 2, solver=solver, seed=7)
        late = int(result.iterations[i]) - int(alone.iterations)
        if alone.reason == "exact" and backends.cpu is None:  # torch rounds a batch of products otherwise than one
            assert abs(late) <= 2
        else:
            assert late == 0
        assert result.status[i] == alone.status
        torch.testing.assert_close(result.V[i], alone.V, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(result.U[i], alone.U, rtol=1e-6, atol=1e-8 * float(A[i].max()))
        assert float(result.error[i]) == pytest.approx(float(alone.error), rel=1e-6, abs=1e-12)
    assert len(set(result.iterations.flatten().tolist())) > 1  # each stops by its own test


def test_reasons_are_nested_like_the_batch(path):
    A = torch.stack([random(8, 6), torch.zeros(8, 6, dtype=torch.float64)])[:, None]
    assert nmf(A, 2).reason == [["tolerance"], ["exact"]]
    result = nmf(A, 2, max_iter=5)
    assert result.reason == [["max_iter"], ["exact"]]
    assert result.converged.tolist() == [[False], [True]]


def test_a_sequence_of_ranks_without_warm_starts_equals_single_calls(solver):
    A = random(3, 14, 10, density=0.6, dtype=torch.float32)
    ranks = (4, 1, 20)
    results = nmf(A, ranks, solver=solver, seed=5, max_iter=40, warm=False)
    assert isinstance(results, list) and len(results) == 3
    for K, result in zip(ranks, results, strict=True):
        alone = nmf(A, K, solver=solver, seed=5, max_iter=40)
        assert torch.equal(result.U, alone.U) and torch.equal(result.V, alone.V)
        assert torch.equal(result.iterations, alone.iterations) and result.start == "random"
    for rank in (range(1, 3), np.array([1, 2])):
        assert [result.V.shape[-2] for result in nmf(A, rank, solver=solver)] == [1, 2]
    assert nmf(A, np.int64(2), solver=solver).V.shape == (3, 2, 10)


def test_a_sequence_of_ranks_starts_each_from_the_one_below(path):
    A = random(3, 14, 10, density=0.6)
    ranks = (4, 1, 30, 4, 2, 11)  # in any order, one of them twice, and more components than rows and columns
    results = nmf(A, ranks, seed=5, tol=1e-4)
    assert [result.V.shape[-2] for result in results] == list(ranks)
    assert [result.start for result in results] == ["rank 2", "random", "rank 11", "rank 2", "rank 1", "rank 4"]
    for result in results:
        for b in range(3):
            check(Factors(result.U[b], result.V[b], result.error[b], result.iterations[b], result.status[b],
                          result.seconds[b]), A[b])
        assert result.seconds.shape == (3,) and (result.seconds > 0).all()
    assert torch.equal(results[0].U, results[3].U)
    first = nmf(A, 1, seed=5, tol=1e-4)
    assert torch.equal(results[1].U, first.U) and torch.equal(results[1].V, first.V)
    errors = torch.stack([result.error for result in sorted(results, key=lambda result: result.V.shape[-2])])
    assert (errors[1:] <= errors[:-1]).all() and (errors[-1] < 0.05).all()
    for options in (dict(solver="mu"), dict(warm=False), dict(solver="mu", warm=True)):
        assert [result.start for result in nmf(A, (2, 1), max_iter=3, **options)] == ["random", "random"]
    U, V = (X.expand(3, *X.shape) for X in start(14, 10, 2))
    assert [result.start for result in nmf(A, (2, 2), init=(U, V), max_iter=3)] == ["given", "given"]


@pytest.mark.parametrize("name", ["sparse", "low rank and noise", "heavy tails"])
def test_a_warm_start_fits_as_well_as_a_cold_one(name, path):
    A, ranks = MATRICES[name], (1, 4, 7, 10)
    warm, cold = ([float(result.error) for result in nmf(A, ranks, warm=warm, tol=1e-5)] for warm in (True, False))
    bound = 1.02 if name == "heavy tails" else 1.01  # local minima differ
    assert all(one <= bound * other for one, other in zip(warm, cold, strict=True))


def test_masked_rows_are_left_out(solver):
    lengths, N, M, K = (12, 7, 1), 12, 9, 3
    A = random(len(lengths), N, M)  # what lies under the mask is not zero
    mask = torch.arange(N) < torch.tensor(lengths)[:, None]
    U, V = (torch.stack(X) for X in zip(*(start(N, M, K, seed) for seed in (1, 2, 3)), strict=True))
    result = nmf(A, K, mask=mask, init=(U, V), solver=solver)
    assert (result.U[~mask] == 0).all()
    for b, length in enumerate(lengths):
        alone = nmf(A[b, :length], K, init=(U[b, :length], V[b]), solver=solver)
        torch.testing.assert_close(result.U[b, :length] @ result.V[b], alone.approximation, rtol=1e-5, atol=1e-7)
        assert float(result.error[b]) == pytest.approx(float(alone.error), rel=1e-6, abs=1e-12)
    drawn = nmf(A, K, mask=mask, solver=solver)
    assert (drawn.U[~mask] == 0).all() and (drawn.U[mask].sum(-1) > 0).all()


def test_a_mask_over_everything_gives_zero(path):
    result = nmf(random(4, 3), 2, mask=torch.zeros(4, dtype=torch.bool))
    assert result.reason == "exact" and result.approximation.sum() == 0


# --- backends and time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    pytest.param({}, id="one rank"), pytest.param(dict(rank=(2, 5)), id="ranks"),
    pytest.param(dict(A=MATRICES["sparse"].float().to_sparse()), id="sparse"),
    pytest.param(dict(mask=torch.arange(80) < 60), id="masked"), pytest.param(dict(solver="mu"), id="mu")])
def test_the_backend_torch_is_where_nothing_is_compiled(options):
    options = dict(A=MATRICES["sparse"].float(), rank=4, max_iter=30) | options
    with implementation("plain"):
        expected = nmf(**options)
    results = nmf(**options, backend="torch")
    for result, other in zip(*(X if isinstance(X, list) else [X] for X in (results, expected)), strict=True):
        assert torch.equal(result.U, other.U) and torch.equal(result.V, other.V)
        assert result.error == other.error and result.iterations == other.iterations


def test_the_backend_torch_runs_nothing_that_is_compiled(monkeypatch):
    chains = []
    if backends.cpu:
        chain = backends.cpu.chain
        monkeypatch.setattr(backends.cpu, "chain", lambda *args, **options: chains.append(1) or chain(*args, **options))
    for backend, count in (("torch", 0), ("auto", int(backends.cpu is not None))):
        nmf(MATRICES["dense"], 3, max_iter=3, backend=backend)
        assert len(chains) == count


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_every_problem_says_how_many_seconds_it_took(batch, solver):
    results = nmf(random(*batch, 30, 20), (2, 4), solver=solver, max_iter=20)
    for result in results:
        assert result.seconds.shape == batch and result.seconds.dtype == torch.float64
        assert (result.seconds > 0).all() and (result.seconds < 60).all()


# --- bad input ----------------------------------------------------------------------------------------------


def poisoned(value, dtype=torch.float32):
    A = torch.ones(2, 4, 3, dtype=dtype)
    A[1, 2, 0] = value
    return A


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value, name", [(-0.5, "-0.5"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_a_bad_entry_is_named_with_its_place_and_the_cure(value, name, dtype):
    with pytest.raises(ValueError, match=rf"A\[1, 2, 0\] = {name} .*(ReLU|clamp)"):
        nmf(poisoned(value, dtype), 2)


@pytest.mark.parametrize("A, message", [
    (torch.ones(0, 3), r"\(0, 3\)"),
    (torch.ones(2, 0, 3), r"\(2, 0, 3\)"),
    (torch.ones(3), r"shape \(…, N, M\).*\(3,\)"),
    (torch.tensor(1.0), r"\(\)"),
    (torch.ones(3, 3, dtype=torch.int64), r"int64.*\.float\(\)"),
    (torch.ones(3, 3, dtype=torch.bool), r"bool.*\.float\(\)"),
    (torch.ones(3, 3, dtype=torch.complex64), "complex64"),
    (np.ones((3, 3)), "ndarray.*as_tensor"),
    ([[1.0]], "list.*as_tensor"),
])
def test_a_bad_matrix(A, message):
    with pytest.raises(ValueError, match=message):
        nmf(A, 1)


@pytest.mark.parametrize("rank", [0, -1, 2.5, 2.0, True, "2", float("nan"), [2, 0], [2, True], [2, 1.5]])
def test_a_bad_rank(rank):
    bad = rank[-1] if isinstance(rank, list) else rank
    with pytest.raises(ValueError, match=rf"rank {bad!r} must be an integer ≥ 1"):
        nmf(torch.ones(4, 3), rank)


@pytest.mark.parametrize("rank", [10**12, [1, 10**12], 10**30])
def test_a_rank_beyond_memory(rank):
    with pytest.raises(ValueError, match=r"rank 10+ needs about [\d,]+ bytes .* free on cpu; lower the rank"):
        nmf(torch.ones(4, 3), rank)


@pytest.mark.parametrize("options, message", [
    (dict(solver="cd"), "'cd'.*'hals', 'mu'"),
    (dict(backend="numba"), "backend 'numba' is not one of 'auto', 'torch'"),
    (dict(backend=None), "backend None"),
    (dict(tol=-1e-4), "tol -0.0001"),
    (dict(tol=float("nan")), "tol nan"),
    (dict(tol=None), "tol None"),
    (dict(max_iter=0), "max_iter 0"),
    (dict(max_iter=2.5), "max_iter 2.5"),
    (dict(max_iter=True), "max_iter True"),
    (dict(max_iter="10"), "max_iter '10'"),
    (dict(init="nndsvd"), "init 'nndsvd'.*'random'"),
    (dict(init=None), "init None.*'random'"),
    (dict(init=(torch.ones(4, 2),)), "pair"),
    (dict(init=(np.ones((4, 2)), np.ones((2, 3)))), "tensors"),
    (dict(init=(torch.ones(4, 3), torch.ones(2, 3))), r"\(4, 2\) and \(2, 3\), got \(4, 3\) and \(2, 3\)"),
    (dict(init=(torch.ones(2, 4), torch.ones(2, 3))), r"got \(2, 4\)"),
    (dict(init=(torch.ones(1, 4, 2), torch.ones(1, 2, 3))), r"got \(1, 4, 2\)"),
    (dict(init=(-torch.ones(4, 2), torch.ones(2, 3))), "init must be finite and ≥ 0"),
    (dict(init=(torch.ones(4, 2), torch.full((2, 3), float("nan")))), "init must be finite and ≥ 0"),
    (dict(mask=torch.ones(4)), r"bool tensor of shape \(4,\), got torch.float32"),
    (dict(mask=torch.ones(3, dtype=torch.bool)), r"shape \(4,\), got torch.bool \(3,\)"),
    (dict(mask=[True] * 4), "list"),
])
def test_a_bad_option(options, message):
    with pytest.raises(ValueError, match=message):
        nmf(torch.ones(4, 3), 2, **options)
