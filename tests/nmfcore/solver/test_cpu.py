"""The compiled path: each kernel against NumPy, the whole against plain PyTorch, and threads that change nothing."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse
import torch

from nmfcore import nmf
from nmfcore.solver import REASONS
from nmfcore.solver.plain import sweep
from nmfcore.solver.processes import Rows

cpu = pytest.importorskip("nmfcore.solver.cpu", exc_type=ImportError)
torch.set_num_threads(1)
LANES = 16
RANKS = [1, 7, 8, 9, 15, 16, 17, 33, 70]
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def close(ours, reference, factor=1.0):
    digits = 1e-5 if ours.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(ours, reference, rtol=10 * digits * factor,
                               atol=digits * factor * max(float(np.abs(reference).max(initial=0)), 1e-30))


def padded(K):
    return -(-K // LANES) * LANES


def problem(K, P, dtype, seed=0, dead=()):
    """X (P, K) with zeros, G (K, K) and C (P, K) of a least-squares problem."""
    rng = np.random.default_rng(seed)
    F = np.maximum(rng.standard_normal((K, 2 * K + 20)), 0)
    F[list(dead)] = 0
    X = rng.random((P, K)) * (rng.random((P, K)) < 0.4)
    C = np.maximum(rng.standard_normal((P, 2 * K + 20)), 0) @ F.T - 0.3
    C[:, list(dead)] = 0
    return X.astype(dtype), (F @ F.T).astype(dtype), C.astype(dtype)


def coupled(G):
    """What the kernels take for G (K, K)."""
    K = padded(len(G))
    gram = np.zeros((K, K), G.dtype)
    gram[:len(G), :len(G)] = G
    blocks, inverse = np.full((K // 8, K, 8), np.nan, G.dtype), np.full(-(-len(G) // 8) * 8, np.nan, G.dtype)
    cpu.couple(gram, blocks, inverse)
    return gram, blocks, inverse


def _tiles(X, K):
    return cpu.tiles(X, np.ones(len(X), bool), K)


def swept(X, G, C, inner):
    """By the plain sweep, in float64."""
    X, G, C = (torch.from_numpy(x).double() for x in (X, G, C))
    return sweep(X.T[None], G[None], C.T[None], inner)[0].T.numpy()


# --- kernels ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("K", RANKS)
def test_couple(K, dtype):
    _, G, _ = problem(K, 1, dtype, dead=[0] if K > 1 else [])
    gram, blocks, inverse = coupled(G)
    for k in range(K):
        np.testing.assert_array_equal(blocks[k // 8, :, k % 8], gram[:, k])
    np.testing.assert_array_equal(inverse[:K], np.divide(1, np.diag(G), where=np.diag(G) > 0, out=np.zeros(K, dtype)))
    assert not inverse[K:].any() and np.isfinite(blocks[:len(inverse) // 8]).all()


@both
@pytest.mark.parametrize("inner", [0, 1, 3])
@pytest.mark.parametrize("K", RANKS)
def test_a_sweep_equals_the_plain_one(K, inner, dtype):
    X, G, C = problem(K, LANES, dtype, seed=K, dead=[K - 1] if K > 8 else [])
    X[:, :K // 2] = 0  # components that are not in use at first
    _, blocks, inverse = coupled(G)
    tile, products = _tiles(X, padded(K))[0], _tiles(C, padded(K))[0]
    active, seen = np.full(padded(K) + 3, -1), np.full(-(-K // 8), -1)
    count = cpu.sweep(tile, products, blocks, inverse, inner, active, seen)
    close(tile[:K].T, swept(X, G, C, inner), 100)
    assert not tile[K:].any()
    used = active[:count].tolist()
    assert len(set(used)) == count and set(np.flatnonzero(tile.any(1))) <= set(used) <= set(range(K))


@both
@pytest.mark.parametrize("K", RANKS)
def test_update_sweeps_extrapolates_and_multiplies(K, dtype):
    P = 3 * LANES
    X, G, C = problem(K, P, dtype, seed=K)
    last, beta = problem(K, P, dtype, seed=K + 1)[0], dtype(0.7)
    rows = np.zeros((P, padded(K)), dtype)
    rows[:, :K] = C
    gram, blocks, inverse = coupled(G)
    gram[:] = 0
    tiles, before, out = _tiles(X, padded(K)), _tiles(last, padded(K)), np.full((3, padded(K), LANES), np.nan, dtype)
    cpu.update(rows, tiles, before, out, blocks, inverse, beta, 2, gram)
    new = swept(X, G, C, 2)
    ahead = np.maximum(new + 0.7 * (new - last), 0)
    np.testing.assert_array_equal(cpu.untiled(tiles)[:, :K], X)  # read, not written
    close(cpu.untiled(before)[:, :K], new, 100)
    close(cpu.untiled(out)[:, :K], ahead, 100)
    np.testing.assert_array_equal(cpu.untiled(out), rows)
    blocks_above = np.triu(np.ones((padded(K) // LANES,) * 2)).repeat(LANES, 0).repeat(LANES, 1) > 0
    close(gram[blocks_above], (rows.astype(float).T @ rows)[blocks_above])


@both
@pytest.mark.parametrize("density", [0, 0.03, 0.3, 1])
@pytest.mark.parametrize("K", RANKS)
def test_add_gram(K, density, dtype):
    rng = np.random.default_rng(K)
    U, G = np.zeros((LANES, padded(K)), dtype), rng.random((padded(K), padded(K))).astype(dtype)
    U[:, :K] = rng.random((LANES, K)) * (rng.random((LANES, K)) < density)
    before, used = G.copy(), rng.permutation(np.flatnonzero(U.any(0)))  # in any order
    active = np.concatenate([used, np.full(padded(K) + 3 - len(used), 10 ** 6)])
    cpu.add_gram(U, active, len(used), G)
    for k in range(0, padded(K), LANES):  # the blocks on and above the diagonal
        rows = slice(k, k + LANES)
        close(G[rows, k:], (before + U.astype(float).T @ U)[rows, k:])


def compressed(A, space):
    """Largest entry as an integer, row pointers, columns, values and sums of the columns of A (21, M)."""
    indptr = np.full(32 + 1, -5, np.int64)  # padded to whole tiles
    indices, values, columns = np.full(space, -1, np.int32), np.full(space, -1, A.dtype), np.zeros_like(A[0])
    largest = cpu.compress(A, A.view(f"u{A.itemsize}"), indptr, indices, values, columns)
    return largest, indptr, indices, values, columns


@both
@pytest.mark.parametrize("M", [1, 17, 63, 64, 65, 150])
@pytest.mark.parametrize("density", [0, 0.1, 1])
def test_the_sparse_form_is_that_of_scipy(M, density, dtype):
    rng = np.random.default_rng(M)
    A = (rng.random((21, M)) * (rng.random((21, M)) < density)).astype(dtype)
    expected = scipy.sparse.csr_matrix(A)
    count = expected.nnz
    largest, indptr, indices, values, columns = compressed(A, count + M)
    assert largest == A.max().view(f"u{A.itemsize}")
    np.testing.assert_array_equal(indptr[:22], expected.indptr)
    assert (indptr[22:] == count).all()
    np.testing.assert_array_equal(indices[:count], expected.indices)
    np.testing.assert_array_equal(values[:count], expected.data)
    np.testing.assert_array_equal(columns, A.any(0))

    form = cpu.Sparse(21, indptr, indices[:count], values[:count], columns)
    assert form.square == pytest.approx(float(np.square(A.astype(float)).sum()), rel=1e-12)
    np.testing.assert_array_equal(torch.cat([*form.slices()]), A)
    np.testing.assert_array_equal(torch.cat([*form.divided(2.0).slices()]), A / 2)
    for index in ([0, 3, 19, 20], list(range(21)), [7], []):
        part = form.take(np.array(index, int))
        rows = A[index] if index else np.zeros((1, M))
        np.testing.assert_array_equal(torch.cat([*part.slices()]), rows)
        np.testing.assert_array_equal(part.columns, rows.any(0))
        np.testing.assert_array_equal(part.rows, rows.any(1))
        assert len(part.indptr) % LANES == 1


@both
@pytest.mark.parametrize("M", [1, 17, 64])
def test_a_matrix_with_too_many_non_zeros_stays_dense(M, dtype):
    A = np.random.default_rng(M).random((21, M)).astype(dtype) + 1
    A[20, M - 1] = 3
    for space in (A.size + M - 1, A.size, M, 2 * M + M // 2):
        largest, indptr, *_ = compressed(A, space)
        assert indptr[-1] == -1 and largest == dtype(3).view(f"u{A.itemsize}")
    assert compressed(A, A.size + M)[1][-1] == A.size


@both
@pytest.mark.parametrize("value", [-1e-30, -1, np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (20, 16), (11, 39)])
@pytest.mark.parametrize("space", [0, 100, 2000])
def test_a_survey_notices_what_is_not_allowed(place, value, space, dtype):
    A = np.random.default_rng(0).random((21, 40)).astype(dtype)
    A[place] = value
    assert compressed(A, space)[0] >= dtype(np.inf).view(f"u{A.itemsize}")


@both
@pytest.mark.parametrize("K", [16, 32, 48, 64, 80, 96, 112, 128, 144, 272])
@pytest.mark.parametrize("density", [0.03, 0.2, 1])
def test_sparse_products(K, density, dtype):
    rng = np.random.default_rng(K)
    A = scipy.sparse.random(37, 29, density, "csr", dtype, rng)
    V, U, C = (rng.random((size, K)).astype(dtype) for size in (29, 37, 29))
    R, before = np.full((37, K), np.nan, dtype), C.copy()
    cpu.products(A.indptr.astype(np.int64), A.indices, A.data, V, R)
    close(R, A.toarray().astype(float) @ V)
    cpu.add_products(A.indptr.astype(np.int64), A.indices, A.data, U, C)
    close(C, before + A.toarray().astype(float).T @ U)


@both
@pytest.mark.parametrize("P, K", [(1, 1), (16, 5), (47, 17), (3, 33)])
def test_tiles_and_rows_are_each_others_inverse(P, K, dtype):
    X = np.random.default_rng(P).random((P, K)).astype(dtype)
    tiles = _tiles(X, padded(K))
    assert tiles.shape == (padded(P) // LANES, padded(K), LANES) and tiles.flags.c_contiguous
    rows = cpu.untiled(tiles)
    np.testing.assert_array_equal(rows[:P, :K], X)
    assert np.count_nonzero(rows) == np.count_nonzero(X)
    assert tiles.ctypes.data % 64 == rows.ctypes.data % 64 == 0
    keep = np.arange(P) % 3 > 0
    np.testing.assert_array_equal(cpu.untiled(cpu.tiles(X, keep, padded(K)))[:P, :K], X * keep[:, None])


@both
def test_inner_products_are_summed_in_float64(dtype):
    X, Y = np.random.default_rng(0).random((2, 300, 48)).astype(dtype)
    assert cpu.inner_product(X, Y) == pytest.approx((X.astype(float) * Y).sum(), rel=1e-13)


@both
@pytest.mark.parametrize("shape", [(0, 16), (5, 48), (3, 32, 16)])
def test_rows_begin_where_cache_lines_do(shape, dtype):
    for make in (cpu.aligned, cpu.zeros):
        arrays = [make(np.empty(0, dtype), *shape) for _ in range(20)]
        for X in arrays:
            assert X.shape == shape and X.dtype == dtype and X.flags.c_contiguous and X.ctypes.data % 64 == 0
            X[:] = 1
    assert not cpu.zeros(np.empty(0, dtype), *shape).any()


@both
@pytest.mark.parametrize("K", [5, 16, 33])
def test_a_problem_knows_the_rows_and_the_gram_matrix_of_V(K, dtype):
    A, V = matrix(40, 30, dtype=getattr(torch, np.dtype(dtype).name)), np.random.default_rng(0).random((K, 30))
    V[K // 2] = 0
    form = cpu.survey_all(A[None], K)[1][0]
    problem = cpu.Problem(form, torch.rand(40, K).to(A), torch.from_numpy(V).to(A), None, Rows(40), None)
    rows, gram = problem._rows(problem.W)
    W = cpu.untiled(problem.W)
    np.testing.assert_array_equal(rows, W)
    close(gram, W.T.astype(float) @ W)
    np.testing.assert_array_equal(gram, gram.T)


@pytest.mark.parametrize("tiles", [1, 2, 7, 100, 1000])
def test_pieces_add_up_to_the_whole_in_any_number_of_threads(tiles):
    rng = np.random.default_rng(tiles)
    values = rng.random((tiles, 5, 64)).astype(np.float32)

    def work(first, stop, C, gram):
        C += values[first:stop].sum(0)
        gram[0, 0] += stop - first
    sums = [cpu._in_pieces(work, tiles, (5, 64), values[0, 0], None)]
    for threads in (2, 3):
        with ThreadPoolExecutor(threads) as pool:
            sums.append(cpu._in_pieces(work, tiles, (5, 64), values[0, 0], pool))
    for C, gram in sums:
        np.testing.assert_array_equal(C, sums[0][0])
        close(C, values.sum(0, dtype=float), 10)
        assert gram[0, 0] == gram.sum() == tiles


# --- the whole against plain PyTorch ------------------------------------------------------------------------


def matrix(N, M, sparse=True, dtype=torch.float32, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.random((N, 4)) @ rng.random((4, M)) + 0.5 * rng.random((N, M))
    return torch.from_numpy(A * (rng.random((N, M)) < 0.15) if sparse else A).to(dtype)


def agree(ours, plain, digits):
    """The same, but for when an exact fit is noticed: the plain path looks only once in a while."""
    assert ours.reason == plain.reason
    for one, other, status in zip(*(X.flatten() for X in (ours.iterations, plain.iterations, plain.status)),
                                  strict=True):
        assert one <= other <= one + 10 if REASONS[status] == "exact" else one == other
    torch.testing.assert_close(ours.error, plain.error, rtol=digits, atol=digits)
    torch.testing.assert_close(ours.approximation, plain.approximation, rtol=0, atol=100 * digits)
    if (ours.error > 1e-6).all():  # an exact fit need not be the only one
        torch.testing.assert_close(ours.V, plain.V, rtol=0, atol=100 * digits)
        torch.testing.assert_close(ours.U, plain.U, rtol=0, atol=100 * digits * float(plain.U.max()))


SIZES = [(61, 45), (64, 48), (1, 40), (40, 1), (1, 1), (100, 17)]


@pytest.mark.parametrize("N, M", SIZES)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("K", RANKS)
def test_both_paths_agree_in_float64(K, sparse, N, M):
    A = matrix(N, M, sparse, torch.float64)
    A[0, 0] += 0.5  # not all zero
    for options in (dict(max_iter=12, tol=0), dict(max_iter=1)):
        agree(nmf(A, K, **options), nmf(A, K, backend="torch", **options), 1e-7)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("K", RANKS)
def test_both_paths_agree_in_float32(K, sparse):
    A = matrix(61, 45, sparse)
    generator = torch.Generator().manual_seed(1)
    init = torch.rand(61, K, generator=generator), torch.rand(K, 45, generator=generator)
    for options in (dict(), dict(init=init)):
        agree(nmf(A, K, max_iter=4, tol=0, **options),
              nmf(A, K, max_iter=4, tol=0, backend="torch", **options), 1e-4)
    converged = [nmf(A, K, max_iter=100, backend=backend) for backend in ("auto", "torch")]
    assert float(converged[0].error) == pytest.approx(float(converged[1].error), rel=0.02, abs=2e-3)


@pytest.mark.parametrize("sparse", [True, False])
def test_both_paths_agree_where_a_sample_comes_first(sparse):
    A = matrix(9000, 30, sparse, torch.float64)
    options = dict(max_iter=6, tol=0)
    agree(nmf(A, 5, **options), nmf(A, 5, backend="torch", **options), 1e-7)


def test_both_paths_agree_over_ranks_batches_and_masks():
    A = torch.stack([matrix(40, 30, False, torch.float64, seed) for seed in range(2)])
    mask = torch.arange(40) < torch.tensor([40, 23])[:, None]
    options = dict(mask=mask, max_iter=10, tol=0)
    compiled, plain = (nmf(A, (2, 5, 9), backend=backend, **options) for backend in ("auto", "torch"))
    for ours, theirs in zip(compiled, plain, strict=True):
        agree(ours, theirs, 1e-7)
        assert ours.start == theirs.start


# --- threads ------------------------------------------------------------------------------------------------


@pytest.fixture
def threads():
    yield torch.set_num_threads
    torch.set_num_threads(1)


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("U", "V", "error", "iterations"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("N, M, K", [(700, 90, 20), (9000, 40, 40), (300, 260, 100)])
def test_the_number_of_threads_changes_nothing(N, M, K, sparse, dtype, threads):
    A = matrix(N, M, sparse, dtype)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(nmf(A, K, max_iter=5, tol=0))
    for result in results[1:]:
        if sparse:
            assert same(results[0], result)  # to the bit
        else:  # torch rounds the product of two matrices as its threads share it
            agree(results[0], result, 1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_problem_of_a_batch_has_the_bits_that_it_has_alone(sparse, threads):
    A = torch.stack([matrix(150, 40, sparse, seed=seed) for seed in range(5)])
    for count in (1, 3):
        threads(count)
        together = nmf(A, 6)
        for b in range(5):
            alone = nmf(A[b], 6)
            assert torch.equal(together.U[b], alone.U) and torch.equal(together.V[b], alone.V)
            assert together.error[b] == alone.error and together.iterations[b] == alone.iterations


def test_each_matrix_of_a_batch_is_sparse_or_dense_by_itself():
    A = torch.stack([matrix(150, 40, sparse, seed=seed) for seed, sparse in enumerate((True, False, True))])
    assert [form is None for form in cpu.survey_all(A, 6)[1]] == [False, True, False]
    together = nmf(A, 6)
    for b in range(3):
        alone = nmf(A[b], 6)
        assert torch.equal(together.U[b], alone.U) and torch.equal(together.V[b], alone.V)


def test_the_form_of_a_matrix_depends_on_how_many_components_are_asked_for():
    A = torch.rand(1, 300, 40, generator=torch.Generator().manual_seed(0)) + 0.1
    A[torch.arange(300 * 40).reshape(1, 300, 40) % 10 > 2] = 0
    assert cpu.survey_all(A, 128)[1][0] and not cpu.survey_all(A, 129)[1][0]
    agree(nmf(A[0], 6), nmf(A[0], (6, 129), max_iter=200, warm=False)[0], 1e-4)


def test_calls_from_several_threads_at_once(threads):
    threads(2)
    problems = [matrix(200 + 10 * i, 60, i % 2 == 0, seed=i) for i in range(6)]
    expected = [nmf(A, 5) for A in problems]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            assert all(map(same, pool.map(lambda A: nmf(A, 5), problems), expected))
