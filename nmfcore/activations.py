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

from .gate import (
    Captured,
    LayerName,
    check_channels,
    check_counts,
    find_layers,
    first_outputs,
    layout,
    ready,
    run,
    running,
    unwrapped,
    watched,
)
from .gate import evaluation_mode as evaluation_mode


def to_matrix(maps: Tensor) -> Tensor:
    """Feature maps (n, C, H, W) as a matrix (n·H·W, C): one row per position (thesis eq. 4.1, 4.2).

    Those of a one-dimensional convolution, (n, C, L), likewise. A matrix (n, C), as a fully connected layer gives it,
    stays as it is.

    Raises:
        ValueError: for another number of dimensions.

    Example:
        >>> import torch
        >>> from nmfcore.activations import to_matrix
        >>> to_matrix(torch.rand(2, 16, 4, 5)).shape
        torch.Size([40, 16])
    """
    if maps.dim() not in (2, 3, 4):
        raise ValueError(f"activations must have shape (n, C), (n, C, L) or (n, C, H, W), got {tuple(maps.shape)}")
    return maps if maps.dim() == 2 else maps.movedim(1, -1).reshape(-1, maps.shape[1])


def to_maps(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `to_matrix`: (n·H·W, K) as (n, K, H, W).

    Args:
        matrix: (n·H·W, K), such as U.
        shape: that of the original maps, (n, C, H, W), (n, C, L) or (n, C).

    Raises:
        ValueError: where the rows are not as many as these maps have positions.

    Example:
        >>> import torch
        >>> from nmfcore.activations import to_maps
        >>> to_maps(torch.rand(40, 3), (2, 16, 4, 5)).shape
        torch.Size([2, 3, 4, 5])
    """
    if len(shape) == 2:
        return matrix
    n, _, *sides = shape
    if len(matrix) != n * math.prod(sides):
        raise ValueError(f"{len(matrix)} rows cannot be {n} maps of {' × '.join(map(str, sides))}")
    return matrix.reshape(n, *sides, matrix.shape[1]).movedim(-1, 1)


def capture(model: nn.Module, layers: LayerName | Iterable[LayerName], inputs: Tensor, *, channels: str | None = None,
            skip: int = 0, batch_size: int | None = None, gradient: bool = False) -> dict[LayerName, Tensor]:
    """Outputs of layers for a batch of inputs, on the model's device.

    The model is run in evaluation mode and left as it was. The forward pass stops after the last of the layers. A
    module that runs several times, as the ReLUs in torchvision's ResNets do, gives its first output.

    Args:
        model: any module.
        layers: by name, or as the module itself.
        inputs: (n, ...), converted to the type of the model's parameters.
        channels: by default, what is returned is what the layer gives. With "last" for a layer of (n, H, W, C), or
            "tokens" for one of (n, T, C), it is (n, C, H, W) or (n, C, T).
        skip: of the tokens, so many at the beginning are left out.
        batch_size: splits the inputs.
        gradient: what is returned can be differentiated with respect to the inputs; otherwise no gradient is kept.

    Returns:
        Layer -> tensor, with the layers as they were given for keys.

    Raises:
        ValueError: for a layer the model does not have, one that the forward pass never reaches or whose output is not
            a tensor, a layout that does not fit, and inputs that the model does not take.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nmfcore.activations import capture
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        >>> capture(model, "1", torch.rand(2, 3, 8, 8))["1"].shape
        torch.Size([2, 8, 6, 6])
    """
    model = unwrapped(model)
    check_channels(channels, skip)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
    wanted = find_layers(model, layers)
    parts = []
    with running(model, gradient=gradient):
        inputs = ready(model, inputs)
        for chunk in inputs.split(batch_size or len(inputs)):
            found = first_outputs(model, wanted, chunk)
            if channels is not None:
                found = {layer.name: layout(layer, found[layer.name], len(chunk), channels=channels, skip=skip,
                                            evidence=()).channels_first(found[layer.name]) for layer in wanted}
            parts.append(found)
        return {layer.key: torch.cat([part[layer.name] for part in parts]) for layer in wanted}


@contextmanager
def replaced(model: nn.Module, replacements: Mapping[LayerName, Callable[[Tensor], Tensor]]) -> Iterator[nn.Module]:
    """Within the block, the output of each layer passes through a function.

    Args:
        model: any module.
        replacements: {layer: function of a tensor}, layers by name or as the module itself.

    Raises:
        ValueError: for a layer the model does not have.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nmfcore.activations import replaced
        >>> model = nn.Sequential(nn.Identity(), nn.Flatten())
        >>> with replaced(model, {"0": lambda maps: maps / 2}):
        ...     model(torch.ones(1, 2))
        tensor([[0.5000, 0.5000]])
        >>> model(torch.ones(1, 2))
        tensor([[1., 1.]])
    """
    layers = find_layers(unwrapped(model), list(replacements))
    handles = [layer.module.register_forward_hook(lambda _module, _args, output, change=change: change(output))
               for layer, change in zip(layers, replacements.values(), strict=True)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def resumed(model: nn.Module, layers: Iterable[LayerName], inputs: Tensor) -> Iterator[list]:
    """Within the block, `model(inputs)` runs only from the first of the layers on.

    What had finished before that layer in one pass at the beginning is not computed again: those modules give once
    more what they gave then. For these inputs alone, without gradients, and for a model that does the same in every
    pass. Modules with hooks are run, as hooks may change what they give. What is not run again has left its `watched`
    widths in the list.

    Args:
        model: any module.
        layers: by name, or as the module itself.
        inputs: what the model takes.

    Raises:
        ValueError: for a layer the model does not have.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nmfcore.activations import replaced, resumed
        >>> model, inputs = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.rand(3, 4)
        >>> with torch.no_grad(), resumed(model, ["1"], inputs):  # the first layer is not run again
        ...     outputs = [model(inputs)]
        ...     with replaced(model, {"1": torch.zeros_like}):
        ...         outputs.append(model(inputs))
        >>> torch.equal(outputs[0], model(inputs)), torch.equal(outputs[1], model[2].bias.expand(3, 2))
        (True, True)
    """
    targets = {layer.module for layer in find_layers(model, layers)}
    inner = [module for module in model.modules() if module is not model]
    hooked = {module for module in inner if module._forward_hooks or module._forward_pre_hooks}
    finished: list[list[tuple[nn.Module, Tensor]]] = [[]]  # within each of the modules that are running

    def begin(module, _args):
        if module in targets:
            raise Captured
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
        with watched(model) as widths:
            run(model, inputs)
    except Captured:
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
        yield widths
    finally:
        handle.remove()
        for module, forward in own.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward  # type: ignore[method-assign]


def relu_layers(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the layers that end in a ReLU, in the order in which they run: what `capture` and NMF can take.

    Found by what a forward pass shows, whether the ReLU is a module or a function: a module that runs once and gives a
    tensor without negative entries, some of them zero, although negative ones came in or arose inside. Of modules that
    give the same tensor, the innermost counts; a ReLU that runs several times, as in torchvision's ResNets, is
    represented by the block around it.

    Args:
        model: any module.
        inputs: (n, ...), a few samples.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nmfcore.activations import relu_layers
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten())
        >>> relu_layers(model, torch.rand(2, 3, 8, 8))
        ['1', '3']
    """
    return [name for name, _, relu in _ends(unwrapped(model), inputs) if relu]


def against_negatives(model: nn.Module, layer: str, inputs: Tensor, channels: str | None = None) -> str:
    """What to do about negative outputs of a layer: the advice that belongs into the error.

    Args:
        model: any module.
        layer: its name.
        inputs: (n, ...), a few samples.
        channels: as for `capture`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nmfcore.activations import against_negatives
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        >>> against_negatives(model, "0", torch.rand(2, 3, 8, 8))
        "name the ReLU that follows it: '1' is the next layer that ends in one"
    """
    try:
        ends = _ends(unwrapped(model), inputs)
    except Exception:  # what comes behind the layer need not run
        ends = []
    at = next((i for i, (known, _, _) in enumerate(ends) if known == layer), len(ends))
    following = next((known for known, shape, relu in ends[at:] if relu and shape == ends[at][1]), None)
    if following:
        return f"name the ReLU that follows it: {following!r} is the next layer that ends in one"
    parent, _, name = layer.rpartition(".")
    place = f"model.get_submodule({parent!r})" if parent else "model"
    place += f"[{name}]" if name.isdigit() else f".{name}" if name else ""
    halves = ", ".join(f"{kind}({'' if channels in (None, 'first') else repr(channels)})" for kind in ("Split", "Join"))
    return ("name the ReLU that follows it; if there is none with a name, wrap the layer, "
            f"{place} = nn.Sequential({place}, nn.ReLU()), which drops what is below zero and changes nothing where a "
            f"ReLU comes next, and name {layer + '.1' if layer else '1'!r}; or, to keep what is below zero, put "
            f"{halves} of nmfcore.signed in place of nn.ReLU()")


def _ends(model, inputs):
    """(name, shape of its output, whether it ends in a ReLU) of every module, in the order in which they end."""
    runs: Counter[str] = Counter()
    order: dict[str, tuple[int, ...]] = {}  # name -> shape, in the order of the last runs
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
            order.pop(name, None)
            order[name] = tuple(getattr(output, "shape", ()))
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
        with running(model):
            run(model, ready(model, inputs))
    finally:
        for handle in handles:
            handle.remove()
    first: dict[tuple[int, int], str] = {}
    for name, tensor, _ in given:
        if runs[name] == 1:
            first.setdefault(tensor, name)
    relus = {name for name, tensor, found in given if found and first.get(tensor) == name}
    return [(name, shape, name in relus) for name, shape in order.items()]


@contextmanager
def reflection_padding(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block, convolutions pad by reflection instead of zeros.

    Batch normalization after zero padding makes image borders stand out as factors of their own (thesis section
    4.2.2); reflection removes them.

    Args:
        model: any module; those of its two-dimensional convolutions that pad with zeros are changed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nmfcore.activations import reflection_padding
        >>> model = nn.Conv2d(1, 1, 3, padding=1)
        >>> with reflection_padding(model):
        ...     model.padding_mode
        'reflect'
        >>> model.padding_mode
        'zeros'
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
