"""Style transfer by parts (thesis section 6.2): does matching the style part by part bring colours to the right region?

Of a pair of photographs one gives the content; the other, recoloured, gives the style: the object has one hue, its
surroundings the opposite one. The outlines are known, so it is known which colours each region of the content should
get. No experiment of the ledger: the chapter calls what is here.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from skimage.color import lab2rgb, rgb2lab
from skimage.filters import sobel
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot

from nmfcore.activations import capture, to_maps, to_matrix
from nmfcore.factorization import kmeans
from nmfcore.feature_maps import feature_maps
from nmfcore.heatmaps import factorize
from nmfcore.networks import Preprocess, pretrained
from nmfcore.visualization import from_spectrum, to_spectrum

from ..annotated import crops, masked_set
from ..backbones import LABELS

FINE = 224  # pixels of a side, of the photographs
K, STARTS, RATE = 4, 2, 0.1
WEIGHTS = (0.1, 0.3, 1.0, 3.0)
READ = -2  # of the weights, the one at which pictures are compared
WAYS = {"global, Gram": ("global", "gram"), "global, moments": ("global", "moments"),
        "k-means, Gram": ("k-means", "gram"), "NMF, Gram": ("NMF", "gram"), "NMF, moments": ("NMF", "moments"),
        "true regions, Gram": ("true regions", "gram")}  # which regions, which statistics
EMBEDDED = ("cup", "flower", "motorcycle", "temple")
CLASSES = ("Bicycle", "Bird", "Bottle", "Bus", "Car", "Chair", "Dog", "Monitor", "Person", "Plant", "Sheep", "Sofa",
           "Table", "Train")


@dataclass(frozen=True)
class Painter:
    """A network, where its style is read, and how long a picture is painted."""

    name: str
    model: nn.Module
    preprocess: Preprocess
    layers: tuple[str, ...]  # of the style; the last one holds the content, too
    side: int  # of the pictures, in pixels
    steps: int

    @property
    def label(self) -> str:
        return LABELS[self.name]


@dataclass(frozen=True)
class Case:
    """A pair of photographs, and what is known about it."""

    name: str  # of the photograph or the class, which is the unit that intervals draw anew
    content: Tensor  # (3, FINE, FINE)
    inside: Tensor  # (FINE, FINE) bool, the object
    style: Tensor
    style_inside: Tensor
    truth: Tensor  # the content, recoloured as the style was
    start: int  # of NMF and k-means


def painter(profile: str, device: str = "cpu") -> Painter:
    """The student for "quick", else VGG-19, which "paper" alone downloads."""
    name, side, steps, layers = (("student", 96, 40, ("features.1", "features.3", "features.5")) if profile == "quick"
                                 else ("vgg19", 96, 40, ("features.1", "features.6", "features.11")))
    model, preprocess = pretrained(name, download=profile == "paper")
    return Painter(name, model.to(device), preprocess, layers, side, steps)


# --- pairs whose truth is known -----------------------------------------------------------------------------


def square(picture: Tensor, side: int) -> Tensor:
    """(3, side, side) of a picture (3, H, W)."""
    return interpolate(picture[None].float(), size=(side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)


def recoloured(picture: Tensor, mask: Tensor, hue: float) -> Tensor:
    """The picture (3, H, W) with its lightness, the given hue inside the mask (H, W) and the opposite one outside."""
    lab = rgb2lab(picture.permute(1, 2, 0).numpy())
    angle = hue + np.pi * (1 - mask.numpy())
    chroma = 40 * np.minimum(1, np.minimum(lab[..., 0] / 50, (100 - lab[..., 0]) / 25))  # none in black and white
    lab[..., 1:] = 0.3 * lab[..., 1:] + np.stack([chroma * np.cos(angle), chroma * np.sin(angle)], -1)
    return _rgb(lab)


def _rgb(lab):
    with warnings.catch_warnings():  # a few colours lie outside of what RGB can show, and are cut off
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(lab2rgb(lab)).permute(2, 0, 1).float().clamp(0, 1)


def _photographs_of_class(name):
    """The first two whose object fills a fifth to three fifths, with their masks; fewer where there are none."""
    masks = masked_set(name)
    pictures = masks.images(FINE)
    fit = [i for i, mask in enumerate(masks) if 0.2 < float(mask.any(0).float().mean()) < 0.6][:2]
    return [(square(pictures[i], FINE), square(masks[i].any(0, keepdim=True), FINE)[0] > 0.5) for i in fit]


def _crops_of(name):
    masks = crops(name)
    return [(square(masks.pictures[i], FINE), square(masks[i].any(0, keepdim=True), FINE)[0] > 0.5) for i in (0, 3)]


def cases(profile: str, seed: int = 0) -> list[Case]:
    """Each pair twice, with two starts and the hues exchanged, so that no colour belongs to objects by nature."""
    pairs = {name: _crops_of(name) for name in EMBEDDED} if profile == "quick" else {
        name: _photographs_of_class(name) for name in CLASSES}
    generator, made = np.random.default_rng(seed), []
    for name, pair in pairs.items():
        if len(pair) < 2:
            continue
        (content, inside), (other, other_inside) = pair
        hue = generator.uniform(0, 2 * np.pi)
        for start in range(STARTS):
            style, truth = (recoloured(picture, mask, hue + np.pi * start)
                            for picture, mask in ((other, other_inside), (content, inside)))
            made.append(Case(name, content, inside, style, other_inside, truth, seed + start))
    return made


# --- regions and their statistics ---------------------------------------------------------------------------


def parted(painter: Painter, pictures: Tensor, rank: int, start: int) -> dict[str, Tensor]:
    """Soft masks (2, regions, h, w) of content and style from NMF and from k-means, joint over both."""
    device = next(painter.model.parameters()).device
    layer = painter.preprocess.layer
    assert layer is not None  # both painters have one
    maps = torch.as_tensor(feature_maps(painter.model, painter.preprocess(pictures.to(device)), layer=layer))
    heat = torch.as_tensor(factorize(maps, rank, seed=start).maps)
    labels = kmeans(to_matrix(maps), rank, seed=start).U.argmax(1)
    return {"NMF": heat / heat.sum(1, keepdim=True).clamp(min=1e-6),
            "k-means": to_maps(one_hot(labels, rank).float(), maps.shape)}


def regions(painter: Painter, case: Case) -> dict[str, Tensor]:
    """Masks of every kind, (2, regions, h, w): of the content and of the style picture."""
    parts = parted(painter, torch.stack([case.content, case.style]), K, case.start)
    true = torch.stack([case.inside, case.style_inside]).to(parts["NMF"].device)
    return {"global": torch.ones(2, 1, 14, 14, device=true.device),
            "true regions": torch.stack([true, ~true], 1).float(), **parts}


def scaled(masks: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(regions, positions), each row with sum one where the region is there, and its share of all."""
    flat = interpolate(masks[None], size=tuple(size), mode="bilinear", antialias=True)[0].flatten(1)
    total = flat.sum(1, keepdim=True)
    return flat / total.clamp(min=1e-6), total[:, 0] / total.sum()


