"""What makes activations dense, residual connections or batch normalization, C4.1.

The thesis (section 4.3.1) finds fewer zeros in ResNet-50 than in VGG-19, nearly as many in VGG with batch
normalization, and concludes that residual connections make the difference. Here four differ in these two alone.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nmfcore.activations import capture

from ..claims import Claim, Scale
from ..ledger import with_fields
from ..statistics import bootstrap, mean
from ..training import History, accuracy
from ..training import train as train_network
from . import data

TRAINING, MEASUREMENT = 1, 1
KINDS = ("plain", "residual")
STAGES, BLOCKS = 3, 2  # of two convolutions each
IMAGES = 1000  # of the test set, on which zeros are counted


@dataclass(frozen=True)
class Job:
    """One network."""

    data: str
    kind: str  # of KINDS
    normalized: bool  # batch normalization after each convolution
    seed: int
    width: int = 16  # channels of the first stage; each further one has twice as many, at half the resolution
    per_class: int | None = 1000
    epochs: int = 40  # at most
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Trained:
    model: nn.Module
    history: History


class Block(nn.Module):
    """Two convolutions, each but for its ReLU normalized if wanted; with `residual` the input is added before the last.

    He et al. 2016: where the shape changes, the input passes through a convolution of one pixel first.
    """

    def __init__(self, channels: int, units: int, stride: int, residual: bool, normalized: bool):
        super().__init__()

        def layer(*sizes, **options):
            convolution = nn.Conv2d(*sizes, bias=not normalized, **options)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            return nn.Sequential(convolution, nn.BatchNorm2d(units)) if normalized else convolution

        self.first = nn.Sequential(layer(channels, units, 3, stride=stride, padding=1), nn.ReLU())
        self.second = layer(units, units, 3, padding=1)
        self.shortcut = None
        if residual:
            self.shortcut = nn.Identity() if (channels, stride) == (units, 1) else layer(channels, units, 1,
                                                                                         stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        change = self.second(self.first(x))
        return torch.relu(change if self.shortcut is None else self.shortcut(x) + change)


def network(job: Job, channels: int, classes: int) -> nn.Sequential:
    """Stem, blocks block1_1, …, mean over positions, logits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        layers["stem"] = nn.Sequential(nn.Conv2d(channels, job.width, 3, stride=2, padding=1), nn.ReLU())
        channels = job.width
        for stage, block in product(range(STAGES), range(BLOCKS)):
            units, stride = job.width * 2 ** stage, 2 if stage and not block else 1
            layers[f"block{stage + 1}_{block + 1}"] = Block(channels, units, stride, job.kind == "residual",
                                                            job.normalized)
            channels = units
        layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "output": nn.Linear(channels, classes)}
    return nn.Sequential(layers)


def jobs() -> list[Job]:
    """Seeds count slowest, the digits first."""
    four = list(product(KINDS, (False, True)))
    digits = [Job("digits", *of, seed=0, per_class=100, epochs=25, precision="float32") for of in four]
    return [*digits, *(Job("cifar10_jpeg", *of, seed=seed) for seed in range(10) for of in four)]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    return data.missing(job.data) or data.hardware(device, 0.0, job.precision)


def train(job: Job, folder: Path, *, device: str = "cpu") -> Trained:
    """The network of a job, until it classifies its whole training set right or its epochs are used up."""
    given = data.load(job.data, job.per_class, device)
    model = network(job, given.inputs.shape[1], given.classes)
    history = train_network(model, given.inputs, given.labels, epochs=job.epochs, batch_size=100, optimizer="adam",
                            lr=1e-3, decay=0.95, seed=job.seed, near=0.99, precision=job.precision, device=device,
                            checkpoint=folder / "network.safetensors")
    return Trained(model, history)


def measure(job: Job, trained: Trained, *, device: str = "cpu") -> dict:
    """Shares of entries that are not zero on test images, in each block's output and after the ReLU inside it."""
    given, model = data.load(job.data, job.per_class, device), trained.model
    blocks = [name for name, _ in model.named_children() if name.startswith("block")]
    images = given.test_inputs[:IMAGES]
    maps = capture(model, [*blocks, *(f"{name}.first" for name in blocks)], images)
    return {"epochs": trained.history.epochs, "training": trained.history.accuracy[-1],
            "test": accuracy(model, given.test_inputs, given.test_labels), "images": len(images),
            "outputs": [_density(maps[name]) for name in blocks],
            "inside": [_density(maps[f"{name}.first"]) for name in blocks],
            "silent": [float((maps[name].amax((0, 2, 3)) <= 0).double().mean()) for name in blocks]}


def _density(maps):
    return float((maps > 0).double().mean())


# --- claims -----------------------------------------------------------------------------------------------


def fours(**fields) -> Callable[[list], list]:
    """A function of entries: {(kind, normalized): measurements} of each seed of which all four are measured."""
    def units(entries):
        by_seed: dict[int, dict] = {}
        for entry in with_fields(entries, **fields):
            by_seed.setdefault(entry.job["seed"], {})[entry.job["kind"], entry.job["normalized"]] = entry.measurements
        return [by_seed[seed] for seed in sorted(by_seed) if len(by_seed[seed]) == 4]
    return units


def deepest(measurements: dict) -> float:
    """The density of the last stage's outputs."""
    return float(np.mean(measurements["outputs"][-BLOCKS:]))


def claims() -> list[Claim]:
    """C4.1, with the thesis's two comparisons, and the one without normalization that it could not make."""
    scales = (Scale("CIFAR-10, JPEG copies of 10,000 images, networks of thirteen convolutions", fours(
        data="cifar10_jpeg"), (3, 6, 10), None),)

    def claim(name, sentence, statistic):
        return Claim("C4.1", name, sentence, "density", statistic, scales, unit="seeds of four networks")

    return [
        claim("residual", "among networks with batch normalization those with residual connections have denser "
              "activations (difference of shares)", _mean(lambda four: _difference(four, True))),
        claim("normalization", "batch normalization alone makes them less than half as much denser (half of that "
              "difference minus its own)", _mean(lambda four: _difference(four, True) / 2 - (
                  deepest(four["plain", True]) - deepest(four["plain", False])))),
        claim("without normalization", "residual connections make activations denser without batch normalization, too",
              _mean(lambda four: _difference(four, False))),
    ]


def _difference(four, normalized):
    return deepest(four["residual", normalized]) - deepest(four["plain", normalized])


def _mean(value):
    return lambda units: bootstrap(mean, np.array([value(four) for four in units]))


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up densities on which every claim "holds", "fails" or is "undecided"."""
    made = []
    for job in jobs():
        if job.data == "digits":
            continue
        noise = (0.001 if kind != "undecided" else 0.2) * (-1) ** job.seed
        residual, normalized = {"holds": (0.3, 0.02), "fails": (-0.1, 0.1), "undecided": (0.0, 0.0)}[kind]
        density = 0.4 + (job.kind == "residual") * (residual + noise) + job.normalized * normalized
        made.append((job, {"outputs": [0.5] * 4 + [density] * 2}))
    return made
