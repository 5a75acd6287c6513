"""Networks with their padding, and feature maps that are kept in a file or not."""

import pytest
import torch
from PIL import Image
from torch import nn

from nmfbook import backbones
from nmfbook.backbones import Backbone
from nmfcore.networks import Preprocess
from nmfcore.photographs import Photographs

pytestmark = pytest.mark.usefixtures("one_thread")
GREY = Preprocess((0.0,) * 3, (1.0,) * 3, 1.0, "made for a test", "1")


def made(name):
    torch.manual_seed(0)
    return Backbone(name, nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).eval(), GREY)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(backbones, "FOLDER", tmp_path / "maps")
    return tmp_path / "maps"


def test_the_networks_of_a_build(monkeypatch):
    asked = []
    monkeypatch.setattr(backbones, "pretrained",
                        lambda name, download: asked.append((name, download)) or (nn.Identity(), GREY))
    for profile, names in (("quick", ["student"]), ("desk", ["vgg19", "resnet50"]), ("paper", ["vgg19", "resnet50"])):
        assert list(backbones.of_profile(profile)) == names
    assert [download for _, download in asked] == [False] * 3 + [True] * 2
    assert list(backbones.sources(backbones.of_profile("desk"))) == ["VGG_19", "ResNet_50"]
    assert [backbone.rank for backbone in backbones.of_profile("desk").values()] == [1, 2]


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="no backbone 'vgg11'; there are student"):
        backbones.load("vgg11")


def test_resnet_alone_pads_by_reflection():
    images = torch.ones(1, 3, 8, 8)
    maps = {name: made(name).maps(images) for name in ("resnet50", "vgg19")}
    flat, zeros = maps["resnet50"][0], maps["vgg19"][0]
    assert torch.allclose(flat, flat[:, :1, :1].expand_as(flat), atol=1e-6)  # no border can be seen
    assert not torch.allclose(zeros[:, 0, 0], zeros[:, 4, 4])


def test_maps_of_photographs_are_kept_where_they_have_a_name(folder, tmp_path):
    for i in range(2):
        Image.new("RGB", (9, 8), (40 * i, 90, 20)).save(tmp_path / f"{i}.png")
    backbone, photographs = made("student"), Photographs(tmp_path, side=8, preprocess=GREY)
    in_memory = backbone.maps(photographs)
    assert not folder.exists()
    kept = backbone.maps(photographs, kept="8-made")
    assert {path.name for path in folder.iterdir()} >= {"student-8-made.maps"}
    backbone.maps(list(photographs), kept="8-list")
    assert not (folder / "student-8-list.maps").exists()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(in_memory, kept, strict=True))
    earlier = Backbone("student", nn.Sequential(nn.ReLU(), *backbone.model), GREY)
    assert torch.equal(earlier.maps(photographs, layer="0")[0], photographs[0])
