"""Splits by fold, pure tones in their mel bands, clips of every kind, damaged folders, and the real ESC-10."""

import csv
import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch

from nmfbook.sounds import labeled_sounds

REAL = os.environ.get("NMFCORE_DATA")
URBAN = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
ESC = ("filename", "fold", "target", "category", "esc10")


def tone(hertz=1000.0, seconds=0.5, rate=16_000):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate) / 2


def write_clip(file, sound, rate=16_000, subtype="FLOAT"):
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, sound, rate, subtype=subtype)


def write_table(file, columns, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([columns, *rows])


def write_urban(folder):
    """A siren (500 Hz) and a drill (3000 Hz) in each of the ten folds."""
    rows = []
    for fold in range(1, 11):
        for number, name, hertz in ((8, "siren", 500), (4, "drilling", 3000)):
            file = f"{fold}-{number}.wav"
            write_clip(folder / f"UrbanSound8K/audio/fold{fold}/{file}", tone(hertz))
            rows.append((file, fold, 0.0, 0.5, 1, fold, number, name))
    write_table(folder / "UrbanSound8K/metadata/UrbanSound8K.csv", URBAN, rows)


def write_esc(folder, sounds, rate=16_000):
    """One recording of class "rain" per sound in fold 1, and one in fold 5."""
    rows = []
    for i, sound in enumerate([*sounds, tone()]):
        write_clip(folder / f"ESC-50/audio/{i}.wav", sound, rate)
        rows.append((f"{i}.wav", 1 if i < len(sounds) else 5, 10, "rain", True))
    write_table(folder / "ESC-50/meta/esc50.csv", ESC, rows)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
    return tmp_path


def pictures(data, *sounds, rate=16_000, **options):
    """(n, bands, frames) of sounds written as a data set and read again."""
    write_esc(data, sounds, rate)
    return labeled_sounds("esc10", **{"seconds": 0.5, "frames": 8, **options}).images[:, 0]


def complaints(recwarn):
    """Warnings, but those that librosa 0.11 causes by importing what Python deprecates."""
    return [warning for warning in recwarn if warning.category is not DeprecationWarning]


# --- the two data sets --------------------------------------------------------------------------------------


def test_urban_sounds_are_split_by_fold(data):
    write_urban(data)
    train, test = (labeled_sounds("urban_sounds", split=split, seconds=0.5) for split in ("train", "test"))
    assert train.images.shape == (16, 1, 64, 64) and train.images.dtype == torch.uint8
    assert test.images.shape == (4, 1, 64, 64) and train.images.is_contiguous()
    assert train.classes == test.classes == ("drilling", "siren")
    assert train.labels.dtype == torch.int64 and train.labels.tolist() == [1, 0] * 8
    assert train.inputs().min() == -1 and train.inputs().max() == 1
    strongest = train.images[:, 0].float().mean(2).argmax(1)  # the drill sounds higher
    assert strongest[train.labels == 0].min() > strongest[train.labels == 1].max()
    assert train.source == ("16 clips of UrbanSound8K, train (folds 1–8), as log-mel spectrograms of 64 bands × 64 "
                            "frames: 0.5 s at 16,000 Hz, window 256, hop 125, 80 dB")
    assert test.source.startswith("4 clips of UrbanSound8K, test (folds 9–10), as")


def test_clips_are_found_in_the_folder_of_their_fold(data):
    write_urban(data)
    write_clip(data / "UrbanSound8K/audio/fold3/3-8.wav", np.zeros(8000))
    images = labeled_sounds("urban_sounds", seconds=0.5).images
    assert (images.flatten(1).amax(1) == 0).nonzero().flatten().tolist() == [4]  # fold 3 is third in the list


def test_esc10_is_the_marked_part_of_esc50(data):
    rows = []
    for fold in range(1, 6):
        for target, name, taken in ((0, "sea", True), (1, "ant", False), (2, "rain", True)):
            write_clip(data / f"ESC-50/audio/{fold}-{target}.wav", tone())
            rows.append((f"{fold}-{target}.wav", fold, target, name, taken))
    write_table(data / "ESC-50/meta/esc50.csv", ESC, rows)
    train, test = (labeled_sounds("esc10", split=split, seconds=0.5, frames=8) for split in ("train", "test"))
    assert train.classes == test.classes == ("rain", "sea")
    assert train.labels.tolist() == [1, 0] * 4 and test.labels.tolist() == [1, 0]
    assert train.source.startswith("8 clips of ESC-10, train (folds 1–4), as")
    assert test.source.startswith("2 clips of ESC-10, test (fold 5), as")


def test_the_first_of_each_class_alone_are_read(data):
    write_esc(data, [tone(hertz) for hertz in (500, 1000, 2000, 4000)])
    rows = [(f"{i}.wav", 1, 0, name, True) for i, name in enumerate(("rain", "rain", "rain", "ant"))]
    write_table(data / "ESC-50/meta/esc50.csv", ESC, rows)
    every = labeled_sounds("esc10", seconds=0.5)
    (data / "ESC-50/audio/2.wav").unlink()
    few = labeled_sounds("esc10", per_class=2, seconds=0.5)
    assert few.labels.tolist() == [1, 1, 0] and torch.equal(few.images, every.images[[0, 1, 3]])
    assert few.source.startswith("3 clips of ESC-10, train")
    with pytest.raises(ValueError, match="per_class=0; take at least 1"):
        labeled_sounds("esc10", per_class=0)


# --- the spectrogram ----------------------------------------------------------------------------------------


def test_a_tone_lands_in_its_mel_band_at_its_time(data):
    centres = librosa.mel_frequencies(66, fmin=0, fmax=8000)[1:-1]
    bands = [5, 20, 40, 60]
    images = pictures(data, *(tone(centres[band], 1.0) for band in bands), seconds=1.0)
    assert images[:, :, 3].argmax(1).tolist() == bands and (images.flatten(1).amax(1) == 255).all()
    late = np.concatenate([np.zeros(12_000), tone(1000, 0.25)])  # the last quarter of a second
    [image] = pictures(data, late, seconds=1.0)
    assert image[:, :5].max() == 0 and image[:, 7].max() == 255


def test_decibels_agree_with_librosa(data):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000) * np.linspace(0, 1, 16_000) ** 3
    [image] = pictures(data, noise, seconds=1.0, bands=40, frames=32)
    power = librosa.feature.melspectrogram(y=noise.astype(np.float32), sr=16_000, n_fft=1024, hop_length=500,
                                           n_mels=40)[:, :32]
    expected = librosa.power_to_db(power, ref=np.max, amin=1e-30, top_db=80) + 80
    assert np.abs(image.numpy() * (80 / 255) - expected).max() <= 40 / 255 + 1e-3  # half a grey level
    assert 0 < (image == 0).sum() < 100  # some of it lies below the floor


