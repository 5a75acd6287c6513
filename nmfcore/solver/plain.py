"""HALS and multiplicative updates in PyTorch, all problems of a batch at once; on a GPU, replayed as CUDA graphs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .processes import Rows
from .schedule import CLOSE, EXACT, FIRST, MOMENTUM, REVIVALS, WINDOW, sweeps
from .start import Starts, rows_at

_BLOCK = 16  # components per matrix product inside a sweep
_EAGER = 50  # iterations on a GPU before one is captured as a graph


@dataclass
class State:
    """B problems of rank K between two iterations. U is transposed; the last three belong to HALS."""

    A: Tensor  # (B, N, M)
    norm2: Tensor  # (B,) ‖A‖², float64
    U: Tensor  # (B, K, N), with V the best pair so far
    V: Tensor  # (B, K, M)
    error: Tensor  # (B,) of it, float64
    U_last: Tensor | None = None  # (B, K, N) before the extrapolation
    V_from: Tensor | None = None  # (B, K, M) where the next step begins
    t: Tensor | None = None  # (B,) Nesterov's sequence

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def where(self, problems: Tensor) -> "State":
        """Those of the problems that a bool tensor (B,) marks."""
        return State(**{name: value[problems] for name, value in self.tensors().items()})


class Batch:
    """What all iterations of a batch need beside its state. kernels: the module `triton`, or None."""

    def __init__(self, solver: str, rows: Rows, starts: Starts, kernels: ModuleType | None):
        self.solver, self.rows, self.starts, self.kernels = solver, rows, starts, kernels

    def chain(self, A: Tensor, ranks: Sequence[int], *, warm: bool, max_iter: int, tol: float) -> dict[int, list]:
        """{K: [U (B, N, K), V, error, iterations, status, seconds]}; with `warm`, each rank starts from the last."""
        solved: dict[int, list] = {}
        for place, K in enumerate(ranks):
            begin, guess = time.perf_counter(), None
            if warm and place:
                previous = zip(*solved[ranks[place - 1]][:2], strict=True)
                longer = (self.starts.extended([A[b]], U, V, K) for b, (U, V) in enumerate(previous))
                U, V = (torch.stack(X) for X in zip(*longer, strict=True))
                U = U.mT
            else:
                U, V = self.starts.pair(K)
                index = self.starts.sample(K) if self.solver == "hals" else None
                if index is not None:
                    guess = self.solve(rows_at(A, index), rows_at(U.mT, index).mT, V, None, FIRST, 0)[1]
            solved[K] = self.solve(A, U, V, guess, max_iter, tol, REVIVALS)
            share = (time.perf_counter() - begin) / len(A)
            solved[K].append(torch.full((len(A),), share, dtype=torch.float64))
        return solved

    def solve(self, A: Tensor, U: Tensor, V: Tensor, guess: Tensor | None, max_iter: int, tol: float,
              revivals: int = 0) -> list[Tensor]:
        """U (B, N, K), V, error, iterations and status of the batch, from U (B, K, N) and V (B, K, M).

        guess: where to take the first step from instead of V.
        """
        B, hals, exact = len(A), self.solver == "hals", EXACT[A.dtype]
        norm2, used = _square_norm(A), (A.amax(-2) > 0).to(A.dtype)
        self.rows.add(norm2)
        self.rows.add(used)
        U, V = U * (A.amax(-1) > 0).unsqueeze(-2), V * (used > 0).unsqueeze(-2)
        G, C = self._products(A, U)
        fit = (C * V).sum((-2, -1), keepdim=True)
        size = (G * (V @ V.mT)).sum((-2, -1), keepdim=True)
        factor = torch.where((fit > 0) & (size > 0), fit / size, 1).sqrt()
        U, V, G, C = factor * U, factor * V, factor.square() * G, factor * C
        if hals:
            V = self._relax(V, G, C, sweeps(V.shape[1])[1], V, A.new_zeros(B))[0]  # as the products are at hand
        error = self.error(A, U, V, norm2, G, C, True)
        state = State(A, norm2, U, V, error)
        if hals:
            state = replace(state, U_last=U.clone(), V_from=V.clone() if guess is None else guess,
                            t=torch.ones_like(error))
        zeros = error.new_zeros(B).long()
        result = [U.clone(), V.clone(), error.clone(), zeros.clone(), zeros.clone()]
        index, initial, window = zeros.new_tensor(range(B)), error.clone(), error.clone()
        done, left = zeros.bool(), zeros + revivals
        steps = Steps(self, state)
        for iteration in range(1, max_iter + 1):
            steps.advance()
            state = steps.state
            if iteration % WINDOW and iteration < max_iter and not steps.close:
                continue  # so that the host need not wait for the device
            steps.look()
            status = (state.error <= exact).long() * 2
            if iteration % WINDOW == 0:
                base, span = (state.error, WINDOW) if hals else (initial, 1)
                status = torch.where((status == 0) & (window - state.error <= tol * span * base), 1, status)
                window = state.error.clone()
                for b in (~done & (status == 1) & (left > 0) & hals).nonzero().flatten().tolist():
                    if self._revive(state, b):
                        status[b], left[b] = 0, left[b] - 1
            stop = ~done & (status > 0) if iteration < max_iter else ~done
            there = index[stop]
            for kept, value in zip(result, (state.U, state.V, state.error, None, status), strict=True):
                kept[there] = iteration if value is None else value[stop]
            done = done | stop
            if done.all():
                break
            if 2 * done.sum() >= len(done):  # smaller work, for a new graph
                index, initial, window, left = index[~done], initial[~done], window[~done], left[~done]
                steps, done = Steps(self, state.where(~done)), done[~done]
        return [result[0].mT, *result[1:]]

    def _revive(self, s, b):
        """Give the dead components of problem b new rows of V, and zero columns of U; False where none is dead."""
        used = (s.U[b].amax(-1) > 0).to(s.U.dtype)
        self.rows.add(used)
        dead = ((used == 0) | (s.V[b].amax(-1) == 0)).nonzero().flatten()
        if len(dead):
            s.V[b, dead] = self.starts.unexplained([s.A[b]], s.U[b].mT, s.V[b], len(dead))
            s.U[b, dead] = 0
            s.U_last[b], s.V_from[b], s.t[b] = s.U[b], s.V[b], 1
        return len(dead) > 0

    def _products(self, A, U):
        """U Uᵀ and U A, over all processes."""
        G, C = U @ U.mT, U @ A
        self.rows.add(G, C)
        return G, C

    def step(self, s: State, explicit: bool = False) -> State:
        """The state after one iteration; explicit: with small errors taken from the residual."""
        return self.hals(s, explicit) if self.solver == "hals" else self.mu(s, explicit)

    def hals(self, s: Any, explicit: bool = False) -> State:
        """One extrapolated iteration; where the error rises, the best pair is restored and the momentum lost."""
        inner_U, inner_V = sweeps(s.V.shape[1])
        t_next = (1 + (1 + 4 * s.t ** 2).sqrt()) / 2
        beta = ((s.t - 1) / t_next).clamp_max(MOMENTUM).to(s.A.dtype)
        U_last, U = self._relax(s.U, s.V_from @ s.V_from.mT, s.V_from @ s.A.mT, inner_U, s.U_last, beta)
        G, C = self._products(s.A, U)
        V, V_from = self._relax(s.V_from, G, C, inner_V, s.V, beta)
        error = self.error(s.A, U, V, s.norm2, G, C, explicit)

        better = error <= s.error
        keep = better[:, None, None]
        best = torch.where(keep, V, s.V)
        return replace(s, U=torch.where(keep, U, s.U), U_last=torch.where(keep, U_last, s.U), V=best,
                       V_from=torch.where(keep, V_from, best), error=torch.where(better, error, s.error),
                       t=torch.where(better, t_next, 1))

    def mu(self, s: State, explicit: bool = False) -> State:
        """One pair of multiplicative updates, U first."""
        A, V = s.A, s.V
        tiny = torch.finfo(A.dtype).eps
        U = s.U * (V @ A.mT) / (V @ V.mT @ s.U).clamp_min(tiny)
        G, C = self._products(A, U)
        V = V * C / (G @ V).clamp_min(tiny)
        return replace(s, U=U, V=V, error=self.error(A, U, V, s.norm2, G, C, explicit))

    def _relax(self, X, G, C, inner, last, beta):
        """`inner` sweeps, and what they extrapolate to."""
        if self.kernels and X.shape[1] <= self.kernels.MAX_RANK:
            return self.kernels.sweep(X, G, C, inner, last, beta)
        new = sweep(X, G, C, inner)
        return new, torch.relu(new + beta[:, None, None] * (new - last))

    def error(self, A: Tensor, U: Tensor, V: Tensor, norm2: Tensor, G: Tensor, C: Tensor, explicit: bool) -> Tensor:
        """Relative error (B,) in float64 from the Gram products, or from the residual where they would cancel."""
        cross = (C * V).sum((-2, -1), dtype=torch.float64)
        fit = (G * (V @ V.mT)).sum((-2, -1), dtype=torch.float64)
        safe = torch.where(norm2 > 0, norm2, 1)
        square = (norm2 - 2 * cross + fit) / safe
        if explicit:
            residual = _square_norm(torch.baddbmm(A, U.mT, V, alpha=-1))
            self.rows.add(residual)
            square = torch.where(square < CLOSE[A.dtype], residual / safe, square)
        return square.clamp_min(0).sqrt()


class Steps:
    """Iterations of a batch. On a GPU, long runs capture one as a CUDA graph and replay it.

    Capturing waits for the device and collects garbage, so it must be repaid by many iterations.
    """

    def __init__(self, batch: Batch, state: State):
        self.batch, self.state, self.eager, self.close = batch, state, _EAGER, False
        self.graph: torch.cuda.CUDAGraph | None = None
        self.look()

    def look(self) -> None:
        """Take small errors from the residual, from now on. Waits for the device."""
        s, was_close = self.state, self.close
        self.close = bool((s.error.square() < 4 * CLOSE[s.A.dtype]).any())
        if self.close and not was_close:
            G, C = self.batch._products(s.A, s.U)
            s.error.copy_(self.batch.error(s.A, s.U, s.V, s.norm2, G, C, True))

    def advance(self) -> None:
        if not self.state.A.is_cuda or self.batch.rows.group or self.close or self.eager > 0:
            self.state = self.batch.step(self.state, self.close)
            self.graph, self.eager = None, self.eager - 1
            return
        if self.graph is None:
            # A graph reads and writes fixed memory: nothing that it writes may be shared.
            self.state = own_memory(self.state)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                overwrite(self.state, self.batch.step(self.state))
        self.graph.replay()


def own_memory(state: State) -> State:
    """The state with tensors that share no memory, except for those that no step changes."""
    return State(**{name: value if name in ("A", "norm2") else value.clone(memory_format=torch.contiguous_format)
                    for name, value in state.tensors().items()})


def overwrite(state: State, new: State) -> None:
    """Write the new state into the memory of the old one."""
    for name, value in new.tensors().items():
        if value is not (place := getattr(state, name)):
            place.copy_(value)


def sweep(X: Tensor, G: Tensor, C: Tensor, inner: int) -> Tensor:
    """`inner` passes of HALS over the rows of X ≥ 0 for min ½⟨X, G X⟩ − ⟨C, X⟩: X, C (B, K, P), G (B, K, K)."""
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


def coefficients(A: Tensor, V: Tensor, inner: int) -> Tensor:
    """U (K, N) ≥ 0 of min ‖A − Uᵀ V‖, for A (N, M) and V (K, M) as they are, by `inner` passes of HALS."""
    G, C = V @ V.mT, V @ A.mT
    start = C.clamp(min=0) / G.sum(1, keepdim=True).clamp(min=torch.finfo(G.dtype).tiny)
    return sweep(start[None], G[None], C[None], inner)[0]


def _square_norm(A):
    return torch.linalg.vector_norm(A, dim=-1).double().square().sum(-1)
