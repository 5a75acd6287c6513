"""The command line: heatmaps of your own photographs, and a search among them, each on one HTML page.

No photograph leaves the machine, and the folder is only read. What computes is imported where it is needed, so that
help comes at once.
"""

import argparse
import os
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nmfcore

NETWORKS = ("vgg19", "student")  # the first whose weights are in hand
SIDE = 224  # pixels of a photograph's shorter side, as the networks were trained
METHOD, RANK = "nmf_vu", 8  # of a search: what finds most without whitening and boxes (the book's image_retrieval)
FACTORS = 4  # of a query and its matches, on their page
AT_ONCE = 32  # photographs between two saves of an index
HEATMAPS = """Heatmaps of photographs, on one HTML page.

The photographs are factorized together, so that a colour means the same in all of them. The page holds its pictures
and needs no network."""
SEARCH = """Search photographs for what is on another one; the best matches come on one HTML page.

The first call describes every photograph, in an index in the user's cache (XDG_CACHE_HOME, or ~/.cache) that is saved
as it grows: a later or repeated call describes only what is new or was edited. Query and matches are then factorized
together, so that a colour means the same in all of them."""


@dataclass(frozen=True)
class PhotoSet:
    """The PHOTOS of a call: a folder, or files that may lie in several."""

    folder: Path  # that holds them all; names are as seen from it
    files: tuple[Path, ...] = ()  # none: all that the folder holds
    recursive: bool = False

    @classmethod
    def named(cls, paths, recursive=False):
        """Raises ValueError for what is not there, and for a folder among others."""
        absent = next((path for path in paths if not str(path) or not Path(path).exists()), None)
        if absent is not None:
            raise ValueError(f"{str(absent)!r} is not a folder or file; name a folder of photographs, or photographs")
        files = tuple(dict.fromkeys(Path(path).absolute() for path in paths))
        folders = [path for path in paths if Path(path).is_dir()]
        if folders and len(files) > 1:
            raise ValueError(f"{str(folders[0])!r} is a folder among {len(files)} PHOTOS; name one folder, or files "
                             "alone")
        if folders:
            return cls(Path(folders[0]), recursive=recursive)
        return cls(Path(os.path.commonpath([file.parent for file in files])), files)

    @property
    def paths(self):
        """What `Photographs` takes."""
        return self.files or self.folder

    @property
    def title(self):
        from .pages import short
        return short(self.folder.resolve().name or "photographs") + " and below" * self.recursive

    def owner(self, *others):
        from .pages import owner_id
        return owner_id(*(sorted(self.files) or [self.folder]), *others, recursive=self.recursive)

    def name(self, path):
        return path.relative_to(self.folder).as_posix()

    def listed(self):
        """Its files, and what else the folder holds."""
        from .photographs import listed
        return (list(self.files), []) if self.files else listed(self.folder, recursive=self.recursive)


def heatmaps(photos, *, k=3, output=".", recursive=False, seed=0, device="cpu"):
    """Write the contact sheet of photographs; returns its path and how many photographs are on it."""
    from . import networks, pages
    from .heatmaps import COLORS, factorize
    from .photographs import Photographs
    from .stored_maps import stored_maps

    photos = PhotoSet.named(photos, recursive)
    if not 1 <= k <= len(COLORS):
        raise ValueError(f"K={k} factors: take 1 to {len(COLORS)}, as there is one colour for each")
    title, owner = photos.title, photos.owner()
    file = _page(output, f"heatmaps_{title}_K{k}", owner)
    model, preprocess = networks.first_available(NETWORKS)
    photographs = Photographs(photos.paths, side=SIDE, preprocess=preprocess, recursive=recursive)
    with tempfile.TemporaryDirectory(prefix=".nmfcore-", dir=file.parent) as scratch:
        features = stored_maps(model.to(device), photographs, Path(scratch, "maps"), layer=preprocess.layer,
                               progress=True)
        fit = factorize(features, k, seed=seed)
    about = [f"{_counted(len(photographs))} of the folder {title}, factorized together, K = {k}, seed {seed}, relative "
             f"error {100 * float(fit.factors.error):.0f} %. Network: {preprocess.source}, layer {preprocess.layer}.",
             "A colour is a factor, the same in all photographs. Beside each overlay: where the factor exceeds a fixed "
             "multiple of its mean over the set.",
             *pages.absent(map(photos.name, photographs.left_out), photographs.passed_over, photos.folder)]
    pages.contact_sheet(file, photographs, fit.maps, [photos.name(path) for path in photographs.paths],
                        title=f"Heatmaps of {title}, K = {k}", about=about, owner=owner)
    return file, len(photographs)


