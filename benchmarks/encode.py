"""Non-negative least squares: nmfcore.encode beside scipy and scikit-learn, the same rows and V, in one run.

    python benchmarks/encode.py                         about a minute: 2000 × 512, three ranks
    python benchmarks/encode.py --rows 20000 --ranks 10 100 300

Data: activations as in benchmarks/nmf.py, and a matrix made up of dense parts that overlap, which are harder. V is
learned by a short `nmf` on the matrix. One thread for all, medians over repeats, seconds of the processor; compilation
happens before, untimed. scipy.optimize.nnls solves row by row, in float64; where there are many rows, a sample of them
is timed. scikit-learn's NMF.transform stops by its own rule, at its default tolerance or a tight one, or at a limit of
iterations; so what each leaves above the lowest error is printed beside its time. Nothing is asserted.
"""

import argparse
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.sparse import csr_matrix
from sklearn.decomposition import NMF as SklearnNMF
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from nmfcore import encode, nmf


def neighbour(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


common = neighbour("nmf")


def matrices(rows):
    """What it is -> A (rows, 512): activations, mostly zeros, and dense parts that overlap, in noise."""
    A, source = common.activations(1, -(-rows // 64), 128, 128)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.rand(*shape, generator=generator).pow(3) for shape in ((rows, 50), (50, 512))]
    made = torch.relu(3 * parts[0] @ parts[1] - 0.6 + 0.3 * torch.rand(rows, 512, generator=generator))
    return {source: A[0, :rows].contiguous(), "made up: 50 overlapping parts and noise": made}


def methods(A, V, sample):
    """Name -> (function that returns U of the first rows of A, how many rows)."""
    wide, dense, sparse = V.double().numpy().T, A.numpy(), csr_matrix(A.numpy())

    def scipy():
        return np.stack([nnls(wide, row)[0] for row in dense[:sample].astype(np.float64)])

    def sklearn(X, tol, max_iter):
        peer = SklearnNMF(len(V), tol=tol, max_iter=max_iter)
        peer.components_, peer.n_components_, peer._n_components = V.numpy(), len(V), len(V)
        peer.n_features_in_ = V.shape[1]
        return peer.transform(X)

    return {"nmfcore.encode": (lambda: encode(A, V), len(A)),
            "nmfcore.encode, float64": (lambda: encode(A.double(), V), len(A)),
            "scipy.optimize.nnls": (scipy, min(sample, len(A))),
            "scikit-learn, tol=1e-4": (lambda: sklearn(dense, 1e-4, 200), len(A)),
            "scikit-learn, CSR, tol=1e-4": (lambda: sklearn(sparse, 1e-4, 200), len(A)),
            "scikit-learn, tol=1e-6": (lambda: sklearn(dense, 1e-6, 2000), len(A))}


def compared(A, V, repeats, sample):
    """Name -> seconds for all rows, and the error on the sample less the lowest, relative to ‖A‖."""
    every, times, errors = methods(A, V, sample), {}, {}
    for _ in range(repeats):  # in turn, so that what else the machine does meets all of them
        for name, (run, count) in every.items():
            seconds, U = common.timed("cpu", run)
            times.setdefault(name, []).append(seconds * len(A) / count)
            errors[name] = float(common.relative_error(A[:sample], torch.as_tensor(U[:sample]).float(), V))
    lowest = min(errors.values())
    return {name: (float(np.median(times[name])), errors[name] - lowest) for name in every}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=200, help="rows that scipy solves and that errors are taken of")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with threadpool_limits(1):
        for source, A in matrices(options.rows).items():
            print(f"\n{len(A)} × {A.shape[1]}, {float((A == 0).float().mean()):.0%} zeros: {source}")
            for K in options.ranks:
                V = nmf(A, K, max_iter=50).V
                encode(A[:16], V), encode(A[:16].double(), V)  # compiled once
                found = compared(A, V, options.repeats, options.sample)
                ours = found["nmfcore.encode"][0]
                for name, (seconds, above) in found.items():
                    print(f"  K = {K:3}  {name:27} {1e3 * seconds:10.1f} ms, {seconds / ours:7.2f} × ours, "
                          f"{above:.1e} above the lowest error")


if __name__ == "__main__":
    main()
