"""Scores that compete with compression: by hand, by loops, and one job on a network small enough for a test."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nmfbook.experiments import data, memorized, memorizing_networks
from nmfbook.ledger import Entry, key, text_of
from nmfbook.records import rounded

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_job_reuses_the_network_of_the_other_experiment(tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(memorizing_networks, "train", lambda job, folder, device: folders.append((job, folder)))
    job = memorized.Job("cifar10_jpeg", 0.4, 1)
    memorized.train(job, tmp_path / "weights" / "memorized" / "own")
    [(network, folder)] = folders
    assert network in memorizing_networks.jobs()
    assert folder == tmp_path / "weights" / "memorizing_networks" / f"{key(network)}-v{memorizing_networks.TRAINING}"
    shared = [job for job in memorized.jobs() if job.data != "digits"]
    assert {memorized.network(job) for job in shared} <= {*memorizing_networks.jobs()}


def test_one_job_on_digits(tmp_path, monkeypatch):
    small = memorizing_networks.Job("digits", 1 / 16, 0.4, 0, per_class=20, decay=0.98, epochs=60, precision="float32")
    monkeypatch.setattr(memorized, "network", lambda job: small)
    monkeypatch.setattr(memorized, "K", 10)
    job = replace(memorized.jobs()[0], samples=180)
    trained = memorized.train(job, tmp_path / "weights" / "memorized" / "own")
    found = memorized.measure(job, trained)
    places = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:180]
    wrong = trained.labels != data.load("digits", 20).labels
    assert found["changed"] == pytest.approx(float(wrong[places].double().mean()))
    counts = {name: len(values) for name, values in found["auroc"].items()}
    assert counts == {"nmf": 12, "pca": 12, "neighbors": 12, "centroids": 12, "confident": 12, "loss": 1, "margin": 1}
    assert found["auroc"]["neighbors"][0] > 0.9  # the inputs, which no training has changed
    assert found["neighbors in the whole set"]["inputs"] > 0.9 and found["averaged"]["neighbors"] > 0.8
    assert 0.6 < found["together"]["neighbors"] <= 1
    entry = Entry("memorized", {"data": "digits", "seed": 0}, {}, rounded(found, 4), {})
    assert len(text_of(entry)) < 2500


def test_confident_learning_by_hand():
    """Thresholds are the means of what each class is given by its own samples: 0.6 and 0.8."""
    probability = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    scores = memorized.confident_scores(probability, np.array([3, 3, 5]))
    first = [0.9 - 0.6 + 0.8, 0.3 - 0.6 + 0.8]
    assert scores.tolist() == pytest.approx([-first[0] / (first[0] + 0.1), -first[1] / (first[1] + 0.7),
                                             -0.8 / (0.8 + 0.2 - 0.6 + 0.8)])


def test_centroids_leave_the_sample_out():
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(30, 2, 3, generator=generator), torch.arange(30) % 3 + 4
    expected = []
    for i, row in enumerate(rows.flatten(1)):
        others = [j for j in range(30) if j != i]
        means = {c: rows.flatten(1)[[j for j in others if labels[j] == c]].mean(0) for c in (4, 5, 6)}
        distance = {c: float((row - mean).norm()) for c, mean in means.items()}
        own = distance.pop(int(labels[i]))
        expected.append(own - min(distance.values()))
    assert memorized.centroid_scores(rows, labels) == pytest.approx(expected, abs=1e-5)


def test_loss_and_margin_of_logits():
    model, labels = torch.nn.Linear(3, 3), torch.tensor([1, 0])
    inputs = torch.tensor([[1.0, 2, 3], [0, 1, 0]])
    loss, margin = memorized.network_scores(model, inputs, labels)
    logits = model(inputs).detach().double().numpy()
    for i, label in enumerate(labels.tolist()):
        assert loss[i] == pytest.approx(np.log(np.exp(logits[i]).sum()) - logits[i, label])
        assert margin[i] == pytest.approx(np.delete(logits[i], label).max() - logits[i, label])


def test_the_layer_is_chosen_on_the_other_networks():
    table = [[0.9, 0.5, 0.1], [0.2, 0.8, 0.1], [0.3, 0.6, 0.4]]
    networks = [{"auroc": {"nmf": row}} for row in table]
    assert memorized.at_chosen_layer(networks, "nmf") == [(0.5, 1), (0.2, 0), (0.6, 1)]


def test_what_scores_know_together_and_on_average():
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(400, 2))
    changed = hidden.sum(1) > 0.5
    noise = generator.normal(size=(400, 3))
    alone = memorized.together([hidden[:, :1]], changed, 0)
    assert memorized.together([hidden[:, :1], hidden[:, 1:]], changed, 0) > 0.99 > 0.9 > alone
    assert abs(memorized.together([hidden[:, :1], noise], changed, 0) - alone) < 0.02
    assert memorized.averaged([np.array([[1.0, 2], [0, 9], [0, 1]]), np.array([[5.0], [6], [7]])]).tolist() == [
        1.5, 2.5, 2.0]
