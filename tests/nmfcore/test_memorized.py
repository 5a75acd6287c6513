"""Scores of training samples: against plain loops, and on labels of which it is known which were changed."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from nmfbook.datasets import labeled_images
from nmfbook.training import train
from nmfcore.compression import accuracy_curve
from nmfcore.examples import randomized_labels
from nmfcore.memorized import _divided, compression_scores, neighbor_scores

pytestmark = pytest.mark.usefixtures("one_thread")
data = labeled_images("digits", per_class=40)
x, y = data.inputs(), data.labels
NOISY = randomized_labels(y, 0.3, 10, seed=0)
CHANGED = NOISY != y


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(OrderedDict(
            flat=nn.Flatten(), fc1=nn.Sequential(nn.Linear(64, 48), nn.ReLU()),
            fc2=nn.Sequential(nn.Linear(48, 40), nn.ReLU()), output=nn.Linear(40, 10)))
    assert train(network, x, NOISY, epochs=300, batch_size=20, optimizer="adam", lr=3e-3, decay=1).accuracy[-1] > 0.99
    return network


def test_each_draw_divides_the_samples_among_equal_batches():
    labels = torch.tensor([7] * 30 + [2] * 4 + [5] * 12)
    batches = _divided(labels, 9, seed=0)
    assert sorted(torch.cat(batches).tolist()) == [*range(46)]
    assert sorted(len(batch) for batch in batches) == [4, 6, 6, 7, 7, 8, 8]
    assert all(len(labels[batch].unique()) == 1 for batch in batches)
    assert [b.tolist() for b in batches] != [b.tolist() for b in _divided(labels, 9, seed=1)]


@torch.no_grad()
def test_a_score_is_the_share_of_ranks_at_which_the_sample_is_lost(model):
    """By a loop over batches, ranks and samples; PCA, whose approximation is known in closed form."""
    ranks, expected = [0, 1, 2, 4, 8, 16], torch.full((2, len(y)), torch.nan, dtype=torch.float64)
    for draw in range(2):
        for places in _divided(NOISY, 20, 5 + draw):
            A = model[:2](x[places])
            U, S, V = np.linalg.svd(A.double().numpy(), full_matrices=False)
            limit = 20  # rows of the largest batch
            right = [(model[2:](torch.from_numpy((U[:, :K] * S[:K]) @ V[:K]).float()).argmax(1) == NOISY[places])
                     for K in ranks] + [model[2:](A).argmax(1) == NOISY[places]]
            for i, curve in zip(places, torch.stack(right, 1).double().numpy(), strict=True):
                expected[draw, i] = 1 - np.trapezoid(curve, [*ranks, limit]) / limit
    scores = compression_scores(model, "fc1", x, NOISY, draws=2, size=20, ranks=ranks, method="pca", seed=5)
    assert float((scores - expected.mean(0)).abs().max()) < 1e-9 and 0 < float(scores.mean()) < 1


def test_scores_of_equal_batches_average_to_the_area_of_the_curve(model):
    labels = y  # forty of each class
    batches = _divided(labels, 20, seed=3)
    curve = accuracy_curve(model, ["fc1", "fc2"], [x[i] for i in batches], [labels[i] for i in batches],
                           ranks=[1, 2, 4, 8, 16, 32], tol=1e-2, seed=3)
    scores = compression_scores(model, ["fc1", "fc2"], x, labels, size=20, seed=3)
    assert float(1 - scores.mean()) == pytest.approx(curve.limit_auc)
    places = torch.cat(batches)
    again = torch.stack([part.double().mean(0) for part in curve.right.split(20)])
    assert torch.equal(again, curve.accuracy) and torch.equal(
        curve.right[:, -1], (model(x[places]).argmax(1) == labels[places]))


def test_a_sample_that_needs_a_part_of_its_own():
    """Nine samples share a channel, the tenth has another: it is lost at rank 1. Without any part all are."""
    head = nn.Linear(4, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]]))
        head.bias.copy_(torch.tensor([-0.1, 0.0]))
    samples = torch.eye(4)[[0] * 9 + [1]] * torch.arange(12, 2, -1)[:, None]
    scores = compression_scores(nn.Sequential(nn.ReLU(), head), "0", samples, torch.zeros(10, dtype=int), tol=1e-6)
    assert scores.tolist() == pytest.approx([0.5 / 4] * 9 + [1.5 / 4])


def test_neighbors_tell_changed_labels_from_others():
    assert roc_auc_score(CHANGED, neighbor_scores(x, NOISY, 20)) > 0.95


def test_neighbors_are_those_of_a_plain_loop():
    rows = x.flatten(1).double().numpy()
    expected = []
    for i, row in enumerate(rows):
        cosines = rows @ row / np.linalg.norm(rows, axis=1) / np.linalg.norm(row)
        cosines[i] = -np.inf
        expected.append((NOISY.numpy()[np.argsort(-cosines)[:7]] != int(NOISY[i])).mean())
    scores = neighbor_scores(x, NOISY, 7)
    assert np.abs(scores.numpy() - expected).max() < 1e-9
    places = torch.tensor([300, 2, 2])
    assert torch.equal(neighbor_scores(x, NOISY, 7, of=places), scores[places])


def test_a_sample_is_not_its_own_neighbor_even_among_twins():
    twins = torch.ones(6, 2)
    assert neighbor_scores(twins, torch.tensor([0, 1, 1, 1, 1, 1]), 5)[0] == 1
    assert neighbor_scores(torch.cat([twins, -twins]), torch.arange(12), 2).tolist() == [1.0] * 12


@pytest.mark.parametrize("features, labels, options, message", [
    (x, NOISY, dict(k=400), r"k=400 neighbours of 400 samples; there are 399 others"),
    (x, NOISY[:9], {}, r"400 features and 9 labels: expected as many"), (x.long(), NOISY, {}, r"torch\.int64 \(400, 1"),
    (x * torch.nan, NOISY, {}, "expected finite"), (x, NOISY, dict(of=[400]), r"of=\[400\]: .* from 0 to 399"),
    (x, NOISY, dict(k=0), "k=0 must be an integer"), (x[:, :0], NOISY, {}, "at least one number a sample")])
def test_neighbors_that_there_are_not(features, labels, options, message):
    with pytest.raises(ValueError, match=message):
        neighbor_scores(features, labels, **options)


@pytest.mark.parametrize("options, message", [
    (dict(draws=0), "draws=0 must be an integer"), (dict(size=0.5), r"size=0\.5 must be an integer"),
    (dict(labels=NOISY[:9]), "400 inputs and 9 labels"), (dict(inputs=[x]), r"the inputs are list; pass a tensor"),
    (dict(layers=[]), r"layers=\[\]: expected one or more"), (dict(layers="fc9"), "no layer 'fc9'"),
    (dict(layers="output"), r"layer 'output': A\["), (dict(labels=NOISY + 1), "label 10 is none of the model's")])
def test_samples_that_cannot_be_scored(model, options, message):
    with pytest.raises(ValueError, match=message):
        compression_scores(model, **dict(layers="fc1", inputs=x, labels=NOISY) | options)
