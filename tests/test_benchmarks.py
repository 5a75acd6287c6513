"""The benchmark compares what it says it compares: the same start, the same error, resumable curves."""

import importlib.util
import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from sklearn.decomposition import non_negative_factorization

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    return loaded("nmf")


@pytest.fixture(scope="module")
def compression():
    return loaded("compression")


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


@pytest.mark.skipif(not shutil.which("Rscript"), reason="no R")
def test_rcppml_gives_the_factors_of_our_matrix(bench, matrix):
    fit = bench.rcppml(matrix, 3, Namespace(threads=1, repeats=2))
    if fit is None:
        pytest.skip("RcppML is not installed")
    seconds, (U, V) = fit
    assert len(seconds) == 2 and U.shape == (60, 3) and V.shape == (3, 40) and min(U.min(), V.min()) >= 0
    assert float(bench.relative_error(matrix, U, V)) == pytest.approx(float(bench.nmf(matrix, 3).error), rel=0.05)


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


# benchmarks/compression.py


def test_the_parts_of_a_sweep_add_up_to_the_call(compression, matrix):
    A = torch.stack([matrix, matrix.flip(0)])
    total, each, errors = compression.ours(A, [1, 3, 5])
    assert each.shape == errors.shape == (3, 2) and each.sum() == pytest.approx(total) and (each > 0).all()
    expected = compression.nmf(A, [1, 3, 5], tol=compression.TOL)
    assert errors.tolist() == [result.error.tolist() for result in expected]
    assert (errors[1:] < errors[:-1]).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("start", ["nndsvda", "random"])
def test_scikit_learn_is_stopped_where_it_reaches_the_error(compression, matrix, start):
    target = float(compression.nmf(matrix, 3).error)
    seconds, error, reached = compression.sklearn_to(matrix, 3, 1.5 * target, start)
    assert reached and error <= 1.5 * target * (1 + compression.SLACK) and seconds > 0
    _, error, reached = compression.sklearn_to(matrix, 3, 0.0, start, limit=20)
    whole = non_negative_factorization(matrix.numpy(), n_components=3, init=start, max_iter=20, tol=0, random_state=0)
    assert not reached
    assert error == pytest.approx(float(compression.common.relative_error(matrix, *map(torch.from_numpy, whole[:2]))),
                                  rel=1e-3)


def test_the_better_start_and_the_time_between_ranks(compression):
    assert compression.better({"a": (9.0, 0.1, True), "b": (2.0, 0.1, True), "c": (1.0, 0.2, False)}) == "b"
    assert compression.better({"a": (1.0, 0.3, False), "b": (2.0, 0.2, False)}) == "b"
    assert compression.interpolated([1, 2, 5, 10], [1, 10], [0.5, 50]).tolist() == pytest.approx([0.5, 2, 12.5, 50])


def test_the_quick_sweep_of_the_compression_benchmark(compression, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("NMFCORE_DATA", raising=False)
    monkeypatch.setattr(compression, "QUICK", compression.QUICK | {"ranks": [1, 6], "sample": [1, 6]})
    kept = []
    monkeypatch.setattr(compression.records, "save", kept.append)
    monkeypatch.setattr("sys.argv", ["compression.py", "--quick", "--matrices", "1", "--record"])
    threads = torch.get_num_threads()
    try:
        compression.main()
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "whole sweep: nmf" in printed and printed.count("×") >= 4
    record, = kept
    json.dumps(record.values)
    assert record.values["ranks"] == [1, 6] and record.values["shape"] == [2, 64, 512]
    for K in (1, 6):
        entry = record.values[f"K={K}"]
        assert entry["ratio"] == pytest.approx(entry["scikit-learn"][0] / entry["nmf"][0], rel=2e-3)
        assert entry["start"] in compression.STARTS


def test_the_retrieval_benchmark_measures_every_method_and_size():
    retrieval = loaded("retrieval")
    setup = {"networks": ("student",), "side": 64, "images": 2, "repeat": 1, "sizes": (50, 200)}
    ratios, _ = retrieval.descriptors(setup)
    assert set(ratios) == {"mac", "gem", "rmac", "crow", "nmf_v", "nmf_vu"} and min(ratios.values()) > 1
    found = retrieval.search(setup)
    assert {size: one["MB"] for size, one in found.items()} == {50: 0.1024, 200: 0.4096}
    assert all(one["faiss"]["recall"] == 1 for one in found.values() if "faiss" in one)  # few cells: all are searched


def test_descriptors_of_the_retrieval_benchmark_come_in_clusters():
    vectors = loaded("retrieval").clustered(1000)
    cosines = vectors @ vectors.mT - 2 * torch.eye(1000)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(1000), atol=1e-5)
    assert cosines.max(1).values.mean() == pytest.approx(0.6, abs=0.1) and cosines.median().abs() < 0.1


# benchmarks/encode.py


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_methods_of_the_encoding_benchmark_solve_the_same_problem(matrix):
    encoding = loaded("encode")
    V = encoding.nmf(matrix, 3).V
    found = encoding.compared(matrix, V, repeats=1, sample=10)
    assert len(found) == 6 and min(seconds for seconds, _ in found.values()) > 0
    assert all(0 <= above < 1e-3 for _, above in found.values())
    exact = {name: above for name, (_, above) in found.items() if "tol=1e-4" not in name}
    assert len(exact) == 4 and max(exact.values()) < 1e-5
    for run, rows in encoding.methods(matrix, V, sample=10).values():
        assert run().shape == (rows, 3)


def test_the_encoding_benchmark_prints_ratios(capsys, monkeypatch):
    encoding = loaded("encode")
    monkeypatch.setattr(encoding, "matrices", lambda rows: {"made up": torch.rand(rows, 20)})
    monkeypatch.setattr("sys.argv", ["encode.py", "--rows", "30", "--ranks", "2", "--repeats", "1"])
    threads = torch.get_num_threads()
    try:
        encoding.main()
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    printed = capsys.readouterr().out
    assert printed.count("× ours") == 6 and "1.00 × ours" in printed
