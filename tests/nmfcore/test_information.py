"""Entropies, common information and the mixture of proposition 2: closed forms, brute force, quadrature, theorems."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ive
from scipy.stats import multivariate_normal, vonmises_fisher

from nmfcore.information import (
    Gaussian,
    PointMass,
    VonMisesFisher,
    common_information,
    conditional_information,
    entropy,
    joint_of_parts,
    mixing_weights,
    mixture_information,
    mutual_information,
    posterior,
)

torch.set_num_threads(1)
EPS = 1e-9


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def h(p):
    """Binary entropy in bits."""
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


def channel(a):
    """Binary symmetric channel with crossover probability a."""
    return tensor([1 - a, a], [a, 1 - a])


def distributions(*dims, floor=0.0):
    """Random distributions, many of whose entries are zero or tiny."""
    entries = st.one_of(st.just(floor), st.floats(max(floor, 1e-12), 1), st.floats(0.1, 1))
    count = math.prod(dims)
    arrays = st.lists(entries, min_size=count, max_size=count).filter(lambda values: sum(values) > 1e-3)
    return arrays.map(lambda values: (torch.tensor(values, dtype=torch.float64) / sum(values)).reshape(dims))


factorizations = st.integers(1, 5).flatmap(lambda K: st.tuples(distributions(4, K), distributions(K, 5))).filter(
    lambda pair: float((pair[0] @ pair[1]).sum()) > 1e-9)


# --- entropy and mutual information -------------------------------------------------------------------------


def test_entropy_of_known_distributions():
    assert entropy(torch.full((8,), 1 / 8)) == pytest.approx(3)
    assert entropy(torch.full((2, 4), 1 / 8), base=math.e) == pytest.approx(3 * math.log(2))
    assert math.copysign(1, entropy(tensor(0, 1, 0))) == 1 and entropy(tensor(0, 1, 0)) == 0
    assert entropy(tensor(0.5, 0.25, 0.125, 0.125)) == pytest.approx(1.75)


@pytest.mark.parametrize("a", [0, 0.03, 0.2, 0.5])
def test_binary_symmetric_channel(a):
    assert mutual_information(channel(a) / 2) == pytest.approx(1 - h(a), abs=1e-12)


@pytest.mark.parametrize("e", [0, 0.3, 1])
def test_binary_erasure_channel(e):
    P = tensor([1 - e, e, 0], [0, e, 1 - e]) / 2
    assert mutual_information(P) == pytest.approx(1 - e, abs=1e-12)


def test_sums_written_out():
    P = random(3, 4, 2, seed=3)
    P[0, 1] = 0
    P /= P.sum()
    p = P.numpy()
    total = sum(p[a, b, f] * math.log2(p[a, b, f] * p[:, :, f].sum() / (p[a, :, f].sum() * p[:, b, f].sum()))
                for a, b, f in product(range(3), range(4), range(2)) if p[a, b, f] > 0)
    assert conditional_information(P) == pytest.approx(total, abs=1e-12)
    q = p.sum(2)
    total = sum(q[a, b] * math.log2(q[a, b] / (q[a].sum() * q[:, b].sum()))
                for a, b in product(range(3), range(4)) if q[a, b] > 0)
    assert mutual_information(P.sum(2)) == pytest.approx(total, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(distributions(3, 4, 2), st.permutations(range(4)))
def test_laws_of_information(P, order):
    AB = P.sum(2)
    assert 0 <= mutual_information(AB) <= min(entropy(AB.sum(0)), entropy(AB.sum(1))) + EPS
    assert mutual_information(AB) == pytest.approx(mutual_information(AB.mT), abs=EPS)
    assert mutual_information(AB[:, order]) == pytest.approx(mutual_information(AB), abs=EPS)
    assert mutual_information(AB, base=math.e) == pytest.approx(mutual_information(AB) * math.log(2), abs=EPS)
    assert conditional_information(P, base=4) == pytest.approx(conditional_information(P) / 2, abs=EPS)
    assert mutual_information(P.flatten(1)) == pytest.approx(
        mutual_information(P.sum(1)) + conditional_information(P), abs=EPS)  # I(A,(B,F)) = I(A,F) + I(A,B|F)


# --- common information -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(factorizations)
def test_proposition_1(pair):
    U, V = pair
    parts = joint_of_parts(U, V)
    AB = parts.sum(2)
    torch.testing.assert_close(AB, U @ V / (U @ V).sum())
    assert conditional_information(parts) <= EPS
    chain = [mutual_information(AB), common_information(U, V), entropy(parts.sum((0, 1))), math.log2(U.shape[1])]
    assert all(first <= second + EPS for first, second in pairwise(chain))
    scale = torch.logspace(-3, 3, len(V), dtype=torch.float64)
    assert common_information(U * scale, V / scale[:, None]) == pytest.approx(chain[1], abs=EPS)


@pytest.mark.parametrize("a0", [0.01, 0.11, 0.3, 0.5])
def test_common_information_of_the_doubly_symmetric_binary_source(a0):
    """Wyner's closed form C = 1 + h(a0) − 2 h(a1), reached by a uniform bit seen through two equal channels."""
    a1 = (1 - math.sqrt(1 - 2 * a0)) / 2
    B = channel(a1)
    torch.testing.assert_close(joint_of_parts(B, B).sum(2), channel(a0) / 2)
    common = common_information(B, B)
    assert common == pytest.approx(1 + h(a0) - 2 * h(a1), abs=1e-12)
    assert 1 - h(a0) - EPS <= common < 1  # and not H(F): F cannot be read off the pair


