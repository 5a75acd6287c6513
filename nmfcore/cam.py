"""Class activation maps: where a classifier looks for a class. They need labels, unlike NMF heatmaps.

CAM: Zhou et al. 2016. Grad-CAM: Selvaraju et al. 2017. Both weigh the feature maps of one layer and keep the positive
part of their sum; the maps are not normalized.
"""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from .feature_maps import (
    Images,
    Maps,
    Preprocess,
    batches,
    check_maps,
    feature_maps,
    image_set,
    naming_images,
    of_one_shape,
)
from .gate import (
    LayerName,
    Output,
    check_channels,
    check_counts,
    check_finite,
    check_labels,
    find_layer,
    full_precision,
    indices,
    layout,
    logits,
    ready,
    run,
    running,
    unwrapped,
    watched,
)


@full_precision()
def cam(model: nn.Module, images: Images, classes: int | Sequence[int], *, layer: LayerName, classifier: LayerName,
        channels: str | None = None, skip: int = 0, preprocess: Preprocess = None, batch_size: int = 16) -> Maps:
    """Maps (n, 1, h, w), or n × (1, h, w), ≥ 0, for a network that ends in global average pooling.

    Args:
        model, images, channels, skip, preprocess, batch_size: as for `feature_maps`.
        classes: one for all images, or one per image.
        layer: the last feature maps, by name or as the module itself.
        classifier: the `nn.Linear` or 1 × 1 `nn.Conv2d` behind them, by name or as the module itself, whose row c
            weighs their channels for class c: "layer4" and "fc" of a ResNet, "features" and "classifier.1" of a
            SqueezeNet. Its bias is the same everywhere and left out.

    Raises:
        ValueError: a classifier that does not fit the layer, a class it does not have, and as `feature_maps`.

    Example:
        >>> head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head)
        >>> cam(model, torch.rand(2, 3, 18, 18), 4, layer="1", classifier="4").shape
        torch.Size([2, 1, 16, 16])
    """
    network = unwrapped(model)
    module = find_layer(network, classifier).module
    weight = getattr(module, "weight", None)  # (classes, C) or (classes, C, 1, 1)
    features = feature_maps(model, images, layer=layer, channels=channels, skip=skip, preprocess=preprocess,
                            batch_size=batch_size)
    C = features[0].shape[0]
    if not isinstance(weight, Tensor) or weight.dim() < 2 or weight[0].numel() != C or weight.shape[1] != C:
        shape = None if weight is None else tuple(weight.shape)
        raise ValueError(f"classifier {classifier!r} with weights {shape} does not weigh the {C} channels of "
                         f"{layer!r}; name the linear layer or 1 × 1 convolution that does, or use grad_cam")
    wanted = _one_per_image(classes, len(features), len(weight))
    maps = [torch.einsum("chw,c->hw", each, weight[c].detach().flatten().to(each))[None].relu()
            for each, c in zip(features, wanted, strict=True)]
    return torch.stack(maps) if isinstance(features, Tensor) else maps


def grad_cam(model: nn.Module, images: Images, classes: int | Sequence[int] | None = None, *, layer: LayerName,
             channels: str | None = None, skip: int = 0, output: Output = None, preprocess: Preprocess = None,
             batch_size: int = 16) -> Maps:
    """Maps (n, 1, h, w), or n × (1, h, w), ≥ 0, for any classifier whose output is (n, classes), before softmax.

    Channels of `layer` are weighed by the mean over positions of the derivative of the image's class score. The model
    is run in evaluation mode and left as it was. A module that runs several times is taken at its first.

    Args:
        model, images, channels, skip, preprocess, batch_size: as for `feature_maps`.
        classes: one for all images, or one per image; without, each image's is the one that the model scores highest.
        layer: that gives feature maps, by name or as the module itself.
        output: as for `accuracy_curve`.

    Raises:
        ValueError: a layer that does not give feature maps (n, C, h, w) or on which the scores do not depend, a class
            the model does not have, and a model that gives no scores of classes.

    Example:
        >>> head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head)
        >>> grad_cam(model, torch.rand(2, 3, 18, 18), [0, 4], layer="1").shape
        torch.Size([2, 1, 16, 16])
    """
    model, images = unwrapped(model), image_set(images, preprocess)
    check_channels(channels, skip)
    wanted = find_layer(model, layer)
    seen: list[Tensor] = []
    shown: list = []  # what the modules said about channels up to the layer

    def watch(_module, _args, given):
        if seen:
            if wanted.alias:
                raise ValueError(f"layer {wanted.name!r} is a module that stands in several places and runs more than "
                                 "once; give each place a module of its own")
            return given
        if not isinstance(given, Tensor):
            raise ValueError(f"layer {wanted.name!r} gives a {type(given).__name__}, not a tensor; name a module "
                             "inside it that does")
        shown[:] = widths
        seen.append(given.detach().requires_grad_())
        return seen[0].clone()  # the next layer may work in place

    found: dict[int, Tensor] = {}
    sizes = set()
    for places, batch in batches(images, batch_size):
        seen.clear()
        with running(model, gradient=True), watched(model) as widths:
            handle = wanted.module.register_forward_hook(watch)
            try:
                batch = ready(model, batch, f"images {places[0]} and following")
                with naming_images(model, wanted, places, batch):
                    given = run(model, batch)
            finally:
                handle.remove()
            if not seen:
                raise ValueError(f"layer {wanted.name!r} gives nothing, not feature maps (n, C, H, W): the forward "
                                 "pass does not reach it")
            where = layout(wanted, seen[0], len(batch), channels=channels, skip=skip, evidence=shown)
            where.grid(seen[0], batch.shape[2:], wanted.name)
            scores = check_finite(logits(given, len(batch), output=output))
            if classes is None:
                chosen = scores.argmax(1, keepdim=True)
            else:
                of_all = _one_per_image(classes, len(images), scores.shape[1])
                chosen = torch.tensor([[of_all[i]] for i in places], device=scores.device)
            maps = _class_maps(scores, seen[0], chosen,
                               lambda given, size=batch.shape[2:], at=where: at.grid(given, size, wanted.name))
        if maps is None:
            raise ValueError(f"the scores do not depend on layer {wanted.name!r}")
        found.update(zip(places, maps, strict=True))
        sizes.add(batch.shape[1:])
    ordered = [found[i] for i in range(len(found))]
    return torch.stack(ordered) if len(sizes) == 1 else ordered


