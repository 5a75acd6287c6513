"""Which training samples have a random label: compression against neighbours, loss, margin, centroids and confident
learning. Ours; the networks are those of `memorizing_networks`.

A score for each sample of a random subset, from the labels trained on alone; then the area under the ROC curve (AUROC)
of "its label was changed". Scores of a layer are measured at every hidden layer, neighbours, centroids and confident
learning also on the inputs; which layer counts is chosen on the other networks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from nmfcore.activations import capture
from nmfcore.memorized import compression_scores, neighbor_scores

from ..claims import OURS, Claim, Scale
from ..ledger import key, with_fields
from ..statistics import bootstrap, mean
from . import data, memorizing_networks
from .generalization import logits_of, margins
from .memorizing_networks import Trained, compressed_layers, hidden_layers

TRAINING, MEASUREMENT = memorizing_networks.TRAINING, 1
K = 50  # neighbours: of 5, 10, 20 and 50 the best on the digits, at p = 0.4 and 0.8 together
COMPONENTS = 100  # of a layer, that the logistic regression of confident learning sees
PENALTY = 0.3  # its C, for features of mean squared length 1: the best on the digits of seven from 0.01 to 10
IMAGES = {"CIFAR-10": memorizing_networks.CIFAR, "Fashion-MNIST": memorizing_networks.FASHION}
LEVELS = (0.4, 0.8)


@dataclass(frozen=True)
class Job:
    """The samples of one network of `memorizing_networks`."""

    data: str
    p: float
    seed: int  # of the network, the subset and the batches
    samples: int = 1000  # that are scored


def jobs() -> list[Job]:
    """The digits first, of which all training samples are scored; then seeds slowest."""
    digits = [Job("digits", p, seed) for seed in range(3) for p in (0.1, 0.2, 0.4, 0.8)]
    return digits + [Job(of["data"], p, seed) for seed in range(5) for of in IMAGES.values() for p in LEVELS]


def network(job: Job) -> memorizing_networks.Job:
    """What has to be trained for a job."""
    fields = {of["data"]: of for of in IMAGES.values()} | {
        "digits": dict(data="digits", width=1 / 8, per_class=100, decay=0.98, precision="float32")}
    return memorizing_networks.Job(p=job.p, seed=job.seed, **fields[job.data])


def needs(job: Job, device: str) -> str | None:
    """What is missing for a job, or None."""
    return memorizing_networks.needs(network(job), device)


def train(job: Job, folder: Path, *, device: str = "cpu") -> Trained:
    """The network, trained only where `memorizing_networks` has not done so, whose folders lie beside `folder`."""
    of, weights = network(job), folder.parent.parent
    name = f"memorizing_networks-{key(of)}"
    (weights.parent / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(weights.parent / "locks" / name):  # as `measuring` locks it
        place = weights / "memorizing_networks" / f"{key(of)}-v{memorizing_networks.TRAINING}"
        place.mkdir(parents=True, exist_ok=True)
        return memorizing_networks.train(of, place, device=device)


# --- scores -----------------------------------------------------------------------------------------------


def measure(job: Job, trained: Trained, *, device: str = "cpu") -> dict:
    """AUROC of each score layer by layer, averaged over layers, and in logistic models of several scores together."""
    given = data.load(job.data, network(job).per_class, device)
    model, labels = trained.model, trained.labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(job.seed))
    places = order[:job.samples].sort().values.to(device)
    inputs, targets = given.inputs[places], labels[places]
    changed = (targets != given.labels[places]).cpu().numpy()
    layers, block = hidden_layers(model), compressed_layers(model)
    features = {"inputs": inputs} | capture(model, layers, inputs)
    scores: dict[str, list] = {method: [compression_scores(model, layer, inputs, targets, method=method, seed=job.seed)
                                        for layer in [*layers, block]] for method in ("nmf", "pca")}
    scores["neighbors"] = [neighbor_scores(rows, targets, K) for rows in features.values()]
    scores["centroids"] = [centroid_scores(rows, targets) for rows in features.values()]
    scores["confident"] = [confident_scores(probabilities(rows, targets, job.seed), targets.cpu().numpy())
                           for rows in features.values()]
    scores["loss"], scores["margin"] = ([values] for values in network_scores(model, inputs, targets))
    columns = {name: np.stack([np.asarray(values, dtype=float) for values in each], 1)
               for name, each in scores.items()}
    others = ["neighbors", "centroids", "confident", "loss", "margin"]
    sets = {"neighbors": ["neighbors"], "neighbors, nmf": ["neighbors", "nmf"],
            "neighbors, pca": ["neighbors", "pca"], "others": others, "others, nmf": [*others, "nmf"]}
    whole = {name: neighbor_scores(_features(model, name, given.inputs), labels, K, of=places)
             for name in ["inputs", *block]}
    return {"changed": changed.mean(), "layers": layers, "block": block,
            "auroc": {name: [roc_auc_score(changed, column) for column in values.T]
                      for name, values in columns.items()},
            "averaged": {title: roc_auc_score(changed, averaged([columns[name] for name in names])) for title, names in
                         {"neighbors": ["neighbors"], "nmf": ["nmf"], "neighbors, nmf": ["neighbors", "nmf"]}.items()},
            "neighbors in the whole set": {name: roc_auc_score(changed, values) for name, values in whole.items()},
            "together": {title: together([columns[name] for name in names], changed, job.seed)
                         for title, names in sets.items()}}


def _features(model, name, inputs):
    """(n, D) of a layer, or the inputs."""
    if name == "inputs":
        return inputs
    return torch.cat([capture(model, name, part)[name].flatten(1) for part in inputs.split(1000)])


def network_scores(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(n,) cross-entropy, and by how much the largest other logit is above that of the label, of each sample."""
    logits = logits_of(model, inputs).double()
    loss = nn.functional.cross_entropy(logits, labels, reduction="none")
    return loss.cpu().numpy(), -margins(logits, labels).cpu().numpy()


