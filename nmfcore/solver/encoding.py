"""New rows in known concepts: non-negative least squares with V fixed.

Each row is a problem of its own, min ½ uᵀG u − cᵀu over u ≥ 0 with G = V Vᵀ and c = V a, so that after two products
only K numbers a row are worked on. Sweeps of coordinate descent (Franc, Hlaváč & Navara 2005), which are those of HALS,
find which components a row uses, and a step of the active-set method (Lawson & Hanson 1974) solves for these exactly.
Rows that are done drop out. Without that step, components that resemble each other would take thousands of sweeps.
"""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from .._inputs import dense, is_sparse, isolated
from . import backends
from .check import check_matrices, is_count, peaks
from .plain import sweep

_ROOM = 2 ** 25  # entries of A, and of the systems of an exact step, that are held at a time
_SWEEPS = 20  # of coordinate descent between two looks at the residual
_STEPS = 200  # exact ones, in a row, after which it is given up
_RIDGE = {torch.float32: 1e-6, torch.float64: 1e-13}  # lets components be equal; they have unit length


@isolated()
@torch.no_grad()
def encode(A: Tensor, V: Tensor, *, chunk: int | None = None, tol: float | None = None) -> Tensor:
    """U of min ‖A − U V‖_F over U ≥ 0, with V as it is: new rows in known concepts.

    Zero rows of A, and components that are zero in V, get U = 0. No row's result depends on other rows.

    Args:
        A: (…, N, M) floating tensor, non-negative; half precision is computed in float32, also under autocast, float64
            stays float64. Sparse tensors and SciPy's sparse matrices are made dense.
        V: (…, K, M) non-negative, one for each matrix of A, or (K, M), one for all of them. Its rows may have any
            length and depend on each other; where they do, U is not unique, but U V is.
        chunk: rows worked on together; default: as many as hold 32 million entries. A stays where it is, for example in
            a memory-mapped file, in any floating type.
        tol: a row is done when exact steps in its components, each taken alone, would together move its approximation
            by at most `tol` of the row's length, which is its Karush-Kuhn-Tucker residual as in `Factors.kkt`. Default:
            1e-5, in float64 1e-10. Where rounding keeps rows from it, a RuntimeWarning says so.

    Returns:
        U (…, N, K).

    Raises:
        ValueError: for input that has no such U (negative, NaN, infinite, empty, integer) and for shapes of A and V
            that do not fit each other.

    Example:
        >>> import torch
        >>> from nmfcore import encode
        >>> V = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
        >>> encode(torch.tensor([[2.0, 3, 3], [0, 1, 2]]), V)
        tensor([[2.0000, 3.0000],
                [0.0000, 1.5000]])
    """
    A = dense(A) if is_sparse(A) else A
    check_matrices("A", A)
    check_matrices("V", V)
    K, M = V.shape[-2], A.shape[-1]
    if V.shape[-1] != M or not (V.dim() == 2 or V.shape[:-2] == A.shape[:-2]):
        batch = "".join(f"{length}, " for length in A.shape[:-2])
        raise ValueError(f"V must have shape (K, {M}){f' or ({batch}K, {M})' if batch else ''} for A of shape "
                         f"{tuple(A.shape)}, got {tuple(V.shape)}")
    dtype = torch.float64 if A.dtype == torch.float64 else torch.float32
    tol = tol if tol is not None else 1e-5 if dtype == torch.float32 else 1e-10
    if not isinstance(tol, Real) or not tol > 0:
        raise ValueError(f"tol {tol!r} must be None or a number above 0")
    if chunk is not None and not is_count(chunk):
        raise ValueError(f"chunk {chunk!r} must be None or an integer ≥ 1")
    U, stuck = _encode(A, V, dtype, chunk or max(1, _ROOM // (M + 4 * K)), tol)
    if stuck:
        warnings.warn(f"{stuck} of {math.prod(A.shape[:-1])} rows did not reach tol={tol:g}: raise it, or pass A in "
                      f"float64", RuntimeWarning, stacklevel=4)
    return U.reshape(*A.shape[:-1], K)


def _encode(A, V, dtype, rows, tol):
    """U (B, N', K), and how many rows are not done."""
    peaks(A, rows)
    if not (V >= 0).all() or not (V < math.inf).all():
        index = (~torch.isfinite(V) | (V < 0)).nonzero()[0].tolist()
        raise ValueError(f"V{index} = {V[tuple(index)].item()} but every entry must be finite and ≥ 0")
    V = V.to(A.device, dtype)
    if not (V < math.inf).all():
        raise ValueError(f"V has entries above {torch.finfo(dtype).max:.3g}; pass A in float64 too, or scale V down")
    (N, M), K = A.shape[-2:], V.shape[-2]
    matrices = A.reshape(1, -1, M) if V.dim() == 2 else A.reshape(-1, N, M)
    U, stuck = A.new_zeros(*matrices.shape[:2], K, dtype=dtype), 0
    threads = torch.get_num_threads() if _compiled(A) else 1
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        for matrix, concepts, out in zip(matrices, V.reshape(-1, K, M), U, strict=True):
            concepts, size, length = _unit(concepts)
            G = concepts @ concepts.mT
            for first in range(0, len(matrix), rows):
                part, peak, norm = _unit(matrix[first:first + rows].to(dtype))
                X, left = _solve(G, part @ concepts.mT, tol, pool)
                scale = (peak[:, None] / size).clamp(max=torch.finfo(dtype).max)
                out[first:first + rows] = (X * (norm[:, None] / length) * scale).clamp(max=torch.finfo(dtype).max)
                stuck += left
    return U, stuck


def _unit(X):
    """Rows of unit length, and their largest entry and their length divided by it, 1 where there is none."""
    peak = X.amax(1)
    peak = torch.where(peak > 0, peak, 1)
    X = X / peak[:, None]  # first of all: squares of tiny rows vanish, those of huge ones are infinite
    length = torch.linalg.vector_norm(X, dim=1)
    length = torch.where(length > 0, length, 1)
    return X / length[:, None], peak, length


def _solve(G, C, tol, pool):
    """X (P, K) ≥ 0 of min ½⟨X, X G⟩ − ⟨C, X⟩, G (K, K) with ones on its diagonal, and how many rows are not done."""
    result, left = torch.zeros_like(C), (C > 0).any(1).nonzero()[:, 0]
    X, C = result[left], C[left]
    # Compiled, 4 K sweeps take about as long as an exact step, so that neither takes more than half of the time.
    patience = max(2, 4 * len(G) // _SWEEPS) if _compiled(X) else 1
    for turn in range(_STEPS * patience):
        if turn and turn % patience == 0:
            X = _exact_step(X, G, C)
        X = _relax(X, G, C, pool)
        result[left] = X
        go_on = torch.maximum(torch.addmm(C, X, G, alpha=-1), -X).norm(dim=1) > tol
        left, X, C = left[go_on], X[go_on], C[go_on]
        if len(left) == 0:
            break
    return result, len(left)


def _compiled(X):
    return X.device.type == "cpu" and backends.cpu is not None


def _relax(X, G, C, pool):
    """Sweeps of exact steps in one component after the other, on all rows."""
    if not _compiled(X):
        return sweep(X.mT[None], G[None], C.mT[None], _SWEEPS)[0].mT
    cpu, (P, K) = backends.cpu, X.shape
    tiles = cpu.tiles(X.contiguous().numpy(), np.ones(P, bool), -(-K // cpu.LANES) * cpu.LANES)
    T, padded, _ = tiles.shape
    inverse = np.zeros(-(-K // 8) * 8, tiles.dtype)
    gram, rows = cpu.zeros(inverse, padded, padded), cpu.zeros(inverse, T * cpu.LANES, padded)
    gram[:K, :K], rows[:P, :K] = G.numpy(), C.numpy()
    blocks, out = cpu.zeros(inverse, padded // 8, padded, 8), cpu.aligned(inverse, *tiles.shape)
    cpu.couple(gram, blocks, inverse)
    nothing = tiles.dtype.type(0)
    cpu.update_tiles(rows, tiles, tiles.copy(), out, blocks, inverse, nothing, _SWEEPS, pool)
    return torch.from_numpy(rows[:P, :K].copy())


def _exact_step(X, G, C):
    """The least-squares solution in the components that a row uses, less those that it would make negative."""
    X, left = X.clone(), torch.arange(len(X), device=X.device)
    while len(left):
        count = (X[left] > 0).sum(1)
        left = left[count.argsort()]  # rows that use equally many components share a batch of systems
        blocked = [_towards(X, part, G, C) for part in left.split(max(1, _ROOM // max(1, int(count.max())) ** 2))]
        left = torch.cat(blocked)
    return X


def _towards(X, rows, G, C):
    """Move rows of X, in place, to the least-squares solution in the components that they use. Where one would become
    negative, go as far as the first that does, or all the way with these at zero if that is better; returns the rows
    for which this is so: their next system is smaller."""
    x, c = X[rows], C[rows]
    used = x > 0
    _, some = used.to(torch.uint8).topk(max(1, int(used.sum(1).max())), dim=1)  # (R, S) what they use, then others
    own = used.gather(1, some).to(x.dtype)
    H = G[some[:, :, None], some[:, None, :]] * own[:, :, None] * own[:, None, :]
    H.diagonal(dim1=1, dim2=2).add_(_RIDGE[G.dtype] + (1 - own))
    residual = torch.addmm(c, x, G, alpha=-1).gather(1, some) * own
    factor, failed = torch.linalg.cholesky_ex(H)
    step = torch.where(failed[:, None] == 0, torch.cholesky_solve(residual[:, :, None], factor)[:, :, 0], 0)
    step = torch.zeros_like(x).scatter_(1, some, step * own)
    reach = torch.where(x + step < 0, x / -step, 1)  # (R, K)
    first = reach.amin(1, keepdim=True)
    near, far = (x + first * step).clamp(min=0).where(reach > first, 0), (x + step).clamp(min=0)
    blocked = first[:, 0] < 1
    near[~blocked] = far[~blocked]
    lower = [((0.5 * y @ G - c) * y).sum(1, keepdim=True) for y in (near, far)]
    X[rows] = torch.where(lower[1] < lower[0], far, near)
    return rows[blocked]
