"""Networks whose activations have a sign: does compression tell what they have learned by heart? Ours; no thesis row.

Convolutional networks with ReLU and with GELU, and small transformers, trained on labels of which a share p is random.
A layer's two halves, max(A, 0) and max(-A, 0), are factorized side by side. No experiment of the ledger: the chapter
calls what is here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from nmfcore.activations import capture, replaced, to_matrix
from nmfcore.compression import accuracy_curve, class_batches, powers_of_two
from nmfcore.examples import randomized_labels
from nmfcore.factorization import pca
from nmfcore.signed import Join, Split, semi_nmf
from nmfcore.solver import nmf

from ..architectures import memorization_network
from ..datasets import LabeledImages, labeled_images
from ..statistics import effect, rank_correlation
from ..training import train

LEVELS = (0.0, 0.5, 1.0)  # shares of random labels
METHODS = ("nmf", "pca", "random_ablation")
PLACES = {"ReLU": {"ReLU": "conv4_1.1"}, "GELU": {"GELU": "conv4_1.1"},
          "transformer": {"transformer, middle": "middle.0", "transformer, last block": "tokens.0"}}  # title -> layer
CHANNELS = {"ReLU": "first", "GELU": "first", "transformer": "tokens"}  # where layers of each kind have theirs


class Transformer(nn.Module):
    """A small vision transformer: patches of 4 × 4 pixels, four blocks, classes from the mean token."""

    def __init__(self, shape: Sequence[int], dim: int, depth: int = 4, heads: int = 4):
        super().__init__()
        channels, height, width = shape
        self.patches = nn.Conv2d(channels, dim, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(1, height * width // 16, dim))

        def blocks():
            return nn.Sequential(*(nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, "gelu", batch_first=True,
                                                              norm_first=True) for _ in range(depth // 2)))
        self.early, self.late = blocks(), blocks()
        self.middle, self.tokens = (nn.Sequential(Split("tokens"), Join("tokens")) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.patches(x).flatten(2).mT + self.position)
        x = self.late(self.middle(x))  # (n, tokens, dim)
        return self.head(self.tokens(x).mean(1))


@dataclass(frozen=True)
class Scale:
    """How large the networks and their data are."""

    data: str
    runs: int  # networks of each kind at each level
    per_class: int
    epochs: int  # at most, as training ends once all labels are learned
    width: float  # of the convolutional networks
    token: int  # numbers in a token
    batch: int  # samples of a class that are compressed together


SCALES = {"quick": Scale("digits", 3, 20, 150, 1 / 8, 32, 20), "desk": Scale("cifar10", 5, 50, 200, 1 / 8, 48, 50),
          "paper": Scale("cifar10", 10, 1000, 300, 1.0, 192, 50)}


@dataclass
class Study:
    """Networks of one scale. `learned` keeps the first of each kind, trained on true labels."""

    scale: Scale
    images: LabeledImages
    inputs: Tensor
    learned: dict[str, nn.Module] = field(default_factory=dict)


def study(profile: str, device: str = "cpu") -> Study:
    """Digits for "quick", else CIFAR-10, which "paper" downloads."""
    scale = SCALES[profile]
    images = labeled_images(scale.data, per_class=scale.per_class, download=profile == "paper")
    return Study(scale, images, images.inputs(enlarge=2 if scale.data == "digits" else 1).to(device))


def network(kind: str, scale: Scale, shape: Sequence[int], run: int) -> nn.Module:
    """An untrained network of a kind, one of PLACES, whose layers of interest are split in halves and joined again."""
    if kind == "transformer":
        with torch.random.fork_rng([]):
            torch.manual_seed(run)
            return Transformer(shape, scale.token)
    model = memorization_network("cifar10", shape=tuple(shape), width=scale.width, seed=run)
    for name, layer in model.named_children():
        if name.startswith("conv") and kind == "GELU":
            layer.register_module("1", nn.GELU())
    model.conv4_1 = nn.Sequential(model.get_submodule("conv4_1"), Split(), Join())
    return model


def measure(found: Study, kind: str, p: float, run: int, methods: Sequence[str] = METHODS) -> Iterator[dict]:
    """Train one network, and compress each of its places.

    Whether it has learned its labels, the share of A⁻ in ‖A‖², AuC by each method, and relative errors at a rank of a
    quarter of the channels.
    """
    labels, inputs, size = randomized_labels(found.images.labels, p, 10, seed=run), found.inputs, found.scale.batch
    model = network(kind, found.scale, inputs.shape[1:], run)
    history = train(model, inputs, labels, epochs=found.scale.epochs, batch_size=50, optimizer="adam", lr=1e-3,
                    seed=run, device=str(inputs.device))
    batches = class_batches(labels, size, seed=run)
    X, y = [inputs[i] for i in batches], [labels[i].to(inputs.device) for i in batches]
    found.learned.setdefault(kind, model)
    for title, layer in PLACES[kind].items():
        halves = to_matrix(capture(model, layer, X[0], channels=CHANNELS[kind])[layer]).cpu()
        width = halves.shape[1]
        auc = {method: float(accuracy_curve(model, layer, X, y, ranks=powers_of_two(width), method=method,
                                            channels=CHANNELS[kind], tol=1e-2).auc) for method in methods}
        signed, K = Join()(halves), width // 8
        by_split = nmf(halves, K)
        fits = {"split": by_split.U @ Join()(by_split.V), "semi": semi_nmf(signed, K).approximation,
                "pca error": pca(signed, K).approximation}
        yield {"network": title, "p": p, "run": run, "training": history.accuracy[-1], "epochs": history.epochs,
               "below zero": float(halves[:, width // 2:].square().sum() / halves.square().sum()), **auc,
               **{key: float((signed - fit).norm() / signed.norm()) for key, fit in fits.items()}}


def columns(found: Study, kinds: Sequence[str], seed: int = 0, methods: Sequence[str] = METHODS) -> dict[str, list]:
    """All networks of these kinds, as a record has them: a list for each quantity."""
    lines = [line for kind in kinds for p in LEVELS for run in range(100 * seed + 1, 100 * seed + 1 + found.scale.runs)
             for line in measure(found, kind, p, run, methods)]
    return {key: [line[key] for line in lines] for key in lines[0]}


def of(columns: Mapping[str, Sequence], name: str, key: str) -> np.ndarray:
    """(levels, runs) values of one kind of network or place."""
    values = [value for value, network in zip(columns[key], columns["network"], strict=True) if network == name]
    return np.array(values, dtype=float).reshape(len(LEVELS), -1)


def names(columns: Mapping[str, Sequence]) -> list[str]:
    """The kinds of networks and the places in them."""
    return list(dict.fromkeys(columns["network"]))


def told(levels: np.ndarray) -> str:
    """The rank correlation with p and its interval, and the fall per level, of values (levels, runs)."""
    value, low, high = rank_correlation(*levels)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f}), {effect(*levels):.1f}"


def ahead(columns: Mapping[str, Sequence], name: str) -> np.ndarray:
    """(1 + draws,): the fall per level by NMF minus that by PCA, each in its own standard deviations.

    First as it is, then with the networks of each level drawn anew, the same for both. The standard deviations are
    those of all networks: of a few drawn anew they may be anything.
    """
    auc = np.stack([of(columns, name, method) for method in ("nmf", "pca")])  # (2, levels, runs)
    drawn = np.random.default_rng(0).integers(auc.shape[2], size=(2000, 1, *auc.shape[1:]))
    resampled = np.concatenate([auc[None], np.take_along_axis(auc[None], drawn, 3)])
    fall = (resampled[:, :, 0].mean(2) - resampled[:, :, -1].mean(2)) / (len(LEVELS) - 1)
    spread = np.sqrt(auc.var(2, ddof=1).mean(1))
    effects = fall / np.where(spread > 0, spread, 1)  # where all networks are alike, nothing falls
    return effects[:, 0] - effects[:, 1]


def clipped(model: nn.Module, kind: str, inputs: Tensor) -> dict[str, float]:
    """By place, the share of inputs whose answer stays when what is below zero there is cut off."""
    shares = {}
    for title, layer in PLACES[kind].items():
        block, place = layer.split(".")
        join = model.get_submodule(f"{block}.{int(place) + 1}")  # which puts the halves together again
        cut: dict[str | nn.Module, Callable] = {join: torch.relu}
        with torch.no_grad():
            before = model(inputs).argmax(1)
            with replaced(model, cut):
                shares[title] = float((before == model(inputs).argmax(1)).double().mean())
    return shares
