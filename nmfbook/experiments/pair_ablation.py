"""Which pairs of factors a prediction rests on (thesis section 6.2): take pair k out of the activations of a layer, let
the rest of the network run, and compare the probability of the class that it had predicted.

The activations become [A - s U_k V_k]+, with s = 1 for removal. No experiment of the ledger: the chapter calls what is
here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nmfcore.activations import capture, replaced
from nmfcore.cam import grad_cam
from nmfcore.heatmaps import Heatmaps, factorize
from nmfcore.importance import masked_logits, subsets
from nmfcore.networks import Preprocess, classifies, data_folder, pretrained

from ..architectures import memorization_network
from ..datasets import DIGITS, PHOTOGRAPHS, labeled_images, read_images

K = 5
SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the pair, how much is taken out
NETWORKS = {"squeezenet1_1": ("SqueezeNet", "features.12"), "vgg19": ("VGG-19", "features.35")}  # of photographs
SHOWN = ("temple", "cat", "motorcycle", "flower")
SIDE = 224  # of photographs, the shorter one in pixels


@dataclass(frozen=True)
class Subject:
    """A network with images of several classes, which are factorized class by class."""

    label: str
    model: nn.Module
    layer: str
    groups: Mapping[str, Tensor]
    source: str  # of the images


@dataclass(frozen=True)
class Pairs:
    """What taking out each pair does to the log probability of the predicted class, (n, K), and what could tell."""

    change: np.ndarray
    other_channels: np.ndarray  # as much taken out in the same places
    other_places: np.ndarray  # as much taken out of the same channels
    grad_cam: np.ndarray  # Grad-CAM where the pair is
    strength: np.ndarray
    curve: np.ndarray  # (n, len(SCALES)) of the most important pair
    same: np.ndarray  # (n,) whether the answer is the same without that pair
    error: float  # relative, of the factorization


def digits(seed: int, device: str = "cpu") -> Subject:
    """A small network that is trained here, and images of each class that it has not seen."""
    whole = labeled_images("digits")
    inputs = whole.inputs(enlarge=2).expand(-1, 3, -1, -1)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    train, rest = order[:1000], order[1000:]
    model = memorization_network("cifar10", shape=inputs.shape[1:], width=1 / 4, seed=seed)
    steps, generator = torch.optim.Adam(model.parameters(), lr=1e-3), torch.Generator().manual_seed(seed)
    for _ in range(8):
        for batch in train[torch.randperm(len(train), generator=generator)].split(50):
            steps.zero_grad()
            cross_entropy(model(inputs[batch]), whole.labels[batch]).backward()
            steps.step()
    groups = {name: inputs[rest[whole.labels[rest] == c][:20]] for c, name in enumerate(DIGITS)}
    right = torch.cat([model.eval()(images).argmax(1) == int(name) for name, images in groups.items()]).double().mean()
    return Subject("small network, digits", model.to(device), "conv2_3", groups,
                   f"{sum(map(len, groups.values()))} digits of scikit-learn, classified right to "
                   f"{100 * float(right):.0f} %")


def photographs(device: str = "cpu", *, network: str = "squeezenet1_1", download: bool = False) -> Subject:
    """A network of NETWORKS, and twenty validation photographs of each class of ImageNet in the data folder."""
    model, preprocess = pretrained(network, download=download)
    root = data_folder()
    if root is None:
        raise FileNotFoundError("NMFCORE_DATA names no folder; photographs of ImageNet are read from its imagenet/val")
    folders = sorted((root / "imagenet" / "val").iterdir())
    groups = {folder.name: preprocess(read_images(sorted(folder.glob("*"))[:20], size=(SIDE, SIDE)))
              for folder in folders}
    label, layer = NETWORKS[network]
    return Subject(f"{label}, ImageNet", model.eval().to(device), layer, groups,
                   f"{sum(map(len, groups.values()))} photographs of {len(groups)} classes, ImageNet, validation")


@torch.no_grad()
def log_probability(subject: Subject, images: Tensor, classes: Tensor, maps: Tensor | None = None) -> Tensor:
    """(n,) of the given classes; with `maps` in place of the layer's output."""
    with replaced(subject.model, {} if maps is None else {subject.layer: lambda _: maps}):
        return subject.model(images).log_softmax(1).gather(1, classes[:, None])[:, 0].double()


def answers(subject: Subject, images: Tensor, maps: Tensor | None = None) -> Tensor:
    """(n,) the predicted classes; with `maps` in place of the layer's output."""
    with torch.no_grad(), replaced(subject.model, {} if maps is None else {subject.layer: lambda _: maps}):
        return subject.model(images).argmax(1)


def located(heat: Heatmaps) -> Tensor:
    """(K, n, positions) U of each pair and image, for maps that are one tensor."""
    n, rank, *size = torch.as_tensor(heat.maps).shape
    return heat.factors.U.reshape(n, size[0] * size[1], rank).movedim(2, 0)