def statistics(maps: Tensor, masks: Tensor, kind: str) -> Tensor:
    """(n, regions, ·) of maps (n, C, h, w) within masks (regions, positions)."""
    rows = maps.flatten(2).mT  # (n, positions, C)
    if kind == "gram":
        return torch.stack([(rows * mask[:, None]).mT @ rows for mask in masks], 1).flatten(2)
    mean = masks @ rows
    return torch.cat([mean, ((masks @ rows.square() - mean.square()).clamp(min=0) + 1e-6).sqrt()], 2)


# --- painting -----------------------------------------------------------------------------------------------


def targets(painter: Painter, case: Case, masks: Mapping[str, Tensor], ways: Mapping[str, tuple[str, str]]):
    """Per way and layer: the masks on the content, the weight of each region, and the style's statistics."""
    small = square(case.style, painter.side)[None].to(masks["global"].device)
    layers = capture(painter.model, painter.layers, painter.preprocess(small))
    wanted: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for way, (where, kind) in ways.items():
        own, other = masks[where]
        wanted[way] = []
        for layer in painter.layers:
            size = layers[layer].shape[2:]
            (mine, share), (others, other_share) = scaled(own, size), scaled(other, size)
            weight = torch.minimum(share, other_share)
            wanted[way].append((mine, weight / weight.sum(), statistics(layers[layer], others, kind)))
    return wanted


