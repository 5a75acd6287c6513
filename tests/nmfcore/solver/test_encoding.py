"""Non-negative least squares against scipy, against every set of components, and against its own conditions."""

import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from scipy.sparse import csr_matrix
from sklearn.decomposition import non_negative_factorization

from nmfcore import encode, nmf
from nmfcore.solver import backends, encoding

torch.set_num_threads(1)


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(backends, "cpu", None)


def random(*shape, seed=0, density=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return (X * (torch.rand(*shape, generator=generator) < density)).to(dtype)


def by_scipy(A, V):
    A, V = A.double().numpy(), V.double().numpy()
    return torch.from_numpy(np.stack([nnls(V.T, row, maxiter=10_000)[0] for row in A]))


def lengths(A, U, V):
    """‖a − u V‖ / ‖a‖ of every row, in float64."""
    return (A.double() - U.double() @ V.double()).norm(dim=1) / A.double().norm(dim=1).clamp(min=1e-300)


V6 = random(6, 30, seed=1)
CASES = {
    "dense": (random(60, 40), random(8, 40, seed=1)),
    "sparse": (random(50, 80, density=0.3), random(20, 80, density=0.3, seed=1)),
    "one component": (random(20, 5), random(1, 5, seed=1)),
    "rows of any length": (random(40, 30) * 10 ** (8 * random(40, 1, seed=3) - 4),
                           random(9, 30, seed=1) * 10 ** (8 * random(9, 1, seed=2) - 4)),
    "an exact fit": (random(80, 12, density=0.3) @ random(12, 40, seed=1), random(12, 40, seed=1)),
    "components alike": (random(40, 60), random(1, 60, seed=1) + 1e-3 * random(30, 60, seed=2)),
}
DEPENDENT = {  # U is not unique
    "one column": (random(20, 1), random(4, 1, seed=1)),
    "more components than columns": (random(30, 10), random(25, 10, seed=1)),
    "equal components": (random(50, 30), torch.cat([V6, V6, 3 * V6[:2]])),
    "sums and zeros": (random(50, 30), torch.cat([V6, V6[:3] + V6[3:], V6.new_zeros(2, 30)])),
}


@pytest.mark.parametrize("name", CASES)
def test_every_row_is_that_of_scipy(name):
    A, V = CASES[name]
    U = encode(A, V)
    assert U.dtype == torch.float64 and (U >= 0).all()
    expected = by_scipy(A, V)
    scale = A.norm(dim=1, keepdim=True).clamp(min=1e-300) / V.norm(dim=1)
    torch.testing.assert_close(U / scale, expected / scale, rtol=0, atol=1e-6)
    assert (lengths(A, U, V) <= lengths(A, expected, V) + 1e-9).all()


@pytest.mark.parametrize("name", DEPENDENT)
def test_the_fit_is_that_of_scipy_where_components_depend_on_each_other(name):
    A, V = DEPENDENT[name]
    U, expected = encode(A, V), by_scipy(A, V)
    assert (U >= 0).all() and (U[:, V.sum(1) == 0] == 0).all()
    torch.testing.assert_close(U @ V, expected @ V, rtol=0, atol=1e-8)
    assert (lengths(A, U, V) <= lengths(A, expected, V) + 1e-9).all()


@pytest.mark.parametrize("name", {**CASES, **DEPENDENT})
def test_float32_comes_close_to_the_best_error(name):
    A, V = ({**CASES, **DEPENDENT}[name][i].float() for i in (0, 1))
    U = encode(A, V)
    assert U.dtype == torch.float32 and (U >= 0).all()
    assert (lengths(A, U, V) <= lengths(A, by_scipy(A, V), V) + 3e-4).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 6))
