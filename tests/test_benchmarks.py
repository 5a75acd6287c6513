"""The benchmark compares what it says it compares: the same start, the same error, resumable curves."""

import importlib.util
from argparse import Namespace
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "nmf.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("benchmark_of_nmf", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def matrix():
    generator = torch.Generator().manual_seed(0)
    return torch.relu(torch.rand(60, 3, generator=generator) @ torch.rand(3, 40, generator=generator) - 0.4)


def test_methods_start_from_the_factors_given_and_leave_them_alone(bench, matrix):
    start = bench.random_start(matrix, 3, 0)
    kept = [X.clone() for X in start]
    before = float(bench.relative_error(matrix, *start))
    for name, method in bench.methods(matrix, 3).items():
        U, V = method.run(*(X.clone() for X in start), 30)
        assert float(bench.relative_error(matrix, U, V)) < before, name
        assert all(torch.equal(X, Y) for X, Y in zip(start, kept, strict=True)), name


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_method_that_resumes_does_not_care_where_it_is_interrupted(bench, matrix):
    start = bench.random_start(matrix, 3, 0)
    for name, method in bench.methods(matrix, 3).items():
        whole = method.run(*(X.clone() for X in start), 12)
        parts = method.run(*(X.clone() for X in method.run(*(X.clone() for X in start), 5)), 7)
        if method.resumes:
            errors = [float(bench.relative_error(matrix, *factors)) for factors in (whole, parts)]
            assert errors[0] == pytest.approx(errors[1], rel=1e-3), name


def test_relative_error_is_that_of_the_residual(bench, matrix):
    U, V = bench.random_start(matrix, 3, 0)
    expected = (matrix.double() - U.double() @ V.double()).norm() / matrix.double().norm()
    assert float(bench.relative_error(matrix, U, V)) == pytest.approx(float(expected), rel=1e-5)
    pair = bench.relative_error(torch.stack([matrix] * 2), torch.stack([U] * 2), torch.stack([V] * 2))
    assert pair.tolist() == pytest.approx([float(expected)] * 2, rel=1e-5)


def test_time_to_an_error_is_read_between_two_budgets(bench):
    curve = {"seconds": [1.0, 2.0, 4.0], "error": [0.9, 0.5, 0.3]}
    assert bench.reached(curve, 0.95) == 1.0
    assert bench.reached(curve, 0.4) == pytest.approx(3.0)
    assert bench.reached(curve, 0.2) is None


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_curves_keep_each_budget_once_and_time_never_runs_back(bench, matrix):
    options = Namespace(repeats=2, cap=0.02)
    for curve in bench.curves(matrix, bench.methods(matrix, 3), bench.random_start(matrix, 3, 0), options).values():
        assert curve["iterations"] == bench.BUDGETS[:len(curve["iterations"])]
        assert len(curve["seconds"]) == len(curve["error"]) == len(curve["iterations"])
        assert curve["seconds"] == sorted(curve["seconds"])
