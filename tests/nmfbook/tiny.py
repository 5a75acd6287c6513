"""An experiment of no weight, for the ledger's tests: `python tiny.py measure` does its jobs in its own process."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmfbook import ledger
from nmfbook.__main__ import main
from nmfbook.claims import Claim, Scale
from nmfbook.experiments import data
from nmfbook.statistics import bootstrap, mean

TRAINING, MEASUREMENT = 1, 1
SLEEP = float(os.environ.get("TINY_SLEEP", "0"))  # in each epoch, and while measuring
EPOCHS = 5


@dataclass(frozen=True)
class Job:
    data: str = "digits"
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    source = "made up"
    sha256 = "0" * 64


def jobs():
    return [Job(seed=seed) for seed in range(4)] + [Job("cifar10")]


def needs(job, device):
    return data.missing(job.data)


def train(job, folder, *, device="cpu"):
    """Each epoch is a line in a file: which process did it."""
    trace = folder / "epochs.txt"
    for _ in range(len(trace.read_text().splitlines()) if trace.exists() else 0, EPOCHS):
        time.sleep(SLEEP)
        with open(trace, "a") as file:
            file.write(f"{os.getpid()}\n")
    return Trained()


def measure(job, trained, *, device="cpu"):
    time.sleep(SLEEP)
    if os.environ.get("TINY_BREAK") == str(job.seed):
        raise ValueError("this job cannot be measured")
    return {"auc": [0.5 + 0.1 * job.seed], "epochs": EPOCHS}


def claims():
    def units(entries):
        return [entry.measurements["auc"][0] for entry in entries]

    return [Claim("F3.10", "quarter", "AuC is above a quarter", "tiny",
                  lambda values: bootstrap(mean, np.array(values)),
                  (Scale("digits", units, (2, 4), None),), threshold=0.25)]


def install():
    """Make this the ledger's only experiment."""
    sys.modules["nmfbook.experiments.tiny"] = sys.modules[__name__]
    ledger.EXPERIMENTS = ("tiny",)
    ledger.LEDGER = Path(os.environ["TINY_LEDGER"])


if __name__ == "__main__":
    install()
    sys.exit(main(sys.argv[1:]))
