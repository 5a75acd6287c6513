"""Photographs as they come: of any size, rotated, grey, damaged; read one at a time, so that a folder need not fit in
memory."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .datasets import SUFFIXES


class Photographs(Sequence[Tensor]):
    """An image set whose images are read from disk when they are asked for: `photographs[i]` is (3, h, w).

    paths: files in the order wanted, or one folder, whose images are taken in name order. side: length in pixels of
    each image's shorter side; the other one keeps the proportions. preprocess: turns (3, h, w) RGB in [0, 1] into what
    a network expects, as `networks.pretrained` returns it; without it, images are RGB in [0, 1].

    EXIF rotation is applied; grey, palette, alpha and CMYK become RGB. A JPEG file is decoded at the smallest scale
    that suffices, so that large photographs take little memory. Every file is decoded once at the beginning. One that
    is damaged, has more than 8 bits per channel where Pillow keeps them, or is a narrow strip, which would be enormous
    once its shorter side is `side`, is named in a UserWarning and left out.

    Raises FileNotFoundError for a folder or file that is not there and ValueError when no image is left.
    """

    paths: tuple[Path, ...]  # n, of the images that could be read
    sizes: tuple[tuple[int, int], ...]  # n, (h, w) of each image as it is returned
    left_out: tuple[Path, ...]  # files that could not be read

    def __init__(self, paths: str | Path | Iterable[str | Path], *, side: int,
                 preprocess: Callable[[Tensor], Tensor] | None = None):
        if side < 1:
            raise ValueError(f"side={side} is the shorter side of an image in pixels; take at least 1")
        self.side, self.preprocess = side, preprocess
        if isinstance(paths, str | Path):
            where = f"the folder {paths}"
            files = sorted(file for file in Path(paths).iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            where, files = "the list of files", [Path(file) for file in paths]
        readable = []
        for file in files:
            try:
                readable.append((file, _read(file, side).size[::-1]))
            except ValueError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
        if not readable:
            raise ValueError(f"{where} holds no image that can be read ({', '.join(sorted(SUFFIXES))}): "
                             f"{len(files)} tried")
        self.paths, self.sizes = zip(*readable, strict=True)
        self.left_out = tuple(file for file in files if file not in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i):
        """(3, h, w) float32, preprocessed. Raises ValueError if the file has become unreadable since."""
        image = self.rgb(i)
        return image if self.preprocess is None else self.preprocess(image)

    def rgb(self, i: int) -> Tensor:
        """(3, h, w) float32, RGB in [0, 1], to be looked at."""
        return torch.from_numpy(np.array(_read(self.paths[i], self.side))).permute(2, 0, 1) / 255


def _read(file, side):
    """An RGB image whose shorter side is `side`."""
    try:
        with Image.open(file) as image:
            image.draft(None, (2 * side, 2 * side))  # JPEG: decoded at 1/2, 1/4 or 1/8 if twice the side remains
            image.load()
            if max(image.size) > 25 * min(image.size):
                raise ValueError(f"a side of {image.width} × {image.height} is over 25 times the other; crop it")
            if image.mode[0] in "IF":
                raise ValueError(f"it has more than 8 bits per channel, mode {image.mode}; save it with 8")
            return ImageOps.exif_transpose(_scaled(image, side))
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged files make Pillow raise errors of many kinds
        raise ValueError(f"{file} cannot be read as an image ({error}); replace the file or remove it") from error


def _scaled(image, side):
    """RGB, scaled. Only palettes are converted before: of a large picture, a second copy is worth avoiding."""
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    scale = side / min(image.size)
    size = tuple(max(side, round(scale * length)) for length in image.size)
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0).convert("RGB")
