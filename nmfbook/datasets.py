"""Image sets, faces and labeled images: from a reader's folder, from the data folder, or from inside scikit-image
and scikit-learn.

The environment variable NMFCORE_DATA names the data folder. Everything returned carries `source`, the sentence
that a page prints to say which data it used.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import sklearn.datasets
import torch
from PIL import Image, ImageOps

from nmfcore.networks import data_folder
from nmfcore.photographs import SUFFIXES, describe_passed_over, listed, opened, readable

# name -> where it lies in the data folder, and what it is
FOLDERS = {
    "elephants": ("image_sets/icoseg/021 Elephants-safari June 2008-timd2000", "elephants, iCoseg"),
    "gymnasts": ("image_sets/icoseg/036 Gymnastics-3", "gymnasts, iCoseg"),
    "churches": ("imagenet/val/n03028079", "church buildings, ImageNet class 497, validation"),
    "stonehenge": ("image_sets/icoseg/009 Stonehenge-Stongehenge-rjt208", "Stonehenge, iCoseg"),
}


def _embedded(name: str) -> np.ndarray:
    import skimage.data  # here, since a machine that only trains and measures does without it

    return getattr(skimage.data, name)()


# name -> (H, W, 3) uint8: the photographs that ship inside scikit-image and scikit-learn
PHOTOGRAPHS: dict[str, Callable[[], np.ndarray]] = {
    "cat": lambda: _embedded("chelsea"), "portrait": lambda: _embedded("astronaut"),
    "rocket": lambda: _embedded("rocket"), "cup": lambda: _embedded("coffee"),
    "temple": lambda: sklearn.datasets.load_sample_image("china.jpg"),
    "flower": lambda: sklearn.datasets.load_sample_image("flower.jpg"),
    "motorcycle": lambda: _embedded("stereo_motorcycle")[0]}
# name -> image sets of them, as labels and loaders
EMBEDDED = {
    "motorcycle": ("two views of a motorcycle, Middlebury 2014 stereo data in scikit-image", [
        ("left", PHOTOGRAPHS["motorcycle"]), ("right", lambda: _embedded("stereo_motorcycle")[1])]),
    "objects": ("six photographs in scikit-image and scikit-learn",
                [(name, load) for name, load in PHOTOGRAPHS.items() if name != "motorcycle"]),
}
# name -> title, and the files by which the original is recognized, as torchvision stores them
ORIGINALS = {
    "fashion_mnist": ("Fashion-MNIST", {
        split: [f"FashionMNIST/raw/{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        for split, part in (("train", "train"), ("test", "t10k"))}),
    "cifar10": ("CIFAR-10", {"train": [f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)],
                             "test": ["cifar-10-batches-py/test_batch"]}),
    "svhn": ("SVHN", {split: [f"{split}_32x32.mat"] for split in ("train", "test")}),
}
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class ImageSet:
    images: torch.Tensor  # (n, 3, H, W) RGB in [0, 1]
    names: tuple[str, ...]  # n
    source: str


@dataclass(frozen=True)
class Faces:
    images: torch.Tensor  # (n, H, W) grey in [0, 1]
    source: str


@dataclass(frozen=True)
class LabeledImages:
    images: torch.Tensor  # (n, C, H, W) uint8
    labels: torch.Tensor  # (n,) int64, positions in `classes`
    classes: tuple[str, ...]
    source: str

    def inputs(self, enlarge: int = 1) -> torch.Tensor:
        """(n, C, H, W) float32 in [-1, 1], as networks take them. The same for every split: nothing is estimated.

        enlarge: of each pixel so many rows and columns, for images too small for a network.
        """
        return (self.images.float() / 127.5 - 1).repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)


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


def image_folder(path: str | Path, *, size: int | tuple[int, int] = 224, count: int | None = None,
                 recursive: bool = False) -> ImageSet:
    """The images of a folder in name order, all or the first `count`; see `read_images`.

    recursive: those of its sub-folders as well. What else the folder holds is counted and named in a UserWarning.
    Raises FileNotFoundError for a folder without images.
    """
    paths, others = listed(path, recursive=recursive) if Path(path).is_dir() else ([], [])
    rest = describe_passed_over(others, path)
    if not paths:
        raise FileNotFoundError(f"{readable(path)} holds no images ({', '.join(sorted(SUFFIXES))})"
                                f"{rest and f'; {rest}'}")
    if rest:
        warnings.warn(rest, stacklevel=2)
    paths = paths[:count]
    names = tuple(file.relative_to(path).with_suffix("").as_posix() for file in paths)
    return ImageSet(read_images(paths, size=size), names, f"{len(paths)} images of the folder {Path(path).name}")


def read_images(files: Sequence[str | Path | BinaryIO], *, size: int | tuple[int, int] = 224) -> torch.Tensor:
    """(n, 3, H, W) RGB in [0, 1] from paths or binary file objects.

    EXIF rotation is applied; grey, palette, alpha and CMYK become RGB. size: (H, W), or the length of the shorter
    side, the other following the set's median proportions. Each image is scaled to cover that size, without
    distortion, and its centre is cut out. A JPEG of more pixels than Pillow decodes at once is decoded at a reduced
    size. Raises ValueError naming a file that cannot be read.
    """
    if not files:
        raise ValueError("no images: the list of files is empty")
    return _stacked([opened(file) for file in files], size)


def pixels(images: torch.Tensor) -> np.ndarray:
    """(..., H, W, 3) uint8 of images (..., 3, H, W) in [0, 1]."""
    return (255 * images).round().byte().movedim(-3, -1).cpu().numpy()


def motorcycle_disparity(size: tuple[int, int]) -> torch.Tensor:
    """Where each pixel of the motorcycle's left view lies in the right one: x_right = x_left − disparity.

    size: (H, W) of the images as `image_set` returns them. Returns (H, W) in pixels of that size, NaN where the
    scene is hidden in the right view. The two views lose the same margins, so a shift stays a shift.
    """
    disparity = _embedded("stereo_motorcycle")[2].astype(np.float32)
    scale = max(size[0] / disparity.shape[0], size[1] / disparity.shape[1])
    field = Image.fromarray(np.where(np.isfinite(disparity), disparity, np.nan) * scale)
    return torch.from_numpy(np.array(ImageOps.fit(field, size[::-1], Image.Resampling.NEAREST)))


def faces() -> Faces:
    """The 2,429 faces of CBCL Face Database #1 (19 × 19) from the data folder, else scikit-image's 100 (25 × 25)."""
    folder = data_folder()
    paths = sorted((folder / "cbcl/train/face").glob("*.pgm")) if folder else []
    if paths:
        images = np.stack([np.asarray(opened(p)) for p in paths]) / 255
        return Faces(torch.from_numpy(images).float(), f"{len(paths):,} faces, CBCL Face Database #1, MIT")
    images = _embedded("lfw_subset")[:100]  # the other hundred are not faces
    return Faces(torch.from_numpy(images).float(), f"{len(images)} faces, Labeled Faces in the Wild, in scikit-image")


