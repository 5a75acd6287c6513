"""Retrieval by NMF: which of the choices that the thesis does not print decide against R-MAC, T5.1 and T5.3.

Protocol of thesis sections 5.3 and 5.4 on other photographs: landmarks with boxes (instances), classes of VOC and of
ImageNet (kinds). Rank, solver and its iterations, side of the photographs, how the query's box is used and how many
whitened directions are kept are printed nowhere; all are factors of the design. Whitening is learned on another set.
"""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nmfbook.annotated import landmark_queries, masked_set
from nmfcore.activations import reflection_padding
from nmfcore.feature_maps import feature_maps
from nmfcore.networks import data_folder, pretrained
from nmfcore.photographs import Photographs
from nmfcore.precision import Query, average_precision, average_precision_at
from nmfcore.retrieval import Whitening, describe, image_factors, in_box, mixed, pooled
from nmfcore.segmentation import box
from nmfcore.stored_maps import stored_maps

from .. import data
from ..claims import Claim
from . import memorizing_networks

TRAINING, MEASUREMENT = 1, 1
NETWORKS = ("vgg19", "resnet50")
SIDES = {"landmarks": (512, 224), "voc": (448, 224), "imagenet": (224,)}  # of photographs; the first is that of others
LEARNED = {"landmarks": "voc", "voc": "landmarks", "imagenet": "voc", "digits": "digits"}  # where whitening is learned
CLASSES = ("Bicycle", "Bird", "Bottle", "Bus", "Car", "Chair", "Dog", "Monitor", "Person", "Plant", "Sheep", "Sofa",
           "Table", "Train")
RANKS = (4, 32, 2, 16, 8, 64)
STOPS = {"converged": ("hals", None), "mu 20": ("mu", 20), "mu 100": ("mu", 100)}  # solver, iterations
DIMENSIONS = (0, 128, None)  # whitened directions: none whitened, at most so many, all
PLACES = 30  # of the first so many results the precision of kinds is taken (thesis eq. 5.8)
LEARN = 200  # photographs, at most, that whitening is learned on
AT_ONCE = 32  # photographs whose maps are in memory


@dataclass(frozen=True)
class Job:
    """All box rules and numbers of directions for one description of one set by one network."""

    data: str
    network: str
    side: int
    method: str  # "nmf", for both V and V·U, or one of `nmfcore.retrieval.METHODS`
    rank: int = 0  # of "nmf"
    solver: str = ""  # of "nmf"
    iterations: int | None = None  # of its solver; None: until it converges
    seed: int = 0


@dataclass(frozen=True)
class Photos:
    """Maps of a set, made when they are asked for."""

    names: list[str]
    sizes: list[tuple[int, int]]
    maps: list  # n × (C, h, w)
    queries: list[Query]
    cropped: list  # of the queries, cut to their boxes
    source: str
    sha256: str
    cache: Path  # where maps are kept


def jobs() -> list[Job]:
    """The digits first; then the peers, ranks at their two ends, and how the solver stops."""
    digits = [Job("digits", "digits", 16, "nmf", rank, "hals") for rank in (4, 16)]
    sets = [(name, network, side) for name, sides in SIDES.items() for side in sides for network in NETWORKS]
    peers = [Job(*where, method) for method in ("rmac", "gem", "mac", "crow") for where in sets]
    nmf = [Job(*where, "nmf", rank, *STOPS[stop]) for rank in RANKS for stop in STOPS for where in sets]
    return [*digits, *peers[:2 * len(sets)], *nmf, *peers[2 * len(sets):]]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    if job.data == "digits":
        return None
    folder = data_folder()
    wanted = {"landmarks": "monuments", "voc": "voc2010_coseg", "imagenet": "imagenet/val"}
    for name in dict.fromkeys((wanted[job.data], wanted[LEARNED[job.data]], f"weights/{job.network}*.safetensors")):
        if folder is None or not any(folder.glob(name)):
            return f"{job.data} ({name} in NMFCORE_DATA)"
    return None


