"""CAM and Grad-CAM against closed forms and finite differences; nothing is left behind on the model."""

import pytest
import torch
from torch import nn

from nmfcore.cam import cam, grad_cam, predicted_grad_cam

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pooled():
    """Convolution, ReLU, global average pooling, linear: Grad-CAM is CAM divided by the number of positions."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(6, 4)).eval()


@pytest.fixture
def connected():
    """Fully connected layers behind the maps, as in VGG, and ReLUs that work in place."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Linear(20, 8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 3)).eval()


def test_cam_is_the_weighted_sum_of_maps(pooled):
    x = random(3, 3, 7, 5) - 0.5
    maps, weight = pooled[1](pooled[0](x)), pooled[4].weight
    found = cam(pooled, x, [0, 3, 1], layer="1", classifier="4")
    assert found.shape == (3, 1, 7, 5) and not found.requires_grad
    for n, c in enumerate([0, 3, 1]):
        by_hand = sum(weight[c, k] * maps[n, k] for k in range(6)).clamp_min(0)
        torch.testing.assert_close(found[n, 0], by_hand.detach())
    assert (found == 0).any() and (found > 0).any()
    scores = pooled(x)  # without the ReLU, the mean of a class's map is its score without the bias
    whole = torch.einsum("nkhw,ck->nc", maps, weight) / 35 + pooled[4].bias
    torch.testing.assert_close(whole, scores)


def test_cam_takes_a_convolution_for_classifier():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = random(2, 3, 6, 6)
    class_maps = model[:3](x) - model[2].bias[:, None, None]
    torch.testing.assert_close(cam(model, x, 2, layer="1", classifier="2"), class_maps[:, 2:3].relu().detach())


@pytest.mark.parametrize("classes", [2, [1, 0, 3]])
def test_grad_cam_is_cam_up_to_scale_where_maps_are_pooled(pooled, classes):
    x = random(3, 3, 7, 5) - 0.5
    torch.testing.assert_close(35 * grad_cam(pooled, x, classes, layer="1"),
                               cam(pooled, x, classes, layer="1", classifier="4"))


def test_grad_cam_weights_are_finite_differences(connected):
    model, x = connected.double(), random(1, 3, 6, 6).double() - 0.5
    maps = model[:3](x).detach()
    weights = []
    for k in range(5):  # a step that raises channel k everywhere sums its derivatives over positions
        step = torch.zeros_like(maps)
        step[:, k] = 1e-6
        weights.append((model[3:](maps + step) - model[3:](maps - step))[0, 1] / 2e-6 / 36)
    by_hand = (torch.stack(weights)[:, None, None] * maps[0]).sum(0).relu().detach()
    assert by_hand.max() > 0
    torch.testing.assert_close(grad_cam(model, x, 1, layer="2")[0, 0], by_hand, rtol=1e-5, atol=1e-8)


def test_each_image_as_if_alone_whatever_its_size(pooled, connected):
    for model in (pooled, connected):
        images = [random(3, *size, seed=i) - 0.5 for i, size in enumerate([(6, 6), (8, 5), (6, 6), (4, 9)])]
        found = grad_cam(model, images, [0, 1, 2, 0], layer="1", batch_size=2)
        assert [tuple(each.shape) for each in found] == [(1, 6, 6), (1, 8, 5), (1, 6, 6), (1, 4, 9)]
        for image, c, each in zip(images, [0, 1, 2, 0], found, strict=True):
            torch.testing.assert_close(each, grad_cam(model, image[None], c, layer="1")[0])
    sets = cam(pooled, images, 1, layer="1", classifier="4")
    assert isinstance(sets, list) and sets[1].shape == (1, 8, 5)


