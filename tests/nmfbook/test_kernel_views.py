"""Views that compute with a kernel, in Binder or on a reader's machine: their cells are executed and pressed."""

import datetime
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea, coffee

from nmfbook import datasets, figures
from nmfbook.build import notebook_of
from nmfcore.heatmaps import heatmaps, overlay
from nmfcore.networks import pretrained

CHAPTER = Path(__file__).resolve().parents[2] / "book/heatmaps.md"


@pytest.fixture
def cell(monkeypatch):
    """The names of the heatmaps chapter's cell with the upload button, after it ran, and what it has displayed."""
    [code] = [cell.source for cell in notebook_of(CHAPTER.read_text(encoding="utf-8")).cells
              if "FileUpload" in cell.source and cell.cell_type == "code"]
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    model, preprocess = pretrained("student")
    names = {"datasets": datasets, "figures": figures, "heatmaps": heatmaps, "overlay": overlay, "model": model,
             "preprocess": preprocess, "seed": 0}
    exec(code, names)
    yield names, shown
    plt.close("all")


def uploaded(name, picture):
    file = BytesIO()
    Image.fromarray(picture).save(file, "jpeg")
    content = file.getvalue()
    return {"name": name, "type": "image/jpeg", "size": len(content), "content": memoryview(content),
            "last_modified": datetime.datetime.now(datetime.timezone.utc)}


def test_uploaded_photographs_are_coloured_and_again_when_the_rank_changes(cell, one_thread):
    names, shown = cell
    names["rank"].value = 2
    assert shown == []  # nothing to colour yet
    photographs = [chelsea(), coffee()]
    names["upload"].value = [uploaded(f"{i}.jpg", picture) for i, picture in enumerate(photographs)]
    names["rank"].value = 4
    assert len(shown) == 2
    for figure, rank in zip(shown, (2, 4), strict=True):
        top, bottom = (np.stack([axis.get_images()[0].get_array() for axis in figure.axes[i: i + 2]]) for i in (0, 2))
        read = datasets.read_images([BytesIO(file["content"]) for file in names["upload"].value])
        np.testing.assert_allclose(top, read.permute(0, 2, 3, 1), atol=1e-6)
        fit = heatmaps(names["model"], read, rank, layer=names["preprocess"].layer, preprocess=names["preprocess"])
        expected = overlay(read, fit.resized(read.shape[-2:])).clamp(0, 1)
        np.testing.assert_allclose(torch.from_numpy(bottom).permute(0, 3, 1, 2), expected, atol=1e-4)
