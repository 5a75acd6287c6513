"""A contact sheet: photographs, their heatmaps and masks as one HTML page that needs nothing but a browser.

Needs matplotlib, for the palette of the chapters.
"""

import os
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape, unescape
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from .heatmaps import COLORS, overlay

STYLE = """<style>
.nmf-sheet figure { margin: 0 0 1.5rem; }
.nmf-sheet .pictures { display: flex; flex-wrap: wrap; gap: 0.5rem; }
.nmf-sheet .pictures > * { flex: none; max-width: 100%; }
.nmf-sheet .pictures img { display: block; height: 11rem; margin: 0; max-width: 100%; object-fit: contain; }
.nmf-sheet .factor { border-top: 0.3rem solid; font-size: 0.8rem; line-height: 1.4; }
.nmf-sheet .pictures .factor img { height: 8.6rem; }
.nmf-sheet figcaption { font-weight: 600; overflow-wrap: anywhere; text-align: left; }
</style>
"""
OWNER = "nmfcore-owner"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{owner}<title>{title}</title>
<style>body {{ background: #fff; color: #222; font: 1rem/1.5 system-ui, sans-serif; margin: 1.5rem; }}
h1 {{ font-size: 1.4rem; }} p {{ margin: 0.3rem 0; max-width: 60rem; overflow-wrap: anywhere; }}
main {{ margin-top: 1.5rem; }}</style>
{style}<h1>{title}</h1>
{about}
<main class="nmf-sheet">
"""


def entry(name: str, image: Tensor, maps: Tensor, masks: Tensor) -> str:
    """One photograph of the sheet, a `<figure>`: itself, under its heatmaps, and what each factor's mask leaves of it.

    image: (3, H, W) in [0, 1]. maps: (K, h, w) in [0, 1]. masks: (K, H', W') bool; each is shown at its own size.
    The pictures are part of the text. They look as intended inside an element of class "nmf-sheet", after `STYLE`.
    Raises ValueError for more factors than there are colours.
    """
    K, name = len(maps), escape(name)
    large = interpolate(maps[None], size=image.shape[1:], mode="bilinear", align_corners=False)
    small = interpolate(image[None], size=masks.shape[1:], mode="area")[0]
    row = [f'<img src="{_webp(image)}" alt="{name}, the photograph">',
           f'<img src="{_webp(overlay(image[None], large)[0])}" alt="{name} in grey, under the heatmaps of '
           f"""{K} factor{"s" * (K > 1)}, a colour each">"""]
    for k, (mask, color) in enumerate(zip(masks, COLORS, strict=False), start=1):
        share = f"{100 * float(mask.double().mean()):.0f} %"
        alt = f"The part of {name} that factor {k} marks, {share} of it; the rest is faded"
        row.append(f'<div class="factor" style="border-color: {color}">'
                   f'<img src="{_webp(torch.where(mask, small, 0.85 + 0.15 * small))}" alt="{alt}">'
                   f"factor {k}: {share}</div>")
    return f'<figure><div class="pictures">{"".join(row)}</div><figcaption>{name}</figcaption></figure>\n'


def write(file: str | Path, entries: Iterable[str], *, title: str, about: Sequence[str], owner: str = "") -> None:
    """The page: a title, paragraphs of plain text, and the entries, written one by one as they come.

    owner: what the page belongs to, such as the hash of a folder's path, which `owner_of` reads again.
    It is complete or absent: until the last entry is written, what was at `file` stays.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8", errors="backslashreplace") as page:  # names need not be text
            page.write(PAGE.format(title=escape(title), style=STYLE,
                                   owner=owner and f'<meta name="{OWNER}" content="{escape(owner)}">\n',
                                   about="\n".join(f"<p>{escape(text)}</p>" for text in about)))
            page.writelines(entries)
            page.write("</main>\n</html>\n")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def owner_of(file: str | Path) -> str | None:
    """What a page belongs to, as `write` was told; None for another file and for one that is not there."""
    try:
        with open(file, encoding="utf-8", errors="replace") as page:
            found = re.search(f'<meta name="{OWNER}" content="(.*?)">', page.read(1000))
    except FileNotFoundError:
        return None
    return unescape(found[1]) if found else None


def _webp(picture):
    """A picture (3, H, W) in [0, 1] as the address of an image."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.cpu().numpy())).save(file, format="webp", quality=80)
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode()
