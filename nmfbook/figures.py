"""Figures of the chapters."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure


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
