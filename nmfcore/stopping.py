"""When to stop training, from training data alone: at the first maximum of the area under accuracy against rank.

::

    stopper = EarlyStopping(model, ["conv4_1", "conv4_2"], inputs, labels)  # batches of one class each
    for epoch in range(epochs):
        ...  # train as you like
        if stopper.check():
            stopper.restore()
            break

Thesis section 3.5.3, figure 3.10.
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from torch import Tensor, nn

from .compression import METHODS, accuracy_curve, powers_of_two, widths
from .gate import LayerName, Output, check_channels, check_counts, find_layers, unwrapped


def smoothed(values: Sequence[float], radius: int) -> list[float]:
    """Mean over a window of ±`radius`, truncated at both ends.

    Raises:
        ValueError: a negative radius, and values that are not finite.

    Example:
        >>> smoothed([0, 3, 0, 3], 1)
        [1.5, 1.0, 2.0, 1.5]
    """
    if radius < 0:
        raise ValueError(f"radius={radius}: expected 0 or more")
    if not all(map(math.isfinite, values)):
        raise ValueError("values to smooth must be finite")
    exact = [Fraction(float(value)) for value in values]  # else rounding makes maxima on plateaus
    windows = (exact[max(0, i - radius):i + radius + 1] for i in range(len(exact)))
    return [float(sum(window) / len(window)) for window in windows]


def first_maximum(values: Sequence[float], radius: int) -> int | None:
    """Index of the first local maximum of the smoothed values: they rise to it and fall behind it.

    Of a plateau it is the last index. None where there is none inside: the two ends are no maxima.

    Raises:
        ValueError: as `smoothed`.

    Example:
        >>> first_maximum([1, 2, 4, 3, 5], 0)
        2
        >>> first_maximum([1, 2, 3], 0) is None
        True
    """
    return _first(smoothed(values, radius))


def _first(values):
    rising = False
    for i, (here, after) in enumerate(pairwise(values)):
        if rising and after < here:
            return i
        rising = after > here or (rising and after == here)
    return None


class EarlyStopping:
    """Watches a model in any training loop; see the top of this module.

    Args:
        model: gives (n, classes) logits.
        layers: those to compress, in one forward pass, by name or as modules.
        inputs, labels: a batch or a sequence of batches of training samples, as `accuracy_curve` takes them.
        ranks: default: powers of 2 up to the width of the narrowest layer.
        radius: of the moving average, in checks.
        method: one of `compression.METHODS`.
        channels, skip, output, batch_size: as for `accuracy_curve`.
        seed: of the factorizations.

    Attributes:
        auc: of each check.
        best: the check at the first maximum of the smoothed AuC, None until it is certain.
        seconds: spent in checks.

    Raises:
        ValueError: a negative radius, an unknown method and layers that the model does not have; from `check` all else
            that `accuracy_curve` refuses.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> inputs, labels = torch.rand(20, 8), torch.arange(20) % 2
        >>> stopper = EarlyStopping(model, "1", inputs, labels, radius=0)
        >>> stopper.check(), stopper.check()  # nothing was trained in between
        (False, False)
        >>> len(stopper.auc), stopper.best
        (2, None)
    """

    def __init__(self, model: nn.Module, layers: LayerName | Sequence[LayerName], inputs: Tensor | Sequence[Tensor],
                 labels: Tensor | Sequence[Tensor], *, ranks: Sequence[int] | None = None, radius: int = 4,
                 method: str = "nmf", channels: str | None = None, skip: int = 0, output: Output = None,
                 batch_size: int | None = None, seed: int = 0):
        check_counts(0, radius=radius)
        if not isinstance(method, str) or method not in METHODS:
            raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
        self.model, self.inputs, self.labels = model, inputs, labels
        self.layers = find_layers(unwrapped(model), layers)
        check_channels(channels, skip)
        if batch_size is not None:
            check_counts(batch_size=batch_size)
        self.channels, self.skip, self.output, self.batch_size = channels, skip, output, batch_size
        self.ranks, self.radius, self.method, self.seed = ranks, radius, method, seed
        self.auc: list[float] = []
        self.best: int | None = None
        self.seconds = 0.0
        # A maximum at check t is certain at t + 1 + radius, so that nothing older is ever needed.
        self._weights: deque[dict[str, Tensor]] = deque(maxlen=radius + 2)

    def check(self) -> bool:
        """Measure AuC; True once the first maximum is certain, `radius` + 1 checks behind it.

        The model is left as it was.

        Raises:
            ValueError: the maximum has been found already.
        """
        if self.best is not None:
            raise ValueError(f"the first maximum is found, at check {self.best}; restore() its weights and stop")
        begin = time.perf_counter()
        if self.ranks is None:
            self.ranks = self._powers()
        curve = accuracy_curve(self.model, [layer.name for layer in self.layers], self.inputs, self.labels,
                               ranks=self.ranks, method=self.method, channels=self.channels, skip=self.skip,
                               output=self.output, batch_size=self.batch_size, tol=1e-2, seed=self.seed)
        self.auc.append(curve.auc)
        self._weights.append({name: value.detach().to("cpu", copy=True)
                              for name, value in self.model.state_dict().items()})
        final = smoothed(self.auc, self.radius)[:max(0, len(self.auc) - self.radius)]  # later checks change the rest
        self.best = _first(final)
        self.seconds += time.perf_counter() - begin
        return self.best is not None

    def restore(self) -> None:
        """Give the model the weights of check `best`.

        Raises:
            ValueError: no maximum is found yet.
        """
        if self.best is None:
            raise ValueError(f"no maximum in {len(self.auc)} checks, so there are no weights to restore")
        self.model.load_state_dict(self._weights[self.best - len(self.auc)])

    def _powers(self):
        probe = self.inputs[:1] if isinstance(self.inputs, Tensor) else self.inputs[0][:1]
        return powers_of_two(min(widths(unwrapped(self.model), self.layers, probe, self.channels, self.skip)))
