"""A change of the package that would move what the ledger holds is noticed, or the measurement's version rises."""

import json

import pytest

from nmfbook import canary
from nmfbook.experiments import memorizing_networks

pytestmark = pytest.mark.usefixtures("one_thread")
CURE = "raise MEASUREMENT in nmfbook/experiments/memorizing_networks.py, then run python -m nmfbook canary"


def areas(thing, path=()):
    """{path: AuC} of everything named auc, and of the batch sizes."""
    if isinstance(thing, dict):
        return {where: value for name, part in thing.items() for where, value in areas(part, (*path, name)).items()}
    if "auc" in path or "batch_sizes" in path:
        values = thing if isinstance(thing, list) else [thing]
        return {(*path, i): value for i, value in enumerate(values)}
    return {}


def moved(found):
    """Mean and largest change of an AuC against what is stored. A single one may move by a hundredth on another
    processor, where sums are taken in another order and NMF ends in another optimum."""
    expected = json.loads(canary.EXPECTED.read_text(encoding="utf-8"))
    assert expected["measurement"] == memorizing_networks.MEASUREMENT, CURE
    before, now = areas(expected), areas(found)
    assert before.keys() == now.keys() and len(before) > 25, CURE
    changes = [abs(before[place] - now[place]) for place in before]
    return sum(changes) / len(changes), max(changes)


def test_the_package_measures_what_it_measured_and_a_change_of_the_curve_is_noticed(monkeypatch):
    original, curves = memorizing_networks.accuracy_curve, []

    def kept(*arguments, **options):
        curves.append(original(*arguments, **options))
        return curves[-1]

    monkeypatch.setattr(memorizing_networks, "accuracy_curve", kept)
    mean, largest = moved(canary.measured())
    assert mean <= 1e-3 and largest <= 0.02, CURE

    measured = iter(curves)

    def shifted(*_arguments, method="nmf", **_options):
        curve = next(measured)
        if method == "nmf":
            curve.accuracy[:, :-1] *= 0.98
        return curve

    monkeypatch.setattr(memorizing_networks, "accuracy_curve", shifted)
    mean, _ = moved(canary.measured())
    assert mean > 1e-3
