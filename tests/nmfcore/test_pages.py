"""`make heatmaps`: a folder in, one page out that holds everything; on embedded photographs and without a network."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from bs4 import BeautifulSoup
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

import heatmaps as tool  # noqa: E402
import photographs_page  # noqa: E402
from test_site import foreign, mute  # noqa: E402

from nmfcore import networks, pages  # noqa: E402
from nmfcore.heatmaps import (  # noqa: E402
    COLORS,
    heatmaps,
    overlay,
)
from nmfcore.photographs import Photographs  # noqa: E402

NASTY = 'a & b <script>alert("1")<!--.png' if sys.platform != "win32" else "a & b.png"


@pytest.fixture(autouse=True)
def student(monkeypatch):
    """The embedded network, also where VGG-19 is in hand."""
    monkeypatch.setattr(networks, "first_available", lambda names: networks.pretrained("student"))


@pytest.fixture
def folder(tmp_path):
    """Four photographs, of three sizes, and a damaged file."""
    path = tmp_path / "my photographs"
    path.mkdir()
    left, right, _ = skimage.data.stereo_motorcycle()
    for name, pixels in [(NASTY, left), ("b.jpg", right), ("grey.png", skimage.data.camera()),
                         ("pixel.png", left[:1, :1])]:
        Image.fromarray(pixels).save(path / name)
    (path / "torn.jpg").write_bytes((path / "b.jpg").read_bytes()[:2000])
    (path / "notes.txt").write_text("not a photograph")
    return path


def pictures(figure):
    """The pictures inside a figure as arrays (H, W, 3)."""
    addresses = [image["src"] for image in figure("img")]
    assert all(address.startswith("data:image/webp;base64,") for address in addresses)
    return [np.asarray(Image.open(BytesIO(b64decode(address.split(",")[1]))).convert("RGB")) for address in addresses]


def test_the_page_shows_every_photograph_and_needs_nothing_else(folder, tmp_path, capsys):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    file, count = tool.make(folder, 2, output=tmp_path / "out")
    assert file.name == "my photographs_K2.html" and [path.name for path in file.parent.iterdir()] == [file.name]
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    said = capsys.readouterr().err
    assert re.search(r"warning: left out: .*torn\.jpg cannot be read", said) and "4/4" in said
    text = file.read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    assert not foreign(text) and not page("script") and not page("link") and str(tmp_path) not in text
    assert count == 4 and [caption.text for caption in page("figcaption")] == [NASTY, "b.jpg", "grey.png", "pixel.png"]
    assert "Left out, as they cannot be read: torn.jpg." in page.text and "student" in page.text
    assert all(NASTY in image["alt"] for image in page("figure")[0]("img"))
    assert mute(f"<article>{page.main}</article>") == []


def test_pictures_are_the_photograph_the_overlay_and_one_per_mask(folder, tmp_path):
    file, _ = tool.make(folder, 3, output=tmp_path)
    model, preprocess = networks.pretrained("student")
    with pytest.warns(UserWarning, match="torn"):
        photographs = Photographs(folder, side=224, preprocess=preprocess)
    found = heatmaps(model, photographs, 3, layer=preprocess.layer)
    for i, figure in enumerate(BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")("figure")):
        photograph, over, *cut = pictures(figure)
        image, size = photographs.rgb(i), photographs.sizes[i]
        assert photograph.shape == over.shape == (*size, 3)
        assert abs(photograph / 255 - image.permute(1, 2, 0).numpy()).mean() < 0.03  # WebP is lossy
        large = found.resized(photographs.sizes)[i][None]
        assert abs(over / 255 - overlay(image[None], large)[0].permute(1, 2, 0).numpy()).mean() < 0.03
        frames = figure(class_="factor")
        assert [re.search("#[0-9A-F]{6}", frame["style"])[0] for frame in frames] == list(COLORS[:3])
        assert [picture.shape for picture in cut] == [(size[0] // 2, size[1] // 2, 3)] * 3
        assert [frame.text.split(":")[0] for frame in frames] == ["factor 1", "factor 2", "factor 3"]


def test_a_mask_picture_fades_what_is_outside_and_tells_the_share():
    image = torch.zeros(3, 40, 40)
    mask = torch.zeros(2, 20, 20, dtype=torch.bool)
    mask[0, :, :5] = True
    figure = BeautifulSoup(pages.entry("a", image, torch.zeros(2, 4, 4), mask), "html.parser").figure
    _, _, first, second = pictures(figure)
    assert first[:, :4].max() < 30 and first[:, 6:].min() > 200 and second.min() > 200
    assert [frame.text for frame in figure(class_="factor")] == ["factor 1: 25 %", "factor 2: 0 %"]
    with pytest.raises(ValueError, match="colours"):
        pages.entry("a", image, torch.zeros(9, 4, 4), torch.zeros(9, 4, 4, dtype=torch.bool))


def test_the_same_folder_gives_the_same_page(folder, tmp_path):
    first, second = (tool.make(folder, 2, seed=5, output=tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


def test_an_interrupted_page_leaves_the_old_one(tmp_path):
    file = tmp_path / "page.html"
    pages.write(file, ["<figure>1</figure>"], title="A & B", about=["x < y"])
    old = file.read_text(encoding="utf-8")
    assert "A &amp; B" in old and "x &lt; y" in old and "<figure>1</figure>" in old

    def entries():
        yield "<figure>2</figure>"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pages.write(file, entries(), title="new", about=[])
    assert file.read_text(encoding="utf-8") == old and [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("name, K, message", [
    ("missing", "3", "is not a folder"), ("", "3", "is not a folder"), ("file.png", "3", "is not a folder"),
    ("empty", "3", "no image that can be read"), ("empty", "0", "take 1 to 8"), ("empty", "9", "take 1 to 8")])
def test_bad_input_is_an_error_that_says_what_to_do(tmp_path, capsys, name, K, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        tool.main([str(tmp_path / name) if name else "", K])
    assert stopped.value.code == 1
    assert re.fullmatch(f"error: .*{message}.*\n", capsys.readouterr().err)


def test_two_folders_of_one_name_have_two_pages(tmp_path):
    """Each is written again in its own place, whatever it is called."""
    for place, pixels in (("A", skimage.data.camera()), ("B", skimage.data.chelsea())):
        (tmp_path / place / "photos").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / place / "photos" / f"of {place}.png")
    first, second = (tool.make(tmp_path / place / "photos", 1, output=tmp_path / "out")[0] for place in "AB")
    assert first.name == "photos_K1.html" and re.fullmatch("photos_K1_[0-9a-f]{8}.html", second.name)
    assert "of A.png" in first.read_text(encoding="utf-8") and "of B.png" in second.read_text(encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "B" / "photos")
    assert tool.make(tmp_path / "B" / ".." / "B" / "photos", 1, output=tmp_path / "out")[0] == second
    assert tool.make(tmp_path / "link", 1, output=tmp_path / "out")[0] == second
    assert tool.make(tmp_path / "A" / "photos", 1, output=tmp_path / "out")[0] == first
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_page_of_unknown_origin_is_left_alone(folder, tmp_path):
    page = tmp_path / "my photographs_K1.html"
    page.write_text("of an earlier version")
    assert tool.make(folder, 1, output=tmp_path)[0] != page
    assert page.read_text() == "of an earlier version"


def test_sub_folders_are_on_the_page_when_asked_for_and_named_when_not(folder, tmp_path, capsys):
    (folder / "below").mkdir()
    Image.fromarray(skimage.data.coffee()).save(folder / "below" / "cup.png")
    alone, few = tool.make(folder, 1, output=tmp_path)
    assert few == 4 and "folder (below), which recursive=True" in capsys.readouterr().err
    text = BeautifulSoup(alone.read_text(encoding="utf-8"), "html.parser").text
    assert "Passed over: 1 file (notes.txt) of other kinds and 1 folder (below)" in text
    tool.main(["--recursive", "1", str(folder), "1"])
    whole, many = tool.make(folder, 1, recursive=True, output=tmp_path)
    assert many == 5 and whole != alone and "below/cup.png" in whole.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        tool.main(["--recursive", "yes", str(folder), "1"])
    assert "'yes' is not 1" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_a_page_of_names_that_are_no_text(tmp_path, capfdbinary):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9\nKate's $x " + b"long " * 30)
    os.mkdir(folder)
    for name in (b"ol\xe9.png", b"two\nlines.png", b"torn\xe9.png"):
        with open(os.path.join(folder, name), "wb") as file:
            if b"torn" not in name:
                Image.fromarray(skimage.data.camera()[:64, :64]).save(file, "png")
    file, count = tool.make(os.fsdecode(folder), 1, output=tmp_path / "out")
    text = file.read_text(encoding="utf-8")
    assert count == 2 and all(name in text for name in ("ol\\xe9.png", "two\\nlines.png", "torn\\xe9.png"))
    assert file.name.isprintable() and file.name.startswith("caf\\xe9\\nKate's $x long") and len(file.name) < 120
    photographs_page.run(argparse.ArgumentParser(), lambda **_: (Path(os.fsdecode(folder)), 2), [])
    assert b"2 photographs in 0 s: " in capfdbinary.readouterr().out


# --- the make targets ---------------------------------------------------------------------------------------


@pytest.fixture
def dry_make(tmp_path):
    """Runs a make target with an interpreter that only says what it was called with."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.chmod(0o755)
    stamp = subprocess.run("cat requirements.txt pyproject.toml | cksum | tr ' ' '-'", shell=True, cwd=tmp_path,
                           capture_output=True, text=True).stdout.strip()
    (tmp_path / ".venv" / f"installed-{stamp}").touch()

    # `make test` hands its own parameters down to the tests.
    around = {name: value for name, value in os.environ.items() if not re.match("M(AKE|FLAGS)", name)}
    for name in re.search(r"(?m)^KNOWN := (.*)$", (tmp_path / "Makefile").read_text(encoding="utf-8"))[1].split():
        around.pop(name, None)

    def run(*arguments, **environment):
        done = subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True,
                              env=around | environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    return run


