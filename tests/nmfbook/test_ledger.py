"""The ledger: no measurement is lost, made twice, taken unchecked or changed unseen."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tiny

from nmfbook import files, interrupts, ledger, ledger_page
from nmfbook.__main__ import main
from nmfbook.auditing import audit
from nmfbook.ledger import Entry, Refused, key, read, text_of
from nmfbook.measuring import Runner, measure

TINY = Path(tiny.__file__)
PATIENCE = 240  # seconds that a process of a few may take on a busy machine


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A spool and a ledger of their own, and the experiment `tiny` alone."""
    for name, value in {"NMFBOOK_CACHE": "cache", "TINY_LEDGER": "ledger"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.delenv("NMFCORE_DATA", raising=False)
    monkeypatch.setattr(ledger, "EXPERIMENTS", ("tiny",))
    monkeypatch.setattr(ledger, "LEDGER", tmp_path / "ledger")
    monkeypatch.setitem(sys.modules, "nmfbook.experiments.tiny", tiny)
    monkeypatch.setattr(os, "nice", lambda _: None)
    monkeypatch.setattr(interrupts, "once", lambda: None)
    return tmp_path


def start(*arguments, **environment):
    return subprocess.Popen([sys.executable, TINY, *arguments], env=os.environ | environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def results(book, folder="cache/results"):
    return sorted((book / folder / "tiny").glob("*.json"))


def epochs(book):
    """{key: the processes that did its epochs}"""
    return {path.parent.name: path.read_text().split() for path in (book / "cache" / "weights").rglob("epochs.txt")}


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def an_entry(seed=0):
    return Entry("tiny", {"data": "digits", "seed": seed}, {"training": 1, "measurement": 1},
                 {"auc": [0.5 + 0.1 * seed], "epochs": tiny.EPOCHS},
                 {"data": {"source": "made up", "sha256": "0" * 64}, "device": "CPU", "processor": "one", "threads": 1,
                  "versions": {}, "code": "0", "commit": "0", "cpu_seconds": {"training": 1, "measuring": 1}})


def spooled(book, entry, text=None, name=None):
    path = book / "cache" / "results" / entry.experiment / f"{name or entry.key}.json"
    files.save_text(text or text_of(entry), path)
    return path


# --- files ------------------------------------------------------------------------------------------------


def test_an_entry_is_what_was_written(book):
    path = spooled(book, an_entry())
    assert read(path) == an_entry() and path.stat().st_size < ledger.LARGEST


@pytest.mark.parametrize("change, reason", [
    (lambda text: text.replace("0.5", "0.6"), "digest"), (lambda text: text[:-9], "is not a measurement"),
    (lambda text: "", "is not a measurement"), (lambda text: "[]", "is not a measurement"),
    (lambda text: text.replace('"seed":0', '"seed":1'), "digest")])
def test_a_number_changed_by_hand_is_noticed_when_it_is_loaded(book, change, reason):
    path = book / "ledger" / "tiny" / f"{an_entry().key}.json"
    files.save_text(change(text_of(an_entry())), path)
    with pytest.raises(Refused, match=reason):
        ledger.entries("tiny")


def test_a_job_under_another_name_is_noticed(book):
    with pytest.raises(Refused, match="holds the job tiny/digits-s0"):
        read(spooled(book, an_entry(), name=an_entry(1).key))


def test_a_key_can_be_read_and_depends_on_every_field(book):
    assert key(tiny.Job()).startswith("digits-s0-") and key(tiny.Job()) == an_entry().key
    assert len({key(job) for job in tiny.jobs()}) == len(tiny.jobs())


# --- accepting --------------------------------------------------------------------------------------------


def test_what_lies_in_the_spool_is_taken_and_the_claims_are_judged_again(book, capsys):
    for seed in range(2):
        spooled(book, an_entry(seed))
    assert ledger.accept() == 0
    said = capsys.readouterr().out
    assert "2 jobs taken" in said and "turned: F3.10" in said and "measuring, 0 of 2 → undecided" in said
    assert [entry.job["seed"] for entry in ledger.entries("tiny")] == [0, 1]
    assert ledger.accept() == 0 and "0 jobs taken" in capsys.readouterr().out


@pytest.mark.parametrize("wrong, reason", [
    (dict(job={"data": "digits", "seed": 99}), "no job digits-s99"),
    (dict(versions={"training": 0, "measurement": 1}), "measure it again"),
    (dict(measurements={"auc": [float("nan")]}), "nan"),
    (dict(measurements={"auc": [0.123] * 2000}), "bytes"),
    (dict(measurements={}), "lacks measurements"),
    (dict(provenance={"device": "CPU"}), "lacks code, cpu_seconds"),
    (dict(provenance=an_entry().provenance | {"device": "/home" + "/somebody/gpu"}), "names a path"),
    (dict(experiment="alchemy"), "no experiment 'alchemy'")])
def test_what_cannot_be_taken_is_refused_with_a_reason_and_the_rest_is_taken(book, capsys, wrong, reason):
    spooled(book, replace(an_entry(), **wrong))
    spooled(book, an_entry(1))
    assert ledger.accept() == 1
    said = capsys.readouterr().out
    assert reason in said and "1 jobs taken into data/ledger, 1 refused" in said
    assert [path.stem for path in results(book, "ledger")] == [an_entry(1).key]


def test_a_damaged_file_of_the_spool_is_refused_and_measured_again(book, capsys):
    path = spooled(book, an_entry(), text="{")
    assert ledger.accept() == 1 and "is not a measurement" in capsys.readouterr().out
    assert measure(("tiny",), job="digits-s0") == 0
    assert read(path).measurements == an_entry().measurements


# --- measuring --------------------------------------------------------------------------------------------


def test_missing_jobs_are_done_and_others_named_with_the_data_they_wait_for(book, capsys):
    spooled(book, an_entry(2))
    assert measure() == 0
    said = capsys.readouterr().out
    assert [read(path).job["seed"] for path in results(book)] == [0, 1, 2, 3] and len(epochs(book)) == 3
    assert "5 jobs, 1 of them done" in said and "1 jobs wait for cifar10 (NMFCORE_DATA is not set)" in said
    assert measure() == 0 and all(len(done) == tiny.EPOCHS for done in epochs(book).values())


def test_a_job_of_an_older_version_is_measured_again_from_the_weights_that_are_there(book, monkeypatch):
    measure()
    monkeypatch.setattr(tiny, "MEASUREMENT", 2)
    assert ledger.entries("tiny", book / "cache" / "results") == []
    measure()
    assert [read(path).versions["measurement"] for path in results(book)] == [2] * 4
    assert all(len(done) == tiny.EPOCHS for done in epochs(book).values())


def test_a_job_that_fails_is_named_and_the_others_go_on(book, capsys, monkeypatch):
    monkeypatch.setenv("TINY_BREAK", "1")
    assert measure() == 1
    assert [read(path).job["seed"] for path in results(book)] == [0, 2, 3]
    assert "failed: tiny digits-s1" in capsys.readouterr().out


def test_two_processes_do_no_job_twice(book):
    pair = [start("measure", TINY_SLEEP="0.05") for _ in range(2)]
    assert [process.wait(PATIENCE) for process in pair] == [0, 0]
    assert len(results(book)) == 4
    assert all(len(done) == tiny.EPOCHS and len({*done}) == 1 for done in epochs(book).values())


@pytest.mark.parametrize("moment", ["training", "measuring"])
def test_killed_nothing_is_lost_but_the_running_epoch(book, moment):
    process = start("measure", TINY_SLEEP="0.3")
    enough = 2 if moment == "training" else tiny.EPOCHS
    wait_for(lambda: any(len(done) >= enough for done in epochs(book).values()))
    process.kill()
    process.communicate()
    before = epochs(book)
    assert results(book) == []
    assert main(["measure"]) == 0
    assert len(results(book)) == 4 and all(len(done) == tiny.EPOCHS for done in epochs(book).values())
    assert all(epochs(book)[name][:len(done)] == done for name, done in before.items())


def test_an_entry_says_where_its_network_was_trained(book):
    elsewhere, here = Runner("cpu"), Runner("cpu")
    elsewhere.origin["device"] = "a GPU"
    elsewhere.trained("tiny", tiny.Job())
    entry = here.entry("tiny", tiny.Job())
    assert entry.provenance["device"] == "CPU" and entry.provenance["trained_on"] == ["a GPU"]
    assert "trained on a GPU" in ledger_page.table([entry])
    assert "trained_on" not in here.entry("tiny", tiny.Job(seed=1)).provenance


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_no_process_and_loses_nothing(book, times):
    process = start("measure", TINY_SLEEP="0.2")
    wait_for(lambda: epochs(book))
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "interrupted: what is measured is kept" in said and "Traceback" not in said
    assert not psutil.wait_procs(family, timeout=5)[1]


def test_it_ends_on_time(book, monkeypatch, capsys):
    monkeypatch.setattr(tiny, "SLEEP", PATIENCE)
    begin = time.monotonic()
    assert main(["measure", "--hours", str(1 / 3600)]) == 0
    said = capsys.readouterr().out
    assert "the time is up" in said and "jobs wait for cifar10" in said
    assert time.monotonic() - begin < PATIENCE / 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_said_and_leaves_no_half_file(book, monkeypatch, capsys, number):
    def refuse(_, target):
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr("nmfcore._files.os.replace", refuse)
    assert main(["measure"]) == 1
    said = capsys.readouterr().err
    assert os.strerror(number) in said and "NMFBOOK_CACHE" in said
    assert [path for path in (book / "cache").rglob("*") if "partial" in path.name or path.suffix == ".json"] == []


@pytest.mark.parametrize("arguments, reason", [
    (["measure", "--experiment", "alchemy"], "no experiment 'alchemy'; there are tiny"),
    (["measure", "--hours", "soon"], "HOURS=soon"), (["audit", "--number", "-1"], "N=-1"),
    (["measure", "--job", "none"], "no job begins with 'none'"), (["audit"], "holds no job of at most")])
def test_what_cannot_be_meant_is_named(book, capsys, arguments, reason):
    assert main(arguments) == 2 and reason in capsys.readouterr().err


# --- auditing ---------------------------------------------------------------------------------------------


def test_an_audit_repeats_jobs_and_finds_a_number_that_was_not_measured(book, capsys):
    measure()
    ledger.accept()
    assert audit(3) == 0
    assert capsys.readouterr().out.count("agrees: tiny") == 3
    honest = ledger.entries("tiny")[0]
    false = replace(honest, measurements=honest.measurements | {"auc": [0.51]})
    files.save_text(text_of(false), book / "ledger" / "tiny" / f"{false.key}.json")
    assert audit(4) == 1
    assert f"DIFFERS: tiny {false.key} (same processor" in capsys.readouterr().out


def test_an_audit_compares_texts_and_counts_as_well_as_numbers(book, capsys, monkeypatch):
    """Such as hits and misses, "0110", of which some jobs have nothing else."""
    def measuring(**changes):
        measured = {"auc": [0.5, 0.5], "hits": ["0110", "1"]} | changes
        monkeypatch.setattr(tiny, "measure", lambda job, trained, device="cpu": measured)

    measuring()
    measure()
    ledger.accept()
    assert audit(1) == 0
    for changes in ({"hits": ["0110", "0"]}, {"hits": ["0110"]}, {"auc": [0.5]}, {"epochs": 5}):
        measuring(**changes)
        capsys.readouterr()
        assert audit(1) == 1
        assert "DIFFERS" in capsys.readouterr().out


def test_an_audit_of_one_job_takes_it_whatever_it_costs(book, capsys, monkeypatch):
    measure()
    ledger.accept()
    monkeypatch.setattr("nmfbook.auditing.CHEAP", -1)
    wanted = ledger.entries("tiny")[2].key
    capsys.readouterr()
    assert audit(3, names=("tiny",), job=wanted) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"agrees: tiny {wanted} (")
    with pytest.raises(ValueError, match="no job whose name begins with 'none'"):
        audit(3, job="none")
    with pytest.raises(ValueError, match="no job of at most -1 CPU seconds"):
        audit(3)


def test_on_another_machine_an_audit_allows_the_spread_between_seeds(book, capsys):
    for seed in range(3):
        entry = an_entry(seed)
        files.save_text(text_of(replace(entry, measurements={"auc": [0.55], "epochs": 5} if seed == 0 else
                                        entry.measurements)), book / "ledger" / "tiny" / f"{entry.key}.json")
    assert audit(3) == 0
    said = capsys.readouterr().out
    assert said.count("agrees") == 3 and "another machine or other versions" in said


def test_the_committed_ledger_is_whole_and_fits_the_experiments():
    for name in ledger.EXPERIMENTS:
        for path in (ledger.LEDGER / name).glob("*.json"):
            assert json.loads(path.read_text(encoding="utf-8"))["experiment"] == name
            read(path)
        ledger.entries(name)
