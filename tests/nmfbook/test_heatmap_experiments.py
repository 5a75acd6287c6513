"""What the chapter on heatmaps measures: on maps whose answer is known, on its record, and on embedded photographs."""

import json
from contextlib import nullcontext

import pytest
import torch

from nmfbook import backbones, datasets, records
from nmfbook.experiments import heatmaps as experiment
from nmfbook.experiments.heatmaps import Facts, Hierarchy
from nmfcore.activations import reflection_padding

pytestmark = pytest.mark.usefixtures("one_thread")
FACTS = Facts(77, (50, 49, 51), (6, 5, 7))


@pytest.fixture(scope="module")
def student():
    return backbones.load("student")


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def rows(monkeypatch):
    """What is reported, by row, and the verdicts."""
    reported = {}
    monkeypatch.setattr(records, "glue", lambda name, value: reported.update({name.removeprefix("row:"): value}))
    return reported


# --- hierarchies --------------------------------------------------------------------------------------------


def nested(n=3):
    """Maps of ranks 1 to 3 on 2 × 4 positions: at every rank a factor of the rank before is cut in two, and each
    photograph has all at other places."""
    maps = []
    for cuts in ([8], [4, 4], [4, 2, 2]):
        factors = torch.zeros(len(cuts), 8)
        start = 0
        for k, count in enumerate(cuts):
            factors[k, start:start + count] = 1
            start += count
        maps.append(torch.stack([factors.roll(3 * i, 1).reshape(-1, 2, 4) for i in range(n)]))
    return maps


def test_factors_that_were_cut_in_two_lie_on_their_parents():
    share, swapped = experiment.nesting(nested())
    assert share == pytest.approx(1) and len(swapped) == 2 and max(swapped) < 0.8


def test_maps_that_follow_no_parent_lie_on_it_as_over_other_photographs():
    share, swapped = experiment.nesting([random(6, K, 8, 8, seed=K) for K in (1, 2, 3)])
    assert share == pytest.approx(sum(swapped) / len(swapped), abs=0.03)


def test_a_line_of_the_record_holds_what_was_measured():
    maps = nested()
    found = Hierarchy("student, cups", random(3, 3, 4, 4), random(3, 5, 2, 4), [], maps,
                      torch.tensor([[1.0, 1.0], [0.5, 0.9], [0.8, 0.7]]))
    line = experiment.line(found)
    assert line.endswith(" | 100 % (100 to 100 %) | 0.50 / 0.70")
    [(key, known)] = experiment.read([line]).items()
    assert key == ("student", "cups") and known.share == 100
    assert known.swapped == pytest.approx(experiment.facts(found).swapped, abs=0.5)
    assert experiment.starts_agree([found]) == {"unstable": 2, "figures": 3, "worst": 0.5,
                                                "worst_where": "student, cups, K = 2"}


def test_the_hierarchy_of_photographs(student):
    images = datasets.image_set("motorcycle", size=96).images
    found = experiment.hierarchy("student, motorcycle", student, images, starts=2)
    assert [tuple(maps.shape[:2]) for maps in found.maps] == [(2, 1), (2, 2), (2, 3), (2, 4)]
    assert found.agreement.shape == (4, 1) and (found.agreement <= 1 + 1e-6).all()
    for fit, maps in zip(found.fits, found.maps, strict=True):  # the same maps in another order
        torch.testing.assert_close(maps.sum(1), fit.maps.sum(1))
    assert torch.equal(found.features, experiment.features_of(student, images, nullcontext))


# --- the border, PCA, zeros ---------------------------------------------------------------------------------


def test_an_even_map_has_at_the_border_what_is_due_to_it():
    features = torch.ones(2, 4, 6, 8)
    assert experiment.concentration(features) == pytest.approx(1, abs=0.1)
    features[:, :, 1:-1, 1:-1] = 0
    assert experiment.concentration(features) == pytest.approx(1 / (1 - 4 * 6 / 48), abs=1e-3)


def test_errors_at_the_border_of_a_crop(student):
    images = datasets.image_set("motorcycle", size=208).images
    errors = experiment.crop_errors(student, images)
    assert set(errors) == {"zeros", "reflection"} and all(error.shape == (2,) for error in errors.values())
    seen = [experiment.features_of(student, images, padding) for padding in (nullcontext, reflection_padding)]
    assert not torch.equal(*seen) and (errors["zeros"] != errors["reflection"]).all()
    flat = experiment.crop_errors(student, torch.full((1, 3, 208, 208), 0.5))  # reflected, it goes on as it is
    assert flat["reflection"] < flat["zeros"]


