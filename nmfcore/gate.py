"""The rules for what users bring, each in one place: models, where a layer has its channels, logits, labels, ids.

Every function that takes a model passes it through `unwrapped`, `find_layers`, `running` and `ready`, and so inherits
them all. Images have their rule in `nmfcore.feature_maps`.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd
from torch.nn.parameter import is_lazy

from ._inputs import full_precision

CHANNELS = ("first", "last", "tokens")
LayerName = str | nn.Module
Output = str | Callable[[Any], Tensor] | None

_POOLS = (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd)
_FIRST = (_ConvNd, _NormBase, nn.GroupNorm, nn.PReLU, *_POOLS)  # give (n, C, ...), by definition
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class ForwardError(ValueError, RuntimeError):
    """A model that fails on its input; what it raised is the cause.

    Example:
        >>> run(nn.Linear(3, 2), torch.rand(5, 4))
        Traceback (most recent call last):
        nmfcore.gate.ForwardError: the model cannot take torch.float32 (5, 4): ...
    """


class Captured(Exception):
    """Leaves the forward pass once every layer asked for has been seen."""


# --- models -------------------------------------------------------------------------------------------------


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `DataParallel` and `torch.compile`.

    Raises:
        ValueError: what is not an `nn.Module`.

    Example:
        >>> unwrapped(nn.DataParallel(nn.Linear(3, 2)))
        Linear(in_features=3, out_features=2, bias=True)
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("the model is TorchScript, whose layers cannot be watched; pass the nn.Module that it was "
                         "made from")
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is a {type(model).__name__}; pass an nn.Module")
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


@contextmanager
def running(model: nn.Module, *, gradient: bool = False) -> Iterator[nn.Module]:
    """Within the block the model can be run: in evaluation mode, without autocast, inference mode and compilation.

    Then everything is as it was, also after an exception.

    Args:
        model: the network, unwrapped.
        gradient: whether derivatives are recorded.

    Raises:
        ValueError: a model whose parameters are not there yet, or cannot be differentiated through.

    Example:
        >>> model = nn.Dropout()
        >>> with running(model):
        ...     model.training, torch.is_grad_enabled()
        (False, False)
        >>> model.training, torch.is_grad_enabled()
        (True, True)
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            raise ValueError(f"parameter {name!r} has no values yet; load weights, or run the model once")
        if gradient and parameter.is_inference():
            raise ValueError(f"parameter {name!r} was made under torch.inference_mode, and nothing can be "
                             "differentiated through it; build or load the model outside")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradient))
        stack.enter_context(full_precision())
        if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # a compiled module does not see new hooks
        stack.enter_context(evaluation_mode(model))
        yield model


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Within the block, every module is in evaluation mode; then each gets back the mode it had.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluation_mode(model):
        ...     model.training
        False
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def ready(model: nn.Module, inputs: Tensor, what: str = "the inputs") -> Tensor:
    """Inputs (n, ...) on the model's device and, if floating, of its parameters' type. Integers, as of words, stay so.

    Args:
        model: the network, unwrapped.
        inputs: a tensor of numbers.
        what: they are called in the message.

    Raises:
        ValueError: what is not a tensor of numbers with n ≥ 1, or not finite.

    Example:
        >>> ready(nn.Linear(3, 2).double(), torch.rand(5, 3)).dtype
        torch.float64
    """
    if not is_dense(inputs):
        raise ValueError(f"{what} are {described(inputs)}; pass a tensor (n, ...)")
    if inputs.dtype in (torch.uint8, torch.bool) or inputs.is_complex():
        raise ValueError(f"{what} are {described(inputs)}; pass floating numbers as the model was trained on, of bytes "
                         "for example inputs.float() / 255")
    if inputs.dim() == 0 or inputs.numel() == 0:
        raise ValueError(f"{what} are {described(inputs)}; expected (n, ...) with n ≥ 1")
    if inputs.is_inference():
        inputs = inputs.clone()
    first, floating = None, None
    for tensor in (*model.parameters(), *model.buffers()):
        first = tensor if first is None else first
        if tensor.dtype in _FLOATS:
            floating = tensor.dtype
            break
    if not inputs.is_floating_point():
        return inputs if first is None else inputs.to(first.device)
    if not torch.isfinite(inputs).all():
        raise ValueError(f"{what} hold numbers that are not finite: {described(inputs)}")
    narrower = floating is not None and floating != inputs.dtype
    inputs = inputs.to(device=None if first is None else first.device, dtype=floating)
    if narrower and not torch.isfinite(inputs).all():
        raise ValueError(f"{what} are too large for the model's {floating}; use the model in float32")
    return inputs


