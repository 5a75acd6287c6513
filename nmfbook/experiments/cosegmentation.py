"""Co-segmentation (thesis section 4.3): how well factors' masks cover outlines that people drew.

One factor, by the rule of the network, is the object: VGG-19's only one, or of ResNet-50's two the one that is weaker
at the border. Its maps become masks by `segmentation.binarize`, and their IoU with the outlines counts all pixels of a
set. Intervals draw the photographs of a set anew. No experiment of the ledger: the chapter calls what is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nmfcore.feature_maps import Maps
from nmfcore.heatmaps import Heatmaps, factorize, normalized
from nmfcore.matching import foreground
from nmfcore.networks import classifies, data_folder
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

from .. import backbones, records
from ..annotated import CROPS, Crops, MaskedSet, crops, icoseg, masked_set, parts
from ..backbones import Backbone
from ..statistics import interval, judged, percent

SIDE, LARGE = 224, 448  # of photographs, the shorter one in pixels
DRAWS = 1000
CONSTANTS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
READINGS = ("share of the set's maximum", "share of the image's maximum", "quantile of the set", "exponential quantile")
SEVERAL = (2, 4, 6, 8)  # ranks among whose factors one labelled photograph selects
EMBEDDED = ("cup", "motorcycle", "flower", "temple")  # photographs whose crops stand in for sets
DEVELOPMENT = ("Bird", "Bus", "Sheep", "Train")  # of VOC; every choice was made on these
TEST = ("Bicycle", "Bottle", "Car", "Chair", "Dog", "Monitor", "Person", "Plant", "Sofa", "Table")
EARLIER = {"student": ("features.7", "features.10"), "vgg19": ("features.26", "features.31"), "resnet50": ("layer2",)}
DEPTHS = {"student": {"block 2": "features.3", "block 3": "features.5", "block 4": "features.7",
                      "block 4, deeper": "features.10", "last": "features.13"},
          "vgg19": {"conv3_2": "features.13", "conv4_1": "features.20", "conv4_4": "features.26",
                    "conv5_2": "features.31", "conv5_4": "features.35"}}
RANKS = (2, 3, 4, 5, 6, 8)  # of factors that are matched with parts
PEERS = ("whole image", "channel sum", "k-means, nearest", "DDT")  # that one factor should exceed


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


@dataclass(frozen=True)
class Study:
    """The networks and photographs of a profile."""

    networks: Mapping[str, Backbone]
    groups: Mapping[str, Sequence[str]]  # names of sets; the first group is the one on which choices are made
    objects: Mapping[str, ObjectSet]
    parts: Mapping[str, MaskedSet | Crops]
    picks: Mapping[str, np.ndarray]  # of each group (DRAWS, sets): the sets drawn anew
    starts: range  # seeds of the factorizations; the first one's are shown

    @property
    def development(self) -> Sequence[str]:
        return next(iter(self.groups.values()))

    @property
    def first(self) -> Backbone:
        return next(iter(self.networks.values()))

    @property
    def source(self) -> str:
        if self.groups.keys() == {"made"}:
            return (f"{len(self.objects)} sets of {len(CROPS)} crops of a photograph each, in scikit-image and "
                    "scikit-learn, with our own outlines")
        return (f"{sum(len(objects.truth) for objects in self.objects.values())} photographs of {len(self.objects)} "
                "classes, VOC 2010 co-segmentation (Faktor & Irani 2013)")

    @property
    def parts_source(self) -> str:
        return "; ".join(photographs.source for photographs in self.parts.values())


def study(profile: str, seed: int = 0, device: str = "cpu") -> Study:
    """"quick": the student and crops; else VGG-19 and ResNet-50 on VOC, with "paper" iCoseg, too, where it is."""
    sets: dict[str, MaskedSet | Crops]
    of_parts: dict[str, MaskedSet | Crops]
    if profile == "quick":
        groups = {"made": list(EMBEDDED)}
        sets = {name: crops(name) for name in EMBEDDED}
        of_parts = {"motorcycle": sets["motorcycle"]}
    else:
        groups = {"development": list(DEVELOPMENT), "test": list(TEST)}
        sets = {name: masked_set(name) for group in groups.values() for name in group}
        data = data_folder()
        if profile == "paper" and data and (folder := data / "icoseg/images").is_dir():
            groups["iCoseg"] = sorted(path.name for path in folder.iterdir())
            sets |= {name: icoseg(name) for name in groups["iCoseg"]}
        of_parts = {name: parts(name) for name in ("elephants", "gymnasts")}
    generator = np.random.default_rng(seed)
    objects = {name: object_set(name, photographs, generator) for name, photographs in sets.items()}
    picks = {group: generator.integers(len(names), size=(DRAWS, len(names))) for group, names in groups.items()}
    return Study(backbones.of_profile(profile, device), groups, objects, of_parts, picks,
                 range(seed, seed + (3 if profile == "quick" else 5)))


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


def measure_objects(backbone: Backbone, objects: ObjectSet, seed: int = 0) -> tuple[dict[str, np.ndarray], int]:
    """IoU of every method, (1 + DRAWS,) each, and how many factorizations did not converge.

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
    return scores, sum(not heat.factors.converged for heat in (one, *several))


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


