"""Environmental sounds as pictures: recordings of the data folder become log-mel spectrograms.

Sound is read, resampled and transformed by librosa. The data sets lie in $NMFCORE_DATA as their authors pack them.
"""

import csv
import math
import os
import warnings
from dataclasses import dataclass
from numbers import Integral

import librosa
import numpy as np
import torch

from nmfcore.networks import data_folder

from .datasets import LabeledImages, first_of_each

DECIBELS = 80  # what is fainter than this below a clip's maximum is black


@dataclass(frozen=True)
class _Layout:
    """Where a data set keeps its list of clips and its recordings, both inside the data folder."""
    title: str
    table: str  # the CSV file
    audio: str
    file: str  # names of columns
    label: str
    subset: str | None  # the column that is "True" for the clips taken; None takes all
    folds: dict[str, tuple[int, ...]]  # of each split
    home: str  # what a reader without the data is told


SOUNDS = {
    "urban_sounds": _Layout(
        "UrbanSound8K", "UrbanSound8K/metadata/UrbanSound8K.csv", "UrbanSound8K/audio/fold{fold}/{file}",
        "slice_file_name", "class", None, {"train": tuple(range(1, 9)), "test": (9, 10)},
        "request UrbanSound8K on its authors' page, urbansounddataset.weebly.com, and unpack it there"),
    "esc10": _Layout(
        "ESC-10", "ESC-50/meta/esc50.csv", "ESC-50/audio/{file}",
        "filename", "category", "esc10", {"train": (1, 2, 3, 4), "test": (5,)},
        "take ESC-50, which holds ESC-10, from github.com/karolpiczak/ESC-50 and unpack it there as ESC-50"),
}


def labeled_sounds(name: str, *, split: str = "train", per_class: int | None = None, bands: int = 64,
                   frames: int = 64, seconds: float = 4.0, rate: int = 16_000) -> LabeledImages:
    """"urban_sounds" (UrbanSound8K) or "esc10" as log-mel spectrograms, images (n, 1, bands, frames).

    Row 0 is the lowest of the mel bands between 0 and rate/2 Hz, and time goes to the right. Each clip becomes mono,
    `rate` samples per second, and is cut or padded with zeros to `seconds`. Grey 255 is the clip's own maximum, 0 is
    80 dB below it or less, linear in decibels between, so how loud a recording is does not matter; silence is 0
    throughout. Frames are round(seconds·rate/frames) samples apart, under Hann windows at least twice as long. The
    thesis prints no parameters of its spectrograms: all of these are choices of this package.

    split: "train" or "test", by the folds of the data set, 1–8 and 9–10 as in the thesis, for "esc10" 1–4 and 5.
    Clips are in the order of the data set's list, classes in name order. per_class: at most so many of each class,
    the first.

    Raises ValueError for an unknown name or split, impossible parameters, data that is not there, a damaged list,
    and a recording that is missing or cannot be read; FileNotFoundError when NMFCORE_DATA is not a folder.
    """
    if name not in SOUNDS:
        raise ValueError(f"no labeled sounds {name!r}; there are {', '.join(SOUNDS)}")
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is neither 'train' nor 'test'")
    hop, window, filters = _transform(bands, frames, seconds, rate)
    layout, data = SOUNDS[name], data_folder()
    if data is None or not (data / layout.table).is_file():
        raise ValueError(f"{layout.title} is not on this machine: no {layout.table} in NMFCORE_DATA "
                         f"({os.environ.get('NMFCORE_DATA') or 'not set'}); {layout.home}")
    rows, classes = _rows(data / layout.table, layout, split)
    labels = [classes.index(label) for _, _, label in rows]
    kept = first_of_each(torch.arange(len(rows)), labels, classes, "", per_class)  # chosen before they are decoded
    files = [data / layout.audio.format(fold=rows[i][1], file=rows[i][0]) for i in kept.images.tolist()]
    images = np.stack([_spectrogram(_clip(file, seconds, rate, layout), frames, hop, window, filters)
                       for file in files])  # (n, bands, frames)
    folds = layout.folds[split]
    source = (f"{len(files):,} clips of {layout.title}, {split} (fold{'s' * (len(folds) > 1)} "
              f"{'–'.join(str(fold) for fold in sorted({folds[0], folds[-1]}))}), as log-mel spectrograms of {bands} "
              f"bands × {frames} frames: {seconds:g} s at {rate:,} Hz, window {window:,}, hop {hop:,}, {DECIBELS} dB")
    return LabeledImages(torch.from_numpy(images)[:, None], kept.labels, classes, source)