# --- labeled images -----------------------------------------------------------------------------------------


def labeled_images(name: str, *, split: str = "train", per_class: int | None = None,
                   download: bool = False) -> LabeledImages:
    """"fashion_mnist", "cifar10", "svhn", or "digits" (8 × 8, ships inside scikit-learn).

    The originals are looked for, as torchvision stores them, in the data folder and where earlier downloads lie; then
    the class folders `cifar10/<split>` and `svhn/<split>` of the data folder; then, with download=True, the originals
    are downloaded. Which of them it was is in `source`.

    split: "train" or "test"; "digits" has only "train". per_class: at most so many of each class, the first.

    Raises ValueError for an unknown name or split, for files that are damaged, and when nothing is found.
    """
    if name == "digits":
        if split != "train":
            raise ValueError("digits are not split; take split='train' and keep some of them for testing")
        images, labels = sklearn.datasets.load_digits(return_X_y=True)
        pixels = torch.from_numpy(np.round(images * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
        return first_of_each(pixels, labels, DIGITS, "handwritten digits, 8 × 8, in scikit-learn", per_class)
    if name not in ORIGINALS:
        raise ValueError(f"no labeled images {name!r}; there are {', '.join([*ORIGINALS, 'digits'])}")
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is neither 'train' nor 'test'")
    data, cache = data_folder(), _cache()
    title, files = ORIGINALS[name][0], ORIGINALS[name][1][split]
    for folder in filter(None, (data, cache)):
        if all((folder / file).is_file() for file in files):
            return _original(name, split, folder, per_class, download=False)
    classes = data / name / split if data else None
    if classes is not None and classes.is_dir():
        found = class_folders(classes, per_class=per_class)
        lossy = any(file.suffix.lower() in (".jpg", ".jpeg") for file in classes.glob("*/*"))
        return LabeledImages(found.images, found.labels, found.classes,
                             f"{len(found.labels):,} images of {title}, {split}, from class folders"
                             + (" of JPEG files, which are not the original pixels" if lossy else ""))
    if download:
        return _original(name, split, cache, per_class, download=True)
    raise ValueError(f"{title} ({split}) is not on this machine: neither {files[0]} nor the folder {name}/{split} in "
                     f"NMFCORE_DATA ({os.environ.get('NMFCORE_DATA') or 'not set'}), nor {cache / files[0]}; pass "
                     "download=True, set NMFCORE_DATA, or take 'digits', which needs neither")


def _cache() -> Path:
    """Where downloads lie: pooch's folder, or the same on Linux where there is no pooch."""
    try:
        import pooch
    except ImportError:
        return Path.home() / ".cache" / "nmfcore"
    return Path(pooch.os_cache("nmfcore"))


def class_folders(path: str | Path, *, size: int | tuple[int, int] | None = None,
                  per_class: int | None = None) -> LabeledImages:
    """Images of a folder that holds one folder per class; classes and images in name order.

    Grey if all of them are, else RGB. size: as in `read_images`; None keeps the pixels as they are, which takes
    images of one size. per_class: at most so many of each class, the first. What else lies in the folders is counted
    and named in a UserWarning.

    Raises ValueError for a folder without class folders, a class without images, and images of several sizes.
    """
    _check_per_class(per_class)
    content = sorted(Path(path).glob("*"))
    folders = [p for p in content if p.is_dir() and not p.name.startswith(".")]
    if not folders:
        raise ValueError(f"{path} holds no folders; expected one per class, with images inside")
    images, labels, others = [], [], [p for p in content if p not in folders]
    for label, folder in enumerate(folders):
        files, rest = listed(folder)
        files, others = files[:per_class], others + rest
        if not files:
            raise ValueError(f"class folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}); fill it or "
                             "remove it")
        for file in files:
            images.append(opened(file, whole=size is None))
            if size is None and images[-1].size != images[0].size:
                raise ValueError(f"{file} has {images[-1].size} pixels where others have {images[0].size}; pass size=")
        labels += [label] * len(files)
    if others:
        warnings.warn(describe_passed_over(others, path), stacklevel=2)
    if size is not None:
        pixels = (_stacked(images, size) * 255).round().byte()
        pixels = pixels[:, :1] if all(image.mode in ("1", "L") for image in images) else pixels
    else:
        mode = "L" if all(image.mode in ("1", "L") for image in images) else "RGB"
        pixels = torch.from_numpy(np.stack([np.asarray(image.convert(mode)) for image in images]))
        pixels = pixels[:, None] if mode == "L" else pixels.permute(0, 3, 1, 2).contiguous()
    return LabeledImages(pixels, torch.tensor(labels), tuple(f.name for f in folders),
                         f"{len(labels):,} images in {len(folders)} classes of the folder {Path(path).name}")


def _original(name, split, folder, per_class, download):
    """torchvision's reading of the official files, with checksums where it has them."""
    import torchvision

    if download:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        if name == "svhn":
            found = torchvision.datasets.SVHN(folder, split, download=download)
            images, labels, classes = torch.from_numpy(found.data), found.labels, DIGITS
        elif name == "cifar10":
            found = torchvision.datasets.CIFAR10(folder, split == "train", download=download)
            images, labels = torch.from_numpy(found.data).permute(0, 3, 1, 2), found.targets
            classes = tuple(found.classes)
        else:
            found = torchvision.datasets.FashionMNIST(folder, split == "train", download=download)
            images, labels, classes = found.data[:, None], found.targets, tuple(found.classes)
            if len(images) != len(labels) or images.dim() != 4:
                raise ValueError(f"{len(labels)} labels for images of shape {tuple(images.shape)}")
    except Exception as error:  # no connection, a wrong checksum, and what torchvision's parsers raise on damage
        file = folder / ORIGINALS[name][1][split][0]
        raise ValueError(f"{ORIGINALS[name][0]} ({split}) cannot be read at {file} ({error}); remove what is "
                         "there and pass download=True with a connection") from error
    return first_of_each(images, labels, classes, f"{ORIGINALS[name][0]}, {split}, the original files", per_class)


def first_of_each(images, labels, classes, source, per_class):
    """The first `per_class` images of each class, in the order they have."""
    _check_per_class(per_class)
    labels = torch.as_tensor(labels, dtype=torch.int64)
    if per_class is not None:
        keep = torch.cat([(labels == c).nonzero()[:per_class, 0] for c in range(len(classes))]).sort().values
        images, labels = images[keep], labels[keep]
        source = f"{len(labels):,} images of {source}"
    return LabeledImages(images.contiguous(), labels, classes, source)


def _check_per_class(per_class):
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class={per_class}; take at least 1, or None for all")


def _stacked(images, size):
    """(n, 3, H, W) from PIL images: scaled to cover the size, centre cut out."""
    if isinstance(size, int):
        ratio = float(np.median([image.width / image.height for image in images]))
        width, height = (round(size * max(side, 1)) for side in (ratio, 1 / ratio))
    else:
        height, width = size
    fitted = [ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BICUBIC) for image in images]
    return torch.stack([torch.from_numpy(np.array(image)) for image in fitted]).permute(0, 3, 1, 2).float() / 255
