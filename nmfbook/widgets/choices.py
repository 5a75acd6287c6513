"""What a result owes to choices: every combination as a dot, the one that the reader chooses marked. A view."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from IPython.display import HTML
from matplotlib.colors import to_hex

from .view import view

Levels = tuple[str, ...]  # of each factor, in words; "" where a method does not have it


def choices(sets: Mapping[str, Mapping[str, Mapping[Levels, float]]], *, factors: Sequence[str],
            colors: Mapping[str, str | tuple], start: Levels, caption: str, what: str = "data") -> HTML:
    """A selection for each factor of a design, and a row of dots for each method: an `IPython.display.HTML`.

    sets: under the name the reader chooses it by, the value in [0, 1] of each method at each combination of levels.
    factors: their names. colors: of each method, in the order of the rows. start: the levels chosen at first, of the
    first set. caption: HTML-free text. what: how the page calls the choice of a set.
    Raises ValueError unless there is a set, all of its methods have a colour and a combination at least, every
    combination has one level for each factor and a value from 0 to 1, and some method was measured at `start`.
    """
    if not sets:
        raise ValueError("expected at least one set to choose from, got none")
    data = {}
    for title, methods in sets.items():
        if not methods or not {*methods} <= {*colors}:
            raise ValueError(f"the methods of {title!r} are {[*methods]}; each needs a colour, there are {[*colors]}")
        for method, values in methods.items():
            for levels, value in values.items():
                if len(levels) != len(factors):
                    raise ValueError(f"{method!r} of {title!r} has levels {levels}; one for each of {[*factors]}")
                if not (math.isfinite(value) and 0 <= value <= 1):
                    raise ValueError(f"{method!r} of {title!r} has the value {value} at {levels}, outside [0, 1]")
            if not values:
                raise ValueError(f"{method!r} of {title!r} was measured at no combination")
        data[title] = [{"name": method, "color": to_hex(colors[method]),
                        "values": [[*levels, round(float(value), 4)] for levels, value in methods[method].items()]}
                       for method in colors if method in methods]
    if not any(_applies(levels, start) for values in next(iter(sets.values())).values() for levels in values):
        raise ValueError(f"no method was measured at {start}, of the factors {[*factors]}")
    options = "".join(f'<option value="{escape(title)}">{escape(title)}</option>' for title in sets)
    selects = "".join(f'<label>{escape(factor)} <select data-factor="{i}" autocomplete="off"></select></label>'
                      for i, factor in enumerate(factors))
    return view("choices", {"sets": data, "factors": [*factors], "start": [*start]}, caption,
                f'<div class="bar"><label>{escape(what)} <select data-set autocomplete="off">{options}</select></label>'
                f'{selects}</div><svg role="img"></svg>'
                f'<div class="bar" role="group" aria-label="to the best combination of one method"></div>'
                f'<p aria-live="polite">This view needs JavaScript.</p>')


def _applies(levels, chosen):
    return all(level in ("", other) for level, other in zip(levels, chosen, strict=True))
