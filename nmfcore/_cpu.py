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
_ROOM = 2 ** 26  # entries of a sparse A that are made dense at a time, so that wide ones do not fill the memory
_PIECE = 256  # rows of a residual that are made together, in float64
_WIDTH = 8  # vectors of a row of a factor that stay in registers
_MANY = 128  # components from which on A Vᵀ is no longer what takes the time
_DENSITY, _DENSITY_MANY = 0.4, 0.25  # share of non-zeros up to which the CSR form of A is faster
_INT = ir.IntType(64)
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
def transpose(typing, source, i, j, target, k, l):
    """Copy the 16 × 16 values of a matrix from (i, j) on to another from (k, l) on, transposed."""
    def generate(context, builder, signature, args):
        def at(name, row, column, r):
            index = builder.add(args[row], ir.Constant(_INT, r)), args[column]
            return _pointer(context, builder, signature.args[name], args[name], index)
        rows = [_read(builder, at(0, 1, 2, r)) for r in range(LANES)]
        for step in (8, 4, 2, 1):
            low = [q + LANES - step if q & step else q for q in range(LANES)]
            high = [q + LANES if q & step else q + step for q in range(LANES)]
            low, high = (ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes) for lanes in (low, high))
            for r in range(LANES):
                if not r & step:
                    pair = rows[r], rows[r + step]
                    rows[r], rows[r + step] = (builder.shuffle_vector(*pair, lanes) for lanes in (low, high))
        for r, row in enumerate(rows):
            _write(builder, row, at(3, 4, 5, r))
        return context.get_dummy_value()
    return types.none(source, types.intp, types.intp, target, types.intp, types.intp), generate


def _by_width(generate):
    """An intrinsic for one row of a CSR matrix and up to 128 columns of a factor, from b on, which stay in registers.

    generate(builder, at, entry, begin, stop, i, columns) is called for every number of registers: at(name, *index) is
    a pointer, entry(p) the column and the value of entry p of the matrix.
    """
    @intrinsic
    def row(typing, indices, values, begin, stop, factor, i, b, sums):
        names = ("indices", "values", "begin", "stop", "factor", "i", "b", "sums")

        def body(context, builder, signature, args):
            def at(name, *index):
                position = names.index(name)
                return _pointer(context, builder, signature.args[position], args[position], index)

            def entry(p):
                m = builder.sext(builder.load(at("indices", p)), _INT)
                return m, _splat(builder, builder.load(at("values", p)))
            columns = [builder.add(args[6], ir.Constant(_INT, LANES * q)) for q in range(_WIDTH)]
            length = cgutils.unpack_tuple(builder, context.make_array(factor)(context, builder, args[4]).shape)[1]
            left = builder.udiv(builder.sub(length, args[6]), ir.Constant(_INT, LANES))
            for w in range(1, _WIDTH + 1):
                with builder.if_then(builder.icmp_unsigned("==" if w < _WIDTH else ">=", left, ir.Constant(_INT, w))):
                    generate(builder, at, entry, args[2], args[3], args[5], columns[:w])
            return context.get_dummy_value()
        return types.none(indices, values, types.intp, types.intp, factor, types.intp, types.intp, sums), body
    return row


def _loop(builder, begin, stop, step):
    return cgutils.for_range_slice(builder, begin, stop, ir.Constant(_INT, step), intp=_INT)


