"""What the chapter on NMF as a regularizer reads from its columns, on made ones, and one small network of each kind."""

import numpy as np
import pytest
import torch

from nmfbook.experiments import regularization
from nmfbook.experiments.regularization import (
    LEVELS,
    METHODS,
    SCALES,
    Scale,
    best,
    chosen,
    gained,
    settings_of,
    verdict,
)
from nmfcore.regularization import NMFPerturbation

pytestmark = pytest.mark.usefixtures("one_thread")


def columns():
    """Two networks of each setting; of dropout the second setting is the best on held-out images, not on new ones."""
    lines = []
    for p in LEVELS:
        for run in (1, 2):
            for method, settings in METHODS.items():
                for i, setting in enumerate(settings):
                    held_out = 0.5 + 0.2 * (method == "dropout") * (i == 1)
                    test = 0.4 + 0.1 * (method == "dropout") * (i + 1) + 0.01 * run * (method == "NMF")
                    lines.append({"p": p, "run": run, "method": method, "setting": setting, "validation": held_out,
                                  "test": test})
    return {key: [line[key] for line in lines] for key in lines[0]}


def test_the_setting_is_chosen_on_held_out_images():
    table = columns()
    assert settings_of(table, "dropout") == list(METHODS["dropout"])
    assert chosen(table, 0.2, "dropout") == "rate 0.3"
    assert best(table, 0.2, "dropout", "test") == pytest.approx([0.6, 0.6])


def test_gains_are_paired_differences_with_their_verdict():
    table = columns()
    mean, low, high = gained(table, 0.0, "NMF", "test")
    width = 12.7062 * np.std([0.01, 0.02], ddof=1) / np.sqrt(2)  # Student's quantile for two pairs
    assert (mean, low, high) == pytest.approx((0.015, 0.015 - width, 0.015 + width), abs=1e-5)
    assert gained(table, 0.0, "channel dropout", "test") == [0, 0, 0]
    assert [verdict([0, *bounds]) for bounds in ((1, 2), (-2, -1), (-1, 1))] == ["holds", "fails", "undecided"]


def test_only_the_middle_setting_is_measured_where_not_all_are():
    assert [regularization.middle(method) for method in ("none", "dropout", "NMF")] == ["–", "rate 0.3", "K = C/8"]
    assert not SCALES["quick"].every_setting and SCALES["desk"].every_setting


def test_noise_stands_behind_the_chosen_layers():
    data = regularization.data_sets("quick")
    make = METHODS["NMF, implicit"]["K = C/8"]
    model = regularization.network(data, SCALES["quick"], make, 1)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, NMFPerturbation)]
    assert [name.partition(".")[0] for name, _ in layers] == list(regularization.PLACES)
    assert {module.gradient for _, module in layers} == {"implicit"}
    assert [module.rank for _, module in layers] == [4, 8]  # of 32 and 64 channels
    plain = regularization.network(data, SCALES["quick"], None, 1)
    assert torch.equal(next(plain.parameters()), next(model.parameters()))  # the same network otherwise


def test_a_measurement_repeats_itself():
    data = regularization.data_sets("quick")
    scale = Scale(1, 50, 1, 50, 1 / 8, False)
    first, second = (regularization.measure(data, scale, 0.2, 1, "NMF", "K = C/8") for _ in range(2))
    assert first == second and all(0 <= first[key] <= 1 for key in ("validation", "test", "best test", "training"))