def test_make_passes_the_folder_and_k_on(dry_make):
    """To the letter, given by itself or by the environment."""
    options = ["--seed", "0", "--device", "cpu", "--recursive"]
    odd = ("$HOME $(shell id) $$", '"`id`" \\ # ; & * \t', "two\nlines", "größe")
    for name in ("my photographs", "Kate's photos", *odd):
        called = ["tools/heatmaps.py", *options, "", "--", name, "5"]
        assert dry_make("heatmaps", f"IMAGES={name}", "K=5") == dry_make("heatmaps", "K=5", IMAGES=name) == called
        called = ["tools/search.py", *options, "1", "--", name, f"{name}.jpg", "7"]
        assert dry_make("search", f"IMAGES={name}", f"QUERY={name}.jpg", "TOP=7", "RECURSIVE=1") == called
    assert dry_make("heatmaps") == ["tools/heatmaps.py", *options, "", "--", "", "3"]


def test_make_passes_every_other_value_on_to_the_letter(dry_make):
    odd = "it's $HOME"
    given = ["--profile", odd, "--seed", odd, "--device", odd]
    assert dry_make("book", f"PROFILE={odd}", f"SEED={odd}", f"DEVICE={odd}") == ["-m", "nmfbook.build", "book", *given]
    called = ["--device", odd, "--experiment", odd, "--job", odd, "--hours", odd]
    assert dry_make("measure", *(f"{name}={odd}" for name in ("DEVICE", "EXPERIMENT", "JOB", "HOURS")))[-8:] == called
    assert dry_make("audit", f"N={odd}")[2:] == ["audit", "--number", odd, "--device", "cpu"]
    assert dry_make("chapter", "CHAPTER=heatmaps", f"SEED={odd}")[-1] == "heatmaps"
    assert dry_make("chapter")[:2] == ["-m", "nmfbook.build"]
    assert dry_make("serve", f"PORT={odd}")[-1] == odd