def test_the_chain_is_tight_for_disjoint_parts():
    U = torch.block_diag(*[torch.ones(2, 1)] * 4).double()
    V = torch.block_diag(*[torch.ones(1, 3)] * 4).double()
    assert mutual_information(U @ V / (U @ V).sum()) == pytest.approx(2)
    assert common_information(U, V) == pytest.approx(2)


# --- densities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("M", [2, 3, 4, 50])
@pytest.mark.parametrize("kappa", [0.1, 3.0, 400.0])
def test_von_mises_fisher_agrees_with_scipy(M, kappa):
    V = random(3, M) - 0.3
    Z = torch.nn.functional.normalize(random(6, M, seed=1) - 0.5)
    ours = VonMisesFisher(kappa).log_prob(Z, V)
    for k, v in enumerate(torch.nn.functional.normalize(V)):
        np.testing.assert_allclose(ours[:, k], vonmises_fisher(v.numpy(), kappa).logpdf(Z.numpy()), atol=1e-8)


def test_von_mises_fisher_where_the_bessel_function_underflows():
    assert ive(999, 10.0) == 0
    Z = torch.eye(1, 2000).double()
    far, near = (float(VonMisesFisher(kappa).log_prob(Z, Z)) for kappa in (1e-3, 1.0))
    area = math.log(2) + 1000 * math.log(math.pi) - math.lgamma(1000)
    assert far == pytest.approx(-area + 1e-3, abs=1e-6)  # almost uniform on the sphere
    assert near == pytest.approx(-area + 1 - 1 / 4000, abs=1e-6)  # ∫ exp(κ t) is area · (1 + κ² / 2M + …)


@pytest.mark.parametrize("M, kappa", [(2, 2.0), (3, 5.0), (40, 30.0)])
def test_draws_follow_the_density(M, kappa):
    V = tensor([1.0] * M, [1.0] + [-2.0] * (M - 1))
    Z = VonMisesFisher(kappa).sample(V, 20_000, np.random.default_rng(0))
    torch.testing.assert_close(Z.norm(dim=2), torch.ones(2, 20_000).double())
    length = ive(M / 2, kappa) / ive(M / 2 - 1, kappa)
    torch.testing.assert_close(Z.mean(1), length * torch.nn.functional.normalize(V), atol=0.02, rtol=0)
    # E[1 / p] is the area of the sphere, whatever p: the draws and log_prob fit
    log_p = VonMisesFisher(kappa).log_prob(Z[0], V[:1])[:, 0]
    area = math.log(2) + M / 2 * math.log(math.pi) - math.lgamma(M / 2)
    if M < 10:
        assert float((-log_p).exp().mean().log()) == pytest.approx(area, abs=0.1)


def test_gaussian_agrees_with_scipy():
    V, Z = random(3, 4) - 0.5, random(6, 4, seed=1)
    peer = [multivariate_normal(v.numpy(), 0.3 ** 2).logpdf(Z.numpy()) for v in V]
    np.testing.assert_allclose(Gaussian(0.3).log_prob(Z, V), np.stack(peer, 1), atol=1e-10)
    draws = Gaussian(0.3).sample(V, 20_000, np.random.default_rng(0))
    torch.testing.assert_close(draws.mean(1), V, atol=0.01, rtol=0)
    torch.testing.assert_close(draws.std(1), torch.full((3, 4), 0.3).double(), atol=0.01, rtol=0)


