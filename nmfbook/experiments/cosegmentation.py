"""Co-segmentation (thesis section 4.3): how well factors' masks cover outlines that people drew.

One factor, by the rule of the network, is the object: VGG-19's only one, or of ResNet-50's two the one that is weaker
at the border. Its maps become masks by `segmentation.binarize`, and their IoU with the outlines counts all pixels of a
set. Intervals draw the photographs of a set anew. No experiment of the ledger: the chapter calls what is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nmfcore.feature_maps import Maps
from nmfcore.heatmaps import Heatmaps, factorize, normalized
from nmfcore.matching import foreground
from nmfcore.networks import classifies
from nmfcore.segmentation import (
    areas,
    binarize,
    iou,
    match_parts,
    multi_scale,
    mutual_best,
    one_shot,
    single_maps,
)

from ..annotated import Crops, MaskedSet
from ..backbones import Backbone
from ..statistics import interval

SIDE, LARGE = 224, 448  # of photographs, the shorter one in pixels
DRAWS = 1000
CONSTANTS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
READINGS = ("share of the set's maximum", "share of the image's maximum", "quantile of the set", "exponential quantile")
SEVERAL = (2, 4, 6, 8)  # ranks among whose factors one labelled photograph selects


@dataclass(frozen=True)
class ObjectSet:
    """Photographs with the outline of their common object."""

    name: str
    photographs: MaskedSet | Crops
    truth: tuple[Tensor, ...]  # n × (1, H, W) bool
    weights: np.ndarray  # (1 + DRAWS, n): how often a photograph counts; once, then in each bootstrap sample

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """n × (H, W)"""
        return self.photographs.sizes

    def maps(self, backbone: Backbone, side: int = SIDE, layer: str | None = None) -> Maps:
        """Feature maps, kept in a file for each network, size and layer."""
        end = "" if layer in (None, backbone.layer) else f"-{layer}"
        return backbone.maps(self.photographs.images(side, backbone.preprocess), layer=layer,
                             kept=f"{side}-{self.name}{end}")

    def scores(self, masks: Sequence[Tensor]) -> np.ndarray:
        """(1 + DRAWS, K) IoU over the pixels of the set of n × (K, H, W) masks."""
        shared, union = counts(masks, self.truth)
        return self.weights @ shared / np.maximum(self.weights @ union, 1)


def object_set(name: str, photographs: MaskedSet | Crops, generator: np.random.Generator) -> ObjectSet:
    """A set whose object is all that its masks show, with bootstrap samples of its photographs."""
    n = len(photographs)
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return ObjectSet(name, photographs, tuple(mask.any(0, keepdim=True) for mask in photographs),
                     np.concatenate([np.ones((1, n)), drawn]))


def counts(masks: Sequence[Tensor], truth: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Per image: pixels in the intersection and in the union, (n, K) each."""
    pixels = areas(masks, truth)
    shared = pixels.shared[:, :, 0].double().numpy()
    return shared, pixels.first.double().numpy() + pixels.second.double().numpy() - shared


def object_maps(heat: Heatmaps) -> list[Tensor]:
    """n × (1, h, w): the factor for the object, by the rule of the network."""
    chosen = foreground(heat.maps)
    return [maps[chosen:chosen + 1] for maps in heat.maps]


def measure_readings(backbone: Backbone, objects: ObjectSet, seed: int = 0) -> np.ndarray:
    """(1 + DRAWS, readings × constants) IoU of the object's factor, for every reading of a threshold."""
    maps = normalized(object_maps(factorize(objects.maps(backbone), backbone.rank, seed=seed)))
    large = _enlarged(maps, objects.sizes)
    levels = np.quantile(np.concatenate([image.flatten()[::7] for image in large]), CONSTANTS)
    mean = float(torch.cat([image.flatten() for image in maps]).mean())
    return objects.scores([torch.cat([image > c for c in CONSTANTS] + [image > c * image.max() for c in CONSTANTS]
                                     + [image > level for level in levels]
                                     + [image > -np.log(1 - c) * mean for c in CONSTANTS]) for image in large])


