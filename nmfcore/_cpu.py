"""The HALS iteration of one problem on the CPU, compiled with numba: exact zeros of A and of U cost nothing.

Rows (or columns) of A are handled in tiles of 16, one per SIMD lane, so that the sequential sweep over components runs
on 16 rows at once. A factor X (P, K) is stored as tiles (⌈P/16⌉, K', 16) with K' = K rounded up to a multiple of 16;
what is padded stays zero. LLVM's vectors are used through numba's intrinsics, because numba's own vectorizer must
assume that arrays overlap and gives up.
"""

import math
from itertools import accumulate

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
_BLOCK = 8  # components relaxed together: their residuals stay in registers
_CHUNK = 16  # tiles whose products are made together
_SLICE = 4096  # rows of a dense A that are worked on together
_DENSITY = 0.2  # share of non-zeros up to which the CSR form of A is used
_FAST = ("fast",)  # all values are finite, so that sums may be reordered and fused


class _Vector(types.Type):
    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Vector({dtype} x {LANES})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        scalar = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(scalar, LANES))


def _pointer(context, builder, kind, array, index):
    array = context.make_array(kind)(context, builder, array)
    offset = index[0]
    for length, i in zip(cgutils.unpack_tuple(builder, array.shape)[1:], index[1:], strict=True):
        offset = builder.add(builder.mul(offset, length), i)
    return builder.gep(array.data, [offset])


def _read(builder, pointer):
    vector = ir.VectorType(pointer.type.pointee, LANES)
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = 4
    return value


def _write(builder, value, pointer):
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = 4


def _splat(builder, scalar):
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _positive(builder, value):
    zero = ir.Constant(value.type, None)
    return builder.select(builder.fcmp_ordered(">", value, zero, flags=_FAST), value, zero)


def _any(builder, value):
    """i16 with one bit for every lane that is not zero."""
    return builder.bitcast(builder.fcmp_unordered("!=", value, ir.Constant(value.type, None)), ir.IntType(LANES))


@intrinsic
def load(typing, array, index):
    """The 16 values of a C-contiguous array from `index` on."""
    def generate(context, builder, signature, args):
        return _read(builder, _pointer(context, builder, array, args[0], cgutils.unpack_tuple(builder, args[1])))
    return _Vector(array.dtype)(array, types.UniTuple(types.intp, array.ndim)), generate


@intrinsic
def store(typing, array, index, vector):
    """Write a vector to the 16 places of a C-contiguous array from `index` on."""
    def generate(context, builder, signature, args):
        _write(builder, args[2], _pointer(context, builder, array, args[0], cgutils.unpack_tuple(builder, args[1])))
        return context.get_dummy_value()
    return types.none(array, types.UniTuple(types.intp, array.ndim), vector), generate


@intrinsic
def zero(typing, array):
    """A vector of zeros, of the type of `array`."""
    def generate(context, builder, signature, args):
        return ir.Constant(context.get_value_type(signature.return_type), None)
    return _Vector(array.dtype)(array), generate


@intrinsic
def muladd(typing, scalar, vector, total):
    """total + scalar · vector."""
    def generate(context, builder, signature, args):
        product = builder.fmul(_splat(builder, args[0]), args[1], flags=_FAST)
        return builder.fadd(args[2], product, flags=_FAST)
    return total(vector.dtype, vector, total), generate


@intrinsic
def extrapolate(typing, new, last, beta):
    """max(new + beta · (new − last), 0)."""
    def generate(context, builder, signature, args):
        step = builder.fmul(_splat(builder, args[2]), builder.fsub(args[0], args[1], flags=_FAST), flags=_FAST)
        return _positive(builder, builder.fadd(args[0], step, flags=_FAST))
    return new(new, new, new.dtype), generate


@intrinsic
def nonzeros(typing, vector):
    """Bit mask of the lanes that are not zero."""
    def generate(context, builder, signature, args):
        return builder.zext(_any(builder, args[0]), ir.IntType(64))
    return types.int64(vector), generate


@intrinsic
def lowest_bit(typing, bits):
    """Index of the lowest bit that is set."""
    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))
    return types.int64(types.int64), generate


