"""What users bring, through the one gate: layouts, outputs, labels, modes, types, images of any kind, rankings.

Each is tried on the function it was found with and on others, so that a new function inherits the rule or fails here.
"""

import copy

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms
from torchvision.models.vision_transformer import VisionTransformer

from nmfbook.architectures import memorization_network
from nmfbook.experiments import data
from nmfbook.training import accuracy
from nmfcore import nmf
from nmfcore.activations import capture, relu_layers, replaced, to_matrix
from nmfcore.cam import cam, grad_cam, predicted_grad_cam
from nmfcore.compression import _bytes, accuracy_curve, class_batches
from nmfcore.factorization import pca
from nmfcore.feature_maps import feature_maps
from nmfcore.gate import Layout, find_layers, layout, logits
from nmfcore.heatmaps import factorize, heatmaps
from nmfcore.index import Index
from nmfcore.networks import Preprocess, classifies
from nmfcore.precision import average_precision, average_precision_at
from nmfcore.regularization import NMFPerturbation
from nmfcore.report import memorization_report
from nmfcore.retrieval import describe
from nmfcore.signed import Join, Split
from nmfcore.stopping import EarlyStopping
from nmfcore.stored_maps import stored_maps
from nmfcore.visualization import responses, visualize

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = randn(2, 3, 64, 96)
SMALL, LABELS = randn(4, 3, 32, 32), torch.arange(4)
BLOCK = "encoder.layers.encoder_layer_0"


def vit():
    return seeded(lambda: VisionTransformer(32, 8, 2, 2, 64, 128, num_classes=4))


class Tokens(nn.Module):
    """A transformer with a ReLU, and the mean token for its head."""

    def __init__(self, dim=16):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 8, stride=8)
        self.norm, self.relu, self.head = nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT  # (n, 16, dim)
        return self.head(self.relu(self.norm(tokens)).mean(1))


class Plain(nn.Module):
    """Convolution, ReLU, classifier; `wrap` makes of its logits what it gives."""

    def __init__(self, channels=3, classes=4, wrap=lambda scores: scores):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.head, self.wrap = nn.Linear(6, classes), wrap

    def forward(self, x):
        return self.wrap(self.head(self.relu(self.norm(self.conv(x))).mean((2, 3))))


def plain(**options):
    return seeded(lambda: Plain(**options)).eval()


def state(model):
    return ([module.training for module in model.modules()], {k: v.clone() for k, v in model.state_dict().items()},
            [(p.requires_grad, p.grad) for p in model.parameters()],
            [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in m.__dict__) for m in model.modules()])


def same(first, second):
    return first[0] == second[0] and first[2:] == second[2:] and all(torch.equal(first[1][k], second[1][k])
                                                                     for k in first[1])


PICTURES = {  # of functions that look at pictures, each with one layer
    "feature_maps": lambda model, images, layer, **options: feature_maps(model, images, layer=layer, **options),
    "heatmaps": lambda model, images, layer, **options: heatmaps(model, images, 2, layer=layer, **options).maps,
    "grad_cam": lambda model, images, layer, **options: grad_cam(model, images, 0, layer=layer, **options)}
CURVES = {  # of functions that compress a layer, on samples with labels
    "accuracy_curve": lambda model, layer, x, y, **options: accuracy_curve(model, layer, x, y, ranks=[1], **options),
    "memorization_report": lambda model, layer, x, y, **options: memorization_report(
        model, [(x.repeat(20, 1, 1, 1), y.repeat(20))], layers=[layer], samples=20, **options),
    "EarlyStopping": lambda model, layer, x, y, **options: EarlyStopping(model, layer, x, y, **options).check()}


# --- cases 3 and 4: where the channels are ------------------------------------------------------------------


@pytest.mark.parametrize("function", ["accuracy_curve", "EarlyStopping"])
def test_tokens_are_not_taken_for_channels(function):
    for options in ({"method": "pca"}, {"method": "random_ablation"}):
        with pytest.raises(ValueError, match=r"gives \(.*17, 64\), and its channels look like the last.*'tokens'"):
            CURVES[function](vit(), BLOCK, SMALL, LABELS, **options)
        CURVES[function](vit(), BLOCK, SMALL, LABELS, channels="tokens", **options)
    assert accuracy_curve(vit(), BLOCK, SMALL, LABELS, method="pca", channels="tokens").width == 64


@pytest.mark.parametrize("function", CURVES)
def test_tokens_behind_a_relu(function):
    model = seeded(Tokens)
    with pytest.raises(ValueError, match=r"layer 'relu' gives \(.*16, 16\), and .*channels='tokens'"):
        CURVES[function](model, "relu", SMALL, LABELS)
    CURVES[function](model, "relu", SMALL, LABELS, channels="tokens")
    report = memorization_report(model, [(SMALL.repeat(20, 1, 1, 1), LABELS.repeat(20))], samples=20, channels="tokens")
    assert report.layers == ("relu",) and report.curves["relu"].width == 16


def test_a_curve_of_tokens_is_that_of_the_same_network_with_channels_first():
    class Turned(Tokens):
        def __init__(self):
            super().__init__()
            self.turned = nn.Identity()

        def forward(self, x):
            tokens = self.relu(self.norm(self.patches(x).flatten(2).mT))
            return self.head(self.turned(tokens.mT).mean(2))

    model = seeded(Turned)
    x, y = randn(12, 3, 32, 40), torch.arange(12) % 4
    one = accuracy_curve(model, "relu", x, y, ranks=[2, 5], channels="tokens")
    other = accuracy_curve(model, "turned", x, y, ranks=[2, 5], channels="first")
    assert one.width == other.width == 16
    assert torch.equal(one.accuracy, other.accuracy) and torch.equal(one.error, other.error)


def test_tokens_that_are_skipped_pass_unchanged():
    seen = []
    model = vit()
    model.encoder.ln.register_forward_hook(lambda _module, args, _output: seen.append(args[0].clone()))
    model.encoder.layers.encoder_layer_1 = nn.Identity()
    accuracy_curve(model, BLOCK, SMALL, LABELS, method="pca", ranks=[1], channels="tokens", skip=1)
    whole, nothing = seen[0], seen[1]  # before any change, and at rank 0
    assert torch.equal(nothing[:, :1], whole[:, :1]) and not nothing[:, 1:].any() and whole[:, 1:].any()


