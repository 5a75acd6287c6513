"""Searching a folder of photographs: an index that grows, resumes and refuses what does not fit."""

import shutil
import sys
from pathlib import Path

import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

from nmfcore import networks
from nmfcore.retrieval import Index

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

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


@pytest.mark.parametrize(("images", "query", "top", "message"), [
    ("nowhere", "cup.png", 3, "'nowhere' must be a folder"),
    (".", "nothing.png", 3, "nothing.png' a photograph"),
    (".", "cup.png", 0, "TOP=0 matches")])
def test_bad_input_ends_with_a_message(folder, images, query, top, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        search.main([images, query, str(top)])
    assert message in capsys.readouterr().err
