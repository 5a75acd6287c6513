"""Heatmaps of a folder of photographs, on one HTML page: what `make heatmaps IMAGES=<folder> K=3` calls.

The photographs are factorized together, so that a colour means the same in all of them. The page holds its pictures
and needs neither a network nor this repository. No photograph leaves the machine, and the folder is only read.
"""

import argparse
import tempfile
from pathlib import Path

import photographs_page

from nmfcore import networks
from nmfcore.heatmaps import COLORS, factorize
from nmfcore.photographs import Photographs
from nmfcore.stored_maps import stored_maps

OUTPUT = Path(__file__).resolve().parent.parent / "_build" / "heatmaps"
SIDE = 224  # pixels of a photograph's shorter side, as the networks were trained


def make(folder, K, *, seed=0, device="cpu", recursive=False, output=OUTPUT):
    """Write the contact sheet of a folder; returns its path and how many photographs are on it."""
    if not str(folder) or not Path(folder).is_dir():
        raise ValueError(f"{str(folder)!r} is not a folder; name one that holds photographs: "
                         "make heatmaps IMAGES=<folder> K=3")
    if not 1 <= K <= len(COLORS):
        raise ValueError(f"K={K} factors: take 1 to {len(COLORS)}, as there is one colour for each")
    model, preprocess = networks.first_available(["vgg19", "student"])
    with photographs_page.warnings_printed():
        photographs = Photographs(folder, side=SIDE, preprocess=preprocess, recursive=recursive)
    name, owner = photographs_page.name_of(folder, recursive), photographs_page.owner_of(folder, recursive=recursive)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as scratch:
        features = stored_maps(model.to(device), photographs, Path(scratch, "maps"), layer=preprocess.layer,
                               progress=True)
        found = factorize(features, K, seed=seed)
    error = 100 * float(found.factors.error)
    about = [f"{len(photographs)} photograph{'s' * (len(photographs) > 1)} of the folder {name}, factorized together, "
             f"K = {K}, seed {seed}, relative error {error:.0f} %. Network: {preprocess.source}, layer "
             f"{preprocess.layer}.",
             "A colour is a factor, the same in all photographs. Beside each overlay: where the factor exceeds a fixed "
             "multiple of its mean over the set."]
    file = photographs_page.page_of(output, f"{name}_K{K}", owner)
    photographs_page.write(file, photographs, found, photographs.names, title=f"Heatmaps of {name}, K = {K}",
                           about=about, left_out=[path.relative_to(folder).as_posix() for path in photographs.left_out],
                           passed_over=photographs.passed_over, folder=folder, owner=owner)
    return file, len(photographs)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="tools/heatmaps.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("K", type=int)
    photographs_page.run(parser, make, arguments)


if __name__ == "__main__":
    main()
