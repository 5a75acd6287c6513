"""Pictures of the rows of V: of every rank, in one order, and what the network says of them counted rightly."""

import numpy as np
import pytest
import torch

from nmfbook import backbones, datasets
from nmfbook.experiments.feature_visualization import measure_rows, own_and_other
from nmfcore.heatmaps import factorize
from nmfcore.matching import correlation
from nmfcore.visualization import responses


@pytest.fixture(scope="module")
def student():
    return backbones.load("student")


def test_pictures_of_rows(student, one_thread):
    photographs = datasets.image_set("motorcycle", size=96).images
    rows = measure_rows(student, student.layer, photographs, (2, 3), side=48, steps=12)
    assert [tuple(maps.shape[:2]) for maps in rows.maps] == [(2, 2), (2, 3)]
    assert [tuple(pictures.shape) for pictures in rows.pictures] == [(2, 3, 48, 48), (3, 3, 48, 48)]
    alike = correlation(rows.maps[1], rows.maps[0])[:2]
    assert (alike.argmax(1) == torch.arange(2)).all()  # a factor keeps its place
    V = factorize(student.maps(student.preprocess(photographs)), 2).factors.V
    own = responses(student.model, student.preprocess(rows.pictures[0]), V, layer=student.layer)
    assert torch.allclose(own, rows.cosines[0], atol=1e-4)
    assert float(own.diagonal().min()) > rows.noise
    assert list(rows.results()) == ["2", "3", "noise"] and rows.results()["noise"] == rows.noise


def test_own_and_other():
    results = {"3": [[0.9, 0.1, 0.3], [0.2, 0.5, 0.6], [0.0, 0.4, 0.7]]}
    own, other, count = own_and_other(results, 3)
    assert (own, other, count) == (pytest.approx(0.7), pytest.approx((0.3 + 0.6 + 0.4) / 3), 2)
    assert own_and_other({"1": np.ones((1, 1))}, 1) == (1, -1, 1)
