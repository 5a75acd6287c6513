"""Examples in docstrings run as they stand, and every public function and class has one."""

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest
import torch

import nmfcore

MODULES = sorted(module.name for module in pkgutil.walk_packages(nmfcore.__path__, "nmfcore."))
INTERNAL = ("__main__", "_files", "_inputs", "_optional", "cli", "solver.backends", "solver.check", "solver.cpu",
            "solver.plain", "solver.processes", "solver.schedule", "solver.start", "solver.triton", "solver.vectors")
COMPLETE = [name for name in MODULES if name.removeprefix("nmfcore.") not in INTERNAL]
LEFT_OUT = {"Captured", "Layer", "watched", "owner_of"}  # what `gate` hands to other modules; in the example of `write`
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def loaded(name):
    """The module; skips the test where what it needs is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


def public(module):
    return {name: value for name, value in vars(module).items() if not name.startswith("_")
            and (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__}


def examples(module):
    """Those of the module and of what is public in it. doctest alone would pass over functions that are decorated."""
    known = {"torch": torch, "nn": torch.nn, **public(module)}  # as the page of the library says
    yield from doctest.DocTestFinder(recurse=False).find(module, globs=dict(known))
    for name, value in public(module).items():
        yield from doctest.DocTestFinder().find(value, name, module=False, globs=dict(known))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = loaded(name)
    runner, said = doctest.DocTestRunner(optionflags=FLAGS), []
    for test in examples(module):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", COMPLETE)
def test_everything_public_has_an_example(name):
    without = {name for name, value in public(loaded(name)).items() if ">>>" not in (inspect.getdoc(value) or "")}
    assert without <= LEFT_OUT
