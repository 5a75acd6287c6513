"""Non-negative matrix factorization of ReLU activations: how much a layer memorizes, where it looks, what it sees."""

from .solver import NMF, nmf

__all__ = ["NMF", "nmf"]
