"""Small experiments on neurons and layers: descent of a neuron, rings, gradients through depth, residual blocks,
over-fitting. Each trains or draws all its repetitions at once."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.datasets import make_circles
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, relu

TRIALS = 20  # data sets, or random networks, of the small experiments
STEPS = (0, 1, 3, 10, 30, 100, 300, 1000)  # of descent, at which a neuron is looked at
LAYERS, WIDTH = 30, 100  # of the random networks
GAINS = (0.5, 1.0, 2 ** 0.5, 2.0, 4.0, 8.0, 16.0)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "ReLU": relu}
DEPTHS, RATES, UPDATES, UNITS = (2, 8, 24, 48), (3e-4, 1e-3, 3e-3), 150, 32  # of the networks with and without skips
SETS, POINTS, NOISE, DEGREES = 100, 20, 0.3, range(0, 13)  # of the polynomials


def spread(values: ArrayLike, form: str = ".2f") -> str:
    """Mean of one value per repetition, with the lowest and the highest."""
    values = np.asarray(values, dtype=float)
    return f"{values.mean():{form}} ({values.min():{form}} to {values.max():{form}})"


def outcome(yes: ArrayLike, no: ArrayLike) -> str:
    """Whether one thing is so in every repetition, the contrary in every one, or neither."""
    return "holds" if np.all(yes) else "fails" if np.all(no) else "undecided"


def descend(x: Tensor, y: Tensor, loss: Callable, *, seed: int) -> list[tuple[Tensor, Tensor]]:
    """A neuron per data set, x (sets, n, inputs), y (sets, n): weights (sets, inputs) and biases (sets, 1) at STEPS."""
    w = torch.randn(len(x), x.shape[2], generator=torch.Generator().manual_seed(seed)).requires_grad_()
    b = torch.zeros(len(x), 1, requires_grad=True)
    seen = []
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            seen.append((w.detach().clone(), b.detach().clone()))
        value = loss((x @ w[:, :, None]).squeeze(2) + b, y).mean(1).sum()
        with torch.no_grad():
            for parameter, gradient in zip((w, b), torch.autograd.grad(value, (w, b)), strict=True):
                parameter -= 0.3 * gradient
    return seen


def lines(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Places x (TRIALS, 40), and targets near a line and near a parabola."""
    random = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(TRIALS, 40, generator=random) - 1
    noise = 0.1 * torch.randn(TRIALS, 40, generator=random)
    return x, {"straight": 0.8 * x + 0.2 + noise, "bent": 1.5 * x.square() - 0.5 + noise}


def rings(first: int, n: int) -> tuple[Tensor, Tensor]:
    """An inner and an outer ring for each seed from the first on: points (TRIALS, n, 2) and labels (TRIALS, n)."""
    drawn = [make_circles(n, noise=0.1, factor=0.45, random_state=first + i) for i in range(TRIALS)]
    points, labels = (torch.tensor(np.array(arrays), dtype=torch.float32) for arrays in zip(*drawn, strict=True))
    return points, labels