def measure_all(study: Study) -> tuple[dict, int]:
    """All that the chapter shows, by quantity and network, and how many factorizations did not converge."""
    seed, groups = study.starts[0], study.groups
    results: dict[str, dict] = {key: {} for key in ("curves", "objects", "earlier", "starts", "parts", "whole",
                                                    "depth")}
    unconverged = 0
    for net, backbone in study.networks.items():
        by_set = [measure_readings(backbone, study.objects[name], seed) for name in study.development]
        intervals = [interval(column) for column in np.mean(by_set, axis=0).T]  # readings × constants
        results["curves"][backbone.label] = dict(zip(
            READINGS, np.array(intervals).reshape(len(READINGS), len(CONSTANTS), 3).tolist(), strict=True))

        scores = {}
        for name, objects in study.objects.items():
            scores[name], stopped = measure_objects(backbone, objects, seed)
            unconverged += stopped
        results["objects"][backbone.label] = summary(scores, groups, study.picks, f"NMF, K = {backbone.rank}")

        results["earlier"][backbone.label] = {
            layer: {group: interval(np.mean([measure_layer(backbone, study.objects[name], layer, seed)
                                             for name in names], axis=0)) for group, names in groups.items()}
            for layer in (*EARLIER[net], backbone.layer)}

        others = {name: measure_starts(backbone, objects, study.starts[1:]) for name, objects in study.objects.items()}
        results["starts"][backbone.label] = {
            method: {group: np.mean([[float(scores[name][method][0]), *others[name][method]] for name in names], axis=0)
                     for group, names in groups.items()} for method in others[study.development[0]]}

        for name, photographs in study.parts.items():
            for key, score in measure_whole(backbone, photographs, seed).items():
                results["whole"].setdefault(f"{backbone.label}, {key}", {})[name] = score

    first = study.first
    results["parts"] = {name: measure_matches(first, photographs, seed=seed)
                        for name, photographs in study.parts.items()}
    results["depth"] = {first.label: {
        label: np.mean([measure_depth(first, layer, photographs, RANKS, study.starts)
                        for photographs in study.parts.values()], axis=0)  # (ranks, starts)
        for label, layer in DEPTHS[first.name].items()}}
    return records.rounded(results), unconverged


def matched(pairs: Sequence[Sequence]) -> str:
    """"head 52; leg 31", of [[parts, IoU]]."""
    return "; ".join(f"{label} {100 * score:.0f}" for label, score in pairs)


