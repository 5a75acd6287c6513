"""A threshold over heatmaps: which mask it makes of a photograph, and how well that fits an outline."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from IPython.display import HTML
from numpy.typing import ArrayLike
from PIL import Image

from nmfcore.heatmaps import COLORS

from .view import encoded, picture, view, webp

_AREA = 320 ** 2  # pixels of a photograph on the page
_STEPS = 100  # thresholds, from 0 on


def threshold(photographs: Mapping[str, np.ndarray | Image.Image], maps: Sequence[ArrayLike],
              references: Sequence[Mapping[str, ArrayLike]], *, caption: str) -> HTML:
    """Photographs under the mask of one factor at a threshold that the reader drags: an `IPython.display.HTML`.

    The mask is where the factor's map, enlarged by bilinear interpolation, exceeds the threshold. Its intersection over
    union with a reference mask is drawn for all thresholds. The reader chooses the photograph, the factor and the
    reference mask; the first of each is shown at first.

    photographs: n images by name, (H, W, 3) uint8 or of Pillow. maps: (n, K, h, w), or n × (K, h_i, w_i), in [0, 1], as
    `heatmaps` gives them. references: n times one mask or more, (H, W) bool, by name. caption: HTML-free text, which
    says where the references come from.
    Raises ValueError, which names the photograph, for anything else, and for more factors than there are colours.
    """
    if not photographs or not len(photographs) == len(maps) == len(references):
        raise ValueError(f"{len(photographs)} photographs need as many maps and references, n ≥ 1, got {len(maps)} and "
                         f"{len(references)}")
    entries = [_entry(name, image, np.asarray(of_factors, dtype=float), masks) for (name, image), of_factors, masks
               in zip(photographs.items(), maps, references, strict=True)]
    ranks = {entry["rank"] for entry in entries}
    if len(ranks) > 1 or max(ranks) > len(COLORS):
        raise ValueError(f"photographs have maps of {sorted(ranks)} factors; each needs the same number, at most "
                         f"{len(COLORS)}")
    options = "".join(f'<option value="{i}">{escape(name)}</option>' for i, name in enumerate(photographs))
    buttons = "".join(f'<button type="button" data-k="{k}" aria-pressed="false"><i style="background:{color}"></i>'
                      f'{k + 1}</button>' for k, color in enumerate(COLORS[:ranks.pop()]))
    return view(
        "threshold", {"photographs": entries, "colors": COLORS, "steps": _STEPS}, caption,
        f'<div class="bar"><label>photograph <select class="photograph" autocomplete="off">{options}</select></label>'
        f'<span role="group" aria-label="factor">factor {buttons}</span>'
        f'<label>outline <select class="reference" autocomplete="off"></select></label></div>'
        f'<div class="both"><canvas class="map" role="img"></canvas>'
        f'<div class="masked"><img alt=""><canvas class="mask" role="img"></canvas></div></div>'
        f'<div class="dial"><span>intersection over union, from 0 to 1</span>'
        f'<svg viewBox="0 0 {_STEPS - 1} 1" preserveAspectRatio="none" aria-hidden="true"><polyline/>'
        f'<line y1="0" y2="1"/></svg><label>threshold <output></output><input type="range" min="0" '
        f'max="{_STEPS - 1}" step="1" value="50" autocomplete="off" '
        f'aria-label="threshold, in per cent of the factor\'s largest value"></label></div>'
        f'<p aria-live="polite">This view needs JavaScript.</p>')


def _entry(name, image, maps, masks):
    if not name.strip():
        raise ValueError("a photograph needs a name")
    if maps.ndim != 3 or not maps.size or not ((maps >= 0) & (maps <= 1)).all():
        raise ValueError(f"the maps of {name!r} must be (K, h, w) in [0, 1], got shape {maps.shape}")
    shown, whole = picture(image, _AREA, name=name), picture(image, name=name)
    if not masks:
        raise ValueError(f"{name!r} needs at least one reference mask")
    runs = {}
    for title, mask in masks.items():
        mask = np.asarray(mask)
        if not title.strip() or mask.dtype != bool or mask.shape != whole.size[::-1]:
            raise ValueError(f"the mask {title!r} of {name!r} must have a name and be {whole.size[::-1]} bool, as the "
                             f"photograph, got {mask.shape} of {mask.dtype}")
        small = np.asarray(Image.fromarray(mask).resize(shown.size, Image.Resampling.NEAREST)).ravel()
        runs[title] = np.diff(np.flatnonzero(np.diff(small, prepend=False)), prepend=0).tolist()  # outside, inside, …
    return {"name": name, "webp": webp(shown), "size": shown.size, "rank": len(maps), "grid": maps.shape[1:],
            "maps": encoded(maps), "references": runs}
