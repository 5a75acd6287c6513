"""Effects of parts: against a loop over subsets written by hand, closed forms, and what their sums must be."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from nmfcore import importance as module
from nmfcore import nmf
from nmfcore.activations import capture, to_matrix
from nmfcore.factorization import pca
from nmfcore.heatmaps import heatmaps
from nmfcore.importance import (
    importance,
    masked_logits,
    permutations,
    removal_curves,
    saltelli,
    sampled_shapley,
    sampled_sobol,
    shapley_values,
    sobol_indices,
    subsets,
)

pytestmark = pytest.mark.usefixtures("one_thread")
X = torch.rand(3, 3, 7, 6, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """The layer's output is added to what by-passes it, so that inputs cannot be stacked behind it."""

    def __init__(self):
        super().__init__()
        self.first, self.relu = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return x + self.relu(self.first(x))


def network(middle=None):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), middle or nn.Identity(), nn.Dropout(0.5), nn.Flatten(),
                         nn.Linear(8 * 42, 5)).train()


def by_hand(model, layer, inputs, U, V, kept):
    """Logits with only some parts, input by input, by the definition, in NumPy up to the tail."""
    A = capture(model, layer, inputs)[layer]
    scores = []
    for i, maps in enumerate(A):
        rows = maps.flatten(1).T.numpy().astype(float)  # (positions, C)
        of_input = U[i * len(rows):(i + 1) * len(rows)].numpy().astype(float)
        for k in range(len(V)):
            if k not in kept:
                rows = rows - np.outer(of_input[:, k], V[k].numpy())
        left = torch.from_numpy(np.maximum(rows, 0).T.reshape(maps.shape)).float()[None]
        handle = model.get_submodule(layer).register_forward_hook(lambda *_, left=left: left)
        with torch.no_grad():
            scores.append(copy.deepcopy(model).eval()(inputs[i:i + 1])[0])
        handle.remove()
    return torch.stack(scores)


def factored(model, layer, rank, inputs=X, method=nmf):
    return method(to_matrix(capture(model, layer, inputs)[layer]), rank)


@pytest.mark.parametrize("middle, layer", [(None, "1"), (Residual(), "2.relu")], ids=["chain", "by-passed"])
@pytest.mark.parametrize("method, batch_size", [(nmf, None), (pca, 2), (nmf, 1), (nmf, 64)])
def test_each_subset_is_what_the_definition_gives(middle, layer, method, batch_size):
    model = network(middle)
    factors = factored(model, layer, 4, method=method)
    scores = masked_logits(model, layer, X, factors, subsets(4), batch_size=batch_size)
    for line in range(16):
        expected = by_hand(model, layer, X, factors.U, factors.V, [k for k in range(4) if not line >> k & 1])
        assert torch.allclose(scores[line], expected, atol=1e-4), line
    assert torch.allclose(scores[0], copy.deepcopy(model).eval()(X), atol=1e-5)


@pytest.mark.parametrize("of", ["probability", "log_probability", "logit"])
def test_exact_effects_against_every_order(of):
    """Shapley values by all 24 orders of four parts, Sobol indices by variances of conditional means."""
    model = network()
    factors = factored(model, "1", 4)
    found = importance(model, "1", X, factors, of=of)
    scores = {kept: by_hand(model, "1", X, factors.U, factors.V, kept)
              for size in range(5) for kept in itertools.combinations(range(4), size)}
    value = {kept: {"probability": logit.softmax(1), "log_probability": logit.log_softmax(1), "logit": logit}[of]
             for kept, logit in scores.items()}
    everything = (0, 1, 2, 3)
    shapley = torch.zeros(3, 4, 5)
    for order in itertools.permutations(range(4)):
        for place, k in enumerate(order):
            before = tuple(sorted(order[:place]))
            shapley[:, k] += (value[tuple(sorted((*before, k)))] - value[before]) / math.factorial(4)
    assert torch.allclose(found.shapley.float(), shapley, atol=1e-4)
    assert torch.allclose(found.shapley.sum(1), found.whole - found.rest, atol=1e-12)
    assert torch.allclose(found.whole.float(), value[everything], atol=1e-4)
    assert torch.allclose(found.rest.float(), value[()], atol=1e-4)
    variance = torch.stack([*value.values()]).var(0, correction=0)
    for k in range(4):
        others = tuple(j for j in everything if j != k)
        assert torch.allclose(found.removal[:, k].float(), value[everything] - value[others], atol=1e-4)
        assert torch.allclose(found.addition[:, k].float(), value[(k,)] - value[()], atol=1e-4)
        means = torch.stack([torch.stack([v for kept, v in value.items() if (k in kept) == there]).mean(0)
                             for there in (True, False)])
        assert torch.allclose(found.first_order[:, k].float(), means.var(0, correction=0) / variance, atol=1e-3)
        inside = torch.stack([torch.stack([v for kept, v in value.items() if {*kept} - {k} == {*rest}])
                              .var(0, correction=0) for size in range(4)
                              for rest in itertools.combinations(others, size)]).mean(0)
        assert torch.allclose(found.total[:, k].float(), inside / variance, atol=1e-3)
    assert found.passes == 16 and not found.standard_error.any()


