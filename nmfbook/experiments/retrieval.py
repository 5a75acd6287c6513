"""Retrieval by NMF: which of the choices that the thesis does not print decide against R-MAC, T5.1 and T5.3.

Protocol of thesis sections 5.3 and 5.4 on other photographs: landmarks with boxes (instances), classes of VOC and of
ImageNet (kinds). Rank, solver and its iterations, side of the photographs, how the query's box is used and how many
whitened directions are kept are printed nowhere; all are factors of the design. Whitening is learned on another set.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from nmfcore.feature_maps import feature_maps
from nmfcore.precision import Query, average_precision, average_precision_at
from nmfcore.retrieval import Whitening, describe, image_factors, in_box, mixed, pooled

from ..claims import OURS, Claim, Scale
from ..ledger import key
from ..statistics import bootstrap, mean, ratio
from . import data, memorizing_networks

if TYPE_CHECKING:
    from . import image_retrieval

TRAINING, MEASUREMENT = 1, 1
NETWORKS = ("vgg19", "resnet50")
SIDES = {"landmarks": (512, 224), "voc": (448, 224), "imagenet": (224,)}  # of photographs; the first is that of others
LEARNED = {"landmarks": "voc", "voc": "landmarks", "imagenet": "voc", "digits": "digits"}  # where whitening is learned
SETS = {"landmarks": "landmarks", "voc": "VOC classes", "imagenet": "ImageNet classes"}  # in `image_retrieval`
RANKS = (4, 32, 2, 16, 8, 64)
STOPS = {"converged": ("hals", None), "mu 20": ("mu", 20), "mu 100": ("mu", 100)}  # solver, iterations
DIMENSIONS = (0, 128, None)  # whitened directions: none whitened, at most so many, all
PLACES = 30  # of the first so many results the precision of kinds is taken (thesis eq. 5.8)
LEARN = 200  # photographs, at most, that whitening is learned on
AT_ONCE = 32  # photographs whose maps are in memory
MULTI = " multi-scale"  # of a method: the local descriptors of the photographs at all sides of their set, added up


@dataclass(frozen=True)
class Job:
    """All box rules and numbers of directions for one description of one set by one network."""

    data: str
    network: str
    side: int
    method: str  # "nmf", for both V and V·U, or one of `nmfcore.retrieval.METHODS`, or either with `MULTI`
    rank: int = 0  # of "nmf"
    solver: str = ""  # of "nmf"
    iterations: int | None = None  # of its solver; None: until it converges
    seed: int = 0


@dataclass(frozen=True)
class Photos:
    """A collection, its feature maps, and those of its queries cut to their boxes."""

    collection: "image_retrieval.Collection"
    maps: Sequence[torch.Tensor]  # n × (C, h, w)
    cuts: Sequence[torch.Tensor]  # of the queries; none where they have no boxes
    source: str
    sha256: str


def jobs() -> list[Job]:
    """The digits first; then R-MAC and NMF at the first side of each set, and only then what no claim needs, the peers
    and several sides at once before each other side by itself."""
    digits = [Job("digits", "digits", 16, "nmf", rank, "hals") for rank in (4, 16)]
    first = [(name, network, sides[0]) for network in NETWORKS for name, sides in SIDES.items()]
    more = [(name, network, side) for network in NETWORKS for name, sides in SIDES.items() for side in sides[1:]]

    def peers(sets, methods):
        return [Job(*where, method) for method in methods for where in sets]

    def nmf(sets):
        return [Job(*where, "nmf", rank, *stop) for rank in RANKS for stop in STOPS.values() for where in sets]
    several = [where for where in first if len(SIDES[where[0]]) > 1]
    multi = [*peers(several, ("rmac" + MULTI, "gem" + MULTI)),
             *(Job(*where, "nmf" + MULTI, rank, *STOPS["converged"]) for rank in RANKS[:2] for where in several)]
    return [*digits, *peers(first, ("rmac",)), *nmf(first), *peers(first, ("gem", "mac", "crow")), *multi,
            *peers(more, ("rmac",)), *nmf(more), *peers(more, ("gem", "mac", "crow"))]


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    if job.data == "digits":
        return None
    wanted = {"landmarks": "monuments", "voc": "voc2010_coseg", "imagenet": "imagenet/val"}
    return data.lacking(job.data, wanted[job.data], wanted[LEARNED[job.data]], f"weights/{job.network}*.safetensors")


def train(job: Job, folder: Path, *, device: str = "cpu") -> Photos:
    """Trains nothing but, on the digits, a small network. Feature maps of photographs are kept in the user's cache."""
    return _digits(folder, device) if job.data == "digits" else _photographs(job.data, job.network, job.side, device)


