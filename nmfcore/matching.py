"""Comparing factors: of two starts, two networks or two ranks, by the maps that they give for the same images."""

from collections.abc import Sequence
from itertools import combinations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ._inputs import isolated
from .activations import to_matrix
from .feature_maps import Maps, check_heatmaps
from .gate import indices, listed
from .heatmaps import factorize
from .stored_maps import StoredMaps


@isolated()
def match(maps: Maps, reference: Maps) -> Tensor:
    """An order of the L factors in `maps` whose first K are the partners of the K factors of `reference`.

    Partners are one-to-one and maximize the summed correlation over the set (Hungarian algorithm); the L − K others
    follow. It gives the factors of two runs, two networks or two ranks the same order, and so the same colours.

    Args:
        maps: (n, L, H, W), or n × (L, H_i, W_i).
        reference: (n, K, H, W), or n × (K, H_i, W_i), of the same images.

    Returns:
        (L,) indices.

    Raises:
        ValueError: the sets differ, or `maps` has fewer factors than `reference`.

    Example:
        >>> maps = torch.eye(3).reshape(1, 3, 1, 3)
        >>> match(maps, maps[:, [2, 0]])
        tensor([2, 0, 1])
    """
    check_heatmaps(maps, signed=True)
    check_heatmaps(reference, "reference", signed=True)
    L = maps[0].shape[0]
    if [each.shape[1:] for each in maps] != [each.shape[1:] for each in reference] or reference[0].shape[0] > L:
        raise ValueError(f"maps {_described(maps)} must cover the same images as reference {_described(reference)}, "
                         f"with at least as many factors")
    _, partners = linear_sum_assignment(-_correlation(reference, maps).detach().cpu().numpy())  # rows come in order
    others = [k for k in range(L) if k not in partners]
    return torch.as_tensor([*partners, *others])


def correlation(first: Maps, second: Maps) -> Tensor:
    """Pearson correlation over a set of every map of `first` with every map of `second`: (K, L).

    A constant map correlates 0 with everything.

    Args:
        first: (n, K, H, W), or n × (K, H_i, W_i).
        second: (n, L, H, W), or n × (L, H_i, W_i), of the same images.

    Example:
        >>> first = torch.tensor([0.0, 1, 2, 3]).reshape(1, 1, 2, 2)
        >>> second = torch.cat([first, 3 - first, torch.ones_like(first)], 1)
        >>> correlation(first, second).round(decimals=6).tolist()
        [[1.0, -1.0, 0.0]]
    """
    check_heatmaps(first, "first", signed=True)
    check_heatmaps(second, "second", signed=True)
    return _correlation(first, second)


def _correlation(first, second):
    x, y = (_rows(maps).double() for maps in (first, second))
    if len(x) != len(y):
        raise ValueError(f"first {_described(first)} and second {_described(second)} must cover the same images")
    x, y = (torch.where((z == z[0]).all(0), 0, z - z.mean(0)) for z in (x, y))  # a mean is rounded, a constant is not
    size = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return x.mT @ y / torch.where(size > 0, size, 1)


def agreement(maps: Maps, reference: Maps) -> float:
    """Correlation of the maps with their partners in `reference`, which has as many; mean over factors.

    Args:
        maps, reference: as for `match`, with K = L.

    Example:
        >>> maps = torch.eye(3).reshape(1, 3, 1, 3)
        >>> round(agreement(maps, maps.flip(1)), 6)  # their order does not matter
        1.0
    """
    order = match(maps, reference)
    return float(_correlation(reference, maps)[:, order].diagonal().mean())


@isolated()
def stability(features: Maps | StoredMaps, ranks: Sequence[int], *, seeds: Sequence[int] = range(5)) -> Tensor:
    """How well starts agree: (ranks, pairs of seeds), the `agreement` of their maps at each rank.

    Where it is low, the maps of one start are one story among several.

    Args:
        features: maps of C ≥ 0 channels, as for `factorize`.
        ranks: R of them.
        seeds: of the starts.

    Raises:
        ValueError: fewer than two seeds, or what are no integers.

    Example:
        >>> stability(torch.rand(2, 8, 5, 5), [1, 3], seeds=range(3)).shape
        torch.Size([2, 3])
    """
    starts = indices(seeds, "seeds").tolist()
    if len(starts) < 2:
        raise ValueError(f"stability compares seeds; pass at least two, not {starts}")
    runs = [factorize(features, listed(ranks)[0], seed=seed) for seed in starts]
    return torch.tensor([[agreement(second.maps, first.maps) for first, second in combinations(fits, 2)]
                         for fits in zip(*runs, strict=True)], dtype=torch.float32)


