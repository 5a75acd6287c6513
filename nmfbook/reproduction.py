"""The pages that answer, for every figure, table and proposition of the thesis: was it reproduced, and where."""

import copy
import csv
import re

import nbformat

from . import claims, ledger_page, records, sentences

HEAD = """\
(reproduction)=
# Reproduction: every row of the thesis

Each entry is a figure, a table, a proposition, a claim in the text or a proposal of the thesis. Its name links to the
cell that shows it; an entry without such a cell says what it waits for, or where it is shown. Verdicts are not
typed: each follows from what was measured, on every build, and from whether the thesis's protocol was followed, its
data, schedule, width and number of networks.

The experiments of chapter 3 are measured once, job by job, at the thesis's own number of images
(<a href="ledger.html">listed</a>). Each claim of theirs stands with its interval, how many networks it rests on and at
which width, or with how far the measuring has come: a claim is judged only at numbers that were fixed beforehand.
Elsewhere the number that this build has just computed stands beside that of a recorded run, which had more data or time
than every build can be given; where there is one, the verdict is about it.

"""
RECORDED = ('The recorded run of this page (`{profile}`), its machine and the command that makes it again are '
            '<a href="ledger.html#{anchor}">listed</a>.')
MEANINGS = {
    "reproduced": "every claim of it holds, by the thesis's own protocol",
    "holds at smaller scale": "every claim of it holds, but not by the thesis's protocol: other or fewer data, "
                              "smaller networks, fewer of them, another schedule",
    "mixed": "some claims of it hold and some fail",
    "contradicted": "claims of it fail by the thesis's own protocol",
    "fails at smaller scale": "claims of it fail, but not by the thesis's protocol; what that protocol gives is open",
    "undecided": "no claim of it fails, and what was measured leaves at least one open",
    "shown": "a demonstration, a drawing or a definition, without a statistic",
    "measured": "only proposed by the thesis, and carried out here; the note says what came of it",
    "measuring": "experiments that can answer it are still to be completed",
    "not tested": "what it takes is not to be had here; the note says what",
}
SIGNS = {"reproduced": "✓", "holds at smaller scale": "◐", "mixed": "±", "contradicted": "✗",
         "fails at smaller scale": "≠", "undecided": "?", "shown": "○", "measured": "→", "measuring": "…",
         "not tested": "–"}
CHAPTERS = {
    "1": "Thesis chapter 1: introduction",
    "2": "Thesis chapter 2: background",
    "3": "Thesis chapter 3: memorization and the non-negative rank",
    "4": "Thesis chapter 4: U, where",
    "5": "Thesis chapter 5: V, what",
    "6": "Thesis chapter 6: what it proposes",
}


