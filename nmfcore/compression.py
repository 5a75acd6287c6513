"""How much of a layer a network needs: its accuracy when activations are replaced by approximations of rank K.

::

    batches = class_batches(labels, size=50)
    curve = accuracy_curve(model, "conv4_1", [inputs[i] for i in batches], [labels[i] for i in batches])
    curve.auc  # near 1: a few parts per class are enough; lower: samples of one class are told apart

Thesis section 3.5; Collins, Bigdeli & Süsstrunk 2019. Works on any classifier, by layer name.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import torch
from torch import Tensor, nn

from . import factorization
from .activations import against_negatives, replaced, resumed, to_maps, to_matrix
from .gate import (
    Layer,
    LayerName,
    Layout,
    Output,
    check_channels,
    check_counts,
    check_finite,
    check_labels,
    described,
    find_layers,
    first_outputs,
    indices,
    is_dense,
    layout,
    logits,
    ready,
    run,
    running,
    unwrapped,
    watched,
)
from .solver import nmf

METHODS = ("nmf", "pca", "kmeans", "random_ablation")


_MEMORY = 2 ** 31  # bytes that the outputs of all layers may take, where batch_size is not given
_SMALL = _MEMORY // 256  # of inputs, which layers will not blow up to that


class _Negative(ValueError):
    """Negative activations where NMF was asked for."""

    def __init__(self, message, layer):
        super().__init__(message)
        self.layer = layer


@dataclass(frozen=True)
class Curve:
    """Accuracy of a network over the rank K to which one or more layers are compressed, from K = 0 to their width.

    Example:
        >>> accuracy = torch.tensor([[0.1, 0.8, 1.0, 1.0]])  # of one batch
        >>> error = torch.tensor([[[1.0, 0.3, 0.0, 0.0]]])
        >>> norm, baseline = torch.ones(1, 1, 4), torch.ones(1)
        >>> right = torch.rand(10, 4) < accuracy  # of its ten samples
        >>> curve = Curve((0, 1, 2, 4), accuracy, error, norm, baseline, limit=2, unconverged=0, right=right)
        >>> round(curve.auc, 4), round(curve.limit_auc, 4)
        (0.8375, 0.675)
    """

    ranks: tuple[int, ...]  #: R of them, rising, from 0 to `width`
    accuracy: Tensor  #: (batches, R)
    error: Tensor  #: (layers, batches, R) ‖A − Ã‖_F / ‖A‖_F of the activations A that reach a layer; 0 where A is 0
    norm: Tensor  #: (layers, batches, R) ‖A‖_F, which depends on K behind the first layer
    baseline: Tensor  #: (batches,) accuracy without any change
    #: rank from which approximations are exact; the width where they never are (k-means with fewer centroids than rows)
    limit: int
    unconverged: int  #: NMF problems that stopped at the limit of iterations
    right: Tensor  #: (samples, R) bool, whether each sample is classified right; those of one batch behind another

    @property
    def width(self) -> int:
        """Channels or units of the widest layer."""
        return self.ranks[-1]

    @property
    def auc(self) -> float:
        """Area under the accuracy curve, averaged over batches and divided by the layer's width; at most 1."""
        return float(area(self.accuracy, self.ranks).mean()) / self.width

    @property
    def limit_aucs(self) -> Tensor:
        """(batches,) The same up to the rank `limit`: however wide a layer, 50 rows need no more than 50 parts."""
        upto = self.ranks.index(self.limit) + 1
        return area(self.accuracy[:, :upto], self.ranks[:upto]) / self.limit

    @property
    def limit_auc(self) -> float:
        """Its mean over batches."""
        return float(self.limit_aucs.mean())


def area(values: Tensor, ranks: Sequence[int]) -> Tensor:
    """Area under values (…, R) over R ranks, by trapezoids: (…) in float64.

    Example:
        >>> area(torch.tensor([0.0, 1.0, 1.0]), [0, 2, 4])
        tensor(3., dtype=torch.float64)
    """
    return torch.trapezoid(values.double(), torch.tensor(ranks, dtype=torch.float64, device=values.device), dim=-1)


def powers_of_two(width: int) -> list[int]:
    """1, 2, 4, ... up to `width`: a coarse grid of ranks.

    Example:
        >>> powers_of_two(10)
        [1, 2, 4, 8]
    """
    return [2 ** i for i in range(width.bit_length())]


