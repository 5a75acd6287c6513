"""Co-localization (thesis section 4.4): a box around what photographs share, and how often it hits.

One map for each photograph becomes a mask by `segmentation.binarize`, and the box goes around the mask's largest
connected component. It is a hit if its IoU with any true box is at least one half; the share of hits is CorLoc. No
experiment of the ledger: the chapter calls what is here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nmfcore.feature_maps import Maps
from nmfcore.networks import classifies
from nmfcore.segmentation import Box, binarize, box, box_iou, multi_scale, single_maps

from ..annotated import BoxedSet, Crops
from ..backbones import Backbone

SIDE, LARGE = 224, 448  # of photographs, the shorter one in pixels
FACTORED = ("nmf", "pca", "kmeans", "channel_sum")  # from feature maps alone
COMPARED = ("nmf", "pca")  # at both sizes together, and at other thresholds
THRESHOLDS = [0.2, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


@dataclass(frozen=True)
class Hits:
    """Of one network on one set of photographs."""

    hits: dict[str, list[int]]  # "<method> <side>" -> image by image, 1 where the box is a hit
    curves: dict[str, list[float]]  # method -> CorLoc at each of THRESHOLDS
    boxes: dict[str, list[Box | None]]  # method -> the boxes


def features(backbone: Backbone, name: str, photographs: BoxedSet | Crops, side: int = SIDE) -> Maps:
    """Feature maps of a set, kept in a file for each network and size."""
    return backbone.maps(photographs.images(side, backbone.preprocess), kept=f"{side}-{name}")


def boxes_of(maps: Maps, sizes: Sequence[tuple[int, int]], **options) -> list[Box | None]:
    """A box for each image, none where its mask is empty."""
    return [box(mask[0]) for mask in binarize(maps, sizes, **options)]


def hits(boxes: Sequence[Box | None], truth: Sequence[Sequence[Box]], bar: float = 0.5) -> list[int]:
    """Image by image, 1 where the box is a hit: CorLoc is their mean."""
    return [int(drawn is not None and any(box_iou(drawn, true) >= bar for true in image))
            for drawn, image in zip(boxes, truth, strict=True)]


def measure_hits(backbone: Backbone, name: str, photographs: BoxedSet | Crops, seed: int = 0) -> Hits:
    """The boxes of every method and of the whole photograph; of a network that classifies of Grad-CAM, too."""
    sizes, truth = photographs.sizes, photographs.boxes
    near, far = ({method: single_maps(maps, method, rank=backbone.rank, seed=seed) for method in FACTORED}
                 for maps in (features(backbone, name, photographs, side) for side in (SIDE, LARGE)))
    if classifies(backbone.model):
        near["grad_cam"] = backbone.grad_cam(photographs.images(SIDE, backbone.preprocess))
    both = {method: multi_scale(near[method], far[method]) for method in COMPARED}
    scored = {f"{method} {side}": hits(boxes_of(maps, sizes), truth)
              for side, by_method in ((SIDE, near), (LARGE, far), ("both", both)) for method, maps in by_method.items()}
    scored["whole"] = hits([(0, 0, W - 1, H - 1) for H, W in sizes], truth)
    curves = {method: [float(np.mean(hits(boxes_of(near[method], sizes, threshold=threshold), truth)))
                       for threshold in THRESHOLDS] for method in COMPARED}
    return Hits(scored, curves, {method: boxes_of(near[method], sizes) for method in COMPARED})
