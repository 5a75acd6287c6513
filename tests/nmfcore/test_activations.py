"""Feature maps as matrices; capturing and replacing what a layer puts out; reflection padding."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nmfcore.activations import capture, evaluation_mode, reflection_padding, replaced, to_maps, to_matrix

torch.set_num_threads(1)
side = st.integers(1, 5)


def images(n=4, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
                         nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(inplace=True),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)).eval()


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken on purpose")


# --- matrices and maps --------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(side, side, side, side)
def test_to_maps_inverts_to_matrix(n, C, H, W):
    maps = torch.arange(n * C * H * W).float().reshape(n, C, H, W)
    matrix = to_matrix(maps)
    assert matrix.shape == (n * H * W, C)
    assert torch.equal(to_maps(matrix, maps.shape), maps)
    assert torch.equal(to_matrix(to_maps(matrix, maps.shape)), matrix)
    other = to_maps(matrix[:, :1], maps.shape)  # U has K columns, not C
    assert torch.equal(other, maps[:, :1])


def test_a_row_of_the_matrix_is_one_position():
    maps = torch.rand(2, 3, 4, 5)
    matrix = to_matrix(maps)
    for n, h, w in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 3, 4), (1, 2, 3)]:
        assert torch.equal(matrix[(n * 4 + h) * 5 + w], maps[n, :, h, w])


def test_a_matrix_of_a_fully_connected_layer_passes_through():
    matrix = torch.rand(6, 3)
    assert to_matrix(matrix) is matrix and to_maps(matrix, matrix.shape) is matrix


def test_signals_are_images_of_one_line():
    signals = torch.rand(3, 5, 7)
    matrix = to_matrix(signals)
    assert torch.equal(matrix, to_matrix(signals[:, :, None])) and torch.equal(to_maps(matrix, signals.shape), signals)
    with pytest.raises(ValueError, match="21 rows cannot be 3 maps of 8"):
        to_maps(matrix, (3, 5, 8))


def test_shapes_that_are_neither():
    for shape in [(3,), (1, 2, 3, 4, 5)]:
        with pytest.raises(ValueError, match=r"\(n, C\), \(n, C, L\) or \(n, C, H, W\)"):
            to_matrix(torch.zeros(shape))
    with pytest.raises(ValueError, match="7 rows cannot be 2 maps of 2 × 2"):
        to_maps(torch.zeros(7, 3), (2, 9, 2, 2))
    assert to_maps(torch.zeros(0, 3), (0, 9, 2, 2)).shape == (0, 3, 2, 2)


# --- capture ------------------------------------------------------------------------------------------------


def test_capture_equals_a_forward_pass_by_hand():
    model, x = small(), images()
    found = capture(model, ["4", "1", "2"], x)  # in any order
    assert list(found) == ["4", "1", "2"] and hooks(model) == 0
    with torch.no_grad():
        torch.testing.assert_close(found["1"], model[:2](x))  # though the ReLU after it works in place
        torch.testing.assert_close(found["2"], model[:3](x))
        torch.testing.assert_close(found["4"], model[:5](x))
    assert (found["1"] < 0).any() and (found["2"] >= 0).all()
    assert not any(value.requires_grad for value in found.values())


def test_capture_from_a_resnet():
    torch.manual_seed(0)
    model, x = torchvision.models.resnet18(weights=None).eval(), images(2, 64)
    found = capture(model, ["layer2.1", "relu", "layer4", "fc"], x)
    with torch.no_grad():
        early = model.relu(model.bn1(model.conv1(x)))
        middle = model.layer2(model.layer1(model.maxpool(early)))
        late = model.layer4(model.layer3(middle))
        for name, expected in dict(zip(found, (middle, early, late, model(x)), strict=True)).items():
            torch.testing.assert_close(found[name], expected)


@pytest.mark.parametrize("layers", [["layer1.0.relu"], ["layer1.0.relu", "layer2"], ["layer2", "layer1.0.relu"]])
def test_a_module_that_runs_twice_gives_its_first_output(layers):
    torch.manual_seed(0)
    model, x = torchvision.models.resnet18(weights=None).eval(), images(2, 32)
    block = model.layer1[0]
    with torch.no_grad():
        before = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        expected = block.relu(block.bn1(block.conv1(before)))
    torch.testing.assert_close(capture(model, layers, x)["layer1.0.relu"], expected)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 100])
def test_splitting_the_batch_changes_nothing(batch_size):
    model, x = small(), images(5)
    whole, split = capture(model, ["2", "7"], x), capture(model, ["2", "7"], x, batch_size=batch_size)
    for name in whole:
        torch.testing.assert_close(split[name], whole[name])


def test_later_layers_do_not_run():
    model = nn.Sequential(*small()[:3], Broken())
    assert capture(model, "2", images(), batch_size=2)["2"].shape == (4, 4, 16, 16)
    assert hooks(model) == 0


def test_the_inputs_and_the_model_stay_as_they_are():
    model, x = small(), images()
    before, state, expected = x.clone(), {k: v.clone() for k, v in model.state_dict().items()}, model(x)
    capture(model, ["2", "4"], x)
    assert torch.equal(x, before) and torch.equal(model(x), expected)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.is_grad_enabled() and not model.training


def test_hooks_are_removed_after_an_error():
    model = nn.Sequential(*small()[:3], Broken(), nn.ReLU())
    with pytest.raises(RuntimeError, match="on purpose"):
        capture(model, ["2", "4"], images())
    assert hooks(model) == 0
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        capture(nn.Sequential(nn.Linear(7, 2)), "0", images())


def test_an_unknown_layer_names_the_candidates():
    model = torchvision.models.resnet18(weights=None)
    with pytest.raises(ValueError, match=r"no layer 'layer3.relu'; it has layer3, layer3.0, .*layer3.1.bn2") as error:
        capture(model, ["layer1", "layer3.relu"], images())
    assert "layer4" not in str(error.value) and hooks(model) == 0
    with pytest.raises(ValueError, match=r"no layer 'features.3'; it has conv1, .*avgpool, fc"), \
            replaced(model, {"features.3": torch.relu}):
        pass


def test_a_layer_that_is_never_reached_is_named():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.used(x)

    model = Partial()
    with pytest.raises(ValueError, match=r"did not reach unused$"):
        capture(model, ["used", "unused"], images())
    assert hooks(model) == 0


def test_a_layer_whose_output_is_not_a_tensor():
    model = nn.Sequential(nn.LSTM(3, 2))
    with pytest.raises(ValueError, match="layer '0' gives a tuple"):
        capture(model, "0", torch.rand(4, 3))
    assert hooks(model) == 0


# --- replaced -----------------------------------------------------------------------------------------------


def test_replacing_by_the_identity_changes_nothing():
    model, x = small(), images()
    expected = model(x)
    with replaced(model, {"2": lambda maps: maps, "4": torch.clone}) as same:
        assert same is model
        assert torch.equal(model(x), expected)
    assert hooks(model) == 0


def test_replacing_by_zero_silences_the_layer():
    model, x = small(), images()
    expected = model(x)
    with replaced(model, {"2": torch.zeros_like}):
        out = model(x)
        found = capture(model, "2", x)["2"]
    silent = model[3:](torch.zeros(1, 4, 16, 16)).expand_as(out)
    torch.testing.assert_close(out, silent)
    assert torch.equal(model(x), expected) and hooks(model) == 0
    assert (found == 0).all()  # a later hook sees the replaced output


def test_several_layers_each_get_their_own_function():
    model, x = small(), images()
    with replaced(model, {"2": lambda maps: 2 * maps, "4": lambda maps: maps + 1}):
        out = model(x)
    torch.testing.assert_close(out, model[5:](model[3:5](2 * model[:3](x)) + 1))


def test_replacements_are_removed_after_an_exception():
    model, x = small(), images()
    expected = model(x)
    with pytest.raises(KeyError), replaced(model, {"2": torch.zeros_like}):
        raise KeyError
    assert hooks(model) == 0 and torch.equal(model(x), expected)


# --- evaluation mode ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [False, True])
def test_each_module_gets_back_the_mode_it_had(failing):
    model = nn.Sequential(small(), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    model.train()
    model[0][1].eval()
    model[2].eval()
    model[2][1].train()
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2

    def within():
        with evaluation_mode(model) as same:
            assert same is model and not any(module.training for module in model.modules())
            with evaluation_mode(model[2]):
                pass
            assert not any(module.training for module in model.modules())
            if failing:
                raise KeyError

    if failing:
        with pytest.raises(KeyError):
            within()
    else:
        within()
    assert [module.training for module in model.modules()] == before
    model.eval()
    with evaluation_mode(model):
        pass
    assert not any(module.training for module in model.modules())


# --- reflection padding -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("options", [
    dict(kernel_size=3, padding=1), dict(kernel_size=5, padding=2, stride=2), dict(kernel_size=3, padding=(1, 0)),
    dict(kernel_size=(3, 5), padding=(1, 2), groups=2), dict(kernel_size=3, padding=2, dilation=2),
    dict(kernel_size=3, padding="same"), dict(kernel_size=4, padding="same"),
])
def test_reflection_padding_equals_padding_by_hand(options):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 6, **options), torch.rand(2, 4, 9, 8)
    zeros = layer(x)
    with reflection_padding(nn.Sequential(layer)):
        out = layer(x)
    padding = options["padding"]
    if padding == "same":
        total = options["kernel_size"] - 1
        padding = (total // 2, total - total // 2)
        margins = (*padding, *padding)
    else:
        rows, columns = padding if isinstance(padding, tuple) else (padding, padding)
        margins = (columns, columns, rows, rows)
    padded = nn.functional.pad(x, margins, mode="reflect")
    bare = {key: value for key, value in options.items() if key in ("stride", "dilation", "groups")}
    torch.testing.assert_close(out, nn.functional.conv2d(padded, layer.weight, layer.bias, **bare))
    assert not torch.allclose(out, zeros)
    assert torch.equal(layer(x), zeros)


def test_a_constant_image_has_no_border():
    model, x = small(), torch.full((1, 3, 16, 16), 0.7)
    with reflection_padding(model):
        flat = capture(model, ["0", "4"], x)
    bordered = capture(model, ["0", "4"], x)
    for name in ("0", "4"):
        spread = [(maps[name] - maps[name][..., 8:9, 8:9]).abs().max() for maps in (flat, bordered)]
        assert spread[0] < 1e-5 < 1e-2 < spread[1]


def test_zeros_come_back_and_other_modes_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
                          nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)))

    def modes():
        return [module.padding_mode for module in model.modules() if isinstance(module, nn.Conv2d)]

    before = modes()
    with pytest.raises(KeyError), reflection_padding(model) as same:
        assert same is model
        with reflection_padding(model):
            pass
        assert modes() == ["reflect", "circular", "zeros", "reflect"]
        raise KeyError
    assert modes() == before == ["zeros", "circular", "zeros", "zeros"]


def test_captured_outputs_carry_gradients_when_asked():
    model, inputs = small(), images().requires_grad_()
    plain = capture(model, ["2", "4"], inputs)
    found = capture(model, ["2", "4"], inputs, gradient=True)
    assert all(torch.equal(found[name], plain[name]) and not plain[name].requires_grad for name in plain)
    slope, = torch.autograd.grad(found["2"].square().sum() + found["4"].sum(), inputs)
    by_hand, = torch.autograd.grad(model[:3](inputs).square().sum() + model[:5](inputs).sum(), inputs)
    assert torch.allclose(slope, by_hand, atol=1e-6) and slope.abs().sum() > 0 and not hooks(model)
