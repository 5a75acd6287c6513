"""The experiments: their jobs, and what training and measuring give, on jobs small enough for a test."""

import copy
import itertools
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import resnet18

from nmfbook import files, ledger, measuring
from nmfbook.architectures import memorization_network
from nmfbook.experiments import (
    data,
    density,
    early_stopping,
    generalization,
    imagenet,
    memorized,
    memorizing_networks,
    retrieval,
    scale,
)
from nmfbook.ledger import EXPERIMENTS, LARGEST, Entry, experiment, key, text_of
from nmfbook.measuring import DIGITS
from nmfbook.records import rounded
from nmfcore import cli
from nmfcore.feature_maps import feature_maps
from nmfcore.precision import average_precision_at
from nmfcore.retrieval import describe, pooled

pytestmark = pytest.mark.usefixtures("one_thread")
STOPPING = early_stopping.Job("digits", 1 / 16, "adam", 1e-3, seed=0, p=0.2, images=200, held_out=0.1, batch=20,
                              every=4, checks=3, precision="float32")
HEAVY = ("IPython myst_nb pooch skimage librosa matplotlib pandas ortools clarabel faiss ipywidgets numba "
         "torchvision").split()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_jobs_are_told_apart_and_begin_with_what_any_machine_has(name, monkeypatch):
    monkeypatch.delenv("NMFCORE_DATA", raising=False)
    jobs = experiment(name).jobs()
    assert len({key(job) for job in jobs}) == len(jobs) == len({*jobs})
    at_hand = [experiment(name).needs(job, "cpu") is None for job in jobs]
    assert at_hand == sorted(at_hand, reverse=True)
    if name != "scale":  # its lines are other experiments', and they have the digits
        assert at_hand[0] and jobs[0].data == "digits"
    assert all("NMFCORE_DATA" in experiment(name).needs(job, "cpu") for job in jobs if "digits" not in job.data)


def test_seeds_count_slowest():
    cifar = [job for job in memorizing_networks.jobs() if job.data == "cifar10_jpeg" and job.width == 1 / 4
             and job.precision == "bfloat16"]
    assert [(job.seed, job.p) for job in cifar[:6]] == [(seed, p) for seed in (0, 1) for p in (0, 0.4, 0.8)]
    assert len(cifar) == 60 and len({(job.seed, job.p) for job in cifar}) == 60
    first = [job for job in early_stopping.jobs() if job.data == "cifar10_jpeg"][:12]
    assert [job.seed for job in first] == [i // 3 for i in range(12)] and {job.width for job in first} == {1 / 8}


def test_the_grid_is_whole_and_each_quarter_is_spread_over_it():
    grid = generalization.grid()
    assert len({*grid}) == len(grid) == 96
    for quarter in (grid[i:i + 24] for i in range(0, 96, 24)):
        assert {decay for _, decay, _ in quarter} == {*generalization.DECAYS}
        assert len({(batch, optimizer) for batch, _, optimizer in quarter}) == 8


def test_jobs_go_in_turn_over_the_experiments_and_on_a_gpu_the_widest_first():
    first = [name for name, _ in list(measuring.queue(EXPERIMENTS, "cpu"))[:len(EXPERIMENTS)]]
    assert first == [*EXPERIMENTS]
    widths = [job.width for name, job in measuring.queue(("memorizing_networks",), "cuda")]
    assert widths == sorted(widths, reverse=True) and widths[0] == 1


def test_what_a_full_copy_of_the_data_needs_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    assert data.missing("cifar10") == "cifar10 (cifar-10-batches-py/data_batch_1 in NMFCORE_DATA)"
    assert data.missing("cifar10_jpeg") == "cifar10_jpeg (cifar10/train in NMFCORE_DATA)"
    (tmp_path / "cifar10/train").mkdir(parents=True)
    (tmp_path / "cifar10/test").mkdir()
    assert data.missing("cifar10_jpeg") is None and data.missing("digits") is None
    wide = memorizing_networks.Job("cifar10_jpeg", 1.0, 0.0, 0)
    assert "GPU" in memorizing_networks.needs(wide, "cpu") and memorizing_networks.needs(wide, "cuda") is None


@pytest.mark.parametrize("supported", [True, False])
def test_a_processor_without_bfloat16_leaves_such_jobs_to_another(monkeypatch, tmp_path, supported):
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    for folder in ("cifar10/train", "cifar10/test", "svhn/train"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    narrow = memorizing_networks.Job(p=0.0, seed=0, **memorizing_networks.CIFAR)
    for module, job in ((memorizing_networks, narrow), (memorized, memorized.Job("cifar10_jpeg", 0.4, 0)),
                        (density, density.jobs()[-1])):
        assert (module.needs(job, "cpu") is None) == supported and module.needs(job, "cuda") is None
    few = memorizing_networks.Job(p=0.0, seed=0, **memorizing_networks.SVHN)  # in float32
    assert memorizing_networks.needs(few, "cpu") is None


def test_bfloat16_is_rounded_to_where_a_processor_lacks_it(monkeypatch):
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))]
    torch.manual_seed(0)
    untrained = resnet18().eval()
    maps = {}
    for way in ("float32", "rounded", "native"):
        monkeypatch.setattr(data, "_fast", lambda device, way=way: way == "native")
        model = copy.deepcopy(untrained)
        if way != "float32":
            data.in_bfloat16(model, "cpu")
        maps[way] = feature_maps(model, images, layer="layer3")[0]
    exact, rounded, native = maps.values()
    assert next(model.parameters()).dtype == torch.bfloat16 and torch.equal(rounded, rounded.bfloat16().float())
    assert 0 < (rounded - native).norm() < 0.7 * (exact - native).norm(), "only the order of sums differs"


