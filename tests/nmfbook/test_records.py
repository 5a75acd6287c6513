"""Numbers with provenance: what is glued comes back, and nothing half-written or misnamed is accepted."""

import csv
import hashlib
import io
import json
import os
import sys
from urllib.parse import unquote
from xml.etree import ElementTree

import nbclient
import nbformat
import numpy as np
import pytest
import torch

from nmfbook import claims, records

RECORD = records.Record(
    "heatmaps", {"profile": "paper", "seed": 0, "device": "cuda"}, {"error": 0.125, "curve": [1.0, 0.5]},
    {"photographs": "two views"}, {"device": "some GPU", "seconds": 3.0})


def test_a_record_comes_back_as_it_was_saved(tmp_path):
    records.save(RECORD, tmp_path)
    assert records.load("heatmaps", tmp_path) == RECORD
    assert records.load("absent", tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["heatmaps.json"]


def test_a_record_stands_before_this_build():
    assert list(records.beside(RECORD, "error", 0.5).items()) == [("recorded", 0.125), ("this build", 0.5)]
    assert records.beside(None, "error", 0.5) == {"this build": 0.5}
    with pytest.raises(KeyError, match="unheard"):
        records.beside(RECORD, "unheard", 0.5)


@pytest.mark.parametrize("path", sorted((records.DATA / "records").glob("*.json")), ids=lambda path: path.stem)
def test_stored_records_hold_measurements_and_no_verdict(path):
    record = records.load(path.stem)
    assert record.chapter == path.stem and record.values and '"verdict"' not in path.read_text(encoding="utf-8")


def test_an_interrupted_save_leaves_the_old_record(tmp_path, monkeypatch):
    records.save(RECORD, tmp_path)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        records.save(records.Record("heatmaps", {}), tmp_path)
    assert records.load("heatmaps", tmp_path) == RECORD


@pytest.mark.parametrize("damage", [lambda text: text[:-30], lambda text: "[]", lambda text: '{"unheard": 1}'])
def test_a_damaged_record_is_named_with_the_cure(tmp_path, damage):
    path = records.save(RECORD, tmp_path)
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=r"heatmaps\.json is not a record .*make record CHAPTER=heatmaps"):
        records.load("heatmaps", tmp_path)


@pytest.mark.parametrize("value, expected", [
    (0.123456, 0.123), (123456.0, 123000.0), (7, 7), (True, True), ("text", "text"), ([0.12345, [1]], [0.123, [1]]),
    ({"a": 0.12345, "b": {"c": [1.0001, 7], 3: "text"}}, {"a": 0.123, "b": {"c": [1.0, 7], 3: "text"}}),
    ([{"error": np.float32(0.77777)}], [{"error": 0.778}]), ({}, {}), ({"t": torch.tensor([0.5, 0.25001])},
                                                                       {"t": [0.5, 0.25]}),
    (np.float64(0.98765), 0.988), (np.int64(3), 3), (torch.tensor([0.11111, 2.0]), [0.111, 2.0]),
])
def test_rounding_to_significant_digits_gives_plain_values(value, expected):
    result = records.rounded(value)
    assert result == expected and type(result) is type(expected)
    json.dumps(result)


