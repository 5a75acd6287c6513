"""Before and after under a divider that the reader drags, with a choice among results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

import numpy as np
from IPython.display import HTML

from .view import view, webp

AREA, BESIDE = 40_000, 16_000  # of a picture and of one beside it, in pixels


@dataclass(frozen=True)
class Wiped:
    """A picture, and what has been made of it."""

    before: np.ndarray  # (H, W, 3) uint8
    after: Mapping[str, np.ndarray]  # result -> picture of the same size
    told: Mapping[str, str] = field(default_factory=dict)  # result -> what to say about it
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)  # title -> a small picture of any size


def wipe(pictures: Mapping[str, Wiped], *, caption: str, before: str = "before", start: str | None = None) -> HTML:
    """Pictures before and after, under a divider, and buttons for the results: an `IPython.display.HTML`.

    pictures: under the names the reader chooses them by, all with the same results. caption: HTML-free text. before:
    what the picture is called as it was. start: the result shown at first, by default the first.
    Raises ValueError unless there is a picture, each has a name, the same results of its size, at least one, and says
    something about none but these; and for an unknown `start`.
    """
    if not pictures:
        raise ValueError("the view needs at least one picture")
    results = [*next(iter(pictures.values())).after]
    if not results:
        raise ValueError("the view needs at least one result")
    if start is not None and start not in results:
        raise ValueError(f"start {start!r} is no result; there are {', '.join(results)}")
    data = {}
    for name, picture in pictures.items():
        if not name.strip():
            raise ValueError("a picture needs a name")
        if [*picture.after] != results:
            raise ValueError(f"{name!r} must have the results {', '.join(results)}, got {', '.join(picture.after)}")
        if unknown := [*set(picture.told) - set(results)]:
            raise ValueError(f"{name!r} tells about {unknown[0]!r}, which is no result")
        for result, after in picture.after.items():
            if np.shape(after) != np.shape(picture.before):
                raise ValueError(f"{result!r} of {name!r} has shape {np.shape(after)}, the picture before it "
                                 f"{np.shape(picture.before)}")
        data[name] = {"before": webp(picture.before, AREA, name=name), "told": dict(picture.told),
                      "after": {result: webp(after, AREA, name=result) for result, after in picture.after.items()},
                      "beside": {title: webp(small, BESIDE, name=title) for title, small in picture.beside.items()}}
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in data)
    buttons = "".join(f'<button type="button" value="{escape(result)}">{escape(result)}</button>' for result in results)
    return view(
        "wipe", {"pictures": data, "before": before, "start": start or results[0]}, caption,
        f'<div class="bar"><label>picture <select autocomplete="off">{options}</select></label>'
        f'<span class="results" role="group" aria-label="result">{buttons}</span></div>'
        '<div class="both"><div class="left"><div class="stage"><img class="before" alt="" draggable="false">'
        '<img class="after" alt="" draggable="false"><i></i><span></span><span></span></div>'
        '<input type="range" min="0" max="100" step="1" value="50" autocomplete="off" '
        f'aria-label="divider: share of the picture that shows {escape(before)}"></div><div class="beside"></div></div>'
        '<p aria-live="polite">This view needs JavaScript.</p>')