def test_the_digits_are_held_out_class_by_class():
    given, few = data.load("digits"), data.load("digits", 20)
    assert given.test_labels.bincount().tolist() == [70] * 10 and few.labels.bincount().tolist() == [20] * 10
    assert given.inputs.shape[1:] == (1, 16, 16) and len(given.labels) + 700 == 1797
    assert torch.equal(few.test_inputs, given.test_inputs) and few.sha256 != given.sha256


# --- one job of each --------------------------------------------------------------------------------------


def entry_of(name, job, measurements):
    return ledger.Entry(name, asdict(job), ledger.versions(name), rounded(measurements, DIGITS), {})


def test_a_memorizing_network(tmp_path, monkeypatch):
    monkeypatch.setattr(memorizing_networks, "ranks", lambda width: [0, 1, 4, width])
    job = memorizing_networks.Job("digits_mlp", 1 / 8, 0.5, 0, per_class=5, lr=2e-3, decay=0.99, batch=10,
                                  precision="float32")
    trained = memorizing_networks.train(job, tmp_path)
    found = memorizing_networks.measure(job, trained)
    assert found["converged"] and found["training"][-1] == 1 and len(found["test"]) == found["epochs"]
    assert found["layers"]["names"] == ["fc1", "fc2", "fc3", "fc4"] and found["layers"]["widths"] == [16, 64, 256, 256]
    assert {*found["sequence"]} == {f"{method}, {kind}" for method in memorizing_networks.METHODS
                                    for kind in ("class", "mixed")}
    assert all(0 < part["auc"] <= 1 for part in found["sequence"].values())
    again = memorizing_networks.train(job, tmp_path)
    assert again.history == trained.history and torch.equal(again.labels, trained.labels)
    unfinished = replace(job, epochs=1)
    few = memorizing_networks.measure(unfinished, memorizing_networks.train(unfinished, tmp_path / "few"))
    assert few["converged"] is False and "sequence" not in few


@pytest.mark.parametrize("name, count, compressed", [
    ("cifar10", 11, ["conv4_1", "conv4_2", "conv4_3"]), ("svhn", 8, ["conv4_1", "conv4_2"]),
    ("fashion_mnist", 4, ["fc1", "fc2", "fc3", "fc4"]), ("urban_sounds", 9, ["conv4_1", "conv4_2"])])
def test_layers_of_each_architecture(name, count, compressed):
    model = memorization_network(name, shape=(1, 32, 32), width=1 / 64, pool_stride=2)
    layers = memorizing_networks.hidden_layers(model)
    assert memorizing_networks.compressed_layers(model) == compressed and len(layers) == count
    assert layers == [key for key, _ in model.named_children() if key[:2] in ("co", "fc")]


