"""What a result promises: an error that never rises, optimality conditions, no dead components, and few waits."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nmfcore import Factors, nmf
from nmfcore.solver import backends
from nmfcore.solver import plain as plain_path
from nmfcore.solver.processes import Rows
from nmfcore.solver.start import Starts

torch.set_num_threads(1)


@pytest.fixture(params=["compiled", "plain"])
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(backends, "cpu", None)
    return request.param


def random(*shape, seed=0, density=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    A = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return (A * (torch.rand(*shape, generator=generator) < density)).to(dtype)


def structured(N, M, dtype=torch.float64, density=1.0, seed=0):
    A = random(N, 6, seed=seed) @ random(6, M, density=0.5, seed=seed + 1) + 0.4 * random(N, M, seed=seed + 2)
    return (A * (random(N, M, seed=seed + 3) < density)).to(dtype)


def relative(A, result):
    """‖A − U V‖ / ‖A‖, in float64."""
    return float((A.double() - result.U.double() @ result.V.double()).norm() / A.double().norm())


# --- the error ----------------------------------------------------------------------------------------------


def errors(A, K, iterations, **options):
    """True errors after so many iterations, which the results must state."""
    results = [nmf(A, K, **dict(tol=0, max_iter=n) | options) for n in iterations]
    true = [relative(A, result) for result in results]
    for one, result in zip(true, results, strict=True):
        assert float(result.error) == pytest.approx(one, rel=1e-4, abs=1e-6)
    return true


def falls(values):
    return all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [0.15, 1])
def test_the_error_never_rises(density, dtype, path):
    A = structured(80, 50, dtype, density)
    found = errors(A, 7, range(1, 41))
    assert falls(found) and found[-1] < found[0]


@pytest.mark.parametrize("options", [dict(), dict(seed=1)])
def test_the_error_never_rises_where_a_sample_comes_first(options, path):
    A = structured(9000, 30, torch.float32)
    found = errors(A, 5, [*range(1, 9), 12, 20], **options)
    assert falls(found) and found[-1] < found[0]


def test_the_error_never_rises_as_components_are_revived(path):
    A = structured(60, 40)
    U, V = random(60, 6, seed=8), random(6, 40, seed=9)
    U[:, [1, 4]], V[[1, 4]] = 0, 0
    found = errors(A, 6, [n for n in range(1, 100) if n % 5 < 2], init=(U, V), tol=3e-3)
    fewer = float(nmf(A, 4, init=(U[:, [0, 2, 3, 5]], V[[0, 2, 3, 5]]), tol=0, max_iter=100).error)
    assert falls(found) and found[-1] < 0.97 * fewer


@pytest.mark.parametrize("factor", [1, 2, 1e-9])
@pytest.mark.parametrize("N", [60, 9000])  # the latter solves a sample of the rows first
def test_a_result_is_never_worse_than_the_given_start(N, factor, path):
    A = structured(N, 30, torch.float32)
    good = nmf(A, 4, tol=1e-6)
    for tolerance in (0, 1e-4):
        again = nmf(A, 4, init=(good.U * factor, good.V), max_iter=3, tol=tolerance)
        assert relative(A, again) <= relative(A, good) * (1 + 1e-6)
    exact = nmf(good.approximation, 4, init=(good.U * factor, good.V), max_iter=3)
    assert exact.reason == "exact" and exact.start == "given" and int(exact.iterations) == 1


@pytest.mark.parametrize("dtype, digits", [(torch.float32, 1e-6), (torch.float64, 1e-11)])
def test_the_error_of_a_close_start_comes_from_its_residual(dtype, digits, monkeypatch):
    if backends.cpu is None:
        pytest.skip("needs numba")
    starts = []

    class Noted(backends.cpu.Problem):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            starts.append(self.error)
    monkeypatch.setattr(backends.cpu, "Problem", Noted)
    U, V = random(20, 3).to(dtype), random(3, 15, seed=1).to(dtype)
    nmf(U @ V, 3, init=(2 * U, V))
    assert starts[0] < digits


# --- optimality conditions ----------------------------------------------------------------------------------


def slowly(A, U, V):
    """What Factors.kkt states, one component at a time."""
    A, U, V = (X.double().numpy() for X in (A, U, V))
    moved = 0.0
    residual = A - U @ V
    for k in range(len(V)):
        u, v = U[:, k], V[k]
        if v @ v > 0:
            step = np.maximum(u + residual @ v / (v @ v), 0) - u
            moved += np.square(np.outer(step, v)).sum()
        if u @ u > 0:
            step = np.maximum(v + u @ residual / (u @ u), 0) - v
            moved += np.square(np.outer(u, step)).sum()
    return np.sqrt(moved) / np.linalg.norm(A)


def as_result(U, V):
    return Factors(U, V, *(torch.zeros(U.shape[:-2]) for _ in range(4)))


def test_the_kkt_residual_is_what_it_says():
    A, U, V = random(3, 12, 9), random(3, 12, 4, density=0.6, seed=1), random(3, 4, 9, density=0.6, seed=2)
    U[0, :, 1], V[1, 2] = 0, 0
    expected = [slowly(*X) for X in zip(A, U, V, strict=True)]
    np.testing.assert_allclose(as_result(U, V).kkt(A), expected, rtol=1e-10)
    np.testing.assert_allclose(as_result(U[0], V[0]).kkt(A[0].float()), expected[0], rtol=1e-6)
    assert min(expected) > 0.1


@pytest.mark.parametrize("factor", [1e-6, 1e6, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kkt_residual_does_not_depend_on_the_scale(factor, dtype):
    A, U, V = random(12, 9, dtype=dtype), random(12, 4, seed=1, dtype=dtype), random(4, 9, seed=2, dtype=dtype)
    expected = float(as_result(U, V).kkt(A))
    assert float(as_result(U * factor, V).kkt(A * factor)) == pytest.approx(expected, rel=1e-4)
    assert float(as_result(U * 3, V / 3).kkt(A)) == pytest.approx(expected, rel=1e-5)


def test_the_kkt_residual_of_a_stationary_point_is_zero():
    A = random(12, 9)
    left, values, right = torch.linalg.svd(A)
    best = as_result((left[:, :1] * values[0]).abs(), right[:1].abs())
    assert best.kkt(A) < 1e-14
    assert as_result(best.U * 1.01, best.V).kkt(A) > 1e-3
    assert as_result(A, torch.eye(9, dtype=torch.float64)).kkt(A) < 1e-14
    dead = as_result(*(torch.cat([X, torch.zeros_like(X)], dim) for X, dim in ((best.U, 1), (best.V, 0))))
    assert dead.kkt(A) < 1e-14  # nothing to gain from a component alone that is zero in U and in V
    assert as_result(torch.zeros(3, 2), torch.zeros(2, 4)).kkt(torch.zeros(3, 4)) == 0


@pytest.mark.parametrize("density", [0.15, 1])
@pytest.mark.parametrize("K", [1, 5, 20])
def test_a_converged_result_is_nearly_stationary(K, density, path):
    A = structured(150, 80, density=density)
    loose, tight = (nmf(A, K, tol=tol, max_iter=5000) for tol in (1e-4, 1e-6))
    assert loose.converged and tight.converged
    assert float(loose.kkt(A)) < 5e-3 and float(tight.kkt(A)) < 5e-4


# --- dead components ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["U", "V", "both", "all of V", "all of U", "all"])
def test_components_do_not_stay_dead(which, path):
    A, K = structured(60, 40), 5
    U, V = random(60, K, seed=8), random(K, 40, seed=9)
    dead = range(K) if "all" in which else [0, 3]
    alive = [k for k in range(K) if k not in dead]
    fewer = float(nmf(A, len(alive), init=(U[:, alive], V[alive])).error) if alive else 1
    if which in ("U", "both", "all of U", "all"):
        U[:, dead] = 0
    if which in ("V", "both", "all of V", "all"):
        V[dead] = 0
    result = nmf(A, K, init=(U, V))
    assert (result.U.amax(0) > 0).all() and (result.V.amax(1) > 0).all()
    assert result.converged and float(result.error) < 0.97 * fewer
    drawn = min(float(nmf(A, K, seed=seed).error) for seed in range(3))
    assert float(result.error) <= 1.05 * drawn


def test_nothing_is_left_for_a_superfluous_component(path):
    A = random(30, 2) @ random(2, 20, seed=1)
    result = nmf(A, 2, tol=0, max_iter=3000)
    U, V = (torch.cat([X, torch.zeros_like(X)], dim) for X, dim in ((result.U, 1), (result.V, 0)))
    again = nmf(A, 4, init=(U, V))
    assert again.error <= result.error * (1 + 1e-6) + 1e-12
    assert nmf(torch.eye(3), 5).error < 1e-3


# --- the plain path on a device that runs ahead of its host -------------------------------------------------


class Watch(TorchDispatchMode):
    """Notes steps of the solver, and operations that wait for the device."""

    def __init__(self):
        super().__init__()
        self.events = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        masks = [X for X in arguments[1] if X is not None and X.dtype == torch.bool] if "index" in name and \
            len(arguments) > 1 and isinstance(arguments[1], (tuple, list)) else []
        if masks or name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "item", "equal"):
            self.events.append("wait")
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("solver", ["hals", "mu"])
def test_the_host_waits_once_per_window(solver, monkeypatch):
    watch, step = Watch(), getattr(plain_path.Batch, solver)

    def watched(*arguments, **options):
        watch.events.append("step")
        return step(*arguments, **options)
    monkeypatch.setattr(plain_path.Batch, solver, watched)
    A = torch.stack([structured(40, 30, torch.float32, seed=seed) for seed in range(3)])
    with watch:
        nmf(A, 4, solver=solver, tol=0, max_iter=40, backend="torch")
    runs = [len(list(group)) for event, group in itertools.groupby(watch.events) if event == "step"]
    assert sum(runs) == 40 and len(runs) <= 8
    assert min(runs) >= 5


@pytest.mark.parametrize("solver", ["hals", "mu"])
@pytest.mark.parametrize("K", [4, 20])
def test_steps_written_in_place_are_the_same_steps(K, solver, monkeypatch):
    """As a CUDA graph has them: what a step returns is copied over what it was given."""
    A = torch.stack([structured(40, 30, torch.float32, seed=seed) for seed in range(3)])
    options = dict(solver=solver, tol=1e-5, max_iter=60, backend="torch")
    expected = nmf(A, K, **options)
    in_place = []

    def advance(self):
        if self.graph is None:
            self.state, self.graph = plain_path.own_memory(self.state), True
            places = [value.data_ptr() for value in self.state.tensors().values()]
            assert len(set(places)) == len(places)
        new = self.batch.step(self.state, self.close)
        in_place.extend(name for name, value in new.tensors().items() if value is not getattr(self.state, name))
        plain_path.overwrite(self.state, new)
    monkeypatch.setattr(plain_path.Steps, "advance", advance)
    result = nmf(A, K, **options)
    for name in ("U", "V", "error", "iterations", "status"):
        assert torch.equal(getattr(result, name), getattr(expected, name))
    assert set(in_place) >= {"U", "V", "error"} and not {"A", "norm2"} & set(in_place)


# --- kinds of input -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("density", [0.15, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_layout_of_the_input_does_not_matter(dtype, density, path):
    A = structured(37, 30, dtype, density)
    A[:, 3] = A[:, 4]  # for a view that repeats a column
    expected = nmf(A, 4, max_iter=10)
    wide = torch.zeros(37, 90, dtype=dtype)
    wide[:, 5:65:2] = A
    views = {"transposed": A.mT.contiguous().mT, "strided": wide[:, 5:65:2], "expanded": A.expand(1, 37, 30)[0],
             "of a graph": A.clone().requires_grad_() * 1}
    if dtype != torch.bfloat16:
        array = A.numpy().copy()
        array.flags.writeable = False
        views["read-only"] = torch.from_numpy(array)
    for kind, view in views.items():
        result = nmf(view, 4, max_iter=10)
        assert torch.equal(view, A), kind
        assert not result.U.requires_grad and not result.V.requires_grad and not result.error.requires_grad
        torch.testing.assert_close(result.approximation, expected.approximation, rtol=1e-4, atol=1e-4)
    row = A[:1].expand(20, 30)  # stride 0
    batch = nmf(A.expand(3, 37, 30), 4, max_iter=10)
    assert relative(row, nmf(row, 1)) < 1e-5
    for b in range(3):
        torch.testing.assert_close(batch.approximation[b], expected.approximation, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("N", "K", "size"), [
    (2047, 5, 0), (2048, 5, 512), (3200, 100, 800), (3200, 300, 800), (3200, 401, 0), (8000, 5, 1000),
    (19600, 100, 2048), (19600, 300, 2400), (40000, 5, 2048)])
def test_a_sample_is_a_quarter_of_the_rows_at_most_and_twice_the_rank_at_least(N, K, size):
    index = Starts(Rows(N), 1, 2, torch.float32, torch.device("cpu"), 0).sample(K)
    assert abs((0 if index is None else len(index)) - size) <= 2