def logistic(out: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of a logistic neuron, sample by sample."""
    return binary_cross_entropy_with_logits(out, y, reduction="none")


def hidden_layer(width: int, given: tuple[Tensor, Tensor], fresh: tuple[Tensor, Tensor], *, seed: int) -> np.ndarray:
    """Test accuracy of networks with one hidden layer of `width` ReLU units, one per data set: (TRIALS,)."""
    start = torch.Generator().manual_seed(seed + width)
    parameters = [torch.randn(TRIALS, *shape, generator=start).requires_grad_()
                  for shape in ((2, width), (1, width), (width, 1), (1, 1))]
    optimizer = torch.optim.Adam(parameters, lr=0.03)

    def network(points):
        W, b, w, c = parameters
        return (relu(points @ W + b) @ w + c).squeeze(2)  # (TRIALS, n)

    for _ in range(1000):
        optimizer.zero_grad()
        logistic(network(given[0]), given[1]).mean(1).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return ((network(fresh[0]) > 0) == fresh[1].bool()).float().mean(1).numpy()


def slope(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The derivative of an activation function, by automatic differentiation."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(function(z).sum(), z)[0]


def backward(function: Callable[[Tensor], Tensor], gain: float, batch: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Norm of the loss gradient at each layer's activations (LAYERS, TRIALS), and a middle layer's inputs to f."""
    random = torch.Generator().manual_seed(seed)
    a, kept, inputs = batch.expand(TRIALS, -1, -1), [], []
    for _ in range(LAYERS):
        W = gain * torch.randn(TRIALS, a.shape[2], WIDTH, generator=random, dtype=torch.float64) / a.shape[2] ** 0.5
        inputs.append(a @ W)
        kept.append(a := function(inputs[-1]).requires_grad_())
    out = a @ torch.randn(TRIALS, WIDTH, 1, generator=random, dtype=torch.float64)  # any loss: a random direction
    gradients = torch.autograd.grad(out.sum(), kept)
    return torch.stack([each.flatten(1).norm(dim=1) for each in gradients]), inputs[LAYERS // 2].detach()


def factor_per_layer(norms: Tensor) -> np.ndarray:
    """What one layer multiplies the gradient's norm by: over the early half, where inputs have settled, (TRIALS,)."""
    half = LAYERS // 2
    return ((norms[0] / norms[half]).log() / half).exp().numpy()


def predicted_factor(function: Callable[[Tensor], Tensor], gain: float) -> float:
    """The same in an infinitely wide layer of random weights (Poole et al. 2016, Schoenholz et al. 2017)."""
    if function is relu:
        return gain / 2 ** 0.5  # for any q: half of the slopes are one
    nodes = torch.linspace(-8, 8, 20001, dtype=torch.float64)  # fine: for large gains tanh's slope is a narrow peak
    weights = torch.exp(-nodes.square() / 2)
    weights = weights / weights.sum()
    q = torch.tensor(1.0, dtype=torch.float64)
    for _ in range(200):
        q = gain ** 2 * (weights * function(q.sqrt() * nodes).square()).sum()
    return gain * float((weights * slope(function, q.sqrt() * nodes).square()).sum() ** 0.5)


def train_deep(images: Tensor, labels: Tensor, depth: int, skip: bool, starts: int, *,
               seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean training loss of the last ten updates and test accuracy of networks that differ in their start: (starts,).

    skip: whether each layer adds its input to what it computes. Of RATES, the best by training loss.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, held = order[:1000], order[1000:]

    def trained(rate):
        start = torch.Generator().manual_seed(seed)
        shapes = [(images.shape[1], UNITS)] + [(UNITS, UNITS)] * depth + [(UNITS, 10)]
        parameters = [((2 / a) ** 0.5 * torch.randn(starts, a, b, generator=start)).requires_grad_() for a, b in shapes]
        optimizer, batches = torch.optim.Adam(parameters, lr=rate), torch.Generator().manual_seed(seed)

        def network(x):
            h = relu(x @ parameters[0])
            for W in parameters[1:-1]:
                h = h + relu(h @ W) / depth ** 0.5 if skip else relu(h @ W)  # the sum of all blocks keeps its size
            return h @ parameters[-1]  # (starts, n, 10)

        losses = []
        for _ in range(UPDATES):
            batch = train[torch.randint(len(train), (50,), generator=batches)]
            optimizer.zero_grad()
            out, y = network(images[batch].expand(starts, -1, -1)), labels[batch].expand(starts, -1)
            loss = cross_entropy(out.movedim(2, 1), y, reduction="none").mean(1)
            loss.sum().backward()
            optimizer.step()
            losses.append(loss.detach())
        with torch.no_grad():
            right = (network(images[held].expand(starts, -1, -1)).argmax(2) == labels[held]).double().mean(1)
        return torch.stack(losses[-10:]).mean(0).numpy(), right.numpy()

    return min((trained(rate) for rate in RATES), key=lambda result: result[0].mean())


def law(x: np.ndarray) -> np.ndarray:
    """What the polynomials learn from noisy points."""
    return np.sin(np.pi * x)


def measure_overfitting(seed: int, degrees: Sequence[int] = DEGREES) -> dict[str, np.ndarray]:
    """Training and test error (SETS, degrees) of polynomials, the squared bias and variance of each degree, and the
    predictions of the last degree with the places they are for."""
    random = np.random.default_rng(seed)
    at, new = random.uniform(-1, 1, (SETS, POINTS)), np.linspace(-0.95, 0.95, 200)
    given = law(at) + NOISE * random.normal(size=at.shape)
    fresh = law(new) + NOISE * random.normal(size=(SETS, len(new)))
    training, testing = np.empty((2, SETS, len(degrees)))
    bias, variance = np.empty((2, len(degrees)))
    for column, degree in enumerate(degrees):
        fits = [np.polynomial.Legendre.fit(x, y, degree, domain=[-1, 1]) for x, y in zip(at, given, strict=True)]
        predicted = np.array([fit(new) for fit in fits])
        training[:, column] = [np.mean((fit(x) - y) ** 2) for fit, x, y in zip(fits, at, given, strict=True)]
        testing[:, column] = ((predicted - fresh) ** 2).mean(1)
        bias[column], variance[column] = ((predicted.mean(0) - law(new)) ** 2).mean(), predicted.var(0).mean()
    return {"training": training, "test": testing, "bias": bias, "variance": variance, "places": new,
            "predicted": predicted}
