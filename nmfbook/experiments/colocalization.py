"""Co-localization (thesis section 4.4): a box around what photographs share, and how often it hits.

One map for each photograph becomes a mask by `segmentation.binarize`, and the box goes around the mask's largest
connected component. It is a hit if its IoU with any true box is at least one half; the share of hits is CorLoc.
`measure_parts` is about several factors, each with a part, in PASCAL-Part. No experiment of the ledger: the chapter
calls what is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nmfcore.feature_maps import Maps
from nmfcore.heatmaps import factorize
from nmfcore.networks import classifies, data_folder
from nmfcore.segmentation import (
    Box,
    assemble_parts,
    binarize,
    box,
    box_iou,
    iou,
    match_parts,
    multi_scale,
    single_maps,
)

from .. import records
from ..annotated import BoxedSet, Crops, MaskedSet, crops, pascal_part, voc_boxes
from ..backbones import Backbone
from ..statistics import answer, resampled, spelled

SIDE, LARGE = 224, 448  # of photographs, the shorter one in pixels
FACTORED = ("nmf", "pca", "kmeans", "channel_sum")  # from feature maps alone
COMPARED = ("nmf", "pca")  # at both sizes together, and at other thresholds
THRESHOLDS = [0.2, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
OWN = f"nmf {SIDE}"  # the hits that claims are about,
PEERS = ("whole", f"pca {SIDE}", f"kmeans {SIDE}", f"channel_sum {SIDE}")  # and those that they should exceed
EMBEDDED = ("cup", "flower", "temple", "motorcycle")  # photographs whose crops stand in for sets
GROUPS = ("aeroplane_left", "bicycle_right", "boat_left", "bus_right", "horse_left", "motorbike_right")
CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")

# Which parts of PASCAL-Part make up one part of the thesis's, "wing=lwing,rwing".
DESCRIBED = {
    "aeroplane": "body stern tail engine wheel wing=lwing,rwing",
    "bird": "head beak neck torso tail eye=leye,reye wing=lwing,rwing leg=lleg,rleg foot=lfoot,rfoot",
    "car": "door wheel window headlight front=frontside back=backside side=leftside,rightside roof=roofside "
           "mirror=leftmirror,rightmirror licenseplate=fliplate,bliplate",
    "motorbike": "wheel=fwheel,bwheel handlebar saddle headlight person",
    "cat": "head nose neck torso tail eye=leye,reye ear=lear,rear leg=lfleg,rfleg,lbleg,rbleg "
           "paw=lfpa,rfpa,lbpa,rbpa"}
_ANIMAL = ("head=head,leye,reye,lear,rear,lhorn,rhorn,muzzle neck+torso=neck,torso "
           "leg=lfuleg,lflleg,rfuleg,rflleg,lbuleg,lblleg,rbuleg,rblleg,lfho,rfho,lbho,rbho")
PREDICTED = {"cow": _ANIMAL, "horse": _ANIMAL}
FEW = 5  # photographs whose outlines choose


@dataclass(frozen=True)
class Hits:
    """Of one network on one set of photographs."""

    hits: dict[str, list[int]]  # "<method> <side>" -> image by image, 1 where the box is a hit
    curves: dict[str, list[float]]  # method -> CorLoc at each of THRESHOLDS
    boxes: dict[str, list[Box | None]]  # method -> the boxes


def sets_of(profile: str) -> tuple[Mapping[str, BoxedSet | Crops], str]:
    """The photographs of a profile by set, and in words."""
    sets: dict[str, BoxedSet | Crops]
    if profile == "quick":
        sets = {name: crops(name) for name in EMBEDDED}
    else:
        sets = {name: voc_boxes(name) for name in (GROUPS if profile == "desk" else CLASSES)}
    count = sum(len(photographs.sizes) for photographs in sets.values())
    if profile == "quick":
        return sets, f"{count} crops of {len(sets)} photographs in scikit-image and scikit-learn, with our own boxes"
    kind = "groups, PASCAL07-6x2 (VOC 2007)" if profile == "desk" else "classes, PASCAL VOC 2007, trainval"
    return sets, f"{count} photographs of {len(sets)} {kind}"


def features(backbone: Backbone, name: str, photographs: BoxedSet | MaskedSet | Crops, side: int = SIDE) -> Maps:
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


def measure_all(networks: Mapping[str, Backbone], sets: Mapping[str, BoxedSet | Crops], seed: int = 0
                ) -> tuple[dict, dict[str, Hits]]:
    """What the record keeps, {"found", "curves"}: network: set: ..., and the first network's hits of each set."""
    measured = {backbone.label: {name: measure_hits(backbone, name, photographs, seed)
                                 for name, photographs in sets.items()} for backbone in networks.values()}
    results = {"found": {net: {name: scored.hits for name, scored in by_set.items()}
                         for net, by_set in measured.items()},
               "curves": records.rounded({net: {name: scored.curves for name, scored in by_set.items()}
                                          for net, by_set in measured.items()})}
    return results, next(iter(measured.values()))


