"""A report on any trained classifier: which layers and classes need many parts, and whose labels fit no neighbour."""

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from ._optional import needed_by
from .activations import capture, relu_layers
from .compression import Curve, accuracy_curve, powers_of_two, widths
from .gate import LayerName, Output, check_channels, check_counts, find_layers, unwrapped
from .memorized import neighbor_scores

_LEAST = 20  # samples of a class from which a report is made
_SIDE = 8  # positions of a map, along each of its axes, that neighbours are looked for by


@dataclass(frozen=True)
class Report:
    """How well each layer of a network stands compression, class by class; `memorization_report` makes it.

    `print(report)` is a summary that says what it can tell and what it cannot.

    Example:
        >>> from nmfcore.compression import Curve
        >>> accuracy = torch.tensor([[0.5, 1.0, 1.0], [0.5, 0.5, 1.0]])  # (classes, ranks)
        >>> error, norm, baseline = torch.zeros(1, 2, 3), torch.ones(1, 2, 3), torch.ones(2)
        >>> curve = Curve((0, 1, 2), accuracy, error, norm, baseline, limit=2, unconverged=0, right=accuracy > 0)
        >>> places, neighbors = torch.arange(100), torch.linspace(0, 1, 100)
        >>> report = Report(("conv1",), (0, 1), (50, 50), {"conv1": curve}, places, neighbors)
        >>> report.auc.tolist(), report.score, report.accuracy
        ([[0.875, 0.625]], 0.75, 1.0)
        >>> report.suspects(2)  # (place, label, score)
        [(99, 1, 1.0), (98, 1, 0.9898989796638489)]
    """

    layers: tuple[str, ...]  #: in the order in which they run
    classes: tuple[int, ...]  #: labels
    samples: tuple[int, ...]  #: of each class
    curves: dict[str, Curve]  #: of each layer, a batch for each class
    places: Tensor  #: (n,) where the samples were in what the loader gave, class after class
    #: (n,) share of their nearest neighbours among these samples that carry another label, averaged over layers
    neighbors: Tensor

    @property
    def auc(self) -> Tensor:
        """(layers, classes) Area under accuracy against rank, divided by the rank from which nothing is lost."""
        return torch.stack([curve.limit_aucs for curve in self.curves.values()])

    @property
    def score(self) -> float:
        """AuC, averaged over classes and layers; of two networks of one kind, the one that memorizes more has less."""
        return float(self.auc.mean())

    @property
    def accuracy(self) -> float:
        """Of the network as it is, on these samples, averaged over classes."""
        return float(next(iter(self.curves.values())).baseline.mean())

    def suspects(self, count: int = 10) -> list[tuple[int, int, float]]:
        """Samples that are most likely memorized: (place in what the loader gave, label, score), the likeliest first.

        The score is that of `neighbors`. The book compares it with compression, and others, on labels that were changed
        (*Which examples are memorized?*).

        Raises:
            ValueError: a count below 1.
        """
        check_counts(count=count)
        labels = [label for label, of_class in zip(self.classes, self.samples, strict=True) for _ in range(of_class)]
        order = self.neighbors.argsort(descending=True, stable=True)[:count].tolist()
        return [(int(self.places[i]), labels[i], float(self.neighbors[i])) for i in order]

    def __str__(self):
        auc = self.auc
        weakest, hardest = int(auc.mean(1).argmin()), int(auc.mean(0).argmin())
        lines = [
            f"{len(self.layers)} layers, {len(self.classes)} classes, {sum(self.samples)} training samples; "
            f"{self.accuracy:.1%} of them are classified right.",
            f"Mean AuC under NMF compression: {self.score:.3f}.",
            f"Layer that needs most parts for its width: {self.layers[weakest]} ({auc.mean(1)[weakest]:.3f}).",
            f"Class that needs most parts: {self.classes[hardest]} ({auc.mean(0)[hardest]:.3f}).",
            "Samples whose neighbours disagree most with their label, by place in the loader: "
            + ", ".join(f"{place} (label {label})" for place, label, _ in self.suspects(5)) + ".",
            "What this can tell: which of several networks memorizes more, if they have the same architecture, fit the "
            "same training samples equally well and are reported with the same settings; less AuC means more.",
            "What it cannot tell: whether a single network memorizes, as no value of AuC divides the two; anything "
            "from differences that are as small as those between networks of different seeds; how large the test "
            "error is.",
        ]
        if self.accuracy < 0.99:
            lines.append("Caution: the network does not fit these samples. What it gets wrong lowers AuC as memorizing "
                         "does, so compare it only with networks of the same training accuracy.")
        return "\n".join(textwrap.fill(line, 80, subsequent_indent="    ") for line in lines)

    def plot(self):
        """Figure of accuracy against rank in each layer, and of AuC in each layer, with a dot for each class.

        Raises:
            ModuleNotFoundError: matplotlib, of the extra "plot", is not installed.
        """
        with needed_by("Report.plot", "plot"):
            import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        for place, (name, curve) in enumerate(self.curves.items()):
            color = plt.colormaps["viridis"](0.9 * place / max(len(self.layers) - 1, 1))
            upto = curve.ranks.index(curve.limit) + 1
            left.plot([rank / curve.limit for rank in curve.ranks[:upto]], curve.accuracy.mean(0)[:upto], color=color,
                      label=name)
            right.plot([place] * len(self.classes), self.auc[place], "o", color=color, ms=3, alpha=0.5)
        right.plot(self.auc.mean(1), "k-", lw=1.5)
        left.set(xlabel="rank, as a share of what makes it exact", ylabel="accuracy, mean over classes", ylim=(0, 1.03))
        right.set(ylabel="AuC", xticks=range(len(self.layers)))
        right.set_xticklabels(self.layers, rotation=60, ha="right", fontsize=8)
        if len(self.layers) <= 10:
            left.legend(fontsize=7, loc="lower right")
        return figure


