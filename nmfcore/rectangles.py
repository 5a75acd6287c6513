"""Rectangles of a 0/1 support: covers, fooling sets and fractional covers, exact and heuristic; numpy throughout.

A rectangle is a set of rows times a set of columns on which the support S (n, m) has no zero; q of them are kept as
R (q, n) and C (q, m) bool. They are maximal: no row or column could be added.
"""

import math
import time

import numpy as np
import scipy.sparse as sp
from scipy.optimize import LinearConstraint, linprog, milp

from ._optional import needed_by

with needed_by("nmfcore.rectangles", "rank"):
    from ortools.sat.python import cp_model

_DIGITS = 10 ** 6  # weights of a fractional cover are multiples of its reciprocal
_RECTANGLES = 20_000  # maximal rectangles, at most, that are listed


def reduced(S):
    """Indices of rows and columns that decide the cover number: no zeros, no copies, no unions of others.

    A row that is the union of others joins every rectangle whose columns it contains, and is covered.

    Args:
        S: (n, m) bool.

    Example:
        >>> import numpy as np
        >>> rows, columns = reduced(np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], bool))  # the last row is a union
        >>> rows.tolist(), columns.tolist()
        ([0, 1], [0, 1])
    """
    rows, columns = np.arange(S.shape[0]), np.arange(S.shape[1])
    while True:
        kept_rows = _irreducible(S[np.ix_(rows, columns)])
        rows = rows[kept_rows]
        kept_columns = _irreducible(S[np.ix_(rows, columns)].T)
        columns = columns[kept_columns]
        if kept_rows.all() and kept_columns.all():
            return rows, columns


def _irreducible(S):
    """(n,) bool: rows that are not zero, not a copy of an earlier row, and not a union of other rows."""
    keep = np.zeros(len(S), bool)
    keep[np.unique(S, axis=0, return_index=True)[1]] = True
    keep &= S.any(1)
    T = S[keep].astype(np.float32)
    below = T @ (1 - T).T == 0  # row j is contained in row i
    np.fill_diagonal(below, False)
    keep[keep] = ((below.T.astype(np.float32) @ T > 0) != (T > 0)).any(1)
    return keep


def maximal(S, R, rows=slice(None)):
    """Maximal rectangles R (q, n), C (q, m) of S that contain the given sets of rows.

    Args:
        S: (n, m) bool.
        R: (q, r) bool, sets of rows, given among `rows` or all of them.
        rows: indices of r rows.

    Example:
        >>> import numpy as np
        >>> S = np.array([[1, 1, 0], [1, 1, 1]], bool)
        >>> R, C = maximal(S, np.array([[True, False]]))
        >>> R.tolist(), C.tolist()
        ([[True, True]], [[True, True, False]])
    """
    columns = _common(S[rows], R)
    return _common(S.T, columns), columns


def _common(S, R):
    """(q, m) the columns that have no zero in any row of R (q, n)."""
    return R.astype(np.float32) @ (~S).astype(np.float32) == 0


def _grown(S, weight):
    """Heavy maximal rectangles, grown greedily from every column, then from every row: R (q, n), C (q, m) bool."""
    found = []
    for T, w in ((S, weight), (S.T, weight.T)):
        rows, columns = T.T.copy(), np.eye(T.shape[1], dtype=bool)
        profit, best = w.T.copy(), (T * w).sum(0)  # (q, n) weight of each row within the columns taken
        while True:
            total = np.where(columns, -1, (rows * profit) @ T + rows @ (T * w))  # weight with one column more
            j = total.argmax(1)
            better = np.flatnonzero(total.max(1) > best)
            if len(better) == 0:
                break
            j = j[better]
            columns[better, j] = True
            rows[better] &= T[:, j].T
            profit[better] += w[:, j].T
            best[better] = total[better, j]
        found.append(maximal(T, rows))
    (R, C), (D, Q) = found
    return _distinct(np.concatenate([R, Q]), np.concatenate([C, D]))


def _distinct(R, C):
    first = np.sort(np.unique(R, axis=0, return_index=True)[1])  # a maximal rectangle is known by its rows
    return R[first], C[first]


