"""Does a colour mean the same thing in two photographs? F1.2, on two views of which is known what shows the same point.

The stereo benchmark's structured light says which point of the left view is which of the right. The right view is
mirrored before it is factorized, so that agreement follows content and not position.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from nmfcore.feature_maps import Maps, feature_maps
from nmfcore.heatmaps import factorize
from nmfcore.matching import match
from nmfcore.networks import Preprocess

from .. import datasets

SIZE = (320, 480)  # of a view, height and width


@dataclass(frozen=True)
class Views:
    """The left view and the mirrored right one, and maps of either of one factorization or of two."""

    images: Tensor  # (2, 3, H, W)
    source: str
    features: Maps  # (2, C, h, w)

    def maps(self, rank: int, *, apart: bool = False, seed: int = 0) -> Tensor:
        """(2, K, H, W), factorized together, or apart and then matched."""
        def of(features):
            return factorize(features, rank, seed=seed).resized(SIZE).cpu()

        if not apart:
            return of(self.features)
        left, right = of(self.features[:1]), of(self.features[1:])
        return torch.cat([left, right[:, match(self.at_same_point(right[0])[None], left)]])

    @cached_property
    def _columns(self):
        """Where the right view shows each pixel of the left one, and whether it does."""
        disparity = datasets.motorcycle_disparity(SIZE)
        column = torch.arange(SIZE[1]) - disparity.nan_to_num(0)
        return column.round().long().clamp(0, SIZE[1] - 1), disparity.isfinite() & (column >= 0)

    @property
    def points(self) -> int:
        return int(self._columns[1].sum())

    def at_same_point(self, maps: Tensor) -> Tensor:
        """Maps (K, H, W) of the mirrored right view, read at the scene point of each pixel of the left view."""
        return maps.flip(-1).gather(2, self._columns[0].expand_as(maps))

    def agreement(self, maps: Tensor) -> dict[str, float]:
        """Share of points at which the strongest of (2, K, H, W) is the same: at corresponding points, at equal
        positions, and by chance between two colourings of the same proportions."""
        left, right = maps
        seen = self._columns[1]
        here, there, at_place = (values.argmax(0)[seen] for values in (left, self.at_same_point(right), right))
        shares = [torch.bincount(labels, minlength=len(left)).double() / seen.sum() for labels in (here, there)]
        return {"same_point": (here == there).double().mean().item(),
                "same_place": (here == at_place).double().mean().item(), "chance": float(shares[0] @ shares[1])}

    def correlations(self, maps: Tensor) -> list[float]:
        """Of each factor, between the heat at corresponding points."""
        left, right = maps[0], self.at_same_point(maps[1])
        return [float(np.corrcoef(a[self._columns[1]], b[self._columns[1]])[0, 1])
                for a, b in zip(left, right, strict=True)]


def views(model: nn.Module, preprocess: Preprocess, layer: str) -> Views:
    """Both, with their feature maps at a layer."""
    pair = datasets.image_set("motorcycle", size=SIZE)
    images = torch.stack([pair.images[0], pair.images[1].flip(-1)])
    on_device = preprocess(images.to(next(model.parameters()).device))
    return Views(images, pair.source, feature_maps(model, on_device, layer=layer))
