"""Settings for the executed notebooks, which pytest collects outside `tests/`."""

from nbval.kernel import RunningKernel


def pytest_collectstart(collector):
    """By default nbval leaves pictures out of its comparison; on one machine they too must come out the same.

    The build keeps no stderr, so neither is it compared: some warnings depend on the clock, like matplotlib's of a
    legend that took more than a second to place.
    """
    if hasattr(collector, "skip_compare"):
        left_out = tuple(kind for kind in collector.skip_compare if not kind.startswith("image/"))
        collector.skip_compare = (*left_out, "stderr")


def execute_cell_input(self, source, allow_stdin=None):
    """As nbval has it, but with history, without which IPython does not see the `;` that hides a cell's value."""
    return self.kc.execute(source, allow_stdin=allow_stdin, stop_on_error=False)


RunningKernel.execute_cell_input = execute_cell_input
