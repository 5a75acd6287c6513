"""Certified intervals: known ranks, brute force, witnesses that lie, and input that has no answer."""

import dataclasses
import itertools
import time

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, milp

from nmfcore import rank, rectangles


def polygon(n):
    """Slack matrix of the regular n-gon: distance of each corner from the line through each edge."""
    corner = 2 * np.pi * np.arange(n) / n
    edge = corner + np.pi / n
    slack = np.cos(np.pi / n) - np.cos(corner[:, None] - edge)
    return torch.from_numpy(np.where(np.abs(slack) < 1e-12, 0, slack).clip(0))


def distances(n):
    return torch.from_numpy(np.subtract.outer(range(n), range(n)) ** 2.0)


def brute_force(S):
    """(fooling set, rectangle cover number) of a small 0/1 array, from their definitions."""
    n = len(S)
    ones = [tuple(cell) for cell in np.argwhere(S)]
    if not ones:
        return 0, 0
    sets = []
    for rows in itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(1, n + 1)):
        columns = S[list(rows)].all(0)
        if columns.any():
            sets.append([cell[0] in rows and columns[cell[1]] for cell in ones])
    cover = milp(np.ones(len(sets)), integrality=1, bounds=(0, 1),
                 constraints=LinearConstraint(np.array(sets, dtype=float).T, 1, np.inf))

    def largest(chosen, free):
        return max([len(chosen)] + [largest([*chosen, e], [f for f in free[t + 1:] if fools(e, f)])
                                    for t, e in enumerate(free)])

    def fools(e, f):
        return not (S[e[0], f[1]] and S[f[0], e[1]])
    return largest([], ones), round(cover.fun)


def checked(found):
    """The result, after its witnesses and the order of its bounds were checked."""
    assert set(found.verify().values()) <= {True}
    lower, upper = found.rectangle_cover
    assert len(found.fooling_set) <= lower <= upper <= found.upper and lower <= found.lower <= found.upper
    return found


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_identity(n):
    found = checked(rank.interval(torch.eye(n)))
    assert (found.lower, found.upper, found.rectangle_cover, len(found.fooling_set)) == (n, n, (n, n), n)
    assert not found.unfinished


@pytest.mark.parametrize("n, cover", [(3, 3), (4, 4), (6, 4), (7, 5), (10, 5)])
def test_boolean_rank_of_the_complement_of_the_identity(n, cover):
    """The least r with C(r, ⌊r/2⌋) ≥ n (de Caen, Gregory & Pullman 1981)."""
    found = checked(rank.interval(~torch.eye(n, dtype=torch.bool)))
    assert found.rectangle_cover == (cover, cover)
    assert (found.lower, found.upper) == (cover, n)


@pytest.mark.parametrize("n, expected", [(4, 4), (5, 5), (6, 5), (8, 6)])
def test_polygons_are_solved(n, expected):
    found = checked(rank.interval(polygon(n)))
    assert (found.lower, found.upper) == (expected, expected)
    assert found.witnesses["rank"]["X"].shape[1] == 3 and not found.unfinished
    U, V = found.witnesses["factors"].values()
    assert (U @ V - polygon(n)).norm() <= rank.TOLERANCE * polygon(n).norm()


@pytest.mark.parametrize("M, r", [(polygon(12), 7), (polygon(16), 8), (distances(6), 5), (distances(8), 6)])
def test_factors_of_the_least_known_size(M, r):
    """Vandaele, Gillis, Glineur & Tuyttens (2016) list them. Only the search runs, and for as long as it takes."""
    found, population = None, rank._Population(M.numpy(), r, 0)
    for _ in range(60):
        found = found or population.improve(5, time.monotonic() + 60)
    assert found and rank._factors_hold(M.numpy(), r, *found)


@pytest.mark.parametrize("n, lower", [(6, 4), (8, 5)])
def test_distance_matrices(n, lower):
    found = checked(rank.interval(distances(n), time_limit=8))
    assert found.lower >= lower and found.rectangle_cover == (lower, lower)
    assert found.unfinished.keys() <= {"factors"}