# --- the mixture --------------------------------------------------------------------------------------------

ANGLES = [0.2, 1.4, 2.9]
CIRCLE = torch.tensor([[math.cos(a), math.sin(a)] for a in ANGLES], dtype=torch.float64)
SOFT = tensor([4, 1, 0], [1, 1, 1], [0, 2, 3], [0, 0, 1], [1, 5, 0])
LABELS = torch.tensor([0, 1, 1, 0, 2])


def integrals(U, angles, kappa, labels):
    """I(i,Z), I((i,Z),F), I(Z,F) and I(Z,Y) on the circle, in bits, by quadrature of their definitions."""
    W = (U / U.sum(1, keepdim=True)).numpy()
    N = len(W)
    same = [labels == y for y in labels.unique()]

    def bits(p, q):
        return np.where(p > 0, p * np.log2(np.where(p > 0, p, 1) / q), 0).sum()

    def integrand(t, which):
        phi = np.exp(kappa * (np.cos(t - np.array(angles)) - 1)) / (2 * np.pi * ive(0, kappa))
        per_row = W @ phi
        p = per_row.mean()
        if which == "iZ":
            return bits(per_row / N, p / N)
        if which == "ZF":
            return bits(W.mean(0) * phi, W.mean(0) * p)
        if which == "ZY":
            return bits(*np.array([(per_row[s].sum() / N, s.sum() / N * p) for s in map(np.asarray, same)]).T)
        return bits(W * phi / N, W.mean(0) * per_row[:, None] / N)  # P(i, z, k) against P(i, z) P(k)

    return {name: quad(integrand, -np.pi, np.pi, args=(name,), limit=200, points=angles)[0]
            for name in ("iZ", "ZF", "ZY", "iZF")}


@pytest.mark.parametrize("kappa", [0.3, 3.0, 40.0])
def test_mixture_agrees_with_quadrature(kappa):
    true = integrals(SOFT, ANGLES, kappa, LABELS)
    # 1 − 10⁻⁶, so that no interval misses by bad luck
    found = mixture_information(SOFT, CIRCLE, VonMisesFisher(kappa), labels=LABELS, samples=4000, confidence=1 - 1e-6)
    for name, estimate in {"iZ": found.i_Z, "ZF": found.Z_F, "ZY": found.Z_Y, "iZF": found.iZ_F}.items():
        assert estimate.low - EPS <= true[name] <= estimate.high + EPS, name
        assert estimate.high - estimate.low < 0.1, name


def test_intervals_cover_as_often_as_they_say():
    true = integrals(SOFT, ANGLES, 3.0, LABELS)
    runs = [mixture_information(SOFT, CIRCLE, VonMisesFisher(3.0), labels=LABELS, samples=200, confidence=0.8, seed=s)
            for s in range(300)]
    for name, field in {"iZ": "i_Z", "ZF": "Z_F", "ZY": "Z_Y", "iZF": "iZ_F"}.items():
        inside = np.mean([getattr(run, field).low <= true[name] <= getattr(run, field).high for run in runs])
        assert 0.72 < inside < 0.88, name  # ± 3.5 standard deviations of a mean of 300


def test_gaussian_mixture_on_the_line():
    """Two rows, two centres, Z real: I(i, Z) = 1 − E h(sigmoid) by quadrature."""
    def integrand(z):
        p = np.array([math.exp(-(z - c) ** 2 / 2) for c in (-1, 1)]) / math.sqrt(2 * math.pi) / 2
        return -p @ np.log2(p / p.sum()) if p.sum() > 0 else 0

    true = 1 - quad(integrand, -12, 12)[0]
    found = mixture_information(torch.eye(2), tensor([-1.0], [1.0]), Gaussian(1.0), samples=20_000)
    assert found.i_Z.value == pytest.approx(true, abs=0.01)
    assert found.i_Z == found.Z_F and found.iZ_F.value == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(distributions(5, 3, floor=1e-3), st.sampled_from([VonMisesFisher(2.0), VonMisesFisher(1e3), Gaussian(0.5),
                                                        PointMass()]), st.permutations(range(3)))
