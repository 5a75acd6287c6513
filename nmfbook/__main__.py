"""The book's commands: what `make measure`, `make ledger` and `make audit` call.

    python -m nmfbook measure --hours 8
    python -m nmfbook ledger
    python -m nmfbook audit --number 3
    python -m nmfbook canary  # after a measurement's version has risen
"""

import argparse
import math
import sys

from . import canary, interrupts
from .auditing import audit
from .ledger import accept, experiment, say, spool
from .measuring import measure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nmfbook", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "ledger", "audit", "canary"))
    parser.add_argument("--experiment", default="", help="only this one")
    parser.add_argument("--job", default="", help="only jobs whose key begins so")
    parser.add_argument("--hours", default="", help="stop after so long")
    parser.add_argument("--number", default="3", help="jobs to audit")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    interrupts.once()
    try:
        if options.command == "ledger":
            return accept()
        if options.command == "canary":
            return canary.renew()
        names = (options.experiment,) if options.experiment else ()
        if options.experiment:
            experiment(options.experiment)
        if options.command == "audit":
            return audit(_number(options.number, "N"), names=names, job=options.job, device=options.device)
        return measure(names, job=options.job or None,
                       hours=_number(options.hours, "HOURS") if options.hours else None, device=options.device)
    except KeyboardInterrupt:
        say("interrupted: what is measured is kept, and a training goes on from its last epoch")
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write {error.filename or spool()}: {error.strerror}; free some space, make it writable, "
              f"or set NMFBOOK_CACHE to another folder", file=sys.stderr)
        return 1


def _number(text, name):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name}={text}: expected a number above 0")
    return int(number) if name == "N" else number


if __name__ == "__main__":
    sys.exit(main())
