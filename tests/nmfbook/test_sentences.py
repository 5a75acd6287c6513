"""Sentences bound to claims, and the page of the ledger that they lead to."""

import csv
import io
from functools import cache

import pytest
from test_claims import CLAIMS, SYNTHETIC

from nmfbook import ledger_page, sentences
from nmfbook.claims import judge
from nmfbook.ledger import LEDGER, entries, experiment


@cache
def judgments(kind):
    return [judge(claim, SYNTHETIC[name, kind]) for name, claim in CLAIMS]


@pytest.mark.parametrize("kind, other", [("holds", "fails"), ("fails", "holds"), ("undecided", "holds")])
def test_a_claim_that_turns_breaks_the_sentence_that_states_it(tmp_path, kind, other):
    """For every claim: its data are swapped for those of another outcome, and the sentence is named."""
    keys = [judgment.key for judgment in judgments(kind)]
    lines = [f"Sentence {i} {{claim}}`{key} = {kind}`." for i, key in enumerate(keys)]
    (tmp_path / "page.md").write_text("\n".join(lines))
    assert sentences.turned(tmp_path, judgments(kind)) == []
    complaints = sentences.turned(tmp_path, judgments(other))
    assert len(complaints) == len(keys)
    for i, (key, complaint) in enumerate(zip(keys, complaints, strict=True)):
        assert f"page.md, line {i + 1}: «" in complaint
        assert f"states that {key} {kind}, and the ledger says {other}" in complaint


def test_unknown_claims_and_outcomes_are_named(tmp_path):
    (tmp_path / "page.md").write_text("One {claim}`F3.10/far = holds` two {claim}`F3.10/near = true`")
    unknown, wrong = sentences.turned(tmp_path, judgments("holds"))
    assert "no claim 'F3.10/far'; those of the row are ['F3.10/maximum', 'F3.10/near', 'F3.10/nearer']" in unknown
    assert "'true' is no outcome; write one of holds, fails, undecided or measuring" in wrong


def test_the_page_says_what_the_ledger_says():
    said = sentences.bound("It does {claim}`F3.10/near = holds`.", judgments("holds"))
    assert said.startswith("It does ({ref}`holds: 0.00 (") and said.endswith(" runs <ledger-early-stopping>`).")


def test_every_entry_is_on_the_page_and_in_the_table():
    page, tables = ledger_page.page(LEDGER, judgments("holds"), []), ledger_page.tables(LEDGER)
    for name in ("early_stopping", "memorizing_networks"):
        measured = entries(name)
        assert f"({sentences.target(name)})=" in page and f"<ledger/{name}.csv>" in page
        lines = list(csv.DictReader(io.StringIO(tables[name])))
        assert [line["job"] for line in lines] == [entry.key for entry in measured]
        assert all(f'id="{ledger_page.anchor(entry)}"' in page for entry in measured)
        assert lines[0]["job.seed"] == str(measured[0].job["seed"]) and float(lines[0]["seconds.training"]) >= 0
    assert len({ledger_page.anchor(entry) for entry in entries("early_stopping")}) == len(entries("early_stopping"))
    assert all(experiment(name).__doc__ for name in ("early_stopping", "scale"))
