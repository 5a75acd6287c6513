"""Compression curves: against a plain loop over scikit-learn's factorizations, by hand, and on models of every kind."""

import copy
import functools
import random
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from torch import nn

from nmfbook.datasets import labeled_images
from nmfbook.training import train
from nmfcore import compression
from nmfcore.compression import METHODS, Curve, accuracy_curve, area, class_batches, mixed_batches
from nmfcore.solver import nmf

torch.set_num_threads(1)
data = labeled_images("digits", per_class=40)
x, y = data.inputs(), data.labels
WIDTH = {"conv1": 8, "conv2": 12, "fc1": 24}


def body(seed=0):
    """Three hidden layers of a network that takes (n, 1, 8, 8); dropout, so that the mode matters."""
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(
        conv1=nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()),  # (n, 8, 8, 8)
        conv2=nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU()),  # (n, 12, 4, 4)
        flatten=nn.Flatten(), drop=nn.Dropout(0.3),
        fc1=nn.Sequential(nn.Linear(192, 24), nn.ReLU()), output=nn.Linear(24, 10)))  # fmt: skip


@pytest.fixture(scope="module")
def model():
    network = body()
    train(network, x, y, epochs=12, batch_size=20, optimizer="adam", lr=5e-3)
    assert (network(x).argmax(1) == y).double().mean() > 0.95
    return network


@pytest.fixture(scope="module")
def batches():
    """Three classes: batches of 20, 20 and 7 samples."""
    found = class_batches(y, 20)
    found = [found[3], found[8], found[5][:7]]
    return [x[i] for i in found], [y[i] for i in found]


class Plain(nn.Module):
    """The same network as something other than an nn.Sequential."""

    def __init__(self, network):
        super().__init__()
        self.body = network

    def forward(self, images):
        return self.body(images)


def matrix(maps):
    return maps.detach().movedim(1, -1).reshape(-1, maps.shape[1])


def by_hand(model, layers, inputs, labels, ranks, approximate, *, ablate=False):
    """Accuracy (batches, R) and error (layers, batches, R), one batch and rank at a time, in float64."""
    accuracy = torch.zeros(len(inputs), len(ranks), dtype=torch.float64)
    error = torch.zeros(len(layers), *accuracy.shape, dtype=torch.float64)
    for b, images in enumerate(inputs):
        for r, K in enumerate(ranks):
            handles = []
            for number, name in enumerate(layers):
                def change(module, args, output, number=number, b=b, r=r, K=K):
                    A = matrix(output).double().numpy()
                    B = approximate(A, K, b, number)
                    error[number, b, r] = np.linalg.norm(A - B) / (np.linalg.norm(A) or 1)
                    B = torch.from_numpy(A - B if ablate else B).float()
                    return B.reshape(output.movedim(1, -1).shape).movedim(-1, 1)
                handles.append(model.get_submodule(name).register_forward_hook(change))
            with torch.no_grad():
                accuracy[b, r] = (model(images).argmax(1) == labels[b]).double().mean()
            for handle in handles:
                handle.remove()
    return accuracy, error


def svd(A, K, b, number):
    U, S, V = np.linalg.svd(A, full_matrices=False)
    return (U[:, :K] * S[:K]) @ V[:K]


def columns(A, K, b, number, seed=0):
    """The first K of an order of the channels that is drawn for each batch and layer."""
    generator = torch.Generator().manual_seed(seed + 1000 * number)
    order = [torch.randperm(A.shape[1], generator=generator) for _ in range(b + 1)][-1]
    kept = np.zeros_like(A)
    kept[:, order[:K]] = A[:, order[:K]]
    return kept


def centroids(A, K, b, number):
    if K == 0 or len(A) <= K:
        return 0 * A if K == 0 else A
    fit = KMeans(K, n_init=1, random_state=0).fit(A.astype(np.float32))
    return fit.cluster_centers_[fit.labels_]


def parts(A, K, b, number):
    if K == 0 or min(A.shape) <= K:
        return 0 * A if K == 0 else A
    fit = NMF(K, init="nndsvda", tol=1e-4, max_iter=400)
    return fit.fit_transform(A) @ fit.components_


def curve_by_hand(model, layers, ablate, approximate, batches, ranks):
    inputs, labels = batches
    return by_hand(model, layers, inputs, labels, ranks, approximate, ablate=ablate)