def measure_objects(backbone: Backbone, objects: ObjectSet, seed: int = 0
                    ) -> tuple[dict[str, np.ndarray], dict[str, list[Tensor]], int]:
    """IoU of every method, (1 + DRAWS,) each; the masks behind them; how many factorizations did not converge.

    All get the same feature maps and the same rule for the threshold, but where a method's name says otherwise. Of a
    network that classifies there is Grad-CAM, too.
    """
    sizes, near, far = objects.sizes, objects.maps(backbone), objects.maps(backbone, LARGE)
    one, *several = factorize(near, [1, *SEVERAL], seed=seed)
    maps = {"NMF, K = 1": object_maps(one), "NMF, K = 2": object_maps(several[0]), "DDT": single_maps(near, "pca"),
            "k-means": single_maps(near, "kmeans", seed=seed), "channel sum": single_maps(near, "channel_sum"),
            "NMF, large": single_maps(far, "nmf", rank=backbone.rank, seed=seed), "DDT, large": single_maps(far, "pca")}
    if classifies(backbone.model):
        maps["Grad-CAM"] = normalized(backbone.grad_cam(objects.photographs.images(SIDE, backbone.preprocess)))
    maps["NMF, both sizes"] = multi_scale(maps[f"NMF, K = {backbone.rank}"], maps["NMF, large"])
    maps["DDT, both sizes"] = multi_scale(maps["DDT"], maps["DDT, large"])
    masks = {method: binarize(heat, sizes) for method, heat in maps.items()}
    masks["DDT, cut at zero"] = binarize(maps["DDT"], sizes, threshold=0)
    masks["k-means, nearest"] = [image > 0.5 for image in _enlarged(maps["k-means"], sizes)]
    masks["whole image"] = [torch.ones_like(mask) for mask in objects.truth]
    scores = {method: objects.scores(drawn)[:, 0] for method, drawn in masks.items()}
    shared, union = selections([binarize(heat.maps, sizes) for heat in several], objects)
    weights = objects.weights
    on_others = (weights @ shared.T) / np.maximum(weights @ union.T, 1)  # (1 + DRAWS, n): of each one's selection
    scores["NMF, one-shot"] = (weights * on_others).sum(1) / weights.sum(1)
    return scores, masks, sum(not heat.factors.converged for heat in (one, *several))


def selections(candidates: Sequence[Sequence[Tensor]], objects: ObjectSet) -> tuple[np.ndarray, np.ndarray]:
    """One-shot: (n, n) counts, row i of the selection that photograph i makes, judged on the others."""
    chosen = [one_shot(candidates, i, mask[0]) for i, mask in enumerate(objects.truth)]
    cases = {(choice.candidate, choice.members): counts(choice.masks, objects.truth) for choice in chosen}
    shared, union = (np.stack([cases[choice.candidate, choice.members][part][:, 0] for choice in chosen])
                     for part in (0, 1))
    others = 1 - np.eye(len(objects.truth))
    return shared * others, union * others


def summary(scores: Mapping[str, Mapping[str, np.ndarray]], groups: Mapping[str, Sequence[str]],
            picks: Mapping[str, np.ndarray], own: str) -> dict:
    """Of {set: {method: (1 + DRAWS,)}}: [value, low, high] of sets, of means over groups, of `own` less each method.

    picks: (DRAWS, sets) of each group, the sets drawn anew. A gap's interval over photographs and sets follows that
    over photographs: [value, low, high, low, high].
    """
    means: dict[str, dict] = {}
    gaps: dict[str, dict] = {}
    for group, names in groups.items():
        by_set = {method: np.stack([scores[name][method] for name in names], 1) for method in scores[names[0]]}
        means[group] = {method: interval(values.mean(1)) for method, values in by_set.items()}
        gaps[group] = {}
        for method, values in by_set.items():
            gap = by_set[own] - values  # (1 + DRAWS, sets)
            over = np.take_along_axis(gap[1:], picks[group], 1).mean(1)
            gaps[group][method] = [*interval(gap.mean(1)), *interval([0, *over])[1:]]
    return {"sets": {name: {method: interval(values) for method, values in of_set.items()}
                     for name, of_set in scores.items()},
            "own": own, "groups": groups, "means": means, "gaps": gaps}


