"""Objects found without labels: how far the choices between a network and a mask or box carry.

The thesis takes one network, one size of the photographs and one or two factors (sections 4.3 and 4.4). Here maps of
several sizes and networks are added, and GrabCut lets the edges of masks follow those of the photographs. A rule is
chosen by the ground truth of half of the sets and measured on the other half; it uses no ground truth itself.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate

from nmfcore.activations import to_matrix
from nmfcore.feature_maps import Maps
from nmfcore.heatmaps import factorize
from nmfcore.matching import correlation, off_border, stability
from nmfcore.segmentation import binarize, box, box_iou, iou, multi_scale, refine, single_maps
from nmfcore.selection import choose_rank

from ..claims import OURS, Claim, Scale
from ..ledger import key
from ..statistics import bootstrap, mean
from .data import in_bfloat16, lacking

TRAINING, MEASUREMENT = 1, 1

# Masks: the four classes on which the threshold of `binarize` was once chosen, and of the ten others in alphabetical
# order the second, fifth and eighth, choose; the other seven are measured. Two sets of iCoseg, with our own outlines,
# are measured, too, as photographs of another collection. Boxes: every second group in alphabetical order chooses.
SPLIT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "masks": {"choosing": ("Bird", "Bus", "Sheep", "Train", "Bottle", "Dog", "Plant"),
              "measured": ("Bicycle", "Car", "Chair", "Monitor", "Person", "Sofa", "Table"),
              "kept aside": ("elephants", "gymnasts")},
    "boxes": {"choosing": ("aeroplane_left", "boat_left", "horse_left"),
              "measured": ("bicycle_right", "bus_right", "motorbike_right")},
    "digits": {"choosing": ("0", "1", "2", "3", "4"), "measured": ("5", "6", "7", "8", "9")}}
BEAM = "beam"  # a part of the gymnasts' outlines that is no gymnast
LABELS = {"vgg19": "VGG-19", "resnet50": "ResNet-50", "vgg19+resnet50": "both networks", "squeezenet1_1": "SqueezeNet",
          "student": "student", "": "no network"}
NETWORKS = ("vgg19", "resnet50", "vgg19+resnet50")
SIDES = ("224", "448", "224+448")  # of photographs, the shorter one in pixels; maps of two sizes are added
SUMS = {"4 factors": 4, "6 factors": 6, "8 factors": 8}  # weighted by how far they keep off the border
# Of `single_maps`; "nmf" with as many factors as the thesis takes of a network.
METHODS = ("nmf", "pca", "kmeans", *SUMS)
PEERS = ("whole", "centre")  # that see no photograph
STABLE, HELD_OUT = UNSUPERVISED = ("factors by stability", "factors by held-out error")  # sums of so many, of COUNTS
COUNTS = tuple(range(3, 11))
COMPACT, AGREEING = WEIGHTED = ("6 factors by compactness", "6 factors by agreement")  # other weights than of SUMS
FACTORS = "factors"  # under this name an entry says how many they were, set by set
CENTRE = 0.7  # of half a side: the standard deviation of a Gaussian by which maps may be multiplied
SIDE = 128  # of the copies that GrabCut sees


@dataclass(frozen=True)
class Rule:
    """From maps to masks: whether the middle of a photograph counts for more, the threshold, GrabCut or not."""

    threshold: float
    centred: bool = False
    cut: bool = False

    @property
    def name(self) -> str:
        return f"{self.threshold:g}" + ", centred" * self.centred + ", GrabCut" * self.cut


PLAIN = Rule(0.75)  # that of the chapters
WHOLE = Rule(0.0)  # everything where a map is positive
RULES = (Rule(0.6), PLAIN, Rule(0.85), Rule(0.75, centred=True), Rule(0.6, cut=True), Rule(0.75, cut=True),
         Rule(0.6, centred=True, cut=True))


@dataclass(frozen=True)
class Job:
    """All rules for one kind of maps, on all sets."""

    data: str
    network: str  # "a+b": the maps of both, added; "": none
    sides: str
    method: str  # of METHODS, PEERS, UNSUPERVISED, WEIGHTED, or "channel_sum"
    seed: int = 0
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Photos:
    """Sets of photographs with outlines or boxes."""

    sets: Mapping[str, Any]  # of `annotated`
    source: str
    sha256: str


def jobs() -> list[Job]:
    """Digits on made backgrounds first; then photographs of 224 pixels, both sizes together, and the larger alone."""
    digits = [Job("digits", "student", "96", method, precision="float32") for method in METHODS]
    both = ("masks", "boxes")
    peers = [Job(data, "", "", method) for data in both for method in PEERS]
    first, larger, largest = ([Job(data, network, sides, method) for network, method, data in
                               product(NETWORKS, METHODS, both)] for sides in (SIDES[0], SIDES[2], SIDES[1]))
    others = [Job(data, "vgg19", SIDES[0], method) for method, data in product((*UNSUPERVISED, *WEIGHTED), both)]
    sums = [Job(data, "vgg19", sides, "channel_sum") for sides, data in product(SIDES, both)]
    small = [Job(data, network, sides, method) for network, sides, method, data in
             product(("squeezenet1_1", "student"), SIDES, METHODS, both)]
    return [*digits, *peers, *first, *larger, *largest, *others, *sums, *small]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    if job.data == "digits":
        return None
    wanted = {"masks": ("voc2010_coseg/masks", "image_sets/icoseg"), "boxes": ("VOCdevkit/VOC2007",)}[job.data]
    networks = {*job.network.split("+"), *(["resnet50"] if job.method == AGREEING else [])} - {"", "student"}
    weights = [f"weights/{name}*.safetensors" for name in sorted(networks)]
    return lacking(job.data, *wanted, *weights)


def train(job: Job, folder: Path, *, device: str = "cpu") -> Photos:
    """Trains nothing: the photographs. Feature maps are kept in the user's cache."""
    return photographs(job.data)


