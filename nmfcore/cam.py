"""Class activation maps: where a classifier looks for a class. They need labels, unlike NMF heatmaps.

CAM: Zhou et al. 2016. Grad-CAM: Selvaraju et al. 2017. Both weigh the feature maps of one layer and keep the positive
part of their sum; the maps are not normalized.
"""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn

from .activations import evaluation_mode
from .heatmaps import Images, Maps, batches, feature_maps, of_one_shape


def cam(model: nn.Module, images: Images, classes: int | Sequence[int], *, layer: str, classifier: str,
        batch_size: int = 16) -> Maps:
    """Maps (n, 1, h, w), or n × (1, h, w), ≥ 0, for a network that ends in global average pooling.

    images: a set as in `nmfcore.heatmaps`, normalized. classes: one for all images, or one per image.
    layer: the last feature maps. classifier: the `nn.Linear` or 1 × 1 `nn.Conv2d` behind them, whose row c weighs
    their channels for class c: "layer4" and "fc" of a ResNet, "features" and "classifier.1" of a SqueezeNet. Its bias
    is the same everywhere and left out.

    Raises ValueError for a classifier that does not fit the layer, a class it does not have, and as `feature_maps`.
    """
    weight = getattr(model.get_submodule(classifier), "weight", None)  # (classes, C) or (classes, C, 1, 1)
    features = feature_maps(model, images, layer=layer, batch_size=batch_size)
    C = features[0].shape[0]
    if weight is None or weight[0].numel() != C or weight.shape[1] != C:
        shape = None if weight is None else tuple(weight.shape)
        raise ValueError(f"classifier {classifier!r} with weights {shape} does not weigh the {C} channels of "
                         f"{layer!r}; name the linear layer or 1 × 1 convolution that does, or use grad_cam")
    wanted = _one_per_image(classes, len(images), len(weight))
    maps = [torch.einsum("chw,c->hw", each, weight[c].detach().flatten())[None].relu()
            for each, c in zip(features, wanted, strict=True)]
    return torch.stack(maps) if isinstance(features, Tensor) else maps


def grad_cam(model: nn.Module, images: Images, classes: int | Sequence[int] | None = None, *, layer: str,
             batch_size: int = 16) -> Maps:
    """Maps (n, 1, h, w), or n × (1, h, w), ≥ 0, for any classifier whose output is (n, classes), before softmax.

    Channels of `layer` are weighed by the mean over positions of the derivative of the image's class score. The model
    is run in evaluation mode and left as it was. images, classes: as for `cam`; without classes, each image's is the
    one that the model scores highest.

    Raises ValueError for a layer that does not give feature maps (n, C, h, w) or on which the scores do not depend,
    for a class the model does not have, and for a model that gives no scores of classes.
    """
    module = dict(model.named_modules()).get(layer)
    if module is None:
        raise ValueError(f"the model has no layer {layer!r}")
    device = next((parameter.device for parameter in model.parameters()), None)
    seen: list[Tensor] = []

    def watch(_module, _args, output):
        if seen:  # a module that runs several times is taken at its first
            return output
        seen.append(output.detach().requires_grad_())
        return seen[0].clone()  # the next layer may work in place

    found: dict[int, Tensor] = {}
    sizes = set()
    handle = module.register_forward_hook(watch)
    try:
        with torch.enable_grad(), evaluation_mode(model):
            for places, batch in batches(images, batch_size):
                seen.clear()
                scores = model(batch.to(device))
                if not seen or seen[0].dim() != 4:
                    raise ValueError(f"layer {layer!r} gives {tuple(seen[0].shape) if seen else 'nothing'}, "
                                     f"not feature maps (n, C, H, W)")
                if scores.dim() != 2:
                    raise ValueError(f"the model gives {tuple(scores.shape)}, not scores (n, classes); Grad-CAM needs "
                                     f"a classifier")
                if classes is None:
                    chosen = scores.argmax(1, keepdim=True)
                else:
                    wanted = _one_per_image(classes, len(images), scores.shape[1])
                    chosen = torch.tensor([[wanted[i]] for i in places], device=scores.device)
                maps = _class_maps(scores, seen[0], chosen)
                if maps is None:
                    raise ValueError(f"the scores do not depend on layer {layer!r}")
                found.update(zip(places, maps, strict=True))
                sizes.add(batch.shape[1:])
    finally:
        handle.remove()
    ordered = [found[i] for i in range(len(found))]
    return torch.stack(ordered) if len(sizes) == 1 else ordered


def predicted_grad_cam(tail: nn.Module, features: Maps, top: int, *, batch_size: int = 8) -> list[Tensor]:
    """Grad-CAM of the classes that a network itself predicts, from feature maps that are there already.

    tail: what follows those maps in the network, up to scores (n, classes) before softmax; run in evaluation mode.
    features: n maps (C, h, w). Returns n × (top, h, w) ≥ 0, for the `top` classes of highest score, best first, on
    the tail's device.

    Raises ValueError for fewer classes than `top`, and scores that do not depend on the maps.
    """
    device = next((parameter.device for parameter in tail.parameters()), None)
    found: list[Tensor] = [torch.empty(0)] * len(features)
    with torch.enable_grad(), evaluation_mode(tail):
        for places in of_one_shape(features, batch_size):
            batch = torch.stack([features[i] for i in places]).to(device).requires_grad_()
            scores = tail(batch.clone())  # the tail may begin in place
            if scores.dim() != 2 or not 1 <= top <= scores.shape[1]:
                raise ValueError(f"top={top} classes of scores of shape {tuple(scores.shape)}; the tail must give "
                                 f"(n, classes), and top be from 1 to their number")
            maps = _class_maps(scores, batch, scores.topk(top).indices)
            if maps is None:
                raise ValueError("the scores do not depend on the feature maps")
            for i, each in zip(places, maps, strict=True):
                found[i] = each
    return found


def _class_maps(scores, features, classes):
    """(b, k, h, w) ≥ 0: maps (b, C, h, w) weighed by the mean derivative of the scores of classes (b, k), or None if
    there is none."""
    if not scores.requires_grad:
        return None
    maps = []
    for chosen in scores.gather(1, classes).sum(0):  # an image's scores depend on its own maps alone
        slope, = torch.autograd.grad(chosen, features, retain_graph=True, allow_unused=True)
        if slope is None:
            return None
        maps.append(torch.einsum("bc,bchw->bhw", slope.mean((2, 3)), features.detach()).relu())
    return torch.stack(maps, dim=1)


def _one_per_image(classes, n, known):
    wanted = [int(classes)] * n if isinstance(classes, Integral) else [int(c) for c in classes]
    if len(wanted) != n or not all(0 <= c < known for c in wanted):
        raise ValueError(f"classes {classes} must be one index, or one for each of {n} images, from 0 to {known - 1}")
    return wanted
