"""What `tools/heatmaps.py` and `tools/search.py` share: a folder of photographs in, a contact sheet out."""

import sys
import time
import warnings
from contextlib import contextmanager

import torch
from tqdm.auto import tqdm

from nmfcore import contact_sheet
from nmfcore.segmentation import binarize


@contextmanager
def warnings_printed():
    """Within the block, warnings about files go to stderr as one line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        yield


def write(file, photographs, found, names, *, title, about, left_out):
    """The sheet of photographs under joint heatmaps. names: one for each; left_out: of files that cannot be read."""
    # Masks are shown at half the size: those of thousands of photographs still fit in memory.
    masks = binarize(found.maps, [(h // 2, w // 2) for h, w in photographs.sizes])
    entries = (contact_sheet.entry(name, photographs.rgb(i), found.maps[i].cpu(), masks[i].cpu())
               for i, name in enumerate(tqdm(names, unit="image", desc="writing")))
    if left_out:
        about = [*about, f"Left out, as they cannot be read: {', '.join(left_out)}."]
    contact_sheet.write(file, entries, title=title, about=about)


def run(parser, make, arguments=None):
    """Parse the command line, call `make` with it, and say where the page is; an error ends in one line."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", type=torch.device)
    given, start = vars(parser.parse_args(arguments)), time.perf_counter()
    try:
        file, count = make(**given)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{count} photographs in {time.perf_counter() - start:.0f} s: {file}")