@intrinsic
def count_bits(typing, bits):
    """How many bits are set."""
    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])
    return types.int64(types.int64), generate


@intrinsic
def relax(typing, X, C, G, inverse, first, active, count):
    """One exact coordinate step in each of the components first … first + 7, on 16 rows.

    X, C (K', 16); G (K'/8, K', 8): G[b, j, q] couples component 8b + q to component j; `active` lists `count`
    components outside of which X is zero. Returns a bit mask of the components that are not zero afterwards.
    """
    def generate(context, builder, signature, args):
        def at(name, *index):
            position = names.index(name)
            return _pointer(context, builder, signature.args[position], args[position], index)
        names = ("X", "C", "G", "inverse", "first", "active", "count")
        constant = [ir.Constant(ir.IntType(64), q) for q in range(_BLOCK)]
        first, count, zero = args[4], args[6], constant[0]
        block = builder.udiv(first, ir.Constant(ir.IntType(64), _BLOCK))
        rows = [builder.add(first, q) for q in constant]

        residual = []
        for row in rows:
            start = _read(builder, at("C", row, zero))
            residual.append(cgutils.alloca_once_value(builder, start))

        def subtract(j, x, q):
            g = builder.fneg(builder.load(at("G", block, j, constant[q])), flags=_FAST)
            product = builder.fmul(_splat(builder, g), x, flags=_FAST)
            builder.store(builder.fadd(builder.load(residual[q]), product, flags=_FAST), residual[q])

        with cgutils.for_range(builder, count) as loop:
            j = builder.load(at("active", loop.index))
            x = _read(builder, at("X", j, zero))
            for q in range(_BLOCK):
                subtract(j, x, q)

        occupied = zero
        for q, row in enumerate(rows):
            x = _read(builder, at("X", row, zero))
            weight = _splat(builder, builder.load(at("inverse", row)))
            step = builder.fmul(weight, builder.load(residual[q]), flags=_FAST)
            new = _positive(builder, builder.fadd(x, step, flags=_FAST))
            _write(builder, new, at("X", row, zero))
            move = builder.fsub(new, x, flags=_FAST)
            for later in range(q + 1, _BLOCK):
                subtract(row, move, later)
            lane = builder.icmp_unsigned("!=", _any(builder, new), ir.Constant(ir.IntType(LANES), 0))
            occupied = builder.or_(occupied, builder.shl(builder.zext(lane, ir.IntType(64)), constant[q]))
        return occupied
    integers = (types.intp, active, types.intp)
    return types.int64(X, C, G, inverse, *integers), generate


