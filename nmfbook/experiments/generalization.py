"""AuC against the test error of networks that differ in batch size, weight decay and optimizer, F3.9.

Protocol of thesis section 3.5.3: 96 networks on true labels; the grid is not printed, so this one is ours. Baselines
that need no factorization: normalized margin (Bartlett et al. 2017), sharpness (as in Jiang et al. 2020), loss, epochs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nmfcore.compression import accuracy_curve, class_batches

from ..architectures import memorization_network
from ..claims import Claim, Scale
from ..ledger import with_fields
from ..statistics import bootstrap, bootstrap_correlation, pearson
from ..training import History, accuracy
from ..training import train as train_network
from . import data
from .memorizing_networks import compressed_layers, ranks, width_of

TRAINING, MEASUREMENT = 1, 1
METHODS = ("nmf", "pca", "random_ablation")
BATCHES = (32, 64, 128, 256)
DECAYS = (0.0, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
RATES = {"sgd": 0.02, "adam": 1e-3}


@dataclass(frozen=True)
class Job:
    """One network of the grid."""

    data: str
    width: float
    batch: int
    weight_decay: float
    optimizer: str
    seed: int  # of weights, order and batches
    per_class: int | None = None
    epochs: int = 60  # at most
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Trained:
    model: nn.Module
    history: History | None  # None: the loss became infinite


def grid() -> list[tuple[int, float, str]]:
    """The 96 points; each 24 in a row are spread over them: every pair of batch size and optimizer at three decays."""
    return [(batch, DECAYS[(4 * i + turn + BATCHES.index(batch)) % 12], optimizer)
            for turn in range(4) for i, batch, optimizer in product(range(3), BATCHES, RATES)]


def jobs() -> list[Job]:
    """The digits first, on eight points of the grid; then ten thousand images, then all of them."""
    digits = [Job("digits", 1 / 8, batch, decay, optimizer, seed=place, per_class=100, epochs=25, precision="float32")
              for place, (batch, decay, optimizer) in enumerate(product((32, 128), (0.0, 5e-3), RATES))]
    small, whole, full = ([Job("cifar10_jpeg", width, batch, decay, optimizer, seed=place, per_class=per_class)
                           for place, (batch, decay, optimizer) in enumerate(grid())]
                          for width, per_class in ((1 / 8, 1000), (1 / 8, None), (1.0, None)))
    return [*digits, *small, *whole[:24], *full]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    return data.missing(job.data) or data.hardware(device, job.width, job.precision)


def train(job: Job, folder: Path, *, device: str = "cpu") -> Trained:
    """The network of a job, until it classifies its whole training set right or its epochs are used up."""
    given = data.load(job.data, job.per_class, device)
    model = memorization_network("cifar10", shape=given.inputs.shape[1:], classes=given.classes, width=job.width,
                                 seed=job.seed)
    try:
        history = train_network(model, given.inputs, given.labels, epochs=job.epochs, batch_size=job.batch,
                                optimizer=job.optimizer, lr=RATES[job.optimizer], decay=0.95,
                                weight_decay=job.weight_decay, seed=job.seed, near=0.99, precision=job.precision,
                                device=device, checkpoint=folder / "network.safetensors")
    except ValueError as error:
        if "the loss is" not in str(error):
            raise
        history = None
    return Trained(model, history)


def measure(job: Job, trained: Trained, *, device: str = "cpu") -> dict:
    """Test error, AuC of the last block by method on single-class batches, and what needs no factorization."""
    if trained.history is None:
        return {"diverged": True}
    given, model, history = data.load(job.data, job.per_class, device), trained.model, trained.history
    layers, batches = compressed_layers(model), [i.to(device) for i in class_batches(given.labels, seed=job.seed)]
    inputs, labels = ([values[i] for i in batches] for values in (given.inputs, given.labels))
    grid = ranks(width_of(model, layers))
    auc = {method: accuracy_curve(model, layers, inputs, labels, ranks=grid, method=method, seed=job.seed).auc
           for method in METHODS}
    logits = logits_of(model, given.inputs)
    loss = float(nn.functional.cross_entropy(logits, given.labels))
    return {"diverged": False, "converged": history.converged, "epochs": history.epochs,
            "accuracy": accuracy(model, given.inputs, given.labels),
            "test_error": 1 - accuracy(model, given.test_inputs, given.test_labels), "auc": auc,
            "loss": math.log10(max(loss, 1e-12)), "margin": margin(model, logits, given.labels),
            "sharpness": sharpness(model, torch.cat(inputs), torch.cat(labels), seed=job.seed)}


@torch.no_grad()
def logits_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """(n, classes) of a model in evaluation mode."""
    return torch.cat([model(x) for x in inputs.split(500)])


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) by how much the logit of the label is above the largest other one."""
    of_label = logits.gather(1, labels[:, None])[:, 0]
    return of_label - logits.scatter(1, labels[:, None], -math.inf).amax(1)


