"""Pretrained networks through one function, whatever convention their weights were saved in.

::

    model, preprocess = pretrained("vgg19")
    activations = model.features[:36](preprocess(images))  # (n, 512, H/16, W/16), images (n, 3, H, W) in [0, 1]
    preprocess.layer, preprocess.source  # where heatmaps are read by default; which weights these are

Weights are looked for in `$NMFCORE_DATA/weights`, then among torchvision's, which are downloaded once. "student" is
a small network that comes with the package (its card is data/models/student.md) and stands in for VGG-19 offline.

VGG-19: Simonyan & Zisserman 2015. ResNet-50: He et al. 2016.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ._inputs import isolated
from .gate import logits, ready, run, running

MODELS = Path(__file__).resolve().parent / "models"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class Preprocess:
    """Photographs in [0, 1] to what a network was trained on: `(scale · images - mean) / std`, channel by channel.

    Example:
        >>> model, preprocess = pretrained("student")
        >>> preprocess(torch.rand(2, 3, 64, 64)).shape, preprocess.layer
        (torch.Size([2, 3, 64, 64]), 'features.13')
    """

    mean: tuple  #: of R, G and B, after scaling
    std: tuple  #: of R, G and B, after scaling
    scale: float  #: 1, or 255 for networks trained on raw bytes
    source: str  #: which weights the network carries
    layer: str | None  #: the deep ReLU layer to read heatmaps from; None where the network has none

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W) RGB in [0, 1], any floating type -> same shape, float32.

        Raises:
            ValueError: anything else.
        """
        if not (isinstance(images, torch.Tensor) and images.is_floating_point()):
            found = getattr(images, "dtype", type(images).__name__)
            raise ValueError(f"images are {found}; pass a floating tensor in [0, 1] (bytes: images.float() / 255)")
        if images.dim() < 3 or images.shape[-3] != 3:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (..., 3, H, W), RGB; a grey image "
                             "can be expanded, a channels-last one permuted")
        if images.numel() == 0:
            raise ValueError(f"images are empty: shape {tuple(images.shape)}")
        low, high = images.amin().item(), images.amax().item()
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # also catches NaN
            cure = "divide by 255" if high > 2 else "clamp to [0, 1] (a bicubic resize overshoots)"
            raise ValueError(f"images have values from {low:g} to {high:g}; expected [0, 1]: {cure}")
        mean, std = (torch.tensor(c, dtype=torch.float32, device=images.device)[:, None, None]
                     for c in (self.mean, self.std))
        return (images.float() * self.scale - mean) / std


@isolated()
def pretrained(name: str, *, weights: str | Path | None = None,
               download: bool = True) -> tuple[nn.Module, Preprocess]:
    """A pretrained network in evaluation mode, with frozen parameters, and the preprocessing its weights expect.

    A file may hold only the first part of a network (ResNet-50 up to `layer3`, VGG-19 without classifier). The
    modules that are not in it raise a RuntimeError when run, so that no output comes from untrained weights: read
    an earlier layer, stopping there.

    Args:
        name: "student", or a torchvision classification network ("vgg19", "resnet50", "squeezenet1_1", ...).
        weights: a safetensors file. Default: `$NMFCORE_DATA/weights/<name>*.safetensors` if there is one, else
            torchvision's weights (IMAGENET1K_V1 where they exist), from its cache or downloaded.
        download: whether the network may be used to get torchvision's weights.

    Returns:
        The model, an `nn.Module`, and its `Preprocess`.

    Raises:
        FileNotFoundError: no weights anywhere, or `weights` does not exist.
        ValueError: unknown name; a file that is damaged, or whose tensors do not fit the network.

    Example:
        >>> model, preprocess = pretrained("student")
        >>> model(preprocess(torch.rand(1, 3, 64, 64))).shape
        torch.Size([1, 512, 4, 4])
    """
    if name == "student":
        file = Path(weights) if weights is not None else MODELS / "student.safetensors"
        if not file.is_file():
            raise FileNotFoundError(f"no student weights at {file}: they come with the package and its repository; "
                                    "install it anew or clone it, or pass weights=")
        return _from_file(name, Student(), file)
    import torchvision  # longer to import than torch; the student and a reader's own networks need nothing of it

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = difflib.get_close_matches(str(name), ["student", *known], n=3)
        raise ValueError(f"unknown network {name!r}; did you mean {close}? Known: 'student' and torchvision's "
                         "classification networks")
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"no weights at {weights}")
    file = Path(weights) if weights is not None else _local_file(name, known)
    if file is not None:
        with torch.device("meta"):  # every parameter comes from the file; initializing them first would be waste
            model = torchvision.models.get_model(name, weights=None)
        return _from_file(name, model, file)
    return _from_torchvision(name, download)