def overlap(children: Maps, parents: Maps) -> Tensor:
    """The share of each child's activation that lies on each parent: (L, K) for L children and K parents.

    At a position where several parents are active, each owns as much of it as it contributes to the sum of all, and
    what lies where no parent is active is not counted. So rows sum to at most 1. With the maps of ranks K and K + 1,
    `overlap(...).argmax(1)` says which factor each child comes from; several may come from the same.

    Args:
        children: (n, L, H, W) ≥ 0, or n × (L, H_i, W_i).
        parents: (n, K, H, W) ≥ 0, or n × (K, H_i, W_i), of the same images.

    Example:
        >>> children = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).reshape(1, 2, 2, 2)
        >>> parents = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 1]]).reshape(1, 2, 2, 2)
        >>> overlap(children, parents).tolist()
        [[0.5, 0.0], [0.0, 1.0]]
    """
    check_heatmaps(children, "children")
    check_heatmaps(parents, "parents")
    x, y = (_rows(maps).double() for maps in (children, parents))
    if len(x) != len(y):
        raise ValueError(f"children {_described(children)} and parents {_described(parents)} must cover the same "
                         "images")
    total, mass = y.sum(1, keepdim=True), x.sum(0)
    owned = y / torch.where(total > 0, total, 1)
    return x.mT @ owned / torch.where(mass > 0, mass, 1)[:, None]


def border_share(maps: Maps) -> Tensor:
    """(K,) the share of each factor's activation, over the set, that lies on the border of the maps, a pixel wide.

    Example:
        >>> border_share(torch.ones(1, 1, 4, 4))
        tensor([0.7500], dtype=torch.float64)
    """
    check_heatmaps(maps)
    total, inside = (torch.stack([each.double().sum((1, 2)) for each in part]).sum(0)
                     for part in (maps, [each[:, 1:-1, 1:-1] for each in maps]))
    return (total - inside) / torch.where(total > 0, total, 1)


def off_border(maps: Maps) -> Tensor:
    """(K,) in [0, 1], how far each factor keeps off the border: one less its `border_share` over that of uniform maps.

    Objects are rarely cut off by the edge of a photograph, and backgrounds are (Wei et al. 2012). Zero where a factor
    has as large a share on the border as a uniform map, or a larger one.

    Example:
        >>> maps = torch.ones(1, 2, 4, 4)
        >>> maps[0, 1, 0] = maps[0, 1, :, 0] = 0
        >>> off_border(maps)  # 5 of the other's 9 positions are on the border, 12 of 16 of a uniform map
        tensor([0.0000, 0.2593], dtype=torch.float64)
    """
    share = border_share(maps)
    uniform = border_share([torch.ones_like(each[:1]) for each in maps])
    return (1 - share / uniform).clamp_min(0)


def foreground(maps: Maps) -> int:
    """Which factor is the object, without any ground truth (section 4.3.2): for one factor or two.

    Of two it is the one with less activation on the border of the maps, a pixel wide; the maps are `normalized`.

    Args:
        maps: (n, K, h, w), or n × (K, h_i, w_i).

    Raises:
        ValueError: more than two factors, which need a labelled image.

    Example:
        >>> centre = torch.zeros(5, 5)
        >>> centre[2, 2] = 1
        >>> foreground(torch.stack([1 - centre, centre])[None])
        1
    """
    check_heatmaps(maps)
    K = maps[0].shape[0]
    if K > 2:
        raise ValueError(f"no rule for {K} factors; take K = 1 (VGG) or 2 (ResNet), or select factors with a mask")
    border = [each.double().sum((1, 2)) - each[:, 1:-1, 1:-1].double().sum((1, 2)) for each in maps]
    return int(torch.stack(border).sum(0).argmin())


def _rows(maps):
    """(positions of all images, K)."""
    return to_matrix(maps) if isinstance(maps, Tensor) else torch.cat([to_matrix(each[None]) for each in maps])


def _described(maps):
    return tuple(maps.shape) if isinstance(maps, Tensor) else [tuple(each.shape) for each in maps]