# --- against a loop over scikit-learn -----------------------------------------------------------------------


LAYERS = [["conv1"], ["conv2"], ["fc1"], ["conv1", "conv2", "fc1"]]


@pytest.mark.parametrize("ablate", [False, True])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("method, approximate", [("pca", svd), ("random_ablation", columns)])
def test_pca_and_random_ablation_agree_with_a_plain_loop(model, batches, layers, method, approximate, ablate):
    curve = accuracy_curve(model, layers, *batches, method=method, ablate=ablate, ranks=[1, 2, 3, 5, 7])
    assert set(curve.ranks) >= {0, 1, 2, 3, 5, 7, curve.limit, curve.width}
    ranks = [K for K in curve.ranks if not ablate or K < min(7, *(WIDTH[layer] for layer in layers))]
    accuracy, error = curve_by_hand(model, layers, ablate, approximate, batches, ranks)
    torch.testing.assert_close(curve.error[..., :len(ranks)], error, atol=2e-5, rtol=1e-4)
    # (where a batch is exact, what ablation leaves is rounding, and the network decides by that)
    assert torch.equal(curve.accuracy[:, :len(ranks)], accuracy)


@pytest.mark.parametrize("layers", LAYERS[1:])
def test_kmeans_agrees_with_a_plain_loop(model, batches, layers):
    curve = accuracy_curve(model, layers, *batches, method="kmeans", ranks=[1, 3, 6, 10])
    ranks = [K for K in curve.ranks if K < min(WIDTH[layer] for layer in layers)]  # from there on none is needed
    accuracy, error = curve_by_hand(model, layers, False, centroids, batches, ranks)
    assert float((curve.accuracy[:, :len(ranks)] - accuracy).abs().max()) < 1e-9
    torch.testing.assert_close(curve.error[..., :len(ranks)], error, atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("ablate", [False, True])
@pytest.mark.parametrize("layers", LAYERS[1:])
def test_nmf_agrees_with_scikit_learn(model, batches, layers, ablate):
    """Local minima differ, so within a tolerance: 0.03 in AuC, 0.1 in accuracy, 3 % in the errors, 15 % in any."""
    curve = accuracy_curve(model, layers, *batches, ablate=ablate, ranks=[1, 2, 3, 5, 8, 12])
    below = [K for K in curve.ranks if K < (6 if ablate else 99)]
    accuracy, error = curve_by_hand(model, layers, ablate, parts, batches, below)
    ours = curve.accuracy[:, :len(below)]
    assert abs(float((area(ours, below) - area(accuracy, below)).mean())) / below[-1] < 0.03
    assert float((ours - accuracy).abs().mean()) < 0.1
    first, expected = curve.error[0, :, :len(below)], error[0]
    inner = expected > 0.05  # elsewhere the smallest batch is nearly exact
    assert inner.sum() >= 9 and float((first[inner] / expected[inner]).max()) < 1.15
    assert float((first[inner] / expected[inner] - 1).abs().mean()) < 0.03


@pytest.mark.parametrize("method", METHODS)
def test_the_error_is_that_of_the_activations_that_arrive(model, batches, method, monkeypatch):
    """What a hook sees before and after, batch by batch: with the error, the norm and the accuracy."""
    seen, original = [], compression.replaced

    def watched(network, changes):
        def wrap(name, change):
            def both(output):
                result = change(output)
                seen.append((name, output.clone(), result.clone()))
                return result
            return both
        return original(network, {name: wrap(name, change) for name, change in changes.items()})

    monkeypatch.setattr(compression, "replaced", watched)
    curve = accuracy_curve(model, ["conv2", "fc1"], *batches, method=method, ranks=[2, 5])
    seen = seen[2:]  # after the look at the shapes
    assert [name for name, *_ in seen] == ["conv2", "fc1"] * len(curve.ranks)
    sizes = [len(batch) for batch in batches[0]]
    for place, (name, before, after) in enumerate(seen):
        for b, (A, B) in enumerate(zip(before.split(sizes), after.split(sizes), strict=True)):
            entry = ["conv2", "fc1"].index(name), b, place // 2
            A, B = matrix(A).double(), matrix(B).double()
            norm = float(torch.linalg.matrix_norm(A))
            assert float(curve.norm[entry]) == pytest.approx(norm, rel=1e-6)
            expected = float(torch.linalg.matrix_norm(A - B)) / norm if norm else 0
            assert float(curve.error[entry]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_passed_on_is_the_approximation_or_the_rest(model, batches, method):
    """Compressed and ablated activations add up to the activations: seen by the layer behind, which is linear."""
    linear = nn.Sequential(OrderedDict(fc1=nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU()),
                                       output=nn.Linear(9, 10, bias=False)))
    kept = {}
    for ablate in (False, True):
        logits = []
        handle = linear.output.register_forward_hook(lambda module, args, out, logits=logits: logits.append(out))
        accuracy_curve(linear, "fc1", batches[0], batches[1], method=method, ablate=ablate, ranks=[4])
        handle.remove()
        kept[ablate] = logits
    usual, *compressed = kept[False]
    for one, rest in zip(compressed, kept[True][1:], strict=True):
        torch.testing.assert_close(one + rest, usual)
    assert (compressed[0] == 0).all() and torch.equal(kept[True][1], usual)  # at K = 0
    if method != "kmeans":  # at K = 9, with more rows than that
        assert torch.equal(compressed[-1], usual) and (kept[True][-1] == 0).all()


# --- ends of the curve --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layers", [["conv2"], ["fc1"], ["conv2", "fc1"]])
def test_nothing_at_rank_0_and_everything_from_the_limit_on(model, batches, method, layers):
    curve = accuracy_curve(model, layers, *batches, method=method)
    width = max(WIDTH[layer] for layer in layers)
    assert curve.ranks[0] == 0 and curve.ranks[-1] == curve.width == width and curve.limit in curve.ranks
    assert list(curve.ranks) == sorted(set(curve.ranks))
    assert (curve.error[0, :, 0] == 1).all()
    exact = curve.ranks.index(curve.limit)
    assert (curve.error[..., exact - 1] > 0).any()
    if method == "kmeans" and "conv2" in layers:
        return  # it has more rows than channels
    assert torch.equal(curve.accuracy[:, exact:], curve.baseline[:, None].expand(-1, len(curve.ranks) - exact))
    assert (curve.error[..., exact:] == 0).all()
    empty, _ = by_hand(model, layers, *batches, [0], lambda A, *_: 0 * A)
    assert torch.equal(curve.accuracy[:, :1], empty)
    whole, _ = by_hand(model, layers, *batches, [0], lambda A, *_: A)
    assert torch.equal(curve.baseline[:, None], whole)
    assert 0 <= curve.auc <= 1 and 0 <= curve.limit_auc <= 1


@pytest.mark.parametrize("layers, size, limits", [
    ("fc1", 5, {"nmf": 5, "pca": 5, "kmeans": 5, "random_ablation": 24}),
    ("fc1", 40, {"nmf": 24, "pca": 24, "kmeans": 24, "random_ablation": 24}),
    ("conv2", 5, {"nmf": 12, "pca": 12, "kmeans": 12, "random_ablation": 12}),
    (["conv2", "fc1"], 5, {"nmf": 12, "pca": 12, "kmeans": 24, "random_ablation": 24})])
def test_limits_of_each_method(model, layers, size, limits):
    for method, limit in limits.items():
        curve = accuracy_curve(model, layers, x[:size], y[:size], method=method, ranks=[1])
        assert curve.limit == limit, method
        assert curve.ranks == tuple(sorted({0, 1, limit, curve.width})), method


def test_the_default_ranks_rise_by_half_and_by_20_at_most():
    wide = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 90), nn.ReLU()), nn.Linear(90, 10))
    ranks = accuracy_curve(wide, "1", x[:120], y[:120], method="random_ablation").ranks
    assert ranks == (0, 1, 2, 3, 5, 8, 12, 18, 27, 41, 61, 81, 90)