@pytest.mark.parametrize("function", PICTURES)
def test_channels_last_is_not_taken_for_channels_first(function):
    swin = seeded(lambda: torchvision.models.swin_t(weights=None))
    swin.features.append(nn.ReLU())
    with pytest.raises(ValueError, match=r"'features' gives \(2, 2, 3, 768\), and its channels look like the last"):
        PICTURES[function](swin, X, "features")
    maps = PICTURES[function](swin, X, "features", channels="last")
    assert maps.shape[-2:] == (2, 3) and maps.shape[1] in (1, 2, 768)
    first = copy.deepcopy(swin)
    first.features.append(torchvision.ops.Permute([0, 3, 1, 2]))  # and back, before what follows
    first.norm = nn.Sequential(torchvision.ops.Permute([0, 2, 3, 1]), first.norm)
    torch.testing.assert_close(PICTURES[function](first, X, "features"), maps, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("build, layer, channels", [
    (lambda: torchvision.models.swin_t(weights=None), "features.0.1", "last"),  # a permutation, without parameters
    (lambda: torchvision.models.swin_t(weights=None), "features.0.0", None),
    (lambda: torchvision.models.swin_t(weights=None), "permute", None),
    (lambda: torchvision.models.convnext_tiny(weights=None), "features.1.0", None),  # linear layers inside
    (lambda: torchvision.models.convnext_tiny(weights=None), "features", None),
    (lambda: torchvision.models.densenet121(weights=None), "features.denseblock1", None),  # 32 × 32 of growth rate 32
    (lambda: torchvision.models.efficientnet_b0(weights=None), "features", None),
    (lambda: torchvision.models.resnet18(weights=None), "layer1", None)])
def test_the_layout_of_torchvisions_layers_is_seen(build, layer, channels):
    model, images = seeded(build), randn(1, 3, 128, 128)
    if channels:
        with pytest.raises(ValueError, match=rf"pass channels='{channels}'"):
            grad_cam(model, images, 0, layer=layer)
    output = capture(model, layer, images)[layer]
    maps = grad_cam(model, images, 0, layer=layer, channels=channels)
    assert maps.shape[-2:] == (output.shape[1:3] if channels else output.shape[2:])


def test_where_two_dimensions_are_as_long_the_modules_that_gave_them_decide():
    square = seeded(lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)))
    assert accuracy_curve(square, "1", randn(6, 1, 8, 8), [0, 1, 2] * 2).width == 8
    turned = seeded(lambda: nn.Sequential(nn.Flatten(2), nn.Linear(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(ValueError, match=r"gives \(6, 8, 8\).*channels='tokens'"):
        accuracy_curve(turned, "2", randn(6, 8, 2, 4), [0, 1, 2] * 2)


def test_signals_of_convolutions_need_no_word():
    model = seeded(lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(),
                                         nn.Linear(35, 3)))
    for layer in ("1", "2"):
        assert accuracy_curve(model, layer, randn(6, 2, 16), [0, 1, 2] * 2, ranks=[1]).width == 5
    bare = seeded(lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)))
    with pytest.raises(ValueError, match=r"gives \(6, 2, 16\), and its channels may be any"):
        accuracy_curve(bare, "0", randn(6, 2, 16), [0, 1, 2] * 2)
    assert accuracy_curve(bare, "0", randn(6, 2, 16), [0, 1, 2] * 2, channels="first").width == 2
    assert accuracy_curve(bare, "0", randn(6, 2, 16), [0, 1, 2] * 2, channels="last").width == 16


@pytest.mark.parametrize("channels, shape", [("first", (2, 6, 5)), ("tokens", (2, 3, 10)), ("last", (2, 3, 10))])
def test_split_and_join_along_the_channels(channels, shape):
    x = randn(2, 3, 5)
    parts = Split(channels=channels)(x)
    assert parts.shape == shape and torch.equal(Join(channels=channels)(parts), x)
    assert repr(Split(channels=channels)) == f"Split({channels!r})" and repr(Split()) == "Split()"


def test_a_split_says_itself_where_its_channels_are():
    def split(*channels):
        model = seeded(Tokens)
        model.norm = nn.Sequential(model.norm, Split(*channels), Join(*channels))
        return model

    for options in ({}, {"channels": "tokens"}, {"channels": "last"}):
        assert accuracy_curve(split("tokens"), "norm.1", SMALL, LABELS, **options).width == 32
    with pytest.raises(ValueError, match=r"layer 'norm\.1' gives \(4, 32, 16\), and its channels"):
        accuracy_curve(split(), "norm.1", SMALL, LABELS)
    for made, asked in (((), "tokens"), (("tokens",), "first"), (("first",), "last")):
        with pytest.raises(ValueError, match=rf"works along dimension ., and does not fit channels='{asked}'"):
            accuracy_curve(split(*made), "norm.1", SMALL, LABELS, channels=asked)
    for wrong in ({"channels": "middle"}, {"channels": 1}):
        with pytest.raises(ValueError, match="is not one of 'first', 'last', 'tokens'"):
            Split(**wrong)
    with pytest.raises(ValueError, match=r"tokens are \(n, T, C\)"):
        Split("tokens")(X)


def test_split_behind_swin_is_seen_to_be_wrong():
    swin = seeded(lambda: torchvision.models.swin_t(weights=None))
    swin.features.append(Split())
    with pytest.raises(ValueError, match=r"'features\.8' gives \(2, 4, 3, 768\), and its channels look like the last"):
        heatmaps(swin, X, 2, layer="features.8")
    swin.features[-1] = Split("last")
    assert feature_maps(swin, X, layer="features.8").shape == (2, 1536, 2, 3)


