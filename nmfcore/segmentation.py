"""From heatmaps to masks and boxes, and how well they fit those that people drew (thesis sections 4.3.2 and 4.4.1).

Masks of a set are n tensors (K, H_i, W_i) of bool, one mask per factor, per part or per object, in a list or, where all
images have one size, stacked. Ratios are over the pixels of the whole set, so that large objects count for more; pass a
set of one image to judge an image by itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from ._optional import needed_by
from .activations import to_matrix
from .factorization import kmeans
from .feature_maps import Maps, check_heatmaps, check_maps, check_not_empty
from .gate import check_counts, described, indices, is_dense
from .heatmaps import factorize, normalized
from .matching import foreground, off_border

Masks = Tensor | Sequence[Tensor]
Box = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max: the first and last pixel, both inside

THRESHOLD, MERGE = 0.75, 0.2  # section 4.3.2
# Of a mask's level, where GrabCut takes background and foreground for granted; tried on birds of VOC 2010 and
# aeroplanes of VOC 2007, beside (0.5, 2) and (0.1, 3), which were as good.
SURE = (0.3, 2.5)
CUTS = 1  # of its rounds; more change little


# --- from heatmaps to masks ---------------------------------------------------------------------------------


def binarize(maps: Maps, sizes: Sequence[tuple[int, int]], *, threshold: float = THRESHOLD) -> list[Tensor]:
    """Masks of a set from its heatmaps: n × (K, H_i, W_i) bool.

    A map is enlarged (bilinear) and is foreground where it exceeds the quantile `threshold` of an exponential
    distribution that has the factor's mean over the set: -log(1 - threshold) times that mean. With threshold = 0, it
    is foreground where it is positive.

    The thesis prints 0.75 and maps divided by their maximum; together they leave next to nothing of real photographs.
    As a probability 0.75 works. This reading was chosen, for both networks, on the classes Bird, Bus, Sheep and Train
    of the VOC 2010 co-segmentation benchmark; book/cosegmentation.md shows it beside others.

    Args:
        maps: n × (K, h, w) ≥ 0, of any scale.
        sizes: n × (H, W), those of the masks to compare with.
        threshold: a probability, from 0 up to, but not, 1.

    Raises:
        ValueError: a threshold outside [0, 1), and sizes that are missing.

    Example:
        >>> maps = torch.zeros(1, 1, 4, 4)
        >>> maps[0, 0, 1:3, 1:3] = 1
        >>> binarize(maps, [(4, 4)])[0].int().tolist()
        [[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    level = _level(maps, sizes, threshold)[:, None, None]
    return [_resized(each, size) > level for each, size in zip(maps, sizes, strict=True)]


def _level(maps, sizes, threshold):
    """(K,) above which a position of each factor is foreground."""
    check_heatmaps(maps)
    if not isinstance(threshold, Real) or not 0 <= threshold < 1:
        raise ValueError(f"threshold={threshold!r} is a probability; take one from 0 up to, but not, 1")
    check_not_empty(sizes)
    if len(sizes) != len(maps):
        raise ValueError(f"{len(sizes)} sizes for {len(maps)} images; pass one (H, W) per image, n ≥ 1")
    for i, size in enumerate(sizes):
        if not isinstance(size, Sequence) or len(size) != 2 or any(
                isinstance(side, bool) or not isinstance(side, Integral) or side < 1 for side in size):
            raise ValueError(f"size {size!r} of image {i} is no (H, W); pass two integers, 1 or more")
    positions = sum(each.shape[1] * each.shape[2] for each in maps)
    return -math.log1p(-threshold) * torch.stack([each.double().sum((1, 2)) for each in maps]).sum(0) / positions


def refine(maps: Maps, photographs: Sequence[Tensor], *, threshold: float = THRESHOLD, side: int = 160) -> list[Tensor]:
    """Masks of a set whose edges are those of the photographs: n × (K, H_i, W_i) bool, by GrabCut (Rother et al. 2004).

    It begins with the mask of `binarize`. Where a map is below SURE[0] or above SURE[1] times the level of that mask,
    background or foreground is taken for granted; elsewhere the colours of both decide, and the edges between them.
    Where a map leaves nothing to decide, the mask stays as it is.

    Args:
        maps: n × (K, h, w) ≥ 0, of any scale.
        photographs: n × (3, H_i, W_i) RGB in [0, 1].
        threshold: as for `binarize`.
        side: of the copies that are cut, the shorter one in pixels; more take longer.

    Raises:
        ValueError: as `binarize`, and photographs of another kind.
        ModuleNotFoundError: the package opencv-python-headless, of the extra "grabcut", is not installed.

    Example:
        >>> photograph = torch.zeros(3, 60, 60)
        >>> photograph[0, 18:42, 16:44] = 1  # a red rectangle
        >>> maps = torch.zeros(1, 1, 6, 6)
        >>> maps[0, 0, 2:4, 2:4] = 1
        >>> red = [photograph[:1] > 0.5]
        >>> masks = binarize(maps, [(60, 60)]), refine(maps, [photograph], side=60)
        >>> [round(float(iou(mask, red)), 2) for mask in masks]
        [0.86, 1.0]
    """
    with needed_by("segmentation.refine", "grabcut"):
        import cv2

    check_not_empty(photographs)
    sizes = []
    for i, photograph in enumerate(photographs):
        if not (is_dense(photograph) and photograph.numel() and photograph.is_floating_point() and photograph.dim() == 3
                and len(photograph) == 3 and bool(((photograph >= 0) & (photograph <= 1)).all())):
            raise ValueError(f"photograph {i} is not a floating tensor (3, H, W) of RGB in [0, 1]; divide bytes by 255 "
                             "and do not preprocess")
        sizes.append(tuple(photograph.shape[1:]))
    check_counts(side=side)
    level = _level(maps, sizes, threshold)
    masks = []
    for each, photograph, size in zip(maps, photographs, sizes, strict=True):
        small = [max(1, round(length * side / min(size))) for length in size]
        copy = interpolate(photograph[None], size=small, mode="bilinear", antialias=True)[0].clamp(0, 1)
        colours = (255 * copy).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
        heat = _resized(each, small)
        cut = torch.stack([_cut(cv2, colours, (one / bar).cpu().numpy()) if bar > 0 else (one > bar).cpu()
                           for one, bar in zip(heat, level, strict=True)])
        masks.append(_resized(cut.float(), size) > 0.5)
    return masks


def _cut(cv2, colours, heat):
    """(H, W) bool by GrabCut, from bytes (H, W, 3) and a map (H, W) whose mask lies above 1."""
    guess = np.select([heat < SURE[0], heat > SURE[1], heat > 1], [cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_FGD],
                      cv2.GC_PR_BGD).astype(np.uint8)
    inside = np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if inside.any() and not inside.all():
        cv2.setRNGSeed(0)  # of the clusters that the colours begin with
        cv2.grabCut(colours, guess, None, np.zeros((1, 65)), np.zeros((1, 65)), CUTS, cv2.GC_INIT_WITH_MASK)
        inside = np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return torch.from_numpy(inside)


def _resized(maps, size):
    """(K, H, W) by bilinear interpolation."""
    return interpolate(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def single_maps(features: Maps, method: str, *, rank: int = 1, seed: int = 0) -> Maps:
    """One map per image, n × (1, h, w) in [0, 1] and normalized over the set, of what the images have in common.

    Args:
        features: maps of C ≥ 0 channels, as `feature_maps` returns them.
        method:

            - "nmf": of a factorization of `rank` 1 or 2, the factor that `matching.foreground` takes for the object; of
              a larger rank the sum of all factors, weighted by the squares of `matching.off_border`, so that parts of
              an object add up and what surrounds it leaves. Squares, beside first powers, were tried on the seven
              classes of VOC 2010 by which book/finding_objects.md chooses;
            - "pca": deep descriptor transforming (Wei et al. 2017): the positive part of the first principal component
              of the descriptors, centred over the set. Of its two signs, the one that is lower on the border of the
              maps;
            - "kmeans": two clusters of descriptors; the one that has fewer positions on the border, as 0 or 1;
            - "channel_sum": the sum over channels.
        rank: of "nmf".
        seed: of "nmf" and "kmeans".

    Raises:
        ValueError: another method.

    Example:
        >>> features = torch.rand(3, 16, 7, 7)
        >>> [single_maps(features, method).shape for method in ("nmf", "pca")]
        [torch.Size([3, 1, 7, 7]), torch.Size([3, 1, 7, 7])]
    """
    if method == "nmf":
        check_counts(rank=rank)
        found = factorize(features, rank, seed=seed).maps
        if rank > 2:
            weights = off_border(found) ** 2
            maps = [torch.einsum("k,khw->hw", weights.to(each), each)[None] for each in found]
        else:
            chosen = foreground(found)
            maps = [each[chosen:chosen + 1] for each in found]
    elif method == "pca":
        check_heatmaps(features, "features", signed=True)
        maps = _principal(features)
    elif method == "kmeans":
        check_maps(features)
        clusters = kmeans(torch.cat([to_matrix(each[None]) for each in features]), 2, seed=seed).U.mT
        shapes = [each.shape[1:] for each in features]
        parts = clusters.split([h * w for h, w in shapes], dim=1)
        found = [part.reshape(2, *shape) for part, shape in zip(parts, shapes, strict=True)]
        chosen = foreground(found)
        maps = [each[chosen:chosen + 1] for each in found]
    elif method == "channel_sum":
        check_heatmaps(features, "features")
        maps = [each.sum(0, keepdim=True) for each in features]
    else:
        raise ValueError(f"no method {method!r}; there are 'nmf', 'pca', 'kmeans' and 'channel_sum'")
    return normalized(torch.stack(maps) if isinstance(features, Tensor) else maps)


def multi_scale(*maps: Maps) -> list[Tensor]:
    """Maps of a set from photographs of several sizes, or from several networks: n × (K, h, w), their sum.

    Args:
        maps: each n × (K, ·, ·) ≥ 0 of the same factors, brought to mean one over the set. The sum is on the grid of
            the last.

    Raises:
        ValueError: no maps.

    Example:
        >>> multi_scale(torch.rand(1, 2, 7, 7), torch.rand(1, 2, 14, 14))[0].shape
        torch.Size([2, 14, 14])
    """
    if not maps:
        raise ValueError("no maps to add; pass those of each size, the largest last")
    for i, each in enumerate(maps):
        check_heatmaps(each, f"maps {i}")
        if (len(each), len(each[0])) != (len(maps[0]), len(maps[0][0])):
            raise ValueError(f"maps {i} are {len(each)} × {len(each[0])} factors, and maps 0 are {len(maps[0])} × "
                             f"{len(maps[0][0])}; pass maps of the same images and factors")
    sums = [torch.zeros_like(each) for each in maps[-1]]
    for coarse in maps:
        scale = 1 / max(float(torch.cat([each.flatten() for each in coarse]).mean()), 1e-12)
        sums = [total + scale * interpolate(each[None], size=total.shape[1:], mode="bilinear", align_corners=False)[0]
                for total, each in zip(sums, coarse, strict=True)]
    return sums


def _principal(features):
    """The positive part of the first principal component, image by image."""
    count = sum(each[0].numel() for each in features)
    mean = sum(each.double().sum((1, 2)) for each in features) / count  # (C,)
    scatter = sum(_descriptors(each, mean).mT @ _descriptors(each, mean) for each in features)  # (C, C)
    direction = torch.linalg.eigh(scatter).eigenvectors[:, -1]
    projected = [(_descriptors(each, mean) @ direction).reshape(1, *each.shape[1:]) for each in features]
    signs = [torch.cat([each, -each]).relu() for each in projected]
    chosen = foreground(signs)
    return [each[chosen:chosen + 1].to(features[0].dtype) for each in signs]


def _descriptors(maps, mean):
    """(h·w, C), centred."""
    return to_matrix(maps[None]).double() - mean


# --- ratios of areas ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Areas:
    """Pixels, image by image, of two sets of masks and of what they share; `areas` counts them.

    Example:
        >>> mask = torch.ones(1, 2, 2, dtype=torch.bool)
        >>> areas([mask], [~mask]).shared.tolist()
        [[[0]]]
    """

    shared: Tensor  #: (n, K, T) int64
    first: Tensor  #: (n, K)
    second: Tensor  #: (n, T)


def areas(first: Masks, second: Masks) -> Areas:
    """Count the pixels of masks n × (K, H, W), of masks n × (T, H, W) and of their intersections.

    Raises:
        ValueError: masks that are not bool or do not cover the same pixels.

    Example:
        >>> first = torch.tensor([[[True, True, False]]])
        >>> second = torch.tensor([[[False, True, True]], [[False, False, True]]])
        >>> counted = areas([first], [second])
        >>> counted.shared.tolist(), counted.first.tolist(), counted.second.tolist()
        ([[[1, 0]]], [[2]], [[2, 1]])
    """
    _check_masks(first)
    _check_masks(second)
    if len(first) != len(second):
        raise ValueError(f"masks of {len(first)} and of {len(second)} images; both sets need the same n ≥ 1 images")
    shared, sizes = [], []
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        if one.shape[1:] != other.shape[1:]:
            raise ValueError(f"image {i}: masks {tuple(one.shape)} and {tuple(other.shape)} are not (K, H, W) and "
                             f"(T, H, W) of one size; binarize(maps, sizes) to that of the ground truth")
        x, y = one.flatten(1).double(), other.flatten(1).double()  # exact up to 2⁵³ pixels
        shared.append(x @ y.mT)
        sizes.append((x.sum(1), y.sum(1)))
    return Areas(torch.stack(shared).long(), *(torch.stack(each).long() for each in zip(*sizes, strict=True)))


def _check_masks(masks):
    """Refuse what is not n ≥ 1 tensors (K, H, W) of bool, of one K."""
    check_not_empty(masks)
    for i, each in enumerate(masks):
        if not is_dense(each) or each.dtype != torch.bool or each.dim() != 3 or not each.numel():
            raise ValueError(f"masks of image {i} are {described(each)}, not bool (K, H, W); binarize maps, or compare "
                             "with a threshold")
        if len(each) != len(masks[0]):
            raise ValueError(f"image {i} has {len(each)} masks, and image 0 has {len(masks[0])}")


def iou(first: Masks, second: Masks) -> Tensor:
    """(K, T) intersection over union of each pair of masks, over the set (eq. 4.4); 0 where both are empty.

    Args:
        first: n × (K, H, W) bool.
        second: n × (T, H, W) bool, of the same images.

    Example:
        >>> mask = torch.tensor([[[True, True, False]]])
        >>> iou([mask], [mask.flip(2)])
        tensor([[0.3333]], dtype=torch.float64)
    """
    found = areas(first, second)
    shared = found.shared.sum(0).double()
    return shared / (found.first.sum(0)[:, None] + found.second.sum(0) - shared).clamp_min(1)


def containment(masks: Masks, targets: Masks) -> Tensor:
    """(K, T) share of each mask that lies in each target; 0 for an empty mask.

    Of factors in parts it is the intersection over factors, IoF (eq. 4.5); of parts in factors the intersection over
    parts, IoP (eq. 4.6), transposed.

    Args:
        masks: n × (K, H, W) bool.
        targets: n × (T, H, W) bool, of the same images.

    Example:
        >>> mask = torch.tensor([[[True, True, False]]])
        >>> containment([mask], [mask.flip(2)])
        tensor([[0.5000]], dtype=torch.float64)
    """
    found = areas(masks, targets)
    return found.shared.sum(0).double() / found.first.sum(0)[:, None].clamp_min(1)


# --- merging and matching -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Merged:
    """Masks of a set and, after them, unions of several of them; `merge` makes it.

    Example:
        >>> halves = torch.tensor([[[True, False]], [[False, True]]])
        >>> merge([halves], [halves.any(0, keepdim=True)]).members
        ((0,), (1,), (0, 1))
    """

    masks: list[Tensor]  #: n × (K + unions, H, W) bool
    members: tuple[tuple[int, ...], ...]  #: K + unions, which of the K masks each consists of


def merge(masks: Masks, targets: Masks, *, threshold: float = MERGE) -> Merged:
    """Masks n × (K, H, W), and behind them, for each of T targets, the union of those that lie in it (eq. 4.7–4.10).

    Unions of one mask and repeated ones are left out. With factors as masks and parts as targets it is the merging of
    factors, which needs ground truth; with parts as masks and factors as targets that of parts.

    Args:
        masks: n × (K, H, W) bool.
        targets: n × (T, H, W) bool, of the same images.
        threshold: a mask lies in a target if its `containment` is at least so much.

    Example:
        >>> halves = torch.tensor([[[True, False]], [[False, True]]])
        >>> merge([halves], [halves.any(0, keepdim=True)]).masks[0].tolist()
        [[[True, False]], [[False, True]], [[True, True]]]
    """
    _check_share(threshold)
    inside = containment(masks, targets) >= threshold
    members = [(k,) for k in range(len(inside))]
    for chosen in inside.mT:
        union = tuple(chosen.nonzero()[:, 0].tolist())
        if len(union) > 1 and union not in members:
            members.append(union)
    return Merged([_unions(each, members) for each in masks], tuple(members))


def _check_share(threshold):
    if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} is a share of a mask's area; take one from 0 to 1")


def _unions(masks, members):
    """(len(members), H, W) from masks (K, H, W)."""
    return torch.stack([masks[list(union)].any(0) for union in members])


def mutual_best(scores: Tensor) -> list[tuple[int, int]]:
    """Pairs (k, t) whose score > 0 is the highest of its row and of its column, in row order (section 4.3.2).

    Args:
        scores: (K, T).

    Example:
        >>> mutual_best(torch.tensor([[0.9, 0.2], [0.8, 0.0], [0.1, 0.3]]))
        [(0, 0), (2, 1)]
    """
    if not is_dense(scores) or scores.dim() != 2 or not scores.numel() or not bool(torch.isfinite(scores).all()):
        raise ValueError(f"scores are {described(scores)}; expected finite numbers (K, T), K, T ≥ 1")
    best = (scores == scores.amax(1, keepdim=True)) & (scores == scores.amax(0)) & (scores > 0)
    return [(k, t) for k, t in best.nonzero().tolist()]


@dataclass(frozen=True)
class Match:
    """A factor and what it shows.

    Example:
        >>> Match(0, ("head", "neck"), iou=0.7).parts
        ('head', 'neck')
    """

    factor: int  #: its place
    parts: tuple[str, ...]  #: one part, or several of which the union is matched
    iou: float  #: over the set


def match_parts(factors: Masks, parts: Masks, names: Sequence[str], *, threshold: float = MERGE) -> list[Match]:
    """What factors show, by the ground truth of all images (section 4.3.2, tables 4.1 and 4.4), in order of factors.

    Of the parts that lie in a factor (`merge`) the union is a further target. A factor and a target are a match if each
    has the highest IoU of the other, so that factors may stay without one.

    Args:
        factors: masks n × (K, H, W) bool.
        parts: masks n × (T, H, W) bool; what lies in none is one more part, "background".
        names: T, of the parts.
        threshold: as for `merge`.

    Example:
        >>> halves = torch.tensor([[[True, True, False, False]], [[False, False, True, True]]])
        >>> match_parts([halves], [halves[1:]], ["head"])
        [Match(factor=0, parts=('background',), iou=1.0), Match(factor=1, parts=('head',), iou=1.0)]
    """
    _check_masks(parts)
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != len(parts[0]):
        raise ValueError(f"names {names!r} for {len(parts[0])} parts; pass a sequence of as many")
    targets = _with_background(parts)
    merged, called = merge(targets, factors, threshold=threshold), (*names, "background")
    scores = iou(factors, merged.masks)
    return [Match(k, tuple(called[i] for i in merged.members[t]), float(scores[k, t])) for k, t in mutual_best(scores)]


def assemble_parts(factors: Masks, parts: Masks, images: Sequence[int]) -> list[Tensor]:
    """Masks of T parts made of K factors, by the ground truth of a few images: n × (T, H, W) bool (table 4.5).

    A factor goes to the part, or to the background, with which it has the highest IoU over the given images; a part is
    the union of its factors, and empty where it got none. For the thesis (section 4.4.2) a person assigned the factors
    after a look at the heatmaps of five images. Judge the masks on the other images.

    Args:
        factors: masks n × (K, H, W) bool.
        parts: masks n × (T, H, W) bool.
        images: the places of the images whose ground truth is used.

    Example:
        >>> factors = torch.eye(3, dtype=torch.bool).reshape(3, 1, 3)
        >>> parts = factors[:2].any(0, keepdim=True)
        >>> assemble_parts([factors], [parts], images=[0])[0].tolist()
        [[[True, True, False]]]
    """
    _check_masks(factors)
    _check_masks(parts)
    places = indices(images, "images").tolist()
    count = min(len(factors), len(parts))
    if not places or not all(0 <= i < count for i in places):
        raise ValueError(f"images {places} must be places in a set of {count}, one or more of them")
    scores = iou([factors[i] for i in places], _with_background([parts[i] for i in places]))  # (K, T + 1)
    owner = scores.argmax(1)
    return [torch.stack([each[owner == t].any(0) for t in range(scores.shape[1] - 1)]) for each in factors]


def _with_background(parts):
    return [torch.cat([each, ~each.any(0, keepdim=True)]) for each in parts]


@dataclass(frozen=True)
class Selected:
    """One mask per image: the factors that fitted the labelled image best; `one_shot` selects them.

    Example:
        >>> truth = torch.tensor([[True, False]])
        >>> one_shot([[torch.stack([truth, ~truth])]], 0, truth).members
        (0,)
    """

    masks: list[Tensor]  #: n × (1, H, W) bool
    candidate: int  #: the factorization they come from
    members: tuple[int, ...]  #: its factors
    iou: float  #: on the labelled image


def one_shot(candidates: Sequence[Masks], image: int, truth: Tensor, *, threshold: float = MERGE) -> Selected:
    """Select factors by the ground truth of one image: which factorization, and which of its factors, united.

    Of each factorization, every factor and the union of those that lie in the object (`merge`) compete; the one with
    the highest IoU on that image wins. Judge it on the other images.

    Args:
        candidates: masks n × (K, H, W) bool of several factorizations of one set, as of K = 2, 4, 6, 8.
        image: the place of the labelled one.
        truth: (H, W) bool, the object in it.
        threshold: as for `merge`.

    Example:
        >>> quarters = torch.eye(4, dtype=torch.bool).reshape(4, 1, 4)
        >>> halves = torch.stack([quarters[:2].any(0), quarters[2:].any(0)])
        >>> selected = one_shot([[halves], [quarters]], 0, quarters[:3].any(0))
        >>> selected.candidate, selected.members, selected.iou
        (1, (0, 1, 2), 1.0)
    """
    check_not_empty(candidates)
    if not is_dense(truth) or truth.dim() != 2:
        raise ValueError(f"truth is {described(truth)}, not bool (H, W)")
    check_counts(0, image=image)
    found = []
    for i, masks in enumerate(candidates):
        _check_masks(masks)
        if image >= len(masks):
            raise ValueError(f"image={image} is none of the {len(masks)} images of candidate {i}")
        augmented = merge([masks[image]], [truth[None]], threshold=threshold)
        scores = iou(augmented.masks, [truth[None]])[:, 0]
        found.append((float(scores.max()), -i, augmented.members[int(scores.argmax())]))
    score, i, members = max(found)
    return Selected([_unions(each, [members]) for each in candidates[-i]], -i, members, score)


# --- boxes --------------------------------------------------------------------------------------------------


def box(mask: Tensor) -> Box | None:
    """The box around the largest connected component (4-neighbours) of a mask (H, W); None for an empty one.

    Of components of one size it is the first in reading order.

    Returns:
        x_min, y_min, x_max, y_max, the first and last pixel, both inside.

    Example:
        >>> mask = torch.zeros(6, 8, dtype=torch.bool)
        >>> mask[1:3, 2:7] = True
        >>> box(mask)
        (2, 1, 6, 2)
    """
    if not is_dense(mask) or mask.dtype != torch.bool or mask.dim() != 2:
        raise ValueError(f"the mask is {described(mask)}, not bool (H, W)")
    labels, count = ndimage.label(mask.cpu().numpy())
    if count == 0:
        return None
    largest = 1 + int(torch.bincount(torch.as_tensor(labels).flatten(), minlength=count + 1)[1:].argmax())
    rows, columns = ndimage.find_objects(labels)[largest - 1]
    return columns.start, rows.start, columns.stop - 1, rows.stop - 1


def box_iou(first: Sequence[int], second: Sequence[int]) -> float:
    """Intersection over union of two boxes whose corners are pixels inside them, as PASCAL VOC counts.

    Args:
        first, second: x_min, y_min, x_max, y_max.

    Raises:
        ValueError: a box that ends before it begins, and what is no box.

    Example:
        >>> box_iou((0, 0, 3, 3), (2, 0, 5, 3))  # 8 pixels of 24
        0.3333333333333333
    """
    from torchvision import ops  # longer to import than torch

    corners = torch.stack([_corners(first), _corners(second)])
    corners[:, 2:] += 1  # the last pixel is inside
    return float(ops.box_iou(corners[:1], corners[1:]))


def _corners(box):
    """(4,) of a box, whatever comes behind them."""
    try:
        corners = torch.as_tensor(np.asarray(box)[:4].astype(float))
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"box {box!r} is none; expected x_min, y_min, x_max, y_max") from error
    if corners.shape != (4,) or not bool(torch.isfinite(corners).all() & (corners[2:] >= corners[:2]).all()):
        raise ValueError(f"box {box!r} ends before it begins, or is none; expected x_min, y_min, x_max, y_max")
    return corners


def corloc(boxes: Sequence[Box | None], truth: Sequence[Sequence[Sequence[int]]]) -> float:
    """Share of images whose box has an IoU of at least 0.5 with any of the image's true boxes (section 4.4.1).

    The thesis says that the IoU exceeds 0.5; one half counts here, as in the development kit of PASCAL VOC.

    Args:
        boxes: n, None where nothing was found.
        truth: n lists of boxes.

    Returns:
        The mean of a class's images; 0 ≤ CorLoc ≤ 1.

    Raises:
        ValueError: no boxes, not as many as lists of true ones, and what is no box.

    Example:
        >>> corloc([(0, 0, 9, 9), None], [[(0, 0, 9, 7)], [(0, 0, 9, 9)]])
        0.5
    """
    check_not_empty(boxes)
    check_not_empty(truth)
    if len(boxes) != len(truth):
        raise ValueError(f"{len(boxes)} boxes for {len(truth)} images; pass one box, or None, per image, n ≥ 1")
    try:
        of_images = [list(image) for image in truth]
    except TypeError as error:
        raise ValueError(f"true boxes are {described(truth)}; pass a list of boxes for each image") from error
    hits = [any(found is not None and box_iou(found, true) >= 0.5 for true in image)
            for found, image in zip(boxes, of_images, strict=True)]
    return sum(hits) / len(hits)
