"""Figures of the chapters: colour-blind-safe, legible in print. For the chapters only; needs matplotlib."""

from collections.abc import Sequence

import torch

from ._inputs import isolated
from ._optional import needed_by

with needed_by("nmfcore.plots"):
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

# Okabe & Ito's palette, which readers with any kind of colour vision can tell apart; one colour per factor.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")


@isolated()
def overlay(images: torch.Tensor, maps: torch.Tensor, *, colors: Sequence[str] = COLORS,
            strength: float = 0.85) -> torch.Tensor:
    """Images (n, 3, H, W) in [0, 1] under heatmaps (n, K, H, W) in [0, 1], one colour per factor: (n, 3, H, W).

    The photograph is shown in grey, so that the colours belong to the factors alone. Where factors meet, the colour
    is their mean weighted by activation, and the opacity that of the strongest.
    """
    if maps.shape[1] > len(colors):
        raise ValueError(f"{maps.shape[1]} factors need more than the {len(colors)} colours given")
    grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)  # (n, 1, H, W)
    palette = maps.new_tensor([to_rgb(color) for color in colors[:maps.shape[1]]])  # (K, 3)
    weight = maps.square() / maps.square().sum(1, keepdim=True).clamp_min(1e-6)
    color = torch.einsum("nkhw,kc->nchw", weight, palette)
    opacity = strength * maps.amax(1, keepdim=True).clamp(0, 1).sqrt()
    return (0.12 + 0.88 * grey) * (1 - opacity) + color * (0.7 + 0.3 * grey) * opacity


def grid(rows: Sequence[torch.Tensor], *, titles: Sequence[str] = (), labels: Sequence[str] = ()) -> Figure:
    """Rows of pictures, each row a tensor (n, 3, H, W) or (n, H, W), with row labels and column titles: a figure."""
    n = max(len(row) for row in rows)
    width = max(1.9, 7.2 / n)  # inches
    height, breadth = rows[0].shape[-2:]
    figure, axes = plt.subplots(len(rows), n, squeeze=False, layout="constrained",
                                figsize=(width * n, width * height / breadth * len(rows) + 0.25 * bool(titles)))
    for i, row in enumerate(rows):
        for j in range(n):
            axis = axes[i, j]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if j >= len(row):
                continue
            picture = row[j]
            if picture.dim() == 3:
                axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
            else:
                axis.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
            if i == 0 and j < len(titles):
                axis.set_title(titles[j], fontsize=9)
        if i < len(labels):
            axes[i, 0].set_ylabel(labels[i], fontsize=10)
    return figure
