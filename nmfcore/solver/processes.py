"""Rows of A that are spread over the processes of a torch.distributed group."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Rows:
    """This process's N rows of A, their place among those of the group, and sums over it; without a group, all."""

    def __init__(self, N: int):
        self.N, self.offset, self.total = N, 0, N
        self.group: dist.ProcessGroup | None = None

    def join(self, group: dist.ProcessGroup, call: dict, largest: Sequence[Tensor]) -> list[Tensor]:
        """Learn how many rows the other processes hold; returns each of `largest` as the largest over the group.

        Raises ValueError where they do not make the same `call`, and RuntimeError where one failed.
        """
        them = _exchange(group, {"call": call, "N": self.N, "largest": [value.cpu() for value in largest]})
        if any(its["call"] != call for its in them):
            differing = {name: [its["call"][name] for its in them] for name in call
                         if any(its["call"][name] != call[name] for its in them)}
            raise ValueError(f"the processes of a group must make the same call, but by process they have {differing}")
        counts = [its["N"] for its in them]
        self.group, self.offset, self.total = group, sum(counts[:dist.get_rank(group)]), sum(counts)
        return [torch.stack(values).amax(0).to(mine.device) for mine, *values in
                zip(largest, *(its["largest"] for its in them), strict=True)]

    def add(self, *arrays: Any) -> None:
        """Add arrays or tensors over the processes, in place."""
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

    def gathered(self, X: Tensor) -> Tensor:
        """The processes' rows X, one below the other."""
        if self.group is None:
            return X
        parts: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(parts, X, group=self.group)
        return torch.cat([part.to(X.device) for part in parts])


def report(group: dist.ProcessGroup, error: Exception) -> None:
    """Tell the other processes, which wait in `Rows.join`, that this one failed."""
    _exchange(group, {"failure": f"{type(error).__name__}: {error}"})


def _exchange(group, mine):
    """What every process of the group says; raises where one says that it failed."""
    them = [None] * dist.get_world_size(group)
    dist.all_gather_object(them, mine, group=group)
    failures = [f"process {i} of the group: {its['failure']}" for i, its in enumerate(them) if "failure" in its]
    if failures and "failure" not in mine:
        raise RuntimeError("; ".join(failures))
    return them