def test_perturbation_along_tokens():
    tokens = torch.rand(6, 7, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    one = NMFPerturbation(2, channels="tokens").train()(tokens)
    torch.manual_seed(0)
    torch.testing.assert_close(one, NMFPerturbation(2).train()(tokens.mT).mT)
    assert not torch.allclose(one, tokens)


def test_capture_brings_channels_to_the_front():
    output = capture(vit(), BLOCK, SMALL)[BLOCK]
    assert output.shape == (4, 17, 64)
    tokens = capture(vit(), BLOCK, SMALL, channels="tokens", skip=1)[BLOCK]
    assert torch.equal(tokens, output[:, 1:].mT) and torch.equal(to_matrix(tokens), output[:, 1:].reshape(64, 64))


def test_tokens_become_a_grid_over_the_image():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.block, self.head = nn.Conv2d(3, 5, 8, stride=8), nn.ReLU(), nn.Linear(5, 3)

        def forward(self, x):
            maps = self.patch(x)
            special = maps.new_ones(len(x), 2, 5)
            return self.head(self.block(torch.cat([special, maps.flatten(2).mT], 1)).mean(1))

    model = seeded(Patches)
    sizes = [(32, 48), (64, 16), (24, 24)]
    images = [randn(3, *size, seed=i) for i, size in enumerate(sizes)]
    found = feature_maps(model, images, layer="block", channels="tokens", skip=2)
    for image, maps in zip(images, found, strict=True):
        torch.testing.assert_close(maps, model.patch(image[None])[0].relu().detach())
    assert [maps.shape[1:] for maps in heatmaps(model, images, 2, layer="block", channels="tokens", skip=2).maps] \
        == [(4, 6), (8, 2), (3, 3)]
    with pytest.raises(ValueError, match=r"26 tokens, of which 26 are no grid over 32 × 48 pixels; pass skip=2"):
        feature_maps(model, images, layer="block", channels="tokens")
    with pytest.raises(ValueError, match="skip=99 leaves none of the 26 tokens"):
        feature_maps(model, images, layer="block", channels="tokens", skip=99)
    with pytest.raises(ValueError, match=r"gives \(1, 5, 4, 6\), and tokens are \(n, T, C\)"):
        grad_cam(model, images, 0, layer="patch", channels="tokens")


@pytest.mark.parametrize("options, message", [
    ({"channels": "middle"}, "channels='middle' is not one of 'first', 'last', 'tokens'"),
    ({"skip": 1}, "skip=1 leaves out tokens, and goes with channels='tokens', not None"),
    ({"channels": "last", "skip": 1}, "skip=1 leaves out tokens"),
    ({"channels": "tokens", "skip": -1}, "skip=-1 must be an integer, 0 or more"),
    ({"channels": "tokens", "skip": 1.5}, "skip=1.5 must be an integer")])
def test_layouts_that_do_not_exist(options, message):
    calls = [lambda: capture(vit(), BLOCK, SMALL, **options),
             lambda: visualize(vit(), randn(1, 64), layer=BLOCK, preprocess=lambda x: x, side=32, steps=1, **options),
             lambda: responses(vit(), SMALL, randn(1, 64), layer=BLOCK, **options)]
    calls += [lambda call=call: call(vit(), SMALL, BLOCK, **options) for call in PICTURES.values()]
    calls += [lambda call=call: call(vit(), BLOCK, SMALL, LABELS, **options) for call in CURVES.values()]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_layout_undoes_itself():
    for output, where in ((randn(2, 5, 7), Layout("tokens", 2)), (randn(2, 3, 4, 5), Layout("last")),
                          (randn(2, 3, 4, 5), Layout()), (randn(2, 7), Layout("tokens", 1))):
        assert torch.equal(where.restored(where.channels_first(output), output), output)


# --- layers by name and by module ---------------------------------------------------------------------------


def test_a_layer_is_named_or_given():
    model = plain()
    expected = feature_maps(model, SMALL, layer="relu")
    assert torch.equal(feature_maps(model, SMALL, layer=model.relu), expected)
    assert torch.equal(capture(model, [model.relu], SMALL)[model.relu], expected)
    assert torch.equal(heatmaps(model, SMALL, 2, layer=model.relu).maps, heatmaps(model, SMALL, 2, layer="relu").maps)
    assert torch.equal(grad_cam(model, SMALL, 1, layer=model.relu), grad_cam(model, SMALL, 1, layer="relu"))
    assert torch.equal(cam(model, SMALL, 1, layer=model.relu, classifier=model.head),
                       cam(model, SMALL, 1, layer="relu", classifier="head"))
    assert torch.equal(accuracy_curve(model, [model.relu], SMALL, LABELS).error,
                       accuracy_curve(model, "relu", SMALL, LABELS).error)
    assert EarlyStopping(model, model.relu, SMALL, LABELS).check() is False
    with replaced(model, {model.relu: torch.zeros_like}):
        assert not capture(model, "relu", SMALL)["relu"].any()
    for wrong, message in ((nn.ReLU(), "is no part of the model"), (3, "layer 3 is a int"), ("rel", "no layer 'rel'"),
                           (None, "layer None is a NoneType"), ([], "expected one name or module")):
        for call in PICTURES.values():
            with pytest.raises(ValueError, match=message):
                call(model, SMALL, wrong)


def test_a_module_in_two_places_is_one_layer():
    relu = nn.ReLU()
    twice = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.AdaptiveAvgPool2d(1),
                                         nn.Flatten(), nn.Linear(4, 4)))
    torch.testing.assert_close(capture(twice, "1", SMALL)["1"], twice[:2](SMALL))  # its first run
    for call in PICTURES.values():
        call(twice, SMALL, "1")
        with pytest.raises(ValueError, match=r"layer '3' is a module that stands in several places and runs more than"):
            call(twice, SMALL, "3")
    for call in CURVES.values():
        with pytest.raises(ValueError, match=r"layer '3' runs more than once|layer '3' .* runs more than once"):
            call(twice, "3", SMALL, LABELS)
    body, shared = plain(), nn.Module()  # whose layers have two names each, and run once
    shared.features, shared.network = body.relu, body
    shared.forward = body.forward
    assert find_layers(shared, "network.relu")[0].alias
    assert torch.equal(feature_maps(shared, SMALL, layer="network.relu"), feature_maps(body, SMALL, layer="relu"))


