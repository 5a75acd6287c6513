"""From chapters to pages, on a book of a few lines: what runs, what is skipped, what is refused, what stays behind."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nbformat
import nbval.kernel
import psutil
import pytest
from bs4 import BeautifulSoup
from test_site import dead_links, foreign, mute, parsed

from nmfbook import build, claims, records, reproduction

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, "-m", "nmfbook.build"]

GIVEN = {"profile": "quick", "seed": 0, "device": "cpu"}
HEAD = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# {title}

```{{code-cell}} ipython3
:tags: [parameters, remove-cell]
profile = "quick"
seed = 0
device = "cpu"
```

"""


def chapter(title, *cells, text=""):
    return HEAD.format(title=title) + text + "".join(f"\n```{{code-cell}} ipython3\n{cell}\n```\n" for cell in cells)


def write_book(root, **chapters):
    """A repository with only what the pipeline reads; the first chapter is the landing page."""
    (root / "book").mkdir(parents=True)
    for name, source in chapters.items():
        (root / "book" / f"{name}.md").write_text(source, encoding="utf-8")
    first, *others = [*chapters, "reproduction", "build_log"]
    rest = "".join(f"- file: book/{name}\n" for name in others)
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/{first}\nchapters:\n{rest}")
    for name in ("_config.yml", "book/references.bib", "requirements.txt", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, root / name)
    shutil.copytree(REPOSITORY / "book" / "_assets", root / "book" / "_assets")
    for name, text in {"nmfcore/nmf.py": "x = 1\n", "nmfbook/build.py": "y = 1\n",
                       "data/models/net.txt": "z\n"}.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    (root / "data/thesis").mkdir()
    (root / "data/thesis/rows.csv").write_text(
        'row,chapter,page_chapter,title,thesis,source,waits\n'
        'F2.13,2,first,Parts of *faces* | $1,"K = 49","Figure 2.13",\n'
        'F2.14,2,unsound,Points,,"Figure 2.14",not tested: the *points* are lost\n')
    return root


def run(root, *arguments):
    command = [*TOOL, *arguments, "--root", root]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# Arguments and parameters


