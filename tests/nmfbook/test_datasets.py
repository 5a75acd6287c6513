"""Image folders of every kind, damaged files, the embedded sets, the sign of the stereo disparity, labeled images."""

import os
from io import BytesIO

import numpy as np
import pytest
import skimage.data
import torch
import torchvision
from PIL import Image

from nmfbook import datasets
from nmfbook.datasets import (
    EMBEDDED,
    FOLDERS,
    class_folders,
    faces,
    image_folder,
    image_set,
    labeled_images,
    motorcycle_disparity,
    read_images,
)
from nmfcore.networks import data_folder

REAL = os.environ.get("NMFCORE_DATA")
needs_data = pytest.mark.skipif(REAL is None, reason="NMFCORE_DATA is not set: no real data at hand")


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("NMFCORE_DATA", raising=False)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty folder in place of the one for downloads."""
    monkeypatch.setattr(datasets, "_cache", lambda: tmp_path / "cache" / "nmfcore")
    return tmp_path / "cache/nmfcore"


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
    at_its_end, stream = BytesIO(data), BytesIO(data)
    at_its_end.seek(0, 2)
    stream.seekable = stream.seek = lambda *_: False  # as of a connection
    for file in (BytesIO(data), at_its_end, stream):
        assert torch.equal(read_images([tmp_path / "a.png"], size=16), read_images([file], size=16))
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


# --- labeled images -----------------------------------------------------------------------------------------


def test_digits_come_with_scikit_learn():
    found = labeled_images("digits")
    assert found.images.shape == (1797, 1, 8, 8) and found.images.dtype == torch.uint8
    assert found.images.min() == 0 and found.images.max() == 255
    assert found.labels.dtype == torch.int64 and found.classes == tuple("0123456789")
    assert found.labels.bincount().min() > 170 and "scikit-learn" in found.source
    x = found.inputs()
    assert torch.equal(found.inputs(enlarge=2)[:, :, 1::2, ::2], x) and found.inputs(2).shape[2] == 2 * x.shape[2]
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    few = labeled_images("digits", per_class=3)
    assert few.labels.bincount().tolist() == [3] * 10 and few.source.startswith("30 images of handwritten")
    assert torch.equal(few.images[few.labels == 7], found.images[found.labels == 7][:3])


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


def write_fashion_mnist(folder, n=4):
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    labels = np.arange(n, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        write_idx(folder / f"FashionMNIST/raw/{part}-images-idx3-ubyte", images)
        write_idx(folder / f"FashionMNIST/raw/{part}-labels-idx1-ubyte", labels)
    return images, labels


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("place", ["data folder", "cache"])
def test_fashion_mnist_from_torchvisions_files(cache, tmp_path, monkeypatch, place, split):
    folder = cache if place == "cache" else tmp_path / "data"
    images, labels = write_fashion_mnist(folder)
    if place == "data folder":
        monkeypatch.setenv("NMFCORE_DATA", str(folder))
    found = labeled_images("fashion_mnist", split=split)
    assert torch.equal(found.images, torch.from_numpy(images)[:, None]) and found.labels.tolist() == labels.tolist()
    assert found.labels.dtype == torch.int64 and found.classes[9] == "Ankle boot"
    assert found.source == f"Fashion-MNIST, {split}, the original files"


@pytest.mark.parametrize("damage", ["truncated", "empty", "fewer labels", "text"])
def test_damaged_fashion_mnist_is_named(cache, damage):
    write_fashion_mnist(cache)
    file = cache / "FashionMNIST/raw/train-images-idx3-ubyte"
    if damage == "fewer labels":
        write_idx(cache / "FashionMNIST/raw/train-labels-idx1-ubyte", np.zeros(3, dtype=np.uint8))
    else:
        file.write_bytes({"truncated": file.read_bytes()[:1000], "empty": b"", "text": b"<html>404</html>"}[damage])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte .*remove what is there and pass download=True"):
        labeled_images("fashion_mnist")


@pytest.mark.parametrize("name, file", [("cifar10", "cifar-10-batches-py/test_batch"), ("svhn", "test_32x32.mat")])
def test_files_with_a_wrong_checksum_are_not_unpickled(cache, name, file):
    (cache / file).parent.mkdir(parents=True, exist_ok=True)
    (cache / file).write_bytes(b"not what was published")
    with pytest.raises(ValueError, match=r"cannot be read .*corrupted.*remove what is there"):
        labeled_images(name, split="test")


def test_originals_of_torchvision_are_brought_to_one_form(cache, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    cifar = type("", (), dict(data=pixels, targets=[2, 0, 1], classes=["a", "b", "c"]))
    svhn = type("", (), dict(data=pixels.transpose(0, 3, 1, 2), labels=np.array([2, 0, 1])))
    asked = []
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", lambda *a, **k: asked.append((a, k)) or cifar)
    monkeypatch.setattr(torchvision.datasets, "SVHN", lambda *a, **k: asked.append((a, k)) or svhn)
    for name in ("cifar10", "svhn"):
        found = labeled_images(name, split="test", download=True)
        assert torch.equal(found.images, torch.from_numpy(pixels).permute(0, 3, 1, 2)) and found.images.is_contiguous()
        assert found.labels.tolist() == [2, 0, 1] and found.labels.dtype == torch.int64
    assert asked == [((cache, False), {"download": True}), ((cache, "test"), {"download": True})]
    monkeypatch.setattr(torchvision.datasets, "SVHN", lambda *a, **k: (_ for _ in ()).throw(OSError("no connection")))
    with pytest.raises(ValueError, match=r"SVHN \(train\) cannot be read .*no connection.*download=True"):
        labeled_images("svhn", download=True)


def write_classes(folder, suffix="png", classes=("cat", "ant"), count=3, mode="RGB", size=(32, 32)):
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(*size, seed=10 * c + i).convert(mode).save(folder / name / f"{i}.{suffix}")


def test_class_folders_in_name_order(tmp_path):
    write_classes(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "readme.txt").write_text("no class")
    found = class_folders(tmp_path)
    assert found.classes == ("ant", "cat") and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.images.shape == (6, 3, 32, 32) and found.images.dtype == torch.uint8
    assert torch.equal(found.images[4], torch.from_numpy(np.array(picture(32, 32, seed=1))).permute(2, 0, 1))
    few = class_folders(tmp_path, per_class=2)
    assert few.labels.tolist() == [0, 0, 1, 1] and torch.equal(few.images, found.images[[0, 1, 3, 4]])
    assert few.source == f"4 images in 2 classes of the folder {tmp_path.name}"
    assert torch.equal(class_folders(tmp_path, size=(32, 32)).images, found.images)


def test_grey_class_folders_stay_grey(tmp_path):
    write_classes(tmp_path, mode="L")
    assert class_folders(tmp_path).images.shape == (6, 1, 32, 32)
    assert torch.equal(class_folders(tmp_path, size=(32, 32)).images, class_folders(tmp_path).images)
    picture(32, 32).save(tmp_path / "ant/9.png")
    assert class_folders(tmp_path).images.shape == (7, 3, 32, 32)


def test_class_folders_that_cannot_be_read(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"holds no folders; expected one per class"):
            class_folders(folder)
    write_classes(tmp_path)
    picture(20, 32).save(tmp_path / "cat/9.png")
    with pytest.raises(ValueError, match=r"9\.png has \(20, 32\) pixels where others have \(32, 32\); pass size="):
        class_folders(tmp_path)
    assert class_folders(tmp_path, size=8).images.shape[0] == 7
    (tmp_path / "cat/9.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"9\.png cannot be read"):
        class_folders(tmp_path, size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*empty holds no images"):
        class_folders(tmp_path, per_class=1)
    for load in (lambda: class_folders(tmp_path, per_class=0), lambda: labeled_images("digits", per_class=0)):
        with pytest.raises(ValueError, match="per_class=0; take at least 1"):
            load()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_class_folders_of_the_data_folder_say_what_they_are(cache, tmp_path, monkeypatch, suffix):
    write_classes(tmp_path / "cifar10/train", suffix)
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    found = labeled_images("cifar10", download=True)  # what is in hand is not downloaded
    assert found.images.shape == (6, 3, 32, 32)
    assert found.source.startswith("6 images of CIFAR-10, train, from class folders")
    assert found.source.endswith("not the original pixels") == (suffix == "jpg")


def test_labeled_images_that_are_not_in_hand(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    for name, title in (("cifar10", "CIFAR-10"), ("svhn", "SVHN"), ("fashion_mnist", "Fashion-MNIST")):
        with pytest.raises(ValueError, match=rf"{title} \(test\) is not .*download=True, set NMFCORE_DATA.*'digits'"):
            labeled_images(name, split="test")
    with pytest.raises(ValueError, match="no labeled images 'mnist'; there are fashion_mnist, cifar10, svhn, digits"):
        labeled_images("mnist")
    with pytest.raises(ValueError, match="split 'val' is neither"):
        labeled_images("svhn", split="val")
    with pytest.raises(ValueError, match="digits are not split"):
        labeled_images("digits", split="test")


@needs_data
def test_real_labeled_images(monkeypatch):
    monkeypatch.setenv("NMFCORE_DATA", REAL)
    fashion = labeled_images("fashion_mnist")
    assert fashion.images.shape == (60_000, 1, 28, 28) and fashion.labels.bincount().tolist() == [6_000] * 10
    assert fashion.images.float().mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # known of the official files
    cifar = labeled_images("cifar10", split="test", per_class=20)
    assert cifar.images.shape == (200, 3, 32, 32) and cifar.classes[:2] == ("airplane", "automobile")
    assert "JPEG" in cifar.source
    svhn = labeled_images("svhn")
    assert svhn.images.shape == (1083, 3, 32, 32) and svhn.classes == tuple("0123456789")
    assert svhn.source == "1,083 images of SVHN, train, from class folders"
