"""Times of factorizations beside the errors that they bought: this build's measurements, and tables of the benchmark's.

The chapter's record and `benchmarks/nmf.py` hold larger runs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from nmfcore import networks, nmf
from nmfcore.activations import capture, to_matrix

from .. import datasets, records

SOLVERS = {"hals": "HALS, extrapolated", "mu": "multiplicative updates"}
OURS = "nmfcore"  # among the methods of the benchmark
TITAN_X = 11e12  # operations a second at most, by its vendor, of the faster of the two cards (Pascal, 2016)


def thesis_numbers() -> dict[str, float]:
    """What the thesis prints beside its figure of run times."""
    return {entry["quantity"]: float(entry["value"]) for entry in reversed(records.thesis("numbers", row="F3.12"))}


def activations(paper: bool, device: str):
    """A (N, M) of photographs behind a network, the network's preprocessing, and the photographs.

    paper: as many rows as the thesis's matrix has, else a twelfth.
    """
    rows = 19600 if paper else 1600
    model, preprocess = networks.first_available(["vgg19", "student"], download=paper)
    count = len(datasets.image_set("churches", "objects", size=32, count=100 if paper else 25).names)
    side = next(side for side in range(1, 200) if count * side ** 2 >= rows)  # of a feature map
    photographs = datasets.image_set("churches", "objects", size=(16 * side, 16 * side), count=count)
    layer = str(preprocess.layer)
    maps = capture(model.to(device), layer, preprocess(photographs.images.to(device)), batch_size=8)
    return to_matrix(maps[layer])[:rows].contiguous(), preprocess, photographs


def operations(N: int, M: int, K: int) -> int:
    """Multiplications and additions of an iteration of multiplicative updates."""
    return 4 * N * M * K + 4 * (N + M) * K ** 2


def seconds(function: Callable, repeats: int, device: str) -> tuple[float, Any]:
    """Median duration of a call, and what the first one returned."""
    def once():
        wait = torch.cuda.synchronize if str(device).startswith("cuda") else lambda: None
        wait()
        begin = time.perf_counter()
        result = function()
        wait()
        return time.perf_counter() - begin, result
    runs = [once() for _ in range(repeats)]
    return median(spent for spent, _ in runs), runs[0][1]


def measure_roof(device: str) -> tuple[float, float]:
    """Operations a second of a large matrix product, and bytes a second of a copy."""
    X, Y = torch.rand(2048, 2048, device=device), torch.rand(2, 2 ** 25, device=device)
    peak = 2 * X.numel() * len(X) / min(seconds(lambda: X @ X, 1, device)[0] for _ in range(6))
    return peak, Y.nbytes / min(seconds(lambda: Y[0].copy_(Y[1]), 1, device)[0] for _ in range(6))


def measure_iteration(A: torch.Tensor, K: int, solver: str, repeats: int) -> float:
    """Seconds of one iteration, without what a call costs once."""
    device = str(A.device)
    start = torch.rand(len(A), K, device=device), torch.rand(K, A.shape[1], device=device)
    run = partial(nmf, A, K, solver=solver, init=start, tol=0)
    run(max_iter=2)
    (short, few), (long, many) = (seconds(partial(run, max_iter=count), repeats, device) for count in (2, 12))
    return max(long - short, 1e-9) / max(int(many.iterations - few.iterations), 1)


def measure_run_times(A: torch.Tensor, ranks: Sequence[int], repeats: int, *, seed: int = 0) -> dict[str, Any]:
    """Milliseconds until each solver stops by its own rule, iterations and error: at each rank, and at the last."""
    values: dict[str, Any] = {"N": A.shape[0], "M": A.shape[1], "ranks": list(ranks), "last_rank": ranks[-1]}
    for solver in SOLVERS:
        runs = [seconds(partial(nmf, A, K, solver=solver, seed=seed), repeats, str(A.device)) for K in ranks]
        values |= {f"ms_{solver}": [1e3 * spent for spent, _ in runs],
                   f"error_{solver}": [float(result.error) for _, result in runs],
                   f"iterations_{solver}": [int(result.iterations) for _, result in runs]}
        for name in ("ms", "error", "iterations"):
            values[f"last_{name}_{solver}"] = values[f"{name}_{solver}"][-1]
        values[f"last_ms_{solver}"] = round(values[f"last_ms_{solver}"])
    return values | {"gap": 100 * (values["last_error_mu"] / values["last_error_hals"] - 1)}


def report(values: Mapping, on: str, network: str, pictures: str, *, recorded: bool = False) -> None:
    """A run says something about the thesis's only on its matrix, at its rank, on a GPU, and then within its stopping
    rule, which is not printed: a slower one leaves it open."""
    printed = thesis_numbers()
    comparable = values["N"] == printed["matrix rows"] and values["ranks"][-1] == 500 and not on.endswith("CPU")
    ours = min(values[f"ms_{solver}"][-1] for solver in SOLVERS)
    outcome: dict[str, Any] = ({"answers": ["holds" if ours <= printed["run time"] else "undecided"]} if comparable
                               else {"verdict": "not tested"})
    records.row(
        "F3.12", data=f"{values['N']} × {values['M']}, {network} on {pictures}", recorded=recorded, **outcome,
        value=f"K = {values['ranks'][-1]} on {on}: HALS {values['ms_hals'][-1]:.0f} ms to error "
              f"{values['error_hals'][-1]:.3f}, multiplicative updates {values['ms_mu'][-1]:.0f} ms to "
              f"{values['error_mu'][-1]:.3f}",
        note="Another GPU, and the thesis's stopping rule is not printed." if comparable else
             "Measured on a CPU, or on a smaller matrix at a smaller rank; the thesis's time is that of a GPU. The two "
             "stand side by side, and neither confirms the other.")


def case(key: str) -> str:
    """How a page calls an entry of the benchmark such as `single/3200x512/K=5/seed=0`."""
    _, shape, rank, _ = key.split("/")
    return f"{shape.replace('x', ' × ')}, {rank.replace('=', ' = ')}"


def ratios(races: Mapping[str, Mapping]) -> list[list[str]]:
    """Time to the goal, ours in seconds and that of the others as a multiple of it, median over n starts: a table."""
    groups: dict[str, list[Mapping]] = {}
    for key, entry in races.items():
        groups.setdefault(case(key), []).append(entry)
    names = list(next(iter(races.values()))["methods"])
    body = []
    for label, group in groups.items():
        cells = []
        for name in names:
            own, times = ([entry["methods"].get(method, {}).get("needed", {}).get(str(entry["aim"])) for entry in group]
                          for method in (OURS, name))
            cells.append("–" if not all(own) or not all(times) else f"{median(own):.3g} s" if name == OURS else
                         f"{median(theirs / mine for theirs, mine in zip(times, own, strict=True)):.1f} ×")
        cells = [f"{label}, to {group[0]['aim']} %, n = {len(group)}", *cells]
        body.append([cell.replace(" ", "\u00a0") for cell in cells])  # the table scrolls rather than break its cells
    return [["", *names], *body]


def by_default(calls: Mapping[str, Mapping]) -> list[list[str]]:
    """Default calls, as multiples of the time in which `nmf` comes to the same error; that error behind: a table.

    calls: the benchmark's entries such as `defaults/3200x512/K=5`.
    """
    names = dict.fromkeys(name for entry in calls.values() for name in entry["methods"] if name != OURS)
    body = []
    for name in names:
        cells = []
        for entry in calls.values():
            call = entry["methods"].get(name)
            cells.append("–" if not call or not call["needed"] else
                         f"{call['seconds'] / call['needed']:.0f} × ({call['error']:.3f})".replace(" ", "\u00a0"))
        body.append([name, *cells])
    own = [entry["methods"][OURS] for entry in calls.values()]
    body.append([f"{OURS}, its own default", *(f"{call['seconds']:.2g}\u00a0s ({call['error']:.3f})" for call in own)])
    first, entry = next(iter(calls.items()))
    head = f"{first.split('/')[1].replace('x', ' × ')}, {entry['origin']['threads']} thread(s)"
    return [[head, *(f"K = {key.rpartition('=')[2]}" for key in calls)], *body]


def subnormal_share(A: torch.Tensor, K: int, flush: bool, *, seed: int = 0) -> tuple[float, float]:
    """Share of entries of U and V that are subnormal after 200 multiplicative updates, and the error.

    flush: whether the processor takes such numbers for zero; it does, afterwards, whatever was asked.
    """
    torch.set_flush_denormal(flush)
    generator = torch.Generator().manual_seed(seed)
    U, V = torch.rand(len(A), K, generator=generator), torch.rand(K, A.shape[1], generator=generator)
    for _ in range(200):
        U *= A @ V.mT / (U @ (V @ V.mT)).clamp_min(1e-20)
        V *= U.mT @ A / (U.mT @ U @ V).clamp_min(1e-20)
    entries = torch.cat([U.flatten(), V.flatten()]).double()
    torch.set_flush_denormal(True)
    tiny = (entries > 0) & (entries < torch.finfo(torch.float32).tiny)
    return float(tiny.double().mean()), float((A - U @ V).norm() / A.norm())