def _transform(bands, frames, seconds, rate):
    """Hop and window in samples, and the mel filters (bands, window/2 + 1)."""
    for name, value in (("bands", bands), ("frames", frames), ("rate", rate)):
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value}; take a whole number, at least 1")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds={seconds}; take a positive number, such as 4.0")
    hop = round(seconds * rate / frames)
    if hop < 1:
        raise ValueError(f"frames={frames} are more than the {seconds * rate:g} samples of {seconds:g} s at "
                         f"{rate} Hz; take fewer")
    window = 2 ** math.ceil(math.log2(2 * hop))  # every sample lies well inside some frame
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is an error below
        filters = librosa.filters.mel(sr=rate, n_fft=window, n_mels=bands)
    if not filters.any(axis=1).all():
        raise ValueError(f"bands={bands} are narrower than a window of {window} samples resolves; take fewer bands, "
                         f"or fewer frames than {frames}, which makes it longer")
    return hop, window, filters


def _rows(table, layout, split):
    """(file, fold, class) of the split's clips, and the classes of the whole data set."""
    columns = [layout.file, "fold", layout.label, *filter(None, [layout.subset])]
    allowed = {fold for folds in layout.folds.values() for fold in folds}
    cure = f"put back the file that came with {layout.title}"
    try:
        with open(table, newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines, strict=True)
            absent = [column for column in columns if column not in (reader.fieldnames or ())]
            listed = [(reader.line_num, *(row[column] for column in columns)) for row in reader if not absent]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{table} is damaged ({error}); {cure}") from error
    if absent:
        raise ValueError(f"{table} has no column {', '.join(absent)}; {cure}")
    rows = []
    for line, file, fold, label, *taken in listed:
        if not file or not label or fold not in map(str, allowed) or taken not in ([], ["True"], ["False"]):
            raise ValueError(f"{table}, line {line}, is damaged ({file=}, {fold=}, {label=}, subset={taken}); {cure}")
        if taken != ["False"]:
            rows.append((file, int(fold), label))
    classes = tuple(sorted({label for _, _, label in rows}))
    rows = [row for row in rows if row[1] in layout.folds[split]]
    if not rows:
        raise ValueError(f"{table} lists no clips of folds {layout.folds[split]}; {cure}")
    return rows, classes


def _clip(file, seconds, rate, layout):
    """(samples,) float32, mono: at most so many seconds."""
    try:
        with open(file, "rb") as opened:  # given a path, librosa would try other decoders, and warn, before it fails
            sound, _ = librosa.load(opened, sr=rate, mono=True, duration=seconds)
        if not sound.size:
            raise ValueError("no samples")
    except Exception as error:  # damaged files make libsndfile and librosa raise errors of many kinds
        raise ValueError(f"{file} is missing or cannot be read as sound ({error}); unpack {layout.title} anew, or: "
                         f"{layout.home}") from error
    return sound


def _spectrogram(sound, frames, hop, window, filters):
    """(bands, frames) uint8 of a clip (samples,)."""
    peak = np.abs(sound).max()
    if peak == 0:
        return np.zeros((len(filters), frames), dtype=np.uint8)
    sound = librosa.util.fix_length(sound / peak, size=hop * frames)  # scaled, lest powers of faint clips underflow
    power = filters @ np.abs(librosa.stft(sound, n_fft=window, hop_length=hop)[:, :frames]) ** 2
    decibels = librosa.power_to_db(power / power.max(), amin=10 ** (-DECIBELS / 10), top_db=None)  # in [-80, 0]
    return np.round((decibels + DECIBELS) * (255 / DECIBELS)).astype(np.uint8)
