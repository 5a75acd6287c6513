"""Feature maps of image sets that do not fit in memory: in a memory-mapped file."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from ._files import replacing
from .activations import to_matrix
from .feature_maps import Images, Preprocess, image_set, mapped
from .gate import LayerName
from .photographs import changed_at

CHUNK = 2 ** 16  # rows of stored maps that are in memory at a time
_CLOSE = 0.01  # of the norm of an image's maps; on a GPU, in TF32, they differ by some thousandths with the batch


def order_key(rows):
    """A number that tells an image's rows (h·w, C) from those of other images, and from its mirror image's.

    Example:
        >>> rows = torch.tensor([[1.0], [2.0]])
        >>> order_key(rows) == order_key(rows.clone()), order_key(rows) == order_key(rows.flip(0))
        (True, False)
    """
    weights = (torch.arange(1, len(rows) + 1, device=rows.device, dtype=torch.float64) * 0.6180339887498949) % 1
    return float(rows.sum(1, dtype=torch.float64) @ weights)


def canonical_order(keys, shapes):
    """The images in an order that does not depend on the one they are given in, and the first row of each therein.

    Args:
        keys: n numbers, as `order_key` gives them.
        shapes: n × (h, w) of the images' maps.

    Example:
        >>> canonical_order([0.7, 0.2], [(2, 2), (3, 3)])
        ([1, 0], (9, 0))
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ends = np.cumsum([shapes[i][0] * shapes[i][1] for i in order]).tolist()
    starts = dict(zip(order, [0, *ends], strict=False))
    return order, tuple(starts[i] for i in range(len(order)))


@dataclass(frozen=True)
class StoredMaps(Sequence):
    """Feature maps of an image set in a memory-mapped file: a sequence of n tensors (C, h, w).

    Example:
        >>> matrix = torch.arange(6.0).reshape(6, 1)
        >>> stored = StoredMaps(matrix, shapes=((1, 2), (2, 2)), starts=(0, 2))
        >>> len(stored), stored[1].tolist()
        (2, [[[2.0, 3.0], [4.0, 5.0]]])
    """

    matrix: Tensor  #: (positions, C), mapped
    shapes: tuple[tuple[int, int], ...]  #: n × (h, w)
    starts: tuple[int, ...]  #: n, the first row of each image

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, i):
        first, (h, w) = self.starts[i], self.shapes[i]
        return self.matrix[first:first + h * w].mT.reshape(-1, h, w)


def stored_maps(model: nn.Module, images: Images, file: str | Path, *, layer: LayerName, channels: str | None = None,
                skip: int = 0, preprocess: Preprocess = None, batch_size: int = 16,
                progress: bool = False) -> StoredMaps:
    """`feature_maps` for a set whose maps do not fit in memory: they go to a file, and are mapped from there.

    The file holds 4 bytes per channel and position, and twice that is needed while it is written. It is complete or
    absent: what an interrupted run leaves beside it, the next one overwrites. Of several processes that ask for one
    file at a time, one writes it and the others wait, by means of an empty file `<file>.lock`, which stays. A file that
    is there is used again; the first image, the last one, and of `Photographs` those whose files have changed since are
    run to see that it holds the maps of this set.

    Args:
        model, images, layer, channels, skip, preprocess, batch_size, progress: as for `feature_maps`.
        file: where the maps are, or go.

    Raises:
        ValueError: `file` is something else, and as `feature_maps`.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from nmfcore.heatmaps import factorize
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        >>> images = torch.rand(4, 3, 16, 16)
        >>> with TemporaryDirectory() as folder:
        ...     stored = stored_maps(model, images, Path(folder) / "maps", layer="1")
        ...     maps = factorize(stored, 2).maps
        >>> len(maps), maps[0].shape
        (4, torch.Size([2, 16, 16]))
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
    found, written = {}, 0
    with replacing(file) as partial, tempfile.TemporaryFile(dir=file.parent) as draft:
        for i, _, maps in forward:
            rows = to_matrix(maps[None]).float().cpu().contiguous()
            found[i] = tuple(maps.shape[1:]), order_key(rows), written
            written += draft.write(rows.numpy().tobytes())
        shapes, keys, places = zip(*(found[i] for i in range(len(found))), strict=True)
        order, starts = canonical_order(keys, shapes)
        C = rows.shape[1]
        header = json.dumps({"__metadata__": {"shapes": json.dumps(shapes), "starts": json.dumps(starts)},
                             "maps": {"dtype": "F32", "shape": [written // (4 * C), C],
                                      "data_offsets": [0, written]}}).encode()
        header += b" " * (-len(header) % 8)
        with open(partial, "wb") as target:  # the safetensors format
            target.write(len(header).to_bytes(8, "little") + header)
            for i in order:
                draft.seek(places[i])
                target.write(draft.read(4 * C * shapes[i][0] * shapes[i][1]))


def _opened(file):
    try:
        with open(file, "rb") as source:
            length, size = int.from_bytes(source.read(8), "little"), file.stat().st_size
            header = json.loads(source.read(min(length, size)))
        about, entry = header["__metadata__"], header["maps"]
        if size != 8 + length + entry["data_offsets"][1]:
            raise ValueError(f"it has {size:,} bytes")
        matrix = torch.from_numpy(np.memmap(file, "<f4", "r+", 8 + length, tuple(entry["shape"])))
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
        same &= there.shape == here.shape and bool((there - here).norm() <= _CLOSE * here.norm())
    if not same:
        raise ValueError(f"{file} holds the maps of {len(stored)} images, which are not these {len(images)} as layer "
                         f"{layer!r} of this model sees them; delete it or name another file")
    return stored
