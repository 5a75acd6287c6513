"""Accuracy against rank, method by method, and the samples that survive: a view."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from IPython.display import HTML
from matplotlib.colors import to_hex

from .. import figures
from ..ledger import Entry
from .view import view, webp


@dataclass(frozen=True)
class Network:
    """Curves of one network, or means of several."""

    name: str  # such as "random labels"
    color: str | tuple
    accuracy: Mapping[str, Sequence[float]]  # of each method, at each of the ranks
    pictures: np.ndarray | None = None  # (n, h, w) in [0, 1]: the samples, where they can be shown
    right: Mapping[str, np.ndarray] | None = None  # of each method, (ranks, n): is the sample classified right?


def recorded(entries: Sequence[Entry], methods: Iterable[str]) -> tuple[list[int], list[Network]]:
    """Ranks, and the mean curves of measured networks at each share of random labels, on batches of one class."""
    networks = []
    for p in sorted({entry.job["p"] for entry in entries}):
        runs = [entry.measurements["sequence"] for entry in entries if entry.job["p"] == p]
        networks.append(Network(f"p = {p:g}", figures.shade(p), {
            method: np.mean([run[f"{method}, class"]["accuracy"] for run in runs], axis=0) for method in methods}))
    return entries[0].measurements["ranks"], networks


def compression(sets: Mapping[str, tuple[Sequence[int], Sequence[Network]]], *, methods: Mapping[str, str],
                caption: str, rank: int = 1, what: str = "data") -> HTML:
    """Curves over the rank K, which the reader sets, with method and data set to choose: an `IPython.display.HTML`.

    sets: under the name the reader chooses it by, the ranks and the networks of each data set. methods: names in
    `accuracy` and how the page calls them. caption: HTML-free text. rank: K at first, or the nearest there is. what:
    how the page calls the choice of a set.
    Raises ValueError unless there is a set and a method, ranks increase, and each network has an accuracy from 0 to 1
    for every rank and method, and with pictures a right or wrong for each.
    """
    if not sets or not methods:
        raise ValueError(f"expected at least one data set and one method, got {len(sets)} and {len(methods)}")
    data = {}
    for title, (ranks, networks) in sets.items():
        if len(ranks) < 2 or (np.diff(ranks) <= 0).any():
            raise ValueError(f"the ranks of {title!r} must be two or more and increase, got {[*ranks]}")
        if not networks:
            raise ValueError(f"{title!r} has no networks")
        data[title] = {"ranks": [int(K) for K in ranks],
                       "networks": [_network(network, title, len(ranks), methods) for network in networks]}
    options, radios = ("".join(html.format(escape(name), escape(shown)) for name, shown in pairs) for html, pairs in (
        ('<option value="{}">{}</option>', [(title, title) for title in sets]),
        ('<button type="button" data-method="{}" aria-pressed="false">{}</button>', methods.items())))
    start = int(np.abs(np.array(next(iter(sets.values()))[0]) - rank).argmin())
    return view("compression", {"sets": data, "start": start}, caption,
                f'<div class="bar"><label>{escape(what)} <select autocomplete="off">{options}</select></label>'
                f'<span role="group" aria-label="method">{radios}</span></div>'
                f'<label class="rank">K = <output></output> <input type="range" min="0" step="1" autocomplete="off" '
                f'aria-label="K, the rank"></label>'
                f'<div class="both"><svg viewBox="0 0 426 260" role="img"></svg><div class="samples"></div></div>'
                f'<p aria-live="polite">This view needs JavaScript.</p>')


def _network(network, title, count, methods):
    entry = {"name": network.name, "color": to_hex(network.color), "accuracy": {}}
    for method in methods:
        values = np.asarray(network.accuracy.get(method, ()), dtype=float)
        if values.shape != (count,) or not ((0 <= values) & (values <= 1)).all():
            raise ValueError(f"{network.name!r} of {title!r} needs {count} accuracies from 0 to 1 for {method!r}, "
                             f"got {values.tolist()}")
        entry["accuracy"][method] = values.round(4).tolist()
    if network.pictures is not None:
        pictures = np.asarray(network.pictures)
        right = {method: np.asarray((network.right or {}).get(method, ())) for method in methods}
        for method, flags in right.items():
            if pictures.ndim != 3 or flags.shape != (count, len(pictures)):
                raise ValueError(f"{network.name!r} of {title!r} needs pictures (n, h, w) and for {method!r} right or "
                                 f"wrong ({count}, n), got shapes {pictures.shape} and {flags.shape}")
        tiles = [webp(np.repeat((255 * tile[..., None]).astype(np.uint8), 3, 2)) for tile in pictures.clip(0, 1)]
        entry |= {"pictures": tiles, "right": {method: ["".join(map(str, row.astype(int))) for row in flags]
                                               for method, flags in right.items()}}
    return entry
