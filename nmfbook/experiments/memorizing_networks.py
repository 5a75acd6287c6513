"""Networks that learned true or random labels by heart, and what compression says of them: F1.1, F3.1, F3.3 to F3.8,
C3.1 to C3.5.

Protocol of thesis sections 3.5.1 and 3.5.2: every network reaches training accuracy 1; batches of 50 training samples,
one for each class (by the label trained on) or ten mixed ones. Label randomization: Zhang et al. 2017.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from nmfcore.compression import accuracy_curve, area, class_batches, mixed_batches
from nmfcore.examples import randomized_labels

from ..architectures import memorization_network
from ..claims import Claim, Scale
from ..ledger import with_fields
from ..statistics import bootstrap, effect, mean, proportion, ratio, separation
from ..training import History
from ..training import train as train_network
from . import data

TRAINING, MEASUREMENT = 1, 1
METHODS = ("nmf", "pca", "kmeans", "random_ablation")
# A share of the training labels. Fashion-MNIST has near twins (images 0.2 to 1 apart, where the median image is 7 from
# the next one); a few of those that got different labels are never told apart, and training ends at its last epoch.
LEARNED = 0.999
SHOWN = {"conv3_1", "conv4_1", "fc1", "fc2"}  # layers whose whole curves are kept, those of figure 3.3


@dataclass(frozen=True)
class Job:
    """One network. Width is a share of table 3.1's; p the share of randomized labels."""

    data: str  # of `experiments.data`
    width: float
    p: float
    seed: int  # of the weights, the order of the batches, the randomization and the batches measured
    per_class: int | None = None  # training samples; None: all
    optimizer: str = "adam"
    lr: float = 1e-3
    decay: float = 0.95  # of the rate, after each epoch
    batch: int = 100
    epochs: int = 100  # at most
    precision: str = "bfloat16"


LEVELS = (0.0, 0.4, 0.8), (0.2, 0.6, 1.0)  # the first three come first
CIFAR: dict[str, Any] = dict(data="cifar10_jpeg", width=1 / 4, lr=3e-4)  # at 1e-3 random labels are never learned
# At a decay of 0.95 a dozen labels are never learned: the rate is gone before their turn.
FASHION: dict[str, Any] = dict(data="fashion_mnist", width=1.0, lr=5e-4, decay=0.97)
# A thousand samples take minutes in float32, on processors without bfloat16, too.
SVHN: dict[str, Any] = dict(data="svhn_1083", width=1 / 4, precision="float32")
SOUNDS: dict[str, Any] = dict(data="esc10", width=1 / 4, batch=20, decay=0.98, precision="float32")


def jobs() -> list[Job]:
    """Seeds count slowest. The digits first, which any machine has; full width last, which takes a GPU."""
    digits = [Job(data=name, width=width, p=p, seed=seed, per_class=100, decay=0.98, precision="float32")
              for seed in range(2) for p in LEVELS[0] for name, width in (("digits", 1 / 8), ("digits_mlp", 1 / 4))]
    images, few = ([Job(p=p, seed=seed, **of) for seeds in (range(3), range(3, 10)) for levels in LEVELS
                    for seed, p, of in product(seeds, levels, sets)] for sets in ((CIFAR, FASHION), (SVHN, SOUNDS)))
    full = [Job(data=name, width=1.0, p=p, seed=seed, lr=3e-4) for name in ("cifar10", "cifar10_jpeg")
            for seed in range(10) for p in sorted(sum(LEVELS, ()))]
    float32 = [Job(p=0.4, seed=0, precision="float32", **of) for of in (FASHION, CIFAR)]  # does precision matter?
    return [*digits, *images[:18], *float32, *images[18:], *few, *full]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    width = job.width if data.SETS[job.data][0] != "fashion_mnist" else 0.0  # that network is small at full width
    return data.missing(job.data) or data.hardware(device, width, job.precision)


@dataclass(frozen=True)
class Trained:
    model: nn.Module
    labels: torch.Tensor  # (n,) those it was trained on
    history: History


