"""What the chapters on photographs measure, on made sets whose answers are known and on embedded ones."""

import numpy as np
import pytest
import torch

from nmfbook import backbones
from nmfbook.annotated import crops
from nmfbook.experiments import colocalization, cosegmentation, image_retrieval, tracking
from nmfbook.experiments.cosegmentation import counts, object_set, selections, summary
from nmfcore.segmentation import THRESHOLD, iou

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def student():
    return backbones.load("student")


@pytest.fixture(scope="module")
def cups():
    return object_set("cup", crops("cup"), np.random.default_rng(0))


# --- co-segmentation --------------------------------------------------------------------------------------


def test_the_first_score_of_a_set_is_its_iou(cups):
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(2, *size, generator=generator) > 0.5 for size in cups.sizes]
    scores = cups.scores(masks)
    assert scores.shape == (1 + cosegmentation.DRAWS, 2)
    assert scores[0] == pytest.approx(iou(masks, cups.truth)[:, 0].numpy())
    assert (cups.weights.sum(1) == len(cups.truth)).all() and (cups.scores(cups.truth) == 1).all()


def test_pixels_are_counted_image_by_image():
    first, second = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    first[:, :2], second[:, 1:] = True, True
    shared, union = counts([first, first], [second, first])
    assert shared.tolist() == [[4], [8]] and union.tolist() == [[16], [8]]


def test_a_selection_is_not_judged_on_the_photograph_that_made_it(cups):
    candidates = [[torch.cat([mask, ~mask]) for mask in cups.truth]]
    shared, union = selections(candidates, cups)
    areas = [int(mask.sum()) for mask in cups.truth]
    assert shared.tolist() == [[0 if i == j else area for j, area in enumerate(areas)] for i in range(len(areas))]
    assert (shared == union).all()


def test_gaps_are_to_the_own_method():
    values = np.linspace(0.4, 0.6, 101)
    scores = {name: {"NMF": values + shift, "DDT": values} for name, shift in (("a", 0.1), ("b", 0.3))}
    picks = {"both": np.array([[0, 0], [0, 1], [1, 1]] * 40)[:100]}
    found = summary(scores, {"both": ["a", "b"]}, picks, "NMF")
    assert found["gaps"]["both"]["NMF"] == [0] * 5
    assert found["gaps"]["both"]["DDT"] == pytest.approx([0.2, 0.2, 0.2, 0.1, 0.3])
    assert found["means"]["both"]["DDT"][0] == pytest.approx(0.4) and found["sets"]["b"]["NMF"][0] == pytest.approx(0.7)


def test_an_object_is_found_on_embedded_photographs(student, cups):
    scores, _ = cosegmentation.measure_objects(student, cups)
    assert {values.shape for values in scores.values()} == {(1 + cosegmentation.DRAWS,)}
    assert scores["NMF, K = 1"][0] > 0.4 and scores["whole image"][0] > 0.5 and "Grad-CAM" not in scores
    readings = cosegmentation.measure_readings(student, cups).reshape(-1, 4, len(cosegmentation.CONSTANTS))
    at = cosegmentation.CONSTANTS.index(THRESHOLD)
    assert readings[:, 3, at] == pytest.approx(scores["NMF, K = 1"], abs=0.02)  # the rule in use
    starts = cosegmentation.measure_starts(student, cups, [0])
    assert starts["NMF, one-shot"] == pytest.approx([scores["NMF, one-shot"][0]])
    assert cosegmentation.measure_layer(student, cups, student.layer) == pytest.approx(scores["NMF, K = 1"])


def test_parts_of_embedded_photographs(student):
    motorcycle = crops("motorcycle")
    matches = cosegmentation.measure_matches(student, motorcycle)
    assert list(matches) == [f"{side}, K = {K}" for side in (224, 448) for K in (2, 3, 4)]
    for parts, score in matches["224, K = 3"]:
        assert {*parts.split("/")} <= {*motorcycle.names, "background"} and 0 < score <= 1
    whole = cosegmentation.measure_whole(student, motorcycle)
    one = object_set("motorcycle", motorcycle, np.random.default_rng(0))
    assert whole["NMF, 224"] == pytest.approx(cosegmentation.measure_layer(student, one, student.layer)[0])
    depth = cosegmentation.measure_depth(student, "features.7", motorcycle, (2, 3), (0, 1, 2))
    assert np.shape(depth) == (2, 3) and 0 < np.min(depth) <= np.max(depth) < 1


