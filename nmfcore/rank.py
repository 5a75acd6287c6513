"""How small can an exact non-negative factorization be? Intervals for rank₊ and for the rectangle cover number.

Both are NP-hard, so `interval` returns what it could prove, each bound with a witness that `verify` checks anew::

    fooling set ≤ ⌈fractional cover⌉ ≤ rectangle cover number ≤ rank₊ ≤ size of a factorization found
    rank ≤ rank₊,   ⌈self-scaled bound⌉ ≤ rank₊

A rectangle is a set of rows times a set of columns on which the support has no zero (Fiorini, Kaibel, Pashkovich &
Theis 2013). The self-scaled bound is that of Fawzi & Parrilo (2016). The search for factorizations follows Vandaele,
Gillis, Glineur & Tuyttens (2016): local search over many starts.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import least_squares
from torch import Tensor
from tqdm import tqdm

from . import rectangles
from ._inputs import is_sparse
from ._optional import needed_by
from .solver import nmf

with needed_by("nmfcore.rank", "rank"):
    import clarabel
    from ortools.sat.python import cp_model

TOLERANCE = 1e-9  # ‖M − U V‖_F / ‖M‖_F up to which a factorization counts as exact
_ENTRIES = 2 ** 20  # of M, at most
_ONES = 100  # of a support, at most, for the semidefinite program
_CELLS = 4000  # ones of a support, at most, for the exact fooling set and the fractional cover
_POPULATION = 24  # factorizations that are improved together
_ROUNDS = (60, 60, 150)  # iterations for each, in turn: many short ones find the way, long ones separate what is near


@dataclass(frozen=True)
class Bound:
    """One side of an interval, and what proves it.

    Example:
        >>> interval(torch.eye(3)).bounds[0]
        Bound(quantity='rank₊', side='upper', value=3, method='factors', witness={'U': ..., 'V': ...})
    """

    quantity: str  #: "rectangle cover" or "rank₊"
    side: str  #: "lower" or "upper"
    value: int
    method: str  #: such as "fooling set"
    witness: dict[str, Tensor]  #: what `RankInterval.verify` checks, such as the cells of a fooling set


@dataclass(frozen=True)
class RankInterval:
    """What is proved about rank₊ and the rectangle cover number of one matrix or support.

    `lower` holds for every matrix with the support of M that differs from M by at most `TOLERANCE` ‖M‖_F, so for M too;
    `upper` for one of them. For a support alone (bool M) both hold for every matrix that has it.

    Example:
        >>> support = ~torch.eye(4, dtype=torch.bool)  # zero on the diagonal alone
        >>> proved = interval(support)
        >>> proved.rectangle_cover, proved.lower, proved.upper
        ((4, 4), 4, 4)
        >>> all(proved.verify().values())
        True
    """

    M: Tensor  #: (N, M) float64, divided by a power of two if far from 1, or bool for a support
    bounds: tuple[Bound, ...]  #: the best of each method
    unfinished: dict[str, str]  #: method -> why it proved less than it might have

    @property
    def lower(self) -> int:
        """Lower bound of rank₊; every rectangle cover bound is one."""
        return max((bound.value for bound in self.bounds if bound.side == "lower"), default=0)

    @property
    def upper(self) -> int:
        """Upper bound of rank₊."""
        return min(bound.value for bound in self.bounds if bound.side == "upper" and bound.quantity == "rank₊")

    @property
    def rectangle_cover(self) -> tuple[int, int]:
        """(lower, upper) bound of the rectangle cover number."""
        lower = [bound.value for bound in self.bounds
                 if bound.side == "lower" and bound.quantity == "rectangle cover"]
        return max(lower, default=0), min(bound.value for bound in self.bounds if bound.side == "upper")

    @property
    def fooling_set(self) -> Tensor:
        """(f, 2) cells, no two of which fit into one rectangle."""
        return self.witnesses["fooling set"]["cells"] if "fooling set" in self.witnesses else torch.zeros(0, 2).long()

    @property
    def witnesses(self) -> dict[str, dict[str, Tensor]]:
        """What proves each bound, by method."""
        return {bound.method: bound.witness for bound in self.bounds}

    def verify(self, *, time_limit: float = 60.0) -> dict[str, bool | None]:
        """Check each witness against M, by method: True, False, or None where time ran out.

        An exhausted search leaves no short witness: it is repeated on M as it is, in another formulation.

        Args:
            time_limit: seconds.
        """
        matrix = self.M.numpy()
        deadline = time.monotonic() + time_limit
        checks = _CHECKS | {method: partial(_CHECKS[method], end=deadline) for method in _SEARCHES}
        return {bound.method: checks[bound.method](matrix, bound.value, **{
            name: value.numpy() for name, value in bound.witness.items()}) for bound in self.bounds}


def interval(M: Tensor, *, time_limit: float = 60.0, seed: int = 0, progress: bool = False) -> RankInterval:
    """Bound the non-negative rank of M (N, M) ≥ 0 and the rectangle cover number of its support, with proofs.

    Args:
        M: a matrix of any real type, dense or sparse, computed in float64, or a bool tensor: then only the support
            counts. A product that was rounded to float32 is farther from its rank than the tolerance; compute it in
            float64.
        time_limit: seconds, kept to within the length of one step. Whatever is proved by then is returned, and
            `unfinished` says which methods were cut short. A run that finishes gives the same result again.
        seed: of the searches.
        progress: show a bar with the interval so far.

    Raises:
        ValueError: a matrix that is negative, not finite, empty, not two-dimensional or larger than 2²⁰ entries.

    Example:
        >>> M = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]])
        >>> proved = interval(M)  # of rank 3, but no three non-negative parts make it
        >>> int(torch.linalg.matrix_rank(M)), proved.lower, proved.upper
        (3, 4, 4)
    """
    if not isinstance(M, Tensor) and not is_sparse(M):
        table = hasattr(M, "to_numpy")
        cure = 'torch.as_tensor(M.to_numpy().astype("float64"))' if table else "torch.as_tensor(M)"
        raise ValueError(f"M must be a tensor of shape (N, M) with at least one entry, got {type(M).__name__}; convert "
                         f"it with {cure}")
    entries = math.prod(M.shape)
    if len(M.shape) != 2 or entries == 0:
        raise ValueError(f"M must be a tensor of shape (N, M) with at least one entry, got {tuple(M.shape)}")
    if entries > _ENTRIES:
        raise ValueError(f"M has {entries:,} entries, above the {_ENTRIES:,} that can be handled; take some of its "
                         f"rows and columns: their lower bounds hold for all of M")
    if not (isinstance(time_limit, (int, float)) and time_limit > 0):
        raise ValueError(f"time_limit {time_limit!r} must be a number of seconds > 0")
    if is_sparse(M):
        M = M.to_dense() if isinstance(M, Tensor) else torch.from_numpy(M.toarray())
    M = M.detach().cpu()
    if M.dtype != torch.bool:
        M = M.double()
        wrong = (~torch.isfinite(M) | (M < 0)).nonzero()
        if len(wrong):
            i, j = wrong[0].tolist()
            raise ValueError(f"M[{i}, {j}] = {M[i, j].item()} but every entry must be finite and ≥ 0")
        power = math.frexp(float(M.max()))[1]
        if abs(power) > 100:  # squares must stay finite
            support, M = M > 0, torch.ldexp(M, torch.tensor(-power))
            if not torch.equal(M > 0, support):
                raise ValueError(f"the largest entry of M is near 2^{power} and the smallest too small beside it; "
                                 f"set entries to zero that are rounding, or pass the support M > 0")
    search = _Search(M.numpy(), time_limit, seed, progress)
    search.run()
    return RankInterval(M, tuple(search.bounds.values()), search.unfinished)


class _Search:
    """One call of `interval`."""

    def __init__(self, M, time_limit, seed, progress):
        self.M, self.S, self.seed = M, M > 0, seed
        self.bounds, self.unfinished = {}, {}
        self.end = time.monotonic() + time_limit
        self.bar = tqdm(total=8, disable=not progress, bar_format="{desc} {bar} {elapsed} {postfix}")

    def run(self):
        with self.bar:
            self.size()
            if self.S.any():
                if self.M.dtype != bool:
                    self.rank()
                rows, columns = rectangles.reduced(self.S)
                end = self.end
                if not self.closed("rank₊"):
                    self.end = self.left(1 if self.M.dtype == bool else 0.5)
                self.rectangles(rows, columns, self.S[np.ix_(rows, columns)])
                self.end = end
                if self.M.dtype != bool:
                    self.self_scaled()
                    self.factors()

    def add(self, quantity, side, value, method, **witness):
        """Keep a bound if it is the best of its method."""
        sign = 1 if side == "lower" else -1
        if method not in self.bounds or sign * value > sign * self.bounds[method].value:
            self.bounds[method] = Bound(quantity, side, int(value), method,
                                        {name: torch.as_tensor(array) for name, array in witness.items()})
        self.bar.set_postfix_str(f"rectangle cover {self.of('rectangle cover')}, rank₊ {self.of('rank₊')}")

    def of(self, quantity):
        result = RankInterval(self.M, tuple(self.bounds.values()), {})
        return result.rectangle_cover if quantity == "rectangle cover" else (result.lower, result.upper)

    def closed(self, quantity):
        lower, upper = self.of(quantity)
        return lower >= upper

    def step(self, name):
        self.bar.set_description_str(name)
        self.bar.update()

    def left(self, share):
        """Until when a step may run that gets this share of the time left."""
        now = time.monotonic()
        return now + share * max(self.end - now, 0)

    # --- bounds that cost little ----------------------------------------------------------------------------

    def size(self):
        """As many parts as there are rows, or columns, that are not zero, and not multiples of each other."""
        self.step("size")
        if self.M.dtype == bool:
            axis = int(self.S.any(0).sum() < self.S.any(1).sum())
            self.add("rank₊", "upper", self.S.any(1 - axis).sum(), "size", axis=np.int64(axis))
            return
        parts = [_proportional(self.M), [X.T for X in reversed(_proportional(self.M.T))]]
        U, V = min(parts, key=lambda part: len(part[1]))
        self.add("rank₊", "upper", len(V), "factors", U=U, V=V)

    def rank(self):
        self.step("rank")
        X, values, Y = np.linalg.svd(self.M, full_matrices=False)
        r = int((values > _uncertain(self.M)).sum())
        self.add("rank₊", "lower", r, "rank", X=X[:, :r].copy(), Y=Y[:r].T.copy())

    # --- rectangle cover ------------------------------------------------------------------------------------

    def rectangles(self, rows, columns, S):
        """Bounds from S, the rows and columns of the support that alone decide its rectangle cover number."""
        def keep(cover):
            R, C = rectangles.maximal(self.S, cover[0], rows)
            self.add("rectangle cover", "upper", len(R), "cover", rows=R, columns=C)

        def prove(value, method, cells):
            self.add("rectangle cover", "lower", value, method,
                     cells=np.stack([rows[cells[:, 0]], columns[cells[:, 1]]], 1))
        self.step("cover")
        cover, pool = rectangles.greedy_cover(S)
        keep(cover)
        self.step("fooling set")
        cells = rectangles.fooling_set(S, self.seed, len(cover[0]), self.left(0.05))
        prove(len(cells), "fooling set", cells)
        if self.closed("rectangle cover"):
            return
        if S.sum() > _CELLS:
            self.unfinished |= dict.fromkeys(("fooling set", "fractional cover"), f"more than {_CELLS} ones")
        else:
            cells, proved = rectangles.largest_fooling_set(S, cells, self.left(0.1), self.seed)
            prove(len(cells), "fooling set", cells)
            if not proved:
                self.unfinished["fooling set"] = "time limit"
            if self.closed("rectangle cover"):
                return
            self.step("fractional cover")
            weights, heaviest, proved, pool = rectangles.fractional(S, pool, self.left(0.4), self.seed)
            full = np.zeros(self.S.shape, np.int64)
            full[np.ix_(rows, columns)] = weights
            self.add("rectangle cover", "lower", -(-weights.sum() // heaviest), "fractional cover",
                     weights=full, heaviest=np.int64(heaviest))
            if not proved:
                self.unfinished["fractional cover"] = "time limit"
        if pool:
            keep(rectangles.from_pool(S, pool, cover, self.of("rectangle cover")[0], self.left(0.3)))
        self.step("search for covers")
        self.search(S, cells, keep, prove)

    def search(self, S, cells, keep, prove):
        """Close the gap from both ends, giving each attempt more time than the one before."""
        seconds = 1.0
        while not self.closed("rectangle cover"):
            lower, upper = self.of("rectangle cover")
            for r in dict.fromkeys((lower, upper - 1)):
                if time.monotonic() >= self.end:
                    self.unfinished["search"] = "time limit"
                    return
                found = rectangles.cover_of_size(S, r, cells, min(self.end, time.monotonic() + seconds), self.seed)
                if found is False:
                    prove(r + 1, "search", cells)
                    break
                if found is not None:
                    keep(found)
                    break
            else:
                seconds *= 2

    # --- bounds from the values -----------------------------------------------------------------------------

    def self_scaled(self):
        self.step("self-scaled bound")
        if self.closed("rank₊"):
            return
        if self.S.sum() > _ONES:
            self.unfinished["self-scaled bound"] = f"more than {_ONES} ones"
            return
        found = _self_scaled(self.M, self.left(0.5))
        if found is None:
            self.unfinished["self-scaled bound"] = "the solver found no certificate in time"
            return
        value = _self_scaled_value(self.M, *found)
        if value > 0:
            self.add("rank₊", "lower", value, "self-scaled bound",
                     rows=found[0], columns=found[1], multipliers=found[2])

    def factors(self):
        """Exact factorizations: every rank gets more effort as others fail, the lowest ones first."""
        self.step("search for factors")
        populations: dict[int, _Population] = {}
        level = 0
        while not self.closed("rank₊"):
            lower, upper = self.of("rank₊")
            level += 1
            for r in range(lower, min(lower + level + 1, upper)):
                if time.monotonic() >= self.end:
                    self.unfinished["factors"] = "time limit"
                    return
                if r not in populations:
                    populations[r] = _Population(self.M, r, self.seed)
                found = populations[r].improve(10 * 2 ** (level - 1), self.end)
                if found:
                    self.add("rank₊", "upper", r, "factors", U=found[0], V=found[1])
                    break


def _proportional(M):
    """U, V with one row of V for each class of rows of M that are multiples of each other, none for zero rows."""
    largest = M.max(1)
    shape = M / np.where(largest > 0, largest, 1)[:, None]
    _, first, which = np.unique(shape, axis=0, return_index=True, return_inverse=True)
    V, U = M[first], np.zeros((len(M), len(first)))
    U[np.arange(len(M)), which.reshape(-1)] = largest / np.where(largest > 0, largest, 1)[first][which.reshape(-1)]
    live = V.any(1)
    return U[:, live], V[live]


def _uncertain(M):
    """Singular values up to this may be those of a matrix within the tolerance, or rounding."""
    norm = np.linalg.norm(M)
    return TOLERANCE * norm + 8 * np.finfo(float).eps * max(M.shape) * norm


# --- the self-scaled bound ----------------------------------------------------------------------------------


def _self_scaled(M, end):
    """Multipliers of the self-scaled bound: row and column scales and a positive semidefinite (e + 1, e + 1) matrix.

    If M is a sum of rank₊ rank-one matrices R between 0 and M, the moment matrix Σ (1, vec R)(1, vec R)ᵀ is positive
    semidefinite, has rank₊ in its corner and vec M beside it, and the rest X has X[ij,kl] = X[il,kj] ≥ 0 and
    X[ij,ij] ≤ M[ij]². The least corner such a matrix can have bounds rank₊ (Fawzi & Parrilo 2016, section 3); it does
    not change with the scale of rows and columns. The dual solution is what proves it.
    """
    left, right = _balanced(M)
    cells, pairs = _pairs(M > 0)
    a = (left[:, None] * M * right)[tuple(cells.T)]
    e, classes = len(a), pairs.max() + 1
    # Variables: the corner, and one for each class of equal entries of X. The triangle goes column by column.
    i, j = np.tril_indices(e + 1)
    i, j = j, i  # of the upper triangle, by columns
    scale = np.where(i == j, 1.0, math.sqrt(2))
    variable = np.where(j == 0, 0, pairs[np.maximum(i - 1, 0), np.maximum(j - 1, 0)] + 1)
    fixed = (i == 0) & (j > 0)
    free = ~fixed & (variable >= (j > 0))  # entries of X without a class are zero
    triangle = sp.csc_matrix((-scale[free], (np.flatnonzero(free), variable[free])), (len(i), classes + 1))
    constant = np.where(fixed, scale * np.append(0, a)[j], 0)
    diagonal = pairs[range(e), range(e)] + 1
    caps = sp.csc_matrix((np.ones(e), (range(e), diagonal)), (e, classes + 1))
    positive = -sp.eye(classes + 1, format="csc")
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.time_limit = max(end - time.monotonic(), 0.1)
    solver = clarabel.DefaultSolver(
        sp.csc_matrix((classes + 1,) * 2), np.eye(1, classes + 1)[0],
        sp.vstack([caps, positive, triangle], format="csc"), np.concatenate([a ** 2, np.zeros(classes + 1), constant]),
        [clarabel.NonnegativeConeT(e + classes + 1), clarabel.PSDTriangleConeT(e + 1)], settings)
    dual = np.array(solver.solve().z)[e + classes + 1:] / scale
    if not np.isfinite(dual).all() or not dual[0] > 0:
        return None
    multipliers = np.zeros((e + 1, e + 1))
    multipliers[i, j] = multipliers[j, i] = dual / dual[0]
    return left, right, _repaired(multipliers, pairs)


def _balanced(M):
    """Scales of rows and columns that bring the geometric means of the entries near 1."""
    S, logs = M > 0, np.log(np.where(M > 0, M, 1))
    left, right = np.zeros(M.shape[0]), np.zeros(M.shape[1])  # logarithms, too
    for _ in range(20):
        left = -(S * (logs + right)).sum(1) / np.maximum(S.sum(1), 1)
        right = -(S * (logs + left[:, None])).sum(0) / np.maximum(S.sum(0), 1)
    return np.exp(left), np.exp(right)


def _pairs(S):
    """The ones (e, 2) of S, and the class (e, e) of each pair of them: X[ij,kl] and X[il,kj] share one.

    −1 where il or kj is a zero of S: there the entry of X is zero.
    """
    cells = np.argwhere(S)
    number = np.full(S.shape, -1)
    number[tuple(cells.T)] = range(len(cells))
    i, j = cells.T
    crossed = number[i[:, None], j], number[i, j[:, None]]  # il and kj
    e = len(cells)
    own = np.minimum(np.arange(e)[:, None], np.arange(e)), np.maximum(np.arange(e)[:, None], np.arange(e))
    other = np.minimum(*crossed), np.maximum(*crossed)
    label = np.minimum(own[0] * e + own[1], other[0] * e + other[1])
    label[other[0] < 0] = -1
    known, classes = np.unique(label, return_inverse=True)
    return cells, classes.reshape(e, e) - int(known[0] == -1)


def _repaired(multipliers, pairs):
    """Multipliers that satisfy the linear conditions of `_self_scaled_value`, as near as possible."""
    inner = multipliers[1:, 1:]
    off = (pairs >= 0) & ~np.eye(len(pairs), dtype=bool)
    count = np.bincount(pairs[off], minlength=pairs.max() + 1)
    mean = np.bincount(pairs[off], inner[off], minlength=len(count)) / np.maximum(count, 1)
    inner[off] -= np.maximum(mean, 0)[pairs[off]]
    return multipliers


def _self_scaled_value(M, rows, columns, multipliers):
    """The lower bound of rank₊ that multipliers prove, rounded up; 0 if they violate a condition.

    With S the multipliers, s its first column and X, a as in `_self_scaled`: 0 ≤ ⟨S, moments⟩ = S₀₀ t + 2⟨s, a⟩ +
    ⟨S', X⟩, and ⟨S', X⟩ ≤ Σ S'[ij,ij] a[ij]² if over every class of pairs the multipliers sum to at most 0.
    """
    if not (np.all(rows > 0) and np.all(columns > 0) and np.isfinite(multipliers).all()):
        return 0
    scaled = rows[:, None] * M * columns
    cells, pairs = _pairs(M > 0)
    a, s, inner = scaled[tuple(cells.T)], multipliers[1:, 0], multipliers[1:, 1:]
    if multipliers.shape != (len(a) + 1,) * 2 or not np.array_equal(multipliers, multipliers.T):
        return 0
    off = (pairs >= 0) & ~np.eye(len(pairs), dtype=bool)
    sums = np.bincount(pairs[off], inner[off], minlength=pairs.max() + 1)
    size = np.abs(multipliers).sum()
    slack = max(sums.max(), 0.0)
    shift = max(-np.linalg.eigvalsh(multipliers)[0], 0.0) + 1e-13 * size  # makes it positive semidefinite
    diagonal = np.diag(inner) + shift
    # No entry of X exceeds the product of two of a, and M itself may be off by the tolerance.
    away = TOLERANCE * np.linalg.norm(M) * rows.max() * columns.max()
    excess = slack * a.sum() ** 2 + 2 * np.linalg.norm(s) * away
    excess += diagonal.max() * (2 * np.linalg.norm(a) + away) * away
    value = (-2 * s @ a - (diagonal * a ** 2).sum() - excess) / (multipliers[0, 0] + shift)
    return math.ceil(value - 1e-12 * size * (1 + a @ a))


# --- factorizations -----------------------------------------------------------------------------------------


class _Population:
    """Many factorizations of rank r, improved by giving some of their components a new start."""

    def __init__(self, M, r, seed):
        self.M, self.r, self.generator = M, r, np.random.default_rng([seed, r])
        self.scale, self.tried, self.iterations = math.sqrt(M.mean() / r), math.inf, itertools.cycle(_ROUNDS)
        found = self._solved(self._random(2 * _POPULATION, len(M), r), self._random(2 * _POPULATION, r, M.shape[1]))
        best = found[2].argsort(kind="stable")[:_POPULATION]
        self.U, self.V, self.error = (part[best] for part in found)

    def improve(self, rounds, end):
        """U (n, r) and V (r, m) ≥ 0 with M = U V to within the tolerance and zeros where M has them, or None."""
        for _ in range(rounds):
            b = self.error.argmin()
            if self.error[b] < min(1e-3, 0.9 * self.tried):
                self.tried = self.error[b]
                found = _polished(self.M, self.U[b], self.V[b])
                if found:
                    return found
            if time.monotonic() > end:
                return None
            U, V, count = self.U.copy(), self.V.copy(), int(self.generator.integers(1, min(3, self.r + 1)))
            for u, v in zip(U, V, strict=True):
                k = self.generator.choice(self.r, count, replace=False)
                u[:, k], v[k] = self._random(len(u), count), self._random(count, v.shape[1])
            U, V, error = self._solved(U, V)
            better = error < self.error
            self.U[better], self.V[better], self.error[better] = U[better], V[better], error[better]
        return None

    def _random(self, *shape):
        return self.generator.random(shape) * (self.generator.random(shape) < 0.5) * self.scale

    def _solved(self, U, V):
        A = torch.from_numpy(self.M).expand(len(U), *self.M.shape).contiguous()
        found = nmf(A, self.r, init=(torch.from_numpy(U), torch.from_numpy(V)), tol=1e-6,
                    max_iter=next(self.iterations))
        return *_shared(found), found.error.numpy().copy()


def _shared(found):
    """U and V with the size of each part shared evenly between them."""
    weight = found.U.norm(dim=-2, keepdim=True).sqrt()
    return (found.U / torch.where(weight > 0, weight, 1)).numpy(), (found.V * weight.mT).numpy()


def _polished(M, U, V):
    """The factors made exact to rounding, by HALS and then by least squares over the entries that are not zero."""
    (n, m), r = M.shape, len(V)
    found = nmf(torch.from_numpy(M), r, init=(torch.from_numpy(U), torch.from_numpy(V)), max_iter=20_000, tol=1e-5)
    U, V = _shared(found)
    start = np.concatenate([U.ravel(), V.ravel()])
    free = start > 1e-9 * start.max()
    near = _valid(M, U, V)
    if near or found.error > 1e-4 or free.sum() ** 2 * M.size > 2 ** 23:  # least squares would take seconds
        return near

    def split(values):
        full = np.zeros(len(start))
        full[free] = values
        return full[:n * r].reshape(n, r), full[n * r:].reshape(r, m)

    def jacobian(values):
        U, V = split(values)
        return np.hstack([np.kron(np.eye(n), V.T), np.kron(U, np.eye(m)).reshape(n * m, r * m)])[:, free]

    def residual(values):
        U, V = split(values)
        return (U @ V - M).ravel()
    solution = least_squares(residual, start[free], jacobian, bounds=(0, np.inf), xtol=1e-15, ftol=1e-15, gtol=1e-15,
                             max_nfev=50)
    return _valid(M, *split(solution.x))


def _valid(M, U, V):
    """(U, V) if they are an exact factorization once entries that reach into zeros of M are gone, else None."""
    U, V, zero = U.copy(), V.copy(), M == 0
    for k in range(len(V)):
        while (zero & np.outer(U[:, k] > 0, V[k] > 0)).any():
            i, j = np.unravel_index(np.where(zero, np.outer(U[:, k], V[k]), 0).argmax(), M.shape)
            if U[i, k] / U[:, k].max() < V[k, j] / V[k].max():
                U[i, k] = 0
            else:
                V[k, j] = 0
    return (U, V) if _factors_hold(M, len(V), U, V) else None


# --- checks: is the witness what it claims to be? -----------------------------------------------------------


def _rank_holds(M, value, X, Y):
    if X.shape != (len(M), value) or Y.shape != (M.shape[1], value):
        return False
    near = all(np.abs(Z.T @ Z - np.eye(value)).max(initial=0) < 1e-12 * max(M.shape) for Z in (X, Y))
    return bool(near and np.linalg.svd(X.T @ M @ Y, compute_uv=False).min(initial=np.inf) > 0.999 * _uncertain(M))


def _fooling_set_holds(M, value, cells):
    i, j = cells.T
    crossed = (M[i[:, None], j] > 0) & (M[i, j[:, None]] > 0)
    np.fill_diagonal(crossed, False)
    return bool(len(cells) == value and (M[i, j] > 0).all() and not crossed.any())


def _cover_holds(M, value, rows, columns):
    covered = rows.T.astype(int) @ columns.astype(int) > 0
    return len(rows) == len(columns) == value and np.array_equal(covered, M > 0)


def _fractional_holds(M, value, weights, heaviest, end):
    S = M > 0
    if (weights < 0).any() or (weights[~S] > 0).any() or heaviest < 1 or -(-weights.sum() // heaviest) != value:
        return False
    found, _, proved = rectangles.heaviest(S, weights, end, 1, above=int(heaviest))
    return False if found else True if proved else None


def _search_holds(M, value, cells, end):
    """Is there no cover by value − 1 rectangles? Here a rectangle is its rows; which columns fit follows."""
    S, r = M > 0, value - 1
    if not _fooling_set_holds(M, len(cells), cells):
        return False
    if len(cells) > r:
        return True
    model, (n, m) = cp_model.CpModel(), S.shape
    rows = [[model.new_bool_var("") for _ in range(n)] for _ in range(r)]
    for t, (i, j) in enumerate(cells):
        model.add_bool_and([rows[t][i], *(rows[t][k].negated() for k in np.flatnonzero(~S[:, j]))])
    for j in range(m):
        fits = [model.new_bool_var("") for _ in range(r)]
        for k in range(r):
            for i in np.flatnonzero(~S[:, j]):
                model.add_implication(fits[k], rows[k][i].negated())
        for i in np.flatnonzero(S[:, j]):
            covers = [model.new_bool_var("") for _ in range(r)]
            for k in range(r):
                model.add_bool_and([fits[k], rows[k][i]]).only_enforce_if(covers[k])
            model.add_bool_or(covers)
    status = rectangles.solver_until(end, 1).solve(model)
    return {cp_model.INFEASIBLE: True, cp_model.OPTIMAL: False, cp_model.FEASIBLE: False}.get(status)


def _self_scaled_holds(M, value, rows, columns, multipliers):
    return _self_scaled_value(M, rows, columns, multipliers) >= value


def _factors_hold(M, value, U, V):
    if U.shape != (len(M), value) or V.shape != (value, M.shape[1]):
        return False
    if not all(np.isfinite(X).all() and (X >= 0).all() for X in (U, V)):
        return False
    same_support = np.array_equal((U > 0).astype(int) @ (V > 0).astype(int) > 0, M > 0)
    return bool(same_support and np.linalg.norm(M - U @ V) <= TOLERANCE * np.linalg.norm(M))


def _size_holds(M, value, axis):
    return bool((M > 0).any(1 - int(axis)).sum() == value)


_CHECKS: dict[str, Callable[..., bool | None]] = {
    "rank": _rank_holds, "fooling set": _fooling_set_holds, "fractional cover": _fractional_holds,
    "search": _search_holds, "cover": _cover_holds, "self-scaled bound": _self_scaled_holds,
    "factors": _factors_hold, "size": _size_holds}
_SEARCHES = "fractional cover", "search"  # checks that may take long