# --- case 5 and DESIGN: nothing is left behind --------------------------------------------------------------


def test_evaluation_mode_inside_and_the_model_as_it_was():
    model = plain().train()
    model.relu.eval()
    model.conv.weight.requires_grad_(False)
    before = state(model)
    direction = randn(1, 6)
    torch.testing.assert_close(*(feature_maps(model, SMALL, layer="relu", batch_size=size) for size in (1, 4)))
    calls = [lambda call=call: call(model, SMALL, "relu") for call in PICTURES.values()]
    calls += [lambda call=call: call(model, "relu", SMALL, LABELS) for call in CURVES.values()]
    calls += [lambda: cam(model, SMALL, 0, layer="relu", classifier="head"), lambda: capture(model, "relu", SMALL),
              lambda: visualize(model, direction, layer="relu", preprocess=lambda x: x, side=32, steps=1),
              lambda: responses(model, SMALL, direction, layer="relu"), lambda: accuracy(model, SMALL, LABELS),
              lambda: relu_layers(model, SMALL)]
    for call in calls:
        call()
        assert same(state(model), before)


@pytest.mark.parametrize("error", [KeyError, RuntimeError])
def test_the_model_is_as_it_was_after_an_exception(error):
    class Fails(Plain):
        def forward(self, x):
            super().forward(x)
            raise error("on purpose")

    model = seeded(Fails).train()
    before = state(model)
    calls = [lambda: grad_cam(model, SMALL, 0, layer="relu"), lambda: relu_layers(model, SMALL),
             lambda: feature_maps(model, SMALL, layer="head"), lambda: accuracy_curve(model, "relu", SMALL, LABELS),
             lambda: capture(model, "wrong", SMALL), lambda: memorization_report(model, [(SMALL, LABELS)])]
    for call in calls:
        with pytest.raises((error, ValueError)):
            call()
        assert same(state(model), before) and not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


# --- case 6: logits and labels ------------------------------------------------------------------------------


@pytest.mark.parametrize("function", CURVES)
@pytest.mark.parametrize("labels, message", [
    (LABELS + 1, "label 4 is none of the model's 4 classes, 0 to 3; count from 0"),
    (LABELS - 1, "label -1 is none"), (LABELS + 252, "label 25. is none")])
def test_labels_that_no_logit_has(function, labels, message):
    with pytest.raises(ValueError, match=message):
        CURVES[function](plain(), "relu", SMALL, labels)


@pytest.mark.parametrize("function", CURVES)
def test_one_logit_has_nothing_to_be_compared_with(function):
    model = plain(classes=1)
    with pytest.raises(ValueError, match=r"gives one logit, \(.*, 1\).*output=lambda z"):
        CURVES[function](model, "relu", SMALL, LABELS % 2)
    CURVES[function](model, "relu", SMALL, LABELS % 2, output=lambda z: torch.cat([torch.zeros_like(z), z], 1))
    with pytest.raises(ValueError, match="one logit"):
        accuracy(model, SMALL, LABELS % 2)
    assert grad_cam(model, SMALL, 0, layer="relu").shape == (4, 1, 32, 32)  # that of the one logit


@pytest.mark.parametrize("labels", [LABELS.float(), LABELS > 1, LABELS[:, None], "abcd", [0.0, 1.0, 2.0, 3.0], None,
                                    LABELS.to("meta")])
def test_labels_are_integers(labels):
    for call in (CURVES["accuracy_curve"], CURVES["EarlyStopping"]):
        with pytest.raises(ValueError, match=r"expected (integers \(n,\)|tensors)|batches of \[4\] inputs"):
            call(plain(), "relu", SMALL, labels)
    if not isinstance(labels, str | None):
        with pytest.raises(ValueError, match=r"expected integers \(n,\)"):
            class_batches(labels)
        with pytest.raises(ValueError, match=r"one for each of 4 images, from 0 to 3: classes are"):
            grad_cam(plain(), SMALL, labels, layer="relu")


def test_integers_of_any_kind_are_labels():
    expected = accuracy_curve(plain(), "relu", SMALL, LABELS)
    assert torch.equal(accuracy_curve(plain(), "relu", SMALL, [LABELS]).accuracy, expected.accuracy)  # one batch
    for labels in (LABELS.int(), LABELS.to(torch.uint8), LABELS.numpy(), LABELS.tolist(), list(LABELS)):
        assert torch.equal(accuracy_curve(plain(), "relu", SMALL, labels).accuracy, expected.accuracy)
        assert torch.equal(grad_cam(plain(), SMALL, labels, layer="relu"),
                           grad_cam(plain(), SMALL, LABELS, layer="relu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(value):
    def broken(scores):
        return scores.index_fill(1, torch.tensor([1]), value)

    for call in CURVES.values():
        with pytest.raises(ValueError, match=r"the logits of .* are not finite"):
            call(plain(wrap=broken), "relu", SMALL, LABELS)
    with pytest.raises(ValueError, match=r"the logits of .* are not finite"):
        grad_cam(plain(wrap=broken), SMALL, layer="relu")


def test_a_network_that_breaks_down_without_activations_is_wrong_there():
    def unit(scores):
        return scores / (scores - scores).norm() if not scores.any() else scores

    model = plain(wrap=unit)
    model.head.bias.data.zero_()
    assert accuracy_curve(model, "relu", SMALL, torch.zeros(4, dtype=int), ranks=[1]).accuracy[0, 0] == 0


# --- case 7: rankings ---------------------------------------------------------------------------------------


def test_an_image_stands_once_in_a_ranking():
    for measure in (average_precision, average_precision_at):
        with pytest.raises(ValueError, match="'a' stands more than once in the"):
            measure(["a", "a"], {"a"})
        with pytest.raises(ValueError, match="'a' stands more than once in positives"):
            measure(["a", "b"], ["a", "a"])
        with pytest.raises(ValueError, match="without positives"):
            measure(["a"], [])
        with pytest.raises(ValueError, match="expected names or numbers"):
            measure([["a"], ["b"]], ["a"])
        for ids in (torch.tensor([2, 0, 1]), np.array([2, 0, 1]), list(torch.tensor([2, 0, 1])), [2, 0, 1],
                    list(np.array([2, 0, 1]))):
            assert measure(ids, {2, 0}) == measure([2, 0, 1], [2, 0]) == measure("cab", "ca")
            assert measure([2, 0, 1], ids[:2]) == measure("cab", "ca") > 0
        with pytest.raises(ValueError, match="'x' stands more than once in the ranking"):
            measure(["x", "x", "a"], {"a"})
    for n in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="must be an integer, 1 or more"):
            average_precision_at(["a"], {"a"}, n)
    with pytest.raises(ValueError, match="'a' stands more than once in names"):
        Index(torch.eye(2), ["a", "a"])


# --- case 8: autocast around a call -------------------------------------------------------------------------


def test_autocast_around_a_call_changes_nothing():
    model, direction, A = plain(), randn(1, 6), randn(30, 8).abs()
    calls = [lambda: feature_maps(model, SMALL, layer="relu"), lambda: grad_cam(model, SMALL, 0, layer="relu"),
             lambda: cam(model, SMALL, 0, layer="relu", classifier="head"),
             lambda: capture(model, "relu", SMALL)["relu"],
             lambda: accuracy_curve(model, "relu", SMALL, LABELS).error,
             lambda: visualize(model, direction, layer="relu", preprocess=lambda x: x, side=32, steps=2),
             lambda: responses(model, SMALL, direction, layer="relu"), lambda: pca(A, 3).approximation,
             lambda: factorize(SMALL.abs(), 2).maps, lambda: torch.cat(describe(SMALL.abs(), "crow")),
             lambda: Index(randn(5, 8), list("abcde")).search(A[:2])[0]]
    for call in calls:
        expected = call()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(), expected) and torch.is_autocast_enabled("cpu")


