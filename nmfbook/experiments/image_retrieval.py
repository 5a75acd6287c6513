"""Image retrieval (thesis chapter 5): how early the right images come, and where in them the object lies.

Every photograph is described as in `nmfcore.retrieval`, whitened by what another collection taught, and compared by the
cosine. Searches for one object are judged by average precision, searches for a kind of thing by that of the first
places. No experiment of the ledger: the chapter calls what is here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

from nmfcore.cam import predicted_grad_cam
from nmfcore.heatmaps import factorize
from nmfcore.index import Index
from nmfcore.networks import data_folder
from nmfcore.photographs import Photographs
from nmfcore.precision import Query, average_precision, average_precision_at
from nmfcore.retrieval import METHODS, RANK, Whitening, describe, locate, pooled
from nmfcore.segmentation import Box, box, box_iou

from ..annotated import crops, landmark_queries, masked_set, oxford, scaled
from ..backbones import Backbone
from ..datasets import PHOTOGRAPHS, pixels

PREDICTED = 6  # classes whose maps CAM takes
EXPANDED = 5  # matches that expansion adds to the query
AT_ONCE = 256  # feature maps in memory, or on the device
PUBLISHED = {"Oxford5k": "oxford5k", "Paris6k": "paris6k"}  # the sets of the thesis, and their folders
CLASSES = ("Bicycle", "Bird", "Bottle", "Bus", "Car", "Chair", "Dog", "Monitor", "Person", "Plant", "Sheep", "Sofa",
           "Table", "Train")
STUFF = ("brick", "grass", "gravel", "coins", "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina",
         "text")


# --- what is searched -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collection:
    """Images to search in, with queries whose answers are known."""

    title: str
    side: int  # the shorter one of an image, in pixels
    groups: dict[str, list[str]]  # names of images; the feature maps of a group share a file
    sizes: dict[str, tuple[int, int]]  # name -> (H, W)
    queries: list[Query]
    read: Callable[[Sequence[str], int, Callable | None], Sequence[Tensor]]  # names, side, preprocess -> images
    places: int | None = None  # of the first so many results precision is taken; of all where one object is sought
    boxes: dict[str, dict[str, Box]] = field(default_factory=dict)  # group -> name -> box of the object

    @property
    def names(self) -> list[str]:
        return [name for group in self.groups.values() for name in group]

    def images(self, names: Sequence[str], preprocess: Callable | None = None, side: int | None = None
               ) -> Sequence[Tensor]:
        return self.read(names, side or self.side, preprocess)


def embedded() -> tuple[dict[str, Collection], dict[str, str]]:
    """Crops of the embedded photographs, tiles of textures and the like, and on which each has its whitening learned.

    The tiles of a picture share no thing, only what they are made of.
    """
    sets = {name: crops(name) for name in PHOTOGRAPHS}
    pictures = {f"{name}/{i}": picture for name, one_set in sets.items() for i, picture in enumerate(one_set.pictures)}
    boxes = {name: {f"{name}/{i}": corners for i, (corners,) in enumerate(one_set.boxes)}
             for name, one_set in sets.items() if one_set.names}
    all_boxes = {name: corners for group in boxes.values() for name, corners in group.items()}
    stuff = {name: tile for picture in STUFF for name, tile in _tiles(picture).items()}
    queries = _of_one_group(pictures, all_boxes, all_boxes), _of_one_group(stuff, stuff, dict.fromkeys(stuff))
    return ({"crops": _in_memory(f"{len(pictures)} crops of {len(PHOTOGRAPHS)} photographs", pictures, queries[0],
                                 boxes=boxes),
             "tiles": _in_memory(f"{len(stuff)} tiles of {len(STUFF)} pictures", stuff, queries[1], places=6)},
            {"crops": "tiles", "tiles": "crops"})


def photographs(*, published: bool, seed: int = 0) -> tuple[dict[str, Collection], dict[str, str]]:
    """Landmarks, classes of VOC and of ImageNet, and on which collection each has its whitening learned.

    published: with Oxford5k and Paris6k, where the data folder holds their photographs.
    """
    files, queries, boxes = landmark_queries()
    landmarks = _on_disk(f"{len(files)} photographs of {len(boxes)} landmarks", 512, files, queries, boxes=boxes)
    sets = {name: masked_set(name) for name in CLASSES}
    files = {f"{name}/{file.name}": file for name, one_set in sets.items() for file in one_set.files}
    generator, corners = np.random.default_rng(seed), {}
    for name, one_set in sets.items():
        for i in sorted(generator.choice(len(one_set), 5, replace=False)):
            corners[f"{name}/{one_set.files[i].name}"] = box(one_set[i][0])
    voc = _on_disk(f"{len(files)} photographs of {len(sets)} classes, VOC 2010 co-segmentation", 448, files,
                   _of_one_group(files, corners, corners), places=30)
    folder = data_folder()
    assert folder is not None  # the landmarks are in it
    files = {f"{kind.name}/{file.name}": file for kind in sorted((folder / "imagenet" / "val").iterdir())
             for file in sorted(kind.glob("*.JPEG"))}
    chosen = [name for kind in dict.fromkeys(name.rsplit("/", 1)[0] for name in files)
              for name in sorted(generator.choice([name for name in files if name.startswith(kind)], 5, replace=False))]
    imagenet = _on_disk(f"{len(files)} photographs of ten classes, ImageNet, validation", 224, files,
                        _of_one_group(files, chosen, dict.fromkeys(chosen)), places=30)
    owned = {}
    for name, place in PUBLISHED.items() if published else ():
        if any((folder / place / "images").rglob("*.jpg")):
            files, queries = oxford(place)
            owned[name] = _on_disk(f"{len(files)} photographs of {name}", 512, files, queries)
    learned = {"landmarks": "VOC classes", "VOC classes": "landmarks", "ImageNet classes": "VOC classes"}
    learned |= {name: next((other for other in owned if other != name), "VOC classes") for name in owned}
    return {"landmarks": landmarks, **owned, "VOC classes": voc, "ImageNet classes": imagenet}, learned


def _of_one_group(names, chosen, boxes):
    """Queries whose positives are the images of the same group."""
    groups = {name: name.rsplit("/", 1)[0] for name in names}
    return [Query(name, name, boxes[name], frozenset(other for other in names if groups[other] == groups[name]),
                  frozenset()) for name in chosen]


def _in_memory(title, pictures, queries, **options):
    def read(names, side, preprocess):
        return scaled((pictures[name] for name in names), side, preprocess)
    sizes = {name: tuple(picture.shape[1:]) for name, picture in pictures.items()}
    return Collection(title, 224, {title: list(pictures)}, sizes, queries, read, **options)


def _on_disk(title, side, files: Mapping[str, Path], queries, **options):
    sizes: dict[str, tuple[int, int]] = {}
    groups: dict[str, list[str]] = {}
    for name, file in files.items():
        with Image.open(file) as image:
            sizes[name] = image.size[::-1]
        groups.setdefault(name.rsplit("/" if "/" in name else "_", 1)[0], []).append(name)

    def read(names, side, preprocess):
        return Photographs([files[name] for name in names], side=side, preprocess=preprocess)
    return Collection(title, side, groups, sizes, queries, read, **options)


def _tiles(name):
    """{"<name>/<i>": tile}: two by three tiles of one of scikit-image's pictures."""
    picture = torch.from_numpy(np.array(getattr(skimage.data, name)())).float() / 255  # a copy: some are read-only
    picture = picture[None].expand(3, -1, -1) if picture.dim() == 2 else picture[..., :3].permute(2, 0, 1)
    picture = picture[:, :picture.shape[1] // 2 * 2, :picture.shape[2] // 3 * 3].contiguous()
    return {f"{name}/{i}": tile
            for i, tile in enumerate(tile for half in picture.chunk(2, 1) for tile in half.chunk(3, 2))}


# --- what is measured -------------------------------------------------------------------------------------


def measure_precision(backbone: Backbone, collections: Mapping[str, Collection], learned: Mapping[str, str], *,
                      dimensions: int, seed: int = 0) -> tuple[dict[str, dict], dict[str, dict]]:
    """{collection: {way: precision of each query}}, and {collection: {method: (index, vectors of the queries)}}.

    A way is a method as it stands, NMF at RANK, whitened to `dimensions` directions, or "<method> expanded": with the
    best matches added to the query. Other choices are those of `retrieval`.
    """
    tail = _tail(backbone)
    methods = [method for method in METHODS if method != "cam" or tail is not None]
    database: dict[tuple, list[Tensor]] = {}
    asked: dict[tuple, list[Tensor]] = {}
    for name, collection in collections.items():
        maps, cuts = features(backbone, collection), cut(backbone, collection)
        for method in methods:
            database[name, method] = _described(maps, method, backbone, tail, seed=seed)
            asked[name, method] = (_boxed(backbone, collection, maps, method, seed) if method.startswith("nmf") else
                                   _described(cuts, method, backbone, tail))
    precision: dict[str, dict] = {}
    searched: dict[str, dict] = {}
    for name, method in database:
        collection, ways, regional = collections[name], precision.setdefault(name, {}), method in ("rmac", "cam")
        whitening = Whitening.fit(database[learned[name], method], dimensions=dimensions)
        index = Index(pooled(database[name, method], whitening, regional=regional), collection.names)
        vectors = pooled(asked[name, method], whitening, regional=regional)
        searched.setdefault(name, {})[method] = index, vectors
        ways[method] = _precision(collection, index, vectors)
        ways[f"{method} expanded"] = _precision(collection, index, vectors, EXPANDED)
    return precision, searched


def measure_boxes(backbone: Backbone, collection: Collection, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """{what: {group: IoU with the drawn box, for each pair}}: each boxed photograph is the query once."""
    overlaps: dict[str, dict] = {}
    for group, corners in collection.boxes.items():
        names, truth = list(corners), list(corners.values())
        sizes = [collection.sizes[name] for name in names]
        images = list(collection.images(names, backbone.preprocess, 224))
        heat = factorize(backbone.maps(images, batch_size=1), RANK, seed=seed)
        for query, given in enumerate(truth):
            H, W = sizes[query]
            boxes: dict[str, Sequence] = {
                "NMF": locate(heat.maps, query, given, sizes),
                "the query's box, copied": [(given[0] * w / W, given[1] * h / H, given[2] * w / W, given[3] * h / H)
                                            for h, w in sizes],
                "whole photograph": [(0, 0, w - 1, h - 1) for h, w in sizes]}
            for what, drawn in boxes.items():
                overlaps.setdefault(what, {}).setdefault(group, []).extend(
                    box_iou(drawn[i], truth[i]) if drawn[i] else 0.0 for i in range(len(names)) if i != query)
    return overlaps


def _tail(backbone):
    """What follows the layer, up to the classes; None where they are not in hand."""
    if backbone.name != "vgg19":
        return None
    model = backbone.model
    return nn.Sequential(model.features[36:], model.avgpool, nn.Flatten(), model.classifier)


def features(backbone: Backbone, collection: Collection, side: int | None = None) -> list[Tensor]:
    """Feature maps of a collection; those of photographs on disk are kept in files."""
    return [maps for group, names in collection.groups.items()
            for maps in backbone.maps(collection.images(names, backbone.preprocess, side),
                                      kept=f"{side or collection.side}-{group}")]


def cut(backbone: Backbone, collection: Collection, side: int | None = None) -> list[Tensor]:
    """Feature maps of the queries, cut to their boxes."""
    images, pictures = [query.image for query in collection.queries], []
    for query, picture in zip(collection.queries, collection.images(images, backbone.preprocess, side), strict=True):
        if query.box:
            scale = picture.shape[1] / collection.sizes[query.image][0]
            x0, y0, x1, y1 = (round(scale * edge) for edge in query.box)
            picture = picture[:, y0:max(y1, y0 + 64) + 1, x0:max(x1, x0 + 64) + 1]
        pictures.append(picture)
    return list(backbone.maps(pictures, batch_size=1))


def _described(features, method, backbone, tail, **options):
    """Rows of each image, as `describe` gives them, for so many images at once as fit."""
    device, rows = next(backbone.model.parameters()).device, []
    for first in range(0, len(features), AT_ONCE):
        some = [maps.to(device) for maps in features[first:first + AT_ONCE]]
        class_maps = predicted_grad_cam(tail, some, PREDICTED) if method == "cam" else None
        rows += describe(some, method, maps=class_maps, **options)
    return rows


def _boxed(backbone, collection, features, method, seed):
    """Rows of NMF's queries, those in their boxes."""
    device = next(backbone.model.parameters()).device
    place = {name: i for i, name in enumerate(collection.names)}
    whole = [features[place[query.image]].to(device) for query in collection.queries]
    corners = [query.box and tuple(map(int, query.box)) for query in collection.queries]
    return describe(whole, method, boxes=corners, sizes=[collection.sizes[query.image] for query in collection.queries],
                    seed=seed)


def _precision(collection, index, vectors, expand=0):
    """Of each query."""
    _, places = index.search(vectors, expand=expand)
    rankings = [[index.names[i] for i in row] for row in places.tolist()]
    return [average_precision(ranking, query.positives, query.junk) if collection.places is None else
            average_precision_at(ranking, query.positives, collection.places)
            for ranking, query in zip(rankings, collection.queries, strict=True)]


# --- what can be shown ------------------------------------------------------------------------------------


def ranked_tiles(backbone: Backbone, methods: Sequence[str] = ("rmac", "nmf_v"), *, dimensions: int = 24
                 ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, list[str]]], dict[str, frozenset[str]]]:
    """The embedded tiles, {method: {query: names, best first}} with each tile as the query, and {query: right ones}.

    Described as by `measure_precision`, with the whitening learned on the crops.
    """
    collections, learned = embedded()
    tiles, others = collections["tiles"], collections[learned["tiles"]]
    maps, training = features(backbone, tiles), features(backbone, others)
    rankings = {}
    for method in methods:
        whitening = Whitening.fit(describe(training, method), dimensions=dimensions)
        index = Index(pooled(describe(maps, method), whitening, regional=method == "rmac"), tiles.names)
        _, places = index.search(index.descriptors)
        rankings[METHODS[method]] = {name: [tiles.names[i] for i in row]
                                     for name, row in zip(tiles.names, places.tolist(), strict=True)}
    pictures = {name: pixels(picture)
                for name, picture in zip(tiles.names, tiles.images(tiles.names), strict=True)}
    return pictures, rankings, {query.name: query.positives for query in tiles.queries}


def most_contrary(rankings: Mapping[str, Mapping[str, Sequence[str]]], relevant: Mapping[str, frozenset[str]],
                  queries: Sequence[str], first: int = 5) -> str:
    """Of some queries the one for which two methods differ most in how many of their `first` results are right.

    rankings, relevant: as `ranked_tiles` gives them; the query itself, which comes first, is not counted.
    """
    def difference(query):
        one, other = (len(relevant[query] & {*ranking[query][1:first + 1]}) for ranking in rankings.values())
        return abs(one - other)
    return max(queries, key=difference)
