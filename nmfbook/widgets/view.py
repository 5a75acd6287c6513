"""What the views share: a script and a style in files of their name, data in an attribute, pictures as text."""

import json
from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image


def text(name: str) -> str:
    """A file beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def view(name: str, data: dict, caption: str, body: str) -> HTML:
    """`<figure class="nmf-name">` with a body, `name.css` and `name.js`, which finds the data in `data-view`.

    They come after `view.css`, `state.js`, `svg.js` and `overlay.js`. caption: HTML-free text. body: HTML.
    """
    # Without the first attribute JupyterLab would take the arrow keys for itself. The style travels along because
    # JupyterLab does not know the book's.
    return HTML(f'<figure class="nmf-view nmf-{name}" data-lm-suppress-shortcuts="true" '
                f'data-view="{escape(json.dumps(data))}">'
                f'<style>\n{text("view.css")}{text(f"{name}.css")}</style>{body}<figcaption>{escape(caption)}</figcaption>'
                f'<script>\n{text("state.js")}{text("svg.js")}{text("overlay.js")}{text(f"{name}.js")}</script></figure>')


def picture(image: Image.Image | np.ndarray, area: int | None = None, *, name: str = "picture") -> Image.Image:
    """An RGB image of about `area` pixels at most. image: of Pillow, or (H, W, 3) uint8.

    Raises ValueError, which calls the picture by its name, for anything else.
    """
    if not isinstance(image, Image.Image):
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"{name!r} must be (H, W, 3) uint8, got shape {image.shape} of {image.dtype}")
        image = Image.fromarray(image)
    image = image.convert("RGB")
    if area is not None and (scale := (area / (image.width * image.height)) ** 0.5) < 1:
        size = tuple(max(1, round(scale * side)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def encoded(maps: np.ndarray) -> str:
    """Numbers in [0, 1] as text, of 16 bits each."""
    return b64encode((maps * 65535).round().astype("<u2").tobytes()).decode()


def drawn(figure: Figure, dpi: int) -> str:
    """A matplotlib figure, which is closed, as a `data:` address: WebP."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    plt.close(figure)
    return webp(Image.open(file))


def webp(image: Image.Image | np.ndarray, area: int | None = None, *, name: str = "picture") -> str:
    """A `picture` as a `data:` address, in WebP."""
    file = BytesIO()
    picture(image, area, name=name).save(file, format="webp", quality=85)
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode()