def test_without_classes_each_image_has_the_one_that_the_model_sees(connected):
    colours = 30 * torch.randn(6, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    images = colours.expand(-1, -1, 6, 6)
    seen = connected(images).argmax(1)
    assert len(seen.unique()) == 3
    torch.testing.assert_close(grad_cam(connected, images, layer="1", batch_size=4),
                               grad_cam(connected, images, seen, layer="1"))


def test_maps_of_the_predicted_classes_come_from_the_maps_and_the_rest_of_the_network(connected):
    images = [random(3, *size, seed=i) - 0.5 for i, size in enumerate([(6, 6), (8, 5), (6, 6), (4, 9), (6, 6)])]
    features = [connected[:2](image[None])[0].detach() for image in images]
    kept = [each.clone() for each in features]
    found = predicted_grad_cam(connected[2:].train(), features, 2, batch_size=2)  # of which the first works in place
    assert connected[7].training and all(torch.equal(*pair) for pair in zip(features, kept, strict=True))
    for image, each in zip(images, found, strict=True):
        first, second = connected.eval()(image[None])[0].argsort(descending=True)[:2].tolist()
        expected = [grad_cam(connected, image[None], c, layer="1")[0, 0] for c in (first, second)]
        torch.testing.assert_close(each, torch.stack(expected))
        assert not each.requires_grad and each.max() > 0


def test_bad_input_to_the_rest_of_the_network(connected):
    features = random(2, 5, 6, 6)
    for top in (0, 4):
        with pytest.raises(ValueError, match=rf"top={top} classes of scores of shape \(2, 3\)"):
            predicted_grad_cam(connected[2:], features, top)
    with pytest.raises(ValueError, match=r"gives \(2, 5, 2, 2\); expected logits \(n, classes\)"):
        predicted_grad_cam(connected[2:4], features, 1)

    class Constant(nn.Module):
        def forward(self, maps):
            return torch.ones(len(maps), 3)

    with pytest.raises(ValueError, match="do not depend on the feature maps"):
        predicted_grad_cam(Constant(), features, 1)


def test_the_model_is_left_as_it_was(connected):
    connected.train()
    connected[0].weight.requires_grad_(False)
    connected[7].eval()
    before = {name: value.clone() for name, value in connected.state_dict().items()}
    with torch.no_grad():
        grad_cam(connected, random(2, 3, 6, 6), 0, layer="1")
        with pytest.raises(ValueError, match="not feature maps"):
            grad_cam(connected, random(2, 3, 6, 6), 0, layer="5")
    assert connected.training and connected[0].training and not connected[7].training
    assert not connected[0].weight.requires_grad and connected[5].weight.requires_grad
    assert all(parameter.grad is None for parameter in connected.parameters())
    assert all(torch.equal(before[name], value) for name, value in connected.state_dict().items())
    assert not any(module._forward_hooks for module in connected.modules())


def test_bad_input(pooled):
    x = random(2, 3, 6, 6)
    for classes in (4, [0], [0, -1]):
        with pytest.raises(ValueError, match=r"one for each of 2 images, from 0 to 3"):
            grad_cam(pooled, x, classes, layer="1")
        with pytest.raises(ValueError, match=r"one for each of 2 images, from 0 to 3"):
            cam(pooled, x, classes, layer="1", classifier="4")
    for classes in (None, 0):
        with pytest.raises(ValueError, match=r"gives \(2, 6, 6, 6\); expected logits \(n, classes\).*as a classifier"):
            grad_cam(pooled[:2], x, classes, layer="1")
    with pytest.raises(ValueError, match="no layer '9'"):
        grad_cam(pooled, x, 0, layer="9")
    for classifier in ("0", "1"):
        with pytest.raises(ValueError, match=r"does not weigh the 6 channels of '1'.*use grad_cam"):
            cam(pooled, x, 0, layer="1", classifier=classifier)
    side = nn.ModuleDict({"used": pooled, "beside": nn.Conv2d(3, 2, 1)})

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = side

        def forward(self, x):
            self.parts["beside"](x)
            return self.parts["used"](x)

    with pytest.raises(ValueError, match=r"do not depend on layer 'parts\.beside'"):
        grad_cam(Both(), x, 0, layer="parts.beside")
