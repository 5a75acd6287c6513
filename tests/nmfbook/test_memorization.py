"""The networks of chapter 3: trained once, kept, resumed to the bit, and measured in the order that is promised."""

from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load_file

from nmfbook import memorization, training
from nmfbook.architectures import ARCHITECTURES, memorization_network
from nmfbook.datasets import ORIGINALS, labeled_images, randomized_labels
from nmfbook.memorization import PROFILES, Network, Setup, over_networks, trained
from nmfbook.sounds import SOUNDS
from nmfbook.training import History

TINY = Setup("digits", "fashion_mnist", 1 / 8, levels=(0.0, 1.0), seeds=2, per_class=2, test_per_class=3, held_out=True,
             lr=5e-3, decay=0.99, batch_size=10)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder that holds the four networks of TINY, and what was measured while they were trained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("networks")
    return folder, over_networks(described, TINY, folder=folder)


def described(network):
    weights = torch.cat([value.flatten() for value in network.model.state_dict().values()])
    return network.p, network.seed, network.labels.tolist(), network.history.accuracy, weights.tolist()


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "updates", refuse)


# --- one network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_every_label_is_learned_and_the_file_is_used_again(kept, no_training, p):
    folder, _ = kept
    network = trained(TINY, p, 1, folder=folder)
    assert network.history.converged and not network.model.training
    with torch.no_grad():
        assert torch.equal(network.model(network.inputs).argmax(1), network.labels)
    assert torch.equal(network.labels, randomized_labels(network.true_labels, p, 10, seed=1))
    assert torch.equal(network.labels, network.true_labels) == (p == 0)
    assert network.inputs.shape == (20, 1, 8, 8) and network.true_labels.bincount().tolist() == [2] * 10
    assert len(network.history.test_accuracy) == network.history.epochs
    assert (network.p, network.seed) == (p, 1)
    assert network.source.startswith("20 (training) of ") and "digits" in network.source


def test_the_checkpoint_holds_the_labels(kept):
    folder, found = kept
    files = sorted(folder.iterdir())
    assert len(files) == 4 and {file.suffix for file in files} == {".safetensors"}
    for p, level in zip(TINY.levels, found, strict=True):
        for seed, (*_, labels, _, _) in enumerate(level):
            file, = folder.glob(f"digits-p{p:g}-seed{seed}-*")
            assert load_file(file)["labels"].tolist() == labels


def test_an_interrupted_training_gives_the_same_network_to_the_bit(kept, tmp_path, monkeypatch):
    _, found = kept
    calls, save = [], training.save_file

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        save(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "save_file", killed)
        trained(TINY, 1.0, 0, folder=tmp_path)
    epochs, original = [], training.updates
    monkeypatch.setattr(training, "updates", lambda *given, **options: epochs.append(1) or original(*given, **options))
    network = trained(TINY, 1.0, 0, folder=tmp_path)
    assert described(network) == found[1][0] and len(epochs) == network.history.epochs - 3


def test_too_few_epochs_are_an_error_and_more_go_on_from_there(kept, tmp_path):
    _, found = kept
    with pytest.raises(RuntimeError, match=r"digits-p0-seed0-\w{8}\.safetensors is at training accuracy 0\.\d{4} after "
                                           r"3 epochs; raise epochs=3, or change lr=0\.005"):
        trained(replace(TINY, epochs=3), 0.0, 0, folder=tmp_path)
    assert described(trained(TINY, 0.0, 0, folder=tmp_path)) == found[0][0]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def asked(monkeypatch):
    """What `trained` asks of `train`, without training: [(model, inputs, labels, options)]."""
    calls = []

    def pretend(model, inputs, labels, **options):
        calls.append((model, inputs, labels, options))
        return History([0.0], [1.0], [1.0])

    monkeypatch.setattr(memorization, "train", pretend)
    return calls


