"""The pages that answer, for every figure, table and proposition of the thesis: was it reproduced, and where."""

import copy
import csv
import io
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat

from . import claims, ledger_page, records, sentences

HEAD = """\
(reproduction)=
# Reproduction: every row of the thesis

A row is a figure, a table, a proposition, a claim in the text or a proposal of the thesis. Verdicts are not typed: each
follows from what was measured, on every build, and from whether the thesis's protocol was followed, its data, schedule,
width and number of networks.

"""
WHY = """\
Most of what is open is a matter of scale: the networks of chapter 3 are trained one by one on two cores, at a quarter
or an eighth of the thesis's width, and a claim is judged only when a number of them is done that was fixed beforehand
(<a href="ledger.html">measured runs</a>). Some data cannot be had here, and some rows depend on a choice that the
thesis does not print. A page lists <a href="what_changed_our_mind.html">the verdicts that we took back</a>.

"""
RECORDED = ('The recorded run of this page (`{profile}`), its machine and the command that makes it again are '
            '<a href="ledger.html#{anchor}">listed</a>.')
BUILD_LOG = """\
# How this build was made

| chapter | profile | device | time | memory |
|---|---|---|--:|--:|
"""
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
    verdict, reports_on = {}, {}
    for entry in rows:
        name = entry["row"]
        _, report = recorded.get(name) or built.get(name) or (None, None)
        answered = report is not None or name in judged
        if answered == bool(entry["waits"]):
            cure = ("a chapter or the ledger: empty `waits` in" if answered else
                    "no chapter: say in `waits` what it waits for, in")
            raise ValueError(f"{name} is reported by {cure} data/thesis/rows.csv")
        computed = claims.row_verdict(judged[name]) if name in judged else entry["waits"].partition(":")[0]
        # Once all claims are judged they go before what a chapter reports, but where the thesis only proposes.
        if report and (name not in judged or computed == "measuring" or report["verdict"] == "measured"):
            computed = report["verdict"]
            reports_on[name] = report["data"]
        verdict[name] = computed
        if verdict[name] == "fails at smaller scale" and any(j.answer is None for j in judged.get(name, ())):
            verdict[name] = "measuring"  # no small run speaks against the thesis while a larger one is under way
        if verdict[name] not in MEANINGS:
            raise ValueError(f"{name}: {verdict[name]!r} is not one of {', '.join(MEANINGS)}")

    rests_on = {name: claims.row_words(judgments).partition(", ")[2] if verdict[name] == "measuring" else
                "; ".join(sorted({f"{judgment.scale.label}, {judgment.n} {judgment.claim.unit}"
                                  for judgment in judgments})) for name, judgments in judged.items() if name in verdict}
    rests_on |= {name: on for name, on in reports_on.items() if verdict[name] != "measuring"}

    entries = [_entry(entry, verdict[entry["row"]], built.get(entry["row"]), recorded.get(entry["row"]),
                      judged.get(entry["row"], []), nodes) for entry in rows]
    strip = f'<div class="nmf-strip">{_squares(entries, "reproduction.html")}</div>\n\n{_counts(entries)}'

    def complete(text):
        return filled(sentences.bound(text, judgments), verdict, rests_on).replace("{rows}`all`", strip)

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
    found["build_log"] = BUILD_LOG + "\n".join(
        "| {{doc}}`/book/{}` | {} | {} | {} s | {} GB |".format(
            name, node.metadata.papermill.parameters["profile"], escaped(node.metadata.papermill.parameters["device"]),
            node.metadata["nmfcore"]["cost"]["seconds"], node.metadata["nmfcore"]["cost"]["gigabytes"])
        for name, node in nodes.items()) + "\n"
    return found | {"reproduction": dashboard(entries), "reproduction.csv": _csv(entries)}


@dataclass(frozen=True)
class Row:
    """What the dashboard says of a row of the thesis."""

    name: str
    chapter: str
    title: str
    verdict: str
    address: str  # of the cell that shows it, or of the page where it waits
    facts: dict[str, str]  # the thesis's number, ours, data, notes
    claims: list[str]


def _entry(entry, verdict, built, recorded, judgments, nodes):
    """A row with its address and facts. Raises ValueError where the page that shows it has no target for it."""
    name, page = entry["row"], entry["page_chapter"]
    waiting = not (recorded or built or judgments)
    address = f"{page}.html" if page in nodes else ""
    if not waiting:
        page = next(iter(sorted(place for place, node in nodes.items() if any(
            cell.cell_type == "markdown" and f"({target(name)})=" in cell.source for cell in node.cells))), None)
        if page is None:
            raise ValueError(f"no page has the target ({target(name)})= for row {name}; put it before the cell")
        address = f"{page}.html#{target(name)}"
    facts = {f"thesis, {entry['source']}": entry["thesis"] or "no number"}
    if waiting:
        facts[verdict] = entry["waits"].partition(":")[2].strip()
    for kind, report in (("recorded run", recorded), ("this build", built)):
        if report:
            record, report = report
            facts[f"{kind} ({record.parameters['profile']}, {record.provenance.get('device', 'device unknown')})"] = (
                report["value"])
            facts[f"data of the {kind.split()[-1]}"] = report["data"]
            own = "" if report["verdict"] == verdict else f"{report['verdict']}. "
            facts[f"note on the {kind.split()[-1]}"] = own + report["note"]
    if judgments:
        facts["measured runs"] = claims.row_words(judgments)
    return Row(name, entry["chapter"], entry["title"], verdict, address,
               {key: value for key, value in facts.items() if value},
               [f"{judgment.claim.sentence}: {judgment.words}, {judgment.needed}; {judgment.scale.label}"
                for judgment in judgments])