def train(job: Job, folder: Path, *, device: str = "cpu") -> Trained:
    """The network of a job, trained or read from `folder`; interrupted, it goes on from its last epoch."""
    given = data.load(job.data, job.per_class, device)
    labels = randomized_labels(given.labels.cpu(), job.p, given.classes, seed=job.seed)
    model = memorization_network(data.SETS[job.data][0], shape=given.inputs.shape[1:], classes=given.classes,
                                 width=job.width, pool_stride=2, seed=job.seed)
    history = train_network(model, given.inputs, labels, epochs=job.epochs, batch_size=job.batch,
                            optimizer=job.optimizer, lr=job.lr, decay=job.decay, seed=job.seed, near=0.99,
                            precision=job.precision, device=device, test=(given.test_inputs, given.test_labels),
                            checkpoint=folder / "network.safetensors")
    return Trained(model, labels.to(device), history)


def hidden_layers(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_children() if name.startswith(("conv", "fc"))]


def compressed_layers(model: nn.Module) -> list[str]:
    """What the thesis compresses in sequence: the last block of convolutions, or all layers of an MLP."""
    layers = hidden_layers(model)
    blocks = [name for name in layers if name.startswith("conv")]
    return [name for name in blocks if name.split("_")[0] == blocks[-1].split("_")[0]] or layers


