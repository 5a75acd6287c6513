"""The networks of table 3.1, untrained: what chapter 3 trains."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Architecture:
    shape: tuple[int, int, int] | None  # (C, H, W) of an input; None: printed nowhere
    blocks: tuple[tuple[int, ...], ...]  # channels of the 3 × 3 convolutions, block by block
    pooled: bool  # whether a block ends in max-pooling; otherwise every block but the first begins with stride 2
    widths: tuple[int, ...]  # hidden units of the fully connected layers


# Where the thesis and the paper of 2019 differ, this is the thesis: in the paper the last convolution of the CIFAR-10
# and SVHN networks has no ReLU, so that its output could not be given to NMF, which both of them do.
# Neither has pooling before the last layer of these two: all positions go into it.
ARCHITECTURES = {
    "cifar10": Architecture((3, 32, 32), ((64,) * 2, (128,) * 3, (256,) * 3, (512,) * 3), False, ()),
    "fashion_mnist": Architecture((1, 28, 28), (), False, (128, 512, 2048, 2048)),
    "svhn": Architecture((3, 32, 32), ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2), False, ()),
    "urban_sounds": Architecture(None, ((64,), (128,) * 2, (256,) * 2, (512,) * 2), True, (4096, 4096)),
}


def memorization_network(name: str, *, shape: Sequence[int] | None = None, classes: int = 10, width: float = 1.0,
                         pool_stride: int = 1, seed: int = 0) -> nn.Sequential:
    """An untrained network of table 3.1: "cifar10", "fashion_mnist", "svhn" or "urban_sounds".

    Layers are called conv1_1, conv1_2, conv2_1, ..., fc1, fc2, ... and output. Each but the last ends in its ReLU, so
    `capture(model, "conv4_1", x)` gives what can be factorized. Weights are drawn as in He et al. 2015, biases are
    zero: the thesis does not say how its own were. The same seed gives the same weights; the global random state is
    left alone.

    Args:
        shape: (C, H, W) of an input, where it is not the data set's own. "urban_sounds" needs it: the size of its
            spectrograms is printed nowhere.
        classes: units of the last layer.
        width: share of the table's channels and units that each layer gets, rounded; 1 is the table.
        pool_stride: of the 2 × 2 max-pooling in "urban_sounds". The thesis and the paper both print 1, which keeps
            nearly every position and gives fc1 512·(H-4)·(W-4)·4096 weights: 7.5 billion for 64 × 64. 2 is usual and
            gives 33.6 million; whoever uses it should say so.

    Raises ValueError for an unknown name and for an input that is too small.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown network {name!r}; table 3.1 has {', '.join(ARCHITECTURES)}")
    plan = ARCHITECTURES[name]
    shape = plan.shape if shape is None else tuple(shape)
    if shape is None:
        raise ValueError(f"the input size of {name!r} is not in the thesis; pass shape=(1, mel bands, frames)")
    if len(shape) != 3 or min(shape) < 1 or classes < 1 or pool_stride < 1 or not 0 < width < math.inf:
        raise ValueError(f"shape={shape}, classes={classes}, width={width}, pool_stride={pool_stride}: expected "
                         "shape=(C, H, W), a width above 0, and numbers from 1 on")
    channels, *sides = shape

    def scaled(units):
        return max(1, round(width * units))

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for b, block in enumerate(plan.blocks, start=1):
            for i, units in enumerate(map(scaled, block), start=1):
                stride = 2 if i == 1 < b and not plan.pooled else 1
                layers[f"conv{b}_{i}"] = nn.Sequential(nn.Conv2d(channels, units, 3, stride, padding=1), nn.ReLU())
                channels, sides = units, [(side - 1) // stride + 1 for side in sides]
            if plan.pooled:
                layers[f"pool{b}"] = nn.MaxPool2d(2, pool_stride)
                sides = [(side - 2) // pool_stride + 1 for side in sides]
        if min(sides) < 1:
            raise ValueError(f"an input of {shape[1]} × {shape[2]} is too small for the pooling in {name!r}")
        layers["flatten"] = nn.Flatten()
        inputs = channels * sides[0] * sides[1]
        for i, units in enumerate(map(scaled, plan.widths), start=1):
            layers[f"fc{i}"] = nn.Sequential(nn.Linear(inputs, units), nn.ReLU())
            inputs = units
        layers["output"] = nn.Linear(inputs, classes)
        for parameter in nn.Sequential(layers).parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)
    return nn.Sequential(layers)