# --- co-localization --------------------------------------------------------------------------------------


def test_hits_need_one_true_box_and_the_bar():
    truth = [[(0, 0, 9, 9)], [(50, 50, 59, 59), (0, 0, 9, 9)], [(0, 0, 9, 9)], [(0, 0, 9, 9)]]
    boxes = [(0, 0, 9, 9), (0, 0, 9, 7), None, (0, 0, 9, 3)]
    assert colocalization.hits(boxes, truth) == [1, 1, 0, 0]
    assert colocalization.hits(boxes, truth, bar=0.9) == [1, 0, 0, 0]


def test_boxes_of_embedded_photographs(student):
    cup = crops("cup")
    scored = colocalization.measure_hits(student, "cup", cup)
    assert scored.hits["nmf 224"] == colocalization.hits(scored.boxes["nmf"], cup.boxes)
    assert scored.hits["whole"] == colocalization.hits([(0, 0, W - 1, H - 1) for H, W in cup.sizes], cup.boxes)
    assert {len(values) for values in scored.hits.values()} == {len(cup)} and len(scored.curves["pca"]) == 11
    at = colocalization.THRESHOLDS.index(THRESHOLD)
    assert scored.curves["nmf"][at] == np.mean(scored.hits["nmf 224"])


def test_a_gap_over_sets_is_wider():
    by_set = {"a": {"nmf 224": [1] * 20, "pca 224": [1, 0] * 10}, "b": {"nmf 224": [0] * 18, "pca 224": [0, 0, 1] * 6}}
    gaps = colocalization.gap_over_sets(by_set, "pca 224")
    over_images = colocalization.mean_corloc(by_set) - colocalization.mean_corloc(by_set, "pca 224")
    assert gaps[0] == pytest.approx(over_images[0]) == pytest.approx((50 - 100 / 3) / 2)
    assert np.quantile(gaps, 0.025) < -20 and np.quantile(gaps, 0.975) > 40 > np.quantile(over_images, 0.975)
    for scored in by_set.values():
        scored |= {"whole": [0] * len(scored[colocalization.OWN])}
        scored |= dict.fromkeys(("kmeans 224", "channel_sum 224"), scored[colocalization.OWN])
    assert colocalization.answers(by_set) == ["holds", "undecided", "undecided", "undecided"]


