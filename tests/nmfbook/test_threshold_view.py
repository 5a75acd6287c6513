"""The view of a threshold: its masks, numbers and curve are those of torch on the same maps, and it obeys."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_widgets import Elements
from torch.nn.functional import interpolate

from nmfbook.widgets.threshold import threshold
from nmfcore.heatmaps import COLORS

RNG = np.random.default_rng(0)
K, SIZES = 3, {"a <cup>": (48, 60), "rocket": (40, 30)}
PHOTOGRAPHS = {name: RNG.integers(0, 255, (*size, 3), dtype=np.uint8) for name, size in SIZES.items()}
MAPS = [RNG.random((K, 4, 5)) ** 2, RNG.random((K, 7, 3))]
MAPS[1][2] = 0  # a factor that this photograph lacks


def disc(size, radius):
    y, x = np.ogrid[:size[0], :size[1]]
    return (y - size[0] // 2) ** 2 + (x - size[1] // 2) ** 2 <= radius ** 2


REFERENCES = [{"cup": disc((48, 60), 20), "corner": np.pad(np.ones((9, 8), bool), ((0, 39), (0, 52)))},
              {"rocket": disc((40, 30), 11)}]


def made(**options):
    return threshold(**{"photographs": PHOTOGRAPHS, "maps": MAPS, "references": REFERENCES, "caption": "Our <outlines>",
                        **options})


@pytest.fixture
def opened(show_page):
    def open_page(address="", copies=1, **options):
        return show_page(*copies * [made(**options)], address=address).locator(".nmf-threshold").first
    return open_page


def expected(maps, size):
    """The factor's map on the pixels."""
    return interpolate(torch.as_tensor(maps)[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()


def pixels(canvas):
    """(H, W, 4) uint8"""
    width, height, data = canvas.evaluate("canvas => [canvas.width, canvas.height, [...canvas.getContext('2d')"
                                          ".getImageData(0, 0, canvas.width, canvas.height).data]]")
    return np.array(data, dtype=np.uint8).reshape(height, width, 4)


def check(box, i, k, reference, t):
    """Photograph i at threshold t in per cent: what is drawn and said is what follows from its map and outline."""
    name, size = list(SIZES.items())[i]
    heat, truth = expected(MAPS[i][k], size), REFERENCES[i][reference]
    counted = [((heat > step / 100) & truth, (heat > step / 100) | truth) for step in range(100)]
    curve = [shared.sum() / either.sum() for shared, either in counted]

    told = re.fullmatch(r"Factor (\d) above (\d+)\s% of its largest value: (\d+)\s% of the photograph; "
                        r"the outline “(.*)”: (\d+)\s%\. Intersection over union ([\d.]+); at best ([\d.]+), "
                        r"above (\d+)\s%\.", box.locator("p").inner_text()).groups()
    assert (told[0], told[1], told[3]) == (str(k + 1), str(t), reference)
    for text, value in zip([told[2], told[4]], [(heat > t / 100).mean(), truth.mean()], strict=True):
        assert abs(int(text) - 100 * value) <= 0.501
    assert abs(float(told[5]) - curve[t]) < 0.0051 and abs(float(told[6]) - max(curve)) < 0.0051
    assert abs(curve[int(told[7])] - max(curve)) < 1e-9

    drawn = np.array([point.split(",") for point in box.locator("polyline").get_attribute("points").split()], float)
    np.testing.assert_allclose(drawn, np.stack([np.arange(100), 1 - np.array(curve)], 1), atol=2e-3)
    assert box.locator("line").get_attribute("x1") == box.locator("line").get_attribute("x2") == str(t)

    seen = pixels(box.locator(".mask"))
    assert seen.shape[:2] == size
    hue = [int(COLORS[k][j:j + 2], 16) for j in (1, 3, 5)]
    tinted = (np.abs(seen[..., :3].astype(int) - hue).max(2) <= 2) & (seen[..., 3] == 150)  # opacity costs precision
    padded = np.pad(truth, 1, mode="edge")
    neighbours = [padded[a:a + size[0], b:b + size[1]] for a, b in ((0, 1), (2, 1), (1, 0), (1, 2))]
    border = np.any(neighbours != truth, axis=0)
    assert (tinted == ((heat > t / 100) & ~border)).all()
    assert (seen[border, 3] == 255).all() and (seen[border & truth, :3] == 255).all()
    assert (seen[border & ~truth, :3] == 0).all()

    np.testing.assert_allclose(pixels(box.locator(".map"))[..., :3], MAPS[i][k][..., None] * hue, atol=0.51)
    slider = box.locator("[type=range]")
    assert box.locator("output").inner_text() == slider.get_attribute("aria-valuetext") == f"{t}\u00a0%"
    assert box.get_by_role("button", pressed=True).all_inner_texts() == [str(k + 1)]
    assert name in box.locator(".mask").get_attribute("aria-label")


def test_what_is_shown_is_what_torch_says(opened):
    box = opened()
    check(box, 0, 0, "cup", 50)
    box.get_by_role("button", name="2").click()
    box.get_by_role("slider").fill("20")
    check(box, 0, 1, "cup", 20)
    box.get_by_role("combobox", name="outline").select_option("corner")
    check(box, 0, 1, "corner", 20)
    box.get_by_role("combobox", name="photograph").select_option("rocket")
    check(box, 1, 1, "rocket", 20)
    box.get_by_role("button", name="3").click()  # which is nowhere: an empty mask covers nothing
    check(box, 1, 2, "rocket", 20)


def test_by_mouse_and_by_keyboard(opened):
    box = opened()
    slider = box.get_by_role("slider")
    place = slider.bounding_box()
    box.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    box.page.mouse.down()
    box.page.mouse.move(place["x"] + place["width"] / 4, place["y"] + place["height"] / 2, steps=5)
    box.page.mouse.up()
    dragged = int(slider.input_value())
    assert 20 < dragged < 30
    check(box, 0, 0, "cup", dragged)
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight"):
        box.page.keyboard.press(key)
    check(box, 0, 0, "cup", dragged - 1)
    box.page.keyboard.press("Home")
    check(box, 0, 0, "cup", 0)
    box.get_by_role("button", name="1").focus()
    box.page.keyboard.press("Tab")
    box.page.keyboard.press("Space")
    check(box, 0, 1, "cup", 0)
    box.page.keyboard.press("Tab")
    box.page.keyboard.press("Tab")
    box.page.keyboard.press("ArrowDown")
    check(box, 0, 1, "corner", 0)


def test_the_address_holds_what_is_shown(opened):
    box = opened()
    assert "#" not in box.page.url
    box.get_by_role("combobox", name="outline").select_option("corner")
    box.get_by_role("button", name="3").click()
    box.get_by_role("slider").fill("7")
    address = box.page.url.partition("#")[2]
    check(opened(f"#{address}"), 0, 2, "corner", 7)
    check(opened("#threshold.photograph=rocket&threshold.factor=2&threshold.at=3&else=1"), 1, 1, "rocket", 3)
    box.page.evaluate("location.hash = 'threshold.photograph=rocket&threshold.factor=1&threshold.at=99'")
    check(box, 1, 0, "rocket", 99)
    for odd in ("factor=9", "factor=x", "at=100", "at=-1", "outline=none"):
        check(opened(f"#threshold.photograph=a+%3Ccup%3E&threshold.{odd}"), 0, 0, "cup", 50)
    check(opened("#threshold.photograph=toString&threshold.factor=2"), 0, 0, "cup", 50)


def test_two_views_on_a_page(opened):
    first = opened(copies=2)
    second = first.page.locator(".nmf-threshold").nth(1)
    second.get_by_role("button", name="3").click()
    check(second, 0, 2, "cup", 50)
    check(first, 0, 0, "cup", 50)


def test_a_large_photograph_is_made_smaller_and_its_mask_with_it(opened):
    image = Image.fromarray(RNG.integers(0, 255, (800, 1200, 3), dtype=np.uint8))
    truth = np.zeros((800, 1200), bool)
    truth[200:600, :900] = True
    box = opened(photographs={"large": image}, maps=torch.ones(1, 1, 2, 2), references=[{"three quarters": truth}])
    height, width = pixels(box.locator(".mask")).shape[:2]
    assert abs(height * width - 320 ** 2) < 500 and abs(width / height - 1.5) < 0.01
    assert "38\u00a0%. Intersection over union 0.38" in box.locator("p").text_content()


def test_the_page_holds_no_markup_of_others_and_is_the_same_every_time():
    html = made().data
    assert Elements(html.partition("<script>")[0]).of("b") == [] and "<cup>" not in html and "<outlines>" not in html
    assert html == made().data
    assert len(html) < 60_000


@pytest.mark.parametrize("options, message", [
    (dict(photographs={}), "0 photographs need as many maps and references, n ≥ 1, got 2 and 2"),
    (dict(maps=MAPS[:1]), "got 1 and 2"),
    (dict(references=REFERENCES * 2), "got 2 and 4"),
    (dict(photographs={" ": PHOTOGRAPHS["rocket"], "rocket": PHOTOGRAPHS["rocket"]}), "a photograph needs a name"),
    (dict(photographs=PHOTOGRAPHS | {"rocket": np.zeros((40, 30))}), r"'rocket' must be \(H, W, 3\) uint8"),
    (dict(maps=[MAPS[0], MAPS[1][0]]), r"the maps of 'rocket' must be \(K, h, w\) in \[0, 1\], got shape \(7, 3\)"),
    (dict(maps=[MAPS[0], 1.5 * MAPS[1] + 1]), "the maps of 'rocket' must be"),
    (dict(maps=[MAPS[0], MAPS[1] * np.nan]), "the maps of 'rocket' must be"),
    (dict(maps=[MAPS[0], MAPS[1][:2]]), r"maps of \[2, 3\] factors; each needs the same number, at most 8"),
    (dict(maps=[np.zeros((9, 2, 2))] * 2), r"maps of \[9\] factors"),
    (dict(references=[REFERENCES[0], {}]), "'rocket' needs at least one reference mask"),
    (dict(references=[REFERENCES[0], {"rocket": disc((40, 31), 9)}]),
     r"the mask 'rocket' of 'rocket' must have a name and be \(40, 30\) bool, .* got \(40, 31\) of bool"),
    (dict(references=[REFERENCES[0], {"": disc((40, 30), 9)}]), "the mask '' of 'rocket' must have a name"),
    (dict(references=[REFERENCES[0], {"rocket": np.ones((40, 30))}]), "of float64"),
])
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)