@lru_cache(maxsize=3)
def photographs(data: str) -> Photos:
    """All sets of one kind of data, in the order of `SPLIT`."""
    from .. import annotated

    names = [name for part in SPLIT[data].values() for name in part]
    digest = hashlib.sha256()
    sets: dict[str, Any]
    if data == "digits":
        sets = {name: scenes(int(name)) for name in names}
        for pictures in sets.values():
            digest.update(torch.stack(pictures.pictures).numpy().tobytes())
    else:
        aside = SPLIT[data].get("kept aside", ())
        sets = {name: annotated.voc_boxes(name) if data == "boxes" else
                annotated.parts(name) if name in aside else annotated.masked_set(name) for name in names}
        for photographs_of_set in sets.values():
            for file in photographs_of_set.files:
                digest.update(file.read_bytes())
    count = sum(len(one.sizes) for one in sets.values())
    source = {"masks": f"{count} photographs of 14 classes, VOC 2010 co-segmentation, and of 2 sets of iCoseg",
              "boxes": f"{count} photographs of 6 groups, PASCAL07-6x2 (VOC 2007)",
              "digits": f"{count} digits of scikit-learn on made backgrounds"}[data]
    return Photos(sets, source, digest.hexdigest())


def scenes(digit: int, count: int = 6):
    """Pictures of one digit in a colour of its own, somewhere on a background of coloured noise, with its outline."""
    from ..annotated import Crops

    given = load_digits()
    shapes = torch.from_numpy(given.images[given.target == digit][:count] / 16).float()
    generator = torch.Generator().manual_seed(digit)
    pictures, masks = [], []
    for shape in shapes:
        coarse = torch.rand(1, 3, 12, 16, generator=generator)
        picture = 0.3 + 0.4 * interpolate(coarse, size=(96, 128), mode="bicubic", align_corners=False)[0]
        picture += 0.05 * torch.randn(3, 96, 128, generator=generator)
        large = interpolate(shape[None, None], size=(56, 56), mode="bilinear", align_corners=False)[0, 0] > 0.5
        top, left = (int(torch.randint(space, (1,), generator=generator)) for space in (40, 72))
        mask = torch.zeros(1, 96, 128, dtype=torch.bool)
        mask[0, top:top + 56, left:left + 56] = large
        colour = torch.rand(3, 1, 1, generator=generator).round()
        pictures.append(torch.where(mask, colour, picture).clamp(0, 1))
        masks.append(mask)
    return Crops(tuple(masks), tuple(pictures), ("digit",), f"{count} scenes with the digit {digit}")


# --- from photographs to masks and boxes ------------------------------------------------------------------


