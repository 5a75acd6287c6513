"""The hand-drawn parts: well-formed, inside their photographs, simple, hardly overlapping, and of these photographs."""

import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

FOLDER = Path(__file__).resolve().parents[2] / "data" / "annotations"
PARTS = {"elephants": ["head", "torso", "leg"], "gymnasts": ["head", "torso", "arm", "leg", "beam"],
         "trees": ["tree"]}
IMAGES = [pytest.param(name, image, id=f"{name}-{image['file']}") for name in PARTS
          for image in json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["images"]]


def crossing(polygon):
    """Two sides of the closed polygon that have a point in common without being neighbours, or None."""
    def turn(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    def between(a, b, c):  # c, on the line through a and b, lies between them
        return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])

    sides = list(zip(polygon, polygon[1:] + polygon[:1], strict=True))
    for i, j in itertools.combinations(range(len(sides)), 2):
        if j - i in (1, len(sides) - 1):
            continue
        (a, b), (c, d) = sides[i], sides[j]
        if (turn(a, b, c) != turn(a, b, d) and turn(c, d, a) != turn(c, d, b)) or any(
                turn(p, q, x) == 0 and between(p, q, x) for p, q, x in [(a, b, c), (a, b, d), (c, d, a), (c, d, b)]):
            return sides[i], sides[j]
    return None


def test_crossings_are_found():
    assert crossing([[0, 0], [4, 0], [4, 4], [0, 4]]) is None
    assert crossing([[0, 0], [4, 4], [4, 0], [0, 4]]) is not None  # a bow tie
    assert crossing([[0, 0], [8, 0], [8, 4], [4, 0], [0, 4]]) is not None  # a corner on a side


@pytest.mark.parametrize("name", PARTS)
def test_the_file_says_what_it_is(name):
    found = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert found["name"] == name and found["parts"] == PARTS[name] and "Batra" in found["source"]
    assert "license" in found and len({image["file"] for image in found["images"]}) == len(found["images"])


@pytest.mark.parametrize("name, image", IMAGES)
def test_polygons_are_simple_and_inside(name, image):
    width, height = image["size"]
    for polygon in image["polygons"]:
        points = polygon["points"]
        assert polygon["part"] in PARTS[name] and len(points) >= 3
        assert all(type(x) is int and type(y) is int and 0 <= x < width and 0 <= y < height for x, y in points)
        assert crossing(points) is None, (polygon["part"], crossing(points))
        assert polygon2mask((height, width), np.array(points)[:, ::-1]).sum() > 50
    assert {*PARTS[name]} - {"arm", "beam"} <= {polygon["part"] for polygon in image["polygons"]}


@pytest.mark.parametrize("name, image", IMAGES)
def test_parts_hardly_overlap(name, image):
    width, height = image["size"]
    masks = {part: np.zeros((height, width), dtype=bool) for part in PARTS[name]}
    for polygon in image["polygons"]:
        masks[polygon["part"]] |= polygon2mask((height, width), np.array(polygon["points"])[:, ::-1])
    for (first, a), (second, b) in itertools.combinations(masks.items(), 2):
        assert (a & b).sum() <= 0.05 * max(1, min(a.sum(), b.sum())), (first, second)


@pytest.mark.skipif(not os.environ.get("NMFCORE_DATA"), reason="NMFCORE_DATA is not set: no photographs at hand")
@pytest.mark.parametrize("name, image", IMAGES)
def test_the_photograph_in_hand_is_the_annotated_one(name, image):
    path = Path(os.environ["NMFCORE_DATA"], "image_sets/icoseg", image["set"], image["file"])
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the data folder")
    with Image.open(path) as photograph:
        assert list(photograph.size) == image["size"]
        assert hashlib.sha256(np.asarray(photograph.convert("RGB")).tobytes()).hexdigest() == image["sha256"]
