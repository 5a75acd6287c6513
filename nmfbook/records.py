"""Numbers with provenance: what a chapter measured, on which data, beside what the thesis prints.

A chapter reports through three calls, each of which leaves its value in the executed notebook, where the prose,
the reproduction page and `data/records/` read it:

- `used(photographs=..., network=...)` states which data and weights the page was computed from;
- `glue("name", value)` makes a number available to the prose as {glue:text}`name`;
- `row("F2.13", ...)` reports on one row of `data/thesis/rows.csv`; its verdict is computed, on every build.
"""

import ast
import csv
import hashlib
import io
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape, unescape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from . import claims, files

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
RECORDED = ", recorded"  # ends the glued name of a report on the recorded run
UNCOMPUTED = ("shown", "not tested", "measured")  # the verdicts of rows without a statistic
_PACKAGES = ("nmfcore", "torch", "torchvision", "numba", "numpy", "scipy", "scikit-learn", "scikit-image")


@dataclass(frozen=True)
class Record:
    """One recorded run of one chapter, as stored in `data/records/<chapter>.json`: measurements, and no verdict."""

    chapter: str
    parameters: dict  # profile, seed, device
    values: dict = field(default_factory=dict)  # glue name -> number, text or (nested) list
    used: dict = field(default_factory=dict)  # role -> data set or weights
    provenance: dict = field(default_factory=dict)  # package versions, device, hashes, duration


def rounded(value, digits: int = 3):
    """Round to significant digits, through tensors, arrays, lists and dicts; integers and text stay as they are."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if isinstance(value, (bool, int, str)):
        return value
    return float(f"{float(value):.{digits}g}")


def glue(name: str, value, *, digits: int = 3):
    """Make `value` available to the page's prose and to the record under `name`.

    Numbers are rounded to `digits` significant digits, so that a rerun on the same machine agrees to the letter.
    Returns the rounded value.
    """
    from myst_nb import glue as myst_glue

    value = rounded(value, digits)
    myst_glue(name, value, display=False)
    return value


def row(name: str, *, value: str, data: str, answers: Sequence[str] = (), protocol_met: bool = False,
        verdict: str | None = None, note: str = "", recorded: bool = False) -> None:
    """Report one row of the thesis (`data/thesis/rows.csv`): our value in words, the data, the verdict, and why.

    The verdict is that of `claims.verdict` on `answers`, one for each claim of the row ("holds", "fails" or
    "undecided"), and on whether the thesis's protocol was met: its data, schedule, width and number of networks. A
    row without a statistic has `verdict` instead: "shown", "not tested" or "measured". With `recorded` the report is
    about the chapter's record, from whose values it must be computed, else about this build.

        row("F3.9", value="r = -0.8", data="CIFAR-10, 10,000 images, 24 networks, 1/8 width", answers=["holds"])

    Raises ValueError for a row the thesis does not have, an unknown answer, a verdict that has to be computed, and for
    neither answers nor a verdict, or both.
    """
    known = [entry["row"] for entry in thesis("rows")]
    if name not in known:
        raise ValueError(f"no row {name!r} in data/thesis/rows.csv; add it there or use one of {', '.join(known)}")
    if (verdict is None) == (not answers):
        raise ValueError(f"row {name}: give either answers to its claims or a verdict, one of {', '.join(UNCOMPUTED)}")
    if verdict is None:
        verdict = claims.verdict(answers, protocol_met=protocol_met)
    elif verdict not in UNCOMPUTED:
        raise ValueError(f"row {name}: the verdict {verdict!r} is computed, give answers; only "
                         f"{', '.join(UNCOMPUTED)} are given as they are")
    report = {"value": value, "data": data, "verdict": verdict, "note": note}
    glue(f"row:{name}{RECORDED if recorded else ''}", json.dumps(report, ensure_ascii=False))


def used(*, device: str = "cpu", **sources) -> None:
    """State on the page, and keep for the record, which data and weights it used: role=object with a `.source`."""
    from IPython.display import Markdown, display

    names = {role.replace("_", " "): str(thing.source) for role, thing in sources.items()}
    glue("used", json.dumps(names, ensure_ascii=False))
    checksums = {role: hashlib.sha256(thing.images.contiguous().numpy().tobytes()).hexdigest()
                 for role, thing in sources.items() if hasattr(thing, "images")}
    glue("provenance", json.dumps(provenance(device) | {"data": checksums}))
    lines = [f"- **{role}**: {name}" for role, name in names.items()]
    display(Markdown("\n".join(["This page was computed from", "", *lines])))


def table(*lines: Sequence, file: str = "") -> None:
    """Show lines of cells, HTML or numbers, the first of them the header; on a narrow screen the table scrolls.

    file: a name under which it is also given as CSV, as long tables are.
    """
    from IPython.display import HTML, display

    head, *body = (f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in line)}</tr>"
                   for tag, line in zip(["th", *["td"] * len(lines)], lines, strict=False))
    link = ""
    if file:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [unescape(re.sub("<[^>]*>", "", str(cell))) for cell in line] for line in lines)
        link = (f'<p><a download="{escape(file)}.csv" href="data:text/csv;charset=utf-8,{quote(text.getvalue())}">'
                f'{escape(file)}.csv</a></p>')
    display(HTML(f'<div style="overflow-x:auto"><table class="dataframe" tabindex="0"><thead>{head}</thead>'
                 f'<tbody>{"".join(body)}</tbody></table></div>{link}'))


def thesis(table: str, **match: str) -> list[dict[str, str]]:
    """Rows of `data/thesis/<table>.csv` as dicts, filtered by column values: thesis("numbers", row="F3.9")."""
    with open(DATA / "thesis" / f"{table}.csv", encoding="utf-8", newline="") as file:
        return [entry for entry in csv.DictReader(file) if all(entry[k] == v for k, v in match.items())]


def collect(notebook, chapter: str) -> Record:
    """Gather what an executed notebook (an nbformat node) glued into a `Record`; errors name the damaged entry."""
    values = {name: value for name, value in _glued(notebook) if not name.startswith("row:")}
    sources, origin = (json.loads(values.pop(name, "{}")) for name in ("used", "provenance"))
    run = notebook.metadata.get("papermill", {})
    origin["seconds"] = round(run.get("duration") or 0.0, 1)
    return Record(chapter, dict(run.get("parameters", {})), values, sources, origin)


def reports(notebook) -> tuple[dict, dict]:
    """What an executed notebook reported with `row`, row -> report: of this build, and of the recorded run."""
    built: dict = {}
    recorded: dict = {}
    for name, value in _glued(notebook):
        if name.startswith("row:"):
            kind = recorded if name.endswith(RECORDED) else built
            kind[name.removeprefix("row:").removesuffix(RECORDED)] = json.loads(value)
    return built, recorded


def _glued(notebook):
    """(name, value) of everything that `glue` left in a notebook, in order."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name is not None:
                yield name, ast.literal_eval(output["data"]["application/papermill.record/text/plain"])