def run(model: nn.Module, inputs: Tensor) -> Any:
    """`model(inputs)`.

    Raises:
        ForwardError: what fails within.

    Example:
        >>> run(nn.Linear(3, 2), torch.rand(5, 3)).shape
        torch.Size([5, 2])
    """
    try:
        return model(inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError, AssertionError, AttributeError) as error:
        raise ForwardError(f"the model cannot take {described(inputs)}: {error}") from error


def check_counts(least: int = 1, **counts: Any) -> None:
    """Refuse what is no integer of at least so much.

    Args:
        least: that is allowed.
        **counts: by the name that the caller gave them.

    Raises:
        ValueError: naming the first.

    Example:
        >>> check_counts(steps=3)
        >>> check_counts(side=0)
        Traceback (most recent call last):
        ValueError: side=0 must be an integer, 1 or more
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
            raise ValueError(f"{name}={count!r} must be an integer, {least} or more")


def is_dense(thing: Any) -> bool:
    """Whether it is a tensor whose numbers are there, one beside the other.

    Example:
        >>> is_dense(torch.eye(3)), is_dense(torch.eye(3).to_sparse()), is_dense([1, 2])
        (True, False, False)
    """
    return isinstance(thing, Tensor) and not thing.is_nested and thing.layout is torch.strided and not thing.is_meta


def listed(ranks: Any) -> tuple[list[int], bool]:
    """Ranks as a list, and whether it was a single one.

    Raises:
        ValueError: what are no integers.

    Example:
        >>> listed(3), listed(range(1, 4))
        (([3], True), ([1, 2, 3], False))
    """
    single = isinstance(ranks, Integral)
    try:
        found = [ranks] if single else ranks.tolist() if isinstance(ranks, Tensor | np.ndarray) else list(ranks)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"rank {ranks!r} must be an integer, or a sequence of integers") from error
    for rank in found if isinstance(found, list) else [ranks]:
        if isinstance(rank, bool) or not isinstance(rank, Integral):
            raise ValueError(f"rank {rank!r} must be an integer")
    return found, single


def described(thing: Any) -> str:
    """A value's kind and shape, for a message.

    Example:
        >>> described(torch.rand(2, 3)), described([2, 3])
        ('torch.float32 (2, 3)', 'list')
    """
    if isinstance(thing, Tensor):
        shape = "nested" if thing.is_nested else tuple(thing.shape)
        return f"{thing.dtype} {shape}" + (" on meta" if thing.is_meta else "")
    return f"{type(thing).__name__} {thing.dtype} {thing.shape}" if isinstance(thing, np.ndarray) \
        else type(thing).__name__


# --- layers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A module of a model, as it was asked for."""

    key: LayerName
    name: str
    module: nn.Module = field(repr=False)
    alias: bool  #: whether the model knows the module by an earlier name, too


