"""Propositions 1 to 3 of the thesis (sections 3.2 and 3.4), checked on cases that were made to break them.

Each `measure_…` draws its cases from a seed and counts those in which all relations hold, up to rounding and, where Z
is sampled, up to the confidence interval. `hexagon` is the standard example of a non-negative rank above the rank. No
experiment of the ledger: the chapter calls what is here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from nmfcore.information import (
    Chain,
    Density,
    Estimate,
    Gaussian,
    PointMass,
    VonMisesFisher,
    common_information,
    conditional_information,
    entropy,
    joint_of_parts,
    mixture_information,
    mutual_information,
)

from .polygons import corners, distances, slack

ROUNDING = 1e-9  # bits
SURE = 1 - 1e-6  # of a confidence interval that a relation may not leave: there are hundreds of them
JOINT = ("dense", "sparse", "almost a permutation", "equal parts", "unequal sizes", "disjoint")
WEIGHTS = ("soft", "hard", "almost hard", "all alike", "one heavy column", "an unused column")
CENTRES = ("non-negative", "any sign", "opposite", "equal")
DENSITIES: tuple[Density, ...] = (*(VonMisesFisher(kappa) for kappa in (0.1, 1.0, 10.0, 1e3)), Gaussian(0.1),
                                  Gaussian(3.0), PointMass())


@dataclass(frozen=True)
class Checks:
    """In how many cases all relations held."""

    cases: int
    held: int

    @property
    def answer(self) -> str:
        """For `records.row`: relations that are proved fail if they fail once."""
        return "holds" if self.held == self.cases else "fails"


def _checks(outcomes: Sequence[bool]) -> Checks:
    return Checks(len(outcomes), sum(outcomes))


def ordered(*values: float) -> bool:
    """The values do not fall, up to rounding."""
    return all(first <= second + ROUNDING for first, second in pairwise(values))


def _random(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


# --- Proposition 1: joint distributions -------------------------------------------------------------------


def joint_factors(kind: str, generator: torch.Generator, rows: int = 6, columns: int = 7) -> tuple[Tensor, Tensor]:
    """U, V ≥ 0 of two to five parts, of one of the kinds `JOINT`."""
    K = int(torch.randint(2, 6, (1,), generator=generator))
    U, V = _random(generator, rows, K), _random(generator, K, columns)
    if kind == "sparse":
        U, V = U * (_random(generator, rows, K) < 0.4), V * (_random(generator, K, columns) < 0.4)
        U[0, 0] = V[0, 0] = 1  # not everything may vanish
    elif kind == "almost a permutation":
        U, V = U ** 30, V ** 30
    elif kind == "equal parts":
        V = V[:1] + 1e-6 * V
    elif kind == "unequal sizes":
        U = U * 10.0 ** torch.arange(0, -2 * K, -2, dtype=torch.float64)
    elif kind == "disjoint":
        identity = torch.eye(K).double()
        U = identity.repeat_interleave(2, 0)
        V = identity.repeat_interleave(3, 1) * _random(generator, 1, 3 * K)
    return U, V


def joint_holds(U: Tensor, V: Tensor, *, disjoint: bool = False) -> bool:
    """The chain of Proposition 1, and how large the gap before H(F) must be.

    disjoint: no two parts overlap, and the gap must be zero.
    """
    parts = joint_of_parts(U, V)  # P(a, b, k)
    common, H_F = common_information(U, V), entropy(parts.sum((0, 1)))
    overlap = 1 - float(parts.amax(2).sum())  # how often the likeliest part is not the right one
    return (conditional_information(parts) < ROUNDING
            and ordered(mutual_information(parts.sum(2)), common, H_F, math.log2(U.shape[1]))
            and ordered(2 * overlap, H_F - common)
            and (not disjoint or H_F - common < ROUNDING))


def measure_joint(repeats: int, seed: int = 0) -> Checks:
    """Proposition 1 on random and adversarial joint distributions, `repeats` of each kind."""
    generator = torch.Generator().manual_seed(seed)
    return _checks([joint_holds(*joint_factors(kind, generator), disjoint=kind == "disjoint")
                    for kind, _ in product(JOINT, range(repeats))])


@dataclass(frozen=True)
class Coins:
    """Wyner's two fair coins that disagree with probability alpha, in bits."""

    mutual: float  #: I(A, B)
    common: float  #: C(A, B), by his closed form
    told: float  #: I((A, B), F) of his third coin F, which reaches it
    entropy: float  #: H(F)


