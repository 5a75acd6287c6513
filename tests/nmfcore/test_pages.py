"""`nmfcore heatmaps`: a folder in, one page out that holds everything; on embedded photographs and offline."""

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
from test_site import foreign, mute

from nmfcore import cli, networks, pages
from nmfcore.heatmaps import COLORS, heatmaps, overlay
from nmfcore.photographs import Photographs

pytestmark = pytest.mark.filterwarnings("ignore:left out", "ignore:passed over")
REPOSITORY = Path(__file__).resolve().parents[2]
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


def sheet(folder, k, output, **options):
    """The page and how many photographs are on it; its folder is made."""
    output.mkdir(exist_ok=True)
    return cli.heatmaps([folder], k=k, output=output, **options)


def pictures(figure):
    """The pictures inside a figure as arrays (H, W, 3)."""
    addresses = [image["src"] for image in figure("img")]
    assert all(address.startswith("data:image/webp;base64,") for address in addresses)
    return [np.asarray(Image.open(BytesIO(b64decode(address.split(",")[1]))).convert("RGB")) for address in addresses]


def test_the_page_shows_every_photograph_and_needs_nothing_else(folder, tmp_path, capsys):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    (tmp_path / "out").mkdir()
    cli.main(["heatmaps", str(folder), "-k", "2", "-o", str(tmp_path / "out")])
    [file] = (tmp_path / "out").iterdir()
    assert file.name == "heatmaps_my photographs_K2.html"
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    said = capsys.readouterr()
    assert re.search(r"(?m)^warning: left out: .*torn\.jpg cannot be read", said.err) and "4/4" in said.err
    assert re.fullmatch(rf"4 photographs in \d+ s: {re.escape(str(file))}\n", said.out)
    text = file.read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    assert not foreign(text) and not page("script") and not page("link") and str(tmp_path) not in text
    assert [caption.text for caption in page("figcaption")] == [NASTY, "b.jpg", "grey.png", "pixel.png"]
    assert "Left out, as they cannot be read: torn.jpg." in page.text and "student" in page.text
    assert all(NASTY in image["alt"] for image in page("figure")[0]("img"))
    assert mute(f"<article>{page.main}</article>") == []


def test_pictures_are_the_photograph_the_overlay_and_one_per_mask(folder, tmp_path):
    file, _ = sheet(folder, 3, tmp_path)
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
    first, second = (sheet(folder, 2, tmp_path / name, seed=5)[0].read_bytes() for name in "ab")
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
    ("missing", "3", "is not a folder"), ("", "3", "is not a folder"),
    ("file.png", "3", "no image that can be read"),
    ("empty", "3", "no image that can be read"), ("empty", "0", "take 1 to 8"), ("empty", "9", "take 1 to 8")])
def test_bad_input_is_an_error_that_says_what_to_do(tmp_path, capsys, name, K, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["heatmaps", "-o", str(tmp_path), "-k", K, "--", str(tmp_path / name) if name else ""])
    assert stopped.value.code == 1
    assert re.search(f"^(warning: .*\n)?error: .*{message}.*\n$", capsys.readouterr().err)


def test_two_folders_of_one_name_have_two_pages(tmp_path):
    """Each is written again in its own place, whatever it is called."""
    for place, pixels in (("A", skimage.data.camera()), ("B", skimage.data.chelsea())):
        (tmp_path / place / "photos").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / place / "photos" / f"of {place}.png")
    first, second = (sheet(tmp_path / place / "photos", 1, tmp_path / "out")[0] for place in "AB")
    assert first.name == "heatmaps_photos_K1.html"
    assert re.fullmatch("heatmaps_photos_K1_[0-9a-f]{8}.html", second.name)
    assert "of A.png" in first.read_text(encoding="utf-8") and "of B.png" in second.read_text(encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "B" / "photos")
    assert sheet(tmp_path / "B" / ".." / "B" / "photos", 1, tmp_path / "out")[0] == second
    assert sheet(tmp_path / "link", 1, tmp_path / "out")[0] == second
    assert sheet(tmp_path / "A" / "photos", 1, tmp_path / "out")[0] == first
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_page_of_unknown_origin_is_left_alone(folder, tmp_path):
    page = tmp_path / "heatmaps_my photographs_K1.html"
    page.write_text("of an earlier version")
    assert sheet(folder, 1, tmp_path)[0] != page
    assert page.read_text() == "of an earlier version"


def test_a_page_can_be_named(folder, tmp_path, capsys):
    page = tmp_path / "out.html"
    for k in ("1", "2"):  # its own page is written again
        cli.main(["heatmaps", str(folder), "-k", k, "-o", str(page)])
    assert "K = 2" in page.read_text(encoding="utf-8") and sorted(tmp_path.iterdir()) == [folder, page]
    page.write_text("mine")
    capsys.readouterr()
    for name, message in (("out.html", "was not written by nmfcore"), ("no/out.html", "is not there; make it"),
                          ("no/", "is not there; make it")):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["heatmaps", str(folder), "-o", f"{tmp_path}/{name}"])
        assert stopped.value.code == 1 and re.search(f"^error: .*{message}.*\n$", capsys.readouterr().err)
    assert page.read_text() == "mine"


def test_without_a_name_the_page_is_in_the_current_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    cli.main(["heatmaps", ".", "-k", "1"])
    assert capsys.readouterr().out.endswith(" s: heatmaps_my photographs_K1.html\n")
    assert (folder / "heatmaps_my photographs_K1.html").is_file()


