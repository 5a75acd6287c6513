"""Image retrieval: descriptors of feature maps, and where in an image the match lies (thesis chapter 5).

A descriptor is made in two steps. `describe` takes the feature maps of each image to a few rows, its local descriptors,
by one of the methods in `METHODS`; `pooled` whitens the rows and adds them up. `index.Index` searches them by cosines.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, normalize

from ._inputs import isolated
from .feature_maps import Maps, check_maps, of_one_shape
from .gate import described, is_dense, listed
from .segmentation import Box, box
from .solver import nmf

METHODS = {"mac": "MAC", "gem": "GeM", "rmac": "R-MAC", "crow": "CroW", "cam": "CAM", "nmf_v": "NMF V",
           "nmf_vu": "NMF V·U"}
INSIDE = 0.75  # section 5.3.1: the share of a query's heatmap that has to lie in its box
TOP = 0.3  # section 5.3.2: the share of a photograph that is taken for the match
POWER = 3.0  # of GeM, where it is not learned
RANK = 4  # as in figure 5.9; the text gives no other


_AT_ONCE = 32  # images


# --- local descriptors --------------------------------------------------------------------------------------


@isolated()
def describe(features: Maps, method: str, *, rank: int = RANK, boxes: "Sequence[Box | None] | None" = None,
             sizes: Sequence[tuple[int, int]] | None = None, maps: Maps | None = None, seed: int = 0) -> list[Tensor]:
    """Local descriptors of n images: n × (r_i, C), each row of length 1, or 0 where an image activates nothing.

    Half precision is computed in float32. The scale that U and V leave open is settled so that the columns of U, or Û,
    have length 1.

    Args:
        features: n maps (C, h, w) ≥ 0, as `feature_maps` returns them.
        method:

            - "mac": the maximum of each channel, one row (Tolias et al. 2016).
            - "gem": the generalized mean of each channel, with power 3, one row (Radenović, Tolias and Chum 2018).
            - "rmac": as "mac", in each of `rmac_regions`.
            - "crow": one row, the sum over positions weighted by (S / ‖S‖)^½, S the sum over channels, times
              `channel_weights` (Kalantidis et al. 2016).
            - "cam": one row for each of an image's `maps` (k, h, w), the sum over positions weighted by the map, times
              `channel_weights` (Jiménez et al. 2017).
            - "nmf_v": the rows of V of a factorization of each image at `rank`, its channels weighted (eq. 5.4).
            - "nmf_vu": Û Ûᵀ V instead, Û the heatmaps smoothed by a Gaussian (eq. 5.5 to 5.7).
        rank: of the NMF methods.
        boxes: of a query's object in pixels, one per image or None. Of the NMF methods those rows are kept whose
            heatmaps have over 75 % of their sum in the box; if there is none, a warning says so, and the row that comes
            closest is kept. For other methods, crop the images.
        sizes: n × (H, W) of the images in pixels, with `boxes`.
        maps: n × (k, h, w), for "cam".
        seed: of the factorizations.

    Raises:
        ValueError: an unknown method, features that are negative or not finite, a box outside its image, and boxes or
            maps that are missing or not wanted.

    Example:
        >>> features = torch.rand(3, 16, 7, 9)
        >>> [rows.shape for rows in describe(features, "nmf_v", rank=4)]
        [torch.Size([4, 16]), torch.Size([4, 16]), torch.Size([4, 16])]
        >>> describe(features, "mac")[0].shape
        torch.Size([1, 16])
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    check_maps(features)
    (rank,), _ = listed([rank])
    features = [_full(each) for each in features]
    for i, each in enumerate(features):
        if not bool(torch.isfinite(each).all()) or bool((each < 0).any()):
            raise ValueError(f"the features of image {i} are not finite and ≥ 0; name a layer that is a ReLU")
    by_nmf = method.startswith("nmf")
    if boxes is not None and (not by_nmf or sizes is None or not len(boxes) == len(sizes) == len(features)):
        raise ValueError(f"boxes need a method on NMF, not {method!r}, and one box and one size for each image")
    if (maps is not None) != (method == "cam"):
        raise ValueError(f"maps are for method 'cam', which needs them; method is {method!r}")
    if method == "mac":
        rows = [each.amax((1, 2))[None] for each in features]
    elif method == "gem":
        rows = [each.pow(POWER).mean((1, 2))[None].pow(1 / POWER) for each in features]
    elif method == "rmac":
        rows = [torch.stack([each[:, y:y + side, x:x + side].amax((1, 2))
                             for y, x, side in rmac_regions(*each.shape[1:])]) for each in features]
    elif by_nmf:
        rows = _factor_rows(features, method, rank, boxes, sizes, seed)
    else:
        weights = [_crow(each) for each in features] if maps is None else [_full(each) for each in maps]
        rows = [torch.einsum("khw,chw->kc", by, each) * channel_weights(each)
                for each, by in zip(features, weights, strict=True)]
    return [normalize(each, dim=1) for each in rows]


