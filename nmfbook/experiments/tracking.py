"""Tracking (thesis section 6.2, a proposal): do factors stay on the same spot of a scene through a film?

The films are camera moves over photographs, so that it is known where every point of the scene is in every frame. No
experiment of the ledger: the chapter calls what is here.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import psutil
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from nmfcore import nmf
from nmfcore.activations import to_matrix
from nmfcore.heatmaps import factorize
from nmfcore.segmentation import binarize, iou
from nmfcore.streaming import StreamingNMF

from .. import records
from ..annotated import crops
from ..backbones import Backbone
from ..statistics import answer, resampled, spelled

NAMES = ("cup", "flower", "motorcycle", "temple")  # embedded photographs
RANK, SIDE = 4, 224
SIZES = {"quick": (2, 12)}  # profile: moves over each photograph, frames of each
LONGER = (5, 24)  # of all other profiles
KEYS = ("consistency", "tracking")
LENGTHS = (1, 64, 128, 192, 256)  # of films whose factorization's memory is measured, in frames


@dataclass(frozen=True)
class Film:
    """A camera move over a photograph: T frames."""

    frames: Tensor  # (T, 3, SIDE, SIDE)
    masks: Tensor  # (T, 1, SIDE, SIDE) bool: the object
    moves: Tensor  # (T, 2, 3) from a frame's coordinates to the photograph's, both from -1 to 1


def path(run: int, frames: int) -> Tensor:
    """(frames, 2, 3) moves: smooth turns, zooms and pans."""
    generator = np.random.default_rng(run)
    t = np.linspace(0, 1, frames)

    def smooth(least, most):
        wave = sum(generator.normal() / n * np.sin(np.pi * n * t + generator.uniform(0, 2 * np.pi)) for n in (1, 2, 3))
        return least + (most - least) * (wave - wave.min()) / np.ptp(wave)
    angle, size, x, y = smooth(-0.25, 0.25), smooth(0.5, 0.75), smooth(-0.2, 0.2), smooth(-0.2, 0.2)
    rows = [[size * np.cos(angle), -size * np.sin(angle), x], [size * np.sin(angle), size * np.cos(angle), y]]
    return torch.tensor(np.array(rows)).permute(2, 0, 1).float()


def film(name: str, run: int, frames: int) -> Film:
    """One of NAMES along the path of a run."""
    photographs, moves = crops(name), path(run, frames)
    grid = affine_grid(moves, [frames, 3, SIDE, SIDE], align_corners=False)
    whole = torch.cat([photographs.pictures[0], photographs[0].any(0, keepdim=True).float()])
    moved = grid_sample(whole[None].expand(frames, -1, -1, -1), grid, mode="bilinear", padding_mode="reflection",
                        align_corners=False)
    return Film(moved[:, :3].clamp(0, 1), moved[:, 3:] > 0.5, moves)


def films_of(profile: str, seed: int = 0) -> dict[tuple[str, int], Film]:
    """(photograph, run) -> film, the runs of a photograph one after the other."""
    moves, frames = SIZES.get(profile, LONGER)
    return {(name, run): film(name, 1000 * seed + run, frames) for name in NAMES for run in range(moves)}


def described(films: dict[tuple[str, int], Film]) -> str:
    """What the films are, in words."""
    frames = len(next(iter(films.values())).frames)
    return (f"{len(films)} camera moves of {frames} frames over {len(NAMES)} photographs in scikit-image and "
            "scikit-learn")


# --- three ways to factorize a film: maps (T, C, h, w) -> heatmaps (T, RANK, h, w) ----------------------------


def joint(maps: Tensor, seed: int = 0) -> Tensor:
    """One factorization of all frames."""
    heat = factorize(maps, RANK, seed=seed).maps
    assert isinstance(heat, Tensor)  # all frames have one size
    return heat.cpu()


def frame_by_frame(maps: Tensor, seed: int = 0) -> Tensor:
    """Each frame by itself, its factors matched to those of the frame before by the cosines of the rows of V."""
    heat, before = [], None
    for frame in maps:
        factors = nmf(to_matrix(frame[None]), RANK, seed=seed)
        U, V = factors.U, factors.V
        if before is not None:
            _, order = linear_sum_assignment(-(before @ V.mT).cpu().numpy())
            U, V = U[:, order], V[order]
        heat.append(_folded(U, frame))
        before = V
    return torch.stack(heat).cpu()


def streaming(maps: Tensor, seed: int = 0, forget: float = 0.9) -> Tensor:
    """One frame after the other, none of them kept."""
    stream = StreamingNMF(RANK, forget=forget, seed=seed)
    return torch.stack([_folded(stream.update(to_matrix(frame[None])), frame) for frame in maps]).cpu()


WAYS: dict[str, Callable[..., Tensor]] = {"joint": joint, "frame by frame": frame_by_frame, "streaming": streaming}


def _folded(U, like):
    return U.mT.reshape(len(U.mT), *like.shape[1:])


# --- how well they stay ---------------------------------------------------------------------------------------


def on_the_photograph(heat: Tensor, moves: Tensor, size: int = 56) -> tuple[Tensor, Tensor]:
    """Heatmaps (T, K, size, size) in the photograph's coordinates, and where each frame sees it (T, 1, size, size)."""
    square = torch.cat([moves, torch.tensor([0.0, 0.0, 1.0]).expand(len(moves), 1, 3)], 1)
    grid = affine_grid(torch.linalg.inv(square)[:, :2], [len(heat), 1, size, size], align_corners=False)
    seen = (grid.abs() < 0.95).all(-1)[:, None]
    return grid_sample(heat.float(), grid, mode="bilinear", padding_mode="border", align_corners=False), seen