def test_files_of_several_folders(folder, tmp_path, capsys):
    """They are named as seen from the folder that holds them all, and each set has its own page."""
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "b.jpg", tmp_path / "other" / "b.jpg")
    files = [folder / "b.jpg", tmp_path / "other" / "b.jpg", folder / "grey.png", folder / "b.jpg"]
    file, count = cli.heatmaps(files, k=1, output=tmp_path)
    page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    captions = [caption.text for caption in page("figcaption")]
    assert count == 3 and captions == ["my photographs/b.jpg", "other/b.jpg", "my photographs/grey.png"]
    assert cli.heatmaps([files[2], *files[:2]], k=1, output=tmp_path)[0] == file
    assert cli.heatmaps(files[:2], k=1, output=tmp_path)[0] != file
    for wrong, message in (([folder, files[0]], "is a folder among 2 PHOTOS"), ([files[0], ""], "'' is not a folder"),
                           ([files[0], tmp_path / "c"], "c' is not a folder or file")):
        with pytest.raises(ValueError, match=message):
            cli.heatmaps(wrong, output=tmp_path)


def test_sub_folders_are_on_the_page_when_asked_for_and_named_when_not(folder, tmp_path, capsys):
    (folder / "below").mkdir()
    Image.fromarray(skimage.data.coffee()).save(folder / "below" / "cup.png")
    with pytest.warns(UserWarning, match=r"folder \(below\), which recursive=True"):
        alone, few = sheet(folder, 1, tmp_path)
    assert few == 4
    text = BeautifulSoup(alone.read_text(encoding="utf-8"), "html.parser").text
    assert "Passed over: 1 file (notes.txt) of other kinds and 1 folder (below)" in text
    cli.main(["heatmaps", "--recursive", str(folder), "-k", "1", "-o", str(tmp_path)])
    whole, many = sheet(folder, 1, tmp_path, recursive=True)
    assert many == 5 and whole != alone and "below/cup.png" in whole.read_text(encoding="utf-8")
    assert str(whole) in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_a_page_of_names_that_are_no_text(tmp_path, capfdbinary):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9\nKate's $x " + b"long " * 30)
    os.mkdir(folder)
    for name in (b"ol\xe9.png", b"two\nlines.png", b"torn\xe9.png"):
        with open(os.path.join(folder, name), "wb") as file:
            if b"torn" not in name:
                Image.fromarray(skimage.data.camera()[:64, :64]).save(file, "png")
    file, count = sheet(os.fsdecode(folder), 1, tmp_path / "out")
    text = file.read_text(encoding="utf-8")
    assert count == 2 and all(name in text for name in ("ol\\xe9.png", "two\\nlines.png", "torn\\xe9.png"))
    assert file.name.isprintable() and len(file.name) < 125
    assert file.name.startswith("heatmaps_caf\\xe9\\nKate's $x long")
    cli.main(["heatmaps", os.fsdecode(folder), "-k", "1", "-o", os.fsdecode(folder)])
    assert re.search(rb"2 photographs in \d+ s: .*caf\\xe9\\nKate's", capfdbinary.readouterr().out)


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
    def called(command, *rest):
        return ["-m", "nmfcore", command, "-o", f"_build/{command}", "--seed", "0", "--device", "cpu", *rest]

    odd = ("$HOME $(shell id) $$", '"`id`" \\ # ; & * \t', "two\nlines", "größe")
    for name in ("my photographs", "Kate's photos", *odd):
        wanted = called("heatmaps", "-k", "5", "--", name)
        assert dry_make("heatmaps", f"IMAGES={name}", "K=5") == dry_make("heatmaps", "K=5", IMAGES=name) == wanted
        wanted = called("search", "--recursive", "--top", "7", "--", name, f"{name}.jpg")
        assert dry_make("search", f"IMAGES={name}", f"QUERY={name}.jpg", "TOP=7", "RECURSIVE=1") == wanted
    assert dry_make("heatmaps", "RECURSIVE=0") == called("heatmaps", "-k", "3", "--", "")
    with pytest.raises(AssertionError, match="RECURSIVE=yes is neither 1"):
        dry_make("heatmaps", "RECURSIVE=yes")


def test_make_passes_every_other_value_on_to_the_letter(dry_make):
    odd = "it's $HOME"
    given = ["--profile", odd, "--seed", odd, "--device", odd]
    assert dry_make("book", f"PROFILE={odd}", f"SEED={odd}", f"DEVICE={odd}") == ["-m", "nmfbook.build", "book", *given]
    called = ["--device", odd, "--experiment", odd, "--job", odd, "--hours", odd]
    assert dry_make("measure", *(f"{name}={odd}" for name in ("DEVICE", "EXPERIMENT", "JOB", "HOURS")))[-8:] == called
    called = ["audit", "--number", odd, "--device", "cpu", "--experiment", "", "--job", odd]
    assert dry_make("audit", f"N={odd}", f"JOB={odd}")[2:] == called
    assert dry_make("chapter", "CHAPTER=heatmaps", f"SEED={odd}")[-1] == "heatmaps"
    assert dry_make("chapter")[:2] == ["-m", "nmfbook.build"]
    assert dry_make("serve", f"PORT={odd}")[-1] == odd