def measure(job: Job, photos: Photos, *, device: str = "cpu") -> dict:
    """{rule: Jaccard index of each set in thousandths}, or, where there are boxes, {rule: hits of each, "0110…"}.

    For methods of UNSUPERVISED also {FACTORS: their number for each set}.
    """
    found: dict[str, list] = {}
    for name, one in photos.sets.items():
        (maps, ranks), colours = maps_of(job, name, one, device), list(one.images(SIDE))
        if job.method in UNSUPERVISED:
            found.setdefault(FACTORS, []).extend(ranks)
        for rule in RULES if job.method != "whole" else (WHOLE,):
            masks = masks_of(maps, colours, one.sizes, rule)
            found.setdefault(rule.name, []).append(hits(masks, one.boxes) if job.data == "boxes" else
                                                   round(1000 * float(iou(masks, outlines(one)))))
    return found


def maps_of(job: Job, name: str, one: Any, device: str = "cpu") -> tuple[list[Tensor], list[int]]:
    """n × (1, h, w): what a job says of the photographs of a set; and the rank of each of its factorizations."""
    if job.method in PEERS:
        grid = [(max(2, round(14 * H / min(H, W))), max(2, round(14 * W / min(H, W)))) for H, W in one.sizes]
        return [window(*size)[None] if job.method == "centre" else torch.ones(1, *size) for size in grid], []
    method = "nmf" if job.method in (*SUMS, *UNSUPERVISED) else job.method
    maps: list[Maps] = []
    ranks = []
    for side, network in product(job.sides.split("+"), job.network.split("+")):
        given = features(network, int(side), job.data, name, job.precision, device)
        ranks.append(rank_of(job, network, given))
        if job.method in WEIGHTED:
            factors = factorize(given, ranks[-1], seed=job.seed).maps
            weights = compactness(factors) ** 2
            if job.method == AGREEING:
                others = factorize(features("resnet50", int(side), job.data, name, job.precision, device), ranks[-1],
                                   seed=job.seed).maps
                weights = agreeing(factors, others) * off_border(factors) ** 2
            maps.append([torch.einsum("k,khw->hw", weights.to(each), each)[None] for each in factors])
        else:
            maps.append(single_maps(given, method, rank=ranks[-1], seed=job.seed))
    return multi_scale(*maps), ranks


def rank_of(job: Job, network: str, given: Any) -> int:
    """How many factors NMF takes of a network's maps: a fixed number, or that of COUNTS which the maps speak for."""
    if job.method == STABLE:
        return COUNTS[int(stability(given, COUNTS).mean(1).argmax())]
    if job.method == HELD_OUT:
        return choose_rank(torch.cat([to_matrix(maps[None]) for maps in given]), COUNTS, seed=job.seed).rank
    from .. import backbones  # with it comes pooch, which a machine that measures may lack

    return SUMS.get(job.method.split(" by ")[0]) or backbones.RANKS[network]


def compactness(maps: Maps) -> Tensor:
    """(K,) in [0, 1]: one less the variance of the positions of a factor's activation over that of a uniform map.

    maps: n × (K, h, w). Variances are within photographs, and photographs count by their activation.
    """
    spread = total = torch.zeros(len(maps[0]), dtype=torch.float64)
    for each in maps:
        mass, uniform = each.double().flatten(1), 0.0
        for axis, length in enumerate(each.shape[1:]):
            places = torch.linspace(-1, 1, length, dtype=torch.float64)
            along = mass.reshape(each.shape).sum(2 - axis)  # (K, length)
            mean = (along @ places) / along.sum(1).clamp_min(1e-12)
            spread = spread + (along * (places - mean[:, None]) ** 2).sum(1)
            uniform += float(places.square().mean())
        total = total + uniform * mass.sum(1)
    return (1 - spread / total.clamp_min(1e-12)).clamp_min(0)


def agreeing(maps: Maps, others: Maps) -> Tensor:
    """(K,) in [0, 1]: the highest correlation of a factor over the set with a factor of another network."""
    resized = [interpolate(other[None], size=each.shape[1:], mode="bilinear", align_corners=False)[0]
               for each, other in zip(maps, others, strict=True)]
    return correlation(maps, resized).amax(1).clamp_min(0)


