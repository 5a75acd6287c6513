"""The experiment on parts of five kinds: what the parts are, and what is measured of them, on a network by hand."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from nmfbook import ledger
from nmfbook.architectures import memorization_network
from nmfbook.experiments import importance as experiment
from nmfbook.experiments.importance import KINDS, Job, Subject, cheap_scores, measure, parts_of, subset_curves, tail_of
from nmfbook.ledger import LARGEST, key, text_of
from nmfbook.measuring import DIGITS
from nmfbook.records import rounded
from nmfcore.activations import capture
from nmfcore.importance import masked_logits, removal_curves, subsets

pytestmark = pytest.mark.usefixtures("one_thread")
A = torch.rand(4, 6, 5, 4, generator=torch.Generator().manual_seed(0))
SEEN = torch.rand(4, 5, 4, generator=torch.Generator().manual_seed(1))


def tail(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(120, 3)).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_what_their_kind_says(kind):
    parts = parts_of(kind, A, 5, SEEN, seed=0)
    assert parts.shape == (4, 5, 6, 5, 4) and torch.equal(parts, parts_of(kind, A, 5, SEEN, seed=0))
    left = A - parts.sum(1)
    if kind == "positions":
        assert torch.allclose(left, torch.zeros(()), atol=1e-6)
        sizes = parts.norm(dim=2).gt(0).sum((2, 3))
        assert sizes.tolist() == [[4] * 5] * 4
        for i in range(4):
            means = [float(SEEN[i][parts[i, k].norm(dim=0) > 0].mean()) for k in range(5)]
            assert means == sorted(means, reverse=True)
    elif kind == "channels":
        silent = left.square().sum((0, 2, 3)) == 0
        assert silent.sum() == 5 and torch.equal(left[:, ~silent], A[:, ~silent])
        assert int(A.square().sum((0, 2, 3)).argmin()) == int(torch.nonzero(~silent))
    elif kind == "pca":
        rows = A.movedim(1, -1).reshape(-1, 6)
        singular = torch.linalg.svdvals(rows)
        assert float(left.square().sum()) == pytest.approx(float(singular[5:].square().sum()), rel=1e-3)
        assert (parts < 0).any()
    else:
        assert (parts >= 0).all()
    nmf, other = (parts_of(which, A, 5, SEEN, seed=0) for which in ("nmf", "random"))
    assert torch.allclose(nmf.norm(dim=2), other.norm(dim=2), atol=1e-5)  # as strong, in the same places
    assert not torch.allclose(nmf, other, atol=0.1)


def test_cheap_scores_of_a_linear_network_are_what_they_are_by_hand():
    network, parts = tail(), parts_of("nmf", A, 3, SEEN, seed=0)
    scores = cheap_scores(network, A, parts, SEEN)
    small = 1e-3
    with torch.no_grad():
        before = network(A).softmax(1)
        chosen = before.argmax(1)
        for k in range(3):
            after = network(A - small * parts[:, k]).softmax(1)
            slope = (before - after)[range(4), chosen] / small
            assert scores["gradient"][:, k] == pytest.approx(slope.numpy(), rel=0.02, abs=1e-4)
            assert scores["strength"][:, k] == pytest.approx(parts[:, k].flatten(1).norm(dim=1).numpy(), rel=1e-5)
            places = parts[:, k].norm(dim=1)
            cosine = (SEEN * places).sum((1, 2)) / places.flatten(1).norm(dim=1)
            assert scores["grad_cam"][:, k] == pytest.approx(cosine.numpy(), rel=1e-5)


@pytest.mark.parametrize("rank", [5, 7])
def test_what_is_measured_of_a_class(rank):
    network = nn.Sequential()
    network.layer, network.rest = nn.ReLU(), tail()
    with torch.no_grad():
        label = int(network(A).argmax(1).mode().values)
    job = Job("digits", "digits", "positions", rank)
    found = measure(job, Subject(network, {label: A, (label + 1) % 3: A}, "none", "0"))
    assert found["right"][0] > found["right"][1] and len(found["deletion"]) == 2
    deletion, insertion, energy = (found[f"{name}_curve"] for name in ("deletion", "insertion", "energy"))
    assert len(deletion) == len(insertion) == len(energy) == rank + 1
    assert deletion[0] == pytest.approx(insertion[-1]) == pytest.approx(np.mean(found["probability"]))
    assert deletion[-1] == pytest.approx(insertion[0]) and energy[0] == 0 and energy[-1] == pytest.approx(1)
    assert np.all(np.diff(energy) > 0) and found["energy"][0] == pytest.approx(np.trapezoid(energy) / rank)
    assert np.mean(found["deletion"]) == pytest.approx(np.trapezoid(deletion) / rank)
    for i in range(2):
        assert found["promotes"][i] + found["hurts"][i] + found["nothing"][i] == pytest.approx(1)
    assert (np.array(found["standard_error"]) > 0).all() == (rank > 6)
    assert np.mean(found["deletion"]) <= np.mean(found["deletion by Grad-CAM"]) + 0.02


def test_curves_that_are_looked_up_are_those_that_are_run():
    network = nn.Sequential()
    network.layer, network.rest = nn.ReLU(), tail()
    parts, scores = parts_of("nmf", A, 4, SEEN, seed=0), torch.rand(4, 4)
    run = removal_curves(network, "layer", A, parts, scores)
    values = masked_logits(network, "layer", A, parts, subsets(4)).double().softmax(-1)[:, range(4), run.classes]
    for curve, looked_up in zip((run.deletion, run.insertion), subset_curves(values, scores), strict=True):
        assert torch.allclose(curve, looked_up, atol=1e-6)


def test_the_tail_is_the_rest_of_the_network():
    x = torch.rand(2, 3, 16, 16)
    model = memorization_network("cifar10", shape=(3, 16, 16), width=1 / 16).eval()
    with torch.no_grad():
        assert torch.allclose(tail_of(model, "conv2_3")(capture(model, "conv2_3", x)["conv2_3"]), model(x), atol=1e-6)
    for name in ("squeezenet1_1", "vgg11"):  # the form of vgg19, with fewer layers
        model, x = torchvision.models.get_model(name, weights=None).eval(), torch.rand(1, 3, 64, 64)
        layer = {"squeezenet1_1": "features.12", "vgg11": "features.19"}[name]
        with torch.no_grad():
            assert torch.allclose(tail_of(model, layer)(capture(model, layer, x)[layer]), model(x), atol=1e-5)


def test_a_job_fits_into_a_file():
    curve, by_class = [0.1234] * 11, [-0.1234] * 10
    found = {name: curve for name in experiment.CURVES} | {str(i) * 12: by_class for i in range(13)}
    entry = ledger.Entry("importance", {"kind": "nmf"}, {}, rounded(found, DIGITS), {})
    assert len(text_of(entry)) < LARGEST - 1500
    assert len({key(job) for job in experiment.jobs()}) == 30