def find_layers(model: nn.Module, layers: LayerName | Iterable[LayerName]) -> list[Layer]:
    """Layers by name or as the module itself.

    A module is one layer, wherever it stands.

    Args:
        model: the network, unwrapped.
        layers: one, or several.

    Raises:
        ValueError: what is no part of the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> [layer.name for layer in find_layers(model, ["0", model[1]])]
        ['0', '1']
        >>> find_layers(model, "2")
        Traceback (most recent call last):
        ValueError: the model has no layer '2'; it has 0, 1
    """
    names = {_plain(name): module for name, module in model.named_modules(remove_duplicate=False)}
    first: dict[nn.Module, str] = {}
    for name, module in names.items():
        first.setdefault(module, name)
    found = []
    try:
        wanted = [layers] if isinstance(layers, str | nn.Module) else list(layers)
    except TypeError:
        wanted = [layers]  # type: ignore[list-item]
    for key in wanted:
        if isinstance(key, nn.Module):
            module = unwrapped(key)
            if module not in first:
                raise ValueError(f"the {type(key).__name__} given as a layer is no part of the model; of a copy, "
                                 "pass the name")
            found.append(Layer(key, first[module], module, False))
            continue
        if not isinstance(key, str):
            raise ValueError(f"layer {key!r} is a {type(key).__name__}; pass a name, or the module itself")
        name = _plain(key) if _plain(key) in names else _plain(key).removeprefix("module.")  # of DataParallel
        if name not in names:
            close = [known for known in names if known and known.split(".")[0] == name.split(".")[0]]
            raise ValueError(f"the model has no layer {key!r}; it has {', '.join(close or [k for k in names if k])}")
        found.append(Layer(key, name, names[name], first[names[name]] != name))
    return found


