"""VGG-19 on ImageNet, its three deepest layers compressed or ablated, one class or several in a batch, F3.11.

Protocol of thesis section 3.5.4: batches of 50 training photographs, 50 random classes. Here ten classes, all there are
at hand; one job is one method on one kind of batch. A control of ours: photographs alone among those of another class.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nmfcore.activations import to_maps, to_matrix
from nmfcore.compression import accuracy_curve, class_batches, mixed_batches
from nmfcore.networks import data_folder, pretrained
from nmfcore.solver import nmf

from ..claims import OURS, Claim, Scale
from ..datasets import image_folder
from ..statistics import bootstrap, bootstrap_correlation, fall, mean, pearson
from . import data, memorizing_networks

TRAINING, MEASUREMENT = 1, 1
# Places of the ten classes of a small copy among the thousand outputs. A full copy has them all, in this order.
PLACES = {"n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497, "n03394916": 566,
          "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701}
LAYERS = ["conv5_2", "conv5_3", "conv5_4"]
STEP = 20  # between ranks, in the thesis
INTRUDERS = (1, 3, 6)  # a host's place in the order of classes plus these: whose samples visit it, one at a time


@dataclass(frozen=True)
class Job:
    """One curve: `kind` of batch ("single", "multi", "held out": single-class, of validation photographs, or
    "intruders": single-class but for the last sample)."""

    data: str  # "digits" or "imagenet"
    kind: str
    method: str
    ablate: bool = False
    classes: int = 10
    samples: int = 50
    step: int = STEP  # between ranks
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    model: nn.Module
    layers: list[str]
    training: tuple[torch.Tensor, torch.Tensor]  # what reaches the model, labels
    held_out: tuple[torch.Tensor, torch.Tensor]
    source: str
    sha256: str


def jobs() -> list[Job]:
    """The six curves of the figure and the gain on held-out photographs; the digits first."""
    curves = [("single", "nmf", False), ("multi", "nmf", False), ("single", "nmf", True), ("multi", "nmf", True),
              ("held out", "nmf", False), ("single", "random_ablation", True), ("multi", "random_ablation", True),
              ("intruders", "nmf", False)]
    return [Job(name, *curve, step=step) for name, step in (("digits", 4), ("imagenet", STEP)) for curve in curves]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    if job.data == "digits":
        return None
    folder = data_folder()
    return None if folder and (folder / "imagenet" / "train").is_dir() else "imagenet (imagenet/train in NMFCORE_DATA)"


def train(job: Job, folder: Path, *, device: str = "cpu") -> Subject:
    """Trains nothing but, on the digits, a small network; photographs pass through what comes before the layers."""
    if job.data == "imagenet":
        return _photographs(job.classes, job.samples, job.seed, device)
    of = next(of for of in memorizing_networks.jobs() if (of.data, of.p, of.seed) == ("digits", 0, job.seed))
    trained, given = memorizing_networks.train(of, folder, device=device), data.load("digits", 100, device)
    return Subject(trained.model, memorizing_networks.compressed_layers(trained.model), (given.inputs, trained.labels),
                   (given.test_inputs, given.test_labels), given.source, given.sha256)


@lru_cache(maxsize=1)
def _photographs(classes, samples, seed, device):
    root = data_folder() / "imagenet"
    found = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    places = {name: i for i, name in enumerate(found)} if len(found) == 1000 else {name: PLACES[name] for name in found}
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:classes]
    chosen = sorted(found[i] for i in order.tolist())
    model, preprocess = pretrained("vgg19", download=False)
    head = model.features[:30].to(device)
    tail = nn.Sequential(OrderedDict(
        conv5_2=model.features[30:32], conv5_3=model.features[32:34], conv5_4=model.features[34:36],
        pool=model.features[36:], average=model.avgpool, flatten=nn.Flatten(), classifier=model.classifier)).to(device)
    digest = hashlib.sha256()

    def features(split, count):
        inputs, labels = [], []
        for name in chosen:
            images = image_folder(root / split / name, size=(224, 224), count=count).images
            digest.update(images.numpy().tobytes())
            with torch.no_grad():
                inputs += [head(preprocess(part).to(device)) for part in images.split(10)]
            labels += [places[name]] * len(images)
        return torch.cat(inputs), torch.tensor(labels, device=device)

    training, held_out = features("train", samples), features("val", samples)
    source = (f"{len(training[1])} training and {len(held_out[1])} validation photographs of {classes} classes of "
              f"ImageNet; {preprocess.source}")
    return Subject(tail, LAYERS, training, held_out, source, digest.hexdigest())


def measure(job: Job, subject: Subject, *, device: str = "cpu") -> dict:
    """Accuracy over rank of each batch, and of the network left alone; for each class, accuracy on held-out samples."""
    if job.kind == "intruders":
        return _intruders(job, subject, device)
    inputs, labels = subject.held_out if job.kind == "held out" else subject.training
    draw = mixed_batches if job.kind == "multi" else class_batches
    batches = [i.to(device) for i in draw(labels, job.samples, seed=job.seed)]
    width = memorizing_networks.width_of(subject.model, subject.layers)
    curves = [accuracy_curve(subject.model, subject.layers, inputs[i], labels[i], method=job.method, ablate=job.ablate,
                             ranks=[1, 2, 4, 8, *range(job.step, width, job.step)], tol=1e-2, seed=job.seed)
              for i in batches]  # one after another, to bound memory
    with torch.no_grad():
        logits = torch.cat([subject.model(part) for part in subject.held_out[0].split(50)])
    right, classes = logits.argmax(1) == subject.held_out[1], subject.held_out[1].unique()
    return {"ranks": curves[0].ranks, "accuracy": [curve.accuracy[0] for curve in curves],
            "baseline": [float(curve.baseline) for curve in curves], "auc": [curve.auc for curve in curves],
            "held_out_accuracy": [float(right[subject.held_out[1] == c].double().mean()) for c in classes]}


def _intruders(job, subject, device):
    """Of each batch with a sample of another class: by rank, the share of hosts that stay right, and whether the
    intruder does ("own") or is taken for a host ("taken"). Only samples count that are right with nothing compressed.
    """
    inputs, labels = subject.training
    alone = torch.cat([_predicted(subject, inputs[i]) for i in torch.arange(len(inputs)).split(job.samples)])
    known = alone == labels
    hosts = [batch.to(device) for batch in class_batches(labels, job.samples, seed=job.seed)]
    ranks = sorted({1, 4, job.step, 3 * job.step, 8 * job.step})
    found: dict[str, list] = {"ranks": ranks, "hosts": [], "own": [], "taken": []}
    for host, step in product(range(len(hosts)), INTRUDERS):
        guests = hosts[(host + step) % len(hosts)]
        guests = guests[known[guests]]
        stay = known[hosts[host][:-1]]
        if not len(guests) or not bool(stay.any()):
            continue  # the network knows none of a class
        batch = torch.cat([hosts[host][:-1], guests[:1]])
        right = [_predicted(subject, inputs[batch], rank, job.seed) for rank in ranks]
        found["hosts"].append([float((of[:-1] == labels[batch[:-1]])[stay].double().mean()) for of in right])
        found["own"].append([int(of[-1] == labels[batch[-1]]) for of in right])
        found["taken"].append([int(of[-1] == labels[batch[0]]) for of in right])
    return found


@torch.no_grad()
def _predicted(subject, x, rank=None, seed=0):
    """(n,) classes of a batch, its layers compressed to a rank one after another; None: left alone."""
    for name, module in subject.model.named_children():
        x = module(x)
        if rank is not None and name in subject.layers:
            fit = nmf(to_matrix(x), rank, tol=1e-2, seed=seed)
            x = to_maps(fit.U @ fit.V, x.shape)
    return x.argmax(1)


# --- claims -----------------------------------------------------------------------------------------------


SINGLE, MULTI = ("single", "nmf", False), ("multi", "nmf", False)
SINGLE_REMOVED, MULTI_REMOVED = ("single", "nmf", True), ("multi", "nmf", True)
CHANNELS_REMOVED = "multi", "random_ablation", True


def curves(classes: int, *wanted: tuple[str, str, bool]) -> Callable[[list], list]:
    """A function of entries: {(kind, method, ablated): measurements} where all wanted curves are measured."""
    def units(entries):
        found = {(e.job["kind"], e.job["method"], e.job["ablate"]): e.measurements for e in entries
                 if e.job["data"] == "imagenet" and e.job["classes"] == classes}
        return [found] if {*wanted} <= {*found} else []
    return units


def visits(entries: list) -> list:
    """Where the intruders are measured: [{kind: (batches,) at the step between ranks}]."""
    return [{kind: np.array(entry.measurements[kind])[:, entry.measurements["ranks"].index(entry.job["step"])]
             for kind in ("hosts", "own", "taken")}
            for entry in entries if entry.job["data"] == "imagenet" and entry.job["kind"] == "intruders"]


def claims() -> list[Claim]:
    """F3.11, and the control. Intervals are over classes, or over batches of mixed classes or with an intruder."""
    def claim(name, sentence, statistic, *wanted, **options):
        scale = Scale("VGG-19, 10 classes of ImageNet, 50 training photographs each", curves(10, *wanted), (1,), None)
        return Claim("F3.11", name, sentence, "imagenet", statistic, (scale,), unit="set of ten classes", **options)

    return [
        claim("gain", "compression improves the accuracy on single-class batches, at a rank chosen on other classes",
              _gain, SINGLE),
        claim("needs", "multi-class batches need more parts for the accuracy without compression (log2 of the ratio)",
              _needs, SINGLE, MULTI),
        claim("hurts", "removing NMF parts hurts single-class batches more than multi-class ones", _hurts,
              SINGLE_REMOVED, MULTI_REMOVED),
        claim("alike", "removing multi-class NMF parts hurts as removing random channels does (accuracies within 0.1)",
              _alike, MULTI_REMOVED, CHANNELS_REMOVED, threshold=0.1, below=True),
        claim("per class", "over classes, AuC is correlated with the accuracy on held-out photographs", _per_class,
              SINGLE),
        *(Claim(OURS, f"intruders, {name}", f"at K = {STEP}, {sentence}", "imagenet", statistic,
                (Scale("VGG-19, a photograph among 49 of another class", visits, (1,), None),),
                unit="set of thirty batches")
          for name, sentence, statistic in (
              ("less", "a photograph stays right less often among those of another class than among its own (shares)",
               lambda units: bootstrap(mean, units[0]["hosts"] - units[0]["own"])),
              ("taken", "among those of another class it is taken for one of them more often than for what it is "
               "(shares)", lambda units: bootstrap(mean, units[0]["taken"] - units[0]["own"])))),
    ]


def _accuracy(unit, *curve):
    """(batches, ranks without 0 and the width) accuracy, (batches,) of the network left alone."""
    return np.array(unit[curve]["accuracy"])[:, 1:-1], np.array(unit[curve]["baseline"])


def _gain(units):
    accuracy, baseline = _accuracy(units[0], *SINGLE)
    best = [np.delete(accuracy, c, 0).mean(0).argmax() for c in range(len(accuracy))]
    return bootstrap(mean, accuracy[range(len(best)), best] - baseline)


def _needed(unit, kind):
    accuracy, baseline = _accuracy(unit, kind, "nmf", False)
    enough = accuracy >= 0.9 * baseline[:, None]
    ranks = np.array(unit[kind, "nmf", False]["ranks"])[1:]
    return np.log2(ranks[np.where(enough.any(1), enough.argmax(1), -1)])


def _needs(units):
    return bootstrap(fall, _needed(units[0], "multi"), _needed(units[0], "single"))


def _loss(unit, kind, method):
    accuracy, baseline = _accuracy(unit, kind, method, True)
    return baseline - accuracy.mean(1)


def _hurts(units):
    single, multi = (_loss(units[0], kind, "nmf") for kind in ("single", "multi"))
    return bootstrap(fall, single, multi)


def _alike(units):
    return bootstrap(lambda a, b: abs(fall(a, b)), _loss(units[0], "multi", "nmf"),
                     _loss(units[0], "multi", "random_ablation"))


def _per_class(units):
    single = units[0][SINGLE]
    return bootstrap_correlation(lambda rows: pearson(rows[:, 0], rows[:, 1]),
                                 np.array([single["auc"], single["held_out_accuracy"]]).T)


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up curves on which every claim "holds", "fails" or is "undecided"."""
    ranks, turn = [0, 1, 2, 4, 8, 512], np.array([1, -1] * 5)[:, None]  # from class to class
    levels = {  # accuracy at the first two and the last two ranks between none and all, by kind of batch and ablation
        "holds": {"single": (0.9, 0.9), "multi": (0.3, 0.9), "single-": (0.1, 0.1), "multi-": (0.5, 0.5)},
        "fails": {"single": (0.3, 0.75), "multi": (0.75, 0.75), "single-": (0.5, 0.5), "multi-": (0.1, 0.1)},
        "undecided": {"single": (0.8, 0.8), "multi": (0.8, 0.8), "single-": (0.4, 0.4), "multi-": (0.4, 0.4)}}[kind]
    noise, held_out = 0.2 if kind == "undecided" else 0.01, np.linspace(0.5, 1, 10)
    slope = {"holds": 1.0, "fails": -1.0, "undecided": 0.0}[kind]
    found = []
    for job in jobs():
        if job.kind == "intruders" and job.data == "imagenet":
            own = np.arange(30)[:, None] % 10 < {"holds": 1, "fails": 9, "undecided": 5}[kind]
            hosts = np.full((30, 1), {"holds": 0.9, "fails": 0.5, "undecided": 0.5}[kind])
            found.append((job, {"ranks": [job.step], "hosts": hosts, "own": own * 1, "taken": 1 - own}))
        elif job.data == "imagenet":
            name = "single" if job.kind == "held out" else job.kind
            early, late = levels[name + "-" * job.ablate] if job.method == "nmf" else (0.5, 0.5)
            accuracy = np.array([[0.1, early, early, late, late, 0.8]]) + noise * turn
            found.append((job, {"ranks": ranks, "accuracy": accuracy, "baseline": np.full(10, 0.8),
                                "held_out_accuracy": held_out,
                                "auc": slope * held_out + 0.1 * np.cos(4 * np.pi * (held_out - 0.5))}))
    return found
