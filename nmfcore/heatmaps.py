"""Heatmaps: factorize the activations of an image set jointly and look at U (thesis chapter 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from typing import overload

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .activations import capture, to_maps, to_matrix
from .nmf import NMF, nmf


@dataclass(frozen=True)
class Heatmaps:
    """K heatmaps for each of n images, and the factorization they come from."""

    maps: Tensor  # (n, K, H, W) in [0, 1] at the layer's resolution, normalized per factor over the set
    factors: NMF  # U (n·H·W, K), V (K, C)

    def resized(self, size: Sequence[int]) -> Tensor:
        """(n, K, *size) by bilinear interpolation, for overlay on images of height and width `size`."""
        return interpolate(self.maps, size=tuple(size), mode="bilinear", align_corners=False)


@overload
def heatmaps(model: nn.Module, images: Tensor, rank: int, *, layer: str, seed: int = ...,
             batch_size: int = ...) -> Heatmaps: ...
@overload
def heatmaps(model: nn.Module, images: Tensor, rank: Sequence[int], *, layer: str, seed: int = ...,
             batch_size: int = ...) -> list[Heatmaps]: ...
def heatmaps(model, images, rank, *, layer: str, seed: int = 0, batch_size: int = 16):
    """Factorize one layer's activations over a whole image set; the columns of U are heatmaps (section 4.2).

    model: any `nn.Module`, in evaluation mode. layer: the name of a ReLU in it.
    images: (n, 3, H, W), already normalized as the model expects.
    rank: K, or a sequence of ranks, which gives a list with one `Heatmaps` per rank.

    Each map is divided by its factor's maximum over the set, never per image: a concept that is absent from an image
    stays dark in it. Raises ValueError when the layer's output is not a non-negative feature map.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images must have shape (n, 3, H, W) with n ≥ 1, got {tuple(images.shape)}")
    maps = capture(model, layer, images, batch_size=batch_size)[layer]
    if maps.dim() != 4:
        raise ValueError(f"layer {layer!r} gives {tuple(maps.shape)}, not feature maps (n, C, H, W)")
    if (maps < 0).any():
        raise ValueError(f"layer {layer!r} has negative outputs (down to {maps.min().item():.3g}); "
                         f"name the ReLU that follows it")
    single = isinstance(rank, Number)
    ranks = [rank] if single else list(rank)
    # Each rank from its own start: a hierarchy over ranks should come from the data.
    results = [Heatmaps(normalized(to_maps(factors.U, maps.shape)), factors)
               for factors in nmf(to_matrix(maps), ranks, warm=False, seed=seed)]
    return results[0] if single else results


def normalized(maps: Tensor) -> Tensor:
    """(n, K, H, W) ≥ 0 divided by each factor's maximum over the set; a factor that is nowhere active stays 0."""
    peak = maps.amax((0, 2, 3), keepdim=True)
    return maps / torch.where(peak > 0, peak, 1)


def match(maps: Tensor, reference: Tensor) -> Tensor:
    """An order of the L factors in `maps` (n, L, H, W) whose first K are the partners of `reference` (n, K, H, W).

    Partners are one-to-one and maximize the summed correlation over the set (Hungarian algorithm); the L − K others
    follow. It gives the factors of two runs, two networks or two ranks the same order, and so the same colours.
    Returns (L,) indices. Raises ValueError when the sets differ or `maps` has fewer factors than `reference`.
    """
    n, L, *size = maps.shape
    if [n, *size] != [len(reference), *reference.shape[2:]] or reference.shape[1] > L:
        raise ValueError(f"maps {tuple(maps.shape)} must cover the same images as reference {tuple(reference.shape)}, "
                         f"with at least as many factors")
    _, partners = linear_sum_assignment(-correlation(reference, maps).cpu().numpy())  # rows come in order
    others = [k for k in range(L) if k not in partners]
    return torch.as_tensor([*partners, *others])


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation over a set of every map of `first` (n, K, H, W) with every map of `second` (n, L, H, W).

    Returns (K, L); a constant map correlates 0 with everything.
    """
    x, y = (to_matrix(maps).double() for maps in (first, second))
    x, y = (torch.where((z == z[0]).all(0), 0, z - z.mean(0)) for z in (x, y))  # a mean is rounded, a constant is not
    size = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return x.mT @ y / torch.where(size > 0, size, 1)