def measure_layer(backbone: Backbone, objects: ObjectSet, layer: str, seed: int = 0) -> np.ndarray:
    """(1 + DRAWS,) IoU of the object's factor at a layer."""
    maps = single_maps(objects.maps(backbone, layer=layer), "nmf", rank=backbone.rank, seed=seed)
    return objects.scores(binarize(maps, objects.sizes))[:, 0]


def measure_starts(backbone: Backbone, objects: ObjectSet, starts: Sequence[int]) -> dict[str, list[float]]:
    """{method: IoU for each start of the factorization}; of one-shot the mean over the labelled photograph."""
    ranks, maps = sorted({backbone.rank, *SEVERAL}), objects.maps(backbone)
    scores: dict[str, list[float]] = {}
    for start in starts:
        by_rank = dict(zip(ranks, factorize(maps, ranks, seed=start), strict=True))
        for K in (K for K in ranks if K <= 2):
            shared, union = counts(binarize(object_maps(by_rank[K]), objects.sizes), objects.truth)
            scores.setdefault(f"NMF, K = {K}", []).append(float(shared.sum() / union.sum()))
        shared, union = selections([binarize(by_rank[K].maps, objects.sizes) for K in SEVERAL], objects)
        scores.setdefault("NMF, one-shot", []).append(float(np.mean(shared.sum(1) / union.sum(1))))
    return scores


def measure_matches(backbone: Backbone, photographs: MaskedSet | Crops, ranks: Sequence[int] = (2, 3, 4), seed: int = 0
                    ) -> dict[str, list]:
    """{"<side>, K = <rank>": [[parts, IoU] of each factor that matches one]} (eq. 4.9, 4.10), at both sizes."""
    masks, rows = list(photographs), {}
    for side in (SIDE, LARGE):
        maps = backbone.maps(photographs.images(side, backbone.preprocess))
        for K, heat in zip(ranks, factorize(maps, ranks, seed=seed), strict=True):
            matches = match_parts(binarize(heat.maps, photographs.sizes), masks, photographs.names)
            rows[f"{side}, K = {K}"] = [["/".join(match.parts), match.iou] for match in matches]
    return rows


def measure_whole(backbone: Backbone, photographs: MaskedSet | Crops, seed: int = 0) -> dict[str, float]:
    """{"<method>, <side>": IoU} of NMF and DDT with the whole of the outlined object, at both sizes."""
    things = [mask[[i for i, part in enumerate(photographs.names) if part != "beam"]].any(0, keepdim=True)
              for mask in photographs]  # gymnasts, not what they stand on
    scores = {}
    for side in (SIDE, LARGE):
        maps = backbone.maps(photographs.images(side, backbone.preprocess))
        for name, method in (("NMF", "nmf"), ("DDT", "pca")):
            masks = binarize(single_maps(maps, method, rank=backbone.rank, seed=seed), photographs.sizes)
            scores[f"{name}, {side}"] = float(iou(masks, things))
    return scores


def measure_depth(backbone: Backbone, layer: str, photographs: MaskedSet | Crops, ranks: Sequence[int],
                  starts: Sequence[int]) -> list[list[float]]:
    """(ranks, starts) mean IoU of mutually best factors and parts, at a layer; 0 where there are none."""
    masks = list(photographs)
    maps = backbone.maps(photographs.images(SIDE, backbone.preprocess), layer=layer)

    def score(K, start):
        scores = iou(binarize(factorize(maps, K, seed=start).maps, photographs.sizes), masks)
        pairs = mutual_best(scores)
        return float(np.mean([float(scores[k, t]) for k, t in pairs])) if pairs else 0.0
    return [[score(K, start) for start in starts] for K in ranks]


def _enlarged(maps, sizes):
    return [interpolate(image[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
            for image, size in zip(maps, sizes, strict=True)]