def test_area_and_auc_by_hand():
    accuracy = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.2, 0.2]])
    nothing = torch.zeros(1, 2, 3)
    curve = Curve((0, 1, 3), accuracy, nothing, nothing, torch.ones(2), 1, 0, accuracy > 0.5)
    assert area(accuracy, (0, 1, 3)).tolist() == pytest.approx([0.25 + 1.5, 0.6])
    assert curve.auc == pytest.approx((1.75 + 0.6) / 2 / 3) and curve.width == 3
    assert curve.limit_auc == pytest.approx((0.25 + 0.2) / 2)
    perfect = Curve((0, 2, 9), torch.ones(4, 3), nothing, nothing, torch.ones(4), 2, 0, torch.ones(4, 3) > 0)
    assert perfect.auc == perfect.limit_auc == 1


@pytest.mark.parametrize("method", ["nmf", "pca", "kmeans"])
@pytest.mark.parametrize("layers", [["conv2"], ["fc1"], ["conv2", "fc1"]])
def test_a_batch_does_not_depend_on_those_beside_it(model, batches, method, layers):
    together = accuracy_curve(model, layers, *batches, method=method, ranks=[1, 2, 4, 6])
    for b, (images, labels) in enumerate(zip(*batches, strict=True)):
        alone = accuracy_curve(model, layers, images, labels, method=method, ranks=[1, 2, 4, 6])  # a tensor
        assert alone.accuracy.shape == (1, len(alone.ranks))
        assert alone.error.shape == alone.norm.shape == (len(layers), *alone.accuracy.shape)
        for r, K in enumerate(alone.ranks):
            place = together.ranks.index(K) if K in together.ranks else None
            if place is None or K >= alone.limit:
                continue  # exact alone, while others are not
            torch.testing.assert_close(alone.error[:, 0, r], together.error[:, b, place], atol=2e-3, rtol=2e-3)
            assert abs(float(alone.accuracy[0, r] - together.accuracy[b, place])) <= 1 / len(labels) + 1e-9