def measure_pairs(subject: Subject, images: Tensor, seed: int = 0) -> Pairs:
    """Every pair of a factorization of these images, taken out of each of them by itself."""
    generator = torch.Generator().manual_seed(seed)
    A = capture(subject.model, subject.layer, images)[subject.layer]
    heat = factorize(A, K, seed=seed)
    U, V, n = located(heat), heat.factors.V, len(A)
    classes = answers(subject, images)
    before = log_probability(subject, images, classes)

    def less(u, v, s=1.0):
        return (A - s * torch.einsum("np,c->ncp", u, v).reshape(A.shape)).clamp(min=0)

    def without(u, v, s=1.0):
        return log_probability(subject, images, classes, less(u, v, s)) - before

    def permuted(values):
        return values[..., torch.randperm(values.shape[-1], generator=generator)]

    gradient = grad_cam(subject.model, images, classes.tolist(), layer=subject.layer)
    seen = torch.as_tensor(gradient)[:, 0].reshape(n, -1)  # (n, positions)
    by_pair = [[without(U[k], V[k]) for k in range(K)],  # in the order of the fields of Pairs
               [without(U[k], permuted(V[k])) for k in range(K)],
               [without(permuted(U[k]), V[k]) for k in range(K)],
               [(seen * U[k]).sum(1) / U[k].norm(dim=1).clamp(min=1e-12) for k in range(K)],
               [U[k].norm(dim=1) for k in range(K)]]
    change, channels, places, cam, strength = (torch.stack(of_pairs, 1).double().cpu().numpy() for of_pairs in by_pair)
    top = torch.as_tensor(change.argmin(1), device=A.device)  # the pair without which the class loses most
    of_top = torch.einsum("np,nc->ncp", U.movedim(0, 1)[torch.arange(n), top], V[top]).reshape(A.shape)
    same = answers(subject, images, (A - of_top).clamp(min=0)) == classes
    curve = [torch.stack([without(U[k], V[k], s) for k in range(K)], 1).gather(1, top[:, None])[:, 0] for s in SCALES]
    return Pairs(change, channels, places, cam, strength, torch.stack(curve, 1).cpu().numpy(), same.cpu().numpy(),
                 float(heat.factors.error))


def linear_changes(subject: Subject, images: Tensor, seed: int = 0) -> np.ndarray:
    """(n, K) what the gradient of the predicted class's log probability makes of each pair's removal."""
    A = capture(subject.model, subject.layer, images)[subject.layer].requires_grad_()
    heat = factorize(A.detach(), K, seed=seed)
    with torch.enable_grad(), replaced(subject.model, {subject.layer: lambda _: A}):
        slope, = torch.autograd.grad(subject.model(images).log_softmax(1).max(1).values.sum(), A)
    return -torch.einsum("ncp,knp,kc->nk", slope.flatten(2), located(heat), heat.factors.V).cpu().numpy()


def rank_correlations(first: np.ndarray, second: np.ndarray) -> list[float]:
    """Of the K pairs of each image: (n,), zero where either is constant."""
    return [float(spearmanr(x, y).statistic) if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0
            for x, y in zip(first, second, strict=True)]


def summary(by_class: Sequence[Pairs]) -> dict[str, list]:
    """Image by image, over all classes: what the chapter keeps in its record."""
    def joined(name):
        return np.concatenate([getattr(pairs, name) for pairs in by_class])

    change = joined("change")
    return {"most important pair": change.min(1).tolist(), "other channels": joined("other_channels").min(1).tolist(),
            "other places": joined("other_places").min(1).tolist(),
            "agrees with Grad-CAM": rank_correlations(-change, joined("grad_cam")),
            "agrees with strength": rank_correlations(-change, joined("strength")),
            "pairs that hurt": (change > 0).mean(1).tolist(), "same answer": joined("same").astype(float).tolist(),
            "worst pair": change.max(1).tolist(), "curve": joined("curve").T.tolist(),
            "error": [pairs.error for pairs in by_class]}


def measure_subsets(model: nn.Module, layer: str, image: Tensor, rank: int = K, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Maps (K, h, w) of one image (1, 3, H, W), factorized by itself, and probabilities (2^K, classes): in line i
    without those pairs k for which bit k of i is set."""
    heat = factorize(capture(model, layer, image)[layer], rank, seed=seed)
    scores = masked_logits(model, layer, image, heat, subsets(rank))
    return torch.as_tensor(heat.maps)[0], scores[:, 0].softmax(1)


def network_of_photographs() -> tuple[str, nn.Module, Preprocess, str, Sequence[str]] | None:
    """The first network in hand that names what is on a photograph: its label, itself, its layer and its classes."""
    from torchvision.models import get_model_weights  # longer to import than torch

    for name, (label, layer) in NETWORKS.items():
        try:
            model, preprocess = pretrained(name, download=False)
        except FileNotFoundError:
            continue
        if classifies(model):
            return label, model, preprocess, layer, get_model_weights(name)["IMAGENET1K_V1"].meta["categories"]
    return None


def embedded(name: str, height: int = SIDE) -> np.ndarray:
    """(height, 3/2 height, 3) uint8: an embedded photograph, cut to its centre."""
    picture = Image.fromarray(PHOTOGRAPHS[name]()).convert("RGB")
    return np.array(ImageOps.fit(picture, (3 * height // 2, height), Image.Resampling.BICUBIC))
