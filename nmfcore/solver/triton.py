"""A whole HALS sweep, and the extrapolation behind it, in one kernel launch; import it only where Triton is installed.

Columns of X are independent, so a program owns a tile of columns of one problem and needs no other. It keeps the
negative gradient R = C − G X of its tile in registers and updates it as rows of X move, so a pass reads X and G once.
"""

from functools import cache
from typing import overload

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_RANK = 1024  # beyond it R does not fit the registers of one program
_SMALL = tl.constexpr(32)  # up to this many rows a thread holds whole columns, and nothing but the result is written
_BLOCK = tl.constexpr(16)  # above it, the rows that move between two matrix products


@triton.jit
def _pick(T, chosen):
    """The slice of T along axis 0 that `chosen` marks. Adding integer 0 costs nothing compiled; 0.0 would."""
    INT: tl.constexpr = tl.int64 if T.dtype == tl.float64 else tl.int32
    return tl.sum(tl.where(chosen, T.to(INT, bitcast=True), 0), 0).to(T.dtype, bitcast=True)


@triton.jit
def _move(r, x, diagonal):
    inverse = tl.where(diagonal > 0, 1 / diagonal, 0)  # a dead row stays as it is
    return tl.maximum(r * inverse, -x, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _extrapolate(x, previous, beta):
    return tl.maximum(x + beta * (x - previous), 0, propagate_nan=tl.PropagateNan.ALL)


# Sizes are not specialized: one compilation serves all, and Triton cannot give a thread four neighbouring columns,
# which would spread the rows of a tile over warps. `skew` is 0 and does the same for the scratch memory.
@triton.jit(do_not_specialize=["K", "P", "inner", "skew"])
def _kernel(X, G, C, previous, beta, new, ahead, scratch, K, P, inner, skew, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
            WIDE: tl.constexpr, VECTOR: tl.constexpr, PRECISION: tl.constexpr):
    K = K // VECTOR * VECTOR  # VECTOR divides K; this tells the compiler, which then loads G in fours
    tiles = tl.cdiv(P, COLUMNS)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * COLUMNS
    G += b * K * K
    X += b * K * P + first
    C += b * K * P + first
    new += b * K * P + first
    if previous is not None:
        previous += b * K * P + first
        ahead += b * K * P + first
        weight = tl.load(beta + b)
    stride = P.to(tl.int64)
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    place = rows[:, None] * stride + columns
    inside = (rows < K)[:, None] & (first + columns < P)
    R = tl.load(C + place, inside, 0)

    if ROWS <= _SMALL:
        x = tl.load(X + place, inside, 0)
        for turn in range(inner + 1):  # turn 0 subtracts G X
            for k in tl.static_range(ROWS):
                g = tl.load(G + k * K + rows, (rows < K) & (k < K), 0)
                row = _pick(x, (rows == k)[:, None])
                move = _move(_pick(R, (rows == k)[:, None]), row, tl.load(G + k * (K + 1), k < K, 0))
                x = tl.where((rows == k)[:, None] & (turn > 0), x + move, x)
                R -= g[:, None] * tl.where(turn > 0, move, row)
            if turn == inner:  # inside the loop: a store keeps Triton from lifting all of G out of it, into registers
                tl.store(new + place, x, inside)
                if previous is not None:
                    tl.store(ahead + place, _extrapolate(x, tl.load(previous + place, inside, 0), weight), inside)
    else:
        # R is spread over all threads, in the layout of the matrix product. The rows of a block go through scratch
        # memory into a layout where each thread holds whole columns, and their moves come back. With WIDE > COLUMNS
        # warps repeat the same columns: it takes many warps to hold R, and a tile has too few columns for them.
        local = tl.arange(0, _BLOCK)
        column = tl.arange(0, WIDE) % COLUMNS
        spread = local[:, None] * P + column
        present = first + column < P
        writer = tl.arange(0, WIDE) < COLUMNS
        scratch += tl.program_id(0).to(tl.int64) * 2 * _BLOCK * COLUMNS + skew
        tile = scratch + local[:, None] * COLUMNS + columns
        wide = scratch + local[:, None] * COLUMNS + column
        for start in range(0, K, _BLOCK):
            live = start + local < K
            offset = start * stride + local[:, None] * P + columns
            x = tl.load(X + offset, live[:, None] & (first + columns < P), 0)
            tl.store(new + offset, x, live[:, None] & (first + columns < P))
            g = tl.load(G + rows[:, None] * K + start + local, (rows < K)[:, None] & live, 0)
            R = tl.dot(g, -x, R, input_precision=PRECISION)
        for turn in range(inner):
            for start in range(0, K, _BLOCK):
                live = start + local < K
                offset = start * stride + spread
                panels = tl.reshape(R, (ROWS // _BLOCK, _BLOCK, COLUMNS))
                tl.store(tile, _pick(panels, (tl.arange(0, ROWS // _BLOCK) == start // _BLOCK)[:, None, None]))
                tl.debug_barrier()
                r = tl.load(wide)
                x = tl.load(new + offset, live[:, None] & present, 0)
                moves = tl.zeros_like(x)
                for k in tl.static_range(_BLOCK):
                    g = tl.load(G + (start + k) * K + start + local, live & (start + k < K), 0)
                    diagonal = tl.load(G + (start + k) * (K + 1), start + k < K, 0)
                    move = _move(_pick(r, (local == k)[:, None]), _pick(x, (local == k)[:, None]), diagonal)
                    moves = tl.where((local == k)[:, None], move, moves)
                    r -= g[:, None] * move
                x += moves
                tl.store(wide + _BLOCK * COLUMNS, moves, writer)
                tl.store(new + offset, x, live[:, None] & present & writer)
                if previous is not None:
                    if turn == inner - 1:
                        last = tl.load(previous + offset, live[:, None] & present & writer, 0)
                        tl.store(ahead + offset, _extrapolate(x, last, weight), live[:, None] & present & writer)
                tl.debug_barrier()
                # G is loaded only now: held through the rows above, it would spill.
                g = tl.load(G + rows[:, None] * K + start + local, (rows < K)[:, None] & (start + local < K), 0)
                R = tl.dot(g, -tl.load(tile + _BLOCK * COLUMNS), R, input_precision=PRECISION)


def plan(B: int, K: int, P: int) -> tuple[int, int, int]:
    """Rows of R (a power of two), columns of a tile and warps.

    Large K: 64 values of R per thread (128 spill), in tiles of 32 columns, which read G half as often as tiles of 16;
    16 where that leaves processors idle (an H200 has 132), or where 32 would need more than 8 warps of 255 registers.
    Small K: a column per thread, and more threads than rows, so that all load the same G without an exchange.
    """
    rows = triton.next_power_of_2(K)
    if rows <= _SMALL.value:
        return (rows, 32, 1) if rows < 32 else (rows, 64, 2)
    columns = 32 if rows <= 512 and B * triton.cdiv(P, 32) >= 132 else 16
    return rows, columns, max(1, rows * columns // 2048)


@overload
def sweep(X: Tensor, G: Tensor, C: Tensor, inner: int) -> Tensor: ...
@overload
def sweep(X: Tensor, G: Tensor, C: Tensor, inner: int, previous: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]: ...
def sweep(X, G, C, inner, previous=None, beta=None, precision="ieee"):
    """`inner` HALS passes over the rows of X ≥ 0 for min ½⟨X, G X⟩ − ⟨C, X⟩, as `plain.sweep`, in one launch.

    X, C (B, K, P) and G (B, K, K), symmetric, in float32, K ≤ MAX_RANK. Returns the new X; with `previous` (B, K, P)
    and `beta` (B,) also relu(new + beta (new − previous)). Neither synchronizes nor allocates but through torch, so it
    can be captured in a CUDA graph once it ran. `precision` is that of tl.dot ("ieee", "tf32x3", "tf32").
    """
    B, K, P = X.shape
    if X.dtype != torch.float32 or K > MAX_RANK:
        raise ValueError(f"sweep takes float32 and at most {MAX_RANK} rows, got {X.dtype} and {K} rows")
    rows, columns, warps = plan(B, K, P)
    programs = B * triton.cdiv(P, columns)
    X, G, C = X.contiguous(), G.contiguous(), C.contiguous()
    new = torch.empty_like(X)
    ahead = None if previous is None else torch.empty_like(X)
    scratch = X.new_empty(programs * 2 * _BLOCK.value * columns if rows > _SMALL.value else 0)
    with torch.cuda.device_of(X):
        # Stages would prefetch the scratch memory before it is written.
        _kernel[(programs,)](X, G, C, None if previous is None else previous.contiguous(),
                             None if beta is None else beta.to(X).contiguous(), new, ahead, scratch, K, P, inner, 0,
                             ROWS=rows, COLUMNS=columns, WIDE=max(columns, 32 * warps), VECTOR=4 if K % 4 == 0 else 1,
                             PRECISION=precision, num_warps=warps, num_stages=1)
    return new if previous is None else (new, ahead)


@cache
def works(device: torch.device) -> bool:
    """Can kernels be built for this device? Triton wants a C compiler the first time."""
    try:
        one = torch.ones(1, 1, 1, device=device)
        sweep(one, one, one, 1)
    except Exception:  # whatever is missing, plain PyTorch does the same work
        return False
    return True
