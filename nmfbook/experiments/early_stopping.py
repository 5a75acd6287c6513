"""When to stop training: the first maximum of NMF's AuC beside the lowest test loss, F3.10.

Protocol of thesis section 3.5.3: all of CIFAR-10's training images, 10,000 updates of batch 100, a check every 250
updates, the three deepest layers compressed in sequence on single-class batches, curves smoothed over ± two epochs.
Optimizer and rate are not printed, so they are a factor of the design.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, product
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from nmfcore.compression import accuracy_curve, class_batches, powers_of_two
from nmfcore.examples import randomized_labels
from nmfcore.stopping import first_maximum, smoothed

from ..architectures import memorization_network
from ..claims import Claim, Scale
from ..files import save_tensors
from ..ledger import with_fields
from ..statistics import bootstrap, mean, proportion
from ..training import prepared, restore, snapshot, updates
from . import data
from .memorizing_networks import compressed_layers

TRAINING, MEASUREMENT = 1, 1
METHODS = ("nmf", "pca", "random_ablation")
RADIUS = 4  # checks on either side over which curves are averaged: two epochs
RATES = {"adam 1e-3": ("adam", 1e-3), "adam 3e-4": ("adam", 3e-4), "sgd 0.02": ("sgd", 0.02)}


@dataclass(frozen=True)
class Job:
    """One training run with a check every `every` updates."""

    data: str
    width: float
    optimizer: str
    lr: float
    seed: int
    p: float = 0.0  # share of randomized training labels
    images: int | None = None  # training images, the first of each class; None: all
    held_out: float = 0.0  # share of them kept from training, for a validation loss
    batch: int = 100
    every: int = 250
    checks: int = 40
    precision: str = "bfloat16"

    @property
    def per_class(self) -> int | None:
        return None if self.images is None else self.images // 10


@dataclass(frozen=True)
class Trained:
    model: nn.Module
    kept: torch.Tensor  # (n,) indices of the images trained on
    held_out: torch.Tensor  # (m,) of those kept from training
    labels: torch.Tensor  # of all of them, as randomized
    weights: list[Path]  # of each check


def jobs() -> list[Job]:
    """Seeds count slowest; the digits first. A quarter of the width with half of Adam's rate, too."""
    digits = [Job(data="digits", width=1 / 8, optimizer=optimizer, lr=lr, seed=seed, p=p, batch=20, every=25,
                  precision="float32") for seed, p, (optimizer, lr) in product(range(1), (0.0, 0.2), RATES.values())]

    def runs(seeds, width, rates, **of):
        return [Job(data="cifar10_jpeg", width=width, optimizer=optimizer, lr=lr, seed=seed, **of)
                for seed in seeds for optimizer, lr in rates]

    rates, quarter = list(RATES.values()), [*RATES.values(), ("adam", 5e-4)]
    first = [*runs(range(4), 1 / 8, rates), *runs(range(1), 1 / 4, rates), *runs(range(1), 1 / 8, rates, p=0.2),
             *runs(range(1), 1 / 8, rates, held_out=0.1), *runs(range(1), 1 / 8, rates[:1], precision="float32")]
    more = [*runs(range(1), 1 / 4, quarter[3:]), *runs(range(1, 3), 1 / 4, quarter),
            *runs(range(1, 3), 1 / 8, rates, p=0.2), *runs(range(4, 10), 1 / 8, rates),
            *runs(range(2), 1 / 2, rates[:1])]
    full = [Job(data=name, width=1.0, optimizer=optimizer, lr=lr, seed=seed) for seed in range(10)
            for name in ("cifar10", "cifar10_jpeg") for optimizer, lr in rates]
    return [*digits, *first, *more, *full]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    return data.missing(job.data) or data.hardware(device, job.width, job.precision)


def train(job: Job, folder: Path, *, device: str = "cpu") -> Trained:
    """The weights of each check, trained or read from `folder`; interrupted, it goes on from the last check."""
    given = data.load(job.data, job.per_class, device)
    labels = randomized_labels(given.labels.cpu(), job.p, given.classes, seed=job.seed).to(device)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(job.seed)).to(device)
    held_out, kept = order.split([round(job.held_out * len(order)), len(order) - round(job.held_out * len(order))])
    model = memorization_network("cifar10", shape=given.inputs.shape[1:], classes=given.classes, width=job.width,
                                 seed=job.seed)
    steps = prepared(model, given.inputs, job.optimizer, job.lr, precision=job.precision, device=device)
    files, state = [folder / f"check{i:02}.safetensors" for i in range(job.checks)], folder / "state.safetensors"
    done = 0
    if state.exists():
        tensors = load_file(state)
        restore(model, steps, tensors)
        done = int(tensors["done"])
    if all(file.exists() for file in files):
        done = job.checks
    for i in range(done, job.checks):
        batches = islice(_batches(job, kept), i * job.every, (i + 1) * job.every)
        loss, _ = updates(model, steps, given.inputs, labels, batches, precision=job.precision)
        if not loss < float("inf"):
            raise ValueError(f"the loss is {loss} at check {i}; lower lr={job.lr}")
        save_tensors(model.state_dict(), files[i])
        save_tensors(snapshot(model, steps) | {"done": torch.tensor(i + 1)}, state)
    state.unlink(missing_ok=True)
    return Trained(model, kept, held_out, labels, files)


