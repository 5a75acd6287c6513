"""What the book knows: measurements, one file a job, that only `make ledger` adds.

    entries("early_stopping")  # [Entry, ...] in the order of the experiment's jobs
    python -m nmfbook.ledger measure --hours 8   # make measure HOURS=8
    python -m nmfbook.ledger accept              # make ledger
    python -m nmfbook.ledger audit --number 3    # make audit N=3

`measure` does one job at a time and writes its result into a spool outside the repository; `accept` checks what lies
there and takes it into `data/ledger/`, so that a build never sees the ledger move. Weights are kept beside the spool.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from . import data, files, interrupts

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "data" / "ledger"
EXPERIMENTS = ("early_stopping", "memorizing_networks", "generalization", "imagenet", "scale")
LARGEST = 6144  # bytes of a file
CHEAP = 600  # CPU seconds up to which an audit repeats a job
DIGITS = 4  # significant, of what is measured


class Refused(ValueError):
    """A file of the spool or the ledger that cannot be taken as a measurement."""


@dataclass(frozen=True)
class Entry:
    """One measured job."""

    experiment: str
    job: dict  # its fields
    versions: dict  # training, measurement
    measurements: dict
    provenance: dict

    @property
    def key(self) -> str:
        return key(self.job)


def experiment(name: str):
    """The module of an experiment. Raises ValueError for one that the book does not have."""
    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    return import_module(f"nmfbook.experiments.{name}")


def key(job) -> str:
    """A job's name: a few of its fields to read, and a hash of all."""
    fields = job if isinstance(job, dict) else asdict(job)
    told = [fields[name] for name in ("data", "kind", "method", "optimizer") if name in fields]
    told += [f"{name[0]}{fields[name]:g}" for name in ("width", "p", "lr", "batch", "seed") if name in fields]
    return re.sub(r"[^\w.,+-]+", "_", "-".join(told)) + "-" + _digest(fields)[:8]


def versions(name: str) -> dict:
    """Those that the code of an experiment has now."""
    return {"training": experiment(name).TRAINING, "measurement": experiment(name).MEASUREMENT}