def predicted_grad_cam(tail: nn.Module, features: Maps, top: int, *, output: Output = None,
                       batch_size: int = 8) -> list[Tensor]:
    """Grad-CAM of the classes that a network itself predicts, from feature maps that are there already.

    Args:
        tail: what follows those maps in the network, up to scores (n, classes) before softmax; run in evaluation mode.
        features: n maps (C, h, w).
        top: how many classes of highest score.
        output: as for `accuracy_curve`.
        batch_size: images that go through the tail at a time.

    Returns:
        n × (top, h, w) ≥ 0, best class first, on the tail's device.

    Raises:
        ValueError: fewer classes than `top`, and scores that do not depend on the maps.

    Example:
        >>> tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> [maps.shape for maps in predicted_grad_cam(tail, torch.rand(2, 8, 7, 7), 3)]
        [torch.Size([3, 7, 7]), torch.Size([3, 7, 7])]
    """
    check_maps(features)
    check_counts(batch_size=batch_size)
    if isinstance(top, bool) or not isinstance(top, Integral):
        raise ValueError(f"top={top!r} must be a number of classes")
    tail = unwrapped(tail)
    found: list[Tensor] = [torch.empty(0)] * len(features)
    with running(tail, gradient=True):
        for places in of_one_shape(features, batch_size):
            batch = ready(tail, torch.stack([features[i] for i in places]), "features").detach().requires_grad_()
            scores = logits(run(tail, batch.clone()), len(batch), output=output)  # the tail may begin in place
            if not 1 <= top <= scores.shape[1]:
                raise ValueError(f"top={top} classes of scores of shape {tuple(scores.shape)}; top must be from 1 to "
                                 "their number")
            maps = _class_maps(check_finite(scores), batch, scores.topk(top).indices)
            if maps is None:
                raise ValueError("the scores do not depend on the feature maps")
            for i, each in zip(places, maps, strict=True):
                found[i] = each
    return found


def _class_maps(scores, features, classes, grid=lambda maps: maps):
    """(b, k, h, w) ≥ 0: maps (b, C, h, w) weighed by the mean derivative of the scores of classes (b, k), or None if
    there is none. grid: what makes such maps of `features` and their derivative."""
    if not scores.requires_grad:
        return None
    maps = []
    for chosen in scores.gather(1, classes).sum(0):  # an image's scores depend on its own maps alone
        slope, = torch.autograd.grad(chosen, features, retain_graph=True, allow_unused=True)
        if slope is None:
            return None
        slope, active = grid(slope), grid(features.detach())
        kind = torch.promote_types(slope.dtype, torch.float32)
        maps.append(torch.einsum("bc,bchw->bhw", slope.to(kind).mean((2, 3)), active.to(kind)).relu())
    return torch.stack(maps, dim=1)


def _one_per_image(classes, n, known):
    try:
        wanted = indices([classes] * n if isinstance(classes, Integral | np.bool_) else classes, "classes")
        if len(wanted) != n:
            raise ValueError(f"there are {len(wanted)} classes")
        check_labels(wanted, known)
    except ValueError as error:
        raise ValueError(f"classes {classes} must be one index, or one for each of {n} images, from 0 to {known - 1}: "
                         f"{error}") from error
    return wanted.tolist()
