"""Heatmaps: factorize the activations of an image set jointly and look at U (thesis chapter 4).

Image sets and maps are those of `nmfcore.feature_maps`: maps of a set are a tensor (n, K, h, w) where all images have
one size, else a list of n tensors (K, h_i, w_i).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Number
from typing import overload

import torch
from PIL import ImageColor
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ._inputs import isolated
from .activations import to_matrix
from .feature_maps import Images, Maps, Preprocess, check_maps, feature_maps
from .gate import LayerName, listed
from .solver import REASONS, Factors, encode, nmf
from .stored_maps import CHUNK, StoredMaps, canonical_order, order_key


@dataclass(frozen=True)
class Heatmaps:
    """K heatmaps for each of n images, and the factorization they come from.

    Maps have the layer's resolution. They are in [0, 1], divided by `peak`; those of new images, in concepts that were
    found in others, may exceed 1.

    Example:
        >>> fit = factorize(torch.rand(4, 16, 7, 7), 3)
        >>> fit.maps.shape, fit.factors.V.shape, fit.resized((28, 28)).shape
        (torch.Size([4, 3, 7, 7]), torch.Size([3, 16]), torch.Size([4, 3, 28, 28]))
    """

    maps: Maps  #: (n, K, h, w), or n × (K, h, w)
    factors: Factors  #: U (positions of all images in turn, K), V (K, C)
    peak: Tensor  #: (K,) of each factor the maximum of U over the set that was factorized
    extract: Callable[[Images], Maps] | None = field(default=None, repr=False)  #: features, as `heatmaps` made them

    def of(self, images: Images) -> "Heatmaps":
        """Heatmaps of new images in the same concepts: V stays as it is, and a colour goes on meaning the same.

        The model that was given to `heatmaps` sees the images as it saw the first ones; see `of_features`. Several
        ranks share a pass through the model where each gets `of_features` of the same `feature_maps`.

        Args:
            images: as for `heatmaps`, of any sizes.

        Raises:
            ValueError: `factorize` made these heatmaps, which knows no model; and as `feature_maps`.

        Example:
            >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
            >>> fit = heatmaps(model, torch.rand(4, 3, 16, 16), 2, layer="1")
            >>> fit.of(torch.rand(1, 3, 32, 16)).maps.shape
            torch.Size([1, 2, 30, 14])
        """
        if self.extract is None:
            raise ValueError("these heatmaps were made by factorize, which knows no model; pass feature maps of the "
                             "new images to of_features, or make the heatmaps by heatmaps(model, images, ...)")
        return self.of_features(self.extract(images))

    @isolated()
    def of_features(self, features: Maps | StoredMaps) -> "Heatmaps":
        """Heatmaps of new images from their feature maps, which the same layer gave: U by `encode`, with V as it is.

        Maps are on the scale of those that were factorized, so that they may exceed 1. `factors` holds U and the error
        of the new images. On the set that was factorized the maps are the same up to the tolerance at which `nmf`
        stopped.

        Args:
            features: as for `factorize`, with the channels that were factorized.

        Raises:
            ValueError: another number of channels; maps that are negative or not finite.

        Example:
            >>> fit = factorize(torch.rand(4, 16, 7, 7), 3)
            >>> fit.of_features([torch.rand(16, 5, 9)]).maps[0].shape
            torch.Size([3, 5, 9])
        """
        start = time.perf_counter()
        A, shapes, back, chunk = _matrix(features)
        V = self.factors.V
        if A.shape[1] != V.shape[1]:
            raise ValueError(f"features have {A.shape[1]} channels, and the concepts {V.shape[1]}; take them from the "
                             "layer and the network that the heatmaps were made with")
        U = encode(A, V, chunk=chunk)
        V = V.to(U)
        error, iterations = _error(A, U, V), V.new_zeros((), dtype=torch.long)
        factors = Factors(U[back.to(U.device)], V, error, iterations, iterations + REASONS.index("tolerance"),
                          error.new_tensor(time.perf_counter() - start), "given")
        return replace(self, maps=_maps(factors.U, self.peak.to(U), shapes, features), factors=factors)

    def resized(self, size: Sequence) -> Maps:
        """The maps by bilinear interpolation, for overlay on images.

        Args:
            size: (H, W) of all images, or a sequence of n sizes, one per image.

        Returns:
            (n, K, H, W); of n sizes, a list of n tensors (K, H_i, W_i).

        Raises:
            ValueError: not one size per image.
        """
        one = isinstance(size[0], Number)
        sizes = [tuple(size)] * len(self.maps) if one else [tuple(each) for each in size]
        if len(sizes) != len(self.maps):
            raise ValueError(f"{len(sizes)} sizes for {len(self.maps)} images; pass one (H, W), or one per image")
        if one and isinstance(self.maps, Tensor):
            return interpolate(self.maps, size=sizes[0], mode="bilinear", align_corners=False)
        large = [interpolate(maps[None], size=each, mode="bilinear", align_corners=False)[0]
                 for maps, each in zip(self.maps, sizes, strict=True)]
        return torch.stack(large) if one else large


# --- from images to heatmaps --------------------------------------------------------------------------------


@overload
def heatmaps(model: nn.Module, images: Images, rank: int, *, layer: LayerName, channels: str | None = ...,
             skip: int = ..., preprocess: Preprocess = ..., seed: int = ..., batch_size: int = ...) -> Heatmaps: ...
@overload
def heatmaps(model: nn.Module, images: Images, rank: Sequence[int], *, layer: LayerName, channels: str | None = ...,
             skip: int = ..., preprocess: Preprocess = ..., seed: int = ...,
             batch_size: int = ...) -> list[Heatmaps]: ...
def heatmaps(model, images, rank, *, layer, channels=None, skip=0, preprocess=None, seed: int = 0,
             batch_size: int = 16):
    """Factorize one layer's activations over a whole image set; the columns of U are heatmaps (section 4.2).

    It is `factorize(feature_maps(model, images, layer=layer), rank)`; see there. What it returns remembers the model
    and how it was run, for `Heatmaps.of` new images.

    Args:
        model, images, layer, channels, skip, preprocess, batch_size: as for `feature_maps`.
        rank: K, or a sequence of ranks, which gives a list with one `Heatmaps` per rank.
        seed: of the start of the factorization.

    Raises:
        ValueError: as `feature_maps` and `nmf`.

    Example:
        >>> from nmfcore.networks import pretrained
        >>> model, preprocess = pretrained("student")
        >>> images = torch.rand(2, 3, 64, 64)
        >>> result = heatmaps(model, images, 3, layer=preprocess.layer, preprocess=preprocess)
        >>> result.maps.shape, result.resized((64, 64)).shape
        (torch.Size([2, 3, 4, 4]), torch.Size([2, 3, 64, 64]))
    """
    extract = partial(feature_maps, model, layer=layer, channels=channels, skip=skip, preprocess=preprocess,
                      batch_size=batch_size)
    fits = factorize(extract(images), rank, seed=seed)
    if isinstance(fits, Heatmaps):
        return replace(fits, extract=extract)
    return [replace(fit, extract=extract) for fit in fits]


@overload
def factorize(features: Maps | StoredMaps, rank: int, *, seed: int = ...) -> Heatmaps: ...
@overload
def factorize(features: Maps | StoredMaps, rank: Sequence[int], *, seed: int = ...) -> list[Heatmaps]: ...
@isolated()
def factorize(features, rank, *, seed: int = 0):
    """Joint NMF of the feature maps of an image set, over all positions of all images (eq. 4.1, 4.2).

    Each map is divided by its factor's maximum over the set, never per image: a concept that is absent from an image
    stays dark in it. The start of the factorization belongs to the images, not to their places in the set: another
    order of the images gives the same maps in that order, up to rounding.

    Args:
        features: maps of C ≥ 0 channels, from `feature_maps` or `stored_maps`.
        rank: K, or a sequence of ranks, which gives a list with one `Heatmaps` per rank.
        seed: of the start of the factorization.

    Raises:
        ValueError: features that are no maps, and as `nmf`.

    Example:
        >>> for result in factorize(torch.rand(2, 16, 7, 7), [1, 3]):
        ...     print(result.maps.shape, result.factors.U.shape, result.factors.V.shape)
        torch.Size([2, 1, 7, 7]) torch.Size([98, 1]) torch.Size([1, 16])
        torch.Size([2, 3, 7, 7]) torch.Size([98, 3]) torch.Size([3, 16])
    """
    ranks, single = listed(rank)
    A, shapes, back, chunk = _matrix(features)
    results = []
    # Each rank from its own start: a hierarchy over ranks should come from the data.
    for found in nmf(A, ranks, warm=False, seed=seed, chunk=chunk):
        factors = replace(found, U=found.U[back.to(found.U.device)])
        peak = factors.U.amax(0)
        peak = torch.where(peak > 0, peak, 1)
        results.append(Heatmaps(_maps(factors.U, peak, shapes, features), factors, peak))
    return results[0] if single else results


def normalized(maps: Maps) -> Maps:
    """Maps ≥ 0 divided by each factor's maximum over the set; a factor that is nowhere active stays 0.

    Example:
        >>> normalized(torch.tensor([[[[4.0, 2.0]], [[0.0, 0.0]]]])).tolist()  # two factors
        [[[[1.0, 0.5]], [[0.0, 0.0]]]]
    """
    peak = torch.stack([each.amax((1, 2)) for each in maps]).amax(0)[:, None, None]  # (K, 1, 1)
    peak = torch.where(peak > 0, peak, 1)
    return maps / peak if isinstance(maps, Tensor) else [each / peak for each in maps]


def _matrix(features):
    """Feature maps as rows in canonical order: A (positions, C), the shape of each image's maps (h, w), the row in A of
    each position of all images in turn, and how many rows to hold at a time."""
    if isinstance(features, StoredMaps):
        A, shapes, starts, chunk = features.matrix, features.shapes, features.starts, CHUNK
    else:
        check_maps(features)
        rows = [to_matrix(maps[None]) for maps in features]  # of each image (h·w, C)
        shapes, chunk = tuple((maps.shape[1], maps.shape[2]) for maps in features), None
        order, starts = canonical_order([order_key(each) for each in rows], shapes)
        A = torch.cat([rows[i] for i in order])
    back = torch.cat([torch.arange(first, first + h * w) for first, (h, w) in zip(starts, shapes, strict=True)])
    return A, shapes, back, chunk


def _error(A, U, V):
    """‖A − U V‖_F / ‖A‖_F, a part of the rows at a time; 0 where A is."""
    rest, whole = [], []
    for a, u in zip(A.split(CHUNK), U.split(CHUNK), strict=True):
        rest.append(torch.linalg.vector_norm(a - u @ V, dtype=torch.float64))
        whole.append(torch.linalg.vector_norm(a, dtype=torch.float64))
    size = torch.stack(whole).norm()
    return torch.stack(rest).norm() / torch.where(size > 0, size, 1)


def _maps(U, peak, shapes, features):
    """U (positions of all images in turn, K) divided by peak (K,), as maps in the form of `features`."""
    parts = U.split([h * w for h, w in shapes])
    maps = [part.mT.reshape(-1, h, w) / peak[:, None, None] for part, (h, w) in zip(parts, shapes, strict=True)]
    return torch.stack(maps) if isinstance(features, Tensor) else maps


# --- to look at ---------------------------------------------------------------------------------------------

# Okabe & Ito's palette, which readers with any kind of colour vision can tell apart; one colour per factor.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")


@isolated()
def overlay(images: torch.Tensor, maps: torch.Tensor, *, colors: Sequence[str] = COLORS,
            strength: float = 0.85) -> torch.Tensor:
    """Images under heatmaps, one colour per factor: (n, 3, H, W).

    The photograph is shown in grey, so that the colours belong to the factors alone. Where factors meet, the colour
    is their mean weighted by activation, and the opacity that of the strongest.

    Args:
        images: (n, 3, H, W) in [0, 1].
        maps: (n, K, H, W) in [0, 1].
        colors: at least K, as Pillow's `ImageColor` reads them.
        strength: opacity where a map is 1.

    Raises:
        ValueError: more factors than colours.

    Example:
        >>> overlay(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 3, 64, 64])
    """
    if maps.shape[1] > len(colors):
        raise ValueError(f"{maps.shape[1]} factors need more than the {len(colors)} colours given")
    grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)  # (n, 1, H, W)
    palette = maps.new_tensor([ImageColor.getrgb(color)[:3] for color in colors[:maps.shape[1]]]) / 255  # (K, 3)
    weight = maps.square() / maps.square().sum(1, keepdim=True).clamp_min(1e-6)
    color = torch.einsum("nkhw,kc->nchw", weight, palette)
    opacity = strength * maps.amax(1, keepdim=True).clamp(0, 1).sqrt()
    return (0.12 + 0.88 * grey) * (1 - opacity) + color * (0.7 + 0.3 * grey) * opacity
