"""An orderly end on Ctrl-C: the first one is answered, a second one must not cut the answer short."""

import signal


def once() -> None:
    """From here on the first SIGINT or SIGTERM raises KeyboardInterrupt and further ones do nothing.

    Also where a shell's background job ignores SIGINT.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise)


def _raise(*_):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