def test_another_setup_is_another_file(asked, tmp_path):
    changes = [dict(architecture="svhn"), dict(width=1 / 16), dict(per_class=3), dict(test_per_class=4),
               dict(enlarge=2), dict(lr=1e-3), dict(decay=0.9), dict(batch_size=7)]
    same = [dict(levels=(0.0, 0.3)), dict(seeds=7), dict(epochs=9), dict(download=True)]
    for change in [{}, *changes, *same]:
        trained(replace(TINY, **change), 0.0, folder=tmp_path)
    trained(TINY, 0.5, folder=tmp_path)
    trained(TINY, 0.0, 3, folder=tmp_path)
    names = [options["checkpoint"].name for *_, options in asked]
    first, others, alike, last = names[0], names[1:9], names[9:13], names[13:]
    assert len({first, *others, *last}) == 11 and set(alike) == {first}
    assert all(options["checkpoint"].parent == tmp_path for *_, options in asked)
    untried = {field.name for field in fields(Setup)} - {key for change in changes + same for key in change}
    assert untried == {"data", "held_out"}
    assert first.startswith("digits-p0-seed0-") and last[0].startswith("digits-p0.5-") and "-seed3-" in last[1]


def test_what_train_is_asked_for(asked, tmp_path):
    setup = replace(TINY, enlarge=2, lr=0.25, decay=0.75, batch_size=6, epochs=17)
    network = trained(setup, 0.5, 4, folder=tmp_path)
    (model, inputs, labels, options), = asked
    assert {key: options[key] for key in ("lr", "decay", "batch_size", "epochs", "optimizer", "seed", "device")} == {
        "lr": 0.25, "decay": 0.75, "batch_size": 6, "epochs": 17, "optimizer": "adam", "seed": 4, "device": "cpu"}
    data, _ = memorization._data(setup)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):  # every pixel four times
        assert torch.equal(inputs[..., corner[0]::2, corner[1]::2], data.inputs())
    assert options["test"][0].shape == (30, 1, 16, 16) and torch.equal(labels, network.labels)
    fresh = memorization_network("fashion_mnist", shape=(1, 16, 16), width=1 / 8, seed=4, pool_stride=2)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), fresh.parameters(), strict=True))


def test_held_out_samples_are_not_trained_on():
    data = labeled_images("digits")
    part, test = memorization._data(TINY)
    assert len(part.labels) == 20 and len(test.labels) == 30 and part.classes == test.classes == data.classes

    def places(some):
        same = (some.images[:, None] == data.images[None]).flatten(2).all(2)  # (samples, all)
        assert (same.sum(1) == 1).all() and torch.equal(data.labels[same.int().argmax(1)], some.labels)
        return same.int().argmax(1).tolist()

    training_places, test_places = places(part), places(test)
    assert not {*training_places} & {*test_places}
    for c in range(10):
        of_class = (data.labels == c).nonzero()[:, 0].tolist()
        assert [i for i in training_places if i in of_class] == of_class[:2]
        assert [i for i in test_places if i in of_class] == of_class[-3:]
    every, last = memorization._data(replace(TINY, per_class=None))
    assert len(every.labels) + len(last.labels) == len(data.labels)
    assert not {*places(every)} & {*places(last)}


def test_a_test_split_of_its_own_where_there_is_one(monkeypatch):
    calls = []
    monkeypatch.setattr(memorization, "labeled_images", lambda name, **options: calls.append((name, options)))
    monkeypatch.setattr(memorization, "labeled_sounds", lambda name, **options: calls.append((name, options)))
    memorization._data(Setup("cifar10", "cifar10", per_class=5, test_per_class=3, download=True))
    memorization._data(Setup("esc10", "urban_sounds", per_class=5))
    assert calls == [("cifar10", {"split": "train", "per_class": 5, "download": True}),
                     ("cifar10", {"split": "test", "per_class": 3, "download": True}),
                     ("esc10", {"split": "train", "per_class": 5}), ("esc10", {"split": "test", "per_class": None})]