def mean_corloc(by_set: Mapping[str, Mapping[str, Sequence[int]]], key: str = OWN) -> np.ndarray:
    """(1 + draws,) mean over the sets of CorLoc in %, and of bootstrap samples of each set's images."""
    return 100 * resampled(*(scored[key] for scored in by_set.values()))


def gap_over_sets(by_set: Mapping[str, Mapping[str, Sequence[int]]], key: str, seed: int = 0) -> np.ndarray:
    """(1 + draws,) by how much CorLoc of OWN exceeds another's, in %: images and sets drawn anew."""
    gaps = np.array([100 * (resampled(scored[OWN]) - resampled(scored[key])) for scored in by_set.values()])
    picks = np.random.default_rng(seed).integers(len(gaps), size=(len(gaps), gaps.shape[1] - 1))
    return np.concatenate([[gaps[:, 0].mean()], np.take_along_axis(gaps[:, 1:], picks, 0).mean(0)])


def answers(by_set: Mapping[str, Mapping[str, Sequence[int]]]) -> list[str]:
    """Whether a network's factor hits more often than each of PEERS."""
    return [answer(mean_corloc(by_set) - mean_corloc(by_set, key)) for key in PEERS]


def report(results: dict, source: str, *, recorded: bool = False) -> None:
    """Answers rows T4.3, F4.11 and F4.12 from what `measure_all` found."""
    words = {net: answers(by_set) for net, by_set in results["found"].items()}
    records.row("T4.3", data=source, recorded=recorded, answers=[word for of_net in words.values() for word in of_net],
                value="; ".join(f"{net}: mean CorLoc {spelled(mean_corloc(by_set))} %, DDT "
                                f"{spelled(mean_corloc(by_set, f'pca {SIDE}'))} %"
                                for net, by_set in results["found"].items()),
                note="; ".join(f"{net}: better than the whole photograph: {whole}; than DDT, k-means, channel sum: "
                               f"{', '.join(others)}" for net, (whole, *others) in words.items())
                     + ". Other photographs than the thesis's, without its filter for difficult and truncated "
                       "objects, and other peers.")
    there = {name.split("_")[0] for name in next(iter(results["found"].values()))}
    for row, kinds in (("F4.11", ("aeroplane", "car", "motorbike")), ("F4.12", ("bird", "cow", "cat"))):
        missing = [kind for kind in kinds if kind not in there]
        records.row(row, verdict="not tested" if missing else "shown", data=source, recorded=recorded,
                    value=f"heatmaps of three factors{' of other kinds' if missing else ''} are shown",
                    note=f"Photographs of {', '.join(missing)} are not included." if missing else
                         "Other photographs than those of PASCAL-Part.")


# --- parts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Factors and parts, empty where PASCAL-Part is not there: [parts, IoU] as in the thesis's tables 4.4 and 4.5."""

    described: Mapping[tuple[str, int], list[tuple[str, float]]]  # (class, K): given all outlines
    predicted: Mapping[tuple[str, str, int], list[tuple[str, float]]]  # (network, class, K): given those of FEW