def _all_maximal(S):
    """All maximal rectangles, R (q, n) and C (q, m), or None where they are too many."""
    bits = [int.from_bytes(np.packbits(row).tobytes(), "big") for row in S]
    columns: set[int] = set()  # the sets of columns that rows have in common
    for row in bits:
        columns |= {row & other for other in columns} | {row}
        columns.discard(0)
        if len(columns) > _RECTANGLES:
            return None
    size = -(-S.shape[1] // 8)
    C = np.frombuffer(b"".join(part.to_bytes(size, "big") for part in sorted(columns)), np.uint8).reshape(-1, size)
    C = np.unpackbits(C, axis=1)[:, :S.shape[1]].astype(bool)
    return _common(S.T, C), C


def greedy_cover(S):
    """A cover, R (r, n) and C (r, m), and a pool of rectangles that holds those tried and those grown from one line.

    Args:
        S: (n, m) bool.

    Example:
        >>> import numpy as np
        >>> (R, C), pool = greedy_cover(np.tri(3, dtype=bool))
        >>> len(R), bool(np.array_equal(R.T.astype(int) @ C > 0, np.tri(3, dtype=bool)))
        (3, True)
    """
    left, chosen, pool = S.copy(), [], []
    while left.any():
        R, C = _grown(S, left.astype(float))
        best = ((R @ left.astype(float)) * C).sum(1).argmax()
        chosen.append((R[best], C[best]))
        pool.append((R, C))
        left &= ~np.outer(R[best], C[best])
    covers = [maximal(S, np.eye(len(S), dtype=bool)), maximal(S, S.T),  # of one row each, of one column each
              tuple(np.stack(part) for part in zip(*chosen, strict=True))]
    return min(covers, key=lambda cover: len(cover[0])), _distinct(
        *(np.concatenate(part) for part in zip(*pool, *covers, strict=True)))


def _inside(R, C, cells):
    """(q, e) bool: which cells are in which rectangle."""
    return R[:, cells[:, 0]] & C[:, cells[:, 1]]


def solver_until(end, seed):
    """A CP-SAT solver that gives up at `end` and gives the same result each time.

    Args:
        end: on the clock of `time.monotonic`.
        seed: of its search.

    Example:
        >>> import time
        >>> 0 < solver_until(time.monotonic() + 5, seed=0).parameters.max_time_in_seconds <= 5
        True
    """
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(end - time.monotonic(), 0.01)
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = 1  # the same result each time, and faster here than a portfolio of strategies
    return solver


def from_pool(S, pool, cover, lower, end):
    """The smallest cover from a pool of rectangles that is found, or the given one.

    Args:
        S: (n, m) bool.
        pool, cover: as `greedy_cover` gives them.
        lower: bound of the cover number; a cover of that size is not improved.
        end: on the clock of `time.monotonic`.

    Example:
        >>> import time
        >>> import numpy as np
        >>> S = np.tri(4, dtype=bool)
        >>> cover, pool = greedy_cover(S)
        >>> len(from_pool(S, pool, cover, 1, time.monotonic() + 5)[0])
        4
    """
    if len(cover[0]) == lower:
        return cover
    inside = np.unique(_inside(*pool, np.argwhere(S)), axis=1).T
    found = milp(np.ones(len(pool[0])), integrality=1, bounds=(0, 1),
                 options={"time_limit": max(end - time.monotonic(), 0.1)},
                 constraints=LinearConstraint(sp.csr_matrix(inside, dtype=float), 1, np.inf))
    if found.x is None or round(found.fun) >= len(cover[0]):
        return cover
    chosen = found.x > 0.5
    return pool[0][chosen], pool[1][chosen]


def fooling_set(S, seed, enough, end):
    """Cells of which no two fit into a rectangle, (f, 2), grown greedily many times.

    Args:
        S: (n, m) bool.
        seed: of the order in which cells are tried.
        enough: cells, which are never exceeded.
        end: on the clock of `time.monotonic`.

    Example:
        >>> import time
        >>> import numpy as np
        >>> fooling_set(np.eye(3, dtype=bool), 0, 3, time.monotonic() + 5).tolist()
        [[0, 0], [1, 1], [2, 2]]
    """
    generator = np.random.default_rng(seed)
    T, best = S.astype(np.float32), np.zeros((0, 2), np.int64)
    for attempt in range(200):
        free, cells = S.copy(), []
        while free.any():
            conflicts = T @ free.T.astype(np.float32) @ T  # with how many free cells each shares a rectangle
            noise = generator.random(S.shape) if attempt else np.zeros(S.shape)
            i, j = np.unravel_index(np.where(free, conflicts * (1 + noise), np.inf).argmin(), S.shape)
            cells.append((i, j))
            free &= ~(S[:, j, None] & S[i])
        best = max(best, np.array(cells), key=len)
        if len(best) >= enough or time.monotonic() > end:
            break
    return best


def largest_fooling_set(S, cells, end, seed):
    """A largest fooling set, (f, 2), and whether it is proved to be one.

    Args:
        S: (n, m) bool.
        cells: a fooling set to begin with, as `fooling_set` gives it.
        end: on the clock of `time.monotonic`.
        seed: of the search.

    Example:
        >>> import time
        >>> import numpy as np
        >>> cells, proved = largest_fooling_set(np.eye(3, dtype=bool), np.zeros((0, 2)), time.monotonic() + 5, 0)
        >>> len(cells), proved
        (3, True)
    """
    ones = np.argwhere(S)
    model = cp_model.CpModel()
    take = [model.new_bool_var("") for _ in ones]
    number = np.full(S.shape, -1)
    number[tuple(ones.T)] = range(len(ones))
    for line in (*number, *number.T):
        model.add_at_most_one([take[e] for e in line[line >= 0]])
    for e, (i, j) in enumerate(ones):
        if time.monotonic() > end:
            return cells, False
        for f in number[i + 1:][S[i + 1:, j, None] & S[i] & S[i + 1:]]:  # the cell shares a rectangle with these
            if ones[f, 1] != j:
                model.add_bool_or([take[e].negated(), take[f].negated()])
    for e, (i, j) in enumerate(ones):
        model.add_hint(take[e], bool(((cells == (i, j)).all(1)).any()))
    model.maximize(sum(take))
    solver = solver_until(end, seed)
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return cells, False
    return ones[[solver.boolean_value(variable) for variable in take]], status == cp_model.OPTIMAL


def heaviest(S, weight, end, seed, above=None):
    """A heaviest rectangle (R, C), or None, a proven upper bound of its weight, and whether they are equal.

    Args:
        S: (n, m) bool.
        weight: (n, m) integers ≥ 0.
        end: on the clock of `time.monotonic`.
        seed: of the search.
        above: only ask for a rectangle that is heavier than this.

    Example:
        >>> import time
        >>> import numpy as np
        >>> S = np.tri(3, dtype=bool)
        >>> (rows, columns), bound, equal = heaviest(S, S.astype(int), time.monotonic() + 5, 0)
        >>> int(rows.sum() * columns.sum()), bound, equal
        (4, 4, True)
    """
    model = cp_model.CpModel()
    rows = [model.new_bool_var("") for _ in range(S.shape[0])]
    columns = [model.new_bool_var("") for _ in range(S.shape[1])]
    for i, j in np.argwhere(~S):
        model.add_bool_or([rows[i].negated(), columns[j].negated()])
    terms = []
    for i, j in np.argwhere(weight > 0):
        both = model.new_bool_var("")
        model.add_implication(both, rows[i])
        model.add_implication(both, columns[j])
        terms.append(int(weight[i, j]) * both)
    if above is not None:
        model.add(sum(terms) >= above + 1)
    else:
        model.maximize(sum(terms))
    solver = solver_until(end, seed)
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return None, above, True
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, int(weight.sum()), False
    found = tuple(np.array([solver.boolean_value(variable) for variable in part]) for part in (rows, columns))
    bound = math.floor(solver.best_objective_bound + 0.5) if above is None else int(weight.sum())
    return found, bound, status == cp_model.OPTIMAL


def fractional(S, pool, end, seed):
    """Integer weights (n, m) of the ones, an upper bound of the weight of any rectangle, and whether they are optimal.

    Every cover has at least (sum of the weights) / (heaviest rectangle) rectangles. The linear program that maximizes
    this knows only the rectangles of a pool, to which those are added that turn out too heavy. Where that is cut short,
    the bound on the heaviest rectangle still holds (Farley 1990). Also returns the pool as it has grown, None where all
    rectangles could be listed.

    Args:
        S: (n, m) bool.
        pool: as `greedy_cover` gives it.
        end: on the clock of `time.monotonic`.
        seed: of the search.

    Example:
        >>> import time
        >>> import numpy as np
        >>> S = ~np.eye(3, dtype=bool)
        >>> weights, bound, optimal, _ = fractional(S, greedy_cover(S)[1], time.monotonic() + 5, 0)
        >>> float(weights.sum()) / bound, optimal
        (3.0, True)
    """
    cells, everything, begin = np.argwhere(S), _all_maximal(S), time.monotonic()
    R, C = everything or pool
    best = S.astype(np.int64), int(S.sum()), False
    while True:
        program = linprog(-np.ones(len(cells)), sp.csr_matrix(_inside(R, C, cells), dtype=float), np.ones(len(R)),
                          bounds=(0, 1), method="highs-ds")
        if program.x is None:
            return *best, (R, C)
        weight = np.zeros(S.shape)
        weight[tuple(cells.T)] = program.x.clip(0)
        integers = np.floor(weight * _DIGITS).astype(np.int64)
        if everything:
            return integers, int(((R @ integers) * C).sum(1).max()), True, None
        more = _grown(S, weight)
        heavy = ((more[0] @ weight) * more[1]).sum(1)
        order = np.flatnonzero(heavy > 1 + 1e-6)
        if len(order) and time.monotonic() < begin + 0.7 * (end - begin):
            R, C = _distinct(np.concatenate([R, more[0][order]]), np.concatenate([C, more[1][order]]))
            continue
        found, bound, exact = heaviest(S, integers, end, seed)
        optimal = exact and bound <= _DIGITS * (1 + 1e-4)
        if integers.sum() * best[1] > best[0].sum() * bound:
            best = integers, bound, optimal
        if optimal or found is None or time.monotonic() > begin + 0.7 * (end - begin):
            return *best, (R, C)
        R, C = (np.concatenate(part) for part in zip((R, C), maximal(S, found[0][None]), strict=True))


def cover_of_size(S, r, cells, end, seed):
    """A cover of S by r rectangles, R (r, n) and C (r, m); False where there is none, None where time ran out.

    Args:
        S: (n, m) bool.
        r: how many rectangles.
        cells: a fooling set. Its cells are in different rectangles, so cell t may as well be in rectangle t: without
            this, every cover would be found again in each order of its rectangles.
        end: on the clock of `time.monotonic`.
        seed: of the search.

    Example:
        >>> import time
        >>> import numpy as np
        >>> S = ~np.eye(3, dtype=bool)
        >>> cells = fooling_set(S, 0, 3, time.monotonic() + 5)
        >>> cover_of_size(S, 2, cells[:2], time.monotonic() + 5, 0)
        False
        >>> [part.shape for part in cover_of_size(S, 3, cells, time.monotonic() + 5, 0)]
        [(3, 3), (3, 3)]
    """
    model, (n, m) = cp_model.CpModel(), S.shape
    U = [[model.new_bool_var("") for _ in range(r)] for _ in range(n)]
    V = [[model.new_bool_var("") for _ in range(m)] for _ in range(r)]
    for k in range(r):
        for i, j in np.argwhere(~S):
            model.add_bool_or([U[i][k].negated(), V[k][j].negated()])
    for i, j in np.argwhere(S):
        covered = [model.new_bool_var("") for _ in range(r)]
        for k in range(r):
            model.add_implication(covered[k], U[i][k])
            model.add_implication(covered[k], V[k][j])
        model.add_bool_or(covered)
    for t, (i, j) in enumerate(cells):
        model.add(U[i][t] == 1)
        model.add(V[t][j] == 1)
    solver = solver_until(end, seed)
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return False
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return maximal(S, np.array([[solver.boolean_value(variable) for variable in row] for row in U]).T)
