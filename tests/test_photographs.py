"""Photographs of every kind: proportions, colour modes, rotation, large ones in little memory, damaged ones named."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nmfcore.networks import Preprocess
from nmfcore.photographs import Photographs

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
def test_a_photograph_of_48_megapixels_takes_little_memory(tmp_path):
    """As a JPEG file 1/64 of its pixels is decoded; the whole would take 192 MiB, as Pillow stores four bytes each."""
    Image.new("RGB", (8000, 6000), (200, 60, 30)).save(tmp_path / "a.jpg")
    program = ("import re, sys; from nmfcore.photographs import Photographs\n"
               f"peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('{STATUS}').read())[1])  # KiB\n"
               "before = peak(); [image] = Photographs(sys.argv[1], side=224)\n"
               "print((peak() - before) // 1024, *image.shape)")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    grown, *shape = map(int, done.stdout.split())
    assert shape == [3, 224, 299] and grown < 60