# --- case 10: what models give ------------------------------------------------------------------------------


class Answer:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("wrap, output", [
    (lambda s: (s, s.mean()), None), (lambda s: [s], None), (lambda s: {"logits": s, "loss": 0}, None),
    (lambda s: {"out": s, "aux": 0 * s}, None), (lambda s: {"scores": s}, None), (Answer, None), (Answer, "logits"),
    (lambda s: (Answer(s), 1), None), (lambda s: {"a": 0 * s, "b": s}, "b"),
    (lambda s: {"a": 0 * s, "b": s}, lambda y: y["b"]),
    (lambda s: torchvision.models.GoogLeNetOutputs(s, 0 * s, None), None)])
def test_models_that_do_not_return_a_tensor(wrap, output):
    model, usual = plain(wrap=wrap), plain()
    for name, call in CURVES.items():
        found, expected = call(model, "relu", SMALL, LABELS, output=output), call(usual, "relu", SMALL, LABELS)
        if name == "accuracy_curve":
            assert torch.equal(found.accuracy, expected.accuracy)
    assert torch.equal(grad_cam(model, SMALL, 1, layer="relu", output=output), grad_cam(usual, SMALL, 1, layer="relu"))
    assert torch.equal(heatmaps(model, SMALL, 2, layer="relu").maps, heatmaps(usual, SMALL, 2, layer="relu").maps)


@pytest.mark.parametrize("wrap, output, message", [
    (lambda s: {"a": s, "b": s}, None, r"gives dict of a, b; choose the logits \(n, classes\) with output="),
    (lambda s: {"a": s, "b": s}, "c", "gives dict of a, b, which has no 'c'"),
    (lambda s: s, "logits", r"gives torch\.float32 .* which has no 'logits'"),
    (lambda s: None, None, "gives NoneType; choose"),
    (lambda s: s[:, :, None], None, r"gives \(4, 4, 1\); expected logits"),
    (lambda s: s[:1], None, r"gives \(1, 4\); expected logits"), (lambda s: s.argmax(1), None, "expected logits"),
    (lambda s: "cat", None, "gives str; choose"), (lambda s: s, lambda y: y.sum(), r"gives \(\); expected logits")])
def test_outputs_that_are_no_logits(wrap, output, message):
    model = plain(wrap=wrap)
    with pytest.raises(ValueError, match=message):
        accuracy_curve(model, "relu", SMALL, LABELS, output=output)
    with pytest.raises(ValueError, match=message):
        grad_cam(model, SMALL, 0, layer="relu", output=output)
    with pytest.raises(ValueError, match=message):
        logits(model(SMALL), 4, output=output)


def test_dense_predictions_of_torchvision():
    model = seeded(lambda: torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None))
    assert heatmaps(model, X, 2, layer="backbone.layer4").maps.shape == (2, 2, 8, 12)
    with pytest.raises(ValueError, match=r"gives \(2, 21, 64, 96\); expected logits .* say with output="):
        grad_cam(model, X, 0, layer="backbone.layer4")
    assert grad_cam(model, X, 0, layer="backbone.layer4", output=lambda y: y["out"].mean((2, 3))).shape == (2, 1, 8, 12)
    assert not classifies(model)
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    assert heatmaps(detector.backbone, X, 2, layer="body.layer4").maps.shape == (2, 2, 2, 3)


def test_inception_and_its_auxiliary_output():
    model = seeded(lambda: torchvision.models.inception_v3(weights=None, init_weights=False, num_classes=4)).train()
    images = randn(2, 3, 96, 96)
    assert grad_cam(model, images, 1, layer="Mixed_6e").shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"'Mixed_6e\.branch1x1\.bn' has negative outputs"):
        heatmaps(model, images, 2, layer="Mixed_6e.branch1x1.bn")
    assert accuracy_curve(model, "Mixed_7c", images, [0, 1], ranks=[1]).width == 2048 and model.training


# --- cases 11, 12, 19, 21: images ---------------------------------------------------------------------------