def spool() -> Path:
    """Where results wait and weights are kept: NMFBOOK_CACHE, else a folder of the user's cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("NMFBOOK_CACHE") or caches / "nmfbook")


# --- files ------------------------------------------------------------------------------------------------


def _digest(thing):
    return hashlib.sha256(json.dumps(thing, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def text_of(entry: Entry) -> str:
    """A file's text: one line a part, the digest last."""
    content = asdict(entry)
    lines = [f" {json.dumps(name)}: {json.dumps(part, ensure_ascii=False, separators=(',', ':'))}"
             for name, part in [*content.items(), ("digest", _digest(content))]]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(path: Path) -> Entry:
    """The entry in a file. Raises Refused, with the reason, for one that is damaged, changed by hand or misplaced."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
        entry = Entry(**content)
        own = entry.key
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Refused(f"{path.name} is not a measurement ({error})") from error
    if digest != _digest(content):
        raise Refused(f"{path.name} does not agree with its digest: it was changed by hand or damaged")
    if (path.parent.name, path.stem) != (entry.experiment, own):
        raise Refused(f"{path.parent.name}/{path.name} holds the job {entry.experiment}/{own}")
    return entry


def judged(entry: Entry) -> None:
    """Raises Refused for an entry that does not belong to the experiments as they are now."""
    if entry.experiment not in EXPERIMENTS:
        raise Refused(f"no experiment {entry.experiment!r}; there are {', '.join(EXPERIMENTS)}")
    module = experiment(entry.experiment)
    if entry.key not in map(key, module.jobs()):
        raise Refused(f"{entry.experiment} has no job {entry.key}; add it to its jobs() first")
    if entry.versions != versions(entry.experiment):
        raise Refused(f"{entry.experiment}/{entry.key} is of version {entry.versions}; the code is at "
                      f"{versions(entry.experiment)}: measure it again")
    size = len(text_of(entry).encode())
    if size > LARGEST:
        raise Refused(f"{entry.key} takes {size} bytes, more than {LARGEST}")
    for number in _numbers(entry.measurements):
        if not math.isfinite(number):
            raise Refused(f"{entry.key} holds the number {number}")
    lacking = {"data", "device", "processor", "threads", "versions", "code", "cpu_seconds"} - {*entry.provenance}
    if lacking or not entry.measurements:
        raise Refused(f"{entry.key} lacks {', '.join(sorted(lacking)) or 'measurements'}")
    if re.search(r'"[^"]*(/home|/root|/tmp|/Users|\\\\Users)', json.dumps(asdict(entry))):
        raise Refused(f"{entry.key} names a path of its machine")


def _numbers(thing) -> Iterator[float]:
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, list):
        for part in thing:
            yield from _numbers(part)
    elif isinstance(thing, (int, float)):
        yield thing


def entries(name: str, folder: Path = LEDGER) -> list[Entry]:
    """All entries of an experiment in the order of its jobs, those of older versions left out.

    Raises Refused for a file that is damaged or was changed by hand.
    """
    found = {path.stem: read(path) for path in sorted((folder / name).glob("*.json"))}
    now = versions(name)
    keys = map(key, experiment(name).jobs())
    return [found[own] for own in keys if own in found and found[own].versions == now]


# --- measuring --------------------------------------------------------------------------------------------


def queue(names: tuple[str, ...], device: str) -> Iterator[tuple[str, object]]:
    """All jobs: in turn over the experiments, on a GPU the widest first."""
    lists = [[(name, job) for job in experiment(name).jobs()] for name in names]
    if device != "cpu":
        lists = [sorted(jobs, key=lambda entry: -getattr(entry[1], "width", 1)) for jobs in lists]
    return (entry for turn in zip_longest(*lists) for entry in turn if entry)


def done(name: str, job) -> bool:
    """Whether the ledger or the spool holds a job at the versions of the code."""
    for folder in (LEDGER, spool() / "results"):
        try:
            if read(folder / name / f"{key(job)}.json").versions == versions(name):
                return True
        except Refused:
            continue
    return False


def source_hash() -> str:
    """SHA-256 over the Python files of both packages, as they are on disk."""
    digest = hashlib.sha256()
    for path in sorted(path for package in ("nmfcore", "nmfbook") for path in (ROOT / package).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


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
        for name in EXPERIMENTS:
            experiment(name)
        self.origin = {"code": source_hash(), "commit": commit(), **_machine(device)}

    def entry(self, name: str, job) -> Entry:
        """Train and measure one job; training goes on from where it was interrupted."""
        module, folder = experiment(name), self.cache / "weights" / name / f"{key(job)}-v{experiment(name).TRAINING}"
        begin, spent = time.process_time(), folder / "cpu_seconds"
        before = float(spent.read_text()) if spent.exists() else 0.0
        folder.mkdir(parents=True, exist_ok=True)
        try:
            trained = module.train(job, folder, device=self.device)
        finally:
            training = before + time.process_time() - begin
            files.save_text(f"{training:.0f}", spent)
        begin = time.process_time()
        measurements = rounded(module.measure(job, trained, device=self.device))
        seconds = {"training": round(training), "measuring": round(time.process_time() - begin)}
        if hasattr(trained, "sha256"):
            origin = {"source": trained.source, "sha256": trained.sha256}
        else:
            origin = data.load(job.data, getattr(job, "per_class", None), self.device).provenance
        provenance = {"data": origin, **self.origin, "cpu_seconds": seconds,
                      "date": time.strftime("%Y-%m-%d", time.gmtime())}
        return Entry(name, asdict(job), versions(name), measurements, provenance)


def rounded(thing):
    """Numbers to a few significant digits, tensors as lists."""
    if isinstance(thing, dict):
        return {str(name): rounded(part) for name, part in thing.items()}
    if isinstance(thing, torch.Tensor):
        return rounded(thing.tolist())
    if isinstance(thing, (list, tuple)):
        return [rounded(part) for part in thing]
    if isinstance(thing, float):
        short = float(f"{thing:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 10**DIGITS else short
    return thing


class TimeIsUp(BaseException):
    """Raised by the clock, wherever the program is; no `except Exception` on the way may take it for its own."""


def measure(names: tuple[str, ...] | None = None, *, job: str | None = None, hours: float | None = None,
            device: str = "cpu") -> int:
    """Do the next missing jobs, one after another, until none is left or the time is up; returns an exit status.

    Names of experiments, and the beginning of a job's key, restrict them. Several processes share the work: each job is
    locked while it is done, and the lock falls with the process.
    """
    names = names or EXPERIMENTS
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
        for folder in (spool() / "results", LEDGER):
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


# --- accepting --------------------------------------------------------------------------------------------


def accept(folder: Path | None = None, ledger: Path = LEDGER) -> int:
    """Take what the spool holds into the ledger, judge the claims again, and say what turned."""
    from . import claims

    before = claims.judge_all(ledger)
    taken, refused = 0, 0
    for path in sorted((folder or spool() / "results").glob("*/*.json")):
        target = ledger / path.parent.name / path.name
        try:
            entry = read(path)
            judged(entry)
        except Refused as reason:
            say(f"refused: {reason}")
            refused += 1
            continue
        text = text_of(entry)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            files.save_text(text, target)
            taken += 1
    after = claims.judge_all(ledger)
    say(f"{taken} jobs taken into data/ledger, {refused} refused")
    for judgment in after:
        say(f"  {judgment.claim.row:6} {judgment.words:38} {judgment.claim.sentence}")
    turned = [(old, new) for old, new in zip(before, after, strict=True) if old.answer != new.answer]
    for old, new in turned:
        say(f"turned: {new.claim.row} «{new.claim.sentence}»: {old.words} → {new.words}")
    return 1 if refused else 0


# --- auditing ---------------------------------------------------------------------------------------------


def audit(number: int = 3, *, device: str = "cpu", seed: int | None = None, ledger: Path = LEDGER) -> int:
    """Repeat random cheap jobs of the ledger from nothing, and compare; returns 1 where one does not agree.

    On the same kind of processor and with the same versions every number must come out again within rounding; elsewhere
    training is chaotic in the last digit, and an AuC must lie within three times the spread between seeds.
    """
    torch.set_num_threads(1)
    jobs = {(name, key(job)): job for name in EXPERIMENTS for job in experiment(name).jobs()}
    known = [entry for name in EXPERIMENTS for entry in entries(name, ledger)]
    cheap = [entry for entry in known if sum(entry.provenance["cpu_seconds"].values()) <= CHEAP
             and not experiment(entry.experiment).needs(jobs[entry.experiment, entry.key], device)]
    if not cheap:
        raise ValueError(f"the ledger holds no job of at most {CHEAP} CPU seconds whose data is at hand")
    failed = 0
    for entry in random.Random(seed).sample(cheap, min(number, len(cheap))):
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(device, Path(folder))
            again = runner.entry(entry.experiment, jobs[entry.experiment, entry.key])
        alike = all(entry.provenance[what] == again.provenance[what]
                    for what in ("processor", "versions", "threads", "device"))
        if entry.provenance["data"]["sha256"] != again.provenance["data"]["sha256"]:
            say(f"not comparable: {entry.experiment} {entry.key} was measured on other data")
            continue
        pairs = list(zip(_numbers(entry.measurements), _numbers(again.measurements), strict=False))
        apart = max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs)
        if alike:
            right, how = apart < 1e-3, f"same processor and versions, largest relative difference {apart:.1e}"
        else:
            spread, difference = _spread(entry, known), _difference(entry, again)
            right = difference <= 3 * spread
            how = f"another machine or other versions, AuC {difference:.4f} apart; seeds spread over {spread:.4f}"
        failed += not right
        say(f"{'agrees' if right else 'DIFFERS'}: {entry.experiment} {entry.key} ({how})")
    return 1 if failed else 0


def _aucs(measurements):
    """All numbers under a key that is or belongs to an AuC, flat."""
    if not isinstance(measurements, dict):
        return []
    return [number for name, part in measurements.items()
            for number in (_numbers(part) if name in ("auc", "nmf", "pca") else _aucs(part))]


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


# --- command line -----------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nmfbook.ledger", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "accept", "audit"))
    parser.add_argument("--experiment", default="", help="only this one")
    parser.add_argument("--job", default="", help="only jobs whose key begins so")
    parser.add_argument("--hours", default="", help="stop after so long")
    parser.add_argument("--number", default="3", help="jobs to audit")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    interrupts.once()
    try:
        if options.command == "accept":
            return accept()
        names = (options.experiment,) if options.experiment else EXPERIMENTS
        for name in names:
            experiment(name)
        if options.command == "audit":
            return audit(_number(options.number, "N"), device=options.device)
        return measure(names, job=options.job or None, device=options.device,
                       hours=_number(options.hours, "HOURS") if options.hours else None)
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
