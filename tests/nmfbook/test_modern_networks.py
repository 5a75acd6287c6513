"""Networks whose activations have a sign: what the chapter measures, on networks small enough for a test."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nmfbook import records
from nmfbook.experiments import modern_networks as experiment
from nmfcore.activations import replaced
from nmfcore.signed import Split

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = replace(experiment.SCALES["quick"], runs=2, per_class=3, epochs=2, width=1 / 32, token=8, batch=3)
SHAPE = (1, 16, 16)


@pytest.fixture
def study():
    found = experiment.study("quick")
    kept = torch.arange(len(found.images.labels)) % 30 < 3
    images = replace(found.images, images=found.images.images[kept], labels=found.images.labels[kept])
    return experiment.Study(SMALL, images, found.inputs[kept])


@pytest.mark.parametrize("kind", experiment.PLACES)
def test_halves_change_nothing_and_are_where_they_are_said_to_be(kind):
    model = experiment.network(kind, SMALL, SHAPE, run=1).eval()
    again, other = (experiment.network(kind, SMALL, SHAPE, run=run).eval() for run in (1, 2))
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = model(x)
        assert torch.equal(answers, again(x)) and not torch.equal(answers, other(x))
        for layer in experiment.PLACES[kind].values():
            assert isinstance(model.get_submodule(layer), Split)
            block, place = layer.split(".")
            whole = model.get_submodule(f"{block}.{int(place) + 1}")
            with replaced(model, {whole: torch.zeros_like}):
                assert not torch.equal(answers, model(x))  # the rest of the network relies on it


def test_gelu_is_in_every_convolution():
    layers = [type(module).__name__ for module in experiment.network("GELU", SMALL, SHAPE, 1).modules()]
    assert layers.count("GELU") == layers.count("Conv2d") > 0
    assert "GELU" not in [type(module).__name__ for module in experiment.network("ReLU", SMALL, SHAPE, 1).modules()]


def test_columns(study):
    columns = experiment.columns(study, ["transformer"], methods=("nmf",))
    assert experiment.names(columns) == ["transformer, middle", "transformer, last block"]
    assert {len(values) for values in columns.values()} == {2 * len(experiment.LEVELS) * SMALL.runs}
    assert experiment.of(columns, "transformer, middle", "p").tolist() == [[p] * SMALL.runs for p in experiment.LEVELS]
    for key in ("nmf", "below zero", "split", "semi", "pca error"):
        assert all(0 < value <= 1 for value in columns[key]), key
    for split, semi, pca in zip(columns["split"], columns["semi"], columns["pca error"], strict=True):
        assert pca <= semi + 1e-3 and semi <= split + 1e-3  # the freer, the closer
    assert list(study.learned) == ["transformer"] and "pca" not in columns


def test_what_a_relu_has_is_not_below_zero(study):
    [line] = experiment.measure(study, "ReLU", 0.0, 1, methods=("nmf",))
    assert line["below zero"] == 0 and line["p"] == 0 and line["epochs"] == SMALL.epochs
    assert experiment.clipped(study.learned["ReLU"], "ReLU", study.inputs) == {"ReLU": 1}


def test_cutting_off_what_matters_changes_answers(study):
    model = experiment.network("transformer", SMALL, SHAPE, 1).eval()
    with torch.no_grad():
        model.head[1].weight.normal_(generator=torch.Generator().manual_seed(0))
    shares = experiment.clipped(model, "transformer", study.inputs)
    assert set(shares) == set(experiment.PLACES["transformer"]) and min(shares.values()) < 1


def made(nmf, pca):
    lines = [(p, run) for p in range(3) for run in range(4)]
    return {"network": ["net"] * 12, "nmf": [nmf[p] + 0.01 * run for p, run in lines],
            "pca": [pca[p] + 0.01 * run for p, run in lines]}


def test_who_is_ahead():
    spread = np.std([0, 0.01, 0.02, 0.03], ddof=1)
    gaps = experiment.ahead(made([0.9, 0.8, 0.7], [0.9, 0.9, 0.8]), "net")
    assert gaps.shape == (2001,) and gaps[0] == pytest.approx((0.1 - 0.05) / spread)
    np.testing.assert_allclose(experiment.ahead(made([0.9, 0.8, 0.7], [0.5, 0.4, 0.3]), "net"), 0, atol=1e-9)


def test_the_record_has_what_the_page_asks_for():
    columns = records.load("modern_networks").values["columns"]
    names = experiment.names(columns)
    assert names == [title for places in experiment.PLACES.values() for title in places]
    for name in names:
        assert experiment.of(columns, name, "nmf").shape == (3, experiment.SCALES["desk"].runs)
        assert experiment.told(experiment.of(columns, name, "nmf")).count("to") == 1
