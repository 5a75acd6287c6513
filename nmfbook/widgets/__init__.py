"""Interactive views that need neither a kernel nor a network: plain HTML with a small script of its own.

Scripts and styles are the files beside this one. They are classic scripts, which work from file://, too.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image
from safetensors.torch import load_file

from nmfcore.heatmaps import COLORS
from nmfcore.networks import MODELS, pretrained

from .view import drawn, encoded, text, view, webp

_SHOW = text("frames.js").replace("\n", "")  # an attribute: a statement on each line


def frames(figures: Sequence[Figure], *, labels: Sequence[str], alts: Sequence[str], caption: str,
           start: int = 0) -> HTML:
    """A slider over matplotlib figures, which are closed: an `IPython.display.HTML`. A single one has no slider.

    labels: what the slider says at each position, such as "K = 3". alts: a text for readers who cannot see the
    figure, one per frame. caption: HTML-free text under all of them. start: the position shown first.
    Raises ValueError unless there is one label and one non-empty alternative text per figure, and a figure at `start`.
    """
    if not len(figures) == len(labels) == len(alts) or not all(alt.strip() for alt in alts):
        raise ValueError(f"{len(figures)} figures need as many labels and non-empty alternative texts, "
                         f"got {len(labels)} and {sum(bool(alt.strip()) for alt in alts)}")
    if not 0 <= start < len(figures):
        raise ValueError(f"start {start} must lie in 0..{len(figures) - 1}: there are {len(figures)} figures")
    body = "".join(
        f'<figure data-label="{escape(label)}"{"" if i == start else " hidden"}>'
        f'<img src="{drawn(figure, dpi=110)}" alt="{escape(alt)}">'
        f'<figcaption>{escape(label)}. {escape(caption)}</figcaption></figure>'
        for i, (figure, label, alt) in enumerate(zip(figures, labels, alts, strict=True)))
    slider = (f'<label><output>{escape(labels[start])}</output> '
              f'<input type="range" min="0" max="{len(figures) - 1}" step="1" value="{start}" autocomplete="off" '
              f'aria-label="{escape(caption)}" aria-valuetext="{escape(labels[start])}" oninput="{escape(_SHOW)}">'
              f'</label>') if len(figures) > 1 else ""
    return HTML(f'<div class="nmf-frames">{slider}{body}</div>')


def support_editor(examples: Mapping[str, ArrayLike], *, caption: str) -> HTML:
    """An editor for the support of a small matrix that solves it in the page: an `IPython.display.HTML`.

    It shows a least cover by rectangles of ones (their number is rc, the Boolean rank), a largest fooling set and the
    rank over the reals, all exact: they are found in the browser after every click.
    examples: 0/1 matrices, at most 7 x 7, under the names the reader chooses them by; the first is shown at first.
    caption: HTML-free text under it.
    Raises ValueError unless there is an example, and each has a name and is a 0/1 matrix of 1 to 7 rows and columns.
    """
    if not examples:
        raise ValueError("an editor needs at least one example to begin with")
    matrices = {}
    for name, example in examples.items():
        matrix = np.asarray(example)
        if not name.strip():
            raise ValueError("an example needs a name")
        if matrix.ndim != 2 or not all(1 <= size <= 7 for size in matrix.shape):
            raise ValueError(f"{name!r} must be a matrix of 1 to 7 rows and columns, got shape {matrix.shape}")
        if not np.isin(matrix, (0, 1)).all():
            raise ValueError(f"{name!r} must have no entries but 0 and 1")
        matrices[name] = matrix.astype(int).tolist()
    buttons = "".join(
        f'<span role="group" aria-label="number of {axis}s">{axis}s '
        f'<button type="button" data-of="{axis}" data-add="-1" aria-label="remove the last {axis}">−</button> '
        f'<button type="button" data-of="{axis}" data-add="1" aria-label="add a {axis}">+</button></span>'
        for axis in ("row", "column"))
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in matrices)
    return view(
        "support", {"examples": matrices, "colors": COLORS[:7], "budget": 300_000}, caption,
        f'<div class="bar"><label>example <select autocomplete="off">{options}'
        f'<option value="" disabled hidden>your own</option></select></label>{buttons}</div>'
        f'<div class="grid" role="group" aria-label="{escape(caption)}"></div>'
        f'<p aria-live="polite">This view needs JavaScript.</p><ul aria-label="rectangles"></ul>')


def simplex(V: ArrayLike, *, concentrations: Sequence[float] = (0, 1, 3, 10, 30, 100, 300, 1000),
            caption: str) -> HTML:
    """A triangle of three directions in which the reader moves an activation and a sample: an `IPython.display.HTML`.

    The activation a = U V has the prior weights P(F = k | i) = U_k / sum U of its factors. A sample z, drawn from von
    Mises-Fisher densities of one concentration kappa about the rows of V, turns them into the posterior weights
    P(F = k | i, z), proportional to U_k exp(kappa cos(z, V_k)). Both are shown, with their entropies in bits.
    V: (3, M) non-negative, no row of zeros. concentrations: what the slider offers for kappa. caption: HTML-free text.
    Raises ValueError unless V is such a matrix and the concentrations are two or more, finite, not negative and
    increasing.
    """
    V = np.asarray(V, dtype=float)
    if V.ndim != 2 or len(V) != 3 or not (np.isfinite(V).all() and (V >= 0).all() and (V > 0).any(1).all()):
        raise ValueError(f"V must be three non-negative finite rows, none all zero, got shape {V.shape}")
    kappas = np.asarray(concentrations, dtype=float)
    if kappas.ndim != 1 or len(kappas) < 2 or not (np.isfinite(kappas).all() and kappas[0] >= 0
                                                   and (np.diff(kappas) > 0).all()):
        raise ValueError(f"concentrations must be finite, not negative and increasing, got {concentrations}")
    gram = [[float(f"{value:.10g}") for value in row] for row in V @ V.T]  # the same text on every machine
    corners = [(160, 34), (36, 248), (284, 248)]
    rays = "".join(f'<circle cx="{x}" cy="{y}" r="8" fill="{color}"/>'
                   f'<text x="{x}" y="{y - 14 if y < 100 else y + 24}" text-anchor="middle">V{_SUBSCRIPTS[k]}</text>'
                   for k, ((x, y), color) in enumerate(zip(corners, COLORS, strict=False)))
    edges = " ".join(f"{x},{y}" for x, y in corners)
    handle = 'role="slider" aria-roledescription="point in a triangle" aria-valuemin="0" aria-valuemax="100"'
    hit = '<circle class="hit" r="22" fill="transparent"/>'
    bars = "".join(
        f'<strong>{title}</strong>' + "".join(
            f'<span>{label}</span><div><i style="background:{color}"></i></div><data data-of="{name}{k}"></data>'
            for k, (label, color) in enumerate([*((f"V{_SUBSCRIPTS[k]}", COLORS[k]) for k in range(3)),
                                                ("entropy", "currentColor")]))
        for name, title in (("prior", "prior P(F = k | i)"), ("posterior", "posterior P(F = k | i, z)")))
    return view(
        "simplex", {"gram": gram, "concentrations": kappas.tolist(), "corners": corners}, caption,
        f'<div class="controls"><label>concentration κ = <output></output><input type="range" min="0" '
        f'max="{len(kappas) - 1}" step="1" value="{len(kappas) // 2}" autocomplete="off" '
        f'aria-label="concentration kappa"></label><label><input type="checkbox" autocomplete="off"> '
        f'move the sample z too (else z = a/|a|)</label></div>'
        f'<div class="both"><svg viewBox="0 0 320 316" role="group" aria-label="{escape(caption)}">'
        f'<polygon points="{edges}" fill="none" stroke="currentColor" stroke-opacity="0.6"/>{rays}'
        f'<line stroke="{COLORS[4]}" stroke-width="2" stroke-dasharray="4 3"/>'
        f'<path data-point="posterior" {_CROSS}/>'
        f'<g data-point="a" tabindex="0" aria-label="activation a" {handle}>{hit}{_DOT}</g>'
        f'<g data-point="z" aria-label="sample z" {handle}>{hit}{_DIAMOND}</g>'
        f'<g transform="translate(30 298)" aria-hidden="true">{_DOT}<text x="14" y="5">activation</text>'
        f'<g transform="translate(108)">{_DIAMOND}<text x="20" y="5">sample</text></g>'
        f'<g transform="translate(198)"><path {_CROSS}/><text x="14" y="5">posterior</text></g></g>'
        f'</svg><div class="bars">{bars}</div></div><p aria-live="polite">This view needs JavaScript.</p>')


_SUBSCRIPTS = "₁₂₃"
_DOT = '<circle r="7" fill="currentColor"/>'
_DIAMOND = '<path d="M0-14L14 0L0 14L-14 0Z" fill="none" stroke="currentColor" stroke-width="2.5"/>'
_CROSS = f'd="M-6-6L6 6M-6 6L6-6" stroke="{COLORS[4]}" stroke-width="4"'


# --- the student network in the page ------------------------------------------------------------------------

WEIGHTS = "student_weights.js"  # among the static files of the built site
_AREA, _SHOWN = 224 ** 2, 320 ** 2  # pixels that the network sees, and that a picture of the page has
_RANKS, _MOST = 6, 24  # factors and photographs


def student(photographs: Mapping[str, Sequence[tuple[str, np.ndarray | Image.Image]]], *, caption: str, rank: int = 3,
            maps: Sequence[ArrayLike] | None = None, weights: str = f"../_static/{WEIGHTS}") -> HTML:
    """Heatmaps that the page itself computes, of these photographs or the reader's own: an `IPython.display.HTML`.

    The student network and NMF run in the reader's browser, on photographs that are chosen or dropped; nothing is
    uploaded. The weights are loaded when the view is first used; until then it shows `maps`.

    photographs: sets to begin with, under the names the reader chooses them by; each is a sequence of a name and an
    image, (H, W, 3) uint8 or of Pillow. caption: HTML-free text. rank: K at first. maps: of the first set's
    photographs, (rank, h, w) in [0, 1], as `heatmaps` gives them; without them the photographs have no colours at
    first. weights: where the page finds what `student_weights` returns; the built site has it there.
    Raises ValueError unless there is a set, each has a name and 1 to 24 such photographs with a name, 1 ≤ rank ≤ 6, and
    maps are none or such maps.
    """
    if not 1 <= rank <= _RANKS:
        raise ValueError(f"rank {rank} must lie in 1..{_RANKS}")
    if not photographs:
        raise ValueError("the view needs at least one set of photographs to begin with")
    sets = {}
    for title, members in photographs.items():
        if not title.strip() or not all(name.strip() for name, _ in members):
            raise ValueError("a set and a photograph need a name")
        if not 1 <= len(members) <= _MOST:
            raise ValueError(f"{title!r} must have 1 to {_MOST} photographs, got {len(members)}")
        sets[title] = [{"name": name, "webp": webp(image, _SHOWN, name=name)} for name, image in members]
    of_first = [np.asarray(of_one, dtype=float) for of_one in (() if maps is None else maps)]
    shapes = [of_one.shape for of_one in of_first]
    if maps is not None and (len(shapes) != len(next(iter(sets.values()))) or not all(
            len(shape) == 3 and shape[0] == rank and all(shape) for shape in shapes)):
        raise ValueError(f"maps must be ({rank}, h, w) for each photograph of the first set, got {shapes}")
    if not all(((of_one >= 0) & (of_one <= 1)).all() for of_one in of_first):
        raise ValueError("maps must lie in [0, 1], as `heatmaps` gives them")
    begun = [{"values": encoded(of_one), "height": of_one.shape[1], "width": of_one.shape[2]} for of_one in of_first]
    options = "".join(f'<option value="{escape(title)}">{escape(title)}</option>' for title in sets)
    return view(
        "student", {"sets": sets, "begun": begun, "colors": COLORS[:_RANKS], "area": _AREA, "shown": _SHOWN,
                    "most": _MOST, "weights": weights, "engine": text("student_worker.js")}, caption,
        f'<div class="bar"><label>photographs <select autocomplete="off">{options}'
        f'<option value="" disabled hidden>your own</option></select></label>'
        f'<label class="drop">drop your own here, or <b>choose files</b>'
        f'<input type="file" accept="image/*" multiple></label></div>'
        f'<div class="bar"><label>K = <output>{rank}</output> <input type="range" min="1" max="{_RANKS}" step="1" '
        f'value="{rank}" autocomplete="off" aria-label="K, the number of factors"></label>'
        f'<button type="button" class="again">find what recurs</button>'
        f'<button type="button" class="save" disabled>save the picture</button></div>'
        f'<div class="sheet" role="group" aria-label="{escape(caption)}"></div>'
        f'<div class="legend" role="group" aria-label="one factor alone"></div>'
        f'<p aria-live="polite">This view needs JavaScript.</p>')


def student_weights() -> str:
    """The script with which `student` finds its network: the package's student, in half precision, as base64."""
    tensors, halves = {}, b""
    for name, tensor in load_file(MODELS / "student.safetensors").items():
        tensors[name] = {"shape": list(tensor.shape), "offset": len(halves) // 2}
        halves += tensor.numpy().astype("<f2").tobytes()
    preprocess = pretrained("student", weights=MODELS / "student.safetensors")[1]
    data = {"mean": preprocess.mean, "std": preprocess.std, "tensors": tensors, "halves": b64encode(halves).decode()}
    return f"globalThis.nmfStudent = {json.dumps(data)};\n"
