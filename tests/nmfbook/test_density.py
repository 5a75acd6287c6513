"""Four networks that differ in residual connections and normalization, and the zeros in them."""

from dataclasses import replace

import pytest
import torch

from nmfbook.experiments import data, density

pytestmark = pytest.mark.usefixtures("one_thread")
DIGITS = {(job.kind, job.normalized): job for job in density.jobs() if job.data == "digits"}


@pytest.mark.parametrize("kind, normalized", DIGITS)
def test_a_block_is_what_its_name_says(kind, normalized):
    block = density.network(DIGITS[kind, normalized], 1, 10).block2_1.eval()  # half the resolution, twice the channels
    x = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    convolutions = [m for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(convolutions) == 2 + (kind == "residual") and len(norms) == normalized * len(convolutions)
    layers = [lambda x, i=i: (norms[i] if normalized else torch.nn.Identity())(convolutions[i](x))
              for i in range(len(convolutions))]
    expected = layers[1](torch.relu(layers[0](x)))
    if kind == "residual":
        expected = expected + layers[2](x)
    torch.testing.assert_close(block(x), torch.relu(expected))
    assert block(x).shape == (2, 32, 4, 4)


def test_an_identity_is_added_where_the_shape_stays():
    block = density.network(DIGITS["residual", False], 1, 10).block1_2
    with torch.no_grad():
        block.second.weight.zero_()
        x = torch.rand(2, 16, 8, 8)
        assert torch.equal(block(x), x)


def test_zeros_are_counted_on_test_images(tmp_path):
    job = replace(DIGITS["residual", True], epochs=2)
    trained = density.train(job, tmp_path)
    measured, given = density.measure(job, trained), data.load("digits", 100)
    x = trained.model.stem(given.test_inputs)
    shares = []
    for name, block in trained.model.named_children():
        if name.startswith("block"):
            x = block(x)
            shares.append(int(x.count_nonzero()) / x.numel())
    assert measured["outputs"] == pytest.approx(shares) and len(measured["inside"]) == len(shares) == 6
    assert density.deepest(measured) == pytest.approx((shares[4] + shares[5]) / 2)
    assert measured["images"] == 700 and measured["epochs"] == 2