def wyners_coins(alpha: float) -> Coins:
    """Both coins are copies of a third one with errors of probability β = (1 − √(1 − 2α)) / 2."""
    def h(p):
        return entropy(torch.tensor([p, 1 - p], dtype=torch.float64))

    beta = (1 - math.sqrt(1 - 2 * alpha)) / 2
    copy = torch.tensor([[1 - beta, beta], [beta, 1 - beta]], dtype=torch.float64)  # P(a | F), and P(F | b)
    parts = joint_of_parts(copy, copy)
    return Coins(mutual_information(parts.sum(2)), 1 + h(alpha) - 2 * h(beta), common_information(copy, copy),
                 entropy(parts.sum((0, 1))))


# --- Propositions 2 and 3: the mixture --------------------------------------------------------------------


def mixture_weights(kind: str, generator: torch.Generator, rows: int = 12) -> Tensor:
    """U ≥ 0 of two to five components, of one of the kinds `WEIGHTS`."""
    K = int(torch.randint(2, 6, (1,), generator=generator))
    U = _random(generator, rows, K) + 1e-6
    if kind == "hard":
        U = torch.eye(K).double()[torch.randint(K, (rows,), generator=generator)]
    elif kind == "almost hard":
        U = U ** 30
    elif kind == "all alike":
        U = U[:1] + 1e-9 * U
    elif kind == "one heavy column":
        U[:, 0] *= 1e6
    elif kind == "an unused column":
        U[:, 0] = 0
    return U


def mixture_centres(kind: str, generator: torch.Generator, K: int, M: int) -> Tensor:
    """V (K, M) of one of the kinds `CENTRES`."""
    V = _random(generator, K, M) - (0.5 if kind == "any sign" else 0)
    if kind == "opposite":
        V[1] = -V[0]
    elif kind == "equal":
        V[1] = V[0]
    return V


def measure_mixtures(samples: int, seed: int = 0) -> Checks:
    """The chain of Proposition 2, and I(Z, Y) ≤ I(i, Z) ≤ I(Z, F), on every kind of U and V with every density."""
    generator = torch.Generator().manual_seed(seed)
    outcomes: list[bool] = []
    for kind_U, kind_V, density in product(WEIGHTS, CENTRES, DENSITIES):
        U = mixture_weights(kind_U, generator)
        V = mixture_centres(kind_V, generator, U.shape[1], 2 if len(outcomes) % 2 else 20)
        labels = torch.randint(3, (len(U),), generator=generator)
        chain = mixture_information(U, V, density, labels=labels, samples=samples, confidence=SURE,
                                    seed=seed + len(outcomes))
        outcomes.append(ordered(chain.i_Z.low, chain.i_F, chain.iZ_F.high)
                        and ordered(chain.iZ_F.low, chain.H_F, chain.log_K)
                        and ordered(_of_labels(chain).value, chain.i_Z.value, chain.Z_F.value))
    return _checks(outcomes)


def _of_labels(chain: Chain) -> Estimate:
    """I(Z, Y) of a chain that was asked for it."""
    assert chain.Z_Y is not None
    return chain.Z_Y


def labelled_holds(U: Tensor, V: Tensor, density: Density, labels: Tensor, *, samples: int, seed: int = 0) -> bool:
    """Proposition 3: I(i, Z) = I(Z, Y) + Σ_y P(y) I(i, Z | Y = y), within the intervals, and I(i, Z) ≥ I(Z, Y)."""
    whole = mixture_information(U, V, density, labels=labels, samples=samples, confidence=SURE, seed=seed)
    within = [(float((labels == y).double().mean()),
               mixture_information(U[labels == y], V, density, samples=samples, confidence=SURE, seed=seed).i_Z)
              for y in labels.unique()]
    floor = _of_labels(whole)
    low = floor.low + sum(p * of_class.low for p, of_class in within)
    high = floor.high + sum(p * of_class.high for p, of_class in within)
    return (ordered(floor.value, whole.i_Z.value) and ordered(low, whole.i_Z.high)
            and ordered(whole.i_Z.low, high))


