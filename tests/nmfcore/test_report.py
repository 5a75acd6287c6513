"""`memorization_report` on models of every kind, and the two helpers that it and `accuracy_curve` stand on."""

import copy
from collections import OrderedDict

import matplotlib
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nmfbook.architectures import memorization_network
from nmfbook.datasets import labeled_images
from nmfbook.training import train
from nmfcore.activations import capture, evaluation_mode, relu_layers, resumed
from nmfcore.compression import accuracy_curve
from nmfcore.examples import randomized_labels
from nmfcore.memorized import neighbor_scores
from nmfcore.report import memorization_report

matplotlib.use("agg")
data = labeled_images("digits", per_class=30)
x, y = data.inputs(), data.labels


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


class Functional(nn.Module):
    """ReLUs as functions, one of them in place, with pooling behind and a skip connection around."""

    def __init__(self):
        super().__init__()
        self.one, self.block, self.head = nn.Conv2d(1, 6, 3, padding=1), Inner(), nn.Linear(6, 10)

    def forward(self, images):
        maps = nn.functional.relu(self.one(images).mul_(2), inplace=True)
        return self.head((maps + self.block(maps)).mean((2, 3)))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, maps):
        return torch.relu(self.conv(maps))


class Twice(Inner):
    """The second ReLU works on the tensor that the first one gave."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, maps):
        return self.relu(self.conv(maps)).sub_(0.1).relu_()


def sound():
    return nn.Sequential(OrderedDict(flat=nn.Flatten(2), conv=nn.Conv1d(1, 7, 5), relu=nn.ReLU(), pool=nn.MaxPool1d(2),
                                     body=nn.Sequential(nn.Conv1d(7, 9, 3), nn.ReLU(inplace=True)), all=nn.Flatten(),
                                     output=nn.LazyLinear(10)))


# --- finding ReLUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build, expected", [
    (lambda: memorization_network("fashion_mnist", shape=(1, 8, 8), width=1 / 16),
     ["fc1.1", "fc2.1", "fc3.1", "fc4.1"]),
    (Functional, ["block"]), (lambda: nn.Sequential(nn.Conv2d(1, 6, 3), Twice()), ["1.relu", "1"]),
    (sound, ["relu", "body.1"]),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Sigmoid(), nn.Linear(9, 10)), []),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.GELU(), nn.Linear(9, 10)), []),
    (lambda: nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.5)),
                           nn.Flatten(), nn.Linear(36, 10)), ["0.1"])])
def test_layers_that_end_in_a_relu(build, expected):
    model = seeded(build).train()
    model(x[:4])  # so that lazy layers have their shape
    state = torch.get_rng_state()
    assert relu_layers(model, x[:4]) == expected
    assert all(module.training for module in model.modules()) and torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name, first, count", [
    ("resnet18", "relu", 9), ("resnet50", "relu", 17), ("vgg11", "features.1", 10), ("squeezenet1_1", "features.1", 34),
    ("alexnet", "features.1", 7), ("densenet121", "features.relu0", 119), ("googlenet", "conv1", 66)])
def test_layers_of_torchvisions_models(name, first, count):
    options = dict(init_weights=False) if name == "googlenet" else {}
    model = seeded(lambda: torchvision.models.get_model(name, weights=None, num_classes=10, **options)).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = relu_layers(model, images)
    assert found[0] == first and len(found) == count
    assert all((maps >= 0).all() for maps in capture(model, found, images).values())


# --- resuming -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build, size, layer", [
    (Functional, 8, "block"), (lambda: torchvision.models.resnet18(num_classes=10), 32, "layer2.1"),
    (lambda: torchvision.models.resnet18(num_classes=10), 32, "layer3.0.conv2"), (sound, 8, "body"),
    (lambda: torchvision.models.densenet121(num_classes=10), 32, "features.denseblock2.denselayer3.relu2"),
    (lambda: torchvision.models.squeezenet1_1(num_classes=10), 32, "features.7")])
def test_a_resumed_model_gives_the_same(build, size, layer, monkeypatch):
    model = seeded(build)
    images = nn.functional.interpolate(x[::60], size).expand(-1, 1 if size == 8 else 3, -1, -1).contiguous()
    with torch.no_grad(), evaluation_mode(model):
        expected = model(images)
        convolutions = []
        for kind in (nn.Conv1d, nn.Conv2d):
            monkeypatch.setattr(kind, "forward", lambda self, maps, usual=kind.forward:
                                convolutions.append(self) or usual(self, maps))
        model(images)
        whole = len(convolutions)
        with resumed(model, [layer], images):
            for _ in range(3):
                convolutions.clear()
                assert torch.equal(model(images), expected)
                assert 0 < len(convolutions) < whole
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_hook_of_the_users_acts_once():
    model = seeded(lambda: memorization_network("fashion_mnist", shape=(1, 8, 8), width=1 / 16))
    model.fc1.register_forward_hook(lambda module, args, output: output * 2)
    expected = model(x[:5])
    with torch.no_grad(), resumed(model, ["fc2"], x[:5]):
        assert torch.equal(model(x[:5]), expected)


def test_the_model_is_left_as_it_was_after_an_exception():
    model = seeded(Functional)
    with pytest.raises(KeyError), torch.no_grad(), resumed(model, ["block"], x[:5]):
        raise KeyError
    with pytest.raises(ValueError, match="no layer 'blok'"), resumed(model, ["blok"], x[:5]):
        pass
    assert not any("forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks
                   for module in model.modules())


def test_curves_of_one_dimensional_convolutions():
    """The same network with its signals as images of one line."""
    model = seeded(sound)
    model(x[:2])
    conv = [nn.Conv2d(1, 7, (1, 5)), nn.Conv2d(7, 9, (1, 3))]
    for new, old in zip(conv, (model.conv, model.body[0]), strict=True):
        new.weight.data, new.bias.data = old.weight.data[:, :, None], old.bias.data
    flat = nn.Sequential(OrderedDict(conv=conv[0], relu=nn.ReLU(), pool=nn.MaxPool2d((1, 2)),
                                     body=nn.Sequential(conv[1], nn.ReLU()), all=nn.Flatten(), output=model.output))
    one = accuracy_curve(model, ["relu", "body"], x[:30], y[:30], ranks=[2, 4])
    other = accuracy_curve(flat, ["relu", "body"], x[:30].flatten(2)[:, :, None], y[:30], ranks=[2, 4])
    torch.testing.assert_close(one.error, other.error, atol=1e-3, rtol=1e-2)
    assert float((one.accuracy - other.accuracy).abs().max()) < 0.1


# --- the report ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned():
    """A network trained on true labels, and one with half of them random."""
    torch.set_num_threads(1)
    found = {}
    for p in (0.0, 0.5):
        labels = randomized_labels(y, p, 10, seed=0)
        model = memorization_network("fashion_mnist", shape=(1, 8, 8), width=1 / 8)
        assert train(model, x, labels, batch_size=20, optimizer="adam", lr=2e-3, decay=0.98).converged
        found[p] = model, labels
    return found


def loader(labels, inputs=x, **options):
    return DataLoader(TensorDataset(inputs, labels), batch_size=32, **options)


def test_the_report_is_that_of_accuracy_curve(learned):
    model, labels = learned[0.5]
    report = memorization_report(model, loader(labels), layers=["fc2"], samples=20)
    assert report.layers == ("fc2",) and report.classes == tuple(range(10)) and report.samples == (20,) * 10
    batches = [(labels == c).nonzero()[:20, 0] for c in range(10)]
    curve = accuracy_curve(model, "fc2", [x[i] for i in batches], [labels[i] for i in batches], tol=1e-2,
                           ranks=[1, 2, 4, 8, 16, 32, 64])
    assert torch.equal(report.curves["fc2"].accuracy, curve.accuracy)
    assert report.score == pytest.approx(curve.limit_auc) and report.auc.shape == (1, 10)
    assert report.accuracy == 1 and "Caution" not in str(report)


def test_half_random_labels_have_the_lower_score(learned):
    scores = {p: memorization_report(model, loader(labels)).score for p, (model, labels) in learned.items()}
    assert scores[0.0] > scores[0.5] + 0.02


def test_suspects_are_the_samples_whose_neighbors_disagree(learned):
    model, labels = learned[0.5]
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    report = memorization_report(model, loader(labels[shuffled], x[shuffled]), layers=["fc1", "fc3"], samples=20)
    places = shuffled[report.places]
    assert labels[places].tolist() == [label for label in report.classes for _ in range(20)]
    features = capture(model, ["fc1", "fc3"], x[places])
    expected = sum(neighbor_scores(maps, labels[places], 10) for maps in features.values()) / 2
    assert torch.equal(report.neighbors, expected)
    suspects = report.suspects(60)
    assert [score for _, _, score in suspects] == sorted(expected.tolist(), reverse=True)[:60]
    assert all(labels[shuffled[place]] == label for place, label, _ in suspects)
    wrong = (labels != y)[places]
    assert torch.tensor([(labels != y)[shuffled[place]] for place, _, _ in suspects]).double().mean() > wrong.double(
        ).mean() + 0.2
    assert f"by place in the loader: {suspects[0][0]} (label {suspects[0][1]})," in " ".join(str(report).split())
    with pytest.raises(ValueError, match="count=0 must be an integer"):
        report.suspects(0)


def test_the_model_is_left_as_it_was(learned):
    model, labels = copy.deepcopy(learned[0.0][0]), learned[0.0][1]
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    memorization_report(model, [(x, labels)], layers=["fc1"])  # (a DataLoader draws a number)
    assert torch.equal(state, torch.get_rng_state()) and all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("build, size", [
    (Functional, 8), (sound, 8), (lambda: torchvision.models.resnet18(num_classes=10), 32),
    (lambda: torchvision.models.mobilenet_v2(num_classes=10), 32)])
def test_models_of_every_kind(build, size):
    model = seeded(build)
    keep = torch.cat([(y == c).nonzero()[:20, 0] for c in (3, 7)])
    images = nn.functional.interpolate(x[keep], size).expand(-1, 1 if size == 8 else 3, -1, -1)
    model(images)
    report = memorization_report(model, loader(y[keep], images), samples=20)
    assert report.classes == (3, 7) and tuple(report.curves) == report.layers
    assert ((report.auc >= 0) & (report.auc <= 1)).all()
    assert "Caution" in str(report) and report.layers[int(report.auc.mean(1).argmin())] in str(report)
    figure = report.plot()
    assert len(figure.axes) == 2 and len(figure.axes[0].lines) == len(report.layers)


def test_classes_are_the_first_of_the_loader(learned):
    model, labels = learned[0.0]
    order = torch.cat([(labels == c).nonzero()[:, 0] for c in (6, 1, 4, 0)])
    report = memorization_report(model, loader(labels[order], x[order]), classes=3, layers=["fc4"], samples=25)
    assert report.classes == (1, 4, 6) and report.samples == (25, 25, 25)


def test_what_is_not_needed_is_not_read(learned):
    def endless():
        while True:
            yield x, learned[0.0][1]

    assert memorization_report(learned[0.0][0], endless(), layers=["fc4"], samples=20).samples == (20,) * 10


@pytest.mark.parametrize("given, message", [
    ([x], r"gives torch\.float32 \(300, 1, 8, 8\) and, as labels, NoneType; expected pairs"),
    ([(x, y.float())], r"as labels, torch\.float32 \(300,\)"), ([(x, y[:5])], r"as labels, torch\.int64 \(5,\)"),
    ([(x, y.tolist())], "as labels, list"), ([{"x": x}], "gives dict"), ([], r"too few samples: \{\} of each"),
    ([(x[:40], y[:40])], r"too few samples: \{0: \d+,"), ([(x, torch.zeros(300, dtype=int))], r"\{0: 50\} of each")])
def test_loaders_that_do_not_do(learned, given, message):
    with pytest.raises(ValueError, match=message):
        memorization_report(learned[0.0][0], given)


@pytest.mark.parametrize("options", [dict(samples=19), dict(classes=1)])
def test_settings_that_do_not_do(learned, options):
    with pytest.raises(ValueError, match=r"samples=\d+, classes=\d+: expected at least 20 samples of each of 2"):
        memorization_report(learned[0.0][0], loader(y), **options)


def test_models_without_relus():
    gelu = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.GELU(), nn.Linear(9, 10))
    with pytest.raises(ValueError, match=r"Sequential has no layer that ends in a ReLU, .*give each its own"):
        memorization_report(gelu, loader(y))
    with pytest.raises(ValueError, match=r"layer '2': A\["):
        memorization_report(gelu, loader(y), layers=["2"])