def test_proposition_2_and_3(U, density, order):
    V, labels = random(3, 4, seed=5) - 0.4, torch.tensor([0, 1, 1, 0, 1])
    chain = mixture_information(U, V, density, labels=labels, samples=400, confidence=1 - 1e-6)
    assert chain.i_Z.low <= chain.i_F + EPS <= chain.iZ_F.value + 2 * EPS
    assert chain.iZ_F.low <= chain.H_F + EPS <= chain.log_K + 2 * EPS
    assert chain.i_Z.value <= chain.Z_F.value + EPS  # holds sample by sample
    assert chain.Z_Y.value <= chain.i_Z.value + EPS  # and so does proposition 3
    same = mixture_information(U[:, order], V[order], density, labels=labels, samples=400, confidence=1 - 1e-6)
    assert same.i_F == pytest.approx(chain.i_F, abs=EPS)
    assert same.i_Z.low <= chain.i_Z.high + EPS and chain.i_Z.low <= same.i_Z.high + EPS
    nats = mixture_information(U, V, density, samples=400, base=math.e)
    assert nats.i_Z.value == pytest.approx(chain.i_Z.value * math.log(2), abs=EPS)
    assert nats.iZ_F.value == pytest.approx(chain.iZ_F.value * math.log(2), abs=EPS)


def test_point_masses_are_exact():
    chain = mixture_information(SOFT, CIRCLE, PointMass(), labels=LABELS)
    W = SOFT / SOFT.sum(1, keepdim=True)
    assert chain.i_Z.low == chain.i_Z.value == chain.i_Z.high == pytest.approx(mutual_information(W / 5))
    assert chain.i_Z.value == pytest.approx(chain.i_F) and chain.iZ_F.value == pytest.approx(chain.H_F)
    PY = torch.stack([W[LABELS == y].sum(0) / 5 for y in range(3)])
    assert chain.Z_Y.value == pytest.approx(mutual_information(PY))
    merged = mixture_information(SOFT, CIRCLE[[0, 1, 1]], PointMass())  # equal rows of V cannot be told apart
    assert merged.i_Z.value == pytest.approx(mutual_information(torch.stack([W[:, 0], W[:, 1] + W[:, 2]], 1) / 5))
    assert merged.i_Z.value < merged.i_F < merged.iZ_F.value < merged.H_F


def test_the_tight_case():
    chain = mixture_information(torch.eye(4).repeat(3, 1), torch.eye(4), PointMass())
    assert [chain.i_Z.value, chain.i_F, chain.iZ_F.value, chain.H_F, chain.log_K] == pytest.approx([2] * 5)


def test_the_loose_case():
    chain = mixture_information(torch.ones(6, 4), torch.eye(4), VonMisesFisher(1e4))
    assert chain.i_Z.value == pytest.approx(0, abs=EPS) and chain.i_F == pytest.approx(0, abs=EPS)
    assert chain.iZ_F.value == pytest.approx(2, abs=1e-6)  # Z tells F, though it tells nothing about i


def test_a_component_without_weight_changes_nothing_but_log_K():
    U = torch.cat([SOFT, torch.zeros(5, 1)], 1)
    V = torch.cat([CIRCLE, tensor([-5.0, 0.1])])
    full, part = (mixture_information(*pair, VonMisesFisher(3.0), samples=50) for pair in ((U, V), (SOFT, CIRCLE)))
    assert full.i_Z == part.i_Z and full.iZ_F == part.iZ_F and full.log_K == 2


def test_blocks_do_not_change_the_sum(monkeypatch):
    whole = mixture_information(SOFT, CIRCLE, VonMisesFisher(3.0), labels=LABELS, samples=50)
    monkeypatch.setattr("nmfcore.information._CHUNK", 35)
    blocks = mixture_information(SOFT, CIRCLE, VonMisesFisher(3.0), labels=LABELS, samples=50)
    assert blocks.i_Z.value == pytest.approx(whole.i_Z.value, abs=1e-12)
    assert blocks.Z_Y.high == pytest.approx(whole.Z_Y.high, abs=1e-12)


def test_mixture_is_a_function_of_its_seed():
    first, again, other = (mixture_information(SOFT, CIRCLE, Gaussian(1.0), samples=50, seed=s) for s in (3, 3, 4))
    assert first == again and first.i_Z != other.i_Z
    assert mixture_information(SOFT.float(), CIRCLE.float(), PointMass()).i_F == pytest.approx(first.i_F, abs=1e-6)