def class_batches(labels: Tensor, size: int = 50, *, seed: int = 0) -> list[Tensor]:
    """Indices of one batch per class, `size` samples drawn without replacement; all of a class that has fewer.

    Args:
        labels: (n,) integers.
        size: samples of each class, at most.
        seed: of the draw.

    Returns:
        One tensor of indices into `labels` for each class, in the order of the labels' values.

    Raises:
        ValueError: no labels, labels that are no integers, and a size below 1.

    Example:
        >>> batches = class_batches(torch.tensor([1, 0, 1, 0, 0]), size=3)
        >>> [sorted(batch.tolist()) for batch in batches]
        [[1, 3, 4], [0, 2]]
    """
    labels = _counted(labels, size)
    generator = torch.Generator().manual_seed(seed)
    of_class = [(labels == c).nonzero()[:, 0] for c in labels.unique().tolist()]
    return [indices[torch.randperm(len(indices), generator=generator)[:size]] for indices in of_class]


def mixed_batches(labels: Tensor, size: int = 50, *, count: int = 10, seed: int = 0) -> list[Tensor]:
    """Indices of `count` batches, each of `size` samples of any class, drawn without replacement.

    Args:
        labels: (n,) integers.
        size: samples of each batch; all n where there are fewer.
        count: of batches, which may share samples.
        seed: of the draw.

    Raises:
        ValueError: no labels, labels that are no integers, and a size or count below 1.

    Example:
        >>> [len(batch) for batch in mixed_batches(torch.arange(100) % 10, size=30, count=2)]
        [30, 30]
    """
    labels = _counted(labels, size)
    check_counts(count=count)
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(len(labels), generator=generator)[:size] for _ in range(count)]


def _counted(labels, size):
    labels = indices(labels).cpu()
    check_counts(size=size)
    if not len(labels):
        raise ValueError("there are no labels: expected at least 1")
    return labels


def accuracy_curve(model: nn.Module, layers: LayerName | Sequence[LayerName], inputs: Tensor | Sequence[Tensor],
                   labels: Tensor | Sequence[Tensor], *, ranks: Sequence[int] | None = None, method: str = "nmf",
                   ablate: bool = False, channels: str | None = None, skip: int = 0, output: Output = None,
                   batch_size: int | None = None, tol: float = 1e-3, seed: int = 0) -> Curve:
    """Compress layers to each of `ranks` and run the rest of the network on the result (thesis eq. 3.21).

    At the first layer all ranks of all batches are one call of `nmf`; behind it the batches of each rank are, as what
    arrives there depends on the rank. Activations (n, C, H, W) become matrices (n·H·W, C). What comes before the first
    layer runs once.

    Args:
        model: gives (n, classes) logits. It is run in evaluation mode and left as it was.
        layers: a layer, by name or as the module itself, or several, which are compressed one after another in one
            forward pass, all to the same rank. NMF takes layers whose output is non-negative.
        inputs, labels: a batch (n, ...), (n,) integers from 0 to classes - 1, or a sequence of batches. Each batch is
            factorized by itself.
        ranks: default: each half as large again as the one before, in steps of at most 20. 0, where nothing is left,
            the rank from which the approximation is exact, and the layer's width are always added.
        method: "nmf", "pca" (not centred), "kmeans" (one start), "random_ablation" (keeps K channels, drawn for each
            batch and layer; the channels kept at a rank are kept at all higher ones).
        ablate: pass on what the approximation leaves, A − Ã, instead of Ã.
        channels: "first" where the layers give (n, C, ...), "last" for (n, ..., C), "tokens" for (n, T, C); asked for
            where `gate.layout` is in doubt.
        skip: of tokens, so many at the beginning (class token, registers) are left as they are.
        output: where the logits are in what the model gives, if `gate.logits` does not find them.
        batch_size: samples that go through the model at a time, as far as whole batches allow. Default: all, where
            the outputs of all layers up to the last of `layers` fit into 2 GB, else as many as do.
        tol: of `nmf`. Ten times its default: accuracy hardly depends on the last digits of the error.
        seed: of the factorizations, and of the channels kept.

    Returns:
        `Curve`, on the CPU. A sample without finite logits, as a network may give at low ranks, is not right.

    Raises:
        ValueError: a layer that the model does not have, that is not reached, runs more than once (name the block
            around it) or whose output cannot be a matrix; negative activations with NMF; ranks outside 0..width;
            batches that do not fit together, labels that no logit has, a single logit, logits that are not finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> inputs, labels = torch.rand(30, 20), torch.arange(30) % 3
        >>> curve = accuracy_curve(model, "1", inputs, labels, ranks=[1, 2, 4, 8])
        >>> curve.ranks, curve.accuracy.shape
        ((0, 1, 2, 4, 8, 16), torch.Size([1, 6]))
        >>> bool(curve.accuracy[0, -1] == curve.baseline[0])  # full rank changes nothing
        True
    """
    model = unwrapped(model)
    check_channels(channels, skip)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
    wanted = find_layers(model, layers)
    names = [layer.name for layer in wanted]
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if not all(names) or not names or len({layer.module for layer in wanted}) < len(names):
        raise ValueError(f"layers={names}: expected one or more, each once")
    batches, targets = _batches(inputs, labels)
    sizes = [len(batch) for batch in batches]
    with running(model):
        groups = _groups(model, wanted, batches, batch_size)
        curves = []
        for group in groups:
            stacked = ready(model, torch.cat([batches[i] for i in group]))
            experiment = _Experiment(model, wanted, stacked, torch.cat([targets[i] for i in group]),
                                     [sizes[i] for i in group], max(sizes), group[0], method, ablate, channels, skip,
                                     output, tol, seed)
            try:
                with resumed(model, names, stacked) as widths:
                    curves.append(experiment.curve(ranks, widths))
            except _Negative as error:
                advice = against_negatives(model, error.layer, batches[0][:2], channels)
                raise ValueError(f"{error}; {advice}") from error
    if len(curves) == 1:
        return curves[0]
    return Curve(curves[0].ranks, torch.cat([curve.accuracy for curve in curves]),
                 torch.cat([curve.error for curve in curves], 1), torch.cat([curve.norm for curve in curves], 1),
                 torch.cat([curve.baseline for curve in curves]), curves[0].limit,
                 sum(curve.unconverged for curve in curves), torch.cat([curve.right for curve in curves]))