def test_loudness_does_not_matter(data):
    sound = tone() + 0.1 * np.random.default_rng(0).standard_normal(8000)
    loud, quiet, faint = pictures(data, sound, sound * 2.0**-10, sound * 2.0**-100)
    assert torch.equal(loud, quiet) and torch.equal(loud, faint)


def test_clips_are_cut_and_padded(data):
    noise = np.random.default_rng(0).standard_normal(16_000) / 10
    whole, longer, short, padded = pictures(data, noise[:8000], noise, noise[:2000],
                                            np.concatenate([noise[:2000], np.zeros(6000)]))
    assert torch.equal(whole, longer) and torch.equal(short, padded)
    assert short[:, 4:].max() == 0 and short.max() == 255
    for frames in (7, 50, 64):  # of 8000 samples, 50 alone divide them
        assert pictures(data, noise, frames=frames).shape == (1, 64, frames)
    assert pictures(data, noise, frames=50, seconds=1026 / 16_000, bands=4).shape == (1, 4, 50)  # 50 hops are longer
    assert pictures(data, noise[:3]).shape == (1, 64, 8)


def test_stereo_and_other_rates(data):
    [mono] = pictures(data, tone(1000))
    [stereo] = pictures(data, np.stack([tone(1000) / 2, tone(1000) * 3 / 2], axis=1))
    assert (mono.int() - stereo.int()).abs().max() <= 1
    [silent] = pictures(data, np.stack([tone(1000), -tone(1000)], axis=1))  # the mean of the channels
    assert silent.max() == 0
    for rate in (8_000, 22_050, 48_000):
        [other] = pictures(data, tone(1000, rate=rate), rate=rate)
        assert torch.equal(other[:, 3].argmax(), mono[:, 3].argmax())
    assert pictures(data, tone(5000), rate=16_000).argmax() // 8 > 40


def test_silence_is_black(data, recwarn):
    images = pictures(data, np.zeros(8000), np.concatenate([np.zeros(8000), tone()]), np.full(8000, 0.25))
    assert images[:2].max() == 0 and images[2].max() == 255  # the second sounds only after the cut
    assert not complaints(recwarn)


# --- what cannot be read ------------------------------------------------------------------------------------


def test_data_that_is_not_there(tmp_path, monkeypatch):
    for name, message in (("urban_sounds", r"UrbanSound8K is not .*UrbanSound8K\.csv in NMFCORE_DATA \({}\); request"),
                          ("esc10", r"ESC-10 is not .*esc50\.csv in NMFCORE_DATA \({}\); take ESC-50.*github")):
        monkeypatch.delenv("NMFCORE_DATA", raising=False)
        with pytest.raises(ValueError, match=message.format("not set")):
            labeled_sounds(name)
        monkeypatch.setenv("NMFCORE_DATA", str(tmp_path))
        with pytest.raises(ValueError, match=message.format(tmp_path)):
            labeled_sounds(name)
    with pytest.raises(ValueError, match="no labeled sounds 'birds'; there are urban_sounds, esc10"):
        labeled_sounds("birds")
    with pytest.raises(ValueError, match="split 'val' is neither 'train' nor 'test'"):
        labeled_sounds("esc10", split="val")


