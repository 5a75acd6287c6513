"""Feature visualization (thesis section 5.2): pictures made for rows of V, and how far the network tells them apart.

Photographs are factorized at several ranks. For each row of V a picture is made by gradient ascent, and shown to the
network that made it: its cosine with its own row, with the others, and that of noise. No experiment of the ledger: the
chapter calls what is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from nmfcore.heatmaps import factorize
from nmfcore.matching import match
from nmfcore.visualization import responses, visualize

from ..backbones import Backbone

NOISE = 8  # pictures of white noise


@dataclass(frozen=True)
class RowPictures:
    """Of each rank, in its order: heatmaps, pictures and cosines; a factor keeps its place as the rank grows."""

    maps: list[Tensor]  # (n, K, h, w) in [0, 1]
    pictures: list[Tensor]  # (K, 3, side, side)
    cosines: list[Tensor]  # (K, K): of each picture with each row
    noise: float  # mean cosine of white noise with the rows of the last rank

    def results(self) -> dict:
        """The cosines by rank, and that of noise, as they are kept in the record."""
        return {str(len(table)): table for table in self.cosines} | {"noise": self.noise}


def measure_rows(backbone: Backbone, layer: str, photographs: Tensor, ranks: Sequence[int], *, side: int, steps: int,
                 seed: int = 0) -> RowPictures:
    """Pictures of the rows of V at each rank, of photographs (n, 3, H, W) in [0, 1], and what the network says of them.

    layer: of the backbone's network. side, steps: as for `visualize`.
    """
    model, preprocess = backbone.model, backbone.preprocess
    device = next(model.parameters()).device
    features = backbone.maps(preprocess(photographs.to(device)), layer=layer, batch_size=2)
    heats = factorize(features, list(ranks), seed=seed)
    maps, orders = [torch.stack(list(heat.maps)) for heat in heats], [torch.arange(ranks[0])]
    for before, after in pairwise(maps):
        orders.append(match(after, before[:, orders[-1]]))
    rows = [heat.factors.V[order] for heat, order in zip(heats, orders, strict=True)]
    pictures = visualize(model, torch.cat(rows), layer=layer, preprocess=preprocess, side=side, steps=steps,
                         seed=seed).split(list(ranks))
    cosines = [responses(model, preprocess(own), V, layer=layer) for own, V in zip(pictures, rows, strict=True)]
    grain = torch.rand(NOISE, 3, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    noise = responses(model, preprocess(grain), rows[-1], layer=layer).mean()
    return RowPictures([of_rank[:, order].cpu() for of_rank, order in zip(maps, orders, strict=True)],
                       [own.cpu() for own in pictures], [table.cpu() for table in cosines], float(noise))


def own_and_other(results: Mapping, rank: int) -> tuple[float, float, int]:
    """Mean cosine with the own row and with the closest other one, and how many pictures are closest to their own."""
    table = np.array(results[str(rank)])
    own, other = table.diagonal(), np.where(np.eye(len(table), dtype=bool), -1, table).max(1)
    return float(own.mean()), float(other.mean()), int((own > other).sum())
