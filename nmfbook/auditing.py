"""Repeating what the ledger holds: `make audit`."""

import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from . import ledger
from .ledger import entries, experiment, key, numbers, say
from .measuring import Runner

CHEAP = 600  # CPU seconds up to which a job is repeated


def audit(number: int = 3, *, names: Sequence[str] = (), job: str = "", device: str = "cpu",
          seed: int | None = None) -> int:
    """Repeat random cheap jobs of the ledger from nothing, and compare; returns 1 where one does not agree.

    Names of experiments, and the beginning of a job's key, restrict them; with `job`, jobs need not be cheap.

    On the same kind of processor and with the same versions every number must come out again within rounding; elsewhere
    training is chaotic in the last digit, and an AuC must lie within three times the spread between seeds.
    """
    torch.set_num_threads(1)
    jobs = {(name, key(job)): job for name in ledger.EXPERIMENTS for job in experiment(name).jobs()}
    known = [entry for name in ledger.EXPERIMENTS for entry in entries(name)]
    wanted = [entry for entry in known if entry.experiment in (names or ledger.EXPERIMENTS)
              and entry.key.startswith(job)
              and (job or sum(entry.provenance["cpu_seconds"].values()) <= CHEAP)
              and not experiment(entry.experiment).needs(jobs[entry.experiment, entry.key], device)]
    if not wanted:
        which = f"whose name begins with {job!r}" if job else f"of at most {CHEAP} CPU seconds"
        raise ValueError(f"the ledger holds no job {which} whose data is at hand")
    failed = 0
    for entry in random.Random(seed).sample(wanted, min(number, len(wanted))):
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(device, Path(folder))
            again = runner.entry(entry.experiment, jobs[entry.experiment, entry.key])
        alike = all(entry.provenance[what] == again.provenance[what]
                    for what in ("processor", "versions", "threads", "device"))
        if entry.provenance["data"]["sha256"] != again.provenance["data"]["sha256"]:
            say(f"not comparable: {entry.experiment} {entry.key} was measured on other data")
            continue
        if alike:
            apart = _apart(entry.measurements, again.measurements)
            right, how = apart < 1e-3, f"same processor and versions, largest relative difference {apart:.1e}"
        else:
            spread, difference = _spread(entry, known), _difference(entry, again)
            right = difference <= 3 * spread
            how = f"another machine or other versions, AuC {difference:.4f} apart; seeds spread over {spread:.4f}"
        failed += not right
        say(f"{'agrees' if right else 'DIFFERS'}: {entry.experiment} {entry.key} ({how})")
    return 1 if failed else 0


def _apart(one, other):
    """Largest relative difference of numbers in the same places, infinite where other parts differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((_apart(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(_apart, one, other), default=0.0)
    if all(isinstance(part, int | float) for part in (one, other)):
        return abs(one - other) / max(abs(one), abs(other), 1e-12)
    return 0.0 if one == other else math.inf


def _aucs(measurements):
    """All numbers under a key that is or belongs to an AuC, flat."""
    if not isinstance(measurements, dict):
        return []
    return [number for name, part in measurements.items()
            for number in (numbers(part) if name in ("auc", "nmf", "pca") else _aucs(part))]


def _difference(one, other):
    pairs = zip(_aucs(one.measurements), _aucs(other.measurements), strict=False)
    return max((abs(a - b) for a, b in pairs), default=0.0)


def _spread(entry, known):
    """Largest difference of AuC between jobs that differ from this one in their seed alone."""
    def but_seed(job):
        return {name: value for name, value in job.items() if name != "seed"}

    like = [other for other in known if other.experiment == entry.experiment and other.key != entry.key
            and but_seed(other.job) == but_seed(entry.job)]
    return max((_difference(entry, other) for other in like), default=math.inf)