def first_available(names: Sequence[str], *, download: bool = False) -> tuple[nn.Module, Preprocess]:
    """The first of `names` whose weights can be had, as `pretrained` returns it.

    Args:
        names: of networks, the one that is preferred first.
        download: as for `pretrained`.

    Raises:
        FileNotFoundError: none can.

    Example:
        >>> model, preprocess = first_available(["student", "vgg19"])
        >>> type(model).__name__
        'Student'
    """
    reasons = []
    for name in names:
        try:
            return pretrained(name, download=download)
        except FileNotFoundError as error:
            reasons.append(f"{name}: {error}")
    raise FileNotFoundError("none of the networks is available\n" + "\n".join(reasons))


def classifies(model: nn.Module) -> bool:
    """Whether a network of photographs gives scores (n, classes), which a black one of 64 × 64 pixels shows.

    It is false for a network that ends in feature maps, and where the weights that `pretrained` found end before the
    classifier. Raises what the model raises on such an image.

    Example:
        >>> classifies(pretrained("student")[0])  # it ends in feature maps
        False
    """
    if any(isinstance(module, _Absent) for module in model.modules()):
        return False
    with running(model):
        given = run(model, ready(model, torch.zeros(1, 3, 64, 64)))
    try:
        return logits(given, 1) is not None
    except ValueError:
        return False


# --- weights from a safetensors file ----------------------------------------------------------------------


def _local_file(name, known):
    """`$NMFCORE_DATA/weights/<name>*.safetensors`: the shortest, leaving out those of a longer name (vgg19_bn)."""
    folder = data_folder()
    if folder is None:
        return None
    files = (folder / "weights").glob(f"{name}*.safetensors")
    mine = [f for f in files if name == max((k for k in known if f.stem.startswith(k)), key=len)]
    return min(mine, key=lambda f: (len(f.name), f.name), default=None)


def _from_file(name, model, file):
    tensors, about, digest = _read(file)
    if _says(about, "stride_in_1x1", "true") or _says(about, "usage", "stride in the first 1x1"):
        for stage in (model.layer2, model.layer3, model.layer4):  # ResNet version 1; torchvision builds 1.5
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    _fill(model, _restore(tensors, file), file)
    convention, stated = _normalization(about)
    what = re.split(r",| \(", about.get("model", name))[0]
    source = f"{what}, local file {file.name}, sha256 {digest[:16]}"
    if not stated:
        source += ", normalization not stated (torchvision's assumed)"
    return _frozen(model), Preprocess(**convention, source=source, layer=_deep_layer(model))


