"""Cost of a compression curve: one call of nmf for all batches and ranks, beside scikit-learn to the same errors.

    python benchmarks/compression.py --quick     seconds: small matrices, three ranks
    python benchmarks/compression.py             ten to thirty minutes
    python benchmarks/compression.py --record    keeps data/records/compression_benchmark.json

The sweep is that of thesis section 3.5 for one layer: 10 class batches of 800 × 512, each factorized at the 26 ranks
1, 21, …, 501, by `nmf(A, ranks, tol=1e-3)` as `accuracy_curve` calls it. Of it, the time that each rank took is kept.

scikit-learn is run on a sample of (batch, K): the solver "cd" from "nndsvda" and from "random", on all batches but the
first only from the one that was faster there. Needed is its time to come within 0.5 % of the error at which nmf ended,
found in steps of ten iterations, within 200, which is its default limit. Where it does not come there, its time for 200
counts, marked with ≥: the ratio is then a lower bound, and so is that of the sweep. Between the ranks of the sample its
time is interpolated, linearly in the logarithms of both.

Data as in benchmarks/nmf.py. One thread for both, side by side in this process. Seconds are those of the processor, so
that other work on the machine counts little. Errors are measured outside the timed region. Nothing is asserted.
"""

import argparse
import importlib
import importlib.util
import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import non_negative_factorization
from sklearn.decomposition._nmf import _initialize_nmf
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from nmfbook import records
from nmfcore import nmf

LIMIT, STEP = 200, 10  # iterations of scikit-learn
STARTS = "nndsvda", "random"
TOL = 1e-3  # accuracy_curve's default
SLACK = 0.005  # above the error of nmf that counts as there
FULL = dict(groups=10, count=50, side=64, ranks=range(1, 512, 20), sample=(1, 21, 101, 201, 301, 401, 501))
QUICK = dict(groups=2, count=4, side=64, ranks=range(1, 42, 20), sample=(1, 21, 41))


def neighbour(name):
    """A benchmark beside this one; one of them has the name of a package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


common = neighbour("nmf")
timed = partial(common.timed, "cpu")


def ours(A, ranks):
    """Seconds of the whole call, seconds (ranks, batches) of each part of it, errors (ranks, batches)."""
    total, found = timed(nmf, A, ranks, tol=TOL)
    each = np.array([result.seconds.tolist() for result in found])
    each *= total / each.sum()  # what lies between the ranks, and other work on the machine, belongs to all alike
    return total, each, np.array([result.error.tolist() for result in found])


def sklearn_to(A, K, target, start, limit=LIMIT):
    """Seconds until scikit-learn comes within SLACK of `target`, else for `limit` iterations; error; whether it did.

    "cd" carries nothing but its factors from one iteration to the next, so that it can go on from where it stopped.
    """
    X, target = A.numpy(), target * (1 + SLACK)
    seconds, (W, H) = timed(_initialize_nmf, X, K, init=start, random_state=0)
    before = None
    for _ in range(0, limit, STEP):
        more, (W, H, _) = timed(non_negative_factorization, X, W=W, H=H, n_components=K, init="custom",
                                       solver="cd", max_iter=STEP, tol=0)
        error = float(common.relative_error(A, torch.from_numpy(W), torch.from_numpy(H)))
        if error <= target:  # within this step, linearly
            share = 1.0 if before is None else (before - target) / (before - error)
            return seconds + share * more, error, True
        seconds, before = seconds + more, error
    return seconds, before, False


def better(runs):
    """Of {start: (seconds, error, reached)} the start that reached its target soonest, else came nearest."""
    return min(runs, key=lambda start: (not runs[start][2], runs[start][0] if runs[start][2] else runs[start][1]))


def interpolated(ranks, sample, seconds):
    """Seconds at all `ranks` from those at a `sample` of them: exact where they grow like a power of K."""
    return np.exp(np.interp(np.log(ranks), np.log(sample), np.log(seconds)))


def race(options, size):
    A, about = common.matrices(options, size["groups"], size["count"], size["side"], size["side"])
    ranks, sample, few = list(size["ranks"]), list(size["sample"]), min(options.matrices, len(A))
    nmf(A[:1], ranks[:2], max_iter=2)  # compiles
    total, each, errors = ours(A, ranks)
    print(f"nmf, {len(ranks)} ranks of {len(A)} matrices in one call: {total:.1f} s\n"
          f"scikit-learn on {few} of them; seconds for a matrix, error\n"
          f"  {'K':>4} {'nmf':>16} {'scikit-learn, cd':>22} {'start':>8}   ratio", flush=True)
    values, bound = {}, False
    for K in sample:
        row, runs, chosen = ranks.index(K), [], None
        for b in range(few):
            tried = {start: sklearn_to(A[b], K, errors[row, b], start) for start in ([chosen] if chosen else STARTS)}
            chosen = better(tried)
            runs.append(tried[chosen])
        own, (needed, error) = each[row, :few].mean(), np.mean([run[:2] for run in runs], 0)
        lower = not all(reached for *_, reached in runs)
        bound |= lower
        values[f"K={K}"] = {"nmf": [own, errors[row, :few].mean()], "scikit-learn": [needed, error], "start": chosen,
                            "lower bound": lower, "ratio": needed / own}
        sign = "≥ " if lower else ""
        print(f"  {K:4} {own:7.3f} s {errors[row, :few].mean():6.4f} {sign:>4}{needed:9.3f} s {error:6.4f} {chosen:>8}"
              f"   {sign}{needed / own:.1f} ×", flush=True)
    loop = len(A) * interpolated(ranks, sample, [values[f"K={K}"]["scikit-learn"][0] for K in sample]).sum()
    values["sweep"] = {"nmf": total, "scikit-learn": loop, "lower bound": bound, "ratio": loop / total}
    print(f"whole sweep: nmf {total:.1f} s, scikit-learn {'≥ ' if bound else ''}{loop:.0f} s (interpolated), ratio "
          f"{'≥ ' if bound else ''}{loop / total:.1f} ×")
    return about | {"ranks": ranks, "measured": few, "tol": TOL, "slack": SLACK}, values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="small matrices and three ranks")
    add("--matrices", type=int, default=2, help="on how many of the batches to run scikit-learn; default: 2")
    add("--record", action="store_true", help="keep what is measured in data/records/compression_benchmark.json")
    options = parser.parse_args()
    options.threads, options.device = 1, "cpu"
    warnings.simplefilter("ignore", ConvergenceWarning)  # the steps are meant to run out
    origin = records.provenance("cpu") | {"threads": 1, "load": [round(value, 1) for value in os.getloadavg()]}
    print(f"1 thread of {origin['cores']}, {origin['processor']}, load {origin['load']}")
    with threadpool_limits(1):
        about, values = race(options, QUICK if options.quick else FULL)
    if options.record:
        profile = "quick" if options.quick else "paper"
        records.save(records.Record("compression_benchmark", {"profile": profile, "seed": 0, "device": "cpu"},
                                    records.rounded(about | values, 4), {"activations": about["data"]}, origin))


if __name__ == "__main__":
    main()