@cache  # what is kept in a file is compared with what the network says, once a process
def features(network: str, side: int, data: str, name: str, precision: str, device: str):
    """Feature maps of a set; of photographs on disk they are kept in a file."""
    backbone, one = _backbone(network, precision, device), photographs(data).sets[name]
    return backbone.maps(one.images(side, backbone.preprocess), kept=f"{precision}-{side}-{name}")


@lru_cache(maxsize=4)
def _backbone(network, precision, device):
    from .. import backbones

    backbone = backbones.load(network, device=device)
    if precision == "bfloat16":
        in_bfloat16(backbone.model, device)
    return backbone


def window(H: int, W: int) -> Tensor:
    """(H, W) a Gaussian in the middle, one at its peak."""
    y, x = (torch.linspace(-1, 1, length) for length in (H, W))
    return torch.exp(-(y[:, None] ** 2 + x ** 2) / (2 * CENTRE ** 2))


def masks_of(maps: Sequence[Tensor], colours: Sequence[Tensor], sizes: Sequence[tuple[int, int]], rule: Rule
             ) -> list[Tensor]:
    """n × (1, H, W) bool of the given sizes. colours: n × (3, h, w) copies of the photographs."""
    if rule.centred:
        maps = [each * window(*each.shape[1:]).to(each) for each in maps]
    if not rule.cut:
        return binarize(maps, sizes, threshold=rule.threshold)
    small = refine(maps, colours, threshold=rule.threshold, side=SIDE)
    return [interpolate(mask[None].float(), size=size, mode="bilinear", align_corners=False)[0] > 0.5
            for mask, size in zip(small, sizes, strict=True)]


def outlines(one: Any) -> list[Tensor]:
    """n × (1, H, W) bool: the object in each photograph of a set with outlines."""
    kept = [i for i, part in enumerate(one.names) if part != BEAM]
    return [masks[kept].any(0, keepdim=True) for masks in one]


def hits(masks: Sequence[Tensor], truth: Sequence) -> str:
    """A digit for each photograph: 1 where the box of its mask's largest part has an IoU of at least half with one."""
    drawn = [box(mask[0]) for mask in masks]
    return "".join(str(int(corners is not None and any(box_iou(corners, true) >= 0.5 for true in image)))
                   for corners, image in zip(drawn, truth, strict=True))


# --- claims -----------------------------------------------------------------------------------------------

Choice = tuple[str, str, str, str]  # network, sides, method, rule
Interval = tuple[float, float, float]  # value, from, to
ONE_FACTOR: Choice = ("vgg19", "224", "nmf", PLAIN.name)  # as the thesis takes it
DDT: Choice = ("vgg19", "224", "pca", PLAIN.name)
AIM = {"masks": 0.55, "boxes": 0.65}
WHERE = {"masks": "7 classes, VOC 2010", "boxes": "3 groups, VOC 2007"}
LOSS = 0.02  # that a number of factors may cost which is chosen without ground truth
_MANY = f"is at most {LOSS:g} behind the best of four, six and eight"
_SIX = "weighted by how far they keep off the border"
ALTERNATIVES = {STABLE: f"a sum of as many factors as starts agree on best {_MANY}",
                HELD_OUT: f"a sum of as many factors as held-out entries speak for {_MANY}",
                COMPACT: f"six factors weighted by how compact they are exceed six {_SIX}",
                AGREEING: f"six factors weighted by how well one of ResNet-50 agrees, too, exceed six {_SIX}"}


def table(measured: list, data: str) -> dict[Choice, dict[str, list]]:
    """{choice: {set: [Jaccard index], or the hits of its photographs}} of entries."""
    names = [name for part in SPLIT[data].values() for name in part]
    found: dict[Choice, dict[str, list]] = {}
    for entry in measured:
        job = entry.job
        if job["data"] == data:
            for rule, values in entry.measurements.items():
                if rule == FACTORS:
                    continue
                choice = job["network"], job["sides"], job["method"], rule
                found[choice] = {name: [value / 1000] if isinstance(value, int) else [int(hit) for hit in value]
                                 for name, value in zip(names, values, strict=True)}
    return found


def score(of_sets: Mapping[str, list], names: Sequence[str]) -> float:
    """Mean Jaccard index, or CorLoc: the mean of the sets' means."""
    return float(np.mean([np.mean(of_sets[name]) for name in names]))


