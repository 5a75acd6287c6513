"""The page that answers, for every figure, table and proposition of the thesis: was it reproduced, and where."""

import csv
import re

import nbformat

from nmfcore import records

HEAD = """\
(reproduction)=
# Reproduction: every row of the thesis

Each entry is a figure, a table, a proposition or a proposal of the thesis. Its name links to the cell that computes
it; entries without a link wait for their chapter. The thesis's own number stands beside the one that this build of
the book has just computed, and beside that of a recorded run, which had more data or time than every build can be
given; where there is one, the verdict is about it. The numbers of this page are not typed: they are collected from
the executed notebooks and the records.

"""
MEANINGS = {
    "reproduced": "computed here, and it agrees with the thesis",
    "partly reproduced": "part of it agrees, or on smaller data than the thesis had; the note says which",
    "differs": "computed here, and it disagrees with the thesis; the note says how",
    "not reproduced": "attempted without success; the note says why",
    "measured": "only proposed by the thesis, and carried out here; the note says what came of it",
    "not yet": "its chapter is still to be written",
}
SIGNS = {"reproduced": "✓", "partly reproduced": "◐", "differs": "≠", "not reproduced": "✗", "measured": "→",
         "not yet": "…"}
CHAPTERS = {
    "1": "Thesis chapter 1: introduction",
    "2": "Thesis chapter 2: background",
    "3": "Thesis chapter 3: memorization and the non-negative rank",
    "4": "Thesis chapter 4: U, where",
    "5": "Thesis chapter 5: V, what",
    "6": "Thesis chapter 6: what it proposes",
}


def page(root, notebooks):
    """MyST text of the page, from `data/thesis/rows.csv`, `data/records/` and the executed notebooks (name -> path)."""
    with open(root / "data" / "thesis" / "rows.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    nodes = {name: nbformat.read(path, as_version=4) for name, path in notebooks.items()}
    built = reported([records.collect(node, name) for name, node in nodes.items()], rows)
    stored = sorted((root / "data" / "records").glob("*.json"))
    recorded = reported([records.load(path.stem, path.parent) for path in stored], rows)
    verdict = {}
    for name in (entry["row"] for entry in rows):
        _, report = recorded.get(name) or built.get(name) or (None, {"verdict": "not yet"})
        verdict[name] = report["verdict"]

    lines = [HEAD]
    for kind, meaning in MEANINGS.items():
        lines.append(f"- {badge(kind)} **{list(verdict.values()).count(kind)}**: {meaning}")
    for number, title in CHAPTERS.items():
        lines += ["", f"## {title}", ""]
        for entry in rows:
            if entry["chapter"] == number:
                name = entry["row"]
                lines += card(entry, verdict[name], built.get(name), recorded.get(name))
    lines += ["", "## How this build was made", "",
              "| chapter | profile | device | time | memory |", "|---|---|---|--:|--:|"]
    for name, node in nodes.items():
        cost, given = node.metadata["nmfcore"]["cost"], node.metadata.papermill.parameters
        lines.append(f"| {{doc}}`/book/{name}` | {given['profile']} | {escaped(given['device'])} "
                     f"| {cost['seconds']} s | {cost['gigabytes']} GB |")
    return "\n".join([*lines, ""])


def reported(results, rows):
    """Row -> (record, report); a row outside the thesis or reported twice is an error."""
    known, found = {entry["row"] for entry in rows}, {}
    for record in results:
        for name, report in record.rows.items():
            if name not in known:
                raise ValueError(f"chapter {record.chapter} reports {name}, which data/thesis/rows.csv does not have")
            if name in found:
                raise ValueError(f"{name} is reported by both {found[name][0].chapter} and {record.chapter}; keep one")
            found[name] = record, report
    return found


def card(entry, verdict, built, recorded):
    """One entry: the verdict, the linked name and what it shows; then the numbers side by side."""
    name = entry["row"]
    linked = f"{{ref}}`{name} <{target(name)}>`" if built else f"**{name}**"
    facts = [(f"thesis, {entry['source']}", entry["thesis"] or "no number")]
    for kind, found in (("recorded run", recorded), ("this build", built)):
        if found:
            record, report = found
            device = record.provenance.get("device", "device unknown")
            facts.append((f"{kind} ({record.parameters['profile']}, {device})", report["value"]))
            facts.append((f"data of the {kind.split()[-1]}", report["data"]))
            own = "" if report["verdict"] == verdict else f"{report['verdict']}. "
            facts.append((f"note on the {kind.split()[-1]}", own + report["note"]))
    waiting = not (recorded or built)
    return [
        f":::{{div}} nmf-row{' nmf-waiting' if waiting else ''}",
        f"{badge(verdict)} {linked} {escaped(entry['title'])}",
        "",
        *(f"- *{escaped(key)}:* {escaped(value)}" for key, value in facts if value),
        ":::",
        "",
    ]


def badge(verdict):
    return f"[{SIGNS[verdict]} {verdict}]{{.nmf-verdict .nmf-{verdict.replace(' ', '-')}}}"


def target(row):
    """The MyST target that a chapter puts before the cell of a row: F2.13 -> row-f2-13."""
    return "row-" + re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def escaped(text):
    """Plain text for MyST: every mark that could mean something is taken literally."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))
