"""Training to accuracy 1 on true and random labels; interrupted, resumed, and with damaged checkpoints."""

import copy
import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from nmfbook import training
from nmfbook.architectures import memorization_network
from nmfbook.datasets import labeled_images
from nmfbook.training import History, accuracy, one_thread, prepared, train, updates
from nmfcore.examples import randomized_labels

data = labeled_images("digits", per_class=20)
x, y = data.inputs(), data.labels


pytestmark = pytest.mark.usefixtures("one_thread")


def small(seed=0, kind="mlp", width=48, dropout=0.2):
    """A net with what makes resuming hard: dropout (random state), batch normalization (buffers), a convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout),
                                 nn.Linear(width, 10))
        return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
                             nn.Linear(72, 10))


def same(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("p", [0, 1])
@pytest.mark.parametrize("optimizer, lr", [("sgd", 0.05), ("adam", 5e-3)])
def test_true_and_random_labels_are_learned_to_the_last(p, optimizer, lr):
    labels = randomized_labels(y, p, 10, seed=5)
    model = small(width=256, dropout=0)
    history = train(model, x, labels, epochs=300, batch_size=20, optimizer=optimizer, lr=lr)
    assert history.converged and history.accuracy[-1] == 1 and max(history.accuracy[:-1], default=0) < 1
    assert history.epochs == len(history.loss) == len(history.accuracy) < 300 and history.test_accuracy == []
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1), labels)
    assert not any(module.training for module in model.modules())


def test_a_net_trained_on_random_labels_does_not_generalize():
    every = labeled_images("digits", per_class=40)
    held = torch.ones(len(every.labels), dtype=torch.bool)
    held[torch.cat([(every.labels == c).nonzero()[:20, 0] for c in range(10)])] = False
    test = every.inputs()[held], every.labels[held]
    last = {p: train(small(width=256, dropout=0), x, randomized_labels(y, p, 10), epochs=300,
                     batch_size=20, lr=0.05, test=test) for p in (0, 1)}
    assert last[0].converged and last[1].converged
    assert len(last[0].test_accuracy) == last[0].epochs
    assert last[0].test_accuracy[-1] > 0.8 > 0.4 > last[1].test_accuracy[-1]


def test_one_thread_within_the_block_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_limit_is_reported():
    history = train(small(), x, y, epochs=2)
    assert history.epochs == 2 and not history.converged
    assert train(small(), x, y, epochs=0) == History() and not History().converged


def test_seed_decides_and_the_global_random_state_is_left_alone():
    nets = [small(), small(), small()]
    state = torch.get_rng_state()
    a, b, c = (train(net, x, y, epochs=3, seed=seed) for net, seed in zip(nets, (1, 1, 2), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert a == b != c and same(nets[0], nets[1]) and not same(nets[0], nets[2])


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resuming_changes_not_a_bit(tmp_path, kind, optimizer):
    file = tmp_path / "new/net.safetensors"
    options = dict(batch_size=30, optimizer=optimizer, lr=2e-3, decay=0.8, weight_decay=1e-3, seed=3,
                   test=(x[:50], y[:50]))
    whole, parts = small(kind=kind), small(kind=kind)
    history = train(whole, x, y, epochs=6, **options)
    train(parts, x, y, epochs=2, checkpoint=file, **options)
    torch.rand(5)  # what others draw in between does not matter
    parts = small(kind=kind)
    train(parts, x, y, epochs=3, checkpoint=file, **options)
    resumed = train(small(kind=kind), x, y, epochs=6, checkpoint=file, **options)
    again = small(kind=kind)
    assert train(again, x, y, epochs=6, checkpoint=file, **options) == resumed == history  # nothing left to do
    assert same(whole, again) and not same(whole, parts)
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_a_run_killed_while_writing_goes_on_from_the_epoch_before(tmp_path, monkeypatch):
    file, whole = tmp_path / "net.safetensors", small()
    history = train(whole, x, y, epochs=4)
    calls = []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            Path(arguments[1]).write_bytes(b"half")
            raise KeyboardInterrupt
        save_file(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "save_file", killed)
        train(small(), x, y, epochs=4, checkpoint=file)
    assert len(json.loads(safe_open(file, "pt").metadata()["state"])["history"]["loss"]) == 2
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
    resumed = small()
    assert train(resumed, x, y, epochs=4, checkpoint=file) == history and same(resumed, whole)


def test_tied_weights_and_a_converged_checkpoint(tmp_path):
    first = nn.Linear(64, 64)
    tied = nn.Sequential(nn.Flatten(), first, nn.ReLU(), first, nn.ReLU(), nn.Linear(64, 10))
    again, options = copy.deepcopy(tied), dict(lr=0.05, batch_size=20, checkpoint=tmp_path / "a.safetensors")
    history = train(tied, x, y, **options)
    assert history.converged
    assert train(again, x, y, epochs=500, **options) == history and same(tied, again)


def test_a_finished_checkpoint_holds_weights_and_labels_alone(tmp_path):
    file, options = tmp_path / "a.safetensors", dict(lr=0.05, batch_size=20)
    labels = randomized_labels(y, 0.5, 10)
    model = small(width=256, dropout=0)
    weights = {f"model.{key}" for key in model.state_dict()}
    assert not train(model, x, labels, epochs=1, checkpoint=file, **options).converged
    unfinished = load_file(file)
    assert {key.split(".")[0] for key in unfinished} == {"model", "labels", "optimizer", "rng"}
    model = small(width=256, dropout=0)
    assert train(model, x, labels, epochs=300, checkpoint=file, **options).converged
    finished = load_file(file)
    assert set(finished) == weights | {"labels"} and torch.equal(finished["labels"], labels)
    assert torch.equal(unfinished["labels"], labels)
    assert all(torch.equal(finished[f"model.{key}"], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_learning_rate_decays_after_each_epoch_resumed_or_not(tmp_path, monkeypatch, optimizer):
    rates, original = [], training.updates

    def watched(model, steps, *rest, **options):
        rates.append([group["lr"] for group in steps.param_groups])
        return original(model, steps, *rest, **options)

    monkeypatch.setattr(training, "updates", watched)
    options = dict(lr=0.02, optimizer=optimizer, decay=0.5, checkpoint=tmp_path / "net.safetensors")
    train(small(), x, y, epochs=2, **options)
    train(small(), x, y, epochs=4, **options)
    assert rates == [[pytest.approx(0.02 * 0.5 ** epoch)] for epoch in range(4)]
    rates.clear()
    train(small(), x, y, epochs=3, lr=0.02)
    assert rates == [[0.02]] * 3  # none unless asked for


def test_decay_changes_the_training_from_the_second_epoch_on():
    nets = [small(), small()]
    constant, falling = (train(net, x, y, epochs=3, decay=decay, lr=0.05)
                         for net, decay in zip(nets, (1.0, 0.1), strict=True))
    assert constant.loss[0] == falling.loss[0] and constant.loss[2] != falling.loss[2] and not same(*nets)


def test_a_checkpoint_from_other_initial_weights(saved):
    model, fresh = small(seed=4), small(seed=4)
    with pytest.raises(ValueError, match=r"net\.safetensors is from another training: start='\w+' instead of .*delete"):
        train(model, x, y, epochs=2, checkpoint=saved)
    assert same(model, fresh)
    assert train(small(), x, y, epochs=2, checkpoint=saved).epochs == 2


def test_a_checkpoint_of_a_model_with_other_names(saved):
    renamed = nn.Sequential(OrderedDict((f"layer{name}", module) for name, module in small().named_children()))
    with pytest.raises(ValueError, match=r"is of another model: model\.\d\.bias, .*differ"):
        train(renamed, x, y, checkpoint=saved)


@pytest.fixture
def saved(tmp_path):
    file = tmp_path / "net.safetensors"
    train(small(), x, y, epochs=1, checkpoint=file)
    return file


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "one bit of the weights", "one digit of the history"])
def test_a_damaged_checkpoint_is_named(saved, damage):
    content = saved.read_bytes()
    digit = content.index(b'\\"loss\\": [') + 13
    saved.write_bytes({
        "empty": b"", "truncated": content[:-100], "text": b"<html>404 not found</html>",
        "one bit of the weights": content[:-1] + bytes([content[-1] ^ 1]),
        "one digit of the history": content[:digit] + (b"1" if content[digit:digit + 1] != b"1" else b"2")
        + content[digit + 1:]}[damage])
    fresh, model = small(seed=4), small(seed=4)
    with pytest.raises(ValueError, match=r"net\.safetensors (cannot be read|is damaged).*delete it to begin anew"):
        train(model, x, y, checkpoint=saved)
    assert same(model, fresh)


def test_a_file_that_is_no_checkpoint(saved):
    save_file(load_file(saved), saved)  # the same tensors without a header
    with pytest.raises(ValueError, match=r"net\.safetensors is not a checkpoint of this kind; delete"):
        train(small(), x, y, checkpoint=saved)
    with pytest.raises(ValueError, match=r"cannot be read"):
        train(small(), x, y, checkpoint=saved.parent)


@pytest.mark.parametrize("change, message", [
    (dict(lr=0.5), r"lr=0\.01 instead of 0\.5"), (dict(seed=1), "seed=0 instead of 1"),
    (dict(batch_size=7), "batch_size=100 instead of 7"), (dict(optimizer="adam"), "optimizer='sgd' instead of 'adam'"),
    (dict(weight_decay=1.0), "weight_decay"), (dict(decay=0.9), r"decay=1\.0 instead of 0\.9"),
    (dict(test=(x, y)), "test=None instead of"),
    (dict(labels=randomized_labels(y, 0.1, 10)), "data="), (dict(images=x * 0.5), "data=")])
def test_a_checkpoint_of_another_training(saved, change, message):
    images, labels = change.pop("images", x), change.pop("labels", y)
    with pytest.raises(ValueError, match=rf"net\.safetensors is from another training: .*{message}.*delete it"):
        train(small(), images, labels, checkpoint=saved, **change)


@pytest.mark.parametrize("other", [small(width=49), small(kind="cnn"), small().double()])
def test_a_checkpoint_of_another_model(saved, other):
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"net\.safetensors is of another model: model\..* differ; delete it"):
        train(other, x, y, checkpoint=saved)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("images, labels, options, message", [
    (data.images, y, {}, r"training images are torch\.uint8; pass floating ones"),
    (x, y[:-1], {}, r"expected int64, one for each of 200 images"), (x, y.int(), {}, r"torch\.int32"),
    (x[:0], y[:0], {}, "at least one"), (x, y, {"optimizer": "rmsprop"}, "neither 'sgd' nor 'adam'"),
    (x, y, {"batch_size": 0}, "batch_size=0"), (x, y, {"test": (data.images, y)}, "test images are"),
    *((x, y, {"decay": decay}, rf"decay={decay}: expected .* a factor above 0, at most 1")
      for decay in (0, -0.5, 1.5, float("nan"))),
    (x * float("nan"), y, {}, r"the loss is nan in epoch 1; lower lr=0\.01"), (x, y, {"lr": 1e30}, "the loss is")])
def test_what_cannot_be_trained(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        train(small(), images, labels, **options)


def test_accuracy_leaves_the_mode_of_every_module():
    model = small(kind="cnn")
    model[1].eval()
    right = accuracy(model, x, y, batch_size=33)
    assert model.training and model[3].training and not model[1].training
    model.eval()
    assert right == int((model(x).argmax(1) == y).sum()) / len(y)


def test_the_bar_is_off_unless_asked_for(capsys):
    train(small(), x, y, epochs=2)
    assert capsys.readouterr().err == ""
    train(small(), x, y, epochs=2, progress=True)
    assert "2/2" in capsys.readouterr().err


def test_bfloat16_learns_every_label_too_and_the_whole_set_is_measured_near_the_end_alone(monkeypatch, tmp_path):
    measured, original = [], training.accuracy
    monkeypatch.setattr(training, "accuracy", lambda *given: measured.append(1) or original(*given))
    options = dict(epochs=300, batch_size=20, lr=0.05, precision="bfloat16", near=0.9)
    history = train(small(width=256, dropout=0), x, y, checkpoint=tmp_path / "net.safetensors", **options)
    assert history.converged and 1 <= len(measured) < history.epochs
    assert len(measured) == sum(value >= 0.9 for value in history.accuracy)
    model = small(width=256, dropout=0)
    again = train(model, x, y, **options)
    assert again == history and all(value.dtype == torch.float32 for value in model.state_dict().values())
    with pytest.raises(ValueError, match="precision='bfloat16' instead of None"):
        train(small(width=256, dropout=0), x, y, epochs=300, batch_size=20, lr=0.05,
              checkpoint=tmp_path / "net.safetensors")


@pytest.mark.parametrize("wrong", [{"precision": "half"}, {"near": 1.5}])
def test_precision_and_near_are_checked(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        train(small(), x, y, **wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda(tmp_path):
    labels = randomized_labels(y, 1, 10)
    options = dict(batch_size=20, lr=0.01, device="cuda", checkpoint=tmp_path / "net.safetensors")
    model = memorization_network("cifar10", shape=(1, 8, 8))
    train(model, x, labels, epochs=2, **options)
    model = memorization_network("cifar10", shape=(1, 8, 8))
    assert train(model, x, labels, epochs=200, **options).converged
    assert accuracy(model, x.cuda(), labels.cuda()) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_replayed_graph_gives_the_gradients_of_its_batch(monkeypatch):
    """In float64 but for the order of sums; a batch of another length comes between."""
    batches = [batch.cuda() for batch in torch.randperm(len(x)).split(20)]
    batches = [*batches[:5], batches[5][:7], *batches[6:]]
    weights = []
    for eager in (2, len(batches)):
        monkeypatch.setattr(training, "_EAGER", eager)
        model = memorization_network("cifar10", shape=(1, 8, 8)).double()
        steps = prepared(model, x.double(), "sgd", 0.01, device="cuda")
        updates(model, steps, x.double().cuda(), y.cuda(), batches)
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(*weights)