def _batches(inputs, labels):
    """Lists of batches (n, ...) and of labels (n,) int64 that fit together."""
    single = isinstance(inputs, Tensor)
    try:
        batches, targets = ([inputs], [labels]) if single else (list(inputs), list(labels))
    except TypeError as error:
        raise ValueError(f"inputs are {described(inputs)} and labels {described(labels)}; expected tensors, or "
                         "sequences of them") from error
    if not single and isinstance(labels, Tensor):
        targets = [labels]
    if single and isinstance(labels, list | tuple) and len(labels) == 1 and isinstance(labels[0], Tensor) \
            and labels[0].dim() == 1:
        targets = list(labels)
    for i, batch in enumerate(batches):
        if not is_dense(batch) or batch.dim() == 0:
            raise ValueError(f"batch {i} of the inputs is {described(batch)}; pass a tensor (n, ...), or a sequence "
                             "of them")
    targets = [indices(target) for target in targets]
    sizes, counts = ([len(batch) for batch in part] for part in (batches, targets))
    if not sizes or 0 in sizes or sizes != counts:
        raise ValueError(f"batches of {sizes} inputs and {counts} labels: expected as many labels as inputs, at least "
                         "one in each batch")
    kinds = {(batch.shape[1:], batch.dtype, batch.device) for batch in batches}
    if len(kinds) > 1:
        said = " and ".join(sorted({f"{described(batch)} on {batch.device}" for batch in batches})[:3])
        raise ValueError(f"batches differ: {said}; expected one shape, type and device for all samples")
    return batches, targets


def _groups(model, layers, batches, batch_size):
    """Places of batches, in groups that go through the model at a time."""
    most = batch_size or sum(map(len, batches))
    if batch_size is None and len(batches) > 1 and sum(batch.nbytes for batch in batches) > _SMALL:
        most = _MEMORY // _bytes(model, layers, ready(model, batches[0][:1]))
    groups: list[list[int]] = [[]]
    for i, batch in enumerate(batches):
        if groups[-1] and sum(len(batches[j]) for j in groups[-1]) + len(batch) > most:
            groups.append([])
        groups[-1].append(i)
    return groups


def _bytes(model, layers, sample):
    """What the outputs of all modules up to the last of the layers take."""
    taken = [sample.nbytes]
    handles = [module.register_forward_hook(lambda _module, _args, given: taken.append(getattr(given, "nbytes", 0)))
               for module in model.modules() if not any(module.children())]
    try:
        first_outputs(model, layers, sample)
    finally:
        for handle in handles:
            handle.remove()
    return sum(taken)


