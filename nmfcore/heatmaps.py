"""Heatmaps: factorize the activations of an image set jointly and look at U (thesis chapter 4).

Image sets and maps are those of `nmfcore.feature_maps`: maps of a set are a tensor (n, K, h, w) where all images have
one size, else a list of n tensors (K, h_i, w_i).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from numbers import Number
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from filelock import FileLock
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ._inputs import isolated
from .activations import to_matrix
from .feature_maps import Images, Maps, Preprocess, check_maps, feature_maps, image_set, mapped
from .gate import LayerName, listed
from .photographs import changed_at
from .solver import Factors, nmf

_CHUNK = 2 ** 16  # rows of stored maps that are in memory at a time


@dataclass(frozen=True)
class Heatmaps:
    """K heatmaps for each of n images, and the factorization they come from."""

    maps: Maps  # (n, K, h, w), or n × (K, h, w), in [0, 1] at the layer's resolution, normalized over the set
    factors: Factors  # U (positions of all images in turn, K), V (K, C)

    def resized(self, size: Sequence) -> Maps:
        """The maps by bilinear interpolation, for overlay on images of height and width `size`: (n, K, *size).

        A sequence of n sizes, one per image, gives a list of n tensors (K, H_i, W_i).
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

    It is `factorize(feature_maps(model, images, layer=layer), rank)`; see there.
    """
    features = feature_maps(model, images, layer=layer, channels=channels, skip=skip, preprocess=preprocess,
                            batch_size=batch_size)
    return factorize(features, rank, seed=seed)


@overload
def factorize(features: "Maps | StoredMaps", rank: int, *, seed: int = ...) -> Heatmaps: ...
@overload
def factorize(features: "Maps | StoredMaps", rank: Sequence[int], *, seed: int = ...) -> list[Heatmaps]: ...
@isolated()
def factorize(features, rank, *, seed: int = 0):
    """Joint NMF of the feature maps of an image set, over all positions of all images (eq. 4.1, 4.2).

    features: maps of C ≥ 0 channels, from `feature_maps` or `stored_maps`.
    rank: K, or a sequence of ranks, which gives a list with one `Heatmaps` per rank.

    Each map is divided by its factor's maximum over the set, never per image: a concept that is absent from an image
    stays dark in it. The start of the factorization belongs to the images, not to their places in the set: another
    order of the images gives the same maps in that order, up to rounding.
    """
    ranks, single = listed(rank)
    if isinstance(features, StoredMaps):
        A, shapes, starts, chunk = features.matrix, features.shapes, features.starts, _CHUNK
    else:
        check_maps(features)
        rows = [to_matrix(maps[None]) for maps in features]  # of each image (h·w, C)
        shapes, chunk = tuple((maps.shape[1], maps.shape[2]) for maps in features), None
        order, starts = _canonical([_key(each) for each in rows], shapes)
        A = torch.cat([rows[i] for i in order])
    back = torch.cat([torch.arange(first, first + h * w) for first, (h, w) in zip(starts, shapes, strict=True)])
    results = []
    # Each rank from its own start: a hierarchy over ranks should come from the data.
    for found in nmf(A, ranks, warm=False, seed=seed, chunk=chunk):
        factors = Factors(found.U[back.to(found.U.device)], found.V, found.error, found.iterations, found.status)
        maps = _folded(factors.U, shapes)
        results.append(Heatmaps(normalized(torch.stack(maps) if isinstance(features, Tensor) else maps), factors))
    return results[0] if single else results


def normalized(maps: Maps) -> Maps:
    """Maps ≥ 0 divided by each factor's maximum over the set; a factor that is nowhere active stays 0."""
    peak = torch.stack([each.amax((1, 2)) for each in maps]).amax(0)[:, None, None]  # (K, 1, 1)
    peak = torch.where(peak > 0, peak, 1)
    return maps / peak if isinstance(maps, Tensor) else [each / peak for each in maps]


def _key(rows):
    """A number that tells an image's rows (h·w, C) from those of other images, and from its mirror image's."""
    weights = (torch.arange(1, len(rows) + 1, device=rows.device, dtype=torch.float64) * 0.6180339887498949) % 1
    return float(rows.sum(1, dtype=torch.float64) @ weights)