def measure_parts(networks: Mapping[str, Backbone], seed: int = 0) -> Parts:
    """Matches and predictions; without the folder Annotations_Part, or VGG-19, neither."""
    described: dict[tuple[str, int], list[tuple[str, float]]] = {}
    predicted: dict[tuple[str, str, int], list[tuple[str, float]]] = {}
    data = data_folder()
    if "vgg19" not in networks or data is None or not (data / "Annotations_Part").is_dir():
        return Parts(described, predicted)
    for kind, text in DESCRIBED.items():
        photographs = pascal_part(kind, merged(text))
        maps, truth = features(networks["vgg19"], f"{kind} parts", photographs), list(photographs)
        for K, heat in zip((1, 2, 3, 4), factorize(maps, [1, 2, 3, 4], seed=seed), strict=True):
            matches = match_parts(binarize(heat.maps, photographs.sizes), truth, photographs.names)
            described[kind, K] = [("/".join(match.parts), match.iou) for match in matches]
    for kind, text in PREDICTED.items():
        photographs = pascal_part(kind, merged(text))
        truth = list(photographs)
        for backbone in networks.values():
            maps = features(backbone, f"{kind} parts", photographs)
            for K, heat in zip((3, 4, 6), factorize(maps, [3, 4, 6], seed=seed), strict=True):
                masks = assemble_parts(binarize(heat.maps, photographs.sizes), truth, range(FEW))
                scores = iou(masks[FEW:], truth[FEW:]).diagonal().tolist()
                predicted[backbone.label, kind, K] = list(zip(photographs.names, scores, strict=True))
    return Parts(described, predicted)


def merged(text: str) -> dict[str, str]:
    """{"lwing": "wing", ...} from "body wing=lwing,rwing"."""
    entries = (entry.partition("=") for entry in text.split())
    return {part: name for name, _, several in entries for part in (several or name).split(",")}


def printed(table: str, **match: str) -> list[tuple[str, float]]:
    """[parts, IoU] of the thesis's table "t4_4" or "t4_5"."""
    return [(entry.get("parts") or entry["part"], float(entry["value"]) / 100)
            for entry in records.thesis(table, **match)]


def labelled(pairs: Sequence[tuple[str, float]]) -> str:
    """"head 52; leg 31"."""
    return "; ".join(f"{parts} {100 * score:.0f}" for parts, score in pairs)


def report_parts(parts: Parts) -> None:
    """Answers rows T4.4 and T4.5: within ten points of the thesis on average, or not."""
    highest = [_highest(pairs) - _highest(printed("t4_4", category=kind, K=str(K)))
               for (kind, K), pairs in parts.described.items()]
    scores = [dict(pairs)[part] - score for (net, kind, _), pairs in parts.predicted.items()
              for part, score in printed("t4_5", category=kind, network=net)]
    told = {"T4.4": ("; ".join(f"{kind}, K = {K}: {labelled(pairs)}" for (kind, K), pairs in parts.described.items()),
                     highest, "highest match of a class."),
            "T4.5": ("; ".join(f"{net}, {kind}, K = {K}: {labelled(pairs)}"
                               for (net, kind, K), pairs in parts.predicted.items()),
                     scores, "scores; five outlined photographs choose the factors.")}
    for row, (text, gaps, what) in told.items():
        if not text:
            records.row(row, data="none", verdict="not tested", value="–",
                        note="The annotations of PASCAL-Part are not included; the steps are tested on a made sample.")
            continue
        distance = 100 * float(np.mean(np.abs(gaps)))
        records.row(row, data="PASCAL-Part", answers=["holds" if distance < 10 else "fails"], value=text,
                    note=f"Within ten points on average, or not: {distance:.0f} points from the thesis's {what}")


def _highest(pairs):
    return max((score for _, score in pairs), default=0.0)