def pages(root, notebooks):
    """Name -> the pages that are made here, and those of the book, verdicts and outcomes filled in: MyST or a notebook.

    From `data/thesis/rows.csv`, `data/ledger/`, `data/records/` and the executed notebooks (name -> path). Raises
    ValueError where a sentence states what the ledger does not say.
    """
    with open(root / "data" / "thesis" / "rows.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    nodes = {name: nbformat.read(path, as_version=4) for name, path in notebooks.items()}
    built, recorded = reported(root, nodes, rows)
    judgments = claims.judge_all(root / "data" / "ledger")
    complaints = sentences.turned(root / "book", judgments)
    if complaints:
        raise ValueError("\n".join(complaints))
    judged = claims.by_row(judgments)
    verdict = {}
    for entry in rows:
        name = entry["row"]
        _, report = recorded.get(name) or built.get(name) or (None, None)
        answered = report is not None or name in judged
        if answered == bool(entry["waits"]):
            cure = ("a chapter or the ledger: empty `waits` in" if answered else
                    "no chapter: say in `waits` what it waits for, in")
            raise ValueError(f"{name} is reported by {cure} data/thesis/rows.csv")
        verdict[name] = (report["verdict"] if report else claims.row_verdict(judged[name]) if answered else
                         entry["waits"].partition(":")[0])
        if verdict[name] == "fails at smaller scale" and any(j.answer is None for j in judged.get(name, ())):
            verdict[name] = "measuring"  # no small run speaks against the thesis while a larger one is under way
        if verdict[name] not in MEANINGS:
            raise ValueError(f"{name}: {verdict[name]!r} is not one of {', '.join(MEANINGS)}")

    rests_on = {name: claims.row_words(judgments).partition(", ")[2] if verdict[name] == "measuring" else
                "; ".join(sorted({f"{judgment.scale.label}, {judgment.n} {judgment.claim.unit}"
                                  for judgment in judgments})) for name, judgments in judged.items() if name in verdict}
    rests_on |= {name: report["data"] for name, (_, report) in (built | recorded).items()
                 if verdict[name] != "measuring"}

    def complete(text):
        return filled(sentences.bound(text, judgments), verdict, rests_on)

    kept = {path.stem: records.load(path.stem, path.parent) for path in sorted((root / "data/records").glob("*.json"))}
    found = {"ledger": ledger_page.page(root / "data" / "ledger", judgments, list(kept.values()))}
    for path in (root / "book").glob("*.md"):
        if path.stem not in nodes:
            found[path.stem] = complete(path.read_text(encoding="utf-8"))
    for name, node in nodes.items():
        found[name] = copy.deepcopy(node)
        for cell in found[name].cells:
            if cell.cell_type == "markdown":
                cell.source = complete(cell.source)
        if name in kept:
            found[name].cells.append(nbformat.v4.new_markdown_cell(RECORDED.format(
                anchor=ledger_page.record_anchor(name), profile=kept[name].parameters["profile"])))
    lines = [HEAD]
    for kind, meaning in MEANINGS.items():
        lines.append(f"- {badge(kind)} **{list(verdict.values()).count(kind)}**: {meaning}")
    for number, title in CHAPTERS.items():
        lines += ["", f"## {title}", ""]
        for entry in rows:
            if entry["chapter"] == number:
                name = entry["row"]
                lines += card(entry, verdict[name], built.get(name), recorded.get(name), judged.get(name, []),
                              pages=nodes)
    lines += ["", "## How this build was made", "",
              "| chapter | profile | device | time | memory |", "|---|---|---|--:|--:|"]
    for name, node in nodes.items():
        cost, given = node.metadata["nmfcore"]["cost"], node.metadata.papermill.parameters
        lines.append(f"| {{doc}}`/book/{name}` | {given['profile']} | {escaped(given['device'])} "
                     f"| {cost['seconds']} s | {cost['gigabytes']} GB |")
    return found | {"reproduction": "\n".join([*lines, ""])}


def filled(text, verdict, rests_on):
    """The text with a badge, and what it rests on, for every {verdict}`F3.10`."""
    def one(match):
        name = match[1]
        if name not in rests_on:
            raise ValueError(f"a page shows the verdict on {name}, on which nothing reports")
        return f"{badge(verdict[name])} {{ref}}`{name} <{target(name)}>` ({escaped(rests_on[name])})"

    return re.sub(r"\{verdict\}`([^`]*)`", one, text)


def reported(root, nodes, rows):
    """Row -> (record, report), of this build and of the recorded runs; a row outside the thesis or reported by two
    chapters is an error, and a report on a recorded run without a record, too."""
    known = {entry["row"] for entry in rows}
    everything = {}, {}
    for chapter, node in nodes.items():
        sources = records.collect(node, chapter), records.load(chapter, root / "data" / "records")
        for reports, record, found in zip(records.reports(node), sources, everything, strict=True):
            for name, report in reports.items():
                if name not in known:
                    raise ValueError(f"chapter {chapter} reports {name}, which data/thesis/rows.csv does not have")
                if name in found:
                    raise ValueError(f"{name} is reported by both {found[name][0].chapter} and {chapter}; keep one")
                if record is None:
                    raise ValueError(f"chapter {chapter} reports on a recorded run for {name}, but has no record")
                found[name] = record, report
    return everything


def card(entry, verdict, built, recorded, judgments, *, pages):
    """One entry: verdict, linked name and what it shows; then the numbers side by side, or what it waits for; then what
    the ledger says of each claim."""
    name, chapter = entry["row"], entry["page_chapter"]
    waiting = not (recorded or built or judgments)
    linked = (f"{{ref}}`{name} <{target(name)}>`" if not waiting else
              f"{{doc}}`{name} </book/{chapter}>`" if chapter in pages else f"**{name}**")
    facts = [(f"thesis, {entry['source']}", entry["thesis"] or "no number")]
    if waiting:
        facts.append((verdict, entry["waits"].partition(":")[2].strip()))
    for kind, found in (("recorded run", recorded), ("this build", built)):
        if found:
            record, report = found
            device = record.provenance.get("device", "device unknown")
            facts.append((f"{kind} ({record.parameters['profile']}, {device})", report["value"]))
            facts.append((f"data of the {kind.split()[-1]}", report["data"]))
            own = "" if report["verdict"] == verdict else f"{report['verdict']}. "
            facts.append((f"note on the {kind.split()[-1]}", own + report["note"]))
    if judgments:
        facts.append(("measured runs", claims.row_words(judgments)))
    return [
        f":::{{div}} nmf-row{' nmf-waiting' if waiting else ''}",
        f"{badge(verdict)} {linked} {escaped(entry['title'])}",
        "",
        *(f"- *{escaped(key)}:* {escaped(value)}" for key, value in facts if value),
        *(f"  - {escaped(f'{judgment.claim.sentence}: {judgment.words}, {judgment.needed}; {judgment.scale.label}')}"
          for judgment in judgments),
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
