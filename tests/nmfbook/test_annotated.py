"""Image sets with ground truth, on tiny made samples in the layouts of their authors."""

import json

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate

from nmfbook import annotated, datasets
from nmfbook.annotated import CROPS, crops, icoseg, landmark_queries, masked_set, oxford, parts, pascal_part, voc_boxes
from nmfbook.datasets import PHOTOGRAPHS
from nmfcore.feature_maps import feature_maps
from nmfcore.heatmaps import factorize
from nmfcore.segmentation import assemble_parts, binarize, iou, match_parts

XML = ("<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>")
OBJECT = ("<object><name>{name}</name><truncated>{truncated}</truncated><difficult>{difficult}</difficult><bndbox>"
          "<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    return tmp_path


def save(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file)


@pytest.fixture
def masked(data):
    """Two photographs of different sizes with masks, in both layouts."""
    generator = np.random.default_rng(0)
    truth = {"a": generator.random((5, 8)) < 0.5, "b": generator.random((6, 4)) < 0.5}
    for images, masks in (("voc2010_coseg/images", "voc2010_coseg/masks"), ("icoseg/images", "icoseg/ground_truth")):
        for name, mask in truth.items():
            save(data / images / "Bird" / f"{name}.jpg", np.zeros((*mask.shape, 3)))
            grey = 255 * mask
            save(data / masks / "Bird" / f"{name}.png", grey if "icoseg" in masks else np.repeat(grey[..., None], 3, 2))
    return truth


@pytest.mark.parametrize("load", [masked_set, icoseg])
def test_masks_of_objects(load, masked):
    found = load("Bird")
    assert [file.name for file in found.files] == ["a.jpg", "b.jpg"] and found.sizes == ((5, 8), (6, 4))
    assert found.names == ("object",) and found.source.startswith("2 photographs of Bird")
    for mask, expected in zip(found, masked.values(), strict=True):
        assert mask.dtype == torch.bool and torch.equal(mask, torch.from_numpy(expected)[None])


def test_masks_that_do_not_belong_to_their_photographs(data, masked):
    save(data / "voc2010_coseg/masks/Bird/b.png", np.zeros((6, 5)))
    found = masked_set("Bird")
    found[0]
    with pytest.raises(ValueError, match=r"b\.jpg has \(6, 4\) pixels.*its masks have \(6, 5\)"):
        found[1]
    (data / "voc2010_coseg/masks/Bird/b.png").unlink()
    with pytest.raises(ValueError, match=r"no mask for b\.jpg"):
        masked_set("Bird")
    with pytest.raises(ValueError, match=r"Fish is not there; .* holds \['Bird'\]"):
        masked_set("Fish")


# --- boxes --------------------------------------------------------------------------------------------------


@pytest.fixture
def voc(data):
    """Four images: one clear; one with a clear and a truncated aeroplane; one difficult; one with a clear bird only."""
    folder = data / "VOCdevkit/VOC2007"
    aeroplane = dict(name="aeroplane", truncated=0, difficult=0)
    images = {"000001": [aeroplane | dict(box=(1, 1, 10, 6))],
              "000002": [aeroplane | dict(box=(2, 3, 4, 5)), aeroplane | dict(box=(1, 1, 2, 2), truncated=1)],
              "000003": [aeroplane | dict(box=(1, 1, 2, 2), difficult=1)],
              "000004": [dict(name="bird", truncated=0, difficult=0, box=(1, 1, 2, 2)),
                         aeroplane | dict(box=(1, 1, 2, 2), truncated=1)]}
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets/Main").mkdir(parents=True)
    for name, objects in images.items():
        save(folder / f"JPEGImages/{name}.jpg", np.zeros((6, 10, 3)))
        text = XML.format(width=10, height=6, objects="".join(OBJECT.format(**entry) for entry in objects))
        (folder / f"Annotations/{name}.xml").write_text(text)
    (folder / "ImageSets/Main/aeroplane_trainval.txt").write_text("000001  1\n000002  1\n000003  0\n000004 -1\n")
    (folder / "ImageSets/Main/aeroplane_left.txt").write_text("000002\n000003\n000004\n")
    return folder


def test_boxes_of_a_class_and_of_a_group(voc):
    found = voc_boxes("aeroplane")
    assert [file.stem for file in found.files] == ["000001", "000002"] and found.sizes == ((6, 10), (6, 10))
    assert found.boxes == (((0, 0, 9, 5),), ((1, 2, 3, 4), (0, 0, 1, 1)))
    group = voc_boxes("aeroplane_left")
    assert [file.stem for file in group.files] == ["000002"]  # in 000004 the clear object is of another class


def test_damaged_and_missing_annotations(voc):
    with pytest.raises(ValueError, match=r"dog_trainval\.txt is there; there are aeroplane_left, aeroplane_trainval"):
        voc_boxes("dog")
    file = voc / "Annotations/000002.xml"
    for damage in ("<annotation>", "<annotation></annotation>", file.read_text().replace("<xmin>2</xmin>", "")):
        file.write_text(damage)
        with pytest.raises(ValueError, match=r"000002\.xml cannot be read as an annotation"):
            voc_boxes("aeroplane")
    file.unlink()
    with pytest.raises(ValueError, match=r"000002\.xml cannot be read as an annotation"):
        voc_boxes("aeroplane_left")


# --- parts --------------------------------------------------------------------------------------------------


def test_parts_of_pascal_part(data, voc):
    generator = np.random.default_rng(0)
    masks = [(generator.random((6, 10)) < 0.3).astype(np.uint8) for _ in range(4)]

    def thing(kind, *own):
        inside = [{"part_name": name, "mask": mask} for name, mask in own]
        return {"class": kind, "class_ind": 1, "mask": masks[0], "parts": inside}
    things = {"000001": [thing("aeroplane", ("body", masks[0]), ("lwing", masks[1]), ("wheel_1", masks[3]),
                                    ("wheel_2", masks[2]), ("tail", masks[0]))],
              "000002": [thing("aeroplane", ("lwing", masks[1]), ("rwing", masks[2])),
                         thing("bird", ("body", masks[0])), thing("aeroplane")]}
    (data / "Annotations_Part").mkdir()
    for name, objects in things.items():
        scipy.io.savemat(data / f"Annotations_Part/{name}.mat", {"anno": {"imname": name, "objects": objects}})
    found = pascal_part("aeroplane", {"lwing": "wing", "rwing": "wing", "body": "body", "wheel": "wheel"}, year=2007)
    assert found.names == ("wing", "body", "wheel") and len(found) == 2
    expected = [(masks[1], masks[0], masks[2] | masks[3]), (masks[1] | masks[2], *np.zeros((2, 6, 10)))]
    for mask, all_of in zip(found, expected, strict=True):
        assert torch.equal(mask, torch.from_numpy(np.stack(all_of)).bool())
    (data / "Annotations_Part/000002.mat").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"000002\.mat cannot be read as a file of PASCAL-Part"):
        found[1]