def measure_labels(samples: int, seed: int = 0) -> Checks:
    """Proposition 3 with labels by turns, at random, all different and all the same."""
    generator = torch.Generator().manual_seed(seed)
    outcomes: list[bool] = []
    densities: tuple[Density, ...] = PointMass(), VonMisesFisher(3.0), Gaussian(0.3)
    for kind, density in product(("soft", "hard", "almost hard", "one heavy column"), densities):
        U = mixture_weights(kind, generator)
        V = mixture_centres("any sign", generator, U.shape[1], 4)
        one_each, alone = torch.arange(len(U)), torch.zeros(len(U))
        outcomes += [labelled_holds(U, V, density, labels, samples=samples, seed=seed)
                     for labels in (one_each % 3, torch.randint(2, (len(U),), generator=generator), one_each)]
        single, own = (mixture_information(U, V, density, labels=labels, samples=samples // 10)
                       for labels in (alone, one_each))
        outcomes.append(abs(_of_labels(single).value) < ROUNDING
                        and abs(_of_labels(own).value - own.i_Z.value) < ROUNDING)
    return _checks(outcomes)


# --- the two ranks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hexagon:
    """The slack matrix of the regular hexagon, of rank three and non-negative rank five, and how to factorize it."""

    S: Tensor  #: (6, 6) distances of the corners to the sides
    corners: Tensor  #: (6, 2)
    triangle: Tensor  #: (3, 2) around it
    signed: tuple[Tensor, Tensor]  #: U ≥ 0 and V of three parts, whose rows are the corners of the triangle
    nonnegative: tuple[Tensor, Tensor]  #: U, V ≥ 0 of five parts, the rows of V of unit length


def hexagon() -> Hexagon:
    """Both exact factorizations."""
    inner = math.cos(math.pi / 6)
    hexagon, triangle = corners(6), corners(3, -0.25, radius=2 * inner)
    V = (distances(triangle, 6) / inner).round(decimals=12)
    barycentric = [torch.cat([points, torch.ones(len(points), 1)], 1).mT for points in (triangle, hexagon)]
    U = torch.linalg.solve(*barycentric).mT.round(decimals=12)
    U5 = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 2, 1], [0, 1, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 2, 0, 1],
                       [1, 0, 1, 0, 0]])
    V5 = torch.tensor([[0, 1, 2, 1, 0, 0], [1, 0, 0, 0, 1, 2], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0],
                       [0, 0, 1, 0, 0, 1]]).double()
    length = V5.norm(dim=1, keepdim=True)
    return Hexagon(slack(6), hexagon, triangle, (U, V), (U5 * length[:, 0], V5 / length))


# --- a spike ----------------------------------------------------------------------------------------------


def spike(A: Tensor) -> Tensor:
    """P(i, J): a row i of A (N, M) ≥ 0 at random, one unit J in proportion to its activation."""
    A = A.double().cpu()
    return A / A.sum(1, keepdim=True) / len(A)


def spike_bound(P: Tensor) -> float:
    """log Σ_j max_i P(j | i), which I(i, J) does not exceed, nor it the logarithm of the rank."""
    return math.log2(float((P * len(P)).amax(0).sum()))


def spike_holds(A: Tensor) -> bool:
    """I(i, J) ≤ log Σ_j max_i P(j | i) ≤ log rank(A), for A (N, M) ≥ 0 without zero rows."""
    rank = int(torch.linalg.matrix_rank(A.double().cpu(), rtol=1e-13))
    return ordered(mutual_information(spike(A)), spike_bound(spike(A)), math.log2(rank))


def measure_spikes(more: Sequence[Tensor], repeats: int, seed: int = 0) -> Checks:
    """What a spike tells, on given matrices and on the products of `joint_factors`, `repeats` of each kind."""
    generator = torch.Generator().manual_seed(seed)
    products = [U @ V for kind, _ in product(JOINT, range(repeats)) for U, V in [joint_factors(kind, generator, 8, 9)]]
    return _checks([spike_holds(A[A.amax(1) > 0]) for A in (*more, *products)])
