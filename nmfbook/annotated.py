"""Image sets with ground truth that people drew: masks of objects and of their parts, and boxes.

    birds = masked_set("Bird")  # VOC 2010 co-segmentation
    maps = heatmaps(model, Photographs(birds.files, side=448, preprocess=preprocess), 1, layer=layer).maps
    iou(binarize(maps, birds.sizes), birds)

Photographs and masks lie in the data folder (`networks.data_folder`), in the layouts in which their authors publish
them; only the polygons of `parts` come with this project.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import scipy.io
import torch
from PIL import Image
from scipy.io.matlab import MatReadError
from torch import Tensor
from torch.nn.functional import interpolate

from nmfcore.networks import data_folder
from nmfcore.photographs import SUFFIXES, Photographs
from nmfcore.precision import Query, oxford_queries
from nmfcore.segmentation import Box, box

from .datasets import PHOTOGRAPHS

ANNOTATIONS = Path(__file__).resolve().parent.parent / "data" / "annotations"

# Of an embedded photograph, as shares of its sides: left, top, and size.
CROPS = ((0, 0, 1), (0, 0, 0.8), (0.2, 0, 0.8), (0, 0.2, 0.8), (0.2, 0.2, 0.8), (0.1, 0.1, 0.8))
BEYOND = 0.05  # as a share of the longer side, how far the box of a query may end outside its photograph


@dataclass(frozen=True)
class MaskedSet(Sequence[Tensor]):
    """The masks of n photographs, read when they are asked for: `masks[i]` is (T, H, W) bool."""

    files: tuple[Path, ...]  # n photographs
    sizes: tuple[tuple[int, int], ...]  # n × (H, W), those of the photographs and of the masks
    names: tuple[str, ...]  # T: what each mask shows
    source: str
    read: Callable[[int], np.ndarray]  # i -> (T, H, W) bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i):
        """Raises ValueError for a mask of another size than its photograph."""
        masks = self.read(i)
        if masks.shape[1:] != self.sizes[i]:
            raise ValueError(f"{self.files[i]} has {self.sizes[i]} pixels (height, width), its masks have "
                             f"{masks.shape[1:]}; take both from the same copy of the data")
        return torch.from_numpy(masks)

    def images(self, side: int, preprocess: Callable[[Tensor], Tensor] | None = None) -> Photographs:
        """The photographs, as `photographs.Photographs` reads them."""
        return Photographs(self.files, side=side, preprocess=preprocess)


@dataclass(frozen=True)
class Crops(Sequence[Tensor]):
    """Masks of the crops of one embedded photograph: `masks[i]` is (T, H, W) bool."""

    masks: tuple[Tensor, ...]  # n × (T, H, W)
    pictures: tuple[Tensor, ...]  # n × (3, H, W), RGB in [0, 1]
    names: tuple[str, ...]  # T: what each mask shows
    source: str

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, i):
        return self.masks[i]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """n × (H, W)"""
        return tuple((picture.shape[1], picture.shape[2]) for picture in self.pictures)

    @property
    def boxes(self) -> tuple[tuple[Box, ...], ...]:
        """n × one box, around what the masks show, or its largest connected part; none where they show nothing."""
        found = (box(mask.any(0)) if self.names else None for mask in self.masks)
        return tuple(() if one is None else (one,) for one in found)

    def images(self, side: int, preprocess: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
        """The crops with a shorter side of `side` pixels, preprocessed."""
        return scaled(self.pictures, side, preprocess)


@dataclass(frozen=True)
class BoxedSet:
    """The boxes of one class in n photographs."""

    files: tuple[Path, ...]  # n photographs
    sizes: tuple[tuple[int, int], ...]  # n × (H, W)
    boxes: tuple[tuple[Box, ...], ...]  # n × one or more (x_min, y_min, x_max, y_max): pixels inside, from 0 on
    source: str

    def images(self, side: int, preprocess: Callable[[Tensor], Tensor] | None = None) -> Photographs:
        """The photographs, as `photographs.Photographs` reads them."""
        return Photographs(self.files, side=side, preprocess=preprocess)


def scaled(pictures: Iterable[Tensor], side: int, preprocess: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
    """Pictures (3, H, W) in [0, 1] with a shorter side of `side` pixels, preprocessed: `Photographs` of pictures in
    memory."""
    found = [interpolate(picture[None], scale_factor=side / min(picture.shape[1:]), mode="bilinear",
                         antialias=True)[0].clamp(0, 1) for picture in pictures]
    return found if preprocess is None else [preprocess(picture) for picture in found]


def crops(name: str) -> Crops:
    """Crops of one of `datasets.PHOTOGRAPHS`, a small set of one object for want of a real one.

    Every other crop is mirrored. Masks are cut alike from the polygons in `data/annotations/embedded.json`, which are
    ours; there are some for "cup", "flower", "temple" and "motorcycle". Raises ValueError for an unknown name.
    """
    if name not in PHOTOGRAPHS:
        raise ValueError(f"no embedded photograph {name!r}; there are {', '.join(PHOTOGRAPHS)}")
    picture = torch.from_numpy(PHOTOGRAPHS[name]().copy()).permute(2, 0, 1) / 255
    H, W = picture.shape[1:]
    noted = json.loads((ANNOTATIONS / "embedded.json").read_text(encoding="utf-8"))["images"]
    entry = next((entry for entry in noted if entry["file"] == name), dict(parts=(), polygons=()))
    drawn = torch.from_numpy(_drawn(entry["polygons"], entry["parts"], (H, W)))
    pictures: list[Tensor] = []
    masks: list[Tensor] = []
    for i, (left, top, size) in enumerate(CROPS):
        y, x = (slice(int(start * length), int((start + size) * length)) for start, length in ((top, H), (left, W)))
        for whole, parts in ((picture, pictures), (drawn, masks)):
            parts.append(whole[:, y, x].flip(2) if i % 2 else whole[:, y, x])
    return Crops(tuple(masks), tuple(pictures), tuple(entry["parts"]),
                 f"{len(CROPS)} crops of one photograph of a {name}")


def masked_set(name: str) -> MaskedSet:
    """A class of the VOC 2010 co-segmentation set (Faktor and Irani 2013), such as "Bird", with masks of the object.

    It lies in `voc2010_coseg/images/<class>` and `voc2010_coseg/masks/<class>`.
    """
    return _object_masks("VOC 2010 co-segmentation", Path("voc2010_coseg/images"), Path("voc2010_coseg/masks"), name)


def icoseg(name: str) -> MaskedSet:
    """A set of iCoseg (Batra et al. 2010), such as "021 Elephants-safari June 2008-timd2000", with masks of the object.

    As its authors publish it: `icoseg/images/<set>` and `icoseg/ground_truth/<set>`.
    """
    return _object_masks("iCoseg", Path("icoseg/images"), Path("icoseg/ground_truth"), name)


def parts(name: str) -> MaskedSet:
    """Parts of the objects in an iCoseg set, from the polygons in `data/annotations/<name>.json`, which are ours.

    "elephants", "gymnasts", or the "trees" behind the elephants. Where polygons overlap, the later one is in front. The
    photographs lie in `image_sets/icoseg/<set>` or `icoseg/images/<set>`. Raises ValueError also for a photograph that
    is not the one the polygons were drawn on.
    """
    file = ANNOTATIONS / f"{name}.json"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.json"))
        raise ValueError(f"no parts of {name!r} in {file.parent}; there are {', '.join(known)}")
    about = json.loads(file.read_text(encoding="utf-8"))
    entries = about["images"]
    folders = [_data() / "image_sets/icoseg", _data() / "icoseg/images"]
    files = []
    for entry in entries:
        found = [folder / entry["set"] / entry["file"] for folder in folders]
        there = next((path for path in found if path.is_file()), None)
        if there is None:
            raise ValueError(f"the photograph of the {name} {entry['file']} is not in NMFCORE_DATA, neither {found[0]} "
                             f"nor {found[1]}; put iCoseg there")
        with Image.open(there) as image:
            pixels = np.asarray(image.convert("RGB"))
        if hashlib.sha256(pixels.tobytes()).hexdigest() != entry["sha256"]:
            raise ValueError(f"{there} is not the photograph that the polygons of {name!r} were drawn on; replace it "
                             f"by the one that iCoseg publishes")
        files.append(there)
    sizes = tuple((entry["size"][1], entry["size"][0]) for entry in entries)

    def read(i):
        return _drawn(entries[i]["polygons"], about["parts"], sizes[i])
    return MaskedSet(tuple(files), sizes, tuple(about["parts"]),
                     f"{len(files)} photographs of {name}, iCoseg, with our own polygons of their parts", read)


def voc_boxes(name: str, *, year: int = 2007) -> BoxedSet:
    """The photographs of a PASCAL VOC class and the boxes of its objects (thesis section 4.4).

    name: a class, such as "aeroplane", whose trainval photographs are taken, or a group of PASCAL07-6x2, such as
    "aeroplane_left": the list `ImageSets/Main/<name>.txt`. Photographs in which every object of the class is marked
    difficult or truncated are left out. In those that stay, every object of the class counts.

    The data lie in the layout of the development kit, `VOCdevkit/VOC<year>`.
    """
    folder = _data() / f"VOCdevkit/VOC{year}"
    kind = name.split("_")[0]
    files, sizes, boxes = [], [], []
    for identity in _voc_list(folder, name):
        size, objects = _voc_annotation(folder / f"Annotations/{identity}.xml")
        own = [entry for entry in objects if entry[0] == kind]
        if any(clear for _, clear, _ in own):
            files.append(folder / f"JPEGImages/{identity}.jpg")
            sizes.append(size)
            boxes.append(tuple(box for _, _, box in own))
    if not files:
        raise ValueError(f"{folder} has no photograph of {kind!r} that is neither difficult nor truncated; ask for "
                         "another class or group")
    return BoxedSet(tuple(files), tuple(sizes), tuple(boxes),
                    f"{len(files)} photographs of {name.replace('_', ', ')}, PASCAL VOC {year}")


def landmark_queries() -> tuple[dict[str, Path], list[Query], dict[str, dict[str, Box]]]:
    """Photographs of landmarks, queries with boxes of ours, and the boxes of five photographs of each landmark.

    The photographs lie in `monuments/<landmark>/`; the boxes are in `data/annotations/landmarks.json`. Returned are
    {"<landmark>/<file>": path} for all photographs, three queries for each landmark, whose positives are all its
    photographs but those marked as junk, and {landmark: {"<landmark>/<file>": box}}.

    Raises FileNotFoundError when the photographs are not there, and ValueError when one has another size than the one
    its box was drawn on.
    """
    folder = _data() / "monuments"
    noted = json.loads((ANNOTATIONS / "landmarks.json").read_text(encoding="utf-8"))["landmarks"]
    files: dict[str, Path] = {}
    queries: list[Query] = []
    boxes: dict[str, dict[str, Box]] = {}
    for name, entry in noted.items():
        found = {f"{name}/{file.name}": file for file in sorted((folder / name).glob("*"))
                 if file.suffix.lower() in SUFFIXES}
        boxes[name] = {}
        for one in (*entry["queries"], *entry["more"]):
            image = f"{name}/{one['file']}"
            if image not in found:
                raise FileNotFoundError(f"{folder / image} is not there; data/annotations/landmarks.json has a box on "
                                        f"it")
            with Image.open(found[image]) as opened:
                if list(opened.size) != one["size"]:
                    raise ValueError(f"{found[image]} has {opened.size} pixels, but its box was drawn on "
                                     f"{one['size']}; take the copy in its original size")
            boxes[name][image] = tuple(one["box"])
        junk = frozenset(f"{name}/{file}" for file in entry["junk"])
        queries += [Query(image, image, boxes[name][image], frozenset(found) - junk, junk) for image in
                    list(boxes[name])[:len(entry["queries"])]]
        files |= found
    return files, queries, boxes


def oxford(name: str) -> tuple[dict[str, Path], list[Query]]:
    """Photographs and queries of "oxford5k" or "paris6k" (Philbin et al. 2007, 2008).

    The photographs lie in `<name>/images/` or in folders therein, the lists of the queries in `<name>/gt/`. Returned
    are {image: path} of all photographs, called by their files' names without the suffix, as in the lists, and what
    `precision.oxford_queries` reads. The photographs of the queries are among them, whole.

    Boxes are given to a fraction of a pixel and may end beyond the last one: they are cut to their photographs.
    Damaged files, of which Paris has 20 as it is published, are named in warnings and left out. Other images that the
    lists name and that are not there are named in one more. Where they are positives, they count as never found.

    Raises ValueError for another name, a folder without photographs, two photographs of one name, a query whose
    photograph is missing or damaged, and a box that lies elsewhere; FileNotFoundError as `oxford_queries`.
    """
    if name not in ("oxford5k", "paris6k"):
        raise ValueError(f"no set {name!r}; there are 'oxford5k' and 'paris6k'")
    folder = _data() / name / "images"
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*.jpg"), key=lambda file: file.stem):
        if file.stem in found:
            raise ValueError(f"{found[file.stem]} and {file} have one name; remove one of them")
        found[file.stem] = file
    if not found:
        raise ValueError(f"{folder} holds no *.jpg; put the photographs of {name} there")
    files = {file.stem: file for file in Photographs(found.values(), side=64).paths}
    queries = []
    for query in oxford_queries(folder.parent / "gt"):
        if query.image not in files:
            raise ValueError(f"the photograph {query.image} of query {query.name} is missing from {folder} or damaged; "
                             f"take it from {name} as published")
        with Image.open(files[query.image]) as image:
            W, H = image.size
        x0, y0, x1, y1 = (min(max(edge, 0), length - 1) for edge, length in zip(query.box, (W, H, W, H), strict=True))
        cut = max(abs(a - b) for a, b in zip(query.box, (x0, y0, x1, y1), strict=True))
        if x0 >= x1 or y0 >= y1 or cut > BEYOND * max(W, H):
            raise ValueError(f"the box {query.box} (x_min, y_min, x_max, y_max) of query {query.name} does not lie in "
                             f"{files[query.image]} of {W} × {H} pixels; take the copy in its original size")
        queries.append(replace(query, box=(x0, y0, x1, y1)))
    absent = sorted(frozenset().union(*(query.positives | query.junk for query in queries)) - set(found))
    if absent:
        warnings.warn(f"{folder} has no photograph of {len(absent)} images that the lists of {name} name: "
                      f"{', '.join(absent)}; complete it, or count them as never found", stacklevel=2)
    return files, queries


def pascal_part(name: str, merged: Mapping[str, str], *, year: int = 2010) -> MaskedSet:
    """The photographs of a class and masks of its objects' parts from PASCAL-Part (Chen et al. 2014).

    merged: which of the data set's parts make up which mask, such as {"lfleg": "leg", "head": "head"}; parts that it
    does not name are left out. Numbers do not count: "wheel" stands for wheel_1, wheel_2 and so on. A class, such as
    "person", stands for its objects as a whole. Photographs are chosen as in `voc_boxes`.

    The parts lie in `Annotations_Part/<image>.mat`, the photographs in `VOCdevkit/VOC<year>`.
    """
    folder = _data() / "Annotations_Part"
    if not folder.is_dir():
        raise ValueError(f"{folder} is not there; put the folder Annotations_Part of PASCAL-Part into NMFCORE_DATA")
    found = voc_boxes(name, year=year)
    names = tuple(dict.fromkeys(merged.values()))

    def read(i):
        file = folder / f"{found.files[i].stem}.mat"
        masks = np.zeros((len(names), *found.sizes[i]), bool)
        try:
            objects = np.atleast_1d(scipy.io.loadmat(file, simplify_cells=True)["anno"]["objects"])
            for thing in objects:
                shown = [(thing["class"], thing["mask"])]
                if thing["class"] == name:
                    shown += [(part["part_name"].split("_")[0], part["mask"]) for part in np.atleast_1d(thing["parts"])]
                for what, mask in shown:
                    if what in merged:
                        masks[names.index(merged[what])] |= mask.astype(bool)
        except (MatReadError, OSError, KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"{file} cannot be read as a file of PASCAL-Part ({error}); replace it") from error
        return masks
    return MaskedSet(found.files, found.sizes, names, f"{found.source}, PASCAL-Part", read)


def _drawn(polygons, parts, size):
    """(T, H, W) bool; where polygons overlap, the later one is in front."""
    import skimage.draw  # here, since a machine that only measures does without it

    front = np.full(size, -1)
    for polygon in polygons:
        front[skimage.draw.polygon2mask(size, np.array(polygon["points"])[:, ::-1])] = parts.index(polygon["part"])
    return front == np.arange(len(parts))[:, None, None]


def _data():
    folder = data_folder()
    if folder is None:
        raise ValueError("NMFCORE_DATA is not set; set it to the folder that holds the data")
    return folder


def _object_masks(title, photographs, masks, name):
    photographs, masks = _data() / photographs, _data() / masks
    if not (photographs / name).is_dir():
        known = sorted(path.name for path in photographs.glob("*")) or "nothing"
        raise ValueError(f"{photographs / name} is not there; {photographs} holds {known}")
    files = tuple(sorted(path for path in (photographs / name).iterdir() if path.suffix.lower() in SUFFIXES))
    drawn = {path.stem: path for path in (masks / name).glob("*.png")}
    absent = [file.name for file in files if file.stem not in drawn]
    if absent or not files:
        raise ValueError(f"{masks / name} has no mask for {', '.join(absent) or 'any photograph'}; complete the data")
    sizes = []
    for file in files:
        with Image.open(file) as image:
            sizes.append(image.size[::-1])

    def read(i):
        with Image.open(drawn[files[i].stem]) as image:
            return np.asarray(image.convert("L"))[None] > 127
    return MaskedSet(files, tuple(sizes), ("object",), f"{len(files)} photographs of {name}, {title}", read)


def _voc_list(folder, name):
    """Names of the images in a list of the development kit: of lines "000032" or "000032  1"."""
    lists = [folder / f"ImageSets/Main/{file}.txt" for file in (name, f"{name}_trainval")]
    there = next((file for file in lists if file.is_file()), None)
    if there is None:
        known = sorted(file.stem for file in lists[0].parent.glob("*.txt"))
        raise ValueError(f"neither {lists[0]} nor {lists[1].name} is there; there are {', '.join(known) or 'no lists'}")
    lines = [line.split() for line in there.read_text(encoding="ascii").splitlines()]
    return [line[0] for line in lines if line and line[1:] in ([], ["1"], ["0"])]  # 0: difficult objects alone


def _voc_annotation(file):
    """(H, W), and (class, neither difficult nor truncated, box) of every object."""
    try:
        root = ElementTree.parse(file).getroot()
        size = int(root.findtext("size/height")), int(root.findtext("size/width"))
        objects = []
        for entry in root.iter("object"):
            clear = all(entry.findtext(flag, "0").strip() == "0" for flag in ("difficult", "truncated"))
            corners = [float(entry.findtext(f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax")]
            objects.append((entry.findtext("name"), clear, tuple(round(value) - 1 for value in corners)))  # from 1 on
    except (ElementTree.ParseError, FileNotFoundError, TypeError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as an annotation of PASCAL VOC ({error}); replace it") from error
    return size, objects
