"""Cost of retrieval: descriptors beside the forward pass they need, and the search of large collections.

    python benchmarks/retrieval.py --quick     seconds: the student, small collections
    python benchmarks/retrieval.py             minutes: VGG-19 where it is in hand, up to a million descriptors
    python benchmarks/retrieval.py --record    keeps data/records/retrieval_benchmark.json

Descriptors: `feature_maps` of the photographs alone, and `describe` of these maps by each method, side by side in one
process, with as many threads as PyTorch takes. What is printed is (forward + describe) / forward, the median of the
repetitions. Search: milliseconds of one query among random descriptors of 512 dimensions, exact and by faiss where it
is installed (`pip install .[faiss]`), how many of the ten best faiss finds, and memory. The descriptors are clustered,
as those of photographs are: without clusters an inverted file has nothing to go by. Nothing is asserted.
"""

import argparse
import os
import resource
import sys
import time

import numpy as np
import skimage.data
import sklearn.datasets
import torch
from torch.nn.functional import interpolate, normalize

from nmfbook import records
from nmfcore import networks
from nmfcore.feature_maps import feature_maps
from nmfcore.index import Index
from nmfcore.retrieval import METHODS, describe

DIMENSIONS = 512
CLUSTER = 100  # descriptors, on average; two of the same have a cosine of about ½
FULL = dict(networks=("vgg19", "student"), side=224, images=64, repeat=3, sizes=(10_000, 100_000, 1_000_000))
QUICK = dict(networks=("student",), side=128, images=8, repeat=1, sizes=(1_000, 10_000))


def photographs(count, side):
    """(count, 3, side, side): crops of embedded photographs, mirrored and scaled."""
    sources = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut(), skimage.data.rocket(),
               *(sklearn.datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg"))]
    generator, found = np.random.default_rng(0), []
    for i in range(count):
        source = sources[i % len(sources)]
        length = int(generator.uniform(0.5, 1) * min(source.shape[:2]))
        y, x = (generator.integers(0, size - length + 1) for size in source.shape[:2])
        crop = torch.from_numpy(source[y:y + length, x:x + length].copy()).permute(2, 0, 1)[None] / 255
        found.append(interpolate(crop, size=(side, side), mode="bilinear", antialias=True)[0])
    return torch.stack(found).clamp(0, 1)


def seconds(call):
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def descriptors(setup):
    """{method: (forward + describe) / forward} of the first network in hand, and which it is."""
    model, preprocess = networks.first_available(setup["networks"])
    images = preprocess(photographs(setup["images"], setup["side"]))
    taken = {method: [] for method in METHODS if method != "cam"}
    for _ in range(setup["repeat"]):
        forward, maps = seconds(lambda: feature_maps(model, images, layer=preprocess.layer, batch_size=8))
        for method in taken:
            more, _ = seconds(lambda method=method, maps=maps: describe(maps, method))
            taken[method].append(1 + more / forward)
    return {method: float(np.median(values)) for method, values in taken.items()}, preprocess.source


def clustered(size):
    """(size, 512), rows of length 1, made in parts so that nothing else of that size is in memory."""
    generator = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(max(1, size // CLUSTER), DIMENSIONS, generator=generator), dim=1)
    vectors = torch.empty(size, DIMENSIONS)
    for part in vectors.split(50_000):
        noise = torch.randn(part.shape, generator=generator) / DIMENSIONS ** 0.5
        part.copy_(normalize(centres[torch.randint(len(centres), part.shape[:1], generator=generator)] + noise, dim=1))
    return vectors


def search(setup):
    """{size: milliseconds of one query, and MB of the descriptors}; with faiss, its share of the ten best, too."""
    found = {}
    for size in setup["sizes"]:
        index = Index(clustered(size), [str(i) for i in range(size)])
        queries = index.descriptors[:21, None]

        def one_by_one(by, index=index, queries=queries):
            taken, places = zip(*(seconds(lambda query=query: index.search(query, top=100, by=by)[1][0, :10].tolist())
                                  for query in queries), strict=True)
            return 1000 * float(np.median(taken[1:])), places

        ms, exact = one_by_one(None)
        found[size] = {"ms": ms, "MB": index.descriptors.numel() * 4 / 1e6}
        try:
            building, by = seconds(index.faiss)
        except ModuleNotFoundError as error:
            print(error)
            continue
        ms, places = one_by_one(by)
        share = float(np.mean([len({*a} & {*b}) / len(a) for a, b in zip(exact, places, strict=True)]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        found[size]["faiss"] = {"ms": ms, "recall": share, "seconds to build": building, "peak GB": peak / 1e9}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true", help="keep what is measured in data/records/")
    options = parser.parse_args()
    setup = QUICK if options.quick else FULL
    origin = records.provenance("cpu") | {"load": [round(value, 1) for value in os.getloadavg()]}
    print(f"{origin['threads']} threads of {origin['cores']}, {origin['processor']}, load {origin['load']}")
    ratios, source = descriptors(setup)
    print(f"{setup['images']} photographs of {setup['side']} pixels, {source}: with descriptors, the forward takes")
    for method, ratio in ratios.items():
        print(f"  {METHODS[method]:8} {ratio:.2f}×")
    times = search(setup)
    for size, one in times.items():
        print(f"  one query among {size:9,} descriptors of {DIMENSIONS}: {one['ms']:.1f} ms, {one['MB']:,.0f} MB")
        if "faiss" in one:
            fast = one["faiss"]
            print(f"      by faiss {fast['ms']:.1f} ms, with {fast['recall']:.1%} of the ten best, built in "
                  f"{fast['seconds to build']:.0f} s; the process has taken {fast['peak GB']:.1f} GB at most")
    if options.record:
        values = records.rounded({"images": setup["images"], "side": setup["side"], "ratios": ratios,
                                  "search": {str(size): one for size, one in times.items()}})
        used = {"network": source, "photographs": "crops of embedded photographs", "descriptors": "random, clustered"}
        parameters = {"profile": "quick" if options.quick else "paper", "seed": 0, "device": "cpu"}
        records.save(records.Record("retrieval_benchmark", parameters, values, used, origin))


if __name__ == "__main__":
    main()
