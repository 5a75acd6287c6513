"""What input is refused, and how."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import psutil
import torch
from torch import Tensor


def is_count(value: Any) -> bool:
    """Whether it is an integer from 1 on."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_matrices(name: str, X: Any) -> None:
    """Raises ValueError unless X is a dense floating tensor (…, rows, columns) with at least one entry."""
    if not isinstance(X, Tensor) or not X.is_floating_point():
        kind = X.dtype if isinstance(X, Tensor) else type(X).__name__
        raise ValueError(f"{name} must be a floating-point tensor, got {kind}; convert it with "
                         f"torch.as_tensor({name}).float()")
    if X.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got {X.layout}; convert it with {name}.to_dense()")
    if X.dim() < 2 or X.numel() == 0:
        raise ValueError(f"{name} must have shape (…, rows, columns) with at least one entry, got {tuple(X.shape)}")


def check_mask(mask: Any, shape: Sequence[int]) -> None:
    """Raises ValueError unless it is None, or a bool tensor (…, N) for A of this shape (…, N, M)."""
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != shape[:-1] or mask.dtype != torch.bool):
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask must be a bool tensor of shape {tuple(shape[:-1])}, got {got}")


def check_rank(K: Any, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
    """Raises ValueError for what is no rank, and for one that needs more memory than A (…, N, M) leaves free."""
    if not is_count(K):
        raise ValueError(f"rank {K!r} must be an integer ≥ 1")
    *batch, N, M = shape
    padded = -(-int(K) // 16) * 16  # the compiled path works on tiles of 16
    # Factors, extrapolations, products.
    needed = math.prod(batch) * dtype.itemsize * (6 * padded * (N + M) + 3 * padded ** 2)
    if needed < 2 ** 27:
        return  # asking takes longer than small problems do
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise ValueError(f"rank {K} needs about {needed:,} bytes for {math.prod(batch)} × ({N} × {M}), "
                         f"but {free:,} bytes are free on {device}; lower the rank or split the batch")


def check_pair(init: Sequence, ranks: Sequence[int], shape: Sequence[int]) -> None:
    """Raises ValueError unless init is U (…, N, K), V (…, K, M), finite and ≥ 0, for A (…, N, M) and every rank K."""
    if len(init) != 2 or not all(isinstance(X, Tensor) for X in init):
        raise ValueError("init must be 'random' or a pair (U, V) of tensors")
    (U, V), (*batch, N, M) = init, shape
    for K in ranks:
        if U.shape != (*batch, N, K) or V.shape != (*batch, K, M):
            raise ValueError(f"init must have shapes {(*batch, N, K)} and {(*batch, K, M)}, "
                             f"got {tuple(U.shape)} and {tuple(V.shape)}")
    if not all(low >= 0 and high < math.inf for low, high in map(torch.aminmax, init)):  # NaN is neither
        raise ValueError("init must be finite and ≥ 0")


def peaks(A: Tensor, chunk: int) -> Tensor:
    """(B,) the largest entry of every matrix of A (…, N, M), read `chunk` rows at a time.

    Raises ValueError for an entry that is not finite and ≥ 0.
    """
    found = []
    for first in range(0, A.shape[-2], chunk):
        rows = A[..., first:first + chunk, :]
        found.append(rows.amax((-2, -1)).reshape(-1))
        if not ((rows.amin() >= 0) & (found[-1] < math.inf).all()):  # NaN is the extreme of what it is in
            index = (~torch.isfinite(rows) | (rows < 0)).nonzero()[0].tolist()
            value = rows[tuple(index)].item()
            index[-2] += first
            raise bad_entry(index, value)
    return torch.stack(found).amax(0)


def bad_entry(index: Sequence[int], value: float) -> ValueError:
    return ValueError(f"A{list(index)} = {value} but every entry must be finite and ≥ 0; "
                      f"factorize the activations after a ReLU, or clamp them")