def test_no_other_set_of_components_does_better(seed, K, M):
    A, V = random(3, M, seed=seed, density=0.8), random(K, M, seed=seed + 1, density=0.8)
    best = torch.stack([A.square().sum(1), *(
        torch.where((X >= 0).all(1), (A - X @ V[list(some)]).square().sum(1), torch.inf)
        for size in range(1, K + 1) for some in itertools.combinations(range(K), size)
        if torch.linalg.matrix_rank(V[list(some)]) == size
        for X in [A @ torch.linalg.pinv(V[list(some)])])]).amin(0)
    torch.testing.assert_close((A - encode(A, V) @ V).square().sum(1), best, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_at_least_as_good_as_scikit_learn():
    A = random(100, 60, density=0.5)
    V = nmf(A, 10).V
    W = non_negative_factorization(A.numpy(), H=V.numpy(), n_components=10, update_H=False, tol=1e-8, max_iter=5000)[0]
    torch.testing.assert_close(encode(A, V), torch.from_numpy(W), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_optimality_conditions_hold_to_the_tolerance(dtype, limit):
    A, V = random(200, 50, density=0.4, dtype=dtype), random(15, 50, density=0.5, seed=1, dtype=dtype)
    for tol in (1e-2, None):
        U = encode(A, V, tol=tol).double()
        size = V.double().norm(dim=1)
        descent = ((A.double() - U @ V.double()) @ V.double().mT) / size
        residual = torch.maximum(descent, -U * size).norm(dim=1) / A.double().norm(dim=1)
        assert residual.max() <= 1.1 * (tol or limit)
    assert residual.max() > 0 or dtype == torch.float64


def test_what_nmf_found_is_found_again():
    A = random(40, 30)
    found = nmf(A, 5, tol=1e-9, max_iter=10_000)
    torch.testing.assert_close(encode(A, found.V), found.U, rtol=0, atol=1e-3)
    assert lengths(A, encode(A, found.V), found.V).norm() <= lengths(A, found.U, found.V).norm() + 1e-12


# --- shapes, types and range --------------------------------------------------------------------------------


def test_a_batch_is_solved_matrix_by_matrix_and_may_share_V():
    A, V = random(2, 3, 9, 12), random(2, 3, 4, 12, seed=1)
    U = encode(A, V)
    assert U.shape == (2, 3, 9, 4)
    for index in itertools.product(range(2), range(3)):
        torch.testing.assert_close(U[index], by_scipy(A[index], V[index]), rtol=0, atol=1e-8)
    torch.testing.assert_close(encode(A, V[1, 2])[0, 1], by_scipy(A[0, 1], V[1, 2]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_chunks_change_nothing(chunk):
    A, V = random(50, 20), random(5, 20, seed=1)
    torch.testing.assert_close(encode(A, V, chunk=chunk), encode(A, V), rtol=0, atol=1e-9)


def test_exact_steps_in_many_parts_change_nothing(monkeypatch):
    A, V = CASES["components alike"]
    expected = encode(A, V)
    monkeypatch.setattr(encoding, "_ROOM", 2 ** 10)
    torch.testing.assert_close(encode(A, V), expected, rtol=0, atol=1e-6)


def test_zero_rows_stay_zero():
    A = random(20, 9)
    A[[0, 5, 19]] = 0
    U = encode(A, random(4, 9, seed=1))
    assert (U[[0, 5, 19]] == 0).all() and (U.sum(1) > 0).sum() == 17
    assert (encode(torch.zeros(3, 9), random(4, 9)) == 0).all() and (encode(A, torch.zeros(4, 9)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype):
    A, V = random(30, 20, density=0.6).to(dtype), random(5, 20, seed=1).to(dtype)
    expected = encode(A.float(), V.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        U = encode(A, V)
    assert U.dtype == torch.float32 and torch.equal(U, expected)


def test_sparse_rows_are_those_made_dense():
    A, V = random(20, 12, density=0.3), random(4, 12, seed=1)
    for sparse in (A.to_sparse(), A.to_sparse_csr(), csr_matrix(A.numpy())):
        assert torch.equal(encode(sparse, V), encode(A, V))


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e30, 1e37])
def test_huge_and_tiny_entries(scale):
    A, V = random(20, 12, dtype=torch.float32), random(4, 12, seed=1, dtype=torch.float32)
    expected = encode(A, V)
    torch.testing.assert_close(encode(A * scale, V) / scale, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(encode(A * scale, V * scale), expected, rtol=1e-3, atol=1e-3)
    assert torch.isfinite(encode(A * 3e38, V * 1e-37)).all()


def test_gradients_and_arguments_are_left_alone():
    A, V = random(9, 8).requires_grad_(), random(3, 8, seed=1).requires_grad_()
    before = A.detach().clone(), V.detach().clone()
    assert not encode(A, V).requires_grad
    assert torch.equal(A, before[0]) and torch.equal(V, before[1]) and torch.is_grad_enabled()


def test_threads_change_nothing():
    A, V = random(3000, 40, density=0.5), random(16, 40, seed=1)
    expected = encode(A, V)
    torch.set_num_threads(2)
    try:
        torch.testing.assert_close(encode(A, V), expected, rtol=0, atol=1e-8)
    finally:
        torch.set_num_threads(1)


# --- what is refused ----------------------------------------------------------------------------------------

GOOD = torch.ones(4, 6), torch.ones(2, 6)


def with_entry(X, value):
    X = X.clone()
    X[1, 3] = value
    return X


@pytest.mark.parametrize("A, V, message", [
    (np.ones((4, 6)), GOOD[1], r"A must be a floating-point tensor, got ndarray; convert it with torch.as_tensor\(A\)"),
    (GOOD[0], GOOD[1].long(), r"V must be a floating-point tensor, got torch.int64"),
    (GOOD[0], GOOD[1].to_sparse(), r"V must be dense, got torch.sparse_coo; convert it with V.to_dense\(\)"),
    (torch.ones(6), GOOD[1], r"A must have shape .* got \(6,\)"),
    (torch.ones(0, 6), GOOD[1], r"A must have shape .* got \(0, 6\)"),
    (GOOD[0], torch.ones(0, 6), r"V must have shape .* got \(0, 6\)"),
    (GOOD[0], torch.ones(2, 5), r"V must have shape \(K, 6\) for A of shape \(4, 6\), got \(2, 5\)"),
    (torch.ones(3, 4, 6), torch.ones(2, 2, 6), r"V must have shape \(K, 6\) or \(3, K, 6\) for A of shape \(3, 4, 6\)"),
    (with_entry(GOOD[0], -1), GOOD[1], r"A\[1, 3\] = -1.0 but every entry must be finite and ≥ 0"),
    (with_entry(GOOD[0], torch.nan), GOOD[1], r"A\[1, 3\] = nan"),
    (with_entry(GOOD[0], torch.inf), GOOD[1], r"A\[1, 3\] = inf"),
    (GOOD[0], with_entry(GOOD[1], -1), r"V\[1, 3\] = -1.0 but every entry must be finite and ≥ 0"),
    (GOOD[0], with_entry(GOOD[1], torch.nan), r"V\[1, 3\] = nan"),
    (GOOD[0], with_entry(GOOD[1], torch.inf), r"V\[1, 3\] = inf"),
    (GOOD[0], GOOD[1].double() * 1e300, r"V has entries above 3.4e\+38"),
])
def test_what_is_refused(A, V, message):
    with pytest.raises(ValueError, match=message):
        encode(A, V)


@pytest.mark.parametrize("options, message", [
    ({"chunk": 0}, "chunk 0"), ({"chunk": 2.5}, "chunk 2.5"), ({"tol": 0}, "tol 0"), ({"tol": -1.0}, "tol -1"),
    ({"tol": "small"}, "tol 'small'"), ({"tol": float("nan")}, "tol nan")])
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        encode(*GOOD, **options)


def test_rows_that_rounding_keeps_from_the_tolerance_are_reported():
    A, V = random(30, 20, dtype=torch.float32), random(8, 20, seed=1, dtype=torch.float32)
    with pytest.warns(RuntimeWarning, match=r"\d+ of 30 rows did not reach tol=1e-12: raise it, or pass A in float64"):
        U = encode(A, V, tol=1e-12)
    assert (lengths(A, U, V) <= lengths(A, by_scipy(A, V), V) + 1e-6).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(A, V)


# --- the top level ------------------------------------------------------------------------------------------


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_nothing_else():
    loaded = fresh("import sys, nmfcore; print(*sorted({name.split('.')[0] for name in sys.modules}))")
    assert "nmfcore" in loaded and not {"torch", "numpy", "numba", "sklearn"} & {*loaded}


def test_public_names_are_listed_and_loaded_when_used():
    assert fresh("import nmfcore; print(*dir(nmfcore))").count("choose_rank") == 1
    code = ("import nmfcore\nfrom nmfcore import *\nimport nmfcore.solver.encoding, nmfcore.selection\n"
            "print(*(type(getattr(nmfcore, name)).__name__ for name in sorted(nmfcore.__all__)))")
    assert fresh(code) == ["type", "type", "str", "function", "function", "function"]
    with pytest.raises(ImportError, match="nmfff"):
        from nmfcore import nmfff  # noqa: F401