def _canonical(keys, shapes):
    """The images in an order that does not depend on the one they are given in, and the first row of each therein."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ends = np.cumsum([shapes[i][0] * shapes[i][1] for i in order]).tolist()
    starts = dict(zip(order, [0, *ends], strict=False))
    return order, tuple(starts[i] for i in range(len(order)))


def _folded(U, shapes):
    """Rows (positions of all images in turn, K) as n × (K, h, w)."""
    parts = U.split([h * w for h, w in shapes])
    return [part.mT.reshape(-1, h, w) for part, (h, w) in zip(parts, shapes, strict=True)]


# --- sets that do not fit in memory -------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredMaps(Sequence):
    """Feature maps of an image set in a memory-mapped file: a sequence of n tensors (C, h, w)."""

    matrix: Tensor  # (positions, C), mapped
    shapes: tuple[tuple[int, int], ...]  # n × (h, w)
    starts: tuple[int, ...]  # n: the first row of each image

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, i):
        first, (h, w) = self.starts[i], self.shapes[i]
        return self.matrix[first:first + h * w].mT.reshape(-1, h, w)


def stored_maps(model: nn.Module, images: Images, file: str | Path, *, layer: LayerName, channels: str | None = None,
                skip: int = 0, preprocess: Preprocess = None, batch_size: int = 16,
                progress: bool = False) -> StoredMaps:
    """`feature_maps` for a set whose maps do not fit in memory: they go to `file`, and are mapped from there.

    The file holds 4 bytes per channel and position, and twice that is needed while it is written. It is complete or
    absent: what an interrupted run leaves beside it, the next one overwrites. Of several processes that ask for one
    file at a time, one writes it and the others wait, by means of an empty file <file>.lock, which stays. A file that
    is there is used again; the first image, the last one, and of `Photographs` those whose files have changed since are
    run to see that it holds the maps of this set.

    Raises ValueError when `file` is something else, and as `feature_maps`.
    """
    file, images = Path(file), image_set(images, preprocess)
    file.parent.mkdir(parents=True, exist_ok=True)
    where: dict[str, Any] = {"channels": channels, "skip": skip}
    with FileLock(f"{file}.lock"):
        if file.exists():
            return _checked(file, model, images, layer, where)
        _write_maps(file, mapped(model, images, layer, batch_size=batch_size, progress=progress, **where))
        return _opened(file)


def _write_maps(file, forward):
    """Write what `mapped` gives, as the batches come, and put the images into their canonical order."""
    draft, partial = (file.with_name(f"{file.name}.{end}") for end in ("draft", "partial"))
    found, written = {}, 0
    try:
        with open(draft, "wb") as target:
            for i, _, maps in forward:
                rows = to_matrix(maps[None]).float().cpu().contiguous()
                found[i] = tuple(maps.shape[1:]), _key(rows), written
                written += target.write(rows.numpy().tobytes())
        shapes, keys, places = zip(*(found[i] for i in range(len(found))), strict=True)
        order, starts = _canonical(keys, shapes)
        C = rows.shape[1]
        header = json.dumps({"__metadata__": {"shapes": json.dumps(shapes), "starts": json.dumps(starts)},
                             "maps": {"dtype": "F32", "shape": [written // (4 * C), C],
                                      "data_offsets": [0, written]}}).encode()
        header += b" " * (-len(header) % 8)
        with open(draft, "rb") as source, open(partial, "wb") as target:  # the safetensors format
            target.write(len(header).to_bytes(8, "little") + header)
            for i in order:
                source.seek(places[i])
                target.write(source.read(4 * C * shapes[i][0] * shapes[i][1]))
        os.replace(partial, file)
    finally:
        draft.unlink(missing_ok=True)


def _opened(file):
    try:
        with open(file, "rb") as source:
            length, size = int.from_bytes(source.read(8), "little"), file.stat().st_size
            header = json.loads(source.read(min(length, size)))
        about, entry = header["__metadata__"], header["maps"]
        if size != 8 + length + entry["data_offsets"][1]:
            raise ValueError(f"it has {size:,} bytes")
        matrix = torch.from_file(str(file), shared=True, size=size // 4)[(8 + length) // 4:].view(entry["shape"])
        shapes = tuple((h, w) for h, w in json.loads(about["shapes"]))
        return StoredMaps(matrix, shapes, tuple(json.loads(about["starts"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not hold stored maps ({error}); delete it or name another file") from error


def _checked(file, model, images, layer, where):
    """The maps in `file`, if they are those of the images."""
    stored = _opened(file)
    same, written = len(stored) == len(images), file.stat().st_mtime_ns
    paths = getattr(images.images, "paths", ())
    edited = [i for i, path in enumerate(paths) if changed_at(path) >= written]
    for i in sorted({0, len(images) - 1, *edited}) if same else ():
        (_, _, maps), = mapped(model, image_set([images[i]]), layer, batch_size=1, **where)
        there, here = stored[i], maps.float().cpu()
        same &= there.shape == here.shape and torch.allclose(there, here, rtol=1e-3, atol=1e-3 * float(here.max()))
    if not same:
        raise ValueError(f"{file} holds the maps of {len(stored)} images, which are not these {len(images)} as layer "
                         f"{layer!r} of this model sees them; delete it or name another file")
    return stored


# --- comparing factors --------------------------------------------------------------------------------------


@isolated()
def match(maps: Maps, reference: Maps) -> Tensor:
    """An order of the L factors in `maps` (n, L, H, W) whose first K are the partners of `reference` (n, K, H, W).

    Partners are one-to-one and maximize the summed correlation over the set (Hungarian algorithm); the L − K others
    follow. It gives the factors of two runs, two networks or two ranks the same order, and so the same colours.
    Returns (L,) indices. Raises ValueError when the sets differ or `maps` has fewer factors than `reference`.
    """
    L = maps[0].shape[0]
    if [each.shape[1:] for each in maps] != [each.shape[1:] for each in reference] or reference[0].shape[0] > L:
        raise ValueError(f"maps {_described(maps)} must cover the same images as reference {_described(reference)}, "
                         f"with at least as many factors")
    _, partners = linear_sum_assignment(-correlation(reference, maps).cpu().numpy())  # rows come in order
    others = [k for k in range(L) if k not in partners]
    return torch.as_tensor([*partners, *others])


def correlation(first: Maps, second: Maps) -> Tensor:
    """Pearson correlation over a set of every map of `first` (n, K, H, W) with every map of `second` (n, L, H, W).

    Returns (K, L); a constant map correlates 0 with everything.
    """
    x, y = (_rows(maps).double() for maps in (first, second))
    x, y = (torch.where((z == z[0]).all(0), 0, z - z.mean(0)) for z in (x, y))  # a mean is rounded, a constant is not
    size = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return x.mT @ y / torch.where(size > 0, size, 1)


def agreement(maps: Maps, reference: Maps) -> float:
    """Correlation of the maps with their partners in `reference`, which has as many; mean over factors."""
    return float(correlation(reference, maps)[:, match(maps, reference)].diagonal().mean())


@isolated()
def stability(features: "Maps | StoredMaps", ranks: Sequence[int], *, seeds: Sequence[int] = range(5)) -> Tensor:
    """How well starts agree: (ranks, pairs of seeds), the `agreement` of their maps at each rank.

    Where it is low, the maps of one start are one story among several. Raises ValueError for fewer than two seeds.
    """
    if len(seeds) < 2:
        raise ValueError(f"stability compares seeds; pass at least two, not {list(seeds)}")
    runs = [factorize(features, ranks, seed=seed) for seed in seeds]
    return torch.tensor([[agreement(second.maps, first.maps) for first, second in combinations(starts, 2)]
                         for starts in zip(*runs, strict=True)], dtype=torch.float32)


def overlap(children: Maps, parents: Maps) -> Tensor:
    """The share of each child's activation that lies on each parent: (L, K) for L children and K parents.

    At a position where several parents are active, each owns as much of it as it contributes to the sum of all, and
    what lies where no parent is active is not counted. So rows sum to at most 1. With the maps of ranks K and K + 1,
    `overlap(...).argmax(1)` says which factor each child comes from; several may come from the same.
    """
    x, y = (_rows(maps).double() for maps in (children, parents))
    total, mass = y.sum(1, keepdim=True), x.sum(0)
    owned = y / torch.where(total > 0, total, 1)
    return x.mT @ owned / torch.where(mass > 0, mass, 1)[:, None]


def border_share(maps: Maps) -> Tensor:
    """(K,) the share of each factor's activation, over the set, that lies on the border of the maps, a pixel wide."""
    total, inside = (torch.stack([each.double().sum((1, 2)) for each in part]).sum(0)
                     for part in (maps, [each[:, 1:-1, 1:-1] for each in maps]))
    return (total - inside) / torch.where(total > 0, total, 1)


def foreground(maps: Maps) -> int:
    """Which factor is the object, without any ground truth (section 4.3.2): for one factor or two.

    Of two it is the one with less activation on the border of the maps, a pixel wide; the maps are `normalized`.
    Raises ValueError for more factors, which need a labelled image.
    """
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
