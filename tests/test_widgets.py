"""The slider over pre-rendered frames: one figure at a time, texts escaped, the same bytes every time."""

import matplotlib

matplotlib.use("agg")

from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from nmfcore.widgets import frames


class Elements(HTMLParser):
    """Start tags with their attributes, the text outside them, and whether every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def figures(n=3):
    made = []
    for k in range(n):
        figure, axis = plt.subplots(figsize=(2, 1))
        axis.plot([0, k, 1])
        made.append(figure)
    return made


def show(n=3, **options):
    return frames(figures(n), **{"labels": [f"K = {k}" for k in range(n)], "alts": [f"curve {k}" for k in range(n)],
                                 "caption": "Curves", **options}).data


@pytest.mark.parametrize("start", [0, 1, 2])
def test_exactly_one_figure_is_visible(start):
    page = Elements(show(start=start))
    assert page.open == []
    shown = [figure["data-label"] for figure in page.of("figure") if "hidden" not in figure]
    assert len(page.of("figure")) == 3 and shown == [f"K = {start}"]
    slider, = page.of("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", str(start))
    assert slider["aria-valuetext"] == shown[0] and slider["aria-label"] == "Curves"
    assert page.texts[0] == shown[0]


def test_every_frame_is_an_embedded_image_with_its_text():
    page = Elements(show())
    assert [image["alt"] for image in page.of("img")] == ["curve 0", "curve 1", "curve 2"]
    assert len({image["src"] for image in page.of("img")}) == 3
    for image in page.of("img"):
        kind, data = image["src"].split(",")
        assert kind == "data:image/webp;base64"
        assert Image.open(BytesIO(b64decode(data))).size == (220, 110)
    assert "http" not in show() and "<script" not in show()
    assert [text for text in page.texts if "Curves" in text] == [f"K = {k}. Curves" for k in range(3)]


def test_texts_are_escaped():
    nasty = "<b>\"K\" & 'M'</b> > 1"
    html = show(1, labels=[nasty], alts=[nasty], caption=nasty)
    page = Elements(html)
    assert "<b>" not in html and {tag for tag, _ in page.tags} == {"div", "label", "output", "input", "figure", "img",
                                                                   "figcaption"}
    assert page.of("img")[0]["alt"] == page.of("figure")[0]["data-label"] == page.of("input")[0]["aria-label"] == nasty
    assert page.texts[0] == nasty


def test_the_script_survives_escaping():
    script = Elements(show()).of("input")[0]["oninput"]
    assert "this.closest('.nmf-frames')" in script and "frame.hidden = i != this.value" in script


def test_the_output_is_the_same_every_time():
    assert show() == show()


def test_figures_are_closed():
    before = plt.get_fignums()
    show()
    assert plt.get_fignums() == before


@pytest.mark.parametrize("options, message", [
    (dict(labels=["a", "b"]), "3 figures need as many labels .* got 2 and 3"),
    (dict(alts=["a", "b"]), "got 3 and 2"),
    (dict(alts=["a", "", "c"]), "got 3 and 2"),
    (dict(alts=["a", " ", "c"]), "got 3 and 2"),
    (dict(start=-1), r"start -1 must lie in 0\.\.2"),
    (dict(start=3), r"start 3 must lie in 0\.\.2"),
])
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        show(**options)
    plt.close("all")


def test_no_figures_at_all():
    with pytest.raises(ValueError, match="0 figures"):
        show(0)
