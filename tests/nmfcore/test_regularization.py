"""NMF as noise in training: what it passes on, and its gradients, against scipy and finite differences."""

import copy

import pytest
import torch
from scipy.optimize import nnls
from torch import nn

from nmfcore import nmf
from nmfcore.regularization import NMFPerturbation, project


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_project_finds_the_closest_point_of_the_cone(generator):
    A, V = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((20, 7), (4, 7)))
    expected = torch.stack([torch.from_numpy(nnls(V.T.numpy(), row.numpy())[0]) @ V for row in A])
    assert torch.allclose(project(A, V, sweeps=2000), expected, atol=1e-10)


@pytest.mark.parametrize("signed", [False, True])
def test_the_gradient_of_project_is_that_of_finite_differences(generator, signed):
    A, V = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((6, 5), (3, 5)))
    A = (A - 0.4 * signed).requires_grad_()
    active = (project(A, V, sweeps=800) @ torch.linalg.pinv(V) > 1e-9)
    assert active.any() and not active.all()  # some factors are at their bound
    assert torch.autograd.gradcheck(lambda A: project(A, V, sweeps=800), (A,), eps=1e-6, atol=1e-4)


def test_equal_rows_of_V_have_a_gradient(generator):
    A, row = torch.rand(3, 4, generator=generator).requires_grad_(), torch.rand(1, 4, generator=generator)
    twice, = torch.autograd.grad(project(A, row.expand(2, -1)).sum(), A)
    once, = torch.autograd.grad(project(A, row).sum(), A)
    assert torch.allclose(twice, once, atol=1e-3)


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("shape", [(40, 12), (16, 12, 7), (15, 12, 4, 3)])
def test_what_is_passed_on_lies_between_the_activations_and_their_approximation(generator, shape, strength):
    A = torch.rand(shape, generator=generator)
    layer = NMFPerturbation(3, strength=strength).train()
    torch.manual_seed(0)
    passed = layer(A)
    rows = A if A.dim() == 2 else A.movedim(1, -1).reshape(-1, 12)
    approximation = project(rows, layer.dictionary, sweeps=3)
    approximation = approximation if A.dim() == 2 else approximation.reshape(len(A), *shape[2:], 12).movedim(-1, 1)
    r = ((passed - approximation) / (A - approximation)).flatten(1)
    assert 1 - strength - 1e-3 < r.min() < 1.2 - strength and 0.8 < r.max() < 1 + 1e-3
    assert torch.allclose(r, r[:, :1].expand_as(r), atol=1e-2)
    assert float(r[:, 0].std()) > 0.05 and passed.shape == A.shape  # each sample has its own
    assert torch.equal(layer.eval()(A), A)


def test_the_dictionary_follows_what_it_sees(generator):
    A = torch.rand(200, 3, generator=generator) @ torch.rand(3, 20, generator=generator)
    layer = NMFPerturbation(3).train()
    torch.manual_seed(0)
    for _ in range(300):
        layer(A)
    error = float((project(A, layer.dictionary) - A).norm() / A.norm())
    assert error < max(0.02, 2 * float(nmf(A, 3).error))
    assert torch.allclose(layer.dictionary.norm(dim=1), torch.ones(3))


def test_gradients(generator):
    A = torch.rand(30, 8, generator=generator).requires_grad_()
    weights, found = torch.rand(30, 8, generator=generator), {}
    for kind in ("identity", "implicit"):
        layer = NMFPerturbation(2, gradient=kind).train()
        for step in range(3):
            torch.manual_seed(step)
            passed = layer(A)
        found[kind], = torch.autograd.grad((weights * passed).sum(), A)
        torch.manual_seed(step)
        r = 1 - torch.rand(30, 1)
    assert torch.allclose(found["identity"], weights)
    through, = torch.autograd.grad((weights * project(A, layer.dictionary, sweeps=3)).sum(), A)
    assert torch.allclose(found["implicit"], through + r * (weights - through), atol=1e-4)


def test_only_the_chosen_steps_are_perturbed(generator):
    A, layer = torch.rand(10, 6, generator=generator), NMFPerturbation(1, every=3).train()
    assert [not torch.equal(layer(A), A) for _ in range(7)] == [True, False, False, True, False, False, True]
    layer.eval()
    assert layer.seen == 7
    assert torch.equal(NMFPerturbation(1, strength=0).train()(A), A)


def test_it_lives_in_a_network_that_is_trained_saved_and_copied(generator):
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), NMFPerturbation(4), nn.Linear(16, 2))
    x = torch.rand(20, 5, generator=generator)
    model.train()(x).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))
    fresh = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), NMFPerturbation(4), nn.Linear(16, 2))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(x), model(x))


@pytest.mark.parametrize("arguments", [dict(rank=0), dict(rank=2, every=0), dict(rank=2, strength=1.5),
                                       dict(rank=2, gradient="none"), dict(rank=2, sweeps=0)])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=str(list(arguments.values())[-1])):
        NMFPerturbation(**arguments)


def test_bad_activations(generator):
    with pytest.raises(ValueError, match="after a ReLU"):
        NMFPerturbation(2).train()(torch.randn(5, 4, generator=generator))
    with pytest.raises(ValueError, match="exceeds the 4 channels"):
        NMFPerturbation(5).train()(torch.rand(5, 4, generator=generator))
    zeros = torch.zeros(5, 4)
    assert torch.equal(NMFPerturbation(2).train()(zeros), zeros)
