"""Whether pictures made for rows of V show what the heatmaps cover, judged by another network: F1.3, F5.2 to F5.5.

Thesis section 5.2: a picture is made for each row of V by gradient ascent, in the colour of its heatmap. That it drives
its own row most is what was optimized. Here a network that took no part describes both, the pictures and what each
heatmap covers in the photographs, and says which belong together. It does so once more without seeing colours; and a
judge that sees nothing but the mean colour is asked, too, as the thesis says that ResNet-50's are mostly colour.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from nmfcore.feature_maps import Maps
from nmfcore.heatmaps import factorize
from nmfcore.visualization import visualize

from ..claims import OURS, Claim, Scale
from ..ledger import with_fields
from ..statistics import bootstrap, mean
from . import where
from .data import lacking

TRAINING, MEASUREMENT = 1, 2
RANK = 4  # the largest of the thesis's figures
SETS = ("elephants", "gymnasts")
NETWORKS = ("vgg19", "resnet50")
SEEDS = 5
LAYER = {"student": "features.7"}  # of a judge that has made the pictures, too: another one
JUDGED = ("as they are", "in grey", "by mean colour")


@dataclass(frozen=True)
class Job:
    """Pictures of all rows of one factorization."""

    data: str
    network: str  # that is factorized and driven
    judge: str
    seed: int  # of the factorization, of the pictures' noise and movements
    rank: int = RANK
    side: int = 112  # of a picture
    steps: int = 96


@dataclass(frozen=True)
class Photos:
    images: Tensor  # (n, 3, H, W) in [0, 1]
    source: str
    sha256: str


def jobs() -> list[Job]:
    """Digits on made backgrounds first; seeds count slowest."""
    return [Job("digits", "student", "student", 0, rank=3, side=48, steps=16),
            *(Job(name, network, judge, seed) for seed in range(SEEDS) for name in SETS
              for network, judge in (NETWORKS, NETWORKS[::-1]))]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    if job.data == "digits":
        return None
    weights = (f"weights/{name}*.safetensors" for name in (job.network, job.judge))
    return lacking(job.data, "image_sets/icoseg", *weights)


def train(job: Job, folder: Path, *, device: str = "cpu") -> Photos:
    """Trains nothing: the photographs."""
    if job.data == "digits":
        scenes = where.scenes(8)
        images, source = torch.stack(scenes.pictures), scenes.source
    else:
        from ..datasets import image_set  # with it comes scikit-image, which a machine that measures may lack

        found = image_set(job.data, size=320)
        images, source = found.images, found.source
    return Photos(images, source, hashlib.sha256(images.numpy().tobytes()).hexdigest())


def measure(job: Job, photos: Photos, *, device: str = "cpu") -> dict:
    """{one of JUDGED: (K, K) cosines of each picture (row) with what each heatmap covers (column), both so seen}."""
    from .. import backbones

    maker, judge = (backbones.load(name, device=device) for name in (job.network, job.judge))
    photographs = photos.images.to(device)
    fit = factorize(maker.maps(maker.preprocess(photographs), batch_size=2), job.rank, seed=job.seed)
    pictures = visualize(maker.model, fit.factors.V.to(device), layer=maker.layer, preprocess=maker.preprocess,
                         side=job.side, steps=job.steps, seed=job.seed)
    layer = LAYER[job.judge] if job.judge == job.network else None

    def seen(images):
        return judge.maps(judge.preprocess(images), layer=layer, batch_size=2)

    def in_grey(images):
        from torchvision.transforms.functional import rgb_to_grayscale  # longer to import than torch

        return seen(rgb_to_grayscale(images, 3))
    return {name: cosines(described(see(pictures)), covered(see(photographs), fit.maps)).tolist()
            for name, see in zip(JUDGED, (seen, in_grey, list), strict=True)}


def described(features: Maps) -> Tensor:
    """(n, C): the mean feature of each picture, positions at length 1."""
    return torch.stack([normalize(each, dim=0).mean((1, 2)) for each in features])


def covered(features: Maps, maps: Maps) -> Tensor:
    """(K, C): the mean feature over all photographs, weighted by each of the heatmaps n × (K, h, w)."""
    total, weight = torch.zeros(()), torch.zeros(())
    for each, heat in zip(features, maps, strict=True):
        weights = interpolate(heat[None].to(each), size=each.shape[1:], mode="bilinear", align_corners=False)[0]
        total = total + torch.einsum("khw,chw->kc", weights, normalize(each, dim=0))
        weight = weight + weights.sum((1, 2))
    return total / weight[:, None].clamp(min=1e-12)


def cosines(pictures: Tensor, regions: Tensor) -> Tensor:
    """(K, K), each side less its own mean: what all pictures share, being pictures, says nothing."""
    return normalize(pictures - pictures.mean(0), dim=1) @ normalize(regions - regions.mean(0), dim=1).mT


# --- claims -----------------------------------------------------------------------------------------------


def tables(*wanted: tuple[str, str]) -> Callable[[list], list]:
    """A function of entries: {one of JUDGED: (sets, K, K)} of each seed that has all wanted (set, network)."""
    def units(entries):
        by_seed: dict[int, list[dict]] = {}
        for name, network in wanted:
            for entry in with_fields(entries, data=name, network=network):
                by_seed.setdefault(entry.job["seed"], []).append(entry.measurements)
        return [{judged: np.array([measured[judged] for measured in by_seed[seed]]) for judged in JUDGED}
                for seed in sorted(by_seed) if len(by_seed[seed]) == len(wanted)]
    return units


def right(tables: np.ndarray) -> float:
    """The share of pictures that are given to their own heatmap."""
    return float((tables.argmax(-1) == np.arange(tables.shape[-1])).mean())


def margin(tables: np.ndarray) -> float:
    """By how much the cosine of a picture with its own heatmap exceeds that with the next, on average."""
    own = np.eye(tables.shape[-1], dtype=bool)
    return float((tables[:, own] - np.where(own, -np.inf, tables).max(-1)).mean())


def claims() -> list[Claim]:
    names = {"vgg19": "VGG-19", "resnet50": "ResNet-50"}

    def claim(row, label, network, judged, *sets):
        of, judge = names[network], names[NETWORKS[1 - NETWORKS.index(network)]]
        name, how = {"as they are": ("blind", ""), "in grey": ("grey", ", without seeing colours")}[judged]
        return Claim(row, name, f"{label}, {of}: {judge} gives a picture to its own heatmap more often than one in "
                     f"{RANK}{how}", "pictures",
                     lambda units: bootstrap(mean, np.array([right(unit[judged]) for unit in units])),
                     (Scale(f"{of}, {label}, {RANK} pictures a seed", tables(*((one, network) for one in sets)),
                            (SEEDS,), None),), threshold=1 / RANK)

    def lost(units):
        """What ResNet-50's pictures lose of their margin in grey, less what VGG-19's do; see `both`."""
        losses = [[margin(of_network["as they are"]) - margin(of_network["in grey"]) for of_network in pair]
                  for pair in units]
        return bootstrap(mean, np.diff(losses, axis=1)[:, 0])

    def both(entries):
        """[(tables of VGG-19, tables of ResNet-50)] of each seed."""
        return [*zip(*(tables(*((name, network) for name in SETS))(entries) for network in NETWORKS), strict=False)]

    cases = [*zip(("F5.2", "F5.3", "F5.4", "F5.5"), [(network, name) for network in NETWORKS for name in SETS],
                  strict=True)]
    return [claim("F1.3", "elephants and gymnasts", "vgg19", "as they are", *SETS),
            *(claim(row, name, network, judged, name) for row, (network, name) in cases for judged in JUDGED[:2]),
            Claim(OURS, "colour", "in grey, ResNet-50's pictures lose more of what tells them apart than VGG-19's (the "
                  "cosine with the own heatmap less that with the next, as the judge sees them)", "pictures", lost,
                  (Scale(f"VGG-19 and ResNet-50, {' and '.join(SETS)}", both, (SEEDS,), None),), unit="seeds")]


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up cosines on which every claim "holds", "fails" or is "undecided"."""
    orders = {"holds": [[0, 1, 2, 3]], "fails": [[1, 2, 3, 0]],
              "undecided": [[0, 2, 3, 1], [1, 2, 3, 0], [0, 1, 3, 2]]}[kind]  # one is right, or none, or two
    factor = 1 if kind == "undecided" else 0.5  # of the cosines in grey, of ResNet-50's pictures

    def made(job):
        table = np.eye(RANK)[orders[job.seed % len(orders)]]
        grey = (factor if job.network == "resnet50" else 1) * table
        return {judged: (grey if judged == "in grey" else table).tolist() for judged in JUDGED}
    return [(job, made(job)) for job in jobs() if job.data != "digits"]