@lru_cache(maxsize=4)
def _photographs(name, network, side, device):
    from .. import backbones  # with them come pooch and scikit-image, which a machine that measures may lack
    from . import image_retrieval

    backbone = backbones.load(network, device=device)
    collection = image_retrieval.photographs(published=False)[0][SETS[name]]
    maps = image_retrieval.features(backbone, collection, side)
    boxed = any(query.box for query in collection.queries)
    cuts = image_retrieval.cut(backbone, collection, side) if boxed else []
    digest = hashlib.sha256()
    for image in collection.images(collection.names, None, 64):
        digest.update(image.numpy().tobytes())
    source = f"{collection.title}, shorter side {side}; {backbone.preprocess.source}, layer {backbone.layer}"
    return Photos(collection, maps, cuts, source, digest.hexdigest())


def _digits(folder, device):
    from . import image_retrieval

    of = next(job for job in memorizing_networks.jobs() if (job.data, job.p, job.seed) == ("digits", 0, 0))
    trained, given = memorizing_networks.train(of, folder, device=device), data.load("digits", 100, device)
    places = torch.cat([(given.test_labels == c).nonzero()[:20, 0] for c in range(given.classes)])
    names = [f"{int(given.test_labels[i])}/{int(i)}" for i in places]
    layer = memorizing_networks.compressed_layers(trained.model)[-1]
    maps = feature_maps(trained.model, given.test_inputs[places], layer=layer)
    queries = [Query(name, name, None, frozenset(other for other in names if other[0] == name[0]), frozenset())
               for name in names[::20]]
    collection = image_retrieval.Collection("digits", 16, {"digits": names}, dict.fromkeys(names, (16, 16)), queries,
                                            lambda *_: (), places=PLACES)
    return Photos(collection, list(maps), [], given.source, given.sha256)


def measure(job: Job, photos: Photos, *, device: str = "cpu") -> dict:
    """Average precision of each query in thousandths, by descriptor, box rule and whitened directions."""
    collection, found = photos.collection, {}
    more, other = SIDES[job.data][1:] if job.method.endswith(MULTI) else (), LEARNED[job.data]
    shown = [photos, *(_photographs(job.data, job.network, side, device) for side in more)]
    taught = shown if other == job.data else [
        _photographs(other, job.network, side, device) for side in SIDES[other][:len(shown)]]
    at_sides = [_rows(job, *of_side, device) for of_side in zip(shown, taught, strict=True)]
    database, training, queries = map(_together, zip(*at_sides, strict=True))
    for name, dimensions in product(database, DIMENSIONS):
        regional = name == "rmac"
        whitening = None if dimensions == 0 else Whitening.fit(training[name], dimensions=dimensions)
        index = pooled(database[name], whitening, regional=regional)
        for rule in dict.fromkeys(rule for rule, _ in queries):
            scores = pooled(queries[rule, name], whitening, regional=regional) @ index.mT
            order = scores.sort(dim=1, descending=True, stable=True).indices
            rankings = [[collection.names[i] for i in row] for row in order.tolist()]
            found[f"{name}, {rule}, {dimensions if dimensions is not None else 'all'}"] = [
                round(1000 * _precision(ranking, query, collection.places))
                for ranking, query in zip(rankings, collection.queries, strict=True)]
    return found


def _precision(ranking, query, places):
    """Of all results; of kinds, of the first places, the query itself left out."""
    if places is None:
        return average_precision(ranking, query.positives, query.junk)
    others = [image for image in ranking if image != query.image]
    return average_precision_at(others, query.positives - {query.image}, places)