def _squares(entries, page=""):
    """A square for each row, chapter by chapter, that leads to its line on the page."""
    return "".join(
        f'<span role="group" aria-label="{escape(CHAPTERS[chapter])}">' + "".join(
            f'<a class="nmf-verdict {_class(entry.verdict)}" href="{page}#{target(entry.name)}" '
            f'title="{escape(f"{entry.name}, {entry.verdict}: {entry.title}")}" '
            f'aria-label="{escape(f"{entry.name}, {entry.verdict}")}">{SIGNS[entry.verdict]}</a>'
            for entry in entries if entry.chapter == chapter) + "</span>" for chapter in CHAPTERS)


def _counts(entries):
    """How many rows have which verdict, in words."""
    verdicts = [entry.verdict for entry in entries]
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in MEANINGS if kind in verdicts)
    return f"Of {len(entries)} rows: {counts}."


def dashboard(entries):
    """The page: a square for each row, counts, filters, and a line for each row that unfolds."""
    verdicts = [entry.verdict for entry in entries]
    counts = "".join(
        f'<li><button type="button" aria-pressed="false" data-verdict="{kind}" class="nmf-verdict {_class(kind)}">'
        f"{SIGNS[kind]} {kind}: {verdicts.count(kind)}</button> <small>{escape(meaning)}</small></li>"
        for kind, meaning in MEANINGS.items() if kind in verdicts)
    options = "".join(f'<option value="{chapter}">{escape(title)}</option>' for chapter, title in CHAPTERS.items())
    against = [entry for entry in entries if entry.verdict in ("contradicted", "fails at smaller scale", "mixed")]
    failed = ", ".join(f'<a href="#{target(entry.name)}">{entry.name}</a> ({entry.verdict})' for entry in against)
    said = f"Against the thesis, in whole or in part, speak {failed}. " if failed else ""
    return "\n".join([
        HEAD, f'<div class="nmf-strip">{_squares(entries)}</div>', "", said + WHY,
        '<div class="nmf-filters" role="search">'
        f'<label>chapter <select autocomplete="off"><option value="">all</option>{options}</select></label>'
        '<label>search <input type="search" autocomplete="off"></label>'
        f'<output aria-live="polite">{len(entries)} rows</output>'
        f'<details><summary>verdicts, with counts</summary><ul>{counts}</ul></details></div>', "",
        f'<div class="nmf-rows">{"".join(map(_line, entries))}</div>', "",
        f"<script>{(Path(__file__).parent / 'widgets' / 'dashboard.js').read_text(encoding='utf-8')}</script>", "",
        "{download}`All rows as CSV <reproduction.csv>`. How this build was made: {doc}`build_log`.", ""])


def _line(entry):
    facts = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entry.facts.items())
    listed = "<ul>" + "".join(f"<li>{escape(claim)}</li>" for claim in entry.claims) + "</ul>" if entry.claims else ""
    link = f'<a href="{entry.address}">where it is shown</a>' if entry.address else ""
    sign = (f'<span class="nmf-verdict {_class(entry.verdict)}"><span aria-hidden="true">{SIGNS[entry.verdict]}</span>'
            f'<span class="nmf-spoken">{entry.verdict}</span></span>')
    return (f'<details class="nmf-row" id="{target(entry.name)}" data-verdict="{entry.verdict}" '
            f'data-chapter="{entry.chapter}"><summary>{sign} <b>{entry.name}</b> {escape(entry.title)}</summary>'
            f'<p><span class="nmf-verdict {_class(entry.verdict)}">{SIGNS[entry.verdict]} {entry.verdict}</span> '
            f"{link}</p><dl>{facts}</dl>{listed}</details>")


def _class(verdict):
    return "nmf-" + verdict.replace(" ", "-")


def _csv(entries):
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "chapter", "title", "verdict", "facts", "claims"])
    for entry in entries:
        writer.writerow([entry.name, entry.chapter, entry.title, entry.verdict,
                         "; ".join(f"{key}: {value}" for key, value in entry.facts.items()), "; ".join(entry.claims)])
    return file.getvalue()


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


def badge(verdict):
    return f"[{SIGNS[verdict]} {verdict}]{{.nmf-verdict .{_class(verdict)}}}"


def target(row):
    """The MyST target that a chapter puts before the cell of a row: F2.13 -> row-f2-13."""
    return "row-" + re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def escaped(text):
    """Plain text for MyST: every mark that could mean something is taken literally."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))