@pytest.mark.parametrize("shape, r", [((20, 15), 5), ((8, 30), 3), ((50, 40), 12)])
def test_random_products(shape, r):
    generator = torch.Generator().manual_seed(r)
    U, V = torch.rand(shape[0], r, generator=generator), torch.rand(r, shape[1], generator=generator)
    found = checked(rank.interval(U.double() @ V.double()))
    assert (found.lower, found.upper) == (r, r)
    assert rank.interval(U @ V).lower == min(shape), "rounded to single precision, the product has full rank"
    near = (U.double() @ V.double()) * (1 + 1e-10 * torch.rand(shape, generator=generator).double())
    assert rank.interval(near, time_limit=5).lower == r, "within the tolerance of a matrix of rank r"


def test_a_planted_cover_far_beyond_enumeration():
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.rand(shape, generator=generator) < 0.3 for shape in ((150, 8), (8, 120)))
    S = U.float() @ V.float() > 0
    found = checked(rank.interval(S))
    assert found.rectangle_cover == (8, 8) and not found.unfinished


def canonical(n, m):
    """The 0/1 matrices of one size, one of each class under permutations of rows and of columns."""
    seen = set()
    for rows in itertools.combinations_with_replacement(range(2 ** m), n):
        columns = [[row >> j & 1 for j in range(m)] for row in rows]
        key = min(tuple(sorted(tuple(row[j] for j in order) for row in columns))
                  for order in itertools.permutations(range(m)))
        if key not in seen:
            seen.add(key)
            yield np.array(key, dtype=bool)


@pytest.mark.parametrize("n, m", [(1, 4), (2, 3), (3, 3), (4, 4)])
def test_brute_force_on_all_small_supports(n, m):
    for S in canonical(n, m):
        compare_with_brute_force(S)


@pytest.mark.parametrize("part", range(10))
def test_brute_force_on_random_supports(part):
    generator = np.random.default_rng(part)
    for _ in range(100):
        n, m = generator.integers(1, 7, 2)
        compare_with_brute_force(generator.random((n, m)) < generator.uniform(0.2, 0.9))


def compare_with_brute_force(S):
    found = rank.interval(torch.from_numpy(S))
    fooling, cover = brute_force(S)
    assert found.rectangle_cover == (cover, cover), S
    assert all(found.verify().values()), S
    assert len(found.fooling_set) <= fooling
    if "fooling set" not in found.unfinished and cover > len(found.fooling_set):
        assert len(found.fooling_set) == fooling, S


def test_the_largest_fooling_set_needs_no_start():
    generator = np.random.default_rng(2)
    for _ in range(30):
        S = generator.random(generator.integers(2, 7, 2)) < 0.6
        found, optimal = rectangles.largest_fooling_set(S, np.zeros((0, 2), int), time.monotonic() + 20, 0)
        assert optimal and len(found) == brute_force(S)[0]


def test_the_fractional_cover_equals_a_linear_program_over_all_rectangles(monkeypatch):
    generator = np.random.default_rng(1)
    for _ in range(20):
        S = generator.random((7, 8)) < 0.6
        pool = rectangles.greedy_cover(S)[1]
        weights, heaviest, exact, _ = rectangles.fractional(S, pool, time.monotonic() + 20, 0)
        with monkeypatch.context() as patch:
            patch.setattr(rectangles, "_RECTANGLES", 0)  # rectangles are priced instead of listed
            priced, bound, optimal, _ = rectangles.fractional(S, pool, time.monotonic() + 20, 0)
        assert exact and optimal
        assert abs(weights.sum() / heaviest - priced.sum() / bound) < 1e-3


def test_self_scaled_bound():
    """It is scale-invariant, at least the fractional cover's clique bound, and exact for the hexagon."""
    M = polygon(6).numpy()
    value = rank._self_scaled_value(M, *rank._self_scaled(M, time.monotonic() + 30))
    assert value == 5
    scaled = np.diag([1, 30, 1, 0.1, 7, 1]) @ M @ np.diag([1, 1, 20, 1, 0.2, 1])
    assert rank._self_scaled_value(scaled, *rank._self_scaled(scaled, time.monotonic() + 30)) == 5
    generator = np.random.default_rng(0)
    for r in (1, 2, 3):  # never above a rank₊ that is known
        product = generator.random((6, r)) @ generator.random((r, 5))
        assert rank._self_scaled_value(product, *rank._self_scaled(product, time.monotonic() + 30)) <= r


