"""The transcribed numbers of the thesis: well-formed, complete, and consistent with the means it prints."""

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

BOOK, DATA = (Path(__file__).resolve().parents[2] / folder for folder in ("book", "data/thesis"))
CORE = ["row", "method", "network", "data", "K", "quantity", "value", "unit", "legible", "note"]
TABLES = ["t3_1", "t4_1", "t4_2", "t4_3", "t4_4", "t4_5", "t5_1", "t5_2", "t5_3", "numbers"]
ROW = re.compile(r"F[1-5]\.\d{1,2}[ab]?|T[345]\.\d|P[123]|C[2-6]\.\d|E2\.25|S4\.3")
VOC = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


def read(name):
    """Lines of one file as dicts; a line with too many or too few fields fails."""
    with open(DATA / f"{name}.csv", encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file, strict=True)
    assert all(len(line) == len(header) for line in lines), name
    return header, [dict(zip(header, line, strict=True)) for line in lines]


def find(name, **where):
    """The one value whose columns equal `where`."""
    hits = [line for line in read(name)[1] if all(line[key] == value for key, value in where.items())]
    assert len(hits) == 1, (name, where, len(hits))
    return hits[0]["value"]


def by_class(name):
    """{(method, network): {category: line}} of a table with one column per class."""
    groups = defaultdict(dict)
    for line in read(name)[1]:
        groups[line["method"], line["network"]][line["category"]] = line
    return groups


def test_every_file_is_known():
    assert {path.stem for path in DATA.glob("*.csv")} == {"rows", *TABLES}


def test_rows():
    header, rows = read("rows")
    assert header == ["row", "chapter", "page_chapter", "title", "thesis", "source", "waits"]
    assert [row for row, count in Counter(line["row"] for line in rows).items() if count > 1] == []
    for line in rows:
        assert ROW.fullmatch(line["row"]), line["row"]
        assert line["chapter"] in set("123456")
        assert re.fullmatch(r"((measuring|not tested|shown): \S.*[^.])?", line["waits"]), line
        assert 0 < len(line["title"]) <= 100 and line["title"][0].isupper() and line["title"][-1] != "."
        assert line["source"]


def test_a_row_is_reported_by_its_chapter_or_says_what_it_waits_for():
    for line in read("rows")[1]:
        source = (BOOK / f"{line['page_chapter']}.md").read_text(encoding="utf-8")
        target = re.sub(r"[^a-z0-9]+", "-", line["row"].lower())
        assert (f"(row-{target})=" in source) != bool(line["waits"]), line


def test_rows_are_complete():
    expected = {f"F1.{i}" for i in (1, 2, 3)} | {f"F2.{i}" for i in range(1, 17)}
    expected |= {"F3.1", "F3.2a", "F3.2b"} | {f"F3.{i}" for i in range(3, 13)} | {f"F4.{i}" for i in range(1, 13)}
    expected |= {f"F5.{i}" for i in range(1, 11)} | {"E2.25", "S4.3", "P1", "P2", "P3", "C2.1", "T3.1"}
    expected |= {f"T4.{i}" for i in range(1, 6)} | {f"T5.{i}" for i in range(1, 4)}
    expected |= {f"C3.{i}" for i in range(1, 7)} | {"C4.1", "C4.2", "C5.1"} | {f"C6.{i}" for i in range(1, 5)}
    assert {line["row"] for line in read("rows")[1]} == expected


@pytest.mark.parametrize("name", TABLES)
def test_table_is_well_formed(name):
    header, lines = read(name)
    known = {line["row"] for line in read("rows")[1]}
    assert header[: len(CORE)] == CORE
    assert lines
    for line in lines:
        assert line["row"] in known, line
        if name != "numbers":
            assert line["row"] == name.upper().replace("_", ".")
        assert line["quantity"]
        assert re.fullmatch(r"(\d+(;\d+)*)?", line["K"]), line
        assert line["legible"] in {"yes", "doubtful", "no"}, line
        if line["legible"] == "yes":
            float(line["value"])
        else:
            assert line["note"], line  # say what is wrong
        if line["legible"] == "doubtful":
            float(line["value"])
        if line["legible"] == "no":
            assert line["value"] == "", line
        if line["unit"] == "%" and line["value"]:
            assert 0 <= float(line["value"]) <= 100, line


@pytest.mark.parametrize("name", TABLES)
def test_no_observation_twice(name):
    header, lines = read(name)
    keys = [tuple(line[column] for column in header if column not in ("value", "legible")) for line in lines]
    assert [key for key, count in Counter(keys).items() if count > 1] == []


def test_t5_3_means_follow_from_the_classes():
    groups = by_class("t5_3")
    assert len(groups) == 10
    for key, line in groups.items():
        assert list(line) == [*VOC, "mean"], key
        mean = sum(float(line[name]["value"]) for name in VOC) / len(VOC)
        assert abs(mean - float(line["mean"]["value"])) <= 0.05 + 1e-9, key  # one decimal printed


def test_t4_3_means_follow_from_the_classes():
    groups = by_class("t4_3")
    assert len(groups) == 7
    for key, line in groups.items():
        assert list(line) == [*VOC, "mean"], key
        mean = float(line["mean"]["value"])
        known = [float(line[name]["value"]) for name in VOC if line[name]["value"]]
        if len(known) == len(VOC):
            # Classes are printed as integers, so an honest mean is within half a point of theirs.
            agrees = abs(sum(known) / len(VOC) - mean) <= 0.505
            assert agrees == (line["mean"]["legible"] == "yes"), key
        else:
            # One unreadable digit: what the mean leaves for it must be a digit, give or take the rounding
            # of the 19 others (standard deviation 1.3 points in the sum, four of them allowed).
            assert [name for name in VOC if not line[name]["value"]] == ["chair"], key
            assert -5 <= len(VOC) * mean - sum(known) <= 14, key


