"""NMF as noise in training (thesis section 6.2): does it help as dropout does, and does it do what it was made for?

Networks of Table 3.1 with and without noise behind two layers, alike in everything else: images, labels, order of
batches, number of steps, Adam. Of each method the setting with the highest mean accuracy on held-out training images,
whose labels are as noisy as the others, is judged on test images. No experiment of the ledger: the chapter calls what
is here.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import joblib
import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nmfcore.compression import accuracy_curve, class_batches, powers_of_two
from nmfcore.examples import randomized_labels
from nmfcore.regularization import NMFPerturbation

from ..architectures import memorization_network
from ..datasets import LabeledImages, labeled_images
from ..statistics import judged
from ..training import one_thread

LEVELS = (0.0, 0.2)  # shares of random labels
PLACES = ("conv3_3", "conv4_3")  # behind these layers
LAYER = "conv4_3"  # which is compressed in the end

Make = Callable[[int], nn.Module]  # what a method puts behind a layer of so many channels


@dataclass(frozen=True)
class Scale:
    """How much of it a profile does."""

    networks: int  # for each setting and level
    per_class: int  # training images, of which a tenth is held out
    epochs: int
    batch: int
    width: float  # of the network, as a share
    every_setting: bool  # or of each method the middle one


SCALES = {"quick": Scale(2, 50, 4, 50, 1 / 8, False), "desk": Scale(5, 250, 20, 100, 1 / 8, True),
          "paper": Scale(10, 5000, 40, 100, 1.0, True)}


def _noise(share: float, options: Mapping) -> Make:
    return lambda channels: NMFPerturbation(round(share * channels), **options)


def _nmf(**options) -> dict[str, Make | None]:
    return {f"K = C/{1 / share:g}": _noise(share, options) for share in (1 / 16, 1 / 8, 1 / 4)}


def _dropped(kind: Callable[[float], nn.Module], rates: tuple[float, ...]) -> dict[str, Make | None]:
    return {f"rate {rate}": partial(lambda rate, channels: kind(rate), rate) for rate in rates}


METHODS: dict[str, dict[str, Make | None]] = {
    "none": {"–": None}, "dropout": _dropped(nn.Dropout, (0.1, 0.3, 0.5)),
    "channel dropout": _dropped(nn.Dropout2d, (0.1, 0.2, 0.4)), "NMF": _nmf(),
    "NMF, implicit": _nmf(gradient="implicit"), "NMF, every fourth step": _nmf(every=4)}
NMFS = [method for method in METHODS if method.startswith("NMF")]


@dataclass(frozen=True)
class Data:
    """Training and test images, and their inputs on a device."""

    training: LabeledImages
    test: LabeledImages
    inputs: Tensor
    test_inputs: Tensor

    @property
    def device(self) -> torch.device:
        return self.inputs.device


def middle(method: str) -> str:
    """The setting of a method that stands for it."""
    settings = list(METHODS[method])
    return settings[len(settings) // 2]


def data_sets(profile: str, device: str = "cpu") -> Data:
    """Digits of scikit-learn for "quick", else CIFAR-10, which "paper" alone downloads."""
    per_class, enlarge = SCALES[profile].per_class, 1
    if profile == "quick":
        whole, enlarge = labeled_images("digits"), 2
        of_class = [(whole.labels == c).nonzero()[:, 0] for c in range(10)]
        splits = []
        for name, places in (("training", [p[:per_class] for p in of_class]), ("test", [p[-70:] for p in of_class])):
            chosen = torch.cat(places).sort().values
            splits.append(LabeledImages(whole.images[chosen], whole.labels[chosen], whole.classes,
                                        f"{len(chosen):,} ({name}) of {whole.source}"))
    else:
        splits = [labeled_images("cifar10", split=split, per_class=count, download=profile == "paper")
                  for split, count in (("train", per_class), ("test", 100 if profile == "desk" else 1000))]
    inputs = [part.inputs(enlarge=enlarge).to(device, memory_format=torch.channels_last) for part in splits]
    return Data(splits[0], splits[1], inputs[0], inputs[1])


def network(data: Data, scale: Scale, make: Make | None, run: int) -> nn.Module:
    """A new network, with what `make` gives for a number of channels behind the chosen layers."""
    model = memorization_network("cifar10", shape=data.inputs.shape[1:], width=scale.width, seed=run)
    if make is not None:
        for place in PLACES:
            layer = getattr(model, place)
            setattr(model, place, nn.Sequential(*layer, make(layer[0].out_channels)))
    return model.to(device=data.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    return float((torch.cat([model(x) for x in images.split(500)]).argmax(1) == labels).double().mean())


def measure(data: Data, scale: Scale, p: float, run: int, method: str, setting: str) -> dict:
    """Accuracies of one network: held out and on test images, at the end and at the epoch that is best on the former,
    and its robustness to compression, AuC divided by its accuracy."""
    images, device = data.training, data.device
    labels = randomized_labels(images.labels, p, 10, seed=run).to(device)
    test_labels = data.test.labels.to(device)
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(run))
    held_out, kept = order[:len(order) // 10].to(device), order[len(order) // 10:].to(device)
    model, generator = network(data, scale, METHODS[method][setting], run), torch.Generator().manual_seed(run)
    steps, curve = torch.optim.Adam(model.parameters(), lr=1e-3), []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(run)  # of the noise
        for _ in range(scale.epochs):
            model.train()
            for batch in kept[torch.randperm(len(kept), generator=generator).to(device)].split(scale.batch):
                steps.zero_grad()
                cross_entropy(model(data.inputs[batch]), labels[batch]).backward()
                steps.step()
            curve.append((accuracy(model, data.inputs[held_out], labels[held_out]),
                          accuracy(model, data.test_inputs, test_labels)))
    samples = [kept[i] for i in class_batches(labels[kept].cpu(), min(50, 4 * scale.per_class // 5), seed=run)]
    robust = accuracy_curve(model, LAYER, [data.inputs[i] for i in samples], [labels[i] for i in samples],
                            ranks=powers_of_two(round(512 * scale.width)), tol=1e-2)
    best = int(np.argmax([held for held, _ in curve]))
    return {"p": p, "run": run, "method": method, "setting": setting, "validation": curve[-1][0], "test": curve[-1][1],
            "best test": curve[best][1], "training": accuracy(model, data.inputs[kept], labels[kept]),
            "robustness": float(robust.auc) / float(robust.baseline.mean())}


def _on_one_thread(*case):
    with one_thread():
        return measure(*case)


def measure_all(data: Data, scale: Scale, seed: int = 0) -> dict[str, list]:
    """Every setting at every level, network by network: columns of a table."""
    settings = {method: [*METHODS[method]] if scale.every_setting else [middle(method)] for method in METHODS}
    cases = [(data, scale, p, run, method, setting) for p in LEVELS
             for run in range(100 * seed + 1, 100 * seed + 1 + scale.networks)
             for method in METHODS for setting in settings[method]]
    jobs = torch.get_num_threads() if data.device.type == "cpu" else 1
    lines = joblib.Parallel(n_jobs=jobs)(joblib.delayed(_on_one_thread)(*case) for case in cases)
    return {key: [line[key] for line in lines] for key in lines[0]}


def step_times(data: Data, scale: Scale) -> dict[str, float]:
    """The time of a training step with each kind of noise, as a multiple of one without."""
    labels = data.training.labels[:scale.batch].to(data.device)

    def taken(make):
        model, seconds = network(data, scale, make, 0).train(), []
        for _ in range(12):
            begin = time.perf_counter()
            cross_entropy(model(data.inputs[:scale.batch]), labels).backward()
            seconds.append(time.perf_counter() - begin)
        return float(np.median(seconds[2:]))

    base = taken(None)
    return {method: taken(settings[middle(method)]) / base for method, settings in METHODS.items()
            if method != "none" and "fourth" not in method}


# --- what the columns say -----------------------------------------------------------------------------------

Difference = list[float]  # mean, lower, upper


def settings_of(columns: Mapping, method: str) -> list[str]:
    """Those that were measured."""
    there = {setting for of, setting in zip(columns["method"], columns["setting"], strict=True) if of == method}
    return [setting for setting in METHODS[method] if setting in there]


def values(columns: Mapping, p: float, method: str, setting: str, key: str) -> np.ndarray:
    """(networks,) of one setting."""
    return np.array([value for value, *what in zip(columns[key], columns["p"], columns["method"], columns["setting"],
                                                   strict=True) if what == [p, method, setting]])


def chosen(columns: Mapping, p: float, method: str) -> str:
    """The setting with the highest mean accuracy on what was held out."""
    def held_out(setting):
        return values(columns, p, method, setting, "validation").mean()

    return max(settings_of(columns, method), key=held_out)


def best(columns: Mapping, p: float, method: str, key: str) -> np.ndarray:
    """(networks,) at the chosen setting."""
    return values(columns, p, method, chosen(columns, p, method), key)


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """[mean difference, lower, upper], paired over the networks, with Student's interval of 95 %."""
    if not (first - second).any():
        return [0.0, 0.0, 0.0]
    interval = stats.ttest_rel(first, second).confidence_interval()
    return [float((first - second).mean()), float(interval.low), float(interval.high)]


def gained(columns: Mapping, p: float, method: str, key: str, peer: str = "none") -> Difference:
    """By a method over its peer, each at its chosen setting."""
    return difference(best(columns, p, method, key), best(columns, p, peer, key))


def gained_by_noisy_labels(columns: Mapping, method: str) -> Difference:
    """How much more test accuracy is gained with noisy labels than with true ones."""
    true, noisy = (best(columns, p, method, "test") - best(columns, p, "none", "test") for p in LEVELS)
    return difference(noisy, true)


def verdict(gain: Difference) -> str:
    """Whether it "holds" or "fails" that a difference is positive, or is "undecided"."""
    return judged(*gain[1:])
