"""A query and what each method finds first, right ones marked: a view."""

from collections.abc import Collection, Mapping, Sequence
from html import escape

import numpy as np
from IPython.display import HTML
from PIL import Image

from .view import view, webp

_AREA = 96 ** 2  # pixels of a picture


def query(pictures: Mapping[str, np.ndarray | Image.Image], rankings: Mapping[str, Mapping[str, Sequence[str]]],
          relevant: Mapping[str, Collection[str]], *, caption: str, offered: Sequence[str] | None = None,
          start: str | None = None, top: int = 5) -> HTML:
    """Rankings of several methods for a picture that the reader chooses: an `IPython.display.HTML`.

    A query is chosen from a strip, or by pressing a picture that was found. It is itself left out of what is found.

    pictures: (H, W, 3) uint8 or of Pillow, by name. rankings: {method: {query: names of pictures, best first}}.
    relevant: {query: names of the pictures that are right}. caption: HTML-free text. offered: queries of the strip;
    all, if not given. start: the first one shown, of any query; the first that is offered, if not given. top: how many
    are shown.
    Raises ValueError unless there is a method and a query, every method ranks something else than the query for each,
    no picture twice, the names are those of pictures, and `top` is at least 1.
    """
    queries = list(relevant)
    offered = queries if offered is None else list(offered)
    if not rankings or not offered:
        raise ValueError(f"expected at least one method and one query, got {len(rankings)} and {len(offered)}")
    if top < 1:
        raise ValueError(f"top {top} must be at least 1")
    for name in (*offered, *([] if start is None else [start])):
        if name not in relevant:
            raise ValueError(f"{name!r} is no query: relevant has none of this name")
    first = {method: {name: _first(ranking, method, name, top) for name in queries}
             for method, ranking in rankings.items()}
    named = {name: "relevant" for names in (relevant, *relevant.values()) for name in names}
    named |= {name: f"the ranking of {method!r}" for method, of_query in first.items()
              for names in of_query.values() for name in names}
    for name, where in named.items():
        if name not in pictures:
            raise ValueError(f"{where} names {name!r}, and there is no picture of this name")
    answers = {name: {"found": [of_query[name] for of_query in first.values()],
                      "right": sorted({*relevant[name]})} for name in queries}
    shown = {*queries}.union(*(names for of_query in first.values() for names in of_query.values()))
    data = {"pictures": {name: webp(picture, _AREA, name=name) for name, picture in pictures.items() if name in shown},
            "queries": answers, "offered": offered, "start": start or offered[0]}
    lines = "".join(f'<section><strong>{escape(method)}</strong><div style="--top: {top}">'
                    + '<button type="button"><img alt=""><i></i></button>' * top + '</div></section>'
                    for method in rankings)
    return view("query", data, caption,
                f'<div class="strip" role="group" aria-label="query"></div><div class="both"><section class="asked">'
                f'<strong>query</strong><img alt=""></section><div class="found">{lines}</div></div>'
                f'<p aria-live="polite">This view needs JavaScript.</p>')


def _first(ranking, method, name, top):
    """The first so many of a query's ranking, the query left out."""
    if name not in ranking:
        raise ValueError(f"{method!r} has no ranking for the query {name!r}")
    others = [other for other in ranking[name] if other != name][:top]
    if not others or len({*others}) < len(others):
        raise ValueError(f"{method!r} must rank other pictures than the query for {name!r}, none twice, got {others}")
    return others