def memorization_report(model: nn.Module, loader: Iterable, *, layers: Sequence[LayerName] | None = None,
                        classes: int = 10, samples: int = 50, channels: str | None = None, skip: int = 0,
                        output: Output = None, batch_size: int | None = None, seed: int = 0) -> Report:
    """Compress the layers of a trained classifier one by one, on batches of a single class of its training samples.

    Ranks are powers of 2, so that a ResNet-18 at 32 × 32 pixels takes less than a minute on a CPU. See thesis sections
    3.5.2 and 3.5.3 for what AuC has to do with memorization, and the summary (`print(report)`) for what it can tell.

    Args:
        model: gives (n, classes) logits. Run on its own device in evaluation mode, and left as it was.
        loader: of the training set, with the labels that the model was trained on: an iterable of (inputs, labels), as
            a `torch.utils.data.DataLoader` is, or of (input, label), as a `Dataset` is. It is read until there are
            enough samples, which must have one size.
        layers: layers with non-negative output, by name or as modules. Default: all of `relu_layers`.
        classes: how many, the first that the loader gives.
        samples: of each class, at most; 20 at least.
        channels, skip, output, batch_size: as for `accuracy_curve`.
        seed: of the factorizations.

    Raises:
        ValueError: a loader without labels, fewer than two classes with enough samples, a model without ReLUs, and
            layers that `accuracy_curve` cannot compress.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> samples = torch.utils.data.TensorDataset(torch.rand(40, 8), torch.arange(40) % 2)
        >>> report = memorization_report(model, samples, classes=2)
        >>> report.layers, report.classes, report.samples, report.auc.shape
        (('1',), (0, 1), (20, 20), torch.Size([1, 2]))
    """
    model = unwrapped(model)
    check_channels(channels, skip)
    found, places = _samples_by_class(loader, classes, samples)
    inputs = [torch.stack(batch) for batch in found.values()]
    labels = [torch.full((len(batch),), label) for label, batch in found.items()]
    probe = torch.cat([batch[:2] for batch in inputs])
    wanted = find_layers(model, relu_layers(model, probe) if layers is None else layers)
    if not wanted:
        raise ValueError(f"{type(model).__name__} has no layer that ends in a ReLU, whose non-negative output NMF "
                         "needs. A ReLU that is one module for several places hides them: give each its own, or name "
                         "non-negative layers in layers=")
    curves = {layer.name: accuracy_curve(model, layer.name, inputs, labels, ranks=powers_of_two(width),
                                         channels=channels, skip=skip, output=output, batch_size=batch_size, tol=1e-2,
                                         seed=seed)
              for layer, width in zip(wanted, widths(model, wanted, probe[:1], channels, skip), strict=True)}
    neighbors = torch.stack([_neighbors(model, layer.name, inputs, torch.cat(labels), channels, skip)
                             for layer in wanted]).mean(0)
    return Report(tuple(curves), tuple(found), tuple(map(len, inputs)), curves, torch.tensor(places), neighbors)