def test_figures_are_drawn_at_the_scale_of_which_most_is_measured():
    def measured(jobs):
        return [ledger.Entry("memorizing_networks", asdict(job), {}, {"layers": {}} if job.seed < 2 else {}, {})
                for job in jobs]

    jobs = [job for job in memorizing_networks.jobs() if job.seed < 3 and job.p in (0, 0.8)]
    quarter, full = ([job for job in jobs if (job.data, job.width) == ("cifar10_jpeg", width)] for width in (1 / 4, 1))
    label, networks = memorizing_networks.at_scale("CIFAR-10", measured(quarter + full[:2]))
    assert label == ("CIFAR-10, JPEG copies of 50,000 images, 1/4 width; networks: 3 at p = 0, 3 at p = 0.8; "
                     "2 of them did not learn their labels and are left out")
    assert [entry.job["width"] for entry in networks] == [1 / 4] * 4  # those that learned their labels
    assert "full width" in memorizing_networks.at_scale("CIFAR-10", measured(full))[0]
    assert memorizing_networks.at_scale("SVHN", measured(quarter)) == (
        "SVHN, its first 933 training crops, 1/4 width; networks: none yet", [])
    sets = {name: memorizing_networks.at_scale(name, measured(full[:2])) for name in ("CIFAR-10", "SVHN", "sounds")}
    assert memorizing_networks.scales(sets) == f"{sets['CIFAR-10'][0]}. Still being measured: SVHN, sounds."
    del sets["SVHN"], sets["sounds"]
    assert memorizing_networks.scales(sets) == f"{sets['CIFAR-10'][0]}."


def test_the_largest_job_fits_into_a_file():
    """At full width: eleven layers, eleven curves, fifty epochs."""
    ranks = [0, *memorizing_networks.ranks(512), 512]
    curve = {"auc": 0.1234, "accuracy": [0.123] * len(ranks)}  # multiples of 1/500
    shown = {"ranks": ranks, "accuracy": curve["accuracy"]}
    layers = {what: [0.1234] * 11 for what in ("names", "widths", "auc", "limit_auc", "error", "raw_error")}
    text = text_of(entry_of("memorizing_networks", memorizing_networks.jobs()[-1], {
        "training": [0.123] * 50, "test": [0.1234] * 50, "layers": layers | {"curves": {"a": shown, "b": shown}},
        "ranks": ranks, "sequence": {"random_ablation, mixed" + str(i): curve for i in range(8)},
        "ablation": {"random_ablation" + str(i): curve for i in range(3)}}))
    assert len(text) < LARGEST - 800  # for the provenance


def test_early_stopping_goes_on_from_its_last_check_to_the_bit(tmp_path, monkeypatch):
    whole = early_stopping.train(STOPPING, tmp_path / "whole")
    calls, original = [], files.replacing

    def killed(file):
        calls.append(file.name)
        if len(calls) == 5:  # the third check is trained, its state not yet kept
            raise KeyboardInterrupt
        return original(file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "replacing", killed)
        early_stopping.train(STOPPING, tmp_path / "parts")
    resumed = early_stopping.train(STOPPING, tmp_path / "parts")
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        a, b = load_file(one), load_file(other)
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "parts" / "state.safetensors").exists()
    assert {*whole.kept.tolist()}.isdisjoint(whole.held_out.tolist()) and len(whole.held_out) == 20
    found = early_stopping.measure(STOPPING, whole)
    assert found == early_stopping.measure(STOPPING, early_stopping.train(STOPPING, tmp_path / "whole"))
    assert all(len(found[name]) == 3 for name in ("test_loss", "validation_loss", "nmf", "pca", "random_ablation"))
    assert found["epochs_per_check"] == pytest.approx(4 * 20 / 180)


def test_each_epoch_visits_every_image_once():
    kept = torch.arange(50, 90)
    batches = early_stopping._batches(replace(STOPPING, batch=8), kept)
    epochs = [torch.cat([next(batches) for _ in range(5)]) for _ in range(2)]
    assert all(sorted(epoch.tolist()) == kept.tolist() for epoch in epochs) and not torch.equal(*epochs)


def test_stops_are_read_as_the_thesis_reads_them():
    time = torch.arange(40.0)
    run = {"epochs_per_check": 0.5, "test_loss": ((time - 16) ** 2).tolist(), "nmf": (-(time - 20).abs()).tolist(),
           "random_ablation": (-(time - 38).abs()).tolist()}
    assert early_stopping.best_epoch(run) == 8.5 and early_stopping.stop_epoch(run, "nmf") == 10.5
    assert early_stopping.error(run, "nmf") == 2 and early_stopping.stop_epoch(run, "random_ablation") is None
    assert early_stopping.error(run, "random_ablation") == 11.5


