"""Image folders of every kind, damaged files, the embedded sets, and the sign of the stereo disparity."""

from io import BytesIO

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from nmfcore import datasets
from nmfcore.datasets import (
    EMBEDDED,
    FOLDERS,
    data_folder,
    faces,
    image_folder,
    image_set,
    motorcycle_disparity,
    read_images,
)


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("NMFCORE_DATA", raising=False)


def picture(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def two_halves(width=40, height=30):
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2:, 2] = 255
    return Image.fromarray(pixels)


# --- folders ------------------------------------------------------------------------------------------------


def test_images_come_in_name_order_as_rgb_in_0_1(tmp_path):
    for name in ("b.png", "a.JPG", "c.bmp"):
        picture(seed=ord(name[0])).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    found = image_folder(tmp_path, size=(16, 16))
    assert found.names == ("a", "b", "c") and found.images.shape == (3, 3, 16, 16)
    assert found.images.dtype == torch.float32 and found.images.min() >= 0 and found.images.max() <= 1
    assert found.source == f"3 images of the folder {tmp_path.name}"
    first = image_folder(tmp_path, size=(16, 16), count=2)
    assert first.names == ("a", "b") and torch.equal(first.images, found.images[:2])
    assert first.source == f"2 images of the folder {tmp_path.name}"
    assert image_folder(tmp_path, count=99).names == found.names


def test_files_and_file_objects_are_read_alike(tmp_path):
    picture().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert torch.equal(read_images([tmp_path / "a.png"], size=16), read_images([BytesIO(data)], size=16))
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_images([BytesIO(data[:100])])


def test_a_lossless_image_of_the_right_size_is_read_to_the_bit(tmp_path):
    picture(32, 24).save(tmp_path / "a.png")
    found = image_folder(str(tmp_path), size=(24, 32)).images[0]
    assert torch.equal((found * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(picture(32, 24))))


@pytest.mark.parametrize("mode, name", [("L", "a.png"), ("LA", "a.png"), ("1", "a.png"), ("L", "a.jpg"),
                                        ("RGBA", "a.png"), ("P", "a.png"), ("CMYK", "a.jpg"), ("CMYK", "a.tif")])
def test_other_colour_modes_become_rgb(tmp_path, mode, name):
    image = Image.new("RGB", (32, 32), (200, 60, 30))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / name)
    color = image_folder(tmp_path, size=8).images[0].mean((1, 2)) * 255
    if mode in ("L", "LA"):
        assert (color - (0.299 * 200 + 0.587 * 60 + 0.114 * 30)).abs().max() < 2
    elif mode == "1":
        assert color[0] == color[1] == color[2]
    else:
        assert (color - torch.tensor([200.0, 60, 30])).abs().max() < 4


@pytest.mark.parametrize("orientation, corner", [(1, "left"), (2, "right"), (3, "right"), (6, "top"), (8, "bottom")])
def test_exif_rotation_is_applied(tmp_path, orientation, corner):
    exif = Image.Exif()
    exif[0x0112] = orientation
    two_halves(64, 64).save(tmp_path / "a.jpg", exif=exif, quality=95)
    red = image_folder(tmp_path, size=16).images[0, 0]
    sides = {"left": red[:, :6], "right": red[:, -6:], "top": red[:6], "bottom": red[-6:]}
    assert max(sides, key=lambda side: sides[side].mean()) == corner and sides[corner].mean() > 0.9


@pytest.mark.parametrize("width, height, sides", [
    (1, 1, (8, 8)), (500, 1, (8, 4000)), (1, 500, (4000, 8)), (300, 20, (8, 120)), (3, 2, (8, 12)), (2, 3, (12, 8))])
@pytest.mark.parametrize("size", [8, (6, 10)])
def test_any_proportions(tmp_path, width, height, sides, size):
    Image.new("RGB", (width, height), (10, 200, 90)).save(tmp_path / "a.png")
    found = image_folder(tmp_path, size=size).images
    assert found.shape == (1, 3, *(sides if size == 8 else size))
    assert (found * 255 - torch.tensor([10.0, 200, 90])[:, None, None]).abs().max() < 1.01


def test_the_centre_is_kept_and_proportions_too(tmp_path):
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 255  # the central square
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = image_folder(tmp_path, size=(10, 10)).images
    assert found[..., 1:-1].min() > 0.95


def test_a_set_takes_its_median_proportions(tmp_path):
    for name, sides in {"a": (60, 20), "b": (30, 20), "c": (20, 20)}.items():
        picture(*sides).save(tmp_path / f"{name}.png")
    assert image_folder(tmp_path, size=10).images.shape == (3, 3, 10, 15)


def damaged(kind, suffix):
    file = BytesIO()
    picture().save(file, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    data = file.getvalue()
    if kind == "empty":
        return b""
    if kind == "truncated":
        return data[: len(data) // 2]
    if kind == "text":
        return b"<html>404 not found</html>"
    return {"png": data.replace(b"IHDR", b"IHDX", 1), "ppm": data.replace(b"255", b"2x5", 1),  # header
            "bmp": data[:18] + b"\xff\xff\xff\x7f" + data[22:]}[suffix]  # a width of two billion


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind, suffix", [(kind, suffix) for kind in ("empty", "truncated", "text")
                                          for suffix in ("png", "jpg", "bmp", "tif", "webp", "ppm")]
                         + [("header", "png"), ("header", "ppm"), ("header", "bmp")])
