"""Feature maps of image sets, through any model: the rule for what people call images is here.

An image set is a tensor (n, C, H, W), or any sequence of images (C, H_i, W_i) that may be read only when asked for: a
list, a `Dataset` of images or of (image, label), `photographs.Photographs`. A `DataLoader` is read into memory. With
`preprocess`, images may be PIL images, files, bytes and NumPy arrays. Maps of a set are a tensor (n, C, h, w) where all
images have one size, else a list of n tensors (C, h_i, w_i); iterating gives (C, h, w) in either case.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.data import DataLoader, Dataset, RandomSampler
from tqdm.auto import tqdm

from .activations import against_negatives
from .gate import (
    ForwardError,
    Layer,
    LayerName,
    Layout,
    check_channels,
    check_counts,
    described,
    find_layer,
    first_outputs,
    is_dense,
    layout,
    ready,
    running,
    unwrapped,
)
from .photographs import opened, upright

Images = Tensor | Sequence | Dataset | DataLoader
Maps = Tensor | Sequence[Tensor]
Preprocess = Callable[[Any], Tensor] | None

_TOO_SMALL = re.compile("too small|Padding size should be less|Kernel size can't be greater")  # as PyTorch says it
_CURE = ("pass preprocess=, which makes of RGB (3, H, W) in [0, 1] what the model expects (networks.pretrained gives "
         "one), or floating tensors (C, H, W), normalized")


def feature_maps(model: nn.Module, images: Images, *, layer: LayerName, channels: str | None = None, skip: int = 0,
                 preprocess: Preprocess = None, batch_size: int = 16, progress: bool = False) -> Tensor | list[Tensor]:
    """Activations of one layer for an image set: maps of C channels, on the model's device.

    Images of one size share batches; every image keeps its own size and proportions, and nothing is padded.

    Args:
        model: any `nn.Module`; run in evaluation mode and left as it was.
        images: an image set, already normalized as the model expects, unless there is a `preprocess`.
        layer: the name of a ReLU in the model, or the module itself; one that runs several times is taken at its first.
        channels: "last" for a layer that gives (n, H, W, C), "tokens" for (n, T, C), whose tokens without the first
            `skip` are square patches of the image, row by row; asked for where `gate.layout` is in doubt.
        skip: tokens in front that stand for no place: class token, registers.
        preprocess: gets each image as RGB (3, H, W) in [0, 1], or, if it takes no tensors, as a PIL image.
        batch_size: images that go through the model at a time.
        progress: show a bar.

    Returns:
        (n, C, h, w) where all images have one size, else a list of n tensors (C, h_i, w_i); float32 or float64, ≥ 0.

    Raises:
        ValueError: an empty set, what is not an image or too small for the network, and a layer's output that is not
            a non-negative feature map.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))
        >>> feature_maps(model, torch.rand(2, 3, 32, 48), layer="2").shape
        torch.Size([2, 8, 8, 12])
        >>> photographs = [torch.rand(3, 32, 48), torch.rand(3, 64, 32)]  # of two sizes
        >>> [maps.shape for maps in feature_maps(model, photographs, layer="2")]
        [torch.Size([8, 8, 12]), torch.Size([8, 16, 8])]
    """
    found = sorted(mapped(model, image_set(images, preprocess), layer, channels=channels, skip=skip,
                          batch_size=batch_size, progress=progress), key=lambda entry: entry[0])
    _, sizes, maps = zip(*found, strict=True)
    return torch.stack(maps) if len(set(sizes)) == 1 else list(maps)


def mapped(model: nn.Module, images: Sequence[Tensor], layer: LayerName, *, channels: str | None = None, skip: int = 0,
           batch_size: int = 16, progress: bool = False, signed: bool = False
           ) -> Iterator[tuple[int, torch.Size, Tensor]]:
    """(i, the image's shape, its maps (C, h, w)) for every image, in the order in which batches of a size fill up.

    Args:
        model, layer, channels, skip, batch_size, progress: as for `feature_maps`.
        images: as `image_set` returns them.
        signed: allow negative outputs.

    Raises:
        ValueError: as `feature_maps`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> for i, size, maps in mapped(model, image_set(torch.rand(2, 3, 9, 9)), "1"):
        ...     print(i, size, maps.shape)
        0 torch.Size([3, 9, 9]) torch.Size([8, 7, 7])
        1 torch.Size([3, 9, 9]) torch.Size([8, 7, 7])
    """
    model = unwrapped(model)
    check_channels(channels, skip)
    wanted = find_layer(model, layer)
    where: Layout | None = None
    for places, batch in batches(images, batch_size, progress=progress):
        # A model is not kept in another mode while the caller works.
        with running(model):
            batch = ready(model, batch, f"images {places[0]} and following")
            evidence: dict | None = {} if where is None else None
            with naming_images(model, wanted, places, batch):
                output = first_outputs(model, [wanted], batch, evidence=evidence)[wanted.name]
            if where is None:
                where = layout(wanted, output, len(batch), channels=channels, skip=skip,
                               evidence=(evidence or {})[wanted.name])
            maps = where.grid(output, batch.shape[2:], wanted.name)
            maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
            low, high = (float(value) for value in maps.aminmax())
            if not -torch.inf < low <= high < torch.inf:
                wrong = next(i for i, each in zip(places, maps, strict=True) if not torch.isfinite(each).all())
                raise ValueError(f"layer {wanted.name!r} gives numbers that are not finite for image {wrong}; a "
                                 "half-precision model may need float32")
            if low < 0 and not signed:
                raise ValueError(f"layer {wanted.name!r} has negative outputs (down to {low:.3g}); "
                                 f"{against_negatives(model, wanted.name, batch[:2], where.channels)}")
        for i, each in zip(places, maps, strict=True):
            yield i, batch.shape[1:], each


@contextmanager
def naming_images(model: nn.Module, layer: Layer, places: Sequence[int], batch: Tensor) -> Iterator[None]:
    """Within the block, an error of the model is said of the images that it was given.

    Args:
        model: the network, for the number of channels that it takes.
        layer: that was to be reached.
        places: of the images in the set.
        batch: (b, C, H, W) that the model was given.

    Raises:
        ValueError: images too small for the network, or of a shape that it does not take.

    Example:
        >>> from nmfcore.gate import find_layer, run
        >>> model, batch = nn.Sequential(nn.Conv2d(3, 8, 3)), torch.rand(1, 1, 9, 9)
        >>> with naming_images(model, find_layer(model, "0"), [7], batch):
        ...     run(model, batch)
        Traceback (most recent call last):
        nmfcore.gate.ForwardError: image 7 has shape (1, 9, 9), which the model does not take; its first convolution ...
    """
    try:
        yield
    except ForwardError as error:
        _, C, H, W = batch.shape
        if _TOO_SMALL.search(str(error)):
            raise ValueError(f"image {places[0]} of {H} × {W} pixels is too small for the network to reach layer "
                             f"{layer.name!r} ({error.__cause__}); enlarge it or leave it out") from error
        first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
        cure = ""
        if first is not None and first.in_channels != C:
            cure = f"; its first convolution takes {first.in_channels} channels"
            if C == 1 and first.in_channels == 3:
                cure += ", and a grey image can be expanded, image.expand(3, -1, -1)"
        raise ForwardError(f"image {places[0]} has shape {(C, H, W)}, which the model does not take{cure} "
                           f"({error.__cause__})") from error


# --- image sets ---------------------------------------------------------------------------------------------


def batches(images: Sequence[Tensor], batch_size: int, *,
            progress: bool = False) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """An `image_set` in batches of one size each: (places in the set, images (b, C, H, W)), each image once.

    Few images are held at a time, also where no two have the same size.

    Args:
        images: as `image_set` returns them.
        batch_size: b, at most.
        progress: show a bar.

    Example:
        >>> images = image_set([torch.rand(3, 8, 8), torch.rand(3, 8, 9), torch.rand(3, 8, 8)])
        >>> [(places, batch.shape) for places, batch in batches(images, 2)]
        [((0, 2), torch.Size([2, 3, 8, 8])), ((1,), torch.Size([1, 3, 8, 9]))]
    """
    check_counts(batch_size=batch_size)
    waiting: dict[tuple, list[tuple[int, Tensor]]] = defaultdict(list)

    def batch(size):
        places, group = zip(*waiting.pop(size), strict=True)
        return places, torch.stack(group)

    for i in tqdm(range(len(images)), disable=not progress, unit="image"):
        image = images[i]
        kind = (image.shape, image.dtype, image.device)
        waiting[kind].append((i, image))
        if len(waiting[kind]) == batch_size:
            yield batch(kind)
        elif sum(map(len, waiting.values())) == 4 * batch_size:  # of many sizes
            yield batch(max(waiting, key=lambda size: len(waiting[size])))
    for kind in list(waiting):
        yield batch(kind)


def of_one_shape(features: Maps, batch_size: int) -> Iterator[list[int]]:
    """Places of maps n × (C, h, w) in the set, in lists of at most `batch_size` whose maps have one shape.

    Example:
        >>> list(of_one_shape([torch.rand(4, 7, 7), torch.rand(4, 7, 9), torch.rand(4, 7, 7)], 8))
        [[0, 2], [1]]
    """
    same: dict[tuple, list[int]] = defaultdict(list)
    for i, each in enumerate(features):
        same[tuple(each.shape)].append(i)
    for places in same.values():
        yield from (places[i:i + batch_size] for i in range(0, len(places), batch_size))


def check_maps(features: Any, what: str = "features") -> None:
    """Refuse what is not n ≥ 1 tensors (C, h, w), of one C and floating.

    Args:
        features: maps of a set.
        what: they are called in the message.

    Raises:
        ValueError: for anything else.

    Example:
        >>> check_maps(torch.rand(2, 4, 7, 7))
        >>> check_maps(torch.rand(4, 7, 7))
        Traceback (most recent call last):
        ValueError: features are torch.float32 (4, 7, 7); expected (n, C, h, w), or n tensors (C, h, w)
    """
    if isinstance(features, Tensor) and features.dim() != 4:
        raise ValueError(f"{what} are {described(features)}; expected (n, C, h, w), or n tensors (C, h, w)")
    check_not_empty(features)
    for i, maps in enumerate([features[0]] if isinstance(features, Tensor) else features):
        if not is_dense(maps) or maps.dim() != 3 or not maps.is_floating_point() or not maps.numel():
            raise ValueError(f"{what} of image {i} are {described(maps)}; expected floating numbers (C, h, w)")
        if len(maps) != len(features[0]):
            raise ValueError(f"{what} of image {i} have {len(maps)} channels, and those of image 0 have "
                             f"{len(features[0])}")


def check_heatmaps(maps: Any, what: str = "maps", *, signed: bool = False) -> None:
    """Refuse what is not n ≥ 1 tensors (K, h, w), of one K and finite, or, unless signed, negative somewhere.

    Args:
        maps: heatmaps of a set.
        what: they are called in the message.
        signed: whether maps may be negative.

    Raises:
        ValueError: for anything else.

    Example:
        >>> check_heatmaps([torch.zeros(1, 7, 7), torch.full((1, 5, 9), torch.nan)])
        Traceback (most recent call last):
        ValueError: maps of image 1 are nan at (0, 0, 0); they must be finite
    """
    check_maps(maps, what)
    for i, each in enumerate(maps):
        wrong = ~torch.isfinite(each) if signed else ~(torch.isfinite(each) & (each >= 0))
        if bool(wrong.any()):
            place = tuple(wrong.nonzero()[0].tolist())
            raise ValueError(f"{what} of image {i} are {float(each[place]):g} at {place}; they must be finite"
                             + ("" if signed or not math.isfinite(each[place]) else " and not negative"))


def check_not_empty(images: Any) -> None:
    """Refuse a set without images, or whose number is unknown.

    Raises:
        ValueError: for either.

    Example:
        >>> check_not_empty(torch.rand(0, 3, 8, 8))
        Traceback (most recent call last):
        ValueError: there are no images: they must be a set with n ≥ 1, got (0, 3, 8, 8)
    """
    try:
        count = len(images)
    except TypeError as error:
        raise ValueError(f"images are {described(images)}, whose number is unknown; pass a sequence, as list(images) "
                         "is") from error
    if count == 0:
        shape = tuple(images.shape) if isinstance(images, Tensor) else "an empty sequence"
        raise ValueError(f"there are no images: they must be a set with n ≥ 1, got {shape}")


def image_set(images: Any, preprocess: Preprocess = None) -> Sequence[Tensor]:
    """What people call images as a sequence of floating tensors (C, H, W), each made when it is asked for.

    Args:
        images: see the top of this module.
        preprocess: as for `feature_maps`.

    Raises:
        ValueError: anything else; for a single image of a sequence when it is asked for.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> photographs = [Image.new("RGB", (48, 32)), np.zeros((32, 48, 3), "uint8")]
        >>> images = image_set(photographs, preprocess=lambda image: image - 0.5)
        >>> [image.shape for image in images]
        [torch.Size([3, 32, 48]), torch.Size([3, 32, 48])]
    """
    if isinstance(images, Tensor):
        if images.dim() != 4:
            raise ValueError(f"images must have shape (n, C, H, W) with n ≥ 1, got {tuple(images.shape)}")
    elif isinstance(images, DataLoader):
        if isinstance(images.sampler, RandomSampler):
            raise ValueError("the loader shuffles, so that nobody would know which map belongs to which image; make it "
                             "with shuffle=False, or pass its dataset")
        images = _read(images)
    elif isinstance(images, np.ndarray):
        if images.ndim != 4:
            raise ValueError(f"images are {described(images)}; expected (n, H, W, 3), or a list of arrays (H, W, 3)")
    elif isinstance(images, str | Path):
        raise ValueError(f"images are one name, {str(images)!r}; pass a list of files, or of a folder "
                         "photographs.Photographs(folder, side=224, preprocess=...)")
    elif isinstance(images, Image.Image):
        raise ValueError("images are a single PIL image; pass a list, [image]")
    elif isinstance(images, Mapping | Set | bytes) or not hasattr(images, "__getitem__"):
        raise ValueError(f"images are a {type(images).__name__}; pass a tensor (n, C, H, W), a sequence of images, as "
                         "list(images) is, a Dataset or a DataLoader")
    check_not_empty(images)
    if preprocess is not None and not callable(preprocess):
        raise ValueError(f"preprocess is {described(preprocess)}; expected a function of one image")
    return images if isinstance(images, _Prepared) else _Prepared(images, preprocess)


def _read(loader):
    """The images of a loader's batches, one by one."""
    images: list[Tensor] = []
    try:
        for batch in loader:
            batch = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
            if not isinstance(batch, Tensor) or batch.dim() != 4:
                raise ValueError(f"the loader gives {described(batch)}; expected images (b, C, H, W), or a tuple that "
                                 "begins with them")
            images += batch
    except (RuntimeError, TypeError) as error:  # as the loader's collate_fn raises them
        raise ValueError(f"the loader fails: {error}; pass its dataset, whose images may have several sizes") from error
    return images


class _Prepared(Sequence[Tensor]):
    """A sequence of images whose items are checked and, with `preprocess`, made fit for the model."""

    def __init__(self, images, preprocess):
        self.images, self.preprocess = images, preprocess

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = self.images[i]
        if isinstance(image, tuple | list) and len(image):  # (image, label)
            image = image[0]
        if self.preprocess is not None:
            image = _preprocessed(image, self.preprocess, i)
        if not is_dense(image) or not image.is_floating_point():
            raise ValueError(f"image {i} is {described(image)}; {_CURE}")
        if image.dim() != 3 or image.numel() == 0:
            raise ValueError(f"image {i} has shape {tuple(image.shape)}; expected (C, H, W) with H, W ≥ 1")
        return image


def _preprocessed(image, preprocess, i):
    """What `preprocess` makes of an image as it is: a tensor, or if it refuses one, the picture."""
    given, picture = image, None
    if isinstance(image, str | Path):

        image = opened(image)
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":
            raise ValueError(f"image {i} has more than 8 bits per channel, mode {image.mode}; save it with 8")
        picture = upright(image).convert("RGB")
        given = _unit(torch.from_numpy(np.array(picture)).permute(2, 0, 1), i)
    elif isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.dtype not in ("uint8", "float32", "float64"):
            raise ValueError(f"image {i} is {described(image)}; expected (H, W, 3) or (H, W), bytes or floating "
                             "numbers in [0, 1]")
        colours = np.repeat(image, 3, 2) if image.shape[2] == 1 else image[:, :, :3]
        given = _unit(torch.from_numpy(np.array(colours, order="C")).permute(2, 0, 1), i)
        picture = Image.fromarray((given.permute(1, 2, 0) * 255).round().byte().numpy())
    elif isinstance(image, Tensor) and image.dtype == torch.uint8:
        given = image.float() / 255
    elif not isinstance(image, Tensor) or not image.is_floating_point():
        raise ValueError(f"image {i} is {described(image)}; expected a tensor, a NumPy array, a PIL image or a file")
    try:
        try:
            return preprocess(given)
        except TypeError:  # as of torchvision's ToTensor
            if picture is None:
                raise
            return preprocess(picture)
    except (TypeError, RuntimeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"preprocess fails on image {i}, which it got as {described(given)}: {error}") from error


def _unit(pixels, i):
    """float32 in [0, 1]."""
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise ValueError(f"image {i} has floating numbers from {float(pixels.min()):g} to {float(pixels.max()):g}; "
                         "expected [0, 1]")
    return pixels.float()
