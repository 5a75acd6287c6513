"""Regular polygons. Their slack matrices have rank three and a non-negative rank that grows with the corners."""

import math

import torch
from torch import Tensor


def corners(n: int, turn: float = 0.0, radius: float = 1.0) -> Tensor:
    """(n, 2) the corners of a regular n-gon around the origin. turn: in sides."""
    angle = 2 * math.pi * (torch.arange(n, dtype=torch.float64) + turn) / n
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


def distances(points: Tensor, n: int) -> Tensor:
    """(points, n) the distance of each point (points, 2) to each side of the n-gon `corners(n)`, negative beyond it."""
    return math.cos(math.pi / n) - points @ corners(n, 0.5).mT


def slack(n: int) -> Tensor:
    """(n, n) the distance of each corner to each side, in units of the least that is not zero."""
    of_corners = distances(corners(n), n)
    return (of_corners / of_corners[of_corners > 1e-9].min()).round(decimals=12).abs()  # without -0.0