@pytest.fixture(scope="module")
def octagon():
    return checked(rank.interval(polygon(8)))


def mutated(found, method, **changes):
    """The verdict on a bound whose witness was changed."""
    [bound] = [bound for bound in found.bounds if bound.method == method]
    value = changes.pop("value", bound.value)
    bound = dataclasses.replace(bound, value=value, witness=bound.witness | changes)
    return dataclasses.replace(found, bounds=(bound,)).verify()[method]


def test_every_method_is_mutated_below(octagon):
    assert set(octagon.witnesses) | {"size"} == set(rank._CHECKS)


def test_a_wrong_fooling_set_is_rejected(octagon):
    cells = octagon.fooling_set
    assert mutated(octagon, "fooling set", cells=cells.flip(1)) is False or not octagon.M[tuple(cells.flip(1).T)].all()
    assert mutated(octagon, "fooling set", cells=cells[:-1]) is False
    assert mutated(octagon, "fooling set", cells=cells[[0, *range(len(cells))]], value=len(cells) + 1) is False
    zero = (octagon.M == 0).nonzero()[0]
    assert mutated(octagon, "fooling set", cells=torch.cat([cells[:-1], zero[None]])) is False
    ones = octagon.M.nonzero()
    assert any(mutated(octagon, "fooling set", cells=torch.cat([cells, one[None]]), value=len(cells) + 1) is False
               for one in ones)


def test_a_wrong_cover_is_rejected(octagon):
    rows, columns = octagon.witnesses["cover"].values()
    assert mutated(octagon, "cover", rows=rows[1:], columns=columns[1:], value=len(rows) - 1) is False
    assert mutated(octagon, "cover", rows=torch.ones_like(rows)) is False
    assert mutated(octagon, "cover", value=len(rows) - 1) is False


