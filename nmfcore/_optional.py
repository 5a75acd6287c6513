"""Packages that nmfcore can do without."""

from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGES = {"IPython": "ipython"}  # where a module is called otherwise than its package


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Within the block, an import of what is not installed ends in a sentence that says who needs it and how to get it.

    Raises ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        package = _PACKAGES.get(module, module)
        raise ModuleNotFoundError(f"{what} needs the package {package}, which is not installed: pip install {package}",
                                  name=error.name) from error
