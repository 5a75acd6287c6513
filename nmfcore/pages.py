"""A contact sheet: photographs, their heatmaps and masks as one HTML page that needs nothing but a browser.

A page remembers what it belongs to, its owner, so that it is written again in its own place and never in another's.
"""

import hashlib
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
from tqdm.auto import tqdm

from ._files import replacing
from .feature_maps import Maps
from .heatmaps import COLORS, overlay
from .photographs import Photographs, describe_passed_over, readable
from .segmentation import binarize

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

    The pictures are part of the text. They look as intended inside an element of class "nmf-sheet", after `STYLE`.

    Args:
        name: the caption, as plain text.
        image: (3, H, W) in [0, 1].
        maps: (K, h, w) in [0, 1].
        masks: (K, H', W') bool; each is shown at its own size.

    Raises:
        ValueError: more factors than there are colours.

    Example:
        >>> entry("a.jpg", torch.rand(3, 8, 8), torch.rand(2, 4, 4), torch.ones(2, 8, 8, dtype=bool)).count("<img")
        4
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


def contact_sheet(file: str | Path, photographs: Photographs, maps: Maps, captions: Sequence[str], *, title: str,
                  about: Sequence[str], owner: str = "") -> None:
    """The page of photographs under their joint heatmaps; see `write`.

    Args:
        file, title, about, owner: as for `write`.
        photographs: n, which are read once more, one by one.
        maps: n × (K, h, w) in [0, 1].
        captions: n, as plain text.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from nmfcore.photographs import Photographs
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (64, 48)).save(Path(folder, "a.png"))
        ...     photographs, page = Photographs(folder, side=48), Path(folder, "page.html")
        ...     contact_sheet(page, photographs, torch.rand(1, 2, 3, 4), photographs.names, title="One", about=[])
        ...     page.read_text().count("<figure>")
        1
    """
    # Masks are shown at half the size: those of thousands of photographs still fit in memory.
    masks = binarize(maps, [(h // 2, w // 2) for h, w in photographs.sizes])
    entries = (entry(readable(caption), photographs.rgb(i), maps[i].cpu(), masks[i].cpu())
               for i, caption in enumerate(tqdm(captions, unit="image", desc="writing")))
    write(file, entries, title=title, about=about, owner=owner)


def absent(left_out: Iterable[str], passed_over: Sequence[Path], folder: str | Path) -> list[str]:
    """Paragraphs that name what is not on a page: files that cannot be read, and what else the folder holds.

    Example:
        >>> from pathlib import Path
        >>> absent(["torn.jpg"], [Path("photos/notes.txt")], "photos")
        ['Left out, as they cannot be read: torn.jpg.', 'Passed over: 1 file (notes.txt) of other kinds.']
    """
    names, said = ", ".join(map(readable, left_out)), []
    if names:
        said.append(f"Left out, as they cannot be read: {names}.")
    if passed_over:
        rest = describe_passed_over(passed_over, folder, most=len(passed_over))
        said.append(f"{rest[0].upper()}{rest[1:]}.")
    return said


def write(file: str | Path, entries: Iterable[str], *, title: str, about: Sequence[str], owner: str = "") -> None:
    """The page: a title, paragraphs of plain text, and the entries, written one by one as they come.

    It is complete or absent: until the last entry is written, what was at `file` stays.

    Args:
        file: the page; its folder is made.
        entries: as `entry` gives them.
        title, about: plain text; a paragraph for each of `about`.
        owner: what the page belongs to, such as an `owner_id`, which `owner_of` reads again.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write(Path(folder, "page.html"), [], title="Nothing", about=["Not yet."], owner="me")
        ...     owner_of(Path(folder, "page.html"))
        'me'
    """
    with replacing(file) as partial, \
            open(partial, "w", encoding="utf-8", errors="backslashreplace") as page:  # names need not be text
        page.write(PAGE.format(title=escape(title), style=STYLE,
                               owner=owner and f'<meta name="{OWNER}" content="{escape(owner)}">\n',
                               about="\n".join(f"<p>{escape(text)}</p>" for text in about)))
        page.writelines(entries)
        page.write("</main>\n</html>\n")


def short(name: str) -> str:
    """A name that can be printed, on one line, and leaves room in the name of a file for more.

    Example:
        >>> short("two\\nlines"), len(short(300 * "a"))
        ('two\\\\nlines', 100)
    """
    return readable(name).encode()[:100].decode(errors="ignore")


def owner_id(*paths: str | Path, recursive: bool = False) -> str:
    """Sixteen digits that belong to these files and folders, whatever way they are named.

    Example:
        >>> owner_id("photos") == owner_id("./photos/../photos"), owner_id("photos") == owner_id("others")
        (True, False)
    """
    whole = b"\0".join(os.fsencode(Path(path).resolve()) for path in paths)
    return hashlib.sha256(whole + b"\0recursive" * recursive).hexdigest()[:16]


def page_of(folder: str | Path, stem: str, owner: str) -> Path:
    """The file `<stem>.html` of a folder, or one with digits after its name where that is there and not the owner's.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write(page_of(folder, "page", "first"), [], title="", about=[], owner="first")
        ...     page_of(folder, "page", "first").name, page_of(folder, "page", "second").name
        ('page.html', 'page_second.html')
    """
    file = Path(folder, f"{stem}.html")
    return file if owner_of(file) == owner or not file.exists() else Path(folder, f"{stem}_{owner[:8]}.html")


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
