"""The command, and `nmfcore search`: an index that grows, resumes and refuses what does not fit."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

import nmfcore
from nmfcore import cli, networks, retrieval
from nmfcore.index import Index


@pytest.fixture(autouse=True)
def student(monkeypatch, tmp_path):
    """The network that is always in hand, and a cache of the test's own."""
    found = networks.pretrained("student")
    monkeypatch.setattr(networks, "first_available", lambda *_: found)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return found


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    flower, temple = (sklearn.datasets.load_sample_image(name) for name in ("flower.jpg", "china.jpg"))
    for name, pixels in {"flower": flower, "temple": temple, "cup": skimage.data.coffee(),
                         "cat": skimage.data.chelsea()}.items():
        Image.fromarray(pixels).resize((280, 240)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def index_of(folder, network, where):
    return cli.index_of(cli.PhotoSet.named([folder]), network, where)


# --- the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, says", [
    (["--help"], "heatmaps"), (["heatmaps", "--help"], "-k K"), (["search", "--help"], "QUERY"),
    (["--version"], f"nmfcore {nmfcore.__version__}\n")])
def test_help_imports_no_torch(arguments, says):
    program = f"""
import atexit, sys
atexit.register(lambda: print([name for name in ("torch", "numpy", "sklearn") if name in sys.modules]))
from nmfcore.cli import main
main({arguments!r})"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout and done.stdout.endswith("\n[]\n")


@pytest.mark.parametrize("arguments, message", [
    ([], "COMMAND"), (["heatmaps"], "PHOTOS"), (["search", "photographs"], "QUERY"), (["heatmap", "x"], "heatmap"),
    (["heatmaps", "x", "-k", "three"], "'three'"),
    (["heatmaps", "x", "--device", "toaster"], "'toaster' cannot be used")])
def test_usage_errors_end_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_an_interrupted_command_says_so(folder, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(networks, "first_available", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["heatmaps", str(folder)])
    assert stopped.value.code == 130 and capsys.readouterr().err == "interrupted\n"


# --- search -------------------------------------------------------------------------------------------------


def test_the_page_shows_the_best_match_first_and_names_what_was_left_out(folder, tmp_path, capsys):
    query = tmp_path / "part of a flower.png"
    Image.open(folder / "flower.png").crop((20, 20, 260, 220)).save(query)
    cli.main(["search", str(folder), str(query), "--top", "2", "-o", str(tmp_path)])
    file = tmp_path / "search_photographs_part of a flower.html"
    assert re.fullmatch(rf"4 photographs in \d+ s: {re.escape(str(file))}\n", (said := capsys.readouterr()).out)
    page = file.read_text(encoding="utf-8")
    assert page.count("<figure") == 3
    assert page.index("Query: part of a flower.png") < page.index("1. flower.png, cosine 0.")
    assert "Left out, as they cannot be read: broken.png" in page
    assert "warning: left out: " in said.err and "broken.png" in said.err


@pytest.mark.filterwarnings("ignore:left out")
def test_a_photograph_finds_itself(folder, tmp_path):
    page = cli.search([folder], folder / "cup.png", top=1, output=tmp_path)[0].read_text(encoding="utf-8")
    assert "1. cup.png, cosine 1.00" in page


def test_only_new_photographs_are_described(folder, tmp_path, student, monkeypatch):
    described = []
    real = retrieval.describe
    monkeypatch.setattr(retrieval, "describe", lambda maps, *args, **options: (
        described.append(len(maps)) or real(maps, *args, **options)))
    with pytest.warns(UserWarning, match="broken"):
        first = index_of(folder, student, tmp_path / "index")
        shutil.copy(folder / "cup.png", folder / "another cup.png")
        (folder / "cat.png").unlink()
        second = index_of(folder, student, tmp_path / "index")
    assert described == [4, 1]
    assert second.names == [name for name in first.names if name != "cat.png"] + ["another cup.png"]
    assert Index.load(tmp_path / "index").names == second.names and second.left_out == ["broken.png"]


def test_an_interrupted_index_goes_on_where_it_was(folder, tmp_path, student, monkeypatch):
    monkeypatch.setattr(cli, "AT_ONCE", 1)
    real, calls = retrieval.describe, []

    def fails(maps, *args, **options):
        calls.append(len(maps))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(maps, *args, **options)

    monkeypatch.setattr(retrieval, "describe", fails)
    with pytest.warns(UserWarning, match="broken"):
        with pytest.raises(KeyboardInterrupt):
            index_of(folder, student, tmp_path / "index")
        assert len(Index.load(tmp_path / "index").names) == 2
        assert len(index_of(folder, student, tmp_path / "index").names) == 4
    assert len(calls) == 5  # one was begun twice


@pytest.mark.filterwarnings("ignore:left out")
def test_an_index_of_another_network_is_built_anew(folder, tmp_path, student):
    index = index_of(folder, student, tmp_path / "index")
    index.about = {**index.about, "network": "another"}
    index.save(tmp_path / "index")
    with pytest.warns(UserWarning, match="made with network 'another'.*; it is built anew"):
        assert index_of(folder, student, tmp_path / "index").about["network"] == student[1].source


@pytest.mark.filterwarnings("ignore:left out")
def test_two_folders_of_one_name_have_two_indexes_and_two_pages(tmp_path):
    for place, pixels in (("A", skimage.data.chelsea()), ("B", skimage.data.coffee())):
        (tmp_path / place / "photos").mkdir(parents=True)
        for i, part in enumerate((pixels[:200, :200], pixels[-200:, -200:])):
            Image.fromarray(part).save(tmp_path / place / "photos" / f"IMG_{i}.png")
    pages = {place: cli.search([tmp_path / place / "photos"], tmp_path / place / "photos" / "IMG_1.png", top=1,
                                output=tmp_path)[0] for place in "ABA"}
    assert pages["A"] != pages["B"]
    for page in pages.values():
        assert "1. IMG_1.png, cosine 1.00" in page.read_text(encoding="utf-8")
    indexes = [Index.load(file.parent).descriptors for file in (tmp_path / "cache").glob("nmfcore/search/*/index.json")]
    assert len(indexes) == 2 and float((indexes[0] * indexes[1]).sum(1).max()) < 0.99


@pytest.fixture
def described(monkeypatch):
    """The numbers of photographs that were described, call by call."""
    counts, real = [], retrieval.describe
    monkeypatch.setattr(retrieval, "describe", lambda maps, *args, **options: (
        counts.append(len(maps)) or real(maps, *args, **options)))
    return counts


@pytest.mark.filterwarnings("ignore:left out", "ignore:passed over")
def test_an_edited_photograph_is_described_anew_and_nothing_else(folder, tmp_path, student, described):
    first = index_of(folder, student, tmp_path / "index")
    Image.open(folder / "cup.png").rotate(180).save(folder / "cat.png")
    second = index_of(folder, student, tmp_path / "index")
    assert described == [4, 1] and sorted(second.names) == sorted(first.names)
    fresh = index_of(folder, student, tmp_path / "fresh")
    for name in fresh.names:
        same = second.descriptors[second.names.index(name)] @ fresh.descriptors[fresh.names.index(name)]
        assert float(same) == pytest.approx(1, abs=1e-4)
    assert index_of(folder, student, tmp_path / "index").names == second.names and described == [4, 1, 4]


@pytest.mark.filterwarnings("ignore:left out", "ignore:passed over")
def test_an_index_follows_a_folder_that_becomes_another_or_empty(folder, tmp_path, student, described):
    index_of(folder, student, tmp_path / "index")
    for name in ("cat", "cup", "flower", "temple"):
        (folder / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="no image that can be read"):
        index_of(folder, student, tmp_path / "index")
    Image.fromarray(skimage.data.camera()).save(folder / "cat.png")
    index = index_of(folder, student, tmp_path / "index")
    assert index.names == ["cat.png"] and index.left_out == ["broken.png"] and described == [4, 1]
    Image.fromarray(skimage.data.moon()).save(folder / "broken.png")  # mended
    index = index_of(folder, student, tmp_path / "index")
    assert index.names == ["cat.png", "broken.png"] and index.left_out == []


@pytest.mark.filterwarnings("ignore:left out")
def test_sub_folders_have_an_index_of_their_own(folder, tmp_path, student):
    (folder / "below").mkdir()
    shutil.copy(folder / "cup.png", folder / "below" / "cup.png")
    (folder / "notes.txt").write_text("no photograph")
    with pytest.warns(UserWarning, match=r"1 file \(notes.txt\) of other kinds and 1 folder \(below\)"):
        assert "below/cup.png" not in index_of(folder, student, tmp_path / "index").names
    with pytest.warns(UserWarning, match="1 folder"):  # again, where all is known
        index_of(folder, student, tmp_path / "index")
    page, count = cli.search([folder], folder / "cup.png", top=2, recursive=True, output=tmp_path)
    text = page.read_text(encoding="utf-8")
    assert count == 5 and "below/cup.png, cosine 1.00" in text and "Passed over: 1 file (notes.txt)" in text
    assert cli.search([folder], folder / "cup.png", top=2, output=tmp_path)[1] == 4


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
@pytest.mark.filterwarnings("ignore:left out")
def test_an_index_of_names_that_are_no_text(folder, tmp_path, student, described):
    os.rename(folder / "cup.png", os.path.join(os.fsencode(folder), b"caf\xe9\n.png"))
    query = tmp_path / os.fsdecode(b"na\xefve.png")
    shutil.copy(folder / "cat.png", query)
    for _ in range(2):
        page, count = cli.search([folder], query, top=4, output=tmp_path)
        text = page.read_text(encoding="utf-8")
        assert count == 4 and "caf\\xe9\\n.png, cosine" in text and "Query: na\\xefve.png" in text
    assert described == [4, 1, 1]  # the index, and each query


@pytest.mark.parametrize(("images", "query", "top", "message"), [
    ("nowhere", "cup.png", 3, "'nowhere' is not a folder or file"),
    (".", "nothing.png", 3, "the query 'nothing.png' is not a file"),
    (".", "cup.png", 0, "top=0 matches")])
def test_bad_input_ends_with_a_message(folder, images, query, top, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["search", images, query, "--top", str(top)])
    assert stopped.value.code == 1 and re.fullmatch(f"error: .*{message}.*\n", capsys.readouterr().err)


@pytest.mark.filterwarnings("ignore:left out")
def test_files_can_be_searched(folder, tmp_path, described, monkeypatch):
    files = [folder / f"{name}.png" for name in ("cup", "cat", "broken")]
    page, count = cli.search(files, folder / "cup.png", output=tmp_path)
    text = page.read_text(encoding="utf-8")
    assert count == 2 and "1. cup.png, cosine 1.00" in text and "cannot be read: broken.png." in text
    monkeypatch.chdir(folder)
    again = [*files[::-1], "cat.png"]  # in another order, and one twice
    assert cli.search(again, folder / "cup.png", output=tmp_path)[0] == page and described == [2, 1, 1]