def _plain(name):
    """A module's name without what torch.compile puts in between."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def find_layer(model: nn.Module, layer: LayerName) -> Layer:
    """One of `find_layers`.

    Raises:
        ValueError: what is no part of the model, and not one layer.

    Example:
        >>> find_layer(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), "1").module
        ReLU()
    """
    found = find_layers(model, layer)
    if len(found) != 1:
        raise ValueError(f"layer {layer!r}: expected one name or module")
    return found[0]


def first_outputs(model: nn.Module, layers: Sequence[Layer], inputs: Tensor, *,
                  evidence: "dict[str, list[_Width]] | None" = None) -> dict[str, Tensor]:
    """{name: output of the layer's first run} of one forward pass, which stops after the last of the layers.

    Args:
        model: the network, `running`.
        layers: as `find_layers` returns them.
        inputs: (n, ...), `ready`.
        evidence: is filled with what `layout` needs to know of each layer.

    Raises:
        ValueError: a layer that is not reached or gives no tensor, and one that is asked for by its second name and
            runs several times, since nobody knows which run is meant.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> outputs = first_outputs(model, find_layers(model, "1"), torch.rand(5, 3))
        >>> outputs["1"].shape
        torch.Size([5, 2])
    """
    found: dict[str, Any] = {}
    stop = not any(layer.alias for layer in layers)
    asked = {layer.name for layer in layers}

    def keep(layer):
        def hook(_module, _args, output):
            if layer.name in found:
                if layer.alias:
                    raise ValueError(f"layer {layer.name!r} is a module that stands in several places and runs more "
                                     "than once; give each place a module of its own")
                return
            found[layer.name] = output.clone() if isinstance(output, Tensor) else output  # the next may work in place
            if evidence is not None:
                evidence[layer.name] = list(widths)
            if stop and len(found) == len(asked):
                raise Captured
        return hook

    handles: list = []
    with ExitStack() as stack:
        widths = [] if evidence is None else stack.enter_context(watched(model))
        try:
            handles += [layer.module.register_forward_hook(keep(layer)) for layer in layers]
            run(model, inputs)
        except Captured:
            pass
        finally:
            for handle in handles:
                handle.remove()
    missing = [layer.name for layer in layers if layer.name not in found]
    if missing:
        raise ValueError(f"the forward pass did not reach {', '.join(missing)}")
    for name, output in found.items():
        if not isinstance(output, Tensor) or output.is_nested:
            raise ValueError(f"layer {name!r} gives a {type(output).__name__}, not a tensor; name a module inside it "
                             "that does")
    return found


# --- where the channels are ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where a layer's output (n, ...) has its channels; a matrix (n, C) has them where they belong.

    Example:
        >>> Layout("tokens", skip=1).channels_first(torch.rand(2, 50, 16)).shape
        torch.Size([2, 16, 49])
    """

    channels: str = "first"
    skip: int = 0  #: of tokens, so many at the beginning stand for no place: class token, registers

    def channels_first(self, output: Tensor) -> Tensor:
        """(n, C, ...), without the tokens that are left out."""
        if self.channels == "first" or output.dim() == 2:
            return output
        return output[:, self.skip:].movedim(-1, 1)

    def restored(self, maps: Tensor, output: Tensor) -> Tensor:
        """The inverse: as the layer gave its `output`, from which the tokens that were left out are taken."""
        if self.channels == "first" or output.dim() == 2:
            return maps
        maps = maps.movedim(1, -1)
        return torch.cat([output[:, :self.skip], maps], 1) if self.skip else maps

    def grid(self, output: Tensor, size: Sequence[int], name: str) -> Tensor:
        """(n, C, h, w) of an output, the tokens row by row.

        Args:
            output: of the layer.
            size: height and width of the images.
            name: of the layer, for the message.

        Raises:
            ValueError: tokens that are no grid of square patches, and an output that is no feature map.
        """
        maps = self.channels_first(output)
        if self.channels == "tokens" and maps.dim() == 3:
            count = maps.shape[2]
            sides = _sides(count, size)
            if sides is None:
                skips = [more for more in range(1, min(17, count)) if _sides(count - more, size)]
                cure = (f"pass skip={self.skip + skips[0]} to leave out the tokens in front that stand for no place"
                        if skips else "take a layer whose tokens are square patches of the whole image")
                raise ValueError(f"layer {name!r} gives {count + self.skip} tokens, of which {count} are no grid over "
                                 f"{size[0]} × {size[1]} pixels; {cure}")
            maps = maps.unflatten(2, sides)
        if maps.dim() != 4:
            raise ValueError(f"layer {name!r} gives {tuple(output.shape)}, not feature maps (n, C, H, W)")
        return maps


def _sides(count, size):
    """(h, w) with h · w = count, of square patches that cover an image."""
    patch = (size[0] * size[1] / count) ** 0.5
    h, w = round(size[0] / patch), round(size[1] / patch)
    return (h, w) if h * w == count else None


@dataclass(frozen=True)
class _Width:
    """What a module says about channels by its parameters: how many it gives, and where."""

    channels: int
    first: bool  # whether they are dimension 1 by the definition of the module
    shape: tuple[int, ...]  # of its output


def _width(module):
    """Channels of what a module with parameters gives; 0 where it says nothing about them."""
    if isinstance(module, _ConvNd):
        return module.out_channels
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, _NormBase):
        return module.num_features
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1]
    weight = module._parameters.get("weight")  # of normalizations that are the model's own
    return len(weight) if weight is not None and weight.dim() == 1 else 0


@contextmanager
def watched(model: nn.Module) -> "Iterator[list[_Width]]":
    """Within the block, the list grows by what each module that runs says about channels."""
    widths: list[_Width] = []

    def note(module, _args, output):
        if isinstance(output, Tensor) and not output.is_nested and output.dim() > 2:
            channels = output.shape[1] if isinstance(module, _POOLS) else _width(module)
            widths.append(_Width(channels, isinstance(module, _FIRST), tuple(output.shape)))

    handles = [module.register_forward_hook(note) for module in model.modules()
               if isinstance(module, _POOLS) or _width(module)]
    try:
        yield widths
    finally:
        for handle in handles:
            handle.remove()


