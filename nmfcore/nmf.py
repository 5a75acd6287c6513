"""Non-negative matrix factorization A ≈ U V by extrapolated HALS or by multiplicative updates, batched.

HALS (hierarchical alternating least squares, Cichocki & Phan 2009) minimizes ‖A − U V‖_F exactly over one column of U
or one row of V at a time. Several sweeps share one Gram product (Gillis & Glineur 2012), and both factors are
extrapolated with Nesterov's sequence, restarted when the error rises (Ang & Gillis 2019). Multiplicative updates
(Lee & Seung 1999), the algorithm behind the thesis's results, remain available as `solver="mu"`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Number, Real
from typing import overload

import psutil
import torch
from torch import Tensor

REASONS = ("max_iter", "tolerance", "exact")  # why a problem stopped, indexed by NMF.status
_BLOCK = 16  # components per matrix product inside a HALS sweep
_WINDOW = 10  # iterations between which progress is measured
_MOMENTUM = 0.97  # cap of the extrapolation weight


@dataclass(frozen=True)
class NMF:
    """A ≈ U V for one matrix or a batch; rows of V have unit ℓ2 norm, U carries the scale."""

    U: Tensor  # (…, N, K) ≥ 0, "where"
    V: Tensor  # (…, K, M) ≥ 0, "what"
    error: Tensor  # (…) ‖A − U V‖_F / ‖A‖_F
    iterations: Tensor  # (…) integer
    status: Tensor  # (…) index into REASONS

    @property
    def converged(self) -> Tensor:
        """(…) bool: stopped by its own convergence test, not by `max_iter`."""
        return self.status > 0

    @property
    def reason(self) -> str | list:
        """Why each problem stopped, as a string or a nested list of strings shaped like the batch."""
        def name(status):
            return [name(item) for item in status] if isinstance(status, list) else REASONS[status]
        return name(self.status.tolist())

    @property
    def approximation(self) -> Tensor:
        """(…, N, M) U V."""
        return self.U @ self.V


@overload
def nmf(A: Tensor, rank: int, *, solver: str = ..., init: str | tuple[Tensor, Tensor] = ..., mask: Tensor | None = ...,
        max_iter: int | None = ..., tol: float = ..., seed: int = ...) -> NMF: ...
@overload
def nmf(A: Tensor, rank: Sequence[int], *, solver: str = ..., init: str | tuple[Tensor, Tensor] = ...,
        mask: Tensor | None = ..., max_iter: int | None = ..., tol: float = ..., seed: int = ...) -> list[NMF]: ...
def nmf(A, rank, *, solver: str = "hals", init: str | tuple[Tensor, Tensor] = "random", mask: Tensor | None = None,
        max_iter: int | None = None, tol: float = 1e-4, seed: int = 0):
    """Minimize ‖A − U V‖_F over U, V ≥ 0 (thesis eq. 2.27).

    A: (…, N, M) floating tensor, non-negative; half precision is computed in float32, float64 stays float64.
    rank: K, or a sequence of ranks, which gives a list with one `NMF` per rank.
    solver: "hals", or "mu" for plain multiplicative updates.
    init: "random", or a pair U (…, N, K), V (…, K, M) to start from.
    mask: (…, N) bool, False for padding rows of ragged batches; they are left out and get U = 0.
    max_iter: default 1000 for "hals", 200 for "mu".
    tol: "hals" stops when the error falls by less than `tol` of itself per iteration, averaged over ten; "mu" when it
        falls by less than `tol` of the initial error in ten iterations (the usual rule, and a lax one).
        Either stops at an exact fit, a relative error below 1e-6 (1e-12 in float64).

    The start depends on `seed` alone: each problem of a batch, and each rank of a sequence, starts as it would alone
    (padding counts: a masked problem starts like any other of its padded size).
    Zero rows and columns of A stay zero in U and V. Raises ValueError for input that has no such factorization
    (negative, NaN, infinite, empty, integer), for a rank below 1 and for one that memory cannot hold.
    """
    if solver not in ("hals", "mu"):
        raise ValueError(f"solver {solver!r} is not one of 'hals', 'mu'")
    if not isinstance(tol, Real) or not tol >= 0:
        raise ValueError(f"tol {tol!r} must be a number ≥ 0")
    if max_iter is None:
        max_iter = 1000 if solver == "hals" else 200
    if not _is_count(max_iter):
        raise ValueError(f"max_iter {max_iter!r} must be an integer ≥ 1")
    A = _validated(A)
    single = isinstance(rank, Number)
    ranks = [rank] if single else list(rank)
    for K in ranks:
        _check_rank(A, K)
    if mask is not None:
        if not isinstance(mask, torch.Tensor) or mask.shape != A.shape[:-1] or mask.dtype != torch.bool:
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise ValueError(f"mask must be a bool tensor of shape {tuple(A.shape[:-1])}, got {got}")
        A = A * mask.unsqueeze(-1)

    batch, (N, M) = A.shape[:-2], A.shape[-2:]
    A = A.reshape(-1, N, M)
    # A power of two keeps the products of tiny or huge inputs finite and costs no rounding.
    peak = A.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(A.dtype).tiny)
    scale = torch.exp2((torch.frexp(peak).exponent - 1).to(A.dtype))  # the largest entry becomes 1 ≤ … < 2
    A = A / scale
    results = []
    for K in ranks:
        U, V = _start(A, int(K), init, seed, batch)
        U, V, error, iterations, status = _solve(A, U, V, solver, max_iter, tol)
        norm = V.norm(dim=-1, keepdim=True)  # (B, K, 1)
        V = V / torch.where(norm > 0, norm, 1)
        U = (U * norm).mT * scale
        results.append(NMF(U.reshape(*batch, N, K), V.reshape(*batch, K, M), error.reshape(batch),
                           iterations.reshape(batch), status.reshape(batch)))
    return results[0] if single else results


def _validated(A):
    if not isinstance(A, torch.Tensor) or not A.is_floating_point():
        kind = A.dtype if isinstance(A, torch.Tensor) else type(A).__name__
        raise ValueError(f"A must be a floating-point tensor, got {kind}; convert it with torch.as_tensor(A).float()")
    if A.dim() < 2 or A.numel() == 0:
        raise ValueError(f"A must have shape (…, N, M) with at least one entry, got {tuple(A.shape)}")
    A = A.detach()
    A = A if A.dtype == torch.float64 else A.float()
    bad = ~torch.isfinite(A) | (A < 0)
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"A{list(index)} = {A[index].item()} but every entry must be finite and ≥ 0; "
                         f"factorize the activations after a ReLU, or clamp them")
    return A


def _is_count(value):
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def _check_rank(A, K):
    if not _is_count(K):
        raise ValueError(f"rank {K!r} must be an integer ≥ 1")
    N, M = A.shape[-2:]
    batch = A[..., 0, 0].numel()
    needed = batch * A.element_size() * (6 * int(K) * (N + M) + 3 * int(K) ** 2)  # factors, extrapolations, products
    free = torch.cuda.mem_get_info(A.device)[0] if A.is_cuda else psutil.virtual_memory().available
    if needed > free:
        raise ValueError(f"rank {K} needs about {needed:,} bytes for {batch} × ({N} × {M}), "
                         f"but {free:,} bytes are free on {A.device}; lower the rank or split the batch")


def _start(A, K, init, seed, batch):
    """U (B, K, N), transposed, and V (B, K, M), scaled so that U V fits A as well as one factor can make it."""
    B, N, M = A.shape
    if not isinstance(init, (tuple, list)):
        if init != "random":
            raise ValueError(f"init {init!r} is not 'random' or a pair (U, V)")

        def draw(width, offset):  # rows in order, so that a lower rank starts with the first rows of a higher one
            generator = torch.Generator().manual_seed(2 * seed + offset)
            return torch.rand(K, width, generator=generator, dtype=torch.float64).to(A).expand(B, K, width)

        U, V = draw(N, 0), draw(M, 1)
    else:
        if len(init) != 2 or not all(isinstance(X, torch.Tensor) for X in init):
            raise ValueError("init must be 'random' or a pair (U, V) of tensors")
        U, V = init
        if U.shape != (*batch, N, K) or V.shape != (*batch, K, M):
            raise ValueError(f"init must have shapes {(*batch, N, K)} and {(*batch, K, M)}, "
                             f"got {tuple(U.shape)} and {tuple(V.shape)}")
        if not all(torch.isfinite(X).all() and (X >= 0).all() for X in (U, V)):
            raise ValueError("init must be finite and ≥ 0")
        U, V = U.detach().reshape(B, N, K).mT.to(A), V.detach().reshape(B, K, M).to(A)
    U, V = U * (A.amax(-1) > 0).unsqueeze(-2), V * (A.amax(-2) > 0).unsqueeze(-2)
    U, V = (X / X.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(A.dtype).tiny) for X in (U, V))
    fit = (U @ A * V).sum((-2, -1), keepdim=True)
    size = (U @ U.mT * (V @ V.mT)).sum((-2, -1), keepdim=True)
    factor = torch.where((fit > 0) & (size > 0), fit / size, 1).sqrt()
    return U * factor, V * factor


def _solve(A, U, V, solver, max_iter, tol):
    """Iterate every problem until its own test stops it; stopped problems leave the batch."""
    B = len(A)
    norm2 = _square_norm(A)
    exact = 1e-12 if A.dtype == torch.float64 else 1e-6
    step = _hals if solver == "hals" else _mu
    result = {"U": U.clone(), "V": V.clone(), "error": norm2.new_zeros(B), "iterations": norm2.new_zeros(B).long(),
              "status": norm2.new_zeros(B).long()}
    error = _error(A, U, V, norm2)
    s = {"index": torch.arange(B, device=A.device), "A": A, "norm2": norm2, "error": error,
         "U": U, "V": V, "Ue": U.clone(), "Ve": V.clone(), "U_last": U, "t": torch.ones_like(error)}
    initial, window = error, error
    for iteration in range(1, max_iter + 1):
        step(s)
        status = (s["error"] <= exact).long() * 2
        if iteration % _WINDOW == 0:
            base, span = (s["error"], _WINDOW) if solver == "hals" else (initial, 1)
            status = torch.where((status == 0) & (window - s["error"] <= tol * span * base), 1, status)
            window = s["error"]
        stop = status > 0 if iteration < max_iter else torch.ones_like(status, dtype=torch.bool)
        if stop.any():
            index = s["index"][stop]
            for name in ("U", "V", "error"):
                result[name][index] = s[name][stop]
            result["iterations"][index] = iteration
            result["status"][index] = status[stop]
            if stop.all():
                break
            s = {name: value[~stop] for name, value in s.items()}
            initial, window = initial[~stop], window[~stop]
    return (result[name] for name in ("U", "V", "error", "iterations", "status"))


def _hals(s):
    """One extrapolated iteration; (U, V) is the best pair so far, (Ue, Ve) the point the next one starts from."""
    A, K = s["A"], s["V"].shape[1]
    inner_U, inner_V = (2, 2) if K < 64 else (4, 8)
    t_next = (1 + (1 + 4 * s["t"] ** 2).sqrt()) / 2
    beta = ((s["t"] - 1) / t_next).clamp_max(_MOMENTUM).to(A.dtype)[:, None, None]

    U_new = _sweep(s["Ue"], s["Ve"] @ s["Ve"].mT, s["Ve"] @ A.mT, inner_U)
    U = torch.relu(U_new + beta * (U_new - s["U_last"]))
    G, C = U @ U.mT, U @ A
    V_new = _sweep(s["Ve"], G, C, inner_V)
    error = _error(A, U, V_new, s["norm2"], G, C)

    better = error <= s["error"]
    keep = better[:, None, None]
    s["Ve"] = torch.where(keep, torch.relu(V_new + beta * (V_new - s["V"])), s["V"])
    s["V"] = torch.where(keep, V_new, s["V"])
    s["U"] = s["Ue"] = torch.where(keep, U, s["U"])
    s["U_last"] = torch.where(keep, U_new, s["U"])
    s["error"] = torch.where(better, error, s["error"])
    s["t"] = torch.where(better, t_next, 1)


def _mu(s):
    """One pair of multiplicative updates, U first."""
    A, U, V = s["A"], s["U"], s["V"]
    tiny = torch.finfo(A.dtype).eps
    U = U * (V @ A.mT) / (V @ V.mT @ U).clamp_min(tiny)
    G, C = U @ U.mT, U @ A
    V = V * C / (G @ V).clamp_min(tiny)
    s["U"], s["V"], s["error"] = U, V, _error(A, U, V, s["norm2"], G, C)


def _sweep(X, G, C, inner):
    """HALS over the rows of X ≥ 0 for min ½⟨X, G X⟩ − ⟨C, X⟩: X, C (B, K, P), G (B, K, K)."""
    X = X.clone()
    K = X.shape[1]
    diagonal = G.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0).unsqueeze(-1)  # a dead row stays as it is
    for _ in range(inner):
        for start in range(0, K, _BLOCK):
            stop = min(start + _BLOCK, K)
            R = torch.baddbmm(C[:, start:stop], G[:, start:stop], X, alpha=-1)  # (B, block, P)
            for k in range(start, stop):
                move = torch.maximum(R[:, k - start] * inverse[:, k], -X[:, k])
                X[:, k] += move
                if k + 1 < stop:
                    R[:, k - start + 1:] -= G[:, k + 1:stop, k, None] * move.unsqueeze(1)
    return X


def _error(A, U, V, norm2, G=None, C=None):
    """Relative error (B,) in float64: from the Gram products, or from the residual where they would cancel."""
    if G is None:
        G, C = U @ U.mT, U @ A
    cross = (C * V).sum((-2, -1), dtype=torch.float64)
    fit = (G * (V @ V.mT)).sum((-2, -1), dtype=torch.float64)
    safe = torch.where(norm2 > 0, norm2, 1)
    error2 = (norm2 - 2 * cross + fit) / safe
    close = error2 < (1e-3 if A.dtype == torch.float32 else 1e-10)
    for b in close.nonzero().flatten().tolist():
        error2[b] = _square_norm(A[b:b + 1] - U[b:b + 1].mT @ V[b:b + 1])[0] / safe[b]
    return error2.clamp_min(0).sqrt()


def _square_norm(A):
    return A.square().sum((-2, -1), dtype=torch.float64)
