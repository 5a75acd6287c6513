"""The data of the experiments, prepared once a process: inputs, labels, and what identifies them.

    load("digits").inputs  # (1000, 1, 16, 16)
    missing("cifar10_jpeg")  # None where it is at hand, else what would have to be there

Nothing is downloaded here: who measures brings the data.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from nmfcore.networks import data_folder

from ..datasets import ORIGINALS, LabeledImages, labeled_images

# name -> architecture of table 3.1 that is trained on it, and test samples of a class to hold out for want of others
SETS = {
    "digits": ("cifar10", 70),  # enlarged to 16 × 16
    "digits_mlp": ("fashion_mnist", 70),
    "cifar10_jpeg": ("cifar10", None),
    "cifar10": ("cifar10", None),
    "fashion_mnist": ("fashion_mnist", None),
    "svhn_1083": ("svhn", 15),  # the first 1,083 training crops
    "svhn": ("svhn", None),
    "esc10": ("urban_sounds", None),
}


@dataclass(frozen=True)
class Data:
    inputs: torch.Tensor  # (n, C, H, W) float32 in [-1, 1]
    labels: torch.Tensor  # (n,) int64
    test_inputs: torch.Tensor
    test_labels: torch.Tensor
    classes: int
    source: str
    sha256: str  # of the pixels and labels, the test set's included

    @property
    def provenance(self) -> dict:
        return {"source": self.source, "sha256": self.sha256}


def lacking(what: str, *patterns: str) -> str | None:
    """What `needs` says of the first pattern that no file or folder in NMFCORE_DATA fits, or None."""
    folder = data_folder()
    for pattern in patterns:
        if folder is None or not any(folder.glob(pattern)):
            return f"{what} ({pattern} in NMFCORE_DATA)"
    return None


def missing(name: str) -> str | None:
    """What is needed for a data set and not here, or None. Looks at names alone, so it costs nothing."""
    if name.startswith("digits"):
        return None
    folder = data_folder()
    if folder is None:
        return f"{name} (NMFCORE_DATA is not set)"
    wanted = {"cifar10_jpeg": ["cifar10/train", "cifar10/test"], "svhn_1083": ["svhn/train"],
              "esc10": ["ESC-50/meta/esc50.csv"]}.get(name) or [file for split in ORIGINALS[name][1].values()
                                                                for file in split]
    absent = [part for part in wanted if not (folder / part).exists()]
    return f"{name} ({absent[0]} in NMFCORE_DATA)" if absent else None


def hardware(device: str, width: float, precision: str) -> str | None:
    """What networks of so large a share of the thesis's channels want instead of a device, or None.

    A processor without instructions for bfloat16 does as told, ten times more slowly than in float32.
    """
    if device != "cpu":
        return None
    if width > 1 / 2:
        return "a GPU (full width)"
    return "a GPU, or a processor with AVX-512 (bfloat16)" if precision == "bfloat16" and not _fast(device) else None


def in_bfloat16(model: nn.Module, device: str) -> nn.Module:
    """The model, whose weights and layers' outputs become bfloat16.

    Where such instructions lack, numbers are rounded so and stay float32: both ways sums are taken in float32 and each
    output is rounded once, so that maps agree but for the order of sums.
    """
    model.bfloat16()
    if _fast(device):
        return model
    model.float().register_forward_pre_hook(lambda _, given: tuple(images.bfloat16().float() for images in given))
    for layer in model.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _layer, _given, output: output.bfloat16().float())
    return model


def _fast(device):
    """Whether bfloat16 is faster than float32."""
    return device != "cpu" or (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@lru_cache(maxsize=3)
def load(name: str, per_class: int | None = None, device: str = "cpu") -> Data:
    """A data set of `SETS`, or the first `per_class` training samples of each class; the test set is always whole.

    Raises ValueError for an unknown name and for data that is not at hand.
    """
    if name not in SETS:
        raise ValueError(f"no data {name!r}; there are {', '.join(SETS)}")
    lacking = missing(name)
    if lacking:
        raise ValueError(f"not at hand: {lacking}")
    held_out = SETS[name][1]
    if held_out is None:
        training, test = (_read(name, split) for split in ("train", "test"))
    else:
        training, test = _split(_read(name, "train"), held_out)
    if per_class is not None:
        of_class = [(training.labels == c).nonzero()[:per_class, 0] for c in range(len(training.classes))]
        training = _part(training, torch.cat(of_class).sort().values)
    digest = hashlib.sha256()
    for tensor in (training.images, training.labels, test.images, test.labels):
        digest.update(tensor.contiguous().numpy().tobytes())
    source = f"{training.source}; {len(test.labels):,} test samples"
    return Data(_inputs(name, training, device), training.labels.to(device), _inputs(name, test, device),
                test.labels.to(device), len(training.classes), source, digest.hexdigest())


def _read(name, split):
    if name == "esc10":
        from nmfbook.sounds import labeled_sounds  # with it comes librosa, which a machine may lack

        return labeled_sounds(name, split=split)
    images = labeled_images(name.split("_")[0] if name.startswith(("digits", "cifar10", "svhn")) else name, split=split)
    if name == "cifar10" and "JPEG" in images.source:
        raise ValueError("cifar10 are the original pixels, and only JPEG copies are at hand (cifar10_jpeg)")
    return images


def _split(images, held_out):
    """Training and test set of one: the last samples of each class are held out."""
    of_class = [(images.labels == c).nonzero()[:, 0] for c in range(len(images.classes))]
    return (_part(images, torch.cat([places[:-held_out] for places in of_class]).sort().values),
            _part(images, torch.cat([places[-held_out:] for places in of_class]).sort().values))


def _part(images, places):
    return LabeledImages(images.images[places], images.labels[places], images.classes,
                         f"{len(places):,} of {images.source}")


def _inputs(name, images, device):
    inputs = images.inputs(2 if name.startswith("digits") else 1)
    return inputs.to(device).contiguous(memory_format=torch.channels_last)
