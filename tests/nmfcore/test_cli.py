"""Searching a folder of photographs: an index that grows, resumes and refuses what does not fit."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

from nmfcore import networks
from nmfcore.index import Index

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import search


@pytest.fixture(autouse=True)
def student(monkeypatch):
    """The network that is always in hand."""
    found = networks.pretrained("student")
    monkeypatch.setattr(search.networks, "first_available", lambda *_: found)
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


def test_the_page_shows_the_best_match_first_and_names_what_was_left_out(folder, tmp_path, capsys):
    query = tmp_path / "part of a flower.png"
    Image.open(folder / "flower.png").crop((20, 20, 260, 220)).save(query)
    file, count = search.make(folder, query, top=2, output=tmp_path / "out")
    page = file.read_text(encoding="utf-8")
    assert count == 4 and page.count("<figure") == 3
    assert page.index("Query: part of a flower.png") < page.index("1. flower.png, cosine 0.")
    assert "Left out, as they cannot be read: broken.png" in page
    assert "broken.png" in capsys.readouterr().err


def test_a_photograph_finds_itself(folder, tmp_path):
    page = search.make(folder, folder / "cup.png", top=1, output=tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "1. cup.png, cosine 1.00" in page


def test_only_new_photographs_are_described(folder, tmp_path, student, monkeypatch):
    described = []
    real = search.describe
    monkeypatch.setattr(search, "describe", lambda maps, *args, **options: (
        described.append(len(maps)) or real(maps, *args, **options)))
    with pytest.warns(UserWarning, match="broken"):
        first = search.index_of(folder, student, tmp_path / "index")
        shutil.copy(folder / "cup.png", folder / "another cup.png")
        (folder / "cat.png").unlink()
        second = search.index_of(folder, student, tmp_path / "index")
    assert described == [4, 1]
    assert second.names == [name for name in first.names if name != "cat.png"] + ["another cup.png"]
    assert Index.load(tmp_path / "index").names == second.names and second.left_out == ["broken.png"]


def test_an_interrupted_index_goes_on_where_it_was(folder, tmp_path, student, monkeypatch):
    monkeypatch.setattr(search, "AT_ONCE", 1)
    real, calls = search.describe, []

    def fails(maps, *args, **options):
        calls.append(len(maps))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(maps, *args, **options)

    monkeypatch.setattr(search, "describe", fails)
    with pytest.warns(UserWarning, match="broken"):
        with pytest.raises(KeyboardInterrupt):
            search.index_of(folder, student, tmp_path / "index")
        assert len(Index.load(tmp_path / "index").names) == 2
        assert len(search.index_of(folder, student, tmp_path / "index").names) == 4
    assert len(calls) == 5  # one was begun twice


@pytest.mark.filterwarnings("ignore:left out")
def test_an_index_of_another_network_is_built_anew(folder, tmp_path, student, capsys):
    index = search.index_of(folder, student, tmp_path / "index")
    index.about = {**index.about, "network": "another"}
    index.save(tmp_path / "index")
    assert search.index_of(folder, student, tmp_path / "index").about["network"] == student[1].source
    assert "made with network 'another'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:left out")
def test_two_folders_of_one_name_have_two_indexes_and_two_pages(tmp_path):
    for place, pixels in (("A", skimage.data.chelsea()), ("B", skimage.data.coffee())):
        (tmp_path / place / "photos").mkdir(parents=True)
        for i, part in enumerate((pixels[:200, :200], pixels[-200:, -200:])):
            Image.fromarray(part).save(tmp_path / place / "photos" / f"IMG_{i}.png")
    pages = {place: search.make(tmp_path / place / "photos", tmp_path / place / "photos" / "IMG_1.png", top=1,
                                output=tmp_path / "out")[0] for place in "ABA"}
    assert pages["A"] != pages["B"]
    for page in pages.values():
        assert "1. IMG_1.png, cosine 1.00" in page.read_text(encoding="utf-8")
    indexes = [Index.load(file.parent).descriptors for file in (tmp_path / "out").glob("*/index.json")]
    assert len(indexes) == 2 and float((indexes[0] * indexes[1]).sum(1).max()) < 0.99


@pytest.fixture
def described(monkeypatch):
    """The numbers of photographs that were described, call by call."""
    counts, real = [], search.describe
    monkeypatch.setattr(search, "describe", lambda maps, *args, **options: (
        counts.append(len(maps)) or real(maps, *args, **options)))
    return counts


@pytest.mark.filterwarnings("ignore:left out", "ignore:passed over")
def test_an_edited_photograph_is_described_anew_and_nothing_else(folder, tmp_path, student, described):
    first = search.index_of(folder, student, tmp_path / "index")
    Image.open(folder / "cup.png").rotate(180).save(folder / "cat.png")
    second = search.index_of(folder, student, tmp_path / "index")
    assert described == [4, 1] and sorted(second.names) == sorted(first.names)
    fresh = search.index_of(folder, student, tmp_path / "fresh")
    for name in fresh.names:
        same = second.descriptors[second.names.index(name)] @ fresh.descriptors[fresh.names.index(name)]
        assert float(same) == pytest.approx(1, abs=1e-4)
    assert search.index_of(folder, student, tmp_path / "index").names == second.names and described == [4, 1, 4]


@pytest.mark.filterwarnings("ignore:left out", "ignore:passed over")
def test_an_index_follows_a_folder_that_becomes_another_or_empty(folder, tmp_path, student, described):
    search.index_of(folder, student, tmp_path / "index")
    for name in ("cat", "cup", "flower", "temple"):
        (folder / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="no image that can be read"):
        search.index_of(folder, student, tmp_path / "index")
    Image.fromarray(skimage.data.camera()).save(folder / "cat.png")
    index = search.index_of(folder, student, tmp_path / "index")
    assert index.names == ["cat.png"] and index.left_out == ["broken.png"] and described == [4, 1]
    Image.fromarray(skimage.data.moon()).save(folder / "broken.png")  # mended
    index = search.index_of(folder, student, tmp_path / "index")
    assert index.names == ["cat.png", "broken.png"] and index.left_out == []


@pytest.mark.filterwarnings("ignore:left out")
def test_sub_folders_have_an_index_of_their_own(folder, tmp_path, student):
    (folder / "below").mkdir()
    shutil.copy(folder / "cup.png", folder / "below" / "cup.png")
    (folder / "notes.txt").write_text("no photograph")
    with pytest.warns(UserWarning, match=r"1 file \(notes.txt\) of other kinds and 1 folder \(below\)"):
        assert "below/cup.png" not in search.index_of(folder, student, tmp_path / "index").names
    with pytest.warns(UserWarning, match="1 folder"):  # again, where all is known
        search.index_of(folder, student, tmp_path / "index")
    page, count = search.make(folder, folder / "cup.png", top=2, recursive=True, output=tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert count == 5 and "below/cup.png, cosine 1.00" in text and "Passed over: 1 file (notes.txt)" in text
    assert search.make(folder, folder / "cup.png", top=2, output=tmp_path / "out")[1] == 4


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
@pytest.mark.filterwarnings("ignore:left out")
def test_an_index_of_names_that_are_no_text(folder, tmp_path, student, described):
    os.rename(folder / "cup.png", os.path.join(os.fsencode(folder), b"caf\xe9\n.png"))
    query = tmp_path / os.fsdecode(b"na\xefve.png")
    shutil.copy(folder / "cat.png", query)
    for _ in range(2):
        page, count = search.make(folder, query, top=4, output=tmp_path / "out")
        text = page.read_text(encoding="utf-8")
        assert count == 4 and "caf\\xe9\\n.png, cosine" in text and "Query: na\\xefve.png" in text
    assert described == [4, 1, 1]  # the index, and each query


@pytest.mark.parametrize(("images", "query", "top", "message"), [
    ("nowhere", "cup.png", 3, "'nowhere' must be a folder"),
    (".", "nothing.png", 3, "nothing.png' a photograph"),
    (".", "cup.png", 0, "TOP=0 matches")])
def test_bad_input_ends_with_a_message(folder, images, query, top, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        search.main([images, query, str(top)])
    assert message in capsys.readouterr().err
