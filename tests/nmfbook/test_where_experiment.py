"""Objects found without labels: the split, rules on made scenes, and choices that see the choosing half alone."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from nmfbook.experiments import where
from nmfbook.experiments.colocalization import GROUPS
from nmfbook.experiments.cosegmentation import DEVELOPMENT, TEST
from nmfbook.experiments.where import DDT, ONE_FACTOR, PLAIN, RULES, SPLIT, Job, Rule
from nmfbook.ledger import LARGEST, Entry, text_of
from nmfcore.heatmaps import factorize
from nmfcore.matching import stability
from nmfcore.segmentation import binarize, box, iou, multi_scale, single_maps
from nmfcore.selection import choose_rank

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def few():
    """Three digits of the made scenes."""
    whole = where.photographs("digits")
    return replace(whole, sets={name: whole.sets[name] for name in "035"})


def test_the_split_follows_the_alphabet_and_no_set_is_on_both_sides():
    masks, boxes = SPLIT["masks"], SPLIT["boxes"]
    assert masks["choosing"] == (*DEVELOPMENT, *TEST[1::3]) and TEST == tuple(sorted(TEST))
    assert sorted((*masks["choosing"], *masks["measured"])) == sorted((*DEVELOPMENT, *TEST))
    assert (boxes["choosing"], boxes["measured"]) == (GROUPS[::2], GROUPS[1::2]) and GROUPS == tuple(sorted(GROUPS))
    for parts in SPLIT.values():
        names = [name for part in parts.values() for name in part]
        assert len(names) == len({*names})


def test_scenes_show_their_digit_where_the_outline_says():
    for scene, mask in zip(where.scenes(3).pictures, where.scenes(3), strict=True):
        assert scene.shape == (3, 96, 128) and mask.shape == (1, 96, 128)
        inside = scene[:, mask[0]]
        assert float(inside.std(1).max()) == 0 and 0.02 < float(mask.float().mean()) < 0.3


def test_rules_are_told_apart_and_do_what_they_say():
    assert len({rule.name for rule in RULES}) == len(RULES) and PLAIN in RULES
    maps, sizes = [torch.ones(1, 6, 8)], [(48, 64)]
    maps[0][0, 0, 0] = 2
    plain = where.masks_of(maps, [], sizes, Rule(0.6))
    assert all(torch.equal(*pair) for pair in zip(plain, binarize(maps, sizes, threshold=0.6), strict=True))
    corners = where.masks_of(maps, [], sizes, Rule(0.6, centred=True))[0][0]
    assert plain[0].all() and corners[24, 32] and not corners[0, 0] and not corners[-1, -1]


def test_digits_are_measured_rule_by_rule(few):
    job = where.jobs()[0]
    found = where.measure(job, few)
    assert {*found} == {rule.name for rule in RULES} and all(len(values) == 3 for values in found.values())
    maps, _ = where.maps_of(job, "3", few.sets["3"])
    direct = iou(binarize(maps, few.sets["3"].sizes), few.sets["3"].masks)
    assert found[PLAIN.name][1] == round(1000 * float(direct))
    assert np.mean(found["0.75, GrabCut"]) > 1.5 * np.mean(found[PLAIN.name])  # edges of digits are sharp
    whole = where.measure(replace(job, network="", sides="", method="whole"), few)
    covered = [float(torch.stack(one.masks).float().mean()) for one in few.sets.values()]
    assert [*whole.values()] == [[round(1000 * share) for share in covered]]


def test_maps_of_two_networks_are_those_of_each_added(few):
    job = Job("digits", "student", "96", "pca", precision="float32")
    ([alone, *_], _), ([twice, *_], _) = (where.maps_of(replace(job, network=name), "3", few.sets["3"])
                                          for name in ("student", "student+student"))
    assert torch.allclose(2 * alone, twice, rtol=1e-4, atol=1e-4)


def test_a_number_of_factors_is_chosen_from_the_maps_alone(few, monkeypatch):
    monkeypatch.setattr(where, "COUNTS", (3, 4, 5))
    only = replace(few, sets={"3": few.sets["3"]})
    job = Job("digits", "student", "96", where.HELD_OUT, precision="float32")
    features = where.features("student", 96, "digits", "3", "float32", "cpu")
    A = torch.cat([each.flatten(1).mT for each in features])
    expected = choose_rank(A, (3, 4, 5)).rank, 3 + int(stability(features, (3, 4, 5)).mean(1).argmax())
    for method, count in zip((where.HELD_OUT, where.STABLE), expected, strict=True):
        found = where.measure(replace(job, method=method), only)
        assert found[where.FACTORS] == [count] and {*found} == {where.FACTORS, *(rule.name for rule in RULES)}
        maps, _ = where.maps_of(replace(job, method=method), "3", few.sets["3"])
        same = multi_scale(single_maps(features, "nmf", rank=count))
        assert all(torch.equal(*pair) for pair in zip(maps, same, strict=True))


def test_compactness_is_one_less_the_share_of_the_variance_of_positions():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 5, 7, generator=generator), torch.rand(2, 4, 4, generator=generator)]
    maps[0][1], maps[1][1] = 0, 0
    maps[0][1, 2, 3] = 5  # one position alone
    inside = of_uniform = 0.0
    for each in maps:
        h, w = each.shape[1:]
        places = np.stack(np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij"), -1).reshape(-1, 2)
        mass = each[0].double().numpy().ravel()
        for axis in range(2):
            inside += mass.sum() * np.cov(places[:, axis], aweights=mass, ddof=0)
            of_uniform += mass.sum() * places[:, axis].var()
    assert where.compactness(maps).tolist() == pytest.approx([1 - inside / of_uniform, 1])
    assert where.compactness(torch.ones(2, 3, 4, 4)).tolist() == pytest.approx([0, 0, 0])


def test_other_weights_than_of_the_border(few, monkeypatch):
    job = Job("digits", "student", "96", where.COMPACT, precision="float32")
    features = where.features("student", 96, "digits", "3", "float32", "cpu")
    monkeypatch.setattr(where, "features", lambda *given: features)
    factors = factorize(features, 6).maps
    border, compact = where.off_border(factors) ** 2, where.compactness(factors) ** 2
    for method, weights in ((where.COMPACT, compact), (where.AGREEING, border)):  # each agrees with itself
        maps, _ = where.maps_of(replace(job, method=method), "3", few.sets["3"])
        total = multi_scale([(weights[:, None, None] * each).sum(0, keepdim=True) for each in factors])
        assert all(torch.allclose(mine, of_set.float(), atol=1e-5) for mine, of_set in zip(maps, total, strict=True))
    halves = where.agreeing(factors, [torch.cat([-each[:3], each[3:]]) for each in factors])
    assert torch.allclose(halves[3:], torch.ones(3).double()) and (halves[:3] < 0.99).all()


def test_hits_are_those_of_the_largest_part():
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 2:10, 2:10], mask[0, 15:17, 15:17] = True, True
    truth = [[(2, 2, 9, 9)], [(15, 15, 16, 16)], [box(mask[0])]]
    assert where.hits([mask, mask, torch.zeros_like(mask)], truth) == "100"


# --- choices ----------------------------------------------------------------------------------------------


def entries(kind):
    return [Entry("where", asdict(job), {}, found, {}) for job, found in where.synthetic(kind)]


@pytest.mark.parametrize("data", ["masks", "boxes"])
def test_what_is_measured_chooses_nothing(data):
    holds, fails = (where.table(entries(kind), data) for kind in ("holds", "fails"))
    best = where.chosen(holds, data)
    assert best == where.chosen(fails, data) == ("vgg19", "224", "6 factors", "0.6, GrabCut")
    assert where.chosen(holds, data, "nmf") == ("vgg19", "224", "nmf", "0.6, GrabCut")
    assert where.chosen(holds, data, "pca")[2] == "pca"
    assert {best, DDT, ONE_FACTOR} <= {*holds}
    assert where.score(holds[best], SPLIT[data]["measured"]) > where.score(fails[best], SPLIT[data]["measured"])
    assert where.score(holds[best], SPLIT[data]["choosing"]) == where.score(fails[best], SPLIT[data]["choosing"])


def test_the_table_of_the_page_needs_a_whole_scale():
    assert where.compared(entries("holds")[:-1], "masks") and not where.compared(entries("holds")[:3], "masks")
    counted = [replace(entry, measurements=entry.measurements | {where.FACTORS: [6] * 16})
               if entry.job["method"] in where.UNSUPERVISED else entry for entry in entries("holds")]
    lines = where.compared(counted, "masks")
    choice, parts = lines["best rule"]
    assert where.described(choice) == "6 factors, VGG-19, 224 px, 0.6, GrabCut"
    assert parts["measured"][0] == pytest.approx(0.9)
    choice, parts = lines["one factor, thesis"]
    assert choice == ONE_FACTOR and parts["choosing"] == pytest.approx((0.5, 0.5, 0.5))


def test_the_table_of_other_numbers_and_weights():
    lines = where.compared_alternatives(entries("holds"), "boxes")
    assert {*lines} == {*where.SUMS, *where.ALTERNATIVES} and lines["6 factors"][0] == where.chosen(
        where.table(entries("holds"), "boxes"), "boxes", "6 factors")
    assert lines[where.HELD_OUT][1]["measured"][0] == 1 > lines["6 factors"][1]["measured"][0] == pytest.approx(0.9)
    without = [entry for entry in entries("holds") if entry.job["method"] != where.COMPACT]
    assert where.compared_alternatives(without, "boxes") == {} != where.compared(without, "boxes")


def test_the_largest_measurement_fits_a_file_of_the_ledger():
    sizes = {"masks": 16, "boxes": 6}
    provenance = {"data": {"source": "x" * 120, "sha256": "0" * 64}, "versions": "x" * 300}
    for data, count in sizes.items():
        values = [round(1000 / 3)] * count if data == "masks" else ["1" * 50] * count
        job = next(job for job in where.jobs() if job.data == data)
        entry = Entry("where", asdict(job), {}, {rule.name: values for rule in RULES}, provenance)
        assert len(text_of(entry).encode()) < LARGEST
