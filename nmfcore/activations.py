"""Activations of any `nn.Module`: capture them, replace them, and view feature maps as a matrix.

Layers are named as in `model.named_modules()`. What is captured is a module's output, so name the ReLU, not the
convolution before it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class _Captured(Exception):
    """Leaves the forward pass once every layer asked for has been seen."""


def to_matrix(maps: Tensor) -> Tensor:
    """Feature maps (n, C, H, W) as a matrix (n·H·W, C): one row per position (thesis eq. 4.1, 4.2).

    Those of a one-dimensional convolution, (n, C, L), likewise. A matrix (n, C), as a fully connected layer gives it,
    stays as it is.
    """
    if maps.dim() not in (2, 3, 4):
        raise ValueError(f"activations must have shape (n, C), (n, C, L) or (n, C, H, W), got {tuple(maps.shape)}")
    return maps if maps.dim() == 2 else maps.movedim(1, -1).reshape(-1, maps.shape[1])


def to_maps(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `to_matrix`: (n·H·W, K) as (n, K, H, W), where `shape` is that of the original maps."""
    if len(shape) == 2:
        return matrix
    n, _, *sides = shape
    if len(matrix) != n * math.prod(sides):
        raise ValueError(f"{len(matrix)} rows cannot be {n} maps of {' × '.join(map(str, sides))}")
    return matrix.reshape(n, *sides, matrix.shape[1]).movedim(-1, 1)


def capture(model: nn.Module, layers: str | Iterable[str], inputs: Tensor, *,
            batch_size: int | None = None, gradient: bool = False) -> dict[str, Tensor]:
    """Outputs of the named layers for a batch of inputs: dict layer -> tensor, on the inputs' device.

    The forward pass stops after the last of them. With `gradient`, what is returned can be differentiated with
    respect to the inputs; otherwise no gradient is kept. `batch_size` splits the inputs. A module that runs several
    times, as the ReLUs in torchvision's ResNets do, gives its first output. Raises ValueError for a name
    the model does not have, a layer the forward pass never reaches or one whose output is not a tensor.
    """
    layers = [layers] if isinstance(layers, str) else list(layers)
    found = {}

    def keep(name):
        def hook(module, args, output):
            if not isinstance(output, torch.Tensor):
                raise ValueError(f"layer {name!r} gives a {type(output).__name__}, not a tensor")
            if name not in found:
                found[name] = (output if gradient else output.detach()).clone()  # the next layer may work in place
            if len(found) == len(layers):
                raise _Captured
        return hook

    modules = _find(model, layers)
    handles = [module.register_forward_hook(keep(name)) for name, module in zip(layers, modules, strict=True)]
    parts = []
    try:
        with torch.set_grad_enabled(gradient):
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
def resumed(model: nn.Module, layers: Iterable[str], inputs: Tensor) -> Iterator[nn.Module]:
    """Within the block, `model(inputs)` runs only from the first of the named layers on.

    What had finished before that layer in one pass at the beginning is not computed again: those modules give once
    more what they gave then. For these inputs alone, without gradients, and for a model that does the same in every
    pass. Modules with hooks are run, as hooks may change what they give.
    """
    targets = _find(model, layers)
    inner = [module for module in model.modules() if module is not model]
    hooked = {module for module in inner if module._forward_hooks or module._forward_pre_hooks}
    finished: list[list[tuple[nn.Module, Tensor]]] = [[]]  # within each of the modules that are running

    def begin(module, _args):
        if module in targets:
            raise _Captured
        finished.append([])

    def end(module, _args, output):
        inside = finished.pop()
        if isinstance(output, Tensor) and module not in hooked:
            inside = [(module, output.clone())]  # the next layer may work in place
        finished[-1] += inside

    handles = [handle for module in inner
               for handle in (module.register_forward_pre_hook(begin), module.register_forward_hook(end))]
    past: dict[nn.Module, list[Tensor]] = defaultdict(list)
    try:
        model(inputs)
    except _Captured:
        for module, output in (entry for level in finished for entry in level):
            past[module].append(output)
    finally:
        for handle in handles:
            handle.remove()
    calls: Counter[nn.Module] = Counter()
    own = {module: module.__dict__.get("forward") for module in past}

    def again(module, forward):
        def replay(*args, **kwargs):
            calls[module] += 1
            if calls[module] > len(past[module]):
                return forward(*args, **kwargs)
            return past[module][calls[module] - 1].clone()
        return replay

    handle = model.register_forward_pre_hook(lambda *_: calls.clear())
    try:
        for module in past:
            module.forward = again(module, module.forward)  # type: ignore[method-assign]
        yield model
    finally:
        handle.remove()
        for module, forward in own.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward  # type: ignore[method-assign]


def relu_layers(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the layers that end in a ReLU, in the order in which they run: what `capture` and NMF can take.

    Found by what a forward pass of `inputs` (n, ...), a few samples, shows, whether the ReLU is a module or a
    function: a module that runs once and gives a tensor without negative entries, some of them zero, although
    negative ones came in or arose inside. Of modules that give the same tensor, the innermost counts; a ReLU that
    runs several times, as in torchvision's ResNets, is represented by the block around it.
    """
    runs: Counter[str] = Counter()
    signed: list[bool] = [False]  # whether negative entries were seen in each of the modules that are running
    given: list[tuple[str, tuple[int, int], bool]] = []  # name, what tensor in which version, whether a ReLU was near
    kept = []  # alive, so that no two tensors have the same id

    def negative(tensor):
        return isinstance(tensor, Tensor) and tensor.is_floating_point() and bool((tensor < 0).any())

    def begin(_module, args):
        signed.append(any(negative(argument) for argument in args))

    def end(name):
        def hook(_module, _args, output):
            runs[name] += 1
            inside = signed.pop()
            signed[-1] |= inside or negative(output)
            if isinstance(output, Tensor) and output.is_floating_point() and not negative(output):
                kept.append(output)
                fits = output.dim() in (2, 3, 4) and len(output) == len(inputs)
                given.append((name, (id(output), output._version), inside and fits and bool((output == 0).any())))
        return hook

    handles = [handle for name, module in model.named_modules() if name
               for handle in (module.register_forward_pre_hook(begin), module.register_forward_hook(end(name)))]
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    first: dict[tuple[int, int], str] = {}
    for name, tensor, _ in given:
        if runs[name] == 1:
            first.setdefault(tensor, name)
    return [name for name, tensor, found in given if found and first.get(tensor) == name]


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
