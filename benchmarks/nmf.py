"""Time to a given error: nmfcore beside scikit-learn, torchnmf, nmf-torch, overcomplete and RcppML, in one run.

    python benchmarks/nmf.py                     a few minutes: one matrix of 3200 × 512, three ranks
    python benchmarks/nmf.py --full --record     every case, hours; keeps data/records/nmf_benchmark.json
    python benchmarks/nmf.py --case sweep --ranks 1 101 --record      one case; the record keeps the others

single  Every method starts from the same factors and gets growing iteration budgets, the methods taking turns. Compared
        is the time to come within some per cent of the lowest error that any of them found.
sweep   26 ranks of 10 matrices of 800 × 512: `nmf(A, ranks)`, warm and cold, beside scikit-learn's defaults in a loop.
defaults  Each package as it is called by default, once, beside the time in which `nmf` comes to the same error.
batch   64 matrices of 1400 × 512 at K = 4: one call beside loops over torchnmf and over scikit-learn's defaults.
cost    How the time of one iteration grows with N, M, K and the batch.

Data: activations of VGG-19 after conv5_4 on ImageNet photographs where NMFCORE_DATA holds them, else those of the
embedded student network on crops of the photographs inside scikit-image and scikit-learn. What is not installed is left
out: torchnmf, nmf-torch and overcomplete (`pip install .[bench]`), RcppML (an R package, called through Rscript and
timed inside it, on the sparse matrix that it is made for). Times are medians over repeats, of the processor where
one thread works, else of the clock; compilation happens before, untimed, and its duration is printed. Subnormal
numbers, which the multiplicative updates produce in masses and most CPUs are slow at, count as zero for all methods
(`--subnormals` keeps them). Errors are measured outside the timed region, from the residual, summed in float64. Nothing
is asserted.
"""

import argparse
import contextlib
import functools
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import non_negative_factorization
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from nmfbook import datasets, records
from nmfcore import networks, nmf
from nmfcore.activations import capture, to_matrix

BUDGETS = sorted({round(2 ** (step / 2)) for step in range(29)})  # iterations: 1, 2, 3, 4, 6, 8, 11, … 16384
FRESH = 0.5  # seconds up to which a method is timed from its start rather than from where it last stopped
SETTLED = 1e-4  # a curve ends where one more budget lowers the error by less than this share of it
SHAPES = {3200: (50, 128, 128), 19600: (100, 224, 224)}  # rows of the single matrix -> photographs, height, width
PER_CENT = (10, 3, 1, 0.1)  # above the best error found
OURS = "nmfcore"


@dataclass(frozen=True)
class Method:
    run: Callable  # (U, V, iterations) -> (U, V)
    resumes: bool = True  # carries nothing but U and V from one iteration to the next
    setup: float = 0.0  # seconds spent once, before the first iteration


# Data


def matrices(options, groups, count, height, width):
    """Matrices (groups, rows, 512) of `count` photographs each, one class a group; what they are; threads are set."""
    torch.set_num_threads(os.cpu_count() or 1)  # nothing is timed here
    A, source = activations(groups, count, height, width)
    about = {"data": source, "shape": list(A.shape), "zeros": float((A == 0).double().mean())}
    torch.set_num_threads(options.threads)
    print(f"\n{'×'.join(map(str, A.shape))}, {about['zeros']:.0%} zeros: {source}")
    return A.to(options.device), about


