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
    """A model that fails on its input; what it raised is the cause."""


class Captured(Exception):
    """Leaves the forward pass once every layer asked for has been seen."""


# --- models -------------------------------------------------------------------------------------------------


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `DataParallel` and `torch.compile`. Raises ValueError for what is not an `nn.Module`."""
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

    With or without `gradient`. Then everything is as it was, also after an exception. Raises ValueError for a model
    whose parameters are not there yet, or cannot be differentiated through.
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
    """Within the block, every module is in evaluation mode; then each gets back the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def ready(model: nn.Module, inputs: Tensor, what: str = "the inputs") -> Tensor:
    """Inputs (n, ...) on the model's device and, if floating, of its parameters' type. Integers, as of words, stay so.

    Raises ValueError for what is not a tensor of numbers with n ≥ 1, or not finite.
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
    """`model(inputs)`. Raises ForwardError for what fails within."""
    try:
        return model(inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError, AssertionError, AttributeError) as error:
        raise ForwardError(f"the model cannot take {described(inputs)}: {error}") from error


def check_counts(least: int = 1, **counts: Any) -> None:
    """Raises ValueError for what is no integer of at least so much."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < least:
            raise ValueError(f"{name}={count!r} must be an integer, {least} or more")


def is_dense(thing: Any) -> bool:
    """Whether it is a tensor whose numbers are there, one beside the other."""
    return isinstance(thing, Tensor) and not thing.is_nested and thing.layout is torch.strided and not thing.is_meta


def listed(ranks: Any) -> tuple[list[int], bool]:
    """Ranks as a list, and whether it was a single one. Raises ValueError for what are no integers."""
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
    alias: bool  # whether the model knows the module by an earlier name, too


def find_layers(model: nn.Module, layers: LayerName | Iterable[LayerName]) -> list[Layer]:
    """Layers by name or as the module itself.

    A module is one layer, wherever it stands. Raises ValueError for what is no part of the model.
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
    """One of `find_layers`."""
    found = find_layers(model, layer)
    if len(found) != 1:
        raise ValueError(f"layer {layer!r}: expected one name or module")
    return found[0]


def first_outputs(model: nn.Module, layers: Sequence[Layer], inputs: Tensor, *,
                  evidence: "dict[str, list[_Width]] | None" = None) -> dict[str, Tensor]:
    """{name: output of the layer's first run} of one forward pass, which stops after the last of the layers.

    evidence: is filled with what `layout` needs to know of each layer. Raises ValueError for a layer that is not
    reached or gives no tensor, and for one that is asked for by its second name and runs several times, since nobody
    knows which run is meant.
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
    """Where a layer's output (n, ...) has its channels; a matrix (n, C) has them where they belong."""

    channels: str = "first"
    skip: int = 0  # of tokens, so many at the beginning stand for no place: class token, registers

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
        """(n, C, h, w) for images of height and width `size`, the tokens row by row."""
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

    channels: "first" for (n, C, ...), "last" for (n, ..., C), "tokens" for (n, T, C). Raises ValueError for another.
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

    Raises ValueError where that leaves a doubt, and for an output that is not one of these.
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
    """Raises ValueError for a layout that does not exist, and for tokens to skip where there are none."""
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
    dict; or what `output` says: the name of an entry or attribute, or a function.

    Raises ValueError if they are something else, or have fewer than `least` classes.
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
    """Raises ValueError for scores that are not finite."""
    wrong = (~torch.isfinite(scores).all(1)).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(f"the logits of {len(wrong)} of {len(scores)} inputs are not finite, first those of input "
                         f"{wrong[0]}; a half-precision model may need float32")
    return scores


def indices(values: Any, what: str = "labels") -> Tensor:
    """Integers (n,) as int64. Raises ValueError for anything else."""
    try:
        found = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} are {described(values)}; expected integers (n,)") from error
    if not is_dense(found) or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool \
            or found.dim() != 1:
        raise ValueError(f"{what} are {described(found)}; expected integers (n,)")
    return found.long()


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises ValueError for integers that index none of so many logits."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])} is none of the model's {classes} classes, 0 to {classes - 1}; count "
                         "from 0, and leave out samples without a label")


def ids(values: Any, what: str) -> list[Hashable]:
    """Names of images and the like as plain values, which compare by value, each once.

    Raises ValueError for one that is there twice, or cannot be compared.
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
