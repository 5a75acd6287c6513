"""Points in the plane, and what NMF, PCA and k-means make of them while they are moved: a view."""

from collections.abc import Sequence

import numpy as np
from IPython.display import HTML
from numpy.typing import ArrayLike

from nmfcore.heatmaps import COLORS

from .view import view

SWEEPS = (*range(11), 15, 20, 30, 50, 100, 200, 500, 1000)  # what the slider offers
_METHODS = {"nmf": ("NMF", 340), "pca": ("PCA", 200), "kmeans": ("k-means", 200)}  # title, side of the drawing


def cone(points: ArrayLike, *, caption: str, axes: Sequence[str] = ("x", "y"), sweeps: int = 3) -> HTML:
    """Points that the reader drags, under three factorizations that the page computes: an `IPython.display.HTML`.

    NMF is shown after a chosen number of sweeps of HALS: a cone of K rays, and the point of it that is nearest to each
    of the points. PCA and k-means are shown at their optimum.
    points: (n, 2) with entries in [0, 1], of 3 to 14 points; thousandths of them are kept. axes: what the two numbers
    are called. caption: HTML-free text. sweeps: those shown at first, one of `SWEEPS`.
    Raises ValueError unless they are such points, not all of them zero, with two names, and such a number of sweeps.
    """
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or points.shape[1] != 2 or not 3 <= len(points) <= 14:
        raise ValueError(f"points must be 3 to 14 rows of two numbers, got shape {points.shape}")
    if not ((0 <= points) & (points <= 1)).all() or not points.round(3).any():
        raise ValueError(f"points must lie in [0, 1], one of them off the origin, got {points.tolist()}")
    if len(axes) != 2 or not all(name.strip() for name in axes):
        raise ValueError(f"axes must be two names, got {axes}")
    if sweeps not in SWEEPS:
        raise ValueError(f"sweeps {sweeps} must be one of {SWEEPS}")
    panels = {method: f'<div class="panel"><b>{title} <data data-of="{method}"></data></b>'
                      f'<svg viewBox="0 0 {side} {side}" data-of="{method}" style="--method: {color}" '
                      f'role="{"group" if method == "nmf" else "img"}" aria-label="{title}"><g></g></svg></div>'
              for (method, (title, side)), color in zip(_METHODS.items(), COLORS, strict=False)}
    return view(
        "cone", {"points": (1000 * points).round().astype(int).tolist(), "axes": [*axes], "sweeps": SWEEPS,
                 "first": SWEEPS.index(sweeps)}, caption,
        '<div class="bar"><span role="group" aria-label="K, the rank">'
        + "".join(f'<button type="button" data-rank="{K}">K = {K}</button>' for K in (1, 2))
        + f'</span><label>NMF after <output></output> <input type="range" min="0" max="{len(SWEEPS) - 1}" step="1" '
        f'autocomplete="off" aria-label="sweeps of NMF"></label>'
        f'<button type="button" class="again">another start</button>'
        f'<button type="button" class="reset">reset points</button></div>'
        f'<div class="both">{panels["nmf"]}<div class="side">{panels["pca"]}{panels["kmeans"]}</div></div>'
        f'<p aria-live="polite">This view needs JavaScript.</p>')