def _rows(job, shown, taught, device):
    """{descriptor: rows of each image} at one side, the same of what teaches the whitening, and those of queries."""
    local = _local(job, shown.maps, device)
    some = [taught.maps[i] for i in range(0, len(taught.maps), -(-len(taught.maps) // LEARN))]
    return (_descriptors(job, local), _descriptors(job, _local(job, some, device)),
            {(rule, name): rows for rule, of_rule in _queries(job, shown, local, device).items()
             for name, rows in of_rule.items()})


def _together(parts):
    """Of each image its rows at all sides."""
    return {name: [torch.cat(rows) for rows in zip(*(part[name] for part in parts), strict=True)] for name in parts[0]}


def _local(job, maps, device) -> list:
    """Of each image (heatmaps, V), or the local descriptors of a peer."""
    found: list = []
    for first in range(0, len(maps), AT_ONCE):
        some = [maps[i].to(device) for i in range(first, min(first + AT_ONCE, len(maps)))]
        if _by_nmf(job):
            factors = image_factors(some, job.rank, solver=job.solver, max_iter=job.iterations, seed=job.seed)
            found += [(heat.cpu(), V.cpu()) for heat, V in factors]
        else:
            found += [rows.cpu() for rows in describe(some, job.method.removesuffix(MULTI))]
    return found


def _by_nmf(job):
    return job.method.removesuffix(MULTI) == "nmf"


def _descriptors(job, local) -> dict[str, list]:
    """{"nmf_v": rows of each image, "nmf_vu": rows}, or those of one peer."""
    if not _by_nmf(job):
        return {job.method.removesuffix(MULTI): local}
    return {"nmf_v": [normalize(V, dim=1) for _, V in local],
            "nmf_vu": [normalize(mixed(heat, V), dim=1) for heat, V in local]}


def _queries(job, photos, local, device) -> dict[str, dict[str, list]]:
    """{box rule: descriptors}: factors inside the box, the photograph cut to it, and the whole, as in the database."""
    collection = photos.collection
    whole = [local[collection.names.index(query.image)] for query in collection.queries]
    rules = {"whole": _descriptors(job, whole)}
    if photos.cuts:
        rules["cropped"] = _descriptors(job, _local(job, photos.cuts, device))
        if _by_nmf(job):
            inside = []
            for query, (heat, V) in zip(collection.queries, whole, strict=True):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of queries without a factor in their box
                    x0, y0, x1, y1 = map(int, query.box)
                    kept = in_box(heat, (x0, y0, x1, y1), collection.sizes[query.image])
                inside.append((heat[kept], V[kept]))
            rules["inside"] = _descriptors(job, inside)
    return rules


# --- claims -----------------------------------------------------------------------------------------------


def tables(network: str) -> Callable[[list], list]:
    """A function of entries: [{(data, descriptor, rule, directions, rank, solver, iterations): precision of each
    query}], in [0, 1], once R-MAC and NMF are measured at the first side of every set."""
    wanted = {key(job) for job in jobs() if job.network == network and job.method in ("rmac", "nmf")
              and job.side == SIDES[job.data][0]}

    def units(entries):
        there = {key(entry.job): entry for entry in entries}
        if not wanted <= {*there}:
            return []
        table = {}
        for entry in (there[own] for own in sorted(wanted)):
            job = entry.job
            for what, precisions in entry.measurements.items():
                name, rule, directions = what.split(", ")
                table[job["data"], name, rule, directions, job["rank"], job["solver"], job["iterations"]] = (
                    np.array(precisions) / 1000)
        return [table]
    return units


def claims() -> list[Claim]:
    """T5.1, T5.3 and half of C5.1, whatever the thesis does not print chosen where it is not measured."""
    def claim(row, name, sentence, statistic, network):
        label = LABELS[network]
        photographs = "301 photographs of 12 landmarks" if row == "T5.1" else "712 photographs of 14 classes, VOC 2010"
        return Claim(row, f"{name}, {label}", f"{label}: {sentence}", "retrieval", statistic,
                     (Scale(f"{label}, {photographs}", tables(network), (1,), None),), unit="set of configurations")

    apart = Scale("VGG-19 and ResNet-50, 712 photographs of 14 classes, VOC 2010", _pairs, (1,), None)
    semantic = Claim("C5.1", "semantic", f"{TITLES['nmf_v']} finds kinds earlier with VGG-19 than with ResNet-50, each "
                     "with what the thesis does not print chosen on classes of ImageNet", "retrieval", _more_semantic,
                     (apart,), unit="pair of networks")
    return [*(claim(row, f"{ours} over {other}", f"{TITLES[ours]} finds {what} earlier than {TITLES[other]}, each with "
                    f"what the thesis does not print chosen on {where}", partial(_ahead, ours, other, split), network)
              for network in NETWORKS
              for row, ours, what, where, split in (
                  ("T5.1", "nmf_vu", "buildings", "half of the buildings, measured on the others", _buildings),
                  ("T5.3", "nmf_v", "kinds", "classes of ImageNet", _classes))
              for other in ("rmac", {"nmf_vu": "nmf_v", "nmf_v": "nmf_vu"}[ours])), semantic, *_of_choices()]


def _of_choices():
    """Which choice decides. Asked when VGG-19 had been measured, and ResNet-50 had not."""
    mostly = "makes more of the variance over all choices than any other choice"
    asked = [("box rule", f"on buildings, how the query's box is used {mostly} (NMF V·U; difference of shares)",
              partial(_decides, "landmarks", "nmf_vu", "box rule"), {}),
             ("whitening", f"on kinds, how many directions are whitened {mostly} (NMF V; difference of shares)",
              partial(_decides, "voc", "nmf_v", "whitened directions"), {}),
             ("solver", "the solver and when it stops make less than a twentieth of the variance over all choices "
              "(NMF V on kinds, V·U on buildings; the larger share)", _of_solver, {"threshold": 0.05, "below": True})]
    return [Claim(OURS, f"{name}, {LABELS[network]}", f"{LABELS[network]}: {sentence}", "retrieval", statistic,
                  (Scale(f"{LABELS[network]}, landmarks and VOC 2010", tables(network), (1,), None),),
                  unit="full factorial", **options)
            for network in NETWORKS for name, sentence, statistic, options in asked]


TITLES = {"nmf_v": "NMF V", "nmf_vu": "NMF V·U", "rmac": "R-MAC", "gem": "GeM", "mac": "MAC", "crow": "CroW"}
LABELS = {"vgg19": "VGG-19", "resnet50": "ResNet-50", "digits": "small network"}


def _buildings(table):
    """{configuration: precisions to choose by, and to measure} on landmarks, whose queries come three a building."""
    return {tuple(choice): (values[:len(values) // 2], values[len(values) // 2:])
            for (name, *choice), values in table.items() if name == "landmarks"}


def _classes(table):
    """The same of kinds: chosen on ImageNet, where queries have no boxes and are taken whole, measured on VOC."""
    by = {tuple(choice): values for (name, *choice), values in table.items() if name == "imagenet"}
    return {tuple(choice): (by[tuple(choice)], values) for (name, *choice), values in table.items()
            if name == "voc" and tuple(choice) in by}


def _ahead(ours, other, split, units):
    """Mean difference of the precisions of two descriptors, each as it was best where it was chosen."""
    choices = split(units[0])
    return bootstrap(mean, _best(ours, choices)[1] - _best(other, choices)[1])


def _best(descriptor, choices):
    """Precisions to choose by, and measured, of the descriptor at its best choice."""
    return max((pair for choice, pair in choices.items() if choice[0] == descriptor), key=lambda pair: pair[0].mean())


def _pairs(entries):
    """[(table of VGG-19, table of ResNet-50)] of entries, once both are measured."""
    return [*zip(*(tables(network)(entries) for network in NETWORKS), strict=False)]


def _more_semantic(units):
    found = [_best("nmf_v", _classes(table))[1] for table in units[0]]
    return bootstrap(mean, found[0] - found[1])


FACTORS = ("box rule", "whitened directions", "rank", "solver and iterations")
OFFERED = (*FACTORS, "shorter side")


def _decides(data, descriptor, factor, units):
    """By how much the share of a factor exceeds the largest of the others."""
    place = FACTORS.index(factor)

    def lead(queries):
        shares = _shares(queries.mean(0))
        return shares[place] - np.delete(shares, place, 0).max(0)
    return bootstrap(lead, _factorial(units[0], data, descriptor))


def _of_solver(units):
    def largest(*designs):
        return np.max([_shares(queries.mean(0))[FACTORS.index("solver and iterations")] for queries in designs], axis=0)
    return bootstrap(largest, *(_factorial(units[0], *of) for of in (("voc", "nmf_v"), ("landmarks", "nmf_vu"))))


def winner(table: dict, data: str = "imagenet") -> tuple[str, int]:
    """The descriptor and rank with the highest mean precision on a set where queries are whole, nothing is whitened and
    NMF converges: what a search in somebody's own photographs can use."""
    found = {(name, rank): precisions.mean()
             for (of, name, rule, directions, rank, solver, iterations), precisions in table.items()
             if (of, rule, directions) == (data, "whole", "0") and (solver, iterations) in (("", None), ("hals", None))}
    return max(found, key=lambda choice: found[choice])


def by_choice(measured: list) -> dict[str, dict[str, dict[tuple[str, ...], float]]]:
    """{network and set: {descriptor: {a level of each of `OFFERED`, in words: mean precision}}}; "" where a peer has no
    rank and no solver."""
    found: dict[str, dict[str, dict[tuple[str, ...], float]]] = {}
    for entry in measured:
        job = entry.job
        of_set = found.setdefault(f"{LABELS[job['network']]}, {job['data']}", {})
        stop = "" if not job["solver"] else "converged" if job["iterations"] is None else f"{job['iterations']} updates"
        sides = SIDES[job["data"]] if job["method"].endswith(MULTI) else (job["side"],)
        for what, precisions in entry.measurements.items():
            name, rule, directions = what.split(", ")
            of_set.setdefault(TITLES[name], {})[
                rule, "none" if directions == "0" else directions, str(job["rank"] or ""), stop,
                " and ".join(map(str, sides)) + " px"] = float(np.mean(precisions)) / 1000
    return found


def variance_shares(table: dict, data: str, descriptor: str) -> dict[str, tuple[float, float, float]]:
    """How much of the variance of the mean precision over all choices goes with each of `FACTORS` alone.

    Main effects of a full factorial: the variance of the means at a factor's levels, in shares of that over all cells
    (they are at most 1 together; the rest are interactions). With 95 % intervals over queries. Raises ValueError where
    a combination of levels is missing.
    """
    queries = _factorial(table, data, descriptor)
    return {name: bootstrap(lambda sample, place=i: _shares(sample.mean(0))[place], queries)
            for i, name in enumerate(FACTORS)}


def _factorial(table, data, descriptor):
    """(queries, levels of each of `FACTORS`…) precisions."""
    cells: dict[tuple, np.ndarray] = {(rule, directions, rank, (solver, iterations)): precisions
             for (of, name, rule, directions, rank, solver, iterations), precisions in table.items()
             if (of, name) == (data, descriptor)}
    levels = [sorted({choice[i] for choice in cells}, key=str) for i in range(len(FACTORS))]
    lacking = [choice for choice in product(*levels) if choice not in cells]
    if lacking or not cells:
        raise ValueError(f"{descriptor} on {data} was not measured at {lacking[0] if lacking else 'any choice'}")
    return np.array([cells[choice] for choice in product(*levels)]).T.reshape(-1, *map(len, levels))


def _shares(grid):
    """(levels of each factor…, draws) -> (factors, draws): the variance of the means at a factor's levels, in shares of
    that over all cells."""
    cells = range(grid.ndim - 1)
    means = [grid.mean(tuple(i for i in cells if i != factor)) for factor in cells]
    return np.array([ratio(of_levels.var(0), grid.var((*cells,))) for of_levels in means])


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up precisions on which every claim "holds", "fails" or is "undecided"."""
    ahead = {"holds": 100, "fails": -100, "undecided": 0}[kind]
    made = []
    for job in jobs():
        if job.data == "digits" or job.side != SIDES[job.data][0] or job.method not in ("rmac", "nmf"):
            continue
        count, kinds = {"landmarks": 36, "voc": 70, "imagenet": 50}[job.data], job.data != "landmarks"
        wave = 20 * (-1) ** np.arange(count)
        turn = np.arange(count) % 4 < 2  # queries on which one choice counts, when none decides
        gains: dict[str, dict] = {"holds": {"all" if kinds else "cropped": 100}, "fails": {},
                                  "undecided": {"all": 100 * turn, "cropped": 100 * ~turn}}
        losses: dict[str, Any] = {"holds": 0, "fails": 60, "undecided": 19 + 1.5 * wave}
        gain, stop = gains[kind], losses[kind] * (job.iterations == 20)
        level = {"rmac": 500, "nmf_v": 500 + ahead * (1 if kinds else 0), "nmf_vu": 500 + ahead * (0 if kinds else 1)}
        made.append((job, {f"{name}, {rule}, {directions}": (
            level[name] - (50 if job.rank == 64 else 0) - (ahead if job.network == "resnet50" else 0)
            + gain.get(rule, 0) + gain.get(directions, 0) - stop + (wave if name != "rmac" else -wave)).tolist()
            for name in (("rmac",) if job.method == "rmac" else ("nmf_v", "nmf_vu"))
            for rule in ("whole", "cropped")[:1 if job.data == "imagenet" else 2] for directions in ("0", "all")}))
    return made