def test_the_order_of_layers_named_does_not_matter(model, batches):
    one, other = (accuracy_curve(model, layers, *batches, ranks=[3]) for layers in (["conv1", "fc1"], ["fc1", "conv1"]))
    assert all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("accuracy", "error", "norm"))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_silent_activations_have_no_error():
    dead = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 5), nn.ReLU()), nn.Linear(5, 10))
    nn.init.constant_(dead[1][0].bias, -1e3)
    for method in METHODS:
        curve = accuracy_curve(dead, "1", x[:8], y[:8], method=method)
        assert (curve.error == 0).all() and (curve.norm == 0).all()
        assert torch.equal(curve.accuracy, curve.baseline[:, None].expand_as(curve.accuracy))


def test_channels_that_are_kept_stay_kept(model, batches):
    """Each rank of random ablation adds channels to those of the rank below, others for each batch and layer."""
    kept = {"conv2": [], "fc1": []}
    handles = [model.get_submodule(after).register_forward_pre_hook(
        lambda module, args, name=name: kept[name].append(args[0]))
        for name, after in (("conv2", "flatten"), ("fc1", "output"))]
    curve = accuracy_curve(model, ["conv2", "fc1"], *batches, method="random_ablation", ranks=range(13), seed=4)
    for handle in handles:
        handle.remove()
    choices = set()
    sizes = [len(batch) for batch in batches[0]]
    alive = {b: matrix(maps).abs().sum(0) > 0 for b, maps in enumerate(kept["conv2"][0].split(sizes))}
    for b in range(3):
        used = [matrix(maps.split(sizes)[b]).abs().sum(0) > 0 for maps in kept["conv2"][1:]]
        for K, (less, more) in enumerate(pairwise(used)):
            assert (less <= more).all() and int(more.sum()) <= min(K + 1, 12)
            assert int((more & ~less).sum()) <= 1
        assert torch.equal(used[12], alive[b])
        choices.add(tuple(used[5].tolist()))
    assert len(choices) > 1 and curve.ranks == (*range(13), 24)


# --- determinism --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(model, batches, method):
    def run(seed):
        return accuracy_curve(model, ["conv2", "fc1"], *batches, method=method, ranks=[2, 4], seed=seed)

    one, again, other = run(1), run(1), run(2)
    assert all(torch.equal(getattr(one, part), getattr(again, part)) for part in ("accuracy", "error", "norm"))
    assert torch.equal(one.error, other.error) == (method == "pca")


