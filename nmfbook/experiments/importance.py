"""Which parts a prediction rests on: parts of five kinds are taken out of a layer, and put back, C6.4.

Thesis section 6.2 only proposes to ablate pairs of U and V, and expects that some promote a prediction, some hurt it
and some do nothing. Ours: NMF's pairs beside as many parts of other kinds, cheap scores beside exact Shapley values.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nmfcore.activations import capture, to_maps, to_matrix
from nmfcore.cam import predicted_grad_cam
from nmfcore.factorization import pca
from nmfcore.heatmaps import factorize
from nmfcore.importance import importance, masked_logits, removal_curves, shapley_values, subsets

from ..claims import OURS, Claim, Scale
from ..statistics import bootstrap, mean
from . import pair_ablation
from .data import lacking
from .imagenet import PLACES

TRAINING, MEASUREMENT = 1, 1
KINDS = {"nmf": "NMF's pairs", "pca": "principal directions", "channels": "the strongest channels",
         "random": "random non-negative directions in the same places",
         "positions": "as many sets of positions, by Grad-CAM"}
RANKS = (5, 10)
EXACT = 6  # up to so many parts all subsets are run
DRAWS = 16  # pairs of permutations, of more parts
EFFECT = 0.01  # of probability: below it, a part does nothing
SCORES = ("grad_cam", "gradient", "strength")


@dataclass(frozen=True)
class Job:
    """One kind of parts in one network."""

    data: str  # "digits" or "imagenet"
    network: str
    kind: str  # of KINDS
    rank: int
    seed: int = 0  # of the factorization, of what is drawn, and of the network of digits


@dataclass(frozen=True)
class Subject:
    """What follows the layer in a network, beginning with its ReLU, and the activations that reach it."""

    tail: nn.Module
    maps: dict[int, Tensor]  # (n, C, h, w) of each class, by its place among the logits
    source: str
    sha256: str  # of what the network was shown


def jobs() -> list[Job]:
    """The digits first, then networks of photographs, five parts before ten."""
    return [Job("digits", "digits", kind, rank) for rank in RANKS for kind in KINDS] + [
        Job("imagenet", network, kind, rank) for rank in RANKS for network in pair_ablation.NETWORKS for kind in KINDS]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    if job.data == "digits":
        return None
    return lacking("imagenet", "imagenet/val", f"weights/{job.network}*.safetensors")


def train(job: Job, folder: Path, *, device: str = "cpu") -> Subject:
    """Trains nothing but, on the digits, a small network."""
    return _subject(job.network, job.seed if job.data == "digits" else 0, device)


@lru_cache(maxsize=1)
def _subject(network, seed, device):
    if network == "digits":
        whole = pair_ablation.digits(seed, device)
        places = {name: int(name) for name in whole.groups}
    else:
        whole = pair_ablation.photographs(device, network=network)
        found = [*whole.groups]
        places = {name: i for i, name in enumerate(found)} if len(found) == 1000 else PLACES
    digest = hashlib.sha256()
    for images in whole.groups.values():
        digest.update(images.contiguous().numpy().tobytes())
    maps = {places[name]: capture(whole.model, whole.layer, images.to(device), batch_size=10)[whole.layer]
            for name, images in whole.groups.items()}
    return Subject(tail_of(whole.model, whole.layer), maps, f"{whole.source}; {whole.label}, layer {whole.layer}",
                   digest.hexdigest())


def tail_of(model: Any, layer: str) -> nn.Sequential:
    """What follows a layer in a network of digits or of NETWORKS, behind a module called "layer"."""
    if isinstance(model, nn.Sequential):
        names = [name for name, _ in model.named_children()]
        return nn.Sequential(OrderedDict(layer=nn.ReLU(), rest=model[names.index(layer) + 1:]))
    rest = model.features[int(layer.removeprefix("features.")) + 1:]
    if hasattr(model, "avgpool"):  # VGG
        return nn.Sequential(OrderedDict(layer=nn.ReLU(), rest=rest, pool=model.avgpool, flat=nn.Flatten(),
                                         classifier=model.classifier))
    return nn.Sequential(OrderedDict(layer=nn.ReLU(), rest=rest, classifier=model.classifier, flat=nn.Flatten()))


def parts_of(kind: str, A: Tensor, rank: int, seen: Tensor, seed: int) -> Tensor:
    """(n, K, C, h, w) parts of the activations (n, C, h, w) of one class's images.

    The random ones lie where NMF's do and are as strong: the entries of each V_k are permuted. Channels are those of
    most energy in the class. Positions are cut by the Grad-CAM maps `seen` (n, h, w) of each image into K sets of one
    size, which hold all channels and together all activations.
    """
    if kind == "positions":
        places = seen.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1)  # of each position, from 0
        sets = (places * rank // places.shape[1]).reshape(seen.shape)
        return torch.stack([A * (sets == k)[:, None] for k in range(rank)], 1)
    if kind == "channels":
        chosen = A.square().sum((0, 2, 3)).topk(rank).indices
        return torch.stack([A * (torch.arange(A.shape[1], device=A.device) == c)[:, None, None] for c in chosen], 1)
    factors = pca(to_matrix(A), rank) if kind == "pca" else factorize(A, rank, seed=seed).factors
    V = factors.V
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        V = torch.stack([row[torch.randperm(len(row), generator=generator)] for row in V])
    return torch.einsum("nkhw,kc->nkchw", to_maps(factors.U, A.shape), V)


def cheap_scores(tail: nn.Module, A: Tensor, parts: Tensor, seen: Tensor) -> dict[str, np.ndarray]:
    """(n, K) of each of SCORES, none of which takes a part out: Grad-CAM where a part is, the gradient of the predicted
    class's probability times the part, and the part's norm."""
    places = parts.norm(dim=2)  # (n, K, h, w)
    inputs = A.clone().requires_grad_()
    with torch.enable_grad():
        slope, = torch.autograd.grad(tail(inputs).softmax(1).amax(1).sum(), inputs)
    size = places.flatten(2).norm(dim=2).clamp(min=1e-12)
    scores = {"grad_cam": torch.einsum("nhw,nkhw->nk", seen, places) / size,
              "gradient": torch.einsum("nchw,nkchw->nk", slope, parts), "strength": parts.flatten(2).norm(dim=2)}
    return {name: score.double().cpu().numpy() for name, score in scores.items()}


def measure(job: Job, subject: Subject, *, device: str = "cpu") -> dict:
    """Of each class the mean over its images: areas under deletion and insertion curves of the predicted class's
    probability, and under that of the squared activations removed; how well cheap scores order the parts; the share of
    parts that promote or hurt the true class."""
    by_class = [measure_class(job, subject.tail, A.to(device), label) for label, A in subject.maps.items()]
    whole = {name: [found[name] for found in by_class] for name in by_class[0]}
    return whole | {name: np.mean(whole[name], axis=0) for name in CURVES}


CURVES = ("deletion_curve", "insertion_curve", "grad_cam_curve", "energy_curve")  # K + 1 means over all images


def measure_class(job: Job, tail: nn.Module, A: Tensor, label: int) -> dict:
    seen = torch.cat(predicted_grad_cam(tail, A, 1))  # (n, h, w)
    parts = parts_of(job.kind, A, job.rank, seen, job.seed)
    image, exact = torch.arange(len(A)), job.rank <= EXACT
    if exact:  # every curve is among the subsets
        values = masked_logits(tail, "layer", A, parts, subsets(job.rank)).double().softmax(-1)
        effects, error, predicted = shapley_values(values).movedim(1, 0), torch.zeros(()), values[0].argmax(1)
    else:
        sampled = importance(tail, "layer", A, parts, exact=0, draws=DRAWS, seed=job.seed)
        predicted = sampled.whole.argmax(1)
        effects, error = sampled.shapley, sampled.standard_error[image, :, predicted]
    shapley = effects[image, :, predicted]  # (n, K)
    scores = cheap_scores(tail, A, parts, seen)

    def curves(order_by):
        if exact:
            return subset_curves(values[:, image, predicted], order_by)
        found = removal_curves(tail, "layer", A, parts, order_by)
        return found.deletion, found.insertion

    deletion, insertion = curves(shapley)
    by_cam, _ = curves(torch.as_tensor(scores["grad_cam"], device=A.device))
    energy, of_label = _energy(A, parts, shapley), effects[..., label]
    agreement = {name: float(np.mean(pair_ablation.rank_correlations(score, shapley.cpu().numpy())))
                 for name, score in scores.items()}
    areas = {name: float(torch.trapezoid(curve, dim=1).mean()) / job.rank for name, curve in (
        ("deletion", deletion), ("insertion", insertion), ("deletion by Grad-CAM", by_cam))}
    return {"probability": float(deletion[:, 0].mean()), "right": float((predicted == label).double().mean()),
            **areas, "energy": float(np.trapezoid(energy)) / job.rank, **agreement,
            **{name: float(share.double().mean()) for name, share in (
                ("promotes", of_label > EFFECT), ("hurts", of_label < -EFFECT), ("nothing", of_label.abs() <= EFFECT))},
            "standard_error": float(error.mean()), "deletion_curve": deletion.mean(0).tolist(),
            "insertion_curve": insertion.mean(0).tolist(), "grad_cam_curve": by_cam.mean(0).tolist(),
            "energy_curve": energy}


def subset_curves(values: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Deletion and insertion curves (n, K + 1), as of `removal_curves`, looked up in the values (2^K, n) of subsets."""
    bits = 2 ** scores.argsort(dim=1, descending=True, stable=True)  # (n, K)
    gone = torch.cat([torch.zeros_like(bits[:, :1]), bits.cumsum(1)], 1)
    image = torch.arange(len(scores))[:, None]
    return values[gone, image], values[len(values) - 1 - gone, image]


