"""Activations of any `nn.Module`: capture them, replace them, and view feature maps as a matrix.

Layers are named as in `model.named_modules()`. What is captured is a module's output, so name the ReLU, not the
convolution before it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class _Captured(Exception):
    """Leaves the forward pass once every layer asked for has been seen."""


def to_matrix(maps: Tensor) -> Tensor:
    """Feature maps (n, C, H, W) as a matrix (n·H·W, C): one row per position (thesis eq. 4.1, 4.2).

    A matrix (n, C), as a fully connected layer gives it, stays as it is.
    """
    if maps.dim() not in (2, 4):
        raise ValueError(f"activations must have shape (n, C) or (n, C, H, W), got {tuple(maps.shape)}")
    return maps if maps.dim() == 2 else maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def to_maps(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `to_matrix`: (n·H·W, K) as (n, K, H, W), where `shape` is that of the original maps."""
    if len(shape) == 2:
        return matrix
    n, _, H, W = shape
    if len(matrix) != n * H * W:
        raise ValueError(f"{len(matrix)} rows cannot be {n} maps of {H} × {W}")
    return matrix.reshape(n, H, W, matrix.shape[1]).permute(0, 3, 1, 2)


def capture(model: nn.Module, layers: str | Iterable[str], inputs: Tensor, *,
            batch_size: int | None = None) -> dict[str, Tensor]:
    """Outputs of the named layers for a batch of inputs: dict layer -> tensor, on the inputs' device.

    The forward pass stops after the last of them; no gradient is kept. `batch_size` splits the inputs. A module that
    runs several times, as the ReLUs in torchvision's ResNets do, gives its first output. Raises ValueError for a name
    the model does not have, a layer the forward pass never reaches or one whose output is not a tensor.
    """
    layers = [layers] if isinstance(layers, str) else list(layers)
    found = {}

    def keep(name):
        def hook(module, args, output):
            if not isinstance(output, torch.Tensor):
                raise ValueError(f"layer {name!r} gives a {type(output).__name__}, not a tensor")
            if name not in found:
                found[name] = output.detach().clone()  # the next layer may work in place
            if len(found) == len(layers):
                raise _Captured
        return hook

    modules = _find(model, layers)
    handles = [module.register_forward_hook(keep(name)) for name, module in zip(layers, modules, strict=True)]
    parts = []
    try:
        with torch.no_grad():
            for chunk in inputs.split(batch_size or len(inputs)):
                found.clear()
                try:
                    model(chunk)
                except _Captured:
                    pass
                missing = [name for name in layers if name not in found]
                if missing:
                    raise ValueError(f"the forward pass did not reach {', '.join(missing)}")
                parts.append(dict(found))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat([part[name] for part in parts]) for name in layers}


@contextmanager
def replaced(model: nn.Module, replacements: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[nn.Module]:
    """Within the block, the output of each named layer passes through a function: {layer: function of a tensor}."""
    modules = _find(model, list(replacements))
    handles = [module.register_forward_hook(lambda _module, _args, output, change=change: change(output))
               for module, change in zip(modules, replacements.values(), strict=True)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block, every module is in evaluation mode; then each gets back the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def reflection_padding(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block, convolutions pad by reflection instead of zeros.

    Batch normalization after zero padding makes image borders stand out as factors of their own (thesis section
    4.2.2); reflection removes them.
    """
    changed = [m for m in model.modules()
               if isinstance(m, nn.Conv2d) and m.padding_mode == "zeros" and any(m._reversed_padding_repeated_twice)]
    for module in changed:
        module.padding_mode = "reflect"
    try:
        yield model
    finally:
        for module in changed:
            module.padding_mode = "zeros"


def _find(model, names):
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            close = [known for known in modules if known and known.split(".")[0] == name.split(".")[0]]
            raise ValueError(f"the model has no layer {name!r}; it has {', '.join(close or [k for k in modules if k])}")
    return [modules[name] for name in names]