def widths(model: nn.Module, layers: Sequence[Layer], sample: Tensor, channels: str | None, skip: int) -> list[int]:
    """Channels or units of layers, from one sample (1, ...).

    Args:
        model: the network, unwrapped.
        layers: as `gate.find_layers` returns them.
        sample: (1, ...) one input.
        channels, skip: as for `accuracy_curve`.

    Example:
        >>> from nmfcore.gate import find_layers
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
        >>> widths(model, find_layers(model, ["0", "2"]), torch.rand(1, 3, 8, 8), None, 0)
        [8, 5]
    """
    evidence: dict = {}
    with running(model):
        outputs = first_outputs(model, layers, ready(model, sample), evidence=evidence)
    return [layout(layer, outputs[layer.name], 1, channels=channels, skip=skip, evidence=evidence[layer.name])
            .channels_first(outputs[layer.name]).shape[1] for layer in layers]


class _Experiment:
    """One call of `accuracy_curve`: a network, and batches stacked into one input."""

    def __init__(self, model, layers, inputs, labels, sizes, largest, before, method, ablate, channels, skip, output,
                 tol, seed):
        self.model, self.layers, self.inputs = model, layers, inputs
        self.labels, self.sizes = labels.to(inputs.device), sizes
        self.largest, self.before = largest, before  # samples of the largest batch of the call, batches before these
        self.method, self.ablate, self.tol, self.seed = method, ablate, tol, seed
        self.channels, self.skip, self.output = channels, skip, output
        self.layouts: dict[str, Layout] = {}
        self.unconverged = 0

    def _look(self, past):
        """Output of the layer that runs first, {layer: its output's shape} in running order, accuracies."""
        shapes, outputs = {}, []

        def note(layer):
            def change(given):
                if layer.name in shapes:
                    raise ValueError(f"layer {layer.name!r} runs more than once in a forward pass; name the block "
                                     "around it")
                where = layout(layer, given, sum(self.sizes), channels=self.channels, skip=self.skip,
                               evidence=past + widths)
                output = where.channels_first(given)
                if not shapes:
                    outputs.append(output.clone())  # the next layer may work in place
                self.layouts[layer.name], shapes[layer.name] = where, output.shape
                return given
            return change

        with watched(self.model) as widths, replaced(self.model, {layer.name: note(layer) for layer in self.layers}):
            scores = self._logits()
        missing = [layer.name for layer in self.layers if layer.name not in shapes]
        if missing:
            raise ValueError(f"the forward pass did not reach {', '.join(missing)}")
        check_labels(self.labels, scores.shape[1])
        return outputs[0], shapes, self._accuracy(self._right(check_finite(scores)))

    def _logits(self):
        return logits(run(self.model, self.inputs), len(self.inputs), output=self.output, least=2)

    def _right(self, scores):
        """(samples,) bool of logits (samples, classes)."""
        return ((scores.argmax(1) == self.labels) & torch.isfinite(scores).all(1)).cpu()

    def _accuracy(self, right):
        """(batches, ...) of (samples, ...)."""
        return torch.stack([batch.double().mean(0) for batch in right.split(self.sizes)])

    def curve(self, ranks, past):
        self.first, self.shapes, baseline = self._look(past)
        self.names = list(self.shapes)  # in the order in which they run
        limits = {name: self._limit(shape) for name, shape in self.shapes.items()}
        limit, width = max(limits.values()), max(shape[1] for shape in self.shapes.values())
        limit = min(limit, width)
        if ranks is None:
            ranks = [1]
            while (following := ranks[-1] + min(20, -(-ranks[-1] // 2))) < limit:
                ranks.append(following)
        try:
            ranks = list(ranks)
        except TypeError:
            ranks = [ranks]
        for rank in ranks:
            if isinstance(rank, bool) or not isinstance(rank, Integral) or not 0 <= rank <= width:
                raise ValueError(f"rank {rank!r} must be an integer from 0 to {width}, the width of "
                                 f"{', '.join(self.names)}")
        ranks = sorted({0, limit, width, *map(int, ranks)})
        right, errors, norms = [], [], []
        first, *others = self.names
        matrices = self._matrices(self.first)
        for rank, approximation in zip(ranks, self._approximations(first, matrices, ranks), strict=True):
            marks: list[tuple[Tensor, Tensor]] = []
            changes = {first: self._change(first, marks, lambda A, found=approximation: found)}
            for name in others:
                changes[name] = self._change(
                    name, marks, lambda A, name=name, rank=rank: next(self._approximations(name, A, [rank])))
            with replaced(self.model, changes):
                right.append(self._right(self._logits()))
            error, norm = zip(*marks, strict=True)
            errors.append(torch.stack(error))
            norms.append(torch.stack(norm))
        rights = torch.stack(right, 1)  # (samples, R)
        return Curve(tuple(ranks), self._accuracy(rights), torch.stack(errors, 2), torch.stack(norms, 2),
                     baseline, limit, self.unconverged, rights)

    def _change(self, name, marks, approximate: Callable[[Tensor], Tensor]):
        """What a layer's output becomes; notes its error and norm."""
        def change(given):
            output = self.layouts[name].channels_first(given)
            A = self._matrices(output)
            found = approximate(A)
            rest = A - found
            norm = torch.linalg.vector_norm(A, dim=(1, 2), dtype=torch.float64)
            left = torch.linalg.vector_norm(rest, dim=(1, 2), dtype=torch.float64)
            marks.append(((left / torch.where(norm > 0, norm, 1)).cpu(), norm.cpu()))
            return self.layouts[name].restored(self._maps(rest if self.ablate else found, output), given)
        return change

    # --- between feature maps and matrices ------------------------------------------------------------------

    def _matrices(self, maps):
        """(batches, N, C) float: one matrix a batch, under it rows of zeros where others have more samples."""
        rows = to_matrix(maps)
        counts = self._rows(maps.shape)
        dtype = torch.promote_types(rows.dtype, torch.float32)
        A = rows.new_zeros(len(counts), self.largest * math.prod(maps.shape[2:]), maps.shape[1], dtype=dtype)
        for batch, part in zip(A, rows.split(counts), strict=True):
            batch[:len(part)] = part
        return A

    def _maps(self, A, like):
        rows = torch.cat([batch[:count] for batch, count in zip(A, self._rows(like.shape), strict=True)])
        return to_maps(rows, like.shape).to(like.dtype)

    def _rows(self, shape):
        """Rows of each batch's matrix."""
        return [size * math.prod(shape[2:]) for size in self.sizes]

    def _limit(self, shape):
        """The least rank from which the approximation of a layer is exact."""
        rows, columns = self.largest * math.prod(shape[2:]), shape[1]
        return {"nmf": min(rows, columns), "pca": min(rows, columns), "kmeans": rows, "random_ablation": columns}[
            self.method]

    # --- the methods ----------------------------------------------------------------------------------------

    def _approximations(self, name, A, ranks) -> Iterator[Tensor]:
        """Ã (batches, N, C) for each of the rising `ranks`."""
        limit = self._limit(self.shapes[name])
        inner = [rank for rank in ranks if 0 < rank < limit]
        found = getattr(self, f"_{self.method}")(name, A, inner) if inner else iter(())
        for rank in ranks:
            yield torch.zeros_like(A) if rank == 0 else A if rank >= limit else next(found)

    def _nmf(self, name, A, ranks):
        try:
            results = nmf(A, ranks, tol=self.tol, seed=self.seed)
        except ValueError as error:
            kind = partial(_Negative, layer=name) if bool((A < 0).any()) else ValueError
            raise kind(f"layer {name!r}: {error}") from error
        self.unconverged += sum(int((~result.converged).sum()) for result in results)
        for result in results:
            yield result.approximation

    def _pca(self, name, A, ranks):
        wide = A.shape[1] < A.shape[2]
        X = (A.mT if wide else A).double()
        directions = torch.linalg.eigh(X.mT @ X).eigenvectors.flip(-1).to(A.dtype)  # (batches, D, D), D = min(N, C)
        for rank in ranks:
            V = directions[..., :rank]
            yield V @ (V.mT @ A) if wide else A @ V @ V.mT

    def _kmeans(self, name, A, ranks):
        counts = self._rows(self.shapes[name])
        for rank in ranks:
            found = A.clone()  # exact for a batch that has no more rows than centroids
            for batch, count in zip(found, counts, strict=True):
                if rank < count:
                    batch[:count] = factorization.kmeans(batch[:count], rank, seed=self.seed, n_init=1).approximation
            yield found

    def _random_ablation(self, name, A, ranks):
        generator = torch.Generator().manual_seed(self.seed + 1000 * self.names.index(name))
        drawn = [torch.randperm(A.shape[2], generator=generator) for _ in range(self.before + len(self.sizes))]
        order = torch.stack(drawn[self.before:])  # (batches, C)
        place = order.argsort(1).to(A.device)[:, None]
        for rank in ranks:
            yield torch.where(place < rank, A, 0)