def transferred(painter: Painter, case: Case, masks: Mapping[str, Tensor], *,
                ways: Mapping[str, tuple[str, str]] = WAYS, weights: Sequence[float] = WEIGHTS) -> Tensor:
    """(ways, weights, 3, side, side): all in one batch, as Adam treats every coefficient by itself."""
    device, deep, n = masks["global"].device, painter.layers[-1], len(weights)
    content = square(case.content, painter.side)[None].to(device)
    wanted = targets(painter, case, masks, ways)
    there = capture(painter.model, deep, painter.preprocess(content))[deep]
    strength = torch.tensor(weights, device=device)
    spectrum = to_spectrum(content).repeat(len(ways) * n, 1, 1, 1, 1).requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=RATE)
    for _ in range(painter.steps):
        pictures = painter.preprocess(from_spectrum(spectrum, painter.side))
        layers = capture(painter.model, painter.layers, pictures, gradient=True)
        loss = (layers[deep] - there).square().sum() / there.square().sum()
        for i, (way, (_, kind)) in enumerate(ways.items()):
            for layer, (mine, weight, goal) in zip(painter.layers, wanted[way], strict=True):
                now = statistics(layers[layer][i * n:(i + 1) * n], mine, kind)
                distance = (now - goal).square().sum(2) / goal.square().sum(2).clamp(min=1e-12)  # (n, regions)
                loss = loss + (strength * (distance @ weight)).sum() / len(painter.layers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return from_spectrum(spectrum.detach(), painter.side).unflatten(0, (len(ways), n)).cpu()


def moved(case: Case, masks: Tensor, side: int) -> Tensor:
    """The content with the colour statistics of each region moved to those that it has in the style picture."""
    weights = interpolate(masks.cpu(), size=(side, side), mode="bilinear",
                          antialias=True).flatten(2).double().numpy()  # (2, regions, pixels)
    own, other = (rgb2lab(square(picture, side).permute(1, 2, 0).numpy()).reshape(-1, 3)
                  for picture in (case.content, case.style))
    result = np.zeros_like(own)
    for here, there in zip(*weights, strict=True):
        mean, spread = _colors(own, here + 1e-6)
        goal, wide = _colors(other, there + 1e-6)
        share = here[:, None] / weights[0].sum(0)[:, None].clip(1e-6)
        result += share * ((own - mean) / spread.clip(1) * wide + goal)
    return _rgb(result.reshape(side, side, 3))


def _colors(values, weight):
    mean = np.average(values, 0, weight)
    return mean, np.average((values - mean) ** 2, 0, weight) ** 0.5


# --- the criterion ------------------------------------------------------------------------------------------


def distance(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """Wasserstein distance of two Gaussians, each a mean and a covariance."""
    (a, S), (b, T) = first, second
    shared = np.sqrt(np.linalg.eigvals(S @ T).real.clip(0)).sum()
    return float(np.sqrt(max(((a - b) ** 2).sum() + np.trace(S) + np.trace(T) - 2 * shared, 0)))


def scores(case: Case, pictures: Sequence[Tensor] | Tensor, side: int) -> list[tuple[float, float, float]]:
    """Of each picture (3, side, side): the error in the right region, the placement, and the content kept.

    The error is the distance of the colours of a region in Lab, as a Gaussian, to those of the same region of the style
    picture, mean over both regions. Placement compares it with the distance to the other region: one is perfect, below
    zero the colours went to the wrong place. Content kept is the structural similarity of the lightness gradients.
    """
    inside, style_inside = (square(mask[None], side)[0] > 0.5 for mask in (case.inside, case.style_inside))
    style, content = square(case.style, side), _edges(square(case.content, side))
    goals, rows = [_moments(style, mask) for mask in (style_inside, ~style_inside)], []
    for picture in pictures:
        own = [_moments(picture, mask) for mask in (inside, ~inside)]
        right, wrong = ([distance(own[r], goals[r ^ other]) for r in (0, 1)] for other in (0, 1))
        kept = structural_similarity(_edges(picture), content, data_range=float(content.max()))
        placed = [(far - near) / (far + near) for near, far in zip(right, wrong, strict=True)]
        rows.append((float(np.mean(right)), float(np.mean(placed)), float(kept)))
    return rows


def _moments(picture, mask):
    colors = rgb2lab(picture.permute(1, 2, 0).numpy())[mask.numpy()]
    return colors.mean(0), np.cov(colors.T)


def _edges(picture):
    return sobel(rgb2lab(picture.permute(1, 2, 0).numpy())[..., 0] / 100)


def correspondence(case: Case, masks: Tensor) -> float:
    """Chance that a position's counterpart, drawn from the same region of the style picture, is in the right part; mean
    over object and surroundings."""
    own, other = (interpolate(of[None], size=(56, 56), mode="bilinear")[0].flatten(1).double() for of in masks.cpu())
    here, there = (square(mask[None], 56)[0].flatten().double() for mask in (case.inside, case.style_inside))
    landed = (other @ torch.stack([there, 1 - there], 1)) / other.sum(1, keepdim=True).clamp(min=1e-6)  # (regions, 2)
    return float(np.mean([(part @ (own.mT @ landed[:, r])) / part.sum() for r, part in enumerate((here, 1 - here))]))


def measure(painter: Painter, of: Sequence[Case]) -> dict:
    """What the chapter keeps in its record: by photograph or class, the mean over its starts."""
    names = list(dict.fromkeys(case.name for case in of))
    measured, bounds = [], []
    matched: dict[str, list[float]] = {where: [] for where in ("global", "k-means", "NMF", "true regions")}
    for case in of:
        masks = regions(painter, case)
        measured.append([scores(case, pictures, painter.side) for pictures in transferred(painter, case, masks)])
        ends = [square(picture, painter.side) for picture in (case.content, case.truth)]
        bounds.append(scores(case, ends, painter.side))
        for where, values in matched.items():
            values.append(correspondence(case, masks[where]))

    def by_name(values):
        return np.stack([np.mean([value for case, value in zip(of, values, strict=True) if case.name == name], 0)
                         for name in names])

    return {"scores": by_name(measured), "bounds": by_name(bounds),  # (names, ways, weights, 3), (names, 2, 3)
            "correspondence": {where: by_name(values) for where, values in matched.items()},
            "n": len(of) // STARTS, "label": painter.label}


def at_equal_content(result: Mapping, column: int) -> np.ndarray:
    """(names, ways): error (column 0) or placement (1) where as much content is kept as by the global Gram matrix at
    the second strongest weight, by linear interpolation."""
    read = []
    for of_name, bound in zip(np.array(result["scores"]), np.array(result["bounds"]), strict=True):
        kept = of_name[0, READ, 2]
        curves = (np.concatenate([bound[:1], curve])[::-1] for curve in of_name)  # from the strongest to no transfer
        read.append([np.interp(kept, np.maximum.accumulate(curve[:, 2]), curve[:, column]) for curve in curves])
    return np.array(read)


def examples(painter: Painter, of: Sequence[Case], ways: Sequence[str]) -> Iterator[tuple[Case, Tensor, Tensor]]:
    """Of each case: itself, the maps of its factors (2, K, h, w), and what the ways make of it at the weight that is
    read, (ways, 3, side, side)."""
    for case in of:
        masks = regions(painter, case)
        yield case, masks["NMF"].cpu(), transferred(painter, case, masks, ways={way: WAYS[way] for way in ways},
                                                    weights=[WEIGHTS[READ]])[:, 0]