def chosen(choices: Mapping[Choice, Mapping[str, list]], data: str, *methods: str) -> Choice:
    """The choice, of all or of some methods, that is best where it may be chosen; of equal ones the first."""
    return max((choice for choice in choices if not methods or choice[2] in methods),
               key=lambda choice: score(choices[choice], SPLIT[data]["choosing"]))


def tables(data: str, networks: Sequence[str], sides: Sequence[str], methods: Sequence[str] = METHODS
           ) -> Callable[[list], list]:
    """A function of entries: [table], of some networks at some sides, once all of its jobs are measured."""
    wanted = {key(job) for job in jobs() if job.data == data and job.network in ("", *networks)
              and job.method in (*PEERS, *methods) and job.sides in ("", *sides)}

    def units(entries):
        there = [entry for entry in entries if key(entry.job) in wanted]
        return [table(there, data)] if len(there) == len(wanted) else []
    return units


def scales(data: str) -> tuple[Scale, ...]:
    """What a rule is chosen from, the most first."""
    return tuple(Scale(f"{WHERE[data]}, {text}", tables(data, networks, sides), (1,), None)
                 for text, networks, sides in (("both networks, 224 and 448 pixels", NETWORKS, SIDES),
                                               ("both networks, 224 pixels", NETWORKS, SIDES[:1]),
                                               ("VGG-19, 224 pixels", NETWORKS[:1], SIDES[:1])))


def alternatives(data: str) -> tuple[Scale, ...]:
    """What the other numbers and weights of factors are compared at."""
    return (Scale(f"{WHERE[data]}, VGG-19, 224 pixels", tables(data, ("vgg19",), ("224",), (*METHODS, *ALTERNATIVES)),
                  (1,), None),)


def claims() -> list[Claim]:
    """C5.1, its first half; and ours, beside T4.2 and T4.3: the rule chosen on half of the sets, on the other half."""
    found = [Claim("C5.1", "local", "one factor of ResNet-50 boxes more objects than one of VGG-19 (CorLoc), by the "
                   "thesis's rule", "where", _more_local,
                   (Scale("6 groups, VOC 2007, 224 pixels", tables("boxes", NETWORKS[:2], SIDES[:1]), (1,), None),),
                   unit="set of groups")]
    for data, what in (("masks", "Jaccard index"), ("boxes", "CorLoc")):

        def claim(name, sentence, statistic, threshold=0.0, data=data, of=scales):
            return Claim(OURS, f"{data}, {name}", sentence, "where", statistic, of(data), unit="split into halves",
                         threshold=threshold)

        found += [
            claim("chosen over DDT", f"{what}: the chosen rule exceeds the first principal component of VGG-19",
                  partial(_ahead, data, (), DDT)),
            claim("chosen over one factor", f"{what}: the chosen rule exceeds one factor of VGG-19, the thesis's rule",
                  partial(_ahead, data, (), ONE_FACTOR)),
            claim("NMF over DDT", f"{what}: one NMF factor exceeds the first principal component, a rule chosen for "
                  "each", partial(_ahead, data, ("nmf",), ("pca",))),
            claim("several over DDT", f"{what}: several NMF factors exceed the first principal component, a rule "
                  "chosen for each", partial(_ahead, data, (*SUMS,), ("pca",))),
            claim("several over one", f"{what}: several NMF factors exceed one, a rule chosen for each",
                  partial(_ahead, data, (*SUMS,), ("nmf",))),
            claim("aim", f"{what}: the chosen rule exceeds {AIM[data]:g}", partial(_ahead, data, (), None),
                  AIM[data])]
        for method, sentence in ALTERNATIVES.items():
            counts = method in UNSUPERVISED
            found.append(claim(method, f"{what}: {sentence}, a rule chosen for each",
                               partial(_ahead, data, (method,), (*SUMS,) if counts else ("6 factors",)),
                               -LOSS if counts else 0.0, of=alternatives))
    return found


def compared(measured: list, data: str) -> dict[str, tuple[Choice, dict[str, Interval]]]:
    """{what was compared: (the choice, {part of the split: value and interval})} at the largest scale measured; {}
    before the first."""
    choices = next((units[0] for scale in scales(data) if (units := scale.units(measured))), None)
    if choices is None:
        return {}
    best = {"best rule": chosen(choices, data), "best of several factors": chosen(choices, data, *SUMS),
            "best of one factor": chosen(choices, data, "nmf"),
            "best of principal components": chosen(choices, data, "pca"), "one factor, thesis": ONE_FACTOR,
            "first principal component": DDT, "best of the middle alone": chosen(choices, data, "centre"),
            "whole photograph": chosen(choices, data, "whole")}
    return _parts(choices, data, best)