def _read(file):
    """Tensors of a safetensors file, what its header and the .json beside it say about it, and its sha256.

    The sha256 is verified where the .json states one for a file of this name: a card may also describe the file
    that this one was made from.
    """
    about, cure = {}, "delete it and download it again"
    card = file.with_suffix(".json")
    if card.is_file():
        try:
            about = json.loads(card.read_text())
        except ValueError as error:
            raise ValueError(f"{card} is damaged ({error}); {cure}") from error
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    expected = about.get("sha256", about.get("sha256_of_this_file"))
    if expected and about.get("file") == file.name and digest != expected:
        raise ValueError(f"{file} is damaged or was changed: sha256 {digest}, {card.name} says {expected}; {cure}")
    try:
        with safe_open(file, "pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}, {**about, **(f.metadata() or {})}, digest
    except SafetensorError as error:
        raise ValueError(f"{file} is not a complete safetensors file ({error}); {cure}") from error


def _restore(tensors, file):
    """Stored tensors to float32 ones: half precision, int8 with a scale per row, low-rank products `W = U V`."""

    def value(key):
        if key not in tensors:
            raise ValueError(f"{file}: tensor {key!r} is missing")
        tensor, scale = tensors[key], tensors.get(f"{key}.scale")
        if scale is not None:
            return tensor.float() * scale.float()  # (rows, columns) * (rows, 1)
        if not tensor.is_floating_point() and not key.endswith("num_batches_tracked"):
            raise ValueError(f"{file}: integer tensor {key!r} has no {key + '.scale'!r}")
        return tensor.float() if tensor.is_floating_point() else tensor

    state = {}
    for key in tensors:
        base, _, suffix = key.rpartition(".")
        if suffix == "U":
            state[base] = value(key) @ value(f"{base}.V")  # (out, r) @ (r, in)
        elif not (suffix == "V" and f"{base}.U" in tensors) and not (suffix == "scale" and base in tensors):
            state[key] = value(key)
    return state


def _fill(model, state, file):
    """Put `state` into `model`. Whole children missing at its end are cut off; any other misfit is a ValueError."""
    wanted = model.state_dict()
    unexpected = sorted(state.keys() - wanted.keys())
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        first = missing[0].split(".")[0]
        children = [child for child, _ in model.named_children()]
        cut = children[children.index(first):] if first in children else []
        absent = [key for key in wanted if key.split(".")[0] in cut]
        if len(cut) < len(children) and not any(key in state for key in absent):
            for child in cut:
                setattr(model, child, _Absent(child, file.name))
            wanted, missing = model.state_dict(), []
    misshapen = [f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}" for key in wanted
                 if key in state and state[key].shape != wanted[key].shape]
    if missing or unexpected or misshapen:
        raise ValueError(f"{file} does not fit {type(model).__name__}: missing {missing[:4]}, "
                         f"unexpected {unexpected[:4]}, wrong shape {misshapen[:4]} (the first 4 of each)")
    model.load_state_dict({key: state.get(key, torch.tensor(0)) for key in wanted}, assign=True)


class _Absent(nn.Module):
    """In place of a layer whose weights a file does not hold."""

    def __init__(self, layer, file):
        super().__init__()
        self.layer, self.file = layer, file

    def forward(self, *_):
        raise RuntimeError(f"{self.file} holds no weights from {self.layer!r} on: read an earlier layer and stop there")


def _says(about, field, text):
    return text in str(about.get(field, "")).lower()


def _normalization(about):
    """`mean`, `std`, `scale` that a file's header or card states, and whether they do."""
    torchvisions = dict(mean=IMAGENET_MEAN, std=IMAGENET_STD, scale=1.0)
    text = " ".join(str(about.get(f, "")) for f in ("normalization", "normalisation")).lower()
    if "caffe" in text or "rgb255" in text or "0..255" in text:  # raw bytes minus a mean, RGB order, no division
        triple = re.search(r"([\d.]+),\s*([\d.]+),\s*([\d.]+)", str(about.get("mean", "")) or text)
        mean = tuple(float(value) for value in triple.groups()) if triple else CAFFE_MEAN
        return dict(mean=mean, std=(1.0, 1.0, 1.0), scale=255.0), True
    return torchvisions, "torchvision" in text


# --- weights from torchvision -----------------------------------------------------------------------------


