"""The page that lists what was measured once and kept: the ledger's jobs, and the recorded runs of chapters.

Figures that are drawn from them lead here; the jobs are also given as CSV, the recorded runs as they are.
"""

import csv
import io
import json
from html import escape
from pathlib import Path

from .claims import OURS, Judgment, judge
from .ledger import EXPERIMENTS, Entry, entries, experiment
from .records import Record
from .records import table as show_table
from .sentences import target

HEAD = """\
(ledger)=
# Measured runs

Networks that take minutes or hours to train are not trained again for every build of this book. Each is a job:
everything that decides it is written down, it is measured once, by anyone, and its result is a file of `data/ledger/`,
with the data's checksum, the machine, the versions and the commit. On every build, figures are drawn from these files
and verdicts computed from them. `make audit` repeats jobs from nothing and compares.

"""
RECORDED = """\
(recorded-runs)=
## Recorded runs of chapters and benchmarks

The other chapters show, beside what each build computes, a run of themselves on more data or a slower profile, and
benchmarks are run by hand. What a run found is kept with the machine and the versions; its command makes it again.

````{dropdown} All of them
"""
SHOWN = ("data", "width", "optimizer", "lr", "p", "batch", "weight_decay", "kind", "method", "ablate", "images",
         "per_class", "held_out", "precision", "seed")


def page(ledger: Path, judgments: list[Judgment], recorded: list[Record]) -> str:
    """The page's MyST text. It names CSV files that `tables` gives, and the recorded runs' own files."""
    lines = [HEAD]
    for name in EXPERIMENTS:
        module, measured = experiment(name), entries(name, ledger)
        of_row = sorted({judgment.claim.row for judgment in judgments if judgment.claim.experiment == name} - {OURS})
        lines += [f"({target(name)})=", f"## {name.replace('_', ' ').capitalize()}", "",
                  " ".join((module.__doc__ or "").split("\n\n")[0].split()), ""]
        if of_row:
            lines += [f"It answers {', '.join(of_row)} of the {{doc}}`/book/reproduction`.", ""]
        if not measured:
            lines += [f"None of its {len(module.jobs())} jobs is measured yet: `make measure EXPERIMENT={name}`.", ""]
            continue
        seconds = sum(sum(entry.provenance["cpu_seconds"].values()) for entry in measured)
        lines += [f"{len(measured)} of {len(module.jobs())} jobs are measured, in {seconds / 3600:.1f} hours of one "
                  f"thread: {{download}}`all of them as CSV <ledger/{name}.csv>`. `make measure EXPERIMENT={name}` "
                  f"does the next; `make audit EXPERIMENT={name} JOB=<job>` repeats one.", "",
                  f"````{{dropdown}} {len(measured)} jobs", table(measured), "````", ""]
    return "\n".join([*lines, RECORDED, *map(_recorded, recorded), "````", ""])


def _recorded(record):
    origin, name = record.provenance, record.chapter
    command = (f"python benchmarks/{name.removesuffix('_benchmark')}.py --record" if name.endswith("_benchmark") else
               f"make record CHAPTER={name} PROFILE={record.parameters['profile']}")
    facts = [f"{origin['seconds']:,.0f} s" if origin.get("seconds") else "", origin.get("processor", ""),
             f"PyTorch {origin['versions']['torch']}" if "versions" in origin else ""]
    return (f'- <span id="{record_anchor(name)}"></span>**{name.replace("_", " ")}**: '
            f"{', '.join(filter(None, facts))}; {{download}}`its results <records/{name}.json>`; `{command}`")


def record_anchor(chapter: str) -> str:
    """Where this page speaks of the recorded run of a chapter."""
    return f"record-{chapter.replace('_', '-')}"


def table(measured: list[Entry]) -> str:
    """HTML, a line for each job; fields that are the same in all of them are left out."""
    fields = [name for name in SHOWN if name in measured[0].job
              and (name == "seed" or len({str(entry.job.get(name)) for entry in measured}) > 1)]
    lines = []
    for entry in measured:
        origin = entry.provenance
        device = ", ".join([origin["device"], *(f"trained on {name}" for name in origin.get("trained_on", []))])
        cells = [f"<code>{escape(entry.key)}</code>", *(escape(_text(entry.job.get(name))) for name in fields),
                 f"{sum(origin['cpu_seconds'].values()):,}", escape(device), escape(origin.get("commit", ""))]
        lines.append(f'<tr id="{anchor(entry)}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    head = "".join(f"<th>{name}</th>" for name in ("job", *fields, "CPU seconds", "device", "commit"))
    return (f'<table class="dataframe" tabindex="0"><thead><tr>{head}</tr></thead>\n<tbody>\n' + "\n".join(lines)
            + "\n</tbody></table>")


def anchor(entry: Entry) -> str:
    return f"job-{entry.experiment}-{entry.key}".replace(",", "-").replace("+", "-").replace(".", "-")


def address(entry: Entry) -> str:
    """Where a page of the book finds the job."""
    return f"ledger.html#{anchor(entry)}"


def answers(name: str, *rows: str) -> None:
    """Show the claims of an experiment on some rows of the thesis, each with what the ledger answers, as a table."""
    measured = entries(name)
    judgments = [judge(claim, measured) for claim in experiment(name).claims() if claim.row in rows]
    show_table(("claim", "answer", "criterion", "networks"), *(
        (escape(judgment.claim.sentence), f'<a href="ledger.html#{target(name)}">{escape(judgment.words)}</a>',
         judgment.needed, escape(judgment.scale.label)) for judgment in judgments))


def tables(ledger: Path) -> dict[str, str]:
    """{experiment: CSV}: a line for each job, lists as JSON."""
    found = {}
    for name in EXPERIMENTS:
        lines = [{"job": entry.key, **_flat(entry.job, "job."), **_flat(entry.measurements), "sha256 of the data":
                  entry.provenance["data"]["sha256"], "commit": entry.provenance.get("commit", ""),
                  "device": entry.provenance["device"], "processor": entry.provenance["processor"],
                  **_flat(entry.provenance["cpu_seconds"], "seconds.")} for entry in entries(name, ledger)]
        if lines:
            columns = list(dict.fromkeys(column for line in lines for column in line))
            file = io.StringIO()
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
            found[name] = file.getvalue()
    return found


def _flat(thing, before=""):
    """Nested dicts as one, with names joined by dots."""
    flat = {}
    for name, value in thing.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _text(value):
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
