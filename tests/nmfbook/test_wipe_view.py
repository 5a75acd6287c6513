"""The view of before and after: its divider and its pictures obey mouse, finger, keyboard and address."""

import re
from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nmfbook.widgets.wipe import Wiped, wipe

NASTY = "a <cat> & 'dog'"
COLORS = {"before": (255, 255, 255), "red": (200, 0, 0), NASTY: (0, 0, 200)}  # of a picture before and after


def plain(color, size=(80, 120)):
    return np.full((*size, 3), color, dtype=np.uint8)


def wiped(**changes):
    after = {name: plain(COLORS[name]) for name in ("red", NASTY)}
    return Wiped(**{"before": plain(COLORS["before"]), "after": after, "told": {"red": "half <of> it."},
                    "beside": {"the & style": plain(7, (20, 20))}} | changes)


PICTURES = {NASTY: wiped(), "other": wiped(beside={})}


@pytest.fixture
def opened(show_page):
    def open_page(address="", copies=1):
        view = wipe(PICTURES, caption="Before & after", before="the <photograph>", start=NASTY)
        return show_page(*copies * [view], address=address).locator(".nmf-wipe").first
    return open_page


def column_colors(box):
    """What is seen on the stage, above the handle and the labels: (width, 3), from a screenshot."""
    image = Image.open(BytesIO(box.locator(".stage").screenshot())).convert("RGB")
    return np.asarray(image)[image.height // 5]


def check(box, name, result, at):
    """What is in sight is the picture before left of the divider and the result right of it, and is said so."""
    box.page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth)")
    seen = column_colors(box)
    divider = round(at / 100 * len(seen))
    for color, part in (("before", seen[5:max(5, divider - 4)]), (result, seen[divider + 4:-5])):
        assert np.abs(part.astype(int) - COLORS[color]).max(initial=0) < 12, (color, at)
    assert box.locator("select").input_value() == name
    assert box.locator(".results [aria-pressed=true]").all_inner_texts() == [result]
    slider = box.get_by_role("slider")
    assert slider.input_value() == str(at)
    told = slider.get_attribute("aria-valuetext").replace("\u00a0", " ")
    assert told == f"{at} % the <photograph>, {100 - at} % {result}"
    assert box.locator("p").inner_text() == f"{name}, {result}{': half <of> it.' if result == 'red' else '.'}"
    assert box.locator(".stage img").evaluate_all("all => all.map(image => image.alt)") == [
        f"{name}, the <photograph>", f"{name}, {result}"]
    assert box.locator(".beside span").all_inner_texts() == (["the & style"] if name == NASTY else [])


def at_share(box, share):
    stage = box.locator(".stage").bounding_box()
    return stage["x"] + share * stage["width"], stage["y"] + 0.7 * stage["height"]


def test_the_divider_follows_the_mouse(opened):
    box = opened()
    check(box, NASTY, NASTY, 50)
    mouse = box.page.mouse
    mouse.move(*at_share(box, 0.9))
    check(box, NASTY, NASTY, 50)
    mouse.down()
    check(box, NASTY, NASTY, 90)
    mouse.move(*at_share(box, 0.25), steps=4)
    check(box, NASTY, NASTY, 25)
    mouse.move(*at_share(box, -0.2), steps=2)  # it stays on the picture
    check(box, NASTY, NASTY, 0)
    mouse.move(*at_share(box, 0.7))
    mouse.up()
    mouse.move(*at_share(box, 0.1))  # without a button: nothing follows
    check(box, NASTY, NASTY, 70)
    box.page.keyboard.press("ArrowRight")
    check(box, NASTY, NASTY, 71)


def test_the_divider_follows_a_finger(opened):
    box = opened()
    touch = box.page.context.new_cdp_session(box.page)
    for kind, share in (("Start", 0.5), ("Move", 0.6), ("Move", 0.8), ("End", None)):
        points = [] if share is None else [dict(zip("xy", at_share(box, share), strict=True))]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    check(box, NASTY, NASTY, 80)


def test_everything_obeys_the_keyboard(opened):
    box = opened()
    slider = box.get_by_role("slider")
    for key, at in (("ArrowLeft", 49), ("End", 100), ("Home", 0), ("ArrowUp", 1)):
        slider.press(key)
        check(box, NASTY, NASTY, at)
    box.get_by_role("button", name="red").press("Enter")
    check(box, NASTY, "red", 1)
    box.locator("select").select_option("other")
    check(box, "other", "red", 1)
    box.get_by_role("button", name=NASTY).press("Space")
    check(box, "other", NASTY, 1)


def test_the_address_holds_what_is_seen(opened):
    box = opened()
    box.get_by_role("button", name="red").click()
    box.locator("select").select_option("other")
    box.get_by_role("slider").press("ArrowRight")
    address = box.page.evaluate("location.hash")
    assert address == "#wipe.picture=other&wipe.result=red&wipe.at=51"
    check(opened(address), "other", "red", 51)
    box.page.evaluate("location.hash = 'wipe.picture=other&wipe.result=red&wipe.at=x'")
    box.page.wait_for_function("document.querySelector('[type=range]').value == 50")
    check(box, "other", "red", 50)
    for nonsense in ("#end", "#wipe.picture=dog&wipe.result=red", "#wipe.picture=other&wipe.result=green&wipe.at=2"):
        check(opened(nonsense), NASTY, NASTY, 50)


def test_two_views_on_a_page_do_not_meddle(opened):
    first = opened(copies=2)
    second = first.page.locator(".nmf-wipe").nth(1)
    second.get_by_role("slider").press("Home")
    second.get_by_role("button", name="red").click()
    check(first, NASTY, NASTY, 50)
    check(second, NASTY, "red", 0)


def test_the_view_carries_the_pictures_and_repeats_itself():
    def html():
        return wipe(PICTURES, caption=NASTY).data
    assert html() == html() and html().count("</script>") == 1 and re.search(r"data:image/webp;base64,\w", html())
    file = BytesIO()
    Image.fromarray(plain(COLORS["red"])).save(file, format="webp", quality=85)
    assert b64encode(file.getvalue()).decode() in html()


@pytest.mark.parametrize("pictures, options, message", [
    ({}, {}, "at least one picture"),
    ({"x": wiped(after={}, told={})}, {}, "at least one result"),
    ({" ": wiped()}, {}, "a picture needs a name"),
    ({"x": wiped()}, {"start": "green"}, "start 'green' is no result; there are red, "),
    ({"x": wiped(), "y": wiped(after={"red": plain(0)})}, {}, "'y' must have the results red, .* got red"),
    ({"x": wiped(told={"green": "it"})}, {}, "'x' tells about 'green', which is no result"),
    ({"x": wiped(after={"red": plain(0, (80, 119))}, told={})}, {},
     r"'red' of 'x' has shape \(80, 119, 3\), the picture before it \(80, 120, 3\)"),
    ({"x": wiped(before=plain(0)[..., 0], after={"red": plain(0)[..., 0]}, told={})}, {},
     r"'x' must be \(H, W, 3\) uint8"),
    ({"x": wiped(beside={"style": plain(0).astype(float)})}, {}, "'style' must be .* got shape .* of float64"),
])
def test_bad_pictures(pictures, options, message):
    with pytest.raises(ValueError, match=message):
        wipe(pictures, caption="c", **options)