def _batches(job, kept):
    """Batches of indices without end: each epoch in an order of its own, which seed and epoch decide."""
    for epoch in count():
        generator = torch.Generator().manual_seed(1000 * job.seed + epoch)
        yield from kept[torch.randperm(len(kept), generator=generator).to(kept.device)].split(job.batch)


@torch.no_grad()
def measure(job: Job, trained: Trained, *, device: str = "cpu") -> dict:
    """Losses, accuracies and AuC at each check."""
    given, model = data.load(job.data, job.per_class, device), trained.model
    batches = [trained.kept[i.to(device)] for i in class_batches(trained.labels[trained.kept], seed=job.seed)]
    inputs, labels = ([values[i] for i in batches] for values in (given.inputs, trained.labels))
    layers = compressed_layers(model)
    names = ["test_loss", "test_accuracy", *(["validation_loss"] if job.held_out else []), "uncompressed", *METHODS]
    curves: dict[str, list[float]] = {name: [] for name in names}
    for file in trained.weights:
        model.load_state_dict(load_file(file))
        model.eval()
        loss, accuracy = loss_and_accuracy(model, given.test_inputs, given.test_labels)
        curves["test_loss"].append(loss)
        curves["test_accuracy"].append(accuracy)
        if job.held_out:
            curves["validation_loss"].append(loss_and_accuracy(model, given.inputs[trained.held_out],
                                                               trained.labels[trained.held_out])[0])
        for method in METHODS:
            curve = accuracy_curve(model, layers, inputs, labels, ranks=powers_of_two(round(512 * job.width)),
                                   method=method, tol=1e-2, seed=0)
            curves[method].append(curve.auc)
        curves["uncompressed"].append(float(curve.baseline.mean()))
    return {"epochs_per_check": job.every * job.batch / len(trained.kept), **curves}


def loss_and_accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Cross-entropy and accuracy of a model in evaluation mode."""
    logits = torch.cat([model(x) for x in inputs.split(500)])
    return float(cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())


# --- claims -----------------------------------------------------------------------------------------------


def best_epoch(run: dict) -> float:
    """When the smoothed test loss is lowest, in epochs."""
    return (int(np.argmin(smoothed(run["test_loss"], RADIUS))) + 1) * run["epochs_per_check"]


def stop_epoch(run: dict, method: str) -> float | None:
    """The first maximum of the smoothed AuC, in epochs; None where training ends before it is certain."""
    place = first_maximum(run[method], RADIUS)
    if place is None or place + 1 + RADIUS >= len(run[method]):
        return None
    return (place + 1) * run["epochs_per_check"]


def error(run: dict, method: str) -> float:
    """How many epochs after the lowest test loss a method stops; without a maximum at the end of training."""
    stop = stop_epoch(run, method)
    return (len(run[method]) * run["epochs_per_check"] if stop is None else stop) - best_epoch(run)


def runs(**fields) -> Callable[[list], list]:
    """A function of entries: those of the printed schedule with these fields, on true labels, nothing held out."""
    wanted = dict(p=0, held_out=0, images=None, checks=40, every=250, batch=100, precision="bfloat16") | fields

    def units(entries):
        return [entry.measurements for entry in with_fields(entries, **wanted)]
    return units


def claims() -> list[Claim]:
    """F3.10. The greatest width counts first; the optimizers, which are not printed, are taken together."""
    scales = tuple(
        Scale(f"CIFAR-10{', JPEG copies of' if 'jpeg' in name else ','} 50,000 images, {title} width",
              runs(data=name, width=width), goals, 10 if (name, width) == ("cifar10", 1) else None)
        for name, width, title, goals in (
            ("cifar10", 1.0, "full", (12, 30)), ("cifar10_jpeg", 1.0, "full", (12, 30)),
            ("cifar10_jpeg", 1 / 4, "1/4", (11,)), ("cifar10_jpeg", 1 / 8, "1/8", (12, 30))))

    def claim(name, sentence, statistic, **options):
        return Claim("F3.10", name, sentence, "early_stopping", statistic, scales, unit="runs", **options)

    return [
        claim("maximum", "NMF's AuC has its first maximum before training ends, in most runs", _with_maximum,
              threshold=0.5),
        claim("near", "the maximum lies within an epoch of the lowest test loss, in the median run", _median_error,
              threshold=1.0, below=True),
        claim("nearer", "random ablation's maximum lies farther off than NMF's", _nearer),
    ]


def _with_maximum(units):
    return proportion(sum(stop_epoch(run, "nmf") is not None for run in units), len(units))


def _median_error(units):
    return bootstrap(partial(np.median, axis=0), np.array([abs(error(run, "nmf")) for run in units]))


def _nearer(units):
    return bootstrap(mean, np.array([abs(error(run, "random_ablation")) - abs(error(run, "nmf")) for run in units]))


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up runs on which every claim "holds", "fails" or is "undecided"."""
    found = []
    for place, job in enumerate(job for job in jobs() if job.data == "cifar10_jpeg" and job.width == 1 / 8):
        other = place // 3 % 2 if kind == "undecided" else int(kind == "fails")
        best, nmf = 16, (16, 38)[other]  # checks; 38 is too late to be certain
        ablation = {"holds": 26, "fails": 18, "undecided": (26, 29)[other]}[kind]
        time = np.arange(40)
        found.append((job, {"epochs_per_check": 0.5, "test_loss": (time - best) ** 2.0, "nmf": -abs(time - nmf),
                            "random_ablation": -abs(time - ablation)}))
    return found
