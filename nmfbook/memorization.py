"""The networks of thesis chapter 3: trained to accuracy 1 on labels of which a share p is random.

    found = over_networks(lambda network: network.history.test_accuracy[-1], PROFILES["quick"]["digits, CNN"])
    found[level][seed]

Label randomization: Zhang et al. 2017. Training takes long, so every network is kept in a folder of checkpoints, and an
interrupted training goes on where it was.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pooch
import torch
from scipy import stats
from torch import Tensor, nn

from .architectures import memorization_network
from .datasets import LabeledImages, labeled_images, randomized_labels
from .sounds import SOUNDS, labeled_sounds
from .training import History, one_thread, train


@dataclass(frozen=True)
class Setup:
    """What the networks of an experiment have in common. All are trained with Adam."""

    data: str  # of `labeled_images` or `labeled_sounds`
    architecture: str  # of `memorization_network`
    width: float = 1.0
    levels: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # six, as in the thesis, which does not print them
    seeds: int = 10  # networks at each level
    per_class: int | None = None  # training samples; None: all
    test_per_class: int | None = None
    held_out: bool = False  # take the test samples from the end of the training set, for want of others
    enlarge: int = 1  # repeat every pixel so many times in both directions
    download: bool = False
    lr: float = 1e-3
    decay: float = 0.95  # as in Zhang et al.
    batch_size: int = 100
    epochs: int = 200  # at most


# What each profile of the book trains: quick in a minute, desk in hours on two cores, paper on a GPU.
_DESK: dict[str, Any] = dict(per_class=200, test_per_class=100)
_DIGITS: dict[str, Any] = dict(levels=(0.0, 0.5, 1.0), seeds=3, per_class=100, test_per_class=30, held_out=True,
                               decay=0.98)
PROFILES: dict[str, dict[str, Setup]] = {
    "quick": {"digits, CNN": Setup("digits", "cifar10", 1 / 8, enlarge=2, **_DIGITS),
              "digits, MLP": Setup("digits", "fashion_mnist", 1 / 4, **_DIGITS)},
    "desk": {"CIFAR-10, CNN": Setup("cifar10", "cifar10", 1 / 4, seeds=2, **_DESK),
             "Fashion-MNIST, MLP": Setup("fashion_mnist", "fashion_mnist", seeds=3, lr=5e-4, **_DESK),
             "SVHN, CNN": Setup("svhn", "svhn", 1 / 4, seeds=3, test_per_class=15, held_out=True),
             "ESC-10, CNN": Setup("esc10", "urban_sounds", 1 / 4, seeds=2, batch_size=20, decay=0.98)},
    "paper": {"CIFAR-10, CNN": Setup("cifar10", "cifar10", download=True),
              "Fashion-MNIST, MLP": Setup("fashion_mnist", "fashion_mnist", lr=5e-4, download=True),
              "SVHN, CNN": Setup("svhn", "svhn", download=True),
              "Urban Sounds, CNN": Setup("urban_sounds", "urban_sounds")},
}


@dataclass(frozen=True)
class Network:
    model: nn.Module
    inputs: torch.Tensor  # (n, C, H, W) training set
    labels: torch.Tensor  # (n,) the labels it was trained on
    true_labels: torch.Tensor  # (n,)
    history: History
    source: str
    p: float
    seed: int

    @property
    def layers(self) -> list[str]:
        """All hidden layers, in order."""
        return [name for name, _ in self.model.named_children() if name.startswith(("conv", "fc"))]

    @property
    def compressed(self) -> list[str]:
        """The layers that the thesis compresses in sequence: the last block of convolutions, or all of an MLP."""
        blocks = [name for name in self.layers if name.startswith("conv")]
        return [name for name in blocks if name.split("_")[0] == blocks[-1].split("_")[0]] or self.layers


def trained(setup: Setup, p: float, seed: int = 0, *, device: str = "cpu",
            folder: str | Path | None = None) -> Network:
    """A network that has learned every training label, of which a share p was randomized, and its training set.

    The seed decides the initial weights, the order of the batches and the randomization. folder: for checkpoints;
    default: a folder in nmfcore's cache. Raises RuntimeError if training ended at `setup.epochs` below accuracy 1.
    """
    training, test = _data(setup)
    inputs, test_inputs = (data.inputs(setup.enlarge) for data in (training, test))
    classes = len(training.classes)
    labels = randomized_labels(training.labels, p, classes, seed=seed)
    model = memorization_network(setup.architecture, shape=inputs.shape[1:], classes=classes, width=setup.width,
                                 pool_stride=2, seed=seed)
    of_training = replace(setup, levels=(), seeds=0, epochs=0, download=False)
    name = f"{setup.data}-p{p:g}-seed{seed}-{hashlib.sha256(repr(of_training).encode()).hexdigest()[:8]}.safetensors"
    history = train(model, inputs, labels, epochs=setup.epochs, batch_size=setup.batch_size, optimizer="adam",
                    lr=setup.lr, decay=setup.decay, seed=seed, device=device,
                    precision="bfloat16" if str(device).startswith("cuda") else "float32",
                    test=(test_inputs, test.labels),
                    checkpoint=Path(folder or pooch.os_cache("nmfcore") / "networks") / name)
    if not history.converged:
        raise RuntimeError(f"{name} is at training accuracy {history.accuracy[-1]:.4f} after {history.epochs} epochs; "
                           f"raise epochs={setup.epochs}, or change lr={setup.lr}")
    return Network(model, inputs.to(device), labels.to(device), training.labels.to(device), history, training.source,
                   p, seed)


def over_networks(measure: Callable[[Network], Any], setup: Setup, *, device: str = "cpu",
                  folder: str | Path | None = None) -> list[list]:
    """Train or load the networks of a setup and measure each: results as [level][seed].

    On a CPU as many networks are at work at a time as PyTorch has threads, each with one. Goes through joblib, whose
    other backends take it, too (`with joblib.parallel_config("dask"): ...`).
    """
    def one(p, seed):
        with one_thread():
            return measure(trained(setup, p, seed, device=device, folder=folder))

    jobs = torch.get_num_threads() if device == "cpu" else 1
    tasks = [(p, seed) for seed in range(setup.seeds) for p in setup.levels]
    found = dict(zip(tasks, joblib.Parallel(n_jobs=jobs)(joblib.delayed(one)(*task) for task in tasks), strict=True))
    return [[found[p, seed] for seed in range(setup.seeds)] for p in setup.levels]


def _data(setup):
    """Training and test set."""
    def load(split, per_class):
        if setup.data in SOUNDS:
            return labeled_sounds(setup.data, split=split, per_class=per_class)
        return labeled_images(setup.data, split=split, per_class=per_class, download=setup.download)

    if not setup.held_out:
        return load("train", setup.per_class), load("test", setup.test_per_class)
    data = load("train", None)
    of_class = [(data.labels == c).nonzero()[:, 0] for c in range(len(data.classes))]
    return (_part(data, "training", [places[:-setup.test_per_class][:setup.per_class] for places in of_class]),
            _part(data, "test", [places[-setup.test_per_class:] for places in of_class]))


def _part(data, name, places):
    chosen = torch.cat(places).sort().values
    return LabeledImages(data.images[chosen], data.labels[chosen], data.classes,
                         f"{len(chosen):,} ({name}) of {data.source}")


@dataclass(frozen=True)
class Separation:
    """How AuC goes with the share p of random labels over a set of networks."""

    correlation: float  # Spearman's, of AuC with p
    interval: tuple[float, float]  # bootstrap over networks, 95 %
    effect: float  # mean fall of AuC from one level of p to the next, in standard deviations within a level


def separation(levels: Sequence[float], auc: Tensor, *, seed: int = 0) -> Separation:
    """Does AuC (levels, seeds) tell the levels of p apart? Needs two levels and two networks at each.

    The standard deviation is pooled over levels, as for Cohen's d; the effect is infinite where it is 0.
    """
    auc = auc.double()
    if auc.dim() != 2 or len(levels) != len(auc) or min(auc.shape) < 2:
        raise ValueError(f"auc of shape {tuple(auc.shape)} for {len(levels)} levels: expected (levels, seeds), at "
                         "least 2 of both")
    p = np.repeat(np.asarray(levels, dtype=float), auc.shape[1])
    values = auc.flatten().numpy()

    def correlation(p, values, axis=-1):
        x, y = (stats.rankdata(z, axis=axis) for z in (p, values))
        x, y = x - x.mean(axis, keepdims=True), y - y.mean(axis, keepdims=True)
        size = np.sqrt((x * x).sum(axis) * (y * y).sum(axis))
        return (x * y).sum(axis) / np.where(size > 0, size, 1)  # 0 for a resample in which either is constant

    found = stats.bootstrap((p, values), correlation, paired=True, vectorized=True, method="percentile",
                            n_resamples=2000, rng=np.random.default_rng(seed))
    fall = float((auc[:-1].mean(1) - auc[1:].mean(1)).mean())
    spread = float(auc.var(1).mean().sqrt())
    effect = fall / spread if spread else float(np.copysign(np.inf, fall)) if fall else 0.0
    interval = found.confidence_interval
    return Separation(float(correlation(p, values)), (float(interval.low), float(interval.high)), effect)