def test_closed_forms_behind_a_linear_layer():
    """Without anything to cut off, logits are additive: every effect is the part's own logit, no two parts interact."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).double()
    parts = torch.rand(5, 7, 4, 6).double()
    A = parts.sum(1) + 0.1
    own = parts.flatten(2) @ model[2].weight.T  # (n, K, classes)
    for exact in (7, 0):
        found = importance(model, "0", A, parts, of="logit", exact=exact, draws=4096, channels="first")
        for effect in (found.removal, found.addition, found.shapley):
            assert torch.allclose(effect, own, atol=1e-6)
        share = own.square() / own.square().sum(1, keepdim=True)
        tolerance = 1e-6 if exact else 0.08
        assert torch.allclose(found.first_order, share, atol=tolerance)
        assert torch.allclose(found.total, share, atol=tolerance)
    scaled = masked_logits(model, "0", A, parts, torch.tensor([[0.3, 1, 1, 1, 1, 1, 2.0]]), channels="first")[0]
    assert torch.allclose(scaled, model(A) - 0.7 * own[:, 0] + own[:, 6], atol=1e-6)


def test_parts_and_factors_are_the_same_thing():
    model = network()
    fit = heatmaps(model, X, 3, layer="1")
    U = fit.factors.U.reshape(3, 7, 6, 3)
    parts = torch.einsum("nhwk,kc->nkchw", U, fit.factors.V)
    masks = torch.rand(9, 3, 3)
    found = [masked_logits(model, "1", X, given, masks) for given in (fit, fit.factors, parts)]
    assert torch.equal(found[0], found[1]) and torch.allclose(found[0], found[2], atol=1e-5)
    alone = torch.stack([masked_logits(model, "1", X[i:i + 1], parts[i:i + 1], masks[:, i])[:, 0] for i in range(3)], 1)
    assert torch.allclose(found[2], alone, atol=1e-5)  # each input has its own masks


def test_what_is_sampled_approaches_what_is_exact():
    model = network()
    factors = factored(model, "1", 5)
    exact = importance(model, "1", X, factors)
    errors = {name: [] for name in ("shapley", "first_order", "total")}
    for draws in (16, 256, 4096):
        found = importance(model, "1", X, factors, exact=0, draws=draws)
        for name, gaps in errors.items():
            gaps.append(float((getattr(found, name) - getattr(exact, name)).abs().mean()))
        assert torch.allclose(found.shapley.sum(1), found.whole - found.rest, atol=1e-12)
        assert torch.allclose(found.removal, exact.removal) and torch.allclose(found.addition, exact.addition)
    for gaps in errors.values():
        assert gaps[2] < gaps[1] < gaps[0] and gaps[2] < 0.25 * gaps[0]
    assert found.passes == 2 * 4096 * 4 + 7 * 4096 + 12
    again, other = (importance(model, "1", X, factors, exact=0, draws=16, seed=seed).shapley for seed in (0, 1))
    assert torch.equal(again, importance(model, "1", X, factors, exact=0, draws=16).shapley)
    assert not torch.equal(again, other)


def test_standard_errors_are_those_of_repeated_draws():
    game = torch.rand(32, 6, generator=torch.Generator().manual_seed(4))  # six games of five parts
    exact, estimates, errors = shapley_values(game), [], []
    weights = 2 ** torch.arange(5.0)
    for seed in range(200):
        orders, masks = permutations(5, 40, seed=seed)
        values, error = sampled_shapley(orders, game[((1 - masks) @ weights).long()])
        estimates.append(values)
        errors.append(error)
    variance = torch.stack(estimates).var(0).mean()
    assert torch.stack(errors).square().mean() == pytest.approx(float(variance), rel=0.15)
    assert torch.allclose(torch.stack(estimates).mean(0), exact, atol=4 * float(variance / 200) ** 0.5)


def test_pairs_of_orders_are_reversed_and_end_with_everything():
    orders, masks = permutations(6, 8, seed=3)
    assert torch.equal(orders[::2], orders[1::2].flip(1)) and len({*map(tuple, orders.tolist())}) > 10
    assert torch.equal(masks.sum(-1), torch.arange(7.0).expand(16, 7))
    assert all(masks[i, place + 1, k] - masks[i, place, k] == 1
               for i, order in enumerate(orders.tolist()) for place, k in enumerate(order))


def test_the_ishigami_function_has_the_indices_of_the_book():
    """Saltelli et al. 2008, section 4.6: a = 7, b = 0.1 on [-π, π]³."""
    x = (2 * saltelli(3, 2 ** 15, scales=True) - 1) * math.pi
    first, total = sampled_sobol(x[..., 0].sin() + 7 * x[..., 1].sin() ** 2 + 0.1 * x[..., 2] ** 4 * x[..., 0].sin())
    assert first.tolist() == pytest.approx([0.3139, 0.4424, 0.0], abs=0.02)
    assert total.tolist() == pytest.approx([0.5576, 0.4424, 0.2437], abs=0.02)


def test_games_of_the_textbooks():
    glove = torch.tensor([1.0 if kept[0] and (kept[1] or kept[2]) else 0.0 for kept in subsets(3).tolist()])
    assert shapley_values(glove).tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    votes = torch.tensor([float(sum(w for w, k in zip((4, 2, 1, 1), kept, strict=True) if k) > 4)
                          for kept in subsets(4).tolist()])
    assert shapley_values(votes).tolist() == pytest.approx([3 / 4, 1 / 12, 1 / 12, 1 / 12])
    for index in (*sobol_indices(torch.ones(8)), shapley_values(torch.ones(8))):
        assert index.tolist() == [0, 0, 0]


@pytest.mark.parametrize("rank", [1, 5])
def test_curves_remove_the_parts_in_the_order_of_their_scores(rank):
    model = network()
    factors = factored(model, "1", rank)
    scores = torch.rand(3, rank, generator=torch.Generator().manual_seed(2))
    predicted = copy.deepcopy(model).eval()(X).argmax(1)
    for classes in (None, torch.tensor([4, 0, 2])):
        curves = removal_curves(model, "1", X, factors, scores, classes=classes)
        chosen = predicted if classes is None else classes
        assert torch.equal(curves.classes, chosen)
        for i in range(3):
            order = sorted(range(rank), key=lambda k: -scores[i, k])
            for t in range(rank + 1):
                for curve, kept in ((curves.deletion, order[t:]), (curves.insertion, order[:t])):
                    expected = by_hand(model, "1", X, factors.U, factors.V, kept)[i].softmax(0)[chosen[i]]
                    assert float(curve[i, t]) == pytest.approx(float(expected), abs=1e-4)
        assert torch.allclose(curves.deletion[:, 0], curves.insertion[:, -1])
        step = curves.deletion.numpy()
        assert curves.deletion_area.numpy() == pytest.approx((step[:, 1:] + step[:, :-1]).mean(1) / 2)
        assert curves.insertion_area.numpy() == pytest.approx(np.trapezoid(curves.insertion.numpy(), axis=1) / rank)


def test_equal_scores_are_taken_in_the_order_of_the_parts():
    model = network()
    factors = factored(model, "1", 3)
    ties, order = (removal_curves(model, "1", X, factors, scores.expand(3, 3)).deletion
                   for scores in (torch.zeros(3), torch.tensor([3.0, 2.0, 1.0])))
    assert torch.equal(ties, order)


class Tokens(nn.Module):
    """A token in front of four others."""

    def __init__(self):
        super().__init__()
        self.embed, self.relu, self.head = nn.Linear(6, 8), nn.ReLU(), nn.Linear(40, 3)

    def forward(self, x):
        return {"logits": self.head(self.relu(self.embed(x)).flatten(1))}


def test_tokens_in_front_stay_as_they_are():
    torch.manual_seed(0)
    model, x = Tokens(), torch.rand(3, 5, 6)
    A = capture(model, "relu", x, channels="tokens", skip=1)["relu"]  # (n, C, 4)
    factors = nmf(to_matrix(A), 2)
    scores = masked_logits(model, "relu", x, factors, torch.zeros(1, 2), channels="tokens", skip=1)[0]
    whole = capture(model, "relu", x)["relu"]
    left = (whole[:, 1:] - factors.approximation.reshape(3, 4, 8)).clamp(min=0)
    expected = model.head(torch.cat([whole[:, :1], left], 1).flatten(1))
    assert torch.allclose(scores, expected, atol=1e-5)
    with pytest.raises(ValueError, match="channels look like the last dimension"):
        masked_logits(model, "relu", x, factors, torch.zeros(1, 2))


# --- the model, memory, refusals ----------------------------------------------------------------------------


def state(model):
    return ([part.training for part in model.modules()], [(p.requires_grad, p.grad) for p in model.parameters()],
            [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()],
            ["forward" in part.__dict__ for part in model.modules()])


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    class Fragile(nn.Identity):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            if fails and self.calls == 5:
                raise RuntimeError("no more")
            return x

    fragile = Fragile()
    model = network(fragile)
    model[3].eval()
    factors = factored(model, "1", 3)
    before, weights = state(model), copy.deepcopy(model.state_dict())
    fragile.calls = 0
    run = lambda: importance(model, "1", X, factors, batch_size=3)  # noqa: E731
    if fails:
        with pytest.raises(ValueError, match="no more"):
            run()
    else:
        run()
    assert state(model) == before and all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


def test_what_comes_before_the_layer_runs_once_and_memory_is_bounded(monkeypatch):
    class Counted(nn.Identity):
        def forward(self, x):
            heads.append(len(x))
            return x

    heads, rows = [], []
    model = network()
    model[0] = nn.Sequential(Counted(), model[0])
    factors = factored(model, "1", 5)
    model[5].register_forward_hook(lambda *_: rows.append(len(_[2])))
    heads.clear()
    masked_logits(model, "1", X, factors, subsets(5), batch_size=12)
    assert heads == [1, 1, 3]  # two looks at what the layer gives
    assert rows[-8:] == [12] * 8 and rows[:-8] == [1, 3, 6]  # the untouched logits, and whether inputs can be stacked
    rows.clear()
    monkeypatch.setattr(module, "_MEMORY", 1)
    masked_logits(model, "1", X, factors, subsets(5)[:4])
    assert max(rows) == 1


GOOD = dict(layer="1", inputs=X, masks=subsets(2))


@pytest.mark.parametrize("change, message", [
    (dict(factors=3), "the factors are int with U NoneType and V NoneType; pass what nmf returns"),
    (dict(factors=torch.rand(3, 2, 8, 7, 5)), r"those of 3 inputs in layer '1' are \(3, K, 8, 7, 6\)"),
    (dict(factors=torch.full((3, 2, 8, 7, 6), torch.nan)), "the parts hold numbers that are not finite"),
    (dict(inputs=X[:2]), r"U \(126, 2\) and V \(2, 8\) do not fit layer '1': 2 inputs with 42 positions and 8 channels "
                         r"have U \(84, K\) and V \(K, 8\); factorize to_matrix"),
    (dict(masks=torch.ones(4, 3)), r"masks are torch.float32 \(4, 3\); expected numbers \(m, 2\), or \(m, 3, 2\)"),
    (dict(masks=torch.full((1, 2), torch.inf)), "the masks hold numbers that are not finite"),
    (dict(layer="0"), "layer '0' has negative outputs, which cutting off at zero would change; name the ReLU that "
                      "follows it: '1'"),
    (dict(layer="9"), "the model has no layer '9'"),
    (dict(batch_size=0), "batch_size=0 must be an integer"),
])
def test_what_is_refused(change, message):
    model = network()
    arguments = GOOD | {"factors": factored(model, "1", 2)} | change
    with pytest.raises(ValueError, match=message):
        masked_logits(model, **arguments)


def test_a_layer_that_runs_twice_is_refused():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 6), relu, nn.Linear(6, 6), relu, nn.Linear(6, 3))
    x = torch.rand(5, 4)
    with pytest.raises(ValueError, match="layer '1' runs more than once"):
        importance(model, "1", x, nmf(torch.rand(5, 6), 2))


@pytest.mark.parametrize("call, message", [
    (lambda model, factors: importance(model, "1", X, factors, of="odds"), "of='odds' is not one of 'probability', "),
    (lambda model, factors: importance(model, "1", X, factors, exact=17), "exact=17: all subsets of at most 16 parts"),
    (lambda model, factors: importance(model, "1", X, factors, draws=1), "draws=1 must be an integer, 2 or more"),
    (lambda model, factors: removal_curves(model, "1", X, factors, torch.rand(3)), r"expected numbers \(n, K\)"),
    (lambda model, factors: removal_curves(model, "1", X, factors, torch.rand(3, 3)), "masks are"),
    (lambda model, factors: removal_curves(model, "1", X, factors, torch.rand(3, 2), classes=[0, 1]), "2 classes"),
    (lambda model, factors: removal_curves(model, "1", X, factors, torch.rand(3, 2), classes=[0, 1, 5]), "label 5"),
    (lambda model, factors: subsets(17), "rank=17: there are"),
    (lambda model, factors: shapley_values(torch.rand(3)), "expected .2\\^K, …., one for each mask"),
    (lambda model, factors: sampled_shapley(torch.zeros(2, 3), torch.zeros(2, 3)), "as permutations gives them"),
    (lambda model, factors: sampled_sobol(torch.rand(2, 5)), "as saltelli gives masks"),
    (lambda model, factors: saltelli(3, 1), "samples=1 must be"),
])
def test_what_else_is_refused(call, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        call(model, factored(model, "1", 2))