def train(job: Job, folder: Path, *, device: str = "cpu") -> Photos:
    """Trains nothing but, on the digits, a small network. Feature maps are kept beside the folders of the jobs."""
    return _set(job.data, job.network, job.side, folder.parent / "maps", device)


@lru_cache(maxsize=3)
def _set(name, network, side, cache, device):
    if name == "digits":
        return _digits(cache, device)
    model, preprocess = pretrained(network, download=False)
    model = model.to(device)
    files, queries = _files(name)
    names, photographs = list(files), Photographs(list(files.values()), side=side, preprocess=preprocess)
    sizes = []
    for file in files.values():
        with Image.open(file) as image:
            sizes.append(image.size[::-1])
    cropped = []
    for query in queries:
        picture, (H, _) = photographs[names.index(query.image)], sizes[names.index(query.image)]
        if query.box:
            x0, y0, x1, y1 = (round(picture.shape[1] / H * edge) for edge in query.box)
            picture = picture[:, y0:max(y1, y0 + 64) + 1, x0:max(x1, x0 + 64) + 1]
        cropped.append(picture)
    with reflection_padding(model) if network == "resnet50" else nullcontext():
        cache.mkdir(parents=True, exist_ok=True)
        maps = stored_maps(model, photographs, cache / f"{name}-{network}-{side}.maps", layer=preprocess.layer,
                           batch_size=2)
        cuts = feature_maps(model, cropped, layer=preprocess.layer, batch_size=1) if any(q.box for q in queries) else []
    digest = hashlib.sha256()
    for name_of, file in files.items():
        digest.update(name_of.encode() + file.read_bytes())
    source = f"{len(files)} photographs of {name}, shorter side {side}; {preprocess.source}, layer {preprocess.layer}"
    return Photos(names, sizes, maps, queries, list(cuts), source, digest.hexdigest(), cache)


def _files(name):
    """{name: file}, queries. Queries of kinds are five photographs of each class, the same for everybody."""
    if name == "landmarks":
        files, queries, _ = landmark_queries()
        return files, queries
    generator, files, corners = np.random.default_rng(0), {}, {}
    if name == "voc":
        for kind, masks in ((kind, masked_set(kind)) for kind in CLASSES):
            files |= {f"{kind}/{file.name}": file for file in masks.files}
            for i in sorted(generator.choice(len(masks), 5, replace=False)):
                corners[f"{kind}/{masks.files[i].name}"] = box(masks[i][0])
    else:
        for folder in sorted((data_folder() / "imagenet" / "val").iterdir()):
            of_kind = {f"{folder.name}/{file.name}": file for file in sorted(folder.glob("*.JPEG"))}
            files |= of_kind
            corners |= dict.fromkeys(sorted(generator.choice(sorted(of_kind), 5, replace=False)))
    return files, _kinds(list(files), corners)


def _kinds(names, corners):
    """Queries whose positives are the others of their class, which is what the name says before its slash."""
    return [Query(image, image, corners[image], frozenset(
        other for other in names if other.split("/")[0] == image.split("/")[0] and other != image), frozenset())
        for image in corners]


def _digits(cache, device):
    of = next(job for job in memorizing_networks.jobs() if (job.data, job.p, job.seed) == ("digits", 0, 0))
    folder = cache / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    trained, given = memorizing_networks.train(of, folder, device=device), data.load("digits", 100, device)
    places = torch.cat([(given.test_labels == c).nonzero()[:20, 0] for c in range(given.classes)])
    names = [f"{int(given.test_labels[i])}/{int(i)}" for i in places]
    layer = memorizing_networks.compressed_layers(trained.model)[-1]
    maps = feature_maps(trained.model, given.test_inputs[places], layer=layer)
    queries = _kinds(names, dict.fromkeys(names[::20]))
    return Photos(names, [(16, 16)] * len(names), list(maps), queries, [], given.source, given.sha256,
                  cache)


