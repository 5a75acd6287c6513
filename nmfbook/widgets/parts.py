"""A photograph whose parts the reader takes away one by one, and what the network then answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from IPython.display import HTML
from numpy.typing import ArrayLike

from nmfcore.heatmaps import COLORS

from .view import view, webp

PARTS = 5  # at most: each subset of them is a forward pass
AREA = 110_000  # of a photograph as shown, in pixels


@dataclass(frozen=True)
class Parted:
    """A photograph, its parts, and the network's answers without each subset of them."""

    picture: np.ndarray  # (H, W, 3) uint8
    maps: ArrayLike  # (K, h, w) in [0, 1]: where the parts are
    classes: Sequence[str]  # C, those to show
    probabilities: ArrayLike  # (2^K, C); in line i those parts k are missing for which bit k of i is set


def parts(photographs: Mapping[str, Parted], *, caption: str) -> HTML:
    """Photographs with parts to take away, and the probabilities of classes: an `IPython.display.HTML`.

    The page looks up: the probabilities are those of the forward passes that were made before. From them it computes
    the Shapley value of each part for the first answer, which stands beside the part.
    photographs: under the names the reader chooses them by; the first is shown at first. caption: HTML-free text.
    Raises ValueError unless there is a photograph, each with a name, a picture (H, W, 3) uint8, one to five maps with
    values in [0, 1], and for each subset of them a probability of each class, of which there is at least one.
    """
    if not photographs:
        raise ValueError("the view needs at least one photograph")
    data = {}
    for name, photograph in photographs.items():
        if not name.strip():
            raise ValueError("a photograph needs a name")
        maps, chances = (np.asarray(values, dtype=float) for values in (photograph.maps, photograph.probabilities))
        if maps.ndim != 3 or not 1 <= len(maps) <= PARTS or not maps.size:
            raise ValueError(f"{name!r}: maps must be (K, h, w) with K from 1 to {PARTS}, got shape {maps.shape}")
        if not ((maps >= 0) & (maps <= 1)).all():
            raise ValueError(f"{name!r}: maps must lie in [0, 1], got {maps.min():g} to {maps.max():g}")
        if not photograph.classes or chances.shape != (2 ** len(maps), len(photograph.classes)):
            raise ValueError(f"{name!r}: {len(maps)} parts and {len(photograph.classes)} classes need probabilities of "
                             f"shape {(2 ** len(maps), max(1, len(photograph.classes)))}, got {chances.shape}")
        if not ((chances >= 0) & (chances <= 1)).all() or (chances.sum(1) > 1 + 1e-3).any():
            raise ValueError(f"{name!r}: probabilities must lie in [0, 1] and sum to at most 1 in each of "
                             f"{len(chances)} lines")
        data[name] = {"picture": webp(photograph.picture, AREA, name=name), "width": maps.shape[2],
                      "maps": np.round(100 * maps).astype(int).reshape(len(maps), -1).tolist(),
                      "classes": list(photograph.classes), "probabilities": chances.round(6).tolist()}
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in data)
    return view(
        "parts", {"photographs": data, "colors": COLORS[:PARTS]}, caption,
        f'<div class="bar"><label>photograph <select autocomplete="off">{options}</select></label>'
        '<button type="button" class="back">all parts back</button></div>'
        '<div class="both"><div class="left"><div class="picture" role="img"><img alt=""><canvas></canvas></div>'
        '<div class="legend" role="group" aria-label="parts that are left in the photograph"></div></div>'
        f'<div class="bars" role="group" aria-label="{escape(caption)}"></div></div>'
        '<p aria-live="polite">This view needs JavaScript.</p>')
