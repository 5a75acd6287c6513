"""Search a folder of photographs for what is on another one: what `make search IMAGES=<folder> QUERY=<file>` calls.

The first call describes every photograph, in an index in _build/search that is saved as it grows: a later or repeated
call describes only what is new or was edited. The page shows the best matches, factorized together with the query, so
that a colour means the same in all of them. No photograph leaves the machine, and the folder is only read.
"""

import argparse
import sys
import warnings
from pathlib import Path

import photographs_page
from tqdm.auto import tqdm

from nmfcore import networks
from nmfcore.feature_maps import feature_maps
from nmfcore.heatmaps import factorize
from nmfcore.index import Index
from nmfcore.photographs import Photographs, describe_passed_over, listed, readable, stamp
from nmfcore.retrieval import describe, pooled

OUTPUT = Path(__file__).resolve().parent.parent / "_build" / "search"
METHOD, RANK, SIDE = "nmf_v", 4, 224
AT_ONCE = 32  # photographs between two saves


def index_of(folder, network, where, *, seed=0, recursive=False):
    """The index of a folder: that of an earlier call, with what has been added, edited or taken away since."""
    model, preprocess = network
    about = {"network": preprocess.source, "layer": preprocess.layer, "method": METHOD, "rank": RANK, "side": SIDE,
             "seed": seed}
    files, others = listed(folder, recursive=recursive)
    names = {file: file.relative_to(folder).as_posix() for file in files}
    stamps = {names[file]: stamp(file) for file in files if file.is_file()}  # before they are read, so never too new
    try:
        index = Index.load(where)
        index.check(about)
        index = index.unchanged(stamps)
    except FileNotFoundError:
        index = None
    except ValueError as error:
        print(f"warning: {error}; it is built anew", file=sys.stderr)
        index = None
    known = set(index.names) if index else set()
    photographs, left_out = _readable([file for file in files if names[file] not in known] if known else folder,
                                      preprocess, recursive)
    if known and others:
        warnings.warn(describe_passed_over(others, folder), stacklevel=2)
    new = [names[path] for path in photographs.paths] if photographs else []
    for start in tqdm(range(0, len(new), AT_ONCE), desc="describing", disable=not new):
        part = new[start:start + AT_ONCE]
        images = [photographs[start + i] for i in range(len(part))]
        maps = list(feature_maps(model, images, layer=preprocess.layer, batch_size=4))
        descriptors = pooled(describe(maps, METHOD, rank=RANK, seed=seed)).cpu()
        if index is None:
            index = Index(descriptors, part, about, stamps=[stamps[name] for name in part])
        else:
            index.add(descriptors, part, stamps=[stamps[name] for name in part])
        index.save(where)
    index.left_out = [names[file] for file in left_out]
    index.save(where)
    return index


def _readable(files, preprocess, recursive):
    """The photographs among files, or of a folder, and which of them cannot be read. Of files there may be none."""
    if files == []:
        return None, []
    try:
        photographs = Photographs(files, side=SIDE, preprocess=preprocess, recursive=recursive)
    except ValueError:
        if not isinstance(files, list):
            raise
        return None, files  # each of which a warning has named
    return photographs, photographs.left_out


def make(folder, query, *, top=12, seed=0, device="cpu", recursive=False, output=OUTPUT):
    """Write the page of the best matches; returns its path and how many photographs were searched."""
    if not str(folder) or not Path(folder).is_dir() or not str(query) or not Path(query).is_file():
        raise ValueError(f"{str(folder)!r} must be a folder and {str(query)!r} a photograph: "
                         "make search IMAGES=<folder> QUERY=<file>")
    if top < 1:
        raise ValueError(f"TOP={top} matches: take at least 1")
    model, preprocess = networks.first_available(["vgg19", "student"])
    model = model.to(device)
    name, owner = photographs_page.name_of(folder, recursive), photographs_page.owner_of(folder, recursive=recursive)
    with photographs_page.warnings_printed():
        index = index_of(folder, (model, preprocess), output / f"{name}_{owner[:8]}.index", seed=seed,
                         recursive=recursive)
        asked = Photographs([query], side=SIDE, preprocess=preprocess)
    vector = pooled(describe(list(feature_maps(model, asked, layer=preprocess.layer)), METHOD, rank=RANK, seed=seed))
    scores, places = index.search(vector.cpu(), top=top)
    matches = [index.names[i] for i in places[0]]
    shown = Photographs([Path(query), *(Path(folder) / match for match in matches)], side=SIDE, preprocess=preprocess)
    found = factorize(feature_maps(model, shown, layer=preprocess.layer, batch_size=4), RANK, seed=seed)
    titles = [f"Query: {Path(query).name}", *(f"{rank}. {match}, cosine {score:.2f}" for rank, (match, score) in
                                              enumerate(zip(matches, scores[0].tolist(), strict=True), start=1))]
    about = [f"The {len(matches)} of {len(index.names)} photographs of the folder {name} that are most like the query, "
             f"by the rows of V of each at K = {RANK}. Network: {preprocess.source}, layer {preprocess.layer}.",
             "Query and matches were then factorized together: a colour is a factor, the same in all of them."]
    owner = photographs_page.owner_of(folder, query, recursive=recursive)
    file = photographs_page.page_of(output, f"{name}_{photographs_page.short(Path(query).stem)}", owner)
    photographs_page.write(file, shown, found, titles, title=f"{readable(Path(query).name)} in {name}", about=about,
                           left_out=index.left_out, passed_over=listed(folder, recursive=recursive)[1], folder=folder,
                           owner=owner)
    return file, len(index.names)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="tools/search.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("query")
    parser.add_argument("top", type=int)
    photographs_page.run(parser, make, arguments)


if __name__ == "__main__":
    main()