def test_parts_of_pascal_voc(student, monkeypatch, tmp_path):
    motorcycle, asked = crops("motorcycle"), []
    monkeypatch.setattr(colocalization, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(colocalization, "pascal_part", lambda kind, merged: asked.append((kind, merged)) or motorcycle)
    assert colocalization.measure_parts({"vgg19": student}) == colocalization.Parts({}, {}) and not asked
    (tmp_path / "Annotations_Part").mkdir()
    parts = colocalization.measure_parts({"vgg19": student})
    assert [kind for kind, _ in asked] == [*colocalization.DESCRIBED, *colocalization.PREDICTED]
    assert dict(asked)["cat"]["rbleg"] == "leg" and dict(asked)["cow"]["muzzle"] == "head"
    expected = cosegmentation.measure_matches(student, motorcycle, ranks=(1, 2, 3, 4))["224, K = 3"]
    assert parts.described["cat", 3] == [(name, pytest.approx(score)) for name, score in expected]
    assert dict(parts.predicted[student.label, "cow", 4]).keys() == {*motorcycle.names}
    assert colocalization.labelled([("head/neck", 0.52), ("leg", 0.314)]) == "head/neck 52; leg 31"


# --- retrieval --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collections():
    return image_retrieval.embedded()[0]


def test_embedded_collections(collections):
    objects, stuff = collections["crops"], collections["tiles"]
    assert set(objects.boxes) <= {name.split("/")[0] for name in objects.names} and objects.places is None
    assert [query.image for query in stuff.queries] == stuff.names and not stuff.boxes and stuff.places == 6
    for query in (*objects.queries, *stuff.queries):
        assert {name.split("/")[0] for name in query.positives} == {query.image.split("/")[0]}
    image, = stuff.images(["brick/3"], side=64)
    assert image.shape[0] == 3 and min(image.shape[1:]) == 64


def test_a_query_finds_its_own_kind(student, collections):
    few = {}
    for name, collection in collections.items():
        kinds = dict.fromkeys(query.image.split("/")[0] for query in collection.queries)
        names = [image for image in collection.names if image.split("/")[0] in list(kinds)[:3]]
        queries = [query for query in collection.queries if query.image in names]
        few[name] = image_retrieval.Collection(name, 112, {name: names}, collection.sizes, queries, collection.read,
                                               collection.places, collection.boxes)
    learned = {"crops": "tiles", "tiles": "crops"}
    precision, searched = image_retrieval.measure_precision(student, few, learned, dimensions=8)
    for name, ways in precision.items():
        assert {len(values) for values in ways.values()} == {len(few[name].queries)}
        assert all(0 <= value <= 1 for values in ways.values() for value in values)
        assert np.mean(ways["rmac"]) > 0.6 and "cam" not in ways
        index, vectors = searched[name]["nmf_v"]
        assert index.names == few[name].names and len(vectors) == len(few[name].queries)
    assert precision["crops"].keys() == {way for method in ("mac", "gem", "rmac", "crow", "nmf_v", "nmf_vu")
                                         for way in (method, f"{method} expanded")}


def test_boxes_found_from_a_query(student, collections):
    objects = collections["crops"]
    group = next(iter(objects.boxes))
    few = image_retrieval.Collection("few", 224, objects.groups, objects.sizes, [], objects.read, None,
                                     {group: objects.boxes[group]})
    overlaps = image_retrieval.measure_boxes(student, few)
    n = len(objects.boxes[group])
    assert {what: len(values[group]) for what, values in overlaps.items()} == dict.fromkeys(
        ("NMF", "the query's box, copied", "whole photograph"), n * (n - 1))
    assert np.mean(overlaps["NMF"][group]) > 0.2


# --- tracking ---------------------------------------------------------------------------------------------


def test_a_film_moves_its_outlines_with_it():
    film = tracking.film("flower", 0, 5)
    assert film.frames.shape == (5, 3, 224, 224) and film.masks.shape == (5, 1, 224, 224) and film.masks.any()
    assert torch.equal(film.moves, tracking.path(0, 5)) and not torch.equal(film.moves, tracking.path(1, 5))
    heat = film.masks.float()  # a factor that is the object: it stays, and its mask is the outline
    assert tracking.consistency(heat, film.moves) > 0.99 and tracking.tracking(heat, film.masks) > 0.99
    assert tracking.correlations(heat, film.moves).shape == (4, 1)
    still = tracking.consistency(heat[:1].expand(5, -1, -1, -1), film.moves)  # it does not move with the scene
    assert still < tracking.consistency(heat, film.moves) - 0.5
    assert tracking.consistency(torch.zeros(5, 2, 7, 7), film.moves) == 0


def test_films_are_factorized_in_three_ways(student):
    films = {(name, 0): tracking.film(name, 0, 3) for name in tracking.NAMES}
    results, heatmaps = tracking.measure_films(student, films)
    assert {heat.shape for heat in heatmaps.values()} == {(3, tracking.RANK, 14, 14)} and len(heatmaps) == 12
    assert all(0 < value < 1 for way in results.values() for values in way.values() for value in values)
    means = [np.mean(results[way]["tracking"]) for way in ("joint", "streaming")]
    assert tracking.gap(results, "joint", "streaming", "tracking")[0] == pytest.approx(100 * (means[0] - means[1]))
    assert tracking.described(films).startswith("4 camera moves of 3 frames")
