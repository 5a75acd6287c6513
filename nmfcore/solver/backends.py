"""Which engine computes: compiled for the CPU, Triton's kernels on a GPU, or plain PyTorch anywhere."""

from types import ModuleType

import torch

try:
    from . import cpu
except (ImportError, RuntimeError):  # numba has no build for this Python or processor, or no place for its cache
    cpu = None  # type: ignore[assignment]

BACKENDS = ("auto", "torch")


def triton_for(device: torch.device) -> ModuleType | None:
    """The module of kernels where they can be built for the device, else None."""
    try:
        from . import triton
    except ImportError:
        return None
    return triton if triton.works(device) else None
