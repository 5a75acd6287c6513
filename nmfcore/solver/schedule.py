"""What the compiled and the plain path hold to alike: sweeps for each product, momentum, when to stop."""

import torch

WINDOW = 10  # iterations between which progress is measured
MOMENTUM = 0.97  # cap of the extrapolation weight
FIRST = 5  # iterations on a sample of the rows, where one is solved first
REVIVALS = 3  # how often dead components may get a new start
CLOSE = {torch.float32: 1e-3, torch.float64: 1e-10}  # squared error below which Gram products cancel
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}  # relative error below which a fit is exact


def sweeps(K: int) -> tuple[int, int]:
    """Sweeps of U and of V that share one product with A: more of them where that product costs more."""
    return (2, 2) if K < 128 else (3, 6)