def search(photos, query, *, top=12, output=".", recursive=False, seed=0, device="cpu"):
    """Write the page of the best matches; returns its path and how many photographs were searched."""
    from . import networks, pages
    from .feature_maps import feature_maps
    from .heatmaps import factorize
    from .photographs import Photographs, readable
    from .retrieval import METHODS, describe, pooled

    photos = PhotoSet.named(photos, recursive)
    if not str(query) or not Path(query).is_file():
        raise ValueError(f"the query {str(query)!r} is not a file; name a photograph")
    if top < 1:
        raise ValueError(f"top={top} matches: take at least 1")
    query, title, owner = Path(query), photos.title, photos.owner(query)
    file = _page(output, f"search_{title}_{pages.short(query.stem)}", owner)
    model, preprocess = networks.first_available(NETWORKS)
    model = model.to(device)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    index = index_of(photos, (model, preprocess), Path(caches, "nmfcore", "search", photos.owner()), seed=seed)
    asked = Photographs([query], side=SIDE, preprocess=preprocess)
    vector = pooled(describe(list(feature_maps(model, asked, layer=preprocess.layer)), METHOD, rank=RANK, seed=seed))
    scores, places = index.search(vector.cpu(), top=top)
    matches = [index.names[i] for i in places[0]]
    shown = Photographs([query, *(photos.folder / match for match in matches)], side=SIDE, preprocess=preprocess)
    fit = factorize(feature_maps(model, shown, layer=preprocess.layer, batch_size=4), FACTORS, seed=seed)
    captions = [f"Query: {query.name}", *(f"{rank}. {match}, cosine {score:.2f}" for rank, (match, score) in
                                          enumerate(zip(matches, scores[0].tolist(), strict=True), start=1))]
    about = [f"The {len(matches)} of {_counted(len(index.names))} of the folder {title} that are most like the query, "
             f"by {METHODS[METHOD]} of each at K = {RANK}. Network: {preprocess.source}, layer {preprocess.layer}.",
             f"Query and matches were then factorized together, K = {FACTORS}: a colour is a factor, the same in all.",
             *pages.absent(index.left_out, photos.listed()[1], photos.folder)]
    pages.contact_sheet(file, shown, fit.maps, captions, title=f"{readable(query.name)} in {title}", about=about,
                        owner=owner)
    return file, len(index.names)


def index_of(photos, network, where, *, seed=0):
    """The index of a `PhotoSet`: that of an earlier call, with what has been added, edited or taken away since."""
    from tqdm.auto import tqdm

    from .feature_maps import feature_maps
    from .index import Index
    from .photographs import describe_passed_over, stamp
    from .retrieval import describe, pooled

    model, preprocess = network
    about = {"network": preprocess.source, "layer": preprocess.layer, "method": METHOD, "rank": RANK, "side": SIDE,
             "seed": seed}
    files, others = photos.listed()
    names = {file: photos.name(file) for file in files}
    stamps = {names[file]: stamp(file) for file in files if file.is_file()}  # before they are read, so never too new
    try:
        index = Index.load(where)
        index.check(about)
        index = index.unchanged(stamps)
    except FileNotFoundError:
        index = None
    except ValueError as error:
        warnings.warn(f"{error}; it is built anew", stacklevel=2)
        index = None
    known = set(index.names) if index else set()
    photographs, left_out = _readable([file for file in files if names[file] not in known] if known else photos.paths,
                                      preprocess, photos.recursive)
    if known and others:
        warnings.warn(describe_passed_over(others, photos.folder), stacklevel=2)
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


def _readable(paths, preprocess, recursive):
    """The photographs among files, or of a folder, and which of them cannot be read. Of files there may be none."""
    from .photographs import Photographs

    if paths == []:
        return None, []
    try:
        photographs = Photographs(paths, side=SIDE, preprocess=preprocess, recursive=recursive)
    except ValueError:
        if not isinstance(paths, list):
            raise
        return None, paths  # each of which a warning has named
    return photographs, photographs.left_out


def _page(output, stem, owner):
    """The file to write, where `output` is the folder for it or the file itself."""
    from . import pages

    file = Path(output)
    if file.is_dir():
        return pages.page_of(file, stem, owner)
    if not file.parent.is_dir() or str(output).endswith(os.sep):
        raise ValueError(f"the folder of the page, {str(output)!r}, is not there; make it, or name another")
    if file.exists() and pages.owner_of(file) is None:
        raise ValueError(f"{str(output)!r} was not written by nmfcore and is left as it is; name another file, or "
                         "remove it")
    return file


def _counted(count):
    return f"{count} photograph{'s' * (count != 1)}"


# --- the command itself -------------------------------------------------------------------------------------


def main(arguments=None):
    """Run a command and say where the page is; an error ends in one line."""
    parser = _parser()
    given, start = vars(parser.parse_args(arguments)), time.perf_counter()
    try:
        with _warnings_printed():
            file, count = given.pop("command")(**given)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    from .photographs import readable
    print(f"{_counted(count)} in {time.perf_counter() - start:.0f} s: {readable(file)}")


def _parser():
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("photos", nargs="+", metavar="PHOTOS", help="a folder of photographs, or photographs")
    options.add_argument("-o", dest="output", metavar="PAGE", default=".",
                         help="the page, or a folder for it (default: the current one); what nmfcore has not written "
                         "is never overwritten")
    options.add_argument("--recursive", action="store_true", help="take the photographs of sub-folders, too")
    options.add_argument("--seed", type=int, default=0, help="of the factorization (default: 0)")
    options.add_argument("--device", type=_device, default="cpu", help="cpu, cuda or mps (default: cpu)")
    parser = argparse.ArgumentParser(prog="nmfcore", description=nmfcore.__doc__)
    parser.add_argument("--version", action="version", version=f"nmfcore {nmfcore.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(function, text):
        added = commands.add_parser(function.__name__, description=text, help=text.splitlines()[0], parents=[options],
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
        added.set_defaults(command=function)
        return added
    command(heatmaps, HEATMAPS).add_argument("-k", type=int, default=3, metavar="K", help="factors (default: 3)")
    searching = command(search, SEARCH)
    searching.add_argument("query", metavar="QUERY", help="the photograph to search for")
    searching.add_argument("--top", type=int, default=12, help="matches on the page (default: 12)")
    return parser


def _device(name):
    import torch
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # as PyTorch says that there is none of the kind
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return name


@contextmanager
def _warnings_printed():
    """Within the block, warnings go to stderr as one line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        yield