def test_the_books_own_digits_network():
    images = data.load("digits").inputs[:4]
    model = memorization_network("cifar10", shape=images.shape[1:], width=1 / 8)
    assert images.shape[1] == 1
    assert heatmaps(model, images, 2, layer="conv1_1").maps.shape == (4, 2, 16, 16)
    assert grad_cam(model, images, layer="conv1_1").shape == (4, 1, 16, 16)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_number_of_channels(channels, tmp_path):
    model, images = plain(channels=channels), randn(4, channels, 16, 16)
    for call in PICTURES.values():
        assert len(call(model, images, "relu")) == len(call(model, list(images), "relu")) == 4
        with pytest.raises(ValueError, match=rf"image 0 has shape \(3, 32, 32\).* takes {channels}") as error:
            call(model, SMALL, "relu")
        assert "expand" not in str(error.value)
    assert len(stored_maps(model, images, tmp_path / "maps", layer="relu")) == 4
    if channels == 1:
        for call in PICTURES.values():
            with pytest.raises(ValueError, match=r"grey image can be expanded, image\.expand\(3, -1, -1\)"):
                call(plain(), images, "relu")
            call(plain(), images.expand(-1, 3, -1, -1), "relu")


class Pairs(Dataset):
    def __init__(self, images, label=0):
        self.images, self.label = images, label

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        if i >= len(self.images):
            raise IndexError(i)
        return self.images[i], self.label


@pytest.mark.parametrize("function", PICTURES)
def test_what_people_call_images(function, tmp_path):
    pixels = (torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 255).byte()
    pictures = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    files = sorted(tmp_path.glob("*.png"))
    model, half = plain(), Preprocess((0.5,) * 3, (0.5,) * 3, 1.0, "", None)
    ready = half(pixels / 255)
    expected = PICTURES[function](model, ready, "relu")
    assert all(torch.equal(PICTURES[function](model, images, "relu"), expected) for images in (
        list(ready), tuple(ready), Pairs(ready), TensorDataset(ready), TensorDataset(ready, LABELS),
        DataLoader(TensorDataset(ready, LABELS), batch_size=3), DataLoader(ready, batch_size=2)))
    tutorial = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    arrays = [np.array(picture) for picture in pictures]
    for images in (pixels, list(pixels), pictures, files, [str(file) for file in files], arrays, np.stack(arrays),
                   [array / 255 for array in arrays], Pairs(pictures), DataLoader(pixels, batch_size=2)):
        for preprocess in (half, tutorial, lambda x: (x - 0.5) / 0.5):
            if preprocess is tutorial and isinstance(images, DataLoader | torch.Tensor):
                continue
            if preprocess is tutorial and isinstance(images, list) and isinstance(images[0], torch.Tensor):
                continue
            torch.testing.assert_close(PICTURES[function](model, images, "relu", preprocess=preprocess), expected,
                                       atol=1e-3, rtol=1e-3)
    for images in (pixels, pictures, files, arrays, np.stack(arrays), Pairs(pictures), pixels.int()):
        with pytest.raises(ValueError, match=r"image 0 is .*; pass preprocess=, which makes of RGB"):
            PICTURES[function](model, images, "relu")


@pytest.mark.parametrize("images, message", [
    ((image for image in SMALL), r"images are a generator; pass a tensor .*, a sequence of images, as list"),
    ({"a": SMALL}, "images are a dict"), ({1, 2}, "images are a set"), (3, "images are a int"), (None, "a NoneType"),
    ("photo.jpg", r"images are one name, 'photo\.jpg'; pass a list"),
    (Image.new("RGB", (8, 8)), r"pass a list, \[image\]"),
    (np.zeros((8, 8, 3)), r"expected \(n, H, W, 3\)"), (SMALL[0], r"\(n, C, H, W\).*got \(3, 32, 32\)"),
    ([[]], "image 0 is list"), ([{"image": SMALL[0]}], "image 0 is dict"), (SMALL.bool(), "image 0 is torch.bool"),
    ([SMALL[0], SMALL[0, 0]], r"image 1 has shape \(32, 32\)"), (SMALL.to("meta"), "on meta"),
    ([torch.full((3, 8, 8), float("nan"))], "not finite"), (torch.zeros(0, 3, 8, 8), "n ≥ 1"),
    (DataLoader(SMALL, shuffle=True), "the loader shuffles"),
    (DataLoader([randn(3, 8, 8), randn(3, 9, 9)], batch_size=2), "the loader fails: .*pass its dataset"),
    (DataLoader([{"a": SMALL[0]}]), "the loader gives dict")])
def test_what_is_no_set_of_images(images, message, tmp_path):
    calls = [lambda call=call: call(plain(), images, "relu") for call in PICTURES.values()]
    calls += [lambda: cam(plain(), images, 0, layer="relu", classifier="head"),
              lambda: responses(plain(), images, randn(1, 6), layer="relu"),
              lambda: stored_maps(plain(), images, tmp_path / "maps", layer="relu")]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_preprocess_that_fails_says_of_which_image():
    picture = Image.new("RGB", (6, 8))
    for image, preprocess, message in (
            (picture, lambda x: x @ x, r"preprocess fails on image 0, which it got as torch\.float32 \(3, 8, 6\)"),
            (picture, lambda x: {"pixel_values": x}, "image 0 is dict"),
            (picture, lambda x: x[None], r"image 0 has shape \(1, 3, 8, 6\)"),
            (2 * torch.ones(3, 8, 6), Preprocess((0,) * 3, (1,) * 3, 1.0, "", None), r"on image 0.*expected \[0, 1\]"),
            (np.zeros((8, 6, 2), np.uint8), lambda x: x, "image 0 is ndarray uint8")):
        with pytest.raises(ValueError, match=message):
            feature_maps(plain(), [image], layer="relu", preprocess=preprocess)
    with pytest.raises(ValueError, match="more than 8 bits"):
        feature_maps(plain(), [Image.new("I;16", (8, 8))], layer="relu", preprocess=lambda x: x)
    with pytest.raises(ValueError, match=r"from 0 to 255; expected \[0, 1\]"):
        feature_maps(plain(), [np.array([[[0.0, 9, 255]]])], layer="relu", preprocess=lambda x: x)
    with pytest.raises(FileNotFoundError, match=r"nothing\.jpg"):
        feature_maps(plain(), ["nothing.jpg"], layer="relu", preprocess=lambda x: x)