def _neighbors(model, layer, inputs, labels, channels, skip):
    """(n,) scores by a layer, whose maps are averaged over positions until they are small enough to be kept."""
    features = []
    for batch in inputs:
        maps = capture(model, layer, batch, channels=channels, skip=skip)[layer].float()
        sides = [min(side, _SIDE) for side in maps.shape[2:]]
        pool = {1: nn.functional.adaptive_avg_pool1d, 2: nn.functional.adaptive_avg_pool2d,
                3: nn.functional.adaptive_avg_pool3d}.get(len(sides))
        features.append((pool(maps, sides) if pool else maps).flatten(1))
    return neighbor_scores(torch.cat(features), labels, min(50, min(map(len, inputs)) // 2))


def _samples_by_class(loader, classes, samples):
    """{label: inputs} of the first classes in the loader that have enough samples, by label, and their places."""
    if any(isinstance(count, bool) or not isinstance(count, Integral) for count in (samples, classes)) \
            or samples < _LEAST or classes < 2:
        raise ValueError(f"samples={samples}, classes={classes}: expected at least {_LEAST} samples of each of 2")
    found: defaultdict[int, list[Tensor]] = defaultdict(list)
    places: defaultdict[int, list[int]] = defaultdict(list)
    before = 0
    for inputs, labels in _pairs(loader):
        for place, (sample, label) in enumerate(zip(inputs, labels.tolist(), strict=True), before):
            if (label in found or len(found) < classes) and len(found[label]) < samples:
                found[label].append(sample)
                places[label].append(place)
        before += len(labels)
        if len(found) == classes and all(len(of_class) == samples for of_class in found.values()):
            break
    counts = {label: len(of_class) for label, of_class in sorted(found.items())}
    enough = [label for label, count in counts.items() if count >= _LEAST]
    if len(enough) < 2:
        raise ValueError(f"too few samples: {counts} of each label; a report needs two classes with at least {_LEAST}")
    shapes = sorted({tuple(sample.shape) for label in enough for sample in found[label]})
    if len(shapes) > 1:
        raise ValueError(f"the loader gives samples of several sizes, {shapes[0]} and {shapes[-1]}; bring them to one, "
                         "for images by transforms.Resize((H, W))")
    return {label: found[label] for label in enough}, [place for label in enough for place in places[label]]


def _pairs(loader):
    """(inputs, labels) of a loader, or of a data set whose samples are (input, label)."""
    try:
        length = len(loader)
    except TypeError:
        length = None
    try:
        batches = iter(loader) if hasattr(loader, "__iter__") else (loader[i] for i in range(length))
    except TypeError as error:
        raise ValueError(f"the loader is a {type(loader).__name__}; expected pairs of inputs and labels") from error
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, TypeError) as error:  # as the loader's collate_fn raises them
            raise ValueError(f"the loader fails: {error}; samples must be tensors of one size, as images are after "
                             "transforms.Resize((H, W)) and ToTensor()") from error
        inputs, labels = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
        if isinstance(inputs, Tensor) and isinstance(labels, Integral | Tensor | np.ndarray) and np.ndim(labels) == 0:
            inputs, labels = inputs[None], torch.as_tensor(labels)[None]  # one sample of a data set
        if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor) or labels.is_floating_point() \
                or labels.dtype == torch.bool or labels.shape != inputs.shape[:1]:
            raise ValueError(f"the loader gives {_shape_of(inputs)} and, as labels, {_shape_of(labels)}; expected "
                             "pairs of inputs (n, ...) and integer labels (n,), those that the model was trained on")
        yield inputs, labels


def _shape_of(thing):
    return f"{thing.dtype} {tuple(thing.shape)}" if isinstance(thing, Tensor) else type(thing).__name__
