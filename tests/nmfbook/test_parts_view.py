"""The view of parts to take away: it says what the forward passes gave, by mouse, keyboard and address."""

import re
from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nmfbook.experiments.pair_ablation import measure_subsets
from nmfbook.widgets.parts import Parted, parts
from nmfcore import nmf
from nmfcore.heatmaps import overlay
from nmfcore.importance import shapley_values

RNG = np.random.default_rng(0)
NASTY = "a <cat> & 'dog'"


def parted(rank=3, classes=(NASTY, "fox", "owl"), size=(4, 6)):
    """A picture, each part of it in another column, and probabilities that sum to less than one."""
    maps = np.zeros((rank, *size))
    for k in range(rank):
        maps[k, :, k] = 0.5 + 0.5 * k / rank
    probabilities = RNG.dirichlet(np.ones(len(classes) + 1), 2 ** rank)[:, :-1]
    return Parted(RNG.integers(0, 256, (80, 120, 3), dtype=np.uint8), maps, classes, probabilities)


PHOTOGRAPHS = {NASTY: parted(), "other": parted(2, ("fox", "owl"))}


@pytest.fixture
def opened(show_page):
    def open_page(address="", copies=1, photographs=PHOTOGRAPHS):
        view = parts(photographs, caption="Parts & <answers>")
        return show_page(*copies * [view], address=address).locator(".nmf-parts").first
    return open_page


def check(box, name, away=()):
    """Everything in sight is what PHOTOGRAPHS hold for a photograph without some of its parts (from 1)."""
    photograph = PHOTOGRAPHS[name]
    before, now = (photograph.probabilities[i] for i in (0, sum(2 ** (k - 1) for k in away)))
    rank = len(photograph.maps)
    assert box.locator("select").input_value() == name
    pressed = box.locator(".legend button").evaluate_all("buttons => buttons.map(b => b.ariaPressed)")
    assert pressed == [str(k + 1 not in away).lower() for k in range(rank)]
    assert box.get_by_role("button", name="all parts back").is_enabled() == bool(away)
    first = photograph.probabilities[0].argmax()
    shapley = shapley_values(torch.as_tensor(photograph.probabilities[:, first]))
    values = [float(text.replace("−", "-")) for text in box.locator(".legend small").all_inner_texts()]
    assert values == pytest.approx((100 * shapley).tolist(), abs=0.0511)

    labels, told = box.locator(".bars span"), box.locator(".bars data").all_inner_texts()
    assert labels.all_inner_texts() == list(photograph.classes)
    assert [float(text.split()[0]) for text in told[::2]] == pytest.approx((100 * now).tolist(), abs=0.051)
    if away:
        points = [float(text.replace("−", "-")) for text in told[1::2]]
        assert points == pytest.approx((100 * (now - before)).tolist(), abs=0.0511)
    else:
        assert told[1::2] == [""] * len(now)
    widths, marks = box.locator(".bars div").evaluate_all(
        "bars => [0, 1].map(i => bars.map(bar => parseFloat(bar.children[i].style[i ? 'left' : 'width'])))")
    assert widths == pytest.approx((100 * now).tolist(), abs=0.01)
    assert marks == pytest.approx((100 * before).tolist(), abs=0.01)
    assert box.locator(".bars .answer").all_inner_texts() == [photograph.classes[now.argmax()]]

    words = box.locator("p").inner_text().replace("\u00a0", " ")
    first, answer = (photograph.classes[p.argmax()] for p in (before, now))
    if away:
        assert re.match(rf"Without parts? {' and '.join(map(str, away))}: ", words)
        assert f"{first} {100 * now[before.argmax()]:.1f} %, untouched {100 * before.max():.1f} %" in words
        assert words.endswith("The answer stays." if answer == first else
                              f"The answer is now {answer}, {100 * now.max():.1f} %.")
    else:
        assert words == f"Untouched: {first} {100 * before.max():.1f} %."
    left = [str(k + 1) for k in range(rank) if k + 1 not in away]
    said = box.locator(".picture").get_attribute("aria-label")
    assert said.startswith(name) and re.findall(r"\d+", said.partition("left: ")[2]) == left
    check_colours(box, photograph, away)