def test_a_report_takes_a_data_set_and_refuses_several_sizes():
    x, y = SMALL.repeat(20, 1, 1, 1), LABELS.repeat(20)
    expected = memorization_report(plain(), [(x, y)], layers=["relu"], samples=20)
    pairs = [(image, int(label)) for image, label in zip(x, y, strict=True)]
    for loader in (TensorDataset(x, y), pairs, DataLoader(pairs, batch_size=7)):
        assert torch.equal(memorization_report(plain(), loader, layers=["relu"], samples=20).auc, expected.auc)
    mixed = [(image[:, :30] if i % 3 else image, label) for i, (image, label) in enumerate(pairs)]
    for loader, message in ((mixed, r"several sizes, \(3, 30, 32\) and \(3, 32, 32\).*Resize"),
                            (DataLoader(mixed, batch_size=1), "several sizes"),
                            (DataLoader(mixed, batch_size=8), r"the loader fails: stack expects .*Resize"),
                            (3, "the loader is a int"), (None, "the loader is a NoneType")):
        with pytest.raises(ValueError, match=message):
            memorization_report(plain(), loader, layers=["relu"])
    with pytest.raises(ValueError, match=r"batches differ: .*\(2, 3, 32, 32\).* and .*\(2, 3, 9, 9\)"):
        accuracy_curve(plain(), "relu", [SMALL[:2], SMALL[:2, :, :9, :9]], [[0, 1], [2, 3]])


# --- case 13: no such ReLU ----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda: torchvision.models.densenet121(weights=None),
                                   lambda: torchvision.models.convnext_tiny(weights=None)])
def test_what_to_do_where_no_relu_follows(build):
    model = seeded(build)
    with pytest.raises(ValueError, match=r"'features' has negative outputs .*model\.features = nn\.Sequential\(model"
                                         r"\.features, nn\.ReLU\(\)\).*name 'features\.1'; .*Split\(\), Join\(\)"):
        heatmaps(model, X, 2, layer="features")
    before = seeded(build).eval()(X)
    model.features = nn.Sequential(model.features, Split(), Join())  # as advised
    assert heatmaps(model, X, 2, layer="features.1").maps.shape == (2, 2, 2, 3)
    torch.testing.assert_close(model.eval()(X), before)


def test_the_relu_that_follows_is_named():
    model = seeded(lambda: torchvision.models.resnet18(weights=None, num_classes=4))
    model(randn(8, 3, 32, 32))
    with pytest.raises(ValueError, match=r"'layer4\.0\.bn2' has negative .*follows it: 'layer4\.0' is the next layer"):
        heatmaps(model, X, 2, layer="layer4.0.bn2")
    with pytest.raises(ValueError, match=r"layer 'layer4\.0\.bn2': A\[.*name the ReLU that follows it: 'layer4\.0'"):
        accuracy_curve(model, "layer4.0.bn2", SMALL, LABELS)
    with pytest.raises(ValueError, match=r"Split\('tokens'\), Join\('tokens'\) of nmfcore\.signed"):
        accuracy_curve(vit(), BLOCK, SMALL, LABELS, channels="tokens")
    with pytest.raises(ValueError, match=r"model = nn\.Sequential\(model, nn\.ReLU\(\)\), .* name '1'"):
        heatmaps(nn.Conv2d(3, 4, 3), SMALL, 2, layer="")

    class Ends(nn.Module):
        def forward(self, x):
            raise RuntimeError("on purpose")

    with pytest.raises(ValueError, match=r"layer '0' has negative outputs .*model\[0\] = nn"):
        heatmaps(nn.Sequential(nn.Conv2d(3, 4, 3), Ends()), SMALL, 2, layer="0")
    nested = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()))
    with pytest.raises(ValueError, match=r"model\.get_submodule\('0'\)\[1\] = nn\.Sequential.*name '0\.1\.1'"):
        heatmaps(nested, SMALL, 2, layer="0.1")


# --- cases 14 and 15: modes, types, wrappers ----------------------------------------------------------------