@_by_width
def row_product(builder, at, entry, begin, stop, i, columns):
    """Row i of `sums` = the row of A times V."""
    ways = max(1, 4 // len(columns))  # independent sums, so that additions need not wait for each other
    nothing = ir.Constant(ir.VectorType(at("sums", i, i).type.pointee, LANES), None)
    total = [[cgutils.alloca_once_value(builder, nothing) for _ in columns] for _ in range(ways)]

    def add(p, sums):
        m, a = entry(p)
        for column, place in zip(columns, sums, strict=True):
            product = builder.fmul(a, _read(builder, at("factor", m, column)), flags=_FAST)
            builder.store(builder.fadd(builder.load(place), product, flags=_FAST), place)
    rest = builder.sub(stop, builder.urem(builder.sub(stop, begin), ir.Constant(_INT, ways)))
    with _loop(builder, begin, rest, ways) as (p, _):
        for way, sums in enumerate(total):
            add(builder.add(p, ir.Constant(_INT, way)), sums)
    with _loop(builder, rest, stop, 1) as (p, _):
        add(p, total[0])
    for column, *places in zip(columns, *total, strict=True):
        value = builder.load(places[0])
        for place in places[1:]:
            value = builder.fadd(value, builder.load(place), flags=_FAST)
        _write(builder, value, at("sums", i, column))


@_by_width
def row_add(builder, at, entry, begin, stop, i, columns):
    """Add the row of A, transposed, times row i of U to `sums`."""
    factor = [_read(builder, at("factor", i, column)) for column in columns]
    with _loop(builder, begin, stop, 1) as (p, _):
        m, a = entry(p)
        for column, u in zip(columns, factor, strict=True):
            place = at("sums", m, column)
            _write(builder, builder.fadd(_read(builder, place), builder.fmul(a, u, flags=_FAST), flags=_FAST), place)


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
def aligned(like, *shape):
    """An empty array whose rows of 16 values, of the type of `like`, do not straddle cache lines."""
    size = 1
    for length in shape:
        size *= length
    memory = np.empty(size + LANES, like.dtype)
    first = -memory.ctypes.data // memory.itemsize % LANES
    return memory[first:first + size].reshape(shape)


@njit(nogil=True, cache=True)
def update(R, X, last, out, G, inverse, beta, inner, gram):
    """Relax tiles X (T, K', 16), given the rows of A Vᵀ in R (16 T, K'); leave the new rows of U in R.

    out = max(new + beta (new − last), 0) is the extrapolated factor, of which R gets the rows and `gram` the products;
    last = new.
    """
    T, K, _ = X.shape
    C, new = aligned(X, K, LANES), aligned(X, K, LANES)
    active, count = np.empty((_CHUNK, K + 3), np.int64), np.empty(_CHUNK, np.int64)
    seen = np.empty(len(inverse) // _BLOCK, np.int64)
    for first in range(0, T, _CHUNK):  # all sweeps, then all products: G and `gram` do not push each other out of cache
        stop = min(first + _CHUNK, T)
        for t in range(first, stop):
            for k in range(0, K, LANES):
                transpose(R, t * LANES, k, C, k, 0)
            for k in range(K):
                store(new, (k, 0), load(X, (t, k, 0)))
            count[t - first] = sweep(new, C, G, inverse, inner, active[t - first], seen)
            for k in range(K):
                y = load(new, (k, 0))
                x = extrapolate(y, load(last, (t, k, 0)), beta)
                store(last, (t, k, 0), y)
                store(out, (t, k, 0), x)
                store(C, (k, 0), x)
            for k in range(0, K, LANES):
                transpose(C, k, 0, R, t * LANES, k)
        for t in range(first, stop):
            add_gram(R[t * LANES:(t + 1) * LANES], active[t - first], count[t - first], gram)


@njit(nogil=True, cache=True)
def products(indptr, indices, values, V, R):
    """R (P, K') = A V for P rows of a CSR matrix: `indptr` (P + 1,), V (M, K')."""
    for i in range(len(indptr) - 1):
        for b in range(0, V.shape[1], _WIDTH * LANES):
            row_product(indices, values, indptr[i], indptr[i + 1], V, i, b, R)


@njit(nogil=True, cache=True)
def add_products(indptr, indices, values, U, C):
    """C (M, K') += AᵀU for P rows of a CSR matrix, U (P, K')."""
    for i in range(len(indptr) - 1):
        for b in range(0, U.shape[1], _WIDTH * LANES):
            row_add(indices, values, indptr[i], indptr[i + 1], U, i, b, C)


@njit(nogil=True, cache=True)
def update_rows(indptr, indices, values, V, X, last, out, G, inverse, beta, inner, C, gram):
    """One update of the rows of U that belong to `indptr`, adding to C = AᵀU and gram = UᵀU while they are in cache."""
    R = aligned(V, _CHUNK * LANES, V.shape[1])
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
    for k in range(len(inverse)):
        inverse[k] = 1 / gram[k, k] if gram[k, k] > 0 else 0  # a dead component stays as it is
        for j in range(K):
            G[k // _BLOCK, j, k % _BLOCK] = gram[j, k]


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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
def square_norm(values):
    total = 0.0
    for p in range(len(values)):
        total += np.float64(values[p]) ** 2
    return total


@njit(nogil=True, cache=True)
def add_all(V, gram):
    """Add VᵀV of rows V (16 T, K') to gram (K', K'), the blocks on and above the diagonal."""
    everything = np.arange(len(gram) + 3)
    for t in range(0, len(V), LANES):
        add_gram(V[t:t + LANES], everything, len(gram), gram)


@njit(nogil=True, cache=True, fastmath=True)
def fit(C, gram, V):
    """⟨C, V⟩ and ⟨gram, VᵀV⟩, summed in float64."""
    K, cross, own = len(gram), 0.0, 0.0
    other = np.zeros((K, K), V.dtype)
    add_all(V, other)
    for m in range(len(V)):
        for k in range(K):
            cross += np.float64(C[m, k]) * np.float64(V[m, k])
    for k in range(K):
        for j in range(k // LANES * LANES, K):
            part = np.float64(gram[k, j]) * np.float64(other[k, j])
            own += part if j // LANES == k // LANES else 2 * part
    return cross, own


class Sparse:
    """A matrix in CSR form, its rows padded to whole tiles; which of them, and of the columns, are not zero; ‖A‖²."""

    def __init__(self, N, indptr, indices, values, columns):
        self.N, self.indptr, self.indices, self.values, self.columns = N, indptr, indices, values, columns
        self.rows, self.square = np.diff(indptr)[:N] > 0, square_norm(values)

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
        return _in_pieces(work, len(X), V, pool)


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
        C, gram = _zeros(V, *V.shape), _zeros(V, K, K)
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
        C, gram = _zeros(like, *like.shape), _zeros(like, K, K)
        work(first, stop, C, gram)
        return C, gram

    def add(total, part):
        total[0].__iadd__(part[0])
        total[1].__iadd__(part[1])
        return total
    parts = (pool.map if pool and count > 1 else map)(piece, edges[:-1], edges[1:])
    *_, total = accumulate(parts, add)
    return total


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
    guess: a point (K, M) to take the first step from instead of V. inner_V: sweeps of V that open the solution.
    close: squared error below which it is taken from the residual. `sum_all` adds arrays over processes, in place.
    """

    def __init__(self, source, U, V, guess, inner_V, close, sum_all, pool):
        self.N, self.K, self.M = len(U), len(V), V.shape[1]
        self.source, self.close, self.sum_all, self.pool = source, close, sum_all, pool
        columns, norm2 = source.columns.copy(), np.array([source.square])
        sum_all(norm2)
        sum_all(columns)
        self.norm2 = norm2[0]
        self.X = tiles(U.contiguous().numpy(), source.rows, -(-self.K // LANES) * LANES)
        self.W = self._tiles_of_V(V, columns > 0)
        self.last, self.out = _zeros(self.X, *self.X.shape), aligned(self.X, *self.X.shape)
        K = self.X.shape[1]
        self.G, self.inverse = _zeros(self.X, K // _BLOCK, K, _BLOCK), _zeros(self.X, -(-self.K // _BLOCK) * _BLOCK)
        self.V = rows(self.W)  # (M', K') rows of the point that the next step starts from
        self._first_step(inner_V)
        self._restart(None if guess is None else self._tiles_of_V(guess))

    def _tiles_of_V(self, V, keep=None):
        V = V.mT.contiguous().numpy()
        return tiles(V, np.ones(len(V), bool) if keep is None else keep, -(-len(V[0]) // LANES) * LANES)

    def _products(self, beta, inner):
        """Step of U from (X, V); AᵀU and UᵀU of the rows in `out`, over all processes, and G from the latter."""
        C, gram = self.source.update(self.V, self.X, self.last, self.out, self.G, self.inverse, beta, inner, self.pool)
        self.sum_all(C[:self.M, :self.K], gram[:self.K, :self.K])
        couple(gram, self.G, self.inverse)
        return C, gram

    def _update_V(self, C, start, last, beta, inner):
        """Step of V from `start`, `last` becoming its result: what it extrapolates to, as tiles and rows, and Gram."""
        out, rows = aligned(C, *start.shape), _copy(C)
        return out, rows, _update(rows, start, last, out, self.G, self.inverse, beta, inner, self.pool)

    def _first_step(self, inner):
        """Make U V fit A as well as one factor can, then improve V, as the products for it are at hand."""
        nothing = self.G.dtype.type(0)
        C, gram = self._products(nothing, 0)  # which leaves U in `last` and `out`, too
        cross, own = fit(C, gram, self.V)
        factor = self.G.dtype.type(math.sqrt(cross / own) if cross > 0 and own > 0 else 1)
        for array in (self.X, self.last, self.out, C, self.W):
            array *= factor
        gram *= factor ** 2
        couple(gram, self.G, self.inverse)
        new = _copy(self.W)
        self._update_V(C, self.W, new, nothing, inner)
        self.W = new
        self.error = self._relative(C, gram, rows(new))

    def _relative(self, C, gram, V):
        """‖A − U V‖ / ‖A‖ from the products, or from the residual of (out, V) where they would cancel."""
        if self.norm2 == 0:
            return 0.0
        cross, own = fit(C, gram, V)
        square = (self.norm2 - 2 * cross + own) / self.norm2
        if square < self.close:
            total, first = np.zeros(1), 0
            V = torch.from_numpy(V[:self.M, :self.K]).double().mT
            room = torch.empty(_PIECE, self.M, dtype=torch.float64)
            for A in self.source.slices():
                U = torch.from_numpy(rows(self.out[first // LANES:-(-(first + len(A)) // LANES)])[:len(A), :self.K])
                # In float64, or the rounding would depend on how many threads share the product.
                for part, left in zip(A.split(_PIECE), U.split(_PIECE), strict=True):
                    rest = room[:len(part)].copy_(part).addmm_(left.double(), V, alpha=-1)
                    total += float(torch.linalg.vector_norm(rest).square())
                first += len(A)
            self.sum_all(total)
            square = total[0] / self.norm2
        return math.sqrt(max(square, 0.0))

    def step(self, inner_U, inner_V, cap):
        """One extrapolated iteration; where the error rises, the best pair is restored and the momentum lost."""
        t_next = (1 + math.sqrt(1 + 4 * self.t ** 2)) / 2
        beta = self.G.dtype.type(min((self.t - 1) / t_next, cap))
        couple(self.gram_V, self.G, self.inverse)
        C, gram = self._products(beta, inner_U)
        new = _copy(self.W)
        out, V, gram_V = self._update_V(C, self.from_, new, beta, inner_V)
        error = self._relative(C, gram, rows(new))
        if error <= self.error:
            self.X, self.out = self.out, self.X
            self.W, self.from_, self.V, self.gram_V = new, out, V, gram_V
            self.error, self.t = error, t_next
        else:
            self._restart()

    def _restart(self, guess=None):
        self.from_, self.t = self.W if guess is None else guess, 1.0
        self.V = rows(self.from_)
        self.gram_V = _zeros(self.V, *(self.V.shape[1],) * 2)
        add_all(self.V, self.gram_V)

    def dead(self):
        """Indices of the components that contribute nothing."""
        used = self.X.any((0, 2)).astype(self.X.dtype)
        self.sum_all(used)
        return np.flatnonzero(((used == 0) | ~self.W.any((0, 2)))[:self.K])

    def revive(self, components, rows):
        """Give components new rows of V; their columns of U become zero, which leaves the error as it is."""
        self.X[:, components] = 0
        self.W[:, components] = self._tiles_of_V(rows)[:, :len(components)]
        self._restart()

    def factors(self):
        """U (N, K) and V (K, M)."""
        U, V = rows(self.X)[:self.N, :self.K], rows(self.W)[:self.M, :self.K].T
        return torch.from_numpy(np.ascontiguousarray(U)), torch.from_numpy(np.ascontiguousarray(V))


def _zeros(like, *shape):
    X = aligned(like, *shape)
    X.fill(0)
    return X


def _copy(X):
    Y = aligned(X, *X.shape)
    Y[:] = X
    return Y


@njit(nogil=True, cache=True)
def tiles(X, keep, K):
    """(P, k) -> (⌈P/16⌉, K, 16), with zeros in the rows that are not kept."""
    T = -(-len(X) // LANES)
    out = aligned(X, T, K, LANES)
    out[:] = 0
    for i in range(len(X)):
        if keep[i]:
            for k in range(X.shape[1]):
                out[i // LANES, k, i % LANES] = X[i, k]
    return out


@njit(nogil=True, cache=True)
def rows(tiles):
    """(T, K', 16) -> (16 T, K')."""
    T, K, _ = tiles.shape
    out = aligned(tiles, T * LANES, K)
    for t in range(T):
        for k in range(0, K, LANES):
            transpose(tiles[t], k, 0, out, t * LANES, k)
    return out