def test_zeros():
    assert experiment.zeros([torch.tensor([0.0, 1, 2, 0]), torch.tensor([[3.0, 0], [0, 0]])]) == pytest.approx(62.5)


def test_pca_explains_more_and_has_signs(student):
    comparison = experiment.beside(student, datasets.image_set("motorcycle", size=96).images)
    assert comparison.error["PCA"] < comparison.error["NMF"] < 100
    assert comparison.maps["NMF"].min() >= 0 > comparison.maps["PCA"].min()
    assert comparison.negative == pytest.approx(100 * float((comparison.maps["PCA"] < 0).double().mean()))


def test_outlines_are_those_of_the_photographs(student):
    photographs, maps, references = experiment.outlined(student, 2, side=96)
    assert list(photographs) == list(experiment.OUTLINED) and len(maps) == len(references) == 4
    for (name, photograph), factors, masks in zip(photographs.items(), maps, references, strict=True):
        assert photograph.shape[:2] == masks[name].shape and factors.shape[0] == 2
        assert 0.1 < masks[name].float().mean() < 0.6
        assert all(not (mask & ~masks[name]).any() for mask in masks.values())
    assert list(references[0]) == ["motorcycle", "frame", "engine", "seat", "wheel"]


# --- rows ---------------------------------------------------------------------------------------------------


def test_the_record_answers_its_rows(rows):
    recorded = records.load("heatmaps")
    experiment.report(recorded.values, experiment.read(recorded.values["hierarchy"]), recorded.used, recorded=True)
    assert list(rows) == [f"{row}, recorded" for row in ("F4.1", "F4.2", "F4.6", "F4.7", "F4.8", "F4.9", "S4.3")]


VALUES = {"error_first": 90.0, "error_last": 80.0, "alike": 1.0, "beside_NMF": 81.0, "beside_PCA": 80.0,
          "negative": 40.0, "zeros_vgg": "92.4 %", "zeros_resnet": "43.0 %", "zeros_reflected": "42.0 %",
          "zeros_student": "84.0 %"}
SOURCES = {"network": "VGG-19", "second network": "ResNet-50", "photographs": "5 photographs of elephants, iCoseg",
           "more photographs": "6 photographs of gymnasts, iCoseg", "photographs beside PCA": "5 church buildings"}


def reported(rows, known, values=VALUES, sources=SOURCES):
    experiment.report(values, known, sources)
    return {row: json.loads(text)["verdict"] for row, text in rows.items()}


def test_verdicts(rows):
    known = {("VGG-19", "elephants"): FACTS, ("ResNet-50", "elephants"): Facts(66, (54, 54, 55), (64, 62, 65)),
             ("VGG-19", "gymnasts"): Facts(50, (51, 49, 52), (6, 5, 7)),
             ("ResNet-50", "gymnasts"): Facts(48, (51, 49, 52), (3, 2, 4))}
    assert reported(rows, known) == {
        "F4.1": "shown", "F4.2": "shown", "F4.6": "holds at smaller scale", "F4.7": "undecided",
        "F4.8": "holds at smaller scale", "F4.9": "fails at smaller scale", "S4.3": "mixed"}


def test_without_the_networks_nothing_is_claimed_of_them(rows):
    absent = VALUES | dict.fromkeys(("zeros_vgg", "zeros_resnet", "zeros_reflected"), experiment.ABSENT)
    sources = SOURCES | {"network": "student", "photographs beside PCA": "six photographs"}
    found = reported(rows, {("student", "elephants"): FACTS, ("student", "gymnasts"): FACTS}, absent, sources)
    assert {row for row, verdict in found.items() if verdict == "not tested"} == {"F4.2", "F4.8", "F4.9", "S4.3"}


def test_what_is_said_of_the_border():
    values = {"border_first_zeros": [1.0, 2.5], "border_first_reflection": [1.0, 0.5],
              "border_resnet_zeros": [1.2, 1.1], "border_resnet_reflection": [1.3, 1.1]}
    note = experiment.border_note(values, SOURCES)
    assert "do not show here" in note and "the beam under the gymnasts" in note and "original ones" not in note
    assert "original ones" in experiment.border_note(values, SOURCES | {"second network": "local file r.safetensors"})
    quiet = values | {"border_resnet_zeros": [2.0, 1.1], "border_first_zeros": [1.0, 1.5]}
    assert experiment.border_note(quiet, SOURCES) == " "
    student = SOURCES | {"network": "student", "photographs": "two views", "more photographs": "six photographs"}
    assert experiment.border_note({key: value for key, value in values.items() if "first" in key}, student) == " "
