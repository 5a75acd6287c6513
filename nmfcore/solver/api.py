"""Non-negative matrix factorization A ≈ U V by extrapolated HALS or by multiplicative updates, batched.

HALS (hierarchical alternating least squares, Cichocki & Phan 2009) minimizes ‖A − U V‖_F exactly over one column of U
or one row of V at a time. Several sweeps share one Gram product (Gillis & Glineur 2012), and both factors are
extrapolated with Nesterov's sequence, restarted when the error rises (Ang & Gillis 2019). Multiplicative updates
(Lee & Seung 1999), the algorithm behind the thesis's results, remain available as `solver="mu"`.

On the CPU the HALS iteration is compiled (`cpu`), on a GPU its sweeps are one kernel each (`triton`) and an iteration
is replayed as a CUDA graph; elsewhere it runs as plain PyTorch (`plain`).
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from numbers import Number, Real
from typing import overload

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .. import _inputs
from .._inputs import isolated
from . import backends, processes
from .check import bad_entry, check_mask, check_pair, check_rank, is_count, peaks
from .plain import Batch
from .processes import Rows
from .result import Factors
from .start import Given, Starts

_SPREAD = 2 ** 14  # N·M·K above which problems run in threads: smaller ones would wait for each other in Python


@overload
def nmf(A: Tensor, rank: int, *, solver: str = ..., init: str | tuple[Tensor, Tensor] = ..., mask: Tensor | None = ...,
        warm: bool = ..., chunk: int | None = ..., group: dist.ProcessGroup | None = ..., max_iter: int | None = ...,
        tol: float = ..., seed: int = ..., backend: str = ...) -> Factors: ...
@overload
def nmf(A: Tensor, rank: Sequence[int], *, solver: str = ..., init: str | tuple[Tensor, Tensor] = ...,
        mask: Tensor | None = ..., warm: bool = ..., chunk: int | None = ..., group: dist.ProcessGroup | None = ...,
        max_iter: int | None = ..., tol: float = ..., seed: int = ..., backend: str = ...) -> list[Factors]: ...
@isolated()
def nmf(A, rank, *, solver: str = "hals", init: str | tuple[Tensor, Tensor] = "random", mask: Tensor | None = None,
        warm: bool = True, chunk: int | None = None, group: dist.ProcessGroup | None = None,
        max_iter: int | None = None, tol: float = 1e-4, seed: int = 0, backend: str = "auto"):
    """Minimize ‖A − U V‖_F over U, V ≥ 0 (thesis eq. 2.27).

    The start depends on `seed` alone: each problem of a batch starts as it would alone. Where rows outnumber what V
    needs, a sample of them is solved first. Components that have died get a new start before a problem stops.
    Zero rows and columns of A stay zero in U and V.

    Args:
        A: (…, N, M) floating tensor, non-negative; half precision is computed in float32, float64 stays float64. It may
            be sparse, of any layout, or a SciPy sparse matrix; HALS on the CPU then works on the entries that are not
            zero, as long as these are few, and everything else makes it dense.
        rank: K, or a sequence of ranks.
        solver: "hals", or "mu" for plain multiplicative updates.
        init: "random", or a pair U (…, N, K), V (…, K, M) to start from.
        mask: (…, N) bool, False for padding rows of ragged batches; they are left out and get U = 0.
        warm: each rank of a sequence but the lowest starts from the result of the rank below and rows of what that
            leaves unexplained; False starts every rank as if it were alone. Given factors and "mu" never start warm.
        chunk: work on a single matrix `chunk` rows at a time. A stays where it is, for example in a memory-mapped file
            (torch.from_file), in any floating type; held in memory are U, V, one chunk, and once a sample of the rows.
        group: the rows of A are spread over the processes of this torch.distributed group, each of which makes the same
            call with its own rows and gets its own rows of U, and the same V and error.
        max_iter: default 1000 for "hals", 200 for "mu".
        tol: "hals" stops when the error falls by less than `tol` of itself per iteration, averaged over ten; "mu" when
            it falls by less than `tol` of the initial error in ten iterations (the usual rule, and a lax one).
            Either stops at an exact fit, a relative error below 1e-6 (1e-12 in float64).
        seed: of the start.
        backend: "auto", what is fastest where A is; "torch", PyTorch alone, with nothing compiled.

    Returns:
        `Factors`, or a list with one for each rank of a sequence.

    Raises:
        ValueError: for input that has no such factorization (negative, NaN, infinite, empty, integer), for a rank below
            1 and for one that memory cannot hold; if it does so in one process of a group, then in all.

    Example:
        >>> import torch
        >>> from nmfcore import nmf
        >>> A = torch.block_diag(torch.ones(4, 3), 2 * torch.ones(5, 2))
        >>> factors = nmf(A, 2)
        >>> factors.U.shape, factors.V.shape, factors.reason
        (torch.Size([9, 2]), torch.Size([2, 5]), 'exact')
        >>> [round(float(result.error), 2) for result in nmf(A, (1, 2))]
        [0.48, 0.0]
    """
    single = isinstance(rank, Number)
    ranks = [rank] if single else list(rank)
    try:
        call = _Call(A, ranks, solver, init, mask, warm, chunk, max_iter, tol, seed, backend)
    except Exception as error:
        if group is not None:
            processes.report(group, error)
        raise
    if group is not None:
        call.join(group)
    with call.pool or nullcontext():
        results = call.results(sorted(set(ranks)))
    return results[rank] if single else [results[K] for K in ranks]


class _Call:
    """One call of `nmf`, checked: the matrices, how they are spread, and how they are solved."""

    def __init__(self, A, ranks, solver, init, mask, warm, chunk, max_iter, tol, seed, backend):
        if solver not in ("hals", "mu"):
            raise ValueError(f"solver {solver!r} is not one of 'hals', 'mu'")
        if backend not in backends.BACKENDS:
            raise ValueError(f"backend {backend!r} is not one of {', '.join(map(repr, backends.BACKENDS))}")
        if not isinstance(tol, Real) or not tol >= 0:
            raise ValueError(f"tol {tol!r} must be a number ≥ 0")
        if max_iter is None:
            max_iter = 1000 if solver == "hals" else 200
        if not is_count(max_iter):
            raise ValueError(f"max_iter {max_iter!r} must be an integer ≥ 1")
        _inputs.check_type(A, "(…, N, M)")
        if len(A.shape) < 2 or math.prod(A.shape) == 0:
            raise ValueError(f"A must have shape (…, N, M) with at least one entry, got {tuple(A.shape)}")
        self.batch, (self.N, self.M) = A.shape[:-2], A.shape[-2:]
        self.device = A.device if isinstance(A, Tensor) else torch.device("cpu")
        self.ranks, self.solver, self.max_iter, self.tol, self.chunk = ranks, solver, max_iter, tol, chunk
        self.dtype = _inputs.precision(A)
        sparse, auto = _inputs.is_sparse(A), backend == "auto"
        self.compiled = auto and backends.cpu is not None and solver == "hals" and self.device.type == "cpu"
        if chunk is not None and not (is_count(chunk) and self.compiled and len(A.shape) == 2 and mask is None
                                      and not sparse):
            raise ValueError(f"chunk {chunk!r} must be None, or an integer ≥ 1 with one matrix (N, M), dense, on the "
                             f"CPU, solver 'hals', no mask, backend 'auto', and numba installed")
        for K in ranks:
            check_rank(K, A.shape, self.dtype, self.device)
        check_mask(mask, A.shape)
        if sparse and self.compiled:
            self._take_sparse(_inputs.csr(A), mask, max(ranks, default=1))
        else:
            self._take_dense(_inputs.dense(A) if sparse else A.detach(), mask, chunk, max(ranks, default=1))
        given = None
        if isinstance(init, (tuple, list)):
            check_pair(init, ranks, A.shape)
            U, V = (X.detach().to(self.device, self.dtype).reshape(-1, *X.shape[-2:]) for X in init)
            given = Given(U.mT, V, U.amax((-2, -1)))
        elif init != "random":
            raise ValueError(f"init {init!r} is not 'random' or a pair (U, V)")
        self.warm = bool(warm) and solver == "hals" and given is None
        self.starts = Starts(Rows(self.N), len(self.A), self.M, self.dtype, self.device, seed, given)
        cuda = auto and self.device.type == "cuda" and self.dtype == torch.float32
        self.kernels = backends.triton_for(self.device) if cuda else None
        threads = torch.get_num_threads() if self.compiled else 1
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def _take_dense(self, A, mask, chunk, rank):
        """Set `A` (B, N, M), the largest entry of each matrix, and the CSR forms of those for which they are faster."""
        A = A if chunk else A.to(self.dtype)
        if mask is not None:
            A = torch.where(mask.unsqueeze(-1), A, 0)
        self.A = A.reshape(-1, self.N, self.M)
        self.peak, self.sparse = None, [None] * len(self.A)
        if self.compiled and chunk is None:
            self.A = self.A.contiguous()
            self.peak, self.sparse = backends.cpu.survey_all(self.A, rank)
        if self.peak is None:
            self.peak = peaks(A, chunk or self.N)  # (B,)

    def _take_sparse(self, matrices, mask, rank):
        """The same from matrices in CSR form; those that have too many entries for it become dense."""
        if mask is not None:
            for X, rows in zip(matrices, mask.reshape(-1, self.N).numpy(), strict=True):
                X.data[~rows.repeat(np.diff(X.indptr))] = 0
                X.eliminate_zeros()
        for b, X in enumerate(matrices):
            wrong = np.flatnonzero(~(np.isfinite(X.data) & (X.data >= 0)))
            if len(wrong):
                row = int(np.searchsorted(X.indptr, wrong[0], "right")) - 1
                place = [*map(int, np.unravel_index(b, self.batch)), row, int(X.indices[wrong[0]])]
                raise bad_entry(place, X.data[wrong[0]])
        self.peak = torch.tensor([X.data.max(initial=0) for X in matrices], dtype=self.dtype)
        self.sparse = [backends.cpu.sparse_form(X, rank) for X in matrices]
        self.A = [torch.from_numpy(X.toarray()) if form is None else None
                  for X, form in zip(matrices, self.sparse, strict=True)]

    def join(self, group):
        """Learn what the other processes of the group hold."""
        given = self.starts.given
        call = {"batch": self.batch, "columns": self.M, "type": self.dtype, "ranks": self.ranks, "solver": self.solver,
                "init": "given" if given else "random", "warm": self.warm, "max_iter": self.max_iter,
                "tol": self.tol, "seed": self.starts.seed, "compiled": self.compiled}
        self.peak, *start = self.starts.rows.join(group, call, [self.peak, given.peak] if given else [self.peak])
        if given:
            given.peak, = start

    def results(self, ranks):
        """{K: Factors}, from the lowest rank to the highest."""
        power = torch.frexp(self.peak.double()).exponent - 1
        # Far from 1, a power of two keeps products finite; it costs no rounding.
        self.scale = torch.exp2(torch.where((self.peak > 0) & (power.abs() > 20), power, 0).to(self.dtype))
        if self.compiled:
            solved = self._compiled(ranks)
        else:
            A = self.A if (self.scale == 1).all() else self.A / self.scale[:, None, None]
            batch = Batch(self.solver, self.starts.rows, self.starts, self.kernels)
            solved = batch.chain(A, ranks, warm=self.warm, max_iter=self.max_iter, tol=self.tol)
        cold = "given" if self.starts.given else "random"
        starts = [cold, *(f"rank {K}" if self.warm else cold for K in ranks)]
        return {K: self._factors(*solved[K], start) for K, start in zip(ranks, starts, strict=False)}

    def _compiled(self, ranks):
        """What `Batch.chain` gives, one problem at a time."""
        cpu = backends.cpu
        tasks = [(b, part) for b in range(len(self.A)) for part in ([ranks] if self.warm else [[K] for K in ranks])]
        large = self.N * self.M * max(ranks) > _SPREAD
        spread = self.pool and large and len(tasks) > 1 and not self.starts.rows.group and all(self.sparse)

        def solve(task):
            b, part = task
            scale, form = float(self.scale[b]), self.sparse[b]
            A = form.divided(scale) if form else cpu.Dense(self.A[b], self.dtype, scale, self.chunk)
            return cpu.chain(A, b, part, self.starts, max_iter=self.max_iter, tol=self.tol,
                             pool=None if spread else self.pool)
        parts = list((self.pool.map if spread else map)(solve, tasks))
        return {K: [torch.stack(values) for values in zip(*(part[K] for part in parts if K in part), strict=True)]
                for K in ranks}

    def _factors(self, U, V, error, iterations, status, seconds, start):
        for measure in (torch.amax, torch.linalg.vector_norm):  # the largest first: squares of tiny rows vanish
            size = measure(V, dim=-1, keepdim=True)  # (B, K, 1)
            V = V / torch.where(size > 0, size, 1)
            U *= size.mT
        U *= self.scale[:, None, None]
        U.clamp_max_(torch.finfo(U.dtype).max)  # rounding at the very top
        shape = self.batch
        return Factors(U.reshape(*shape, *U.shape[1:]), V.reshape(*shape, *V.shape[1:]), error.reshape(shape),
                       iterations.reshape(shape), status.reshape(shape), seconds.reshape(shape), start)