@pytest.mark.parametrize("name, count, compressed", [
    ("cifar10", 11, ["conv4_1", "conv4_2", "conv4_3"]), ("svhn", 8, ["conv4_1", "conv4_2"]),
    ("fashion_mnist", 4, ["fc1", "fc2", "fc3", "fc4"]), ("urban_sounds", 9, ["conv4_1", "conv4_2"])])
def test_layers_of_each_architecture(name, count, compressed):
    shape = (1, 32, 32)
    model = memorization_network(name, shape=shape, width=1 / 64, pool_stride=2)
    network = Network(model, torch.zeros(1, *shape), torch.zeros(1), torch.zeros(1), History(), "", 0.0, 0)
    assert network.compressed == compressed and len(network.layers) == count
    assert network.layers == [key for key, _ in model.named_children() if key[:2] in ("co", "fc")]


# --- over networks ------------------------------------------------------------------------------------------


def test_results_come_by_level_and_seed(kept, no_training):
    folder, found = kept
    assert [[(p, seed) for p, seed, *_ in level] for level in found] == [[(0.0, 0), (0.0, 1)], [(1.0, 0), (1.0, 1)]]
    assert over_networks(described, TINY, folder=folder) == found
    for p, level in zip(TINY.levels, found, strict=True):
        for seed, result in enumerate(level):
            assert described(trained(TINY, p, seed, folder=folder)) == result
    *_, one = found[0][0]
    assert one != found[0][1][-1]  # other weights with another seed
    assert over_networks(lambda network: network.seed, replace(TINY, seeds=1), folder=folder) == [[0], [0]]


def test_networks_at_work_at_a_time_give_the_serial_result(kept):
    folder, found = kept
    torch.set_num_threads(2)
    together = over_networks(lambda network: (network.p, network.seed, network.history.accuracy,
                                              torch.get_num_threads()), TINY, folder=folder)
    assert torch.get_num_threads() == 2
    assert together == [[(p, seed, accuracies, 1) for p, seed, _, accuracies, _ in level] for level in found]


def test_the_number_of_threads_comes_back_after_an_error(kept):
    folder, _ = kept
    torch.set_num_threads(1)

    def fail(network):
        raise KeyError(network.p)

    with pytest.raises(KeyError):
        over_networks(fail, TINY, folder=folder)
    assert torch.get_num_threads() == 1


# --- the profiles of the book -------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_are_well_formed(profile):
    for title, setup in PROFILES[profile].items():
        assert setup.data in ({*ORIGINALS, "digits"} | {*SOUNDS}) and setup.architecture in ARCHITECTURES, title
        assert setup.levels == tuple(sorted(set(setup.levels))) and (setup.levels[0], setup.levels[-1]) == (0, 1)
        assert setup.seeds >= 2 and setup.batch_size >= 1 and setup.epochs >= 100  # `separation` needs two networks
        assert 0 < setup.width <= 1 and 0 < setup.lr < 0.1 and 0 < setup.decay <= 1 and setup.enlarge >= 1
        assert setup.test_per_class or not setup.held_out, f"{title}: how many are held out?"
        assert setup.held_out or setup.data != "digits", "digits have no test split"
        assert ("CNN" in title) == any(ARCHITECTURES[setup.architecture].blocks)


def test_profiles_are_what_they_are_for():
    assert list(PROFILES) == ["quick", "desk", "paper"]
    for setup in PROFILES["paper"].values():
        assert setup.width == 1 and setup.seeds == 10 and setup.levels == (0, 0.2, 0.4, 0.6, 0.8, 1)
        assert setup.per_class is None and not setup.held_out and setup.enlarge == 1
        assert setup.download or setup.data in SOUNDS
    assert {setup.architecture for setup in PROFILES["paper"].values()} == {*ARCHITECTURES}
    assert all(setup.data == "digits" for setup in PROFILES["quick"].values())  # no network, nothing outside
    assert not any(setup.download for name in ("quick", "desk") for setup in PROFILES[name].values())
