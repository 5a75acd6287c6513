"""Vectors of 16 lanes for code that numba compiles, as its own vectorizer must assume that arrays overlap and gives up.

Each is an intrinsic: a function that writes LLVM's instructions itself. numba keeps what it compiled beside `cpu.py`
and looks at that file alone: who edits this one must touch that one.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, models, register_model

LANES = 16
BLOCK = 8  # components relaxed together: their residuals stay in registers
WIDTH = 8  # vectors of a row of a factor that stay in registers
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


class _Array:
    """A C-contiguous array, taken apart once: every instruction less is compiled faster."""

    def __init__(self, context, builder, kind, value):
        array = context.make_array(kind)(context, builder, value)
        self.builder, self.data = builder, array.data
        self.lengths = cgutils.unpack_tuple(builder, array.shape)

    def at(self, *index):
        """Pointer to an entry."""
        offset = index[0]
        for length, i in zip(self.lengths[1:], index[1:], strict=True):
            offset = self.builder.add(self.builder.mul(offset, length), i)
        return self.builder.gep(self.data, [offset])


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
def aligned_rows(typing, array):
    """An array less its last row, moved so that no 16 values of a row straddle cache lines if its rows hold 16 q."""
    def generate(context, builder, signature, args):
        moved = context.make_array(array)(context, builder, args[0])
        size = LANES * context.get_abi_sizeof(context.get_data_type(array.dtype))
        address = builder.add(builder.ptrtoint(moved.data, _INT), ir.Constant(_INT, size - 1))
        moved.data = builder.inttoptr(builder.and_(address, ir.Constant(_INT, -size)), moved.data.type)
        rows, *others = cgutils.unpack_tuple(builder, moved.shape)
        moved.nitems = builder.sub(moved.nitems, builder.udiv(moved.nitems, rows))
        moved.shape = cgutils.pack_array(builder, [builder.sub(rows, ir.Constant(_INT, 1)), *others])
        return impl_ret_borrowed(context, builder, array, moved._getvalue())
    return array(array), generate


@intrinsic
def load(typing, array, index):
    """The 16 values of a C-contiguous array from `index` on."""
    def generate(context, builder, signature, args):
        return _read(builder, _Array(context, builder, array, args[0]).at(*cgutils.unpack_tuple(builder, args[1])))
    return _Vector(array.dtype)(array, types.UniTuple(types.intp, array.ndim)), generate


@intrinsic
def store(typing, array, index, vector):
    """Write a vector to the 16 places of a C-contiguous array from `index` on."""
    def generate(context, builder, signature, args):
        place = _Array(context, builder, array, args[0]).at(*cgutils.unpack_tuple(builder, args[1]))
        _write(builder, args[2], place)
        return context.get_dummy_value()
    return types.none(array, types.UniTuple(types.intp, array.ndim), vector), generate


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
        i, j, k, l = args[1], args[2], args[4], args[5]
        source, target = (_Array(context, builder, signature.args[n], args[n]) for n in (0, 3))
        rows = [_read(builder, source.at(builder.add(i, ir.Constant(_INT, r)), j)) for r in range(LANES)]
        for step in (8, 4, 2, 1):
            low = [q + LANES - step if q & step else q for q in range(LANES)]
            high = [q + LANES if q & step else q + step for q in range(LANES)]
            low, high = (ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes) for lanes in (low, high))
            for r in range(LANES):
                if not r & step:
                    pair = rows[r], rows[r + step]
                    rows[r], rows[r + step] = (builder.shuffle_vector(*pair, lanes) for lanes in (low, high))
        for r, row in enumerate(rows):
            _write(builder, row, target.at(builder.add(k, ir.Constant(_INT, r)), l))
        return context.get_dummy_value()
    return types.none(source, types.intp, types.intp, target, types.intp, types.intp), generate


def _by_width(generate):
    """An intrinsic for one row of a CSR matrix and up to 128 columns of a factor, from b on, which stay in registers.

    generate(builder, factor, sums, entry, begin, stop, i, columns) is called for every number of registers; entry(p) is
    the column and the value of entry p of the matrix.
    """
    @intrinsic
    def row(typing, indices, values, begin, stop, factor, i, b, sums):
        def body(context, builder, signature, args):
            own_indices, own_values, own_factor, own_sums = (
                _Array(context, builder, signature.args[n], args[n]) for n in (0, 1, 4, 7))

            def entry(p):
                m = builder.sext(builder.load(own_indices.at(p)), _INT)
                return m, _splat(builder, builder.load(own_values.at(p)))
            columns = [builder.add(args[6], ir.Constant(_INT, LANES * q)) for q in range(WIDTH)]
            left = builder.udiv(builder.sub(own_factor.lengths[1], args[6]), ir.Constant(_INT, LANES))
            for w in range(1, WIDTH + 1):
                with builder.if_then(builder.icmp_unsigned("==" if w < WIDTH else ">=", left, ir.Constant(_INT, w))):
                    generate(builder, own_factor, own_sums, entry, args[2], args[3], args[5], columns[:w])
            return context.get_dummy_value()
        return types.none(indices, values, types.intp, types.intp, factor, types.intp, types.intp, sums), body
    return row


def _loop(builder, begin, stop, step):
    return cgutils.for_range_slice(builder, begin, stop, ir.Constant(_INT, step), intp=_INT)


@_by_width
def row_product(builder, factor, sums, entry, begin, stop, i, columns):
    """Row i of `sums` = the row of A times V."""
    ways = max(1, 4 // len(columns))  # independent sums, so that additions need not wait for each other
    nothing = ir.Constant(ir.VectorType(sums.data.type.pointee, LANES), None)
    total = [[cgutils.alloca_once_value(builder, nothing) for _ in columns] for _ in range(ways)]

    def add(p, places):
        m, a = entry(p)
        for column, place in zip(columns, places, strict=True):
            product = builder.fmul(a, _read(builder, factor.at(m, column)), flags=_FAST)
            builder.store(builder.fadd(builder.load(place), product, flags=_FAST), place)
    rest = builder.sub(stop, builder.urem(builder.sub(stop, begin), ir.Constant(_INT, ways)))
    with _loop(builder, begin, rest, ways) as (p, _):
        for way, places in enumerate(total):
            add(builder.add(p, ir.Constant(_INT, way)), places)
    with _loop(builder, rest, stop, 1) as (p, _):
        add(p, total[0])
    for column, *places in zip(columns, *total, strict=True):
        value = builder.load(places[0])
        for place in places[1:]:
            value = builder.fadd(value, builder.load(place), flags=_FAST)
        _write(builder, value, sums.at(i, column))


@_by_width
def row_add(builder, factor, sums, entry, begin, stop, i, columns):
    """Add the row of A, transposed, times row i of U to `sums`."""
    row = [_read(builder, factor.at(i, column)) for column in columns]
    with _loop(builder, begin, stop, 1) as (p, _):
        m, a = entry(p)
        for column, u in zip(columns, row, strict=True):
            place = sums.at(m, column)
            _write(builder, builder.fadd(_read(builder, place), builder.fmul(a, u, flags=_FAST), flags=_FAST), place)


@intrinsic
def relax(typing, X, C, G, inverse, first, active, count):
    """One exact coordinate step in each of the components first … first + 7, on 16 rows.

    X, C (K', 16); G (K'/8, K', 8): G[b, j, q] couples component 8b + q to component j; `active` lists `count`
    components outside of which X is zero. Returns a bit mask of the components that are not zero afterwards.
    """
    def generate(context, builder, signature, args):
        own_X, own_C, own_G, own_inverse, own_active = (
            _Array(context, builder, signature.args[n], args[n]) for n in (0, 1, 2, 3, 5))
        constant = [ir.Constant(ir.IntType(64), q) for q in range(BLOCK)]
        first, count, zero = args[4], args[6], constant[0]
        block = builder.udiv(first, ir.Constant(ir.IntType(64), BLOCK))
        rows = [builder.add(first, q) for q in constant]

        residual = []
        for row in rows:
            start = _read(builder, own_C.at(row, zero))
            residual.append(cgutils.alloca_once_value(builder, start))

        def subtract(j, x, q):
            g = builder.fneg(builder.load(own_G.at(block, j, constant[q])), flags=_FAST)
            product = builder.fmul(_splat(builder, g), x, flags=_FAST)
            builder.store(builder.fadd(builder.load(residual[q]), product, flags=_FAST), residual[q])

        with cgutils.for_range(builder, count) as loop:
            j = builder.load(own_active.at(loop.index))
            x = _read(builder, own_X.at(j, zero))
            for q in range(BLOCK):
                subtract(j, x, q)

        occupied = zero
        for q, row in enumerate(rows):
            x = _read(builder, own_X.at(row, zero))
            weight = _splat(builder, builder.load(own_inverse.at(row)))
            step = builder.fmul(weight, builder.load(residual[q]), flags=_FAST)
            new = _positive(builder, builder.fadd(x, step, flags=_FAST))
            _write(builder, new, own_X.at(row, zero))
            move = builder.fsub(new, x, flags=_FAST)
            for later in range(q + 1, BLOCK):
                subtract(row, move, later)
            lane = builder.icmp_unsigned("!=", _any(builder, new), ir.Constant(ir.IntType(LANES), 0))
            occupied = builder.or_(occupied, builder.shl(builder.zext(lane, ir.IntType(64)), constant[q]))
        return occupied
    integers = (types.intp, active, types.intp)
    return types.int64(X, C, G, inverse, *integers), generate