def measure(job: Job, photos: Photos, *, device: str = "cpu") -> dict:
    """Average precision of each query in thousandths, by descriptor, box rule and whitened directions."""
    other = LEARNED[job.data]
    learned = photos if other == job.data else _set(other, job.network, SIDES[other][0], photos.cache, device)
    some = [learned.maps[i] for i in range(0, len(learned.maps), -(-len(learned.maps) // LEARN))]
    instances, found = job.data == "landmarks", {}
    database, training = _described(job, photos.maps, device), _described(job, some, device)
    queries = _queries(job, photos, device)
    for name, dimensions in product(database, DIMENSIONS):
        regional = name == "rmac"
        whitening = None if dimensions == 0 else Whitening.fit(training[name], dimensions=dimensions)
        index = pooled(database[name], whitening, regional=regional)
        for rule, rows in queries.items():
            scores = pooled(rows[name], whitening, regional=regional) @ index.mT
            order = scores.sort(dim=1, descending=True, stable=True).indices
            ranked = [[photos.names[i] for i in row] for row in order.tolist()]
            precisions = [average_precision(ranking, query.positives, query.junk) if instances else
                          average_precision_at([image for image in ranking if image != query.image], query.positives,
                                               PLACES) for ranking, query in zip(ranked, photos.queries, strict=True)]
            found[f"{name}, {rule}, {dimensions if dimensions is not None else 'all'}"] = [
                round(1000 * precision) for precision in precisions]
    return found


def _described(job, maps, device) -> dict[str, list]:
    """Local descriptors of all maps: {"nmf_v": rows, "nmf_vu": rows}, or those of one peer."""
    described: dict[str, list] = {name: [] for name in (("nmf_v", "nmf_vu") if job.method == "nmf" else (job.method,))}
    for heat, rows in _factors(job, maps, device):
        if heat is None:
            described[job.method].append(rows)
        else:
            described["nmf_v"].append(torch.nn.functional.normalize(rows, dim=1).cpu())
            described["nmf_vu"].append(torch.nn.functional.normalize(mixed(heat, rows), dim=1).cpu())
    return described


def _factors(job, maps, device) -> Iterator:
    """(heatmaps, V) of each image; of a peer (None, rows)."""
    for first in range(0, len(maps), AT_ONCE):
        some = [maps[i].to(device) for i in range(first, min(first + AT_ONCE, len(maps)))]
        if job.method != "nmf":
            yield from ((None, rows.cpu()) for rows in describe(some, job.method))
        else:
            yield from image_factors(some, job.rank, solver=job.solver, max_iter=job.iterations, seed=job.seed)


def _queries(job, photos, device) -> dict[str, dict[str, list]]:
    """{box rule: local descriptors}: factors inside the box, the photograph cut to it, and the whole."""
    places = [photos.names.index(query.image) for query in photos.queries]
    whole = [photos.maps[i] for i in places]
    rules = {"whole": _described(job, whole, device)}
    if photos.cropped:
        rules["cropped"] = _described(job, photos.cropped, device)
        if job.method == "nmf":
            rows: dict[str, list] = {"nmf_v": [], "nmf_vu": []}
            for place, query, (heat, V) in zip(places, photos.queries, _factors(job, whole, device), strict=True):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of queries without a factor in their box
                    x0, y0, x1, y1 = map(int, query.box)
                    kept = in_box(heat, (x0, y0, x1, y1), photos.sizes[place])
                rows["nmf_v"].append(torch.nn.functional.normalize(V[kept], dim=1).cpu())
                rows["nmf_vu"].append(torch.nn.functional.normalize(mixed(heat[kept], V[kept]), dim=1).cpu())
            rules["inside"] = rows
    return rules


def claims() -> list[Claim]:
    """None yet: the analysis of variance comes with the page."""
    return []