def compared_alternatives(measured: list, data: str) -> dict[str, tuple[Choice, dict[str, Interval]]]:
    """As `compared`, of each sum of factors the best rule; {} before all are measured."""
    found = alternatives(data)[0].units(measured)
    return _parts(found[0], data, {method: chosen(found[0], data, method) for method in (*SUMS, *ALTERNATIVES)}
                  ) if found else {}


def _parts(choices, data, some):
    return {title: (choice, {part: _interval(data, [np.array(choices[choice][name], float) for name in names])
                             for part, names in SPLIT[data].items()}) for title, choice in some.items()}


def described(choice: Choice) -> str:
    """A choice in words."""
    network, sides, method, rule = choice
    title = {"nmf": "one factor", "pca": "PCA", "kmeans": "k-means", "channel_sum": "sum over channels",
             **{several: several for several in SUMS}}.get(method, "")
    return ", ".join(filter(None, (title, LABELS[network] if network else "", sides and f"{sides} px", rule)))


def _interval(data, values):
    """Mean over sets with its interval: of masks the sets are drawn anew, of boxes the photographs of each."""
    if data == "masks":
        return bootstrap(mean, np.concatenate(values))
    return bootstrap(mean, *values)


def _ahead(data, ours, other, units):
    """By how much a choice exceeds another, or zero where there is no other; methods, of which () are all, stand for
    the best of their rules."""
    choices, names = units[0], SPLIT[data]["measured"]

    def taken(which):
        return choices[which if which in choices else chosen(choices, data, *which)]
    first, second = taken(ours), None if other is None else taken(other)
    return _interval(data, [np.array(first[name], float) - (np.array(second[name]) if second else 0)
                            for name in names])


def _more_local(units):
    of_vgg, of_resnet = (units[0][(network, *ONE_FACTOR[1:])] for network in NETWORKS[:2])
    return _interval("boxes", [np.array(of_resnet[name], float) - np.array(of_vgg[name]) for name in of_vgg])


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up measurements on which every claim "holds", "fails" or is "undecided"."""
    made = []
    for job in jobs():
        if job.data == "digits" or job.network not in ("", *NETWORKS) or job.method == "channel_sum":
            continue
        names = [name for part in SPLIT[job.data].values() for name in part]
        entry = {}
        for rule in RULES if job.method != "whole" else (WHOLE,):
            best = (job.network, job.sides, rule.name) == ("vgg19", "224", "0.6, GrabCut")
            tier = {"nmf": 1, "6 factors": 2, **dict.fromkeys(ALTERNATIVES, 3)}.get(job.method, 0) if best else 0
            entry[rule.name] = [_made(kind, job.data, tier, name in SPLIT[job.data]["choosing"], i)
                                for i, name in enumerate(names)]
            if (job.data, job.network, *ONE_FACTOR[1:]) == ("boxes", "resnet50", job.sides, job.method, rule.name):
                entry[rule.name] = ["".join(np.roll([*hits], 5)) if kind == "undecided" else
                                    ("1" * {"holds": 13, "fails": 2}[kind]).ljust(20, "0")
                                    for hits in entry[rule.name]]
        made.append((job, entry))
    return made


def _made(kind, data, tier, choosing, i):
    """Of the i-th set: where they may be chosen, several factors (tier 2) are best, then one; elsewhere they are ahead,
    behind or neither, and so is a number of factors that is chosen (3)."""
    if choosing:
        level = (0.5, 0.7, 0.75, 0.6)[tier]
    elif kind == "undecided":
        level = AIM[data] + (0 if data == "boxes" else 0.1 * (-1) ** (i, i // 2, i + 1, i)[tier])
    else:
        level = {"holds": (0.4, 0.7, 0.9, 1), "fails": (0.5, 0.3, 0.1, 0)}[kind][tier]
    if data == "masks":
        return round(1000 * level)
    ones = round(20 * level)
    return "".join(np.roll(list("1" * ones + "0" * (20 - ones)), 7 * tier))
