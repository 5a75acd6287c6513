"""Doing the experiments' jobs, one after another, for as long as one lets it: `make measure`.

It can be stopped at any moment: a training goes on from its last epoch, and a result is written in one step.
"""

import json
import os
import platform
import re
import signal
import subprocess
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from . import files, ledger
from .experiments import data
from .ledger import ROOT, Entry, Refused, experiment, key, read, say, spool, text_of, versions
from .records import rounded, source_hash

DIGITS = 4  # significant, of what is measured


def queue(names: tuple[str, ...], device: str) -> Iterator[tuple[str, object]]:
    """All jobs: in turn over the experiments, on a GPU the widest first."""
    lists = [[(name, job) for job in experiment(name).jobs()] for name in names]
    if device != "cpu":
        lists = [sorted(jobs, key=lambda entry: -getattr(entry[1], "width", 1)) for jobs in lists]
    return (entry for turn in zip_longest(*lists) for entry in turn if entry)


def done(name: str, job) -> bool:
    """Whether the ledger or the spool holds a job at the versions of the code."""
    for folder in (ledger.LEDGER, spool() / "results"):
        try:
            if read(folder / name / f"{key(job)}.json").versions == versions(name):
                return True
        except Refused:
            continue
    return False


def commit() -> str:
    """The commit that is checked out, with a + where files differ from it."""
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD")
    return head + "+" * bool(head and git("status", "--porcelain", "nmfcore", "nmfbook"))


