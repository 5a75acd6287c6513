"""Rectangle cover numbers (thesis section 3.3): of batches around a point, of famous matrices, and of trained layers.

All come from `nmfcore.rank.interval`, and every witness is checked anew before its bound is used. No experiment of the
ledger: the chapter calls what is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from nmfcore import rank
from nmfcore.examples import randomized_labels
from nmfcore.rank import RankInterval

from ..training import train
from .polygons import slack

WIDTH = 128  # of each of the three hidden layers
LAYERS = {"first hidden layer": 2, "last hidden layer": 6}  # name -> modules up to its ReLU
EPSILON = 1e-6


class FalseWitness(ArithmeticError):
    """A bound whose proof is wrong."""


def certified(M: Tensor, *, time_limit: float, seed: int = 0) -> RankInterval:
    """`rank.interval`, none of whose witnesses is wrong and whose ends are in order. Raises FalseWitness otherwise."""
    proved = rank.interval(M, time_limit=time_limit, seed=seed)
    checks = proved.verify()
    lower, upper = proved.rectangle_cover
    if False in checks.values() or not lower <= upper <= proved.upper or not lower <= proved.lower <= proved.upper:
        raise FalseWitness(f"{checks}: {proved.rectangle_cover}, {proved.lower} to {proved.upper}")
    return proved


def cover_number(support: Tensor, *, time_limit: float = 20, seed: int = 0) -> int:
    """The rectangle cover number of a support so small that its interval closes. Raises ValueError if it does not."""
    lower, upper = certified(support, time_limit=time_limit, seed=seed).rectangle_cover
    if lower < upper:
        raise ValueError(f"only {lower} to {upper} is proved within {time_limit} s")
    return lower


def around_a_point(distances: Tensor, *, samples: int = 24, channels: int = 8, seed: int = 0) -> list[RankInterval]:
    """The support of one random ReLU layer for batches whose samples move away from a point, each in its direction."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W, point, directions = normal(6, channels), normal(1, 6), normal(samples, 6)
    point = point * (((point @ W) > 0).any() * 2 - 1)  # at least one channel is on
    return [certified((point + distance * directions) @ W > 0, time_limit=10, seed=seed)
            for distance in distances.tolist()]


@dataclass(frozen=True)
class Known:
    """A matrix about which the literature says something."""

    M: Tensor
    time_limit: float
    cover: int | None  #: its rectangle cover number
    nonnegative: int | None  #: its non-negative rank, or a lower bound of it


def known_matrices(seed: int = 0) -> dict[str, Known]:
    """Name -> matrix: the identity and its complement, polygons, squared distances, a product of sparse factors."""
    generator = torch.Generator().manual_seed(seed)

    def sparse(*shape):
        return torch.rand(*shape, generator=generator).double() * (torch.rand(*shape, generator=generator) < 0.6)

    line = torch.arange(6.0)
    return {"identity, n = 6": Known(torch.eye(6), 5, 6, 6),
            "complement of the identity, n = 10": Known(1 - torch.eye(10), 5, 5, 10),
            "hexagon": Known(slack(6), 10, 5, 5), "octagon": Known(slack(8), 15, 6, 6),
            "squared distances, n = 6": Known((line[:, None] - line) ** 2, 4, 4, 5),
            "product of three parts, 6 × 7": Known(sparse(6, 3) @ sparse(3, 7), 5, None, 3)}


def one_epsilon() -> dict[str, tuple[int, int]]:
    """Name -> the cover number before and after entries of a millionth are added."""
    blocks = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))
    between = blocks.clone()
    between[0, 5] = EPSILON
    zeros, complement = torch.zeros(8, 8), 1 - torch.eye(10)
    pairs = {"blocks": (blocks, between), "complement": (complement, complement + EPSILON * torch.eye(10)),
             "zeros": (zeros, EPSILON * torch.eye(8))}
    return {name: (cover_number(before > 0), cover_number(after > 0)) for name, (before, after) in pairs.items()}


@dataclass(frozen=True)
class Learned:
    """A network of three hidden layers without an error on its training labels."""

    model: nn.Sequential
    labels: Tensor  #: the labels that it learned
    epochs: int


def learned(images: Tensor, labels: Tensor, p: float, *, seed: int = 0) -> Learned:
    """Trained on images whose labels are random with probability p. Raises ValueError if an error is left."""
    torch.manual_seed(seed)
    labels = randomized_labels(labels, p, 10, seed=seed)
    widths = (images.shape[1], WIDTH, WIDTH, WIDTH)
    hidden = [module for before, after in pairwise(widths)
              for module in (nn.Linear(before, after), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(WIDTH, 10))
    history = train(model, images, labels, epochs=1000, optimizer="adam", lr=2e-3, seed=seed)
    if not history.converged:
        raise ValueError(f"p = {p}: errors are left after {history.epochs} epochs")
    return Learned(model.requires_grad_(False), labels, history.epochs)


@dataclass(frozen=True)
class Batch:
    """What is proved about one layer for one batch of images that carry the same training label."""

    p: float
    label: int
    size: int
    layer: str
    cover: tuple[int, int]
    rank: int  #: of the activations


def measure_layers(networks: Mapping[float, Learned], images: Tensor, labels: Sequence[int], sizes: Sequence[int], *,
                   time_limit: float, seed: int = 0) -> list[Batch]:
    """Bounds for the first images of each label, layer by layer; a label with fewer images is left out."""
    batches = []
    for p, network in networks.items():
        for label in labels:
            of_label = (network.labels == label).nonzero()[:, 0]
            for size in sizes:
                if len(of_label) < size:
                    continue
                for layer, depth in LAYERS.items():
                    A = network.model[:depth](images[of_label[:size]])
                    proved = rank.interval(A > 0, time_limit=time_limit, seed=seed)
                    batches.append(Batch(p, label, size, layer, proved.rectangle_cover,
                                         int(torch.linalg.matrix_rank(A.double(), rtol=1e-6))))
    return batches


def compared(batches: Sequence[Batch], layer: str, size: int) -> list[str]:
    """Label by label, what is proved of rc at p = 1 beside p = 0."""
    covers = {(batch.p, batch.label): batch.cover for batch in batches if (batch.layer, batch.size) == (layer, size)}
    return [_beside(covers[1.0, label], clean) for (p, label), clean in covers.items()
            if p == 0 and (1.0, label) in covers]


def _beside(noisy, clean):
    if noisy[0] > clean[1]:
        return "larger"
    if noisy[1] < clean[0]:
        return "smaller"
    return "equal" if noisy == clean and clean[0] == clean[1] else "undecided"
