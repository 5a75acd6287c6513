import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nmfcore import stopping
from nmfcore.stopping import EarlyStopping, first_maximum, smoothed


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def stopper(model=None, **settings):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(12, 6, generator=generator)
    return EarlyStopping(model or small(), "2", inputs, torch.arange(12) % 3, **settings)


@pytest.fixture
def replay(monkeypatch):
    """Replay a sequence of AuC; the model's bias counts the checks."""
    def run(values, radius):
        given = iter(values)
        monkeypatch.setattr(stopping, "accuracy_curve", lambda *_, **__: SimpleNamespace(auc=next(given)))
        found = stopper(radius=radius, ranks=[1])
        for i in range(len(values)):
            nn.init.constant_(found.model[3].bias, i)
            found.model[1].running_mean.fill_(i)
            if found.check():
                break
            assert len(found._weights) <= radius + 2
        return found
    return run


def test_moving_average_is_truncated_at_the_ends():
    assert smoothed([0, 3, 6, 0], 1) == [1.5, 3, 3, 3]
    assert smoothed([], 2) == []


@pytest.mark.parametrize(("values", "index"), [
    ([1, 3, 2, 5, 0], 1), ([1, 3, 3, 2], 2), ([1, 2, 3], None), ([3, 2, 1], None), ([2, 1, 3, 3], None),
    ([0.1] * 9, None), ([3, 1, 2, 1], 2), ([], None), ([1, 1, 2, 2, 3, 0], 4),
])
def test_first_maximum(values, index):
    assert first_maximum(values, 0) == index


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3])
def test_rounding_makes_no_maximum(value):
    assert first_maximum([value] * 30, 4) is None


def test_a_maximum_found_online_is_the_first_offline(replay):
    draw = random.Random(0)
    for _ in range(60):
        radius, values = draw.randrange(4), [draw.randrange(4) / 4 for _ in range(14)]
        online, offline = replay(values, radius), first_maximum(values, radius)
        if online.best is None:  # not certain yet: it depends on values that may still come
            assert offline is None or offline + 1 + radius >= len(values)
        else:
            assert online.best == offline
            assert len(online.auc) == offline + 2 + radius  # no later than it can be known
            online.restore()
            assert (online.model[3].bias == offline).all()
            assert (online.model[1].running_mean == offline).all()


def test_a_check_changes_nothing_and_repeats():
    model = small().train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, found = torch.get_rng_state(), stopper(model)
    assert not found.check() and not found.check()
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and model[1].training and not model[2].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.auc[0] == found.auc[1] and 0 < found.auc[0] <= 1
    assert list(found.ranks) == [1, 2, 4, 8] and found.seconds > 0


def test_errors(replay):
    with pytest.raises(ValueError, match="radius"):
        stopper(radius=-1)
    with pytest.raises(ValueError, match="radius"):
        smoothed([1], -1)
    with pytest.raises(ValueError, match="finite"):
        smoothed([float("nan")], 1)
    with pytest.raises(ValueError, match="method"):
        stopper(method="svd")
    with pytest.raises(ValueError, match="no maximum"):
        stopper().restore()
    found = replay([0, 1, 0], 0)
    with pytest.raises(ValueError, match="is found"):
        found.check()