@pytest.fixture
def cows(data):
    """Seven photographs of PASCAL-Part: a red head and a green torso on two blue legs, in every other one a person.

    Returns the regions of each, painted: {name: (H, W) bool}.
    """
    folder, noted = data / "VOCdevkit/VOC2010", []
    for sub in ("Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True)
    (data / "Annotations_Part").mkdir()
    for i in range(7):
        H, W = 48 + 8 * (i % 2), 64
        y, x = 4 + i, 6 + 2 * i
        regions = {name: np.zeros((H, W), bool) for name in ("head", "torso", "lfuleg", "rbuleg", "person", "horn")}
        for name, (top, left, h, w) in {"head": (0, 0, 12, 10), "torso": (8, 10, 14, 18), "lfuleg": (22, 10, 12, 6),
                                        "rbuleg": (22, 22, 12, 6), "horn": (0, 2, 4, 4)}.items():
            regions[name][y + top:y + top + h, x + left:x + left + w] = True
        if i % 2:
            regions["person"][10:40, W - 14:] = True
            regions["torso"] &= ~regions["person"]
        pixels = np.full((H, W, 3), 10)
        for name, colour in (("head", (250, 10, 10)), ("torso", (10, 250, 10)), ("lfuleg", (10, 10, 250)),
                             ("rbuleg", (10, 10, 250)), ("person", (200, 200, 10))):
            pixels[regions[name]] = colour
        name = f"2008_{i:06d}"
        save(folder / f"JPEGImages/{name}.jpg", pixels)
        text = OBJECT.format(name="cow", truncated=0, difficult=0, box=(x + 1, y + 1, x + 28, y + 34))
        (folder / f"Annotations/{name}.xml").write_text(XML.format(width=W, height=H, objects=text))
        own = [{"part_name": part, "mask": regions[where].astype(np.uint8)} for part, where in (
            ("head", "head"), ("torso", "torso"), ("lfuleg", "lfuleg"), ("rbuleg", "rbuleg"), ("rhorn", "horn"))]
        whole = regions["head"] | regions["torso"] | regions["lfuleg"] | regions["rbuleg"]
        things = [{"class": "cow", "class_ind": 10, "mask": whole.astype(np.uint8), "parts": own},
                  {"class": "person", "class_ind": 15, "mask": regions["person"].astype(np.uint8), "parts": []}]
        scipy.io.savemat(data / f"Annotations_Part/{name}.mat",
                         {"anno": {"imname": name, "objects": things if i % 2 else things[0]}})
        noted.append(regions)
    (folder / "ImageSets/Main/cow_trainval.txt").write_text("".join(f"2008_{i:06d}  1\n" for i in range(7)))
    return noted


def test_tables_4_4_and_4_5_from_files_to_numbers(cows):
    """The chapter's protocol on a made sample, against pixels counted by numpy."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2)).eval()  # red, green, blue and yellow
    with torch.no_grad():
        colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
        network[0].weight.copy_(colours[:, :, None, None])
        network[0].bias.copy_(torch.tensor([-0.1, -0.1, -0.1, -1.1]))
    found = annotated.pascal_part("cow", {"head": "head", "rhorn": "head", "torso": "torso", "lfuleg": "front leg",
                                          "rbuleg": "back leg", "person": "person"})
    assert found.names == ("head", "torso", "front leg", "back leg", "person") and len(found) == 7
    truth = [{"head": each["head"] | each["horn"], "torso": each["torso"], "front leg": each["lfuleg"],
              "back leg": each["rbuleg"], "person": each["person"]} for each in cows]
    for mask, regions in zip(found, truth, strict=True):
        assert all((mask[t].numpy() == regions[name]).all() for t, name in enumerate(found.names))
        regions["background"] = ~np.any(list(regions.values()), axis=0)
    features = feature_maps(network, found.images(48), layer="2")
    for K, heat in zip((1, 2, 3, 4), factorize(features, [1, 2, 3, 4]), strict=True):
        masks = binarize(heat.maps, found.sizes)
        mean = [np.mean(np.concatenate([each[k].flatten().numpy() for each in heat.maps])) for k in range(K)]
        factors = [[(interpolate(each[None], size=size, mode="bilinear")[0, k] > -np.log(0.25) * mean[k]).numpy()
                    for each, size in zip(heat.maps, found.sizes, strict=True)] for k in range(K)]

        def count(factor, names, images=range(7)):
            """Pixels shared, of the factor, and of the union of parts, one after the other."""
            shared = own = other = 0
            for i in images:
                union = np.any([truth[i][name] for name in names], axis=0)
                shared, own, other = shared + (factor[i] & union).sum(), own + factor[i].sum(), other + union.sum()
            return shared, own, other

        def score(factor, names, images=range(7)):
            shared, own, other = count(factor, names, images)
            return shared / max(own + other - shared, 1)

        targets = [(name,) for name in truth[0]]
        for factor in factors:
            inside = [(count(factor, [name])[0], count(factor, [name])[2], name) for name in truth[0]]
            union = tuple(name for shared, size, name in inside if shared >= 0.2 * size)
            targets += [union] if len(union) > 1 and union not in targets else []
        table = [[score(factor, names) for names in targets] for factor in factors]
        expected = [(k, names, table[k][t]) for k in range(K) for t, names in enumerate(targets)
                    if table[k][t] == max(table[k]) == max(row[t] for row in table) > 0]
        matches = match_parts(masks, found, found.names)
        assert [(one.factor, one.parts) for one in matches] == [case[:2] for case in expected]
        assert [one.iou for one in matches] == pytest.approx([case[2] for case in expected])
        few, rest = range(3), range(3, 7)
        owner = [max(truth[0], key=lambda name, factor=factor: score(factor, [name], few)) for factor in factors]
        united = assemble_parts(masks, found, few)
        given = iou(united[3:], [found[i] for i in rest]).diagonal()
        for t, name in enumerate(found.names):
            union = [np.zeros(size, bool) for size in found.sizes]
            for k in range(K):
                union = [a | (b & (owner[k] == name)) for a, b in zip(union, factors[k], strict=True)]
            assert float(given[t]) == pytest.approx(score(union, [name], rest))
    assert {one.parts for one in matches} == {("head",), ("torso",), ("front leg", "back leg"), ("person",)}
    assert all(one.iou > 0.4 for one in matches) and float(given[[0, 1, 4]].min()) > 0.4


@pytest.fixture
def drawn(data, tmp_path, monkeypatch):
    """Two overlapping squares on a photograph of 10 × 8 pixels."""
    monkeypatch.setattr(annotated, "ANNOTATIONS", tmp_path / "repository" / "annotations")
    save(data / "icoseg/images/1 Set/x.png", np.arange(240).reshape(8, 10, 3))
    digest = annotated.hashlib.sha256(np.arange(240, dtype=np.uint8).tobytes()).hexdigest()
    polygons = [{"part": "torso", "points": [[0, 0], [4, 0], [4, 4], [0, 4]]},
                {"part": "head", "points": [[3, 3], [6, 3], [6, 6], [3, 6]]}]
    about = {"name": "things", "parts": ["head", "torso"], "images": [
        {"set": "1 Set", "file": "x.png", "size": [10, 8], "sha256": digest, "polygons": polygons}]}
    folder = tmp_path / "repository/annotations"
    folder.mkdir(parents=True)
    (folder / "things.json").write_text(json.dumps(about))


def test_polygons_become_masks(drawn, data):
    found = parts("things")
    mask, = found
    assert found.names == ("head", "torso") and mask.shape == (2, 8, 10) and not (mask[0] & mask[1]).any()
    head = torch.zeros(8, 10, dtype=torch.bool)
    head[3:7, 3:7] = True
    inside = torch.zeros(8, 10, dtype=torch.bool)
    inside[:3, :3] = True  # what both ways of counting the edge agree on, and what is in front
    assert (mask[0] & ~head).sum() == 0 and mask[0][4:6, 4:6].all() and mask[1][inside].all()
    assert mask[0][3:5, 3:5].any() and not mask[1][4, 4]
    save(data / "icoseg/images/1 Set/x.png", np.ones((8, 10, 3)))
    with pytest.raises(ValueError, match=r"x\.png is not the photograph that the polygons"):
        parts("things")
    (data / "icoseg/images/1 Set/x.png").unlink()
    with pytest.raises(ValueError, match=r"x\.png is not in NMFCORE_DATA, neither .*put iCoseg there"):
        parts("things")
    with pytest.raises(ValueError, match=r"no parts of 'birds' in .*; there are things"):
        parts("birds")


@pytest.mark.skipif(datasets.data_folder() is None, reason="needs the data folder")
@pytest.mark.parametrize("name, count", [("elephants", 5), ("gymnasts", 10)])
def test_our_own_polygons(name, count):
    found = parts(name)
    assert len(found) == count
    for mask in found:
        assert (mask.sum(0) <= 1).all() and mask.flatten(1).any(1).sum() >= 2


def test_without_a_data_folder(monkeypatch):
    monkeypatch.delenv("NMFCORE_DATA", raising=False)
    for load in (lambda: masked_set("Bird"), lambda: voc_boxes("dog"), lambda: pascal_part("dog", {}),
                 lambda: oxford("oxford5k")):
        with pytest.raises(ValueError, match="NMFCORE_DATA is not set"):
            load()


# --- landmarks ---


def landmarks(data, monkeypatch, size=(30, 20)):
    """Two landmarks with a few black photographs each, and boxes on some of them."""
    noted = {}
    for name in ("arch", "tower"):
        for i in range(7):
            save(data / "monuments" / name / f"{i}.jpg", np.zeros((size[1], size[0], 3), np.uint8))
        entries = [{"file": f"{i}.jpg", "size": [30, 20], "box": [i, 1, 20, 10]} for i in range(5)]
        noted[name] = {"building": "it", "queries": entries[:3], "more": entries[3:], "junk": ["6.jpg"]}
    folder = data / "noted" / "annotations"
    folder.mkdir(parents=True)
    (folder / "landmarks.json").write_text(json.dumps({"landmarks": noted}))
    monkeypatch.setattr(annotated, "ANNOTATIONS", folder)


def test_landmark_queries_know_positives_junk_and_boxes(data, monkeypatch):
    landmarks(data, monkeypatch)
    files, queries, boxes = landmark_queries()
    assert len(files) == 14 and files["tower/5.jpg"] == data / "monuments" / "tower" / "5.jpg"
    assert [query.image for query in queries] == [f"{name}/{i}.jpg" for name in ("arch", "tower") for i in range(3)]
    assert queries[4].positives == {f"tower/{i}.jpg" for i in range(6)} and queries[4].junk == {"tower/6.jpg"}
    assert queries[4].box == boxes["tower"]["tower/1.jpg"] == (1, 1, 20, 10) and len(boxes["arch"]) == 5


def test_landmarks_of_another_size_or_missing_are_named(data, monkeypatch):
    landmarks(data, monkeypatch, size=(60, 40))
    with pytest.raises(ValueError, match=r"0\.jpg has \(60, 40\) pixels, but its box was drawn on \[30, 20\]"):
        landmark_queries()
    (data / "monuments" / "arch" / "0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"0\.jpg is not there"):
        landmark_queries()


# --- Oxford and Paris ---


def ground_truth(folder, name, line, good, ok="", junk=""):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in (("query", line), ("good", good), ("ok", ok), ("junk", junk)):
        (folder / f"{name}_{kind}.txt").write_text(text)


@pytest.fixture
def paris(data):
    """Four photographs of 40 × 30 pixels in two folders, a web page in place of a fifth, and one query."""
    for image in ("defense/paris_defense_000605", "defense/paris_defense_7", "eiffel/paris_eiffel_1", "eiffel/a_1"):
        save(data / f"paris6k/images/{image}.jpg", np.zeros((30, 40, 3)))
    (data / "paris6k/images/eiffel/paris_eiffel_2.jpg").write_text("<html>302 Found</html>")
    ground_truth(data / "paris6k/gt", "defense_1", "paris_defense_000605 -0.4 3.5 40.2 30", "paris_defense_000605\n",
                 "paris_defense_7\nparis_eiffel_2\n", "paris_eiffel_1\n")
    return data / "paris6k"


def test_paris_in_its_folders_without_what_is_damaged(paris):
    with pytest.warns(UserWarning, match=r"left out: .*paris_eiffel_2\.jpg cannot be read") as noted:
        files, (query,) = oxford("paris6k")
    assert len(noted) == 1  # it is damaged, not absent
    assert list(files) == ["a_1", "paris_defense_000605", "paris_defense_7", "paris_eiffel_1"]
    assert files["paris_defense_7"] == paris / "images/defense/paris_defense_7.jpg"
    assert (query.name, query.image, query.box) == ("defense_1", "paris_defense_000605", (0, 3.5, 39, 29))
    assert query.positives == {"paris_defense_000605", "paris_defense_7", "paris_eiffel_2"}
    assert query.junk == {"paris_eiffel_1"} and query.image in files


def test_oxford_lies_in_one_folder_and_says_what_is_absent(data):
    save(data / "oxford5k/images/tower_1.jpg", np.zeros((30, 40, 3)))
    ground_truth(data / "oxford5k/gt", "tower_1", "oxc1_tower_1 1 2 20.5 10", "tower_1", "tower_2", "tower_3")
    with pytest.warns(UserWarning, match="no photograph of 2 images .*: tower_2, tower_3; complete it"):
        files, (query,) = oxford("oxford5k")
    assert list(files) == ["tower_1"] and query.box == (1, 2, 20.5, 10) and "tower_2" in query.positives


@pytest.mark.filterwarnings("ignore:left out")
def test_oxford_and_paris_that_are_not_as_published(paris):
    with pytest.raises(ValueError, match="no set 'Paris6k'; there are 'oxford5k' and 'paris6k'"):
        oxford("Paris6k")
    with pytest.raises(ValueError, match=r"oxford5k.images holds no \*\.jpg"):
        oxford("oxford5k")
    for line, error in (("paris_eiffel_2 1 1 9 9", "paris_eiffel_2 of query defense_1 is missing .* or damaged"),
                        ("paris_defense_7 1 1 43 9", "box .* of query defense_1 does not lie in .* 40 × 30 pixels"),
                        ("paris_defense_7 9 1 9 9", "box .* of query defense_1 does not lie in")):
        ground_truth(paris / "gt", "defense_1", line, "a_1")
        with pytest.raises(ValueError, match=error):
            oxford("paris6k")
    save(paris / "images/defense/a_1.jpg", np.zeros((30, 40, 3)))
    with pytest.raises(ValueError, match=r"a_1\.jpg have one name"):
        oxford("paris6k")


@pytest.mark.parametrize("name", ["cup", "flower", "temple", "motorcycle"])
def test_crops_of_an_embedded_photograph_and_their_masks_are_cut_alike(name):
    found, (first, second) = crops(name), CROPS[:2]
    whole = torch.from_numpy(PHOTOGRAPHS[name]().copy()).permute(2, 0, 1) / 255
    H, W = whole.shape[1:]
    assert first == (0, 0, 1) and torch.equal(found.pictures[0], whole) and second == (0, 0, 0.8)
    for all_of, cut in ((whole, found.pictures[1]), (found[0], found[1])):
        assert torch.equal(cut, all_of[:, :int(0.8 * H), :int(0.8 * W)].flip(2))  # every other one is mirrored
    assert found.sizes == tuple(tuple(mask.shape[1:]) for mask in found) and len(found) == len(CROPS)
    for mask, ((x_min, y_min, x_max, y_max),) in zip(found, found.boxes, strict=True):
        inside = mask.any(0)[y_min:y_max + 1, x_min:x_max + 1]
        assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all() and inside.sum() > 0.9 * mask.any(0).sum()
    assert all(min(image.shape[1:]) == 64 and image.min() >= 0 for image in found.images(64))
    assert torch.equal(found.images(64, lambda picture: 2 * picture)[0], 2 * found.images(64)[0])


def test_crops_without_outlines_have_no_boxes():
    found = crops("cat")
    assert found.names == () and found[0].shape[0] == 0 and set(found.boxes) == {()}
    with pytest.raises(ValueError, match="no embedded photograph 'dog'; there are cat"):
        crops("dog")