def test_posterior_is_bayes_rule():
    Z = torch.nn.functional.normalize(random(4, 2, seed=2))
    i = torch.tensor([0, 1, 4, 2])
    found = posterior(SOFT, CIRCLE, VonMisesFisher(2.0), Z, i)
    for s in range(4):
        p = [float(SOFT[i[s], k]) * vonmises_fisher(CIRCLE[k].numpy(), 2.0).pdf(Z[s].numpy()) for k in range(3)]
        np.testing.assert_allclose(found[s], np.array(p) / sum(p), atol=1e-12)
    assert torch.equal(posterior(SOFT, CIRCLE, PointMass(), CIRCLE[:1], i[:1]), tensor([1.0, 0, 0]))


def test_mixing_weights_of_extreme_rows():
    U = tensor([1e308, 1e308], [1e-320, 3e-320], [0, 5])
    torch.testing.assert_close(mixing_weights(U), tensor([0.5, 0.5], [0.25, 0.75], [0, 1]), rtol=1e-3, atol=0)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call, message", [
    (lambda: entropy(tensor(0.5, -0.5, 1.0)), r"P\[1\] = -0.5: probabilities are non-negative"),
    (lambda: entropy(tensor(0.5, math.nan)), r"P\[1\] = nan: every entry must be finite"),
    (lambda: entropy(torch.tensor([1, 0])), "floating tensor .* got torch.int64"),
    (lambda: entropy([0.5, 0.5]), "got list"),
    (lambda: entropy(tensor(0.5, 0.6)), r"P sums to 1\.1, .* divide it by P\.sum"),
    (lambda: entropy(tensor(1.0), base=1), "base 1 must be above 1"),
    (lambda: mutual_information(tensor(0.5, 0.5)), "2 dimensions"),
    (lambda: conditional_information(channel(0.1) / 2), "3 dimensions"),
    (lambda: common_information(SOFT, -CIRCLE), r"V\[0, 0\] = -0.98.*: the parts"),
    (lambda: common_information(SOFT, CIRCLE.abs()[:2]), r"U \(5, 3\) and V \(2, 2\) do not fit"),
    (lambda: common_information(0 * SOFT, CIRCLE.abs()), "sums to 0"),
    (lambda: mixing_weights(SOFT - 1), r"U\[0, 2\] = -1: mixing weights are non-negative"),
    (lambda: mixing_weights(SOFT * tensor([1], [0], [1], [1], [1])), r"U\.amax\(1\)\[1\] = 0: a row of zeros .* leave"),
    (lambda: mixture_information(SOFT / 0, CIRCLE, PointMass()), r"U\[0, 0\] = inf: every entry must be finite"),
    (lambda: mixture_information(SOFT, CIRCLE[0], PointMass()), r"V must be .* 2 dimensions"),
    (lambda: mixture_information(SOFT, 0 * CIRCLE, VonMisesFisher(1.0)), r"‖V‖\[0\] = 0: a zero row has no direction"),
    (lambda: mixture_information(SOFT, CIRCLE[:, :1], VonMisesFisher(1.0)), "one column, .* use Gaussian"),
    (lambda: mixture_information(SOFT, CIRCLE, PointMass(), samples=1), "samples 1 must be at least 2"),
    (lambda: mixture_information(SOFT, CIRCLE, PointMass(), confidence=95), "confidence 95 must lie between 0 and 1"),
    (lambda: mixture_information(SOFT, CIRCLE, PointMass(), base=math.nan), "base nan"),
    (lambda: mixture_information(SOFT, CIRCLE, PointMass(), labels=LABELS[:3]), r"labels \(3,\) .* each of the 5 rows"),
    (lambda: VonMisesFisher(0.0), "concentration 0.0 must be positive"),
    (lambda: VonMisesFisher(math.nan), "concentration nan must be positive"),
    (lambda: Gaussian(-1.0), "scale -1.0 must be positive .* use PointMass"),
    (lambda: VonMisesFisher(1.0).log_prob(2 * CIRCLE, CIRCLE), r"‖Z‖\[0\] = 2: .* normalize Z"),
    (lambda: posterior(SOFT, CIRCLE, Gaussian(1.0), CIRCLE, LABELS), "do not fit"),
    (lambda: posterior(SOFT, CIRCLE, Gaussian(1.0), CIRCLE[:1], torch.tensor([5])), r"i\[0\] = 5: U has rows 0\.\.4"),
    (lambda: posterior(SOFT, CIRCLE, PointMass(), CIRCLE[2:], torch.tensor([0])), r"p\(z \| i\)\[0\] = 0: a z that"),
])
def test_errors_name_the_value_and_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
