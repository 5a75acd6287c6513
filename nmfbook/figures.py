"""Figures of the chapters: one style, one colour a method, and points that lead to the job they were drawn from."""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nmfcore.heatmaps import COLORS

from . import ledger_page
from .ledger import Entry
from .widgets.view import drawn

METHODS = {"nmf": "NMF", "pca": "PCA", "kmeans": "k-means", "random_ablation": "random ablation"}
COLOR = dict(zip(METHODS, COLORS, strict=False))
WIDTH = 6.72  # inches, 672 px on the page
STYLE: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
                         "legend.frameon": False, "lines.linewidth": 1.6}


def panels(rows: int, columns: int, height: float = 2.6, **options) -> tuple[Figure, np.ndarray]:
    """A figure as wide as the page, and its axes (rows, columns). height: of a row, in inches."""
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, layout="constrained", **options)


def shade(p: float):
    """The colour of networks of which a share p of the training labels is random."""
    return plt.colormaps["viridis"](0.9 * p)


def by_level(axis: Axes, networks: Sequence[Entry], values: Callable[[Entry], tuple]) -> None:
    """Curves of networks over p: a thin line each, which leads to its job, and a thick one for the mean of a p.

    values: x and y of an entry; x is the same for all.
    """
    for p in sorted({entry.job["p"] for entry in networks}):
        of_level = [entry for entry in networks if entry.job["p"] == p]
        for entry in of_level:
            [line] = axis.plot(*values(entry), color=shade(p), lw=0.8, alpha=0.6)
            line.set_url(ledger_page.address(entry))
        axis.plot(values(of_level[0])[0], np.mean([values(entry)[1] for entry in of_level], axis=0), color=shade(p),
                  lw=1.8)


def points(axis: Axes, networks: Sequence[Entry], x: Sequence[float], y: Sequence[float], **style) -> None:
    """Marks, one a network, each of which leads to its job."""
    for entry, *place in zip(networks, x, y, strict=True):
        axis.scatter(*place, **{"zorder": 3} | style).set_urls([ledger_page.address(entry)])


def level_legend(figure: Figure, levels: Sequence[float]) -> None:
    """Name the colours of the shares p below a figure."""
    handles = [plt.Line2D([], [], color=shade(p), lw=1.8, label=f"{p:g}") for p in sorted({*levels})]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, title="share of random labels p")


def linked(figure: Figure, *, name: str, alt: str, caption: str) -> None:
    """Show a figure as part of the page, so that artists with a URL (`set_urls`) are links. caption: HTML.

    Every link is called after what stands behind the # of its address.
    """
    from IPython.display import HTML, display

    file = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    svg = file.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub("<svg ", f'<svg role="group" aria-label="{escape(alt)}" style="width:100%;height:auto" ', svg, count=1)
    svg = re.sub(r'<a xlink:href="([^"#]*#)?([^"]*)"', r'<a href="\1\2" aria-label="\2"', svg)
    display(HTML(f'<figure class="nmf-linked" id="{name}">{svg}<figcaption>{caption}</figcaption></figure>'))


def pictured(figure: Figure, *, name: str, alt: str, caption: str) -> None:
    """Show a figure that holds photographs, as WebP at twice the size of the page's pixels. caption: HTML."""
    from IPython.display import HTML, display

    display(HTML(f'<figure class="nmf-linked" id="{name}"><img src="{drawn(figure, dpi=200)}" alt="{escape(alt)}">'
                 f'<figcaption>{caption}</figcaption></figure>'))


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