def correlations(heat: Tensor, moves: Tensor) -> np.ndarray:
    """(T − 1, K) of each factor's maps in a frame and in the next, where both see the scene; 0 for a constant map."""
    placed, seen = on_the_photograph(heat, moves)
    values = []
    for a, b, here in zip(placed, placed[1:], seen[:-1] & seen[1:], strict=False):
        pairs = torch.stack([a[:, here[0]], b[:, here[0]]], 1)  # (K, 2, points)
        values.append([float(torch.corrcoef(pair)[0, 1]) if float(pair.std(dim=1).min()) > 0 else 0.0
                       for pair in pairs])
    return np.array(values)


def consistency(heat: Tensor, moves: Tensor) -> float:
    """The mean of `correlations`."""
    return float(correlations(heat, moves).mean())


def tracking(heat: Tensor, masks: Tensor) -> float:
    """IoU over the later frames of the factor that is best in the first one."""
    predicted = torch.stack(binarize(heat, [(SIDE, SIDE)] * len(heat)))
    chosen = int(iou(predicted[:1], masks[:1])[:, 0].argmax())
    return float(iou(predicted[1:, chosen:chosen + 1], masks[1:])[0, 0])


def features(backbone: Backbone, frames: Tensor) -> Tensor:
    """Feature maps (T, C, h, w)."""
    device = next(backbone.model.parameters()).device
    maps = backbone.maps(backbone.preprocess(frames.to(device)), batch_size=4)
    assert isinstance(maps, Tensor)  # all frames have one size
    return maps


def measure_films(backbone: Backbone, films: dict[tuple[str, int], Film], seed: int = 0
                  ) -> tuple[dict[str, dict[str, list[float]]], dict[tuple[str, str], Tensor]]:
    """{way: {"consistency", "tracking": [film by film]}}, and heatmaps of each photograph's first film by way."""
    results: dict[str, dict[str, list[float]]] = {way: {key: [] for key in KEYS} for way in WAYS}
    heatmaps = {}
    for (name, run), film in films.items():
        maps = features(backbone, film.frames)
        for way, factorized in WAYS.items():
            heat = factorized(maps, seed=seed)
            results[way]["consistency"].append(consistency(heat, film.moves))
            results[way]["tracking"].append(tracking(heat, film.masks))
            if run == 0:
                heatmaps[name, way] = heat
    return results, heatmaps


def samples(values: Sequence[float]) -> np.ndarray:
    """(1 + draws,) mean in %, and with photographs drawn anew: films of one photograph are not independent."""
    return resampled(100 * np.array(values).reshape(len(NAMES), -1).mean(1))


def gap(results: dict, more: str, less: str, key: str) -> np.ndarray:
    """(1 + draws,) by how much one way exceeds another, in points."""
    return samples(results[more][key]) - samples(results[less][key])


def report(results: dict, films: str, label: str, *, recorded: bool = False) -> None:
    """Answers row C6.3 from what `measure_films` found."""
    titles = {"consistency": "correlation with the next frame, %",
              "tracking": "IoU of the chosen factor's mask, later frames, %"}
    words = [answer(gap(results, more, less, key)) for key in KEYS
             for more, less in (("joint", "frame by frame"), ("streaming", "joint"))]
    records.row("C6.3", data=f"{films}; {label}", verdict="measured", recorded=recorded,
                value="; ".join(f"{title}: " + ", ".join(f"{way} {spelled(samples(results[way][key]))}" for way in WAYS)
                                for key, title in titles.items()),
                note="Higher jointly than frame by frame: consistency {0}, tracking {2}. Higher in the stream than "
                     "jointly: consistency {1}, tracking {3}.".format(*words))


# --- what has to be kept --------------------------------------------------------------------------------------


def measure_memory() -> dict[str, list[float]]:
    """{way: MB for each of LENGTHS}: how far the memory of a process of its own rises while it factorizes a film."""
    memory = {}
    for way in ("joint", "streaming"):
        with get_context("spawn").Pool(1) as process:
            memory[way] = process.apply(_rises, (way, LENGTHS))
    return memory


def _rises(way, lengths):
    """Lengths must grow, so that what an allocator may keep of one is no more than the next needs."""
    torch.set_num_threads(1)
    _factorize_noise(way, 1)
    process = psutil.Process()
    before, peak, rises = process.memory_info().rss, [0], []

    def watch():
        while True:
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.002)
    threading.Thread(target=watch, daemon=True).start()
    for frames in lengths:
        peak[0] = before
        _factorize_noise(way, frames)
        rises.append((peak[0] - before) / 1e6)
    return rises


def _factorize_noise(way, frames):
    """Frames of 14 × 14 positions and 512 channels."""
    def frame(i):
        return torch.rand(196, 512, generator=torch.Generator().manual_seed(i)) ** 8
    if way == "joint":
        A = torch.empty(frames, 196, 512)
        for i in range(frames):
            A[i] = frame(i)
        nmf(A.flatten(0, 1), RANK, max_iter=10)
    else:
        stream = StreamingNMF(RANK)
        for i in range(frames):
            stream.update(frame(i))