@functools.cache
def activations(groups, count, height, width):
    model, preprocess = networks.first_available(["vgg19", "student"])
    folders = sorted((datasets.data_folder() or Path(os.devnull)).glob("imagenet/val/n*"))
    if folders:
        files = [[*sorted(folder.iterdir()), *sorted((folder.parents[1] / "train" / folder.name).glob("*"))]
                 for folder in folders]
        chosen = [files[g % len(files)][g // len(files) * count:][:count] for g in range(groups)]
        sets, source = (datasets.read_images(paths, size=(height, width)) for paths in chosen), "ImageNet photographs"
    else:
        generator, whole = torch.Generator().manual_seed(0), datasets.image_set("objects", size=480)

        def crop():
            which, top, left = (int(torch.randint(n, (), generator=generator)) for n in (
                len(whole.images), whole.images.shape[2] - height + 1, whole.images.shape[3] - width + 1))
            return whole.images[which, :, top:top + height, left:left + width]

        sets = (torch.stack([crop() for _ in range(count)]) for _ in range(groups))
        source = f"random crops of {whole.source}"
    layer = preprocess.layer
    A = torch.stack([to_matrix(capture(model, layer, preprocess(images), batch_size=10)[layer]) for images in sets])
    return A.contiguous(), f"{preprocess.source}, {layer}, {source}, {count} of {height} × {width} a matrix"


def random_start(A, K, seed):
    """U (N, K), V (K, M) as scikit-learn's "random" draws them: half-normal, U V about as large as A."""
    generator, scale = torch.Generator().manual_seed(seed), float((A.mean() / K).sqrt())
    return tuple((scale * torch.randn(*shape, generator=generator).abs()).to(A) for shape in
                 ((len(A), K), (K, A.shape[1])))


# Methods


def methods(A, K, only=("",)):
    """Name -> Method for one matrix, ours and those whose names contain a word of `only`.

    On a GPU scikit-learn works on a copy in main memory.
    """
    dense = A.cpu().numpy()
    setup, sparse = timed("cpu", csr_matrix, dense)

    def sklearn(X, solver, U, V, iterations):
        W, H, _ = non_negative_factorization(X, W=U.cpu().numpy(), H=V.cpu().numpy(), n_components=K, tol=0,
                                             init="custom", solver=solver, max_iter=iterations)
        return torch.from_numpy(W), torch.from_numpy(H)

    def ours(solver, U, V, iterations):
        found = nmf(A, K, solver=solver, init=(U, V), max_iter=iterations, tol=0)
        return found.U, found.V

    def run_torchnmf(U, V, iterations):
        model = torchnmf(W=V.mT, H=U).to(A.device)
        model.fit(A, beta=2, tol=-1, max_iter=iterations)
        return model.H.detach(), model.W.detach().mT

    def run_nmf_torch(U, V, iterations):
        model = hals(K, "random", 2.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, "float", A.device.type, max_iter=iterations)
        model._initialize_H_W = lambda: vars(model).update(H=U, W=V)  # no public way to pass a start
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(A)
        return model.H, model.W

    bind, (torchnmf, hals) = functools.partial, peers()
    found = {OURS: Method(bind(ours, "hals"), resumes=False),
            "scikit-learn cd, dense": Method(bind(sklearn, dense, "cd")),
            "scikit-learn cd, CSR": Method(bind(sklearn, sparse, "cd"), setup=setup),
            "scikit-learn mu, dense": Method(bind(sklearn, dense, "mu")),
            "nmfcore, solver='mu'": Method(bind(ours, "mu")),
            **({"torchnmf": Method(run_torchnmf)} if torchnmf else {}),
            **({"nmf-torch, HALS": Method(run_nmf_torch)} if hals else {})}
    return {name: method for name, method in found.items() if name == OURS or any(part in name for part in only)}


@functools.cache
def overcomplete():
    """The class NMF of the package, or None."""
    try:
        import matplotlib

        # overcomplete 0.3 asks for a function that matplotlib 3.9 has moved.
        matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
        from overcomplete import NMF
    except ImportError as error:
        print(f"overcomplete is left out: {error}; pip install .[bench]")
        return None
    return NMF


RCPPML = """
suppressMessages({library(Matrix); library(RcppML)})
a <- commandArgs(TRUE); n <- as.integer(a[2]); m <- as.integer(a[3]); k <- as.integer(a[4])
A <- Matrix(matrix(readBin(file.path(a[1], "A"), "numeric", n * m), n, m), sparse = TRUE)
setRcppMLthreads(as.integer(a[5]))
clock <- if (a[5] == "1") c("user.self", "sys.self") else "elapsed"
for (turn in seq_len(as.integer(a[6]))) {
  begin <- proc.time(); fit <- nmf(A, k, verbose = FALSE, seed = 1)
  cat(sum((proc.time() - begin)[clock]), "\n")
}
writeBin(as.vector(fit$w %*% diag(fit$d, k)), file.path(a[1], "U")); writeBin(as.vector(fit$h), file.path(a[1], "V"))
"""


def rcppml(A, K, options):
    """Seconds of the repeats, U and V; None where R or the package is not there."""
    if not shutil.which("Rscript"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        np.asfortranarray(A.cpu().double().numpy()).T.tofile(f"{folder}/A")
        run = subprocess.run(["Rscript", "-e", RCPPML, folder, *map(str, (*A.shape, K, options.threads,
                                                                          options.repeats))],
                             capture_output=True, text=True)
        if run.returncode:
            print(f"RcppML is left out: {run.stderr.strip().splitlines()[-1]}")
            return None
        U, V = (torch.from_numpy(np.fromfile(f"{folder}/{name}").reshape(shape).T.copy()).to(A)
                for name, shape in (("U", (K, len(A))), ("V", (A.shape[1], K))))
    return [float(line) for line in run.stdout.split()], (U, V)


@functools.cache
def peers():
    """torchnmf's NMF and nmf-torch's HALS, None in place of one that is not installed."""
    here, found = str(Path(__file__).resolve().parent), []
    sys.path[:] = [path for path in sys.path if path != here]  # this file has the name of nmf-torch's package
    for package, module, name in (("torchnmf", "torchnmf.nmf", "NMF"), ("nmf-torch", "nmf.nmf_models", "NMFBatchHALS")):
        try:
            found.append(getattr(__import__(module, fromlist=[name]), name))
        except ImportError as error:
            print(f"{package} is left out: {error}; pip install .[bench]")
            found.append(None)
    return found


# Measuring


def timed(device, function, *arguments, **settings):
    """Seconds that a call takes on the device, and what it returns.

    Where one thread of the CPU does it all, they are those of the processor, so that other work on the machine counts
    little.
    """
    on_gpu = torch.device(device).type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.process_time
    wait()
    begin = clock()
    result = function(*arguments, **settings)
    wait()
    return clock() - begin, result


def relative_error(A, U, V):
    """‖A − U V‖_F / ‖A‖_F over the last two dimensions: residuals in float32, their squares summed in float64."""
    parts = zip(A.split(4096, -2), U.to(A.device).split(4096, -2), strict=True)
    squares = [torch.stack([X.square().sum((-2, -1), dtype=torch.float64) for X in (a - u @ V.to(A.device), a)])
               for a, u in parts]
    residual, norm = torch.stack(squares).sum(0)
    return (residual / norm).sqrt()


def curves(A, found, start, options):
    """Name -> {"iterations", "seconds", "error"}: medians over the repeats, the methods taking turns in each."""
    results = {name: {"iterations": [], "seconds": [], "error": []} for name in found}
    times = {name: {} for name in found}  # name -> budget -> seconds of each repeat
    for repeat in range(options.repeats):
        state = {name: (start, 0, method.setup) for name, method in found.items()}
        active = set(found)
        for budget in BUDGETS:
            for name, method in found.items():
                if name not in active or (repeat and budget not in times[name]):
                    continue
                factors, done, spent = state[name]
                if spent < FRESH or not method.resumes:
                    factors, done, spent = start, 0, method.setup
                seconds, factors = timed(A.device, method.run, *(X.clone() for X in factors), budget - done)
                state[name] = factors, budget, spent + seconds
                times[name].setdefault(budget, []).append(spent + seconds)
                if repeat == 0:
                    error, now = results[name]["error"], float(relative_error(A, *factors))
                    if not np.isfinite(now):  # scikit-learn's multiplicative updates can overflow
                        active.discard(name)
                        continue
                    results[name]["iterations"].append(budget)
                    error.append(now)
                    settled = len(error) > 8 and error[-2] - error[-1] < SETTLED * error[-1]
                    if settled or spent + seconds > options.cap:
                        active.discard(name)
    for name, curve in results.items():  # where a longer run took less time, the shorter one was disturbed
        medians = np.array([np.median(times[name][budget]) for budget in curve["iterations"]])
        curve["seconds"] = np.minimum.accumulate(medians[::-1])[::-1].tolist()
    return results


def to_error(A, K, target, few, options):
    """Seconds of `nmf` from cold starts until the mean error of the first matrices is at most `target`, or None."""
    curve = {"seconds": [], "error": []}
    for budget in BUDGETS:
        runs = [timed(A.device, nmf, A, K, max_iter=budget, tol=0) for _ in range(options.repeats)]
        curve["seconds"].append(float(np.median([seconds for seconds, _ in runs])))
        curve["error"].append(float(runs[0][1].error[:few].mean()))
        if curve["error"][-1] <= target or curve["seconds"][-1] > options.cap:
            return reached(curve, target)
    return None


def reached(curve, target):
    """Seconds until the error is at most `target`, linear between two budgets; None if it never is."""
    seconds, error = curve["seconds"], curve["error"]
    i = next((i for i, value in enumerate(error) if value <= target), None)
    if not i:
        return None if i is None else seconds[0]
    return seconds[i - 1] + (seconds[i] - seconds[i - 1]) * (error[i - 1] - target) / (error[i - 1] - error[i])


def ratio(seconds, own):
    return f"{seconds / own:.1f} ×" if seconds and own else "–"


# Cases: each prints its table and keeps what it measured as soon as it is known


def single(options, keep):
    for N in options.rows:
        A, about = matrices(options, 1, *SHAPES[N])
        A = A[0]
        for K in options.ranks or ((5, 20, 100, 300) if options.full else (5, 20, 100)):
            aim, ratios = 1 if K <= 20 else 3 if K <= 100 else 10, {}
            for seed in options.seeds:
                found, start = methods(A, K, options.methods), random_start(A, K, seed)
                first = {name: timed(A.device, method.run, *(X.clone() for X in start), 1)[0]
                         for name, method in found.items()}
                results = curves(A, found, start, options)
                best = min(curve["error"][-1] for curve in results.values())
                print(f"\nK = {K}, start {seed}; first call of nmfcore {first[OURS]:.2f} s, compilation included; "
                      f"seconds to come within … of {best:.4f}\n  {'':24} {'error':>7} {'iter.':>6}"
                      + "".join(f"{p:>7} %" for p in PER_CENT) + f"   ratio to {aim} %")
                for name, curve in results.items():
                    curve["setup"] = found[name].setup
                    curve["needed"] = {str(p): reached(curve, best * (1 + p / 100)) for p in PER_CENT}
                    own, needed = results[OURS]["needed"][str(aim)], curve["needed"][str(aim)]
                    ratios.setdefault(name, []).append(needed / own if needed and own else None)
                    print(f"  {name:24} {curve['error'][-1]:7.4f} {curve['iterations'][-1]:6}"
                          + "".join(f"{'–' if s is None else f'{s:.4f}':>9}" for s in curve["needed"].values())
                          + f"   {ratio(needed, own) if needed else '> ' + ratio(curve['seconds'][-1], own):>10}"
                          + (f", {curve['setup']:.4f} s of it conversion" if curve["setup"] else ""))
                keep(f"single/{N}x{A.shape[1]}/K={K}/seed={seed}", about | {"best": best, "aim": aim,
                                                                          "methods": results})
            print(f"K = {K}, time to {aim} % as a multiple of nmfcore's, median over {len(options.seeds)} start(s): "
                  + "; ".join(f"{name} {np.median(values):.1f}" if all(values) else f"{name} –"
                              for name, values in ratios.items() if name != OURS))


def sweep(options, keep):
    A, about = matrices(options, 10, 50, 64, 64)
    ranks, few = list(options.ranks or range(1, 502, 20)), options.matrices
    part, scale = A[:few], len(A) / few
    about |= {"measured": few, "ranks": ranks, "slack": options.slack}
    nmf(A, ranks, max_iter=2)
    print(f"seconds and mean error, measured on {few} of the matrices, times scaled to {len(A)}\n"
          f"  {'K':>4} {'scikit-learn, defaults':>24} {'nmfcore, cold':>18} {'to its error':>14}")
    loop, cold = 0.0, 0.0
    for K in ranks:
        runs = [timed("cpu", non_negative_factorization, a, n_components=K) for a in part.cpu().numpy()]
        seconds = scale * sum(seconds for seconds, _ in runs)
        error = float(relative_error(part.cpu(), *stacked(result for _, result in runs)).mean())
        usual, found = timed(A.device, nmf, part, K)
        needed = to_error(part, K, error * (1 + options.slack / 100), few, options)
        needed = needed and scale * needed
        loop, cold = loop + seconds, cold + (needed or np.nan)
        mean = float(found.error.mean())
        keep(f"sweep/K={K}", about | {"scikit-learn": [seconds, error], "default": [scale * usual, mean],
                                      "needed": needed})
        print(f"  {K:4} {seconds:14.2f} s {error:7.4f} {scale * usual:8.2f} s {mean:7.4f} {needed or np.nan:8.3f} s, "
              f"{ratio(seconds, needed)}")
    result = {"scikit-learn": loop, "cold": None if np.isnan(cold) else cold}
    for label, X in (("warm", A), ("cold", part)):
        seconds, found = timed(A.device, nmf, X, ranks, warm=label == "warm")
        seconds *= len(A) / len(X)
        result[f"{label}, default"] = [seconds, [float(one.error[:few].mean()) for one in found]]
        print(f"nmf(A, ranks), {label}, its own stopping rule: {seconds:.2f} s, {ratio(loop, seconds)}; "
              f"mean error at K = {ranks[-1]}: {result[f'{label}, default'][1][-1]:.4f}")
    keep("sweep/all", about | result)
    print(f"all ranks, one by one, to scikit-learn's errors: scikit-learn {loop:.1f} s; nmfcore, cold, {cold:.2f} s, "
          f"{ratio(loop, cold)}")


def defaults(options, keep):
    batch, about = matrices(options, 1, *SHAPES[options.rows[0]])
    A, dense = batch[0], batch[0].cpu().numpy()

    def ours(K):
        found = nmf(A, K)
        return found.U, found.V

    print("each with its own start and stopping rule, and nmfcore from its own start to the same error")
    for K in options.ranks or (5, 20, 100):
        nmf(A, K, max_iter=2)
        calls = {OURS: functools.partial(ours, K),
                 "scikit-learn": lambda K=K: non_negative_factorization(dense, n_components=K)[:2]}
        if NMF := overcomplete():
            calls["overcomplete"] = lambda K=K: NMF(K, device=A.device.type).fit(A.clone())
        runs = {}
        for name, call in calls.items():
            timings = [timed(A.device, call) for _ in range(options.repeats)]
            runs[name] = [seconds for seconds, _ in timings], timings[0][1]
        if fit := rcppml(A, K, options):
            runs["RcppML"] = fit
        results = {}
        for name, (times, (U, V)) in runs.items():
            seconds, error = float(np.median(times)), float(relative_error(A, torch.as_tensor(U), torch.as_tensor(V)))
            needed = to_error(batch, K, error * (1 + options.slack / 100), 1, options) if name != OURS else seconds
            results[name] = {"seconds": seconds, "error": error, "needed": needed}
            print(f"  K = {K:3}, {name:13} {seconds:8.3f} s, error {error:.4f}; nmfcore to this error: "
                  f"{needed or np.nan:.4f} s, {ratio(seconds, needed)}")
        keep(f"defaults/{A.shape[0]}x{A.shape[1]}/K={K}", about | {"slack": options.slack, "methods": results})


def batch(options, keep):
    A, about = matrices(options, 64, 20, 112, 160)
    K, arrays, (torchnmf, _) = 4, list(A.cpu().numpy()), peers()

    def ours():
        found = nmf(A, K)
        return found.U, found.V

    def loop_sklearn():
        return stacked(non_negative_factorization(a, n_components=K) for a in arrays)

    def loop_torchnmf():
        models = [torchnmf(a.shape, K).to(a.device) for a in A]
        for a, model in zip(A, models, strict=True):
            model.fit(a, beta=2)  # its default divergence is another objective
        return stacked((model.H.detach(), model.W.detach().mT) for model in models)

    calls = {OURS: ours, "scikit-learn": loop_sklearn} | ({"torchnmf": loop_torchnmf} if torchnmf else {})
    nmf(A, K, max_iter=2)
    runs = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, call in calls.items():
            runs[name].append(timed(A.device, call))
    results = {}
    print(f"K = {K}, each with its own stopping rule")
    for name, of in runs.items():
        seconds, error = float(np.median([run[0] for run in of])), float(relative_error(A, *of[0][1]).mean())
        needed = seconds if name == OURS else to_error(A, K, error * (1 + options.slack / 100), len(A), options)
        results[name] = {"seconds": seconds, "error": error, "needed": needed}
        print(f"  {name:13} {seconds:8.3f} s, {ratio(seconds, results[OURS]['seconds']):>8}, mean error {error:.4f}; "
              f"nmfcore to this error: {needed or np.nan:.3f} s, {ratio(seconds, needed)}")
    keep("batch", about | {"rank": K, "slack": options.slack, "methods": results})


def cost(options, keep):
    A, about = matrices(options, 1, *SHAPES[19600 if options.full else 3200])
    A = A[0, :, torch.randperm(A.shape[2], generator=torch.Generator().manual_seed(0))]
    few, X, Y = A[:3200], torch.rand(2048, 2048, device=A.device), torch.rand(2, 2 ** 26, device=A.device)
    product, copied = (min(timed(A.device, *call)[0] for _ in range(6))
                       for call in ((torch.mm, X, X), (Y[0].copy_, Y[1])))
    about |= {"gflops": 2 * X.numel() * 2048 / product / 1e9, "gigabytes_per_s": Y.nbytes / copied / 1e9}
    grids = {"N": [(A[:n], K) for K in (20, 100) for n in (800, 1600, 3200, 6400, 12800, 19600) if n <= len(A)],
             "M": [(few[:, :m].contiguous(), K) for K in (20, 100) for m in (32, 64, 128, 256, 512)],
             "K": [(A, K) for K in (1, 2, 5, 10, 20, 50, 100, 200, 300, 500)],
             "batch": [(few.reshape(64, -1, few.shape[1])[:b], 4) for b in (1, 2, 4, 8, 16, 32, 64)]}
    print(f"matrix products {about['gflops']:.0f} GFLOP/s, copies {about['gigabytes_per_s']:.0f} GB/s; one iteration:")
    for name, grid in grids.items():
        points = []
        for X, K in grid:
            point = {"shape": list(X.shape), "K": K}
            start = torch.rand(*X.shape[:-1], K, device=X.device), torch.rand(*X.shape[:-2], K, X.shape[-1]).to(X)
            for solver in ("hals", "mu"):
                nmf(X, K, solver=solver, init=start, max_iter=2)
                runs = [[timed(X.device, nmf, X, K, solver=solver, init=start, max_iter=i, tol=0) for i in (2, 12)]
                        for _ in range(options.repeats)]
                point[solver] = float(np.median([max(long - short, 0) / max(int(found.iterations.max()) - 2, 1)
                                                 for (short, _), (long, found) in runs]))
            points.append(point)
            print(f"  {'×'.join(map(str, X.shape)):>10}, K = {K:3}: hals {1e3 * point['hals']:9.3f} ms, "
                  f"mu {1e3 * point['mu']:9.3f} ms")
        keep(f"cost/{name}", about | {"points": points})


CASES = {"single": single, "sweep": sweep, "defaults": defaults, "batch": batch, "cost": cost}


def stacked(factors):
    """One U and one V for a batch, from the results of its problems."""
    columns = list(zip(*(result[:2] for result in factors), strict=True))
    return [torch.stack([torch.as_tensor(X) for X in column]) for column in columns]


# The record


def keeper(options):
    """A function that adds one measurement, with its origin, to the record; each call writes the whole file anew."""
    old = records.load("nmf_benchmark")
    values, origin = dict(old.values) if old else {}, records.provenance(options.device)
    origin |= {"threads": options.threads, "repeats": options.repeats, "cap": options.cap,
               "subnormals": options.subnormals}

    def keep(key, measured):
        values[key] = short(measured) | {"origin": {k: v for k, v in origin.items() if k != "versions"}}
        if options.record:
            used = {"activations": "; ".join(sorted({entry["data"] for entry in values.values()}))}
            records.save(records.Record("nmf_benchmark", {"profile": "paper", "seed": 0, "device": options.device},
                                        values, used, origin))
    return keep


def short(value):
    """Four significant digits, through dicts and lists."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    return [short(item) for item in value] if isinstance(value, list) else (
        float(f"{value:.4g}") if isinstance(value, float) else value)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--full", action="store_true", help="every case, matrix, rank and start")
    add("--case", nargs="+", choices=CASES, help="default: single; with --full all")
    add("--rows", type=int, nargs="+", choices=SHAPES, help="of the single matrix; default: 3200; with --full both")
    add("--ranks", type=int, nargs="+", help="default: 5 20 100, with --full also 300; in the sweep 1 21 … 501")
    add("--seeds", type=int, nargs="+", help="of the starts; default: 0; with --full 0 1 2")
    add("--methods", nargs="+", default=[""], help="single: words of the names of the methods to race; default: all")
    add("--matrices", type=int, default=2, help="sweep: how many of the ten to go through rank by rank; default: 2")
    add("--slack", type=float, default=0.5, help="sweep, batch: per cent above a peer's error that count as there")
    add("--repeats", type=int, default=3)
    add("--cap", type=float, help="seconds after which a method gets no more iterations; default: 3; with --full 60")
    add("--threads", type=int, default=1)
    add("--subnormals", action="store_true", help="do not flush subnormal numbers to zero")
    add("--device", default="cpu", help="of nmfcore, torchnmf and nmf-torch")
    add("--record", action="store_true", help="keep what is measured in data/records/nmf_benchmark.json")
    options = parser.parse_args()
    for name, usual, full in (("case", ["single"], [*CASES]), ("rows", [3200], [*SHAPES]), ("seeds", [0], [0, 1, 2]),
                              ("cap", 3.0, 60.0)):
        if getattr(options, name) is None:
            setattr(options, name, full if options.full else usual)
    warnings.simplefilter("ignore", ConvergenceWarning)  # the budgets are meant to run out
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    print(f"{options.threads} thread(s) of {os.cpu_count()}, {platform.machine()}; nmfcore on {options.device}; "
          f"{options.repeats} repeats, at most about {options.cap:g} s for a method")
    torch.set_flush_denormal(not options.subnormals)
    with threadpool_limits(options.threads):
        for case in options.case:
            CASES[case](options, keeper(options))


if __name__ == "__main__":
    main()
