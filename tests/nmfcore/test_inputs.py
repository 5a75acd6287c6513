"""What users bring to a factorization, and in what surroundings they call it: sparse and tabular input, half precision,
autocast, a default device or type. The result is that of plain float32, everywhere."""

import re
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import scipy.sparse
import torch

from nmfcore import nmf
from nmfcore.factorization import METHODS, kmeans, pca, spherical_kmeans
from nmfcore.heatmaps import factorize
from nmfcore.index import Index
from nmfcore.matching import agreement, match, stability
from nmfcore.networks import pretrained
from nmfcore.rank import interval
from nmfcore.regularization import NMFPerturbation, project
from nmfcore.retrieval import METHODS as DESCRIPTORS
from nmfcore.retrieval import Whitening, describe, pooled
from nmfcore.segmentation import single_maps
from nmfcore.signed import semi_nmf
from nmfcore.solver import backends
from nmfcore.streaming import StreamingNMF

SOLVERS = ["hals", "plain", "mu"]  # "plain": "hals" where nothing is compiled


@pytest.fixture(params=SOLVERS)
def solver(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(backends, "cpu", None)
    return "hals" if request.param == "plain" else request.param


def matrix(*shape, density=1.0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    A = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return (A * (torch.rand(*shape, generator=generator) < density)).to(dtype)


def same(first, second):
    """Whether two results are the same to the bit."""
    return all(torch.equal(*pair) for pair in zip((first.U, first.V), (second.U, second.V), strict=True))


def relative(A, B):
    return float((A.double() - B.double()).norm() / A.double().norm())


# --- sparse -------------------------------------------------------------------------------------------------

LAYOUTS = {
    "coo": lambda A: A.to_sparse(), "csr": lambda A: A.to_sparse_csr(), "csc": lambda A: A.to_sparse_csc(),
    "bsr": lambda A: A.to_sparse_bsr((2, 3)), "bsc": lambda A: A.to_sparse_bsc((2, 3)),
    "hybrid": lambda A: A.to_sparse(1),
    "scipy csr": lambda A: scipy.sparse.csr_array(A.numpy()), "scipy coo": lambda A: scipy.sparse.coo_array(A.numpy()),
    "scipy csc matrix": lambda A: scipy.sparse.csc_matrix(A.numpy()),
    "scipy lil": lambda A: scipy.sparse.lil_array(A.numpy()),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("density", [0.05, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sparse_matrix_has_the_factors_of_the_dense_one(layout, density, dtype, solver):
    A = matrix(48, 33, density=density, dtype=dtype)
    A[[3, 40]], A[:, [0, 9]] = 0, 0
    given = LAYOUTS[layout](A)
    result = nmf(given, 4, solver=solver)
    assert same(result, nmf(A, 4, solver=solver)) and result.U.dtype == dtype
    assert torch.equal(result.kkt(given), result.kkt(A))


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_a_batch_of_sparse_matrices(batch, solver):
    A = matrix(*batch, 20, 14, density=0.2)
    A[(0,) * len(batch)] = matrix(20, 14)  # one of them is dense
    expected = nmf(A, 3, solver=solver)
    assert same(nmf(A.to_sparse(), 3, solver=solver), expected)
    square = torch.stack([matrix(20, 14, density=0.2).flip(0) for _ in range(2)])
    assert same(nmf(square.to_sparse_csr(), 3, solver=solver), nmf(square, 3, solver=solver))


def test_options_mean_the_same_for_a_sparse_matrix(solver):
    A, rows = matrix(40, 30, density=0.2), torch.arange(40) % 3 > 0
    start = matrix(40, 3, seed=1) + 0.1, matrix(3, 30, seed=2) + 0.1
    for options in ({"mask": rows}, {"init": start}, {"seed": 3}, {"tol": 0, "max_iter": 7}):
        assert same(nmf(A.to_sparse(), 3, solver=solver, **options), nmf(A, 3, solver=solver, **options))
    for one, other in zip(nmf(A.to_sparse(), [4, 2], solver=solver), nmf(A, [4, 2], solver=solver), strict=True):
        assert same(one, other)
    large = matrix(9000, 20, density=0.2)  # a sample comes first
    assert same(nmf(large.to_sparse(), 2, solver=solver, max_iter=15), nmf(large, 2, solver=solver, max_iter=15))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_may_be_sparse(dtype, solver):
    A = matrix(30, 20, density=0.2).to(dtype)
    assert same(nmf(A.to_sparse(), 3, solver=solver), nmf(A.float(), 3, solver=solver))


def test_duplicates_are_added_and_stored_zeros_are_zeros():
    index = torch.tensor([[0, 0, 2, 2, 3], [1, 1, 0, 3, 2]])
    given = torch.sparse_coo_tensor(index, torch.tensor([1.0, 2, 3, 0, 0]), (4, 4), check_invariants=True)
    before = given._values().clone()
    result = nmf(given, 2)
    assert same(result, nmf(given.to_dense(), 2))
    assert not result.U[[1, 3]].any() and not result.V[:, [2, 3]].any()
    of_scipy = scipy.sparse.csr_array(([1.0, 2, 0, 4], [1, 1, 0, 2], [0, 2, 3, 4]), (3, 3))
    assert same(nmf(of_scipy, 2), nmf(torch.from_numpy(of_scipy.toarray()), 2))
    assert of_scipy.nnz == 4 and torch.equal(given._values(), before)  # what was given is left alone
    assert nmf(torch.zeros(4, 3).to_sparse(), 2).reason == "exact"


@pytest.mark.parametrize("value, name", [(-0.5, "-0.5"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_a_bad_entry_of_a_sparse_matrix_is_named_with_its_place(value, name, solver):
    A = matrix(2, 5, 4, density=0.5)
    A[1, 2, 0] = value
    with pytest.raises(ValueError, match=rf"A\[1, 2, 0\] = {name} .*(ReLU|clamp)"):
        nmf(A.to_sparse(), 2, solver=solver)
    with pytest.raises(ValueError, match=rf"A\[2, 0\] = {name} .*(ReLU|clamp)"):
        nmf(scipy.sparse.csr_array(A[1].numpy()), 2, solver=solver)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 2] = False
    assert torch.isfinite(nmf(A.to_sparse(), 2, mask=mask, solver=solver).U).all()


def test_what_a_sparse_matrix_cannot_be():
    with pytest.raises(ValueError, match=r"chunk 16 must be None, or .* dense"):
        nmf(matrix(40, 30, density=0.1).to_sparse(), 2, chunk=16)
    with pytest.raises(ValueError, match=r"shape \(…, N, M\).*\(3,\)"):
        nmf(torch.ones(3).to_sparse(), 1)
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        nmf(scipy.sparse.csr_array((0, 3)), 1)
    with pytest.raises(ValueError, match=r"nested.*to_padded_tensor"):
        nmf(torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)]), 1)


MEMORY = """
import re, sys
from pathlib import Path
import scipy.sparse, torch
from nmfcore import nmf
torch.set_num_threads(1)
def memory(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
nmf(scipy.sparse.random_array((200, 50), density=0.1, dtype="float32", rng=0), 2)  # which compiles
A = scipy.sparse.random_array((100_000, 50_000), density=0.0002, format="csr", dtype="float32", rng=0)
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = memory("VmRSS")
result = nmf(A, 5, max_iter=12)
print(memory("VmHWM") - before, A.nnz, float(result.error))
"""


@pytest.mark.skipif(sys.platform != "linux" or backends.cpu is None, reason="reads /proc; needs numba")
def test_a_sparse_matrix_is_not_made_dense():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    peak, entries, error = map(float, done.stdout.split())
    assert entries == 1_000_000 and 0.9 < error < 1
    assert peak < 4 * 100_000 * 50_000 / 50  # dense, it alone takes 50 times that


# --- tables, and what is refused ----------------------------------------------------------------------------


def advised(error, A):
    """What the advice in a message gives when it is followed."""
    code = re.search(r"convert it with (.*)$", str(error))[1]
    return eval(code, {"torch": torch, "A": A})


def tables():
    numbers = np.random.default_rng(0).integers(1, 9, (6, 4))
    yield "list", numbers.tolist()
    yield "array", numbers.astype("float64")
    yield "reversed", numbers[::-1].astype("float32")[::-1]
    yield "big-endian", numbers.astype(">f4")
    yield "objects", numbers.astype(object)
    yield "unsigned", numbers.astype("uint16")
    yield "sparse integers", scipy.sparse.csr_array(numbers)
    yield "sparse bool tensor", torch.from_numpy(numbers > 4).to_sparse()
    yield "integers", torch.from_numpy(numbers)
    frozen = numbers.astype("float32")
    frozen.flags.writeable = False
    yield "read-only", frozen
    try:
        import pandas
    except ImportError:
        return
    yield "DataFrame", pandas.DataFrame(numbers, columns=list("abcd"))
    yield "mixed DataFrame", pandas.DataFrame({"a": numbers[:, 0], "b": numbers[:, 1] / 2, "c": numbers[:, 2] > 4})
    yield "sparse DataFrame", pandas.DataFrame.sparse.from_spmatrix(scipy.sparse.csr_array(numbers.astype(float)))


@pytest.mark.filterwarnings("error")  # PyTorch warns of arrays that are read-only
@pytest.mark.parametrize("name, A", list(tables()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_conversion_that_a_message_advises_works(name, A):
    functions = [nmf, *METHODS.values(), semi_nmf, lambda X, K: StreamingNMF(K).update(X)]
    for function in functions:
        with pytest.raises(ValueError, match=r"A must be a floating-point tensor .*; convert it with") as refused:
            function(A, 2)
        converted = advised(refused.value, A)
        expected = np.asarray(A if not hasattr(A, "to_dense") else A.to_dense()) if not scipy.sparse.issparse(A) \
            else A.toarray()
        found = converted.toarray() if scipy.sparse.issparse(converted) else converted.to_dense().numpy()
        np.testing.assert_array_equal(found, expected.astype("float32"))
        function(converted, 2)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_sparse_matrices_and_half_precision(name):
    A = matrix(30, 12, density=0.4)
    for given in (A.to_sparse(), A.to_sparse_csr(), scipy.sparse.csr_array(A.numpy())):
        assert same(METHODS[name](given, 3), METHODS[name](A, 3))
    assert same(METHODS[name](A.half(), 3), METHODS[name](A.half().float(), 3))
    assert same(METHODS[name](A.half().to_sparse(), 3), METHODS[name](A.half().float(), 3))


# --- half precision, autocast, default devices and types ----------------------------------------------------


@contextmanager
def default_type(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS = {
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "another default device": lambda: default_device("meta"),
    "inside another device": lambda: torch.device("meta"),
    "default type float64": lambda: default_type(torch.float64),
    "default type float16": lambda: default_type(torch.float16),
    "default type bfloat16": lambda: default_type(torch.bfloat16),
}
FEATURES = [matrix(8, h, w, density=0.7, seed=h) for h, w in ((6, 9), (7, 7), (6, 9))]
ROWS = [torch.nn.functional.normalize(matrix(3, 12, seed=i) + 0.1, dim=1) for i in range(20)]
A = matrix(60, 24, density=0.7)
LARGE = matrix(9000, 12)
SIGNED = A - 0.4
DICTIONARY = torch.nn.functional.normalize(matrix(4, 24, density=0.6, seed=5) + 0.01, dim=1)


def streamed(A):
    stream = StreamingNMF(3)
    return [stream.update(A[:30]), stream.update(A[30:]), stream.V]


def perturbed(A):
    torch.manual_seed(0)
    layer = NMFPerturbation(3).train()
    return [layer(A), layer.dictionary]


def slope(A):
    given = A.clone().requires_grad_()
    project(given, DICTIONARY).square().sum().backward()
    return given.grad


def factors(result):
    return [result.U, result.V, result.approximation]


FUNCTIONS = {
    "nmf": lambda: [*factors(found := nmf(A, 3)), found.error, found.kkt(A)],
    "nmf of ranks": lambda: [X for found in nmf(A, [2, 4]) for X in factors(found)],
    "nmf of a batch": lambda: factors(nmf(torch.stack([A, A.flip(0)]), 3)),
    "nmf of a sparse matrix": lambda: factors(nmf((A * (A > 0.8)).to_sparse(), 3)),
    "nmf of a large matrix": lambda: factors(nmf(LARGE, 2, max_iter=15)),
    "nmf in chunks": lambda: factors(nmf(A, 3, chunk=16)) if backends.cpu else [],
    "nmf from a start": lambda: factors(nmf(A, 4, init=(A[:, :4] + 0.1, DICTIONARY), max_iter=20)),
    "nmf by mu": lambda: [*factors(found := nmf(A, 3, solver="mu")), found.error, found.kkt(A)],
    **{name: lambda function=function: factors(function(A, 3)) for name, function in METHODS.items()},
    "semi_nmf": lambda: factors(semi_nmf(SIGNED, 3)),
    "streaming": lambda: streamed(A),
    "project": lambda: [project(A, DICTIONARY), slope(A)],
    "perturbation": lambda: perturbed(A),
    "factorize": lambda: [*(found := factorize(FEATURES, 3)).maps, found.factors.V],
    "match": lambda: [match(*(found := [factorize(FEATURES, 3, seed=seed).maps for seed in (0, 1)])),
                      torch.tensor(agreement(*found), dtype=torch.float64, device="cpu")],
    "stability": lambda: [stability(FEATURES, [2, 3], seeds=[0, 1])],
    **{f"describe by {name}": lambda name=name: describe(FEATURES, name) for name in DESCRIPTORS if name != "cam"},
    "whitening": lambda: [pooled(ROWS, whitening := Whitening.fit(ROWS)), whitening.directions],
    "regional": lambda: [pooled(ROWS, Whitening.fit(ROWS), regional=True)],
    "search": lambda: list(Index(pooled(ROWS), [str(i) for i in range(20)]).search(pooled(ROWS)[:3], expand=2)),
    "principal maps": lambda: list(single_maps(FEATURES, "pca")),
    "cluster maps": lambda: list(single_maps(FEATURES, "kmeans")),
}


@pytest.mark.parametrize("name, compiled", [(name, True) for name in FUNCTIONS] + [
    (name, False) for name in FUNCTIONS if re.match("nmf|semi|factorize|describe by nmf", name)])
def test_what_is_set_around_a_call_does_not_reach_inside(name, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(backends, "cpu", None)
    expected = FUNCTIONS[name]()
    for surroundings, enter in SURROUNDINGS.items():
        with enter():
            found = FUNCTIONS[name]()
        for one, other in zip(found, expected, strict=True):
            assert one.device.type == "cpu" and torch.equal(one, other) and one.dtype == other.dtype, surroundings


def test_under_autocast_the_error_is_that_of_the_factors(solver):
    with torch.autocast("cpu", torch.bfloat16):
        result = nmf(A, 20, solver=solver)
        assert relative(A, result.approximation) == pytest.approx(float(result.error), rel=1e-3)
        assert A.mm(A.mT).dtype == torch.bfloat16  # outside of the call the user's choice stands
    assert relative(A, result.U @ result.V) == pytest.approx(float(result.error), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_within_rounding(dtype):
    half = A.to(dtype)
    full = half.float()
    assert all(torch.equal(*pair) for pair in zip(streamed(half), streamed(full), strict=True))
    assert same(semi_nmf(SIGNED.to(dtype), 3), semi_nmf(SIGNED.to(dtype).float(), 3))
    for one, other in ((project(half, DICTIONARY.to(dtype)), project(full, DICTIONARY.to(dtype).float())),
                       (perturbed(half)[0], perturbed(full)[0])):
        assert one.dtype == dtype and torch.equal(one, other.to(dtype))
    assert slope(half).dtype == dtype and relative(slope(full), slope(half)) < 2 * torch.finfo(dtype).eps
    assert torch.equal(perturbed(half)[1], perturbed(full)[1])
    for method in DESCRIPTORS:
        maps = {"maps": [each[:2].to(dtype) for each in FEATURES]} if method == "cam" else {}
        expected = {name: [each.float() for each in value] for name, value in maps.items()}
        found = describe([each.to(dtype) for each in FEATURES], method, **maps)
        for one, other in zip(found, describe([each.to(dtype).float() for each in FEATURES], method, **expected),
                              strict=True):
            assert one.dtype == torch.float32 and torch.equal(one, other)
    found, expected = factorize([each.to(dtype) for each in FEATURES], 2), \
        factorize([each.to(dtype).float() for each in FEATURES], 2)
    assert all(torch.equal(*pair) for pair in zip(found.maps, expected.maps, strict=True))


def test_a_network_in_half_precision_is_trained_with_a_perturbation():
    for dtype, around in ((torch.bfloat16, nullcontext()), (torch.float32, torch.autocast("cpu", torch.bfloat16))):
        model = torch.nn.Sequential(torch.nn.Linear(24, 16), torch.nn.ReLU(), NMFPerturbation(3, gradient="implicit"),
                                    torch.nn.Linear(16, 2)).to(dtype).train()
        with around:
            loss = model(A.to(dtype)).float().square().sum()
            loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        assert all(torch.isfinite(gradient).all() and gradient.any() for gradient in gradients)


def test_the_bounds_of_a_rank_take_sparse_matrices_and_name_a_conversion_that_works():
    M = torch.eye(3, dtype=torch.float64)
    for given in (M.to_sparse(), M.to_sparse_csr(), scipy.sparse.csr_array(M.numpy()), (M > 0).to_sparse()):
        assert interval(given, time_limit=20).lower == 3
    with pytest.raises(ValueError, match="10,000,000,000 entries"):
        interval(scipy.sparse.csr_array((100_000, 100_000)))
    for given in [value for name, value in tables() if name in ("array", "list", "DataFrame")]:
        with pytest.raises(ValueError, match=r"M must be a tensor .*; convert it with") as refused:
            interval(given)
        code = re.search(r"convert it with (.*)$", str(refused.value))[1]
        np.testing.assert_array_equal(eval(code, {"torch": torch, "M": given}).numpy(), np.asarray(given))


def test_a_network_is_loaded_where_its_file_is_whatever_the_default_device():
    with torch.device("meta"):
        model, preprocess = pretrained("student")
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(preprocess(images)), pretrained("student")[0](preprocess(images)))


def test_methods_that_draw_at_random_keep_to_the_cpu_generator():
    with torch.device("meta"):
        for function in (pca, kmeans, spherical_kmeans):
            assert torch.isfinite(function(A, 3).approximation).all()