def _machine(device):
    cpu = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", cpu.read_text(encoding="utf-8")) if cpu.exists() else []
    flags = re.findall(r"\b(?:avx2|avx512f|amx_bf16)\b", cpu.read_text(encoding="utf-8")) if cpu.exists() else []
    found = {}
    for package in ("torch", "numba", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return {"device": name, "processor": " ".join([models[0] if models else platform.processor(), *sorted({*flags})]),
            "threads": torch.get_num_threads(), "versions": {"python": platform.python_version(), **found}}


class Runner:
    """Measures jobs one at a time; see `measure`. What it runs was imported and hashed when it began."""

    def __init__(self, device: str, cache: Path | None = None):
        self.device, self.cache = device, cache or spool()
        for name in ledger.EXPERIMENTS:
            experiment(name)
        self.origin = {"code": source_hash()[:16], "commit": commit(), **_machine(device)}

    def trained(self, name: str, job):
        """What a job trains, from where it was interrupted; until it is done, CPU seconds and devices are noted."""
        module, folder = experiment(name), self._folder(name, job)
        notes, begin = _notes(folder), time.process_time()
        folder.mkdir(parents=True, exist_ok=True)
        if notes["done"]:
            return module.train(job, folder, device=self.device)
        try:
            trained = module.train(job, folder, device=self.device)
            notes["done"] = True
            return trained
        finally:
            notes["seconds"] += time.process_time() - begin
            notes["devices"] = sorted({*notes["devices"], self.origin["device"]})
            files.save_text(json.dumps(notes), folder / "notes.json")

    def entry(self, name: str, job) -> Entry:
        """Train and measure one job."""
        module, trained = experiment(name), self.trained(name, job)
        begin = time.process_time()
        measurements = rounded(module.measure(job, trained, device=self.device), DIGITS)
        notes = _notes(self._folder(name, job))
        seconds = {"training": round(notes["seconds"]), "measuring": round(time.process_time() - begin)}
        if hasattr(trained, "sha256"):
            origin = {"source": trained.source, "sha256": trained.sha256}
        else:
            origin = data.load(job.data, getattr(job, "per_class", None), self.device).provenance
        elsewhere = {"trained_on": notes["devices"]} if notes["devices"] != [self.origin["device"]] else {}
        provenance = {"data": origin, **self.origin, **elsewhere, "cpu_seconds": seconds,
                      "date": time.strftime("%Y-%m-%d", time.gmtime())}
        return Entry(name, asdict(job), versions(name), measurements, provenance)

    def _folder(self, name, job):
        return self.cache / "weights" / name / f"{key(job)}-v{experiment(name).TRAINING}"


def _notes(folder):
    file = folder / "notes.json"
    begin = {"seconds": 0.0, "devices": [], "done": False}
    return begin | json.loads(file.read_text(encoding="utf-8")) if file.exists() else begin


class TimeIsUp(BaseException):
    """Raised by the clock, wherever the program is; no `except Exception` on the way may take it for its own."""


def measure(names: tuple[str, ...] = (), *, job: str | None = None, hours: float | None = None,
            device: str = "cpu") -> int:
    """Do the next missing jobs, one after another, until none is left or the time is up; returns an exit status.

    Names of experiments, and the beginning of a job's key, restrict them. Several processes share the work: each job is
    locked while it is done, and the lock falls with the process.
    """
    names = names or ledger.EXPERIMENTS
    os.nice(10)
    torch.set_num_threads(1)
    results, failed, begin = spool() / "results", 0, time.monotonic()
    (spool() / "locks").mkdir(parents=True, exist_ok=True)

    def up(*_):
        raise TimeIsUp

    if hours is not None:
        signal.signal(signal.SIGALRM, up)
        signal.setitimer(signal.ITIMER_REAL, max(3600 * hours, 1e-3))
    try:
        runner = Runner(device)
        jobs = [(name, each) for name, each in queue(names, device) if job is None or key(each).startswith(job)]
        if not jobs:
            raise ValueError(f"no job begins with {job!r} in {', '.join(names)}")
        say(f"{len(jobs)} jobs, {sum(done(*each) for each in jobs)} of them done; code {runner.origin['code']}")
        for name, each in jobs:
            if done(name, each):
                continue
            lacking = experiment(name).needs(each, device)
            if lacking and not (job and "GPU" in lacking):
                continue
            lock = FileLock(spool() / "locks" / f"{name}-{key(each)}")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue  # another process is at it
            try:
                if done(name, each):
                    continue
                say(f"{name} {key(each)} …")
                entry = runner.entry(name, each)
                files.save_text(text_of(entry), results / name / f"{key(each)}.json")
                seconds = entry.provenance["cpu_seconds"]
                say(f"  training {seconds['training']} s, measuring {seconds['measuring']} s")
            except (ValueError, RuntimeError):
                failed += 1
                traceback.print_exc()
                say(f"  failed: {name} {key(each)}; the others go on")
            finally:
                lock.release()
    except TimeIsUp:
        say(f"the time is up after {(time.monotonic() - begin) / 3600:.2f} h; a training goes on from its last epoch")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    _left(jobs, device)
    return 1 if failed else 0


def _left(jobs, device):
    """Say what is left, for how long by what like jobs took, and which jobs wait for what."""
    took, left, waiting = defaultdict(list), Counter(), Counter()
    for name, job in jobs:
        like = name, job.data, getattr(job, "width", None), getattr(job, "per_class", None)
        for folder in (spool() / "results", ledger.LEDGER):
            path = folder / name / f"{key(job)}.json"
            if path.exists():
                try:
                    took[like].append(sum(read(path).provenance["cpu_seconds"].values()))
                except Refused:
                    continue
                break
        else:
            lacking = experiment(name).needs(job, device)
            if lacking:
                waiting[lacking] += 1
            else:
                left[like] += 1
    hours = sum(count * sum(took[like]) / len(took[like]) for like, count in left.items() if took[like]) / 3600
    unknown = sum(count for like, count in left.items() if not took[like])
    say(f"{sum(left.values())} jobs left: about {hours:.1f} h of one thread"
        + (f", and {unknown} of kinds that were never measured" if unknown else ""))
    for lacking, number in waiting.items():
        say(f"{number} jobs wait for {lacking}")