def test_t4_1_and_t4_4_have_one_factor_per_rank():
    for name, column in (("t4_1", "data"), ("t4_4", "category")):
        cells = defaultdict(list)
        for line in read(name)[1]:
            cells[line[column], line["K"]].append(int(line["factor"]))
        assert len({key[0] for key in cells}) == 5
        for (cell, rank), factors in cells.items():
            assert factors == list(range(1, int(rank) + 1)), (name, cell, rank)


def test_t3_1_widths_in_order():
    widths, layers = defaultdict(list), defaultdict(set)
    for line in read("t3_1")[1]:
        layers[line["data"]].add(int(line["index"]))
        if line["quantity"] == "width":
            widths[line["data"]].append(int(line["value"]))
    assert widths == {
        "CIFAR-10": [64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512, 10],
        "Urban Sounds": [64, 128, 128, 256, 256, 512, 512, 4096, 4096, 10],
        "SVHN": [64, 64, 128, 128, 256, 256, 512, 512, 10],
        "Fashion-MNIST": [128, 512, 2048, 2048, 10],
    }
    count = {"CIFAR-10": 12, "Urban Sounds": 14, "SVHN": 9, "Fashion-MNIST": 5}
    assert layers == {data: set(range(1, n + 1)) for data, n in count.items()}


def test_numbers_of_chapter_3():
    assert find("numbers", row="F3.9", quantity="Pearson r", method="NMF") == "-0.82"
    assert find("numbers", row="F3.9", quantity="Pearson r", method="PCA") == "-0.64"
    assert find("numbers", row="F3.9", quantity="Pearson r", method="RA") == "-0.61"
    assert find("numbers", row="F3.11", quantity="Pearson r") == "0.78"
    assert find("numbers", row="F3.12", quantity="run time", data="ImageNet", K="500") == "197"
    covers = [line["value"] for line in read("numbers")[1] if line["row"] == "F3.2a"]
    assert covers == ["1", "3", "8"]
    # 60 networks = levels of p x seeds; the run-time matrix has one row per position of each feature map.
    networks = [int(line["value"]) for line in read("numbers")[1] if line["unit"] in ("networks", "levels")
                and line["row"] == "F3.3"]  # fmt: skip
    assert networks == [60, 10, 6] and networks[0] == networks[1] * networks[2]
    imagenet = {"row": "F3.12", "data": "ImageNet"}
    batch = int(find("numbers", quantity="batch size", **imagenet))
    side = int(find("numbers", quantity="feature map side", **imagenet))
    assert int(find("numbers", quantity="matrix rows", **imagenet)) == batch * side**2


def test_numbers_of_chapter_4():
    mean = {"category": "mean", "method": "NMF"}
    assert find("t4_3", network="VGG-19", **mean) == "44.20"
    assert find("t4_3", network="ResNet-50", **mean) == "47.98"
    assert find("t4_3", method="Le (V)", category="mean") == "41.97"
    dog = [int(find("t4_3", category="dog", **who)) for who in ({"network": "VGG-19"}, {"method": "Le (A)"})]
    assert str(dog[0] - dog[1]) == find("numbers", row="T4.3", quantity="gain over the best peer for dog")
    nmf = [line for line in read("t4_2")[1] if line["method"] == "NMF"]

    def line_of(network, supervision):
        return [int(x["value"]) for x in nmf if (x["network"], x["supervision"]) == (network, supervision)]

    assert line_of("VGG-19", "unsupervised") == [65, 41, 49, 43, 49]
    assert line_of("ResNet-50", "unsupervised") == [77, 63, 30, 44, 81]
    assert line_of("ResNet-50", "one-shot") == [77, 73, 74, 66, 88]
    assert line_of("VGG-19", "one-shot") == [62, 48, 57, 46, 36]
    resnet = [line["value"] for line in read("t4_5")[1] if line["network"] == "ResNet-50"]
    assert resnet == ["42.34", "63.36", "36.45", "34.31", "64.49", "40.72"]
    sparsity = {line["network"]: line["value"] for line in read("numbers")[1] if line["row"] == "S4.3"}
    assert sparsity == {"VGG-16": "92", "VGG-19": "92", "VGG-16 BN": "90", "VGG-19 BN": "90", "ResNet-50": "71"}


def test_numbers_of_chapter_5():
    assert find("t5_3", network="VGG-16", method="NMF V", category="mean") == "76.2"
    assert find("t5_3", network="ResNet-50", method="NMF V", category="mean") == "53.3"
    single = [line for line in read("t5_1")[1] if line["search"] == "single"]
    assert len(single) == 24
    assert [x["value"] for x in single if x["method"] == "NMF V·U"] == ["73.4", "74.8", "83.0", "83.2"]
    doubtful = [x for x in single if x["legible"] != "yes"]
    assert [(x["method"], x["network"], x["data"]) for x in doubtful] == [("R-MAC", "ResNet-50", "Oxford5k")]
    nmf = [line["value"] for line in read("t5_2")[1] if line["method"] == "NMF"]
    assert nmf == ["49.3", "67.6", "53.2", "68.7"]
    regions = [x["value"] for x in read("numbers")[1] if x["quantity"].startswith("regions at aspect")]
    assert regions == ["14", "20", "26"]
