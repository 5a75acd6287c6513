"""Heatmaps (thesis sections 4.2 and 4.3.1): whether factors nest and starts agree, the border, PCA, and zeros.

Two image sets go through VGG-19, or the student where it is missing, and ResNet-50. Of several starts the factorization
with the least error is kept. No experiment of the ledger: the chapter calls what is here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nmfcore.activations import reflection_padding, to_maps, to_matrix
from nmfcore.factorization import pca
from nmfcore.feature_maps import Maps, feature_maps
from nmfcore.heatmaps import Heatmaps, factorize, heatmaps
from nmfcore.matching import agreement, border_share, match, overlap
from nmfcore.networks import data_folder
from nmfcore.solver import nmf

from .. import records
from ..annotated import crops, scaled
from ..backbones import Backbone, load
from ..datasets import ImageSet, image_folder, image_set, pixels
from ..statistics import interval, judged, resampled

RANKS = (1, 2, 3, 4)
AGREED = 0.9  # from here on two starts show the same
OUTLINED = ("motorcycle", "cup", "temple", "flower")  # embedded photographs of which there are outlines
PADDINGS: dict[str, Callable] = {"zeros": nullcontext, "reflection": reflection_padding}
ROWS = (("F4.6", "VGG-19", "elephants"), ("F4.7", "VGG-19", "gymnasts"), ("F4.8", "ResNet-50", "elephants"),
        ("F4.9", "ResNet-50", "gymnasts"))
CLASSES = {"F4.3": "monarch butterflies", "F4.4": "violins", "F4.5": "brown bears"}
ZEROS = {"zeros_vgg": "VGG-19", "zeros_resnet": "ResNet-50", "zeros_reflected": "ResNet-50, reflection padding",
         "zeros_student": "student"}  # under which name a record has the zeros of which network
ABSENT = "not included"


# --- networks and photographs -------------------------------------------------------------------------------


def backbones(profile: str, device: str = "cpu") -> dict[str, Backbone]:
    """By label: VGG-19, else the student, and ResNet-50 where it is at hand; "paper" downloads them."""
    found = {}
    for names in (("vgg19", "student"), ("resnet50",)):
        for name in names:
            try:
                backbone = load(name, device=device, download=profile == "paper")
            except FileNotFoundError:
                continue
            found[backbone.label] = backbone
            break
    return found


def class_set(wnid: str, title: str) -> ImageSet | None:
    """Five photographs of an ImageNet class, if they are in the data folder."""
    folder = data_folder()
    for split in ("val", "train"):
        if folder and (folder / "imagenet" / split / wnid).is_dir():
            members = image_folder(folder / "imagenet" / split / wnid, count=5)
            return ImageSet(members.images, members.names, f"{len(members.names)} photographs of {title}, ImageNet")
    return None


def class_sets() -> dict[str, ImageSet]:
    """Photographs of the classes of figures 4.2 to 4.5, by row, or of others that stand in for them."""
    sets = {"F4.2": class_set("n03028079", "church buildings") or image_set("objects", count=5),
            "F4.3": class_set("n02279972", "monarch butterflies")
            or class_set("n01440764", "tench (for monarch butterflies)"),
            "F4.4": class_set("n04536866", "violins") or class_set("n03394916", "French horns (for violins)"),
            "F4.5": class_set("n02132136", "brown bears")
            or class_set("n02102040", "English springers (for brown bears)")}
    return {row: members for row, members in sets.items() if members is not None}


def outlined(backbone: Backbone, rank: int, *, side: int = 320, seed: int = 0):
    """Photographs, maps and references as `widgets.threshold` takes them: of OUTLINED, factorized together.

    The outlines are ours, drawn by hand. A photograph with several parts has their union first.
    """
    wholes = {name: crops(name) for name in OUTLINED}  # of each photograph the first crop is all of it
    images = scaled([whole.pictures[0] for whole in wholes.values()], side, backbone.preprocess)
    with backbone.padded():
        maps = heatmaps(backbone.model, images, rank, layer=backbone.layer, seed=seed).maps
    photographs = {name: pixels(whole.pictures[0]) for name, whole in wholes.items()}
    references = [{name: whole.masks[0].any(0)} | dict(zip(whole.names, whole.masks[0], strict=True))
                  for name, whole in wholes.items()]
    return photographs, maps, references


def features_of(backbone: Backbone, images: Tensor, padding: Callable | None = None) -> Tensor:
    """Feature maps (n, C, h, w) on the CPU, with the network's usual padding or another."""
    device = next(backbone.model.parameters()).device
    with backbone.padded() if padding is None else padding(backbone.model):
        maps = feature_maps(backbone.model, backbone.preprocess(images.to(device)), layer=backbone.layer, batch_size=2)
    return torch.stack([*maps]).cpu()


