"""What the chapters on the memorization bound and on rectangle covers check: the checks must notice what is false."""

import math
from dataclasses import replace

import pytest
import torch

from nmfbook.experiments import memorization_bound as bound
from nmfbook.experiments import rectangle_cover as cover
from nmfbook.experiments.polygons import corners, distances, slack
from nmfcore.information import PointMass, mutual_information

pytestmark = pytest.mark.usefixtures("one_thread")


# --- polygons -----------------------------------------------------------------------------------------------


def test_distances_are_those_to_the_sides():
    n, points = 5, torch.tensor([[0.3, -0.2], [2.0, 1.0]], dtype=torch.float64)
    begin, end = corners(n), corners(n).roll(-1, 0)
    normal = torch.stack([(end - begin)[:, 1], -(end - begin)[:, 0]], 1)
    signed = ((begin - points[:, None]) * normal).sum(2) / normal.norm(dim=1)
    assert torch.allclose(distances(points, n), signed)


@pytest.mark.parametrize("n", [4, 6, 8])
def test_slack_has_rank_three(n):
    S = slack(n)
    assert torch.linalg.matrix_rank(S, rtol=1e-9) == 3 and (S >= 0).all() and ((S == 0).sum(1) == 2).all()


# --- the memorization bound ---------------------------------------------------------------------------------

MEASURED = {"joint": lambda: bound.measure_joint(3), "mixtures": lambda: bound.measure_mixtures(20),
            "labels": lambda: bound.measure_labels(100), "spikes": lambda: bound.measure_spikes([slack(6)], 3)}


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_proved_holds(name):
    checks = MEASURED[name]()
    assert checks.held == checks.cases >= 18 and checks.answer == "holds"


def test_a_chain_out_of_order_is_noticed(monkeypatch):
    def swapped(*given, honest=bound.mixture_information, **options):
        chain = honest(*given, **options)
        return replace(chain, i_F=chain.log_K, H_F=chain.i_F)
    monkeypatch.setattr(bound, "mixture_information", swapped)
    checks = bound.measure_mixtures(20)
    assert checks.held < checks.cases and checks.answer == "fails"


def test_labels_that_tell_too_much_are_noticed(monkeypatch):
    def generous(*given, honest=bound.mixture_information, labels=None, **options):
        chain = honest(*given, labels=labels, **options)
        return replace(chain, Z_Y=chain.Z_F) if labels is not None else chain
    monkeypatch.setattr(bound, "mixture_information", generous)
    assert bound.measure_labels(100).answer == "fails"


def test_a_wrong_common_information_is_noticed(monkeypatch):
    monkeypatch.setattr(bound, "common_information", lambda U, V: 0.0)
    assert bound.measure_joint(3).answer == "fails"


def test_overlapping_parts_are_not_disjoint():
    U, V = torch.ones(4, 2), torch.ones(2, 4)
    assert bound.joint_holds(U, V) and not bound.joint_holds(U, V, disjoint=True)


@pytest.mark.parametrize(("alpha", "common"), [(0.0, 1.0), (0.1, 0.8728), (0.5, 0.0)])
def test_wyners_coins(alpha, common):
    coins = bound.wyners_coins(alpha)
    h = sum(-p * math.log2(p) for p in (alpha, 1 - alpha) if p)
    assert coins.common == pytest.approx(common, abs=1e-4) and coins.told == pytest.approx(coins.common, abs=1e-9)
    assert coins.mutual == pytest.approx(1 - h, abs=1e-9) and coins.entropy == 1


def test_the_hexagon_is_factorized_exactly():
    hexagon = bound.hexagon()
    for U, V in (hexagon.signed, hexagon.nonnegative):
        assert torch.allclose(U @ V, hexagon.S) and (U >= 0).all()
    assert (hexagon.signed[1] < 0).any() and (hexagon.nonnegative[1] >= 0).all()
    assert [len(V) for _, V in (hexagon.signed, hexagon.nonnegative)] == [3, 5]


def test_a_spike_of_the_identity_names_its_row():
    P = bound.spike(torch.eye(8))
    assert mutual_information(P) == pytest.approx(3) and bound.spike_bound(P) == pytest.approx(3)
    rank_one = torch.ones(4, 1) * torch.rand(1, 5, generator=torch.Generator().manual_seed(0))
    assert mutual_information(bound.spike(rank_one)) == pytest.approx(0, abs=1e-9)


def test_the_toy_of_the_page():
    hard = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    chains = [bound.mixture_information(U, torch.eye(2), PointMass()) for U in (hard, torch.ones(4, 2))]
    assert [chain.i_Z.value for chain in chains] == pytest.approx([1, 0]) and {chain.log_K for chain in chains} == {1}


# --- rectangle covers ---------------------------------------------------------------------------------------


def test_a_false_witness_is_refused(monkeypatch):
    monkeypatch.setattr(cover.RankInterval, "verify", lambda self: {"cover": False})
    with pytest.raises(cover.FalseWitness, match="cover"):
        cover.certified(torch.eye(2) > 0, time_limit=5)


def test_an_open_interval_is_no_number(monkeypatch):
    proved = cover.certified(torch.eye(3) > 0, time_limit=5)
    monkeypatch.setattr(cover.RankInterval, "rectangle_cover", property(lambda self: (2, 3)))
    monkeypatch.setattr(cover, "certified", lambda *given, **options: proved)
    with pytest.raises(ValueError, match="2 to 3"):
        cover.cover_number(torch.eye(3) > 0)


def test_batches_leave_the_point():
    near, far = cover.around_a_point(torch.tensor([1e-3, 30.0]))
    assert near.rectangle_cover == (1, 1) and far.rectangle_cover == (8, 8)


def test_one_epsilon():
    assert cover.one_epsilon() == {"blocks": (2, 3), "complement": (5, 1), "zeros": (0, 8)}


def test_layers_of_a_network_that_learned():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(30, 8, generator=generator), torch.arange(30) % 10
    network = cover.learned(images, labels, 0.0)
    assert (network.model(images).argmax(1) == labels).all() and torch.equal(network.labels, labels)
    batches = cover.measure_layers({0.0: network}, images, [0, 1], [2, 4], time_limit=5)
    assert [(batch.label, batch.size, batch.layer) for batch in batches] == [
        (label, 2, layer) for label in (0, 1) for layer in cover.LAYERS]  # there are but three images of a label
    A = network.model[:2](images[labels == 0][:2])
    alike = torch.equal(A[0] > 0, A[1] > 0)
    assert batches[0].cover == ((1, 1) if alike else (2, 2)) and batches[0].rank == 2


@pytest.mark.parametrize(("clean", "noisy", "word"), [
    ((3, 4), (5, 6), "larger"), ((5, 6), (3, 4), "smaller"), ((3, 3), (3, 3), "equal"), ((3, 4), (3, 4), "undecided"),
    ((3, 5), (5, 6), "undecided")])
def test_covers_are_compared_by_what_is_proved(clean, noisy, word):
    batches = [cover.Batch(p, 0, 10, "last", bounds, 10) for p, bounds in ((0.0, clean), (0.5, (1, 1)), (1.0, noisy))]
    alone = cover.Batch(0.0, 1, 10, "last", clean, 10)
    assert cover.compared([*batches, alone], "last", 10) == [word]
