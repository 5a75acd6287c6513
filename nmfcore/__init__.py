"""Non-negative matrix factorization of ReLU activations: how much a layer memorizes, where it looks, what it sees."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimator import NMF
    from .selection import choose_rank
    from .solver import Factors, encode, nmf

    __version__: str

__all__ = ["NMF", "Factors", "__version__", "choose_rank", "encode", "nmf"]
_HOMES = {"NMF": "estimator", "Factors": "solver", "choose_rank": "selection", "encode": "solver", "nmf": "solver"}


def __getattr__(name: str) -> Any:
    """What is public is loaded when it is first used: importing nmfcore alone takes no time, and no torch."""
    if name == "__version__":
        value = metadata.version("nmfcore")
    elif name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