def save(record: Record, folder: str | Path = DATA / "records") -> Path:
    """Write `<folder>/<chapter>.json` in one step, so that an interrupted run leaves the old record whole."""
    path = Path(folder) / f"{record.chapter}.json"
    files.save_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n", path)
    return path


def load(chapter: str, folder: str | Path = DATA / "records") -> Record | None:
    """The recorded run of a chapter, or None when there is none. Raises ValueError for a damaged file."""
    path = Path(folder) / f"{chapter}.json"
    if not path.exists():
        return None
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a record ({error}); restore it from version control or "
                         f"write it again with `make record CHAPTER={chapter}`") from error


def beside(record: Record | None, name: str, built) -> dict[str, Any]:
    """What a chapter's record has under `name`, beside what this build found: {"recorded": ..., "this build": ...}.

    A chapter without a record has this build alone.
    """
    return ({} if record is None else {"recorded": record.values[name]}) | {"this build": built}


def provenance(device: str = "cpu") -> dict:
    """Package versions, the machine, and a hash of what is loaded of the two packages: what a number or a duration
    depends on besides its data."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    name = torch.cuda.get_device_name(device) if str(device).startswith("cuda") else f"CPU, {platform.machine()}"
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else ()
    models = [line.split(":")[1].strip() for line in cpu if line.startswith("model name")]
    return {"versions": versions, "device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
            "processor": models[0] if models else platform.processor(), "source": _hash(_loaded())}


def source_hash() -> str:
    """SHA-256 over the Python files of nmfcore and nmfbook, in name order."""
    return _hash(path for package in ("nmfbook", "nmfcore") for path in (ROOT / package).rglob("*.py"))


def _loaded():
    """The files of both packages that this process has loaded."""
    files = (Path(module.__file__) for name, module in list(sys.modules.items())
             if name.partition(".")[0] in ("nmfbook", "nmfcore") and getattr(module, "__file__", None))
    return (path for path in files if path.suffix == ".py" and path.is_relative_to(ROOT))


def _hash(paths):
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