def channel_weights(features: Tensor) -> Tensor:
    """Weights (C,) of the channels of one map (C, h, w), log(Σ Q / Q_c), with Q_c the share of a channel's positions
    that are positive (eq. 5.4, after Kalantidis et al. 2016).

    A channel that is never active has weight 0.

    Example:
        >>> maps = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]]])
        >>> channel_weights(maps)  # rare ones weigh more
        tensor([0.4055, 1.0986, 0.0000])
    """
    active = (features > 0).float().mean((1, 2))
    return torch.where(active > 0, (active.sum() / active.clamp(min=torch.finfo(active.dtype).tiny)).log(), 0)


def rmac_regions(h: int, w: int, *, levels: int = 3) -> list[tuple[int, int, int]]:
    """Squares (top, left, side) that cover a map of h × w positions (Tolias, Sicre and Jégou 2016).

    Level l has squares of side ⌊2 min(h, w) / (l + 1)⌋, l along the shorter side. Along the longer one there are as
    many more as make neighbours at the coarsest level overlap most nearly by 40 %.

    Raises:
        ValueError: a map without positions, and fewer levels than one.

    Example:
        >>> rmac_regions(4, 4, levels=2)
        [(0, 0, 4), (0, 0, 2), (0, 2, 2), (2, 0, 2), (2, 2, 2)]
    """
    if min(h, w, levels) < 1:
        raise ValueError(f"a map of {h} × {w} positions has no regions on {levels} levels; take at least 1 each")
    short, long = min(h, w), max(h, w)
    more = 0 if h == w else min(range(1, 7), key=lambda n: abs(1 - (long - short) / n / short - 0.4))
    found = []
    for level in range(1, levels + 1):
        side = max(2 * short // (level + 1), 1)
        y, x = (_starts(length, side, level + (more if length > short else 0)) for length in (h, w))
        found += [(top, left, side) for top in y for left in x]
    return found


def _starts(length, side, count):
    return [0] if count == 1 else [i * (length - side) // (count - 1) for i in range(count)]


def _full(maps):
    """Half precision as float32: sums over positions and squares leave its range."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _crow(features):
    """(1, h, w): the weights of positions that CroW takes."""
    S = features.sum(0, keepdim=True)
    return normalize(S.flatten(), dim=0).sqrt().view_as(S)


def _factor_rows(features, method, rank, boxes, sizes, seed):
    rows = []
    for i, (heat, V) in enumerate(image_factors(features, rank, seed=seed)):
        if boxes is not None and boxes[i] is not None:
            kept = in_box(heat, boxes[i], sizes[i], f"image {i}")
            heat, V = heat[kept], V[kept]
        rows.append(mixed(heat, V) if method == "nmf_vu" else V)
    return rows


@isolated()
def image_factors(features: Maps, rank: int, *, solver: str = "hals", max_iter: int | None = None,
                  seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """n × heatmaps (K, h, w) of length 1 and V (K, C) of each image by itself, its channels weighted (eq. 5.4).

    Args:
        features: n maps (C, h, w) ≥ 0.
        rank: K.
        solver, max_iter, seed: as for `nmf`.

    Example:
        >>> heat, V = image_factors(torch.rand(2, 16, 7, 9), 4)[0]
        >>> heat.shape, V.shape
        (torch.Size([4, 7, 9]), torch.Size([4, 16]))
    """
    factors: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(features)
    for places in of_one_shape(features, _AT_ONCE):  # one batched factorization
        h, w = features[places[0]].shape[1:]
        A = torch.stack([features[i] * channel_weights(features[i])[:, None, None] for i in places])
        fit = nmf(A.flatten(2).mT, rank, solver=solver, max_iter=max_iter, seed=seed)
        for i, U, V in zip(places, fit.U, fit.V, strict=True):
            length = U.norm(dim=0)
            U, V = U / length.clamp(min=torch.finfo(U.dtype).tiny), V * length[:, None]
            factors[i] = U.mT.reshape(-1, h, w), V
    return factors


def mixed(heat: Tensor, V: Tensor) -> Tensor:
    """Û Ûᵀ V (K, C): each row of V takes in those whose heatmaps lie beside its own (eq. 5.5 to 5.7).

    Args:
        heat: (K, h, w), as `image_factors` gives them.
        V: (K, C).

    Example:
        >>> mixed(torch.rand(4, 7, 9), torch.rand(4, 16)).shape
        torch.Size([4, 16])
    """
    smooth = normalize(conv2d(heat[:, None], _gaussian(heat), padding=6).flatten(1), dim=1)
    return smooth @ smooth.mT @ V


def _gaussian(like):
    """(1, 1, 13, 13): variance 2 (section 5.3.1)."""
    line = torch.exp(-torch.arange(-6, 7, dtype=like.dtype, device=like.device) ** 2 / 4)
    square = line[:, None] * line
    return (square / square.sum())[None, None]


def share_inside(maps: Tensor, corners: Box, size: tuple[int, int]) -> Tensor:
    """The share (K,) of the sum of each map that lies in a box of its image.

    Positions that the box cuts count by the part inside.

    Args:
        maps: (K, h, w) ≥ 0 of one image.
        corners: x_min, y_min, x_max, y_max in pixels, both inside.
        size: (H, W) of the image.

    Raises:
        ValueError: a box that is not inside the image.

    Example:
        >>> share_inside(torch.ones(1, 2, 2), (0, 0, 31, 15), (32, 32))  # the upper half
        tensor([0.5000])
    """
    (x0, y0, x1, y1), (H, W) = corners, size
    if not (0 <= x0 <= x1 < W and 0 <= y0 <= y1 < H):
        raise ValueError(f"box {tuple(corners)} (x_min, y_min, x_max, y_max) does not lie in an image of {W} × {H} "
                         f"pixels")

    def covered(cells, length, first, last):
        edges = torch.arange(cells + 1, dtype=maps.dtype, device=maps.device) * (length / cells)
        return (edges[1:].clamp(max=last + 1) - edges[:-1].clamp(min=first)).clamp(min=0) * (cells / length)

    _, h, w = maps.shape
    weights = covered(h, H, y0, y1)[:, None] * covered(w, W, x0, x1)
    total = maps.sum((1, 2))
    return torch.where(total > 0, (maps * weights).sum((1, 2)) / total.clamp(min=torch.finfo(maps.dtype).tiny), 0)


def in_box(maps: Tensor, corners: Box, size: tuple[int, int], what: str = "the query") -> Tensor:
    """Places of the maps with over 75 % of their sum in a box of their image.

    If there is none, a warning says so, and the place of the one that comes closest is given.

    Args:
        maps: (K, h, w) ≥ 0 of one image.
        corners, size: as for `share_inside`.
        what: the image is called in the warning.

    Raises:
        ValueError: a box that is not inside the image.

    Example:
        >>> maps = torch.tensor([[[1.0, 1.0]], [[0.1, 0.9]]])
        >>> in_box(maps, (16, 0, 31, 15), size=(16, 32))  # the right half
        tensor([1])
    """
    share = share_inside(maps, corners, size)
    kept = (share > INSIDE).nonzero().flatten()
    if len(kept):
        return kept
    warnings.warn(f"{what}: no factor has over {INSIDE:.0%} of its heatmap in the box {tuple(corners)}; the one with "
                  f"{float(share.max()):.0%} is used", stacklevel=4)
    return share.argmax()[None]


# --- global descriptors -------------------------------------------------------------------------------------


def _checked(rows):
    """Local descriptors as a list of floating tensors (r_i, C)."""
    found = list(rows) if isinstance(rows, Sequence) or (is_dense(rows) and rows.dim()) else [rows]
    for i, each in enumerate(found):
        if not is_dense(each) or each.dim() != 2 or not each.is_floating_point() or not each.numel() \
                or each.shape[1] != found[0].shape[1] or not bool(torch.isfinite(each).all()):
            raise ValueError(f"descriptors of image {i} are {described(each)}; expected finite numbers (r, C), of one "
                             "C for all images")
    if not found:
        raise ValueError("there are no descriptors: expected those of n ≥ 1 images")
    return found


@dataclass(frozen=True)
class Whitening:
    """PCA-whitening: x ↦ P (x - mean), with P (d, C) the principal directions over their standard deviations.

    Example:
        >>> rows = torch.randn(500, 3) * torch.tensor([1.0, 5.0, 0.1])
        >>> white = Whitening.fit([rows])(rows)
        >>> white.std(0, correction=0).round(decimals=2)
        tensor([1., 1., 1.])
    """

    mean: Tensor  #: (C,)
    directions: Tensor  #: (d, C)

    @classmethod
    @isolated()
    def fit(cls, rows: Sequence[Tensor], *, dimensions: int | None = None) -> "Whitening":
        """Learned from local descriptors: of other images than those it will be used on.

        Rows of 0, as of images that activate nothing, have no direction and are left out. Directions whose variance is
        below a millionth of the largest are dropped: they are rounding, which whitening would blow up.

        Args:
            rows: n × (r_i, C).
            dimensions: the most to keep.

        Raises:
            ValueError: no direction is left.
        """
        X = torch.cat(_checked(rows)).double()
        X = X[X.any(1)] if bool(X.any()) else X
        mean = X.mean(0)
        _, spread, directions = torch.linalg.svd(X - mean, full_matrices=False)
        kept = int((spread ** 2 > 1e-6 * spread[0] ** 2).sum()) if bool(spread[0] > 0) else 0
        if kept == 0:
            raise ValueError(f"{len(X)} equal rows have no principal directions; learn from more images")
        kept = min(kept, dimensions or kept)
        deviation = spread[:kept, None] / len(X) ** 0.5
        return cls(mean.float(), (directions[:kept] / deviation).float())

    @isolated()
    def __call__(self, rows: Tensor) -> Tensor:
        """(r, C) to (r, d). A row of 0, of an image that activates nothing, stays 0: it is no point of the space."""
        return torch.where(rows.any(1, keepdim=True), (rows - self.mean) @ self.directions.mT, 0)


@isolated()
def pooled(rows: Sequence[Tensor], whitening: Whitening | None = None, *, regional: bool = False) -> Tensor:
    """Global descriptors (n, d) of length 1: the sum of each image's local descriptors, whitened.

    Args:
        rows: n × (r_i, C), as `describe` returns them.
        whitening: learned on other images; without, d = C.
        regional: bring rows to length 1 once more before adding them up, as R-MAC and CAM do.

    Raises:
        ValueError: no descriptors, and what are none.

    Example:
        >>> pooled([torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
        tensor([[0.7071, 0.7071]])
    """
    whitened = [each if whitening is None else whitening(each) for each in _checked(rows)]
    if regional:
        whitened = [normalize(each, dim=1) for each in whitened]
    return normalize(torch.stack([each.sum(0) for each in whitened]), dim=1)


# --- regions of the results ---------------------------------------------------------------------------------


def locate(maps: Maps, query: int, corners: Box, sizes: Sequence[tuple[int, int]]) -> "list[Box | None]":
    """A box in each of n images around what the query's box shows (section 5.3.2).

    Factors with over 75 % of the query's heatmap in its box are averaged (if there is none, a warning says so, and the
    closest is taken); the highest 30 % of each enlarged map are foreground, and the box goes around their largest
    connected region.

    Args:
        maps: n × (K, h, w) of a joint factorization, as `factorize` normalizes them.
        query: the place of the image that `corners` belong to.
        corners: x_min, y_min, x_max, y_max in pixels, both inside.
        sizes: n × (H, W) of the images in pixels.

    Returns:
        n boxes, None where the map is 0.

    Raises:
        ValueError: a box that is not inside its image.

    Example:
        >>> maps = torch.zeros(2, 1, 4, 4)
        >>> maps[0, 0, :2, :2] = maps[1, 0, 2:, 2:] = 1  # in opposite corners
        >>> locate(maps, 0, (0, 0, 19, 19), [(32, 32), (32, 32)])
        [(0, 0, 16, 16), (15, 15, 31, 31)]
    """
    kept = in_box(maps[query], corners, sizes[query], f"image {query}")
    found = []
    for each, size in zip(maps, sizes, strict=True):
        mean = each[kept].mean(0)[None, None]
        large = interpolate(mean, size=tuple(size), mode="bilinear", align_corners=False)[0, 0]
        bar = large.flatten().kthvalue(max(1, round((1 - TOP) * large.numel()))).values
        found.append(box(large > bar))
    return found
