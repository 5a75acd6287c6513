"""Interactive views that need neither a kernel nor a network: plain HTML with a small script of its own."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from nmfcore.heatmaps import COLORS

_SHOW = ("const box = this.closest('.nmf-frames');"
         "box.querySelectorAll('figure').forEach((frame, i) => { frame.hidden = i != this.value; });"
         "box.querySelector('output').value = box.querySelectorAll('figure')[this.value].dataset.label;"
         "this.setAttribute('aria-valuetext', box.querySelector('output').value);")


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
        f'<img src="{_webp(figure)}" alt="{escape(alt)}">'
        f'<figcaption>{escape(label)}. {escape(caption)}</figcaption></figure>'
        for i, (figure, label, alt) in enumerate(zip(figures, labels, alts, strict=True)))
    slider = (f'<label><output>{escape(labels[start])}</output> '
              f'<input type="range" min="0" max="{len(figures) - 1}" step="1" value="{start}" autocomplete="off" '
              f'aria-label="{escape(caption)}" aria-valuetext="{escape(labels[start])}" oninput="{escape(_SHOW)}">'
              f'</label>') if len(figures) > 1 else ""
    return HTML(f'<div class="nmf-frames">{slider}{body}</div>')


def _webp(figure):
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    image = BytesIO()
    Image.open(file).convert("RGB").save(image, format="webp", quality=85)
    return "data:image/webp;base64," + b64encode(image.getvalue()).decode()


_SUPPORT_STYLE = """
.nmf-support { margin: 0; }
.nmf-support .bar { align-items: center; display: flex; flex-wrap: wrap; gap: 0.5rem 1.25rem; margin-bottom: 0.75rem; }
.nmf-support select, .nmf-support .bar button { background: transparent; border: 1px solid currentColor;
  border-radius: 0.25rem; color: inherit; font: inherit; max-width: 100%; min-height: 2.2rem; min-width: 2.2rem; }