# --- does a hierarchy come from the data? -------------------------------------------------------------------


@dataclass(frozen=True)
class Hierarchy:
    """One network on one image set, factorized at RANKS."""

    label: str
    images: Tensor  # (n, 3, H, W) in [0, 1]
    features: Tensor  # (n, C, h, w)
    fits: list[Heatmaps]  # one per rank, of several starts the one with the least error
    maps: list[Tensor]  # (n, K, h, w) each, factors in the order of those of the rank below that they resemble
    agreement: Tensor  # (ranks, pairs of starts)


def hierarchy(label: str, backbone: Backbone, images: Tensor, *, starts: int, seed: int = 0) -> Hierarchy:
    """Factorize the maps of a set at every rank, from several starts."""
    features = features_of(backbone, images)
    runs = [factorize(features, RANKS, seed=seed + start) for start in range(starts)]
    tries = list(zip(*runs, strict=True))  # of each rank
    fits = [min(fits, key=lambda fit: float(fit.factors.error)) for fits in tries]
    maps: list[Tensor] = []
    for fit in fits:
        maps.append(fit.maps[:, match(fit.maps, maps[-1])] if maps else fit.maps)
    agreements = [[agreement(second.maps, first.maps) for first, second in combinations(fits, 2)] for fits in tries]
    return Hierarchy(label, images, features, fits, maps, torch.tensor(agreements))


class Facts(NamedTuple):
    """What is known of a hierarchy, in per cent; ranges are mean, least and most."""

    share: float  # of a factor's activation on its main parent, mean over factors of ranks above two
    swapped: tuple[float, ...]  # the same with the maps laid over other photographs; over exchanges
    heat: tuple[float, ...]  # mean of the map at rank one; over photographs


def nesting(maps: Sequence[Tensor]) -> tuple[float, list[float]]:
    """The share of a factor's activation that lies on its main parent, and what it is over other photographs.

    maps: (n, K, h, w) for growing K. For the second, the children's maps move on by 1, 2, … n − 1 photographs, so that
    their shapes and sizes stay what they are. Rank one is left out: there all descend from the only factor.
    """
    shares = []
    for step in range(len(maps[0])):
        on_main = []
        for parents, children in pairwise(maps[1:]):
            main = overlap(children, parents).argmax(1, keepdim=True)
            on_main.append(overlap(children.roll(step, 0), parents).gather(1, main))
        shares.append(float(torch.cat(on_main).mean()))
    return shares[0], shares[1:]


def facts(found: Hierarchy) -> Facts:
    """Those of a hierarchy."""
    share, swapped = nesting(found.maps)
    return Facts(100 * share, _range(swapped), _range(found.maps[0].mean((1, 2, 3))))


def _range(values):
    values = 100 * np.asarray(values)
    return float(values.mean()), float(values.min()), float(values.max())


def line(found: Hierarchy) -> str:
    """Its facts as a record has them, and of the ranks above one the least agreement of two starts."""
    share, swapped, heat = facts(found)
    ranges = [f"{mean:.0f} % ({low:.0f} to {high:.0f} %)" for mean, low, high in (swapped, heat)]
    return " | ".join([found.label, f"{share:.0f} %", *ranges,
                       " / ".join(f"{float(least):.2f}" for least in found.agreement[1:].amin(1))])


def read(lines: Sequence[str]) -> dict[tuple[str, ...], Facts]:
    """The facts of such lines, by network and set."""
    known = {}
    for label, *cells in (line.split(" | ") for line in lines):
        (share,), swapped, heat = ([float(number) for number in re.findall(r"[\d.]+", cell)] for cell in cells[:3])
        known[tuple(label.split(", "))] = Facts(share, tuple(swapped), tuple(heat))
    return known


def starts_agree(hierarchies: Sequence[Hierarchy]) -> dict:
    """How many factorizations have two starts that disagree, and where they do so most."""
    least = torch.stack([found.agreement.amin(1) for found in hierarchies])  # (hierarchies, ranks)
    worst, rank = divmod(int(least.argmin()), least.shape[1])
    return {"unstable": int((least < AGREED).sum()), "figures": least.numel(), "worst": float(least.min()),
            "worst_where": f"{hierarchies[worst].label}, K = {RANKS[rank]}"}