def test_a_damaged_file_is_named(tmp_path, kind, suffix):
    picture().save(tmp_path / "good.png")
    (tmp_path / f"photo.{suffix}").write_bytes(damaged(kind, suffix))
    with pytest.raises(ValueError, match=rf"photo\.{suffix} cannot be read as an image .*replace the file"):
        image_folder(tmp_path, size=8)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_an_image_of_unknown_range_is_refused_not_blown_out(tmp_path, dtype):
    Image.fromarray(np.linspace(0, 1000, 64).reshape(8, 8).astype(dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=r"deep\.tif has more than 8 bits per channel"):
        image_folder(tmp_path, size=8)


def test_a_folder_that_is_empty_or_missing(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"{folder.name} holds no images .*\.jpg"):
            image_folder(folder)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"folder\.png cannot be read"):
        image_folder(tmp_path)


# --- sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_need_nothing(name):
    found = image_set(name, size=(32, 48))
    assert found.images.shape == (len(found.names), 3, 32, 48) and len(set(found.names)) == len(found.names)
    assert found.images.min() >= 0 and found.images.max() <= 1 and (found.images.std((1, 2, 3)) > 0.05).all()
    assert found.source == EMBEDDED[name][0]


def test_the_first_set_in_hand_is_taken(tmp_path, monkeypatch):
    assert image_set("elephants", "motorcycle", size=8).names == ("left", "right")
    folder = tmp_path / FOLDERS["elephants"][0]
    folder.mkdir(parents=True)
    picture().save(folder / "one.png")
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    found = image_set("stonehenge", "elephants", "motorcycle", size=8)
    assert found.names == ("one",) and found.source == "1 photographs of elephants, iCoseg"


def test_a_set_that_is_unknown_or_not_there(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no image set 'unicorns'; there are elephants, .*motorcycle, objects"):
        image_set("unicorns")
    for folder in (None, tmp_path):
        if folder:
            monkeypatch.setenv("NMFCORE_DATA", str(folder))
        with pytest.raises(FileNotFoundError, match=r"elephants or gymnasts is not .*NMFCORE_DATA.*ask for motorcycle"):
            image_set("elephants", "gymnasts")


def test_a_data_folder_that_is_not_there(tmp_path, monkeypatch):
    assert data_folder() is None
    monkeypatch.setenv("NMFCORE_DATA", "")
    assert data_folder() is None
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path / "gone"))
    for call in (data_folder, faces, lambda: image_set("elephants")):
        with pytest.raises(FileNotFoundError, match=r"gone is not a folder; correct or unset"):
            call()


def test_embedded_faces():
    found = faces()
    assert found.images.shape == (100, 25, 25) and found.images.dtype == torch.float32
    assert found.images.min() >= 0 and 0.5 < found.images.max() <= 1
    assert found.source.startswith("100 faces, Labeled Faces in the Wild")
    # Faces look like each other more than like the patches that follow them in the same file.
    flat = torch.from_numpy(skimage.data.lfw_subset()).float().flatten(1)
    mean = found.images.flatten(1).mean(0)
    alike = torch.corrcoef(torch.cat([mean[None], flat]))[0, 1:]
    assert alike[:100].mean() > 0.5 > alike[100:].mean()


def test_cbcl_faces_from_the_data_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cbcl/train/face"
    folder.mkdir(parents=True)
    pixels = np.arange(2 * 19 * 19, dtype=np.uint32).reshape(2, 19, 19).astype(np.uint8)
    for n in range(2):
        Image.fromarray(pixels[n]).save(folder / f"face{n}.pgm")
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    found = faces()
    assert found.source == "2 faces, CBCL Face Database #1, MIT"
    torch.testing.assert_close(found.images, torch.from_numpy(pixels).float() / 255)
    (folder / "face1.pgm").write_bytes(b"P5")
    with pytest.raises(ValueError, match=r"face1\.pgm cannot be read"):
        faces()
    monkeypatch.setenv("NMFCORE_DATA", str(folder))  # a folder without the database
    assert len(faces().images) == 100


# --- stereo disparity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(500, 741), (224, 224), (150, 224), (200, 100), (64, 300)])
def test_disparity_carries_the_right_view_onto_the_left(size):
    left, right = image_set("motorcycle", size=size).images
    disparity = motorcycle_disparity(size)
    assert disparity.shape == size and disparity.dtype == torch.float32
    known = torch.isfinite(disparity)
    assert 0.9 < known.float().mean() < 0.97 and torch.isnan(disparity[~known]).all()
    scale = max(size[0] / 500, size[1] / 741)
    assert 7.0 * scale < disparity[known].min() and disparity[known].max() < 60 * scale

    def difference(sign):
        """Mean |left − right carried along| where the disparity is known and stays inside the image."""
        x = torch.arange(size[1]) + sign * disparity.nan_to_num(1e6)
        inside = known & (x > -0.5) & (x < size[1] - 0.5)
        carried = right.gather(2, x.clamp(0, size[1] - 1).round().long().expand(3, *size))
        return float((carried - left).abs().mean(0)[inside].mean())

    unmoved = float((right - left).abs().mean(0)[known].mean())
    assert difference(-1) < 0.35 * unmoved < 0.35 * difference(+1)


def test_disparity_is_scaled_with_the_image():
    full, half = motorcycle_disparity((500, 741)), motorcycle_disparity((250, 370))
    raw = skimage.data.stereo_motorcycle()[2]
    np.testing.assert_array_equal(full, np.where(np.isfinite(raw), raw, np.nan))
    assert half.nanmedian() == pytest.approx(float(full.nanmedian()) / 2, rel=0.02)


def test_every_name_in_the_module_has_its_folder_or_its_loader():
    assert not set(FOLDERS) & set(EMBEDDED)
    assert all(suffix == suffix.lower() for suffix in datasets.SUFFIXES)
