"""What a prediction owes to the parts of a layer's activations: parts are taken out, and the rest of the network runs.

::

    found = importance(model, "features.12", images, factors)  # A ≈ U V of that layer, K parts
    found.shapley  # (n, K, classes) of the probability; of all parts together: found.whole - found.rest

With a mask m of K numbers the activations become [A − Σ_k (1 − m_k) U_k V_k]₊: a part with m_k = 1 stays, one with
m_k = 0 is removed, and what no part explains, A − U V, is there with every mask. Values below zero are cut off, as the
layer's ReLU would do. Every value is that of a forward pass; nothing is linearized.

A function of the masks is a game of K players, so that the indices are those of game theory (Shapley 1953) and of
sensitivity analysis (Sobol 1993; Saltelli et al. 2010; Jansen 1999). Up to a number of parts, all 2^K subsets are run
and the indices exact; beyond it, permutations are drawn in antithetic pairs (Mitchell et al. 2022).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .activations import against_negatives, replaced, resumed, to_maps
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
    find_layer,
    first_outputs,
    indices,
    is_dense,
    layout,
    logits,
    ready,
    run,
    running,
    unwrapped,
)

_MEMORY = 2 ** 29  # bytes that the outputs of all modules may take, where batch_size is not given
OF: dict[str, Callable[[Tensor], Tensor]] = {  # what is made of logits (…, classes)
    "probability": lambda scores: scores.softmax(-1), "log_probability": lambda scores: scores.log_softmax(-1),
    "logit": lambda scores: scores}
MOST = 16  # parts of which all subsets are run, at most


# --- masks --------------------------------------------------------------------------------------------------


def subsets(rank: int) -> Tensor:
    """(2^K, K) masks, one a subset: in line i the parts k are missing for which bit k of i is set.

    The first line keeps every part, the last none.

    Args:
        rank: K, the number of parts, at most 16.

    Raises:
        ValueError: another number.

    Example:
        >>> subsets(2).tolist()
        [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    """
    check_counts(rank=rank)
    if rank > MOST:
        raise ValueError(f"rank={rank}: there are 2^{rank} subsets; draw masks by permutations or saltelli instead")
    return 1.0 - (torch.arange(2 ** rank)[:, None] >> torch.arange(rank) & 1)


def permutations(rank: int, pairs: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random orders of the parts in antithetic pairs, each followed by its reverse, and the masks on their way.

    Args:
        rank: K, the number of parts.
        pairs: of orders.
        seed: of the orders.

    Returns:
        Orders (2 pairs, K), and masks (2 pairs, K + 1, K): none of the parts, then one after another in that order.

    Raises:
        ValueError: numbers below one.

    Example:
        >>> orders, masks = permutations(3, 1)
        >>> bool((orders[1] == orders[0].flip(0)).all()), masks.shape, masks.sum(-1).tolist()[0]
        (True, torch.Size([2, 4, 3]), [0.0, 1.0, 2.0, 3.0])
    """
    check_counts(rank=rank, pairs=pairs)
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(rank, generator=generator) for _ in range(pairs)])
    orders = torch.stack([orders, orders.flip(1)], 1).flatten(0, 1)  # (2 pairs, K)
    places = orders.argsort(1)[:, None]  # of each part in its order
    return orders, (places < torch.arange(rank + 1)[:, None]).float()


def saltelli(rank: int, samples: int, *, scales: bool = False, seed: int = 0) -> Tensor:
    """Masks (K + 2, samples, K) for Sobol indices: two independent samples A and B, then A with column k from B.

    Args:
        rank: K, the number of parts.
        samples: of each kind, two or more.
        scales: masks are uniform in [0, 1]; otherwise a part stays or goes with the same probability.
        seed: of the samples.

    Raises:
        ValueError: no part, or fewer than two samples.

    Example:
        >>> masks = saltelli(3, 8)
        >>> A, B, first = masks[:3]
        >>> torch.equal(first[:, 0], B[:, 0]), torch.equal(first[:, 1:], A[:, 1:])
        (True, True)
    """
    check_counts(rank=rank)
    check_counts(2, samples=samples)
    A, B = torch.rand(2, samples, rank, generator=torch.Generator().manual_seed(seed))
    if not scales:
        A, B = (A < 0.5).float(), (B < 0.5).float()
    mixed = A.repeat(rank, 1, 1)
    for k in range(rank):
        mixed[k, :, k] = B[:, k]
    return torch.cat([A[None], B[None], mixed])


