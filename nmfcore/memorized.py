"""Which training samples a network memorized: a score for each, which is higher where the label fits the others less.

::

    wrong = neighbor_scores(capture(model, "conv4_1", inputs)["conv4_1"], labels)  # share of neighbours that disagree
    lost = compression_scores(model, "conv4_1", inputs, labels)  # share of ranks at which compression loses the sample

Both compare samples with others that carry the same training label, and need no other labels.
"""

from collections.abc import Sequence

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from .compression import accuracy_curve, area, powers_of_two, widths
from .gate import LayerName, Output, check_channels, check_counts, described, find_layers, indices, is_dense, unwrapped


def compression_scores(model: nn.Module, layers: LayerName | Sequence[LayerName], inputs: Tensor, labels: Tensor, *,
                       draws: int = 1, size: int = 50, ranks: Sequence[int] | None = None, method: str = "nmf",
                       channels: str | None = None, skip: int = 0, output: Output = None,
                       batch_size: int | None = None, tol: float = 1e-2, seed: int = 0) -> Tensor:
    """Share of ranks at which a sample is lost when the batch of its class that it is in is compressed.

    One less the area under the curve of "classified as trained" over rank K, up to the rank from which approximations
    are exact (thesis eq. 3.21, of one sample in place of a batch). Each draw divides the samples of a class among
    batches as equal as can be, so that every sample is in exactly one of each draw.

    Args:
        model: gives (n, classes) logits. It is run in evaluation mode and left as it was.
        layers: as for `accuracy_curve`; several are compressed in one forward pass.
        inputs: (n, ...) training samples.
        labels: (n,) integers, those that the model was trained on.
        draws: divisions into batches, over which the score is averaged.
        size: samples of a batch, at most.
        ranks: default: powers of 2 up to the width of the narrowest layer.
        method, channels, skip, output, batch_size: as for `accuracy_curve`.
        tol: of `nmf`, as in `memorization_report`.
        seed: of the batches and the factorizations.

    Returns:
        (n,) float64 on the CPU, from 0, right at every rank but 0, to 1, wrong at every rank.

    Raises:
        ValueError: inputs and labels that do not fit together; counts below 1; all that `accuracy_curve` refuses.

    Example:
        >>> model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> inputs, labels = torch.rand(30, 20), torch.arange(30) % 3
        >>> compression_scores(model, "1", inputs, labels, size=5).shape
        torch.Size([30])
    """
    model = unwrapped(model)
    check_channels(channels, skip)
    labels = _labels_of(inputs, labels, "inputs")
    check_counts(draws=draws, size=size)
    if ranks is None:
        ranks = powers_of_two(min(widths(model, find_layers(model, layers), inputs[:1], channels, skip), default=1))
    lost = torch.zeros(draws, len(labels), dtype=torch.float64)
    for draw in range(draws):
        batches = _divided(labels, size, seed + draw)
        curve = accuracy_curve(model, layers, [inputs[places.to(inputs.device)] for places in batches],
                               [labels[places] for places in batches], ranks=ranks, method=method, channels=channels,
                               skip=skip, output=output, batch_size=batch_size, tol=tol, seed=seed + draw)
        upto = curve.ranks.index(curve.limit) + 1
        kept = area(curve.right[:, :upto], curve.ranks[:upto]) / curve.limit
        lost[draw, torch.cat(batches)] = 1 - kept
    return lost.mean(0)


def neighbor_scores(features: Tensor, labels: Tensor, k: int = 50, *, of: Tensor | None = None) -> Tensor:
    """Share of a sample's nearest neighbours, by cosine similarity, that carry another label.

    Args:
        features: (n, ...) of a layer, or the inputs themselves; all but the first axis are flattened.
        labels: (n,) integers.
        k: neighbours, the sample itself not counted.
        of: (m,) places of the samples to score. Default: all.

    Returns:
        (m,) float64 on the CPU, from 0, all agree, to 1, none does.

    Raises:
        ValueError: features that are no finite numbers or do not fit the labels, fewer than k + 1 samples, places that
            there are not.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.0], [0.0, 1.0], [0.1, 0.9]])
        >>> neighbor_scores(features, torch.tensor([0, 0, 1, 1, 1]), k=2)
        tensor([0.5000, 0.5000, 1.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    labels = _labels_of(features, labels, "features")
    check_counts(k=k)
    places = torch.arange(len(labels)) if of is None else indices(of, "places").cpu()
    if k >= len(labels):
        raise ValueError(f"k={k} neighbours of {len(labels)} samples; there are {len(labels) - 1} others")
    if not features.is_floating_point() or not bool(torch.isfinite(features).all()):
        raise ValueError(f"the features are {described(features)}; expected finite floating-point numbers")
    if len(places) == 0 or bool(((places < 0) | (places >= len(labels))).any()):
        raise ValueError(f"of={places.tolist()[:5]}: expected one place or more, from 0 to {len(labels) - 1}")
    rows = features.detach().flatten(1).float().cpu()
    if rows.shape[1] == 0:
        raise ValueError(f"the features are {described(features)}; expected at least one number a sample")
    search = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(rows.numpy())
    nearest = torch.from_numpy(search.kneighbors(rows[places].numpy(), return_distance=False))  # (m, k + 1)
    itself = nearest == places[:, None]
    itself[:, -1] |= ~itself.any(1)  # it is not the first of more than k twins
    others = nearest[~itself].view(len(places), k)
    return (labels[others] != labels[places, None]).double().mean(1)


def _labels_of(inputs, labels, what):
    """Labels (n,) int64 on the CPU that fit a tensor (n, ...)."""
    if not is_dense(inputs) or inputs.dim() == 0:
        raise ValueError(f"the {what} are {described(inputs)}; pass a tensor (n, ...)")
    labels = indices(labels).cpu()
    if len(inputs) != len(labels) or not len(labels):
        raise ValueError(f"{len(inputs)} {what} and {len(labels)} labels: expected as many, at least one")
    return labels


def _divided(labels, size, seed):
    """Places of each class in a random order, in batches of at most `size`, as equal as can be."""
    generator = torch.Generator().manual_seed(seed)
    batches: list[Tensor] = []
    for label in labels.unique():
        of_class = (labels == label).nonzero()[:, 0]
        of_class = of_class[torch.randperm(len(of_class), generator=generator)]
        batches += of_class.tensor_split(-(-len(of_class) // size))
    return batches