def test_problems_that_did_not_converge_are_counted(model, batches, monkeypatch):
    assert accuracy_curve(model, "fc1", *batches, ranks=[2, 4]).unconverged == 0
    monkeypatch.setattr(compression, "nmf", functools.partial(nmf, max_iter=2))
    assert accuracy_curve(model, "fc1", *batches, ranks=[2, 4]).unconverged == 6
    assert accuracy_curve(model, ["conv2", "fc1"], *batches, ranks=[2, 4]).unconverged == 12


def test_tol_reaches_nmf(model, batches):
    lax, usual, strict = (accuracy_curve(model, "conv2", *batches, ranks=[4], tol=tol).error[0, :, 1].mean()
                          for tol in (0.5, 1e-3, 1e-6))
    assert strict < usual < lax


# --- the model is left alone --------------------------------------------------------------------------------


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def hooks(network):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_model_is_left_as_it_was(batches, method, failing, wrapped):
    network = Plain(body(3)) if wrapped else body(3)
    inner = network.body if wrapped else network
    network.train()
    inner.conv1.eval()
    inner.fc1[1].eval()
    modes = [module.training for module in network.modules()]
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    images = [batch.clone() for batch in batches[0]]
    before, enabled = states(), torch.is_grad_enabled()
    prefix = "body." if wrapped else ""
    layers = [f"{prefix}conv1", f"{prefix}fc1"]
    if failing:
        runs = []

        def fail(*_):
            runs.append(1)
            if len(runs) == 3:
                raise KeyError("in the middle")

        handle = inner.output.register_forward_hook(fail)
        with pytest.raises(KeyError):
            accuracy_curve(network, layers, images, batches[1], method=method, ranks=[1, 2])
        handle.remove()
    else:
        accuracy_curve(network, layers, images, batches[1], method=method, ranks=[1, 2])
    assert [module.training for module in network.modules()] == modes and hooks(network) == 0
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert all(torch.equal(one, other) for one, other in zip(images, batches[0], strict=True))
    assert states() == before and torch.is_grad_enabled() == enabled


def test_training_mode_gives_the_curve_of_evaluation_mode(model, batches):
    usual = accuracy_curve(model, ["conv2", "fc1"], *batches, ranks=[2, 5])
    model.train()
    try:
        noisy = accuracy_curve(model, ["conv2", "fc1"], *batches, ranks=[2, 5])
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    assert torch.equal(usual.accuracy, noisy.accuracy) and torch.equal(usual.error, noisy.error)


# --- models of every kind -----------------------------------------------------------------------------------


