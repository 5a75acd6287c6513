"""Pretrained networks: every way a weight file can be stored, incomplete, damaged or absent."""

import csv
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from nmfbook.architectures import ARCHITECTURES, memorization_network
from nmfcore import networks
from nmfcore.activations import capture
from nmfcore.networks import Preprocess, Student, classifies, first_available, pretrained

REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS = Path(os.environ["NMFCORE_DATA"]) / "weights" if "NMFCORE_DATA" in os.environ else None
needs_weights = pytest.mark.skipif(WEIGHTS is None, reason="NMFCORE_DATA is not set: no pretrained weights at hand")
plain = Preprocess(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0), scale=1.0, source="made up", layer=None)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No data folder, nothing cached, and an error at the first attempt to open a connection."""
    def refuse(*args, **kwargs):
        raise networks.URLError("no network in this test")

    monkeypatch.delenv("NMFCORE_DATA", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path


@pytest.fixture
def student_copy(tmp_path):
    for suffix in ("safetensors", "json"):
        shutil.copy(networks.MODELS / f"student.{suffix}", tmp_path)
    return tmp_path / "student.safetensors"


def squeezenet_state(seed=0):
    torch.manual_seed(seed)
    return torchvision.models.get_model("squeezenet1_1", weights=None).state_dict()


# --- the embedded network ---------------------------------------------------------------------------------


def test_student_gives_nonnegative_maps_of_the_teachers_shape():
    model, preprocess = pretrained("student")
    x = preprocess(torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    maps = capture(model, preprocess.layer, x)[preprocess.layer]
    assert maps.shape == (2, 512, 14, 14)
    assert maps.dtype == torch.float32 and torch.isfinite(maps).all()
    assert (maps >= 0).all() and (maps > 0).any()
    assert torch.equal(maps, model(x))
    assert capture(model, preprocess.layer, x[..., :160])[preprocess.layer].shape == (2, 512, 14, 10)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_student_is_the_same_every_time():
    (one, preprocess), (two, _) = pretrained("student"), pretrained("student")
    x = preprocess(torch.full((1, 3, 64, 64), 0.3))
    assert torch.equal(one(x), two(x))


def test_student_is_what_its_card_says():
    card = json.loads((networks.MODELS / "student.json").read_text())
    weights = networks.MODELS / card["file"]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert weights.stat().st_size < 10e6
    preprocess = pretrained("student")[1]
    assert preprocess.layer == card["layer"]
    assert (preprocess.mean, preprocess.std, preprocess.scale) == (networks.IMAGENET_MEAN, networks.IMAGENET_STD, 1)
    assert card["sha256"].startswith(preprocess.source.rpartition(" ")[2])
    assert "student" in preprocess.source and "not stated" not in preprocess.source


def test_student_card_prints_what_was_measured():
    record = json.loads((networks.MODELS / "student.json").read_text())
    text = (REPOSITORY / "data/models/student.md").read_text()
    for row in record["overall"]:
        rows = [r for r in record["agreement"] if (r["network"], r["rank"]) == (row["network"], row["rank"])]
        assert len(rows) == row["sets"] >= 10
        for measure in ("correlation", "iou"):
            assert row[measure] == pytest.approx(sum(r[measure] for r in rows) / len(rows), abs=1.5e-3)
        assert "| {network} | {rank} | {sets} | {correlation:.3f} | {iou:.3f} |".format(**row) in text


def test_student_finds_the_teachers_heatmaps_better_than_chance():
    overall = json.loads((networks.MODELS / "student.json").read_text())["overall"]
    correlation = {(row["network"], row["rank"]): row["correlation"] for row in overall}
    for rank in (3, 4):
        assert correlation["student", rank] > correlation["student, untrained", rank] + 0.1


def test_student_changed_by_one_bit(student_copy):
    data = bytearray(student_copy.read_bytes())
    data[-1] ^= 1
    student_copy.write_bytes(data)
    with pytest.raises(ValueError, match=r"student\.safetensors is damaged.*download it again"):
        pretrained("student", weights=student_copy)


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_truncated_file(student_copy, length):
    student_copy.with_suffix(".json").unlink()  # no sha256 to compare: the format itself must notice
    student_copy.write_bytes(student_copy.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"student\.safetensors is not a complete.*delete it and download it again"):
        pretrained("student", weights=student_copy)


def test_damaged_card(student_copy):
    student_copy.with_suffix(".json").write_text('{"file": "stud')
    with pytest.raises(ValueError, match=r"student\.json is damaged"):
        pretrained("student", weights=student_copy)


def test_student_without_the_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "MODELS", tmp_path)
    with pytest.raises(FileNotFoundError, match="clone it, or pass weights="):
        pretrained("student")


# --- preprocessing ----------------------------------------------------------------------------------------


def test_preprocess_normalizes_each_channel():
    images = torch.full((2, 3, 4, 5), 0.5)
    expected = torch.tensor([0.0, 1.0, 0.5])[None, :, None, None].expand(2, 3, 4, 5)
    assert torch.allclose(plain(images), expected)
    assert torch.allclose(plain(images[0]), expected[0])
    assert plain(images.double()).dtype == plain(images.half()).dtype == torch.float32


def test_preprocess_agrees_with_torchvision():
    images = torch.rand(2, 3, 8, 8)
    convention = Preprocess(networks.IMAGENET_MEAN, networks.IMAGENET_STD, 1.0, "", None)
    theirs = torchvision.models.VGG19_Weights.IMAGENET1K_V1.transforms(crop_size=8, resize_size=8)
    assert torch.allclose(convention(images), theirs(images), atol=1e-5)


@pytest.mark.parametrize("images, message", [
    (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "uint8.*/ 255"),
    (torch.rand(1, 3, 4, 4) * 255, "divide by 255"),
    (torch.full((3, 4, 4), 1.1), "clamp"),
    (torch.full((3, 4, 4), -0.1), "clamp"),
    (torch.full((3, 4, 4), float("nan")), "nan"),
    (torch.rand(1, 4, 4), "shape"),
    (torch.rand(4, 4, 3), "channels-last"),
    (torch.rand(3, 3), "shape"),
    (torch.rand(0, 3, 4, 4), "empty"),
    ([[0.5]], "list"),
])  # fmt: skip
def test_preprocess_refuses(images, message):
    with pytest.raises(ValueError, match=message):
        plain(images)


@pytest.mark.parametrize("card, mean, std, scale", [
    ({"normalisation": "caffe style: RGB in 0..255 minus [123,117,104], no std"}, (123, 117, 104), (1, 1, 1), 255),
    ({"normalization": "caffe style"}, networks.CAFFE_MEAN, (1, 1, 1), 255),
    ({"normalization": "rgb255_minus_mean", "mean": "1,2.5,3", "std": "1,1,1"}, (1, 2.5, 3), (1, 1, 1), 255),
    ({"normalization": "torchvision: mean (0.485, ...)"}, networks.IMAGENET_MEAN, networks.IMAGENET_STD, 1),
    ({}, networks.IMAGENET_MEAN, networks.IMAGENET_STD, 1),
])  # fmt: skip
@pytest.mark.parametrize("place", ["card", "header"])
def test_stated_normalization_is_used(tmp_path, card, mean, std, scale, place):
    file = tmp_path / "squeezenet1_1.safetensors"
    save_file(squeezenet_state(), file, metadata=card if place == "header" else None)
    if place == "card":
        file.with_suffix(".json").write_text(json.dumps(card))
    preprocess = pretrained("squeezenet1_1", weights=file)[1]
    assert (preprocess.mean, preprocess.std, preprocess.scale) == (mean, std, scale)
    assert ("not stated" in preprocess.source) == (not card)


# --- weight files -----------------------------------------------------------------------------------------


def test_half_precision_file_is_computed_in_single(tmp_path):
    state, file = squeezenet_state(), tmp_path / "half.safetensors"
    save_file({key: value.half() for key, value in state.items()}, file)
    loaded = pretrained("squeezenet1_1", weights=file)[0].state_dict()
    assert all(value.dtype == torch.float32 for value in loaded.values())
    assert all(torch.equal(loaded[key], state[key].half().float()) for key in state)


def test_integer_and_low_rank_tensors_are_multiplied_back():
    g = torch.Generator().manual_seed(0)
    U, V, W = (torch.randint(-127, 128, shape, generator=g, dtype=torch.int8) for shape in ((6, 2), (2, 5), (4, 3)))
    u, v, w = (torch.rand(rows, 1, generator=g).half() for rows in (6, 2, 4))
    state = networks._restore({
        "a.weight.U": U, "a.weight.U.scale": u, "a.weight.V": V, "a.weight.V.scale": v, "a.bias": torch.ones(6),
        "b.weight": W, "b.weight.scale": w, "bn.num_batches_tracked": torch.tensor(7),
    }, Path("made.safetensors"))  # fmt: skip
    assert state.keys() == {"a.weight", "a.bias", "b.weight", "bn.num_batches_tracked"}
    by_hand = sum((U[:, r].double() * u[:, 0].double())[:, None] * (V[r].double() * v[r, 0].double()) for r in (0, 1))
    assert torch.allclose(state["a.weight"].double(), by_hand, rtol=1e-5)
    assert torch.equal(state["b.weight"], W.float() * w.float())
    assert state["bn.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("drop", ["a.weight.V", "a.weight.U.scale", "a.weight.V.scale"])
def test_half_a_low_rank_tensor(drop):
    tensors = {"a.weight.U": torch.ones(3, 1, dtype=torch.int8), "a.weight.U.scale": torch.ones(3, 1),
               "a.weight.V": torch.ones(1, 2, dtype=torch.int8), "a.weight.V.scale": torch.ones(1, 1)}
    tensors.pop(drop)
    with pytest.raises(ValueError, match="weight"):
        networks._restore(tensors, Path("made.safetensors"))


def _without(key):
    return lambda state: state.pop(key)


def _renamed(state):
    state["features.0.weights"] = state.pop("features.0.weight")


def _reshaped(state):
    state["features.0.weight"] = torch.zeros(64, 1, 3, 3)


@pytest.mark.parametrize("damage, message", [
    (_without("features.0.weight"), "missing.*features.0.weight"),
    (_without("classifier.1.bias"), "missing.*classifier.1.bias"),
    (lambda state: state.update(extra=torch.zeros(1)), "unexpected.*extra"),
    (_renamed, "missing.*features.0.weight.*unexpected.*features.0.weights"),
    (_reshaped, r"wrong shape.*features.0.weight \(64, 1, 3, 3\)"),
    (lambda state: state.clear(), "missing"),
])  # fmt: skip
def test_no_key_is_silently_ignored(tmp_path, damage, message):
    state = squeezenet_state()
    damage(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=message):
        pretrained("squeezenet1_1", weights=tmp_path / "w.safetensors")


def test_file_without_classifier_gives_no_class(tmp_path):
    state = {key: value for key, value in squeezenet_state().items() if key.startswith("features.")}
    save_file(state, tmp_path / "headless.safetensors")
    model, preprocess = pretrained("squeezenet1_1", weights=tmp_path / "headless.safetensors")
    x = preprocess(torch.rand(1, 3, 64, 64))
    assert preprocess.layer == "features.12"
    assert capture(model, preprocess.layer, x)[preprocess.layer].shape[1] == 512
    with pytest.raises(RuntimeError, match=r"headless\.safetensors holds no weights from 'classifier' on"):
        model(x)
    assert not classifies(model) and not classifies(pretrained("student")[0])
    save_file(squeezenet_state(), tmp_path / "whole.safetensors")
    assert classifies(pretrained("squeezenet1_1", weights=tmp_path / "whole.safetensors")[0])


def test_resnet_version_1_strides_in_its_first_convolution(tmp_path):
    torch.manual_seed(0)
    whole = torchvision.models.resnet50(weights=None).eval()
    state = {key: value for key, value in whole.state_dict().items()
             if not key.startswith(("layer4", "fc")) and "num_batches" not in key}
    for version, metadata in (("1", {"stride_in_1x1": "true"}), ("1.5", None)):
        file = tmp_path / f"resnet50_{version}.safetensors"
        save_file(state, file, metadata=metadata)
        model, preprocess = pretrained("resnet50", weights=file)
        first, second = ((2, 2), (1, 1)) if version == "1" else ((1, 1), (2, 2))
        for stage in (model.layer2, model.layer3):
            assert (stage[0].conv1.stride, stage[0].conv2.stride) == (first, second)
        x = preprocess(torch.rand(1, 3, 64, 64))
        maps = capture(model, "layer3", x)["layer3"]
        assert preprocess.layer == "layer3" and maps.shape == (1, 1024, 4, 4) and (maps >= 0).all()
        assert torch.allclose(maps, capture(whole, "layer3", x)["layer3"]) == (version == "1.5")
        with pytest.raises(RuntimeError, match="'layer4'"):
            model(x)


def test_a_pickle_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    file = tmp_path / "vgg19.safetensors"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        pretrained("squeezenet1_1", weights=file)
    assert not (tmp_path / "sprung").exists()


# --- where weights are looked for -------------------------------------------------------------------------


def test_data_folder_is_searched_by_name(monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    for stem in ("squeezenet1_1_quantized", "vgg19_bn", "vgg19_features"):
        (tmp_path / "weights" / f"{stem}.safetensors").touch()
    known = torchvision.models.list_models(module=torchvision.models)
    assert networks._local_file("squeezenet1_1", known).stem == "squeezenet1_1_quantized"
    assert networks._local_file("vgg19_bn", known).stem == "vgg19_bn"
    assert networks._local_file("vgg19", known).stem == "vgg19_features"  # not another network's
    assert networks._local_file("vgg1", ["vgg1", *known]) is None
    (tmp_path / "weights" / "vgg19.safetensors").touch()
    assert networks._local_file("vgg19", known).stem == "vgg19"


@pytest.mark.parametrize("download", [False, True])
def test_nothing_to_be_had(offline, download):
    with pytest.raises(FileNotFoundError) as caught:
        pretrained("vgg19", download=download)
    for part in ("vgg19*.safetensors", "NMFCORE_DATA=not set", "vgg19-dcbb9e9d.pth", "'student'"):
        assert part in str(caught.value)
    assert ("download failed" in str(caught.value)) == download
    assert list(offline.rglob("*.partial")) == []


def test_first_available_goes_on_to_the_next(offline):
    model, _ = first_available(["vgg19", "student"])
    assert isinstance(model, Student)
    with pytest.raises(FileNotFoundError, match=r"(?s)none.*vgg19.*resnet50"):
        first_available(["vgg19", "resnet50"])


def test_damaged_download_is_noticed(offline):
    cached = offline / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"squeezenet1_1-b8a52dc0\.pth is damaged.*download it again"):
        pretrained("squeezenet1_1")


def test_torchvision_weights_and_transforms(offline, monkeypatch):
    state, weights = squeezenet_state(), torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    cached = offline / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir(parents=True)
    torch.save(state, cached)
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    renamed = cached.with_name(f"squeezenet1_1-{digest[:8]}.pth")
    cached.rename(renamed)  # torchvision's files carry the start of their sha256 in their name
    monkeypatch.setattr(type(weights), "url", property(lambda self: f"https://example.org/{renamed.name}"))
    model, preprocess = pretrained("squeezenet1_1", download=False)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert preprocess.source == "torchvision SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert (preprocess.mean, preprocess.std, preprocess.scale) == (networks.IMAGENET_MEAN, networks.IMAGENET_STD, 1)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_torchvision_weights_are_read_without_running_their_code(offline, monkeypatch):
    class Trap:
        def __reduce__(self):
            return Path.touch, (offline / "sprung",)

    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    folder = offline / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"features.0.weight": Trap()}, folder / "trap")
    name = f"squeezenet1_1-{hashlib.sha256((folder / 'trap').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "trap").rename(folder / name)
    monkeypatch.setattr(type(weights), "url", property(lambda self: f"https://example.org/{name}"))
    with pytest.raises(pickle.UnpicklingError):
        pretrained("squeezenet1_1")
    assert not (offline / "sprung").exists()


def test_unknown_name_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"unknown network 'vgg91'; did you mean.*vgg19"):
        pretrained("vgg91")
    with pytest.raises(ValueError, match="unknown network"):
        pretrained("fcn_resnet50")  # a segmentation network
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        pretrained("vgg19", weights=tmp_path / "nowhere.safetensors")


def test_deep_layer():
    def layer(name):
        with torch.device("meta"):
            return networks._deep_layer(torchvision.models.get_model(name, weights=None))

    assert [layer(name) for name in ("vgg19", "vgg16", "resnet50", "squeezenet1_1", "alexnet", "vit_b_16")] == [
        "features.35", "features.29", "layer3", "features.12", "features.11", None]
    assert networks._deep_layer(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == "1"


# --- the real files ---------------------------------------------------------------------------------------


@needs_weights
@pytest.mark.parametrize("name", ["vgg19", "resnet50", "squeezenet1_1"])
def test_real_weights(name):
    model, preprocess = pretrained(name, download=False)
    assert preprocess.scale == 255 and preprocess.std == (1, 1, 1) and 100 < preprocess.mean[2] < 110
    assert "local file" in preprocess.source and "not stated" not in preprocess.source
    maps = capture(model, preprocess.layer, preprocess(torch.rand(1, 3, 64, 64)))[preprocess.layer]
    assert (maps >= 0).all() and maps.max() > 1
    assert all(p.dtype == torch.float32 and not p.is_meta for p in model.parameters())


@needs_weights
def test_real_low_rank_classifier():
    stored = load_file(WEIGHTS / "vgg19.safetensors")
    model, _ = pretrained("vgg19", download=False)
    rows = slice(0, 4)
    U, V = (stored[f"classifier.3.weight.{part}"].double() * stored[f"classifier.3.weight.{part}.scale"].double()
            for part in "UV")
    assert torch.allclose(model.classifier[3].weight[rows].double(), U[rows] @ V, rtol=1e-4, atol=1e-6)


@needs_weights
def test_squeezenet_recognizes_photographs():
    """Normalization, channel order and weights belong together: one slip and accuracy falls towards 0.001."""
    folders = {"n03028079": 497, "n03417042": 569, "n03445777": 574, "n01440764": 0}
    model, preprocess = pretrained("squeezenet1_1", download=False)
    right = total = 0
    for wnid, label in folders.items():
        files = sorted((WEIGHTS.parent / "imagenet/val" / wnid).glob("*"))[:10]
        images = torch.stack([pil_to_tensor(Image.open(f).convert("RGB")) / 255 for f in files])
        right += (model(preprocess(images)).argmax(1) == label).sum().item()
        total += len(files)
    assert right / total > 0.4, f"{right} of {total} recognized"


# --- the networks of table 3.1 ----------------------------------------------------------------------------

TABLE = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST", "svhn": "SVHN", "urban_sounds": "Urban Sounds"}
SHAPE = {"cifar10": (3, 32, 32), "fashion_mnist": (1, 28, 28), "svhn": (3, 32, 32), "urban_sounds": (1, 8, 8)}


def table_3_1(name):
    """[(type, {width, kernel, padding, stride})] of one network, as transcribed from the thesis."""
    rows = {}
    with open(REPOSITORY / "data" / "thesis" / "t3_1.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["data"] == TABLE[name]:
                rows.setdefault(int(row["index"]), (row["layer"], {}))[1][row["quantity"]] = int(row["value"])
    return [rows[i] for i in range(1, len(rows) + 1)]


def built(name, **options):
    with torch.device("meta"):  # shapes and counts only
        return memorization_network(name, shape=SHAPE[name], **options)


@pytest.mark.parametrize("name", TABLE)
def test_layers_are_those_of_table_3_1(name):
    layers = [layer for layer in built(name) if not isinstance(layer, nn.Flatten)]
    channels, *sides = SHAPE[name]
    size, inputs = torch.tensor(sides), None
    for layer, (kind, says) in zip(layers, table_3_1(name), strict=True):
        module = layer[0] if isinstance(layer, nn.Sequential) else layer
        if kind == "maxpool":
            assert isinstance(layer, nn.MaxPool2d) and (layer.kernel_size, layer.stride) == (2, 1)
            assert (says["kernel"], says["stride"]) == (2, 1)
            size = size - 1
            continue
        assert [type(m) for m in layer][1:] == [nn.ReLU] if kind.endswith("+relu") else layer is module
        if kind.startswith("conv"):
            assert module.kernel_size == (says["kernel"],) * 2 and module.padding == (says["padding"],) * 2
            assert module.stride == (says["stride"],) * 2 and module.padding_mode == "zeros"
            assert module.weight.shape == (says["width"], channels, says["kernel"], says["kernel"])
            channels, size = says["width"], (size + 2 * says["padding"] - says["kernel"]) // says["stride"] + 1
        else:
            inputs = channels * int(size.prod()) if inputs is None else inputs
            assert module.weight.shape == (says["width"], inputs)
            inputs = says["width"]
        assert module.bias.shape == (says["width"],)


@pytest.mark.parametrize("name, total", [  # each a sum over the table: 9·C_in·C_out + C_out, and inputs·units + units
    ("cifar10", 7_864_778), ("svhn", 4_767_306), ("fashion_mnist", 5_433_994)])
def test_number_of_parameters(name, total):
    assert sum(p.numel() for p in built(name).parameters()) == total


def test_parameters_layer_by_layer():
    def count(name):
        return {layer: sum(p.numel() for p in module.parameters()) for layer, module in built(name).named_children()}

    assert count("cifar10") == {
        "conv1_1": 1_792, "conv1_2": 36_928, "conv2_1": 73_856, "conv2_2": 147_584, "conv2_3": 147_584,
        "conv3_1": 295_168, "conv3_2": 590_080, "conv3_3": 590_080, "conv4_1": 1_180_160, "conv4_2": 2_359_808,
        "conv4_3": 2_359_808, "flatten": 0, "output": 81_930}
    assert count("fashion_mnist") == {
        "flatten": 0, "fc1": 100_480, "fc2": 66_048, "fc3": 1_050_624, "fc4": 4_196_352, "output": 20_490}


def test_urban_sounds_as_printed_and_with_usual_pooling():
    """Pooling with stride 1, as both sources print it, makes the first fully connected layer enormous."""
    def fc1(**options):
        with torch.device("meta"):
            return memorization_network("urban_sounds", shape=(1, 64, 64), **options).fc1[0].weight.shape
    assert fc1() == (4096, 512 * 60 * 60) and fc1(pool_stride=2) == (4096, 512 * 4 * 4)


@pytest.mark.parametrize("name", TABLE)
def test_named_layers_can_be_captured_and_factorized(name):
    if name == "urban_sounds":
        model, x = memorization_network(name, shape=(1, 32, 16), pool_stride=2), torch.rand(2, 1, 32, 16)
    else:
        model, x = memorization_network(name), torch.rand(2, *SHAPE[name])
    layers = [n for n, _ in model.named_children() if n.startswith(("conv", "fc"))]
    maps = capture(model, layers, x)
    assert all((maps[n] >= 0).all() and (maps[n] > 0).any() for n in layers) and model(x).shape == (2, 10)
    deep = {"cifar10": ("conv4_3", (2, 512, 4, 4)), "svhn": ("conv4_2", (2, 512, 4, 4)),
            "fashion_mnist": ("fc4", (2, 2048)), "urban_sounds": ("conv4_2", (2, 512, 4, 2))}[name]
    assert maps[deep[0]].shape == deep[1]
    assert 0.1 < float(model(x).detach().std()) < 10  # the signal neither dies nor explodes on its way


def test_seed_decides_the_weights_and_nothing_else():
    state = torch.get_rng_state()
    one, same, other = (memorization_network("fashion_mnist", seed=s).fc2[0].weight for s in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other) and torch.equal(state, torch.get_rng_state())


def test_other_inputs_and_classes():
    model = memorization_network("svhn", shape=(1, 8, 9), classes=4)
    assert model(torch.rand(3, 1, 8, 9)).shape == (3, 4)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("width", [1 / 100, 1 / 8, 1 / 3, 2])
def test_width_is_the_share_of_every_hidden_layer(name, width):
    options = {"pool_stride": 2, "shape": (1, 32, 32)} if name == "urban_sounds" else {"shape": SHAPE[name]}
    with torch.device("meta"):
        whole, part = memorization_network(name, **options), memorization_network(name, width=width, **options)
        same = memorization_network(name, width=1, **options)
    assert [p.shape for p in same.parameters()] == [p.shape for p in whole.parameters()]
    assert [key for key, _ in part.named_modules()] == [key for key, _ in whole.named_modules()]
    pairs = [(a, b) for a, b in zip(whole.modules(), part.modules(), strict=True)
             if isinstance(a, (nn.Conv2d, nn.Linear))]
    for place, (a, b) in enumerate(pairs, start=1):
        units = len(a.weight) if place == len(pairs) else max(1, round(width * len(a.weight)))
        assert len(b.weight) == len(b.bias) == units
    assert part(torch.zeros(2, *options["shape"], device="meta")).shape == (2, 10)  # so that the inputs fit, too
    if name != "urban_sounds":
        assert sum(p.numel() for p in part.parameters()) == by_hand(name, width)


def by_hand(name, width):
    """9·C_in·C_out + C_out for each convolution, inputs·units + units for each fully connected layer."""
    plan, (channels, side, _), total = ARCHITECTURES[name], SHAPE[name], 0
    for block in plan.blocks:
        for units in (max(1, round(width * units)) for units in block):
            total, channels = total + 9 * channels * units + units, units
    inputs = channels * (side // 2 ** max(len(plan.blocks) - 1, 0)) ** 2
    for units in (*(max(1, round(width * units)) for units in plan.widths), 10):
        total, inputs = total + inputs * units + units, units
    return total


def test_a_narrow_network_still_runs():
    model = memorization_network("cifar10", shape=(1, 8, 8), width=1 / 1000)
    assert {len(p) for p in model.parameters()} == {1, 10} and model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("width", [0, -1.0, float("inf"), float("nan")])
def test_a_width_that_is_none(width):
    with pytest.raises(ValueError, match=rf"width={width}.*a width above 0"):
        memorization_network("svhn", width=width)


@pytest.mark.parametrize("name, options, message", [
    ("lenet", {}, r"unknown network 'lenet'; table 3\.1 has cifar10, fashion_mnist, svhn, urban_sounds"),
    ("urban_sounds", {}, r"not in the thesis; pass shape="),
    ("urban_sounds", {"shape": (1, 64, 4)}, r"64 × 4 is too small"),
    ("urban_sounds", {"shape": (1, 8, 64), "pool_stride": 2}, r"8 × 64 is too small"),
    ("svhn", {"shape": (32, 32)}, r"expected shape=\(C, H, W\)"),
    ("svhn", {"shape": (3, 0, 32)}, r"expected shape"), ("svhn", {"classes": 0}, r"classes=0")])
def test_networks_that_cannot_be_built(name, options, message):
    with pytest.raises(ValueError, match=message):
        memorization_network(name, **options)
    assert set(ARCHITECTURES) == set(TABLE)
