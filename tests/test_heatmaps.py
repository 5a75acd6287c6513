"""Heatmaps: normalization, a planted example with a known answer, matching against brute force."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from nmfcore.heatmaps import Heatmaps, correlation, heatmaps, match, normalized

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(12 * 36, 2)).eval()


class Planted(nn.Module):
    """Red and green light up disjoint groups of channels, each with its own strengths."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.register_buffer("signatures", torch.tensor([[1.0, 2, 0, 0, 0.5], [0, 0, 3, 1, 0], [0, 0, 0, 0, 0]]))

    def forward(self, x):
        return self.relu(torch.einsum("nchw,ck->nkhw", x, self.signatures))


@pytest.fixture
def planted():
    """Five images with a red and a green blob that never overlap; images 3 and 4 lack one of them."""
    x = torch.zeros(5, 3, 12, 10)
    for n in range(5):
        if n != 3:
            x[n, 0, n:n + 4, 1:4] = 0.2 + 0.2 * n * random(4, 3, seed=n)
        if n != 4:
            x[n, 1, 3:6, 5 + n // 2:8 + n // 2] = 0.1 + random(3, 3, seed=10 + n)
    return x


def test_planted_blobs_are_recovered(planted):
    result = heatmaps(Planted(), planted, 2, layer="relu")
    assert isinstance(result, Heatmaps) and result.maps.shape == (5, 2, 12, 10)
    truth = normalized(planted[:, :2])
    order = match(result.maps, truth)
    torch.testing.assert_close(result.maps[:, order], truth, atol=1e-3, rtol=0)
    signatures = Planted().signatures[:2]
    torch.testing.assert_close(result.factors.V[order], signatures / signatures.norm(dim=1, keepdim=True),
                               atol=1e-3, rtol=0)
    assert result.maps[3, order[0]].max() < 1e-3 < 0.5 < result.maps[3, order[1]].max()  # absent stays dark


def test_permuting_the_images_permutes_the_maps(planted):
    # The start depends on the order of the rows, so this holds where the answer does not depend on the start.
    order = torch.tensor([4, 2, 0, 1, 3])
    plain, permuted = (heatmaps(Planted(), x, 2, layer="relu").maps for x in (planted, planted[order]))
    factors = match(permuted, plain[order])
    torch.testing.assert_close(permuted[:, factors], plain[order], atol=1e-3, rtol=0)


@pytest.mark.parametrize("n, K", [(1, 1), (1, 3), (6, 4), (3, 20)])
def test_maps_lie_in_0_1_and_each_factor_reaches_1(n, K):
    result = heatmaps(network(), random(n, 3, 12, 12), K, layer="1", batch_size=2)
    assert result.maps.shape == (n, K, 12, 12)
    assert result.factors.U.shape == (n * 144, K) and result.factors.V.shape == (K, 12)
    assert result.maps.min() >= 0 and result.maps.max() <= 1
    peaks = result.maps.amax((0, 2, 3))
    assert ((peaks == 1) | (peaks == 0)).all() and (peaks == 1).any()


def test_maps_are_the_columns_of_u_in_place():
    result = heatmaps(network(), random(2, 3, 12, 12), 3, layer="1")
    U = result.factors.U.reshape(2, 12, 12, 3)
    torch.testing.assert_close(result.maps[1, 2, 5, 7], U[1, 5, 7, 2] / U[..., 2].max())


def test_normalization_is_over_the_set_not_per_image():
    maps = torch.stack([torch.full((1, 2, 2), 4.0), torch.full((1, 2, 2), 1.0)])
    assert normalized(maps)[:, 0, 0, 0].tolist() == [1, 0.25]


def test_a_silent_layer_gives_dark_maps():
    result = heatmaps(Planted(), torch.zeros(2, 3, 6, 6), 2, layer="relu")
    assert (result.maps == 0).all()
    assert (normalized(torch.zeros(1, 2, 3, 3)) == 0).all()


def test_several_ranks_at_once_equal_single_ones():
    model, x = network(), random(3, 3, 12, 12)
    several = heatmaps(model, x, [1, 3], layer="1", seed=4)
    assert [result.maps.shape[1] for result in several] == [1, 3]
    assert torch.equal(several[1].maps, heatmaps(model, x, 3, layer="1", seed=4).maps)
    assert not torch.equal(several[1].maps, heatmaps(model, x, 3, layer="1", seed=5).maps)


def test_resized():
    result = heatmaps(Planted(), random(2, 3, 6, 5), 2, layer="relu")
    large = result.resized((24, 20))
    assert large.shape == (2, 2, 24, 20) and large.min() >= 0 and large.max() <= 1
    torch.testing.assert_close(result.resized((6, 5)), result.maps)


@pytest.mark.parametrize("images, layer, message", [
    (random(2, 3, 12, 12), "0", r"layer '0' has negative outputs \(down to -.*name the ReLU"),
    (random(2, 3, 12, 12), "4", r"layer '4' gives \(2, 2\), not feature maps"),
    (random(2, 3, 12, 12), "9", "no layer '9'"),
    (random(3, 12, 12), "1", r"\(n, 3, H, W\).*\(3, 12, 12\)"),
    (random(0, 3, 12, 12), "1", r"n ≥ 1.*\(0, 3, 12, 12\)"),
])
def test_bad_input(images, layer, message):
    with pytest.raises(ValueError, match=message):
        heatmaps(network(), images, 2, layer=layer)
    with pytest.raises(ValueError, match="rank 0"):
        heatmaps(network(), random(1, 3, 12, 12), 0, layer="1")


# --- matching -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, K, L", [(1, 1, 1), (3, 3, 3), (2, 2, 5), (2, 4, 5)])
def test_match_is_the_best_of_all_assignments(n, K, L):
    for seed in range(5):
        maps, reference = random(n, L, 4, 3, seed=seed), random(n, K, 4, 3, seed=seed + 100)
        order = match(maps, reference)
        assert sorted(order.tolist()) == list(range(L))
        scores = correlation(reference, maps)

        def total(chosen, scores=scores):
            return sum(float(scores[k, l]) for k, l in enumerate(chosen))

        best = max(total(chosen) for chosen in itertools.permutations(range(L), K))
        assert total(order[:K].tolist()) == pytest.approx(best)


def test_match_finds_a_permutation():
    reference = random(2, 4, 5, 5)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(reference[:, order][:, match(reference[:, order], reference)], reference)


def test_match_refuses_sets_that_differ():
    for maps, reference in [((2, 3, 4, 4), (3, 3, 4, 4)), ((2, 3, 4, 4), (2, 3, 4, 5)), ((2, 2, 4, 4), (2, 3, 4, 4))]:
        with pytest.raises(ValueError, match=r"must cover the same images as reference \("):
            match(torch.rand(maps), torch.rand(reference))


def test_correlation_is_that_of_numpy():
    first, second = random(3, 2, 4, 5), random(3, 4, 4, 5, seed=1)
    rows = [maps.permute(1, 0, 2, 3).reshape(maps.shape[1], -1).numpy() for maps in (first, second)]
    np.testing.assert_allclose(correlation(first, second), np.corrcoef(*rows)[:2, 2:], atol=1e-6)
    torch.testing.assert_close(correlation(first, first).diagonal(), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(correlation(5 * first + 3, -first).diagonal(), -torch.ones(2, dtype=torch.float64))


def test_a_constant_map_correlates_with_nothing():
    flat, other = torch.full((3, 1, 5, 7), 0.1), torch.cat([torch.full((3, 1, 5, 7), 0.3), random(3, 1, 5, 7)], 1)
    for dtype in (torch.float32, torch.float64):
        assert correlation(flat.to(dtype), other.to(dtype)).abs().max() < 1e-6
    values = torch.linspace(0, 1, 50, dtype=torch.float64).expand(3, 5, 7, 50).permute(0, 3, 1, 2)  # 50 constant maps
    assert (correlation(values, values) == 0).all()  # though the mean of a constant is rounded