@pytest.mark.parametrize("text, message", [
    (b"", "no column filename, fold, category, esc10"),
    (b"filename,fold,category\na.wav,1,rain\n", "no column esc10; put back the file that came with ESC-10"),
    (b"filename,fold,category,esc10\n0.wav,1,rain,True\n0.wav,6,rain,True\n", "line 3, is damaged .*fold='6'.*put"),
    (b"filename,fold,category,esc10\n0.wav,one,rain,True\n", "line 2, is damaged .*fold='one'"),
    (b"filename,fold,category,esc10\n0.wav,1\n", "line 2, is damaged .*label=None"),
    (b"filename,fold,category,esc10\n0.wav,1,rain,yes\n", r"line 2, is damaged .*subset=\['yes'\]"),
    (b"filename,fold,category,esc10\n,1,rain,True\n", "line 2, is damaged .*file=''"),
    (b"filename,fold,category,esc10\n0.wav,1,,True\n", "line 2, is damaged .*label=''"),
    (b'filename,fold,category,esc10\n0.wav,1,"rain,True\n', "is damaged .*unexpected end of data.*put back"),
    (b"filename,fold,category,esc10\n\xff.wav,1,rain,True\n", "is damaged .*utf-8.*put back"),
    (b"filename,fold,category,esc10\n0.wav,5,rain,True\n0.wav,1,ant,False\n", r"no clips of folds \(1, 2, 3, 4\)")])
def test_damaged_tables_are_named(data, text, message):
    write_esc(data, [tone()])
    (data / "ESC-50/meta/esc50.csv").write_bytes(text)
    with pytest.raises(ValueError, match=rf"esc50\.csv.*{message}"):
        labeled_sounds("esc10")


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "no samples", "not finite"])
def test_damaged_recordings_are_named(data, damage, recwarn):
    write_esc(data, [tone(), tone()])
    file = data / "ESC-50/audio/1.wav"
    if damage == "missing":
        file.unlink()
    elif damage in ("empty", "text"):
        file.write_bytes({"empty": b"", "text": b"<html>404</html>"}[damage])
    else:
        write_clip(file, np.full(0 if damage == "no samples" else 9, np.nan))
    with pytest.raises(ValueError, match=r"1\.wav is missing or cannot be read as sound \(.*unpack ESC-10 anew"):
        labeled_sounds("esc10")
    assert not complaints(recwarn)


@pytest.mark.parametrize("options, message", [
    ({"bands": 0}, "bands=0; take a whole number"), ({"frames": 2.5}, r"frames=2\.5; take a whole number"),
    ({"rate": -1}, "rate=-1; take a whole"), ({"seconds": 0}, "seconds=0; take a positive number"),
    ({"seconds": float("nan")}, "seconds=nan"), ({"seconds": float("inf")}, "seconds=inf"),
    ({"frames": 200_000}, "frames=200000 are more than the 64000 samples of 4 s at 16000 Hz; take fewer"),
    ({"bands": 900}, "bands=900 are narrower than a window of 2048 samples resolves; take fewer"),
    ({"frames": 4000}, "bands=64 are narrower than a window of 32 samples")])
def test_impossible_parameters(data, recwarn, options, message):
    write_esc(data, [tone()])
    with pytest.raises(ValueError, match=message):
        labeled_sounds("esc10", **options)
    assert not complaints(recwarn)


@pytest.mark.skipif(REAL is None or not Path(REAL, "ESC-50/meta/esc50.csv").is_file(),
                    reason="ESC-50 is not in NMFCORE_DATA")
def test_real_esc10(monkeypatch):
    monkeypatch.setenv("NMFCORE_DATA", REAL)
    train, test = labeled_sounds("esc10"), labeled_sounds("esc10", split="test")
    assert train.images.shape == (320, 1, 64, 64) and train.labels.bincount().tolist() == [32] * 10
    assert test.images.shape == (80, 1, 64, 64) and test.labels.bincount().tolist() == [8] * 10
    assert len(train.classes) == 10 and {"chainsaw", "rain", "rooster"} < set(train.classes)
    assert (train.images.flatten(1).amax(1) == 255).all()  # no clip is silent
    level = {name: train.images[train.labels == c].float().mean((0, 1)) for c, name in enumerate(train.classes)}
    assert level["helicopter"][:8].mean() > level["helicopter"][30:].mean() + 40  # a rumble: low bands, row 0 first
    assert level["rain"].mean() > level["dog_bark"].mean() + 40  # a bark is short, rain is not