def test_inference_mode_around_a_call():
    model, direction = plain(), randn(1, 6)
    tail = seeded(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)))
    calls = [lambda x: grad_cam(model, x, 0, layer="relu"), lambda x: heatmaps(model, x, 2, layer="relu").maps,
             lambda x: visualize(model, direction, layer="relu", preprocess=lambda x: x, side=32, steps=2),
             lambda x: accuracy_curve(model, "relu", x, LABELS).accuracy,
             lambda x: responses(model, x, direction, layer="relu"),
             lambda x: capture(model, "relu", x, gradient=True)["relu"].detach(),
             lambda x: torch.stack(predicted_grad_cam(tail, x, 1))]
    for call in calls:
        expected = call(SMALL)
        with torch.inference_mode():
            torch.testing.assert_close(call(SMALL.clone()), expected)  # its clone cannot be differentiated
            assert torch.is_inference_mode_enabled()
    with torch.inference_mode():
        made = plain()
    assert heatmaps(made, SMALL, 2, layer="relu").maps.shape == (4, 2, 32, 32)
    with pytest.raises(ValueError, match=r"'conv\.weight' was made under torch\.inference_mode"):
        grad_cam(made, SMALL, 0, layer="relu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_precision_take_float_images(dtype):
    model, usual, direction = plain().to(dtype), plain(), randn(1, 6)
    for call in PICTURES.values():
        torch.testing.assert_close(call(model, SMALL, "relu").float(), call(usual, SMALL, "relu"), atol=0.1, rtol=0.1)
    for call in CURVES.values():
        call(model, "relu", SMALL, LABELS)
    assert capture(model, "relu", SMALL)["relu"].dtype == dtype
    assert relu_layers(model, SMALL) == ["relu"] and accuracy(model, SMALL, LABELS) <= 1
    assert visualize(model, direction, layer="relu", preprocess=lambda x: x, side=32, steps=2).isfinite().all()
    if dtype == torch.float16:
        with pytest.raises(ValueError, match=r"too large for the model's torch\.float16"):
            grad_cam(model, 1e6 * SMALL, 0, layer="relu")


@pytest.mark.parametrize("wrap", [
    nn.DataParallel, lambda model: torch.compile(model, backend="eager"),
    lambda model: (model.compile(backend="eager"), model(SMALL), model)[2],
    lambda model: model.to(memory_format=torch.channels_last)])
def test_wrapped_models(wrap):
    model, usual = wrap(plain()), plain()
    for images in (SMALL, SMALL.to(memory_format=torch.channels_last)):
        for name in ("relu", "module.relu"):
            if name == "relu" or isinstance(model, nn.DataParallel):
                for call in PICTURES.values():
                    torch.testing.assert_close(call(model, images, name), call(usual, SMALL, name.split(".")[-1]))
    for call in CURVES.values():
        call(model, "relu", SMALL, LABELS)
    expected = accuracy_curve(usual, "relu", SMALL, LABELS).error
    torch.testing.assert_close(accuracy_curve(model, "relu", SMALL, LABELS).error, expected, rtol=0, atol=1e-6)


def test_a_compiled_part_keeps_its_names_and_is_not_compiled_anew():
    compiled = []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    model = plain()
    expected = feature_maps(model, SMALL, layer="relu")
    outer = nn.Sequential(torch.compile(model, backend=backend))
    for layer in ("0.relu", "0._orig_mod.relu", model.relu):
        assert torch.equal(feature_maps(outer, SMALL, layer=layer), expected) and not compiled
    outer(SMALL)
    assert compiled


def test_what_is_no_model():
    traced = torch.jit.trace(plain(), SMALL)
    with torch.device("meta"):
        meta = Plain()
    for model, message in ((lambda x: x, "a function; pass an nn.Module"), (None, "a NoneType"), (Plain, "a type"),
                           (traced, "TorchScript"), (meta, "'conv.weight' has no values"),
                           (nn.Sequential(nn.LazyConv2d(4, 3)), "'0.weight' has no values yet")):
        for call in PICTURES.values():
            with pytest.raises(ValueError, match=message):
                call(model, SMALL, "0" if isinstance(model, nn.Sequential) else "relu")
        with pytest.raises(ValueError, match=message):
            accuracy_curve(model, "0" if isinstance(model, nn.Sequential) else "relu", SMALL, LABELS)


# --- case 20: memory ----------------------------------------------------------------------------------------


class Counting(nn.Conv2d):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


@pytest.mark.parametrize("method", ["nmf", "pca", "kmeans", "random_ablation"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_groups_of_batches_give_what_all_at_once_give(method):
    model = seeded(lambda: nn.Sequential(Counting(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1),
                                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)))
    x, sizes = randn(14, 3, 8, 8), (5, 2, 4, 3)
    batches, labels = x.split(sizes), (torch.arange(14) % 4).split(sizes)
    seen = model[0].seen
    whole = accuracy_curve(model, ["1", "3"], batches, labels, ranks=[1, 3], method=method)
    assert seen == [14]
    for size, expected in ((7, [7, 7]), (1, [5, 2, 4, 3]), (8, [7, 7]), (100, [14])):
        seen.clear()
        parts = accuracy_curve(model, ["1", "3"], batches, labels, ranks=[1, 3], method=method, batch_size=size)
        assert seen == expected and parts.ranks == whole.ranks and parts.limit == whole.limit
        torch.testing.assert_close(parts.error, whole.error, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(parts.accuracy, whole.accuracy)
        assert parts.baseline.shape == (4,) and parts.unconverged == whole.unconverged
    dense = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 4)))
    one, several = (accuracy_curve(dense, "2", batches, labels, method=method, batch_size=size) for size in (None, 1))
    assert one.ranks == several.ranks and one.limit == several.limit == {"random_ablation": 9}.get(method, 5)
    torch.testing.assert_close(one.error, several.error, atol=1e-4, rtol=1e-3)
    for wrong in (0, -1, 1.5, True, "8"):
        with pytest.raises(ValueError, match=r"batch_size=.* must be an integer, 1 or more"):
            accuracy_curve(model, "1", batches, labels, batch_size=wrong)
        for call in PICTURES.values():
            with pytest.raises(ValueError, match=r"batch_size=.* must be an integer, 1 or more"):
                call(model, SMALL, "1", batch_size=wrong)


def test_the_default_fits_into_memory(monkeypatch):
    model = seeded(lambda: torchvision.models.resnet18(weights=None, num_classes=2))
    with torch.no_grad():
        needed = _bytes(model.eval(), find_layers(model, "layer1"), randn(1, 3, 224, 224))
    assert 15e6 < needed < 25e6
    model.conv1, x = Counting(3, 64, 7, 2, 3), randn(8, 3, 64, 64)
    monkeypatch.setattr("nmfcore.compression._SMALL", 0)
    monkeypatch.setattr("nmfcore.compression._MEMORY", needed * 64 ** 2 / 224 ** 2 * 4.5)
    accuracy_curve(model, "layer1", x.split(2), [[0, 1]] * 4, ranks=[1], method="pca")
    assert model.conv1.seen == [1, 4, 4]  # a look at one sample, then as many as fit


def test_nothing_is_lost_of_what_was_right_before():
    """The matrix that is factorized is that of `to_matrix`."""
    model, A = plain(), capture(plain(), "relu", SMALL)["relu"]
    error = accuracy_curve(model, "relu", SMALL, LABELS, ranks=[2], tol=1e-3).error[0, 0, 1]
    torch.testing.assert_close(float(error), float(nmf(to_matrix(A), 2, tol=1e-3).error), atol=1e-4, rtol=0)


def test_layout_refuses_what_it_does_not_know():
    layer = find_layers(plain(), "relu")[0]
    for output, n, message in ((randn(2, 3, 4, 5, 6), 2, r"gives \(2, 3, 4, 5, 6\); "), ((1,), 2, "gives tuple"),
                               (randn(3, 4), 2, "gives 3 outputs for 2 inputs")):
        with pytest.raises(ValueError, match=message):
            layout(layer, output, n, channels=None, skip=0, evidence=[])