def _from_torchvision(name, download):
    import torchvision

    choices = torchvision.models.get_model_weights(name)
    weights = choices.__members__.get("IMAGENET1K_V1", choices.DEFAULT)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
    absent = (f"no weights for {name!r}: neither {name}*.safetensors in $NMFCORE_DATA/weights "
              f"(NMFCORE_DATA={os.environ.get('NMFCORE_DATA', 'not set')}) nor {cached}")
    if not cached.is_file() and not download:
        raise FileNotFoundError(f"{absent}. Set NMFCORE_DATA, allow download=True, or use the network 'student'")
    prefix = re.search(r"-([0-9a-f]{8,})\.", cached.name)
    if cached.is_file() and prefix:
        digest = hashlib.sha256(cached.read_bytes()).hexdigest()
        if not digest.startswith(prefix[1]):
            raise ValueError(f"{cached} is damaged: sha256 {digest}; delete it and download it again")
    try:
        # Read once as plain tensors, so that nothing in the file can run code: the builder below, which alone
        # knows what else belongs to these weights (renamed keys, input transforms), unpickles it again.
        weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except URLError as error:
        raise FileNotFoundError(f"{absent}, and the download failed ({error.reason}). Set NMFCORE_DATA, go "
                                "online, or use the network 'student'") from error
    model = torchvision.models.get_model(name, weights=weights)
    transforms = weights.transforms()
    return _frozen(model), Preprocess(mean=tuple(transforms.mean), std=tuple(transforms.std), scale=1.0,
                                      source=f"torchvision {weights}", layer=_deep_layer(model))


# --- any network ------------------------------------------------------------------------------------------


def _frozen(model):
    return model.eval().requires_grad_(False)


def _deep_layer(model):
    """The deep layer with non-negative output to read heatmaps from: `layer3` of a ResNet, else the last ReLU
    before the classifier (the whole Fire module of a SqueezeNet, whose output is two ReLUs side by side)."""
    if hasattr(model, "layer3"):
        return "layer3"
    last = None
    for path, module in model.named_modules():
        if path.startswith("classifier"):
            continue
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            parent = path.rpartition(".")[0]
            last = parent if type(model.get_submodule(parent)).__name__ == "Fire" else path
    return last


class Student(nn.Module):
    """Small stand-in for VGG-19 up to its last ReLU (`features.35`): 512 non-negative channels at stride 16.

    forward: (n, 3, H, W) -> (n, 512, ⌈H/16⌉, ⌈W/16⌉). 1.96 million parameters, 0.38 GFLOP for 224 × 224 pixels.

    Example:
        >>> Student()(torch.rand(1, 3, 40, 64)).shape  # with random weights
        torch.Size([1, 512, 3, 4])
    """

    def __init__(self, width=160, context=320):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(),  # (n, 16, H/2, W/2)
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # (n, 32, H/4, W/4)
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),  # (n, 64, H/8, W/8)
            nn.Conv2d(64, width, 3, stride=2, padding=1), nn.ReLU(),  # (n, width, H/16, W/16)
            _Bottleneck(width), _Bottleneck(width),
            _Context(width, context, blocks=3),
            _Bottleneck(width),
            nn.Conv2d(width, 512, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x):
        return self.features(x)


class _Bottleneck(nn.Module):
    """Residual block."""

    def __init__(self, width):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width // 2, 1), nn.ReLU(),
            nn.Conv2d(width // 2, width // 2, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width // 2, width, 1),
        )  # fmt: skip

    def forward(self, x):
        return torch.relu(x + self.branch(x))


class _Context(nn.Module):
    """Residual block at half the resolution, where most weights are: there they cost a quarter, and see far."""

    def __init__(self, width, context, blocks):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, context, 3, stride=2, padding=1), nn.ReLU(),
            *(_Bottleneck(context) for _ in range(blocks)),
            nn.Conv2d(context, width, 1),
        )  # fmt: skip

    def forward(self, x):
        branch = self.branch(x).repeat_interleave(2, -2).repeat_interleave(2, -1)
        return torch.relu(x + branch[..., : x.shape[-2], : x.shape[-1]])


# --- where data lie ---------------------------------------------------------------------------------------


def data_folder() -> Path | None:
    """The folder named by the environment variable NMFCORE_DATA, or None when it is not set.

    Raises:
        FileNotFoundError: it is not there.

    Example:
        >>> import os
        >>> from pathlib import Path
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, NMFCORE_DATA="."):
        ...     data_folder() == Path(".")
        True
    """
    name = os.environ.get("NMFCORE_DATA")
    if not name:
        return None
    if not Path(name).is_dir():
        raise FileNotFoundError(f"NMFCORE_DATA={name} is not a folder; correct or unset it")
    return Path(name)