def margin(model: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Logarithm of the mean margin over the product of the layers' spectral norms, kernels as matrices."""
    norms = [float(torch.linalg.matrix_norm(w.detach().flatten(1), 2)) for w in model.parameters() if w.dim() > 1]
    return math.log10(max(float(margins(logits, labels).mean()), 1e-12)) - sum(map(math.log10, norms))


@torch.no_grad()
def sharpness(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, *, size: float = 0.1, draws: int = 5,
              seed: int = 0) -> float:
    """Rise of the loss when every weight is multiplied by one plus Gaussian noise, averaged over draws."""
    def loss():
        return float(nn.functional.cross_entropy(model(inputs), labels))

    before, kept = loss(), [w.clone() for w in model.parameters()]
    generator, rises = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        for w, old in zip(model.parameters(), kept, strict=True):
            w.copy_(old * (1 + size * torch.randn(old.shape, generator=generator).to(old)))
        rises.append(loss() - before)
    for w, old in zip(model.parameters(), kept, strict=True):
        w.copy_(old)
    return sum(rises) / draws


# --- claims -----------------------------------------------------------------------------------------------


def networks(**fields) -> Callable[[list], list]:
    """A function of entries: the measured points of a grid, in its order."""
    def units(entries):
        return [entry.measurements for entry in with_fields(entries, **fields)]
    return units


def claims() -> list[Claim]:
    """F3.9, over the networks that classify their whole training set right."""
    grids = (("CIFAR-10, JPEG copies of 50,000 images, full width", dict(width=1.0, per_class=None), (96,)),
             ("CIFAR-10, JPEG copies of 50,000 images, 1/8 width", dict(width=1 / 8, per_class=None), (24,)),
             ("CIFAR-10, JPEG copies of 10,000 images, 1/8 width", dict(width=1 / 8, per_class=1000), (24, 48, 96)))
    scales = tuple(Scale(label, networks(data="cifar10_jpeg", **fields), goals, None) for label, fields, goals in grids)

    def claim(name, sentence, statistic, **options):
        return Claim("F3.9", name, sentence, "generalization", statistic, scales, unit="points of the grid", **options)

    titles = {"nmf": "NMF's", "pca": "PCA's", "random_ablation": "random ablation's"}
    return [*(claim(method, f"{titles[method]} AuC falls as the test error rises", _correlation(method), below=True)
              for method in METHODS),
            *(claim(f"over {other}", f"NMF's AuC correlates more strongly than {titles[other]}", _stronger(other),
                    below=True)
              for other in METHODS[1:])]


def _table(units):
    """(networks, 1 + methods) test error and AuC of the networks that converged."""
    return np.array([[m["test_error"], *(m["auc"][method] for method in METHODS)] for m in units
                     if not m["diverged"] and m["converged"]])


def _correlation(method):
    column = 1 + METHODS.index(method)
    return lambda units: bootstrap_correlation(lambda rows: pearson(rows[:, column], rows[:, 0]), _table(units))


def _stronger(other):
    column = 1 + METHODS.index(other)
    return lambda units: bootstrap(lambda rows: pearson(rows[:, 1], rows[:, 0]) - pearson(rows[:, column], rows[:, 0]),
                                   _table(units))


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up networks on which every claim "holds", "fails" or is "undecided"."""
    slopes = {"holds": (-1.0, -0.3, -0.3), "fails": (1.0, 0.3, 0.3), "undecided": (0.0, 0.0, 0.0)}[kind]
    grid_jobs = [job for job in jobs() if job.data == "cifar10_jpeg" and job.per_class == 1000]
    error = np.linspace(0, 1, len(grid_jobs))
    waves = {method: np.cos(2 * np.pi * k * error) for method, k in zip(METHODS, (3, 5, 7), strict=True)}  # no trend
    return [(job, {"diverged": False, "converged": True, "test_error": error[i], "auc": {
        method: slope * error[i] + 0.2 * waves[method][i] for method, slope in zip(METHODS, slopes, strict=True)}})
        for i, job in enumerate(grid_jobs)]
