"""Whether pictures made for rows of V show what the heatmaps cover, judged by another network: F1.3, F5.2 to F5.5.

Thesis section 5.2: a picture is made for each row of V by gradient ascent, in the colour of its heatmap. That it drives
its own row most is what was optimized. Here a network that took no part describes both, the pictures and what each
heatmap covers in the photographs, and says which belong together.
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

from ..claims import Claim, Scale
from ..ledger import with_fields
from ..statistics import bootstrap
from . import where
from .data import lacking

TRAINING, MEASUREMENT = 1, 1
RANK = 4  # the largest of the thesis's figures
SETS = ("elephants", "gymnasts")
NETWORKS = ("vgg19", "resnet50")
SEEDS = 5
LAYER = {"student": "features.7"}  # of a judge that has made the pictures, too: another one


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
    """{"cosines": of each picture (row) with what each heatmap covers (column), both as the judge describes them}."""
    from .. import backbones

    maker, judge = (backbones.load(name, device=device) for name in (job.network, job.judge))
    fit = factorize(maker.maps(maker.preprocess(photos.images.to(device)), batch_size=2), job.rank, seed=job.seed)
    pictures = visualize(maker.model, fit.factors.V.to(device), layer=maker.layer, preprocess=maker.preprocess,
                         side=job.side, steps=job.steps, seed=job.seed)
    layer = LAYER[job.judge] if job.judge == job.network else None
    of_photos, of_pictures = (judge.maps(judge.preprocess(images), layer=layer, batch_size=2)
                              for images in (photos.images.to(device), pictures))
    return {"cosines": cosines(described(of_pictures), covered(of_photos, fit.maps)).tolist()}


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


def seeds(*wanted: tuple[str, str]) -> Callable[[list], list]:
    """A function of entries: of each seed for which all wanted (set, network) are measured, the share of pictures that
    the judge gives to their own heatmap."""
    def units(entries):
        right: dict[int, list[float]] = {}
        for name, network in wanted:
            for entry in with_fields(entries, data=name, network=network):
                table = np.array(entry.measurements["cosines"])
                right.setdefault(entry.job["seed"], []).append(float((table.argmax(1) == np.arange(len(table))).mean()))
        return [float(np.mean(right[seed])) for seed in sorted(right) if len(right[seed]) == len(wanted)]
    return units


def claims() -> list[Claim]:
    def claim(row, label, *wanted):
        name = "VGG-19" if wanted[0][1] == "vgg19" else "ResNet-50"
        judge = "ResNet-50" if name == "VGG-19" else "VGG-19"
        return Claim(row, "blind", f"{label}, {name}: {judge} gives a picture to its own heatmap more often than one "
                     f"in {RANK}", "pictures", lambda units: bootstrap(np.mean, np.array(units)),
                     (Scale(f"{name}, {label}, {RANK} pictures a seed", seeds(*wanted), (SEEDS,), None),),
                     threshold=1 / RANK)

    return [claim("F1.3", "elephants and gymnasts", *((name, "vgg19") for name in SETS)),
            *(claim(row, name, (name, network)) for row, (network, name) in zip(
                ("F5.2", "F5.3", "F5.4", "F5.5"), [(network, name) for network in NETWORKS for name in SETS],
                strict=True))]


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up cosines on which every claim "holds", "fails" or is "undecided"."""
    orders = {"holds": [[0, 1, 2, 3]], "fails": [[1, 2, 3, 0]],
              "undecided": [[0, 2, 3, 1], [1, 2, 3, 0], [0, 1, 3, 2]]}[kind]  # one is right, or none, or two
    return [(job, {"cosines": np.eye(RANK)[orders[job.seed % len(orders)]].tolist()})
            for job in jobs() if job.data != "digits"]