@njit(nogil=True, cache=True)
def sweep(X, C, G, inverse, inner, active, seen):
    """`inner` passes of HALS over one tile, in place: X, C (K', 16).

    active (K' + 3,) and seen (K'/8,) are scratch; the components that X may now use are left in `active`, and their
    number is returned.
    """
    count = 0
    for b in range(len(seen)):
        seen[b] = 0
        for q in range(_BLOCK):
            if nonzeros(load(X, (b * _BLOCK + q, 0))):
                seen[b] |= 1 << q
                active[count] = b * _BLOCK + q
                count += 1
    for _ in range(inner):
        for b in range(len(seen)):
            new = relax(X, C, G, inverse, b * _BLOCK, active, count) & ~seen[b]
            seen[b] |= new
            while new:
                active[count] = b * _BLOCK + lowest_bit(new)
                count += 1
                new &= new - 1
    return count


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def update(R, X, last, out, G, inverse, beta, inner, gram):
    """Relax tiles X (T, K', 16), given the rows of A Vᵀ in R (16 T, K'); leave the new rows of U in R.

    out = max(new + beta (new − last), 0) is the extrapolated factor, of which R gets the rows and `gram` the products;
    last = new.
    """
    T, K, _ = X.shape
    C, new = np.empty((K, LANES), X.dtype), np.empty((K, LANES), X.dtype)
    active, count = np.empty((_CHUNK, K + 3), np.int64), np.empty(_CHUNK, np.int64)
    seen = np.empty(K // _BLOCK, np.int64)
    for first in range(0, T, _CHUNK):  # all sweeps, then all products: G and `gram` do not push each other out of cache
        stop = min(first + _CHUNK, T)
        for t in range(first, stop):
            rows = R[t * LANES:(t + 1) * LANES]
            for p in range(LANES):
                for k in range(K):
                    C[k, p] = rows[p, k]
            for k in range(K):
                store(new, (k, 0), load(X, (t, k, 0)))
            count[t - first] = sweep(new, C, G, inverse, inner, active[t - first], seen)
            for k in range(K):
                y = load(new, (k, 0))
                x = extrapolate(y, load(last, (t, k, 0)), beta)
                store(last, (t, k, 0), y)
                store(out, (t, k, 0), x)
                store(C, (k, 0), x)
            for p in range(LANES):
                for k in range(K):
                    rows[p, k] = C[k, p]
        for t in range(first, stop):
            add_gram(R[t * LANES:(t + 1) * LANES], active[t - first], count[t - first], gram)


@njit(nogil=True, cache=True)
def products(indptr, indices, values, V, R):
    """R (P, K') = A V for P rows of a CSR matrix: `indptr` (P + 1,), V (M, K')."""
    for i in range(len(indptr) - 1):
        for b in range(0, V.shape[1] & -64, 64):
            r0, r1, r2, r3 = zero(V), zero(V), zero(V), zero(V)
            for p in range(indptr[i], indptr[i + 1]):
                m, a = indices[p], values[p]
                r0, r1 = muladd(a, load(V, (m, b)), r0), muladd(a, load(V, (m, b + 16)), r1)
                r2, r3 = muladd(a, load(V, (m, b + 32)), r2), muladd(a, load(V, (m, b + 48)), r3)
            store(R, (i, b), r0)
            store(R, (i, b + 16), r1)
            store(R, (i, b + 32), r2)
            store(R, (i, b + 48), r3)
        for b in range(V.shape[1] & -64, V.shape[1], LANES):
            r0 = zero(V)
            for p in range(indptr[i], indptr[i + 1]):
                r0 = muladd(values[p], load(V, (indices[p], b)), r0)
            store(R, (i, b), r0)


@njit(nogil=True, cache=True)
def add_products(indptr, indices, values, U, C):
    """C (M, K') += AᵀU for P rows of a CSR matrix, U (P, K')."""
    for i in range(len(indptr) - 1):
        for p in range(indptr[i], indptr[i + 1]):
            m, a = indices[p], values[p]
            for b in range(0, U.shape[1], LANES):
                store(C, (m, b), muladd(a, load(U, (i, b)), load(C, (m, b))))


@njit(nogil=True, cache=True)
def update_rows(indptr, indices, values, V, X, last, out, G, inverse, beta, inner, C, gram):
    """One update of the rows of U that belong to `indptr`, adding to C = AᵀU and gram = UᵀU while they are in cache."""
    R = np.empty((_CHUNK * LANES, V.shape[1]), V.dtype)
    for t in range(0, len(X), _CHUNK):
        stop = min(t + _CHUNK, len(X))
        pointers = indptr[t * LANES:stop * LANES + 1]
        rows = R[:(stop - t) * LANES]
        if inner:
            products(pointers, indices, values, V, rows)
        update(rows, X[t:stop], last[t:stop], out[t:stop], G, inverse, beta, inner, gram)
        add_products(pointers, indices, values, rows, C)


@njit(nogil=True, cache=True)
def couple(gram, G, inverse):
    """Make `gram` symmetric from its upper blocks, and from it G (K'/8, K', 8) and the inverse diagonal for `relax`."""
    K = len(gram)
    for k in range(K):
        for j in range(k):
            gram[k, j] = gram[j, k]
    for k in range(K):
        inverse[k] = 1 / gram[k, k] if gram[k, k] > 0 else 0  # a dead component stays as it is
        for j in range(K):
            G[k // _BLOCK, j, k % _BLOCK] = gram[j, k]


@njit(nogil=True, cache=True)
def survey(A, bits, indptr):
    """Count the non-zeros of A (N, M); `bits` is A seen as unsigned integers of the same size.

    Leaves the row pointers (N' + 1,), N' ≥ N, of its CSR form, and returns the largest integer: that of the largest
    entry, or one that is not below infinity's if an entry is negative, infinite or not a number (or −0).
    """
    N, M = A.shape
    largest = bits[0, 0]
    indptr[0] = 0
    for i in range(len(indptr) - 1):
        count = 0
        if i < N:
            for b in range(0, M - LANES + 1, LANES):
                count += count_bits(nonzeros(load(A, (i, b))))
            for m in range(M - M % LANES, M):
                count += A[i, m] != 0
            for m in range(M):
                largest = max(largest, bits[i, m])
        indptr[i + 1] = indptr[i] + count
    return largest


@njit(nogil=True, cache=True)
def compress(A, indptr, indices, values, used):
    """Fill the CSR form of A (N, M); used (M,) is set where a column is not zero."""
    N, M = A.shape
    for i in range(N):
        p = indptr[i]
        for b in range(0, M - 63, 64):
            bits = nonzeros(load(A, (i, b))) | nonzeros(load(A, (i, b + 16))) << 16
            bits |= nonzeros(load(A, (i, b + 32))) << 32 | nonzeros(load(A, (i, b + 48))) << 48
            while bits:
                m = b + lowest_bit(bits)
                indices[p], values[p], used[m] = m, A[i, m], 1
                bits &= bits - 1
                p += 1
        for m in range(M - M % 64, M):
            if A[i, m] != 0:
                indices[p], values[p], used[m] = m, A[i, m], 1
                p += 1


class _Sparse:
    """The rows of A in CSR form; which of them, and of the columns, are not zero; ‖A‖²."""

    def __init__(self, A, indptr):
        self.indptr = indptr
        self.indices, self.values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], A.dtype)
        self.columns, self.rows = np.zeros(A.shape[1], A.dtype), np.diff(indptr)[:len(A)] > 0
        compress(A, indptr, self.indices, self.values, self.columns)
        self.square = float(np.square(self.values).sum(dtype=np.float64))

    def update(self, V, X, last, out, G, inverse, beta, inner, pool):
        def work(t, stop, C, gram):
            update_rows(self.indptr[t * LANES:stop * LANES + 1], self.indices, self.values, V, X[t:stop],
                        last[t:stop], out[t:stop], G, inverse, beta, inner, C, gram)
        return _in_pieces(work, len(X), V, pool)


