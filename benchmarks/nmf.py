"""Time to a given error: nmfcore beside scikit-learn and multiplicative updates, in one run, on real activations.

    python benchmarks/nmf.py --ranks 5 20 50 --repeats 3

Every solver starts from the same factors and is run with growing iteration budgets, the solvers taking turns. What is
compared is the time to come within one per cent of the lowest error that any of them found. Prints medians over the
repeats, and ratios; asserts nothing.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.decomposition import non_negative_factorization
from sklearn.exceptions import ConvergenceWarning

from nmfcore import datasets, networks, nmf
from nmfcore.activations import capture, to_matrix

BUDGETS = (5, 10, 20, 40, 80, 160, 320)


def activations():
    """Deep activations of the photographs in scikit-image and scikit-learn, one row per position."""
    model, preprocess = networks.pretrained("student")
    photographs = datasets.image_set("objects", size=320)
    maps = capture(model, preprocess.layer, preprocess(photographs.images))[preprocess.layer]
    return to_matrix(maps).contiguous()


def solvers(A, U, V):
    """Name -> function of an iteration budget that returns the relative error."""
    rank, dense, size = len(V), A.numpy(), A.norm()

    def ours(solver):
        return lambda budget: float(nmf(A, rank, solver=solver, init=(U, V), max_iter=budget, tol=0).error)

    def theirs(budget):
        W, H, _ = non_negative_factorization(dense, W=U.numpy().copy(), H=V.numpy().copy(), n_components=rank,
                                             init="custom", max_iter=budget, tol=0)
        return float(np.linalg.norm(dense - W @ H) / size)

    return {"nmfcore, hals": ours("hals"), "nmfcore, mu": ours("mu"), "scikit-learn, cd": theirs}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[5, 20, 50])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)  # the budgets are meant to run out

    A = activations()
    zeros = float((A == 0).double().mean())
    print(f"A {tuple(A.shape)}, {zeros:.0%} zeros, {options.threads} thread(s), {options.repeats} repeats")
    print(f"{'K':>4}  {'solver':18} {'lowest error':>12} {'s to 1 %':>9} {'ratio':>7}")
    for rank in options.ranks:
        generator = torch.Generator().manual_seed(rank)
        scale = float((A.mean() / rank).sqrt())
        U, V = (scale * torch.rand(*shape, generator=generator) for shape in ((len(A), rank), (rank, A.shape[1])))
        methods = solvers(A, U, V)
        runs = {name: [] for name in methods}  # per repeat: [(seconds, error) per budget]
        for _ in range(options.repeats):
            for name in methods:
                runs[name].append([])
            for budget in BUDGETS:
                for name, solve in methods.items():
                    begin = time.perf_counter()
                    error = solve(budget)
                    runs[name][-1].append((time.perf_counter() - begin, error))
        target = 1.01 * min(error for curves in runs.values() for curve in curves for _, error in curve)
        needed = {name: float(np.median([min((s for s, error in curve if error <= target), default=np.inf)
                                         for curve in curves])) for name, curves in runs.items()}
        for name, curves in runs.items():
            lowest = min(error for curve in curves for _, error in curve)
            ratio = needed[name] / needed["nmfcore, hals"]
            print(f"{rank:4}  {name:18} {lowest:12.4f} {needed[name]:9.3f} {ratio:6.1f}×")


if __name__ == "__main__":
    main()
