"""The digits and the small networks of the examples."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from nmfcore.examples import digits, learned, randomized_labels


def test_a_share_of_the_labels_is_random():
    x, y = digits()
    assert x.shape == (1797, 64) and 0 <= x.min() < x.max() == 1
    for share in (0.2, 1.0):
        same, labels = digits(random=share, seed=1)
        assert same.equal(x) and float((labels != y).double().mean()) == pytest.approx(0.9 * share, abs=0.03)
    assert not digits(random=1, seed=0)[1].equal(digits(random=1, seed=1)[1])


@pytest.mark.parametrize("share", [0, 1])
def test_a_network_learns_every_label_true_or_not(share):
    x, y = digits(200, random=share)
    model = learned(x, y, (128, 32))
    assert (model(x).argmax(1) == y).all()
    assert [len(model[i].weight) for i in (0, 2, 4)] == [128, 32, 10]


def test_the_seed_decides_the_network_and_nothing_else_is_drawn():
    x, y = digits(50)
    before = torch.get_rng_state()
    first, again, other = (learned(x, y, seed=seed)[0].weight for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)
    assert torch.get_rng_state().equal(before)


def test_a_network_of_ones_own_is_trained_in_place():
    x, y = digits(60)
    model = nn.Sequential(nn.Conv1d(1, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(480, 10))
    assert learned(x[:, None], y, model, optimizer=partial(torch.optim.SGD, lr=0.1), batch_size=20) is model
    assert (model(x[:, None]).argmax(1) == y).all()


def test_what_cannot_be_learned():
    x, y = digits(10)
    with pytest.raises(RuntimeError, match="1 of 11 labels are not learned after 2000 epochs; look for one sample"):
        learned(torch.cat([x, x[:1]]), torch.cat([y, 1 - y[:1]]), (8,))


@pytest.mark.parametrize(("labels", "message"), [([0, 10], "label 10 is none"), ([0], "2 samples and 1 labels"),
                                                 ([0.5, 1], "labels")])
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        learned(torch.rand(2, 64), torch.tensor(labels))


@pytest.mark.parametrize(("options", "message"), [({"count": 0}, "count=0"), ({"random": 1.5}, r"random=1.5 is not")])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        digits(**options)


@pytest.mark.parametrize("p", [0, 0.2, 0.5, 0.8, 1])
def test_as_many_labels_change_as_chance_predicts(p):
    labels = torch.arange(20_000) % 10
    new = randomized_labels(labels, p, 10, seed=1)
    assert new.dtype == torch.int64 and torch.equal(labels, torch.arange(20_000) % 10)
    changed = (new != labels).double().mean()
    assert abs(changed - 0.9 * p) <= 4 * (0.9 * p * (1 - 0.9 * p) / 20_000) ** 0.5
    drawn = new[new != labels].bincount(minlength=10)  # every class alike
    assert p == 0 or ((drawn - drawn.sum() / 10) ** 2 / (drawn.sum() / 10)).sum() < 30  # χ² with 9 degrees
    if p == 1:  # nothing is left of the old labels: agreement is that of chance, for every class
        assert all(abs((new[labels == c] == c).double().mean() - 0.1) < 0.03 for c in range(10))


def test_randomization_is_repeatable_and_nested():
    labels = torch.arange(500) % 3
    draws = [randomized_labels(labels, p, 3, seed=7) for p in (0.25, 0.5, 1)]
    assert torch.equal(draws[0], randomized_labels(labels, 0.25, 3, seed=7))
    assert not torch.equal(draws[2], randomized_labels(labels, 1, 3, seed=8))
    for less, more in itertools.pairwise(draws):
        moved = less != labels
        assert torch.equal(less[moved], more[moved])
    assert randomized_labels(labels.to(torch.uint8), 1, 3, seed=7).tolist() == draws[2].tolist()
    assert randomized_labels(labels[:0], 0.5, 3).shape == (0,)


@pytest.mark.parametrize("labels, p, classes, message", [
    (torch.tensor([0, 1]), -0.1, 2, r"p=-0\.1 is not a probability"),
    (torch.tensor([0, 1]), 1.5, 2, "not a probability"), (torch.tensor([0]), 0.5, 0, "classes=0"),
    (torch.tensor([0, 1]), float("nan"), 2, "p=nan"), (torch.tensor([0, 2]), 0.5, 2, "label 2 is none of .* 2 classes"),
    (torch.tensor([-1, 1]), 0.5, 2, "label -1 is none of .* 2 classes"),
    (torch.tensor([0.0]), 0.5, 2, r"float32.*expected integers"),
    (torch.zeros(2, 2, dtype=torch.int64), 0.5, 2, r"\(2, 2\).*expected integers")])
def test_labels_that_cannot_be_randomized(labels, p, classes, message):
    with pytest.raises(ValueError, match=message):
        randomized_labels(labels, p, classes)
