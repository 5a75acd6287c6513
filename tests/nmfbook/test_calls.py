"""The code that a chapter shows: it fits the column of the page, and runs without what the chapter hides."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nmfbook.build import notebook_of

BOOK = Path(__file__).resolve().parents[2] / "book"
COLUMN = 84  # characters of a line in sight, where the window is 1280 pixels wide
LINES = {"style_transfer": 28, "generalization": 25}  # of the longest cell in sight
MOST = 22  # on all other pages
HIDDEN = {"remove-input", "remove-cell", "hide-input", "hide-cell"}


def in_sight(text):
    """Source of each code cell that a reader sees."""
    return [cell.source for cell in notebook_of(text).cells
            if cell.cell_type == "code" and not HIDDEN & set(cell.metadata.get("tags", ()))]


def undefined(folder, programs):
    """What each of {name: source} uses and does not define, as ruff says it."""
    for name, source in programs.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821"]
    found = subprocess.run([*command, "--output-format", "concise", "."], cwd=folder, capture_output=True, text=True)
    assert found.returncode < 2, found.stderr
    return [line for line in found.stdout.splitlines() if ".py:" in line]


PAGES = {path.stem: in_sight(path.read_text(encoding="utf-8")) for path in sorted(BOOK.glob("*.md"))}
CALLS = {name: cells for name, cells in PAGES.items() if cells}


@pytest.mark.parametrize("name", CALLS)
def test_lines_fit_the_column(name):
    assert [line for cell in CALLS[name] for line in cell.splitlines() if len(line) > COLUMN] == []


def test_lines_to_copy_fit_the_column():
    fenced = [block for path in BOOK.glob("*.md")
              for block in re.findall(r"^```[a-z]+\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)]
    assert fenced and [line for block in fenced for line in block.splitlines() if len(line) > COLUMN] == []


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_short(name):
    assert max(sum(map(bool, cell.splitlines())) for cell in CALLS[name]) <= LINES.get(name, MOST)


def test_cells_in_sight_stand_alone(tmp_path):
    assert undefined(tmp_path, {name: "\n".join(cells) for name, cells in CALLS.items()}) == []


def test_what_only_a_hidden_cell_defines_is_found(tmp_path):
    page = "".join(f"```{{code-cell}} ipython3\n:tags: [{tags}]\n{code}\n```\n\n"
                   for tags, code in (("remove-cell", "rank = 3"), ("hide-output", "print(rank)")))
    assert in_sight(page) == ["print(rank)"]
    assert "Undefined name `rank`" in undefined(tmp_path, {"page": in_sight(page)[0]})[0]