def test_a_point_of_the_grid(tmp_path):
    job = generalization.Job("digits", 1 / 16, 20, 0.0, "adam", 0, per_class=20, epochs=3, precision="float32")
    found = generalization.measure(job, generalization.train(job, tmp_path))
    assert 0 <= found["test_error"] <= 1 and {*found["auc"]} == {*generalization.METHODS} and not found["diverged"]
    model = generalization.train(job, tmp_path).model
    weights = [w.clone() for w in model.parameters()]
    given = data.load("digits", 20)
    assert generalization.sharpness(model, given.inputs, given.labels, size=0.0) == pytest.approx(0, abs=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_a_training_that_diverges_is_a_measurement(tmp_path, monkeypatch):
    monkeypatch.setitem(generalization.RATES, "sgd", 1e30)
    job = generalization.Job("digits", 1 / 16, 20, 0.0, "sgd", 0, per_class=5, epochs=3, precision="float32")
    assert generalization.measure(job, generalization.train(job, tmp_path)) == {"diverged": True}


def test_the_curves_of_the_imagenet_figure_on_digits(tmp_path, monkeypatch):
    small = memorizing_networks.Job("digits", 1 / 16, 0, 0, per_class=100, epochs=2, precision="float32")
    monkeypatch.setattr(imagenet.memorizing_networks, "jobs", lambda: [small])
    job = next(job for job in imagenet.jobs() if job.kind == "multi")
    found = imagenet.measure(job, imagenet.train(job, tmp_path))
    assert len(found["accuracy"]) == len(found["baseline"]) == len(found["held_out_accuracy"]) == 10
    assert found["ranks"][0] == 0 and found["ranks"][-1] == 32


def test_intruders_are_counted_where_the_network_knows_them(tmp_path, monkeypatch):
    small = memorizing_networks.Job("digits", 1 / 16, 0, 0, per_class=100, epochs=4, precision="float32")
    monkeypatch.setattr(imagenet.memorizing_networks, "jobs", lambda: [small])
    job = next(job for job in imagenet.jobs() if job.kind == "intruders")
    subject = imagenet.train(job, tmp_path)
    found = imagenet.measure(job, subject)
    hosts, own, taken = (np.array(found[kind]) for kind in ("hosts", "own", "taken"))
    assert found["ranks"] == [1, 4, 12, 32] and hosts.shape == own.shape == taken.shape and len(own) <= 30
    assert (own + taken <= 1).all() and hosts[:, -1].mean() > 0.95 > hosts[:, 0].mean()
    assert own[:, -1].mean() > 0.8 > own[:, 0].mean() and taken[:, 0].mean() > taken[:, -1].mean()
    monkeypatch.setattr(imagenet, "_predicted", lambda subject, x, *_: torch.full((len(x),), 1))
    assert imagenet.measure(job, subject)["own"] == [], "hosts or guests of which the network knows none"


def test_retrieval_on_digits_gives_a_precision_for_each_query_and_choice(tmp_path, monkeypatch):
    small = memorizing_networks.Job("digits", 1 / 16, 0, 0, per_class=100, epochs=3, precision="float32")
    monkeypatch.setattr(retrieval.memorizing_networks, "jobs", lambda: [small])
    nmf = next(job for job in retrieval.jobs() if job.data == "digits")
    photos = retrieval.train(nmf, tmp_path / "job")
    precisions = retrieval.measure(nmf, photos)
    assert {*precisions} == {f"{name}, whole, {dimensions}" for name in ("nmf_v", "nmf_vu") for dimensions in
                             (0, 128, "all")}
    assert all(len(values) == len(photos.collection.queries) == 10 for values in precisions.values())
    peer = retrieval.measure(replace(nmf, method="rmac", rank=0, solver=""), photos)
    names, query = photos.collection.names, photos.collection.queries[0]
    rows = describe(photos.maps, "rmac")
    scores = pooled(rows, None, regional=True) @ pooled([rows[0]], None, regional=True)[0]
    others = [names[i] for i in scores.sort(descending=True, stable=True).indices.tolist() if i]  # the first asks
    assert peer["rmac, whole, 0"][0] == round(1000 * average_precision_at(
        others, query.positives - {query.image}, retrieval.PLACES))
    stopped = retrieval.measure(replace(nmf, solver="mu", iterations=1), photos)
    assert stopped != precisions
    monkeypatch.setitem(retrieval.SIDES, "digits", (16, 8))
    monkeypatch.setattr(retrieval, "_photographs", lambda *_: replace(photos, maps=[each[:, ::2, ::2] for each in
                                                                                   photos.maps]))
    several = retrieval.measure(replace(nmf, method="rmac multi-scale", rank=0, solver=""), photos)
    rows = [torch.cat([own, coarse]) for own, coarse in zip(
        rows, describe([each[:, ::2, ::2] for each in photos.maps], "rmac"), strict=True)]
    scores = pooled(rows, None, regional=True) @ pooled([rows[0]], None, regional=True)[0]
    others = [names[i] for i in scores.sort(descending=True, stable=True).indices.tolist() if i]
    assert several["rmac, whole, 0"][0] == round(1000 * average_precision_at(
        others, query.positives - {query.image}, retrieval.PLACES))
    assert several != peer


def test_shares_of_the_variance_are_those_of_what_was_put_in():
    """Precisions that are sums of effects, with an interaction of known size."""
    rules, directions, ranks, stops = ("whole", "cut"), ("0", "all"), (4, 32), (("hals", None), ("mu", 20))
    table = {}
    for i, j, k, m in itertools.product(range(2), repeat=4):
        mean = 0.5 + 0.03 * (2 * k - 1) + 0.02 * (2 * i - 1) + 0.01 * (2 * j - 1) * (2 * m - 1)
        choice = ("voc", "nmf_v", rules[i], directions[j], ranks[k], *stops[m])
        table[choice] = mean + 0.1 * np.array([1, -1, 2, -2])
    shares = retrieval.variance_shares(table, "voc", "nmf_v")
    assert {name: value for name, (value, _, _) in shares.items()} == pytest.approx(
        {"rank": 9 / 14, "box rule": 4 / 14, "whitened directions": 0, "solver and iterations": 0}, abs=1e-9)
    assert all(low <= value <= high for value, low, high in shares.values())
    with pytest.raises(ValueError, match=r"nmf_vu on voc was not measured at any choice"):
        retrieval.variance_shares(table, "voc", "nmf_vu")
    del table["voc", "nmf_v", "cut", "0", 32, "mu", 20]
    with pytest.raises(ValueError, match=r"not measured at \('cut', '0', 32, \('mu', 20\)\)"):
        retrieval.variance_shares(table, "voc", "nmf_v")


def test_precisions_by_choice_are_means_of_what_was_measured():
    made = [Entry("retrieval", asdict(job), {}, measured, {}) for job, measured in retrieval.synthetic("holds")]
    designs = retrieval.by_choice(made)
    assert {*designs} == {f"{label}, {data}" for label in ("VGG-19", "ResNet-50") for data in retrieval.SIDES}
    of = designs["VGG-19, voc"]
    assert {*of} == {"NMF V", "NMF V·U", "R-MAC"}
    assert {len(levels) for levels in of["NMF V"]} == {len(retrieval.OFFERED)}
    assert len(of["NMF V"]) == 2 * 2 * len(retrieval.RANKS) * len(retrieval.STOPS) and len(of["R-MAC"]) == 2 * 2
    assert of["NMF V"]["cropped", "all", "4", "20 updates", "448 px"] == pytest.approx(0.7)
    assert of["NMF V"]["whole", "none", "64", "converged", "448 px"] == pytest.approx(0.55)
    assert of["R-MAC"]["whole", "none", "", "", "448 px"] == pytest.approx(0.5)
    several = next(entry for entry in made if entry.job["method"] == "rmac" and entry.job["data"] == "voc")
    several = retrieval.by_choice([replace(several, job=several.job | {"method": "rmac" + retrieval.MULTI})])
    assert {levels[-1] for levels in several["VGG-19, voc"]["R-MAC"]} == {"448 and 224 px"}


def test_scale_measures_as_the_experiments_whose_lines_it_has():
    kinds = {type(job) for job in scale.jobs()}
    assert kinds == {memorizing_networks.Job, early_stopping.Job}
    own = {key(job) for module in (memorizing_networks, early_stopping) for job in module.jobs()}
    assert own.isdisjoint(key(job) for job in scale.jobs())


def test_they_run_where_only_torch_and_scikit_learn_are():
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    run = ("from nmfbook import auditing, ledger, measuring\nfrom nmfbook.experiments import data\n"
           "from nmfcore import visualization\nlist(map(ledger.experiment, ledger.EXPERIMENTS))\ndata.load('digits')")
    subprocess.run([sys.executable, "-c", block + run], check=True, cwd=ledger.ROOT)


def test_a_factor_that_is_what_was_outlined_is_found_at_the_rank_that_has_it(tmp_path, monkeypatch):
    from nmfbook import backbones

    trees = experiment("trees")
    job = next(job for job in trees.jobs() if job.data == "digits")
    photos = trees.train(job, tmp_path)
    corner = torch.zeros(2, 3, 12, 16)
    corner[:, 0], corner[:, 1, :6, :8], corner[1, 2, 6:, 8:] = 0.1, 2, 1  # everywhere, upper left, lower right of one
    outlines = [torch.zeros(1, 96, 128, dtype=torch.bool) for _ in corner]
    for outline in outlines:
        outline[:, :48, :64] = True
    pictures = replace(photos.pictures, pictures=photos.pictures.pictures[:2], masks=tuple(outlines))
    monkeypatch.setattr(backbones.Backbone, "maps", lambda *_: corner)
    monkeypatch.setattr(trees, "RANKS", (1, 2, 3))
    found = trees.measure(job, replace(photos, pictures=pictures, outlines=outlines))
    assert {*found} == {"1", "2", "3"} and all(len(starts) == job.starts for starts in found.values())
    assert min(found["3"][0]) > 850 and all(0 <= value <= 1000 for value in found["1"][0])


def test_a_picture_of_what_a_heatmap_covers_is_given_to_it():
    pictures = experiment("pictures")
    features = torch.rand(3, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    heat = torch.zeros(3, 2, 4, 4)
    heat[:, 0, :, :2], heat[:, 1, :, 2:] = 1, 0.5  # left and right halves
    features[:, 0, :, :4] += 5
    features[:, 1, :, 4:] += 5
    regions = pictures.covered(features, heat)
    assert regions.shape == (2, 6) and regions[0, 0] > 2 * regions[0, 1] and regions[1, 1] > 2 * regions[1, 0]
    alike = torch.stack([features[0, :, :, 4:], features[1, :, :, :4]]).roll(2, 3)  # of the right half, of the left
    table = pictures.cosines(pictures.described([*alike]), regions)
    assert table.argmax(1).tolist() == [1, 0]
    one = features[:1, :, :4, :4]  # uniform weights: the plain mean
    torch.testing.assert_close(pictures.covered(one, torch.ones(1, 1, 2, 2)), pictures.described([*one]))


def test_the_blind_comparison_on_digits(tmp_path):
    pictures = experiment("pictures")
    job = replace(next(job for job in pictures.jobs() if job.data == "digits"), steps=2, side=32)
    found = pictures.measure(job, pictures.train(job, tmp_path))
    for judged in pictures.JUDGED:
        table = np.array(found[judged])
        assert table.shape == (3, 3) and np.abs(table).max() <= 1 + 1e-6
    assert found["as they are"] != found["in grey"]


def test_pictures_are_given_to_the_heatmap_of_the_highest_cosine():
    pictures = experiment("pictures")
    table = np.array([[[0.5, 0.2, 0.1], [0.9, 0.1, 0], [0, 0.2, 0.6]]])
    assert pictures.right(table) == pytest.approx(2 / 3)
    assert pictures.margin(table) == pytest.approx((0.3 - 0.8 + 0.4) / 3)
    assert pictures.right(np.concatenate([table, np.eye(3)[None]])) == pytest.approx(5 / 6)


def test_the_search_of_the_command_is_the_one_that_the_ledger_names_best():
    (table,) = retrieval.tables("vgg19")(ledger.entries("retrieval"))
    assert retrieval.winner(table) == (cli.METHOD, cli.RANK)
    of_voc, of_rmac = (table["voc", name, "whole", "0", rank, solver, None].mean()
                       for name, rank, solver in ((cli.METHOD, cli.RANK, "hals"), ("rmac", 0, "")))
    assert of_voc > of_rmac, "not where it was not chosen"
