"""Packages that nmfcore can do without."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed_by(what: str, extra: str) -> Iterator[None]:
    """Within the block, an import of what is not installed ends in a sentence that says who needs it and how to get it.

    extra: of nmfcore, with which it is installed. Raises ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        raise ModuleNotFoundError(f"{what} needs the package {package}, which is not installed: "
                                  f"pip install 'nmfcore[{extra}]'", name=error.name) from error