class Residual(nn.Module):
    """A block as in torchvision's ResNets: one ReLU that runs twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.block = torchvision.models.resnet.BasicBlock(6, 6)
        self.head = nn.Linear(6, 10)

    def forward(self, images):
        return self.head(self.block(self.stem(images)).mean((2, 3)))


def untrained(build):
    torch.manual_seed(0)
    return build()


@pytest.mark.parametrize("build, layers, size", [
    (Residual, ["stem", "block"], 8), (Residual, ["stem.0"], 8), (Residual, ["block.bn2", "block.conv1"], 8),
    (lambda: Plain(body()), ["body.conv2.1", "body.fc1"], 8),
    (lambda: nn.Sequential(OrderedDict(a=nn.Identity(), b=nn.Sequential(body(), nn.Identity()))), ["b.0.fc1.1"], 8),
    (lambda: torchvision.models.squeezenet1_1(weights=None, num_classes=10), ["features.3.squeeze", "features.12"],
     32)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", ["nmf", "pca"])
def test_models_of_every_kind(build, layers, size, method):
    network, images = untrained(build).eval(), x[:12]
    images = nn.functional.interpolate(images, size).expand(-1, 3 if size > 8 else 1, -1, -1)
    if method == "nmf" and any(name in ("stem.0", "block.bn2", "features.3.squeeze") for name in layers):
        with pytest.raises(ValueError, match=rf"layer '({'|'.join(layers)})': A\["):
            accuracy_curve(network, layers, images, y[:12], ranks=[1])
        return
    curve = accuracy_curve(network, layers, [images[:5], images[5:]], [y[:5], y[5:12]], method=method, ranks=[1, 3])
    running = [name for name, _ in network.named_modules() if name in layers]
    approximate = svd if method == "pca" else parts
    ranks = curve.ranks[:3]
    accuracy, error = by_hand(network, running, [images[:5], images[5:]], [y[:5], y[5:12]], ranks, approximate)
    torch.testing.assert_close(curve.error[0, :, :3], error[0], atol=1e-3 if method == "pca" else 0.1, rtol=0)
    if method == "pca":
        assert float((curve.accuracy[:, :3] - accuracy).abs().max()) < 1e-9
    assert torch.equal(curve.accuracy[:, -1], curve.baseline)


class Counted(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.calls = body, 0

    def forward(self, x):
        self.calls += 1
        return self.body(x)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_runs_from_the_first_layer_named_on(model, batches, wrapped):
    counted = copy.deepcopy(model)
    for name in ("conv1", "conv2", "fc1"):
        setattr(counted, name, Counted(getattr(counted, name)))
    network, prefix = (Plain(counted), "body.") if wrapped else (counted, "")
    curve = accuracy_curve(network, [f"{prefix}fc1", f"{prefix}conv2"], *batches, method="pca", ranks=[1, 2])
    runs = len(curve.ranks) + 1
    assert [counted.conv1.calls, counted.conv2.calls, counted.fc1.calls] == [1, runs, runs]
    plain = accuracy_curve(model, ["fc1", "conv2"], *batches, method="pca", ranks=[1, 2])
    assert torch.equal(curve.accuracy, plain.accuracy) and torch.equal(curve.error, plain.error)
    assert not any("forward" in module.__dict__ for module in network.modules())


def test_a_sequential_with_hooks_of_its_own_keeps_them(model, batches):
    handle = model.register_forward_pre_hook(lambda module, args: (-args[0],))
    try:
        curve = accuracy_curve(model, "fc1", *batches, method="pca", ranks=[1])
        expected = (model(batches[0][0]).argmax(1) == batches[1][0]).double().mean()
    finally:
        handle.remove()
    assert curve.baseline[0] == expected


def test_layers_before_one_that_works_in_place(batches):
    network = untrained(lambda: nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(inplace=True), nn.Flatten(),
                                              nn.Linear(180, 10)))
    curve = accuracy_curve(network, "0", *batches, method="pca", ranks=[1, 2])
    accuracy, error = by_hand(network, ["0"], *batches, curve.ranks, svd)
    torch.testing.assert_close(curve.error, error, atol=1e-5, rtol=1e-4)
    assert torch.equal(curve.accuracy, accuracy)


def test_half_precision_activations(model, batches):
    half = copy.deepcopy(model).to(torch.bfloat16)
    curve = accuracy_curve(half, ["conv2", "fc1"], [batch.bfloat16() for batch in batches[0]], batches[1], ranks=[4])
    assert curve.accuracy.dtype == torch.float64 and torch.equal(curve.accuracy[:, -1], curve.baseline)
    usual = accuracy_curve(model, ["conv2", "fc1"], *batches, ranks=[4])
    torch.testing.assert_close(curve.error, usual.error, atol=0.03, rtol=0.03)


# --- what cannot be done ------------------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.change, self.layer, self.unused = output, nn.Identity(), nn.ReLU()

    def forward(self, images):
        flat = images.flatten(1)
        self.layer(self.change(flat))
        return flat[:, :10]


@pytest.mark.parametrize("build, layers, message", [
    (body, "conv9", r"no layer 'conv9'; it has conv1, .*conv2"), (body, "conv2.7", r"no layer 'conv2\.7'"),
    (body, [], r"layers=\[\]: expected one or more"), (body, ["fc1", "conv1", "fc1"], r"'fc1', 'conv1', 'fc1'.*once"),
    (lambda: Odd(torch.relu), ["layer", "unused"], "did not reach unused$"),
    (lambda: Odd(lambda flat: (flat,)), "layer", r"layer 'layer' gives tuple; expected \(n, C\), "),
    (lambda: Odd(lambda flat: flat[:, None, None, None]), "layer",
     r"layer 'layer' gives \(\d+, 1, 1, 1, 64\); expected"),
    (lambda: Odd(lambda flat: flat.repeat(2, 1)), "layer", r"layer 'layer' gives 94 outputs for 47 inputs"),
    (Residual, "block.relu", r"layer 'block\.relu' runs more than once in a forward pass; name the block"),
    (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 10, 3)), "1",
     r"the model gives \(47, 10, 4, 4\); expected logits"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 10)), "1", r"layer '1': A\[.*-"),
    (lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 5), nn.Linear(5, 10)), ["1", "2"],
     r"layer '2': A\[")])
def test_layers_that_cannot_be_compressed(batches, build, layers, message):
    network = untrained(build)
    with pytest.raises(ValueError, match=message):
        accuracy_curve(network, layers, *batches, ranks=[2])
    assert hooks(network) == 0 and all(module.training for module in network.modules())


def test_pca_and_the_others_take_negative_activations(batches):
    network = untrained(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 10)))
    for method in ("pca", "kmeans", "random_ablation"):
        curve = accuracy_curve(network, "1", *batches, method=method)
        assert method == "kmeans" or (curve.error[..., -1] == 0).all()
        assert ((curve.error[..., 1:] < 1) & (curve.error[..., 1:] <= curve.error[..., :-1] + 1e-6)).all()


@pytest.mark.parametrize("rank", [-1, 25, True, 2.0, "3", None])
def test_ranks_that_a_layer_does_not_have(model, batches, rank):
    with pytest.raises(ValueError, match=rf"rank {rank!r} must be an integer from 0 to 24, the width of conv2, fc1"):
        accuracy_curve(model, ["fc1", "conv2"], *batches, ranks=[1, rank])


def test_ranks_of_any_integer_type_in_any_order(model, batches):
    one = accuracy_curve(model, "fc1", *batches, method="pca", ranks=[7, np.int64(3), 3])
    assert one.ranks == (0, 3, 7, 20, 24) and all(type(K) is int for K in one.ranks)
    assert accuracy_curve(model, "fc1", *batches, method="pca", ranks=[]).ranks == (0, 20, 24)


@pytest.mark.parametrize("inputs, labels, message", [
    ([x[:3], x[:4]], [y[:3]], r"\[3, 4\] inputs and \[3\] labels"),
    ([x[:3], x[:4]], [y[:4], y[:3]], r"\[3, 4\] inputs and \[4, 3\] labels"),
    ([], [], r"batches of \[\] inputs"), ([x[:3], x[:0]], [y[:3], y[:0]], r"\[3, 0\] inputs"),
    (x[:3], y[:2], r"\[3\] inputs and \[2\] labels")])
def test_batches_that_do_not_fit_together(model, inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        accuracy_curve(model, "fc1", inputs, labels)


def test_an_unknown_method(model, batches):
    with pytest.raises(ValueError, match="method 'ica' is not one of nmf, pca, kmeans, random_ablation"):
        accuracy_curve(model, "fc1", *batches, method="ica")


# --- batches ------------------------------------------------------------------------------------------------


def test_class_batches():
    labels = torch.tensor([7] * 30 + [2] * 4 + [5] * 12)[torch.randperm(46, generator=torch.Generator().manual_seed(0))]
    found = class_batches(labels, 10, seed=1)
    assert [len(batch) for batch in found] == [4, 10, 10]
    for label, batch in zip((2, 5, 7), found, strict=True):
        assert (labels[batch] == label).all() and len(set(batch.tolist())) == len(batch)
    assert set(found[0].tolist()) == set((labels == 2).nonzero()[:, 0].tolist())

    def listed(seed):
        return [batch.tolist() for batch in class_batches(labels, 10, seed=seed)]

    state = torch.get_rng_state()
    assert listed(1) == [batch.tolist() for batch in found] != listed(2)
    assert torch.equal(state, torch.get_rng_state())
    assert [len(batch) for batch in class_batches(labels)] == [4, 12, 30]


def test_mixed_batches():
    labels = torch.arange(300) % 10
    found = mixed_batches(labels, 40, count=3, seed=1)
    assert [len(batch) for batch in found] == [40] * 3
    assert all(len(set(batch.tolist())) == 40 and len(labels[batch].unique()) > 5 for batch in found)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(torch.stack(found), torch.stack(mixed_batches(labels, 40, count=3, seed=1)))
    assert not torch.equal(found[0], mixed_batches(labels, 40, count=1, seed=2)[0])
    assert len(mixed_batches(labels)) == 10
    assert [len(batch) for batch in mixed_batches(labels[:9], 50, count=2)] == [9, 9]