def centroid_scores(features: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """(n,) distance to the mean of the other samples with the same label, less that to the nearest mean of another."""
    rows = features.flatten(1).double()
    classes, own = labels.unique(return_inverse=True)
    counts = own.bincount().double()[:, None]
    means = rows.new_zeros(len(classes), rows.shape[1]).index_add(0, own, rows) / counts
    count = counts[own]
    without = (means[own] * count - rows) / (count - 1).clamp(min=1)
    distances = torch.cdist(rows, means).scatter(1, own[:, None], torch.inf)
    return (torch.linalg.vector_norm(rows - without, dim=1) - distances.amin(1)).cpu().numpy()


def probabilities(features: torch.Tensor, labels: torch.Tensor, seed: int) -> np.ndarray:
    """(n, classes) of each label by a logistic regression that has not seen the sample, in five folds."""
    rows = features.flatten(1).double().cpu().numpy()
    rows -= rows.mean(0)
    rows /= np.sqrt((rows ** 2).sum(1).mean())
    components = min(COMPONENTS, rows.shape[1], len(rows) // 2)
    model = make_pipeline(PCA(components, random_state=seed), LogisticRegression(C=PENALTY, max_iter=300))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(model, rows, labels.cpu().numpy(), cv=folds, method="predict_proba")


def confident_scores(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) of confident learning (Northcutt et al. 2021): how improbable a label is, for a label of its class.

    As cleanlab's `get_label_quality_scores(…, adjust_pred_probs=True)`, which is less the lower the more suspect.
    """
    classes, own = np.unique(labels, return_inverse=True)
    thresholds = np.array([probability[own == c, c].mean() for c in range(len(classes))])
    adjusted = probability - thresholds
    adjusted += thresholds.max()
    adjusted /= adjusted.sum(1, keepdims=True)
    return -adjusted[np.arange(len(own)), own]


def averaged(scores: list[np.ndarray]) -> np.ndarray:
    """(n,) mean place in the order by each of some scores [(n, layers), ...], each a mean over its layers."""
    return np.mean([rankdata(values.mean(1)) for values in scores], axis=0)


def together(scores: list[np.ndarray], changed: np.ndarray, seed: int) -> float:
    """AUROC, on held-out samples, of a logistic model of scores [(n, layers), ...] that learns which labels changed.

    In practice nobody knows that. This asks what some scores know that others do not.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    given = cross_val_predict(model, np.concatenate(scores, 1), changed, cv=folds, method="decision_function")
    return float(roc_auc_score(changed, given))


# --- claims -----------------------------------------------------------------------------------------------

TITLES = {"neighbors": "nearest neighbours", "centroids": "class centroids", "confident": "confident learning",
          "nmf": "NMF compression", "pca": "PCA compression", "loss": "loss", "margin": "margin"}


def units(name: str) -> Callable[[list], list]:
    """A function of entries: (p, measurements) of each network on some data whose labels were learned."""
    def networks(entries):
        return [(entry.job["p"], entry.measurements) for entry in with_fields(entries, data=name)]
    return networks


def claims() -> list[Claim]:
    """Over networks with p = 0.4 and 0.8, which count alike."""
    names = {"CIFAR-10": "", "Fashion-MNIST": ", MLP"}
    scales = {"CIFAR-10": "CIFAR-10, JPEG copies of 50,000 images, 1/4 width", "Fashion-MNIST": "Fashion-MNIST, 60,000 "
              "images, full width"}

    def claim(of, name, sentence, statistic, **options):
        where = "" if of == "CIFAR-10" else f"{of}: "
        scale = Scale(f"{scales[of]}; 1,000 samples a network", units(IMAGES[of]["data"]), (5, 10), None)
        return Claim(OURS, f"{name}{names[of]}", where + sentence, "memorized", statistic, (scale,), unit="networks",
                     **options)

    over = "tells changed labels better (difference of AUROC) than"
    return [made for of in IMAGES for made in (
        claim(of, "detects", "the NMF compression of a layer tells changed labels from others (AUROC)",
              _mean(lambda networks: _auroc(networks, "nmf")), threshold=0.5),
        *(claim(of, f"NMF over {other}", f"NMF compression {over} {TITLES[other]}", _over("nmf", other))
          for other in ("pca", "loss", "margin")),
        *(claim(of, f"neighbors over {other}", f"nearest neighbours {over} {TITLES[other]}", _over("neighbors", other))
          for other in ("nmf", "confident", "centroids")),
        claim(of, "adds to neighbors", "a logistic model of neighbours at all layers gains from NMF compression (more "
              "than a hundredth of AUROC)", _mean(_gain("neighbors")), threshold=0.01),
        claim(of, "adds to all", "a logistic model of all scores but compression gains from NMF compression (more than "
              "a hundredth of AUROC)", _mean(_gain("others")), threshold=0.01))]


def at_chosen_layer(networks: list[dict], score: str) -> list[tuple[float, int]]:
    """AUROC of a score in each network, at the layer (its place in the list) that is best on average of the others."""
    table = np.array([measurements["auroc"][score] for measurements in networks])
    chosen = [int(np.delete(table, i, 0).mean(0).argmax()) for i in range(len(table))]
    return [(float(row[place]), place) for row, place in zip(table, chosen, strict=True)]


def _auroc(networks, score):
    return np.array([value for value, _ in at_chosen_layer(networks, score)])


def _mean(values):
    """The mean of values of networks over the levels of p."""
    def statistic(units):
        levels, of_network = np.array([p for p, _ in units]), values([measurements for _, measurements in units])
        return bootstrap(mean, *(of_network[levels == p] for p in sorted({*levels})))
    return statistic


def _over(score, other):
    return _mean(lambda networks: _auroc(networks, score) - _auroc(networks, other))


def _gain(base):
    return lambda networks: np.array([m["together"][f"{base}, nmf"] - m["together"][base] for m in networks])


def synthetic(kind: str) -> list[tuple[Job, dict]]:
    """Made-up measurements on which every claim "holds", "fails" or is "undecided"."""
    sign, spread = {"holds": (1, 0.005), "fails": (-1, 0.005), "undecided": (0, 0.1)}[kind]
    level = {"neighbors": 0.5 + 0.3 * sign, "nmf": 0.5 + 0.2 * sign} | dict.fromkeys(
        ("pca", "loss", "margin", "confident", "centroids"), 0.5)
    found = []
    for job in jobs():
        if job.data != "digits":
            noise = {name: spread * (-1) ** (job.seed + (place > 1)) for place, name in enumerate(level)}
            noise["neighbors"] *= 2 if kind == "undecided" else 1
            found.append((job, {
                "auroc": {name: [0.0, value + noise[name]] for name, value in level.items()},
                "together": {base: 0.8 for base in ("neighbors", "others")} | {
                    f"{base}, nmf": 0.81 + 0.02 * sign + noise["nmf"] for base in ("neighbors", "others")}}))
    return found
