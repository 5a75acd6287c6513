"""Two heatmaps of one film side by side, which the reader plays, scrubs and compares."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
from IPython.display import HTML
from numpy.typing import ArrayLike

from nmfcore.heatmaps import COLORS

from .view import view, webp

AREA = 20_000  # pixels of a frame
RATE = 5  # frames a second


@dataclass(frozen=True)
class Scrubbed:
    """A film of T frames, its heatmaps by way, and how well each way does in each frame."""

    frames: ArrayLike  # (T, H, W, 3) uint8
    maps: Mapping[str, ArrayLike]  # way -> (T, K, h, w) in [0, 1]
    scores: Mapping[str, ArrayLike]  # way -> (T,) at most 1; NaN where there is none


def scrub(films: Mapping[str, Scrubbed], *, score: str, caption: str) -> HTML:
    """Films under the heatmaps of two ways to factorize them: an `IPython.display.HTML`.

    A slider and a button for the frames, choices of the film, of the way on either side, and of one factor or all.
    films: under the names the reader chooses them by, all with the same ways and number of factors. score: what the
    scores are, such as "correlation with the frame before". caption: HTML-free text.
    Raises ValueError unless there is a film, and each has a name, two ways or more, the same everywhere, and for each
    way maps in [0, 1] of 1 to 8 factors, the same number everywhere, and a score of at most one for every frame.
    """
    if not films:
        raise ValueError("the view needs at least one film")
    ways = [*next(iter(films.values())).maps]
    if len(ways) < 2:
        raise ValueError(f"two ways or more are compared, got {', '.join(ways) or 'none'}")
    data, factors = {}, set()
    for name, film in films.items():
        if not name.strip():
            raise ValueError("a film needs a name")
        if [*film.maps] != ways or [*film.scores] != ways:
            raise ValueError(f"{name!r} must have maps and scores of {', '.join(ways)}")
        frames = np.asarray(film.frames)
        if frames.ndim != 4 or not len(frames):
            raise ValueError(f"{name!r} must have frames (T, H, W, 3), got shape {frames.shape}")
        maps, scores = {}, {}
        for way in ways:
            heat, score_of = np.asarray(film.maps[way], dtype=float), np.asarray(film.scores[way], dtype=float)
            if heat.ndim != 4 or len(heat) != len(frames) or not heat.size or not ((heat >= 0) & (heat <= 1)).all():
                raise ValueError(f"the maps {way!r} of {name!r} must be ({len(frames)}, K, h, w) in [0, 1], got shape "
                                 f"{heat.shape}")
            if score_of.shape != (len(frames),) or np.isinf(score_of).any() or (score_of > 1).any():
                raise ValueError(f"the scores {way!r} of {name!r} must be {len(frames)} numbers of at most 1, got "
                                 f"shape {score_of.shape}")
            factors.add(heat.shape[1])
            maps[way] = {"size": heat.shape[2:],
                         "values": b64encode(np.round(255 * heat).astype(np.uint8).tobytes()).decode()}
            scores[way] = [None if np.isnan(value) else round(float(value), 3) for value in score_of]
        data[name] = {"frames": [webp(frame, AREA, name=f"a frame of {name}") for frame in frames], "maps": maps,
                      "scores": scores}
    if len(factors) > 1 or not 1 <= max(factors) <= len(COLORS):
        raise ValueError(f"all maps must have one number of factors, 1 to {len(COLORS)}, got {sorted(factors)}")
    [count] = factors

    def options(texts):
        return "".join(f'<option value="{escape(text)}">{escape(text)}</option>' for text in texts)

    def side(name):
        return (f'<div class="side"><label>{name} <select autocomplete="off">{options(ways)}</select></label>'
                '<canvas role="img"></canvas><svg role="img" preserveAspectRatio="none"></svg></div>')
    colors = "".join(f'<option value="{k + 1}">factor {k + 1}</option>' for k in range(count))
    return view(
        "scrub", {"films": data, "ways": ways, "factors": count, "colors": COLORS[:count], "score": score,
                  "rate": RATE}, caption,
        f'<div class="bar"><label>film <select data-of="film" autocomplete="off">{options(data)}</select></label>'
        f'<label>show <select data-of="factor" autocomplete="off"><option value="0">all factors</option>{colors}'
        '</select></label></div>'
        f'<div class="sides">{side("left")}{side("right")}</div>'
        '<div class="bar"><button type="button">play</button><input type="range" min="1" step="1" value="1" '
        'autocomplete="off" aria-label="frame"></div>'
        '<p aria-live="polite">This view needs JavaScript.</p>')
