"""Whether a factor isolates the trees behind the elephants, and at which rank: C4.2.

Thesis section 4.3.1: photographs of elephants, factorized together in ResNet-50. With K = 7 a factor is said to isolate
the dark green trees in the background. Their outlines are ours, drawn before any map was looked at.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nmfcore.heatmaps import factorize
from nmfcore.segmentation import binarize, iou

from ..claims import Claim, Scale
from ..ledger import with_fields
from ..statistics import bootstrap, mean
from . import where
from .data import lacking

TRAINING, MEASUREMENT = 1, 1
RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 10)
STARTS = 10
NETWORKS = ("resnet50", "vgg19")
SHOWN, ISOLATED = 4, 7  # the largest rank of the thesis's figure 4.8, and that of its sentence


@dataclass(frozen=True)
class Job:
    """All ranks and starts with one network."""

    data: str
    network: str
    side: int  # of a photograph, the shorter one
    starts: int = STARTS
    seed: int = 0


@dataclass(frozen=True)
class Photos:
    """Photographs, and in each what a factor is expected to isolate."""

    pictures: Any  # of `annotated`
    outlines: Sequence[Tensor]  # n × (1, H, W) bool
    source: str
    sha256: str


def jobs() -> list[Job]:
    """Digits on made backgrounds first."""
    return [Job("digits", "student", 96, starts=2), *(Job("trees", network, 448) for network in NETWORKS)]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    if job.data == "digits":
        return None
    return lacking(job.data, "image_sets/icoseg", f"weights/{job.network}*.safetensors")


def train(job: Job, folder: Path, *, device: str = "cpu") -> Photos:
    """Trains nothing: the photographs."""
    if job.data == "digits":
        scenes = where.scenes(8)
        digest = hashlib.sha256(torch.stack(scenes.pictures).numpy().tobytes())
        return Photos(scenes, scenes.masks, scenes.source, digest.hexdigest())
    from .. import annotated  # with it comes scikit-image, which a machine that measures may lack

    trees, elephants = annotated.parts("trees"), annotated.parts("elephants")
    behind = [tree & ~parts.any(0) for tree, parts in zip(trees, elephants, strict=True)]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in trees.files))
    return Photos(trees, behind, trees.source, digest.hexdigest())


def measure(job: Job, photos: Photos, *, device: str = "cpu") -> dict:
    """{rank: of each start, in thousandths, the IoU in each photograph of the factor that fits all of them best}."""
    from .. import backbones

    backbone, pictures = backbones.load(job.network, device=device), photos.pictures
    features = backbone.maps(pictures.images(job.side, backbone.preprocess))
    found: dict[str, list] = {str(rank): [] for rank in RANKS}
    for start in range(job.starts):
        for fit in factorize(features, RANKS, seed=job.seed + start):
            masks = binarize(fit.maps, pictures.sizes)
            best = int(iou(masks, photos.outlines)[:, 0].argmax())
            found[str(fit.factors.V.shape[0])].append([
                round(1000 * float(iou([mask[best:best + 1]], [outline])))
                for mask, outline in zip(masks, photos.outlines, strict=True)])
    return found


# --- claims -----------------------------------------------------------------------------------------------


def photographs(network: str) -> Callable[[list], list]:
    """A function of entries: {rank: IoU, mean over starts} of each photograph."""
    def units(entries):
        return [{int(rank): float(np.mean([of_start[i] for of_start in starts])) / 1000
                 for rank, starts in entry.measurements.items()}
                for entry in with_fields(entries, data="trees", network=network)
                for i in range(len(entry.measurements[str(ISOLATED)][0]))]
    return units


def claims() -> list[Claim]:
    scale = Scale("ResNet-50, 5 photographs of iCoseg, ten starts", photographs("resnet50"), (5,), None)
    share = partial(Claim, "C4.2", experiment="trees", scales=(scale,), unit="photographs")
    return [share("isolates", f"of {ISOLATED} factors one is the trees (IoU above one half)",
                  statistic=lambda units: bootstrap(mean, np.array([unit[ISOLATED] for unit in units])),
                  threshold=0.5),
            share("grows", f"of {ISOLATED} factors the best fits the trees better than of {SHOWN}",
                  statistic=lambda units: bootstrap(mean, np.array([unit[ISOLATED] - unit[SHOWN]
                                                                       for unit in units])))]


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up overlaps on which every claim "holds", "fails" or is "undecided"."""
    few, many = {"holds": (300, 700), "fails": (500, 200), "undecided": (500, 500)}[kind]
    wave = [-90, 60, -30, 80, -20]
    return [(job, {str(rank): [[(many if rank >= ISOLATED else few) + (1 if rank >= ISOLATED else -1) * change
                                for change in wave]] * job.starts for rank in RANKS})
            for job in jobs() if job.data == "trees"]