@pytest.mark.parametrize("arguments, names", [
    (["book", "--profile", "huge"], ["huge", "quick", "desk", "paper"]),
    (["book", "--device", "abacus"], ["abacus", "cuda"]),
    (["book", "--seed", "x"], ["x", "seed"]),
    (["book", "--temperature", "3"], ["--temperature"]),
    (["execute", "second"], ["second", "first"]),
    (["execute", "--profile", "quick", "--seed", "0", "second"], ["second", "first"]),  # the order make uses
    (["record"], ["CHAPTER"]),
])
def test_wrong_arguments_are_named_with_the_right_ones(tmp_path, capsys, arguments, names):
    write_book(tmp_path, first=chapter("First", "print(1)"))
    assert build.main([*arguments, "--root", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(name in message for name in names)


@pytest.mark.parametrize("change, complaint", [
    (("parameters, ", ""), "0 cells"),
    (("seed = 0\n", ""), "device, profile;"),
    (("seed = 0\n", "seed = 0\nrank = 3\n"), "rank"),
    (("seed = 0\n", "seed =\n"), "not Python"),
])
def test_the_parameters_cell_is_checked_before_anything_runs(tmp_path, capsys, change, complaint):
    write_book(tmp_path, first=chapter("First", "print(1)").replace(*change))
    assert build.main(["execute", "--root", str(tmp_path)]) == 2
    assert complaint in capsys.readouterr().err


def test_an_unknown_make_variable_is_named():
    result = subprocess.run(["make", "help", "PROFIL=quick"], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2 and "PROFIL" in result.stderr and "PROFILE" in result.stderr


# The skip key


@pytest.mark.parametrize("name, path", [
    ("nmfcore", "nmfcore/nmf.py"), ("nmfcore", "nmfcore/models/net.json"), ("requirements.txt", "requirements.txt"),
    ("data/", "data/models/net.txt"),
    ("outside data", "outside/faces/1.pgm"), ("outside data", "torch/hub/checkpoints/vgg.pth"),
])
def test_each_input_changes_the_key(tmp_path, monkeypatch, name, path):
    write_book(tmp_path, first="")
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path / "outside"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    before = build.fingerprints(tmp_path, 1)
    assert before == build.fingerprints(tmp_path, 1)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("other")
    after = build.fingerprints(tmp_path, 1)
    assert [key for key in before if before[key] != after[key]] == [name]


def changed(root, source, files):
    """Which of what a chapter depends on differs after each file is written."""
    found = []
    for path in files:
        before = build.own(root, source)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("changed = 1\n")
        found.append([name for name, value in build.own(root, source).items() if value != before[name]])
    return found


def test_the_jobs_and_records_that_it_names_alone_run_a_chapter_again(tmp_path):
    draws = chapter("Draws", "from nmfbook import records\nfrom nmfbook.ledger import entries\n"
                             "entries('tiny'), records.load(\"faces\")")
    mentions = chapter("Mentions", "name = 'tiny', tiny")
    write_book(tmp_path, first=draws)
    common = build.fingerprints(tmp_path, 1)
    files = ("data/ledger/tiny/job.json", "data/ledger/other/job.json", "data/records/faces.json",
             "data/records/tiles.json")
    assert changed(tmp_path, draws, files) == [["ledger"], [], ["records"], []]
    assert changed(tmp_path, mentions, ("data/ledger/tiny/other.json", "data/records/tiles.json")) == [[], []]
    assert build.fingerprints(tmp_path, 1) == common


def test_the_modules_that_it_imports_alone_run_a_chapter_again(tmp_path):
    source = chapter("Imports", "from nmfbook import first\nimport nmfbook.rooms.second as one\nmeasured('named')\n"
                                "from nmfbook.ledger import entries")
    write_book(tmp_path, first=source)
    for name, text in {"__init__": "", "first": "from . import third\n", "third": "", "ledger": "", "alone": "",
                       "rooms/__init__": "from ..fourth import x\n", "rooms/second": "from .fifth import y\n",
                       "rooms/fifth": "", "fourth": "", "sixth": "", "experiments/__init__": "",
                       "experiments/named": "from .. import sixth", "experiments/other": ""}.items():
        path = tmp_path / f"nmfbook/{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    again = ("sixth.py", "third.py", "fourth.py", "rooms/fifth.py", "rooms/view.js", "__init__.py", "ledger.py")
    assert changed(tmp_path, source, [f"nmfbook/{name}" for name in again]) == [["nmfbook"]] * len(again)
    others = [f"nmfbook/{name}.py" for name in ("alone", "build", "experiments/other")]
    assert changed(tmp_path, source, others) == [[]] * 3
    anything = chapter("Anything", "!ls\nfrom nmfbook import first")  # not Python alone
    assert changed(tmp_path, anything, ["nmfbook/new.py"]) == [["nmfbook"]]


def test_threads_and_the_data_folder_change_the_key(tmp_path, monkeypatch):
    monkeypatch.delenv("NMFCORE_DATA", raising=False)
    before = build.fingerprints(tmp_path, 1)
    assert build.fingerprints(tmp_path, 2) != before
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path / "elsewhere"))
    assert build.fingerprints(tmp_path, 1) != before


def test_changed_or_damaged_results_are_stale(tmp_path):
    path, inputs = tmp_path / "first.ipynb", {"chapter": "a", "parameters": "b"}
    assert build.stale(path, inputs) == "not yet run"
    nbformat.write(nbformat.v4.new_notebook(metadata={"nmfcore": {"inputs": inputs}}), path)
    assert build.stale(path, inputs) is None
    assert build.stale(path, inputs | {"chapter": "c"}) == "chapter changed"
    path.write_bytes(path.read_bytes()[:-20])
    assert build.stale(path, inputs) == "damaged result"


# Execution


def test_failing_chapter(tmp_path):
    write_book(tmp_path, first=chapter("First", "rank = 0\n1 / rank"))
    result = run(tmp_path, "execute")
    assert result.returncode == 1
    assert "first failed" in result.stderr and "1 / rank" in result.stderr and "ZeroDivisionError" in result.stderr
    partial = re.search(r"Partial notebook: (\S+)", result.stderr)[1]
    assert nbformat.read(tmp_path / partial, as_version=4).cells
    assert not list((tmp_path / "_build/quick/book").iterdir())


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted_build_leaves_nothing_half_written_and_resumes(tmp_path, times):
    flag = tmp_path / "flag"
    slow = "import pathlib, time\ntime.sleep(0 if pathlib.Path('../../../flag').exists() else 600)"
    noisy = "import sys\nprint('progress', file=sys.stderr)\nseed"
    write_book(tmp_path, first=chapter("First", noisy), second=chapter("Second", slow))
    process = subprocess.Popen([*TOOL, "execute", "--root", tmp_path, "--seed", "7"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not re.match(r"  first: \d+ s", process.stdout.readline()):
        assert process.poll() is None
    wait_for(lambda: (tmp_path / "_build/quick/partial/second.ipynb").exists())
    family = psutil.Process(process.pid).children(recursive=True)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)  # else the two are one
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130 and "kept" in message
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert os.listdir(tmp_path / "_build/quick/book") == ["first.ipynb"]
    assert not os.listdir(tmp_path / "_build/quick/partial")

    flag.touch()
    result = run(tmp_path, "execute", "--seed", "7")
    assert result.returncode == 0 and "first: unchanged" in result.stdout and re.search(r"second: \d+ s", result.stdout)
    notebook = nbformat.read(tmp_path / "_build/quick/book/first.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[-1].data["text/plain"] == "7"
    assert notebook.cells[2].metadata.tags == ["injected-parameters", "remove-cell"]
    assert len(notebook.cells[-1].outputs) == 1 and str(tmp_path) not in nbformat.writes(notebook)


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which nobody may write")
def test_read_only_output_folder(tmp_path, capsys):
    write_book(tmp_path, first=chapter("First", "print(1)"))
    (tmp_path / "_build").symlink_to("/sys/kernel")
    assert build.main(["execute", "--root", str(tmp_path)]) == 1
    assert "make it writable" in capsys.readouterr().err


def test_full_disk(tmp_path):
    write_book(tmp_path, first=chapter("First", "raise OSError(28, 'No space left on device')"))
    result = run(tmp_path, "execute")
    assert result.returncode == 1 and "free some space" in result.stderr and "Traceback" not in result.stderr
    assert not os.listdir(tmp_path / "_build/quick/book") and not os.listdir(tmp_path / "_build/quick/partial")


# Outputs and pages


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def executed(*cells):
    """An executed notebook: Markdown as text, code as (source, outputs)."""
    made = [nbformat.v4.new_markdown_cell(cell) if isinstance(cell, str) else
            nbformat.v4.new_code_cell(cell[0], outputs=cell[1], execution_count=1) for cell in cells]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=made, metadata={
        "kernelspec": kernel, "papermill": {"parameters": GIVEN, "duration": 1.0},
        "nmfcore": {"inputs": {}, "cost": {"seconds": 1, "gigabytes": 0.1}}})


def shown(**data):
    return nbformat.v4.new_output("display_data", {kind.replace("_", "/"): value for kind, value in data.items()})


def glued(name, value):
    prefix = "application/papermill.record/"
    return nbformat.v4.new_output("display_data", {f"{prefix}text/plain": repr(value)},
                                  metadata={"scrapbook": {"name": name, "mime_prefix": prefix}})


def test_irreproducible_output_fails(tmp_path):
    shutil.copy(REPOSITORY / "conftest.py", tmp_path)
    text = "from IPython.display import Image, display\nimport base64\n"
    slow = "import sys\nprint('this machine is slow', file=sys.stderr)\n"
    picture = text + slow + "display(Image(base64.b64decode({!r})))\n'hidden by the semicolon';"
    noisy = text + "import os\ndisplay(Image(base64.b64decode({!r}) + os.urandom(8)))"
    name = shown(image_png=PIXEL, text_plain="<IPython.core.display.Image object>")
    nbformat.write(executed((picture.format(PIXEL), [name])), tmp_path / "same.ipynb")
    nbformat.write(executed((noisy.format(PIXEL), [name])), tmp_path / "noisy.ipynb")
    stamp = nbformat.v4.new_output("stream", name="stdout", text="1\n")
    nbformat.write(executed(("import time\nprint(time.time_ns())", [stamp])), tmp_path / "clock.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert re.findall(r"^FAILED (\w+)\.ipynb", result.stdout, re.M) == ["clock", "noisy"], result.stdout


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A site of one sound and one unsound chapter."""
    root = write_book(tmp_path_factory.mktemp("site"), sound=HEAD, unsound=HEAD)
    report = '{"value": "49 *parts* | <b>", "data": "faces", "verdict": "reproduced", "note": ""}'
    figure = ("show()", [shown(image_png=PIXEL, text_plain="<Figure>")])
    sound = executed("# Sound\n\n$a^2$ in {ref}`the list <reproduction>`\n\n(row-f2-13)=", figure,
                     ("report()", [glued("row:F2.13", report), glued("answer", 0.5)]), "It is {glue:text}`answer`.")
    sound.cells[1].metadata["mystnb"] = {"image": {"alt": "A dot"}, "figure": {"caption": "A dot.", "name": "fig-dot"}}
    script = '<script src="https://cdn.example/x.js"></script>'
    unsound = executed("# Unsound", figure, ("HTML()", [shown(text_html=script, text_plain="<HTML>")]))
    notebooks = {}
    for name, notebook in {"sound": sound, "unsound": unsound}.items():
        notebooks[name] = root / "_build/quick/book" / f"{name}.ipynb"
        notebooks[name].parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, notebooks[name])
    build.site(root, notebooks)
    return root, notebooks


def test_site(pages):
    root, _ = pages
    html = root / "_build/html"
    sound, unsound = ((html / f"book/{name}.html").read_text(encoding="utf-8") for name in ("sound", "unsound"))
    assert (html / "index.html").exists()
    assert (root / "_build/site/CHANGELOG.md").exists()  # book/changelog.md includes it
    assert foreign(sound) == [] and mute(sound) == []
    assert dead_links("book/sound.html", html) == []
    assert foreign(unsound) == ["https://cdn.example/x.js"] and len(mute(unsound)) == 2
    report = parsed(html / "book/reproduction.html")
    done, waiting = report.select("details.nmf-row")
    assert done.select_one("a[href='sound.html#row-f2-13']") and done["id"] == "row-f2-13"
    assert "49 *parts* | <b>" in done.get_text() and "Parts of *faces* | $1" in done.get_text()
    assert "✓ reproduced" in done.get_text() and "– not tested" in waiting.get_text()
    assert waiting.select_one("a[href='unsound.html']") and "the *points* are lost" in waiting.get_text()
    squares = report.select(".nmf-strip a")
    assert [square["href"] for square in squares] == [f"#{row['id']}" for row in (done, waiting)]
    assert [button["data-verdict"] for button in report.select(".nmf-filters button")] == ["reproduced", "not tested"]
    lines = list(csv.DictReader(io.StringIO((root / "_build/site/book/reproduction.csv").read_text(encoding="utf-8"))))
    assert [(line["row"], line["verdict"]) for line in lines] == [("F2.13", "reproduced"), ("F2.14", "not tested")]
    assert "sound" in parsed(html / "book/build_log.html").get_text()
    cells = nbformat.read(html / "_sources/book/sound.ipynb", as_version=4).cells
    assert not any(cell.get("outputs") for cell in cells) and any("report()" in cell.source for cell in cells)
    assert {path.suffix for path in (html / "_static/mathjax").iterdir() if path.is_file()} == {".js"}
    assert sum(path.stat().st_size for path in html.rglob("*") if path.is_file()) < 16 * 2**20


def test_a_row_that_the_ledger_answers_shows_its_claims_and_needs_no_chapter(pages):
    root, notebooks = pages
    rows = root / "data/thesis/rows.csv"
    before = rows.read_text(encoding="utf-8")
    rows.write_text(re.sub(r"F2\.14,(.*),[^,]*", r"F3.10,\1,", before), encoding="utf-8")
    try:
        with pytest.raises(ValueError, match=r"no page has the target \(row-f3-10\)= for row F3\.10"):
            reproduction.pages(root, notebooks)
        text = reproduction.pages(root, notebooks | {"unsound": with_target(root, notebooks["unsound"], "row-f3-10")})
    finally:
        rows.write_text(before, encoding="utf-8")
    done, measuring = BeautifulSoup(text["reproduction"], "html.parser").select("details.nmf-row")
    assert "measured runs" not in done.get_text() and "measured runs" in measuring.get_text()
    assert "measuring, 0 of 1" in measuring.get_text() and len(measuring.select("li")) == 3
    assert "1/8 width" in measuring.get_text() and "… measuring" in measuring.get_text()
    assert measuring.select_one("a[href='unsound.html#row-f3-10']")


def with_target(root, path, name):
    """A copy of a notebook that has the target of a row."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(f"({name})="))
    copy = root / "_build/with_target" / path.name
    copy.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, copy)
    return copy


@contextmanager
def added_page(root, name):
    """A page of the book that is there for as long as it is looked at."""
    page = root / f"book/{name}.md"
    try:
        yield page
    finally:
        page.unlink()


def test_outcomes_in_prose_are_what_the_ledger_says(pages):
    root, notebooks = pages
    with added_page(root, "outcome") as page:
        page.write_text("# Outcome\n\nIt is open {claim}`F3.10/near = measuring`.\n")
        text = reproduction.pages(root, notebooks)["outcome"]
        assert re.search(r"It is open \(\{ref\}`measuring, 0 of \d+ <ledger-early-stopping>`\)\.", text)
        page.write_text("# Outcome\n\nThe maxima\nmeet {claim}`F3.10/near = holds`. {claim}`F3.10/far = holds`\n")
        with pytest.raises(build.Trouble, match=r"(?s)outcome.md, line 4: «.*The maxima meet» states that F3.10/near "
                           r"holds, and the ledger says measuring.*there is no claim 'F3.10/far'.*'F3.10/near'"):
            build.site(root, notebooks)


def with_report(root, notebooks, verdict, note):
    """The pages where a chapter reports on a row that the ledger answers, too, and prose shows its verdict."""
    rows, page = root / "data/thesis/rows.csv", root / "book/what_changed_our_mind.md"
    before = rows.read_text(encoding="utf-8")
    notebook = nbformat.read(notebooks["unsound"], as_version=4)
    report = json.dumps({"value": "late", "data": "few images", "verdict": verdict, "note": note})
    notebook.cells += executed("(row-f3-10)=", ("report()", [glued("row:F3.10", report)])).cells
    other = root / "_build/other/unsound.ipynb"
    other.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, other)
    page.write_text("# Changed\n\nNow: {verdict}`F3.10`\n", encoding="utf-8")
    rows.write_text(re.sub(r"F2\.14,.*", 'F3.10,3,unsound,Stop,,"Figure 3.10",', before), encoding="utf-8")
    try:
        return reproduction.pages(root, notebooks | {"unsound": other})
    finally:
        rows.write_text(before, encoding="utf-8")
        page.unlink()


@pytest.mark.parametrize("small, shown", [("fails at smaller scale", "… measuring"),
                                          ("holds at smaller scale", "◐ holds at smaller scale")])
def test_no_small_run_speaks_against_the_thesis_while_a_larger_one_is_measured(pages, small, shown):
    found = with_report(*pages, small, "")
    assert shown in BeautifulSoup(found["reproduction"], "html.parser").select_one("#row-f3-10").get_text()
    rests_on = "0 of 12" if "measuring" in shown else "few images"
    assert shown in found["what_changed_our_mind"] and f"({rests_on})" in found["what_changed_our_mind"]


def test_judged_claims_go_before_what_a_chapter_reports(pages, monkeypatch):
    judged = [replace(judgment, answer="holds", interval=(1.0, 0.5, 1.5), n=12) if judgment.claim.row == "F3.10" else
              judgment for judgment in claims.judge_all()]
    monkeypatch.setattr(claims, "judge_all", lambda ledger=None: judged)
    found = with_report(*pages, "undecided", "A guess.")
    line = BeautifulSoup(found["reproduction"], "html.parser").select_one("#row-f3-10").get_text()
    assert "holds at smaller scale" in line and "undecided. A guess." in line
    assert "12 runs" in found["what_changed_our_mind"] and "few images" not in found["what_changed_our_mind"]


def test_the_verdict_is_that_of_the_recorded_run(pages):
    root, notebooks = pages
    report = '{"value": "50", "data": "more faces", "verdict": "fails at smaller scale", "note": "More of them."}'
    notebook = nbformat.read(notebooks["sound"], as_version=4)
    notebook.cells.append(executed(("report()", [glued("row:F2.13, recorded", report)])).cells[0])
    both = root / "_build/both/sound.ipynb"
    both.parent.mkdir()
    nbformat.write(notebook, both)
    with pytest.raises(ValueError, match="has no record"):
        reproduction.pages(root, notebooks | {"sound": both})
    record = records.Record("sound", {"profile": "paper"}, provenance={"device": "abacus"})
    path = records.save(record, root / "data" / "records")
    try:
        found = reproduction.pages(root, notebooks | {"sound": both})
    finally:
        path.unlink()
    text = found["reproduction"]
    assert '<span id="record-sound"></span>**sound**' in found["ledger"] and "CHAPTER=sound" in found["ledger"]
    assert 'href="ledger.html#record-sound"' in found["sound"].cells[-1].source
    assert "record-" not in found["unsound"].cells[-1].source
    card = BeautifulSoup(text, "html.parser").select_one("#row-f2-13").get_text()
    assert "≠ fails at smaller scale" in card and "recorded run (paper, abacus)" in card
    assert card.index("more faces") < card.index("this build (quick") and "reproduced." in card


def test_dead_references_stop_the_site_and_keep_the_old_one(pages):
    root, notebooks = pages
    old = (root / "_build/html/book/sound.html").read_bytes()
    report = '{"value": "2", "data": "points", "verdict": "undecided", "note": ""}'
    cells = "# Sound\n\n{ref}`nowhere <no-such-place>`", ("report()", [glued("row:F2.14", report)])
    for dead, more in {r"\(row-f2-14\)=": (), "no-such-place": ("(row-f2-14)=",)}.items():
        broken = executed(*cells, *more)
        other = root / "_build/broken.ipynb"
        nbformat.write(broken, other)
        with waits(root, {"F2.13": "measuring: faces", "F2.14": ""}), pytest.raises(build.Trouble, match=dead):
            build.site(root, notebooks | {"sound": other})
    assert (root / "_build/html/book/sound.html").read_bytes() == old


@contextmanager
def waits(root, column):
    """Another last column in `rows.csv`: row -> what it waits for."""
    path = root / "data/thesis/rows.csv"
    before = path.read_text()
    head, *lines = before.splitlines()
    changed = [line.rpartition(",")[0] + "," + column[line.partition(",")[0]] for line in lines]
    path.write_text("\n".join([head, *changed, ""]))
    try:
        yield
    finally:
        path.write_text(before)


@pytest.mark.parametrize("column, complaint", [
    ({"F2.13": "", "F2.14": ""}, "F2.14 is reported by no chapter: say in `waits`"),
    ({"F2.13": "measuring: x", "F2.14": "measuring: x"}, "F2.13 is reported by a chapter or the ledger: empty `waits`"),
    ({"F2.13": "", "F2.14": "perhaps: later"}, "F2.14: 'perhaps' is not one of reproduced"),
])
def test_a_row_is_reported_or_says_what_it_waits_for(pages, column, complaint):
    root, notebooks = pages
    with waits(root, column), pytest.raises(ValueError, match=complaint):
        reproduction.pages(root, notebooks)


def test_a_page_of_the_book_shows_computed_verdicts(pages):
    root, notebooks = pages
    with added_page(root, "what_changed_our_mind") as page:
        page.write_text("# Changed\n\nNow: {verdict}`F2.13`\n")
        text = reproduction.pages(root, notebooks)["what_changed_our_mind"]
        assert "[✓ reproduced]{.nmf-verdict .nmf-reproduced} {ref}`F2.13 <row-f2-13>` (faces)" in text
        page.write_text("# Changed\n\n{rows}`all`\n")
        strip = BeautifulSoup(reproduction.pages(root, notebooks)["what_changed_our_mind"], "html.parser")
        assert [a["href"] for a in strip.select("a")] == [f"reproduction.html#row-f2-1{i}" for i in (3, 4)]
        assert "Of 2 rows: 1 reproduced, 1 not tested." in strip.get_text()
        page.write_text("Now: {verdict}`F2.14`\n")
        with pytest.raises(ValueError, match=r"F2\.14, on which nothing reports"):
            reproduction.pages(root, notebooks)


def test_rows_that_the_thesis_does_not_have_or_that_come_twice_are_refused(pages):
    root, notebooks = pages
    with pytest.raises(build.Trouble, match="reported by both"):
        build.site(root, notebooks | {"again": notebooks["sound"]})


def test_record_keeps_what_was_measured(pages):
    from nmfbook import records

    root, notebooks = pages
    build.record(root, "sound", notebooks["sound"])
    record = records.load("sound", root / "data" / "records")
    assert record.values == {"answer": 0.5}  # and no verdict: that is computed on every build
    assert record.parameters == GIVEN


def test_a_kernel_that_dies_as_it_starts_is_started_again_when_notebooks_are_repeated(monkeypatch):
    starts = []

    class Manager(nbval.kernel.KernelManager):
        def format_kernel_cmd(self, *given, **options):
            starts.append(self)
            return [sys.executable, "-c", ""] if len(starts) == 1 else super().format_kernel_cmd(*given, **options)

    monkeypatch.setattr(nbval.kernel, "KernelManager", Manager)
    manager, client = nbval.kernel.start_new_kernel(kernel_name=nbval.kernel.CURRENT_ENV_KERNEL_NAME)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    assert len(starts) == 2
