"""Photographs of every kind: proportions, colour modes, rotation, large ones in little memory, damaged ones named."""

import os
import struct
import subprocess
import sys
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from nmfbook.datasets import class_folders, image_folder, read_images
from nmfcore.networks import Preprocess
from nmfcore.photographs import Photographs, listed, readable
from nmfcore.stored_maps import stored_maps

STATUS = Path("/proc/self/status")


def picture(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def quarters(width=64, height=64):
    """Red, green, blue and white quarters, in reading order: every rotation and reflection looks different."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:height // 2, :width // 2] = 255, 0, 0
    pixels[:height // 2, width // 2:] = 0, 255, 0
    pixels[height // 2:, :width // 2] = 0, 0, 255
    pixels[height // 2:, width // 2:] = 255
    return Image.fromarray(pixels)


def test_files_of_a_folder_come_in_name_order(tmp_path):
    for name in ("b.png", "a.JPG", "c.bmp"):
        picture(seed=ord(name[0])).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    found = Photographs(tmp_path, side=16)
    assert [path.name for path in found.paths] == ["a.JPG", "b.png", "c.bmp"] and len(found) == 3
    assert all(image.dtype == torch.float32 and 0 <= image.min() and image.max() <= 1 for image in found)
    chosen = Photographs([str(tmp_path / "c.bmp"), tmp_path / "b.png", tmp_path / "b.png"], side=16)
    assert torch.equal(chosen[0], found[2]) and torch.equal(chosen[-1], found[1]) and len(chosen) == 3
    with pytest.raises(IndexError):
        found[3]


@pytest.mark.parametrize("width, height, size", [
    (40, 30, (12, 16)), (30, 40, (16, 12)), (1, 1, (12, 12)), (3, 1, (12, 36)), (1, 3, (36, 12)), (500, 400, (12, 15)),
    (1000, 999, (12, 12)), (7, 5, (12, 17))])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_the_shorter_side_is_given_and_proportions_are_kept(tmp_path, width, height, size, kind):
    Image.new("RGB", (width, height), (10, 200, 90)).save(tmp_path / f"a.{kind}", quality=100)
    found = Photographs(tmp_path, side=12)
    assert found.sizes == (size,) and found[0].shape == (3, *size)
    assert (found[0] * 255 - torch.tensor([10.0, 200, 90])[:, None, None]).abs().max() < 3


def test_an_image_of_the_right_size_is_read_to_the_bit_and_another_as_pillow_resizes_it(tmp_path):
    picture(32, 24).save(tmp_path / "a.png")

    def pixels(side):
        return (Photographs(tmp_path, side=side)[0] * 255).round().byte().permute(1, 2, 0).numpy()

    assert (pixels(24) == np.array(picture(32, 24))).all()
    assert (pixels(12) == np.array(picture(32, 24).resize((16, 12), Image.Resampling.BICUBIC))).all()


def test_decoding_at_a_smaller_scale_shows_the_same_picture(tmp_path):
    smooth = picture(20, 15).resize((2000, 1500), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95)
    smooth.save(tmp_path / "b.png")
    jpeg, png = Photographs(tmp_path, side=60)
    exact = torch.from_numpy(np.array(smooth.resize((80, 60), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 255
    assert (png - exact).abs().max() < 0.05 and (jpeg - exact).abs().mean() < 0.01


@pytest.mark.parametrize("mode, name", [("L", "a.png"), ("LA", "a.png"), ("1", "a.png"), ("L", "a.jpg"), ("P", "a.gif"),
                                        ("RGBA", "a.png"), ("P", "a.png"), ("CMYK", "a.jpg"), ("CMYK", "a.tif")])
def test_other_colour_modes_become_rgb(tmp_path, mode, name):
    image = Image.new("RGB", (32, 32), (200, 60, 30))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / name)
    color = Photographs([tmp_path / name], side=8)[0].mean((1, 2)) * 255
    if mode in ("L", "LA"):
        assert (color - (0.299 * 200 + 0.587 * 60 + 0.114 * 30)).abs().max() < 2
    elif mode == "1":
        assert color[0] == color[1] == color[2]
    else:
        assert (color - torch.tensor([200.0, 60, 30])).abs().max() < 4


def test_a_palette_is_mixed_not_picked_from(tmp_path):
    pixels = np.zeros((32, 32), dtype=np.uint8)
    pixels[::2, ::2] = pixels[1::2, 1::2] = 255
    for mode in ("P", "1"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
        assert (Photographs(tmp_path, side=4)[0] - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation, corners", [  # in reading order, as a viewer that obeys the tag shows them
    (1, "rgbw"), (2, "grwb"), (3, "wbgr"), (4, "bwrg"), (5, "rbgw"), (6, "brwg"), (7, "wgbr"), (8, "gwrb")])
def test_exif_rotation_is_applied(tmp_path, kind, orientation, corners):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quarters(80, 64).save(tmp_path / f"a.{kind}", exif=exif, quality=95)
    found = Photographs(tmp_path, side=16)
    assert found.sizes == (((16, 20) if orientation < 5 else (20, 16)),)
    image = found[0]
    colors = {"r": (1.0, 0, 0), "g": (0, 1.0, 0), "b": (0, 0, 1.0), "w": (1.0, 1.0, 1.0)}
    seen = "".join(min(colors, key=lambda name: (image[:, y, x] - torch.tensor(colors[name])).norm())
                   for y in (3, -4) for x in (3, -4))
    assert seen == corners


def test_preprocessing_is_the_networks_own(tmp_path):
    picture().save(tmp_path / "a.png")
    preprocess = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), scale=1.0, source="made", layer="")
    found = Photographs(tmp_path, side=16, preprocess=preprocess)
    plain = Photographs(tmp_path, side=16)[0]
    assert torch.equal(found[0], preprocess(plain[None])[0]) and torch.equal(found.rgb(0), plain)


def test_what_cannot_be_read_is_named_and_left_out(tmp_path):
    picture(200, 150).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    picture(520, 20).save(tmp_path / "strip.png")
    Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.warns(UserWarning) as warned:
        found = Photographs(tmp_path, side=16)
    assert [path.name for path in found.paths] == ["good.jpg"] and found[0].shape == (3, 16, 21)
    texts = sorted(str(warning.message) for warning in warned)
    names = ["deep.png", "empty.png", "folder.png", "half.jpg", "strip.png", "text.png"]
    assert all(name in text for name, text in zip(names, texts, strict=True))
    assert [path.name for path in found.left_out] == names
    assert "more than 8 bits" in texts[0] and "over 25 times" in texts[4]


def test_a_file_damaged_later_is_an_error(tmp_path):
    picture().save(tmp_path / "a.png")
    found = Photographs(tmp_path, side=16)
    (tmp_path / "a.png").write_text("no longer an image")
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        found[0]


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no image that can be read"):
        Photographs(tmp_path, side=16)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 tried"), pytest.warns(UserWarning, match=r"a\.png"):
        Photographs(tmp_path, side=16)
    with pytest.raises(ValueError, match="no image that can be read"):
        Photographs([], side=16)
    with pytest.raises(FileNotFoundError, match="missing"):
        Photographs(tmp_path / "missing", side=16)
    with pytest.raises(FileNotFoundError, match="missing"):
        Photographs([tmp_path / "missing.png"], side=16)
    with pytest.raises(ValueError, match="side=0"):
        Photographs(tmp_path, side=0)


@pytest.mark.skipif(not STATUS.exists(), reason="the peak of a process's memory is read from Linux's /proc")
@pytest.mark.parametrize("width, height", [(8000, 6000), (20_000, 10_000)])  # the second is beyond Pillow's limit
def test_a_photograph_of_48_or_200_megapixels_takes_little_memory(tmp_path, width, height):
    """As a JPEG file 1/64 of its pixels is decoded; the whole takes four bytes each in Pillow."""
    Image.new("RGB", (width, height), (200, 60, 30)).save(tmp_path / "a.jpg")
    program = ("import re, sys; from nmfcore.photographs import Photographs\n"
               f"peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('{STATUS}').read())[1])  # KiB\n"
               "before = peak(); [image] = Photographs(sys.argv[1], side=224)\n"
               "print((peak() - before) // 1024, *image.shape)")
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", program, str(tmp_path)],
                          capture_output=True, text=True, check=True)
    grown, *shape = map(int, done.stdout.split())
    assert shape == [3, 224, round(224 * width / height)] and grown < 60


# --- more pixels than Pillow decodes at once ----------------------------------------------------------------


@pytest.fixture
def low_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # an error from twice as many on


def smooth(width, height):
    return picture(8, 6).resize((width, height), Image.Resampling.BICUBIC)


def test_a_large_jpeg_is_decoded_at_the_scale_that_the_limit_allows(tmp_path, low_limit):
    smooth(400, 300).save(tmp_path / "a.jpg", quality=95)
    exact = torch.from_numpy(np.array(smooth(400, 300).resize((160, 120), Image.Resampling.BICUBIC)))
    for found in (Photographs(tmp_path, side=120)[0], image_folder(tmp_path, size=120).images[0],
                  read_images([BytesIO((tmp_path / "a.jpg").read_bytes())], size=120)[0]):
        assert (found * 255 - exact.permute(2, 0, 1)).abs().mean() < 2
    with pytest.raises(ValueError, match="no image that can be read"), pytest.warns(UserWarning, match="more pixels"):
        (tmp_path / "b").mkdir()
        smooth(4000, 3000).save(tmp_path / "b/a.jpg")  # too large even at an eighth
        Photographs(tmp_path / "b", side=16)


def test_the_limit_stays_for_what_is_decoded_whole(tmp_path, low_limit):
    (tmp_path / "kind").mkdir()
    smooth(400, 300).save(tmp_path / "kind/a.jpg")
    assert class_folders(tmp_path, size=(30, 40)).images.shape == (1, 3, 30, 40)
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read .*more pixels than Pillow decodes at once, 40,000"):
        class_folders(tmp_path)  # which promises the pixels as they are
    smooth(20, 15).save(tmp_path / "good.png")
    smooth(400, 300).save(tmp_path / "large.png")
    smooth(400, 300).save(tmp_path / "scans.jpg", progressive=True)  # of which a decoder keeps every coefficient
    with pytest.warns(UserWarning, match="passed over|more pixels than Pillow decodes at once"):
        found = Photographs(tmp_path, side=12)
    assert found.names == ("good.png",) and [path.name for path in found.left_out] == ["large.png", "scans.jpg"]


def test_a_jpeg_whose_components_come_one_after_the_other_counts_whole(tmp_path, low_limit):
    smooth(400, 300).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    scan = data.index(b"\xff\xda\x00\x0c\x03")
    (tmp_path / "a.jpg").write_bytes(data[:scan] + b"\xff\xda\x00\x08\x01" + data[scan + 5:scan + 7]
                                     + data[scan + 11:])
    with pytest.raises(ValueError, match="no image"), pytest.warns(UserWarning, match="more pixels"):
        Photographs(tmp_path, side=16)


# --- what else a folder holds -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.gif", "a.jp2", "a.j2k", "a.avif"])
def test_other_kinds_of_photographs_are_read(tmp_path, name):
    kind = {"a.jfif": "jpeg", "a.JPE": "jpeg", "a.jp2": "jpeg2000", "a.j2k": "jpeg2000"}.get(name, name[2:])
    if kind in ("avif", "jpeg2000") and not features.check({"avif": "avif", "jpeg2000": "jpg_2000"}[kind]):
        pytest.skip(f"this Pillow does not write {kind}")
    Image.new("RGB", (32, 24), (200, 60, 30)).save(tmp_path / name, kind)
    for image in (Photographs(tmp_path, side=16)[0], image_folder(tmp_path, size=16).images[0]):
        assert (image.mean((1, 2)) * 255 - torch.tensor([200.0, 60, 30])).abs().max() < 6


def test_of_an_animation_the_first_picture_is_taken(tmp_path):
    first, second = (Image.new("RGB", (32, 24), color) for color in ("red", "blue"))
    for kind in ("gif", "webp", "png"):
        first.save(tmp_path / f"a.{kind}", save_all=True, append_images=[second], lossless=True)
    for image in Photographs(tmp_path, side=16):
        assert image[0].min() > 0.98 and image[2].max() < 0.02


def test_kinds_that_this_pillow_does_not_read_are_counted_and_named_together(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".jpg": "JPEG"})
    picture().save(tmp_path / "a.jpg")
    for name in ("b.heic", "c.HEIC", "d.avif"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.warns(UserWarning) as warned:
        found = Photographs(tmp_path, side=16)
    assert [str(warning.message) for warning in warned] == [
        "left out: 3 files (b.heic, c.HEIC, d.avif) of kinds that the installed Pillow does not read; install "
        "pillow-heif for HEIC, a newer Pillow for AVIF, or save them as JPEG"]
    assert [path.name for path in found.left_out] == ["b.heic", "c.HEIC", "d.avif"]
    with pytest.raises(ValueError, match=r"b\.heic cannot be read .*does not read \.heic"):
        read_images([tmp_path / "b.heic"])


def test_a_jpeg_called_heic_is_read(tmp_path):
    picture().save(tmp_path / "a.heic", "jpeg")
    assert Photographs(tmp_path, side=16).names == ("a.heic",)


@pytest.fixture
def nested(tmp_path):
    folder = tmp_path / "photos"
    for place in ("", "2023/", "2023/may/", ".thumbnails/"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        picture(seed=len(place)).save(folder / f"{place}b.png")
    (folder / "notes.txt").write_text("not a photograph")
    (folder / "2023" / "film.mov").write_bytes(b"")
    (folder / "elsewhere").symlink_to(folder / "2023", target_is_directory=True)
    return folder


def test_sub_folders_and_other_files_are_counted_and_named(nested):
    with pytest.warns(UserWarning) as warned:
        found = Photographs(nested, side=16)
    [text] = [str(warning.message) for warning in warned]
    assert text.startswith("passed over: 1 file (notes.txt) of other kinds and 3 folders (.thumbnails, 2023, else")
    assert "recursive=True" in text and "RECURSIVE=1" in text
    assert found.names == ("b.png",) and not found.left_out
    assert [path.name for path in found.passed_over] == [".thumbnails", "2023", "elsewhere", "notes.txt"]


def test_sub_folders_on_request(nested):
    with pytest.warns(UserWarning, match=r"2 files \(2023/film.mov, notes.txt\) .* and 2 folders \(.thumb"):
        found = Photographs(nested, side=16, recursive=True)
    assert found.names == ("2023/b.png", "2023/may/b.png", "b.png")
    with pytest.warns(UserWarning, match="2023/film.mov"):
        same = image_folder(nested, size=(16, 21), recursive=True)
    assert same.names == ("2023/b", "2023/may/b", "b")
    with pytest.warns(UserWarning, match=r"3 folders"):
        assert image_folder(nested, size=16).names == ("b",)


def test_a_folder_of_folders_says_what_would_read_them(nested):
    (nested / "b.png").unlink()
    for read in (lambda: Photographs(nested, side=16), lambda: image_folder(nested)):
        with pytest.raises((ValueError, FileNotFoundError), match=r"3 folders .*recursive=True"):
            read()


def test_what_lies_beside_classes_and_in_them_is_named(nested):
    for name in (".thumbnails", "elsewhere"):
        target = nested / name
        target.unlink() if target.is_symlink() else [file.unlink() for file in target.iterdir()] and target.rmdir()
    with pytest.warns(UserWarning, match=r"3 files \(b.png, notes.txt, 2023/film.mov\) .* and 1 folder \(2023/may\)"):
        assert class_folders(nested).classes == ("2023",)


def test_many_are_counted_and_the_first_of_them_named(tmp_path):
    picture().save(tmp_path / "a.png")
    for i in range(1500):
        (tmp_path / f"{i:04}.txt").write_text("")
    with pytest.warns(UserWarning, match=r"1,500 files \(0000.txt, .*0019.txt, and 1,480 more\) of other kinds"):
        found = Photographs(tmp_path, side=16)
    assert len(found.passed_over) == 1500


# --- odd files and names ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_odd_names_are_read_and_printed(tmp_path):
    names = [b"Kate's $HOME `x`.png", b"two\nlines.png", b"latin \xe9.png", "größe 🐘.png".encode(), b" .png",
             b"-k.png"]
    for name in names:
        picture().save(BytesIO(), "png")
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            picture().save(file, "png")
    found = Photographs(tmp_path, side=16)
    assert len(found) == 6 and found[0].shape == (3, 16, 21)
    for file in found.paths:
        file.write_bytes(b"damaged")
    with pytest.warns(UserWarning) as warned, pytest.raises(ValueError, match="6 tried"):
        Photographs(tmp_path, side=16)
    texts = [str(warning.message) for warning in warned]
    assert all(text.isprintable() and text.encode() for text in texts)  # on one line, and in UTF-8
    assert any("two\\nlines.png" in text for text in texts) and any("latin \\xe9.png" in text for text in texts)
    assert any("größe 🐘.png" in text for text in texts) and any("Kate's $HOME `x`.png" in text for text in texts)


def test_readable_escapes_what_cannot_be_printed_and_nothing_else():
    assert readable("Kate's $x, größe\u00a0\u202f.png") == "Kate's $x, größe\u00a0\u202f.png"
    assert readable(Path("a\nb\x1b[2J\u2028.png")) == "a\\nb\\x1b[2J\\u2028.png"


def test_links_that_lead_nowhere_and_what_is_no_file_are_named_and_the_rest_is_done(tmp_path):
    picture().save(tmp_path / "good.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "good.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")  # to read from it would wait for ever
    with pytest.warns(UserWarning) as warned:
        found = Photographs(tmp_path, side=16)
    assert found.names == ("good.png", "link.png")
    texts = [str(warning.message) for warning in warned]
    assert "dangling.png is a link to a file that is not there" in texts[0] and "not a regular file" in texts[1]
    with pytest.warns(UserWarning, match=r"dangling\.png"):
        assert len(Photographs([tmp_path / "dangling.png", tmp_path / "good.png"], side=16)) == 1


def test_files_and_folders_that_are_closed_to_us_are_named(tmp_path, monkeypatch):
    for name in ("good.png", "mine/closed.png", "theirs/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture().save(tmp_path / name)
    opened, iterated = open, Path.iterdir

    def refuse_file(file, *args, **options):
        if Path(file).name == "closed.png":
            raise PermissionError(13, "Permission denied")
        return opened(file, *args, **options)

    def refuse_folder(folder):
        if folder.name == "theirs":
            raise PermissionError(13, "Permission denied")
        return iterated(folder)

    monkeypatch.setattr("nmfcore.photographs.open", refuse_file, raising=False)
    monkeypatch.setattr(Path, "iterdir", refuse_folder)
    with pytest.warns(UserWarning) as warned:
        found = Photographs(tmp_path, side=16, recursive=True)
    assert found.names == ("good.png",) and [path.name for path in found.passed_over] == ["theirs"]
    assert any("closed.png cannot be read as an image (Permission denied)" in str(each.message) for each in warned)
    assert any("1 folder (theirs)" in str(each.message) for each in warned)


def jpeg_with(segment):
    file = BytesIO()
    picture().save(file, "jpeg", quality=98, subsampling=0)
    return file.getvalue()[:2] + segment + file.getvalue()[2:]


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def png_with(name, data, checksum=None, late=False):
    file = BytesIO()
    picture().save(file, "png")
    chunk = struct.pack(">I", len(data)) + name + data
    chunk += struct.pack(">I", zlib.crc32(name + data) if checksum is None else checksum)
    at = file.getvalue().rindex(b"IEND") - 4 if late else 33
    return file.getvalue()[:at] + chunk + file.getvalue()[at:]


def avif_with(exif):
    sound = Image.Exif()
    sound[0x010F] = "maker"
    file = BytesIO()
    picture().save(file, "avif", quality=100, subsampling="4:4:4", exif=sound.tobytes())
    at = file.getvalue().rindex(sound.tobytes()[6:10], 0, file.getvalue().index(b"maker"))
    return file.getvalue()[:at] + exif + file.getvalue()[at + len(exif):]


DAMAGED = {
    "EXIF that is noise.jpg": lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(range(100)))),
    "EXIF that ends early.jpg": lambda: jpeg_with(segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")),
    "EXIF of an impossible rotation.jpg": lambda: jpeg_with(segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12"
                                                                    b"\0\3\0\0\0\1\0c\0\0\0\0\0\0")),
    "a colour profile that ends early.jpg": lambda: jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1")),
    "a JFIF header that ends early.jpg": lambda: jpeg_with(segment(0xE0, b"JFIF\0")),
    "EXIF that is noise.png": lambda: png_with(b"eXIf", bytes(range(100))),
    "EXIF of a wrong checksum.png": lambda: png_with(b"eXIf", b"MM\0*", 1),
    "a text of a wrong checksum.png": lambda: png_with(b"tEXt", b"a\0b", 1),
    "a short chunk at the end.png": lambda: png_with(b"pHYs", b"1", late=True),
    "EXIF that is noise.avif": lambda: avif_with(b"noise noise "),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_do_not_cost_the_pixels(tmp_path, name):
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow does not write AVIF")
    (tmp_path / name).write_bytes(DAMAGED[name]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's own
        both = Photographs(tmp_path, side=30)[0], read_images([tmp_path / name], size=(30, 40))[0]
    for image in both:
        assert image.shape == (3, 30, 40)
        difference = (image * 255 - torch.from_numpy(np.array(picture())).permute(2, 0, 1)).abs()
        assert difference.mean() < (0.01 if name.endswith("png") else 6)


def test_the_users_default_type_does_not_reach_the_pixels(tmp_path):
    picture().save(tmp_path / "a.png")
    preprocess = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), scale=1.0, source="made", layer="")
    expected = Photographs(tmp_path, side=16, preprocess=preprocess)[0]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = Photographs(tmp_path, side=16, preprocess=preprocess)[0]
            plain = image_folder(tmp_path, size=16).images
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected) and found.dtype == plain.dtype == torch.float32


def test_listed_takes_the_folder_as_it_is_called(nested, monkeypatch):
    monkeypatch.chdir(nested)
    images, others = listed(".")
    assert images == [Path("b.png")] and Path("notes.txt") in others


def test_maps_of_a_photograph_that_was_edited_since_are_refused(tmp_path):
    """As an entry of an index is: by its file, not by its name."""
    for i in range(4):
        picture(seed=i).save(tmp_path / f"{i}.png")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    first = stored_maps(model, Photographs(tmp_path, side=16), tmp_path / "maps", layer="1")
    os.utime(tmp_path / "1.png")  # touched, and the same
    again = stored_maps(model, Photographs(tmp_path, side=16), tmp_path / "maps", layer="1")
    assert torch.equal(first.matrix, again.matrix)
    before = (tmp_path / "2.png").stat()
    picture(seed=9).save(tmp_path / "other.png")
    os.replace(tmp_path / "other.png", tmp_path / "2.png")
    os.utime(tmp_path / "2.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # as of an old file in its place
    with pytest.raises(ValueError, match="holds the maps of 4 images, which are not these 4"):
        stored_maps(model, Photographs(tmp_path, side=16), tmp_path / "maps", layer="1")
