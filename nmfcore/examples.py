"""Something to try the library on: handwritten digits, and networks that learn them by heart within seconds.

::

    x, y = digits(1000, random=0.5)  # half of the labels are drawn at random
    model = learned(x, y)
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from .gate import check_counts, check_labels, indices

ADAM = partial(torch.optim.Adam, lr=3e-3)
EPOCHS = 2000  # after so many a label is taken for one that cannot be learned


def digits(count: int | None = None, *, random: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The first handwritten digits of scikit-learn, 8 × 8 pixels, and their labels, a share of them random.

    Args:
        count: how many; None: all 1,797.
        random: probability of each label to be replaced; see `randomized_labels`.
        seed: of that draw.

    Returns:
        x (n, 64) in [0, 1] and y (n,) int64.

    Raises:
        ValueError: a count below 1, and a probability outside of [0, 1].

    Example:
        >>> x, y = digits(100)
        >>> x.shape, y[:5].tolist()
        (torch.Size([100, 64]), [0, 1, 2, 3, 4])
        >>> int((digits(100, random=0.5)[1] != y).sum())
        49
    """
    if count is not None:
        check_counts(count=count)
    if not 0 <= random <= 1:  # as `randomized_labels`, under this function's name for it
        raise ValueError(f"random={random} is not a probability; take one from 0, true labels, to 1, all random")
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:count] / 16).float(), randomized_labels(labels[:count], random, 10, seed=seed)


def randomized_labels(labels: Any, p: float, classes: int, *, seed: int = 0) -> Tensor:
    """New labels (n,) int64: each replaced, with probability p, by a class drawn uniformly (Zhang et al. 2017).

    The class drawn may be the old one, so that about p·(1 - 1/classes) of the labels change. With the same seed, the
    labels replaced at a smaller p are among those replaced at a larger one, by the same classes.

    Args:
        labels: (n,) integers from 0 to classes - 1.
        p: from 0 to 1.
        classes: from which is drawn.
        seed: of the draw.

    Raises:
        ValueError: a p outside of [0, 1], and labels that are no integers or none of the classes.

    Example:
        >>> randomized_labels(torch.tensor([0, 1, 2, 0, 1, 2]), 0.5, 3, seed=3)
        tensor([2, 2, 2, 1, 1, 2])
    """
    check_counts(classes=classes)
    y = indices(labels)
    check_labels(y, classes)
    if not 0 <= p <= 1:
        raise ValueError(f"p={p} is not a probability; take one from 0 (labels as they are) to 1 (all random)")
    generator = torch.Generator().manual_seed(seed)
    replaced = torch.rand(len(y), generator=generator, dtype=torch.float64) < p
    drawn = torch.randint(classes, (len(y),), generator=generator)
    return torch.where(replaced.to(y.device), drawn.to(y.device), y)


def learned(x: Tensor, y: Tensor, network: nn.Module | Sequence[int] = (64, 64), *,
            optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = ADAM,
            batch_size: int | None = None, seed: int = 0) -> nn.Module:
    """A network, trained until it classifies every sample as its label says.

    Args:
        x: (n, …) samples.
        y: (n,) labels from 0 to 9.
        network: one to train in place, which gives (n, 10) logits; or the widths of the hidden layers of a fully
            connected one, whose ReLU layers are then called "1", "3", …
        optimizer: made from the parameters; default: Adam.
        batch_size: None: all samples at once.
        seed: of the weights of a fully connected network, and of the order of the batches.

    Raises:
        ValueError: labels that are no digits, or not as many as samples.
        RuntimeError: labels are not learned within 2,000 epochs.

    Example:
        >>> x, y = digits(100)
        >>> model = learned(x, y, (32,))
        >>> model
        Sequential(
          (0): Linear(in_features=64, out_features=32, bias=True)
          (1): ReLU()
          (2): Linear(in_features=32, out_features=10, bias=True)
        )
        >>> bool((model(x).argmax(1) == y).all())
        True
    """
    y = indices(y)
    check_labels(y, 10)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} samples and {len(y)} labels; give as many of one as of the other")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not isinstance(network, nn.Module):
            sizes = [x[0].numel(), *network]
            hidden = [module for sides in pairwise(sizes) for module in (nn.Linear(*sides), nn.ReLU())]
            network = nn.Sequential(*hidden, nn.Linear(sizes[-1], 10))
        steps = optimizer(network.parameters())
        for _ in range(EPOCHS):
            with torch.no_grad():
                wrong = int((network(x).argmax(1) != y).sum())
            if not wrong:
                return network
            for batch in torch.randperm(len(y)).split(batch_size or len(y)):
                steps.zero_grad()
                nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
                steps.step()
    raise RuntimeError(f"{wrong} of {len(y)} labels are not learned after {EPOCHS} epochs; look for one sample with "
                       "two labels, or take more units or another optimizer")
