"""The pretrained networks that photographs are shown to, with what each needs: its padding, and files for its maps.

    for net, backbone in of_profile("desk").items():  # VGG-19, ResNet-50
        maps = backbone.maps(birds.images(224, backbone.preprocess), kept="224-Bird")
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pooch
from torch import nn

from nmfcore import cam
from nmfcore.activations import reflection_padding
from nmfcore.feature_maps import Images, Maps, feature_maps
from nmfcore.networks import Preprocess, pretrained
from nmfcore.photographs import Photographs
from nmfcore.stored_maps import stored_maps

LABELS = {"student": "the student network", "vgg19": "VGG-19", "resnet50": "ResNet-50",
          "squeezenet1_1": "SqueezeNet"}  # as they are printed
# Of these factors one is the object (thesis section 4.3; SqueezeNet as VGG-19).
RANKS = {"student": 1, "vgg19": 1, "resnet50": 2, "squeezenet1_1": 1}
FOLDER = Path(pooch.os_cache("nmfcore")) / "maps"


@dataclass(frozen=True)
class Backbone:
    """A pretrained network and its preprocessing, which names the layer to factorize."""

    name: str  # as `networks.pretrained` calls it
    model: nn.Module
    preprocess: Preprocess

    @property
    def label(self) -> str:
        return LABELS[self.name]

    @property
    def layer(self) -> str:
        assert self.preprocess.layer is not None  # all of LABELS have one
        return self.preprocess.layer

    @property
    def rank(self) -> int:
        return RANKS[self.name]

    def padded(self) -> AbstractContextManager:
        """Within the block, reflection padding where batch normalization follows zero padding."""
        return reflection_padding(self.model) if self.name == "resnet50" else nullcontext()

    def maps(self, images: Images, *, layer: str | None = None, kept: str | None = None,
             batch_size: int = 16) -> Maps:
        """Feature maps of preprocessed images, at `layer` or at the network's own.

        Those of photographs on disk that `kept` names go to a file, `<network>-<kept>.maps` in the user's cache, as a
        second run should not take hours; all others stay in memory.
        """
        layer = layer or self.layer
        with self.padded():
            if kept is None or not isinstance(images, Photographs):
                return feature_maps(self.model, images, layer=layer, batch_size=batch_size)
            return stored_maps(self.model, images, FOLDER / f"{self.name}-{kept}.maps", layer=layer, batch_size=4)

    def grad_cam(self, images: Images) -> Maps:
        """Of each image the map of the class that the network sees in it."""
        with self.padded():
            return cam.grad_cam(self.model, images, layer=self.layer, batch_size=4)


def load(name: str, *, device: str = "cpu", download: bool = False) -> Backbone:
    """The network called `name`, one of LABELS, on a device. Raises ValueError for another and as `pretrained`."""
    if name not in LABELS:
        raise ValueError(f"no backbone {name!r}; there are {', '.join(LABELS)}")
    model, preprocess = pretrained(name, download=download)
    return Backbone(name, model.to(device), preprocess)


def of_profile(profile: str, device: str = "cpu") -> dict[str, Backbone]:
    """Those of a build, by name: of "quick" the student, else VGG-19 and ResNet-50, which "paper" alone downloads."""
    names = ("student",) if profile == "quick" else ("vgg19", "resnet50")
    return {name: load(name, device=device, download=profile == "paper") for name in names}


def sources(networks: Mapping[str, Backbone]) -> dict[str, Preprocess]:
    """{label: what says where the weights are from}, as `records.used` takes it."""
    return {backbone.label.replace("-", "_"): backbone.preprocess for backbone in networks.values()}
