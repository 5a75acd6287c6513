"""Networks of timm and transformers, with random weights, where these packages are installed; they are not required."""

import pytest
import torch
from torch import nn

from nmfcore.cam import grad_cam
from nmfcore.compression import accuracy_curve
from nmfcore.feature_maps import feature_maps

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
SIDE = 64
X = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

TIMM = [  # name, options, layer, where its channels are, of how many, over what grid
    ("resnet18", {}, "layer4", {}, 512, (2, 2)),
    ("vit_tiny_patch16_224", {"img_size": SIDE}, "blocks.5", {"channels": "tokens", "skip": 1}, 192, (4, 4)),
    ("swin_tiny_patch4_window7_224", {"img_size": SIDE, "window_size": 2}, "layers.1", {"channels": "last"}, 192,
     (8, 8)),
    ("convnext_atto", {}, "stages.1", {}, 80, (8, 8))]
TRANSFORMERS = [
    ("ResNet", {"depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 8}, "resnet.encoder", "stages.1", {}, 32,
     (8, 8)),
    ("ViT", {"image_size": SIDE, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 48}, "vit", "layers.0", {"channels": "tokens", "skip": 1}, 24, (4, 4)),
    ("Swin", {"image_size": SIDE, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, "swin",
     "layers.0.blocks.0.layernorm_after", {"channels": "tokens"}, 12, (16, 16)),
    ("ConvNext", {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2}, "convnext", "stages.1", {}, 16, (8, 8))]


def check(model, layer, where, width, grid):
    """The layer cannot be taken for another, and when it is said where its channels are, they are found there."""
    torch.manual_seed(0)
    for parameter in model.parameters():  # of some models, whole blocks begin as the identity
        nn.init.normal_(parameter, std=0.05)
    model.train()
    maps = grad_cam(model, X, 1, layer=layer, **where)
    assert maps.shape == (2, 1, *grid) and model.training
    if where:
        with pytest.raises(ValueError, match="and its channels look like the last dimension: pass channels="):
            grad_cam(model, X, 1, layer=layer)
        with pytest.raises(ValueError, match="and its channels look like the last dimension: pass channels="):
            accuracy_curve(model, layer, X, [0, 1], method="pca")
    curve = accuracy_curve(model, layer, X, [0, 1], ranks=[1], method="pca", **where)
    assert curve.width == width and curve.error[0, 0, -1] == 0 and model.training
    with pytest.raises(ValueError, match="has negative outputs"):
        feature_maps(model, X, layer=layer, **where)


@pytest.mark.parametrize("name, options, layer, where, width, grid", TIMM, ids=lambda value: str(value)[:12])
def test_timm(name, options, layer, where, width, grid):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False, num_classes=3, **options)
    if name == "resnet18":
        model.layer4[1].act2 = nn.Identity()
    check(model, layer, where, width, grid)


@pytest.mark.parametrize("name, options, body, layer, where, width, grid", TRANSFORMERS,
                         ids=lambda value: str(value)[:12])
def test_transformers(name, options, body, layer, where, width, grid):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(num_labels=3, **options)
    model = getattr(transformers, f"{name}ForImageClassification")(config)
    ends = [known for known, _ in model.named_modules() if known.startswith(body) and known.endswith(layer)]
    if name == "ResNet":
        model.get_submodule(ends[0]).layers[-1].activation = nn.Identity()
    check(model, ends[0], where, width, grid)