def _energy(A, parts, scores):
    """K + 1 shares of the squared activations that are gone without the first parts by their scores, on average."""
    order, left, gone = scores.argsort(dim=1, descending=True, stable=True), A, [0.0]
    for k in order.T:
        left = left - parts[torch.arange(len(A)), k]
        share = left.clamp(min=0).square().flatten(1).sum(1) / A.square().flatten(1).sum(1)
        gone.append(1 - float(share.mean()))
    return gone


# --- claims -----------------------------------------------------------------------------------------------


def tables(network: str, rank: int) -> Callable[[list], list]:
    """A function of entries: [{kind: measurements}] once all kinds of so many parts are measured in a network."""
    def units(entries):
        found = {entry.job["kind"]: entry.measurements for entry in entries if entry.job["data"] == "imagenet"
                 and (entry.job["network"], entry.job["rank"]) == (network, rank)}
        return [found] if {*KINDS} <= {*found} else []
    return units


def claims(rank: int = RANKS[0]) -> list[Claim]:
    """C6.4, what the thesis expects of NMF's pairs, and our own. Intervals are over classes.

    rank: parts, five where the claims are judged; the page asks whether ten answer alike.
    """
    expected: list[tuple[str, str, Callable, float]] = [
        (name, f"some parts {verb} the right answer (share of pairs)", partial(_share, name), 0.05)
        for name, verb in (("promotes", "promote"), ("hurts", "hurt"), ("nothing", "do nothing to"))]
    own: list[tuple[str, str, Callable, float]] = []
    for kind, title in KINDS.items():
        if kind != "nmf":
            own += [(f"pairs over {kind}", f"the areas under insertion and deletion curves differ more for NMF's pairs "
                     f"than for {title}", partial(_gap, kind), 0.0),
                    (f"pairs over {kind}, by energy", f"for each share of the squared activations removed, NMF's pairs "
                     f"cost more probability than {title}", partial(_by_energy, kind), 0.0)]
    own += [("Shapley over Grad-CAM", "removal by Shapley value lowers the probability faster than by Grad-CAM (areas)",
             _order, 0.0),
            ("Grad-CAM", "Grad-CAM orders NMF's pairs as Shapley values do (rank correlation)",
             partial(_share, "grad_cam"), 0.5),
            ("gradient", "the gradient times the pair orders them so (rank correlation)",
             partial(_share, "gradient"), 0.5),
            ("Grad-CAM over strength", "Grad-CAM orders them better than their strength does (rank correlations)",
             _over_strength, 0.0)]
    found = []
    for network, (label, _) in pair_ablation.NETWORKS.items():
        scales = (Scale(f"{label}, 200 validation photographs of 10 classes of ImageNet", tables(network, rank), (1,),
                        None),)
        found += [Claim(row, f"{name}, {label}", f"{label}: {sentence}", "importance", statistic, scales,
                        unit="set of ten classes", threshold=threshold)
                  for row, sentences in (("C6.4", expected), (OURS, own))
                  for name, sentence, statistic, threshold in sentences]
    return found