class _Dense:
    """The rows of A as they are, a slice at a time; which of them, and of the columns, are not zero; ‖A‖²."""

    def __init__(self, slices, N, M, dtype):
        self.slices, first = slices, 0
        lengths, columns = torch.zeros(N, dtype=dtype), torch.zeros(M, dtype=dtype)
        for A in slices():  # what is kept has its place beforehand: between large slices it would hold on to memory
            lengths[first:first + len(A)] = torch.linalg.vector_norm(A, dim=1)
            torch.maximum(columns, A.amax(0), out=columns)
            first += len(A)
        self.rows, self.columns = (lengths > 0).numpy(), (columns > 0).to(dtype).numpy()
        self.square = float(lengths.double().square().sum())

    def update(self, V, X, last, out, G, inverse, beta, inner, pool):
        K, C, gram, first = V.shape[1], np.zeros_like(V), np.zeros((V.shape[1],) * 2, V.dtype), 0
        for A in self.slices():
            N, M = A.shape
            R = torch.zeros(-(-N // LANES) * LANES, K, dtype=A.dtype)
            torch.mm(A, torch.from_numpy(V[:M]), out=R[:N])
            tiles = slice(first // LANES, first // LANES + len(R) // LANES)
            gram += _update(R.numpy(), X[tiles], last[tiles], out[tiles], G, inverse, beta, inner, pool)
            torch.from_numpy(C[:M]).addmm_(A.mT, R[:N])
            first += N
        return C, gram


def _update(R, X, last, out, G, inverse, beta, inner, pool):
    """`update` in pieces; returns gram."""
    def work(t, stop, _, gram):
        rows = R[t * LANES:stop * LANES]
        update(rows, X[t:stop], last[t:stop], out[t:stop], G, inverse, beta, inner, gram)
    return _in_pieces(work, len(X), R[:0], pool)[1]


def _in_pieces(work, tiles, like, pool):
    """Run work(first tile, stop, C, gram), which adds to C and gram, on pieces of the tiles; return the sums.

    The pieces, and with them the rounding, do not depend on the number of threads.
    """
    K = like.shape[1]
    count = min(8, max(1, tiles * K // 2 ** 13))
    edges = [tiles * i // count for i in range(count + 1)]

    def piece(first, stop):
        C, gram = np.zeros_like(like), np.zeros((K, K), like.dtype)
        work(first, stop, C, gram)
        return C, gram

    def add(total, part):
        total[0].__iadd__(part[0])
        total[1].__iadd__(part[1])
        return total
    parts = (pool.map if pool and count > 1 else map)(piece, edges[:-1], edges[1:])
    *_, total = accumulate(parts, add)
    return total


def survey_all(A):
    """(B,) largest entries of A (B, N, M), and for each matrix the row pointers of its CSR form, None if A is dense.

    The largest entries are None if an entry is not finite or negative.
    """
    A = A.numpy()
    bits = A.view(np.uint32 if A.dtype == np.float32 else np.uint64)
    indptr = np.empty((len(A), -(-A.shape[1] // LANES) * LANES + 1), np.int64)
    largest = [survey(*matrix) for matrix in zip(A, bits, indptr, strict=True)]
    peaks = torch.from_numpy(np.array(largest, bits.dtype).view(A.dtype))
    sparse = indptr[:, -1].sum() <= _DENSITY * A.size
    return peaks if (peaks >= 0).all() and (peaks < math.inf).all() else None, indptr if sparse else [None] * len(A)


class Problem:
    """A ≈ U V for one matrix: the state between iterations. (X, W) is the best pair so far, as tiles.

    A (N, M), any floating type, is divided by `scale`; indptr: the row pointers of its CSR form, None to keep it dense.
    U (N, K) and V (K, M) are in the type to compute in.
    guess: a point (K, M) to take the first step from instead of V. inner_V: sweeps of V that open the solution.
    `sum_all` adds arrays over processes, in place.
    """

    def __init__(self, A, indptr, U, V, guess, scale, chunk, inner_V, sum_all, pool):
        self.N, self.K, self.M = len(U), len(V), V.shape[1]
        self.A, self.scale, self.dtype, self.sum_all, self.pool = A, scale, V.dtype, sum_all, pool
        self.chunk = -(-(chunk or _SLICE) // LANES) * LANES
        self.source = (_Dense(self.slices, self.N, self.M, self.dtype) if indptr is None
                       else _Sparse(self._slice(0, self.N).numpy(), indptr))
        norm2 = np.array([self.source.square])
        sum_all(norm2)
        sum_all(self.source.columns)
        self.norm2 = norm2[0]
        padded = -(-self.K // LANES) * LANES
        self.G = np.zeros((padded // _BLOCK, padded, _BLOCK), V.numpy().dtype)
        self.inverse = np.zeros(padded, self.G.dtype)
        self.X = _tiles(U.numpy() * self.source.rows[:, None], padded)
        self.W = _tiles(V.mT.numpy() * (self.source.columns > 0)[:, None], padded)
        self.last, self.out = self.X.copy(), np.empty_like(self.X)
        self.V = _rows(self.W)  # (M', K') rows of the point that the next step starts from
        self.t = 1.0
        self._first_step(inner_V)
        self.fresh = guess is not None
        if self.fresh:
            self.from_ = _tiles(guess.mT.numpy(), padded)
            self.V = _rows(self.from_)
            self.gram_V = self.V.T @ self.V

    def slices(self):
        for first in range(0, self.N, self.chunk):
            yield self._slice(first, first + self.chunk)

    def _slice(self, first, stop):
        rows = self.A[first:stop].to(self.dtype)
        return rows if self.scale == 1 else rows / self.scale

    def _products(self, beta, inner):
        """Step of U from (X, V); AᵀU and UᵀU of the rows in `out`, over all processes, and G from the latter."""
        C, gram = self.source.update(self.V, self.X, self.last, self.out, self.G, self.inverse, beta, inner, self.pool)
        self.sum_all(C[:self.M, :self.K], gram[:self.K, :self.K])
        couple(gram, self.G, self.inverse)
        return C, gram

    def _first_step(self, inner):
        """Make U V fit A as well as one factor can, then improve V, as the products for it are at hand."""
        nothing = self.G.dtype.type(0)
        C, gram = self._products(nothing, 0)
        fit, size = _dot(C, self.V), _dot(gram, self.V.T @ self.V)
        factor = self.G.dtype.type(math.sqrt(fit / size) if fit > 0 and size > 0 else 1)
        for array in (self.X, self.last, self.out, C, self.W):
            array *= factor
        gram *= factor ** 2
        couple(gram, self.G, self.inverse)
        new = self.W.copy()
        _update(C.copy(), self.W, new, np.empty_like(new), self.G, self.inverse, nothing, inner, self.pool)
        self.W = new
        self._restart()
        self.error = self._relative(C, gram, self.V)

    def _relative(self, C, gram, V):
        """‖A − U V‖ / ‖A‖ from the products, or from the residual of (out, V) where they would cancel."""
        if self.norm2 == 0:
            return 0.0
        square = (self.norm2 - 2 * _dot(C, V) + _dot(gram, V.T @ V)) / self.norm2
        if square < (1e-3 if self.dtype == torch.float32 else 1e-10):
            total, first = np.zeros(1), 0
            V = torch.from_numpy(V[:self.M, :self.K]).mT
            for A in self.slices():
                U = _rows(self.out[first // LANES:-(-(first + len(A)) // LANES)])[:len(A), :self.K]
                left = torch.addmm(A, torch.from_numpy(U), V, alpha=-1)
                total += float(torch.linalg.vector_norm(left, dim=1).double().square().sum())
                first += len(A)
            self.sum_all(total)
            square = total[0] / self.norm2
        return math.sqrt(max(square, 0.0))

    def step(self, inner_U, inner_V, cap):
        """One extrapolated iteration; where the error rises, the best pair is restored and the momentum lost."""
        t_next = (1 + math.sqrt(1 + 4 * self.t ** 2)) / 2
        beta = self.G.dtype.type(min((self.t - 1) / t_next, cap))
        couple(self.gram_V, self.G, self.inverse)
        C, gram = self._products(beta, 8 if self.fresh else inner_U)
        self.fresh = False
        new, out, rows = self.W.copy(), np.empty_like(self.W), C.copy()
        gram_V = _update(rows, self.from_, new, out, self.G, self.inverse, beta, inner_V, self.pool)
        error = self._relative(C, gram, _rows(new))
        if error <= self.error:
            self.X, self.out = self.out, self.X
            self.W, self.from_, self.V, self.gram_V = new, out, rows, gram_V
            self.error, self.t = error, t_next
        else:
            self._restart()

    def _restart(self):
        self.from_, self.V, self.t = self.W, _rows(self.W), 1.0
        self.gram_V = self.V.T @ self.V

    def dead(self):
        """Indices of the components that contribute nothing."""
        used = self.X.any((0, 2)).astype(self.X.dtype)
        self.sum_all(used)
        return np.flatnonzero(((used == 0) | ~self.W.any((0, 2)))[:self.K])

    def revive(self, components, rows):
        """Give components new rows of V; their columns of U become zero, which leaves the error as it is."""
        self.X[:, components] = 0
        self.W[:, components] = _tiles(rows.mT.numpy(), len(components))
        self._restart()

    def factors(self):
        """U (N, K) and V (K, M)."""
        U, V = _rows(self.X)[:self.N, :self.K], _rows(self.W)[:self.M, :self.K].T
        return torch.from_numpy(np.ascontiguousarray(U)), torch.from_numpy(np.ascontiguousarray(V))


def _dot(X, Y):
    return float((X * Y).sum(dtype=np.float64))


def _tiles(X, K):
    """(P, K) -> (⌈P/16⌉, K', 16)."""
    tiles = np.zeros((-(-len(X) // LANES), K, LANES), X.dtype)
    for p in range(LANES):
        rows = X[p::LANES]
        tiles[:len(rows), :X.shape[1], p] = rows
    return tiles


def _rows(tiles):
    """(T, K', 16) -> (16 T, K')."""
    return np.ascontiguousarray(tiles.transpose(0, 2, 1)).reshape(-1, tiles.shape[1])
