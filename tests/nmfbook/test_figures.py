"""Overlays of heatmaps on photographs, grids of pictures, and figures whose marks lead to their jobs."""

import matplotlib

matplotlib.use("agg")

import re
from base64 import b64decode
from io import BytesIO

import IPython.display
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from nmfbook import figures, ledger_page
from nmfbook.figures import grid
from nmfbook.ledger import Entry
from nmfcore.heatmaps import COLORS, overlay


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("K", [1, 3, len(COLORS)])
@pytest.mark.parametrize("scale", [1, 1e-3, 1e-30])
def test_an_overlay_stays_in_range(K, scale):
    for images in (random(2, 3, 6, 5), torch.zeros(2, 3, 6, 5), torch.ones(2, 3, 6, 5)):
        for maps in (random(2, K, 6, 5) * scale, torch.full((2, K, 6, 5), float(scale))):
            result = overlay(images, maps)
            assert result.shape == (2, 3, 6, 5) and torch.isfinite(result).all()
            assert result.min() >= 0 and result.max() <= 1 + 1e-6


def test_without_activation_the_photograph_is_grey():
    images = random(2, 3, 6, 5)
    result = overlay(images, torch.zeros(2, 3, 6, 5))
    assert torch.equal(result[:, 0], result[:, 1]) and torch.equal(result[:, 0], result[:, 2])
    grey = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    assert torch.corrcoef(torch.stack([result[:, 0].flatten(), grey.flatten()]))[0, 1] > 0.9999


@pytest.mark.parametrize("k", range(len(COLORS)))
def test_a_lone_factor_has_its_colour(k):
    maps = torch.zeros(1, len(COLORS), 2, 2)
    maps[0, k, 0, 0] = 1
    white = torch.ones(1, 3, 2, 2)
    result = overlay(white, maps, strength=1)
    torch.testing.assert_close(result[0, :, 0, 0], torch.tensor(to_rgb(COLORS[k])))
    torch.testing.assert_close(result[0, :, 1, 1], torch.ones(3))
    half = overlay(white, maps, strength=0.5)[0, :, 0, 0]
    torch.testing.assert_close(half, (1 + torch.tensor(to_rgb(COLORS[k]))) / 2)


def test_the_stronger_factor_gives_the_colour():
    maps = torch.tensor([1.0, 0.1]).view(1, 2, 1, 1)
    result = overlay(torch.ones(1, 3, 1, 1), maps, colors=("#ff0000", "#0000ff"), strength=1)[0, :, 0, 0]
    assert result[0] > 0.95 and result[2] < 0.05
    equal = overlay(torch.ones(1, 3, 1, 1), torch.ones(1, 2, 1, 1), colors=("#ff0000", "#0000ff"), strength=1)
    torch.testing.assert_close(equal[0, :, 0, 0], torch.tensor([0.5, 0, 0.5]))


def test_more_factors_than_colours():
    with pytest.raises(ValueError, match=r"9 factors need more than the 8 colours"):
        overlay(random(1, 3, 2, 2), random(1, 9, 2, 2))
    assert len({to_rgb(color) for color in COLORS}) == len(COLORS)


def test_a_grid_shows_every_picture_and_label():
    figure = grid([random(3, 3, 4, 6), random(2, 4, 6)], titles=["one", "two", "three"], labels=["photo", "map"])
    axes = figure.axes
    assert [len(axis.images) for axis in axes] == [1, 1, 1, 1, 1, 0]
    assert [axis.get_title() for axis in axes] == ["one", "two", "three", "", "", ""]
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == ["photo", "map"]
    assert axes[3].images[0].get_clim() == (0, 1)  # maps share one scale
    plt.close(figure)


NETWORKS = [Entry("memorizing_networks", {"data": "digits", "p": p, "seed": seed}, {}, {"accuracy": [0, p + seed]}, {})
            for p in (0.0, 0.5) for seed in (0, 2)]


def test_curves_over_p_lead_to_their_jobs_and_have_means():
    figure, axes = figures.panels(1, 1)
    figures.by_level(axes[0, 0], NETWORKS, lambda entry: ([0, 1], entry.measurements["accuracy"]))
    linked = [line for line in axes[0, 0].lines if line.get_url()]
    means = [line for line in axes[0, 0].lines if not line.get_url()]
    assert [line.get_url() for line in linked] == [ledger_page.address(entry) for entry in NETWORKS]
    assert [line.get_ydata().tolist() for line in means] == [[0, 1], [0, 1.5]]
    assert [line.get_color() for line in means] == [figures.shade(p) for p in (0, 0.5)] != [figures.shade(0)] * 2
    plt.close(figure)


def test_points_lead_to_their_jobs():
    figure, axes = figures.panels(1, 1)
    figures.points(axes[0, 0], NETWORKS, range(4), range(4), color="red")
    assert [mark.get_urls() for mark in axes[0, 0].collections] == [[ledger_page.address(entry)] for entry in NETWORKS]
    plt.close(figure)


def test_a_figure_with_photographs_is_a_picture_twice_as_fine_as_the_page(monkeypatch):
    figure, _ = figures.panels(1, 2)
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    figures.pictured(figure, name="fig-x", alt='cats & "dogs"', caption="Two <em>panels</em>.")
    html = shown[0].data
    assert 'id="fig-x"' in html and 'alt="cats &amp; &quot;dogs&quot;"' in html and "<em>panels</em>" in html
    data = re.search('src="data:image/webp;base64,([^"]*)"', html)[1]
    assert Image.open(BytesIO(b64decode(data))).width == 2 * 672
    assert not plt.fignum_exists(figure.number)
