"""Interactive views that need neither a kernel nor a network: pre-rendered frames under a slider, in plain HTML."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image

_SHOW = ("const box = this.closest('.nmf-frames');"
         "box.querySelectorAll('figure').forEach((frame, i) => { frame.hidden = i != this.value; });"
         "box.querySelector('output').value = box.querySelectorAll('figure')[this.value].dataset.label;"
         "this.setAttribute('aria-valuetext', box.querySelector('output').value);")


def frames(figures: Sequence[Figure], *, labels: Sequence[str], alts: Sequence[str], caption: str,
           start: int = 0) -> HTML:
    """A slider over matplotlib figures, which are closed: an `IPython.display.HTML`.

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
    return HTML(f'<div class="nmf-frames"><label><output>{escape(labels[start])}</output> '
                f'<input type="range" min="0" max="{len(figures) - 1}" step="1" value="{start}" autocomplete="off" '
                f'aria-label="{escape(caption)}" aria-valuetext="{escape(labels[start])}" oninput="{escape(_SHOW)}">'
                f'</label>{body}</div>')


def _webp(figure):
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    image = BytesIO()
    Image.open(file).convert("RGB").save(image, format="webp", quality=85)
    return "data:image/webp;base64," + b64encode(image.getvalue()).decode()
