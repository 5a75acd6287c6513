"""What the book knows: measurements, one file a job, that only `make ledger` adds.

    entries("early_stopping")  # [Entry, ...] in the order of the experiment's jobs

Results wait in a spool outside the repository, where `measuring` puts them; `accept` checks what lies there and takes
it into `data/ledger/`, so that a build never sees the ledger move.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from . import files

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "data" / "ledger"
EXPERIMENTS = ("early_stopping", "memorizing_networks", "generalization", "imagenet", "scale", "retrieval",
               "memorized", "density", "importance", "where", "trees", "pictures")
LARGEST = 6144  # bytes of a file


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
    for number in numbers(entry.measurements):
        if not math.isfinite(number):
            raise Refused(f"{entry.key} holds the number {number}")
    lacking = {"data", "device", "processor", "threads", "versions", "code", "cpu_seconds"} - {*entry.provenance}
    if lacking or not entry.measurements:
        raise Refused(f"{entry.key} lacks {', '.join(sorted(lacking)) or 'measurements'}")
    if re.search(r'"[^"]*(/home|/root|/tmp|/Users|\\\\Users)', json.dumps(asdict(entry))):
        raise Refused(f"{entry.key} names a path of its machine")


def numbers(thing) -> Iterator[float]:
    """All numbers of nested dicts and lists, in order."""
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, list):
        for part in thing:
            yield from numbers(part)
    elif isinstance(thing, (int, float)):
        yield thing


def entries(name: str, folder: Path | None = None) -> list[Entry]:
    """All entries of an experiment in the order of its jobs, those of older versions left out.

    folder: default: `data/ledger`. Raises Refused for a file that is damaged or was changed by hand.
    """
    found = {path.stem: read(path) for path in sorted(((folder or LEDGER) / name).glob("*.json"))}
    now = versions(name)
    keys = map(key, experiment(name).jobs())
    return [found[own] for own in keys if own in found and found[own].versions == now]


def with_fields(measured: list[Entry], **fields) -> list[Entry]:
    """Entries whose jobs have these fields, in their order."""
    return [entry for entry in measured if all(entry.job[name] == value for name, value in fields.items())]


# --- accepting --------------------------------------------------------------------------------------------


def accept() -> int:
    """Take what the spool holds into the ledger, judge the claims again, and say what turned."""
    from . import claims, sentences

    before = claims.judge_all()
    taken, refused = 0, 0
    for path in sorted((spool() / "results").glob("*/*.json")):
        target = LEDGER / path.parent.name / path.name
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
    after = claims.judge_all()
    say(f"{taken} jobs taken into data/ledger, {refused} refused")
    for judgment in after:
        say(f"  {judgment.claim.row:6} {judgment.words:38} {judgment.claim.sentence}")
    turned = [(old, new) for old, new in zip(before, after, strict=True) if old.answer != new.answer]
    for old, new in turned:
        say(f"turned: {new.key} «{new.claim.sentence}»: {old.words} → {new.words}")
    for complaint in sentences.turned(ROOT / "book", after):
        say(f"to be written anew: {complaint}")
    return 1 if refused else 0


def say(text: str) -> None:
    print(text, flush=True)