.nmf-support option { background: #fff; color: #000; }
.nmf-support .bar button:disabled { opacity: 0.35; }
.nmf-support .grid { align-items: center; display: grid; gap: 4px; justify-items: center; }
.nmf-support .grid i { font-size: 0.75rem; font-style: normal; line-height: 1; opacity: 0.8; }
.nmf-support .grid button { aspect-ratio: 1; background: transparent; border: 1px solid; border-radius: 0.25rem;
  border-color: color-mix(in srgb, currentColor 35%, transparent); color: inherit; display: grid; gap: 1px;
  grid-auto-rows: 1fr; min-width: 0; padding: 4px; width: 100%; }
.nmf-support .grid button[aria-pressed=true] { background: color-mix(in srgb, currentColor 10%, transparent); }
.nmf-support .grid button.fooling { border-color: currentColor; border-radius: 30%; box-shadow: 0 0 0 2px; }
.nmf-support button:focus-visible { outline: 3px solid #56B4E9; outline-offset: 1px; }
.nmf-support b { align-items: center; border-radius: 2px; display: flex; font-size: 0.68rem; justify-content: center;
  line-height: 1; overflow: hidden; }
.nmf-support p { margin: 0.75rem 0 0.25rem; }
.nmf-support ul { columns: 15rem; font-size: 0.9em; list-style: none; margin: 0; padding: 0; }
.nmf-support li b { display: inline-flex; height: 1.1rem; margin-right: 0.3rem; width: 1.1rem; }
.nmf-support figcaption { color: inherit; font-size: 0.9em; margin-top: 0.5rem; text-align: left; }
"""

_SUPPORT_SCRIPT = r"""
(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view);
  const [choice, grid, words, list] = ['select', '.grid', 'p', 'ul'].map(name => box.querySelector(name));
  const bits = x => { let n = 0; for (; x; x &= x - 1) n++; return n; };

  function rank(A) {  // Bareiss: every intermediate value is a minor of A, hence an integer
    A = A.map(row => [...row]);
    let r = 0, last = 1;
    for (let j = 0; j < A[0].length; j++) {
      const p = A.findIndex((row, i) => i >= r && row[j]);
      if (p < 0) continue;
      [A[r], A[p]] = [A[p], A[r]];
      for (let i = r + 1; i < A.length; i++) for (let l = A[0].length - 1; l >= j; l--)
        A[i][l] = (A[i][l] * A[r][j] - A[i][j] * A[r][l]) / last;
      last = A[r++][j];
    }
    return r;
  }

  // A set of cells is two words of bits: rows 1 to 4 and rows 5 to 7, seven bits each.
  function solve(M, budget = view.budget) {
    const rows = M.map(row => row.reduce((mask, one, j) => mask | one << j, 0)), maximal = new Map(), cells = [];
    for (let subset = 1; subset < 1 << M.length; subset++) {
      const columns = rows.reduce((mask, row, i) => subset >> i & 1 ? mask & row : mask, 127);
      if (!columns || maximal.has(columns)) continue;
      const set = [0, 0], full = rows.flatMap((row, i) => (row & columns) == columns ? i : []);
      for (const i of full) set[i >> 2] |= columns << 7 * (i & 3);
      maximal.set(columns, {rows: full, columns: M[0].flatMap((_, j) => columns >> j & 1 ? j : []), set});
    }
    M.forEach((row, i) => row.forEach((one, j) => {
      if (!one) return;
      const set = [0, 0];
      set[i >> 2] = 1 << 7 * (i & 3) + j;
      const by = [...maximal.values()].filter(x => x.set[0] & set[0] | x.set[1] & set[1]);
      const near = [0, 1].map(w => by.reduce((mask, x) => mask | x.set[w], 0));  // the cells that share a rectangle
      cells.push({i, j, set, by, near});
    }));

    let fooling = [], steps = budget;
    (function fool(i, lo, hi, chosen) {
      if (chosen.length > fooling.length) fooling = chosen;
      const open = new Set(cells.filter(c => c.i >= i && (lo & c.set[0] | hi & c.set[1])).map(c => c.i));
      if (chosen.length + open.size <= fooling.length || --steps < 0) return;
      i = Math.min(...open);
      for (const c of cells) if (c.i == i && (lo & c.set[0] | hi & c.set[1]))
        fool(i + 1, lo & ~c.near[0], hi & ~c.near[1], [...chosen, c]);
      fool(i + 1, lo, hi, chosen);
    })(0, -1, -1, []);
    const surely = steps >= 0;

    const order = [...cells].sort((c, d) => c.by.length - d.by.length), rectangles = [...maximal.values()];
    function cover(k, lo, hi) {  // at most k rectangles over the given cells, or null
      let need = 0, first, a = lo, b = hi;
      for (const c of order) if (a & c.set[0] | b & c.set[1]) {  // no two of these cells share a rectangle
        first ??= c;
        if (++need > k) return null;
        a &= ~c.near[0]; b &= ~c.near[1];
      }
      if (!first) return [];
      if (--steps < 0) return null;
      const left = x => bits(x.set[0] & lo) + bits(x.set[1] & hi);
      if (k * Math.max(...rectangles.map(left)) < left({set: all})) return null;  // too many cells for k of them
      for (const x of [...first.by].sort((x, y) => left(y) - left(x))) {
        const rest = cover(k - 1, lo & ~x.set[0], hi & ~x.set[1]);
        if (rest) return [x, ...rest];
      }
      return null;
    }
    const all = [0, 1].map(w => cells.reduce((mask, c) => mask | c.set[w], 0));
    let found = null, least = fooling.length;
    steps = budget;
    while (!(found = cover(least, ...all)) && steps >= 0) least++;
    const exact = found !== null;
    found ??= [...new Set(rows)].filter(row => row).map(row => maximal.get(row));  // the rows themselves
    return {cover: found.map(({rows, columns}) => ({rows, columns})), exact, least, rank: rank(M),
            fooling: fooling.map(({i, j}) => [i, j]), surely};
  }

  let M;
  const mark = k => `<b style="background:${view.colors[k]};color:${k ? '#000' : '#fff'}">${k + 1}</b>`;
  const cell = (i, j) => grid.querySelector(`[data-i="${i}"][data-j="${j}"]`);
  const listed = set => '{' + set.map(k => k + 1).join(', ') + '}';

  function draw() {
    const {cover, exact, least, rank, fooling, surely} = solve(M), side = cover.length > 4 ? 3 : 2;
    for (const button of grid.querySelectorAll('button')) {
      const i = +button.dataset.i, j = +button.dataset.j;
      const inside = cover.map(x => x.rows.includes(i) && x.columns.includes(j));
      const ring = fooling.some(([k, l]) => k == i && l == j);
      button.setAttribute('aria-pressed', !!M[i][j]);
      button.setAttribute('aria-label', `row ${i + 1}, column ${j + 1}` + (M[i][j]
        ? ': rectangle ' + inside.flatMap((yes, k) => yes ? k + 1 : []).join(' and ') : '')
        + (ring ? ', in the fooling set' : ''));
      button.className = ring ? 'fooling' : '';
      button.style.gridTemplate = `repeat(${Math.max(2, Math.ceil(cover.length / side))}, 1fr) / repeat(${side}, 1fr)`;
      button.innerHTML = inside.map((yes, k) => yes ? mark(k).replace('style="',
        `style="grid-area:${Math.floor(k / side) + 1}/${k % side + 1};`) : '').join('');
    }
    words.textContent = `Fooling set (ringed): ${surely ? '' : 'at least '}${fooling.length} ≤ rectangle cover number `
      + 'rc ' + (exact ? `= ${cover.length}` : `at least ${least}, at most ${cover.length}, the search was cut short`)
      + `. Rank over the reals: ${rank}.`;
    list.innerHTML = cover.map((x, k) => `<li>${mark(k)}rows ${listed(x.rows)} × columns ${listed(x.columns)}</li>`)
      .join('');
    box.querySelectorAll('[data-add]').forEach(button => {
      const size = button.dataset.of == 'row' ? M.length : M[0].length;
      button.disabled = +button.dataset.add > 0 ? size == 7 : size == 1;
    });
  }

  function load(matrix) {
    M = matrix.map(row => [...row]);
    grid.style.gridTemplateColumns = `1rem repeat(${M[0].length}, minmax(0, 3.25rem))`;
    grid.innerHTML = '<i></i>' + M[0].map((_, j) => `<i aria-hidden="true">${j + 1}</i>`).join('')
      + M.map((row, i) => `<i aria-hidden="true">${i + 1}</i>` + row.map((_, j) =>
        `<button type="button" data-i="${i}" data-j="${j}" tabindex="${i + j ? -1 : 0}"></button>`).join('')).join('');
    draw();
  }

  grid.onclick = event => {
    const button = event.target.closest('button');
    if (!button) return;
    M[button.dataset.i][button.dataset.j] ^= 1;
    choice.value = '';
    draw();
  };
  grid.onkeydown = event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    const from = event.target.dataset;
    if (!step || !from.i) return;
    event.preventDefault();
    cell(+from.i + step[0], +from.j + step[1])?.focus();
  };
  grid.addEventListener('focusin', event => {  // one stop for the Tab key, the arrows move within
    grid.querySelectorAll('button').forEach(button => { button.tabIndex = button == event.target ? 0 : -1; });
  });
  box.querySelectorAll('[data-add]').forEach(button => {
    button.onclick = () => {
      const row = button.dataset.of == 'row', grow = +button.dataset.add > 0;
      choice.value = '';
      load(row ? grow ? [...M, M[0].map(() => 0)] : M.slice(0, -1) : M.map(r => grow ? [...r, 0] : r.slice(0, -1)));
    };
  });
  choice.onchange = () => load(view.examples[choice.value]);
  Object.assign(box, {solve, load});
  load(view.examples[choice.value]);
})();
"""


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
    return _view(
        "support", {"examples": matrices, "colors": COLORS[:7], "budget": 300_000}, caption,
        f'<div class="bar"><label>example <select autocomplete="off">{options}'
        f'<option value="" disabled hidden>your own</option></select></label>{buttons}</div>'
        f'<div class="grid" role="group" aria-label="{escape(caption)}"></div>'
        f'<p aria-live="polite">This view needs JavaScript.</p><ul aria-label="rectangles"></ul>',
        _SUPPORT_STYLE, _SUPPORT_SCRIPT)


_SIMPLEX_STYLE = """
.nmf-simplex { margin: 0; }
.nmf-simplex .controls { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; margin-bottom: 0.5rem; }
.nmf-simplex .controls label { align-items: center; display: flex; gap: 0.5rem; }
.nmf-simplex output { display: inline-block; min-width: 2.5rem; }
.nmf-simplex .both { align-items: center; display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; }
.nmf-simplex svg { color: inherit; flex: 1 1 18rem; max-width: 24rem; min-width: 0; }
.nmf-simplex svg text { fill: currentColor; font-size: 14px; }
.nmf-simplex [role=slider] { cursor: grab; outline: none; }
.nmf-simplex [role=slider]:focus-visible .hit { stroke: #56B4E9; stroke-width: 3; }
.nmf-simplex [aria-disabled=true] { pointer-events: none; }
.nmf-simplex .bars { display: grid; flex: 1 1 16rem; gap: 0.2rem 0.6rem; grid-template-columns: auto 1fr auto;
  min-width: 0; }
.nmf-simplex .bars strong { font-weight: 600; grid-column: 1 / 4; }
.nmf-simplex .bars strong:not(:first-child) { margin-top: 0.6rem; }
.nmf-simplex .bars div { align-self: center; background: color-mix(in srgb, currentColor 12%, transparent);
  height: 0.8rem; }
.nmf-simplex .bars div i { display: block; height: 100%; }
.nmf-simplex .bars data { font-variant-numeric: tabular-nums; text-align: right; }
.nmf-simplex p { margin: 0.5rem 0 0; }
.nmf-simplex figcaption { color: inherit; font-size: 0.9em; margin-top: 0.5rem; text-align: left; }
"""

_SIMPLEX_SCRIPT = r"""
(() => {
  const box = document.currentScript.parentElement, {gram, concentrations, corners} = JSON.parse(box.dataset.view);
  const [slider, told, free, svg, words] = ['[type=range]', 'output', '[type=checkbox]', 'svg', 'p']
    .map(name => box.querySelector(name));
  const points = {a: [0.45, 0.35, 0.2], z: [0.15, 0.25, 0.6]};  // weights of the rays: activation, sample
  const place = w => [0, 1].map(d => w.reduce((sum, x, k) => sum + x * corners[k][d], 0));
  const area = ([a, b], [c, d], [e, f]) => (c - a) * (f - b) - (e - a) * (d - b);
  const share = w => { const sum = w.reduce((x, y) => x + y); return w.map(x => x / sum); };
  const weights = p => share([0, 1, 2].map(k =>
    Math.max(0, area(...corners.map((c, l) => l == k ? p : c)) / area(...corners))));
  const entropy = p => p.reduce((sum, x) => x > 0 ? sum - x * Math.log2(x) : sum, 0);

  function posterior(a, z, kappa) {
    const dot = gram.map(row => row.reduce((sum, g, k) => sum + g * z[k], 0));
    const length = Math.sqrt(dot.reduce((sum, d, k) => sum + d * z[k], 0));
    const score = dot.map((d, k) => a[k] > 0 ? kappa * d / (length * Math.sqrt(gram[k][k])) : -Infinity);
    const top = Math.max(...score);
    return share(a.map((x, k) => x * Math.exp(score[k] - top)));
  }

  function draw() {
    const kappa = concentrations[slider.value], z = free.checked ? points.z : points.a;
    const prior = points.a, after = posterior(prior, z, kappa);
    told.value = kappa;
    slider.setAttribute('aria-valuetext', kappa);
    for (const [name, w] of Object.entries({a: prior, z, posterior: after}))
      svg.querySelector(`[data-point=${name}]`).setAttribute('transform', `translate(${place(w)})`);
    const [from, to] = [place(prior), place(after)], line = svg.querySelector('line');
    ['x1', 'y1'].forEach((name, d) => line.setAttribute(name, from[d]));
    ['x2', 'y2'].forEach((name, d) => line.setAttribute(name, to[d]));
    for (const handle of svg.querySelectorAll('[role=slider]')) {
      const w = handle.dataset.point == 'a' ? prior : z;
      handle.setAttribute('aria-valuenow', Math.round(100 * w[0]));
      handle.setAttribute('aria-valuetext', w.map((x, k) => `V${k + 1} ${Math.round(100 * x)} %`).join(', '));
    }
    const handle = svg.querySelector('[data-point=z]');
    handle.setAttribute('aria-disabled', !free.checked);
    handle.setAttribute('tabindex', free.checked ? 0 : -1);
    for (const [name, p] of Object.entries({prior, posterior: after}))
      [...p, entropy(p)].forEach((x, k) => {
        const number = box.querySelector(`data[data-of=${name}${k}]`);
        number.value = x;
        number.textContent = x.toFixed(2);
        number.previousElementSibling.firstElementChild.style.width = `${100 * x / (k < 3 ? 1 : Math.log2(3))}%`;
      });
    const [before, rest] = [entropy(prior), entropy(after)].map(x => x.toFixed(2));
    words.textContent = `Entropy of F: ${before} bits before z, ${rest} bits after it, of log₂ 3 ≈ 1.58 at most.`;
  }

  const move = (handle, p) => { points[handle.dataset.point] = weights(p); draw(); };
  for (const handle of svg.querySelectorAll('[role=slider]')) {
    // A finger on it must not scroll the page; the style touch-action is without effect on the parts of an SVG.
    handle.addEventListener('touchstart', event => event.preventDefault(), {passive: false});
    handle.onpointerdown = event => { handle.setPointerCapture(event.pointerId); };
    handle.onpointermove = event => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const {x, y} = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      move(handle, [x, y]);
    };
    handle.onkeydown = event => {
      const step = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[event.key];
      if (!step || handle.getAttribute('aria-disabled') == 'true') return;
      event.preventDefault();
      move(handle, place(points[handle.dataset.point]).map((x, d) => x + step[d] * (event.shiftKey ? 20 : 4)));
    };
  }
  slider.oninput = free.onchange = draw;
  Object.assign(box, {points, draw});
  draw();
})();
"""


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
    return _view(
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
        f'</svg><div class="bars">{bars}</div></div><p aria-live="polite">This view needs JavaScript.</p>',
        _SIMPLEX_STYLE, _SIMPLEX_SCRIPT)


_SUBSCRIPTS = "₁₂₃"
_DOT = '<circle r="7" fill="currentColor"/>'
_DIAMOND = '<path d="M0-14L14 0L0 14L-14 0Z" fill="none" stroke="currentColor" stroke-width="2.5"/>'
_CROSS = f'd="M-6-6L6 6M-6 6L6-6" stroke="{COLORS[4]}" stroke-width="4"'


def _view(name, data, caption, body, style, script):
    # Without the first attribute JupyterLab would take the arrow keys for itself. The style travels along because
    # JupyterLab does not know the book's.
    return HTML(f'<figure class="nmf-{name}" data-lm-suppress-shortcuts="true" '
                f'data-view="{escape(json.dumps(data))}"><style>{style}</style>{body}'
                f'<figcaption>{escape(caption)}</figcaption><script>{script}</script></figure>')