def check_colours(box, photograph, away):
    """The canvas, laid on grey, is what `overlay` makes of the maps of the parts that are left."""
    drawn = box.locator("canvas").evaluate(
        "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    maps = torch.as_tensor(np.array(photograph.maps))
    height, width = maps.shape[1:]
    assert drawn[:2] == [width, height]
    color, alpha = np.split(np.reshape(drawn[2:], (height, width, 4)) / 255, [3], axis=2)
    for k in away:
        maps[k - 1] = 0
    white = overlay(torch.ones(1, 3, height, width, dtype=maps.dtype), maps[None])[0].movedim(0, 2).numpy()
    assert alpha * color + 1 - alpha == pytest.approx(white, abs=0.02)  # an alpha below one rounds colours


def test_parts_go_and_come_back_by_mouse(opened):
    box = opened()
    check(box, NASTY)
    button = box.get_by_role("button", name="part 2")
    button.click()
    check(box, NASTY, [2])
    picture = box.locator(".picture")
    size = picture.bounding_box()
    for column, away in ((0, [1, 2]), (1, [1]), (2, [1, 3]), (5, [1, 3]), (0, [3])):  # nothing is in column 5
        picture.click(position={"x": (column + 0.5) * size["width"] / 6, "y": 0.7 * size["height"]})
        check(box, NASTY, away)
    box.get_by_role("button", name="all parts back").click()
    check(box, NASTY)


def test_parts_go_and_come_back_by_keyboard(opened):
    box = opened()
    keys = box.page.keyboard
    box.get_by_role("button", name="part 1").focus()
    for key, away in (("Space", [1]), ("Tab", [1]), ("Enter", [1, 2]), ("Shift+Tab", [1, 2]), ("Enter", [2])):
        keys.press(key)
        check(box, NASTY, away)
    box.get_by_role("button", name="all parts back").press("Enter")
    check(box, NASTY)
    keys.press("Space")  # the focus has not been lost
    check(box, NASTY, [1])
    box.locator("select").select_option("other")
    check(box, "other")


def test_the_address_holds_what_is_seen(opened):
    box = opened()
    box.locator("select").select_option("other")
    for k in (2, 1):
        box.get_by_role("button", name=f"part {k}").click()
    address = box.page.evaluate("location.hash")
    assert address == "#parts.photograph=other&parts.away=1%2C2"
    check(opened(address), "other", [1, 2])
    box.locator("select").select_option(NASTY)
    assert box.page.evaluate("location.hash") == ""
    box.page.evaluate("location.hash = 'parts.photograph=other&parts.away=2,7,x'")
    box.page.wait_for_function("document.querySelector('select').value == 'other'")
    check(box, "other", [2])
    for nonsense in ("#end", "#parts.photograph=dog&parts.away=1", "#parts.away=1"):
        check(opened(nonsense), NASTY)


def test_two_views_on_a_page_do_not_meddle(opened):
    first = opened(copies=2)
    second = first.page.locator(".nmf-parts").nth(1)
    second.get_by_role("button", name="part 3").click()
    check(first, NASTY)
    check(second, NASTY, [3])


def test_the_picture_arrives(opened):
    box = opened()
    assert box.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 120
    assert box.locator("figcaption").inner_text() == "Parts & <answers>"


def test_the_subsets_are_those_of_the_forward_passes():
    """Each line against the activations without these pairs, put through the rest of the network by hand."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    second = nn.Sequential(nn.Flatten(), nn.Linear(8 * 35, 4))
    model, image = nn.Sequential(first, second).eval(), torch.rand(1, 3, 5, 7)
    maps, probabilities = measure_subsets(model, "0", image, rank=3)
    with torch.no_grad():
        A = first(image)[0].flatten(1)  # (channels, positions)
        assert maps.shape == (3, 5, 7) and probabilities.shape == (8, 4)
        assert torch.allclose(probabilities[0], model(image).softmax(1)[0], atol=1e-6)
        factors = nmf(A.T, 3)
        assert torch.allclose(maps.flatten(1), (factors.U / factors.U.amax(0)).T, atol=1e-5)
        for line in range(8):
            left = A.clone()
            for k in range(3):
                if line & 2 ** k:
                    left -= torch.outer(factors.V[k], factors.U[:, k])
            expected = second(left.clamp(min=0).reshape(1, 8, 5, 7)).softmax(1)[0]
            assert torch.allclose(probabilities[line], expected, atol=1e-5)


def test_the_view_carries_the_picture_it_was_given():
    picture = parted().picture
    html = parts({"x": Parted(picture, np.ones((1, 1, 1)), ["a"], [[0.5], [0.25]])}, caption="c").data
    file = BytesIO()
    Image.fromarray(picture).save(file, format="webp", quality=85)
    assert b64encode(file.getvalue()).decode() in html and html == parts(
        {"x": Parted(picture, np.ones((1, 1, 1)), ["a"], [[0.5], [0.25]])}, caption="c").data


GOOD = {"picture": np.zeros((4, 4, 3), np.uint8), "maps": np.ones((1, 2, 2)), "classes": ["a"],
        "probabilities": [[0.5], [0.1]]}


@pytest.mark.parametrize("name, change, message", [
    (" ", {}, "a photograph needs a name"),
    ("x", {"picture": np.zeros((4, 4))}, r"'x' must be \(H, W, 3\) uint8, got shape \(4, 4\)"),
    ("x", {"maps": np.ones((2, 2))}, r"'x': maps must be \(K, h, w\) with K from 1 to 5, got shape \(2, 2\)"),
    ("x", {"maps": np.ones((6, 2, 2))}, r"got shape \(6, 2, 2\)"),
    ("x", {"maps": 2 * np.ones((1, 2, 2))}, r"'x': maps must lie in \[0, 1\], got 2 to 2"),
    ("x", {"maps": np.full((1, 2, 2), np.nan)}, r"maps must lie in \[0, 1\]"),
    ("x", {"maps": np.ones((2, 2, 2))}, r"2 parts and 1 classes need probabilities of shape \(4, 1\), got \(2, 1\)"),
    ("x", {"classes": []}, "0 classes need probabilities"),
    ("x", {"probabilities": [[0.5], [1.5]]}, r"'x': probabilities must lie in \[0, 1\]"),
    ("x", {"classes": ["a", "b"], "probabilities": [[0.5, 0.6], [0.1, 0.1]]}, "sum to at most 1 in each of 2 lines"),
    ("x", {"probabilities": [[0.5], [np.nan]]}, r"probabilities must lie in \[0, 1\]"),
])
def test_bad_photographs(name, change, message):
    with pytest.raises(ValueError, match=message):
        parts({name: Parted(**GOOD | change)}, caption="c")


def test_no_photograph():
    with pytest.raises(ValueError, match="at least one photograph"):
        parts({}, caption="c")
