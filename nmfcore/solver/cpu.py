"""The HALS iteration of one problem on the CPU, compiled with numba: exact zeros of A and of U cost nothing.

    rows of A        tile of U, 16 rows      sweep                        Gram
    ┌──────────┐     ┌────────────────┐      C = 16 rows of A Vᵀ          C    += Aᵀ U
    │ 16 × M   │ ──▶ │ K' × 16 lanes  │ ──▶  one component after the ──▶  gram += Uᵀ U, of those components
    └──────────┘     └────────────────┘      other, on 16 rows at once    alone that the tile uses

So `Sparse.update` and `Dense.update` pass once over A for a step of U and for the two products that the step of V
needs; V (K, M) is then relaxed alike, as tiles of 16 columns of A, by G = UᵀU and C = AᵀU. A factor X (P, K) is stored
as tiles (⌈P/16⌉, K', 16), K' = K rounded up to a multiple of 16; what is padded stays zero.
"""

import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import torch
from numba import njit
from numba.core.event import Listener, register
from torch import Tensor

from .processes import Rows
from .schedule import CLOSE, EXACT, FIRST, MOMENTUM, REVIVALS, WINDOW, sweeps
from .start import Starts, rows_at
from .vectors import (
    BLOCK,
    LANES,
    WIDTH,
    aligned_rows,
    extrapolate,
    load,
    lowest_bit,
    muladd,
    nonzeros,
    relax,
    row_add,
    row_product,
    store,
    transpose,
)

_CHUNK = 16  # tiles whose products are made together
_SLICE = 4096  # rows of a dense A that are worked on together
_ROOM = 2 ** 26  # entries of a sparse A that are made dense at a time, so that wide ones do not fill the memory
_PIECE = 256  # rows of a residual that are made together, in float64
_MANY = 128  # components from which on A Vᵀ is no longer what takes the time
_DENSITY, _DENSITY_MANY = 0.4, 0.25  # share of non-zeros up to which the CSR form of A is faster


def chain(A: "Sparse | Dense", b: int, ranks: Sequence[int], starts: Starts, *, max_iter: int, tol: float,
          pool: ThreadPoolExecutor | None) -> dict[int, tuple]:
    """{K: (U, V, error, iterations, status, seconds)} of problem b, each rank from the result of the one before."""
    solved: dict[int, tuple] = {}
    previous = None
    for K in ranks:
        begin, guess = time.perf_counter(), None
        if previous:
            U, V = previous.factors()
            U, V = starts.extended(A.slices(), U, V, K)
        else:
            U, V = (X[b] for X in starts.pair(K))
            U = U.mT
            index = starts.sample(K)
            if index is not None:
                sample = Problem(A.take(index.numpy()), rows_at(U, index), V, None, starts.rows, pool)
                _iterate(sample, starts, FIRST, 0)
                guess = sample.factors()[1]
                del sample  # with its rows
        previous = Problem(A, U, V, guess, starts.rows, pool)
        iterations, status = _iterate(previous, starts, max_iter, tol, REVIVALS)
        factors, seconds = previous.factors(), time.perf_counter() - begin
        solved[K] = (*factors, torch.tensor(previous.error, dtype=torch.float64), torch.tensor(iterations),
                     torch.tensor(status), torch.tensor(seconds, dtype=torch.float64))
    return solved


def _iterate(problem, starts, max_iter, tol, revivals=0):
    """Iterations and status."""
    window = problem.error
    for iteration in range(1, max_iter + 1):
        problem.step()
        if problem.error <= EXACT[problem.dtype]:
            return iteration, 2
        if iteration % WINDOW == 0:
            if window - problem.error <= tol * WINDOW * problem.error:
                dead = problem.dead() if revivals else ()
                if len(dead) == 0:
                    return iteration, 1
                left = starts.unexplained(problem.source.slices(), *problem.factors(), len(dead))
                problem.revive(dead, left)
                revivals -= 1
            window = problem.error
    return max_iter, 0


# --- compiled -----------------------------------------------------------------------------------------------

