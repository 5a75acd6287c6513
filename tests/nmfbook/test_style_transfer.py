"""What the chapter on style transfer measures, on pictures whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nmfbook.experiments import style_transfer
from nmfbook.experiments.style_transfer import WAYS, at_equal_content, correspondence, scores, square, statistics

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 48


@pytest.fixture(scope="module")
def cases():
    return style_transfer.cases("quick")


def test_each_pair_comes_twice_with_the_hues_exchanged(cases):
    assert [case.name for case in cases] == [name for name in style_transfer.EMBEDDED for _ in range(2)]
    for first, second in zip(cases[::2], cases[1::2], strict=True):
        assert torch.equal(first.content, second.content) and (first.start, second.start) == (0, 1)
        lab = [style_transfer.rgb2lab(case.style.permute(1, 2, 0).numpy()) for case in (first, second)]
        inside, outside = ([colors[mask.numpy()].mean(0)[1:] for colors in lab]
                           for mask in (first.style_inside, ~first.style_inside))
        for here, there in (inside, outside, (inside[0], outside[0]), (inside[1], outside[1])):
            assert here @ there < 0  # opposite hues


def test_the_style_itself_has_no_error_and_is_perfectly_placed(cases):
    case = cases[0]
    same = replace(case, content=case.style, inside=case.style_inside)
    error, placement, kept = scores(same, [square(case.style, SIDE)], SIDE)[0]
    assert (error, placement, kept) == pytest.approx((0, 1, 1), abs=1e-3)


def test_the_true_colours_are_better_placed_than_those_of_the_other_start(cases):
    first, second = cases[:2]  # their hues are exchanged
    right, wrong = (scores(first, [square(case.truth, SIDE)], SIDE)[0] for case in (first, second))
    assert right[0] < wrong[0] and right[1] > 0.5 and wrong[1] < -0.5


def test_true_regions_correspond_and_the_whole_picture_is_chance(cases):
    case = cases[0]
    true = torch.stack([case.inside, case.style_inside])
    masks = torch.stack([true, ~true], 1).float()
    assert correspondence(case, masks) > 0.95
    assert correspondence(case, torch.ones(2, 1, 14, 14)) == pytest.approx(0.5, abs=1e-6)


def test_statistics_within_a_region_are_those_of_its_positions():
    maps = torch.rand(1, 3, 4, 4)
    rows = maps.flatten(2)[0, :, :6].double()  # the first six positions
    mask = torch.zeros(1, 16)
    mask[0, :6] = 1 / 6
    assert torch.allclose(statistics(maps, mask, "gram")[0, 0].reshape(3, 3).double(), rows @ rows.T / 6, atol=1e-5)
    expected = torch.cat([rows.mean(1), (rows.var(1, correction=0) + 1e-6).sqrt()])
    assert torch.allclose(statistics(maps, mask, "moments")[0, 0].double(), expected, atol=1e-4)


def test_errors_are_read_where_as_much_content_is_kept():
    scores_of = np.zeros((1, len(WAYS), 4, 3))
    scores_of[..., 2] = [0.9, 0.8, 0.7, 0.6]
    scores_of[..., 0] = [9, 8, 7, 6]
    scores_of[0, 0, :, 2] = [0.85, 0.8, 0.75, 0.7]  # the global matrix keeps 0.75 at the second strongest weight
    read = at_equal_content({"scores": scores_of, "bounds": np.array([[[10, 0, 1], [0, 0, 1]]])}, 0)
    assert read[0] == pytest.approx([7] + [7.5] * (len(WAYS) - 1))


def test_painting_brings_the_style_nearer(cases):
    painter = replace(style_transfer.painter("quick"), side=32, steps=12)
    case = cases[0]
    masks = style_transfer.regions(painter, case)
    ways = {way: WAYS[way] for way in ("NMF, Gram", "true regions, Gram")}
    wanted = style_transfer.targets(painter, case, masks, ways)
    pictures = style_transfer.transferred(painter, case, masks, ways=ways, weights=[3.0])[:, 0]
    assert pictures.shape == (2, 3, 32, 32)
    start = square(case.content, 32)

    def distance(way, picture):
        layers = style_transfer.capture(painter.model, painter.layers, painter.preprocess(picture[None]))
        return sum(float(((statistics(layers[layer], mine, "gram") - goal).square().sum(2)
                          / goal.square().sum(2)) @ weight)
                   for layer, (mine, weight, goal) in zip(painter.layers, wanted[way], strict=True))
    for way, picture in zip(ways, pictures, strict=True):
        assert distance(way, picture) < 0.7 * distance(way, start)