class Channelwise(nn.Module):
    """A module that works along the channels, which are where `channels` says: by default, dimension 1.

    Args:
        channels: "first" for (n, C, ...), "last" for (n, ..., C), "tokens" for (n, T, C).

    Raises:
        ValueError: another one.

    Example:
        >>> Channelwise("last").dimension(torch.rand(2, 7, 7, 16))
        3
    """

    widens = 1  # channels that it gives for each that it gets

    def __init__(self, channels: str | None = None):
        super().__init__()
        check_channels(channels)
        self.channels = channels

    def extra_repr(self) -> str:
        return "" if self.channels is None else repr(self.channels)

    def dimension(self, x: Tensor) -> int:
        """That of the channels of x (n, C), (n, C, ...) or (n, ..., C)."""
        if not is_dense(x) or x.dim() < 2 or not x.is_floating_point() or not x.numel():
            raise ValueError(f"{type(self).__name__} got {described(x)}; expected floating numbers (n, C), "
                             "(n, C, ...) or, with channels='last' or 'tokens', (n, ..., C)")
        if self.channels == "tokens" and x.dim() > 3:
            raise ValueError(f"{type(self).__name__} got {tuple(x.shape)}; tokens are (n, T, C): take channels='last' "
                             "or 'first'")
        return 1 if self.channels in (None, "first") else x.dim() - 1


