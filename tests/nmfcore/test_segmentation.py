"""Masks, areas, merging and boxes against brute force on random masks; peers against scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch.nn.functional import interpolate

from nmfcore.heatmaps import factorize
from nmfcore.matching import border_share, off_border
from nmfcore.segmentation import (
    Match,
    areas,
    assemble_parts,
    binarize,
    box,
    box_iou,
    containment,
    corloc,
    iou,
    match_parts,
    merge,
    multi_scale,
    mutual_best,
    one_shot,
    refine,
    single_maps,
)

SIZES = [(5, 7), (4, 4), (1, 9)]


def random_masks(K, seed, sizes=SIZES, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(K, *size, generator=generator) < share for size in sizes]


def pixels(masks, k):
    """The pixels of a set that lie in mask k, as a set of coordinates."""
    return {(i, y, x) for i, each in enumerate(masks) for y, row in enumerate(each[k].tolist())
            for x, inside in enumerate(row) if inside}


def ratio(part, whole):
    return len(part) / len(whole) if whole else 0.0


seeds = st.integers(0, 10**6)
shares = st.sampled_from([0.0, 0.1, 0.4, 0.9, 1.0])


# --- areas --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds, shares, shares)
def test_ratios_are_those_of_counted_pixels(seed, first_share, second_share):
    first, second = random_masks(3, seed, share=first_share), random_masks(2, seed + 1, share=second_share)
    found, inside, counted = iou(first, second), containment(first, second), areas(first, second)
    for k, t in itertools.product(range(3), range(2)):
        x, y = pixels(first, k), pixels(second, t)
        assert float(found[k, t]) == pytest.approx(ratio(x & y, x | y))
        assert float(inside[k, t]) == pytest.approx(ratio(x & y, x))
        assert int(counted.shared[:, k, t].sum()) == len(x & y)
        assert [int(n) for n in counted.first[:, k]] == [sum(i == image for i, *_ in x) for image in range(3)]
        assert int(counted.second[:, t].sum()) == len(y)


def test_stacked_masks_count_as_those_in_a_list():
    first, second = (torch.stack(random_masks(2, seed, [(6, 5)] * 4)) for seed in (0, 1))
    torch.testing.assert_close(iou(first, second), iou(list(first), list(second)))
    assert iou(first, first).diagonal().tolist() == [1, 1]


@pytest.mark.parametrize("first, second, message", [
    (random_masks(1, 0), random_masks(1, 0)[:2], "masks of 3 and of 2 images"),
    ([], [], "n ≥ 1"),
    (random_masks(1, 0), [mask.float() for mask in random_masks(1, 0)], r"float32 \(.*\), not bool"),
    (random_masks(1, 0), [mask.mT for mask in random_masks(1, 0)], "of one size"),
    (random_masks(1, 0), [mask[0] for mask in random_masks(1, 0)], r"not bool \(K, H, W\)"),
])
def test_masks_that_do_not_belong_together_are_refused(first, second, message):
    for compare in (iou, containment, areas, merge):
        with pytest.raises(ValueError, match=message):
            compare(first, second)


# --- binarization and peers ---------------------------------------------------------------------------------


def random_maps(K, seed=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(K, *size, generator=generator) ** 3 for size in sizes]


@pytest.mark.parametrize("threshold", [0, 0.3, 0.75])
def test_binarize_compares_with_the_quantile_of_an_exponential_distribution(threshold):
    maps, sizes = random_maps(2), [(11, 9), (4, 4), (3, 20)]
    found = binarize(maps, sizes, threshold=threshold)
    values = [np.concatenate([each[k].flatten().double() for each in maps]) for k in range(2)]
    for each, large, size in zip(maps, found, sizes, strict=True):
        assert large.dtype == torch.bool and large.shape == (2, *size)
        for k in range(2):
            least = np.mean(values[k]) * math.log(1 / (1 - threshold))
            expected = interpolate(each[None, k:k + 1], size=size, mode="bilinear", align_corners=False)[0, 0] > least
            assert torch.equal(large[k], expected)
    assert any(0 < float(mask.float().mean()) < 1 for mask in binarize(maps, sizes))


def test_binarize_does_not_depend_on_scale_or_on_the_other_factors():
    maps, sizes = random_maps(3), SIZES
    known = binarize(maps, sizes)
    scaled = binarize([each * torch.tensor([1e-3, 7, 40])[:, None, None] for each in maps], sizes)
    alone = binarize([each[1:2] for each in maps], sizes)
    stacked = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(known, scaled, strict=True))
    assert all(torch.equal(a[1:2], b) for a, b in zip(known, alone, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(binarize(stacked, [(8, 8)] * 4), binarize(list(stacked), [(8, 8)] * 4),
                                                 strict=True))


def test_a_concept_that_an_image_lacks_stays_out_of_its_mask():
    maps = [torch.full((1, 4, 4), value) for value in (1.0, 0.02)] + [torch.zeros(1, 4, 4)] * 2
    assert [bool(mask.any()) for mask in binarize(maps, [(8, 8)] * 4)] == [True, False, False, False]
    assert not any(mask.any() for mask in binarize([torch.zeros(1, 4, 4)] * 2, [(8, 8)] * 2))


def test_binarize_refuses_what_is_no_probability_and_missing_sizes():
    for threshold in (-0.1, 1, 75):
        with pytest.raises(ValueError, match=f"threshold={threshold} is a probability"):
            binarize(random_maps(1), SIZES, threshold=threshold)
    with pytest.raises(ValueError, match="2 sizes for 3 images"):
        binarize(random_maps(1), SIZES[:2])


@pytest.fixture(scope="module")
def features():
    """Maps of 12 channels, an object of strong activations in the middle of each image."""
    generator = torch.Generator().manual_seed(5)
    object_, ground = torch.rand(2, 12, generator=generator)
    found = []
    for h, w in [(9, 11), (8, 8), (10, 7)]:
        maps = 0.3 * torch.rand(12, h, w, generator=generator) + 0.2 * ground[:, None, None]
        maps[:, 3:6, 2:5] += 3 * object_[:, None, None] * (0.6 + 0.4 * torch.rand(3, 3, generator=generator))
        found.append(maps)
    return found


def rows(features):
    return torch.cat([each.flatten(1).mT for each in features]).double().numpy()


def folded(values, features):
    parts = np.split(values, np.cumsum([each[0].numel() for each in features])[:-1])
    return [part.reshape(each.shape[1:]) for part, each in zip(parts, features, strict=True)]


def test_pca_is_the_positive_part_of_scikit_learns_first_component(features):
    scores = PCA(1, svd_solver="full").fit_transform(rows(features))[:, 0]
    maps = folded(scores, features)
    border = sum(each.clip(0).sum() - each[1:-1, 1:-1].clip(0).sum() for each in maps)
    other = sum((-each).clip(0).sum() - (-each)[1:-1, 1:-1].clip(0).sum() for each in maps)
    maps = folded((scores if border < other else -scores).clip(0), features)
    peak = max(each.max() for each in maps)
    for found, known in zip(single_maps(features, "pca"), maps, strict=True):
        assert found.shape == (1, *known.shape)
        np.testing.assert_allclose(found[0], known / peak, atol=1e-5)
        assert found[0, 3:6, 2:5].min() > found[0, 6:].max()


def test_kmeans_takes_the_cluster_with_fewer_positions_on_the_border(features):
    labels = KMeans(2, n_init=10, random_state=0).fit(rows(features).astype(np.float32)).labels_
    clusters = [folded((labels == c).astype(float), features) for c in range(2)]
    borders = [sum(each.sum() - each[1:-1, 1:-1].sum() for each in cluster) for cluster in clusters]
    for found, known in zip(single_maps(features, "kmeans"), clusters[int(np.argmin(borders))], strict=True):
        np.testing.assert_array_equal(found[0], known)
        assert found.sum() == 9 and found[0, 3:6, 2:5].all()


def test_channel_sum_and_nmf(features):
    total = [each.sum(0) for each in features]
    for found, known in zip(single_maps(features, "channel_sum"), total, strict=True):
        torch.testing.assert_close(found[0], known / max(float(each.max()) for each in total))
    one, two = factorize(features, 1).maps, factorize(features, 2).maps
    for found, known in zip(single_maps(features, "nmf"), one, strict=True):
        torch.testing.assert_close(found, known)
    chosen = [[torch.equal(found[0], known[k]) for k in range(2)]
              for found, known in zip(single_maps(features, "nmf", rank=2), two, strict=True)]
    assert chosen in ([[True, False]] * 3, [[False, True]] * 3)
    assert all(found[0, 3:6, 2:5].mean() > 2 * found[0, 6:].mean() for found in single_maps(features, "nmf", rank=2))


def test_several_factors_add_up_but_for_what_lies_on_the_border(features):
    maps = factorize(features, 3).maps
    uniform = [torch.ones_like(each) for each in maps]
    weights = (1 - border_share(maps) / border_share(uniform)).clamp_min(0)
    torch.testing.assert_close(off_border(maps), weights)
    sums = [(weights.float()[:, None, None] ** 2 * each).sum(0) for each in maps]
    top = max(float(each.max()) for each in sums)
    for found, known in zip(single_maps(features, "nmf", rank=3), sums, strict=True):
        torch.testing.assert_close(found[0], known / top)


def test_off_border_is_one_inside_and_zero_from_uniform_on():
    maps = torch.zeros(2, 4, 6, 6)
    maps[:, 0, 2:4, 2:4], maps[:, 1] = 1, 0.3
    maps[:, 2, 0], maps[:, 3, 1:5, 1:5] = 1, 2
    assert off_border(maps).tolist() == [1, pytest.approx(0, abs=1e-6), 0, 1]
    assert off_border(torch.ones(1, 1, 1, 1)).tolist() == [0]


@pytest.mark.parametrize("method", ["nmf", "pca", "kmeans", "channel_sum"])
def test_single_maps_keep_the_form_of_the_features(features, method):
    stacked = torch.stack([each[:, :7, :7] for each in features])
    found, listed = single_maps(stacked, method), single_maps(list(stacked), method)
    assert found.shape == (3, 1, 7, 7) and isinstance(listed, list) and float(found.max()) == 1
    torch.testing.assert_close(found, torch.stack(listed))
    backwards = single_maps(stacked.flip(0), method).flip(0)
    torch.testing.assert_close(found, backwards, atol=2e-3, rtol=0)


def test_an_unknown_method_is_named(features):
    with pytest.raises(ValueError, match="no method 'saliency'; there are 'nmf'"):
        single_maps(features, "saliency")


# --- merging and matching -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds, shares, st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_merge_unites_the_masks_that_lie_in_a_target(seed, share, threshold):
    masks, targets = random_masks(4, seed, share=0.2), random_masks(3, seed + 1, share=share)
    found = merge(masks, targets, threshold=threshold)
    expected = [(0,), (1,), (2,), (3,)]
    for t in range(3):
        target = pixels(targets, t)
        union = tuple(k for k in range(4) if ratio(pixels(masks, k) & target, pixels(masks, k)) >= threshold)
        if len(union) > 1 and union not in expected:
            expected.append(union)
    assert list(found.members) == expected and len(expected) <= 7
    for i, union in enumerate(expected):
        assert pixels(found.masks, i) == set().union(*(pixels(masks, k) for k in union))


def test_head_and_torso_become_the_target_of_a_factor_that_covers_both():
    head, torso, leg, factor = (torch.zeros(1, 6, 6, dtype=torch.bool) for _ in range(4))
    head[:, :2], torso[:, 2:4], leg[:, 4:], factor[:, :4, :5] = True, True, True, True
    parts = [torch.cat([head, torso, leg])]
    merged = merge(parts, [factor])
    assert merged.members == ((0,), (1,), (2,), (0, 1))
    scores = iou([factor], merged.masks)
    assert mutual_best(scores) == [(0, 3)] and float(scores[0, 3]) == pytest.approx(20 / 24)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_mutual_best_is_the_definition(seed, K, T):
    scores = torch.randint(0, 6, (K, T), generator=torch.Generator().manual_seed(seed)) / 5
    expected = [(k, t) for k in range(K) for t in range(T) if scores[k, t] > 0
                and all(scores[k, t] >= scores[k, other] for other in range(T))
                and all(scores[k, t] >= scores[other, t] for other in range(K))]
    assert mutual_best(scores) == expected


@settings(max_examples=40, deadline=None)
@given(seeds, shares)
def test_match_parts_names_the_factors_that_are_mutual_best(seed, share):
    factors, parts, names = random_masks(3, seed, share=0.3), random_masks(2, seed + 1, share=share), ["leg", "head"]
    counted = {name: pixels(parts, t) for t, name in enumerate(names)}
    everywhere = {(i, y, x) for i, (h, w) in enumerate(SIZES) for y in range(h) for x in range(w)}
    counted["background"] = everywhere - counted["leg"] - counted["head"]
    own = [pixels(factors, k) for k in range(3)]
    targets = [(name,) for name in counted]
    for region in own:
        union = tuple(name for name in counted if ratio(counted[name] & region, counted[name]) >= 0.2)
        if len(union) > 1 and union not in targets:
            targets.append(union)
    regions = [set().union(*(counted[name] for name in union)) for union in targets]
    scores = [[ratio(region & target, region | target) for target in regions] for region in own]
    expected = [(k, targets[t], scores[k][t]) for k in range(3) for t in range(len(targets)) if scores[k][t] > 0
                and scores[k][t] == max(scores[k]) == max(row[t] for row in scores)]
    found = match_parts(factors, parts, names)
    assert [(one.factor, one.parts) for one in found] == [case[:2] for case in expected]
    assert [one.iou for one in found] == pytest.approx([case[2] for case in expected])


def test_a_factor_that_is_no_part_is_background():
    head, torso, ground = (torch.zeros(2, 1, 6, 6, dtype=torch.bool) for _ in range(3))
    head[:, :, :2, :3], torso[:, :, 2:4, :3] = True, True
    ground[:, :, :, 3:] = True
    factors, parts = torch.cat([ground, head | torso], 1), torch.cat([head, torso], 1)
    assert match_parts(factors, parts, ["head", "torso"]) == [
        Match(0, ("background",), pytest.approx(18 / 24)), Match(1, ("head", "torso"), 1.0)]


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([[0], [1, 2], [2, 0]]))
def test_assembled_parts_are_unions_of_the_factors_that_fit_them_best_on_the_given_images(seed, images):
    factors, parts = random_masks(4, seed, share=0.3), random_masks(2, seed + 1, share=0.4)
    few, known = [factors[i] for i in images], [parts[i] for i in images]
    regions = [pixels(known, t) for t in range(2)]
    regions.append({(i, y, x) for i, each in enumerate(known) for y in range(each.shape[1])
                    for x in range(each.shape[2])} - regions[0] - regions[1])
    owned = [[], [], []]
    for k in range(4):
        scores = [ratio(pixels(few, k) & region, pixels(few, k) | region) for region in regions]
        owned[scores.index(max(scores))].append(k)
    found = assemble_parts(factors, parts, images)
    for t in range(2):
        assert pixels(found, t) == set().union(*(pixels(factors, k) for k in owned[t]))
    assert [each.shape for each in found] == [each.shape for each in parts] and found[0].dtype == torch.bool


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 2))
def test_one_shot_takes_the_best_of_all_factors_and_their_union(seed, image):
    candidates = [random_masks(K, seed + K, share=0.3) for K in (2, 4)]
    truth = random_masks(1, seed)[image][0]
    found = one_shot(candidates, image, truth)
    true = {(0, y, x) for y, x in truth.nonzero().tolist()}
    scores = {}
    for i, masks in enumerate(candidates):
        own = {k: pixels([masks[image]], k) for k in range(len(masks[image]))}
        unions = [(k,) for k in own]
        unions.append(tuple(k for k in own if ratio(own[k] & true, own[k]) >= 0.2))
        for union in filter(None, unions):
            region = set().union(*(own[k] for k in union))
            scores[i, union] = ratio(region & true, region | true)
    assert found.iou == pytest.approx(max(scores.values()))
    assert scores[found.candidate, found.members] == pytest.approx(max(scores.values()))
    for i in range(3):
        chosen = candidates[found.candidate][i][list(found.members)].any(0)
        assert torch.equal(found.masks[i], chosen[None])


# --- boxes --------------------------------------------------------------------------------------------------


def flood(mask):
    """Connected components by flooding: lists of (y, x), in reading order of their first pixels."""
    open_, components = {tuple(pixel) for pixel in mask.nonzero().tolist()}, []
    for start in sorted(open_):
        if start not in open_:
            continue
        open_.remove(start)
        queue, component = [start], []
        while queue:
            y, x = queue.pop()
            component.append((y, x))
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in open_:
                    open_.remove(near)
                    queue.append(near)
        components.append(component)
    return components


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]))
def test_box_is_that_of_the_largest_flooded_component(seed, share):
    mask = random_masks(1, seed, [(8, 11)], share)[0][0]
    components = flood(mask)
    if not components:
        assert box(mask) is None
        return
    ys, xs = zip(*max(components, key=len), strict=True)
    assert box(mask) == (min(xs), min(ys), max(xs), max(ys))


def test_pixels_that_touch_at_a_corner_are_two_components():
    assert box(torch.eye(4, dtype=torch.bool)) == (0, 0, 0, 0)


boxes = st.tuples(*[st.integers(0, 9)] * 4).map(lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]),
                                                           max(b[1], b[3])))


@settings(max_examples=100, deadline=None)
@given(boxes, boxes)
def test_box_iou_counts_the_pixels_inside(first, second):
    x, y = ({(i, j) for i in range(b[0], b[2] + 1) for j in range(b[1], b[3] + 1)} for b in (first, second))
    assert box_iou(first, second) == pytest.approx(len(x & y) / len(x | y))


def test_a_box_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match=r"box \(3, 0, 2, 5\) ends before it begins"):
        box_iou((0, 0, 1, 1), (3, 0, 2, 5))


def test_corloc_is_the_share_of_images_with_a_hit():
    truth = [[(0, 0, 9, 9)], [(0, 0, 1, 1), (5, 5, 9, 9)], [(0, 0, 9, 9)], [(0, 0, 9, 9)], []]
    found = [(0, 0, 9, 4), (5, 5, 9, 9), (0, 0, 9, 3), None, (0, 0, 9, 9)]  # IoU 0.5, 1, 0.4, none, nothing to hit
    assert corloc(found, truth) == pytest.approx(2 / 5)
    with pytest.raises(ValueError, match="1 boxes for 2 images"):
        corloc(found[:1], truth[:2])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.none() | boxes, st.lists(boxes, max_size=3)), min_size=1, max_size=5))
def test_corloc_counts_the_images_whose_box_shares_half_of_its_union_with_a_true_one(images):
    def inside(b):
        return {(i, j) for i in range(b[0], b[2] + 1) for j in range(b[1], b[3] + 1)}

    hits = [any(2 * len(inside(found) & inside(true)) >= len(inside(found) | inside(true)) for true in truth)
            for found, truth in images if found is not None]
    found, truth = zip(*images, strict=True)
    assert corloc(found, truth) == pytest.approx(sum(hits) / len(images))


def test_two_sizes_count_alike_whatever_their_scale():
    generator = torch.Generator().manual_seed(0)
    small, large = ([torch.rand(2, scale * h, scale * w, generator=generator) for h, w in ((3, 5), (4, 4))]
                    for scale in (1, 2))
    found = multi_scale([1000 * each for each in small], large)
    flat = [torch.cat([each.flatten() for each in maps]).mean() for maps in (small, large)]
    for both, coarse, fine in zip(found, small, large, strict=True):
        enlarged = interpolate(coarse[None], size=fine.shape[1:], mode="bilinear", align_corners=False)[0]
        assert torch.allclose(both, enlarged / flat[0] + fine / flat[1], atol=1e-5)
    assert all(torch.isfinite(each).all() for each in multi_scale([0 * each for each in small], large))
    thrice = multi_scale(small, large, large)
    assert all(torch.allclose(several, both + fine / flat[1], atol=1e-4)
               for several, both, fine in zip(thrice, found, large, strict=True))
    with pytest.raises(ValueError, match="no maps to add"):
        multi_scale()


# --- masks that follow the photograph -----------------------------------------------------------------------


def bars(count=2, size=(48, 64)):
    """Photographs of a bright bar on a dark ground with noise, maps that find it roughly, and its masks."""
    generator = torch.Generator().manual_seed(0)
    H, W = size
    masks, photographs, maps = [], [], []
    for i in range(count):
        mask = torch.zeros(1, H, W, dtype=torch.bool)
        mask[0, 12 + 8 * i:28 + 8 * i, 13:51] = True
        noise = 0.05 * torch.rand(3, H, W, generator=generator)
        photographs.append(torch.where(mask, torch.tensor([0.9, 0.6, 0.1])[:, None, None], 0.1) + noise)
        coarse = torch.zeros(1, 6, 8)
        coarse[0, 2 + i, 2:6] = 1
        maps.append(coarse)
        masks.append(mask)
    return photographs, maps, masks


def test_refined_masks_follow_edges_that_maps_do_not_see():
    photographs, maps, truth = bars()
    sizes = [mask.shape[1:] for mask in truth]
    assert float(iou(binarize(maps, sizes), truth)) < 0.85
    refined = refine(maps, photographs, side=48)
    assert float(iou(refined, truth)) > 0.97
    small = refine(maps, photographs, side=24)  # cut on a copy of half the size
    assert [mask.shape for mask in small] == [(1, *size) for size in sizes] and float(iou(small, truth)) > 0.9
    scaled = refine([1000 * each for each in maps], photographs, side=48)
    assert all(torch.equal(a, b) for a, b in zip(refined, scaled, strict=True))
    both = refine([torch.cat([each, each]) for each in maps], photographs, side=48)
    assert all(torch.equal(a.repeat(2, 1, 1), b) for a, b in zip(refined, both, strict=True))


def test_where_a_map_says_nothing_there_is_no_mask_to_refine():
    photographs, maps, _ = bars()
    assert not any(mask.any() for mask in refine([0 * each for each in maps], photographs))
    everything = refine([torch.ones(1, 6, 8)] * 2, photographs, threshold=0.1)
    assert all(mask.all() for mask in everything)


def test_refine_refuses_what_is_no_photograph():
    photographs, maps, _ = bars()
    for wrong in (255 * photographs[1], photographs[1].numpy(), photographs[1][0], (255 * photographs[1]).byte()):
        with pytest.raises(ValueError, match=r"photograph 1 is not a floating tensor \(3, H, W\) of RGB in \[0, 1\]"):
            refine(maps, [photographs[0], wrong])
    with pytest.raises(ValueError, match="side=0"):
        refine(maps, photographs, side=0)
    with pytest.raises(ValueError, match="1 sizes for 2 images"):
        refine(maps, photographs[:1])