def test_a_wrong_fractional_cover_is_rejected(octagon):
    weights, heaviest = octagon.witnesses["fractional cover"].values()
    assert mutated(octagon, "fractional cover", weights=2 * weights) is False
    assert mutated(octagon, "fractional cover", heaviest=heaviest // 2, value=10) is False
    assert mutated(octagon, "fractional cover", weights=weights + (octagon.M == 0) * 10 ** 6) is False
    assert mutated(octagon, "fractional cover", weights=weights - 1) is False


def test_a_wrong_search_is_rejected(octagon):
    assert mutated(octagon, "search", value=octagon.rectangle_cover[1] + 1) is False
    assert mutated(octagon, "search", cells=octagon.fooling_set[[0, 0, 1, 2]]) is False
    found = rank.interval(torch.eye(3))
    claim = rank.Bound("rectangle cover", "lower", 4, "search", {"cells": found.fooling_set})
    assert dataclasses.replace(found, bounds=(claim,)).verify()["search"] is False


def test_a_wrong_rank_is_rejected(octagon):
    X, Y = octagon.witnesses["rank"].values()
    assert mutated(octagon, "rank", value=4) is False
    more = torch.linalg.qr(torch.cat([X, torch.ones(8, 1).double()], 1))[0]
    assert mutated(octagon, "rank", X=more, Y=torch.linalg.qr(torch.cat([Y, torch.eye(8)[:, :1].double()], 1))[0],
                   value=4) is False
    assert mutated(octagon, "rank", X=10 * X) is False


def test_wrong_factors_are_rejected(octagon):
    U, V = octagon.witnesses["factors"].values()
    assert mutated(octagon, "factors", U=U * 1.001) is False
    assert mutated(octagon, "factors", U=-U, V=-V) is False
    assert mutated(octagon, "factors", U=U[:, 1:], V=V[1:], value=5) is False
    assert mutated(octagon, "factors", U=U + 1e-13) is False, "zeros of M are no longer zeros"
    assert mutated(octagon, "factors", U=U * float("nan")) is False


def test_wrong_multipliers_are_rejected(octagon):
    rows, _, multipliers = octagon.witnesses["self-scaled bound"].values()
    assert mutated(octagon, "self-scaled bound", value=7) is False
    assert mutated(octagon, "self-scaled bound", rows=-rows) is False
    larger = multipliers.clone()
    larger[0, 1:], larger[1:, 0] = 2 * larger[0, 1:], 2 * larger[1:, 0]
    assert mutated(octagon, "self-scaled bound", multipliers=larger) is False
    assert mutated(octagon, "self-scaled bound", multipliers=multipliers[:-1, :-1]) is False


def test_multipliers_must_not_favour_products(octagon):
    """A rank-one matrix is positive semidefinite: without the other condition it would prove anything."""
    rows, columns, _ = octagon.witnesses["self-scaled bound"].values()
    entries = (rows[:, None] * octagon.M * columns)[octagon.M > 0]
    u = torch.cat([torch.ones(1).double(), -1 / entries])
    assert mutated(octagon, "self-scaled bound", multipliers=torch.outer(u, u), value=7) is False


def test_a_wrong_size_is_rejected():
    found = rank.interval(torch.ones(3, 4) > 0)
    assert mutated(found, "size", value=2) is False and mutated(found, "size") is True


def test_all_zero():
    for M in (torch.zeros(3, 4), torch.zeros(3, 4) > 0):
        found = rank.interval(M)
        assert (found.lower, found.upper, found.rectangle_cover, len(found.fooling_set)) == (0, 0, (0, 0), 0)
        assert all(found.verify().values())


@pytest.mark.parametrize("M", [torch.tensor([[2.0, 0, 3]]), torch.tensor([[2.0], [0], [3]]), torch.tensor([[5]])])
def test_one_line(M):
    found = checked(rank.interval(M))
    assert (found.lower, found.upper, found.rectangle_cover) == (1, 1, (1, 1))


def test_copies_multiples_and_zeros_change_nothing():
    M = polygon(5)
    more = torch.cat([M, 3 * M, torch.zeros(2, 5).double(), M / 7])[:, [0, 1, 2, 3, 4, 4, 0]]
    found = checked(rank.interval(more))
    assert (found.lower, found.upper, found.rectangle_cover) == (5, 5, (5, 5))


def test_scales_far_from_one():
    for scale in (1e-290, 1e290):
        assert checked(rank.interval(polygon(5) * scale)).upper == 5


@pytest.mark.parametrize("M, message", [
    (torch.tensor([[1.0, float("nan")]]), r"M\[0, 1\] = nan"),
    (torch.tensor([[1.0], [-2.0]]), r"M\[1, 0\] = -2"),
    (torch.tensor([[float("inf")]]), "inf"),
    (torch.zeros(0, 3), "at least one entry"),
    (torch.zeros(2, 2, 2), r"\(2, 2, 2\)"),
    ([[1.0]], "list"),
    (torch.ones(2000, 2000), "4,000,000 entries"),
    (torch.tensor([[1e300, 1e-300]], dtype=torch.float64), "too small"),
])
def test_bad_input(M, message):
    with pytest.raises(ValueError, match=message):
        rank.interval(M)


@pytest.mark.parametrize("limit", [0, -1, "60", float("nan")])
def test_bad_time_limit(limit):
    with pytest.raises(ValueError, match="time_limit"):
        rank.interval(torch.eye(2), time_limit=limit)


def test_a_cut_run_says_so_and_stays_a_bound():
    generator = torch.Generator().manual_seed(0)
    S = torch.rand(40, 60, generator=generator) < 0.6
    begin = time.monotonic()
    found = rank.interval(S, time_limit=3)
    assert time.monotonic() - begin < 20
    assert found.unfinished
    assert False not in found.verify(time_limit=3).values()
    lower, upper = found.rectangle_cover
    assert 1 <= lower < upper <= 40 and len(found.fooling_set) <= lower


def test_the_same_result_again(octagon):
    again = rank.interval(polygon(8))
    for method, witness in octagon.witnesses.items():
        for name, value in witness.items():
            assert torch.equal(again.witnesses[method][name], value), (method, name)


def test_progress(capsys):
    rank.interval(torch.eye(3), progress=True)
    assert "rank₊ (3, 3)" in capsys.readouterr().err
    rank.interval(torch.eye(3))
    assert not capsys.readouterr().err
