import itertools

import numpy as np
import pytest
import scipy.linalg
import sklearn.datasets
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from nmfcore.visualization import COLOR, from_spectrum, responses, to_spectrum, visualize


def identity(images):
    return images


def colours():
    """A layer whose channels are red, green and blue, so that the best picture for a direction is that colour."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.Flatten())
    model[0].weight.data = torch.eye(3)[:, :, None, None]
    return model.train()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, padding=1), nn.ReLU())


def test_the_colour_matrix_is_that_of_the_photographs():
    photographs = [sklearn.datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    pixels = np.concatenate([photograph.reshape(-1, 3) for photograph in photographs])
    assert np.allclose(COLOR, scipy.linalg.sqrtm(np.corrcoef(pixels.T)), atol=1e-4)


def test_a_colour_is_found_where_it_is_the_optimum():
    directions = torch.tensor([[4.0, 2, 1], [0.1, 0.2, 0.4]])
    images = visualize(colours(), directions, layer="1", preprocess=identity, side=32, steps=150, step_size=0.3)
    assert images.shape == (2, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    found = responses(colours(), images, directions, layer="1")
    assert found[0, 0] > 0.95 and found[1, 1] > 0.95  # grey has 0.88
    assert found[0, 1] < 0.7 and found[1, 0] < 0.7  # the directions themselves have 0.57


@pytest.mark.parametrize("objective", ["cosine", "dot_cosine"])
def test_more_steps_come_closer(objective):
    model, directions = network(), torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    few, many = (visualize(model, directions, layer="3", preprocess=identity, side=32, steps=steps, step_size=0.2,
                            objective=objective)
                 for steps in (1, 60))
    rise = (responses(model, many, directions, layer="3") - responses(model, few, directions, layer="3")).diagonal()
    assert (rise > 0.05).all()


def test_the_same_seed_gives_the_same_images_and_others_have_no_influence():
    model, directions = network(), torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    options = {"layer": "3", "preprocess": identity, "side": 32, "steps": 8}
    images = visualize(model, directions, **options)
    with torch.no_grad():
        assert torch.equal(images, visualize(model, directions, **options))
    assert torch.allclose(images[1:2], visualize(model, 5 * directions[1:2], **options), atol=1e-4)
    assert not torch.allclose(images, visualize(model, directions, seed=1, **options), atol=1e-2)


def test_pictures_are_moved_before_each_step_all_alike():
    shown = []

    def watched(images):
        shown.append(images.detach())
        return images

    visualize(network(), torch.ones(2, 6), layer="3", preprocess=watched, side=32, steps=3, step_size=1e-9)
    assert all(images.shape == (2, 3, 32, 32) and torch.equal(*images) for images in shown)
    for before, after in itertools.pairwise(shown):
        assert (before - after).abs().mean() > 0.1 * (before - before.mean()).abs().mean()


def test_model_and_random_state_are_left_as_they_were():
    model = colours()
    state, weights = torch.get_rng_state(), model[0].weight.clone()

    def fails(images):
        raise KeyError("no")

    visualize(model, torch.eye(3), layer="1", preprocess=identity, side=32, steps=2)
    with pytest.raises(KeyError):
        visualize(model, torch.eye(3), layer="1", preprocess=fails, side=32, steps=2)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(model[0].weight, weights)
    assert model.training and model[0].weight.grad is None and model[0].weight.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_responses_are_cosines():
    images = torch.rand(2, 3, 5, 5)
    expected = cosine_similarity(images, torch.tensor([1.0, 2, 3])[None, :, None, None], dim=1).mean((1, 2))
    found = responses(colours(), images, torch.tensor([[2.0, 4, 6]]), layer="1")
    assert torch.allclose(found[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("directions", "options", "message"), [
    (torch.eye(3), {"layer": "9"}, "no layer '9'"),
    (torch.eye(4), {}, "directions of 4 channels do not fit the 3 of '1'"),
    (torch.zeros(1, 3), {}, "direction 0 has length 0"),
    (torch.tensor([[1.0, 0, 0], [float("nan"), 0, 0]]), {}, "direction 1 has length nan"),
    (torch.ones(3), {}, r"must have shape \(n, C\)"),
    (torch.eye(3), {"side": 16}, "side=16 must be at least 32"),
    (torch.eye(3), {"objective": "dot"}, "objective 'dot' is not"),
    (torch.eye(3), {"layer": "2"}, "not feature maps")])
def test_bad_input_is_named(directions, options, message):
    with pytest.raises(ValueError, match=message):
        visualize(colours(), directions, **{"layer": "1", "preprocess": identity, "side": 32, "steps": 1, **options})


def test_dropout_is_off_while_a_picture_is_made():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.5))
    options = dict(layer="2", preprocess=lambda x: x, side=32, steps=3)
    training = visualize(model.train(), torch.eye(4)[:1], **options)
    assert torch.equal(training, visualize(model.eval(), torch.eye(4)[:1], **options))


@pytest.mark.parametrize("side", [32, 33])
def test_a_photograph_comes_back_from_its_spectrum(side):
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    spectrum = to_spectrum(images)
    assert spectrum.shape == (2, 3, side, side // 2 + 1, 2)
    assert torch.allclose(from_spectrum(spectrum, side), images.clamp(1 / 512, 1 - 1 / 512), atol=1e-4)
    assert torch.isfinite(to_spectrum(torch.zeros(1, 3, side, side))).all()
    with pytest.raises(ValueError, match="square"):
        to_spectrum(torch.rand(1, 3, side, side + 1))