# --- indices ------------------------------------------------------------------------------------------------


def shapley_values(values: Tensor) -> Tensor:
    """Shapley values of K parts, exactly: the mean over all orders of what a part adds to those before it.

    Their sum is the value of all parts minus that of none.

    Args:
        values: (2^K, …) of the masks of `subsets`, in their order.

    Returns:
        (K, …) in float64.

    Raises:
        ValueError: values of another number of masks.

    Example:
        >>> shapley_values(torch.tensor([5.0, 1.0, 3.0, 0.0]))  # both, without the first, without the second, none
        tensor([3.5000, 1.5000], dtype=torch.float64)
    """
    values, rank = _of_subsets(values)
    weights = torch.zeros(rank, len(values), dtype=torch.float64)
    kept = subsets(rank).sum(1)
    for k in range(rank):
        line = torch.arange(len(values))
        there, gone = line[(line >> k & 1) == 0], line[(line >> k & 1) == 1]  # the same others, in the same order
        share = torch.tensor([1 / (rank * math.comb(rank - 1, int(others))) for others in kept[gone]]).double()
        weights[k, there], weights[k, gone] = share, -share
    return torch.tensordot(weights.to(values.device), values, 1)


def sobol_indices(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sobol indices of K parts that stay or go with the same probability, exactly.

    Values are expanded in products of ±1 (Walsh functions); squared coefficients are shares of the variance.

    Args:
        values: (2^K, …) of the masks of `subsets`, in their order.

    Returns:
        First-order and total indices, both (K, …) in float64: what a part decides alone, and with others. Where
        nothing depends on the parts, both are 0.

    Raises:
        ValueError: values of another number of masks.

    Example:
        >>> first, total = sobol_indices(torch.tensor([1.0, 0.0, 0.0, 0.0]))  # only both together
        >>> first.tolist(), total.tolist()
        ([0.3333333333333333, 0.3333333333333333], [0.6666666666666666, 0.6666666666666666])
    """
    values, rank = _of_subsets(values)
    for k in range(rank):
        halves = values.unflatten(0, (-1, 2, 2 ** k))
        values = torch.stack([halves.sum(1), halves[:, 0] - halves[:, 1]], 1).flatten(0, 2) / 2
    power = values.square()
    power[0] = 0  # of the mean
    line = torch.arange(len(values), device=values.device)
    first = power[2 ** torch.arange(rank, device=values.device)]
    total = torch.stack([power[(line >> k & 1) == 1].sum(0) for k in range(rank)])
    return _shares(first, power.sum(0)), _shares(total, power.sum(0))


def sampled_shapley(orders: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Shapley values from some orders of the parts, without bias, and their standard errors.

    In each order the parts' shares add up to the value of all minus that of none, and so do the means.

    Args:
        orders: (2 pairs, K) as `permutations` gives them.
        values: (2 pairs, K + 1, …) of its masks.

    Returns:
        Means (K, …) and their standard errors, which are infinite for a single pair, in float64.

    Raises:
        ValueError: values that do not belong to these orders.

    Example:
        >>> orders, masks = permutations(2, 3)
        >>> values, error = sampled_shapley(orders, masks @ torch.tensor([2.0, -1.0]))
        >>> values.tolist(), error.tolist()
        ([2.0, -1.0], [0.0, 0.0])
    """
    if not is_dense(orders) or orders.dim() != 2 or not is_dense(values) or len(orders) % 2 or \
            values.shape[:2] != (len(orders), orders.shape[1] + 1):
        raise ValueError(f"orders are {described(orders)} and values {described(values)}; expected orders (2 pairs, K) "
                         "and values (2 pairs, K + 1, …), as permutations gives them")
    added = values.double().diff(dim=1)  # (2 pairs, K, …) in the order in which parts come
    places = orders.to(values.device).argsort(1)
    added = added.take_along_dim(places.reshape(*places.shape, *[1] * (added.dim() - 2)), 1)
    pairs = (added[::2] + added[1::2]) / 2
    spread = pairs.std(0) if len(pairs) > 1 else torch.full_like(pairs[0], math.inf)
    return pairs.mean(0), spread / math.sqrt(len(pairs))


def sampled_sobol(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sobol indices by Jansen's estimators, from the masks of `saltelli`.

    Estimates may lie a little outside [0, 1].

    Args:
        values: (K + 2, samples, …) of its masks.

    Returns:
        First-order and total indices, both (K, …) in float64.

    Raises:
        ValueError: values of another shape.

    Example:
        >>> first, total = sampled_sobol(saltelli(2, 4096, scales=True) @ torch.tensor([2.0, 1.0]))
        >>> [round(index, 1) for index in first.tolist()], [round(index, 1) for index in total.tolist()]
        ([0.8, 0.2], [0.8, 0.2])
    """
    if not is_dense(values) or values.dim() < 2 or len(values) < 3 or values.shape[1] < 2:
        raise ValueError(f"values are {described(values)}; expected (K + 2, samples, …), as saltelli gives masks")
    values = values.double()
    A, B, mixed = values[0], values[1], values[2:]
    variance = values[:2].flatten(0, 1).var(0)
    first = variance - (B - mixed).square().mean(1) / 2
    return _shares(first, variance), _shares((A - mixed).square().mean(1) / 2, variance)


def _of_subsets(values):
    """Values as float64, and K."""
    rank = len(values).bit_length() - 1 if is_dense(values) and values.dim() else 0
    if not 1 <= rank <= MOST or len(values) != 2 ** rank or values.is_complex():
        raise ValueError(f"values are {described(values)}; expected (2^K, …), one for each mask of subsets(K)")
    return values.double(), rank


def _shares(part, whole):
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)


# --- forward passes -----------------------------------------------------------------------------------------


def masked_logits(model: nn.Module, layer: LayerName, inputs: Tensor, factors: Any, masks: Tensor, *,
                  channels: str | None = None, skip: int = 0, output: Output = None,
                  batch_size: int | None = None) -> Tensor:
    """Logits of a network whose parts of one layer's activations are kept, removed or scaled, mask by mask.

    What comes before the layer runs once, and masks of several inputs go through the rest of the network together,
    where it allows that. The model is run in evaluation mode and left as it was.

    Args:
        model: any classifier.
        layer: whose activations A ≥ 0 are changed, by name or as the module itself.
        inputs: (n, …) that the model takes.
        factors: with U (n · positions, K) and V (K, C), rows as `to_matrix` makes them: from `nmf`, `encode`, a method
            of `nmfcore.factorization`, or `Heatmaps` of these inputs in this order. They may be signed. Or parts
            (n, K, C, …), any tensors shaped like the activations of each input.
        masks: (m, K), the same for all inputs, or (m, n, K): 1 keeps a part, 0 removes it, 2 doubles it.
        channels, skip: as for `feature_maps`.
        output: as for `accuracy_curve`.
        batch_size: activations that go through the rest of the network at a time; by default as many as fit into half a
            gigabyte.

    Returns:
        (m, n, classes).

    Raises:
        ValueError: factors that do not fit the layer or are not finite; negative activations; masks of another shape; a
            layer that runs several times; and as `accuracy_curve`.

    Example:
        >>> from nmfcore import nmf
        >>> from nmfcore.activations import capture
        >>> model, inputs = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(5, 6)
        >>> factors = nmf(capture(model, "1", inputs)["1"], 2)
        >>> scores = masked_logits(model, "1", inputs, factors, subsets(2))
        >>> scores.shape, torch.allclose(scores[0], model(inputs))
        (torch.Size([4, 5, 3]), True)
    """
    with _passes(model, layer, inputs, factors, channels, skip, output, batch_size) as passes:
        return passes.logits(masks)


@contextmanager
def _passes(model, layer, inputs, factors, channels, skip, output, batch_size) -> Iterator["_Passes"]:
    """What is asked for, checked, with the model ready to run."""
    model = unwrapped(model)
    check_channels(channels, skip)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
    wanted = find_layer(model, layer)
    with running(model):
        yield _Passes(model, wanted, ready(model, inputs), factors, channels, skip, output, batch_size)


class _Passes:
    """A network, the inputs of one call and the parts of their activations."""

    def __init__(self, model, layer: Layer, inputs, factors, channels, skip, output, batch_size):
        self.model, self.layer, self.inputs, self.output = model, layer, inputs, output
        self.batch_size = batch_size
        evidence: dict = {}
        self.bytes = _bytes(model, inputs[:1])
        given = first_outputs(model, [layer], inputs[:1], evidence=evidence)[layer.name]
        self.layout: Layout = layout(layer, given, 1, channels=channels, skip=skip, evidence=evidence[layer.name])
        self.channels = channels
        self._take(factors, self.layout.channels_first(given).shape[1:])

    def _take(self, factors, shape):
        """Factors or parts that fit activations of this shape (C, …)."""
        n, positions, name = len(self.inputs), math.prod(shape[1:]), self.layer.name
        self.U = self.V = self.parts = None
        if isinstance(factors, Tensor):
            if not is_dense(factors) or factors.dim() < 3 or len(factors) != n or factors.shape[1] < 1 \
                    or factors.shape[2:] != shape or not factors.is_floating_point():
                raise ValueError(f"parts are {described(factors)}; those of {n} inputs in layer {name!r} are "
                                 f"({', '.join(map(str, (n, 'K', *shape)))})")
            self.parts, self.rank = _finite(factors, "the parts").to(self.inputs.device), factors.shape[1]
            return
        factors = getattr(factors, "factors", factors)  # of Heatmaps
        U, V = (getattr(factors, which, None) for which in "UV")
        if not all(is_dense(thing) and thing.dim() == 2 and thing.is_floating_point() for thing in (U, V)):
            raise ValueError(f"the factors are {described(factors)} with U {described(U)} and V {described(V)}; pass "
                             "what nmf returns, with U (n · positions, K) and V (K, C), or parts (n, K, C, …)")
        if U.shape[1] != len(V) or not len(V) or V.shape[1] != shape[0] or len(U) != n * positions:
            raise ValueError(f"factors U {tuple(U.shape)} and V {tuple(V.shape)} do not fit layer {name!r}: {n} inputs "
                             f"with {positions} positions and {shape[0]} channels have U ({n * positions}, K) and V "
                             f"(K, {shape[0]}); factorize to_matrix(capture(model, layer, inputs)[layer])")
        self.U, self.V = (_finite(thing, "the factors").to(self.inputs.device) for thing in (U, V))
        self.U, self.rank = to_maps(self.U, (n, shape[0], *shape[1:])), len(V)  # (n, K, …)

    def _parts(self, places, dtype):
        """(b, K, C, …) of some inputs."""
        if self.parts is not None:
            return self.parts[places].to(dtype)
        return torch.einsum("bk...,kc->bkc...", self.U[places].to(dtype), self.V.to(dtype))

    def logits(self, masks) -> Tensor:
        """(m, n, classes) with masks (m, K) or (m, n, K)."""
        masks = _checked_masks(masks, self.rank, len(self.inputs))
        most = self.batch_size or max(1, _MEMORY // self.bytes)
        found = []
        for places in torch.arange(len(self.inputs)).split(most):
            with resumed(self.model, [self.layer.name], self.inputs[places]):
                found.append(self._chunk(places, masks if masks.shape[1] == 1 else masks[:, places], most))
        return torch.cat(found, 1)

    def _chunk(self, places, masks, most):
        b, A = len(places), []

        def look(given):
            A.append(self.layout.channels_first(given).clone())
            return given
        untouched = self._run(look, places, 1)[0]
        A, = A
        if bool((A < 0).any()):
            advice = against_negatives(self.model, self.layer.name, self.inputs[:2], self.channels)
            raise ValueError(f"layer {self.layer.name!r} has negative outputs, which cutting off at zero would change; "
                             + advice)
        parts = self._parts(places, torch.promote_types(A.dtype, torch.float32))
        several = max(1, most // b)
        if several > 1 and not self._stacks(A, places, untouched):
            several = 1
        found = []
        for some in masks.split(several):
            gone = (1 - some.to(parts)).expand(-1, b, -1)  # (m, b, K)
            left = (A - torch.einsum("mbk,bk...->mb...", gone, parts)).clamp(min=0).to(A.dtype).flatten(0, 1)
            found.append(self._run(self._put(left, len(some)), places, len(some)))
        return torch.cat(found)

    def _stacks(self, A, places, untouched):
        """Whether the rest of the network takes more activations than the model was given inputs: one that adds them to
        what has by-passed the layer does not."""
        try:
            scores = self._run(self._put(torch.cat([A, A]), 2), places, 2)
        except ValueError:
            return False
        size = untouched.abs().amax().clamp(min=1)
        return bool(((scores - untouched).abs() <= 1e-3 * size).all())

    def _put(self, maps, count):
        """A change of the layer's output into maps (count · b, C, …)."""
        def change(given):
            given = given.repeat(count, *[1] * (given.dim() - 1)) if count > 1 else given
            return self.layout.restored(maps, given)
        return change

    def _run(self, change, places, count):
        """(count, b, classes) with a change of the layer's output."""
        runs = 0

        def once(given):
            nonlocal runs
            runs += 1
            if runs > 1:
                raise ValueError(f"layer {self.layer.name!r} runs more than once in a forward pass; name the block "
                                 "around it")
            return change(given)
        with replaced(self.model, {self.layer.name: once}):
            given = run(self.model, self.inputs[places])
        scores = check_finite(logits(given, count * len(places), output=self.output))
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).unflatten(0, (count, len(places)))


def _bytes(model, sample):
    """What the outputs of all modules take for one sample."""
    taken = [sample.nbytes]
    handles = [module.register_forward_hook(lambda _module, _args, given: taken.append(getattr(given, "nbytes", 0)))
               for module in model.modules() if not any(module.children())]
    try:
        run(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    return sum(taken)


def _finite(tensor, what):
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{what} hold numbers that are not finite: {described(tensor)}; factorize again, in float32")
    return tensor.detach()


def _checked_masks(masks, rank, n):
    """(m, n or 1, K)."""
    shape = tuple(masks.shape) if is_dense(masks) else ()
    if not is_dense(masks) or masks.is_complex() or not len(shape) or not shape[0] or shape[1:] not in (
            (rank,), (n, rank)):
        raise ValueError(f"masks are {described(masks)}; expected numbers (m, {rank}), or (m, {n}, {rank}) with some "
                         "for each input")
    masks = _finite(masks.float(), "the masks")
    return masks[:, None] if masks.dim() == 2 else masks


# --- effects of parts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Importance:
    """What K parts do to the outputs of a network for n inputs.

    Example:
        >>> parts = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])  # of one input with activations (3, 1)
        >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, -2.0]])
        >>> found = importance(model, "0", torch.tensor([[3.0, 1.0]]), parts, of="logit")
        >>> found.whole.tolist(), found.removal[0, :, 0].tolist(), found.shapley[0, :, 0].tolist()
        ([[1.0]], [2.0, -1.0], [2.0, -1.0])
    """

    removal: Tensor  #: (n, K, classes) all parts minus all but this one
    addition: Tensor  #: (n, K, classes) this part alone minus none
    shapley: Tensor  #: (n, K, classes) the mean over orders of what a part adds; they sum to `whole` − `rest`
    first_order: Tensor  #: (n, K, classes) Sobol index of a part alone, where each stays or goes at random
    total: Tensor  #: (n, K, classes) Sobol index of a part with all its interactions
    whole: Tensor  #: (n, classes) what the network says, with all parts
    rest: Tensor  #: (n, classes) what A − U V gives, without any of them
    standard_error: Tensor  #: (n, K, classes) of the Shapley values; 0 where they are exact
    passes: int  #: masks that were run for each input


def importance(model: nn.Module, layer: LayerName, inputs: Tensor, factors: Any, *, of: str = "probability",
               exact: int = 6, draws: int = 64, seed: int = 0, channels: str | None = None, skip: int = 0,
               output: Output = None, batch_size: int | None = None) -> Importance:
    """How much each part of a layer's activations promotes or hurts each class.

    Args:
        model, layer, inputs, factors, channels, skip, output, batch_size: as for `masked_logits`.
        of: whose effects, "probability", "log_probability" or "logit".
        exact: up to so many parts all 2^K subsets are run, at most 16. Beyond it, Shapley values are means over `draws`
            pairs of permutations, and Sobol indices Jansen's estimates from `draws` samples.
        draws: two or more.
        seed: of what is drawn.

    Raises:
        ValueError: another `of`, numbers out of range, and as `masked_logits`.

    Example:
        >>> from nmfcore import nmf
        >>> from nmfcore.activations import capture
        >>> model, inputs = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(5, 6)
        >>> found = importance(model, "1", inputs, nmf(capture(model, "1", inputs)["1"], 2))
        >>> found.shapley.shape, found.passes
        (torch.Size([5, 2, 3]), 4)
        >>> torch.allclose(found.shapley.sum(1), found.whole - found.rest)
        True
    """
    if not isinstance(of, str) or of not in OF:
        raise ValueError(f"of={of!r} is not one of {', '.join(map(repr, OF))}")
    check_counts(0, exact=exact)
    check_counts(2, draws=draws)
    if exact > MOST:
        raise ValueError(f"exact={exact}: all subsets of at most {MOST} parts are run; take fewer, and more draws")
    with _passes(model, layer, inputs, factors, channels, skip, output, batch_size) as passes:
        K = passes.rank

        def values(masks):
            scores = passes.logits(masks.flatten(0, -2))
            return OF[of](scores.double()).unflatten(0, masks.shape[:-1])
        if exact >= K:
            found, ones = values(subsets(K)), 2 ** torch.arange(K)
            whole, rest, without, alone = found[0], found[-1], found[ones], found[2 ** K - 1 - ones]
            shapley, (first, total), count = shapley_values(found), sobol_indices(found), len(found)
            error = torch.zeros_like(shapley)
        else:
            eye = torch.eye(K)
            found = values(torch.cat([torch.ones(1, K), torch.zeros(1, K), 1 - eye, eye]))
            whole, rest, without, alone = found[0], found[1], found[2:K + 2], found[K + 2:]
            orders, masks = permutations(K, draws, seed=seed)
            inside = values(masks[:, 1:-1])
            ends = [end.expand(len(masks), 1, *end.shape) for end in (rest, whole)]
            shapley, error = sampled_shapley(orders, torch.cat([ends[0], inside, ends[1]], 1))
            design = saltelli(K, draws, seed=seed)
            first, total = sampled_sobol(values(design))
            count = len(found) + masks[:, 1:-1].flatten(0, 1).shape[0] + design.flatten(0, 1).shape[0]
        return Importance((whole - without).movedim(1, 0), (alone - rest).movedim(1, 0), shapley.movedim(1, 0),
                          first.movedim(1, 0), total.movedim(1, 0), whole, rest, error.movedim(1, 0), count)


@dataclass(frozen=True)
class RemovalCurves:
    """Probability of one class for each of n inputs while parts are removed, or put back, one after another.

    Example:
        >>> curves = RemovalCurves(torch.tensor([[0.9, 0.3, 0.1]]), torch.tensor([[0.1, 0.7, 0.9]]), torch.tensor([4]))
        >>> [round(float(area), 3) for area in (curves.deletion_area, curves.insertion_area)]
        [0.4, 0.6]
    """

    deletion: Tensor  #: (n, K + 1) without the 0, 1, … K parts of highest score
    insertion: Tensor  #: (n, K + 1) with only the 0, 1, … K parts of highest score, and what no part explains
    classes: Tensor  #: (n,) whose probability it is

    @property
    def deletion_area(self) -> Tensor:
        """(n,) by trapezoids over the share of parts removed, low where the first ones matter most."""
        return _area(self.deletion)

    @property
    def insertion_area(self) -> Tensor:
        """(n,) by trapezoids over the share of parts that are there, high where the first ones matter most."""
        return _area(self.insertion)


def removal_curves(model: nn.Module, layer: LayerName, inputs: Tensor, factors: Any, scores: Tensor, *,
                   classes: Any = None, channels: str | None = None, skip: int = 0, output: Output = None,
                   batch_size: int | None = None) -> RemovalCurves:
    """Deletion and insertion curves (Petsiuk et al. 2018): how well scores tell which parts matter.

    Args:
        model, layer, inputs, factors, channels, skip, output, batch_size: as for `masked_logits`.
        scores: (n, K) of the parts of each input, the most important highest; of equal ones the first part comes first.
        classes: one for each input; by default the one that the untouched network predicts.

    Raises:
        ValueError: scores of another shape or not finite, a class that the model does not have, and as `masked_logits`.

    Example:
        >>> from nmfcore import nmf
        >>> from nmfcore.activations import capture
        >>> model, inputs = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(5, 6)
        >>> factors = nmf(capture(model, "1", inputs)["1"], 2)
        >>> strength = factors.U  # rows of V have unit norm
        >>> removal_curves(model, "1", inputs, factors, strength).deletion.shape
        torch.Size([5, 3])
    """
    if not is_dense(scores) or scores.dim() != 2 or scores.is_complex() or not scores.numel():
        raise ValueError(f"scores are {described(scores)}; expected numbers (n, K)")
    order = _finite(scores, "the scores").argsort(dim=1, descending=True, stable=True).cpu()
    gone = (order.argsort(1) < torch.arange(scores.shape[1] + 1)[:, None, None]).float()  # (K + 1, n, K)
    found = masked_logits(model, layer, inputs, factors, torch.cat([1 - gone, gone]), channels=channels, skip=skip,
                          output=output, batch_size=batch_size)
    probabilities = found.double().softmax(-1)  # (2 (K + 1), n, classes)
    if classes is None:
        chosen = found[0].argmax(1)
    else:
        chosen = indices(classes, "classes").to(found.device)
        if len(chosen) != found.shape[1]:
            raise ValueError(f"there are {len(chosen)} classes for {found.shape[1]} inputs; pass one for each")
        check_labels(chosen, found.shape[2])
    of_class = probabilities.gather(2, chosen[None, :, None].expand(len(found), -1, 1))[..., 0]
    deletion, insertion = of_class.mT.split(scores.shape[1] + 1, dim=1)
    return RemovalCurves(deletion, insertion, chosen)


def _area(curve):
    return torch.trapezoid(curve.double(), dim=1) / (curve.shape[1] - 1)
