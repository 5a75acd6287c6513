"""What numbers a function takes, and in which surroundings it computes: one rule for everything that factorizes."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Within the block, no autocast on any device: errors are those of the factors that are returned."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def isolated() -> Iterator[None]:
    """Within the block torch computes as if nothing had been set around it: no autocast, new tensors on the CPU.

    Also a decorator, `@isolated()`. The user's default type needs no such care where types are named. Not around a
    model, whose forward pass may rely on the default device.
    """
    with full_precision(), ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def is_sparse(A: Any) -> bool:
    """Whether A is a sparse tensor, of any layout, or a SciPy sparse matrix or array."""
    return A.layout != torch.strided if isinstance(A, Tensor) else scipy.sparse.issparse(A)


def check_type(A: Any, shape: str) -> None:
    """Raise ValueError, with a conversion that works, for anything but floating tensors, dense or sparse, and SciPy's
    sparse matrices. shape: what is expected, for the message."""
    if isinstance(A, Tensor) and A.is_nested:
        raise ValueError(f"A must be a floating-point tensor {shape}, got a nested one; pad it with "
                         "torch.nested.to_padded_tensor(A, 0)")
    floating = A.is_floating_point() if isinstance(A, Tensor) else is_sparse(A) and A.dtype.kind == "f"
    if not floating:
        kind = A.dtype if isinstance(A, Tensor) else type(A).__name__
        if is_sparse(A) and not isinstance(A, Tensor):
            kind, cure = f"{kind} of {A.dtype}", 'A.astype("float32")'
        elif isinstance(A, np.ndarray):
            cure = 'torch.as_tensor(A.astype("float32"))'
        elif hasattr(A, "to_numpy"):  # the tables of pandas, polars and others
            cure = 'torch.as_tensor(A.to_numpy().astype("float32"))'
        else:
            cure = "torch.as_tensor(A).float()"
        raise ValueError(f"A must be a floating-point tensor {shape}, got {kind}; convert it with {cure}")


def dense(A: Any, shape: str = "(…, N, M)") -> Tensor:
    """A floating tensor of any kind, or a SciPy sparse matrix, as a dense one without gradient, in float32 or float64.

    Raises ValueError as `check_type`.
    """
    check_type(A, shape)
    if not isinstance(A, Tensor):
        A = A.toarray().astype(np.float64 if A.dtype.itemsize >= 8 else np.float32, copy=False)
        A = torch.from_numpy(np.ascontiguousarray(A))  # CSC has columns, and sums of another order
    elif is_sparse(A):
        A = A.detach().to_dense()
    return A.detach().to(precision(A))


def precision(A: Any) -> torch.dtype:
    """The type to compute in: float64 for float64 (and SciPy's longer ones), float32 for all others."""
    double = A.dtype == torch.float64 if isinstance(A, Tensor) else A.dtype.itemsize >= 8
    return torch.float64 if double else torch.float32


def csr(A: Any) -> list[scipy.sparse.csr_array]:
    """The matrices of a sparse A (…, N, M), as copies in float32 or float64: sorted, without duplicates and zeros."""
    if not isinstance(A, Tensor):
        matrices = [scipy.sparse.csr_array(A, dtype="f8" if precision(A) == torch.float64 else "f4", copy=True)]
    else:
        A, shape, count = A.detach(), A.shape[-2:], math.prod(A.shape[:-2])
        if A.layout == torch.sparse_csr:
            parts = (X.reshape(count, -1).numpy() for X in
                     (A.values().to(precision(A)), A.col_indices(), A.crow_indices()))
            matrices = [scipy.sparse.csr_array(part, shape, copy=True) for part in zip(*parts, strict=True)]
        else:
            A = (A if A.layout == torch.sparse_coo else A.to_sparse_coo()).coalesce()
            if A.dense_dim():  # entries that are rows or matrices themselves
                A = A.to_dense().to_sparse_coo().coalesce()
            *batch, rows, columns = A.indices()
            place = torch.zeros_like(rows)  # of each entry's matrix in the batch
            for index, length in zip(batch, A.shape, strict=False):
                place = place * length + index
            edges = torch.searchsorted(place, torch.arange(count + 1)).tolist()
            values, rows, columns = A.values().to(precision(A)).numpy(), rows.numpy(), columns.numpy()
            matrices = [scipy.sparse.csr_array((values[first:last], (rows[first:last], columns[first:last])), shape)
                        for first, last in pairwise(edges)]
    for X in matrices:
        X.sum_duplicates()
        X.eliminate_zeros()
        X.sort_indices()
    return matrices