@pytest.mark.parametrize("name, given, complaint", [
    ("F9.99", {"verdict": "shown"}, r"no row 'F9\.99'"),
    ("F2.13", {"verdict": "reproduced"}, "'reproduced' is computed, give answers; only shown"),
    ("F2.13", {}, "either answers to its claims or a verdict"),
    ("F2.13", {"answers": ["holds"], "verdict": "shown"}, "either answers to its claims or a verdict"),
    ("F2.13", {"answers": ["yes"]}, "expected at least one, each of holds, fails, undecided"),
])
def test_unknown_rows_answers_and_typed_verdicts_are_refused(name, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        records.row(name, value="1", data="none", **given)


@pytest.mark.parametrize("answers, met, otherwise", [
    (["holds", "holds"], "reproduced", "holds at smaller scale"),
    (["holds", "fails", "undecided"], "mixed", "mixed"),
    (["fails", "undecided"], "contradicted", "fails at smaller scale"),
    (["holds", "undecided"], "undecided", "undecided"),
])
def test_verdicts_follow_from_answers_and_protocol(answers, met, otherwise):
    assert claims.verdict(answers, protocol_met=True) == met
    assert claims.verdict(answers, protocol_met=False) == otherwise


def test_a_table(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda thing: shown.append(thing.data))
    records.table(("<i>p</i>", "AuC"), (0, 0.5), (1, "–"))
    root = ElementTree.fromstring(shown[0])
    cells = [[(cell.tag, "".join(cell.itertext())) for cell in line] for line in root.iter("tr")]
    assert cells == [[("th", "p"), ("th", "AuC")], [("td", "0"), ("td", "0.5")], [("td", "1"), ("td", "–")]]
    assert root.find(".//a") is None


def test_a_table_is_also_given_as_csv(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda thing: shown.append(thing.data))
    records.table(("<i>p</i>, share", "AuC &lt; 1"), (0, "50 %"), ('<a href="#x">"a"</a>', "–"), file="curves")
    link = ElementTree.fromstring(f"<div>{shown[0]}</div>").find("./p/a")
    kind, _, text = link.get("href").partition(",")
    assert kind == "data:text/csv;charset=utf-8" and link.get("download") == link.text == "curves.csv"
    assert list(csv.reader(io.StringIO(unquote(text)))) == [["p, share", "AuC < 1"], ["0", "50 %"], ['"a"', "–"]]


def test_what_a_chapter_reports_is_collected():
    source = """
import numpy as np
import torch
from nmfbook import records
class Photographs:
    images = torch.zeros(2, 1)
    source = "two views of it's a \\"motorcycle\\""
records.used(photographs=Photographs)
records.glue("error", 0.123456)
records.glue("curve", np.array([0.5, 0.25]))
records.row("F2.13", value="49 'parts', ≈ V", data="faces", answers=["fails"], note='a "note"')
records.row("F2.13", value="more", data="more faces", answers=["holds"], protocol_met=True, recorded=True)
records.row("F2.12", value="points", data="faces", verdict="shown")
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata={
        "papermill": {"parameters": {"profile": "quick", "seed": 0, "device": "cpu"}, "duration": 2.04}})
    nbclient.execute(notebook)
    record = records.collect(notebook, "factorization")
    assert record.values == {"error": 0.123, "curve": [0.5, 0.25]}
    built, recorded = records.reports(notebook)
    assert built == {
        "F2.13": {"value": "49 'parts', ≈ V", "data": "faces", "verdict": "fails at smaller scale", "note": 'a "note"'},
        "F2.12": {"value": "points", "data": "faces", "verdict": "shown", "note": ""}}
    assert recorded == {"F2.13": {"value": "more", "data": "more faces", "verdict": "reproduced", "note": ""}}
    assert record.used == {"photographs": 'two views of it\'s a "motorcycle"'}
    assert record.parameters["profile"] == "quick" and record.provenance["seconds"] == 2.0
    assert record.provenance["data"] == {"photographs": hashlib.sha256(bytes(8)).hexdigest()}
    assert record.provenance["versions"]["torch"] and len(record.provenance["source"]) == 64
    page = "".join(output.data.get("text/markdown", "") for output in notebook.cells[0].outputs if "data" in output)
    assert 'two views of it\'s a "motorcycle"' in page


def test_the_hash_of_a_run_is_that_of_what_it_has_loaded(monkeypatch):
    """A notebook that is not run again when another module changes must not differ from itself."""
    before = records.provenance()["source"]
    assert records.provenance()["source"] == before != records.source_hash()
    monkeypatch.delitem(sys.modules, "nmfbook.records")
    assert records.provenance()["source"] != before