def layout(layer: Layer, output: Any, n: int, *, channels: str | None, skip: int,
           evidence: "Sequence[_Width]") -> Layout:
    """Where the layer has its channels: as `channels` says, or as the modules that ran up to it show beyond doubt.

    A matrix (n, C) needs nothing. Of (n, a, b), that is (n, C, L) or (n, T, C), and of (n, a, b, c), (n, C, H, W) or
    (n, H, W, C), the last module with parameters that gave as many numbers tells by its width which dimension is C.
    Four dimensions about which no module says anything are (n, C, H, W), as everywhere in PyTorch. A `Channelwise`
    module says it of itself.

    Args:
        layer: as `find_layer` returns it.
        output: of the layer.
        n: inputs that the model was given.
        channels, skip: as for `feature_maps`.
        evidence: of the layer, as `first_outputs` fills it.

    Raises:
        ValueError: that leaves a doubt, and an output that is not one of these.

    Example:
        >>> model, evidence = nn.Sequential(nn.Linear(16, 8), nn.ReLU()), {}
        >>> relu, = find_layers(model, "1")
        >>> tokens = first_outputs(model, [relu], torch.rand(2, 49, 16), evidence=evidence)["1"]
        >>> layout(relu, tokens, 2, channels=None, skip=0, evidence=evidence["1"])
        Traceback (most recent call last):
        ValueError: layer '1' gives (2, 49, 8), and its channels look like the last dimension: pass ...
        >>> layout(relu, tokens, 2, channels="tokens", skip=0, evidence=evidence["1"])
        Layout(channels='tokens', skip=0)
    """
    shape: Any = tuple(output.shape) if isinstance(output, Tensor) and not output.is_nested else type(output).__name__
    if not isinstance(output, Tensor) or output.is_nested or output.dim() not in (2, 3, 4):
        raise ValueError(f"layer {layer.name!r} gives {shape}; expected (n, C), (n, C, L) or (n, C, H, W)")
    if len(output) != n:
        raise ValueError(f"layer {layer.name!r} gives {len(output)} outputs for {n} inputs")
    if output.dim() == 2:
        return Layout()
    if isinstance(layer.module, Channelwise):
        own = layer.module.channels
        if channels is not None and ((own or "first") == "first") != (channels == "first"):
            kind = type(layer.module).__name__
            raise ValueError(f"layer {layer.name!r} is {layer.module}, which works along dimension "
                             f"{layer.module.dimension(output)}, and does not fit channels={channels!r}; make it "
                             f"{kind}(channels={channels!r})")
        channels = channels or own
    if channels is None:
        widens = layer.module.widens if isinstance(layer.module, Channelwise) else 1
        return Layout(_shown(layer.name, shape, (shape[0], shape[1] // widens, *shape[2:]), evidence))
    if channels == "tokens" and output.dim() == 4:
        raise ValueError(f"layer {layer.name!r} gives {shape}, and tokens are (n, T, C); pass channels='last' or "
                         "'first'")
    if skip >= shape[1]:
        raise ValueError(f"skip={skip} leaves none of the {shape[1]} tokens of layer {layer.name!r}")
    return Layout(channels, skip)


def check_channels(channels: str | None, skip: int = 0) -> None:
    """Refuse a layout that does not exist, and tokens to skip where there are none.

    Raises:
        ValueError: for either.

    Example:
        >>> check_channels("tokens", skip=1)
        >>> check_channels(None, skip=1)
        Traceback (most recent call last):
        ValueError: skip=1 leaves out tokens, and goes with channels='tokens', not None
    """
    if channels is not None and not (isinstance(channels, str) and channels in CHANNELS):
        raise ValueError(f"channels={channels!r} is not one of {', '.join(map(repr, CHANNELS))}")
    check_counts(0, skip=skip)
    if skip and channels != "tokens":
        raise ValueError(f"skip={skip} leaves out tokens, and goes with channels='tokens', not {channels!r}")


def _shown(name, output, shape, evidence):
    """"first", if that is beyond doubt. shape: of the output, or of what a `Channelwise` module made it from."""
    sides = set()
    for width in reversed(evidence):
        if sorted(width.shape[1:]) == sorted(shape[1:]):
            if shape[1] == shape[-1]:  # any of them may have the last word
                sides.add("first" if width.first else "last")
            elif width.channels in (shape[1], shape[-1]):
                sides.add("first" if width.channels == shape[1] else "last")
                break
        elif len(width.shape) != len(shape) and not width.first and width.channels == shape[-1] != shape[1] \
                and math.prod(width.shape) == math.prod(shape):  # the same tokens, in a row instead of a grid
            sides.add("last")
            break
    if sides == {"first"} or (not sides and len(shape) == 4):
        return "first"
    last = "last" if len(shape) == 4 else "tokens"
    reason = "its channels look like the last dimension" if sides == {"last"} else "its channels may be any dimension"
    raise ValueError(f"layer {name!r} gives {output}, and {reason}: pass channels={last!r} if they are the last, "
                     "channels='first' if they are dimension 1")


# --- logits, labels, rankings -------------------------------------------------------------------------------


def logits(given: Any, n: int, *, output: Output = None, least: int = 1) -> Tensor:
    """Scores (n, classes) from what a model gave.

    They are a tensor, the entry or attribute `logits`, the entry "out", the first of a tuple or the only entry of a
    dict; or what `output` says.

    Args:
        given: what the model gave.
        n: inputs that it was given.
        output: the name of an entry or attribute, or a function of what the model gave.
        least: classes.

    Raises:
        ValueError: they are something else, or have fewer than `least` classes.

    Example:
        >>> logits({"out": torch.rand(5, 10), "aux": torch.rand(5, 10)}, 5).shape
        torch.Size([5, 10])
        >>> logits((torch.rand(5, 10), torch.rand(5, 2)), 5, output=lambda given: given[1]).shape
        torch.Size([5, 2])
    """
    if callable(output):
        try:
            found = output(given)
        except (RuntimeError, TypeError, LookupError, AttributeError) as error:
            raise ForwardError(f"the model gives {_contents(given)}, on which output= fails: {error}") from error
    elif output is not None:
        found = _entry(given, output)
        if found is None:
            raise ValueError(f"the model gives {_contents(given)}, which has no {output!r}; choose with output=")
    else:
        found = given
        while not isinstance(found, Tensor):
            inside = _entry(found, "logits")
            if inside is None:
                inside = _entry(found, "out") if isinstance(found, Mapping) else None
            if inside is None and isinstance(found, tuple | list | Mapping) and (
                    len(found) == 1 or (found and not isinstance(found, Mapping))):
                inside = next(iter(found.values() if isinstance(found, Mapping) else found))
            if inside is None:
                raise ValueError(f"the model gives {_contents(given)}; choose the logits (n, classes) with output=, "
                                 "a name or a function")
            found = inside
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != n or not found.is_floating_point():
        shape = tuple(found.shape) if isinstance(found, Tensor) and not found.is_nested else described(found)
        raise ValueError(f"the model gives {shape}; expected logits (n, classes) for {n} inputs, as a classifier gives "
                         "them before softmax; otherwise say with output= what to make of it, a name or a function")
    if found.shape[1] < least:
        raise ValueError(f"the model gives one logit, {tuple(found.shape)}, which is always the largest; for the two "
                         "classes of a binary classifier pass output=lambda z: torch.cat([torch.zeros_like(z), z], 1)")
    return found


def _entry(given, name):
    if isinstance(given, Mapping):
        return given.get(name)
    return None if isinstance(given, Tensor) else getattr(given, str(name), None)


def _contents(given):
    names = f" of {', '.join(map(str, given))}" if isinstance(given, Mapping) and given else ""
    return f"{described(given)}{names}"


def check_finite(scores: Tensor) -> Tensor:
    """Scores (n, classes) as they are.

    Raises:
        ValueError: some are not finite.

    Example:
        >>> check_finite(torch.tensor([[0.0, float("nan")]]))
        Traceback (most recent call last):
        ValueError: the logits of 1 of 1 inputs are not finite, first those of input 0; ...
    """
    wrong = (~torch.isfinite(scores).all(1)).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(f"the logits of {len(wrong)} of {len(scores)} inputs are not finite, first those of input "
                         f"{wrong[0]}; a half-precision model may need float32")
    return scores


def indices(values: Any, what: str = "labels") -> Tensor:
    """Integers (n,) as int64.

    Args:
        values: a tensor, an array or a sequence.
        what: they are called in the message.

    Raises:
        ValueError: anything else.

    Example:
        >>> indices([3, 1])
        tensor([3, 1])
    """
    try:
        found = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} are {described(values)}; expected integers (n,)") from error
    if not is_dense(found) or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool \
            or found.dim() != 1:
        raise ValueError(f"{what} are {described(found)}; expected integers (n,)")
    return found.long()


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse integers that index none of so many logits.

    Args:
        labels: (n,) integers.
        classes: how many logits there are.

    Raises:
        ValueError: naming the first.

    Example:
        >>> check_labels(torch.tensor([0, 9]), 10)
        >>> check_labels(torch.tensor([1, 10]), 10)
        Traceback (most recent call last):
        ValueError: label 10 is none of the model's 10 classes, 0 to 9; ...
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])} is none of the model's {classes} classes, 0 to {classes - 1}; count "
                         "from 0, and leave out samples without a label")


def ids(values: Any, what: str) -> list[Hashable]:
    """Names of images and the like as plain values, which compare by value, each once.

    Args:
        values: names or numbers, also in a tensor or an array.
        what: they are called in the message.

    Raises:
        ValueError: one that is there twice, or cannot be compared.

    Example:
        >>> ids(torch.tensor([4, 2]), "the ranking")
        [4, 2]
        >>> ids(["a", "a"], "the ranking")
        Traceback (most recent call last):
        ValueError: 'a' stands more than once in the ranking; leave it where it stands first
    """
    try:
        plain = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
        found = [value.item() if isinstance(value, Tensor | np.generic) else value for value in plain]
        known = set(found)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{what}: expected names or numbers, got {described(values)}") from error
    if any(isinstance(value, float) and value != value for value in found):
        raise ValueError(f"there is NaN in {what}, which equals nothing")
    if len(known) < len(found):
        twice = next(value for i, value in enumerate(found) if value in found[:i])
        raise ValueError(f"{twice!r} stands more than once in {what}; leave it where it stands first")
    return found