def report(results: dict, source: str, parts_source: str, *, recorded: bool = False) -> None:
    """Answers rows T4.2, T4.1 and F4.10 from what `measure_all` found."""
    group = list(next(iter(results["objects"].values()))["means"])[-1]
    # Better than each peer, and one-shot better still: with photographs and sets drawn anew.
    claims = [*((f"better than {peer}", peer, 1) for peer in PEERS), ("one-shot better", "NMF, one-shot", -1)]
    answers = {f"{label}, {title}": judged(*sorted(sign * bound for bound in measured["gaps"][group][method][3:5]))
               for label, measured in results["objects"].items() for title, method, sign in claims}
    elephants = "; ".join(f"{key} pixels {100 * values['elephants']:.0f} %"
                          for key, values in results["whole"].items() if "elephants" in values)
    records.row("T4.2", data=source, recorded=recorded, answers=list(answers.values()),
                value=f"mean IoU, {group}: " + "; ".join(
                    f"{label} {measured['own']}: {percent(*measured['means'][group][measured['own']])} %, "
                    f"minus DDT {_over_photographs(measured['gaps'][group]['DDT'])}, "
                    f"one-shot {percent(*measured['means'][group]['NMF, one-shot'])} %"
                    for label, measured in results["objects"].items()),
                note="; ".join(f"{claim}: {word}" for claim, word in answers.items())
                     + ". Other photographs than the thesis's, whose peers are others, too. "
                     + (f"The rule for the threshold was chosen on other classes. On the elephants, with our "
                        f"outlines: {elephants}." if elephants else
                        "Crops of embedded photographs and a small network stand in for iCoseg and VGG-19."))
    records.row("T4.1", data=parts_source, recorded=recorded, answers=["undecided"],
                value="; ".join(f"{name}, {key}: {matched(pairs)}" for name, rows in results["parts"].items()
                                for key, pairs in rows.items() if str(SIDE) in key),
                note="Our own outlines, as the thesis's are not published, of so few photographs that a distance from "
                     "its numbers has no interval worth printing; "
                     + ("three of its five sets are not included." if elephants else
                        "a motorcycle and a small network stand in for iCoseg and VGG-19."))
    depth = {label: np.array(values) for label, values in next(iter(results["depth"].values())).items()}
    best = {label: np.array(RANKS)[values.argmax(0)] for label, values in depth.items()}  # (starts,)
    by_block: dict[str, list] = {}
    for label, values in depth.items():  # (ranks, starts)
        by_block.setdefault(label[:5] if label.startswith("conv") else label, []).append(values.max(0))
    # (starts,) the best rank's IoU, mean over the layers of a block
    blocks = {block: np.mean(values, axis=0) for block, values in by_block.items()}
    gaps = {f"{later} over {earlier}": blocks[later] - blocks[earlier] for earlier, later in pairwise(blocks)}
    records.row("F4.10", data=f"{parts_source}; {len(next(iter(best.values())))} starts", recorded=recorded,
                answers=[*(_agreed((ranks >= 3) & (ranks <= 5)) for ranks in best.values()),
                         *(_agreed(gap > 0) for gap in gaps.values())],
                value="highest mean part IoU by layer: " + "; ".join(
                    f"{label} {100 * depth[label].mean(1).max():.0f} % at K = "
                    f"{', '.join(map(str, sorted(set(ranks.tolist()))))}" for label, ranks in best.items())
                    + ". Gap between blocks, lowest start: "
                    + "; ".join(f"{name} {100 * gap.min():+.1f} points" for name, gap in gaps.items()),
                note="The best rank lies from three to five, and each block is better than the one before, from every "
                     "start of the factorization. "
                     + ("Two sets instead of five." if elephants else
                        "A motorcycle and a small network stand in for iCoseg and VGG-19."))


def _over_photographs(gap):
    """A gap of `summary` with the interval that draws photographs alone."""
    return percent(*gap[:3], "+")


def _agreed(conditions):
    """The answer of conditions, one for each start of the factorization."""
    return "holds" if np.all(conditions) else "undecided" if np.any(conditions) else "fails"


def _enlarged(maps, sizes):
    return [interpolate(image[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
            for image, size in zip(maps, sizes, strict=True)]