kernel = njit(nogil=True, cache=True)
part = njit(nogil=True, cache=True, inline="always")  # of a kernel: compiled with it, not once more by itself


@part
def sweep(X, C, G, inverse, inner, active, seen):
    """`inner` passes of HALS over one tile, in place: X, C (K', 16).

    active (K' + 3,) and seen (K'/8,) are scratch; the components that X may now use are left in `active`, and their
    number is returned.
    """
    count = 0
    for b in range(len(seen)):
        seen[b] = 0
        for q in range(BLOCK):
            if nonzeros(load(X, (b * BLOCK + q, 0))):
                seen[b] |= 1 << q
                active[count] = b * BLOCK + q
                count += 1
    for _ in range(inner):
        for b in range(len(seen)):
            new = relax(X, C, G, inverse, b * BLOCK, active, count) & ~seen[b]
            seen[b] |= new
            while new:
                active[count] = b * BLOCK + lowest_bit(new)
                count += 1
                new &= new - 1
    return count


@part
def add_gram(U, active, count, G):
    """Add UᵀU of 16 rows U (16, K') to G (K', K'), the blocks on and above the diagonal; U is zero off `active`."""
    if count == 0:
        return
    for q in range(count, count + 3):  # four at a time; adding the last one twice stores the same sum twice
        active[q] = active[count - 1]
    for q in range(0, count, 4):
        k0, k1, k2, k3 = active[q], active[q + 1], active[q + 2], active[q + 3]
        for b in range(min(min(k0, k1), min(k2, k3)) // LANES * LANES, len(G), LANES):
            g0, g1, g2, g3 = load(G, (k0, b)), load(G, (k1, b)), load(G, (k2, b)), load(G, (k3, b))
            for p in range(LANES):
                u = load(U, (p, b))
                g0, g1 = muladd(U[p, k0], u, g0), muladd(U[p, k1], u, g1)
                g2, g3 = muladd(U[p, k2], u, g2), muladd(U[p, k3], u, g3)
            store(G, (k0, b), g0)
            store(G, (k1, b), g1)
            store(G, (k2, b), g2)
            store(G, (k3, b), g3)


@kernel
def aligned(like, *shape):
    """An empty array whose rows, of 16 q values, begin where cache lines do; `like` (…,) gives the type."""
    return aligned_rows(np.empty((shape[0] + 1, *shape[1:]), like.dtype))


@kernel
def update(R, X, last, out, G, inverse, beta, inner, gram):
    """Relax tiles X (T, K', 16), given the rows of A Vᵀ in R (16 T, K'); leave the new rows of U in R.

    out = max(new + beta (new − last), 0) is the extrapolated factor, of which R gets the rows and `gram` the products;
    last = new.
    """
    T, K, _ = X.shape
    C = aligned_rows(np.empty((K + 1, LANES), X.dtype))
    active, count = np.empty((_CHUNK, K + 3), np.int64), np.empty(_CHUNK, np.int64)
    seen = np.empty(len(inverse) // BLOCK, np.int64)
    for first in range(0, T, _CHUNK):  # all sweeps, then all products: G and `gram` do not push each other out of cache
        stop = min(first + _CHUNK, T)
        for t in range(first, stop):
            for k in range(0, K, LANES):
                transpose(R, t * LANES, k, C, k, 0)
            for k in range(K):
                store(out, (t, k, 0), load(X, (t, k, 0)))
            count[t - first] = sweep(out[t], C, G, inverse, inner, active[t - first], seen)
            for k in range(K):
                y = load(out, (t, k, 0))
                x = extrapolate(y, load(last, (t, k, 0)), beta)
                store(last, (t, k, 0), y)
                store(out, (t, k, 0), x)
            for k in range(0, K, LANES):
                transpose(out[t], k, 0, R, t * LANES, k)
        for t in range(first, stop):
            add_gram(R[t * LANES:(t + 1) * LANES], active[t - first], count[t - first], gram)


@part
def products(indptr, indices, values, V, R):
    """R (P, K') = A V for P rows of a CSR matrix: `indptr` (P + 1,), V (M, K')."""
    for i in range(len(indptr) - 1):
        for b in range(0, V.shape[1], WIDTH * LANES):
            row_product(indices, values, indptr[i], indptr[i + 1], V, i, b, R)


@part
def add_products(indptr, indices, values, U, C):
    """C (M, K') += AᵀU for P rows of a CSR matrix, U (P, K')."""
    for i in range(len(indptr) - 1):
        for b in range(0, U.shape[1], WIDTH * LANES):
            row_add(indices, values, indptr[i], indptr[i + 1], U, i, b, C)


@kernel
def update_rows(indptr, indices, values, V, X, last, out, G, inverse, beta, inner, C, gram):
    """One update of the rows of U that belong to `indptr`, adding to C = AᵀU and gram = UᵀU while they are in cache."""
    R = aligned_rows(np.empty((_CHUNK * LANES + 1, V.shape[1]), V.dtype))
    for t in range(0, len(X), _CHUNK):
        stop = min(t + _CHUNK, len(X))
        pointers = indptr[t * LANES:stop * LANES + 1]
        rows = R[:(stop - t) * LANES]
        if inner:
            products(pointers, indices, values, V, rows)
        update(rows, X[t:stop], last[t:stop], out[t:stop], G, inverse, beta, inner, gram)
        add_products(pointers, indices, values, rows, C)


@kernel
def couple(gram, G, inverse):
    """G (K'/8, K', 8) and the inverse diagonal for `relax`, from `gram` (K', K')."""
    K = len(gram)
    for k in range(len(inverse)):
        inverse[k] = 1 / gram[k, k] if gram[k, k] > 0 else 0  # a dead component stays as it is
        for j in range(K):
            G[k // BLOCK, j, k % BLOCK] = gram[j, k]


@kernel
def compress(A, bits, indptr, indices, values, columns):
    """Fill the CSR form of A (N, M), unless it needs more than the space there is less M: then indptr[-1] = −1.

    indptr (N' + 1,), N' ≥ N; columns (M,), zeros, gets 1 where a column is not zero. `bits` is A seen as unsigned
    integers of the same size; returns the largest of them: that of the largest entry, or one that is not below
    infinity's if an entry is negative, infinite or not a number (or −0).
    """
    N, M = A.shape
    largest, p, fits = bits[0, 0], 0, True
    indptr[0] = 0
    for i in range(N):
        fits = fits and p + M <= len(values)
        if fits:
            for b in range(0, M - 4 * LANES + 1, 4 * LANES):
                # AVX-512 can pack what is not zero at once, but some processors take a hundred cycles for it.
                there = nonzeros(load(A, (i, b))) | nonzeros(load(A, (i, b + LANES))) << LANES
                there |= (nonzeros(load(A, (i, b + 2 * LANES))) | nonzeros(load(A, (i, b + 3 * LANES))) << LANES) << 32
                while there:
                    m = b + lowest_bit(there)
                    indices[p], values[p], columns[m] = m, A[i, m], 1
                    p += 1
                    there &= there - 1
            for m in range(M - M % (4 * LANES), M):
                if A[i, m] != 0:
                    indices[p], values[p], columns[m] = m, A[i, m], 1
                    p += 1
            indptr[i + 1] = p
        for m in range(M):
            largest = max(largest, bits[i, m])
    indptr[N + 1:] = p
    if not fits or p + M > len(values):
        indptr[-1] = -1
    return largest


@kernel
def gather(indptr, indices, values, rows, to, columns):
    """Column indices and values of some rows of a CSR matrix; fills their `to` (at least len(rows) + 1,) and columns,
    as `compress` does."""
    for i in range(len(rows)):
        to[i + 1] = to[i] + indptr[rows[i] + 1] - indptr[rows[i]]
    to[len(rows) + 1:] = to[len(rows)]
    some, their = np.empty(to[-1], indices.dtype), np.empty(to[-1], values.dtype)
    for i in range(len(rows)):
        for p in range(to[i + 1] - to[i]):
            m = indices[indptr[rows[i]] + p]
            some[to[i] + p], their[to[i] + p], columns[m] = m, values[indptr[rows[i]] + p], 1
    return some, their


@njit(nogil=True, cache=True, fastmath=True)
def inner_product(X, Y):
    """⟨X, Y⟩ of two matrices, summed in float64."""
    total = 0.0
    for i in range(len(X)):
        for k in range(X.shape[1]):
            total += np.float64(X[i, k]) * np.float64(Y[i, k])
    return total


class _Notice(Listener):
    """Says on stderr that `update`, which takes longest, is being compiled, as seconds of silence look like an error.

    numba keeps what it compiled, so it is said once a machine and type of numbers.
    """

    def on_start(self, event):
        if event.data["dispatcher"] is update and sys.stderr is not None:
            kind = event.data["args"][0].dtype
            with suppress(OSError, ValueError):  # a closed stream is no reason to stop
                print(f"nmfcore: compiling for {kind} on this processor, once (some seconds)", file=sys.stderr,
                      flush=True)

    def on_end(self, event):
        pass


register("numba:compile", _Notice())


# --- from matrices to updates -------------------------------------------------------------------------------


class Sparse:
    """A matrix in CSR form, its rows padded to whole tiles; which of them, and of the columns, are not zero; ‖A‖²."""

    def __init__(self, N, indptr, indices, values, columns):
        self.N, self.indptr, self.indices, self.values, self.columns = N, indptr, indices, values, columns
        self.rows, self.square = np.diff(indptr)[:N] > 0, inner_product(values[None], values[None])

    def divided(self, scale):
        return Sparse(self.N, self.indptr, self.indices, self.values / scale, self.columns) if scale != 1 else self

    def take(self, index):
        """The matrix of these rows, one of zeros where there are none."""
        N, columns = max(len(index), 1), np.zeros_like(self.columns)
        indptr = np.zeros(-(-N // LANES) * LANES + 1, np.int64)
        return Sparse(N, indptr, *gather(self.indptr, self.indices, self.values, index, indptr, columns), columns)

    def slices(self):
        """The rows as they are, some at a time."""
        size = max(_PIECE, min(_SLICE, _ROOM // len(self.columns) // _PIECE * _PIECE))
        for first in range(0, self.N, size):
            pointers = self.indptr[first:min(first + size, self.N) + 1]
            A = np.zeros((len(pointers) - 1, len(self.columns)), self.values.dtype)
            entries = slice(pointers[0], pointers[-1])
            A[np.repeat(np.arange(len(A)), np.diff(pointers)), self.indices[entries]] = self.values[entries]
            yield torch.from_numpy(A)

    def update(self, V, X, last, out, G, inverse, beta, inner, pool):
        def work(t, stop, C, gram):
            update_rows(self.indptr[t * LANES:stop * LANES + 1], self.indices, self.values, V, X[t:stop],
                        last[t:stop], out[t:stop], G, inverse, beta, inner, C, gram)
        return _in_pieces(work, len(X), V.shape, inverse, pool)


class Dense:
    """A (N, M), any floating type, divided by `scale`, a chunk of rows at a time; otherwise as Sparse."""

    def __init__(self, A, dtype, scale=1, chunk=None, room=None):
        self.A, self.dtype, self.scale, (self.N, M), first = A, dtype, scale, A.shape, 0
        self.chunk = -(-(chunk or _SLICE) // LANES) * LANES
        self.room = room  # for one chunk, if it is not taken from A as it is
        if room is None and not (A.dtype == dtype and scale == 1):
            self.room = torch.empty(min(self.chunk, self.N), M, dtype=dtype)
        lengths, columns = torch.zeros(self.N, dtype=dtype), torch.zeros(M, dtype=dtype)
        for rows in self.slices():  # what is kept has its place beforehand: it would hold on to memory between slices
            lengths[first:first + len(rows)] = torch.linalg.vector_norm(rows, dim=1)
            torch.maximum(columns, rows.amax(0), out=columns)
            first += len(rows)
        self.rows, self.columns = (lengths > 0).numpy(), (columns > 0).to(dtype).numpy()
        self.square = float(lengths.double().square().sum())

    def take(self, index):
        rows = self.A[index] if len(index) else torch.zeros_like(self.A[:1])
        return Dense(rows, self.dtype, self.scale, self.chunk, self.room)

    def slices(self):
        """Each lasts until the next."""
        for first in range(0, self.N, self.chunk):
            rows = self.A[first:first + self.chunk]
            yield rows if self.room is None else self.room[:len(rows)].copy_(rows).div_(self.scale)

    def update(self, V, X, last, out, G, inverse, beta, inner, pool):
        K, first = V.shape[1], 0
        C, gram = zeros(inverse, *V.shape), zeros(inverse, K, K)
        for A in self.slices():
            N, M = A.shape
            R = torch.zeros(-(-N // LANES) * LANES, K, dtype=A.dtype)
            torch.mm(A, torch.from_numpy(V[:M]), out=R[:N])
            tiles = slice(first // LANES, first // LANES + len(R) // LANES)
            gram += update_tiles(R.numpy(), X[tiles], last[tiles], out[tiles], G, inverse, beta, inner, pool)
            torch.from_numpy(C[:M]).addmm_(A.mT, R[:N])
            first += N
        return C, gram


def update_tiles(R, X, last, out, G, inverse, beta, inner, pool):
    """`update` in pieces; returns gram."""
    def work(t, stop, _, gram):
        rows = R[t * LANES:stop * LANES]
        update(rows, X[t:stop], last[t:stop], out[t:stop], G, inverse, beta, inner, gram)
    return _in_pieces(work, len(X), (0, X.shape[1]), inverse, pool)[1]


def _in_pieces(work, tiles, shape, like, pool):
    """Run work(first tile, stop, C, gram), which adds to C, of this shape (M', K'), and to gram (K', K'), on pieces of
    the tiles; return the sums, gram made symmetric. like: as for `aligned`.

    The pieces, and with them the rounding, do not depend on the number of threads.
    """
    K = shape[1]
    count = min(8, max(1, tiles * K // 2 ** 13))
    edges = [tiles * i // count for i in range(count + 1)]

    def piece(first, stop):
        C, gram = zeros(like, *shape), zeros(like, K, K)
        work(first, stop, C, gram)
        return C, gram
    parts = iter((pool.map if pool and count > 1 else map)(piece, edges[:-1], edges[1:]))
    C, gram = next(parts)
    for part in parts:
        C += part[0]
        gram += part[1]
    return C, mirrored(gram)


def mirrored(gram):
    """It, with the blocks below the diagonal filled from those above."""
    for k in range(LANES, len(gram), LANES):
        gram[k:, k - LANES:k] = gram[k - LANES:k, k:].T
    return gram


def survey_all(A, rank):
    """(B,) largest entries of A (B, N, M), and the matrices in CSR form, None where `rank` makes dense ones faster.

    The largest entries are None if an entry is not finite or negative.
    """
    A, (_, N, M) = A.numpy(), A.shape
    bits, peaks, found = A.view(np.uint32 if A.dtype == np.float32 else np.uint64), np.empty(len(A), A.dtype), []
    for b, X in enumerate(A):
        space = int((_DENSITY if rank <= _MANY else _DENSITY_MANY) * X.size) + M
        indptr, columns = np.empty(-(-N // LANES) * LANES + 1, np.int64), np.zeros(M, A.dtype)
        indices, values = np.empty(space, np.int32), np.empty(space, A.dtype)
        peaks[b:b + 1].view(bits.dtype)[0] = compress(X, bits[b], indptr, indices, values, columns)
        count = indptr[-1]
        found.append(Sparse(N, indptr, indices[:count], values[:count], columns) if count >= 0 else None)
    return torch.from_numpy(peaks) if (peaks >= 0).all() and (peaks < math.inf).all() else None, found


def sparse_form(X, rank):
    """A SciPy CSR matrix, sorted and without zeros, as `Sparse`; None where `rank` makes a dense one faster."""
    N, M = X.shape
    if X.nnz > int((_DENSITY if rank <= _MANY else _DENSITY_MANY) * N * M):
        return None
    indptr, columns = np.full(-(-N // LANES) * LANES + 1, X.nnz, np.int64), np.zeros(M, X.dtype)
    indptr[:N + 1] = X.indptr
    columns[X.indices] = 1
    return Sparse(N, indptr, X.indices.astype(np.int32, copy=False), X.data, columns)


class Problem:
    """A ≈ U V for one matrix: the state between iterations. (X, W) is the best pair so far, as tiles.

    source: A (N, M). U (N, K) and V (K, M) are in the type to compute in.
    guess: a point (K, M) to take the first step from instead of V. rows: A's among those of a group.
    """

    def __init__(self, source: "Sparse | Dense", U: Tensor, V: Tensor, guess: Tensor | None, rows: Rows,
                 pool: ThreadPoolExecutor | None):
        self.N, self.K, self.M = len(U), len(V), V.shape[1]
        self.source, self.dtype, self.pool, self.over = source, V.dtype, pool, rows
        columns, norm2 = source.columns.copy(), np.array([source.square])
        rows.add(norm2)
        rows.add(columns)
        self.norm2 = norm2[0]
        self.X = tiles(U.contiguous().numpy(), source.rows, -(-self.K // LANES) * LANES)
        self.W = self._tiles_of_V(V, columns > 0)
        K, self.inverse = self.X.shape[1], np.zeros(-(-self.K // BLOCK) * BLOCK, self.X.dtype)
        self.G = zeros(self.inverse, K // BLOCK, K, BLOCK)
        self.last, self.out = zeros(self.inverse, *self.X.shape), aligned(self.inverse, *self.X.shape)
        self.spare = aligned(self.inverse, *self.W.shape)  # tiles that `_rows` leaves behind
        self._first_step(sweeps(self.K)[1])
        self._restart(None if guess is None else self._tiles_of_V(guess))

    def _tiles_of_V(self, V, keep=None):
        V = V.mT.contiguous().numpy()
        return tiles(V, np.ones(len(V), bool) if keep is None else keep, -(-len(V[0]) // LANES) * LANES)

    def _products(self, beta, inner):
        """Step of U from (X, V); AᵀU and UᵀU of the rows in `out`, over all processes, and G from the latter."""
        C, gram = self.source.update(self.V, self.X, self.last, self.out, self.G, self.inverse, beta, inner, self.pool)
        self.over.add(C[:self.M, :self.K], gram[:self.K, :self.K])
        couple(gram, self.G, self.inverse)
        return C, gram

    def _rows(self, W):
        """(M', K') rows of V and V Vᵀ, from its tiles: an update that changes nothing."""
        K = W.shape[1]
        rows, gram = aligned(self.inverse, len(W) * LANES, K), zeros(self.inverse, K, K)
        update(rows, W, self.spare, self.spare, self.G, self.inverse, W.dtype.type(0), 0, gram)
        return rows, mirrored(gram)

    def _update_V(self, C, start, last, beta, inner):
        """Step of V from `start`, `last` becoming its result: what it extrapolates to, as tiles and rows, and Gram."""
        out, rows = aligned(self.inverse, *start.shape), _copy(C)
        return out, rows, update_tiles(rows, start, last, out, self.G, self.inverse, beta, inner, self.pool)

    def _first_step(self, inner):
        """Make U V fit A as well as one factor can, then improve V, as the products for it are at hand."""
        nothing = self.G.dtype.type(0)
        self.V, gram_V = self._rows(self.W)
        C, gram = self._products(nothing, 0)  # which leaves U in `last` and `out`, too
        cross, own = inner_product(C, self.V), inner_product(gram, gram_V)
        factor = self.G.dtype.type(math.sqrt(cross / own) if cross > 0 and own > 0 else 1)
        for array in (self.X, self.last, self.out, C, self.W):
            array *= factor
        gram *= factor ** 2
        couple(gram, self.G, self.inverse)
        new = _copy(self.W)
        self._update_V(C, self.W, new, nothing, inner)
        self.W = new
        self.error = self._relative(C, gram, new)

    def _relative(self, C, gram, W):
        """‖A − U V‖ / ‖A‖ from the products, or from the residual of (out, W) where they would cancel."""
        if self.norm2 == 0:
            return 0.0
        V, gram_V = self._rows(W)
        square = (self.norm2 - 2 * inner_product(C, V) + inner_product(gram, gram_V)) / self.norm2
        if square < CLOSE[self.dtype]:
            total, first = np.zeros(1), 0
            V = torch.from_numpy(V[:self.M, :self.K]).double().mT
            room = torch.empty(_PIECE, self.M, dtype=torch.float64)
            for A in self.source.slices():
                U = torch.from_numpy(untiled(self.out[first // LANES:-(-(first + len(A)) // LANES)])[:len(A), :self.K])
                # In float64, or the rounding would depend on how many threads share the product.
                for part, left in zip(A.split(_PIECE), U.split(_PIECE), strict=True):
                    rest = room[:len(part)].copy_(part).addmm_(left.double(), V, alpha=-1)
                    total += float(torch.linalg.vector_norm(rest).square())
                first += len(A)
            self.over.add(total)
            square = total[0] / self.norm2
        return math.sqrt(max(square, 0.0))

    def step(self):
        """One extrapolated iteration; where the error rises, the best pair is restored and the momentum lost."""
        inner_U, inner_V = sweeps(self.K)
        t_next = (1 + math.sqrt(1 + 4 * self.t ** 2)) / 2
        beta = self.G.dtype.type(min((self.t - 1) / t_next, MOMENTUM))
        couple(self.gram_V, self.G, self.inverse)
        C, gram = self._products(beta, inner_U)
        new = _copy(self.W)
        out, V, gram_V = self._update_V(C, self.from_, new, beta, inner_V)
        error = self._relative(C, gram, new)
        if error <= self.error:
            self.X, self.out = self.out, self.X
            self.W, self.from_, self.V, self.gram_V = new, out, V, gram_V
            self.error, self.t = error, t_next
        else:
            self._restart()

    def _restart(self, guess=None):
        self.from_, self.t = self.W if guess is None else guess, 1.0
        self.V, self.gram_V = self._rows(self.from_)  # the point that the next step starts from

    def dead(self):
        """Indices of the components that contribute nothing."""
        used = self.X.any((0, 2)).astype(self.X.dtype)
        self.over.add(used)
        return np.flatnonzero(((used == 0) | ~self.W.any((0, 2)))[:self.K])

    def revive(self, components, rows):
        """Give components new rows of V; their columns of U become zero, which leaves the error as it is."""
        self.X[:, components] = 0
        self.W[:, components] = self._tiles_of_V(rows)[:, :len(components)]
        self._restart()

    def factors(self):
        """U (N, K) and V (K, M)."""
        U, V = untiled(self.X)[:self.N, :self.K], untiled(self.W)[:self.M, :self.K].T
        return torch.from_numpy(np.ascontiguousarray(U)), torch.from_numpy(np.ascontiguousarray(V))


def zeros(like, *shape):
    X = aligned(like, *shape)
    X.fill(0)
    return X


def _copy(X):
    Y = aligned(X.reshape(-1), *X.shape)
    Y[:] = X
    return Y


def tiles(X, keep, K):
    """(P, k) -> (⌈P/16⌉, K, 16), with zeros in the rows that are not kept."""
    (P, k), whole = X.shape, len(X) // LANES
    out = zeros(X.reshape(-1), -(-P // LANES), K, LANES)
    out[:whole, :k] = X[:whole * LANES].reshape(whole, LANES, k).transpose(0, 2, 1)
    out[whole:, :k, :P % LANES] = X[whole * LANES:].T
    left_out = np.flatnonzero(~keep)
    out[left_out // LANES, :, left_out % LANES] = 0
    return out


def untiled(tiles):
    """(T, K', 16) -> (16 T, K')."""
    T, K, _ = tiles.shape
    out = aligned(tiles.reshape(-1), T * LANES, K)
    out.reshape(T, LANES, K)[:] = tiles.transpose(0, 2, 1)
    return out
