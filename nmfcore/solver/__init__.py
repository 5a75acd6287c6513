"""The factorization itself: `nmf`, and `encode` for new rows in known concepts."""

from .api import nmf
from .encoding import encode
from .result import REASONS, Factors

__all__ = ["REASONS", "Factors", "encode", "nmf"]
