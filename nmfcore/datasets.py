"""Image sets and faces: from a reader's folder, from the data folder, or from inside scikit-image and scikit-learn.

The environment variable NMFCORE_DATA names the data folder. Everything returned carries `source`, the sentence
that a page prints to say which data it used.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import skimage.data
import sklearn.datasets
import torch
from PIL import Image, ImageOps

# name -> where it lies in the data folder, and what it is
FOLDERS = {
    "elephants": ("image_sets/icoseg/021 Elephants-safari June 2008-timd2000", "elephants, iCoseg"),
    "gymnasts": ("image_sets/icoseg/036 Gymnastics-3", "gymnasts, iCoseg"),
    "churches": ("imagenet/val/n03028079", "church buildings, ImageNet class 497, validation"),
    "stonehenge": ("image_sets/icoseg/009 Stonehenge-Stongehenge-rjt208", "Stonehenge, iCoseg"),
}
# name -> loaders of the photographs that ship inside scikit-image and scikit-learn
EMBEDDED = {
    "motorcycle": ("two views of a motorcycle, Middlebury 2014 stereo data in scikit-image", [
        ("left", lambda: skimage.data.stereo_motorcycle()[0]),
        ("right", lambda: skimage.data.stereo_motorcycle()[1])]),
    "objects": ("six photographs in scikit-image and scikit-learn", [
        ("cat", skimage.data.chelsea), ("portrait", skimage.data.astronaut), ("rocket", skimage.data.rocket),
        ("cup", skimage.data.coffee), ("temple", lambda: sklearn.datasets.load_sample_image("china.jpg")),
        ("flower", lambda: sklearn.datasets.load_sample_image("flower.jpg"))]),
}
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class ImageSet:
    images: torch.Tensor  # (n, 3, H, W) RGB in [0, 1]
    names: tuple[str, ...]  # n
    source: str


@dataclass(frozen=True)
class Faces:
    images: torch.Tensor  # (n, H, W) grey in [0, 1]
    source: str


def data_folder() -> Path | None:
    """The folder named by NMFCORE_DATA, or None when it is not set. Raises FileNotFoundError when it is not there."""
    name = os.environ.get("NMFCORE_DATA")
    if not name:
        return None
    if not Path(name).is_dir():
        raise FileNotFoundError(f"NMFCORE_DATA={name} is not a folder; correct or unset it")
    return Path(name)


def image_set(*names: str, size: int | tuple[int, int] = 224, count: int | None = None) -> ImageSet:
    """The first image set of `names` that is in hand: one of `FOLDERS`, or one of `EMBEDDED`, which always is.

    size: the shorter side, or (H, W); see `image_folder`. count: at most so many, the first in name order.
    """
    for name in names:
        if name in EMBEDDED:
            source, loaders = EMBEDDED[name]
            loaders = loaders[:count]
            images = [Image.fromarray(load()) for _, load in loaders]
            return ImageSet(_stacked(images, size), tuple(label for label, _ in loaders), source)
        if name not in FOLDERS:
            raise ValueError(f"no image set {name!r}; there are {', '.join([*FOLDERS, *EMBEDDED])}")
        folder, source = data_folder(), FOLDERS[name][1]
        if folder and (folder / FOLDERS[name][0]).is_dir():
            found = image_folder(folder / FOLDERS[name][0], size=size, count=count)
            return ImageSet(found.images, found.names, f"{len(found.names)} photographs of {source}")
    raise FileNotFoundError(f"{' or '.join(names)} is not in the data folder; set NMFCORE_DATA to a folder that holds "
                            f"{' or '.join(FOLDERS[name][0] for name in names)}, or ask for {' or '.join(EMBEDDED)}")


def image_folder(path: str | Path, *, size: int | tuple[int, int] = 224, count: int | None = None) -> ImageSet:
    """The images of a folder in name order, all or the first `count`; see `read_images`.

    Raises FileNotFoundError for a folder without images.
    """
    paths = sorted(p for p in Path(path).glob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))})")
    paths = paths[:count]
    return ImageSet(read_images(paths, size=size), tuple(p.stem for p in paths),
                    f"{len(paths)} images of the folder {Path(path).name}")


def read_images(files: Sequence[str | Path | BinaryIO], *, size: int | tuple[int, int] = 224) -> torch.Tensor:
    """(n, 3, H, W) RGB in [0, 1] from paths or binary file objects.

    EXIF rotation is applied; grey, palette, alpha and CMYK become RGB. size: (H, W), or the length of the shorter
    side, the other following the set's median proportions. Each image is scaled to cover that size, without
    distortion, and its centre is cut out. Raises ValueError naming a file that cannot be read.
    """
    if not files:
        raise ValueError("no images: the list of files is empty")
    return _stacked([_opened(file) for file in files], size)


def motorcycle_disparity(size: tuple[int, int]) -> torch.Tensor:
    """Where each pixel of the motorcycle's left view lies in the right one: x_right = x_left − disparity.

    size: (H, W) of the images as `image_set` returns them. Returns (H, W) in pixels of that size, NaN where the
    scene is hidden in the right view. The two views lose the same margins, so a shift stays a shift.
    """
    disparity = skimage.data.stereo_motorcycle()[2].astype(np.float32)
    scale = max(size[0] / disparity.shape[0], size[1] / disparity.shape[1])
    field = Image.fromarray(np.where(np.isfinite(disparity), disparity, np.nan) * scale)
    return torch.from_numpy(np.array(ImageOps.fit(field, size[::-1], Image.Resampling.NEAREST)))


def faces() -> Faces:
    """The 2,429 faces of CBCL Face Database #1 (19 × 19) from the data folder, else scikit-image's 100 (25 × 25)."""
    folder = data_folder()
    paths = sorted((folder / "cbcl/train/face").glob("*.pgm")) if folder else []
    if paths:
        images = np.stack([np.asarray(_opened(p)) for p in paths]) / 255
        return Faces(torch.from_numpy(images).float(), f"{len(paths):,} faces, CBCL Face Database #1, MIT")
    images = skimage.data.lfw_subset()[:100]  # the other hundred are not faces
    return Faces(torch.from_numpy(images).float(), f"{len(images)} faces, Labeled Faces in the Wild, in scikit-image")


def _opened(path):
    try:
        image = ImageOps.exif_transpose(Image.open(path))  # a copy, so that every pixel has been read
    except Exception as error:  # damaged files make Pillow raise errors of many kinds
        raise ValueError(f"{path} cannot be read as an image ({error}); replace the file or remove it") from error
    if image.mode[0] in "IF":
        raise ValueError(f"{path} has more than 8 bits per channel (mode {image.mode}); save it with 8")
    return image


def _stacked(images, size):
    """(n, 3, H, W) from PIL images: scaled to cover the size, centre cut out."""
    if isinstance(size, int):
        ratio = float(np.median([image.width / image.height for image in images]))
        width, height = (round(size * max(side, 1)) for side in (ratio, 1 / ratio))
    else:
        height, width = size
    fitted = [ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BICUBIC) for image in images]
    return torch.stack([torch.from_numpy(np.array(image)) for image in fitted]).permute(0, 3, 1, 2) / 255