# --- the border ---------------------------------------------------------------------------------------------


def crop_errors(backbone: Backbone, images: Tensor, *, margin: int = 4, step: int = 16) -> dict[str, Tensor]:
    """By padding, the relative errors (n,) of features at the border of a crop, against those in the whole photograph.

    The crop leaves out `margin` positions of `step` pixels on each side.
    """
    whole = images[..., :images.shape[-2] // step * step, :images.shape[-1] // step * step]
    inner, cut = slice(margin, -margin), slice(margin * step, -margin * step)
    truth = features_of(backbone, whole, nullcontext)[..., inner, inner]
    ring = torch.ones(truth.shape[-2:], dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    return {title: (features_of(backbone, whole[..., cut, cut], padding) - truth)[..., ring].norm(dim=(1, 2))
            / truth[..., ring].norm(dim=(1, 2)) for title, padding in PADDINGS.items()}


def concentration(features: Tensor, *, seed: int = 0) -> float:
    """Of the most border-bound of three factors, the share of its heat at the border over the border's share of the
    area: one, if the border gets what is due to it."""
    h, w = features.shape[-2:]
    return float(border_share(factorize(features, 3, seed=seed).maps).max()) / (1 - (h - 2) * (w - 2) / (h * w))


def borders(networks: Mapping[str, Backbone], sets: Mapping[str, ImageSet], *, seed: int = 0) -> dict:
    """Zeros against reflection at the border, as a record has it."""
    values: dict = {"border": []}
    words = {"holds": "farther from the truth", "fails": "closer to the truth",
             "undecided": "not clearly better or worse"}
    changes, verdicts = [], []
    for network, backbone in networks.items():
        by_set = [crop_errors(backbone, members.images) for members in sets.values()]
        missed = {title: torch.cat([errors[title] for errors in by_set]) for title in PADDINGS}
        for title, padding in PADDINGS.items():
            dense = [concentration(features_of(backbone, members.images, padding), seed=seed)
                     for members in sets.values()]
            key = f"{'resnet' if backbone.name == 'resnet50' else 'first'}_{title}"
            values |= {f"border_{key}": dense, f"missed_{key}": 100 * float(missed[title].mean())}
            values["border"].append(f"{network} | {title} | {' and '.join(f'{value:.1f}' for value in dense)} | "
                                    f"{100 * float(missed[title].mean()):.0f} %")
        mean, least, most = interval(resampled(100 * (missed["reflection"] - missed["zeros"])))
        changes.append(f"by {mean:+.1f} percentage points with {network} (95 % interval over photographs {least:+.1f} "
                       f"to {most:+.1f})")
        verdicts.append(f"With {network}, reflection is {words[judged(least, most)]}.")
    values["padding_verdict"] = (f"Reflection instead of zeros changes the error {', and '.join(changes)}. "
                                 + " ".join(verdicts))
    return values


def border_note(values: Mapping, sources: Mapping[str, str]) -> str:
    """What `borders` and the sources of a run say about factors along the border, where it is clear."""
    note = ""
    if "border_resnet_zeros" in values and "iCoseg" in sources["photographs"] and np.abs(np.subtract(
            values["border_resnet_zeros"], values["border_resnet_reflection"])).max() < 0.3:
        note = ("The border factors that the thesis saw with ResNet-50 do not show here: its most border-bound factor "
                "is as much so with zeros as with reflection. Whether that is due to the weights cannot be told"
                + (" (these are the original ones; in torchvision's the strides sit elsewhere). "
                   if "local file" in sources["second network"] else ". "))
    if "VGG-19" in sources["network"] and "iCoseg" in sources["more photographs"] and (
            values["border_first_zeros"][1] > 2 and values["border_first_reflection"][1] < 1):
        note += ("With VGG-19 the padding decides whether the beam under the gymnasts, which lies along the border, "
                 "gets a factor of its own: with zeros it does, with reflection it does not.")
    return note or " "


# --- beside PCA ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Three factors of one image set by NMF and by PCA."""

    images: Tensor  # (n, 3, H, W) in [0, 1]
    maps: dict[str, Maps]  # "NMF" and "PCA", (n, 3, h, w) each
    error: dict[str, float]  # of each, relative, in per cent
    negative: float  # of the entries of PCA's U, in per cent


def beside(backbone: Backbone, images: Tensor, *, seed: int = 0) -> Comparison:
    """Factorize the feature maps of a set by both."""
    features = features_of(backbone, images)
    A = to_matrix(features)
    fit, components = factorize(features, 3, seed=seed), pca(A, 3)
    error = {name: 100 * float((A - factors.approximation).norm() / A.norm())
             for name, factors in (("NMF", fit.factors), ("PCA", components))}
    return Comparison(images, {"NMF": fit.maps, "PCA": to_maps(components.U, features.shape)}, error,
                      100 * float((components.U < 0).double().mean()))


# --- zeros --------------------------------------------------------------------------------------------------


def zeros(maps: Sequence[Tensor]) -> float:
    """The share of exact zeros among activations, in per cent."""
    return 100 * float(torch.cat([(each == 0).double().flatten() for each in maps]).mean())


def sparsity(networks: Mapping[str, Backbone], hierarchies: Mapping[tuple[str, str], Hierarchy],
             sets: Mapping[str, ImageSet], device: str = "cpu") -> dict[str, str]:
    """Zeros at the layer that heatmaps are read from, over all sets, under the names of ZEROS."""
    features = {network: [found.features for (label, _), found in hierarchies.items() if label == network]
                for network in networks}
    shares = {"VGG-19": features.get("VGG-19"), "ResNet-50, reflection padding": features.get("ResNet-50")}
    if "ResNet-50" in networks:
        shares["ResNet-50"] = [features_of(networks["ResNet-50"], members.images, nullcontext)
                               for members in sets.values()]
    student = load("student", device=device)
    shares["student"] = features.get("student") or [features_of(student, members.images, nullcontext)
                                                    for members in sets.values()]
    return {key: f"{zeros(maps):.1f} %" if (maps := shares.get(network)) else ABSENT for key, network in ZEROS.items()}


def printed() -> dict[str, float]:
    """Zeros in the thesis, in per cent, by network."""
    return {entry["network"]: float(entry["value"]) for entry in records.thesis("numbers", row="S4.3")}


# --- the study ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """What the chapter measures, on the networks and photographs at hand."""

    networks: dict[str, Backbone]  # by label, VGG-19 or the student first
    sets: dict[str, ImageSet]
    hierarchies: dict[tuple[str, str], Hierarchy]  # by network and set
    comparisons: dict[str, Comparison]  # by row
    classes: dict[str, ImageSet]  # by row
    values: dict  # as a record has them

    @property
    def first(self) -> Backbone:
        """VGG-19, or the student."""
        return next(iter(self.networks.values()))

    @property
    def sources(self) -> dict[str, str]:
        """What was used, under the names of a record."""
        used = {"network": self.first.label, "photographs": self.sets["elephants"].source,
                "more photographs": self.sets["gymnasts"].source, "photographs beside PCA": self.classes["F4.2"].source}
        resnet = self.networks.get("ResNet-50")
        return used | ({"second network": resnet.preprocess.source} if resnet else {})


def study(profile: str, seed: int, device: str, *, border: bool) -> Study:
    """Measure. border: whether zeros are compared with reflection, which takes as long as all else."""
    side, starts = (320, 5) if profile == "quick" else (448, 10)
    networks, classes = backbones(profile, device), class_sets()
    sets = {"elephants": image_set("elephants", "motorcycle", size=side),
            "gymnasts": image_set("gymnasts", "objects", size=side)}
    titles = {name: name if "iCoseg" in members.source else stand_in
              for (name, members), stand_in in zip(sets.items(), ("motorcycle", "objects"), strict=True)}
    if "F4.3" not in classes:
        classes["F4.3"] = sets["elephants"]
    hierarchies = {(label, name): hierarchy(f"{label}, {titles[name]}", backbone, members.images, starts=starts,
                                            seed=seed)
                   for label, backbone in networks.items() for name, members in sets.items()}
    first = next(iter(networks.values()))
    comparisons = {row: beside(first, members.images, seed=seed) for row, members in classes.items()}
    fits, features = (getattr(hierarchies[first.label, "elephants"], name) for name in ("fits", "features"))
    another = to_maps(nmf(to_matrix(features), 3, seed=seed).U, features.shape)  # rows in another order
    values = {"side": min(sets["elephants"].images.shape[-2:]), "starts": starts,
              "error_first": 100 * float(fits[0].factors.error), "error_last": 100 * float(fits[-1].factors.error),
              "alike": agreement(fits[2].maps, another),
              "hierarchy": [line(found) for found in hierarchies.values()], **starts_agree([*hierarchies.values()]),
              **(borders(networks, sets, seed=seed) if border else {}),
              **{f"beside_{name}": error for name, error in comparisons["F4.2"].error.items()},
              "negative": comparisons["F4.2"].negative, **sparsity(networks, hierarchies, sets, device)}
    return Study(networks, sets, hierarchies, comparisons, classes, values)


# --- the rows of the thesis ---------------------------------------------------------------------------------

_IN_KIND = "The thesis shows pictures only; these are other pictures of the class."


def report(values: Mapping, known: Mapping[tuple[str, ...], Facts], sources: Mapping[str, str], *,
           recorded: bool = False) -> None:
    """Answer F4.1, F4.2, F4.6 to F4.9 and S4.3 from values, facts by network and set, and what was used."""
    network = sources["network"].split(",")[0]
    records.row("F4.1", data=f"{sources['photographs']}; {network}", verdict="shown", recorded=recorded,
                value=f"relative error {values['error_first']:.0f} % at K = 1, {values['error_last']:.0f} % at K = 4; "
                      f"another start gives maps that correlate at {values['alike']:.2f} at K = 3",
                note="Another image set than the thesis's Statue of Liberty." if network == "VGG-19"
                     else "A small embedded network stands in for VGG-19.")
    data = f"{sources['photographs beside PCA']}; {network}"
    shown = "church" in data and network == "VGG-19"
    records.row("F4.2", data=data, verdict="shown" if shown else "not tested", recorded=recorded,
                value=_errors({name: values[f"beside_{name}"] for name in ("NMF", "PCA")}, values["negative"]),
                note=_IN_KIND if shown else "The comparison is shown on other photographs than the thesis's churches, "
                                            "or with another network.")
    for row, title, name in ROWS:
        label = title if title == "ResNet-50" else network
        if facts := known.get((label, name)):
            _nested(row, f"{sources['photographs' if name == 'elephants' else 'more photographs']}; {label}", facts,
                    known.get(("VGG-19", name)) if title == "ResNet-50" else None, recorded)
        elif not recorded:
            records.row(row, data="–", verdict="not tested", value="–",
                        note="The weights of ResNet-50 are not available to this build.")
    shares = {network: float(values[key].removesuffix(" %")) for key, network in ZEROS.items()
              if values[key].endswith("%")}
    close = ["holds" if abs(shares[name] - value) <= 5 else "fails" for name, value in printed().items()
             if name in shares]
    records.row("S4.3", data=f"{sources['photographs']} and {sources['more photographs']}, not all of iCoseg",
                recorded=recorded, **({"answers": close} if close else {"verdict": "not tested"}),
                value="; ".join(f"{name} {value:.0f} %" for name, value in shares.items()),
                note="A network's share agrees within five points, or not; the thesis counts over all of iCoseg. VGG "
                     "with batch normalization is not included. ResNet-50 has its original weights here; the thesis "
                     "does not say which it used, and padding does not close the gap."
                     if close else "Neither VGG-19 nor ResNet-50 is available to this build.")


def _nested(row, data, facts, vgg, recorded):
    share, (swapped, least, most), (heat, low, high) = facts
    answers = [judged(share - most, share - least)]
    if vgg:
        answers.append(judged(low - vgg.heat[2], high - vgg.heat[1]))
    records.row(row, data=data, recorded=recorded, answers=answers,
                value=f"{share:.0f} % of a factor's activation lies on its main parent (other photographs: "
                      f"{swapped:.0f} %); mean heat at K = 1 {heat:.0f} %",
                note="Nested, if that share exceeds what every exchange of the photographs gives. "
                     + ("Denser than VGG-19, if every photograph is denser than each of VGG-19's. " if vgg else "")
                     + ("Five photographs of the thesis's set." if "elephants" in data
                        else "Other photographs than the thesis's."))


def _errors(error, negative):
    return (f"K = 3: error NMF {error['NMF']:.0f} %, PCA {error['PCA']:.0f} %; {negative:.0f} % of PCA's U is negative")


def report_classes(found: Study) -> list[str]:
    """Answer F4.3 to F4.5. Returns the classes of which there are no photographs."""
    missing = []
    for row, title in CLASSES.items():
        source = found.classes[row].source if row in found.classes else None
        there = source is not None and source.split(", ")[0].endswith(title)
        if not there:
            missing.append(title)
        comparison = found.comparisons.get(row)
        records.row(row, data=f"{source}; {found.first.label}" if source else "–",
                    verdict="shown" if there and found.first.label == "VGG-19" else "not tested",
                    value=_errors(comparison.error, comparison.negative) if comparison else "–",
                    note=_IN_KIND if there else f"Photographs of {title} are not included"
                                                + ("; the page shows a stand-in." if source else "."))
    return missing
