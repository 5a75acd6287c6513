"""What `tools/heatmaps.py` and `tools/search.py` share: a folder of photographs in, a contact sheet out."""

import argparse
import hashlib
import os
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm.auto import tqdm

from nmfcore import pages
from nmfcore.photographs import describe_passed_over, readable
from nmfcore.segmentation import binarize


@contextmanager
def warnings_printed():
    """Within the block, warnings about files go to stderr as one line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        yield


def name_of(folder, recursive=False):
    """What to call a folder in titles and in the names of files."""
    return short(Path(folder).resolve().name or "photographs") + " and below" * recursive


def short(name):
    """A name that can be printed, on one line, and leaves room in the name of a file for more."""
    return readable(name).encode()[:100].decode(errors="ignore")


def owner_of(*paths, recursive=False):
    """Sixteen digits that belong to these files and folders, whatever way they are named."""
    whole = b"\0".join(os.fsencode(Path(path).resolve()) for path in paths)
    return hashlib.sha256(whole + b"\0recursive" * recursive).hexdigest()[:16]


def page_of(output, stem, owner):
    """The file <stem>.html, or one with a hash in its name where that is the page of another owner."""
    file = output / f"{stem}.html"
    return file if pages.owner_of(file) == owner or not file.exists() else output / f"{stem}_{owner[:8]}.html"


def write(file, photographs, found, names, *, title, about, left_out, passed_over, folder, owner):
    """The sheet of photographs under joint heatmaps. names: one for each; left_out: of files that cannot be read;
    passed_over: what else the folder holds."""
    # Masks are shown at half the size: those of thousands of photographs still fit in memory.
    masks = binarize(found.maps, [(h // 2, w // 2) for h, w in photographs.sizes])
    entries = (pages.entry(readable(name), photographs.rgb(i), found.maps[i].cpu(), masks[i].cpu())
               for i, name in enumerate(tqdm(names, unit="image", desc="writing")))
    if left_out:
        about = [*about, f"Left out, as they cannot be read: {', '.join(map(readable, left_out))}."]
    if passed_over:
        rest = describe_passed_over(passed_over, folder, most=len(passed_over))
        about = [*about, f"{rest[0].upper()}{rest[1:]}."]
    pages.write(file, entries, title=title, about=about, owner=owner)


def run(parser, make, arguments=None):
    """Parse the command line, call `make` with it, and say where the page is; an error ends in one line."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--recursive", type=_switch, nargs="?", const=True, default=False,
                        help="take the photographs of sub-folders, too: 1 or 0")
    given, start = vars(parser.parse_args(arguments)), time.perf_counter()
    try:
        file, count = make(**given)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{count} photographs in {time.perf_counter() - start:.0f} s: {readable(file)}")


def _switch(text):
    if text not in ("", "0", "1"):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1, for yes, or 0")
    return text == "1"
