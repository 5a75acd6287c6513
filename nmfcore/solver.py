"""Non-negative matrix factorization A ≈ U V by extrapolated HALS or by multiplicative updates, batched.

HALS (hierarchical alternating least squares, Cichocki & Phan 2009) minimizes ‖A − U V‖_F exactly over one column of U
or one row of V at a time. Several sweeps share one Gram product (Gillis & Glineur 2012), and both factors are
extrapolated with Nesterov's sequence, restarted when the error rises (Ang & Gillis 2019). Multiplicative updates
(Lee & Seung 1999), the algorithm behind the thesis's results, remain available as `solver="mu"`.

On the CPU the HALS iteration is compiled (nmfcore._cpu), on a GPU its sweeps are one kernel each (nmfcore._triton) and
an iteration is replayed as a CUDA graph; elsewhere it runs as plain PyTorch.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Integral, Number, Real
from typing import overload

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from . import _inputs
from ._inputs import isolated

try:
    from . import _cpu
except (ImportError, RuntimeError):  # numba has no build for this Python or processor, or no place for its cache
    _cpu = None  # type: ignore[assignment]

REASONS = ("max_iter", "tolerance", "exact")  # why a problem stopped, indexed by Factors.status
_BLOCK = 16  # components per matrix product inside a HALS sweep
_EAGER = 50  # iterations on a GPU before one is captured as a graph
_WINDOW = 10  # iterations between which progress is measured
_MOMENTUM = 0.97  # cap of the extrapolation weight
_SAMPLE = (512, 2048)  # an eighth of the rows, within these bounds, more for many components: solved first
_FIRST = 5  # iterations there
_SPREAD = 2 ** 14  # N·M·K above which problems run in threads: smaller ones would wait for each other in Python
_REVIVALS = 3  # how often dead components may get a new start
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-10}  # squared error below which Gram products cancel


@dataclass(frozen=True)
class Factors:
    """A ≈ U V for one matrix or a batch; rows of V have unit ℓ2 norm, U carries the scale."""

    U: Tensor  # (…, N, K) ≥ 0, "where"
    V: Tensor  # (…, K, M) ≥ 0, "what"
    error: Tensor  # (…) ‖A − U V‖_F / ‖A‖_F
    iterations: Tensor  # (…) integer, over all rows of A
    status: Tensor  # (…) index into REASONS
    start: str = "random"  # or "given", or "rank K" for a start from the result of a lower rank

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
    @isolated()
    def approximation(self) -> Tensor:
        """(…, N, M) U V."""
        return self.U @ self.V

    @isolated()
    def kkt(self, A: Tensor) -> Tensor:
        """(…) How far from stationary, 0 at a point that satisfies the Karush-Kuhn-Tucker conditions.

        It is the norm, relative to ‖A‖_F, of the changes that an exact step in every single component, taken alone,
        would make to the approximation: ‖(U − [U − ∇_U / ‖V_k‖²]₊) ‖V_k‖‖ and the same for V. A is what was
        factorized; where it is sparse, it is made dense.
        """
        A = _inputs.dense(A).to(self.U)
        peak = A.amax((-2, -1), keepdim=True)
        peak = torch.where(peak > 0, peak, 1)
        A, U = A / peak, self.U / peak
        size = torch.linalg.vector_norm(A, dim=(-2, -1))
        moved = torch.zeros_like(size)
        for X, Y, target in ((U.mT, self.V, A.mT), (self.V, U.mT, A)):
            gram = Y @ Y.mT
            diagonal = gram.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # (…, K, 1)
            descent = Y @ target - gram @ X
            step = torch.maximum(descent / torch.where(diagonal > 0, diagonal, 1), -X) * (diagonal > 0)
            moved = moved + (step.square() * diagonal).sum((-2, -1))
        return moved.sqrt() / torch.where(size > 0, size, 1)


@overload
def nmf(A: Tensor, rank: int, *, solver: str = ..., init: str | tuple[Tensor, Tensor] = ..., mask: Tensor | None = ...,
        warm: bool = ..., chunk: int | None = ..., group: dist.ProcessGroup | None = ..., max_iter: int | None = ...,
        tol: float = ..., seed: int = ...) -> Factors: ...
@overload
def nmf(A: Tensor, rank: Sequence[int], *, solver: str = ..., init: str | tuple[Tensor, Tensor] = ...,
        mask: Tensor | None = ..., warm: bool = ..., chunk: int | None = ..., group: dist.ProcessGroup | None = ...,
        max_iter: int | None = ..., tol: float = ..., seed: int = ...) -> list[Factors]: ...
@isolated()
def nmf(A, rank, *, solver: str = "hals", init: str | tuple[Tensor, Tensor] = "random", mask: Tensor | None = None,
        warm: bool = True, chunk: int | None = None, group: dist.ProcessGroup | None = None,
        max_iter: int | None = None, tol: float = 1e-4, seed: int = 0):
    """Minimize ‖A − U V‖_F over U, V ≥ 0 (thesis eq. 2.27).

    A: (…, N, M) floating tensor, non-negative; half precision is computed in float32, float64 stays float64. It may be
        sparse, of any layout, or a SciPy sparse matrix; HALS on the CPU then works on the entries that are not zero, as
        long as these are few, and everything else makes it dense.
    rank: K, or a sequence of ranks, which gives a list with one `Factors` per rank.
    solver: "hals", or "mu" for plain multiplicative updates.
    init: "random", or a pair U (…, N, K), V (…, K, M) to start from.
    mask: (…, N) bool, False for padding rows of ragged batches; they are left out and get U = 0.
    warm: each rank of a sequence but the lowest starts from the result of the rank below and rows of what that leaves
        unexplained; False starts every rank as if it were alone. Given factors and "mu" never start warm.
    chunk: work on a single matrix `chunk` rows at a time. A stays where it is, for example in a memory-mapped file
        (torch.from_file), in any floating type; held in memory are U, V, one chunk, and once a sample of the rows.
    group: the rows of A are spread over the processes of this torch.distributed group, each of which makes the same
        call with its own rows and gets its own rows of U, and the same V and error.
    max_iter: default 1000 for "hals", 200 for "mu".
    tol: "hals" stops when the error falls by less than `tol` of itself per iteration, averaged over ten; "mu" when it
        falls by less than `tol` of the initial error in ten iterations (the usual rule, and a lax one).
        Either stops at an exact fit, a relative error below 1e-6 (1e-12 in float64).

    The start depends on `seed` alone: each problem of a batch starts as it would alone. Where rows outnumber what V
    needs, a sample of them is solved first. Components that have died get a new start before a problem stops.
    Zero rows and columns of A stay zero in U and V. Raises ValueError for input that has no such factorization
    (negative, NaN, infinite, empty, integer), for a rank below 1 and for one that memory cannot hold; if it does so in
    one process of a group, then in all.
    """
    single = isinstance(rank, Number)
    ranks = [rank] if single else list(rank)
    try:
        run = _Run(A, ranks, solver, init, mask, warm, chunk, max_iter, tol, seed)
    except Exception as error:
        if group is not None:
            _exchange(group, {"failure": f"{type(error).__name__}: {error}"})
        raise
    if group is not None:
        run.join(group)
    with run.pool or nullcontext():
        results = run.results(sorted(set(ranks)))
    return results[rank] if single else [results[K] for K in ranks]


class _Run:
    """One call of `nmf`, checked: the matrices, how they are spread, and how they are solved."""

    def __init__(self, A, ranks, solver, init, mask, warm, chunk, max_iter, tol, seed):
        if solver not in ("hals", "mu"):
            raise ValueError(f"solver {solver!r} is not one of 'hals', 'mu'")
        if not isinstance(tol, Real) or not tol >= 0:
            raise ValueError(f"tol {tol!r} must be a number ≥ 0")
        if max_iter is None:
            max_iter = 1000 if solver == "hals" else 200
        if not _is_count(max_iter):
            raise ValueError(f"max_iter {max_iter!r} must be an integer ≥ 1")
        _inputs.check_type(A, "(…, N, M)")
        if len(A.shape) < 2 or math.prod(A.shape) == 0:
            raise ValueError(f"A must have shape (…, N, M) with at least one entry, got {tuple(A.shape)}")
        self.batch, (self.N, self.M) = A.shape[:-2], A.shape[-2:]
        self.device = A.device if isinstance(A, Tensor) else torch.device("cpu")
        sparse = _inputs.is_sparse(A)
        self.ranks, self.solver, self.max_iter, self.tol, self.seed = ranks, solver, max_iter, tol, seed
        self.chunk = chunk
        self.group, self.offset, self.total = None, 0, self.N  # this process's rows among those of the group
        self.dtype = _inputs.precision(A)
        self.compiled = _cpu is not None and solver == "hals" and self.device.type == "cpu"
        if chunk is not None and not (_is_count(chunk) and self.compiled and len(A.shape) == 2 and mask is None
                                      and not sparse):
            raise ValueError(f"chunk {chunk!r} must be None, or an integer ≥ 1 with one matrix (N, M), dense, on the "
                             f"CPU, solver 'hals', no mask, and numba installed")
        for K in ranks:
            self._check_rank(K)
        if mask is not None and (not isinstance(mask, Tensor) or mask.shape != A.shape[:-1]
                                 or mask.dtype != torch.bool):
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"mask must be a bool tensor of shape {tuple(A.shape[:-1])}, got {got}")
        if sparse and self.compiled:
            self._take_sparse(_inputs.csr(A), mask, max(ranks, default=1))
        else:
            self._take_dense(_inputs.dense(A) if sparse else A.detach(), mask, chunk, max(ranks, default=1))
        if not isinstance(init, (tuple, list)):
            if init != "random":
                raise ValueError(f"init {init!r} is not 'random' or a pair (U, V)")
            self.given = None
        else:
            self.given = self._checked_pair(init, ranks)
        self.warm = bool(warm) and solver == "hals" and self.given is None
        cuda = self.device.type == "cuda"
        self.triton = _triton_for(self.device) if cuda and self.dtype == torch.float32 else None
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
            self.peak, self.sparse = _cpu.survey_all(self.A, rank)
        if self.peak is None:
            self.peak = _peaks(A, chunk or self.N)  # (B,)

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
                raise _bad_entry(place, X.data[wrong[0]])
        self.peak = torch.tensor([X.data.max(initial=0) for X in matrices], dtype=self.dtype)
        self.sparse = [_cpu.sparse_form(X, rank) for X in matrices]
        self.A = [torch.from_numpy(X.toarray()) if form is None else None
                  for X, form in zip(matrices, self.sparse, strict=True)]

    def _check_rank(self, K):
        if not _is_count(K):
            raise ValueError(f"rank {K!r} must be an integer ≥ 1")
        N, M, batch = self.N, self.M, math.prod(self.batch)
        padded = -(-int(K) // 16) * 16  # the compiled path works on tiles of 16
        size = torch.finfo(self.dtype).bits // 8
        needed = batch * size * (6 * padded * (N + M) + 3 * padded ** 2)  # factors, extrapolations, products
        if needed < 2 ** 27:
            return  # asking takes longer than small problems do
        cuda = self.device.type == "cuda"
        free = torch.cuda.mem_get_info(self.device)[0] if cuda else psutil.virtual_memory().available
        if needed > free:
            raise ValueError(f"rank {K} needs about {needed:,} bytes for {batch} × ({N} × {M}), "
                             f"but {free:,} bytes are free on {self.device}; lower the rank or split the batch")

    def _checked_pair(self, init, ranks):
        """U (B, K, N), transposed, and V (B, K, M)."""
        if len(init) != 2 or not all(isinstance(X, Tensor) for X in init):
            raise ValueError("init must be 'random' or a pair (U, V) of tensors")
        U, V = init
        for K in ranks:
            if U.shape != (*self.batch, self.N, K) or V.shape != (*self.batch, K, self.M):
                raise ValueError(f"init must have shapes {(*self.batch, self.N, K)} and {(*self.batch, K, self.M)}, "
                                 f"got {tuple(U.shape)} and {tuple(V.shape)}")
        if not all(low >= 0 and high < math.inf for low, high in map(torch.aminmax, init)):  # NaN is neither
            raise ValueError("init must be finite and ≥ 0")
        U, V = (X.detach().to(self.device, self.dtype).reshape(-1, *X.shape[-2:]) for X in init)
        self.start_peak = U.amax((-2, -1))  # (B,)
        return U.mT, V

    def results(self, ranks):
        """{K: Factors}, from the lowest rank to the highest."""
        power = torch.frexp(self.peak.double()).exponent - 1
        # Far from 1, a power of two keeps products finite; it costs no rounding.
        self.scale = torch.exp2(torch.where((self.peak > 0) & (power.abs() > 20), power, 0).to(self.dtype))
        if not self.compiled:
            A = self.A if (self.scale == 1).all() else self.A / self.scale[:, None, None]
            solved = self._chain(A, ranks)
        else:
            tasks = [(b, K) for b in range(len(self.A)) for K in ([ranks] if self.warm else [[K] for K in ranks])]
            large = self.N * self.M * max(ranks) > _SPREAD
            spread = self.pool and large and len(tasks) > 1 and not self.group and all(self.sparse)
            parts = list((self.pool.map if spread else map)(
                lambda task: self._compiled_chain(*task, None if spread else self.pool), tasks))
            solved = {K: [torch.stack([part[K][i] for part in parts if K in part]) for i in range(5)] for K in ranks}
        cold = "given" if self.given else "random"
        starts = [cold, *(f"rank {K}" if self.warm else cold for K in ranks)]
        return {K: self._result(*solved[K], start) for K, start in zip(ranks, starts, strict=False)}

    def _result(self, U, V, error, iterations, status, start):
        for measure in (torch.amax, torch.linalg.vector_norm):  # the largest first: squares of tiny rows vanish
            size = measure(V, dim=-1, keepdim=True)  # (B, K, 1)
            V = V / torch.where(size > 0, size, 1)
            U *= size.mT
        U *= self.scale[:, None, None]
        U.clamp_max_(torch.finfo(U.dtype).max)  # rounding at the very top
        shape = self.batch
        return Factors(U.reshape(*shape, *U.shape[1:]), V.reshape(*shape, *V.shape[1:]), error.reshape(shape),
                       iterations.reshape(shape), status.reshape(shape), start)

    # --- processes of a group -------------------------------------------------------------------------------

    def join(self, group):
        """Learn what the other processes of the group hold."""
        call = {"batch": self.batch, "columns": self.M, "type": self.dtype, "ranks": self.ranks, "solver": self.solver,
                "init": "given" if self.given else "random", "warm": self.warm, "max_iter": self.max_iter,
                "tol": self.tol, "seed": self.seed, "compiled": self.compiled}
        them = _exchange(group, {"call": call, "N": self.N, "peak": self.peak.cpu(),
                                 "start": self.given and self.start_peak.cpu()})
        if any(its["call"] != call for its in them):
            differing = {name: [its["call"][name] for its in them] for name in call
                         if any(its["call"][name] != call[name] for its in them)}
            raise ValueError(f"the processes of a group must make the same call, but by process they have {differing}")
        counts = [its["N"] for its in them]
        self.group, self.offset, self.total = group, sum(counts[:dist.get_rank(group)]), sum(counts)
        self.peak = torch.stack([its["peak"] for its in them]).amax(0).to(self.device)
        if self.given:
            self.start_peak = torch.stack([its["start"] for its in them]).amax(0).to(self.device)

    def sum_all(self, *arrays):
        """Add arrays or tensors over the processes of the group, in place."""
        if self.group is None:
            return
        tensors = [torch.as_tensor(array) for array in arrays]
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        try:
            dist.all_reduce(flat, group=self.group)
        except RuntimeError as error:
            raise RuntimeError("a process of the group failed or left in the middle of a factorization; "
                               "its own message says why") from error
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    # --- where to start from --------------------------------------------------------------------------------

    def _start(self, K):
        """U (B, K, N), transposed, and V (B, K, M)."""
        if self.given:
            U, V = self.given
            largest = (torch.where(top > 0, top, 1)[:, None, None] for top in (self.start_peak, V.amax((-2, -1))))
            return U / next(largest), V / next(largest)
        B, device = len(self.A), self.device
        U, V = self._draw(K, self.N, self.offset, 0), self._draw(K, self.M, 0, 1)
        return U.to(device).expand(B, K, self.N), V.to(device).expand(B, K, self.M)

    def _draw(self, K, count, offset, stream):
        """Uniform numbers (K, count) that depend on the seed and on the position in K × (offset + count) alone."""
        blocks = []
        for block in range(offset // 4096, (offset + count - 1) // 4096 + 1):
            generator = torch.Generator().manual_seed((2 * self.seed + stream + block * 2 ** 40) % 2 ** 63)
            numbers = torch.rand(K, 4096, generator=generator, dtype=self.dtype)
            blocks.append(numbers[:, max(offset - block * 4096, 0):offset + count - block * 4096])
        return torch.cat(blocks, 1)

    def _sample(self, K):
        """Indices of the rows to solve first, spread evenly over all processes; None where that does not pay."""
        least, most = _SAMPLE
        size = max(min(8 * K, self.total // 4), min(max(least, self.total // 8), most))
        few = 4 * most if self.device.type == "cuda" else 0  # which take a GPU as long as many
        if size < 2 * K or self.total < max(4 * size, few):
            return None
        golden = (torch.arange(self.offset, self.offset + self.N, dtype=torch.float64) * 0.6180339887498949) % 1
        return (golden < size / self.total).nonzero().flatten()

    def _extended(self, slices, U, V, K):
        """U (N, K) and V (K, M) from a result of lower rank: new rows of V from what it leaves unexplained, U = 0."""
        more = self._unexplained(slices, U, V, K - len(V))
        length = V.norm(dim=1)
        V = V / torch.where(length > 0, length, 1)[:, None]
        return torch.cat([U * length, U.new_zeros(len(U), K - len(V))], 1), torch.cat([V, more])

    def _unexplained(self, slices, U, V, count):
        """(count, M) unit-norm rows of max(A − U V, 0), drawn in proportion to their squared length."""
        keys, rows, first = V.new_zeros(0), V.new_zeros(0, V.shape[1]), 0
        chance = self._draw(1, self.N, self.offset, 2)[0].log().neg().to(V)  # exponential: the smallest wins
        for A in slices:
            left = torch.addmm(A, U[first:first + len(A)], V, alpha=-1).relu_()
            key = left.square().sum(1) / chance[first:first + len(A)]
            best = key.topk(min(count, len(key))).indices
            keys, rows = torch.cat([keys, key[best]]), torch.cat([rows, left[best]])
            first += len(A)
        if self.group is not None:
            keys, rows = (torch.cat(self._gather(X)) for X in (keys, rows))
        rows = rows[keys.topk(min(count, len(keys))).indices]
        rows = torch.cat([rows, rows.new_zeros(count - len(rows), rows.shape[1])])
        return torch.nn.functional.normalize(rows, dim=1)

    def _gather(self, X):
        parts = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(parts, X, group=self.group)
        return [part.to(X.device) for part in parts]

    # --- compiled, one problem at a time --------------------------------------------------------------------

    def _compiled_chain(self, b, ranks, pool):
        """{K: U, V, error, iterations, status} of matrix b, each rank after the first starting from the one before."""
        scale, solved, previous = float(self.scale[b]), {}, None
        A = self.sparse[b].divided(scale) if self.sparse[b] else _cpu.Dense(self.A[b], self.dtype, scale, self.chunk)

        def problem(A, U, V, guess=None):
            return _cpu.Problem(A, U, V, guess, _inner(len(V))[1], _CLOSE[self.dtype], self.sum_all, pool)
        for K in ranks:
            guess = None
            if previous:
                U, V = self._extended(A.slices(), *previous.factors(), K)
            else:
                U, V = (X[b] for X in self._start(K))
                U = U.mT
                index = self._sample(K)
                if index is not None:
                    sample = problem(A.take(index.numpy()), _rows_at(U, index), V)
                    self._iterate(sample, _FIRST, 0)
                    guess = sample.factors()[1]
                    del sample  # with its rows
            previous = problem(A, U, V, guess)
            iterations, status = self._iterate(previous, self.max_iter, self.tol, _REVIVALS)
            solved[K] = (*previous.factors(), torch.tensor(previous.error, dtype=torch.float64),
                         torch.tensor(iterations), torch.tensor(status))
        return solved

    def _iterate(self, problem, max_iter, tol, revivals=0):
        """Iterations and status."""
        window = problem.error
        for iteration in range(1, max_iter + 1):
            problem.step(*_inner(problem.K), _MOMENTUM)
            if problem.error <= _exact(self.dtype):
                return iteration, 2
            if iteration % _WINDOW == 0:
                if window - problem.error <= tol * _WINDOW * problem.error:
                    dead = problem.dead() if revivals else ()
                    if len(dead) == 0:
                        return iteration, 1
                    problem.revive(dead, self._unexplained(problem.source.slices(), *problem.factors(), len(dead)))
                    revivals -= 1
                window = problem.error
        return max_iter, 0

    # --- plain PyTorch, all problems at once ----------------------------------------------------------------

    def _chain(self, A, ranks):
        """{K: U, V, error, iterations, status} of the batch."""
        solved, previous = {}, None
        for K in ranks:
            guess = None
            if self.warm and previous:
                longer = (self._extended([A[b]], U, V, K) for b, (U, V) in enumerate(zip(*previous, strict=True)))
                U, V = (torch.stack(X) for X in zip(*longer, strict=True))
                U = U.mT
            else:
                U, V = self._start(K)
                index = self._sample(K) if self.solver == "hals" else None
                if index is not None:
                    guess = self._solve(_rows_at(A, index), _rows_at(U.mT, index).mT, V, None, _FIRST, 0)[1]
            solved[K] = self._solve(A, U, V, guess, self.max_iter, self.tol, _REVIVALS)
            previous = solved[K][:2]
        return solved

    def _solve(self, A, U, V, guess, max_iter, tol, revivals=0):
        """U (B, N, K), V, error, iterations and status of the batch.

        guess: where to take the first step from instead of V (B, K, M).
        """
        B, hals, exact = len(A), self.solver == "hals", _exact(A.dtype)
        norm2, used = _square_norm(A), (A.amax(-2) > 0).to(A.dtype)
        self.sum_all(norm2)
        self.sum_all(used)
        U, V = U * (A.amax(-1) > 0).unsqueeze(-2), V * (used > 0).unsqueeze(-2)
        G, C = U @ U.mT, U @ A
        self.sum_all(G, C)
        fit = (C * V).sum((-2, -1), keepdim=True)
        size = (G * (V @ V.mT)).sum((-2, -1), keepdim=True)
        factor = torch.where((fit > 0) & (size > 0), fit / size, 1).sqrt()
        U, V, G, C = factor * U, factor * V, factor.square() * G, factor * C
        if hals:
            V = self._relax(V, G, C, _inner(V.shape[1])[1], V, A.new_zeros(B))[0]  # as the products for it are at hand
        error = self.error(A, U, V, norm2, G, C, True)
        s = {"A": A, "norm2": norm2, "U": U, "V": V, "error": error}
        if hals:
            s |= {"U_last": U.clone(), "V_from": V.clone() if guess is None else guess, "t": torch.ones_like(error)}
        zeros = error.new_zeros(B).long()
        result = [U.clone(), V.clone(), error.clone(), zeros.clone(), zeros.clone()]
        index, initial, window = zeros.new_tensor(range(B)), error.clone(), error.clone()
        done, left = zeros.bool(), zeros + revivals
        steps, check = _Steps(self, s), _WINDOW
        for iteration in range(1, max_iter + 1):
            steps.advance()
            s = steps.state
            if iteration % check and iteration < max_iter and not steps.close:
                continue  # so that the host need not wait for the device
            steps.look()
            status = (s["error"] <= exact).long() * 2
            if iteration % check == 0:
                base, span = (s["error"], check) if hals else (initial, 1)
                status = torch.where((status == 0) & (window - s["error"] <= tol * span * base), 1, status)
                window = s["error"].clone()
                for b in (~done & (status == 1) & (left > 0) & hals).nonzero().flatten().tolist():
                    if self._revive(s, b):
                        status[b], left[b] = 0, left[b] - 1
            stop = ~done & (status > 0) if iteration < max_iter else ~done
            there = index[stop]
            for kept, value in zip(result, (s["U"], s["V"], s["error"], None, status), strict=True):
                kept[there] = iteration if value is None else value[stop]
            done = done | stop
            if done.all():
                break
            if 2 * done.sum() >= len(done):  # smaller work, for a new graph
                index, initial, window, left = index[~done], initial[~done], window[~done], left[~done]
                steps, done = _Steps(self, {name: value[~done] for name, value in s.items()}), done[~done]
        U, *rest = result
        return U.mT, *rest

    def _revive(self, s, b):
        """Give the dead components of problem b new rows of V, and zero columns of U; False where none is dead."""
        used = (s["U"][b].amax(-1) > 0).to(s["U"].dtype)
        self.sum_all(used)
        dead = ((used == 0) | (s["V"][b].amax(-1) == 0)).nonzero().flatten()
        if len(dead):
            s["V"][b, dead] = self._unexplained([s["A"][b]], s["U"][b].mT, s["V"][b], len(dead))
            s["U"][b, dead] = 0
            s["U_last"][b], s["V_from"][b], s["t"][b] = s["U"][b], s["V"][b], 1
        return len(dead) > 0

    def hals(self, s, explicit=False):
        """The state after one extrapolated iteration; (U, V) is the best pair so far, V_from where a step begins."""
        A, K = s["A"], s["V"].shape[1]
        inner_U, inner_V = _inner(K)
        t_next = (1 + (1 + 4 * s["t"] ** 2).sqrt()) / 2
        beta = ((s["t"] - 1) / t_next).clamp_max(_MOMENTUM).to(A.dtype)
        U_last, U = self._relax(s["U"], s["V_from"] @ s["V_from"].mT, s["V_from"] @ A.mT, inner_U, s["U_last"],
                                beta)
        G, C = U @ U.mT, U @ A
        self.sum_all(G, C)
        V, V_from = self._relax(s["V_from"], G, C, inner_V, s["V"], beta)
        error = self.error(A, U, V, s["norm2"], G, C, explicit)

        better = error <= s["error"]
        keep = better[:, None, None]
        best = torch.where(keep, V, s["V"])
        return s | {"U": torch.where(keep, U, s["U"]), "U_last": torch.where(keep, U_last, s["U"]), "V": best,
                    "V_from": torch.where(keep, V_from, best), "error": torch.where(better, error, s["error"]),
                    "t": torch.where(better, t_next, 1)}

    def mu(self, s, explicit=False):
        """The state after one pair of multiplicative updates, U first."""
        A, U, V = s["A"], s["U"], s["V"]
        tiny = torch.finfo(A.dtype).eps
        U = U * (V @ A.mT) / (V @ V.mT @ U).clamp_min(tiny)
        G, C = U @ U.mT, U @ A
        self.sum_all(G, C)
        V = V * C / (G @ V).clamp_min(tiny)
        return s | {"U": U, "V": V, "error": self.error(A, U, V, s["norm2"], G, C, explicit)}

    def _relax(self, X, G, C, inner, last, beta):
        """`inner` sweeps, and what they extrapolate to."""
        if self.triton and X.shape[1] <= self.triton.MAX_RANK:
            return self.triton.sweep(X, G, C, inner, last, beta)
        new = _sweep(X, G, C, inner)
        return new, torch.relu(new + beta[:, None, None] * (new - last))

    def error(self, A, U, V, norm2, G, C, explicit):
        """Relative error (B,) in float64 from the Gram products, or from the residual where they would cancel."""
        cross = (C * V).sum((-2, -1), dtype=torch.float64)
        fit = (G * (V @ V.mT)).sum((-2, -1), dtype=torch.float64)
        safe = torch.where(norm2 > 0, norm2, 1)
        square = (norm2 - 2 * cross + fit) / safe
        if explicit:
            residual = _square_norm(torch.baddbmm(A, U.mT, V, alpha=-1))
            self.sum_all(residual)
            square = torch.where(square < _CLOSE[A.dtype], residual / safe, square)
        return square.clamp_min(0).sqrt()


def _triton_for(device):
    """nmfcore._triton where its kernels can be built for the device, else None."""
    try:
        from . import _triton
    except ImportError:
        return None
    return _triton if _triton.works(device) else None


def _is_count(value):
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def _peaks(A, chunk):
    """(B,) the largest entry of every matrix."""
    peaks = []
    for first in range(0, A.shape[-2], chunk):
        rows = A[..., first:first + chunk, :]
        peaks.append(rows.amax((-2, -1)).reshape(-1))
        if not ((rows.amin() >= 0) & (peaks[-1] < math.inf).all()):  # NaN is the extreme of what it is in
            index = (~torch.isfinite(rows) | (rows < 0)).nonzero()[0].tolist()
            value = rows[tuple(index)].item()
            index[-2] += first
            raise _bad_entry(index, value)
    return torch.stack(peaks).amax(0)


def _bad_entry(index, value):
    return ValueError(f"A{index} = {value} but every entry must be finite and ≥ 0; "
                      f"factorize the activations after a ReLU, or clamp them")


def _rows_at(X, index):
    """Rows of X (…, N, P); a single one of zeros, which changes no sum, where there are none."""
    return X[..., index.to(X.device), :] if len(index) else torch.zeros_like(X[..., :1, :])


def _exact(dtype):
    return 1e-6 if dtype == torch.float32 else 1e-12


def _inner(K):
    """Sweeps of U and of V that share one product with A: more of them where that product costs more."""
    return (2, 2) if K < 128 else (3, 6)


def _sweep(X, G, C, inner):
    """HALS over the rows of X ≥ 0 for min ½⟨X, G X⟩ − ⟨C, X⟩: X, C (B, K, P), G (B, K, K)."""
    X = X.clone()
    K = X.shape[1]
    diagonal = G.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0).unsqueeze(-1)  # a dead row stays as it is
    parts = []
    for first in range(0, K, _BLOCK):
        some = slice(first, first + _BLOCK)
        others = G[:, some].clone()
        others[:, :, some] = 0
        of_rows = (Y.split(1, 1) for Y in (X[:, some], G[:, some, some], inverse[:, some]))
        parts.append((X[:, some], C[:, some], others, *of_rows))
    for _ in range(inner):
        for block, R, others, rows, couplings, weights in parts:
            if K > _BLOCK:  # what the other rows contribute does not change meanwhile
                R = torch.baddbmm(R, others, X, alpha=-1)
            for x, r, g, weight in zip(rows, R.split(1, 1), couplings, weights, strict=True):
                x.addcmul_(torch.baddbmm(r, g, block, alpha=-1), weight).clamp_(min=0)
    return X


def _square_norm(A):
    return torch.linalg.vector_norm(A, dim=-1).double().square().sum(-1)


class _Steps:
    """Iterations of a batch. On a GPU, long runs capture one as a CUDA graph and replay it.

    Capturing waits for the device and collects garbage, so it must be repaid by many iterations.
    """

    def __init__(self, run, state):
        self.run, self.state, self.graph, self.eager, self.close = run, state, None, _EAGER, False
        self.look()

    def look(self):
        """Take small errors from the residual, from now on. Waits for the device."""
        s, was_close = self.state, self.close
        self.close = bool((s["error"].square() < 4 * _CLOSE[s["A"].dtype]).any())
        if self.close and not was_close:
            G, C = s["U"] @ s["U"].mT, s["U"] @ s["A"]
            self.run.sum_all(G, C)
            s["error"].copy_(self.run.error(s["A"], s["U"], s["V"], s["norm2"], G, C, True))

    def advance(self):
        step = getattr(self.run, self.run.solver)
        if not self.state["A"].is_cuda or self.run.group or self.close or self.eager > 0:
            self.state = step(self.state, self.close)
            self.graph, self.eager = None, self.eager - 1
            return
        if self.graph is None:
            # A graph reads and writes fixed memory: nothing that it writes may be shared.
            self.state = {name: value if name in ("A", "norm2") else value.clone(memory_format=torch.contiguous_format)
                          for name, value in self.state.items()}
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                for name, value in step(self.state).items():
                    if value is not self.state[name]:
                        self.state[name].copy_(value)
        self.graph.replay()


def _exchange(group, mine):
    """What every process of the group says; raises where one says that it failed."""
    them = [None] * dist.get_world_size(group)
    dist.all_gather_object(them, mine, group=group)
    failures = [f"process {i} of the group: {its['failure']}" for i, its in enumerate(them) if "failure" in its]
    if failures and "failure" not in mine:
        raise RuntimeError("; ".join(failures))
    return them