def _of(units, name, kind="nmf"):
    return np.array(units[0][kind][name])  # (classes,)


def _share(name, units):
    return bootstrap(mean, _of(units, name))


def _gap(kind, units):
    nmf, other = (_of(units, "insertion", of) - _of(units, "deletion", of) for of in ("nmf", kind))
    return bootstrap(mean, nmf - other)


def _by_energy(kind, units):
    """Difference of losses of probability per share of energy, each a ratio of means over classes and parts removed."""
    rows = [np.array([_of(units, "probability", of) - _of(units, "deletion", of), _of(units, "energy", of)]).T
            for of in ("nmf", kind)]

    def statistic(sample):
        loss, energy, other_loss, other_energy = sample.mean(0)
        return loss / energy - other_loss / other_energy
    return bootstrap(statistic, np.concatenate(rows, 1))


def _order(units):
    return bootstrap(mean, _of(units, "deletion by Grad-CAM") - _of(units, "deletion"))


def _over_strength(units):
    return bootstrap(mean, _of(units, "grad_cam") - _of(units, "strength"))


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up measurements on which every claim "holds", "fails" or is "undecided"."""
    ahead = {"holds": 0.2, "fails": -0.2, "undecided": 0.0}[kind]
    share = {"holds": 0.3, "fails": 0.01, "undecided": 0.05}[kind]
    wave = np.array([1, -1] * 5)  # from class to class
    made = []
    for job in jobs():
        if job.data != "imagenet":
            continue
        nmf = job.kind == "nmf"
        measured = {"deletion": 0.5 - ahead * nmf - 0.02 * nmf * wave, "strength": np.full(10, 0.5),
                    "insertion": 0.5 + ahead * nmf + 0.02 * nmf * wave, "deletion by Grad-CAM": np.full(10, 0.5),
                    "probability": np.full(10, 0.9), "energy": np.full(10, 0.4)}
        measured |= {name: 0.5 + ahead + 0.02 * wave for name in ("grad_cam", "gradient")}
        measured |= {name: share + 0.01 * wave for name in ("promotes", "hurts", "nothing")}
        made.append((job, measured))
    return made