def ranks(width: int) -> list[int]:
    """Each half as large again as the one before, in steps of 20 at most, or a twelfth of a wide layer."""
    grid = [1]
    while (following := grid[-1] + min(max(20, width // 12), -(-grid[-1] // 2))) < width:
        grid.append(following)
    return grid


def width_of(model: nn.Module, layers: list[str]) -> int:
    """Units or channels of the widest of some layers, blocks that begin with their weights."""
    return max(len(next(model.get_submodule(name).parameters())) for name in layers)


def measure(job: Job, trained: Trained, *, device: str = "cpu") -> dict:
    """AuC layer by layer and in sequence, by method and kind of batch, compressed and ablated."""
    given, model, labels = data.load(job.data, job.per_class, device), trained.model, trained.labels
    history = trained.history
    found = {"converged": history.converged, "epochs": history.epochs,
             "training": [round(value, 3) for value in history.accuracy],
             "test": history.test_accuracy}
    if history.accuracy[-1] < LEARNED:
        return found

    def curve(layers, kind="class", size=50, **options):
        batches = (class_batches if kind == "class" else mixed_batches)(labels, size, seed=job.seed)
        inputs, targets = ([values[i.to(device)] for i in batches] for values in (given.inputs, labels))
        grid = ranks(width_of(model, layers))
        if layers[0].startswith("fc"):
            grid = sorted({*grid, *([size] if size < grid[-1] else [])})  # from there on most methods are exact
        return accuracy_curve(model, layers, inputs, targets, ranks=grid, seed=job.seed, **options)

    layers, block = hidden_layers(model), compressed_layers(model)
    single = {name: curve([name]) for name in layers}
    found["layers"] = {"names": layers, "widths": [c.width for c in single.values()],
                       "auc": [c.auc for c in single.values()], "limit_auc": [c.limit_auc for c in single.values()],
                       "error": [_area(c.error[0], c.ranks) for c in single.values()],
                       "raw_error": [_area((c.error * c.norm)[0], c.ranks) for c in single.values()],
                       "curves": {name: {"ranks": c.ranks, "accuracy": c.accuracy.mean(0)}
                                  for name, c in single.items() if name in SHOWN}}
    sequences = {f"{method}, {kind}": curve(block, kind, method=method) for kind in ("class", "mixed")
                 for method in METHODS}
    ablations = {method: curve(block, method=method, ablate=True) for method in ("nmf", "pca", "random_ablation")}
    found["ranks"] = next(iter(sequences.values())).ranks  # of all of these
    for name, curves in (("sequence", sequences), ("ablation", ablations)):
        found[name] = {of: {"auc": c.auc, "accuracy": c.accuracy.mean(0)} for of, c in curves.items()}
    found["batch_sizes"] = {str(size): {method: curve(block, size=size, method=method).auc for method in METHODS}
                            for size in (20, 100)}
    return found


def _area(errors, ranks):
    return float(area(errors.mean(0), ranks))


# --- claims -----------------------------------------------------------------------------------------------

THREE, SIX = (0.0, 0.4, 0.8), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SCALES = {  # data -> the scales of its claims: label, fields of the job, whether they are the thesis's own
    "CIFAR-10": [("CIFAR-10, 50,000 images, full width", dict(data="cifar10", width=1.0), True),
                 ("CIFAR-10, JPEG copies of 50,000 images, full width", dict(data="cifar10_jpeg", width=1.0), False),
                 ("CIFAR-10, JPEG copies of 50,000 images, 1/4 width", CIFAR, False)],
    "Fashion-MNIST": [("Fashion-MNIST, 60,000 images, full width", FASHION, True)],
    "SVHN": [("SVHN, its first 933 training crops, 1/4 width", SVHN, False)],
    "sounds": [("ESC-10 for Urban Sounds, 320 clips, 1/4 width", SOUNDS, False)],
}
NETWORKS = 10  # at each level, in the thesis


def of_size(entries: list, **fields) -> list:
    """Entries of whole training sets, in bfloat16 unless said otherwise, whose jobs have these fields."""
    return with_fields(entries, **dict(per_class=None, precision="bfloat16") | fields)


def learned(entry) -> bool:
    """Whether a network learned its labels (all but a thousandth of them), and so was compressed."""
    return "layers" in entry.measurements


def seeds(levels: tuple[float, ...], unlearned: bool = False, **fields) -> Callable[[list], list]:
    """A function of entries: {p: measurements} of each seed whose networks of all `levels` are measured."""
    def units(entries):
        by_seed: dict[int, dict] = {}
        for entry in of_size(entries, **fields):
            if unlearned or learned(entry):
                by_seed.setdefault(entry.job["seed"], {})[entry.job["p"]] = entry.measurements
        return [by_seed[seed] for seed in sorted(by_seed) if {*levels} <= {*by_seed[seed]}]
    return units


def at_scale(of: str, entries: list) -> tuple[str, list]:
    """The scale of `SCALES` at which most networks of some data are measured, in words, and those that learned."""
    label, measured = max(((label, of_size(entries, **fields)) for label, fields, _ in SCALES[of]),
                          key=lambda pair: len(pair[1]))
    counts = {p: sum(entry.job["p"] == p for entry in measured) for p in SIX}
    said = ", ".join(f"{count} at p = {p:g}" for p, count in counts.items() if count)
    networks = [entry for entry in measured if learned(entry)]
    if len(networks) < len(measured):
        said += f"; {len(measured) - len(networks)} of them did not learn their labels and are left out"
    return f"{label}; networks: {said or 'none yet'}", networks


def scales(sets: Mapping[str, tuple[str, list]]) -> str:
    """What a caption says of {data: `at_scale`}: the scales of those that are measured, and which are not yet."""
    missing = [of for of, (_, networks) in sets.items() if not networks]
    return ". ".join([*(words for words, networks in sets.values() if networks),
                      *(["Still being measured: " + ", ".join(missing)] if missing else [])]) + "."


def claims() -> list[Claim]:
    """F1.1, F3.1, F3.3 to F3.8, C3.1 to C3.5. Goals: three and six networks a level, then as many as the thesis had."""
    def claim(row, name, sentence, statistic, of="CIFAR-10", levels=THREE, unlearned=False, **options):
        scales = tuple(Scale(label, seeds(levels, unlearned, **fields), (3, 6, NETWORKS), NETWORKS if own else None)
                       for label, fields, own in SCALES[of])
        where = "" if of == "CIFAR-10" else f"{of}: "
        return Claim(row, name, where + sentence, "memorizing_networks", statistic, scales,
                     unit=f"seeds of {len(levels)} p", **options)

    falls = "NMF's AuC falls as p rises"
    best = "NMF tells the levels of p apart better than PCA, k-means and random ablation"
    names = {"CIFAR-10": "", "Fashion-MNIST": ", MLP", "SVHN": ", SVHN", "sounds": ", sounds"}
    return [
        claim("F1.1", "converged", "networks reach training accuracy 1 whatever p (four of five at least)",
              _share_converged, levels=SIX, unlearned=True, threshold=0.8),
        claim("F1.1", "test accuracy", "test accuracy falls as p rises", _effect(lambda m: m["test"][-1], SIX),
              levels=SIX),
        claim("F3.1", "every step", "the test error rises with every step of p", _least_step, levels=SIX),
        claim("F3.3", "deep", "conv3_1 to conv4_2 tell p = 0 from 0 < p < 1 better than blocks 1 and 2 do", _deep_gap),
        claim("F3.3", "last", "the last layer shows less than half of the peak", _last_share, threshold=0.5,
              below=True),
        claim("F3.3", "shift", "fully random labels shift memorization to earlier layers", _shift, levels=SIX),
        claim("F3.3", "MLP", "the last layer is more robust than the first, at every p", _deeper, "Fashion-MNIST"),
        claim("F3.4", "depth", "divided by the norm, activations are harder to approximate with depth",
              _mean(_error_with_depth)),
        claim("F3.5", "falls", falls, _effect(_auc("nmf, class"), THREE)),
        claim("F3.5", "best", best, _margin("class")),
        claim("F3.5", "random ablation", "random ablation's AuC falls as p rises",
              _effect(_auc("random_ablation, class"), THREE)),
        claim("F3.5", "PCA", "PCA needs fewer directions than NMF parts",
              _mean(lambda m: _auc("pca, class")(m) - _auc("nmf, class")(m))),
        claim("F3.5", "falls, all p", f"{falls}, fully random labels included", _effect(_auc("nmf, class"), SIX),
              levels=SIX),
        *(claim("F3.6", f"{name}{names[of]}", sentence, statistic, of) for of in ("Fashion-MNIST", "SVHN", "sounds")
          for name, sentence, statistic in (("falls", falls, _effect(_auc("nmf, class"), THREE)),
                                            ("best", best, _margin("class")))),
        *(claim("F3.7", f"blur{names[of]}", "in mixed batches NMF tells the levels of p less apart", _blur, of)
          for of in ("CIFAR-10", "Fashion-MNIST")),
        *(claim("F3.8", f"{title}{names[of]}", f"removing {title} hurts networks that memorize less the more",
                _effect(lambda m, method=method: -m["ablation"][method]["auc"], THREE), of)
          for of in ("CIFAR-10", "Fashion-MNIST")
          for method, title in (("nmf", "NMF parts"), ("pca", "PCA directions"))),
        claim("F3.8", "random channels", "removing random channels hurts networks that memorize more the more",
              _effect(lambda m: m["ablation"]["random_ablation"]["auc"], THREE)),
        claim("C3.1", "batch size", "AuC of every method moves less from batches of 20 to batches of 100 than NMF's "
              "does from p = 0 to p = 0.8", _robust),
        claim("C3.2", "spread", "NMF's AuC varies more between networks of a level than that of each other method",
              _spread),
        claim("C3.3", "k-means", "for nine tenths of the accuracy k-means needs more centroids than half of the "
              "samples (their ratio)", _mean(lambda m: _needed(m, "kmeans, class") / 50), threshold=0.5),
        claim("C3.4", "echo", "in blocks 3 and 4 the raw NMF error is higher where AuC is lower (rank correlation)",
              _echo, below=True),
        claim("C3.4", "outlier", "the raw error goes one way up to p = 0.8 and turns back at p = 1 (product of the two "
              "changes, in shares of the error)", _turn, levels=SIX, below=True),
        *(claim("C3.5", f"rank{names[of]}", "mixed batches need more NMF parts for nine tenths of the accuracy (log2 "
                "of the ratio)", _mean(_more_parts), of) for of in ("CIFAR-10", "Fashion-MNIST")),
    ]


def _levels(units, levels, value):
    """Values by level: one array (seeds, ...) each."""
    return [np.array([value(unit[p]) for unit in units], dtype=float) for p in levels]


def _auc(run):
    return lambda m: m["sequence"][run]["auc"]


def _effect(value, levels):
    return lambda units: separation(*_levels(units, levels, value))


def _mean(value):
    """The mean over networks of p = 0, 0.4 and 0.8, levels counting alike."""
    return lambda units: bootstrap(mean, *_levels(units, THREE, value))


def _share_converged(units):
    networks = [m["converged"] for unit in units for m in unit.values()]
    return proportion(sum(networks), len(networks))


def _least_step(units):
    errors = _levels(units, SIX, lambda m: 1 - m["test"][-1])
    return bootstrap(lambda *levels: np.min([b.mean(0) - a.mean(0) for a, b in pairwise(levels)], axis=0), *errors)


def _gap(below):
    """From levels (seeds, layers): AuC at p = 0 less the mean of the others below a limit, averaged over seeds."""
    return lambda *levels: levels[0].mean(0) - np.mean([level.mean(0) for level in levels[1:below]], axis=0)


def _of_layers(units, levels, statistic):
    names = units[0][levels[0]]["layers"]["names"]
    aucs = _levels(units, levels, lambda m: m["layers"]["auc"])
    return bootstrap(lambda *arrays: statistic(names, arrays), *aucs)


def _deep_gap(units):
    def statistic(names, arrays):
        gap = _gap(None)(*arrays)
        deep = [i for i, name in enumerate(names[:-1]) if name >= "conv3"]
        return gap[deep].mean(0) - gap[[i for i, name in enumerate(names) if name < "conv3"]].mean(0)
    return _of_layers(units, THREE, statistic)


def _last_share(units):
    def statistic(_names, arrays):
        gap = _gap(None)(*arrays)
        return ratio(gap[-1], gap.max(0))
    return _of_layers(units, THREE, statistic)


def _shift(units):
    def centre(gap):
        gap = gap.clip(min=0)
        return ratio(np.arange(len(gap)) @ gap, gap.sum(0))

    def statistic(_names, arrays):
        return centre(_gap(-1)(*arrays)) - centre(arrays[0].mean(0) - arrays[-1].mean(0))
    return _of_layers(units, SIX, statistic)


def _deeper(units):
    def statistic(_names, arrays):
        return np.min([(level[:, -1] - level[:, 0]).mean(0) for level in arrays], axis=0)
    return _of_layers(units, THREE, statistic)


def _error_with_depth(m):
    by_width = np.array(m["layers"]["error"]) / m["layers"]["widths"]
    return stats.spearmanr(range(len(by_width)), by_width).statistic


def _margin(kind):
    """How far NMF's effect is above the best of the other methods'."""
    def lead(*levels):
        effects = effect(*levels)  # (methods, draws)
        return effects[0] - effects[1:].max(0)

    def statistic(units):
        values = _levels(units, THREE, lambda m: [m["sequence"][f"{method}, {kind}"]["auc"] for method in METHODS])
        return bootstrap(lead, *values)
    return statistic


def _blur(units):
    values = _levels(units, THREE, lambda m: [m["sequence"][f"nmf, {kind}"]["auc"] for kind in ("class", "mixed")])
    return bootstrap(lambda *levels: np.subtract(*effect(*levels)), *values)


def _robust(units):
    """NMF's fall from p = 0 to p = 0.8, less the largest change of a method's AuC between batches of 20 and 100."""
    def values(m):
        changes = [abs(m["batch_sizes"]["20"][method] - m["batch_sizes"]["100"][method]) for method in METHODS]
        return [m["sequence"]["nmf, class"]["auc"], *changes]

    def statistic(*levels):
        change = np.mean([level[:, 1:].mean(0) for level in levels], axis=0).max(0)
        return levels[0][:, 0].mean(0) - levels[-1][:, 0].mean(0) - change
    return bootstrap(statistic, *_levels(units, THREE, values))


def _spread(units):
    values = _levels(units, THREE, lambda m: [m["sequence"][f"{method}, class"]["auc"] for method in METHODS])

    def statistic(*levels):
        spreads = np.sqrt(np.mean([level.var(0, ddof=1) for level in levels], axis=0))
        return spreads[0] - spreads[1:].max(0)
    return bootstrap(statistic, *values)


def _needed(m, run):
    """The least rank at which a run has nine tenths of the accuracy; the largest where it never has."""
    accuracy = np.array(m["sequence"][run]["accuracy"])
    enough = accuracy >= 0.9
    return max(m["ranks"][int(enough.argmax()) if enough.any() else -1], 1)


def _deep(m, what):
    """Values of the layers of blocks 3 and 4."""
    return [value for name, value in zip(m["layers"]["names"], m["layers"][what], strict=True) if name >= "conv3"]


def _echo(units):
    def statistic(*levels):
        ranked = stats.rankdata(np.concatenate(levels), axis=0)  # (networks, 2, layers, draws)
        ranked -= ranked.mean(0)
        size = np.sqrt((ranked ** 2).sum(0).prod(0))
        return (ranked.prod(1).sum(0) / np.where(size > 0, size, 1)).mean(0)
    return bootstrap(statistic, *_levels(units, THREE, lambda m: [_deep(m, "raw_error"), _deep(m, "auc")]))


def _turn(units):
    def statistic(*levels):
        first, before, last = (levels[i].mean(0) for i in (0, -2, -1))
        return (before - first) * (last - before) / before ** 2
    return bootstrap(statistic, *_levels(units, SIX, lambda m: np.mean(_deep(m, "raw_error"))))


def _more_parts(m):
    return np.log2(_needed(m, "nmf, mixed") / _needed(m, "nmf, class"))


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up measurements of ten seeds on which every claim "holds", "fails" or is "undecided"."""
    sign = {"holds": 1.0, "fails": -1.0, "undecided": 0.0}[kind]
    found = []
    for job in jobs():
        if job.per_class is not None or (job.width == 1 and job.data != "fashion_mnist"):
            continue
        convolutional = job.data != "fashion_mnist"
        names = [f"conv{b}_{i}" for b, n in ((1, 2), (2, 3), (3, 3), (4, 3)) for i in range(1, n + 1)]
        names = names if convolutional else ["fc1", "fc2", "fc3", "fc4"]
        deep = np.array([name >= "conv3" for name in names[:-1]] + [False]) if convolutional else np.zeros(4)
        place = np.linspace(0, 1, len(names))
        gap = deep if job.p < 1 else np.array([name < "conv3" for name in names])
        gap = gap if sign > 0 else 1 - gap if sign < 0 else np.array([1.0] * (len(names) - 1) + [0.5])
        auc = {"nmf, class": -0.3 * sign, "nmf, mixed": -0.1 * sign, "pca, class": -0.1 * sign, "pca, mixed": 0.0,
               "random_ablation, class": -0.1 * sign}
        level = {"pca, class": 0.5 + 0.2 * sign, "nmf, class": 0.5}
        noise = (0.004 if sign else 0.05) * (-1) ** (job.seed + round(5 * job.p))  # from network to network
        spread = {"holds": (1, 0.5), "fails": (0.5, 1), "undecided": (1, 1)}[kind]  # of NMF and of the others
        needed = {"holds": 40, "fails": 10, "undecided": (10, 40)[job.seed % 2]}[kind]
        grid = np.array([0, 5, 10, 20, 40, 80])
        layer_auc = 0.5 + 0.2 * sign * place - 0.3 * job.p * gap + noise
        raw_error = {"holds": 1 - layer_auc, "fails": layer_auc,
                     "undecided": 0.5 + 0.05 * (-1.0) ** (job.seed // 2 + round(5 * job.p)) + 0 * place}[kind]
        changed = {"holds": 0.01, "fails": 0.2, "undecided": 0.001}[kind]  # by the size of the batch
        converged = job.seed < {"holds": 10, "fails": 6, "undecided": 8}[kind]
        found.append((job, {
            "converged": converged, "test": [0.9 - 0.5 * sign * job.p + noise],
            "layers": {"names": names, "widths": [1] * len(names),
                       "error": 0.5 + (sign + 20 * noise * (not sign)) * place / 3,
                       "auc": layer_auc, "raw_error": raw_error},
            "ranks": grid.tolist(),
            "sequence": {f"{method}, {batch}": {
                "auc": level.get(f"{method}, {batch}", 0.5) + job.p * auc.get(f"{method}, {batch}", 0.0)
                + noise * (spread[0] if method == "nmf" else -spread[1]),
                "accuracy": grid >= (20 if (method, batch) == ("nmf", "class") else needed)}
                for method in METHODS for batch in ("class", "mixed")},
            "batch_sizes": {"20": dict.fromkeys(METHODS, 0.5), "100": dict.fromkeys(METHODS, 0.5 + changed)},
            "ablation": {method: {"auc": 0.3 + noise + 0.1 * sign * job.p * (-1 if method == "random_ablation" else 1)}
                         for method in ("nmf", "pca", "random_ablation")}}))
    return found
